//! What streams of any bytes come to: whole messages or a named fault, in bounded memory.

use proptest::prelude::*;
use wire::message::{Error, Forward, Headers, Hello, Ping, Prepare, Purpose, Tail};
use wire::{
    CheckpointId, Checksum, Draft, ErrorCode, HeaderError, Incarnation, Op, Release, RequestNumber,
    Timestamp, checksum,
};

use super::*;

const CLUSTER: ClusterId = ClusterId(9);
const FROM: ReplicaId = ReplicaId(1);
const PREPARE_MAX: usize = 16 << 10;

fn expected(class: Class) -> Expected {
    Expected::Messages {
        cluster: CLUSTER,
        from: FROM,
        replica_count: 3,
        class,
        prepare_size_max: PREPARE_MAX,
    }
}

fn pool(buffers: usize) -> BufferPool {
    BufferPool::new("test", frame_size(PREPARE_MAX), buffers)
}

fn draft() -> Draft {
    Draft { cluster: CLUSTER, replica: FROM, ..Draft::default() }
}

fn message(tail: &impl Tail, body: &[u8]) -> Vec<u8> {
    [&draft().seal(tail, body).bytes()[..], body].concat()
}

fn ping(op: u64) -> Ping {
    let (checkpoint, checkpoint_op) = (CheckpointId(0), Op(0));
    Ping { monotonic: 0, checkpoint, checkpoint_op, op: Op(op), commit: Op(0) }
}

fn prepare(op: u64) -> Prepare {
    Prepare {
        parent: Checksum(1),
        checkpoint: CheckpointId(0),
        op: Op(op),
        commit: Op(0),
        timestamp: Timestamp(op),
        version_count: 1,
        request_count: 0,
        purpose: Purpose::Requests,
    }
}

fn body(size: usize, seed: u64) -> Vec<u8> {
    (0..size).map(|index| (index as u64 * 31 + seed) as u8).collect()
}

type Message = (Header, Vec<u8>);

/// Feeds `bytes` in pieces; every message that comes out, as header and body.
fn gather(
    assembler: &mut Assembler,
    pieces: &[&[u8]],
    pool: &BufferPool,
) -> (Vec<Message>, Result<(), Fault>) {
    let mut out = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match assembler.push(&mut rest, pool) {
                Err(fault) => return (out, Err(fault)),
                Ok(Step::NeedsFrame) => panic!("the pool has buffers"),
                Ok(Step::More) => break,
                Ok(Step::Whole(header)) => {
                    let body = match assembler.take_body(&header) {
                        Body::Bytes(body) => body.to_vec(),
                        Body::Frame(frame) => frame[place(&header)].to_vec(),
                    };
                    out.push((header, body));
                }
            }
        }
        assert!(rest.is_empty(), "More means that everything is taken");
        assert!(assembler.small.capacity() <= 2 * CONTROL_BODY_MAX, "bounded");
    }
    (out, Ok(()))
}

fn fault(class: Class, bytes: &[u8]) -> Fault {
    let mut assembler = Assembler::new(expected(class));
    let (messages, result) = gather(&mut assembler, &[bytes], &pool(1));
    assert!(messages.is_empty(), "{messages:?}");
    assert!(assembler.small.capacity() == 0 && assembler.frame.is_none(), "nothing was reserved");
    result.unwrap_err()
}

#[test]
fn a_prepare_lies_in_its_buffer_as_the_journal_wants_it() {
    for size in [0, 1, 5000, PREPARE_MAX - HEADER_SIZE] {
        let (bytes, pool) = (message(&prepare(7), &body(size, 3)), pool(1));
        for class in [Class::Prepares, Class::Transfers] {
            let mut assembler = Assembler::new(expected(class));
            let mut rest = &bytes[..];
            let Ok(Step::Whole(header)) = assembler.push(&mut rest, &pool) else { panic!() };
            let Body::Frame(frame) = assembler.take_body(&header) else { panic!() };
            assert_eq!(frame.len(), frame_size(HEADER_SIZE + size));
            assert_eq!(frame[FRAME_HEADER_SIZE..][..bytes.len()], bytes);
            assert_eq!(frame[BODY_OFFSET..][..size], body(size, 3));
        }
    }
}

