//! What a replica begins with: the log that its journal still has.
//!
//! A node that starts walks its journal from the checkpoint on, gives each prepare to the shards
//! and its header to [`RecoveredLog::replay`], which checks once more, at the place where it
//! matters, what the journal has already decided: that each prepare follows the one before it, in
//! op, parent, view and time. What results is where the log ends and how much of it lies after the
//! checkpoint.
//!
//! Alone, everything in that chain is durable and therefore committed: acknowledged or not, it has
//! been applied, and nobody else can know better. A commit number that some frame or the superblock
//! remembers beyond the end of the chain means that something acknowledged is lost, and is refused
//! ([`RecoveryError::Lost`]) rather than served without.

use std::collections::VecDeque;

use wire::message::Prepare;
use wire::{Checksum, ClusterId, Header, Op, Timestamp, Version, View};

use crate::superblock::VIEW_HEADERS_MAX;

/// The end of a log: what the next prepare continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogHead {
    /// The last op.
    pub op: Op,
    /// Its prepare's checksum.
    pub checksum: Checksum,
    /// Its log time.
    pub timestamp: Timestamp,
    /// The last version that belongs to it.
    pub version_max: Version,
    /// The view that its prepare was made in.
    pub view: View,
}

impl LogHead {
    /// The head of an empty log. Its checksum depends on the cluster, so that the chain of one
    /// cluster cannot be continued by another's prepares.
    #[must_use]
    pub fn root(cluster: ClusterId) -> LogHead {
        let mut root = [0; 32];
        root[..16].copy_from_slice(b"quorate log root");
        root[16..].copy_from_slice(&cluster.0.to_le_bytes());
        LogHead {
            op: Op(0),
            checksum: wire::checksum(&root),
            timestamp: Timestamp(0),
            version_max: Version(0),
            view: View(0),
        }
    }

    /// The head of a log that ends with this prepare.
    ///
    /// # Panics
    /// When it is the header of something else.
    #[must_use]
    pub fn of(header: &Header) -> LogHead {
        let prepare = header.tail::<Prepare>().expect("a log consists of prepares");
        let index_max = prepare.version_count.saturating_sub(1);
        LogHead {
            op: prepare.op,
            checksum: header.checksum(),
            timestamp: prepare.timestamp,
            version_max: prepare.timestamp.version(index_max),
            view: header.view(),
        }
    }
}

/// Why a log cannot be continued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A prepare that is not the next one.
    #[error("op {actual} was found where op {expected} follows")]
    Gap {
        /// The op that follows.
        expected: Op,
        /// The op found.
        actual: Op,
    },
    /// A prepare with another history.
    #[error("op {op} continues {actual}, not {expected}")]
    Parent {
        /// The prepare's op.
        op: Op,
        /// The checksum of the prepare before it.
        expected: Checksum,
        /// The parent it names.
        actual: Checksum,
    },
    /// A prepare that is older than the one before it, in view or in log time.
    #[error("op {op} (view {view}, timestamp {timestamp}) is older than the op before it")]
    Backwards {
        /// The prepare's op.
        op: Op,
        /// Its view.
        view: View,
        /// Its log time.
        timestamp: Timestamp,
    },
    /// Ops that were committed are not there.
    #[error("ops {} to {commit_max} were committed and are not in the journal", head.next())]
    Lost {
        /// The last op there is.
        head: Op,
        /// The highest commit number that is remembered.
        commit_max: Op,
    },
}

/// The log from the checkpoint on, as far as it was replayed.
#[derive(Clone, Debug)]
pub struct RecoveredLog {
    pub(super) checkpoint: Op,
    pub(super) head: LogHead,
    /// Sizes of the messages after the checkpoint, in op order.
    pub(super) sizes: Vec<u32>,
    /// The newest headers, at most as many as a superblock names, in op order.
    pub(super) tail: VecDeque<Header>,
}

impl RecoveredLog {
    /// A log that ends at its checkpoint.
    #[must_use]
    pub fn at_checkpoint(checkpoint: LogHead) -> RecoveredLog {
        let tail = VecDeque::with_capacity(VIEW_HEADERS_MAX);
        RecoveredLog { checkpoint: checkpoint.op, head: checkpoint, sizes: Vec::new(), tail }
    }

