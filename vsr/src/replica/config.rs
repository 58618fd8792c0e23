//! What a replica is told at start: who it is, and its bounds.

use wire::{ClusterId, Release, ReplicaId};

use crate::journal::{FRAME_HEADER_SIZE, SECTOR, frame_size};

/// Identity and bounds of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member of it.
    pub replica: ReplicaId,
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

    /// # Panics
    /// When the bounds contradict each other: a mistake of whoever made them.
    pub(super) fn check(&self) {
        assert!(self.prepare_size_max > wire::HEADER_SIZE + wire::request::REQUEST_HEADER_SIZE);
        assert!(self.pipeline_max > 0, "a pipeline has room for one prepare at least");
        let largest = frame_size(self.prepare_size_max) as u64;
        let requests = self.log_budget - self.pulse_reserve();
        assert!(requests >= largest, "a log of {requests} bytes for prepares of {largest}");
        assert!(self.pulse_reserve() >= SECTOR as u64, "the log has room for a pulse");
    }
}
