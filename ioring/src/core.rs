//! One core: its tasks, timers and operations, and the driver below them.
//!
//! A core is installed on a thread while its code runs; the free functions of this crate act on the
//! core that is installed. Under `uring` a thread installs its core once; a simulation installs
//! many by turns on one thread.
//!
//! # Invariants
//!
//! * No cell is borrowed while a future is polled or dropped, or while a waker is woken: all three
//!   call back into the core.
//! * A future is dropped with its core installed, so that what it owns can reach the driver.

#![expect(unsafe_code, reason = "the installed core is a plain pointer: one load to reach it")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::driver::{Driver, Operation, Token};
use crate::operation::Operations;
use crate::stats::{Counters, Stats};
use crate::task::{Queue, Shares, TaskId, Tasks};
use crate::time::Instant;
use crate::timers::{TimerId, Timers};
use crate::waker::{SeatId, TaskName};

/// Number of a core within its node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// What is particular to a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreConfig {
    pub(crate) id: CoreId,
    pub(crate) shares: Shares,
    /// A task that holds the core longer than this is reported.
    pub(crate) stall_threshold: Duration,
}

/// See the module.
pub(crate) struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) seat: SeatId,
    pub(crate) driver: Rc<dyn Driver>,
    pub(crate) counters: Counters,
    tasks: RefCell<Tasks>,
    timers: RefCell<Timers>,
    operations: RefCell<Operations>,
    stall_reported: Cell<Instant>,
}

thread_local! {
    static INSTALLED: Cell<*const Core> = const { Cell::new(std::ptr::null()) };
}

