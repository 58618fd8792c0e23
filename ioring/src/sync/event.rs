//! Something happened.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes the tasks that wait when it is notified. A notification that nobody waits for is kept for the
/// next one who does, once: check the condition, then wait, and nothing is missed.
#[derive(Default)]
pub struct Event {
    notified: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Counts notifications that found somebody waiting.
    rounds: Cell<u64>,
}

impl Event {
    /// Nothing has happened yet.
    pub fn new() -> Event {
        Event::default()
    }

    /// Wakes all that wait; if nobody does, the next `wait` returns at once.
    pub fn notify(&self) {
        if self.waiting.borrow().is_empty() {
            self.notified.set(true);
            return;
        }
        self.rounds.set(self.rounds.get() + 1);
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Waits for the next notification.
    pub async fn wait(&self) {
        if self.notified.replace(false) {
            return;
        }
        let round = self.rounds.get();
        poll_fn(|context| {
            if self.rounds.get() != round {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event({} waiting)", self.waiting.borrow().len())
    }
}
