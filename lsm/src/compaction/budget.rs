//! What the beats have paid, and how far the jobs have got: the two counters between them.
//!
//! Work is counted in input blocks, over all jobs of a bar. A beat raises the *target*. What is
//! *done* follows it: a [`Meter`] counts a job's entries as they are merged, many times a block.
//! The jobs take one unit before they read an input block ([`Budget::take`]), and wait while as
//! much is done as the target allows. The *debt* is what the target is ahead of what is done.
//! Whoever applies ops waits while the debt is above its bound ([`Budget::within`]), so a disk that
//! does not keep up slows the log down instead of letting work pile up for the bar's end.
//!
//! Reading counts for nothing: a merge of many runs holds two blocks of each. Were they counted
//! when they are read, the end of a job would do them all without anyone being told, and who waits
//! for the debt to fall would wait for the next job.
//!
//! Beats pay a little more than their share, and the bound falls as the bar goes on. Of a disk or a
//! core that is busy every op feels a little, and the op that ends the bar not all of it.
//!
//! The counters decide when work is done, never what: a job's output is a function of its plan.
//! Nobody waits for ever: with debt, jobs may read, and reading they get on. A job's work counts as
//! done in full only when the job is over, so at the bar's end, when all is paid for, none of them
//! waits.

use std::cell::Cell;
use std::rc::Rc;

use ioring::sync::Event;

use crate::bar::Progress;

/// What beats pay, over their share of a bar: the jobs have the rest of it to catch up, so that the
/// bar's end finds them done and need not wait.
const AHEAD: (u64, u64) = (4, 3);
/// Debt beyond which applying waits is this part of the bar's work, and never more than the part of
/// the bar that is left: what is late is caught up with in many short waits, and not in a long one
/// at the end. The last blocks are written in the end that is cut off.
const DEBT_SHARE: u64 = 4;
const CAUGHT_UP: (u64, u64) = (15, 16);

/// Parts of a unit in which is counted what is done.
const PARTS: u64 = 1 << 10;

pub(crate) struct Budget {
    total: Cell<u64>,
    progress: Cell<Progress>,
    target: Cell<u64>,
    taken: Cell<u64>,
    /// In parts.
    done: Cell<u64>,
    finished: Cell<bool>,
    /// Raised target: jobs wait on it.
    raised: Event,
    /// More is done: the owner waits on it.
    furthered: Event,
}

impl Budget {
    /// The budget of a bar whose jobs have this much work in all.
    pub(crate) fn new(total: u64) -> Rc<Budget> {
        Rc::new(Budget {
            total: Cell::new(total),
            progress: Cell::new(Progress::default()),
            target: Cell::new(0),
            taken: Cell::new(0),
            done: Cell::new(0),
            finished: Cell::new(false),
            raised: Event::new(),
            furthered: Event::new(),
        })
    }

    /// A budget that pays for whatever is done.
    pub(crate) fn paid() -> Rc<Budget> {
        let budget = Budget::new(u64::MAX);
        budget.target.set(u64::MAX);
        budget
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.get()
    }

    /// Work that is paid for.
    pub(crate) fn target(&self) -> u64 {
        self.target.get()
    }

    /// Work that is paid for and not done.
    pub(crate) fn debt(&self) -> u64 {
        if self.finished.get() {
            return 0;
        }
        self.target.get().saturating_sub(self.done.get() / PARTS)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get()
    }

    /// Lets the jobs go on as far as a bar's progress pays for; gives how much further that is.
    pub(crate) fn pay(&self, progress: Progress) -> u64 {
        self.progress.set(self.progress.get().max(progress));
        let before = self.target.get();
        self.set_target();
        if self.target.get() > before {
            self.raised.notify();
        }
        self.target.get() - before
    }

    fn set_target(&self) {
        let (total, progress) = (self.total.get(), self.progress.get());
        let target = progress.share_of(total * AHEAD.0).div_ceil(AHEAD.1);
        self.target.set(target.min(total));
    }

