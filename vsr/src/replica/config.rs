//! What a replica is told at start: who it is, and its bounds.

use wire::{ClusterId, Incarnation, Release, ReplicaId};

use super::quorum::{MEMBERS_MAX, Quorums};
use super::timeouts::Timing;
use crate::journal::{FRAME_HEADER_SIZE, SECTOR, frame_size};
use crate::superblock::VIEW_HEADERS_MAX;

/// Identity and bounds of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member of it.
    pub replica: ReplicaId,
    /// How many members it has: 1, 3 or 5.
    pub replica_count: u8,
    /// Its incarnation, which its acknowledgements name.
    pub incarnation: Incarnation,
    /// What a test breaks.
    #[cfg(feature = "canary")]
    pub canary: super::Canary,
    /// How long the protocol waits for what.
    pub timing: Timing,
    /// What the spread of the timeouts follows from; another number in each life.
    pub seed: u64,
    /// The release that executes new ops.
    pub release: Release,
    /// The largest prepare in bytes, its header included.
    pub prepare_size_max: usize,
    /// The most prepares that have an op and are not given out as committed.
    pub pipeline_max: usize,
    /// The least bytes of requests for which a prepare is written beside a partly filled one.
    pub parallel_size: usize,
    /// After how many nanoseconds a write is overdue, and the next no longer waits for it.
    pub overdue_ns: u64,
    /// The most bytes of frames after the checkpoint.
    pub log_budget: u64,
}

impl Config {
    /// The usual bounds for this member of this cluster and this budget of log bytes.
    #[must_use]
    pub fn new(cluster: ClusterId, replica: ReplicaId, log_budget: u64) -> Config {
        Config {
            cluster,
            replica,
            replica_count: 1,
            incarnation: Incarnation(0),
            #[cfg(feature = "canary")]
            canary: super::Canary::planted(),
            timing: Timing::default(),
            seed: 0,
            release: Release::CURRENT,
            prepare_size_max: 1 << 20,
            pipeline_max: 8,
            parallel_size: 64 << 10,
            overdue_ns: 1_000_000,
            log_budget,
        }
    }

    /// Bounds so small that a few requests reach all of them.
    #[must_use]
    pub fn test_min() -> Config {
        Config {
            prepare_size_max: 4096,
            pipeline_max: 4,
            parallel_size: 1024,
            overdue_ns: 1000,
            ..Config::new(ClusterId(7), ReplicaId(0), 16 * SECTOR as u64)
        }
    }

    /// Bytes that a buffer must have for the largest prepare.
    #[must_use]
    pub fn frame_size_max(&self) -> usize {
        frame_size(self.prepare_size_max)
    }

    /// The largest request that a prepare holds.
    #[must_use]
    pub fn request_size_max(&self) -> usize {
        self.prepare_size_max - wire::HEADER_SIZE
    }

    /// Where the largest prepare ends in its buffer.
    pub(super) fn frame_end_max(&self) -> usize {
        FRAME_HEADER_SIZE + self.prepare_size_max
    }

    /// The part of the log that is kept for pulses: an eighth.
    pub(super) fn pulse_reserve(&self) -> u64 {
        self.log_budget / 8
    }

    /// Whether there are no peers.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.replica_count == 1
    }

    pub(super) fn quorums(&self) -> Quorums {
        Quorums::of(self.replica_count)
    }

    /// Every other member.
    pub(super) fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let own = self.replica;
        (0..self.replica_count).map(ReplicaId).filter(move |peer| *peer != own)
    }

    /// Ops that are kept in memory at most: alone those in flight, with peers those that fit the
    /// log's budget at a sector each.
    pub(super) fn window(&self) -> usize {
        if self.is_alone() {
            return self.pipeline_max;
        }
        usize::try_from(self.log_budget / SECTOR as u64).expect("a log's ops fit memory")
    }

    /// # Panics
    /// When the bounds contradict each other: a mistake of whoever made them.
    pub(super) fn check(&self) {
        assert!(self.prepare_size_max > wire::HEADER_SIZE + wire::request::REQUEST_HEADER_SIZE);
        assert!(self.pipeline_max > 0, "a pipeline has room for one prepare at least");
        let members = usize::from(self.replica_count);
        assert!(members % 2 == 1 && members <= MEMBERS_MAX, "a cluster of {members} members");
        assert!(self.replica.0 < self.replica_count, "member {} of {members}", self.replica);
        assert!(self.pipeline_max < VIEW_HEADERS_MAX, "a view's headers name a whole pipeline");
        let largest = frame_size(self.prepare_size_max) as u64;
        let requests = self.log_budget - self.pulse_reserve();
        assert!(requests >= largest, "a log of {requests} bytes for prepares of {largest}");
        assert!(self.pulse_reserve() >= SECTOR as u64, "the log has room for a pulse");
    }
}
