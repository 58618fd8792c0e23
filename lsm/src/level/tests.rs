//! Choosing and finding tables against brute force.

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
        entries: 1,
        tombstones: 0,
        value_bytes: 1,
        value_blocks,
        overflow_blocks: 0,
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

    /// No window that could have been taken overlaps less per block than the chosen one.
    #[test]
    fn the_chosen_window_has_the_least_overlap(
        upper in strategy(), lower in strategy(),
        excess in 1_u64..8, taken in vec(any::<bool>(), 8),
    ) {
        let above = run(1, &upper.0, &upper.1, &upper.2);
        let below = run(101, &lower.0, &lower.1, &lower.2);
        let free = |table: &TableInfo| {
            let address = table.index.address.get();
            address > 100 || !taken[address as usize % taken.len()]
        };
        let cost = |window: &Range<usize>| -> Option<(u64, u64)> {
            let tables = &above.tables()[window.clone()];
            if tables.is_empty() || !tables.iter().all(|table| free(table)) {
                return None;
            }
            if above.continues(window.start) || above.continues(window.end) {
                return None;
            }
            let last = &tables[tables.len() - 1];
            let overlap = below.overlap_whole(&tables[0].key_min, &last.key_max);
            let overlap = below.tables()[overlap].iter().map(|table| table_blocks(table)).sum();
            Some((overlap, tables.iter().map(|table| table_blocks(table)).sum()))
        };
        let count = above.tables().len();
        let windows: Vec<Range<usize>> =
            (0..count).flat_map(|start| (start + 1..=count).map(move |end| start..end)).collect();
        // The shortest window from each start that is large enough.
        let mut candidates: Vec<(u64, u64)> = Vec::new();
        for start in 0..count {
            let from = windows.iter().filter(|window| window.start == start);
            candidates.extend(from.filter_map(&cost).find(|(_, blocks)| *blocks >= excess));
        }
        match above.choose(&below, excess, free) {
            None => prop_assert!(windows.iter().all(|window| cost(window).is_none())),
            Some(window) => {
                let (overlap, blocks) = cost(&window).expect("the chosen window can be taken");
                if candidates.is_empty() {
                    prop_assert!(blocks < excess);
                } else {
                    prop_assert!(blocks >= excess);
                    for (other_overlap, other_blocks) in candidates {
                        prop_assert!(overlap * other_blocks <= other_overlap * blocks);
                    }
                }
            }
        }
    }
}

#[test]
fn runs_are_newest_first_and_vanish_with_their_last_table() {
    let mut runs = Runs::default();
    let of = |op: u64, address, min, max| {
        Rc::new(TableInfo { op, ..(*table(address, min, max, 1)).clone() })
    };
    let (old, new, new_2) = (of(5, 1, 0, 200), of(9, 2, 0, 10), of(9, 3, 20, 30));
    for table in [&new_2, &old, &new] {
        runs.insert(Rc::clone(table));
    }
    let order: Vec<usize> = runs.iter().map(|run| run.tables().len()).collect();
    assert_eq!(order, [2, 1]);
    runs.remove(&new);
    runs.remove(&new_2);
    assert_eq!((runs.len(), runs.blocks()), (1, 2));
}

#[test]
#[should_panic(expected = "tables of a level are disjoint")]
fn overlapping_tables_are_refused() {
    let mut level = Level::default();
    level.insert(table(1, 10, 20, 1));
    level.insert(table(2, 15, 30, 1));
}
