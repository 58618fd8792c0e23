//! Range reads: the live entries of a key range at a snapshot, in key order, step by step.
//!
//! A scan merges the two memtables and every sorted run, in ascending or descending order. It goes
//! in bounded steps ([`crate::forest::Forest::scan_step`]): a step borrows the forest, walks what
//! is in memory, and ends when it has looked at enough entries, when the range is done, or when the
//! next page of a run is not in memory. Then it gives out a [`ScanRead`] to await, and is given
//! back what that read.
//!
//! **Merging.** Each source stands at the version that the snapshot sees of one key: [`ascent`] and
//! [`descent`] in runs, a cursor in memtables. Sources are numbered by age and kept in the order of
//! their keys, the newer first among equals; so the first in that order has the answer for its key,
//! and the others that stand at this key are only moved on. When a source moves on, it is compared
//! with the second in order first: most of the data is in one run, which stays in front for long.
//!
//! **Between steps** a scan keeps its places. Two things make it find them again by key: a bar that
//! ended, as the runs are others then; and for the mutable memtable, a write. So a step sees writes
//! made since the one before, but none of them is at or below the snapshot: the scan as a whole is
//! one snapshot. Once that is below [`crate::forest::Forest::snapshot_min`], versions that it sees
//! may have been dropped; then the step says [`ScanStep::TooOld`], and nothing else: what
//! compaction keeps is never up to readers.
//!
//! **Reading.** When a scan begins, and after a bar, all runs ask for their first pages at the same
//! time. What is read ahead, and what of it stays in the cache: [`pages`]. The pages a step waits
//! for are held by the scan itself, so a small cache cannot starve it.

mod ascent;
mod descent;
mod pages;
mod read;

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::rc::Rc;

pub use read::{Loaded, ScanRead};

use self::ascent::Ascent;
use self::descent::Descent;
use self::read::{Need, Part};
use crate::entry::{EntryRef, Level as LevelNumber};
use crate::grid::Grid;
use crate::key;
use crate::level::Level;
use crate::lookup::Reader;
use crate::manifest::Manifest;
use crate::memtable::{Cursor, Memtable};
use crate::table::TableInfo;
use crate::tree::{Memtables, Tree};

/// Why a step ended.
#[derive(Debug)]
pub enum ScanStep {
    /// The range is done.
    Done,
    /// The limit was reached, or the caller asked to stop; there may be more.
    More,
    /// Await this, give the result to [`Scan::supply`], and step again.
    NeedsRead(ScanRead),
    /// Versions that the snapshot sees may have been dropped: begin again with a newer one.
    TooOld,
}

/// In which order keys come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The smallest first.
    Ascending,
    /// The largest first.
    Descending,
}

/// A range read under way; see the module.
#[derive(Debug)]
pub struct Scan {
    pub(crate) tree: Tree,
    range: key::Range,
    direction: Direction,
    version_max: u64,
    /// Ascending: every key before this one is dealt with. Descending: this one, and every key
    /// behind it; none: nothing is.
    next: Option<Vec<u8>>,
    /// The bar in which `sources` were set up.
    epoch: Option<u64>,
    /// From the newest to the oldest: the memtables, then the runs.
    sources: Vec<Source>,
    /// Blocks of all runs.
    blocks: u64,
    /// Entries in the mutable memtable when its place was found.
    written: usize,
    /// Numbers of the sources that stand at a key, in the order of their keys; and of those that
    /// are on the way to one.
    order: Vec<usize>,
    unplaced: Vec<usize>,
}

/// One of the sorted things that a scan merges.
#[derive(Debug)]
enum Source {
    /// None: at the end.
    Memtable(Option<Cursor>),
    /// With the blocks of the run.
    Ascent(Box<Ascent>, u64),
    Descent(Box<Descent>, u64),
}

/// Where a source came to.
enum Settled {
    /// At a key.
    Placed,
    /// There are no more keys.
    End,
    /// It has looked at all that it may in this step.
    Later,
    /// Something has to be read first.
    Missing(Need),
}