#[test]
fn a_message_that_does_not_belong_is_named_before_room_is_made_for_it() {
    let good = draft().seal(&prepare(1), &[0; 100]);
    let fields = |draft: Draft| draft.seal(&ping(1), &[]);
    let other = fields(Draft { cluster: ClusterId(8), ..draft() });
    let theirs = ClusterId(8);
    assert_eq!(fault(Class::Control, other.bytes()), Fault::Cluster { ours: CLUSTER, theirs });
    let impostor = fields(Draft { replica: ReplicaId(2), ..draft() });
    let (expected, actual) = (FROM, ReplicaId(2));
    assert_eq!(fault(Class::Control, impostor.bytes()), Fault::Sender { expected, actual });
    let nobody = Draft { replica: ReplicaId(3), ..draft() }.seal(&prepare(1), &[]);
    let actual = ReplicaId(3);
    assert_eq!(fault(Class::Prepares, nobody.bytes()), Fault::Sender { expected, actual });
    let (command, place) = (Command::Prepare, "control");
    assert_eq!(fault(Class::Control, good.bytes()), Fault::Unexpected { command, place });
    let large = draft().seal_summed(&prepare(1), PREPARE_MAX - HEADER_SIZE + 1, Checksum(0));
    let (size, most) = (PREPARE_MAX + 1, PREPARE_MAX);
    assert_eq!(fault(Class::Prepares, large.bytes()), Fault::TooLarge { command, size, most });
    let huge = draft().seal_summed(&Headers { count: 1 }, 3 << 30, Checksum(0));
    assert_eq!(fault(Class::Control, huge.bytes()).code(), ErrorCode::TooLarge);
    let mut flipped = *fields(draft()).bytes();
    flipped[200] ^= 1;
    assert_eq!(fault(Class::Control, &flipped).code(), ErrorCode::BadChecksum);
}

#[test]
fn a_body_that_is_not_the_headers_is_no_message() {
    for (class, bytes) in [
        (Class::Control, message(&Headers { count: 1 }, &body(512, 0))),
        (Class::Prepares, message(&prepare(1), &body(512, 0))),
    ] {
        let mut bytes = bytes;
        *bytes.last_mut().unwrap() ^= 0x10;
        let (messages, result) = gather(&mut Assembler::new(expected(class)), &[&bytes], &pool(1));
        assert!(messages.is_empty());
        let wrong = Err(Fault::Header(HeaderError::BodyChecksum {
            expected: checksum(&body(512, 0)),
            actual: checksum(&bytes[HEADER_SIZE..]),
        }));
        assert_eq!(result, wrong);
    }
}

#[test]
fn without_a_buffer_nothing_is_taken_until_one_is_given() {
    let pool = pool(1);
    let taken = pool.try_take().unwrap();
    let bytes = message(&prepare(1), &body(900, 1));
    let mut assembler = Assembler::new(expected(Class::Prepares));
    let mut rest = &bytes[..];
    for _ in 0..2 {
        assert!(matches!(assembler.push(&mut rest, &pool), Ok(Step::NeedsFrame)));
        assert_eq!(rest.len(), 900);
    }
    drop(taken);
    assembler.give(pool.try_take().unwrap());
    assert!(matches!(assembler.push(&mut rest, &pool), Ok(Step::Whole(_))));
}

#[test]
fn strangers_may_only_greet_and_briefly() {
    let hello = Hello {
        incarnation: Incarnation(1),
        configuration: Checksum(2),
        protocol_min: 1,
        protocol_max: 1,
        release_max: Release::CURRENT,
        replica_count: 3,
        client: false,
        class: 1,
    };
    let error = Error {
        client: wire::ClientId(0),
        number: RequestNumber(0),
        code: ErrorCode::WrongCluster,
        retry_after_ms: 0,
        primary: ReplicaId(0),
        primary_known: false,
    };
    let of = |bytes: &[u8]| {
        let (messages, result) =
            gather(&mut Assembler::new(Expected::Greeting), &[bytes], &pool(1));
        result.map(|()| messages.len())
    };
    assert_eq!(of(&message(&hello, &[])), Ok(1));
    assert_eq!(of(&message(&error, b"why")), Ok(1));
    let place = "greetings";
    assert_eq!(
        of(&message(&ping(1), &[])),
        Err(Fault::Unexpected { command: Command::Ping, place })
    );
    let size = HEADER_SIZE + SENTENCE_MAX + 1;
    let long = draft().seal_summed(&error, size - HEADER_SIZE, Checksum(0));
    let (command, most) = (Command::Error, size - 1);
    assert_eq!(of(long.bytes()), Err(Fault::TooLarge { command, size, most }));
}

