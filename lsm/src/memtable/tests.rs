//! The memtable against a `BTreeMap` of versions, and its accounting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::entry::Payload;

type Flat = (Vec<u8>, u64, u64, Option<Vec<u8>>);
type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (u64, Option<Vec<u8>>)>;

fn put(memtable: &mut Memtable, key: &[u8], version: u64, value: Option<&[u8]>) {
    let payload = value.map_or(Payload::Tombstone, Payload::Inline);
    memtable.put(&EntryRef { key, version, deadline: version % 3, payload });
}

fn flat(entry: EntryRef<'_>) -> Flat {
    let value = match entry.payload {
        Payload::Tombstone => None,
        Payload::Inline(value) => Some(value.to_vec()),
        Payload::Overflow(_) => panic!("a memtable holds values inline"),
    };
    (entry.key.to_vec(), entry.version, entry.deadline, value)
}

fn walk(memtable: &Memtable, mut cursor: Cursor) -> Vec<Flat> {
    let mut entries = Vec::new();
    while let Some(entry) = memtable.entry(cursor) {
        entries.push(flat(entry));
        cursor = memtable.next(cursor);
    }
    entries
}

/// Keys with long shared beginnings, keys that are prefixes of others, zero bytes, plain bytes.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..400_u32).prop_map(|n| format!("\0\0\0\x01\0\0\0\x02\x07user:{n:010}").into_bytes()),
        (0..40_usize).prop_map(|n| vec![b'p'; n]),
        vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..6),
    ]
}

fn check(memtable: &Memtable, model: &Model, probes: &[(Vec<u8>, u64)]) {
    let expected: Vec<_> = model
        .iter()
        .map(|((key, version), (deadline, value))| {
            (key.clone(), version.0, *deadline, value.clone())
        })
        .collect();
    assert_eq!(walk(memtable, memtable.start()), expected);
    assert_eq!(memtable.len(), expected.len());
    for (key, version_max) in probes {
        let found = memtable.get(key, *version_max).map(flat);
        let wanted = model
            .range((key.clone(), Reverse(*version_max))..)
            .next()
            .filter(|((other, _), _)| other == key)
            .map(|((key, version), (deadline, value))| {
                (key.clone(), version.0, *deadline, value.clone())
            });
        assert_eq!(found, wanted);
        let cursor = memtable.range_from(key);
        let rest: Vec<_> = expected.iter().filter(|entry| entry.0 >= *key).cloned().collect();
        assert_eq!(walk(memtable, cursor), rest);
        let mut keys: Vec<_> = expected.iter().map(|entry| &entry.0).filter(|k| *k < key).collect();
        keys.dedup();
        let mut cursor_back = memtable.last_before(Some(key));
        for key in keys.into_iter().rev() {
            assert_eq!(memtable.entry(cursor_back).map(|entry| entry.key), Some(&key[..]));
            cursor_back = memtable.previous_key(cursor_back);
        }
        assert!(memtable.entry(cursor_back).is_none());
        let last = memtable.entry(memtable.last_before(None)).map(|entry| entry.key);
        assert_eq!(last, expected.last().map(|entry| &entry.0[..]));
        let at_key = memtable.entry(cursor).is_some_and(|entry| entry.key == key);
        if at_key {
            let seen = memtable.at_snapshot(cursor, *version_max);
            assert_eq!(seen.and_then(|seen| memtable.entry(seen)).map(flat), found);
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(64))]
    #[test]
    fn equals_a_map_of_versions(
        rounds in vec(vec((key(), proptest::option::of(vec(any::<u8>(), 0..20))), 0..600), 1..4),
        probes in vec((key(), 0..1200_u64), 12),
    ) {
        let mut memtable = Memtable::new(256 << 10);
        let mut version = 0;
        for writes in rounds {
            let mut model = Model::new();
            for (key, value) in writes {
                version += 1;
                put(&mut memtable, &key, version, value.as_deref());
                model.insert((key, Reverse(version)), (version % 3, value));
            }
            check(&memtable, &model, &probes);
            memtable.reset();
            prop_assert!(memtable.is_empty() && memtable.bytes() == 0);
            check(&memtable, &Model::new(), &probes);
        }
    }
}

