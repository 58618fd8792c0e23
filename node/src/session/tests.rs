//! The table against a model too simple to be wrong, and its bytes against damage.

use proptest::prelude::*;
use wire::operation::Flags;
use wire::{
    ClientId, ClientTag, ErrorCode, Op, OperationView, Outcome, RequestBuilder, RequestNumber,
    RequestView, Session, TableId, Timestamp, Value, Version, operation::Opcode,
};

use super::stored::{StoredError, size_max};
use super::table::{Decision, Kept, Limits, Place, RESULT_CHARGE, RESULT_MAX, Table, charge};

const LIMITS: Limits =
    Limits { sessions_max: 3, window: 4, session_bytes_max: 10_000, bytes_max: 14_000 };

/// What a request asks for: it decides how large its result may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// 24 bytes.
    Put,
    /// Up to everything that is kept.
    Swap,
    /// A refusal in its place.
    Refuse,
}

fn request(client: ClientId, number: u64, acknowledged: u64, kind: Kind) -> Vec<u8> {
    let (number, acknowledged) = (RequestNumber(number), RequestNumber(acknowledged));
    let session = Session { client, number, acknowledged };
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::with_session(&mut bytes, ClientTag(7), session).unwrap();
    let put = OperationView::on_key(Opcode::Put, TableId(0), b"key").with_value(b"value");
    let operation = match kind {
        Kind::Put => put,
        Kind::Swap => put.with_flags(Flags::RETURN_OLD),
        Kind::Refuse => OperationView::on_table(Opcode::Refuse, TableId(0))
            .with_argument(ErrorCode::NoSpace as u64),
    };
    builder.push(&operation).unwrap();
    builder.finish();
    bytes
}

fn register(drawn: u64) -> Vec<u8> {
    let (client, number, acknowledged) = (ClientId(0), RequestNumber(0), RequestNumber(0));
    let session = Session { client, number, acknowledged };
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::with_session(&mut bytes, ClientTag(7), session).unwrap();
    let value = u128::from(drawn).to_le_bytes();
    let register = OperationView::on_table(Opcode::Register, TableId(0)).with_value(&value);
    builder.push(&register).unwrap();
    builder.finish();
    bytes
}

fn place(op: u64) -> Place {
    let timestamp = Timestamp(op * 100);
    Place { op: Op(op), timestamp, version: timestamp.version(0) }
}

fn result(size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let value = vec![b'r'; size];
    let value = if size == 0 { Value::Ok } else { Value::Bytes(&value) };
    Outcome::done(value, Version(9)).encode(&mut bytes).unwrap();
    bytes
}

/// A decision without what it borrows.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Decided {
    Execute,
    UnderWay,
    Known(u64, Vec<u8>),
    Gone,
    Opened(ClientId),
    Refused(ErrorCode),
}

fn decide(table: &mut Table, bytes: &[u8], op: u64) -> Decided {
    let request = RequestView::verify(bytes).unwrap();
    match table.decide(&request, &place(op)) {
        Decision::Execute => Decided::Execute,
        Decision::UnderWay => Decided::UnderWay,
        Decision::Known(Kept { op, timestamp, outcomes }) => {
            assert_eq!(timestamp.0, op.0 * 100);
            Decided::Known(op.0, outcomes.clone())
        }
        Decision::Gone => Decided::Gone,
        Decision::Opened(client) => Decided::Opened(client),
        Decision::Refused(code) => Decided::Refused(code),
    }
}

fn open(table: &mut Table, op: u64) -> ClientId {
    match decide(table, &register(op), op) {
        Decided::Opened(client) => client,
        other => panic!("{other:?}"),
    }
}

/// Everything that was ever asked, in lists.
#[derive(Default)]
struct Model {
    /// In the order of their last commits.
    sessions: Vec<ModelSession>,
}

