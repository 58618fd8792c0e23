//! Which tables of a tree are live, level by level: the manifest in memory.
//!
//! It changes only at a bar's end, by the whole bar's [`Change`]s in a fixed order, and never while
//! a job runs: jobs and readers hold the tables they need by reference count. Each change also goes
//! to the manifest log, whose checkpointed form is what an open starts from.

use std::rc::Rc;

use crate::entry::Level as LevelNumber;
use crate::level::{Level, Runs};
use crate::table::TableInfo;

/// What a job did to its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Insert(LevelNumber, Rc<TableInfo>),
    Remove(LevelNumber, Rc<TableInfo>),
    /// From a level to another, as it is.
    Move(LevelNumber, LevelNumber, Rc<TableInfo>),
}

/// The live tables of one tree.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    runs: Runs,
    /// Levels 1 and deeper.
    levels: Vec<Level>,
}

impl Manifest {
    pub(crate) fn new(levels: u8) -> Manifest {
        assert!(levels >= 2, "level 0 overlaps itself, so there is a level below it");
        Manifest { runs: Runs::default(), levels: vec![Level::default(); levels as usize - 1] }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Insert(level, table) => self.insert(*level, Rc::clone(table)),
            Change::Remove(level, table) => self.remove(*level, table),
            Change::Move(from, to, table) => {
                self.remove(*from, table);
                self.insert(*to, Rc::clone(table));
            }
        }
    }

    fn remove(&mut self, level: LevelNumber, table: &TableInfo) {
        match level.0 as usize {
            0 => self.runs.remove(table),
            level => self.levels[level - 1].remove(table),
        }
    }

    pub(crate) fn insert(&mut self, level: LevelNumber, table: Rc<TableInfo>) {
        match level.0 as usize {
            0 => self.runs.insert(table),
            level => self.levels[level - 1].insert(table),
        }
    }

    /// Level 0.
    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// A level below 0.
    pub(crate) fn level(&self, level: LevelNumber) -> &Level {
        &self.levels[level.0 as usize - 1]
    }

    /// The deepest level's number.
    pub(crate) fn last(&self) -> LevelNumber {
        LevelNumber(self.levels.len() as u8)
    }

    /// Every sorted run from the newest to the oldest: the order in which a reader asks.
    pub(crate) fn sorted_runs(&self) -> impl Iterator<Item = (LevelNumber, &Level)> {
        let runs = self.runs.iter().map(|run| (LevelNumber(0), run));
        let levels = self.levels.iter().zip(1..).map(|(level, n)| (LevelNumber(n), level));
        runs.chain(levels).filter(|(_, level)| !level.is_empty())
    }

    /// Every live table with its level.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (LevelNumber, &Rc<TableInfo>)> {
        self.sorted_runs().flat_map(|(n, level)| level.tables().iter().map(move |table| (n, table)))
    }

    /// Blocks of a level, index blocks included.
    pub(crate) fn blocks(&self, level: LevelNumber) -> u64 {
        match level.0 {
            0 => self.runs.blocks(),
            _ => self.level(level).blocks(),
        }
    }
}
