//! Levels: which tables of a tree are live, in what order, and which to compact next.
//!
//! Level 0 is a list of *runs*, newest first; a flush adds one, so runs overlap and a reader asks
//! them in turn. All deeper levels are one run each. The tables of a run are in key order and
//! disjoint, except that versions of one key may continue in the next table: then the two tables
//! share that key as a bound and are compacted together.
//!
//! Choosing what to compact is a linear sweep ([`Level::choose`]): of all windows of neighbouring
//! tables that hold the blocks a level has too many, the one whose overlap below is smallest in
//! proportion; of equals, the first. Every input of that choice is part of the manifest, so every
//! replica chooses alike.

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use crate::table::TableInfo;

/// One sorted run of tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    tables: Vec<Rc<TableInfo>>,
    blocks: u64,
}

/// Blocks of a table that compaction reads and writes: its values and its index.
pub(crate) fn table_blocks(table: &TableInfo) -> u64 {
    u64::from(table.value_blocks) + 1
}

/// Place of a table in its level. Where one key's versions fill several tables, newer come first.
fn order(table: &TableInfo) -> (&[u8], &[u8], Reverse<u64>) {
    (&table.key_min, &table.key_max, Reverse(table.version_max))
}

impl Level {
    pub(crate) fn tables(&self) -> &[Rc<TableInfo>] {
        &self.tables
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Adds a table where its keys belong.
    pub(crate) fn insert(&mut self, table: Rc<TableInfo>) {
        assert!(table.key_min <= table.key_max, "a table's keys are in order");
        let at = self.tables.partition_point(|other| order(other) < order(&table));
        if let Some(previous) = at.checked_sub(1).map(|at| &self.tables[at]) {
            assert!(previous.key_max <= table.key_min, "tables of a level are disjoint");
        }
        if let Some(next) = self.tables.get(at) {
            assert!(table.key_max <= next.key_min, "tables of a level are disjoint");
        }
        self.blocks += table_blocks(&table);
        self.tables.insert(at, table);
    }

    /// Removes a table, which is there.
    pub(crate) fn remove(&mut self, table: &TableInfo) {
        let range = self.overlap(&table.key_min, &table.key_max);
        let at = self.tables[range.clone()]
            .iter()
            .position(|other| other.index == table.index)
            .expect("a table that is removed is in its level");
        self.blocks -= table_blocks(table);
        self.tables.remove(range.start + at);
    }

    /// The tables that share keys with `key_min..=key_max`.
    pub(crate) fn overlap(&self, key_min: &[u8], key_max: &[u8]) -> Range<usize> {
        let start = self.tables.partition_point(|table| &table.key_max[..] < key_min);
        let len = self.tables[start..].partition_point(|table| &table.key_min[..] <= key_max);
        start..start + len
    }

    /// As [`Level::overlap`], and with every table also those that continue its bounds' versions: a
    /// merge that drops a tombstone must have seen all that it hides.
    pub(crate) fn overlap_whole(&self, key_min: &[u8], key_max: &[u8]) -> Range<usize> {
        let mut range = self.overlap(key_min, key_max);
        while !range.is_empty() && self.continues(range.start) {
            range.start -= 1;
        }
        while !range.is_empty() && self.continues(range.end) {
            range.end += 1;
        }
        range
    }

    /// The tables that may hold a key, newest versions first; nearly always at most one.
    pub(crate) fn find(&self, key: &[u8]) -> &[Rc<TableInfo>] {
        &self.tables[self.overlap(key, key)]
    }

    /// The window of tables to merge into `below` so that at least `excess` blocks go: see the
    /// module. Tables for which `free` does not hold are left alone, here and below. If no window
    /// is large enough, the largest there is.
    pub(crate) fn choose(
        &self,
        below: &Level,
        excess: u64,
        free: impl Fn(&TableInfo) -> bool,
    ) -> Option<Range<usize>> {
        assert!(excess > 0, "nothing to compact");
        let mut best: Option<Choice> = None;
        for group in self.groups(&free) {
            let mut window = Window { end: group.start, blocks: 0 };
            for start in group.clone() {
                if start > group.start {
                    window.blocks -= table_blocks(&self.tables[start - 1]);
                }
                if start > group.start && self.continues(start) {
                    continue;
                }
                while window.end < group.end
                    && (window.blocks < excess || self.continues(window.end))
                {
                    window.blocks += table_blocks(&self.tables[window.end]);
                    window.end += 1;
                }
                let tables = start..window.end;
                if tables.is_empty() {
                    continue;
                }
                let overlap = below.overlap_whole(
                    &self.tables[start].key_min,
                    &self.tables[tables.end - 1].key_max,
                );
                let overlapped = &below.tables[overlap];
                if !overlapped.iter().all(|table| free(table)) {
                    continue;
                }
                let choice = Choice {
                    blocks: window.blocks,
                    enough: window.blocks >= excess,
                    overlap: overlapped.iter().map(|table| table_blocks(table)).sum(),
                    tables,
                };
                if best.as_ref().is_none_or(|best| choice.better_than(best)) {
                    best = Some(choice);
                }
            }
        }
        best.map(|choice| choice.tables)
    }

    /// Whether a table continues the versions of the key with which the one before it ends.
    fn continues(&self, index: usize) -> bool {
        index > 0
            && self
                .tables
                .get(index)
                .is_some_and(|table| table.key_min == self.tables[index - 1].key_max)
    }

    /// Longest stretches of tables that are free and share no key with tables that are not.
    fn groups(&self, free: &impl Fn(&TableInfo) -> bool) -> Vec<Range<usize>> {
        let mut open = vec![true; self.tables.len()];
        for index in 0..self.tables.len() {
            open[index] = free(&self.tables[index]) && (!self.continues(index) || open[index - 1]);
        }
        for index in (1..self.tables.len()).rev() {
            if self.continues(index) && !open[index] {
                open[index - 1] = false;
            }
        }
        let mut groups = Vec::new();
        let mut start = 0;
        for index in 0..=open.len() {
            if index == open.len() || !open[index] {
                if start < index {
                    groups.push(start..index);
                }
                start = index + 1;
            }
        }
        groups
    }
}

struct Window {
    end: usize,
    blocks: u64,
}

struct Choice {
    tables: Range<usize>,
    blocks: u64,
    enough: bool,
    overlap: u64,
}

impl Choice {
    /// Enough before too little; then the smaller overlap per block moved; too little: the larger.
    fn better_than(&self, other: &Choice) -> bool {
        if self.enough != other.enough {
            return self.enough;
        }
        if !self.enough {
            return self.blocks > other.blocks;
        }
        let own = u128::from(self.overlap) * u128::from(other.blocks);
        own < u128::from(other.overlap) * u128::from(self.blocks)
    }
}

/// Level 0: the runs of flushes, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs {
    /// Each with the op of its flush.
    runs: Vec<(u64, Level)>,
}

impl Runs {
    /// The runs, newest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Level> {
        self.runs.iter().map(|(_, run)| run)
    }

    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.iter().map(Level::blocks).sum()
    }

    /// Adds a table to the run of its op.
    pub(crate) fn insert(&mut self, table: Rc<TableInfo>) {
        let at = self.runs.partition_point(|(op, _)| *op > table.op);
        if self.runs.get(at).is_none_or(|(op, _)| *op != table.op) {
            self.runs.insert(at, (table.op, Level::default()));
        }
        self.runs[at].1.insert(table);
    }

    /// Removes a table, which is there.
    pub(crate) fn remove(&mut self, table: &TableInfo) {
        let at = self
            .runs
            .iter()
            .position(|(op, _)| *op == table.op)
            .expect("a table that is removed is in its run");
        self.runs[at].1.remove(table);
        if self.runs[at].1.is_empty() {
            self.runs.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