/// Ascending, descending and interleaved loads split nodes in different places.
#[test]
fn every_insertion_order_gives_the_same_walk_within_the_accounted_bytes() {
    let count = 5_000_u64;
    let orders: [Box<dyn Fn(u64) -> u64>; 3] = [
        Box::new(|n| n),
        Box::new(move |n| count - 1 - n),
        Box::new(move |n| n * 2_654_435_761 % count),
    ];
    let mut walks = Vec::new();
    for order in orders {
        let mut memtable = Memtable::new(count as usize * Memtable::entry_bytes(12, 1));
        for n in 0..count {
            let key = format!("key:{:08}", order(n));
            put(&mut memtable, key.as_bytes(), order(n) + 1, Some(b"v"));
        }
        assert_eq!(memtable.bytes(), memtable.bytes_max());
        walks.push(walk(&memtable, memtable.start()));
        assert_eq!(walks[0].len(), count as usize);
    }
    assert!(walks.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(walks[0].is_sorted());
}

#[test]
fn a_hot_key_keeps_every_version_and_finds_any_of_them() {
    let count = 20_000_u64;
    let mut memtable = Memtable::new(count as usize * Memtable::entry_bytes(3, 8));
    for version in 1..=count {
        put(&mut memtable, b"hot", version * 2, Some(&version.to_le_bytes()));
    }
    assert_eq!(memtable.bytes(), memtable.bytes_max());
    assert!(memtable.get(b"hot", 1).is_none());
    for version_max in (2..count * 2 + 10).step_by(977) {
        let found = memtable.get(b"hot", version_max).unwrap();
        assert_eq!(found.version, (version_max / 2).min(count) * 2);
    }
}

#[test]
fn a_value_of_a_mebibyte_is_held() {
    let value = vec![7; 1 << 20];
    let mut memtable = Memtable::new(3 << 20);
    put(&mut memtable, b"large", 1, Some(&value));
    put(&mut memtable, b"large", 2, Some(&value[1..]));
    let Payload::Inline(found) = memtable.get(b"large", 1).unwrap().payload else { panic!() };
    assert_eq!(found, value);
}

#[test]
#[should_panic(expected = "the bar should have ended")]
fn a_full_memtable_is_a_bug_of_the_caller() {
    let mut memtable = Memtable::new(2 * Memtable::entry_bytes(1, 0));
    for version in 1..=3 {
        put(&mut memtable, b"k", version, None);
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "versions of a key grow")]
fn an_older_version_is_a_bug_of_the_caller() {
    let mut memtable = Memtable::new(1 << 10);
    put(&mut memtable, b"k", 2, None);
    put(&mut memtable, b"k", 2, None);
}

/// Many more keys than a node has room for, in every order of arrival: the left edge of the tree is
/// split again and again by keys that come before all others.
#[test]
fn keys_ascend_however_they_arrive() {
    const KEYS: u64 = 20_000;
    let scattered = |n: u64| (n + 7).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_003;
    let arrivals: [fn(u64) -> u64; 3] = [scattered, |n| KEYS - n, |n| n];
    for arrival in arrivals {
        let mut memtable = Memtable::new(16 << 20);
        let mut expected = BTreeSet::new();
        for n in 0..KEYS {
            let key = format!("\0\0\0\x01key:{:012}", arrival(n)).into_bytes();
            put(&mut memtable, &key, n + 1, Some(b"v"));
            expected.insert(key);
        }
        let mut cursor = memtable.start();
        let mut walked = Vec::new();
        while let Some(entry) = memtable.entry(cursor) {
            if walked.last().is_none_or(|last: &Vec<u8>| last != entry.key) {
                walked.push(entry.key.to_vec());
            }
            cursor = memtable.next(cursor);
        }
        assert!(walked.iter().eq(&expected), "{} of {} keys", walked.len(), expected.len());
    }
}
