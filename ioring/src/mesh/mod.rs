//! Lanes: bounded queues from one thread to one other, and the wake-ups that go with them.
//!
//! ```text
//! Outbox ──► [ slot slot slot … ] ──► Inbox        one sender, one receiver, first in first out
//!    ▲ waits when full                   │ waits when empty
//!    └──────── woken by receiving ───────┘ woken by sending
//! ```
//!
//! A lane is a ring of slots with two positions: `tail`, which only the sender moves, and `head`,
//! which only the receiver moves. Positions count up for ever; their low bits are the slot. Each
//! side keeps what it last saw of the other's position and looks again only when that says full or
//! empty.
//!
//! Sending wakes the receiving task only if it registered as waiting, and its core only if that
//! announced that it sleeps (see [`board`]): a busy receiver costs the sender no system call.
//!
//! # Invariants
//!
//! * `head ≤ tail ≤ head + capacity`; slots in `head..tail` are initialised and belong to the
//!   receiver, all others to the sender.
//! * A slot changes hands by a release store of a position and an acquire load on the other side.
//! * Nothing sent before the sender was dropped is lost: the receiver sees the lane closed only
//!   after it has taken everything.

#![expect(unsafe_code, reason = "slots are written and read without locks")]

pub(crate) mod board;
mod shim;
mod waiter;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, Waker};

use crossbeam_utils::CachePadded;
use shim::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};
use waiter::Waiter;

struct Shared<T> {
    capacity: usize,
    /// At least `capacity`, and a power of two.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Next position to receive.
    head: CachePadded<AtomicUsize>,
    /// Next position to send.
    tail: CachePadded<AtomicUsize>,
    sender_waits: CachePadded<Waiter>,
    receiver_waits: CachePadded<Waiter>,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
}

// SAFETY: a slot is accessed by one side at a time, as the positions say; items move between
// threads.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        for position in head..tail {
            // SAFETY: both sides are gone, and slots in head..tail are initialised.
            self.slot(position).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
        }
    }
}

/// Makes a lane that holds `capacity` items. Either end may move to another thread.
pub fn lane<T: Send>(capacity: usize) -> (Outbox<T>, Inbox<T>) {
    assert!(capacity > 0, "a lane holds at least one item");
    let slots = 0..capacity.next_power_of_two();
    let shared = Arc::new(Shared {
        capacity,
        slots: slots.map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        sender_waits: CachePadded::new(Waiter::new()),
        receiver_waits: CachePadded::new(Waiter::new()),
        sender_gone: AtomicBool::new(false),
        receiver_gone: AtomicBool::new(false),
    });
    let (tail, head_seen) = (Cell::new(0), Cell::new(0));
    let outbox =
        Outbox { shared: shared.clone(), tail, head_seen, waiting: RefCell::new(Vec::new()) };
    (outbox, Inbox { shared, head: Cell::new(0), tail_seen: Cell::new(0) })
}

/// The sending end of a lane.
pub struct Outbox<T> {
    shared: Arc<Shared<T>>,
    tail: Cell<usize>,
    head_seen: Cell<usize>,
    /// Tasks that wait for space; the last of them is registered with the lane.
    waiting: RefCell<Vec<Waker>>,
}

