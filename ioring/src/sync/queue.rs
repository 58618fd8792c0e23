//! A bounded queue between tasks of one core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::slots::{Slot, Slots};

struct Shared<T> {
    items: RefCell<VecDeque<(T, Slot)>>,
    receivers: RefCell<Vec<Waker>>,
    closed: Cell<bool>,
}

/// First in, first out, of a fixed capacity. Clones are handles to the same queue; any task may
/// push and any may pop.
pub struct Queue<T> {
    shared: Rc<Shared<T>>,
    places: Slots,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { shared: self.shared.clone(), places: self.places.clone() }
    }
}

impl<T> Queue<T> {
    /// An empty queue for `capacity` items.
    pub fn new(capacity: usize) -> Queue<T> {
        let items = RefCell::new(VecDeque::with_capacity(capacity));
        let (receivers, closed) = (RefCell::default(), Cell::new(false));
        let shared = Rc::new(Shared { items, receivers, closed });
        Queue { shared, places: Slots::new(capacity) }
    }

    /// Appends, or gives the item back if the queue is full or closed.
    pub fn try_push(&self, item: T) -> Result<(), T> {
        if self.shared.closed.get() {
            return Err(item);
        }
        let Some(place) = self.places.try_acquire() else { return Err(item) };
        self.put(item, place);
        Ok(())
    }

    /// Appends as soon as there is a place, in order of asking; gives the item back if the queue is
    /// closed.
    pub async fn push(&self, item: T) -> Result<(), T> {
        let place = self.places.acquire().await;
        if self.shared.closed.get() {
            return Err(item);
        }
        self.put(item, place);
        Ok(())
    }

    /// The next item, if there is one.
    pub fn try_pop(&self) -> Option<T> {
        let (item, _place) = self.shared.items.borrow_mut().pop_front()?;
        Some(item)
    }

    /// The next item; `None` once the queue is closed and empty.
    pub async fn pop(&self) -> Option<T> {
        poll_fn(|context| {
            if let Some(item) = self.try_pop() {
                return Poll::Ready(Some(item));
            }
            if self.shared.closed.get() {
                return Poll::Ready(None);
            }
            let mut receivers = self.shared.receivers.borrow_mut();
            if !receivers.iter().any(|waker| waker.will_wake(context.waker())) {
                receivers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Lets nothing more in. What is in the queue can still be taken.
    pub fn close(&self) {
        self.shared.closed.set(true);
        self.wake_receivers();
    }

    /// Items in the queue.
    pub fn len(&self) -> usize {
        self.shared.items.borrow().len()
    }

    /// Whether the queue has no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&self, item: T, place: Slot) {
        self.shared.items.borrow_mut().push_back((item, place));
        self.wake_receivers();
    }

    /// Wakes all that wait: one of them gets the item, and none is forgotten if that one is
    /// dropped.
    fn wake_receivers(&self) {
        for waker in self.shared.receivers.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} of {})", self.len(), self.places.total())
    }
}
