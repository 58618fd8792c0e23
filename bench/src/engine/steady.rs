//! Writes at a steady rate, in an open loop: an op is due at its moment whether or not the one
//! before is done, and its latency counts from there.
//!
//! Load and engine share a core. A client whose requests come from elsewhere takes nothing of it
//! while there are none, so who waits for an op's moment waits as a background task: as a
//! foreground task it would have five times the share of the merges, for nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ioring::Instant;
use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::cases::Shared;
use super::{EngineError, Options, data};
use crate::workload::random_stream;

/// Who waits longer than this sleeps; a timer is not exact enough for less.
const SLEEP_MIN: Duration = Duration::from_micros(500);
/// Ops of a fill between two turns of others.
const FILL_OPS: usize = 64;

/// How long a rate is held at least to count as one.
const WINDOW: Duration = Duration::from_secs(2);

/// Operations a second, as fast as it goes.
#[derive(Clone, Copy)]
pub(super) struct Most {
    pub(super) mean: f64,
    /// In the slowest two seconds.
    pub(super) held: f64,
}

/// An op that is done.
#[derive(Clone, Copy)]
pub(super) struct Done {
    pub(super) due: Instant,
    pub(super) ended: Instant,
    /// Keys that it changed.
    pub(super) operations: u64,
}

impl Done {
    pub(super) fn latency(&self) -> Duration {
        self.ended.since(self.due)
    }
}

/// Whose writes are measured.
pub(super) struct Writer<'a> {
    pub(super) shared: &'a Shared,
    keys: u64,
    batch: usize,
    /// Of a hundred ops, how many delete.
    deletes: u32,
    random: Xoshiro256PlusPlus,
    numbers: Vec<u64>,
    spare: Spare,
}

/// How often who waits for an op's moment got the core.
#[derive(Clone, Default)]
pub(super) struct Spare(Rc<Cell<u64>>);

impl Spare {
    pub(super) fn turns(&self) -> u64 {
        self.0.get()
    }
}

impl<'a> Writer<'a> {
    /// `stream` keeps the keys of one measurement apart from those of others.
    pub(super) fn new(shared: &'a Shared, options: &Options, deletes: u32, stream: u64) -> Self {
        let Options { keys, batch, seed, .. } = *options;
        let random = random_stream(seed, stream);
        let (numbers, spare) = (Vec::with_capacity(batch), Spare::default());
        Writer { shared, keys, batch, deletes, random, numbers, spare }
    }

    pub(super) fn spare(&self) -> Spare {
        self.spare.clone()
    }

    /// Writes every key once, scattered.
    pub(super) async fn fill(&mut self) -> Result<(), EngineError> {
        for (op, first) in (0..self.keys).step_by(self.batch).enumerate() {
            self.numbers.clear();
            let end = (first + self.batch as u64).min(self.keys);
            self.numbers.extend((first..end).map(|index| data::scatter(index, self.keys)));
            self.shared.write_keys(&self.numbers, false).await?;
            if op % FILL_OPS == FILL_OPS - 1 {
                ioring::yield_now().await;
            }
        }
        Ok(())
    }

    /// Changes some keys in one op; how many.
    async fn change(&mut self) -> Result<u64, EngineError> {
        self.numbers.clear();
        for _ in 0..self.batch {
            self.numbers.push(self.random.random_range(0..self.keys));
        }
        // An op changes a key once.
        self.numbers.sort_unstable();
        self.numbers.dedup();
        let delete = self.random.random_range(0..100) < self.deletes;
        self.shared.write_keys(&self.numbers, delete).await?;
        Ok(self.numbers.len() as u64)
    }

    /// Operations a second, as fast as it goes, for so long and so many at least.
    pub(super) async fn most(&mut self, time: Duration, least: u64) -> Result<Most, EngineError> {
        let (start, mut operations) = (ioring::now(), 0);
        let (mut window, mut before, mut held) = (start, 0, f64::INFINITY);
        while operations < least || ioring::now().since(start) < time {
            operations += self.change().await?;
            let passed = ioring::now().since(window);
            if passed >= WINDOW {
                held = held.min((operations - before) as f64 / passed.as_secs_f64());
                (window, before) = (ioring::now(), operations);
            }
            ioring::yield_now().await;
        }
        let mean = operations as f64 / ioring::now().since(start).as_secs_f64();
        Ok(Most { mean, held: held.min(mean) })
    }

    /// Ops at a steady rate, until the time is over or `note` says that it is enough.
    pub(super) async fn paced(
        &mut self,
        time: Duration,
        rate: f64,
        mut note: impl FnMut(Done) -> bool,
    ) -> Result<(), EngineError> {
        let interval = Duration::from_secs_f64(self.batch as f64 / rate);
        let start = ioring::now();
        let mut due = start;
        while due < start + time {
            wait_until(due, &self.spare).await;
            let operations = self.change().await?;
            if !note(Done { due, ended: ioring::now(), operations }) {
                break;
            }
            due = due + interval;
        }
        Ok(())
    }
}

/// Waits for a moment, letting others work.
async fn wait_until(due: Instant, spare: &Spare) {
    let spare = spare.clone();
    // Others have their turn even if this one is late.
    ioring::yield_now().await;
    if ioring::now() >= due {
        return;
    }
    let clock = ioring::spawn(ioring::Queue::Background, "clock", async move {
        loop {
            let now = ioring::now();
            if now >= due {
                return;
            }
            spare.0.set(spare.0.get() + 1);
            match due.since(now).checked_sub(SLEEP_MIN) {
                Some(long) if !long.is_zero() => ioring::sleep(long).await,
                _ => ioring::yield_now().await,
            }
        }
    });
    clock.await;
}
