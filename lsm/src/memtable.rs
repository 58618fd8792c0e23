//! The memtable: a bar's writes of one tree, in memory, ordered and searchable by hash.
//!
//! ```text
//! hash index ──┐
//!              ├─► key record ─► newest version ─► older ─► …      all in one arena
//! B+tree ──────┘
//! ```
//!
//! A point read or an overwrite goes through the hash index: one slot, the key, its newest version.
//! The tree is touched only when a key appears for the first time, and to walk in order: scans and
//! the flush. Both lead to the same records, so a value is stored once and handed out as a slice.
//!
//! A tree has two memtables. During a bar the *mutable* one takes writes while the *immutable* one,
//! the bar before, is flushed into level 0 by the beats; at the bar's end they swap, and what was
//! flushed is reset: an arena is reused for ever, never reallocated.
//!
//! Invariants:
//!
//! 1. Every version is kept until the bar ends: dropping superseded ones is the flush's work, when
//!    the horizon is known. They count in full, so a key overwritten a million times fills the bar
//!    like a million keys do, and the bar ends.
//! 2. `bytes()` is a function of the entries put, of nothing else: bars end because of it, on every
//!    replica at the same op. It is an upper bound of the arena used (asserted on every put).
//! 3. Versions of one key only grow; a reader asks for the newest one up to its snapshot, which
//!    later writes cannot change.
//! 4. No allocation after start. Memory is touched as entries arrive, so an idle shard stays small;
//!    it is mapped so that the kernel can back it with huge pages, as look-ups go all over it.

mod arena;
mod hash;
mod ordered;
mod record;

use self::arena::{Arena, NULL, Offset};
use self::hash::HashIndex;
use self::ordered::{Ordered, Position};
use crate::entry::EntryRef;
use crate::filter;

/// What an entry is accounted for beside its key and payload: its records, its share of the tree.
pub const ENTRY_OVERHEAD: usize = record::BYTES_PER_ENTRY + ordered::BYTES_PER_KEY;

/// Bytes of an arena that entries cannot use: its null offset, the tree's right edge.
const ARENA_FIXED: usize = 64 + ordered::BYTES_FIXED;

/// Keys between one that is walked and one whose newest version is asked for.
const WALK_AHEAD: u32 = 4;

/// Bytes of a key that are asked for with its record.
const WALK_KEY: usize = 48;

/// One bar's writes of one tree; see the module.
pub struct Memtable {
    arena: Arena,
    hash: HashIndex,
    ordered: Ordered,
    bytes: usize,
    bytes_max: usize,
    entries: usize,
}

impl Memtable {
    /// A memtable whose entries may account for `bytes_max` bytes; see [`Memtable::entry_bytes`].
    #[must_use]
    pub fn new(bytes_max: usize) -> Memtable {
        Memtable {
            arena: Arena::new(bytes_max + ARENA_FIXED),
            hash: HashIndex::new(bytes_max / ENTRY_OVERHEAD + 1),
            ordered: Ordered::new(),
            bytes: 0,
            bytes_max,
            entries: 0,
        }
    }

    /// What an entry of this key and payload length is accounted for.
    #[must_use]
    pub const fn entry_bytes(key_len: usize, payload_len: usize) -> usize {
        key_len + payload_len + ENTRY_OVERHEAD
    }

    /// Adds a version. The key's earlier versions are older: `entry.version` is above them. `hash`
    /// is [`filter::hash`] of the key. Says whether the key had no version here before.
    ///
    /// # Panics
    ///
    /// When the memtable is full: the bar should have ended, with room to spare.
    pub fn put_hashed(&mut self, hash: u64, entry: &EntryRef<'_>) -> bool {
        let size = Memtable::entry_bytes(entry.key.len(), entry.payload.stored_len());
        assert!(
            self.bytes + size <= self.bytes_max,
            "memtable full: {} bytes and {size} more of {}; the bar should have ended",
            self.bytes,
            self.bytes_max
        );
        let known = self.find(hash, entry.key);
        match known {
            Some(key) => record::push_version(&mut self.arena, key, entry),
            None => {
                let key = record::new_key(&mut self.arena, entry.key);
                record::push_version(&mut self.arena, key, entry);
                self.ordered.insert(&mut self.arena, key);
                self.hash.insert(hash, key);
            }
        }
        self.bytes += size;
        self.entries += 1;
        assert!(self.arena.used() <= self.bytes + ARENA_FIXED, "an entry took more than accounted");
        known.is_none()
    }

    /// As [`Memtable::put_hashed`], for callers that have no hash.
    pub fn put(&mut self, entry: &EntryRef<'_>) {
        self.put_hashed(filter::hash(entry.key), entry);
    }

