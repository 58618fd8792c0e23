//! Crash states of a recorded workload: the ALICE method.
//!
//! "All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
//! Applications" (Pillai et al., OSDI '14): record every write, sync and change of a directory that
//! a workload makes, then build each state that a crash could have left behind and let the
//! application recover from it.
//!
//! 1. [`crate::sim::disk::SimDisk::record`] starts a trace; the workload runs once, and notes what
//!    it has acknowledged ([`crate::sim::disk::SimDisk::note`]).
//! 2. For every prefix of the trace the disk is replayed up to it. What syncs covered is fixed;
//!    left open are the *atoms*: sectors of writes in flight or not synced, lengths, names.
//! 3. If few atoms are open, all their combinations are built; if many, a seeded sample of them
//!    that always has "all lost", "all kept" and, for each atom in turn as far as the limit
//!    allows, "only this one lost" and "only this one kept".
//! 4. Each state says what had been noted before its crash, so that a checker knows what must be
//!    there and what may be.
//!
//! ```
//! use ioring::sim::{DiskConfig, SimDisk, trace};
//!
//! let mut disk = SimDisk::new(DiskConfig::default(), 1);
//! disk.record();
//! disk.create_dir("a".as_ref()).unwrap();
//! disk.sync_dir("/".as_ref()).unwrap();
//! disk.note(1); // from here on the directory was promised
//! let trace = disk.take_trace().unwrap();
//! for state in trace::crash_states(&trace, 1000, 7) {
//!     let promised = state.notes.contains(&1);
//!     assert!(!promised || state.disk.metadata("a".as_ref()).is_ok());
//! }
//! ```
//!
//! States of one trace share unchanged data, so thousands of them fit in memory one at a time.

use std::collections::VecDeque;

use super::dice::Dice;
use super::disk::{Event, SimDisk};

/// What happened to a disk, from a starting state on.
#[derive(Clone)]
pub struct Trace {
    start: Box<SimDisk>,
    events: Vec<Event>,
}

impl Trace {
    pub(crate) fn new(start: SimDisk) -> Trace {
        Trace { start: Box::new(start), events: Vec::new() }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Number of events; a crash can come before, between and after them.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// One disk that a crash could have left behind.
pub struct CrashState {
    /// Events that had happened.
    pub prefix: usize,
    /// Which of the atoms left open were kept, in the order asked; names the state in messages.
    pub kept: Vec<bool>,
    /// What the workload had noted before the crash.
    pub notes: Vec<u64>,
    /// The disk as found after the crash.
    pub disk: SimDisk,
}

/// The crash states of every prefix: all of them where a prefix has no more than its share of
/// `limit`, otherwise that share (at least two), chosen by `seed`.
pub fn crash_states(trace: &Trace, limit: usize, seed: u64) -> CrashStates<'_> {
    CrashStates {
        trace,
        live: (*trace.start).clone(),
        prefix: 0,
        notes: Vec::new(),
        choices: VecDeque::new(),
        per_prefix: (limit / (trace.len() + 1)).max(2),
        dice: Dice::new(seed, "crash states"),
        started: false,
    }
}

/// Iterator of [`crash_states`].
pub struct CrashStates<'a> {
    trace: &'a Trace,
    live: SimDisk,
    prefix: usize,
    notes: Vec<u64>,
    choices: VecDeque<Vec<bool>>,
    per_prefix: usize,
    dice: Dice,
    started: bool,
}

impl CrashStates<'_> {
    /// Decides which combinations of the open atoms to build at the present prefix.
    fn choose(&mut self) {
        let mut atoms = 0;
        self.live.clone().crash(&mut |_| {
            atoms += 1;
            false
        });
        let combinations = 1usize.checked_shl(atoms as u32).filter(|_| atoms < 20);
        if let Some(combinations) = combinations.filter(|all| *all <= self.per_prefix) {
            let all = (0..combinations).map(|bits| (0..atoms).map(move |a| bits >> a & 1 == 1));
            self.choices.extend(all.map(Iterator::collect));
            return;
        }
        let only = |one: usize, kept: bool| (0..atoms).map(|a| (a == one) == kept).collect();
        let mut chosen: Vec<Vec<bool>> = vec![vec![false; atoms], vec![true; atoms]];
        let singles = self.per_prefix.saturating_sub(2) / 2;
        let first = self.dice.below(atoms as u64) as usize;
        for step in 0..(singles / 2).min(atoms) {
            let atom = (first + step) % atoms;
            chosen.push(only(atom, true));
            chosen.push(only(atom, false));
        }
        while chosen.len() < self.per_prefix {
            chosen.push(self.draw(atoms));
        }
        self.choices.extend(chosen);
    }

    /// Runs of equal answers as often as independent ones: large writes are then lost, kept or cut.
    fn draw(&mut self, atoms: usize) -> Vec<bool> {
        let change = if self.dice.coin() { 500_000 } else { 1_000_000 / (atoms as u32 / 2 + 1) };
        let mut kept = self.dice.coin();
        let dice = &mut self.dice;
        (0..atoms)
            .map(|_| {
                kept ^= dice.chance(change);
                kept
            })
            .collect()
    }
}

impl Iterator for CrashStates<'_> {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        if !self.started {
            self.started = true;
            self.choose();
        }
        while self.choices.is_empty() {
            let event = self.trace.events.get(self.prefix)?.clone();
            self.prefix += 1;
            if let Event::Note(value) = event {
                self.notes.push(value);
            }
            self.live.apply(event);
            self.choose();
        }
        let kept = self.choices.pop_front()?;
        let mut disk = self.live.clone();
        let mut answers = kept.iter();
        disk.crash(&mut |_| *answers.next().expect("as many atoms as were counted"));
        Some(CrashState { prefix: self.prefix, kept, notes: self.notes.clone(), disk })
    }
}
