//! Requests that this replica took and that no commit will answer: whoever waits is to be told.
//!
//! | where it was | what is known | what to tell who waits |
//! | --- | --- | --- |
//! | in the open prepare when the view was left | it never happens | to try again, elsewhere |
//! | at an op that a newer view's log gives up | nothing: see below | that it is unknown |
//!
//! An op that the newer log does not have was committed nowhere when that log was chosen. But until
//! a quorum has that log, both of those who chose and those who took it over may be lost, and the
//! log of the view before may be chosen again, with the op in it. So its outcome is unknown, as it
//! would be if the process had died.
//!
//! Each request that was taken is answered once in a life of the process: by the commit of its op,
//! or here. Until its op is decided it is neither; that may take as long as the cluster is without
//! a primary.

use std::collections::VecDeque;

use wire::{ClientTag, Requests};

use super::Replica;

/// A request that no commit will answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Its tag.
    pub tag: ClientTag,
    /// The request, as it was taken.
    pub request: Box<[u8]>,
    /// Whether it had an op: then it may happen all the same. Otherwise it certainly never does.
    pub may_happen: bool,
}

/// Those that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Drops(VecDeque<Dropped>);

impl Drops {
    pub(super) fn add(&mut self, requests: Requests<'_>, may_happen: bool) {
        self.0.extend(requests.map(|request| Dropped {
            tag: request.tag(),
            request: request.bytes().into(),
            may_happen,
        }));
    }
}

impl Replica {
    /// The next request to be answered without a commit. To be asked after each turn: a view that
    /// is left drops all that waited for an op.
    pub fn next_dropped(&mut self) -> Option<Dropped> {
        self.log.drops.0.pop_front()
    }

    /// Drops the open prepare.
    pub(super) fn drop_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.log.drops.add(batch.requests(), false);
        }
    }
}
