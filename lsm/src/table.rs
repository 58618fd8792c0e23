//! A table: value blocks of pages, and the index block that finds them.
//!
//! ```text
//! value block:  header │ page │ page │ … │ directory: one u32 per page, its offset in the block
//! index block:  header │ see crate::index
//! ```
//!
//! **Building** ([`Builder`]) takes entries in order and fills pages, pages fill value blocks,
//! blocks fill a table. The caller supplies each block's buffer and address when the builder asks
//! for it, so addresses are drawn in the order in which blocks begin, and takes each block's image
//! as it fills: a builder holds one value block, one page, and what the index will say.
//!
//! **Placing pages.** A read covers whole slots of `page_size`. A page that would straddle a slot's
//! edge needlessly begins at the next slot; a page ends when the next entry would push it over its
//! slot, unless three quarters of the slot are not reached yet, in which case it takes one more
//! (up to four). So small entries are read with one slot's read, and larger ones waste at most a
//! quarter. A page that is to be compressed gathers two slots' worth of raw bytes.
//!
//! **Ending a table.** A table is full when it has its value blocks, or when its index block could
//! not take one more page and key: with tiny values the filter and the separators, not the value
//! blocks, decide a table's size. Both are a function of the entries alone.
//!
//! **Determinism.** The bytes of all blocks are a function of configuration, entries, addresses and
//! the op. Unused bytes are zero.

mod builder;
mod cursor;

use ioring::Frozen;

pub use builder::{Builder, Push};
pub use cursor::{BlockCursor, pages};

use crate::block::BlockReference;
use crate::entry::TreeId;

/// What the manifest and the levels hold of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// The tree it belongs to.
    pub tree: TreeId,
    /// Its index block.
    pub index: BlockReference,
    /// Smallest encoded key.
    pub key_min: Box<[u8]>,
    /// Largest encoded key.
    pub key_max: Box<[u8]>,
    /// Smallest version.
    pub version_min: u64,
    /// Largest version.
    pub version_max: u64,
    /// The op that created it.
    pub op: u64,
    /// The sorted run it belongs to: the larger, the newer are its versions of a key. The manifest
    /// alone knows it; in an index block it counts as the op.
    pub run: u64,
    /// Entries, tombstones included.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of keys and values, overflowing ones in full.
    pub value_bytes: u64,
    /// Value blocks.
    pub value_blocks: u32,
    /// Overflow blocks that its entries refer to.
    pub overflow_blocks: u32,
    /// A sample of its distinct keys, by hash: see [`crate::sample`].
    pub sample: Box<[u32]>,
}

impl TableInfo {
    /// Whether this key may be in the table.
    #[must_use]
    pub fn covers(&self, key: &[u8]) -> bool {
        key >= &self.key_min[..] && key <= &self.key_max[..]
    }

    /// Whether the table meets the closed range `first..=last`.
    #[must_use]
    pub fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        first <= &self.key_max[..] && last >= &self.key_min[..]
    }
}

/// A finished block, ready to be written.
#[derive(Clone, Debug)]
pub struct BlockImage {
    /// What will refer to it.
    pub reference: BlockReference,
    /// Its bytes, padded with zeros to whole sectors.
    pub bytes: Frozen,
}

#[cfg(test)]
mod tests;
