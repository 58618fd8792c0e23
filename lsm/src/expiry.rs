//! Keys of the expiry tree: the deadline, big-endian, then the object's encoded key.
//!
//! Walking the tree from its start meets deadlines in the order in which they pass. An entry says
//! only "this object had this deadline once": overwriting an object does not look for its old
//! deadline, so a pulse that finds a due entry compares it with the object before deleting that.
//! Either way the due entry itself is deleted.

/// Bytes in front of the object's key.
const DEADLINE_SIZE: usize = 8;

/// Replaces `out` with the expiry tree's key for an object.
pub(crate) fn encode_into(out: &mut Vec<u8>, deadline: u64, object_key: &[u8]) {
    out.clear();
    out.extend_from_slice(&deadline.to_be_bytes());
    out.extend_from_slice(object_key);
}

/// Takes an expiry tree's key apart: deadline and the object's key.
#[must_use]
pub fn decode(key: &[u8]) -> Option<(u64, &[u8])> {
    let (deadline, object_key) = key.split_first_chunk::<DEADLINE_SIZE>()?;
    Some((u64::from_be_bytes(*deadline), object_key))
}

/// An object whose deadline may have passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The deadline it was given.
    pub deadline: u64,
    /// Its encoded key.
    pub key: Vec<u8>,
}