    /// Where it ends.
    #[must_use]
    pub fn head(&self) -> LogHead {
        self.head
    }

    /// Adds the next prepare.
    ///
    /// # Errors
    /// [`RecoveryError`] when it does not continue the log; the log is then as before.
    ///
    /// # Panics
    /// When it is not a prepare's header.
    pub fn replay(&mut self, header: &Header) -> Result<(), RecoveryError> {
        let prepare = header.tail::<Prepare>().expect("a log consists of prepares");
        let (op, actual) = (self.head.op.next(), prepare.op);
        if actual != op {
            return Err(RecoveryError::Gap { expected: op, actual });
        }
        if prepare.parent != self.head.checksum {
            let (expected, actual) = (self.head.checksum, prepare.parent);
            return Err(RecoveryError::Parent { op, expected, actual });
        }
        let later = self.head.op == Op(0) || prepare.timestamp.0 > self.head.version_max.0;
        if !later || header.view() < self.head.view {
            let (view, timestamp) = (header.view(), prepare.timestamp);
            return Err(RecoveryError::Backwards { op, view, timestamp });
        }
        self.head = LogHead::of(header);
        if self.tail.len() == VIEW_HEADERS_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back(*header);
        self.sizes.push(u32::try_from(header.size()).expect("a header's size has 32 bits"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::Purpose;
    use wire::{CheckpointId, Draft};

    const CLUSTER: ClusterId = ClusterId(7);

    /// The prepare that continues `head`, as `change` has it, in view 2.
    fn next(head: &LogHead, change: impl FnOnce(&mut Prepare, &mut Draft)) -> Header {
        let mut prepare = Prepare {
            parent: head.checksum,
            checkpoint: CheckpointId(0),
            op: head.op.next(),
            commit: head.op,
            timestamp: Timestamp(head.version_max.0 + 1),
            version_count: 10,
            request_count: 1,
            purpose: Purpose::Requests,
        };
        let mut draft = Draft { cluster: CLUSTER, view: View(2), ..Draft::default() };
        change(&mut prepare, &mut draft);
        draft.seal(&prepare, b"12345678")
    }

    fn log_of(count: u64) -> RecoveredLog {
        let mut log = RecoveredLog::at_checkpoint(LogHead::root(CLUSTER));
        for _ in 0..count {
            log.replay(&next(&log.head(), |_, _| ())).unwrap();
        }
        log
    }

    #[test]
    fn a_log_is_continued_by_its_next_prepare_only() {
        let mut log = log_of(2);
        let head = log.head();
        assert_eq!(
            (head.op, head.timestamp, head.version_max),
            (Op(2), Timestamp(11), Version(20))
        );
        let mut refused = |change: &dyn Fn(&mut Prepare, &mut Draft)| {
            log.replay(&next(&head, change)).unwrap_err()
        };
        let gap = |actual| RecoveryError::Gap { expected: Op(3), actual: Op(actual) };
        let backwards = |view, timestamp| RecoveryError::Backwards {
            op: Op(3),
            view: View(view),
            timestamp: Timestamp(timestamp),
        };
        assert_eq!(refused(&|prepare, _| prepare.op = Op(4)), gap(4));
        assert_eq!(refused(&|prepare, _| prepare.op = Op(2)), gap(2));
        let parent =
            RecoveryError::Parent { op: Op(3), expected: head.checksum, actual: Checksum(5) };
        assert_eq!(refused(&|prepare, _| prepare.parent = Checksum(5)), parent);
        assert_eq!(refused(&|prepare, _| prepare.timestamp = Timestamp(20)), backwards(2, 20));
        assert_eq!(refused(&|_, draft| draft.view = View(1)), backwards(1, 21));
        assert_eq!(log.head(), head);
        assert_eq!(log.replay(&next(&head, |_, draft| draft.view = View(3))), Ok(()));
        assert_eq!(log.sizes, [264; 3]);
    }

    #[test]
    fn clusters_have_different_roots() {
        assert_ne!(LogHead::root(ClusterId(1)).checksum, LogHead::root(ClusterId(2)).checksum);
        let root = LogHead::root(CLUSTER).checksum.to_string();
        assert_eq!(root, "339304a80c1aceca32bcf7b2984c014b");
    }
}
