//! Reads beside a running log, each compared with the model: point reads that wait for the disk
//! while ops are applied, scans that go on over many bars, and now and then everything.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use ioring::sim::Dice;

use super::indexes;
use super::log::{Shape, TABLE};
use super::model::{Model, Row};
use super::{Proof, Tally};
use crate::block::BlockAddress;
use crate::forest::Forest;
use crate::forest::harness::owned;
use crate::key::{self, Prefix, Range};
use crate::lookup::{Lookup, LookupError, OwnedEntry, Read, Want};
use crate::scan::{Direction, Scan, ScanStep};
use crate::tree::Tree;

/// Scans that go on at the same time.
const SCANS_MAX: usize = 3;

pub(super) struct Readers {
    dice: Dice,
    waiting: Option<(Read, Vec<u8>, Option<OwnedEntry>)>,
    scans: Vec<Open>,
}

/// A scan under way, what it gave and what it has to give.
struct Open {
    scan: Scan,
    snapshot: u64,
    limit: usize,
    given: Vec<Row>,
    expected: Vec<Row>,
}

/// How an answer that is not one came about.
enum Failed {
    Moved,
    Rotten,
}

/// Only what was made rotten may be unreadable.
fn failed(error: LookupError, rotten: &BTreeSet<BlockAddress>, key: Option<&[u8]>) -> Failed {
    match error {
        LookupError::Moved => Failed::Moved,
        LookupError::Corrupt(corrupt) => {
            assert!(rotten.contains(&corrupt.block), "{corrupt}");
            let inside = |key: &[u8]| *corrupt.key_min <= *key && *key <= *corrupt.key_max;
            assert!(key.is_none_or(inside), "{corrupt}, and {key:?} was asked for");
            Failed::Rotten
        }
    }
}

impl Readers {
    pub(super) fn new(seed: u64, run: u64) -> Readers {
        let dice = Dice::new(seed.rotate_left(16) ^ run, "readers");
        Readers { dice, waiting: None, scans: Vec::new() }
    }

    /// What happens beside an op.
    pub(super) async fn beside(&mut self, proof: &Proof, forest: &Forest) {
        match self.dice.below(1000) {
            0 => self.everything(proof, forest).await,
            1..30 => self.open_scan(proof, forest),
            30..400 => self.step_scan(proof, forest).await,
            400..600 => self.finish_read(proof).await,
            _ => self.get(proof, forest).await,
        }
    }

    /// Ends what is under way, and compares everything.
    pub(super) async fn end(&mut self, proof: &Proof, forest: &Forest) {
        self.finish_read(proof).await;
        while !self.scans.is_empty() {
            self.step_scan(proof, forest).await;
        }
        self.everything(proof, forest).await;
    }

    /// A snapshot that can be read: often the newest or the oldest.
    fn snapshot(&mut self, forest: &Forest) -> u64 {
        let (oldest, newest) = (forest.snapshot_min(), forest.version());
        match self.dice.below(4) {
            0 => oldest,
            1 => self.dice.between(oldest, newest),
            _ => newest,
        }
    }

    fn key(&mut self, shape: &Shape, model: &Model, snapshot: u64) -> Vec<u8> {
        // Some are never written.
        let number = self.dice.below(u64::from(shape.keys) + 3) as u32;
        shape.key(number, model.generation_at(snapshot))
    }

    async fn get(&mut self, proof: &Proof, forest: &Forest) {
        let snapshot = self.snapshot(forest);
        let (key, expected) = {
            let model = proof.model.borrow();
            let key = self.key(&proof.shape, &model, snapshot);
            let expected = model.get(&key, snapshot);
            (key, expected)
        };
        let latest = snapshot == forest.version() && self.dice.coin();
        let asked = if latest { u64::MAX } else { snapshot };
        proof.count(|tally| tally.reads += 1);
        match forest.get_cached(Tree::Objects, &key, asked, Want::Value, owned) {
            Lookup::Found(entry) => assert_eq!(Some(entry), expected, "{key:?} at {snapshot}"),
            Lookup::Absent => assert_eq!(None, expected, "{key:?} at {snapshot}"),
            Lookup::NeedsRead(read) => {
                self.finish_read(proof).await;
                self.waiting = Some((read, key, expected));
                if self.dice.coin() {
                    self.finish_read(proof).await;
                }
            }
        }
    }

    async fn finish_read(&mut self, proof: &Proof) {
        let Some((read, key, expected)) = self.waiting.take() else { return };
        match read.run().await {
            Ok(found) => assert_eq!(found, expected, "{key:?}"),
            Err(error) => match failed(error, &proof.rotten.borrow(), Some(&key)) {
                Failed::Moved => proof.count(|tally| tally.moved += 1),
                Failed::Rotten => proof.count(|tally| tally.unreadable += 1),
            },
        }
    }

