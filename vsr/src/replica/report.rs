//! The replica's numbers, for status and metrics.

use wire::{Op, ReplicaId, Timestamp, View};

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It has its log and waits for its view to be durable.
    Recovering,
    /// It serves.
    Normal,
}

/// What happened since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests taken.
    pub requests: u64,
    /// Operations in them.
    pub operations: u64,
    /// Prepares with requests.
    pub prepares: u64,
    /// Prepares without.
    pub pulses: u64,
    /// Bytes of all prepares' bodies.
    pub body_bytes: u64,
}

impl Counters {
    pub(super) fn closed(&mut self, pulse: bool, body_size: usize) {
        self.pulses += u64::from(pulse);
        self.prepares += u64::from(!pulse);
        self.body_bytes += body_size as u64;
    }
}

/// A replica's state at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// What it is doing.
    pub status: Status,
    /// Which member it is.
    pub replica: ReplicaId,
    /// Its view.
    pub view: View,
    /// The last op given.
    pub op: Op,
    /// The highest committed op.
    pub commit: Op,
    /// The op of the last durable checkpoint.
    pub checkpoint: Op,
    /// The timestamp of the highest committed op.
    pub log_time: Timestamp,
    /// Bytes of frames after the checkpoint.
    pub log_used: u64,
    /// The most there may be.
    pub log_budget: u64,
    /// Prepares that have an op and are not given out as committed.
    pub in_flight: usize,
    /// Bytes of requests that wait for an op.
    pub batch_size: usize,
    /// What happened since start.
    pub counters: Counters,
}
