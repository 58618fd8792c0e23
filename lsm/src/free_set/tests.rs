//! The free set against a map of blocks to states.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BLOCKS_MAX: u64 = 200;
const CHUNK_BLOCKS: u32 = 64;

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64),
    Acquire(usize),
    Forfeit(usize),
    Release(usize),
    CheckpointBegin,
    CheckpointFree,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..100).prop_map(Step::Reserve),
        8 => any::<usize>().prop_map(Step::Acquire),
        2 => any::<usize>().prop_map(Step::Forfeit),
        6 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::CheckpointBegin),
        1 => Just(Step::CheckpointFree),
        1 => Just(Step::Reopen),
    ]
}

/// The same, with sets of addresses.
#[derive(Default)]
struct Model {
    acquired: BTreeSet<u64>,
    staged: BTreeSet<u64>,
    pending: BTreeSet<u64>,
    reservations: Vec<(Reservation, Vec<u64>)>,
}

impl Model {
    fn lowest_free(&self, count: u64) -> Option<Vec<u64>> {
        let reserved: BTreeSet<u64> =
            self.reservations.iter().flat_map(|(_, addresses)| addresses).copied().collect();
        let free = |address: &u64| !self.acquired.contains(address) && !reserved.contains(address);
        let found: Vec<u64> = (1..BLOCKS_MAX).filter(free).take(count as usize).collect();
        (found.len() as u64 == count).then_some(found)
    }

    fn live(&self) -> Vec<u64> {
        let live = |a: &&u64| !self.staged.contains(a) && !self.pending.contains(a);
        self.acquired.iter().filter(live).copied().collect()
    }
}

fn reopen(set: &FreeSet) -> FreeSet {
    let snapshot = set.snapshot();
    let chunks: Vec<Vec<u8>> = (0..snapshot.chunk_count())
        .map(|chunk| {
            let mut bytes = vec![0xAA; snapshot.chunk_size()];
            snapshot.encode_chunk(chunk, &mut bytes);
            bytes
        })
        .collect();
    FreeSet::restore(BLOCKS_MAX, CHUNK_BLOCKS, chunks.iter().map(|bytes| &bytes[..])).unwrap()
}

fn apply(set: &mut FreeSet, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    match step {
        Step::Reserve(count) => {
            let reservation = set.reserve(*count);
            let expected = model.lowest_free(*count);
            prop_assert_eq!(reservation.is_some(), expected.is_some());
            if let (Some(reservation), Some(addresses)) = (reservation, expected) {
                prop_assert_eq!(reservation.remaining(), *count);
                model.reservations.push((reservation, addresses));
            }
        }
        Step::Acquire(which) if !model.reservations.is_empty() => {
            let which = which % model.reservations.len();
            let (reservation, addresses) = &mut model.reservations[which];
            if !addresses.is_empty() {
                let expected = addresses.remove(0);
                prop_assert_eq!(set.acquire(reservation).get(), expected);
                model.acquired.insert(expected);
            }
        }
        Step::Forfeit(which) if !model.reservations.is_empty() => {
            let which = which % model.reservations.len();
            set.forfeit(model.reservations.remove(which).0);
        }
        Step::Release(which) => {
            let live = model.live();
            if !live.is_empty() {
                let address = live[which % live.len()];
                set.release(BlockAddress::new(address).unwrap());
                model.staged.insert(address);
            }
        }
        Step::CheckpointBegin if model.pending.is_empty() => {
            set.checkpoint_begin();
            model.pending = std::mem::take(&mut model.staged);
        }
        Step::CheckpointFree => {
            let pending = std::mem::take(&mut model.pending);
            prop_assert_eq!(set.checkpoint_free(), pending.len() as u64);
            model.acquired = &model.acquired - &pending;
        }
        Step::Reopen => {
            // Reservations and staged releases are not part of a checkpoint.
            model.reservations.clear();
            model.staged.clear();
            *set = reopen(set);
        }
        _ => {}
    }
    Ok(())
}