/// A stream of valid messages of a class, and where each ends.
fn stream(class: Class, sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for (index, size) in sizes.iter().enumerate() {
        let body = body(*size, index as u64);
        bytes.extend(match (class, size % 3) {
            (Class::Control, 0) => message(&ping(index as u64), &[]),
            (Class::Control, _) => message(&Headers { count: index as u32 }, &body),
            (Class::Forwards, _) => message(&Forward { number: index as u64 }, &body),
            _ => message(&prepare(index as u64), &body),
        });
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// `bytes` cut at these places.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

proptest! {
    /// However the stream is cut, what was sent comes out.
    #[test]
    fn messages_survive_any_cut(
        class in class(),
        sizes in prop::collection::vec(0..PREPARE_MAX - HEADER_SIZE, 1..6),
        cuts: [prop::sample::Index; 12],
    ) {
        let (bytes, ends) = stream(class, &sizes);
        let mut assembler = Assembler::new(expected(class));
        let (messages, result) = gather(&mut assembler, &cut(&bytes, &cuts), &pool(1));
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(assembler.missing(), 0);
        let mut again = Vec::new();
        for (header, body) in &messages {
            again.extend_from_slice(header.bytes());
            again.extend_from_slice(body);
        }
        prop_assert_eq!(messages.len(), ends.len());
        prop_assert!(again == bytes);
    }

    /// A flipped bit is found, before or in the message that it is in, and what was whole before it
    /// is as it was sent. A cut stream lacks something unless it was cut between messages.
    #[test]
    fn damage_and_truncation_are_found(
        class in class(),
        sizes in prop::collection::vec(0..3000usize, 1..6),
        cuts: [prop::sample::Index; 4],
        place: prop::sample::Index,
        bit in 0..8u32,
    ) {
        let (mut bytes, ends) = stream(class, &sizes);
        let place = place.index(bytes.len());
        let mut assembler = Assembler::new(expected(class));
        let (messages, result) = gather(&mut assembler, &[&bytes[..place]], &pool(1));
        prop_assert_eq!(result, Ok(()));
        let whole = ends.iter().filter(|end| **end <= place).count();
        prop_assert_eq!(messages.len(), whole);
        let between = place == 0 || ends.contains(&place);
        prop_assert_eq!(assembler.missing() == 0, between);

        bytes[place] ^= 1 << bit;
        let mut assembler = Assembler::new(expected(class));
        let (messages, result) = gather(&mut assembler, &cut(&bytes, &cuts), &pool(1));
        prop_assert!(matches!(result, Err(Fault::Header(_))), "{result:?}");
        prop_assert_eq!(messages.len(), whole);
    }

    /// Bytes of any kind are a fault or not yet a message, and never a panic.
    #[test]
    fn any_bytes_are_survived(
        class in prop::option::of(class()),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        cuts: [prop::sample::Index; 4],
    ) {
        let expected = class.map_or(Expected::Greeting, expected);
        let mut assembler = Assembler::new(expected);
        let (messages, result) = gather(&mut assembler, &cut(&bytes, &cuts), &pool(1));
        prop_assert!(messages.is_empty());
        prop_assert_eq!(result.is_err(), bytes.len() >= HEADER_SIZE);
    }

    /// A header with anything in its fields, under a checksum that is right, reserves nothing
    /// beyond what its class may have.
    #[test]
    fn any_header_that_sums_is_survived(
        class in prop::option::of(class()),
        flips in prop::collection::vec((16..HEADER_SIZE, any::<u8>()), 0..6),
        command in 0..30u8,
        tail in any::<[u8; 8]>(),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut head = *draft().seal(&ping(1), &rest).bytes();
        head[62] = command;
        head[128..136].copy_from_slice(&tail);
        flips.iter().for_each(|(place, byte)| head[*place] = *byte);
        let sum = checksum(&head[16..]);
        head[..16].copy_from_slice(&sum.0.to_le_bytes());
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(&rest);
        let mut assembler = Assembler::new(class.map_or(Expected::Greeting, expected));
        let (messages, _) = gather(&mut assembler, &[&bytes], &pool(1));
        prop_assert!(messages.len() <= 1 + rest.len() / HEADER_SIZE);
    }
}
