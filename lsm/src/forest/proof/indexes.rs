//! Indexes beside the log: where each object stands in them follows from its key and version, so
//! that what the tree of indexes has to hold at a snapshot follows from the model's objects.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Proof;
use super::log::TABLE;
use super::model::Model;
use crate::forest::Forest;
use crate::key::{Prefix, Range};
use crate::lookup::LookupError;
use crate::memtable::Memtable;
use crate::scan::{Direction, Scan, ScanStep};
use crate::secondary::{self, Place};
use crate::tree::Tree;

/// Where an object stands, in owned form.
type Places = Vec<(u8, Vec<u8>)>;

/// None to two places: few distinct keys, so that objects share them, one with a zero byte, and an
/// index that most versions do not change.
fn places(key: &[u8], version: u64) -> Places {
    let draw = crate::filter::hash(&version.to_le_bytes());
    let mut places = Vec::new();
    if !draw.is_multiple_of(4) {
        places.push((0, vec![b'k', (crate::filter::hash(key) % 5) as u8]));
    }
    if !draw.is_multiple_of(3) {
        places.push((1 + (draw >> 8) as u8 % 2, vec![(draw >> 16) as u8 % 4; 3]));
    }
    places
}

fn borrowed(places: &Places) -> Vec<Place<'_>> {
    places.iter().map(|(index, key)| Place { index: *index, key }).collect()
}

/// Brings the indexes in step with a write of an object; gives the bytes that takes at most.
pub(super) fn reindex(
    forest: &mut Forest,
    key: &[u8],
    before: Option<u64>,
    (version, lives): (u64, bool),
) -> u64 {
    let before = before.map_or(Vec::new(), |before| places(key, before));
    let now = if lives { places(key, version) } else { Vec::new() };
    forest.reindex(key, version, &borrowed(&before), &borrowed(&now));
    let bytes = |(_, secondary): &(u8, Vec<u8>)| {
        Memtable::entry_bytes(secondary::encoded_len(2 * secondary.len(), key.len()), 0) as u64
    };
    before.iter().chain(&now).map(bytes).sum()
}

/// What the tree holds at a snapshot, of the generation that is alive then.
fn expected(model: &Model, range: &Range, snapshot: u64) -> BTreeSet<Vec<u8>> {
    let mut entries = BTreeSet::new();
    for (key, version, _) in model.rows(range, snapshot) {
        for place in borrowed(&places(&key, version)) {
            let mut entry = Vec::new();
            secondary::encode_into(&mut entry, &key, place);
            entries.insert(entry);
        }
    }
    entries
}

/// Compares the whole tree at a snapshot.
pub(super) async fn check(proof: &Proof, forest: &Forest, snapshot: u64) {
    let (range, expected) = {
        let model = proof.model.borrow();
        let generation = model.generation_at(snapshot);
        let prefix = Prefix { table: TABLE, generation, kind: 0 }.to_bytes();
        let range = Range { lower: prefix[..8].to_vec(), upper: None };
        let expected = match proof.shape.indexed {
            true => expected(&model, &range, snapshot),
            false => BTreeSet::new(),
        };
        (range, expected)
    };
    proof.count(|tally| tally.index_entries += expected.len() as u64);
    for direction in [Direction::Ascending, Direction::Descending] {
        let mut scan = Scan::new(Tree::Indexes, range.clone(), direction, snapshot);
        let mut given: Vec<Vec<u8>> = Vec::new();
        loop {
            let step = forest.scan_step(&mut scan, 100, |entry| {
                assert_eq!((entry.payload.value_len(), entry.deadline), (0, 0));
                given.push(entry.key.to_vec());
                ControlFlow::Continue(())
            });
            match step {
                ScanStep::Done => break,
                ScanStep::More => {}
                ScanStep::TooOld => unreachable!("{snapshot} is kept"),
                ScanStep::NeedsRead(read) => match read.run().await {
                    Ok(loaded) => scan.supply(loaded),
                    Err(LookupError::Moved) => {}
                    Err(LookupError::Corrupt(corrupt)) => panic!("only objects rot: {corrupt}"),
                },
            }
        }
        if direction == Direction::Descending {
            given.reverse();
        }
        assert!(given.iter().eq(&expected), "entries of indexes as of {snapshot}");
    }
}