/// Stalls are counted always and logged at most this often.
const STALL_LOG_INTERVAL: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) fn new(config: CoreConfig, driver: Rc<dyn Driver>) -> Rc<Core> {
        Rc::new(Core {
            config,
            seat: SeatId::take(),
            driver,
            counters: Counters::default(),
            tasks: RefCell::new(Tasks::new(config.shares)),
            timers: RefCell::new(Timers::default()),
            operations: RefCell::new(Operations::new()),
            stall_reported: Cell::new(Instant::from_nanos(0)),
        })
    }

    /// Runs `f` with this core installed on the thread.
    pub(crate) fn enter<R>(self: &Rc<Core>, f: impl FnOnce() -> R) -> R {
        struct Restore(*const Core);
        impl Drop for Restore {
            fn drop(&mut self) {
                INSTALLED.set(self.0);
            }
        }
        let _restore = Restore(INSTALLED.replace(Rc::as_ptr(self)));
        f()
    }

    /// Calls `f` with the installed core.
    ///
    /// # Panics
    /// If none is installed.
    pub(crate) fn with<R>(f: impl FnOnce(&Core) -> R) -> R {
        Core::try_with(f).expect("called on a thread without a runtime")
    }

    /// Calls `f` with the installed core, if there is one.
    pub(crate) fn try_with<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
        let installed = INSTALLED.get();
        // SAFETY: `enter` holds a reference to the core as long as the pointer is installed.
        (!installed.is_null()).then(|| f(unsafe { &*installed }))
    }

    /// Wakes a task if it is one of the installed core.
    pub(crate) fn wake_if_installed(name: TaskName) -> bool {
        let installed = INSTALLED.get();
        if installed.is_null() {
            return false;
        }
        // SAFETY: as in `try_with`.
        let core = unsafe { &*installed };
        if core.seat != name.seat {
            return false;
        }
        core.tasks.borrow_mut().wake(TaskId { slot: name.slot, generation: name.generation });
        true
    }

    /// Adds a task whose output goes nowhere.
    pub(crate) fn spawn_boxed(
        &self,
        queue: Queue,
        name: &'static str,
        future: impl Future<Output = ()> + 'static,
    ) -> TaskId {
        let future = Box::pin(future);
        self.tasks.borrow_mut().insert(queue, name, |_| future)
    }

    /// Ends a task early.
    pub(crate) fn cancel_task(&self, id: TaskId) {
        let future = self.tasks.borrow_mut().cancel(id);
        drop(future);
    }

    /// Makes tasks runnable that other threads (other cores) woke.
    pub(crate) fn absorb_wakes(&self) {
        self.seat.seat().board.take(|slot| {
            self.counters.wakes_received.set(self.counters.wakes_received.get() + 1);
            self.tasks.borrow_mut().wake_slot(slot as u16);
        });
    }

    /// Wakes the tasks whose timers are due.
    pub(crate) fn fire_timers(&self, now: Instant) {
        loop {
            let Some(waker) = self.timers.borrow_mut().pop_due(now) else { return };
            waker.wake();
        }
    }

    /// When the first timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.borrow().next_deadline()
    }

    /// Tasks that can be polled now.
    pub(crate) fn runnable(&self) -> usize {
        self.tasks.borrow().runnable()
    }

    /// Tasks that exist.
    pub(crate) fn live_tasks(&self) -> usize {
        self.tasks.borrow().live()
    }

    /// Polls the next task, as the shares say. `started` is the present, and becomes the time after
    /// the poll. False if nothing is runnable. The core has to be installed.
    pub(crate) fn poll_next(&self, time: &mut Instant) -> bool {
        let taken = self.tasks.borrow_mut().take_next();
        taken.is_some_and(|taken| self.poll_taken(taken, time))
    }

    /// Polls the `position`-th of the runnable tasks. The core has to be installed.
    pub(crate) fn poll_at(&self, position: usize) -> bool {
        let taken = self.tasks.borrow_mut().take_at(position);
        taken.is_some_and(|taken| self.poll_taken(taken, &mut self.driver.now()))
    }

    fn poll_taken(&self, taken: crate::task::Taken, time: &mut Instant) -> bool {
        let crate::task::Taken { id, mut future, queue, name } = taken;
        let (slot, generation) = (id.slot, id.generation);
        let waker = TaskName { seat: self.seat, slot, generation }.waker();
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let dropped = if poll.is_ready() {
            self.tasks.borrow_mut().finish(id);
            Some(future)
        } else {
            self.tasks.borrow_mut().put_back(id, future)
        };
        drop(dropped);
        let now = self.driver.now();
        let held = now.since(*time);
        *time = now;
        self.counters.polls.set(self.counters.polls.get() + 1);
        self.tasks.borrow_mut().charge(queue, held.as_nanos() as u64);
        if held > self.config.stall_threshold {
            self.report_stall(queue, name, held, now);
        }
        true
    }

    #[cold]
    fn report_stall(&self, queue: Queue, name: &'static str, held: Duration, now: Instant) {
        self.counters.stalls.set(self.counters.stalls.get() + 1);
        let longest = self.counters.stall_longest_ns.get().max(held.as_nanos() as u64);
        self.counters.stall_longest_ns.set(longest);
        let last = self.stall_reported.get();
        if last.as_nanos() == 0 || now.since(last) >= STALL_LOG_INTERVAL {
            self.stall_reported.set(now);
            let held_us = held.as_micros() as u64;
            let (core, queue) = (self.config.id.0, queue.name());
            tracing::warn!(core, task = name, queue, held_us, "a task held its core too long");
        }
    }

    /// Hands an operation to the driver.
    pub(crate) fn submit(&self, operation: Operation) -> Token {
        self.counters.operations.set(self.counters.operations.get() + 1);
        let mut operations = self.operations.borrow_mut();
        let token = operations.insert(operation);
        self.driver.submit(token, operations.get_mut(token));
        token
    }

    /// Lets the driver look at an operation in flight, to fill its buffer for one.
    pub(crate) fn with_operation<R>(&self, token: Token, f: impl FnOnce(&mut Operation) -> R) -> R {
        f(self.operations.borrow_mut().get_mut(token))
    }

    /// Delivers the result of an operation; called by the driver's loop, with the core installed.
    pub(crate) fn complete(&self, token: Token, result: i32) {
        let (waker, abandoned) = self.operations.borrow_mut().complete(token, result);
        drop(abandoned);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll_operation(&self, token: Token, waker: &Waker) -> Poll<(i32, Operation)> {
        self.operations.borrow_mut().poll(token, waker)
    }

    pub(crate) fn abandon(&self, token: Token, cancel: bool) {
        let done = self.operations.borrow_mut().abandon(token);
        if done.is_none() && cancel {
            self.driver.cancel(token);
        }
    }

    /// Operations that the driver has not completed.
    pub(crate) fn operations_in_flight(&self) -> usize {
        self.operations.borrow().in_flight()
    }

    /// Asks the driver for an early end of everything in flight.
    pub(crate) fn cancel_operations(&self) {
        let tokens = self.operations.borrow().tokens_in_flight();
        for token in tokens {
            self.driver.cancel(token);
        }
    }

    pub(crate) fn insert_timer(&self, deadline: Instant, waker: &Waker) -> TimerId {
        self.timers.borrow_mut().insert(deadline, waker.clone())
    }

    pub(crate) fn renew_timer(&self, id: TimerId, waker: &Waker) -> bool {
        self.timers.borrow_mut().renew(id, waker)
    }

    pub(crate) fn remove_timer(&self, id: TimerId) {
        self.timers.borrow_mut().remove(id);
    }

    /// Drops all tasks, and those that they start while being dropped. The core has to be
    /// installed.
    pub(crate) fn drop_tasks(&self) {
        loop {
            let Some(future) = self.tasks.borrow_mut().cancel_any() else { return };
            drop(future);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.counters.stats();
        stats.tasks = self.live_tasks() as u64;
        stats
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.seat.leave();
    }
}
