//! Which tables of a tree are live, run by run: the manifest in memory.
//!
//! ```text
//! level 0      │ run 96 │ run 80 │ run 64 │        flushes
//! level 1      │ run 48 │ run 32 │                merged flushes
//! …
//! last level   │ one run of everything older      │
//! ```
//!
//! A *run* is a set of tables in key order; all levels but the last hold several. A run has a
//! number, and numbers are ages: of one key, a run with a larger number has the newer versions,
//! whatever level it stands in. So a reader asks the runs in descending order of their numbers and
//! the last level at the end.
//!
//! Runs move down in *slices*, one stretch of the key space per bar, so a bar never has to pay for
//! all of a large run ([`Group`]). While this goes on, the runs of the group have lost their lower
//! keys, and the run they become, one level or more below, has gained them. It has the number of
//! the newest of them. This is also how a group is recognised, by whoever looks at the manifest
//! alone: whatever is above a run and not newer than it belongs into it. A crash in the middle of a
//! group is like one at any other bar.
//!
//! It changes only at a bar's end, by the whole bar's [`Change`]s in a fixed order, and never while
//! a job runs: jobs and readers hold the tables they need by reference count. Each change also goes
//! to the manifest log, whose checkpointed form is what an open starts from.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::entry::Level as LevelNumber;
use crate::level::Level;
use crate::sample::Census;
use crate::table::TableInfo;

/// What a job did to its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Insert(LevelNumber, Rc<TableInfo>),
    Remove(LevelNumber, Rc<TableInfo>),
    /// From a level to another, as it is; it becomes part of the run with this number.
    Move {
        from: LevelNumber,
        to: LevelNumber,
        run: u64,
        table: Rc<TableInfo>,
    },
}

/// A sorted run of a level above the last.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) level: LevelNumber,
    pub(crate) tables: Level,
}

/// Runs that are on their way to a level together.
#[derive(Clone, Debug)]
pub(crate) struct Group<'m> {
    /// Newest first.
    pub(crate) runs: Vec<&'m Run>,
    /// Where they go, and the number of the run that they become there.
    pub(crate) level: LevelNumber,
    pub(crate) number: u64,
}

impl Group<'_> {
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.tables.blocks()).sum()
    }
}

/// The live tables of one tree.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// All but the last level, newest first; of two with one number the shallower first.
    runs: Vec<Run>,
    last: Level,
    last_number: LevelNumber,
    /// How many tables of the last level came from which run.
    last_runs: BTreeMap<u64, usize>,
    census: Census,
}

impl Manifest {
    pub(crate) fn new(levels: u8) -> Manifest {
        assert!(levels >= 2, "level 0 overlaps itself, so there is a level below it");
        Manifest {
            runs: Vec::new(),
            last: Level::default(),
            last_number: LevelNumber(levels - 1),
            last_runs: BTreeMap::new(),
            census: Census::default(),
        }
    }

    /// Makes a change; gives the table that is now live, if one is.
    pub(crate) fn apply(&mut self, change: &Change) -> Option<(LevelNumber, Rc<TableInfo>)> {
        match change {
            Change::Insert(level, table) => {
                self.insert(*level, Rc::clone(table));
                Some((*level, Rc::clone(table)))
            }
            Change::Remove(level, table) => {
                self.remove(*level, table);
                None
            }
            Change::Move { from, to, run, table } => {
                self.remove(*from, table);
                let moved = Rc::new(TableInfo { run: *run, ..(**table).clone() });
                self.insert(*to, Rc::clone(&moved));
                Some((*to, moved))
            }
        }
    }

    fn remove(&mut self, level: LevelNumber, table: &TableInfo) {
        self.census.remove(table);
        if level == self.last_number {
            self.last.remove(table);
            let count = self.last_runs.get_mut(&table.run).expect("a live table's run is counted");
            *count -= 1;
            if *count == 0 {
                self.last_runs.remove(&table.run);
            }
            return;
        }
        let at = self.place(level, table.run).expect("a table that is removed is in its run");
        self.runs[at].tables.remove(table);
        if self.runs[at].tables.is_empty() {
            self.runs.remove(at);
        }
    }

    pub(crate) fn insert(&mut self, level: LevelNumber, table: Rc<TableInfo>) {
        self.census.insert(&table);
        if level == self.last_number {
            *self.last_runs.entry(table.run).or_default() += 1;
            return self.last.insert(table);
        }
        let at = self.place(level, table.run).unwrap_or_else(|at| {
            let (number, tables) = (table.run, Level::default());
            self.runs.insert(at, Run { number, level, tables });
            at
        });
        self.runs[at].tables.insert(table);
    }

    /// Whether a table that was read can be inserted.
    pub(crate) fn fits(&self, level: LevelNumber, table: &TableInfo) -> bool {
        let run = match level.cmp(&self.last_number) {
            Ordering::Greater => return false,
            Ordering::Equal => Some(&self.last),
            Ordering::Less => {
                let at = self.place(level, table.run);
                at.ok().map(|at| &self.runs[at].tables)
            }
        };
        run.is_none_or(|run| run.place(table).is_some())
    }

