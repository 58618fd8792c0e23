//! A sorted run: tables in key order.
//!
//! The tables of a run are disjoint, except that versions of one key may continue in the next
//! table: then the two tables share that key as a bound. What compaction asks of a run is which of
//! its tables meet a range ([`Level::overlap`]): two binary searches, whatever its length. What
//! readers ask, and far more often, is which of them may hold a key ([`Level::find`]): that is
//! answered from [`fences`].
//!
//! A job that needs to know what lies below it keeps a copy of the runs there, as they were when
//! its bar began. A copy shares the list of tables; the list is written only at a bar's end, when
//! no job is left, so nothing is copied then either.

mod fences;

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use crate::table::TableInfo;
use fences::Fences;

/// One sorted run of tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    tables: Rc<Vec<Rc<TableInfo>>>,
    fences: Rc<Fences>,
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

    /// Blocks of all its tables.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Adds a table where its keys belong.
    pub(crate) fn insert(&mut self, table: Rc<TableInfo>) {
        let at = self.place(&table).expect("tables of a level are disjoint, their keys in order");
        self.blocks += table_blocks(&table);
        Rc::make_mut(&mut self.tables).insert(at, table);
        Rc::make_mut(&mut self.fences).insert(&self.tables, at);
    }

    /// Where a table belongs; none if it shares keys with another.
    pub(crate) fn place(&self, table: &TableInfo) -> Option<usize> {
        let at = self.tables.partition_point(|other| order(other) < order(table));
        let (before, behind) = self.tables.split_at(at);
        let fits = table.key_min <= table.key_max
            && before.last().is_none_or(|previous| previous.key_max <= table.key_min)
            && behind.first().is_none_or(|next| table.key_max <= next.key_min);
        fits.then_some(at)
    }

    /// Removes a table, which is there.
    pub(crate) fn remove(&mut self, table: &TableInfo) {
        let range = self.overlap(&table.key_min, &table.key_max);
        let at = self.tables[range.clone()]
            .iter()
            .position(|other| other.index == table.index)
            .expect("a table that is removed is in its level");
        self.blocks -= table_blocks(table);
        Rc::make_mut(&mut self.tables).remove(range.start + at);
        Rc::make_mut(&mut self.fences).remove(range.start + at);
    }

    /// The tables that share keys with `key_min..=key_max`.
    pub(crate) fn overlap(&self, key_min: &[u8], key_max: &[u8]) -> Range<usize> {
        let start = self.tables.partition_point(|table| &table.key_max[..] < key_min);
        let len = self.tables[start..].partition_point(|table| &table.key_min[..] <= key_max);
        start..start + len
    }

    /// The tables that lie within `from..before` whole.
    pub(crate) fn within(&self, from: &[u8], before: &[u8]) -> &[Rc<TableInfo>] {
        let start = self.tables.partition_point(|table| &table.key_min[..] < from);
        let len = self.tables[start..].partition_point(|table| &table.key_max[..] < before);
        &self.tables[start..start + len]
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
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> &[Rc<TableInfo>] {
        &self.tables[self.fences.find(&self.tables, key)]
    }

    /// Whether a table continues the versions of the key with which the one before it ends.
    fn continues(&self, index: usize) -> bool {
        index > 0
            && self
                .tables
                .get(index)
                .is_some_and(|table| table.key_min == self.tables[index - 1].key_max)
    }
}

#[cfg(test)]
mod tests;
