//! The row cache by itself; with memtables and tables around it: [`crate::forest`]'s tests.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn key_of(number: u32) -> Vec<u8> {
    let filler = "x".repeat(number as usize % 7);
    format!("key:{number:04}:{filler}").into_bytes()
}

fn value_of(number: u32, version: u64) -> Vec<u8> {
    vec![version as u8; (number as usize * 13) % 180]
}

fn offer(cache: &mut RowCache, number: u32, version: u64) {
    let (key, value) = (key_of(number), value_of(number, version));
    let payload = Payload::Inline(&value);
    cache.offer(filter::hash(&key), &EntryRef { key: &key, version, deadline: 7, payload });
}

fn version_of(cache: &mut RowCache, number: u32) -> Option<u64> {
    let key = key_of(number);
    let row = cache.get(filter::hash(&key), &key)?;
    assert_eq!((row.key, row.deadline), (&key[..], 7));
    let Payload::Inline(value) = row.payload else { panic!("a row has its value") };
    assert_eq!(value, value_of(number, row.version), "key {number}");
    Some(row.version)
}

fn is_here(cache: &mut RowCache, number: u32) -> bool {
    version_of(cache, number).is_some()
}

fn remove(cache: &mut RowCache, number: u32) {
    let key = key_of(number);
    cache.remove(filter::hash(&key), &key);
}

proptest! {
    #![proptest_config(crate::testing::cases(128))]
    /// What is found is what was put in last and not removed since, whatever had to make room.
    #[test]
    fn never_answers_with_what_was_removed_or_replaced(
        capacity in CAPACITY_MIN..3 * CAPACITY_MIN,
        steps in proptest::collection::vec((0u32..300, 0u8..8), 1..3000),
    ) {
        let mut cache = RowCache::new(capacity);
        let mut model = BTreeMap::new();
        for (version, (number, step)) in (1u64..).zip(steps) {
            match step {
                0 => {
                    remove(&mut cache, number);
                    model.remove(&number);
                    prop_assert!(!is_here(&mut cache, number));
                }
                _ => match version_of(&mut cache, number) {
                    Some(found) => prop_assert_eq!(Some(&found), model.get(&number)),
                    None => {
                        offer(&mut cache, number, version);
                        model.insert(number, version);
                    }
                },
            }
            prop_assert!(cache.written - cache.taken <= cache.ring.len() as u64);
        }
        for row in cache.rows() {
            prop_assert!(model.values().any(|version| *version == row.version));
        }
    }
}

#[test]
fn rows_used_again_survive_a_walk_over_much_more_than_fits() {
    let mut cache = RowCache::new(64 << 10);
    let used = 0..100;
    for number in used.clone() {
        offer(&mut cache, number, 1);
        assert!(is_here(&mut cache, number), "there is room");
    }
    for number in 1000..9000 {
        if !is_here(&mut cache, number) {
            offer(&mut cache, number, 1);
        }
        is_here(&mut cache, number % 100);
    }
    let kept = used.filter(|&number| is_here(&mut cache, number)).count();
    assert!(kept >= 95, "{kept} of 100 kept");
}

#[test]
fn rows_that_are_used_outlive_those_that_came_with_them() {
    let mut cache = RowCache::new(64 << 10);
    for number in 0..300 {
        offer(&mut cache, number, 1);
    }
    (0..150).for_each(|number| assert!(is_here(&mut cache, number)));
    for number in 1000..2500 {
        // Asked for twice, so that it comes in, and then no more.
        for _ in 0..2 {
            let key = key_of(number);
            if cache.find(filter::hash(&key), &key).is_none() {
                offer(&mut cache, number, 1);
            }
        }
        is_here(&mut cache, number % 150);
    }
    let mut kept = |range: std::ops::Range<u32>| range.filter(|&n| is_here(&mut cache, n)).count();
    let (used, unused) = (kept(0..150), kept(150..300));
    assert!(used >= 130 && unused <= 10, "{used} and {unused} of 150 kept");
}

#[test]
fn once_it_is_full_a_row_comes_in_when_it_is_asked_for_twice() {
    let mut cache = RowCache::new(64 << 10);
    for number in 0..2000 {
        offer(&mut cache, number, 1);
    }
    let early = (0..100).filter(|&number| is_here(&mut cache, number)).count();
    assert!(early >= 95, "{early} of the 100 that came first are here");
    let late = (1000..2000).rfind(|&number| !is_here(&mut cache, number)).unwrap();
    offer(&mut cache, late, 1);
    assert!(is_here(&mut cache, late));
}

#[test]
fn what_is_too_large_for_its_share_is_not_taken() {
    let mut cache = RowCache::new(64 << 10);
    let key = key_of(1);
    for (len, taken) in [(cache.ring.len() / ROW_SHARE, false), (1000, true)] {
        let value = vec![1; len];
        let payload = Payload::Inline(&value);
        let hash = filter::hash(&key);
        cache.offer(hash, &EntryRef { key: &key, version: 1, deadline: 0, payload });
        assert_eq!(cache.get(hash, &key).is_some(), taken, "{len} bytes");
    }
}

/// Rows of one bucket, by any other key: the hash decides the bucket, the key whether it is it.
#[test]
fn equal_hashes_are_kept_apart_and_a_full_bucket_gives_one_up() {
    let mut cache = RowCache::new(64 << 10);
    for number in 0..20_u32 {
        let key = key_of(number);
        assert!(cache.get(42, &key).is_none());
        let payload = Payload::Inline(&[]);
        cache.offer(42, &EntryRef { key: &key, version: u64::from(number), deadline: 0, payload });
        let found = cache.get(42, &key).unwrap();
        assert_eq!((found.key, found.version), (&key[..], u64::from(number)));
    }
    assert_eq!(cache.rows().count(), BUCKET_SLOTS);
}
