//! A fixed number of I/O slots.
//!
//! Concurrency is bounded by slots and not by hope: each class of I/O has its own, and who finds
//! none free stands in line. A slot that comes free is handed to the first in line and never to
//! somebody who happens to ask at that moment.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::waiters::{Ticket, Waiters};

struct Shared {
    free: Cell<usize>,
    total: usize,
    waiters: RefCell<Waiters>,
}

/// A number of slots; clones are handles to the same.
#[derive(Clone)]
pub struct Slots {
    shared: Rc<Shared>,
}

impl Slots {
    /// `count` slots, all free.
    pub fn new(count: usize) -> Slots {
        assert!(count > 0, "without slots nothing can ever run");
        let (free, waiters) = (Cell::new(count), RefCell::default());
        Slots { shared: Rc::new(Shared { free, total: count, waiters }) }
    }

    /// Waits in line for a slot.
    pub fn acquire(&self) -> Acquire {
        Acquire { shared: self.shared.clone(), ticket: None }
    }

    /// A slot, if one is free and nobody is in line.
    pub fn try_acquire(&self) -> Option<Slot> {
        let free = self.shared.free.get();
        if free == 0 {
            return None;
        }
        self.shared.free.set(free - 1);
        Some(Slot { shared: self.shared.clone() })
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.shared.free.get()
    }

    /// All slots.
    pub fn total(&self) -> usize {
        self.shared.total
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slots({} of {} free)", self.free(), self.total())
    }
}

/// A slot taken; dropping it frees it.
#[must_use = "dropping the slot frees it"]
pub struct Slot {
    shared: Rc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        hand_over(&self.shared);
    }
}

/// Gives a slot that became free to the first in line, or back.
fn hand_over(shared: &Shared) {
    let next = shared.waiters.borrow_mut().call_up();
    match next {
        // Called up with the slot: it stays taken.
        Some(waker) => waker.wake(),
        None => shared.free.set(shared.free.get() + 1),
    }
}

/// Waits for a slot; see [`Slots::acquire`].
#[must_use = "a future does nothing unless awaited"]
pub struct Acquire {
    shared: Rc<Shared>,
    ticket: Option<Ticket>,
}

impl Future for Acquire {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Slot> {
        let shared = self.shared.clone();
        if let Some(ticket) = self.ticket {
            if shared.waiters.borrow().contains(ticket) {
                shared.waiters.borrow_mut().join(self.ticket, context.waker());
                return Poll::Pending;
            }
            self.ticket = None;
            return Poll::Ready(Slot { shared });
        }
        if shared.free.get() > 0 {
            shared.free.set(shared.free.get() - 1);
            return Poll::Ready(Slot { shared });
        }
        self.ticket = Some(shared.waiters.borrow_mut().join(None, context.waker()));
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let in_line = self.shared.waiters.borrow_mut().leave(ticket);
        if !in_line {
            // It was called up and holds a slot that it will never use.
            hand_over(&self.shared);
        }
    }
}