    /// A range of the generation that is alive at the snapshot.
    fn range(&mut self, shape: &Shape, model: &Model, snapshot: u64) -> Range {
        let generation = model.generation_at(snapshot);
        let prefix = Prefix { table: TABLE, generation, kind: 0 }.to_bytes()[..8].to_vec();
        let mut bound = || {
            let mut key = self.key(shape, model, snapshot);
            match self.dice.below(3) {
                0 => key.truncate(self.dice.between(8, key.len() as u64) as usize),
                1 => key.push(self.dice.below(256) as u8),
                _ => {}
            }
            key
        };
        let (lower, upper) = (bound(), bound());
        let (lower, upper) = if lower <= upper { (lower, upper) } else { (upper, lower) };
        let upper = match self.dice.below(4) {
            0 => None,
            1 => key::successor(&prefix),
            _ => Some(upper),
        };
        Range { lower: if self.dice.below(3) == 0 { prefix } else { lower }, upper }
    }

    fn open_scan(&mut self, proof: &Proof, forest: &Forest) {
        let snapshot = self.snapshot(forest);
        let model = proof.model.borrow();
        let range = self.range(&proof.shape, &model, snapshot);
        let limit = 1_u64 << self.dice.below(8);
        let limit = 1 + self.dice.below(limit) as usize;
        let direction = if self.dice.coin() { Direction::Ascending } else { Direction::Descending };
        let scan = Open::new((range, direction), snapshot, limit, &model);
        if self.scans.len() == SCANS_MAX {
            self.scans.remove(0);
        }
        self.scans.push(scan);
        proof.count(|tally| tally.scans += 1);
    }

    async fn step_scan(&mut self, proof: &Proof, forest: &Forest) {
        if self.scans.is_empty() {
            return;
        }
        let number = self.dice.below(self.scans.len() as u64) as usize;
        let mut scan = self.scans.swap_remove(number);
        if !scan.step(proof, forest).await {
            self.scans.push(scan);
        }
    }

    /// Every key and all ranges, at the newest and at another snapshot.
    async fn everything(&mut self, proof: &Proof, forest: &Forest) {
        proof.count(|tally| tally.checks += 1);
        for snapshot in [forest.version(), self.snapshot(forest)] {
            for number in 0..proof.shape.keys {
                let (key, expected) = {
                    let model = proof.model.borrow();
                    let key = proof.shape.key(number, model.generation_at(snapshot));
                    let expected = model.get(&key, snapshot);
                    (key, expected)
                };
                let looked = forest.get_cached(Tree::Objects, &key, snapshot, Want::Value, owned);
                match looked {
                    Lookup::Found(found) => assert_eq!(Some(found), expected, "{key:?}"),
                    Lookup::Absent => assert_eq!(None, expected, "{key:?} at {snapshot}"),
                    Lookup::NeedsRead(read) => {
                        let waiting = self.waiting.replace((read, key, expected));
                        self.finish_read(proof).await;
                        self.waiting = waiting;
                    }
                }
            }
            indexes::check(proof, forest, snapshot).await;
            for direction in [Direction::Ascending, Direction::Descending] {
                let mut scan = {
                    let model = proof.model.borrow();
                    let generation = model.generation_at(snapshot);
                    let prefix = Prefix { table: TABLE, generation, kind: 0 }.to_bytes();
                    let range = Range { lower: prefix[..8].to_vec(), upper: None };
                    Open::new((range, direction), snapshot, 200, &model)
                };
                while !scan.step(proof, forest).await {}
            }
        }
    }
}

impl Open {
    fn new(
        (range, direction): (Range, Direction),
        snapshot: u64,
        limit: usize,
        model: &Model,
    ) -> Open {
        let mut expected = model.rows(&range, snapshot);
        if direction == Direction::Descending {
            expected.reverse();
        }
        let scan = Scan::new(Tree::Objects, range, direction, snapshot);
        Open { scan, snapshot, limit, given: Vec::new(), expected }
    }

    /// Whether it has ended.
    async fn step(&mut self, proof: &Proof, forest: &Forest) -> bool {
        let given = &mut self.given;
        let step = forest.scan_step(&mut self.scan, self.limit, |entry| {
            given.push((entry.key.to_vec(), entry.version, entry.payload.value_len()));
            ControlFlow::Continue(())
        });
        let so_far = self.expected.get(..self.given.len());
        assert_eq!(so_far, Some(&self.given[..]), "a scan as of {}", self.snapshot);
        match step {
            ScanStep::Done => {
                assert_eq!(self.given, self.expected, "a scan as of {}", self.snapshot);
                true
            }
            ScanStep::More => false,
            ScanStep::TooOld => {
                assert!(self.snapshot < forest.snapshot_min(), "{} is kept", self.snapshot);
                proof.count(|tally: &mut Tally| tally.scans_late += 1);
                true
            }
            ScanStep::NeedsRead(read) => match read.run().await {
                Ok(loaded) => {
                    self.scan.supply(loaded);
                    false
                }
                Err(error) => {
                    matches!(failed(error, &proof.rotten.borrow(), None), Failed::Rotten)
                }
            },
        }
    }
}
