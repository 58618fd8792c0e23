//! Requests and operations: round trips, refusals, pinned bytes, and bytes from a fuzzer.

use proptest::prelude::*;
use wire::{
    ClientId, ClientTag, Flags, Full, Opcode, OperationView, RequestBuilder, RequestError,
    RequestNumber, RequestView, Requests, Session, Sink, SliceSink, TableId, slot_of_key,
};

const TABLE: TableId = TableId(0);

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> OperationView<'a> {
    OperationView::on_key(Opcode::Put, TABLE, key).with_value(value)
}

fn request(tag: u64, operations: &[OperationView<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, tag, operations);
    bytes
}

fn append(bytes: &mut Vec<u8>, tag: u64, operations: &[OperationView<'_>]) {
    let mut builder = RequestBuilder::new(bytes, ClientTag(tag)).expect("vectors grow");
    for operation in operations {
        builder.push(operation).expect("vectors grow");
    }
    builder.finish();
}

/// These bytes are in logs: they may only change with the protocol's version.
#[test]
fn golden_request() {
    let conditional = put(b"foo", b"barbaz").with_flags(Flags::IF_NONE).with_deadline(0x0102);
    let bytes = request(0x77, &[conditional]);
    #[rustfmt::skip]
    let expected = [
        // Request: size 72, one operation, tag, no flags.
        72, 0, 0, 0, 1, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        // Operation: put, if none, slot 12182, key of 3, table 0, value of 6.
        1, 0, 1, 0, 0x96, 0x2f, 3, 0, 0, 0, 0, 0, 6, 0, 0, 0,
        // Argument, deadline.
        0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
        // Key, value, padding.
        b'f', b'o', b'o', b'b', b'a', b'r', b'b', b'a', b'z', 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn a_session_and_all_or_none_travel_with_the_request() {
    let (client, number, acknowledged) = (ClientId(5), RequestNumber(6), RequestNumber(4));
    let session = Session { client, number, acknowledged };
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::with_session(&mut bytes, ClientTag(1), session).unwrap();
    builder.all_or_none();
    builder.push(&put(b"k", b"v")).unwrap();
    assert_eq!(builder.operation_count(), 1);
    assert_eq!(builder.finish(), bytes.len());
    let read = RequestView::verify(&bytes).unwrap();
    assert_eq!((read.session(), read.is_all_or_none()), (Some(session), true));
    assert_eq!(read.tag(), ClientTag(1));
    assert_eq!(read.operations().next(), Some(put(b"k", b"v")));
    let section = [&5u128.to_le_bytes()[..], &6u64.to_le_bytes(), &4u64.to_le_bytes()].concat();
    assert_eq!(bytes[24..56], section);
    let plain = request(2, &[put(b"k", b"v")]);
    let plain = RequestView::verify(&plain).unwrap();
    assert_eq!((plain.session(), plain.is_all_or_none()), (None, false));
}

#[test]
fn a_full_sink_is_left_as_it_was() {
    let mut space = [0xee; 24 + 40 + 39];
    let mut sink = SliceSink::new(&mut space);
    let mut builder = RequestBuilder::new(&mut sink, ClientTag(1)).unwrap();
    builder.push(&put(b"key", b"value")).unwrap();
    assert_eq!(builder.push(&put(b"key", b"value")), Err(Full));
    assert_eq!(builder.finish(), 64);
    assert_eq!(sink.position(), 64);
    let mut unfinished = RequestBuilder::new(&mut sink, ClientTag(2)).unwrap();
    assert_eq!(unfinished.push(&put(b"key", b"value")), Err(Full));
    drop(unfinished);
    assert_eq!(sink.position(), 64);
    assert_eq!(Requests::verify(&space[..64]).unwrap().count(), 1);
}

#[test]
#[should_panic(expected = "a request has at least one operation")]
fn a_request_without_operations_is_a_mistake() {
    let _ = RequestBuilder::new(&mut Vec::new(), ClientTag(1)).unwrap().finish();
}

#[test]
fn flags_are_refused_where_they_mean_nothing() {
    let table = [
        (Opcode::Put, Flags::IF_NONE.or(Flags::RETURN_OLD), true),
        (Opcode::Put, Flags::IF_NONE.or(Flags::IF_SOME), false),
        (Opcode::Put, Flags::IF_GREATER, false),
        (Opcode::Delete, Flags::RETURN_OLD, true),
        (Opcode::Delete, Flags::IF_SOME, false),
        (Opcode::Increment, Flags::RETURN_OLD, false),
        (Opcode::Expire, Flags::IF_SOME.or(Flags::IF_GREATER), true),
        (Opcode::Expire, Flags::IF_NONE.or(Flags::IF_GREATER), false),
        (Opcode::Expire, Flags::IF_LESS.or(Flags::IF_GREATER), false),
        (Opcode::Persist, Flags::RETURN_OLD, true),
    ];
    for (opcode, flags, valid) in table {
        let operation = OperationView { flags, ..OperationView::on_key(opcode, TABLE, b"k") };
        let bytes = request(1, &[operation]);
        let verified = RequestView::verify(&bytes).map(|_| ());
        let refused = Err(RequestError::Operation { index: 0 });
        assert_eq!(verified, if valid { Ok(()) } else { refused }, "{opcode:?} {flags:?}");
    }
}

#[test]
fn malformed_requests_are_refused_by_name() {
    let good = request(1, &[put(b"key", b"value"), put(b"foo", b"")]);
    assert!(RequestView::verify(&good).is_ok());
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        RequestView::verify(&bytes).map(|_| ()).unwrap_err()
    };
    let operation = |index| RequestError::Operation { index };
    let short = RequestError::Size { claimed: 104, actual: 96 };
    assert_eq!(broken(&|b| b.truncate(96)), short);
    assert_eq!(broken(&|b| b.truncate(3)), RequestError::Size { claimed: 0, actual: 3 });
    assert_eq!(broken(&|b| b[0] = 100), RequestError::Size { claimed: 100, actual: 104 });
    assert_eq!(broken(&|b| b[0] = 16), RequestError::Size { claimed: 16, actual: 104 });
    assert_eq!(broken(&|b| b[16] = 4), RequestError::Header);
    assert_eq!(broken(&|b| b[20] = 1), RequestError::Header);
    assert_eq!(broken(&|b| b[4] = 0), RequestError::Count);
    assert_eq!(broken(&|b| b[4] = 1), RequestError::Count);
    assert_eq!(broken(&|b| b[4] = 3), RequestError::Count);
    assert_eq!(broken(&|b| b[24] = 0), operation(0), "opcode");
    assert_eq!(broken(&|b| b[25] = 1), operation(0), "reserved byte");
    assert_eq!(broken(&|b| b[28] ^= 1), operation(0), "slot");
    assert_eq!(broken(&|b| b[39] = 0xff), operation(0), "value size");
    assert_eq!(broken(&|b| b[64 + 6] = 0), operation(1), "key size");
    assert_eq!(broken(&|b| b[103] = 1), operation(1), "padding");
}

#[test]
fn keys_have_a_limit_and_a_slot() {
    let long = [b'k'; 1025];
    assert!(RequestView::verify(&request(1, &[put(&long[1..], b"")])).is_ok());
    assert!(RequestView::verify(&request(1, &[put(&long, b"")])).is_err());
    assert!(RequestView::verify(&request(1, &[put(b"", b"")])).is_err());
    let flush = OperationView::on_table(Opcode::Flush, TableId(3));
    assert!(RequestView::verify(&request(1, &[flush])).is_ok());
    let keyed = OperationView { key: b"k", slot: slot_of_key(b"k"), ..flush };
    assert!(RequestView::verify(&request(1, &[keyed])).is_err());
}

#[test]
fn numbers_keep_their_sign_and_text() {
    let minus = OperationView::on_key(Opcode::Increment, TABLE, b"n")
        .with_argument((-5i64).cast_unsigned());
    let half = OperationView::on_key(Opcode::IncrementFloat, TABLE, b"n").with_value(b"-0.5");
    let bytes = request(1, &[minus, half]);
    let read: Vec<_> = RequestView::verify(&bytes).unwrap().operations().collect();
    assert_eq!(read[0].increment(), -5);
    assert_eq!(read[1].value, b"-0.5");
}

type Parts = (usize, Vec<u8>, Vec<u8>, u64, u64, u32);

fn any_parts() -> impl Strategy<Value = Parts> {
    let key = prop::collection::vec(any::<u8>(), 1..40);
    let value = prop::collection::vec(any::<u8>(), 0..100);
    (0..Opcode::ALL.len(), key, value, any::<u64>(), any::<u64>(), 0..4u32)
}

fn operation_of(parts: &Parts) -> OperationView<'_> {
    let (opcode, key, value, argument, deadline, table) = parts;
    let (opcode, table) = (Opcode::ALL[*opcode], TableId(*table));
    let operation = if opcode.has_key() {
        OperationView::on_key(opcode, table, key)
    } else {
        OperationView::on_table(opcode, table)
    };
    operation.with_value(value).with_argument(*argument).with_deadline(*deadline)
}

proptest! {
    #[test]
    fn bodies_survive_a_round_trip(
        requests in prop::collection::vec(prop::collection::vec(any_parts(), 1..5), 0..6),
    ) {
        let mut body = Vec::new();
        for (tag, parts) in requests.iter().enumerate() {
            let operations: Vec<_> = parts.iter().map(operation_of).collect();
            append(&mut body, tag as u64, &operations);
        }
        let read: Vec<_> = Requests::verify(&body).unwrap().collect();
        prop_assert_eq!(read.len(), requests.len());
        for (tag, (read, parts)) in read.iter().zip(&requests).enumerate() {
            prop_assert_eq!(read.tag(), ClientTag(tag as u64));
            prop_assert_eq!(read.operation_count() as usize, parts.len());
            let sizes: usize = read.operations().map(|o| o.encoded_size()).sum();
            prop_assert_eq!(read.bytes().len(), 24 + sizes);
            prop_assert!(read.operations().eq(parts.iter().map(operation_of)));
        }
    }

    /// A few bytes of a good body are replaced, so that deep checks are reached too.
    #[test]
    fn damaged_bodies_are_refused_or_walked_without_panic(
        parts in prop::collection::vec(any_parts(), 1..5),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let operations: Vec<_> = parts.iter().map(operation_of).collect();
        let mut body = request(1, &operations);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(requests) = Requests::verify(&body) {
            for request in requests {
                prop_assert_eq!(request.operations().count(), request.operation_count() as usize);
                let _ = request.session();
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Requests::verify(&body).map(Iterator::count);
    }
}
