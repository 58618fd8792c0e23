//! A sample of keys: how much of what a tree stores is dead, without looking.
//!
//! A key overwritten or deleted leaves its older versions behind, further down, until a merge meets
//! both. How many such there are decides when merging is worth its writes: a tree filled with new
//! keys gains nothing by it, one that is overwritten may hold several times what lives. Counting
//! would need every key; a sample of them will do, if all tables choose alike:
//!
//! 1. A key is in the sample if the low bits of its hash are zero ([`mark`]): whatever table it
//!    stands in, it is chosen there too. One key in a thousand is, at the standard block size.
//! 2. A table keeps the marks of its sampled keys, per value block, so that a block which moves to
//!    another table takes its marks with it; the manifest keeps them per table.
//! 3. The [`Census`] of a tree counts how many tables hold each mark. A mark held by several stands
//!    for keys that are stored several times: all but one of these are dead.
//!
//! The error of a share p from n marks is √(p(1−p)/n): a percent or so for a million keys. Fewer
//! than [`MARKS_MIN`] marks say nothing, and everything that could be dead counts as dead then.
//!
//! The sample is a function of the keys, so the census is one of the log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use crate::config::Config;
use crate::table::TableInfo;

/// Marks below which a census says nothing.
pub(crate) const MARKS_MIN: u64 = 64;

/// Keys per mark: 1024 for blocks of 256 KiB, fewer where blocks and tables are smaller.
fn keys_per_mark(config: &Config) -> u64 {
    u64::from(config.block_size) / 256
}

/// Marks of a table at most: a sample must not be what fills an index block or a manifest's record,
/// whatever keys someone chooses.
pub(crate) fn marks_max(config: &Config) -> usize {
    config.block_size as usize / 64
}

/// What stands for a key of this hash in a sample; none if the key is not in it.
#[inline]
pub(crate) fn mark(config: &Config, hash: u64) -> Option<u32> {
    (hash & (keys_per_mark(config) - 1) == 0).then_some((hash >> 32) as u32)
}

/// The marks of all live tables of a tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    tables: HashMap<u32, u32, BuildHasherDefault<MarkHasher>>,
    marks: u64,
    tombstones: u64,
    entries: u64,
    value_bytes: u64,
}

/// A mark is part of a hash already: it is spread over all bits, and that is enough.
#[derive(Default)]
struct MarkHasher(u64);

impl Hasher for MarkHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, mark: u32) {
        // The odd number next to 2^64 over the golden ratio (Knuth, volume 3, 6.4).
        self.0 = (self.0 ^ u64::from(mark)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What an entry takes beside key and value, about; a tombstone, with its key.
const FRAMING: u64 = 16;
const TOMBSTONE: u64 = 32;

impl Census {
    pub(crate) fn insert(&mut self, table: &TableInfo) {
        for mark in &table.sample {
            *self.tables.entry(*mark).or_default() += 1;
        }
        self.marks += table.sample.len() as u64;
        self.tombstones += table.tombstones;
        self.entries += table.entries;
        self.value_bytes += table.value_bytes;
    }

    pub(crate) fn remove(&mut self, table: &TableInfo) {
        for mark in &table.sample {
            let Entry::Occupied(mut count) = self.tables.entry(*mark) else {
                unreachable!("a live table's marks are counted");
            };
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.marks -= table.sample.len() as u64;
        self.tombstones -= table.tombstones;
        self.entries -= table.entries;
        self.value_bytes -= table.value_bytes;
    }

    /// Entries of all tables.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of their keys and values.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    /// The share of what is stored that is dead, in percent; none if the sample is too small to
    /// say.
    pub(crate) fn dead_percent(&self) -> Option<u64> {
        let twice = self.marks - self.tables.len() as u64;
        let marks = (self.marks >= MARKS_MIN).then_some(self.marks)?;
        let bytes = self.value_bytes + self.entries * FRAMING;
        let tombstones = (self.tombstones * TOMBSTONE * 100).checked_div(bytes).unwrap_or(0);
        Some((twice * 100 / marks + tombstones).min(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn table(keys: std::ops::Range<u64>) -> TableInfo {
        let config = Config::test_min();
        let hashes = keys.map(|key| crate::filter::hash(&key.to_be_bytes()));
        let sample = hashes.filter_map(|hash| mark(&config, hash)).collect();
        TableInfo { sample, ..testing::table(1, b"a", b"b") }
    }

    #[test]
    fn the_share_of_dead_entries_is_near_the_truth() {
        let mut census = Census::default();
        assert_eq!(census.dead_percent(), None);
        census.insert(&table(0..20_000));
        assert_eq!(census.dead_percent(), Some(0));
        // A quarter of all entries is there twice.
        census.insert(&table(10_000..20_000));
        census.insert(&table(30_000..40_000));
        let share = census.dead_percent().unwrap();
        assert!((22..=28).contains(&share), "{share} %");
        census.remove(&table(10_000..20_000));
        assert_eq!(census.dead_percent(), Some(0));
    }
}
