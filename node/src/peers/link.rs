//! One direction of one class to or from one peer: its queue, its state and its counters.

use std::cell::{Cell, RefCell};

use ioring::sync::Event;

use super::class::Class;
use super::outbox::{Batch, Dropped, Outbox};
use super::reader::{Received, count};
use super::report::{PairReport, Receiving, Sending, State};

/// The connection that this node dials, to send.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) outbox: RefCell<Outbox>,
    /// Something was pushed.
    pub(super) work: Event,
    pub(super) state: RefCell<State>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    sends: Cell<u64>,
    connects: Cell<u64>,
    dropped_full: Cell<u64>,
    dropped_unconnected: Cell<u64>,
}

impl Link {
    pub(super) fn new(frames_max: usize) -> Link {
        Link {
            outbox: RefCell::new(Outbox::new(frames_max)),
            work: Event::new(),
            state: RefCell::new(State::Connecting(None)),
            messages: Cell::default(),
            bytes: Cell::default(),
            sends: Cell::default(),
            connects: Cell::default(),
            dropped_full: Cell::default(),
            dropped_unconnected: Cell::default(),
        }
    }

    /// Counts what became of a push; whether it was taken.
    pub(super) fn pushed(&self, result: Result<(), Dropped>) -> bool {
        match result {
            Ok(()) => self.work.notify(),
            Err(Dropped::Full) => count(&self.dropped_full, 1),
            Err(Dropped::Unconnected) => count(&self.dropped_unconnected, 1),
        }
        result.is_ok()
    }

    /// The two have greeted.
    pub(super) fn open(&self) {
        self.outbox.borrow_mut().open();
        count(&self.connects, 1);
        *self.state.borrow_mut() = State::Connected;
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        let lost = self.outbox.borrow_mut().close();
        count(&self.dropped_unconnected, lost);
    }

    /// A send is done.
    pub(super) fn sent(&self, batch: Batch) {
        count(&self.messages, batch.messages);
        count(&self.bytes, batch.bytes);
        count(&self.sends, 1);
        self.outbox.borrow_mut().give_back(batch);
    }

    fn report(&self) -> Sending {
        let (queued_messages, queued_bytes) = self.outbox.borrow().level();
        Sending {
            state: self.state.borrow().clone(),
            messages: self.messages.get(),
            bytes: self.bytes.get(),
            sends: self.sends.get(),
            connects: self.connects.get(),
            dropped_full: self.dropped_full.get(),
            dropped_unconnected: self.dropped_unconnected.get(),
            queued_messages,
            queued_bytes,
        }
    }
}

/// The connection that a peer dials; of several, the newest.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    pub(super) received: Received,
    /// Notified when a newer connection takes the place of the present one.
    pub(super) present: RefCell<Option<std::rc::Rc<Event>>>,
    pub(super) accepted: Cell<u64>,
    pub(super) faults: Cell<u64>,
}

impl Entrance {
    fn report(&self) -> Receiving {
        Receiving {
            connected: self.present.borrow().is_some(),
            messages: self.received.messages.get(),
            bytes: self.received.bytes.get(),
            waits: self.received.waits.get(),
            accepted: self.accepted.get(),
            faults: self.faults.get(),
        }
    }
}

/// One class of one peer, both ways.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) class: Class,
    pub(super) link: Link,
    pub(super) entrance: Entrance,
}

impl Pair {
    pub(super) fn new(class: Class, frames_max: usize) -> Pair {
        Pair { class, link: Link::new(frames_max), entrance: Entrance::default() }
    }

    pub(super) fn report(&self) -> PairReport {
        let (sending, receiving) = (self.link.report(), self.entrance.report());
        PairReport { class: self.class.name(), sending, receiving }
    }
}
