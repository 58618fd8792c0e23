//! What a tree stores: entries, their order, and the payloads they carry.
//!
//! An entry is an encoded key (see [`crate::key`]), a version, an optional deadline and a payload.
//! Entries are ordered by key ascending, then by version *descending*: the newest version of a key
//! comes first, so "the newest version not after V" is one seek. The version is not part of the key
//! bytes: filters and prefix compression see the same key for all its versions.
//!
//! A deadline stands beside the value, so changing a time to live does not rewrite a large value.
//! Zero means "none". Whether a deadline has passed is decided by the reader, never here.
//!
//! An [`EntryRef`] borrows everything: from a page in the cache, from a memtable's arena, from a
//! merge's cursor. It is `Copy` and building one allocates nothing.

use std::cmp::Ordering;

use crate::overflow::OverflowReference;

/// A deadline that never passes.
pub const DEADLINE_NONE: u64 = 0;

/// Which tree of a shard's forest: part of every block's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u8);

/// A level of a tree: 0 is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

impl std::fmt::Display for TreeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an entry says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The key was deleted at this version.
    Tombstone,
    /// The value itself.
    Inline(&'a [u8]),
    /// The value stands in blocks of its own.
    Overflow(OverflowReference<'a>),
}

impl Payload<'_> {
    /// Whether this marks a deletion.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        matches!(self, Payload::Tombstone)
    }

    /// Bytes this payload takes inside a page, framing excluded.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        match self {
            Payload::Tombstone => 0,
            Payload::Inline(value) => value.len(),
            Payload::Overflow(reference) => reference.as_bytes().len(),
        }
    }

    /// Length of the value a reader gets: an overflowing value counts in full.
    #[must_use]
    pub fn value_len(&self) -> u64 {
        match self {
            Payload::Tombstone => 0,
            Payload::Inline(value) => value.len() as u64,
            Payload::Overflow(reference) => u64::from(reference.value_len()),
        }
    }
}

/// One version of one key, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Encoded key, without the version.
    pub key: &'a [u8],
    /// Nanoseconds, strictly increasing over the cluster.
    pub version: u64,
    /// Nanoseconds since the epoch, or [`DEADLINE_NONE`].
    pub deadline: u64,
    /// Value, reference to it, or tombstone.
    pub payload: Payload<'a>,
}

impl EntryRef<'_> {
    /// Place of this entry in the order of a tree.
    #[must_use]
    pub fn position(&self) -> Position<'_> {
        Position { key: self.key, version: self.version }
    }
}

/// A place in the order of a tree: key ascending, then version descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    /// Encoded key.
    pub key: &'a [u8],
    /// Version; larger ones come first.
    pub version: u64,
}

impl Ord for Position<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(other.key).then_with(|| other.version.cmp(&self.version))
    }
}

impl PartialOrd for Position<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_of_a_key_come_first() {
        let mut positions = [
            Position { key: b"b", version: 9 },
            Position { key: b"a", version: 1 },
            Position { key: b"a", version: 7 },
            Position { key: b"ab", version: 5 },
        ];
        positions.sort();
        let order: Vec<(&[u8], u64)> = positions.iter().map(|p| (p.key, p.version)).collect();
        assert_eq!(order, [(&b"a"[..], 7), (b"a", 1), (b"ab", 5), (b"b", 9)]);
    }
}
