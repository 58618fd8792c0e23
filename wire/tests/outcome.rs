//! Outcomes: round trips, pinned bytes, and bytes from a fuzzer.

use proptest::prelude::*;
use wire::{ErrorCode, Full, Outcome, SliceSink, Value, Version};

fn encoded(outcome: &Outcome<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    outcome.encode(&mut bytes).expect("vectors grow");
    assert_eq!(bytes.len(), outcome.encoded_size());
    bytes
}

#[test]
fn golden_outcomes() {
    let bytes = encoded(&Outcome::done(Value::Bytes(b"hello"), Version(0x0102)));
    #[rustfmt::skip]
    let expected = [
        0, 0, 4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
        b'h', b'e', b'l', b'l', b'o', 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
    let failed = encoded(&Outcome::failed(ErrorCode::WrongType));
    assert_eq!(failed, [&[16, 0, 0, 0][..], &[0; 20]].concat());
    let number = encoded(&Outcome::done(Value::Integer(-2), Version(0)));
    assert_eq!(number[8..16], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn a_full_sink_is_left_as_it_was() {
    let mut space = [0xee; 31];
    let mut sink = SliceSink::new(&mut space);
    let outcome = Outcome::done(Value::Bytes(b"hello"), Version(1));
    assert_eq!(outcome.encode(&mut sink), Err(Full));
    assert_eq!(wire::Sink::position(&sink), 0);
}

#[test]
fn malformed_outcomes_are_refused() {
    let good = encoded(&Outcome::done(Value::Bytes(b"hello"), Version(1)));
    assert!(Outcome::decode(&good).is_some());
    for (at, byte) in [(0, 16), (0, 200), (2, 3), (2, 5), (3, 1), (4, 9), (7, 255), (8, 1), (31, 1)]
    {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(Outcome::decode(&bytes), None, "byte {at} = {byte}");
    }
    assert_eq!(Outcome::decode(&good[..31]), None);
    assert_eq!(Outcome::decode(&[]), None);
}

fn any_result() -> impl Strategy<Value = (u8, i64, Vec<u8>, usize)> {
    (0..6u8, any::<i64>(), prop::collection::vec(any::<u8>(), 0..70), 0..ErrorCode::ALL.len())
}

proptest! {
    #[test]
    fn outcomes_survive_a_round_trip(
        parts in prop::collection::vec((any_result(), any::<u64>()), 0..8),
    ) {
        let outcomes: Vec<_> = parts.iter().map(|((kind, integer, bytes, code), version)| {
            let result = match kind {
                0 => Ok(Value::Nil),
                1 => Ok(Value::Ok),
                2 => Ok(Value::Bool(*integer > 0)),
                3 => Ok(Value::Integer(*integer)),
                4 => Ok(Value::Bytes(bytes)),
                _ => Err(ErrorCode::ALL[*code]),
            };
            Outcome { result, version: Version(*version) }
        }).collect();
        let bytes: Vec<u8> = outcomes.iter().flat_map(encoded).collect();
        let mut rest = &bytes[..];
        for outcome in &outcomes {
            let (read, size) = Outcome::decode(rest).unwrap();
            prop_assert_eq!(&read, outcome);
            rest = &rest[size..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some((outcome, size)) = Outcome::decode(&bytes) {
            prop_assert_eq!(encoded(&outcome), &bytes[..size]);
        }
    }
}
