//! What a core counts and how long its stages take.
//!
//! Every core owns one [`Metrics`] and nobody else touches it, so counting is an addition to a
//! `Cell` and recording a latency an addition into a histogram: no lock, no atomic, no shared
//! cache line on the data path. Whoever wants to see the numbers asks the core by channel and
//! gets a [`Snapshot`], a copy; snapshots of several cores are added up ([`Snapshot::merge`]) and
//! written as Prometheus text (`metrics::text`).
//!
//! Counters and stages are rows of a table (`counters!`), so that a metric cannot exist without
//! a name with its unit and a line of help, and the documentation's list cannot drift from the
//! code. Names are stable: dashboards and alerts are built on them.
//!
//! Histograms are HDR with two significant digits from 1 ns to 60 s: 1 % error, 30 KiB each.
//! Latencies are recorded per prepare and per turn of a connection, not per operation: at depth
//! 16 the clock alone would cost more than the look-up it measures.

pub mod text;

use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Declares the counters: variant, kind, name, help.
macro_rules! counters {
    ($($variant:ident $kind:ident $name:literal $help:literal;)*) => {
        /// What is counted on every core.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $help] $variant,)*
        }

        /// Every counter, in the order in which they are written.
        pub const COUNTERS: &[Counter] = &[$(Counter::$variant,)*];

        impl Counter {
            /// Prometheus name, with unit.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => concat!("quorate_", $name),)* }
            }

            /// One line for people.
            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => $help,)* }
            }

            /// Counter or gauge.
            pub fn kind(self) -> Kind {
                match self { $(Counter::$variant => Kind::$kind,)* }
            }
        }
    };
}

counters! {
    ConnectionsAccepted Counter "connections_accepted_total" "Connections accepted.";
    ConnectionsOpen Gauge "connections_open" "Connections open now.";
    ConnectionsRefused Counter "connections_refused_total"
        "Connections refused because clients_max were open.";
    ConnectionsStalled Counter "connections_stalled_total"
        "Connections closed because their replies were not read.";
    ConnectionsInvalid Counter "connections_invalid_total"
        "Connections closed after bytes that are no request.";
    BytesReceived Counter "received_bytes_total" "Bytes received from clients.";
    BytesSent Counter "sent_bytes_total" "Bytes sent to clients.";
    Commands Counter "commands_total" "Commands executed, reads and writes.";
    ReadsInPlace Counter "reads_in_place_total"
        "Key look-ups answered from memory on the connection's own core.";
    ReadsFromGrid Counter "reads_from_grid_total" "Key look-ups that waited for the grid.";
    ReadsBegunAgain Counter "reads_begun_again_total"
        "Reads of several keys that began again because writes overtook them.";
    RefusedNoSpace Counter "refused_no_space_total"
        "Writes refused before they were given an op: the grid is nearly full.";
    Corrupt Counter "corrupt_operations_total"
        "Operations and reads that failed because they need a corrupt block.";
    WritesWaited Counter "writes_waited_total"
        "Writes that waited because the pipeline or the log budget was full.";
    Prepares Counter "prepares_total" "Prepares closed and written to the journal.";
    PrepareBytes Counter "prepare_bytes_total" "Bytes of prepares, headers included.";
    Pulses Counter "pulses_total" "Prepares without requests, proposed for due work.";
    PreparesPrefetched Counter "prepares_prefetched_total"
        "Prepares whose application waited for look-ups in the grid.";
    SessionsOpened Counter "sessions_opened_total" "Sessions opened.";
    SessionRequests Counter "session_requests_total" "Requests of sessions executed.";
    SessionDuplicates Counter "session_duplicates_total"
        "Requests of sessions that came again and were answered without being executed.";
    SessionRefusals Counter "session_refusals_total"
        "Requests of sessions refused at their place in the log: overloaded, or session_evicted.";
    Checkpoints Counter "checkpoints_total" "Checkpoints made durable.";
    ScrubBlocks Counter "scrub_blocks_total" "Blocks that scrubs have read.";
    ScrubFaults Counter "scrub_faults_total" "Corrupt blocks that scrubs have found, each once.";
    BlocksServed Counter "blocks_served_total" "Copies of blocks given to peers.";
    ScrubCycles Counter "scrub_cycles_total" "Scrubs of a whole shard that have come to their end.";
}