/// What a source needs to know to move.
struct Look<'a> {
    grid: &'a Grid,
    reader: &'a dyn Fn() -> Reader,
    direction: Direction,
    version_max: u64,
    /// The far end of the range, if it has one.
    bound: Option<&'a [u8]>,
    /// Entries that the step may look at, and the run's part of all blocks.
    limit: usize,
    part: (u64, u64),
}

impl Look<'_> {
    fn reader(&self) -> Reader {
        (self.reader)()
    }

    /// Entries of the run that the step is likely to come to.
    fn entries(&self) -> usize {
        let (own, all) = self.part;
        ((self.limit as u64).saturating_mul(own) / all.max(1)) as usize
    }
}

/// What a step borrows of the forest.
pub(crate) struct View<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) memtables: &'a Memtables,
    pub(crate) manifest: &'a Manifest,
    pub(crate) epoch: u64,
    pub(crate) reader: &'a dyn Fn() -> Reader,
}

impl<'a> View<'a> {
    fn memtable(&self, number: usize) -> &'a Memtable {
        match number {
            0 => self.memtables.mutable(),
            _ => self.memtables.immutable(),
        }
    }
}

impl Scan {
    /// A scan of `range` as of `version_max`.
    #[must_use]
    pub fn new(tree: Tree, range: key::Range, direction: Direction, version_max: u64) -> Scan {
        let next = match direction {
            Direction::Ascending => Some(range.lower.clone()),
            Direction::Descending => range.upper.clone(),
        };
        Scan {
            tree,
            range,
            direction,
            version_max,
            next,
            epoch: None,
            sources: Vec::new(),
            blocks: 0,
            written: 0,
            order: Vec::new(),
            unplaced: Vec::new(),
        }
    }

    /// The oldest version that the scan may need.
    pub(crate) fn version_max(&self) -> u64 {
        self.version_max
    }

    /// Takes what a read that this scan asked for has brought.
    pub fn supply(&mut self, loaded: Loaded) {
        for (number, part) in loaded.parts {
            // If bars ended meanwhile, the next step sets the sources up anew.
            if let Some(source) = self.sources.get_mut(number) {
                source.supply(part);
            }
        }
    }

    fn in_range(&self, key: &[u8]) -> bool {
        match self.direction {
            Direction::Ascending => self.range.upper.as_ref().is_none_or(|upper| key < &upper[..]),
            Direction::Descending => key >= &self.range.lower[..],
        }
    }

    /// Sets the sources up as far as they are not those of the step before.
    fn set_up(&mut self, view: &View<'_>) {
        let written = view.memtables.mutable().len();
        if self.epoch != Some(view.epoch) {
            self.epoch = Some(view.epoch);
            self.sources.clear();
            self.sources.extend([Source::Memtable(None), Source::Memtable(None)]);
            let runs = view.manifest.sorted_runs().map(|(_, run)| run.blocks());
            self.sources.extend(runs.map(|blocks| match self.direction {
                Direction::Ascending => Source::Ascent(Box::default(), blocks),
                Direction::Descending => Source::Descent(Box::default(), blocks),
            }));
            self.blocks = view.manifest.sorted_runs().map(|(_, run)| run.blocks()).sum();
            self.order.clear();
            self.unplaced.clear();
            self.unplaced.extend(0..self.sources.len());
            self.seek(view, 1);
            self.seek(view, 0);
        } else if self.written != written {
            self.order.retain(|number| *number != 0);
            self.unplaced.retain(|number| *number != 0);
            self.unplaced.push(0);
            self.seek(view, 0);
        }
        self.written = written;
    }

    /// Finds the place in a memtable anew.
    fn seek(&mut self, view: &View<'_>, number: usize) {
        let memtable = view.memtable(number);
        let cursor = match (self.direction, &self.next) {
            (Direction::Ascending, Some(next)) => memtable.range_from(next),
            (Direction::Ascending, None) => memtable.start(),
            (Direction::Descending, next) => memtable.last_before(next.as_deref()),
        };
        self.sources[number] = Source::Memtable(Some(cursor));
    }

