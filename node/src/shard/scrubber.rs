//! Scrubbers: a task for each shard that has every block on disk read within a cycle.
//!
//! What a cycle reads, and what becomes of what it finds, is the storage engine's ([`lsm::scrub`]);
//! here is when. After each block the task rests, for the longest of
//!
//! 1. what is left of the cycle, divided evenly over the blocks that are left; at most
//!    [`REST_MAX`], so that a small shard is through within minutes and then quiet until the next
//!    cycle begins;
//! 2. as long as the read took: a scrub that is late, or that somebody has asked for, has one read
//!    of a block under way half of the time, and less on a device that is busy.
//!
//! Reads take the slots and buffers of background work, one at a time, and the task has the lowest
//! share of its core: requests do not wait for it. A cycle begins with the node, at a place that is
//! drawn from a stream of the shard's own; it is not kept over a restart.
//!
//! A scrub that is asked for ([`Scrubbers::ask`]) begins a cycle at once, in place of the one under
//! way, without the even rests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Instant, Queue, spawn};
use lsm::scrub::{ScrubFault, ScrubStep};

use super::Shard;
use crate::core::Core;
use crate::metrics::Counter;
use crate::status::ScrubReport;

/// The longest rest between two blocks.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long a checkpoint that is being written is left alone.
const CHECKPOINT_REST: Duration = Duration::from_millis(50);

/// The scrubbers of a core.
#[derive(Default)]
pub struct Scrubbers {
    /// None: only when asked.
    cycle: Option<Duration>,
    /// How often a scrub was asked for.
    asked: Cell<u64>,
    on_asked: Event,
    /// Of each shard of the core.
    states: RefCell<Vec<State>>,
}

/// What a scrubber does.
#[derive(Debug, Clone, Copy, Default)]
enum Doing {
    #[default]
    Nothing,
    /// A block after each interval.
    Reading(Duration),
    /// Until the next cycle.
    Resting(Option<Instant>),
}

/// How far a scrubber is.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    doing: Doing,
    started_ns: u64,
    read: u64,
    left: u64,
    faults: u64,
    cycles: u64,
}

impl Scrubbers {
    /// Scrubbers with a cycle; without one they wait to be asked.
    #[must_use]
    pub fn new(cycle: Option<Duration>, shards: usize) -> Scrubbers {
        let states = RefCell::new(vec![State::default(); shards]);
        Scrubbers { cycle, states, ..Scrubbers::default() }
    }

    /// Starts the core's tasks.
    pub fn start(core: &Rc<Core>) {
        for index in 0..core.applier.with_shards(super::Shards::len) {
            let core = core.clone();
            spawn(Queue::Background, "scrub", async move { run(&core, index).await }).detach();
        }
    }

    /// Has all shards of the core scrubbed now.
    pub fn ask(&self) {
        self.asked.set(self.asked.get() + 1);
        self.on_asked.notify();
    }

    /// How far the scrubber of the shard at `index` is.
    #[must_use]
    pub fn report(&self, index: usize) -> ScrubReport {
        let State { doing, started_ns, read, left, faults, cycles } = self.states.borrow()[index];
        let (state, eta, next) = match doing {
            Doing::Nothing => ("off", Duration::ZERO, None),
            Doing::Reading(interval) => {
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                ("reading", interval.saturating_mul(left), None)
            }
            Doing::Resting(next) => ("resting", Duration::ZERO, next),
        };
        ScrubReport {
            state,
            percent: percent(read, left),
            started_s: started_ns / 1_000_000_000,
            blocks_read: read,
            blocks_left: left,
            faults,
            cycles,
            eta_s: eta.as_secs(),
            next_s: next.map(|next| next.since(ioring::now()).as_secs()),
        }
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut State)) {
        change(&mut self.states.borrow_mut()[index]);
    }

    /// Rests; `false` if another scrub is asked for than was `seen`.
    async fn rest(&self, duration: Duration, seen: u64) -> bool {
        if self.asked.get() == seen {
            // It may have passed in full, or the event been another shard's.
            let _ = ioring::timeout(duration, self.on_asked.wait()).await;
        }
        self.asked.get() == seen
    }
}

/// The share of a cycle that is over: all of it only when nothing is left.
fn percent(read: u64, left: u64) -> u64 {
    (read * 100).checked_div(read + left).unwrap_or(0)
}

