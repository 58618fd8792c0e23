//! Finding tables against a walk over all.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::block::{BlockAddress, BlockReference, Checksum};
use crate::entry::TreeId;

/// A table over `min..=max` whose index stands at `address`.
pub(crate) fn table(address: u64, min: u8, max: u8, value_blocks: u32) -> Rc<TableInfo> {
    let address = BlockAddress::new(address).unwrap();
    Rc::new(TableInfo {
        tree: TreeId(1),
        index: BlockReference { address, size: 4096, checksum: Checksum(0) },
        key_min: Box::from([min]),
        key_max: Box::from([max]),
        version_min: 1,
        version_max: 1000 - address.get(),
        op: 1,
        run: 1,
        entries: 1,
        tombstones: 0,
        value_bytes: 1,
        value_blocks,
        overflow_blocks: 0,
        sample: Box::default(),
    })
}

/// A run of tables cut from ascending bounds; where `glued`, neighbours share a bound.
fn run(first: u64, bounds: &[u8], glued: &[bool], blocks: &[u32]) -> Level {
    let mut level = Level::default();
    for (number, pair) in bounds.chunks_exact(2).enumerate() {
        let min = match number.checked_sub(1) {
            Some(previous) if glued[number % glued.len()] => bounds[previous * 2 + 1],
            _ => pair[0],
        };
        let blocks = blocks[number % blocks.len()];
        level.insert(table(first + number as u64, min, pair[1], blocks));
    }
    level
}

fn strategy() -> impl Strategy<Value = (Vec<u8>, Vec<bool>, Vec<u32>)> {
    (btree_set(any::<u8>(), 2..24), vec(prop::bool::weighted(0.2), 1..8), vec(1_u32..4, 1..5))
        .prop_map(|(bounds, glued, blocks)| (bounds.into_iter().collect(), glued, blocks))
}

proptest! {
    #[test]
    fn overlap_and_find_are_those_of_a_walk(
        (bounds, glued, blocks) in strategy(), a in any::<u8>(), b in any::<u8>(),
    ) {
        let level = run(1, &bounds, &glued, &blocks);
        let (min, max) = (a.min(b), a.max(b));
        let expected: Vec<usize> = (0..level.tables().len())
            .filter(|&n| level.tables()[n].overlaps(&[min], &[max]))
            .collect();
        let range = level.overlap(&[min], &[max]);
        prop_assert_eq!(range.clone().collect::<Vec<_>>(), expected);
        let whole = level.overlap_whole(&[min], &[max]);
        if !range.is_empty() {
            prop_assert!(whole.start <= range.start && whole.end >= range.end);
        }
        for table in level.find(&[a]) {
            prop_assert!(table.covers(&[a]));
        }
    }
}

/// Keys with long common beginnings, and many that are equal in the eight bytes behind them.
fn long_key() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![&b""[..], b"\0", b"a", b"aaaaaaaa", b"aaaaaaab", b"b"]);
    vec(part, 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    /// Also after tables with other beginnings have come and gone.
    #[test]
    fn long_keys_are_found_where_a_walk_finds_them(
        bounds in btree_set(long_key(), 2..24), glued in vec(prop::bool::weighted(0.2), 1..8),
        order in any::<prop::sample::Index>(), removed in vec(any::<prop::sample::Index>(), 0..6),
        keys in vec(long_key(), 1..20),
    ) {
        let bounds: Vec<Vec<u8>> = bounds.into_iter().collect();
        let mut tables = Vec::new();
        for (number, pair) in bounds.chunks_exact(2).enumerate() {
            let is_glued = number > 0 && glued[number % glued.len()];
            let min = if is_glued { &bounds[2 * number - 1] } else { &pair[0] };
            tables.push(Rc::new(crate::testing::table(1 + number as u64, min, &pair[1])));
        }
        let mut level = Level::default();
        let first = order.index(tables.len());
        tables.rotate_left(first);
        tables.iter().for_each(|table| level.insert(Rc::clone(table)));
        for index in removed {
            if !tables.is_empty() {
                level.remove(&tables.swap_remove(index.index(tables.len())));
            }
        }
        for key in keys.iter().chain(&bounds) {
            let walk = level.tables().iter().filter(|table| table.covers(key));
            let walk: Vec<u64> = walk.map(|table| table.index.address.get()).collect();
            let found = level.find(key).iter().map(|table| table.index.address.get());
            prop_assert_eq!(found.collect::<Vec<_>>(), walk, "{:?}", key);
        }
    }
}

#[test]
#[should_panic(expected = "tables of a level are disjoint")]
fn overlapping_tables_are_refused() {
    let mut level = Level::default();
    level.insert(table(1, 10, 20, 1));
    level.insert(table(2, 15, 30, 1));
}
