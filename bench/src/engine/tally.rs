//! What was done and how long it took, and the line that is made of it.
//!
//! *Stalls.* The time of a kind of work is cut into tenths of a second. A tenth in which less than
//! a tenth of the mean was done counts as a stall: what a user who asks at a steady rate would see
//! as an outage. The last, partial tenth does not count.

use std::time::Duration;

use super::{EngineError, Row, Work};
use crate::host::ProcessUse;
use crate::report::Latencies;

const SLOT: Duration = Duration::from_millis(100);

/// What has been done so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) latencies: Latencies,
    pub(crate) operations: u64,
    pub(crate) reads: u64,
    pub(crate) wrong: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_returned: u64,
    /// Operations ended in each tenth of a second since the start.
    slots: Vec<u64>,
}

/// What the disk was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskUse {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
}

/// What is measured around the operations themselves.
pub(crate) struct Around {
    pub(crate) seconds: f64,
    /// Until what the operations left to be done was done.
    pub(crate) settle_seconds: f64,
    /// While operations were done.
    pub(crate) disk: DiskUse,
    /// Written until everything was settled.
    pub(crate) write_bytes: u64,
    /// Used by the process until everything was settled.
    pub(crate) process: ProcessUse,
    /// Of the disk, at the end.
    pub(crate) bytes_used: u64,
    /// Of keys and values that exist, at the end.
    pub(crate) bytes_existing: u64,
    pub(crate) stalls: u64,
}

impl Tally {
    /// Notes operations that ended `elapsed` after the start and took `latency` each.
    pub(crate) fn note(&mut self, elapsed: Duration, latency: Duration, operations: u64) {
        self.latencies.record_many(latency, operations);
        self.operations += operations;
        let slot = (elapsed.as_nanos() / SLOT.as_nanos()) as usize;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += operations;
    }

    /// Adds what another worker did.
    #[cfg(any(feature = "engines", test))]
    pub(crate) fn add(&mut self, other: &Tally) {
        self.latencies.add(&other.latencies);
        self.operations += other.operations;
        self.reads += other.reads;
        self.wrong += other.wrong;
        self.bytes_written += other.bytes_written;
        self.bytes_returned += other.bytes_returned;
        self.slots.resize(self.slots.len().max(other.slots.len()), 0);
        for (slot, operations) in self.slots.iter_mut().zip(&other.slots) {
            *slot += operations;
        }
    }

    /// Fails if an answer was wrong.
    pub(crate) fn check(&self, work: Work) -> Result<(), EngineError> {
        let Tally { reads, wrong, .. } = *self;
        if wrong > 0 { Err(EngineError::Wrong { work, wrong, reads }) } else { Ok(()) }
    }

    fn stall_seconds(&self, seconds: f64) -> f64 {
        let whole = (seconds / SLOT.as_secs_f64()) as usize;
        let mean = self.operations as f64 / (seconds / SLOT.as_secs_f64());
        let done = |slot: usize| self.slots.get(slot).copied().unwrap_or(0) as f64;
        let stalled = (0..whole).filter(|slot| done(*slot) < mean / 10.0).count();
        stalled as f64 * SLOT.as_secs_f64()
    }

    /// The line of what was done.
    pub(crate) fn row(&self, work: Work, around: &Around) -> Row {
        let Around { seconds, settle_seconds, disk, process, stalls, .. } = *around;
        let over = |bytes: u64, of: u64| (of > 0).then(|| bytes as f64 / of as f64);
        let operations = self.operations.max(1) as f64;
        Row {
            work,
            operations: self.operations,
            seconds,
            bytes_per_second: (self.bytes_written + self.bytes_returned) as f64 / seconds,
            latency: self.latencies.summary(),
            write_amplification: over(around.write_bytes, self.bytes_written),
            read_amplification: over(disk.read_bytes, self.bytes_returned)
                .filter(|_| self.bytes_written == 0),
            device_reads: disk.reads as f64 / operations,
            space_amplification: over(around.bytes_used, around.bytes_existing),
            cpu_us: (process.user + process.system).as_secs_f64() * 1e6 / operations,
            resident_bytes: process.resident_bytes,
            stalls,
            stall_seconds: self.stall_seconds(seconds),
            settle_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_with_less_than_a_tenth_of_the_mean_are_stalls() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        let latency = Duration::from_micros(1);
        // Ten tenths: 100 operations in each but the third, fourth and sixth.
        for slot in (0..10).filter(|slot| ![2, 3, 5].contains(slot)) {
            let tally = if slot % 2 == 0 { &mut one } else { &mut other };
            tally.note(Duration::from_millis(slot * 100 + 50), latency, 100);
        }
        // Enough not to be a stall, and not enough.
        one.note(Duration::from_millis(250), latency, 10);
        one.note(Duration::from_millis(550), latency, 5);
        one.add(&other);
        assert_eq!(one.operations, 715);
        assert!((one.stall_seconds(1.05) - 0.2).abs() < 1e-9, "{}", one.stall_seconds(1.05));
    }
}