    /// The newest version of a key that is not above `version_max`; it may be a tombstone.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8], version_max: u64) -> Option<EntryRef<'_>> {
        self.get_hashed(filter::hash(key), key, version_max)
    }

    /// The same, for callers that have [`filter::hash`] of the key already.
    #[inline]
    #[must_use]
    pub fn get_hashed(&self, hash: u64, key: &[u8], version_max: u64) -> Option<EntryRef<'_>> {
        if self.entries == 0 {
            return None;
        }
        let key = self.find(hash, key)?;
        self.entry_at(key, record::newest_at(&self.arena, key, version_max))
    }

    /// Asks the processor for what a look-up of this hash reads first. [`Memtable::prefetch_key`]
    /// is next, a few look-ups later.
    #[inline]
    pub fn prefetch_slot(&self, hash: u64) {
        self.hash.prefetch(hash);
    }

    /// Asks for the record of the key with this hash, if there seems to be one.
    #[inline]
    pub fn prefetch_key(&self, hash: u64, key_len: usize) {
        if let Some(record) = self.hash.find(hash, |_| true) {
            record::prefetch_key(&self.arena, record, key_len);
        }
    }

    /// Asks for what a walk by [`Memtable::next_key`] will soon come to.
    #[inline]
    pub fn prefetch_walk(&self, cursor: Cursor) {
        let far = ordered::record_ahead(&self.arena, cursor.position, 2 * WALK_AHEAD);
        if far != NULL {
            record::prefetch_key(&self.arena, far, WALK_KEY);
        }
        let near = ordered::record_ahead(&self.arena, cursor.position, WALK_AHEAD);
        if near != NULL {
            record::prefetch_newest(&self.arena, near);
        }
    }

    /// Walks all versions of all keys from the first key not less than `key`.
    #[must_use]
    pub fn range_from(&self, key: &[u8]) -> Cursor {
        self.cursor(self.ordered.seek(&self.arena, key))
    }

    /// Walks all versions of all keys.
    #[must_use]
    pub fn start(&self) -> Cursor {
        self.cursor(self.ordered.first())
    }

    /// The entry under a cursor; none at the end.
    #[inline]
    #[must_use]
    pub fn entry(&self, cursor: Cursor) -> Option<EntryRef<'_>> {
        let key = ordered::record_at(&self.arena, cursor.position)?;
        self.entry_at(key, cursor.version)
    }

    /// The cursor behind this entry: an older version of the key, or the next key's newest.
    #[must_use]
    pub fn next(&self, cursor: Cursor) -> Cursor {
        assert!(cursor.version != NULL, "there is nothing behind the end");
        match record::older(&self.arena, cursor.version) {
            NULL => self.next_key(cursor),
            version => Cursor { version, ..cursor },
        }
    }

    /// The cursor at the next key's newest version.
    #[must_use]
    pub fn next_key(&self, cursor: Cursor) -> Cursor {
        self.cursor(ordered::next(&self.arena, cursor.position))
    }

    /// The cursor at the newest version of the last key before `key`; none: of the last key.
    #[must_use]
    pub fn last_before(&self, key: Option<&[u8]>) -> Cursor {
        self.cursor(self.ordered.last_before(&self.arena, key))
    }

    /// The cursor at the previous key's newest version.
    #[must_use]
    pub fn previous_key(&self, cursor: Cursor) -> Cursor {
        self.cursor(self.ordered.previous(&self.arena, cursor.position))
    }

    /// The cursor at the newest version up to `version_max` of the same key, if there is one.
    #[inline]
    #[must_use]
    pub fn at_snapshot(&self, cursor: Cursor, version_max: u64) -> Option<Cursor> {
        let key = ordered::record_at(&self.arena, cursor.position)?;
        let version = record::newest_at(&self.arena, key, version_max);
        (version != NULL).then_some(Cursor { version, ..cursor })
    }

    /// Forgets all entries; the memory stays.
    pub fn reset(&mut self) {
        self.arena.reset();
        self.hash.reset();
        self.ordered = Ordered::new();
        self.bytes = 0;
        self.entries = 0;
    }

    /// Bytes accounted for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that may be accounted for.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Keys held.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.hash.len()
    }

    /// Versions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing was put since the reset.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<Offset> {
        self.hash.find(hash, |record| record::key(&self.arena, record) == key)
    }

    fn cursor(&self, position: Position) -> Cursor {
        let version = match ordered::record_at(&self.arena, position) {
            Some(key) => record::newest(&self.arena, key),
            None => NULL,
        };
        Cursor { position, version }
    }

    #[inline]
    fn entry_at(&self, key: Offset, version: Offset) -> Option<EntryRef<'_>> {
        (version != NULL).then(|| record::entry(&self.arena, key, version))
    }
}

/// A place in a memtable's order. It borrows nothing, so a job can keep it; it is valid until the
/// next put or reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    position: Position,
    version: Offset,
}

#[cfg(test)]
mod tests;
