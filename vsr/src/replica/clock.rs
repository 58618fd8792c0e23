//! Log time: the only clock that stored state depends on.
//!
//! A host's wall clock jumps, steps back and stops; log time may do none of that, because versions
//! are made of it and because what was once seen expired must never be seen again. So:
//!
//! 1. *Now* is the last now plus the monotonic time that has passed since.
//! 2. It is slewed towards the wall clock, by at most a tenth of the time that passed, so it never
//!    runs backwards and never much faster than time does.
//! 3. When the wall clock is ahead by more than [`JUMP_NS`] (the node was down, the host was
//!    suspended, its clock was set), now jumps to it. It never jumps back: a wall clock that is
//!    behind only slows log time down until the two meet.
//!
//! After a restart now begins at the newest timestamp in the log or at the wall clock, whichever is
//! later: nothing else is known of the time between.
//!
//! Prepares and reads share this clock, so a prepare made after a read has a later timestamp than
//! the now that the read was judged by. *Expiry* is judged by [`Expiry::at`]: a deadline that log
//! time has passed is over for everyone and for good; one that only now has passed is not yet a
//! fact, because a replica that replays the log would not know of it. Whoever meets one has a pulse
//! committed first, which makes it a fact, and then answers.

use wire::Timestamp;

/// How far the wall clock must be ahead for log time to jump.
pub const JUMP_NS: u64 = 1_000_000_000;
/// Log time is slewed by at most the passed time divided by this.
pub const SLEW_DIVISOR: u64 = 10;

/// One look at the host's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// Nanoseconds of the monotonic clock, since whenever.
    pub monotonic_ns: u64,
    /// Nanoseconds of the wall clock, since the Unix epoch.
    pub wall_ns: u64,
}

/// Log time's now. A copy serves another core as well: it only needs that core's moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogClock {
    now: u64,
    monotonic_ns: u64,
}

impl LogClock {
    /// The clock of a replica whose log ends at `last`.
    #[must_use]
    pub fn new(last: Timestamp, moment: Moment) -> LogClock {
        LogClock { now: last.0.max(moment.wall_ns), monotonic_ns: moment.monotonic_ns }
    }

    /// Now as of the last look at the host's clocks.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    /// Moves now forward to this moment. A moment before the last one changes nothing.
    pub fn advance(&mut self, moment: Moment) {
        let passed = moment.monotonic_ns.saturating_sub(self.monotonic_ns);
        self.monotonic_ns = self.monotonic_ns.max(moment.monotonic_ns);
        let straight = self.now + passed;
        let slew_max = passed / SLEW_DIVISOR;
        let next = if moment.wall_ns > straight + JUMP_NS {
            moment.wall_ns
        } else if moment.wall_ns > straight {
            straight + slew_max.min(moment.wall_ns - straight)
        } else {
            straight - slew_max.min(straight - moment.wall_ns)
        };
        assert!(next >= self.now, "log time runs forward only");
        self.now = next;
    }

    /// Moves now forward to a timestamp that was given out, after it was advanced to this moment.
    pub fn raise(&mut self, timestamp: Timestamp) {
        self.now = self.now.max(timestamp.0);
    }
}

/// What a deadline means to a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// There is none, or it is still to come.
    Live,
    /// Time has passed it and log time has not: have a pulse committed, then ask again.
    Due,
    /// Log time has passed it: the entry does not exist.
    Passed,
}

impl Expiry {
    /// Judges a deadline (nanoseconds of log time, 0 is none) by the timestamp of the newest op
    /// that the reader has applied, and by now.
    #[must_use]
    pub fn at(deadline: u64, log_time: Timestamp, now: Timestamp) -> Expiry {
        if deadline == 0 || deadline > log_time.0.max(now.0) {
            Expiry::Live
        } else if deadline <= log_time.0 {
            Expiry::Passed
        } else {
            Expiry::Due
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(monotonic_ns: u64, wall_ns: u64) -> Moment {
        Moment { monotonic_ns, wall_ns }
    }

    #[test]
    fn now_follows_monotonic_time_and_is_slewed_to_the_wall_clock() {
        let start = 50 * JUMP_NS;
        // Passed monotonic time, the wall clock's lead over straight time, the expected change.
        let table: [(u64, i64, u64); 8] = [
            (1000, 0, 1000),
            (1000, 7, 1007),
            (1000, 5000, 1100),
            (1000, -7, 993),
            (1000, -5000, 900),
            (1000, JUMP_NS as i64, 1100),
            (1000, JUMP_NS as i64 + 1, 1000 + JUMP_NS + 1),
            (1000, -40 * JUMP_NS as i64, 900),
        ];
        for (passed, lead, expected) in table {
            let mut clock = LogClock::new(Timestamp(start), moment(77, 0));
            let wall_ns = (start + passed).checked_add_signed(lead).unwrap();
            clock.advance(moment(77 + passed, wall_ns));
            assert_eq!(clock.now().0 - start, expected, "passed {passed}, lead {lead}");
        }
    }

    #[test]
    fn a_restart_continues_at_the_log_or_the_wall_clock() {
        assert_eq!(LogClock::new(Timestamp(500), moment(1, 300)).now(), Timestamp(500));
        assert_eq!(LogClock::new(Timestamp(500), moment(1, 700)).now(), Timestamp(700));
    }

    #[test]
    fn a_deadline_is_judged_by_log_time_and_now() {
        let at = |deadline, log, now| Expiry::at(deadline, Timestamp(log), Timestamp(now));
        assert_eq!(at(0, 10, 20), Expiry::Live);
        assert_eq!(at(21, 10, 20), Expiry::Live);
        assert_eq!(at(20, 10, 20), Expiry::Due);
        assert_eq!(at(11, 10, 20), Expiry::Due);
        assert_eq!(at(10, 10, 20), Expiry::Passed);
        assert_eq!(at(20, 20, 10), Expiry::Passed, "log time may be ahead of a core's now");
    }

    proptest! {
        #[test]
        fn now_never_runs_backwards_nor_much_faster_than_time(
            steps in prop::collection::vec((0u64..5_000_000, any::<u32>()), 1..200),
        ) {
            let base = 1u64 << 40;
            let mut clock = LogClock::new(Timestamp(base), moment(0, base));
            let mut monotonic = 0;
            for (passed, wall) in steps {
                monotonic += passed;
                let before = clock.now().0;
                let wall_ns = base + u64::from(wall);
                clock.advance(moment(monotonic, wall_ns));
                let change = clock.now().0 - before;
                let jumped = clock.now().0 == wall_ns && wall_ns > before + passed + JUMP_NS;
                prop_assert!(change >= passed - passed / SLEW_DIVISOR);
                prop_assert!(jumped || change <= passed + passed / SLEW_DIVISOR);
            }
        }
    }
}