    /// Moves a source on to a key, if one can be reached.
    fn settle(
        &mut self,
        view: &View<'_>,
        runs: &[Run<'_>],
        number: usize,
        (limit, budget): (usize, &mut usize),
    ) -> Settled {
        let (direction, version_max) = (self.direction, self.version_max);
        let next = self.next.as_deref();
        let bound = match direction {
            Direction::Ascending => self.range.upper.as_deref(),
            Direction::Descending => Some(&self.range.lower[..]),
        };
        let (grid, reader, all) = (view.grid, view.reader, self.blocks);
        let look = |blocks: u64| {
            let part = (blocks, all);
            Look { grid, reader, direction, version_max, bound, limit, part }
        };
        let tables = || -> &[Rc<TableInfo>] { runs[number - MEMTABLES].1.tables() };
        match &mut self.sources[number] {
            Source::Ascent(ascent, blocks) => {
                let next = next.expect("ascending, a scan has a place from its beginning on");
                ascent.settle(&look(*blocks), tables(), next, budget)
            }
            Source::Descent(descent, blocks) => {
                descent.settle(&look(*blocks), tables(), next, budget)
            }
            Source::Memtable(place) => {
                let memtable = view.memtable(number);
                while let Some(cursor) = *place {
                    if memtable.entry(cursor).is_none() {
                        *place = None;
                    } else if let Some(seen) = memtable.at_snapshot(cursor, version_max) {
                        *place = Some(seen);
                        return Settled::Placed;
                    } else if *budget == 0 {
                        return Settled::Later;
                    } else {
                        *budget -= 1;
                        *place = Some(beside(memtable, cursor, direction));
                    }
                }
                Settled::End
            }
        }
    }

    /// Brings sources that are on the way to a key there; if not all can be, the step ends.
    fn place(
        &mut self,
        view: &View<'_>,
        runs: &[Run<'_>],
        (limit, budget): (usize, &mut usize),
    ) -> Option<ScanStep> {
        let (mut needs, mut at) = (Vec::new(), 0);
        while let Some(&number) = self.unplaced.get(at) {
            match self.settle(view, runs, number, (limit, budget)) {
                Settled::Placed => self.insert(view, number),
                Settled::End => {}
                Settled::Later => {
                    at += 1;
                    continue;
                }
                Settled::Missing(need) => {
                    needs.push((number, runs[number - MEMTABLES].0, need));
                    at += 1;
                    continue;
                }
            }
            self.unplaced.swap_remove(at);
        }
        if !needs.is_empty() {
            let bound = match self.direction {
                Direction::Ascending => self.range.upper.as_deref(),
                Direction::Descending => Some(&self.range.lower[..]),
            };
            let (next, bound) = (self.next.as_deref().map(Box::from), bound.map(Box::from));
            return Some(ScanStep::NeedsRead(ScanRead {
                reader: (view.reader)(),
                next,
                bound,
                needs,
            }));
        }
        (!self.unplaced.is_empty()).then_some(ScanStep::More)
    }

    /// Moves on every source that stands at the key just dealt with: the first `key_len` bytes of
    /// the scan's place. The first in order does.
    fn leave(
        &mut self,
        view: &View<'_>,
        runs: &[Run<'_>],
        key_len: usize,
        work: (usize, &mut usize),
    ) {
        let (limit, budget) = work;
        loop {
            let number = self.order[0];
            self.sources[number].advance(view, number, self.direction);
            match self.settle(view, runs, number, (limit, budget)) {
                Settled::Placed => self.sink(view),
                Settled::End => {
                    self.order.remove(0);
                }
                // What is missing is asked for again, with what else is.
                Settled::Later | Settled::Missing(_) => {
                    self.order.remove(0);
                    self.unplaced.push(number);
                }
            }
            let Some(&front) = self.order.first() else { return };
            let next = self.next.as_ref().expect("a key was dealt with");
            if front == number || *self.sources[front].key(view, front) != next[..key_len] {
                return;
            }
        }
    }

    /// Puts the first source in order, which has moved on, where its key belongs.
    #[inline]
    fn sink(&mut self, view: &View<'_>) {
        let moved = self.order[0];
        let Some(&second) = self.order.get(1) else { return };
        if self.compare(view, moved, second) == Ordering::Less {
            return;
        }
        let behind = self.order[1..]
            .partition_point(|other| self.compare(view, *other, moved) == Ordering::Less);
        self.order[..=behind].rotate_left(1);
    }

    #[inline]
    fn compare(&self, view: &View<'_>, one: usize, other: usize) -> Ordering {
        let (a, b) = (self.sources[one].key(view, one), self.sources[other].key(view, other));
        let ordering = match self.direction {
            Direction::Ascending => a.cmp(b),
            Direction::Descending => b.cmp(a),
        };
        ordering.then(one.cmp(&other))
    }

    /// Puts a source where its key belongs.
    fn insert(&mut self, view: &View<'_>, number: usize) {
        let at = self
            .order
            .partition_point(|other| self.compare(view, *other, number) == Ordering::Less);
        self.order.insert(at, number);
    }
}

/// Sources in front of the runs.
const MEMTABLES: usize = 2;

impl Source {
    fn supply(&mut self, part: Part) {
        match self {
            Source::Ascent(ascent, _) => ascent.supply(part),
            Source::Descent(descent, _) => descent.supply(part),
            Source::Memtable(_) => unreachable!("a memtable is in memory"),
        }
    }

    #[inline]
    fn key<'a>(&'a self, view: &View<'a>, number: usize) -> &'a [u8] {
        match self {
            Source::Ascent(ascent, _) => ascent.key(),
            Source::Descent(descent, _) => descent.key(),
            Source::Memtable(_) => self.entry(view, number).key,
        }
    }

    #[inline]
    fn entry<'a>(&'a self, view: &View<'a>, number: usize) -> EntryRef<'a> {
        match self {
            Source::Ascent(ascent, _) => ascent.entry(),
            Source::Descent(descent, _) => descent.entry(),
            Source::Memtable(cursor) => {
                let entry = cursor.and_then(|cursor| view.memtable(number).entry(cursor));
                entry.expect("a placed source stands at an entry")
            }
        }
    }

    /// Leaves the key it stands at.
    #[inline]
    fn advance(&mut self, view: &View<'_>, number: usize, direction: Direction) {
        match self {
            Source::Ascent(ascent, _) => ascent.advance(),
            Source::Descent(descent, _) => descent.advance(),
            Source::Memtable(place) => {
                *place = place.map(|cursor| beside(view.memtable(number), cursor, direction));
            }
        }
    }
}

/// A sorted run and its level.
type Run<'a> = (LevelNumber, &'a Level);

/// The key that follows, in either direction.
#[inline]
fn beside(memtable: &Memtable, cursor: Cursor, direction: Direction) -> Cursor {
    match direction {
        Direction::Ascending => memtable.next_key(cursor),
        Direction::Descending => memtable.previous_key(cursor),
    }
}

/// Does one step; see the module.
pub(crate) fn step(
    scan: &mut Scan,
    view: &View<'_>,
    limit: usize,
    mut emit: impl FnMut(&EntryRef<'_>) -> ControlFlow<()>,
) -> ScanStep {
    scan.set_up(view);
    let runs: Vec<Run<'_>> = view.manifest.sorted_runs().collect();
    // One at least, so that every step comes further.
    let mut budget = limit.max(1);
    loop {
        if !scan.unplaced.is_empty()
            && let Some(step) = scan.place(view, &runs, (limit, &mut budget))
        {
            return step;
        }
        let Some(&front) = scan.order.first() else { return ScanStep::Done };
        let entry = scan.sources[front].entry(view, front);
        if !scan.in_range(entry.key) {
            return ScanStep::Done;
        }
        if budget == 0 {
            return ScanStep::More;
        }
        budget -= 1;
        let flow = match entry.payload.is_tombstone() {
            true => ControlFlow::Continue(()),
            false => emit(&entry),
        };
        let mut next = scan.next.take().unwrap_or_default();
        next.clear();
        next.extend_from_slice(entry.key);
        let key_len = next.len();
        if scan.direction == Direction::Ascending {
            next.push(0);
        }
        scan.next = Some(next);
        scan.leave(view, &runs, key_len, (limit, &mut budget));
        if flow.is_break() {
            return ScanStep::More;
        }
    }
}

#[cfg(test)]
mod tests;
