//! Something happened.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::waiters::{Ticket, Waiters};

/// Wakes the tasks that wait when it is notified. A notification that nobody waits for is kept for
/// the next one who does, once: check the condition, then wait, and nothing is missed.
#[derive(Default)]
pub struct Event {
    notified: Cell<bool>,
    waiters: RefCell<Waiters>,
}

impl Event {
    /// Nothing has happened yet.
    pub fn new() -> Event {
        Event::default()
    }

    /// Wakes all that wait; if nobody does, the next `wait` returns at once.
    pub fn notify(&self) {
        let mut next = self.waiters.borrow_mut().call_up();
        self.notified.set(next.is_none());
        while let Some(waker) = next {
            waker.wake();
            next = self.waiters.borrow_mut().call_up();
        }
    }

    /// Waits for the next notification.
    pub fn wait(&self) -> Wait<'_> {
        Wait { event: self, ticket: None }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event(notified: {})", self.notified.get())
    }
}

/// Waits for a notification; see [`Event::wait`].
#[must_use = "a future does nothing unless awaited"]
pub struct Wait<'a> {
    event: &'a Event,
    ticket: Option<Ticket>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let event = self.event;
        match self.ticket {
            Some(ticket) if !event.waiters.borrow().contains(ticket) => {
                self.ticket = None;
                return Poll::Ready(());
            }
            None if event.notified.replace(false) => return Poll::Ready(()),
            _ => {}
        }
        self.ticket = Some(event.waiters.borrow_mut().join(self.ticket, context.waker()));
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        if !self.event.waiters.borrow_mut().leave(ticket) {
            // It was notified and will never act on it: whoever waits next shall look again.
            self.event.notified.set(true);
        }
    }
}
