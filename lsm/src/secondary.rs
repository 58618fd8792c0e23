//! Keys of the tree of indexes: which index, the object's key there, then the object's own key.
//!
//! ```text
//! offset  size  field
//! 0       4     table, big-endian
//! 4       4     generation, big-endian
//! 8       1     index of the table
//! 9       n     secondary key, escaped: 00 becomes 00 FF
//! 9+n     2     terminator 00 01
//! 11+n    m     the object's encoded key behind table and generation
//! ```
//!
//! It is the encoding of stored keys ([`crate::key`]) with the index for a kind, the secondary key
//! for a user's key and the object for a sub-key. So objects of one secondary key stand together,
//! in the order of their keys; a range of secondary keys is a range of [`key::encode`]; and entries
//! of a dead generation lie side by side and go as objects do, table by table. An entry has neither
//! value nor deadline: who finds one looks the object up.
//!
//! **In step.** Entries are changed with the object, by the same op and with the same version
//! ([`crate::forest::Forest::reindex`]): a reader of any snapshot finds exactly the entries of the
//! objects of that snapshot. Unlike the tree of deadlines nothing stale is left to be found out
//! later. For that the owner has to know where the object stood before; it has the old value at
//! hand, since what to do with an object whose entries change is computed from it anyway.

use crate::key::{self, Prefix};

/// Bytes of an object's key that an entry does not repeat: table and generation.
const SHARED_SIZE: usize = 8;

/// Where an object stands in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<'a> {
    /// Which index of the object's table.
    pub index: u8,
    /// The object's key there.
    pub key: &'a [u8],
}

/// Bytes of an entry's key, for a secondary key without zero bytes, each of which takes one more.
#[must_use]
pub fn encoded_len(secondary_len: usize, object_key_len: usize) -> usize {
    key::PREFIX_SIZE + secondary_len + 2 + object_key_len - SHARED_SIZE
}

/// Replaces `out` with the key of an object's entry.
///
/// # Panics
/// If the object's key is shorter than a prefix.
pub fn encode_into(out: &mut Vec<u8>, object_key: &[u8], place: Place<'_>) {
    let prefix = Prefix::of(object_key).expect("an object's key begins with a prefix");
    out.clear();
    let (prefix, own) = (Prefix { kind: place.index, ..prefix }, &object_key[SHARED_SIZE..]);
    key::encode_into(out, prefix, place.key, own);
}

/// Replaces `out` with the key of the object that an entry is of; false if it is no entry's key.
#[must_use]
pub fn object_key_into(out: &mut Vec<u8>, entry_key: &[u8]) -> bool {
    out.clear();
    let Ok(decoded) = key::decode(entry_key) else { return false };
    out.extend_from_slice(&entry_key[..SHARED_SIZE]);
    out.extend_from_slice(decoded.sub_key);
    out.len() >= key::PREFIX_SIZE
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0u8), Just(1), Just(0xFF), any::<u8>()], 0..5)
    }

    proptest! {
        /// Entries are ordered by table, generation, index, secondary key and object, and lead back
        /// to the object.
        #[test]
        fn the_order_of_entries_is_that_of_what_they_stand_for(
            a in (0u32..3, 0u32..3, 0u8..3, bytes(), 0u8..2, bytes()),
            b in (0u32..3, 0u32..3, 0u8..3, bytes(), 0u8..2, bytes()),
        ) {
            let entry = |of: &(u32, u32, u8, Vec<u8>, u8, Vec<u8>)| {
                let (table, generation, index, ref secondary, kind, ref user) = *of;
                let object = key::encode(Prefix { table, generation, kind }, user, b"");
                let mut entry = Vec::new();
                encode_into(&mut entry, &object, Place { index, key: secondary });
                let zeros = secondary.iter().filter(|byte| **byte == 0).count();
                assert_eq!(entry.len(), encoded_len(secondary.len(), object.len()) + zeros);
                let mut back = Vec::new();
                assert!(object_key_into(&mut back, &entry));
                assert_eq!(back, object);
                entry
            };
            prop_assert_eq!(entry(&a).cmp(&entry(&b)), a.cmp(&b));
        }

        #[test]
        fn garbage_is_no_entry(garbage in vec(any::<u8>(), 0..12)) {
            let _ = object_key_into(&mut Vec::new(), &garbage);
        }
    }
}
