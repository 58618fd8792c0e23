//! Keys of the expiry tree: the deadline, big-endian, then the object's encoded key.
//!
//! Walking the tree from its start meets deadlines in the order in which they pass. An entry says
//! only "this object had this deadline once": overwriting an object does not look for its old
//! deadline, so a pulse that finds a due entry compares it with the object before deleting that.
//! Either way the due entry itself is deleted.

use crate::key::Range;
use crate::scan::{Direction, Loaded, Scan, ScanRead};
use crate::tree::Tree;

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

/// A walk over the deadlines that have passed; see [`crate::forest::Forest::due_step`].
#[derive(Debug)]
pub struct DueScan {
    pub(crate) scan: Scan,
    pub(crate) now: u64,
}

impl DueScan {
    /// Takes what a read that this walk asked for has brought.
    pub fn supply(&mut self, loaded: Loaded) {
        self.scan.supply(loaded);
    }

    pub(crate) fn new(now: u64) -> DueScan {
        let all = Range { lower: Vec::new(), upper: None };
        DueScan { scan: Scan::new(Tree::Expiry, all, Direction::Ascending, u64::MAX), now }
    }
}

/// Why a step of a [`DueScan`] ended.
#[derive(Debug)]
pub enum DueStep {
    /// No other deadline has passed.
    Finished,
    /// There may be more: step again.
    More,
    /// Await this, give the result to the scan, and step again.
    NeedsRead(ScanRead),
}
