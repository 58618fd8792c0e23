//! The replica's numbers, for status and metrics.

use wire::{Op, ReplicaId, Timestamp, View};

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Alone, it has its log and waits for its view to be durable.
    Recovering,
    /// Damage at the end of its log hides what it may have acknowledged: it is silent until a
    /// start-view tells it the log's head.
    RecoveringHead,
    /// It serves, or follows the primary that does.
    Normal,
    /// It has left a view, and the next has not begun.
    ViewChange,
    /// It needs ops that no peer has in its journal any more.
    Behind,
    /// It has stopped, because its history is not that of the cluster.
    Diverged,
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
    /// Views that this replica has left.
    pub views_left: u64,
    /// Messages that were no such thing: damaged, foreign, not from who they say, or without sense.
    pub messages_refused: u64,
    /// Prepares from peers that there was no room for.
    pub prepares_refused: u64,
    /// Messages that were not sent because too many waited.
    pub messages_dropped: u64,
    /// Prepares asked of peers because they were missing or damaged here.
    pub prepares_asked: u64,
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
    /// The view whose log it has.
    pub log_view: View,
    /// Whether it is primary and takes requests.
    pub serves: bool,
    /// The op that is waited for: it may be committed or is, and whoever has it is away.
    pub blocked_by: Option<Op>,
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