impl<T: Send> Outbox<T> {
    /// Sends, or gives the item back if the lane is full or its receiver gone.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        if !self.has_space() || self.is_closed() {
            return Err(item);
        }
        let tail = self.tail.get();
        // SAFETY: the position is free, so the slot belongs to the sender; the type is not `Sync`,
        // so there is one sender.
        self.shared.slot(tail).with_mut(|slot| unsafe { (*slot).write(item) });
        self.tail.set(tail + 1);
        self.shared.tail.store(tail + 1, Ordering::Release);
        self.shared.receiver_waits.notify();
        Ok(())
    }

    /// Sends as soon as there is space; gives the item back if the receiver is gone.
    pub async fn send(&self, item: T) -> Result<(), T> {
        let mut item = Some(item);
        let _waiting = Waiting { outbox: self };
        poll_fn(|context| {
            let unsent = item.take().expect("not polled after it was ready");
            match self.try_send(unsent) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(unsent) if self.is_closed() => Poll::Ready(Err(unsent)),
                Err(unsent) => {
                    item = Some(unsent);
                    self.wait_for_space(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Items that can be sent now without waiting.
    pub fn free(&self) -> usize {
        let head = self.shared.head.load(Ordering::Acquire);
        self.head_seen.set(head);
        self.shared.capacity - (self.tail.get() - head)
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }

    fn has_space(&self) -> bool {
        self.tail.get() - self.head_seen.get() < self.shared.capacity || self.free() > 0
    }

    fn wait_for_space(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        drop(waiting);
        self.shared.sender_waits.register(context.waker());
        if self.free() > 0 || self.is_closed() {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

/// Whoever stops waiting, served or not, lets the others look: only one of them was registered.
struct Waiting<'a, T: Send> {
    outbox: &'a Outbox<T>,
}

impl<T: Send> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if !self.outbox.waiting.borrow().is_empty() {
            self.outbox.wake_waiting();
        }
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.store(true, Ordering::Release);
        self.shared.receiver_waits.notify();
    }
}

/// The receiving end of a lane. One task at a time waits on it.
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
    head: Cell<usize>,
    tail_seen: Cell<usize>,
}

impl<T: Send> Inbox<T> {
    /// The next item, if one is there.
    pub fn try_recv(&self) -> Option<T> {
        let item = self.take_next()?;
        self.shared.sender_waits.notify();
        Some(item)
    }

    /// The next item; `None` once the sender is gone and everything was received.
    pub async fn recv(&self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// As [`Inbox::recv`], for hand-written futures.
    pub fn poll_recv(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.try_recv() {
            return Poll::Ready(Some(item));
        }
        self.shared.receiver_waits.register(context.waker());
        let gone = self.shared.sender_gone.load(Ordering::Acquire);
        match self.try_recv() {
            Some(item) => Poll::Ready(Some(item)),
            None if gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Appends at least one and at most `max` items; 0 once the lane is closed and empty.
    pub async fn recv_many(&self, items: &mut Vec<T>, max: usize) -> usize {
        let Some(first) = self.recv().await else { return 0 };
        items.push(first);
        1 + self.try_recv_many(items, max.saturating_sub(1))
    }

    /// Appends what is there, at most `max` items, and returns how many.
    pub fn try_recv_many(&self, items: &mut Vec<T>, max: usize) -> usize {
        let before = items.len();
        while items.len() - before < max {
            let Some(item) = self.take_next() else { break };
            items.push(item);
        }
        let received = items.len() - before;
        if received > 0 {
            self.shared.sender_waits.notify();
        }
        received
    }

    /// Items that are there now.
    pub fn len(&self) -> usize {
        self.shared.tail.load(Ordering::Acquire) - self.head.get()
    }

    /// Whether no item is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_next(&self) -> Option<T> {
        let head = self.head.get();
        if head == self.tail_seen.get() {
            self.tail_seen.set(self.shared.tail.load(Ordering::Acquire));
            if head == self.tail_seen.get() {
                return None;
            }
        }
        // SAFETY: the position is below the tail, so the slot is initialised and the receiver's; it
        // goes back to the sender with the store of `head`.
        let item = self.shared.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head.set(head + 1);
        self.shared.head.store(head + 1, Ordering::Release);
        Some(item)
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        self.shared.sender_waits.notify();
    }
}

impl<T> std::fmt::Debug for Outbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outbox({} sent)", self.tail.get())
    }
}

impl<T> std::fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbox({} received)", self.head.get())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

/// `RUSTFLAGS="--cfg loom" cargo test -p ioring --lib --release mesh`
#[cfg(all(test, loom))]
mod model;
