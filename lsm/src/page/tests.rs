//! Pages against a sorted list, their bytes pinned, and damaged bytes survived.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::overflow::ListBuilder;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Tombstone,
    Inline(Vec<u8>),
    Overflow(u32),
}

type Model = Vec<((Vec<u8>, u64), (u64, Value))>;

/// Entries in order: few distinct keys, so that versions, shared prefixes and prefixes of one
/// another are frequent.
fn model() -> impl Strategy<Value = Model> {
    let key = vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 1..12);
    let value = prop_oneof![
        Just(Value::Tombstone),
        vec(any::<u8>(), 0..40).prop_map(Value::Inline),
        vec(Just(7u8), 100..300).prop_map(Value::Inline),
        (1u32..9).prop_map(Value::Overflow),
    ];
    let place = (key, (0u64..12).prop_map(std::cmp::Reverse));
    let entry = (prop_oneof![Just(0u64), any::<u64>()], value);
    btree_map(place, entry, 1..60)
        .prop_map(|map| map.into_iter().map(|((k, v), e)| ((k, v.0), e)).collect())
}

fn with_payload<R>(value: &Value, run: impl FnOnce(Payload<'_>) -> R) -> R {
    match value {
        Value::Tombstone => run(Payload::Tombstone),
        Value::Inline(bytes) => run(Payload::Inline(bytes)),
        Value::Overflow(count) => {
            let mut list = ListBuilder::new(count * 1000);
            for i in 0..*count {
                let address = crate::block::BlockAddress::new(u64::from(i) + 1).unwrap();
                let checksum = crate::block::Checksum(u128::from(i));
                list.push(&crate::block::BlockReference { address, size: 0, checksum });
            }
            let stored = list.finish();
            run(Payload::Overflow(OverflowReference::parse(&stored).unwrap()))
        }
    }
}

fn build(model: &Model, compression: Compression) -> Vec<u8> {
    let mut builder = PageBuilder::new(3);
    for ((key, version), (deadline, value)) in model {
        with_payload(value, |payload| {
            let entry = EntryRef { key, version: *version, deadline: *deadline, payload };
            let expected = builder.raw_len_with(&entry);
            builder.push(&entry);
            assert_eq!(builder.raw_len(), expected);
        });
    }
    let raw_len = builder.raw_len();
    let stored = builder.finish(compression).to_vec();
    let verified = verify_stored(&stored).unwrap();
    assert_eq!((verified.stored_len, verified.raw_len), (stored.len(), raw_len));
    let mut raw = vec![0; raw_len];
    unpack(&stored, &verified, &mut raw).unwrap();
    raw
}

fn same(entry: &EntryRef<'_>, expected: &((Vec<u8>, u64), (u64, Value))) -> bool {
    let ((key, version), (deadline, value)) = expected;
    entry.key == &key[..]
        && entry.version == *version
        && entry.deadline == *deadline
        && with_payload(value, |payload| payload == entry.payload)
}

fn compression() -> impl Strategy<Value = Compression> {
    (0..3usize).prop_map(|number| Compression::ALL[number])
}

proptest! {
    #[test]
    fn seeks_like_a_sorted_vector(
        model in model(),
        compression in compression(),
        key in vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 0..12),
        version_max in 0u64..13,
    ) {
        let raw = build(&model, compression);
        let page = Page::parse(&raw).unwrap();
        page.validate().unwrap();
        let keys = model.iter().map(|((key, _), _)| key.clone()).chain([key]);
        for key in keys {
            let expected = model.iter().find(|((k, v), _)| *k == key && *v <= version_max);
            let found = page.seek(&key, version_max).unwrap();
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, expected) {
                prop_assert!(same(&found, expected), "{:?} {:?}", found, expected);
            }
        }
    }

    #[test]
    fn cursors_walk_like_a_sorted_vector(
        model in model(),
        key in vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 0..12),
        version in 0u64..13,
    ) {
        let raw = build(&model, Compression::None);
        let page = Page::parse(&raw).unwrap();
        let target = Position { key: &key, version };
        let at = model.partition_point(|((k, v), _)| Position { key: k, version: *v } < target);
        let mut cursor = Cursor::new();
        prop_assert_eq!(cursor.seek(&page, &target).unwrap(), at < model.len());
        for expected in &model[at..] {
            prop_assert!(same(&cursor.entry(&page), expected));
            cursor.next(&page).unwrap();
        }
        prop_assert!(cursor.last(&page).unwrap());
        for (i, expected) in model.iter().enumerate().rev() {
            prop_assert!(same(&cursor.entry(&page), expected));
            prop_assert_eq!(cursor.previous(&page).unwrap(), i > 0);
        }
        prop_assert_eq!(cursor.seek_before(&page, &target).unwrap(), at > 0);
        if at > 0 {
            prop_assert!(same(&cursor.entry(&page), &model[at - 1]));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen(model in model(), compression in compression(), at: usize) {
        let mut builder = PageBuilder::new(3);
        for ((key, version), (deadline, value)) in &model {
            with_payload(value, |payload| {
                let entry = EntryRef { key, version: *version, deadline: *deadline, payload };
                builder.push(&entry);
            });
        }
        let mut stored = builder.finish(compression).to_vec();
        let bit = at % (stored.len() * 8);
        stored[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify_stored(&stored).is_err());
    }

    /// Bytes that pass no checksum: every reading must end, in an error or not, without a panic.
    #[test]
    fn mutated_pages_never_panic(
        model in model(),
        flips in vec((any::<usize>(), any::<u8>()), 1..8),
        key in vec(any::<u8>(), 0..6),
    ) {
        let mut raw = build(&model, Compression::None);
        for (at, byte) in flips {
            let at = at % raw.len();
            raw[at] = byte;
        }
        if let Ok(page) = Page::parse(&raw) {
            let _ = page.validate();
            let _ = page.seek(&key, 5);
            let mut cursor = Cursor::new();
            let target = Position { key: &key, version: 3 };
            let _ = cursor.seek(&page, &target);
            let _ = cursor.last(&page);
            let _ = cursor.entry(&page);
            let _ = cursor.previous(&page);
        }
    }

    #[test]
    fn garbage_never_panics(garbage in vec(any::<u8>(), 0..200)) {
        let _ = verify_stored(&garbage);
        if let Ok(page) = Page::parse(&garbage) {
            let _ = page.validate();
        }
    }

    /// Bytes behind an intact header that no codec made, or that were made of something else: never
    /// a panic, and success only with all of the output written.
    #[test]
    fn damaged_packed_pages_never_panic(
        model in model(),
        flips in vec((any::<usize>(), any::<u8>()), 0..8),
        cut in any::<usize>(),
        raw_len in PAGE_HEADER_SIZE..2000,
        codec in 1..3usize,
    ) {
        let mut builder = PageBuilder::new(3);
        for ((key, version), (deadline, value)) in &model {
            with_payload(value, |payload| {
                let entry = EntryRef { key, version: *version, deadline: *deadline, payload };
                builder.push(&entry);
            });
        }
        let mut bytes = builder.finish(Compression::ALL[codec]).to_vec();
        for (at, byte) in flips {
            let at = PAGE_HEADER_SIZE + at % (bytes.len() - PAGE_HEADER_SIZE);
            bytes[at] = byte;
        }
        bytes.truncate(PAGE_HEADER_SIZE + cut % (bytes.len() - PAGE_HEADER_SIZE + 1));
        let compression = Compression::ALL[codec];
        let stored = Stored { checksum: 0, stored_len: bytes.len(), raw_len, compression };
        let mut out = vec![0; raw_len];
        if unpack(&bytes, &stored, &mut out).is_ok() && let Ok(page) = Page::parse(&out) {
            let _ = page.validate();
        }
    }
}

#[test]
fn golden_bytes() {
    let mut builder = PageBuilder::new(2);
    let entry = |key, version, deadline, payload| EntryRef { key, version, deadline, payload };
    builder.push(&entry(b"apple", 9, 0, Payload::Inline(b"red")));
    builder.push(&entry(b"apply", 8, 5, Payload::Tombstone));
    builder.push(&entry(b"b", 7, 0, Payload::Inline(b"")));
    let stored = builder.finish(Compression::None);
    let body = [
        &[1, 0, 5, 3, 9, 0, 0, 0, 0, 0, 0, 0][..],
        b"applered",
        &[4, 4, 1, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        b"y",
        &[1, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        b"b",
        &[0, 0, 0, 0, 40, 0, 0, 0],
    ]
    .concat();
    assert_eq!(
        stored[8..32],
        [93, 0, 0, 0, 93, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(stored[32..], body);
}

/// A page of a hundred entries that packs well.
fn packed(compression: Compression) -> Vec<u8> {
    let mut builder = PageBuilder::new(16);
    for i in 0..100u64 {
        let key = format!("user{i:06}");
        let payload = Payload::Inline(b"some value that repeats");
        builder.push(&EntryRef { key: key.as_bytes(), version: 1000 - i, deadline: 0, payload });
    }
    builder.finish(compression).to_vec()
}

/// The codecs' output is stored: its bytes may not change unnoticed.
#[test]
fn golden_compressed_bytes() {
    for (compression, len, golden) in [
        (Compression::Lz4, 981, "9f7d2b1d796da658cbc3ddedb58f5e50"),
        (Compression::Zstd, 457, "ebdd5d21153282266e6ac1d25663fd06"),
    ] {
        let stored = packed(compression);
        let checksum = crate::block::Checksum::of(&stored);
        assert_eq!((stored.len(), checksum.to_string().as_str()), (len, golden));
    }
}

/// What does not fit the length that the index gave is refused, and nothing is written beyond it.
#[test]
fn a_page_that_unpacks_to_another_length_is_refused() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let bytes = packed(compression);
        let stored = verify_stored(&bytes).unwrap();
        assert_eq!(stored.compression, compression);
        for raw_len in [PAGE_HEADER_SIZE, 100, stored.raw_len - 1, stored.raw_len + 1, 1 << 20] {
            let wrong = Stored { raw_len, ..stored };
            let fault = unpack(&bytes, &wrong, &mut vec![0; raw_len]).unwrap_err();
            assert_eq!(fault, PageFault::Codec(compression as u8));
        }
        let other = [Compression::Zstd, Compression::Lz4][compression as usize - 1];
        let wrong = Stored { compression: other, ..stored };
        let fault = unpack(&bytes, &wrong, &mut vec![0; stored.raw_len]).unwrap_err();
        assert_eq!(fault, PageFault::Codec(other as u8));
    }
}

/// A header whose codec does not go with its lengths was not written by this release.
#[test]
fn an_unknown_codec_is_refused() {
    let mut bytes = packed(Compression::Zstd);
    for number in [0, 3, 255] {
        bytes[24] = number;
        assert_eq!(parse_stored(&bytes).unwrap_err(), PageFault::Codec(number));
    }
    let mut raw = packed(Compression::None);
    raw[24] = Compression::Zstd as u8;
    assert_eq!(parse_stored(&raw).unwrap_err(), PageFault::Codec(2));
}