proptest! {
    #[test]
    fn behaves_like_sets_of_addresses(steps in vec(step(), 1..200)) {
        let mut set = FreeSet::new(BLOCKS_MAX, CHUNK_BLOCKS);
        let mut model = Model::default();
        for step in &steps {
            apply(&mut set, &mut model, step)?;
            let reserved: usize = model.reservations.iter().map(|(_, left)| left.len()).sum();
            let expected = Space {
                blocks_max: BLOCKS_MAX - 1,
                acquired: model.acquired.len() as u64,
                reserved: reserved as u64,
                staged: model.staged.len() as u64,
                pending: model.pending.len() as u64,
            };
            prop_assert_eq!(set.space(), expected, "after {:?}", step);
            for address in 1..BLOCKS_MAX {
                let acquired = set.is_acquired(BlockAddress::new(address).unwrap());
                prop_assert_eq!(acquired, model.acquired.contains(&address));
            }
            let held = model.reservations.iter().flat_map(|(_, left)| left);
            let held: BTreeSet<u64> = held.chain(&model.acquired).copied().collect();
            let mut free = 0;
            for end in 0..=BLOCKS_MAX {
                prop_assert_eq!(set.free_below(end), free, "below {}", end);
                free += u64::from(end > 0 && !held.contains(&end));
            }
            for (reservation, left) in &model.reservations {
                for count in 0..left.len() + 2 {
                    let last = count.checked_sub(1).and_then(|at| left.get(at));
                    prop_assert_eq!(reservation.last_of(count as u64), last.copied());
                }
            }
            let highest = model.acquired.last().copied().unwrap_or(0);
            prop_assert!(set.address_max() >= highest);
        }
    }

    #[test]
    fn stored_bytes_are_checked(chunks in vec(vec(any::<u8>(), 0..20), 0..6)) {
        let _ = FreeSet::restore(BLOCKS_MAX, CHUNK_BLOCKS, chunks.iter().map(|bytes| &bytes[..]));
    }
}

#[test]
fn a_snapshot_does_not_change_and_shares_what_is_equal() {
    let mut set = FreeSet::new(BLOCKS_MAX, CHUNK_BLOCKS);
    let mut reservation = set.reserve(3).unwrap();
    set.acquire(&mut reservation);
    let before = set.snapshot();
    let mut bytes = vec![0; before.chunk_size()];
    before.encode_chunk(0, &mut bytes);
    set.acquire(&mut reservation);
    set.forfeit(reservation);
    let after = set.snapshot();
    let mut again = vec![0; before.chunk_size()];
    before.encode_chunk(0, &mut again);
    assert_eq!(bytes, again);
    assert!(!after.is_unchanged(0, &before));
    assert!(after.is_unchanged(1, &before));
    assert_eq!(bytes[0], 0b10);
    after.encode_chunk(0, &mut again);
    assert_eq!(again[0], 0b110);
}

#[test]
fn impossible_chunks_are_refused_by_name() {
    let restore = |chunks: [Vec<u8>; 4]| {
        FreeSet::restore(BLOCKS_MAX, CHUNK_BLOCKS, chunks.iter().map(|bytes| &bytes[..]))
            .map(|set| set.space())
    };
    let empty = || vec![0u8; 16];
    assert_eq!(restore([empty(), empty(), empty(), empty()]).unwrap().acquired, 0);
    let mut header = empty();
    header[0] = 1;
    let outside = Err(FreeSetFault::Outside { chunk: 0 });
    assert_eq!(restore([header, empty(), empty(), empty()]), outside);
    let mut beyond = empty();
    beyond[1] = 1;
    let outside = Err(FreeSetFault::Outside { chunk: 3 });
    assert_eq!(restore([empty(), empty(), empty(), beyond]), outside);
    let mut pending = empty();
    pending[8] = 2;
    let fault = Err(FreeSetFault::PendingNotAcquired { chunk: 0 });
    assert_eq!(restore([pending, empty(), empty(), empty()]), fault);
    let short = FreeSetFault::ChunkSize { chunk: 1, expected: 16, actual: 15 };
    assert_eq!(restore([empty(), vec![0; 15], empty(), empty()]), Err(short));
}

#[test]
#[should_panic(expected = "released but not in use")]
fn a_block_is_released_once() {
    let mut set = FreeSet::new(BLOCKS_MAX, CHUNK_BLOCKS);
    let mut reservation = set.reserve(1).unwrap();
    let address = set.acquire(&mut reservation);
    set.release(address);
    set.release(address);
}