/// A stage of a request whose duration is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the first request of a prepare to its close.
    Queue,
    /// From a prepare's close to its being durable in the journal.
    Journal,
    /// From commit to applied on all shards of this core.
    Apply,
    /// A run of writes of one connection, from hand-over to results.
    Write,
    /// A run of reads of one connection, from parsing to results.
    Read,
    /// From the asking for a checkpoint to its superblock being durable.
    Checkpoint,
}

/// Every stage, in the order in which they are written.
pub const STAGES: &[Stage] =
    &[Stage::Queue, Stage::Journal, Stage::Apply, Stage::Write, Stage::Read, Stage::Checkpoint];

impl Stage {
    /// The value of the `stage` label.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Journal => "journal",
            Stage::Apply => "apply",
            Stage::Write => "write",
            Stage::Read => "read",
            Stage::Checkpoint => "checkpoint",
        }
    }
}

const LATENCY_NS_MAX: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 2;

/// The counters and histograms of one core.
#[derive(Debug)]
pub struct Metrics {
    values: [Cell<u64>; COUNTERS.len()],
    stages: RefCell<Vec<Histogram<u64>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let values = [const { Cell::new(0) }; COUNTERS.len()];
        Metrics { values, stages: RefCell::new(STAGES.iter().map(|_| histogram()).collect()) }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are constants that the histogram accepts")
}

impl Metrics {
    /// Adds to a counter or raises a gauge.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        let value = &self.values[counter as usize];
        value.set(value.get().wrapping_add(amount));
    }

    /// Adds one.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Lowers a gauge.
    pub fn subtract(&self, gauge: Counter, amount: u64) {
        assert_eq!(gauge.kind(), Kind::Gauge, "{} only grows", gauge.name());
        let value = &self.values[gauge as usize];
        let lowered = value.get().checked_sub(amount);
        value.set(lowered.expect("a gauge is lowered by what it was raised by"));
    }

    /// The value now.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].get()
    }

    /// Records how long a stage took. Beyond 60 s counts as 60 s.
    #[inline]
    pub fn record(&self, stage: Stage, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(LATENCY_NS_MAX).max(1);
        self.stages.borrow_mut()[stage as usize].saturating_record(ns);
    }

    /// A copy for whoever wants to look.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            values: self.values.iter().map(Cell::get).collect(),
            stages: self.stages.borrow().clone(),
        }
    }
}

/// A copy of a core's metrics, or the sum of several.
#[derive(Debug, Clone)]
pub struct Snapshot {
    values: Vec<u64>,
    stages: Vec<Histogram<u64>>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Metrics::default().snapshot()
    }
}

impl Snapshot {
    /// Adds another core's.
    pub fn merge(&mut self, other: &Snapshot) {
        for (sum, value) in self.values.iter_mut().zip(&other.values) {
            *sum = sum.wrapping_add(*value);
        }
        for (sum, stage) in self.stages.iter_mut().zip(&other.stages) {
            sum.add(stage).expect("all histograms have the same bounds");
        }
    }

    /// A counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// A stage's latencies in nanoseconds.
    pub fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_add_up() {
        let (a, b) = (Metrics::default(), Metrics::default());
        a.count(Counter::Commands);
        b.add(Counter::Commands, 4);
        a.add(Counter::ConnectionsOpen, 3);
        a.subtract(Counter::ConnectionsOpen, 1);
        a.record(Stage::Journal, Duration::from_micros(80));
        b.record(Stage::Journal, Duration::from_micros(120));
        b.record(Stage::Journal, Duration::from_secs(3600));
        let mut sum = a.snapshot();
        sum.merge(&b.snapshot());
        assert_eq!(sum.get(Counter::Commands), 5);
        assert_eq!(sum.get(Counter::ConnectionsOpen), 2);
        assert_eq!(sum.stage(Stage::Journal).len(), 3);
        assert_eq!(sum.stage(Stage::Apply).len(), 0);
    }

    #[test]
    fn rows_and_variants_have_the_same_order() {
        for (index, counter) in COUNTERS.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            let total = counter.name().ends_with("_total");
            assert_eq!(total, counter.kind() == Kind::Counter, "{}", counter.name());
        }
        for (index, stage) in STAGES.iter().enumerate() {
            assert_eq!(*stage as usize, index);
        }
    }

    #[test]
    #[should_panic(expected = "raised by")]
    fn a_gauge_never_goes_below_zero() {
        Metrics::default().subtract(Counter::ConnectionsOpen, 1);
    }
}