struct ModelSession {
    client: ClientId,
    acknowledged: u64,
    /// Number, op, charge, result (none while it is under way, empty if it was dropped).
    executed: Vec<(u64, u64, u64, Option<Vec<u8>>)>,
}

impl ModelSession {
    fn charged(&self) -> u64 {
        self.executed.iter().filter(|e| e.0 > self.acknowledged).map(|e| e.2).sum()
    }
}

impl Model {
    fn open(&mut self, client: ClientId) {
        if self.sessions.len() == LIMITS.sessions_max as usize {
            self.sessions.remove(0);
        }
        self.sessions.push(ModelSession { client, acknowledged: 0, executed: Vec::new() });
    }

    fn decide(&mut self, client: ClientId, number: u64, ack: u64, kind: Kind, op: u64) -> Decided {
        let Some(at) = self.sessions.iter().position(|session| session.client == client) else {
            return Decided::Refused(ErrorCode::SessionEvicted);
        };
        let session = self.sessions.remove(at);
        self.sessions.push(session);
        let all: u64 = self.sessions.iter().map(ModelSession::charged).sum();
        let session = self.sessions.last_mut().unwrap();
        let last = session.executed.len() as u64;
        if ack >= number || ack > last {
            return Decided::Refused(ErrorCode::BadRequest);
        }
        let others = all - session.charged();
        session.acknowledged = session.acknowledged.max(ack);
        if number <= session.acknowledged {
            return Decided::Gone;
        }
        if let Some((_, op, _, result)) = session.executed.iter().find(|e| e.0 == number) {
            return match result {
                None => Decided::UnderWay,
                Some(bytes) if bytes.is_empty() => Decided::Gone,
                Some(bytes) => Decided::Known(*op, bytes.clone()),
            };
        }
        let charge = match kind {
            Kind::Swap => RESULT_CHARGE + RESULT_MAX,
            Kind::Put | Kind::Refuse => RESULT_CHARGE + 24,
        } as u64;
        let mine = session.charged() + charge;
        let fits = mine <= LIMITS.session_bytes_max && others + mine <= LIMITS.bytes_max;
        if number != last + 1 || number > session.acknowledged + LIMITS.window || !fits {
            return Decided::Refused(ErrorCode::Overloaded);
        }
        if kind == Kind::Refuse {
            let mut bytes = Vec::new();
            Outcome::failed(ErrorCode::NoSpace).encode(&mut bytes).unwrap();
            session.executed.push((number, op, charge, Some(bytes.clone())));
            return Decided::Known(op, bytes);
        }
        session.executed.push((number, op, charge, None));
        Decided::Execute
    }

