//! Durable writes in flight: what a core does differently while it has any.
//!
//! A durable write is what clients wait for: everybody whose request is in it, and, with group
//! commit, everybody whose request goes into the next one. Left to the ordinary turn, it would
//! start after the turn's last poll and be noticed after the turn's last send; with fifty replies
//! to send, each some microseconds of the kernel's network code, a write of 100 µs takes 400.
//! Therefore:
//!
//! 1. It is handed to the kernel when it is submitted, not at the end of the turn: the device works
//!    while the turn goes on.
//! 2. While one is in flight the kernel gets other requests in lots of [`LOT`], and completions are
//!    looked at in between.
//! 3. A core with nothing to do looks for its completion instead of sleeping, if this device is
//!    quick ([`LOOK_MAX`]): falling asleep and waking up costs more than the rest of the wait, and
//!    waking a sleeping core costs the peer that sends to it. It yields between looks: on a disk
//!    without forced unit access the kernel ends the write in a thread, perhaps of this processor.
//!    Only with `Idle::Adaptive`: the other policies say themselves what to do.
//!
//! How long a write takes is estimated from below: a completion that was noticed late says nothing
//! of the device, so a shorter time counts at once and longer ones gradually.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

/// Requests handed over at a time while a durable write is in flight.
pub(super) const LOT: u32 = 16;

/// Devices that take longer are waited for asleep.
const LOOK_MAX: Duration = Duration::from_micros(250);

/// Longer times count by this part of the difference.
const SLOWER_SHARE: u32 = 256;

/// See the module.
pub(super) struct DurableWrites {
    in_flight: Cell<u32>,
    /// When the newest of them began.
    started: Cell<Instant>,
    /// Whether that one has been the only one so far.
    alone: Cell<bool>,
    /// How long one takes, as far as is known.
    expected: Cell<Duration>,
}

impl Default for DurableWrites {
    fn default() -> DurableWrites {
        DurableWrites {
            in_flight: Cell::new(0),
            started: Cell::new(Instant::from_nanos(0)),
            alone: Cell::new(false),
            expected: Cell::new(LOOK_MAX),
        }
    }
}

impl DurableWrites {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.in_flight.get() > 0
    }

    pub(super) fn on_submit(&self, now: Instant) {
        self.started.set(now);
        self.alone.set(!self.any());
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// One completed. Only one that was alone is a measure of the device.
    pub(super) fn on_complete(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get() - 1);
        if !self.alone.get() {
            return;
        }
        let took = now.since(self.started.get());
        let expected = self.expected.get();
        self.expected.set(match took.checked_sub(expected) {
            None => took,
            Some(longer) => expected + longer / SLOWER_SHARE,
        });
    }

    /// Until when to look for a completion before sleeping: twice the time that it should take.
    pub(super) fn look_until(&self) -> Option<Instant> {
        let expected = self.expected.get();
        let looks = self.any() && expected <= LOOK_MAX;
        looks.then(|| self.started.get() + expected * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    fn write(writes: &DurableWrites, from: u64, us: u64) {
        writes.on_submit(at(from));
        writes.on_complete(at(from + us));
    }

    #[test]
    fn a_quick_device_is_looked_at_until_it_should_be_done() {
        let writes = DurableWrites::default();
        assert_eq!(writes.look_until(), None);
        write(&writes, 0, 100);
        writes.on_submit(at(1000));
        assert_eq!(writes.look_until(), Some(at(1200)));
        writes.on_complete(at(1100));
        assert_eq!(writes.look_until(), None);
    }

    #[test]
    fn completions_noticed_late_count_little_and_a_slow_device_is_slept_for() {
        let writes = DurableWrites::default();
        write(&writes, 0, 100);
        write(&writes, 1000, 356);
        writes.on_submit(at(2000));
        assert_eq!(writes.look_until(), Some(at(2000 + 202)));
        writes.on_complete(at(2100));
        for round in 3..1000 {
            write(&writes, round * 10_000, 5000);
        }
        writes.on_submit(at(100_000_000));
        assert_eq!(writes.look_until(), None);
        assert!(writes.any());
    }

    #[test]
    fn several_are_looked_for_together_and_measure_nothing() {
        let writes = DurableWrites::default();
        write(&writes, 0, 100);
        writes.on_submit(at(1000));
        writes.on_submit(at(1050));
        assert_eq!(writes.look_until(), Some(at(1250)));
        writes.on_complete(at(1060));
        assert_eq!(writes.look_until(), Some(at(1250)));
        writes.on_complete(at(1061));
        assert!(!writes.any());
        writes.on_submit(at(2000));
        assert_eq!(writes.look_until(), Some(at(2200)));
    }
}