async fn run(core: &Core, index: usize) {
    let scrubbers = &core.scrubbers;
    let shard = core.applier.with_shards(|shards| shards.at(index).id());
    let mut random = ioring::random(&format!("scrub {shard}"));
    let mut seen = 0;
    loop {
        let asked = scrubbers.asked.get() != seen;
        seen = scrubbers.asked.get();
        if !asked && scrubbers.cycle.is_none() {
            scrubbers.on_asked.wait().await;
            continue;
        }
        let end = scrubbers.cycle.map(|cycle| ioring::now() + cycle);
        let paced = end.filter(|_| !asked);
        if !walk(core, index, random.next_u64(), paced, seen).await {
            continue;
        }
        scrubbers.update(index, |state| {
            state.doing = Doing::Resting(end);
            state.left = 0;
            state.cycles += 1;
        });
        core.metrics.count(Counter::ScrubCycles);
        let Some(end) = end else { continue };
        let mut left = end.since(ioring::now());
        while !left.is_zero() && scrubbers.rest(left, seen).await {
            left = end.since(ioring::now());
        }
    }
}

/// A cycle, evenly until `paced` if it is; `false` if another was asked for.
async fn walk(core: &Core, index: usize, random: u64, paced: Option<Instant>, seen: u64) -> bool {
    let scrubbers = &core.scrubbers;
    let shard = |look: &mut dyn FnMut(&mut Shard)| {
        core.applier.with_shards_mut(|shards| look(shards.at_mut(index)));
    };
    let mut scrub = core.applier.with_shards(|shards| shards.at(index).forest().scrub(random));
    let mut took = Duration::ZERO;
    scrubbers.update(index, |state| state.started_ns = ioring::wall_clock().0);
    loop {
        let interval = interval(took, scrub.remaining(), paced.map(|end| end.since(ioring::now())));
        scrubbers.update(index, |state| {
            state.doing = Doing::Reading(interval + took);
            (state.read, state.left) = (scrub.read(), scrub.remaining());
        });
        if !scrubbers.rest(interval, seen).await {
            return false;
        }
        let step =
            core.applier.with_shards(|shards| shards.at(index).forest().scrub_step(&mut scrub));
        match step {
            ScrubStep::End => return true,
            ScrubStep::Wait => took = CHECKPOINT_REST,
            ScrubStep::Repair(repair) => {
                let mut done = Some(repair.run().await);
                shard(&mut |shard| {
                    let done = done.take().expect("a repair is taken once");
                    shard.forest.scrub_repaired(&mut scrub, done);
                });
            }
            ScrubStep::Read(read) => {
                let started = ioring::now();
                let mut done = Some(read.run().await);
                took = ioring::now() - started;
                core.metrics.count(Counter::ScrubBlocks);
                let mut fault = None;
                shard(&mut |shard| {
                    let done = done.take().expect("a read is taken once");
                    fault = shard.forest.scrub_take(&mut scrub, done);
                });
                if let Some(fault) = fault {
                    report(core, index, &fault);
                }
            }
        }
    }
}

/// The rest after a block whose read took so long.
fn interval(took: Duration, left: u64, time: Option<Duration>) -> Duration {
    let even =
        time.map_or(Duration::ZERO, |time| time / u32::try_from(left).unwrap_or(u32::MAX).max(1));
    even.min(REST_MAX).max(took)
}

fn report(core: &Core, index: usize, fault: &ScrubFault) {
    core.scrubbers.update(index, |state| state.faults += 1);
    core.metrics.count(Counter::ScrubFaults);
    core.applier.with_shards(|shards| {
        let path = shards.at(index).forest().path().display();
        let (offset, mut remedy) = (fault.offset(), fault.remedy());
        if core.clustered {
            remedy = "it is written anew from a copy of another replica";
        }
        tracing::error!(%fault, %path, offset, remedy, "a scrub found a corrupt block");
    });
    core.on_damage();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_even_within_bounds_and_never_shorter_than_a_read() {
        let (ms, days) = (Duration::from_millis, Duration::from_secs(14 * 86_400));
        assert_eq!(interval(ms(1), 1_209_600, Some(days)), ms(1000));
        assert_eq!(interval(ms(1), 12, Some(days)), REST_MAX);
        assert_eq!(interval(ms(1), 0, Some(days)), REST_MAX);
        assert_eq!(interval(ms(3), 1000, Some(ms(10))), ms(3));
        assert_eq!(interval(ms(3), 1000, Some(Duration::ZERO)), ms(3));
        assert_eq!(interval(ms(3), 1000, None), ms(3));
        assert_eq!(interval(ms(1), u64::MAX, Some(days)), ms(1));
    }

    #[test]
    fn all_of_a_cycle_is_over_when_nothing_is_left() {
        assert_eq!((percent(0, 0), percent(0, 9), percent(9, 0)), (0, 0, 100));
        assert_eq!(percent(999, 1), 99);
    }
}
