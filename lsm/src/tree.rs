//! One tree of a shard: the memtables of two bars, and below them the levels.
//!
//! A version lives in exactly one of these places, and the places are ordered by age: all versions
//! of a key in the mutable memtable are newer than those in the immutable one, those newer than the
//! ones in level 0, and so on down. So a reader takes the first version at or below its snapshot
//! that it meets on the way down, and need not look further.
//!
//! The immutable memtable is shared with the flush that reads it (a job owns what it reads and
//! borrows nothing from the forest); at the bar's end the flush is done and the tree is its only
//! owner again, which is asserted: a memtable is never reset under a reader.

use std::rc::Rc;

use crate::config::Config;
use crate::entry::{EntryRef, TreeId};
use crate::memtable::Memtable;

/// The trees of a shard's forest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tree {
    /// What users store: encoded key → value.
    Objects = 1,
    /// Deadlines: (deadline, key) → nothing; see [`crate::expiry`].
    Expiry = 2,
    /// Where objects stand in indexes: (table, index, secondary key, object) → nothing; see
    /// [`crate::secondary`].
    Indexes = 3,
}

impl Tree {
    /// All trees, in the order in which everything is done for them.
    pub const ALL: [Tree; 3] = [Tree::Objects, Tree::Expiry, Tree::Indexes];

    /// Number of the tree in blocks and logs.
    #[must_use]
    pub fn id(self) -> TreeId {
        TreeId(self as u8)
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tree::Objects => "objects",
            Tree::Expiry => "expiry",
            Tree::Indexes => "indexes",
        }
    }

    /// The tree of a number.
    #[must_use]
    pub fn from_id(id: TreeId) -> Option<Tree> {
        Tree::ALL.into_iter().find(|tree| tree.id() == id)
    }

    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }
}

/// The values of a memtable that its flush writes into blocks of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Large {
    /// Bytes of the values.
    pub(crate) bytes: u64,
    /// Blocks that they will take.
    pub(crate) blocks: u64,
}

/// The memtables of one tree.
pub(crate) struct Memtables {
    mutable: Memtable,
    immutable: Rc<Memtable>,
    mutable_large: Large,
    immutable_large: Large,
}

impl Memtables {
    pub(crate) fn new(bytes_max: usize) -> Memtables {
        Memtables {
            mutable: Memtable::new(bytes_max),
            immutable: Rc::new(Memtable::new(bytes_max)),
            mutable_large: Large::default(),
            immutable_large: Large::default(),
        }
    }

    pub(crate) fn mutable(&self) -> &Memtable {
        &self.mutable
    }

    pub(crate) fn immutable(&self) -> &Rc<Memtable> {
        &self.immutable
    }

    /// The large values in the mutable memtable.
    pub(crate) fn mutable_large(&self) -> Large {
        self.mutable_large
    }

    /// The large values in the immutable memtable.
    pub(crate) fn immutable_large(&self) -> Large {
        self.immutable_large
    }

    /// Adds a version; says whether the mutable memtable had none of the key before.
    pub(crate) fn put(&mut self, config: &Config, hash: u64, entry: &EntryRef<'_>) -> bool {
        let len = entry.payload.stored_len();
        if len > config.inline_value_size_max() {
            self.mutable_large.blocks += config.overflow_blocks(len) as u64;
            self.mutable_large.bytes += len as u64;
        }
        self.mutable.put_hashed(hash, entry)
    }

    /// The newest version up to `version_max` in either memtable; it may be a tombstone.
    #[inline]
    pub(crate) fn get(&self, hash: u64, key: &[u8], version_max: u64) -> Option<EntryRef<'_>> {
        let found = self.mutable.get_hashed(hash, key, version_max);
        found.or_else(|| self.immutable.get_hashed(hash, key, version_max))
    }

    /// The bar's end: what was immutable is flushed and takes the next bar's writes.
    pub(crate) fn swap(&mut self) {
        let flushed = Rc::get_mut(&mut self.immutable)
            .expect("a flush gives its memtable back before the bar ends");
        flushed.reset();
        std::mem::swap(flushed, &mut self.mutable);
        self.immutable_large = std::mem::take(&mut self.mutable_large);
    }
}