    /// Takes a unit of work, waiting until it is paid for.
    pub(crate) async fn take(&self) {
        while self.done.get() / PARTS >= self.target.get() {
            self.raised.wait().await;
        }
        assert!(self.taken.get() < self.total.get(), "a job does more than was planned");
        self.taken.set(self.taken.get() + 1);
    }

    /// So many parts are done of all.
    fn reach(&self, parts: u64) {
        if parts > self.done.get() {
            self.done.set(parts);
            self.furthered.notify();
        }
    }

    /// Less is to be done than was planned: a job has seen what its inputs really hold.
    pub(crate) fn reduce(&self, by: u64) {
        assert_eq!(self.taken.get(), 0, "all jobs are laid out before one begins");
        self.total.set(self.total.get() - by);
        self.set_target();
        self.furthered.notify();
    }

    /// All jobs are done.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
        self.furthered.notify();
    }

    /// Debt beyond which applying waits.
    pub(crate) fn debt_max(&self) -> u64 {
        let total = self.total();
        let over = self.progress.get().share_of(total * CAUGHT_UP.1).div_ceil(CAUGHT_UP.0);
        total.saturating_sub(over).min(total / DEBT_SHARE) + 1
    }

    /// Waits until the debt is within its bound.
    pub(crate) async fn within(&self) {
        while self.debt() > self.debt_max() {
            self.furthered.wait().await;
        }
    }

    /// Waits until all jobs are done.
    pub(crate) async fn finished(&self) {
        while !self.finished.get() {
            self.furthered.wait().await;
        }
    }
}

/// Counts what one job does.
pub(crate) struct Meter {
    budget: Rc<Budget>,
    /// What the jobs before it were to do, and what it is to do, in units.
    before: u64,
    work: u64,
    /// Entries it has to merge, about.
    entries: u64,
}

impl Meter {
    pub(crate) fn new(budget: &Rc<Budget>, before: u64, work: u64, entries: u64) -> Meter {
        Meter { budget: Rc::clone(budget), before, work, entries }
    }

    /// So many entries are merged. That is never all of the work: there may be more entries than
    /// were thought, as a memtable has versions beside its keys, and to get to them the job has
    /// to read.
    pub(crate) fn merged(&self, entries: u64) {
        let work = self.work * PARTS;
        let parts = work.saturating_mul(entries) / self.entries.max(1);
        self.budget.reach(self.before * PARTS + parts.min(work.saturating_sub(1)));
    }

    /// Whether no more than so many units are left after these entries, and they are paid for.
    pub(crate) fn nears_end(&self, entries: u64, units: u64) -> bool {
        let left = self.entries.saturating_sub(entries) * self.work;
        left <= units * self.entries && self.budget.debt() > 0
    }

    /// The job is over. One that gave up leaves work behind that nobody will do.
    pub(crate) fn ended(&self) {
        self.budget.reach((self.before + self.work) * PARTS);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn debt_falls_with_every_part_of_a_block_that_is_merged() {
        let budget = Budget::new(10);
        assert_eq!(budget.pay(Progress::WHOLE), 10);
        let meter = Meter::new(&budget, 0, 6, 100);
        meter.merged(50);
        assert_eq!(budget.debt(), 7);
        meter.merged(66);
        assert_eq!(budget.debt(), 7, "nearly four");
        meter.merged(67);
        assert_eq!(budget.debt(), 6);
        meter.ended();
        assert_eq!(budget.debt(), 4);
        // Nothing that could be counted.
        let meter = Meter::new(&budget, 6, 4, 0);
        meter.merged(0);
        assert_eq!(budget.debt(), 4);
        meter.ended();
        assert_eq!((budget.debt(), budget.is_finished()), (0, false));
    }

    #[test]
    fn a_job_with_more_entries_than_were_thought_may_read_to_its_end() {
        let budget = Budget::new(3);
        budget.pay(Progress::WHOLE);
        let meter = Meter::new(&budget, 0, 3, 100);
        for entries in [0, 100, 5000] {
            meter.merged(entries);
            let taken = pin!(budget.take()).poll(&mut Context::from_waker(Waker::noop()));
            assert!(taken.is_ready(), "after {entries} entries");
        }
        meter.ended();
        assert_eq!(budget.debt(), 0);
    }
}