    fn place(&self, level: LevelNumber, number: u64) -> Result<usize, usize> {
        let at = (Reverse(number), level);
        self.runs.binary_search_by(|run| (Reverse(run.number), run.level).cmp(&at))
    }

    /// The runs above the last level, newest first.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs of a level above the last, newest first.
    pub(crate) fn runs_of(&self, level: LevelNumber) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.level == level)
    }

    /// The last level.
    pub(crate) fn last(&self) -> &Level {
        &self.last
    }

    /// The last level's number.
    pub(crate) fn last_number(&self) -> LevelNumber {
        self.last_number
    }

    /// The newest run that part of the last level came from.
    pub(crate) fn last_run(&self) -> u64 {
        self.last_runs.last_key_value().map_or(0, |(run, _)| *run)
    }

    /// How much of what is stored is dead.
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// Every sorted run from the newest to the oldest: the order in which a reader asks.
    pub(crate) fn sorted_runs(&self) -> impl Iterator<Item = (LevelNumber, &Level)> {
        let runs = self.runs.iter().map(|run| (run.level, &run.tables));
        let last = std::iter::once((self.last_number, &self.last));
        runs.chain(last.filter(|(_, level)| !level.is_empty()))
    }

    /// Every live table with its level.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (LevelNumber, &Rc<TableInfo>)> {
        self.sorted_runs().flat_map(|(n, level)| level.tables().iter().map(move |table| (n, table)))
    }

    /// Blocks of all levels but the last.
    pub(crate) fn upper_blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.tables.blocks()).sum()
    }

    /// The groups on their way, oldest first: see the module.
    pub(crate) fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = Vec::new();
        let mut rest = &self.runs[..];
        for level in (1..=self.last_number.0).rev().map(LevelNumber) {
            let number = match level == self.last_number {
                true => self.last_run(),
                false => match rest.iter().find(|run| run.level == level) {
                    Some(newest) => newest.number,
                    None => continue,
                },
            };
            let (newer, older) = rest.split_at(rest.partition_point(|run| run.number > number));
            let runs: Vec<&Run> = older.iter().filter(|run| run.level < level).collect();
            if !runs.is_empty() {
                groups.push(Group { runs, level, number });
                rest = newer;
            } else if level == self.last_number {
                rest = newer;
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn table(address: u64, run: u64, min: u8, max: u8) -> Rc<TableInfo> {
        Rc::new(TableInfo { run, ..testing::table(address, &[min], &[max]) })
    }

    #[test]
    fn runs_are_newest_first_whatever_their_level_and_vanish_with_their_last_table() {
        let mut manifest = Manifest::new(4);
        let (old, new) = (table(1, 5, 0, 200), table(2, 9, 0, 10));
        let (new_2, middle) = (table(3, 9, 20, 30), table(4, 7, 0, 9));
        manifest.insert(LevelNumber(0), Rc::clone(&new_2));
        manifest.insert(LevelNumber(0), Rc::clone(&old));
        manifest.insert(LevelNumber(1), Rc::clone(&middle));
        manifest.insert(LevelNumber(0), Rc::clone(&new));
        let order: Vec<u64> = manifest.runs().iter().map(|run| run.number).collect();
        assert_eq!(order, [9, 7, 5]);
        manifest.apply(&Change::Remove(LevelNumber(0), new));
        manifest.apply(&Change::Remove(LevelNumber(0), new_2));
        assert_eq!(manifest.runs().len(), 2);
        assert_eq!(manifest.upper_blocks(), 4);
    }

    #[test]
    fn a_group_is_recognised_by_the_run_it_becomes() {
        let mut manifest = Manifest::new(4);
        for (address, run) in [(1, 30), (2, 20), (3, 10)] {
            manifest.insert(LevelNumber(0), table(address, run, 50, 200));
        }
        assert!(manifest.groups().is_empty(), "nothing was begun");
        // The lower keys of runs 10 and 20 have become part of run 20 in level 1.
        manifest.insert(LevelNumber(1), table(4, 20, 0, 49));
        let groups = manifest.groups();
        assert_eq!((groups.len(), groups[0].level, groups[0].number), (1, LevelNumber(1), 20));
        let numbers: Vec<u64> = groups[0].runs.iter().map(|run| run.number).collect();
        assert_eq!(numbers, [20, 10]);
    }

    #[test]
    fn a_table_that_moves_becomes_part_of_the_run_it_moves_to() {
        let mut manifest = Manifest::new(3);
        let moving = table(1, 10, 0, 9);
        manifest.insert(LevelNumber(0), Rc::clone(&moving));
        let (from, to) = (LevelNumber(0), LevelNumber(2));
        let moved = manifest.apply(&Change::Move { from, to, run: 30, table: moving });
        assert_eq!(moved.unwrap().1.run, 30);
        assert_eq!((manifest.runs().len(), manifest.last_run()), (0, 30));
    }
}