    fn complete(&mut self, client: ClientId, number: u64, outcomes: &[u8]) {
        let session = self.sessions.iter_mut().find(|session| session.client == client);
        let executed = session.and_then(|s| s.executed.iter_mut().find(|e| e.0 == number));
        if let Some(executed) = executed {
            let kept = outcomes.len() <= RESULT_MAX;
            executed.3 = Some(if kept { outcomes.to_vec() } else { Vec::new() });
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// Of which session; the number from the first not acknowledged on; how many more to
    /// acknowledge.
    Request(prop::sample::Index, u64, u64, Kind),
    /// Which of those under way, with a result of this size.
    Complete(prop::sample::Index, usize),
    /// As bytes and back.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![5 => Just(Kind::Put), 2 => Just(Kind::Swap), 1 => Just(Kind::Refuse)];
    let size = prop_oneof![Just(0usize), Just(100), Just(4000), Just(RESULT_MAX)];
    prop_oneof![
        1 => Just(Step::Open),
        8 => (any::<prop::sample::Index>(), 0..6u64, 0..3u64, kind)
            .prop_map(|(session, number, ack, kind)| Step::Request(session, number, ack, kind)),
        4 => (any::<prop::sample::Index>(), size)
            .prop_map(|(which, size)| Step::Complete(which, size)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn the_table_does_what_lists_would(steps in prop::collection::vec(any_step(), 1..200)) {
        let (mut table, mut model) = (Table::new(LIMITS), Model::default());
        let mut clients: Vec<(ClientId, u64)> = Vec::new();
        let mut under_way: Vec<(ClientId, u64, u64, Kind)> = Vec::new();
        for (op, step) in (1..).zip(steps) {
            match step {
                Step::Open => {
                    let client = open(&mut table, op);
                    model.open(client);
                    clients.push((client, 0));
                }
                Step::Request(which, number, ack, kind) if !clients.is_empty() => {
                    let which = which.index(clients.len());
                    let (client, acknowledged) = &mut clients[which];
                    let ack = *acknowledged + ack;
                    let number = *acknowledged + number;
                    if number == 0 {
                        continue;
                    }
                    let bytes = request(*client, number, ack, kind);
                    let expected = model.decide(*client, number, ack, kind, op);
                    prop_assert_eq!(decide(&mut table, &bytes, op), expected.clone());
                    match expected {
                        Decided::Execute => under_way.push((*client, number, op, kind)),
                        Decided::Refused(ErrorCode::BadRequest) => {}
                        _ => *acknowledged = ack.max(*acknowledged),
                    }
                }
                Step::Complete(which, size) if !under_way.is_empty() => {
                    let (client, number, op, kind) = under_way.remove(which.index(under_way.len()));
                    let outcomes = result(if kind == Kind::Put { 0 } else { size });
                    table.complete(client, number, &place(op), &outcomes);
                    model.complete(client, number, &outcomes);
                }
                Step::Restart => {
                    for (client, number, op, _) in under_way.drain(..) {
                        table.complete(client, number, &place(op), &result(0));
                        model.complete(client, number, &result(0));
                    }
                    let bytes = table.encode();
                    prop_assert!(bytes.len() as u64 <= size_max(&LIMITS));
                    table = Table::decode(LIMITS, &bytes).unwrap();
                    prop_assert_eq!(table.encode(), bytes);
                }
                Step::Request(..) | Step::Complete(..) => {}
            }
            let charged: u64 = model.sessions.iter().map(ModelSession::charged).sum();
            prop_assert_eq!(table.report().sessions, model.sessions.len() as u64);
            prop_assert_eq!(table.report().charged, charged);
            prop_assert!(charged <= LIMITS.bytes_max);
        }
    }

    #[test]
    fn damaged_tables_are_refused_or_are_tables(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = some_table().encode();
        let kept = 1 + cut.index(bytes.len() - 1);
        prop_assert!(Table::decode(LIMITS, &bytes[..kept]).is_err(), "{} bytes of it", kept);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(table) = Table::decode(LIMITS, &bytes) {
            prop_assert_eq!(table.encode(), bytes);
            prop_assert!(table.report().charged <= LIMITS.bytes_max);
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(version) = bytes.first_chunk_mut::<4>() {
            *version = 1u32.to_le_bytes();
        }
        let _ = Table::decode(LIMITS, &bytes);
    }
}

/// Two sessions, with results of every kind.
fn some_table() -> Table {
    let mut table = Table::new(LIMITS);
    let (a, b) = (open(&mut table, 1), open(&mut table, 2));
    for (number, kind, size) in [(1, Kind::Put, 0), (2, Kind::Swap, 5000), (3, Kind::Swap, 30)] {
        let op = 2 + number;
        assert_eq!(decide(&mut table, &request(a, number, 0, kind), op), Decided::Execute);
        table.complete(a, number, &place(op), &result(size));
    }
    assert!(matches!(decide(&mut table, &request(b, 1, 0, Kind::Refuse), 9), Decided::Known(..)));
    table
}

/// These bytes are in checkpoints: they change only with the version of the layout.
#[test]
fn golden_bytes() {
    let mut table = Table::new(LIMITS);
    let client = open(&mut table, 5);
    assert_eq!(client, ClientId(5 << 64 | 500));
    assert_eq!(decide(&mut table, &request(client, 1, 0, Kind::Put), 6), Decided::Execute);
    table.complete(client, 1, &place(6), &result(0));
    assert_eq!(decide(&mut table, &request(client, 2, 1, Kind::Put), 7), Decided::Execute);
    table.complete(client, 2, &place(7), &result(0));
    assert_eq!(decide(&mut table, &request(client, 3, 1, Kind::Swap), 8), Decided::Execute);
    table.complete(client, 3, &place(8), &result(5000));
    let mut expected = Vec::new();
    let words =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    // Version, sessions.
    expected.extend(words(&[1, 1, 0, 0]));
    // Client, acknowledged, results.
    expected.extend(words(&[500, 0, 5, 0, 1, 0, 2, 0]));
    // Op, time, charge, size; an outcome: ok, version 9.
    expected.extend(words(&[7, 0, 700, 0, 64, 24, 0x1_0000, 0, 0, 0, 9, 0]));
    // A result that was too large.
    expected.extend(words(&[0, 0, 0, 0, 4136, u32::MAX]));
    assert_eq!(table.encode(), expected);
}

#[test]
fn what_is_wrong_with_a_table_is_named() {
    let bytes = some_table().encode();
    let broken = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Table::decode(LIMITS, &bytes).unwrap_err()
    };
    assert_eq!(broken(0, 2), StoredError::Version { actual: 2 });
    assert!(matches!(broken(4, 4), StoredError::Session { index: 0, .. }), "sessions");
    assert!(matches!(broken(16 + 24, 5), StoredError::Session { index: 0, .. }), "results");
    assert!(matches!(broken(16 + 28, 1), StoredError::Session { index: 0, .. }), "reserved");
    assert!(matches!(broken(48 + 16, 0), StoredError::Session { index: 0, .. }), "charge");
    assert_eq!(Table::decode(LIMITS, &bytes[..20]).unwrap_err(), StoredError::Size { actual: 20 });
    let twice = Limits { bytes_max: 100, ..LIMITS };
    assert!(matches!(Table::decode(twice, &bytes).unwrap_err(), StoredError::Session { .. }));
    assert_eq!(Table::decode(LIMITS, &[]).unwrap().report().sessions, 0);
}

#[test]
fn a_late_copy_of_a_registration_opens_nothing_that_was_there() {
    let mut table = Table::new(LIMITS);
    let bytes = register(77);
    let Decided::Opened(first) = decide(&mut table, &bytes, 1) else { panic!() };
    assert_eq!(decide(&mut table, &request(first, 1, 0, Kind::Put), 2), Decided::Execute);
    for op in 3..6 {
        open(&mut table, op);
    }
    assert!(!table.has(first), "three others are newer");
    let Decided::Opened(again) = decide(&mut table, &bytes, 6) else { panic!() };
    assert_ne!(first, again);
    let late = request(first, 1, 0, Kind::Put);
    assert_eq!(decide(&mut table, &late, 7), Decided::Refused(ErrorCode::SessionEvicted));
}

#[test]
fn a_charge_bounds_what_may_be_answered() {
    let of = |operations: &[OperationView<'_>]| {
        let mut bytes = Vec::new();
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(1)).unwrap();
        operations.iter().for_each(|operation| builder.push(operation).unwrap());
        builder.finish();
        charge(&RequestView::verify(&bytes).unwrap()) as usize
    };
    let put = OperationView::on_key(Opcode::Put, TableId(0), b"k");
    let float = OperationView::on_key(Opcode::IncrementFloat, TableId(0), b"k").with_value(b"1");
    assert_eq!(of(&[put]), 64, "a window of 1024 of them takes the 64 KiB of a session");
    assert_eq!(of(&[put; 3]), RESULT_CHARGE + 72);
    assert_eq!(of(&[float]), RESULT_CHARGE + RESULT_MAX);
    assert_eq!(of(&[put; 200]), RESULT_CHARGE + RESULT_MAX);
}
