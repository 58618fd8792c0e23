//! What the beats have paid, and how far the jobs have got: the two counters between them.
//!
//! Work is counted in input blocks, over all jobs of a bar. A beat raises the *target*; the jobs
//! take one unit before they read an input block ([`Budget::take`]) and wait while they have taken
//! as many as the target allows. The *debt* is what the target is ahead of what was done: input
//! read and merged. Whoever applies ops waits while the debt is above its bound
//! ([`Budget::within`]), so a disk that does not keep up slows the log down instead of letting work
//! pile up for the bar's end.
//!
//! The counters decide when work is done, never what: a job's output is a function of its plan.

use std::cell::Cell;
use std::rc::Rc;

use ioring::sync::Event;

/// Debt beyond which applying waits is this part of the bar's work, and a few blocks.
const DEBT_SHARE: u64 = 8;
const DEBT_BLOCKS: u64 = 4;

pub(crate) struct Budget {
    total: Cell<u64>,
    target: Cell<u64>,
    taken: Cell<u64>,
    finished: Cell<bool>,
    /// Raised target: jobs wait on it.
    raised: Event,
    /// Work done: the owner waits on it.
    done: Event,
}

impl Budget {
    /// The budget of a bar whose jobs have this much work in all.
    pub(crate) fn new(total: u64) -> Rc<Budget> {
        Rc::new(Budget {
            total: Cell::new(total),
            target: Cell::new(0),
            taken: Cell::new(0),
            finished: Cell::new(false),
            raised: Event::new(),
            done: Event::new(),
        })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.get()
    }

    /// Work that is paid for.
    pub(crate) fn paid(&self) -> u64 {
        self.target.get()
    }

    /// Work that is paid for and not done.
    pub(crate) fn debt(&self) -> u64 {
        if self.finished.get() {
            return 0;
        }
        self.target.get().saturating_sub(self.taken.get())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get()
    }

    /// Lets the jobs go on to `target`, at most all; gives how much further that is.
    pub(crate) fn raise(&self, target: u64) -> u64 {
        let target = target.min(self.total.get());
        let further = target.saturating_sub(self.target.get());
        if further > 0 {
            self.target.set(target);
            self.raised.notify();
        }
        further
    }

    /// Takes a unit of work, waiting until it is paid for.
    pub(crate) async fn take(&self) {
        while self.taken.get() >= self.target.get() {
            assert!(self.taken.get() < self.total.get(), "a job does more than was planned");
            self.raised.wait().await;
        }
        self.taken.set(self.taken.get() + 1);
        self.done.notify();
    }

    /// Less is to be done than was planned: a job has seen what its inputs really hold. The same
    /// share of it stays paid for.
    pub(crate) fn reduce(&self, by: u64) {
        assert_eq!(self.taken.get(), 0, "all jobs are laid out before one begins");
        let (before, total) = (self.total.get(), self.total.get() - by);
        if before > 0 {
            let target = u128::from(self.target.get()) * u128::from(total);
            self.target.set(target.div_ceil(u128::from(before)) as u64);
        }
        self.total.set(total);
        self.done.notify();
    }

    /// Counts everything up to `planned` as done: what a job that gave up left behind.
    pub(crate) fn skip_to(&self, planned: u64) {
        self.taken.set(self.taken.get().max(planned));
        self.done.notify();
    }

    /// All jobs are done.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
        self.done.notify();
    }

    /// Debt beyond which applying waits: a part of the work, and a few blocks.
    pub(crate) fn debt_max(&self) -> u64 {
        self.total() / DEBT_SHARE + DEBT_BLOCKS
    }

    /// Waits until the debt is within its bound.
    pub(crate) async fn within(&self) {
        while self.debt() > self.debt_max() {
            self.done.wait().await;
        }
    }

    /// Waits until all jobs are done.
    pub(crate) async fn finished(&self) {
        while !self.finished.get() {
            self.done.wait().await;
        }
    }
}
