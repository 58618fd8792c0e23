//! Walking ahead of the applier, so that memory is there when an operation comes to it.
//!
//! Applying a small write is little work and several waits for memory, each for an address that the
//! one before gave: the slot of a hash index, then the key's record. A prepare holds many
//! operations on keys that have nothing to do with each other, so their waits can run side by side:
//!
//! ```text
//!   operation   n            n + NEAR               n + FAR
//!               applied      record asked for       slot asked for
//! ```
//!
//! It costs reading and hashing each key once more. These are hints and nothing else: a key that an
//! operation in between moves away (a FLUSHALL gives all keys other names) is looked up as if
//! nobody had walked ahead. A prepare that goes on after a stop is not walked ahead of: what it
//! waited for was the disk.

use lsm::forest::Foreseen;
use wire::request::Operations;
use wire::{OperationView, Requests};

use super::Shards;

/// How many operations ahead of its own a slot is asked for: longer than a wait for memory, and few
/// enough that what was asked for is still in the first cache.
const FAR: usize = 16;

/// The same for records, whose slots have to be there.
const NEAR: usize = 8;

/// One walk along a prepare's operations.
pub(super) struct Ahead<'a> {
    requests: Requests<'a>,
    operations: Option<Operations<'a>>,
    /// By number of the operation: where its key was foreseen, if it is one of this core's.
    foreseen: [Option<(usize, Foreseen)>; FAR],
    /// Operations whose slots were asked for.
    asked: usize,
    /// Operations that were applied.
    applied: usize,
}

impl<'a> Ahead<'a> {
    /// A walk along all operations of a prepare, none of which is applied yet.
    pub(super) fn new(requests: Requests<'a>) -> Ahead<'a> {
        Ahead { requests, operations: None, foreseen: [None; FAR], asked: 0, applied: 0 }
    }

    /// The next operation is about to be applied.
    #[inline]
    pub(super) fn step(&mut self, shards: &Shards, key: &mut Vec<u8>) {
        while self.asked < self.applied + FAR
            && let Some(operation) = self.next()
        {
            self.foreseen[self.asked % FAR] = foresee(&operation, shards, key);
            self.asked += 1;
        }
        let near = self.applied + NEAR;
        if near < self.asked
            && let Some((index, foreseen)) = self.foreseen[near % FAR]
        {
            shards.at(index).forest().prefetch_key(foreseen);
        }
        self.applied += 1;
    }

    fn next(&mut self) -> Option<OperationView<'a>> {
        loop {
            if let Some(operation) = self.operations.as_mut().and_then(Iterator::next) {
                return Some(operation);
            }
            self.operations = Some(self.requests.next()?.operations());
        }
    }
}

fn foresee(
    operation: &OperationView<'_>,
    shards: &Shards,
    key: &mut Vec<u8>,
) -> Option<(usize, Foreseen)> {
    if !operation.opcode.has_key() {
        return None;
    }
    let index = shards.index(operation.slot)?;
    let shard = shards.at(index);
    shard.encode_key(operation.table, operation.key, key);
    Some((index, shard.forest().prefetch_slot(key)))
}
