//! When what is done though nothing happens: the timers of a replica with peers.
//!
//! | timer | runs | when it fires |
//! | --- | --- | --- |
//! | heartbeat | at the primary | a commit message goes to all backups |
//! | contact | at the primary | no quorum was heard: it falls silent and would leave the view |
//! | silence | at a backup, and before a view has begun | this replica would leave the view |
//! | again | while something is asked that may be lost | it is asked again |
//! | retransmit | at the primary while ops wait for a quorum | their prepares are sent again |
//! | repair | while something is missing | it is asked of the next peer |
//! | ping | always | round trips are measured |
//!
//! *Silence* is what fail-over waits for, so it is short, and wrong now and then: a pre-vote costs
//! nothing, and no view begins before a quorum would leave the old one. Three things keep two
//! candidates from spoiling each other's views for ever: each timeout is spread at random over half
//! its length, it doubles with every view that did not begin, and it grows with the round trips.

use ioring::Random;

/// How long the protocol waits for what, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between a primary's heartbeats.
    pub heartbeat_ns: u64,
    /// Without a sign of the primary, or of a new view's beginning.
    pub silence_ns: u64,
    /// The most that [`Timing::silence_ns`] grows to.
    pub silence_max_ns: u64,
    /// Without a quorum of backups heard.
    pub contact_ns: u64,
    /// Until an unanswered question is asked again.
    pub again_ns: u64,
    /// Until a prepare without a quorum is sent again, at first.
    pub retransmit_ns: u64,
    /// Until what is missing is asked of the next peer.
    pub repair_ns: u64,
    /// Between pings.
    pub ping_ns: u64,
    /// A disk is slow that takes ten times as long as the backups' answers, and this at least.
    pub slow_disk_ns: u64,
}

const MS: u64 = 1_000_000;

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat_ns: 25 * MS,
            silence_ns: 120 * MS,
            silence_max_ns: 2000 * MS,
            contact_ns: 200 * MS,
            again_ns: 40 * MS,
            retransmit_ns: 20 * MS,
            repair_ns: 10 * MS,
            ping_ns: 500 * MS,
            slow_disk_ns: 20 * MS,
        }
    }
}

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    Heartbeat,
    Contact,
    Silence,
    Again,
    Retransmit,
    Repair,
    Ping,
}

const TIMERS: [Timer; 7] = [
    Timer::Heartbeat,
    Timer::Contact,
    Timer::Silence,
    Timer::Again,
    Timer::Retransmit,
    Timer::Repair,
    Timer::Ping,
];

/// The timers: when each fires, if it runs.
#[derive(Debug)]
pub(super) struct Timers {
    at_ns: [Option<u64>; TIMERS.len()],
    random: Random,
}

impl Timers {
    pub(super) fn new(seed: u64, replica: u8) -> Timers {
        let mut bytes = [replica; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Timers { at_ns: [None; TIMERS.len()], random: Random::from_seed(bytes) }
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Has a timer fire at this time, whatever it was set to.
    pub(super) fn set(&mut self, timer: Timer, at_ns: u64) {
        self.at_ns[timer as usize] = Some(at_ns);
    }

    /// Has a timer fire after `length_ns` and up to half of it more.
    pub(super) fn spread(&mut self, timer: Timer, now_ns: u64, length_ns: u64) {
        let more = self.random.below(length_ns / 2 + 1);
        self.set(timer, now_ns + length_ns + more);
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.at_ns[timer as usize] = None;
    }

    pub(super) fn stop_all(&mut self) {
        self.at_ns = Default::default();
    }

    pub(super) fn runs(&self, timer: Timer) -> bool {
        self.at_ns[timer as usize].is_some()
    }

    /// A timer that is due; it is stopped.
    pub(super) fn fire(&mut self, now_ns: u64) -> Option<Timer> {
        let due = |timer: &Timer| self.at_ns[*timer as usize].is_some_and(|at| at <= now_ns);
        let timer = TIMERS.into_iter().find(due)?;
        self.stop(timer);
        Some(timer)
    }

    /// When the next one fires.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.at_ns.iter().flatten().min().copied()
    }
}

const _: () = {
    let mut index = 0;
    while index < TIMERS.len() {
        assert!(TIMERS[index] as usize == index);
        index += 1;
    }
};
