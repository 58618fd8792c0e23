//! The loop of one core.

use std::rc::Rc;
use std::time::Duration;

use super::driver::UringDriver;
use super::runtime::Idle;
use crate::clock;
use crate::core::Core;
use crate::time::Instant;

/// Polls in one turn, before completions are looked at again.
const TURN_POLLS_MAX: u32 = 256;

/// How long a turn polls before completions are looked at again.
const TURN_TIME_MAX: Duration = Duration::from_micros(500);

/// The longest look before sleeping that `Idle::Adaptive` takes.
const ADAPTIVE_SPIN_MAX: Duration = Duration::from_micros(20);

/// One core and what its loop remembers.
pub(super) struct Loop {
    core: Rc<Core>,
    driver: Rc<UringDriver>,
    idle: Idle,
    /// How long recent waits took, smoothed: what the adaptive policy expects of the next one.
    wait_expected: Duration,
}

impl Loop {
    pub(super) fn new(core: Rc<Core>, driver: Rc<UringDriver>, idle: Idle) -> Loop {
        Loop { core, driver, idle, wait_expected: Duration::from_millis(1) }
    }

    /// Runs the core until `is_done` says so after a turn. The core has to be installed.
    pub(super) fn run(&mut self, is_done: impl Fn() -> bool) {
        let mut time = clock::system_now();
        loop {
            self.core.absorb_wakes();
            self.core.fire_timers(time);
            self.turn(&mut time);
            if is_done() {
                return;
            }
            self.driver.feed_starved();
            if self.core.runnable() > 0 {
                self.driver.flush();
            } else {
                self.wait(time);
                time = clock::system_now();
            }
            self.driver.deliver(&self.core);
            self.driver.count(&self.core);
        }
    }

    fn turn(&self, time: &mut Instant) {
        let started = *time;
        for _ in 0..TURN_POLLS_MAX {
            if !self.core.poll_next(time) || time.since(started) >= TURN_TIME_MAX {
                return;
            }
        }
    }

    /// Nothing is runnable: waits for completions, wake-ups or the next timer.
    fn wait(&mut self, now: Instant) {
        let deadline = self.core.next_deadline();
        let limit = deadline.map(|deadline| deadline.since(now));
        if limit == Some(Duration::ZERO) {
            return self.driver.flush();
        }
        let spin = match self.idle {
            Idle::Sleep => Duration::ZERO,
            Idle::Spin(spin) => spin,
            Idle::Adaptive => self.adaptive_spin(now),
        };
        if !spin.is_zero() {
            self.driver.flush();
            if self.spin_until(now + spin.min(limit.unwrap_or(spin))) {
                return self.driver.flush();
            }
        }
        if !self.core.seat.seat().board.announce_sleep() {
            return self.driver.flush();
        }
        self.driver.wait(limit);
        self.core.seat.seat().board.announce_awake();
        if self.idle == Idle::Adaptive {
            let waited = clock::system_now().since(now);
            self.wait_expected = (self.wait_expected * 7 + waited) / 8;
        }
    }

    fn adaptive_spin(&self, now: Instant) -> Duration {
        let durable = self.driver.look_until().map_or(Duration::ZERO, |until| until.since(now));
        let short = self.wait_expected < ADAPTIVE_SPIN_MAX;
        durable.max(if short { ADAPTIVE_SPIN_MAX } else { Duration::ZERO })
    }

    /// Looks for completions and wake-ups until `end`; true if there are any.
    fn spin_until(&mut self, end: Instant) -> bool {
        let board = &self.core.seat.seat().board;
        while clock::system_now() < end {
            if self.driver.has_completions() || board.has_posts() {
                return true;
            }
            // The kernel may have work to do on this processor before what is looked for
            // completes: a durable write on a disk without forced unit access ends in a kernel
            // thread.
            std::thread::yield_now();
        }
        false
    }
}
