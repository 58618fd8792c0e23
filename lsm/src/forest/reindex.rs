//! Keeping the tree of indexes in step with the objects: see [`crate::secondary`].

use super::Forest;
use crate::entry::{DEADLINE_NONE, EntryRef, Payload};
use crate::secondary::{self, Place};
use crate::tree::Tree;

impl Forest {
    /// Moves an object's entries from where it stood in indexes before the put or delete just done,
    /// whose version this is, to where it stands now. Places ascend, in both; those that are in
    /// both are left alone. Nothing is read. An op ends before anything else is done, a bar or a
    /// lookup, so object and entries change as one.
    ///
    /// # Panics
    /// If another write came between, if places do not ascend, or if an entry's key is longer than
    /// keys may be ([`secondary::encoded_len`]).
    pub fn reindex(
        &mut self,
        object_key: &[u8],
        version: u64,
        before: &[Place<'_>],
        now: &[Place<'_>],
    ) {
        assert!(version == self.version, "entries of {version} after {}", self.version);
        for places in [before, now] {
            assert!(places.is_sorted_by(|a, b| a < b), "each place once, in order");
        }
        let gone = before.iter().filter(|place| now.binary_search(place).is_err());
        let new = now.iter().filter(|place| before.binary_search(place).is_err());
        let gone = gone.map(|place| (place, Payload::Tombstone));
        let mut key = std::mem::take(&mut self.index_key);
        for (place, payload) in gone.chain(new.map(|place| (place, Payload::Inline(&[])))) {
            secondary::encode_into(&mut key, object_key, *place);
            assert!(key.len() <= self.config.key_size_max as usize, "key of {}", key.len());
            let deadline = DEADLINE_NONE;
            self.write(Tree::Indexes, &EntryRef { key: &key, version, deadline, payload });
        }
        self.index_key = key;
    }
}
