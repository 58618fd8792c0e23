//! What a merge keeps, against what readers can see.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::entry::Payload;
use crate::secondary::{self, Place};
use crate::{key, testing};

type Versions = BTreeMap<(u8, Reverse<u64>), bool>;

fn entry<'a>(key: &'a [u8], version: u64, live: bool) -> EntryRef<'a> {
    let payload = if live { Payload::Inline(b"v") } else { Payload::Tombstone };
    EntryRef { key, version, deadline: 0, payload }
}

fn below(ranges: &[(u8, u8)]) -> Below {
    let mut run = Level::default();
    for (min, max) in ranges {
        run.insert(Rc::new(testing::table(1, &[*min], &[*max])));
    }
    Below::new(std::iter::once(run))
}

fn merge(versions: &Versions, horizon: u64, below: Below) -> Versions {
    let mut filter = Filter::new(Tree::Objects, horizon, Generations::default(), below);
    let keep = |((key, version), live): &(&(u8, Reverse<u64>), &bool)| {
        filter.keep(&entry(&[*key], version.0, **live))
    };
    versions.iter().filter(keep).map(|(at, live)| (*at, *live)).collect()
}

/// Whether a key has a value at a snapshot, and of which version.
fn seen(versions: &Versions, key: u8, snapshot: u64) -> Option<u64> {
    let newest = versions.range((key, Reverse(snapshot))..).next()?;
    (newest.0.0 == key && *newest.1).then_some(newest.0.1.0)
}

proptest! {
    /// Readers at or above the horizon see the same before and after, with older data below.
    #[test]
    fn no_reader_sees_a_difference(
        upper in btree_map((0_u8..6, (20_u64..60).prop_map(Reverse)), any::<bool>(), 0..40),
        lower in btree_map((0_u8..6, (1_u64..20).prop_map(Reverse)), any::<bool>(), 0..10),
        horizon in 0_u64..70,
    ) {
        let keys: Vec<u8> = lower.keys().map(|(key, _)| *key).collect();
        let ranges: Vec<(u8, u8)> = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) => vec![(*first, *last)],
            _ => Vec::new(),
        };
        let kept = merge(&upper, horizon, below(&ranges));
        let before: Versions = upper.iter().chain(&lower).map(|(at, live)| (*at, *live)).collect();
        let after: Versions = kept.iter().chain(&lower).map(|(at, live)| (*at, *live)).collect();
        for key in 0..6 {
            for snapshot in horizon..70 {
                prop_assert_eq!(seen(&before, key, snapshot), seen(&after, key, snapshot));
            }
        }
        // And nothing is kept that no reader needs: one version per key up to the horizon.
        for key in 0..6 {
            let old: Vec<(u64, bool)> = kept
                .iter()
                .filter(|((other, version), _)| *other == key && version.0 <= horizon)
                .map(|((_, version), live)| (version.0, *live))
                .collect();
            prop_assert!(old.len() <= 1);
            let covered = ranges.iter().any(|(min, max)| (*min..=*max).contains(&key));
            prop_assert!(covered || old.iter().all(|(_, live)| *live));
        }
    }

    #[test]
    fn below_answers_as_a_search_would(
        bounds in vec(0_u8..60, 0..8), keys in vec(0_u8..60, 1..30),
    ) {
        let mut bounds = bounds;
        bounds.sort_unstable();
        bounds.dedup();
        let ranges: Vec<(u8, u8)> = bounds.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let mut below = below(&ranges);
        let mut keys = keys;
        keys.sort_unstable();
        for key in keys {
            let expected = ranges.iter().any(|(min, max)| (*min..=*max).contains(&key));
            prop_assert_eq!(below.may_hold(&[key]), expected);
        }
    }
}

#[test]
fn a_dead_generation_is_dropped_in_all_trees_once_the_horizon_is_past_it() {
    let mut generations = Generations::default();
    generations.set(7, 3, 100);
    let of = |generation| key::encode(key::Prefix { table: 7, generation, kind: 0 }, b"k", b"");
    let mut expiry_key = Vec::new();
    expiry::encode_into(&mut expiry_key, 55, &of(2));
    let as_of = generations.as_of(100);
    assert!(as_of.is_dead(Tree::Objects, &of(2)) && as_of.is_dead(Tree::Expiry, &expiry_key));
    assert!(!as_of.is_dead(Tree::Objects, &of(3)));
    let mut index_key = Vec::new();
    for generation in [2, 3] {
        let place = Place { index: 200, key: b"under" };
        secondary::encode_into(&mut index_key, &of(generation), place);
        assert_eq!(as_of.is_dead(Tree::Indexes, &index_key), generation < 3);
        let all = as_of.are_all_dead(Tree::Indexes, &index_key, &index_key);
        assert_eq!(all, generation < 3);
    }
    assert!(!generations.as_of(99).is_dead(Tree::Objects, &of(2)));
    let mut filter = Filter::new(Tree::Objects, 100, as_of, Below::default());
    assert!(!filter.keep(&entry(&of(2), 200, true)));
    assert!(filter.keep(&entry(&of(3), 200, true)));
}

/// The stretches are exactly the keys of which every one is dead.
#[test]
fn dead_stretches_hold_the_tables_of_which_every_key_is_dead() {
    let mut generations = Generations::default();
    for (table, generation) in [(1, 3), (4, 1), (7, 9)] {
        generations.set(table, generation, 1);
    }
    let mut all: Vec<Vec<u8>> = Vec::new();
    for table in 0..9 {
        for generation in 0..11 {
            for kind in [0, 1, 255] {
                all.push(key::encode(Prefix { table, generation, kind }, b"k", b""));
            }
        }
    }
    let stretches: Vec<_> = generations.dead_stretches().collect();
    for (number, first) in all.iter().enumerate() {
        for last in &all[number..] {
            let within = stretches
                .iter()
                .any(|(from, before)| from[..] <= first[..] && last[..] < before[..]);
            assert_eq!(within, generations.are_all_dead(Tree::Objects, first, last));
        }
    }
}
