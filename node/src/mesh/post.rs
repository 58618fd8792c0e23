//! A post: what gathers for another core, and the lane that it leaves by.
//!
//! ```text
//! put ─▶ pending batch ─▶ flusher ─▶ lane ─────────▶ receiver
//!              ▲                                       │
//!              └──────────── empty batches ◀───────────┘
//! ```
//!
//! Putting never waits. The flusher runs when it is its turn, takes all that has gathered, and
//! waits for the lane if it has to; meanwhile the next batch gathers.

use std::cell::RefCell;

use ioring::sync::Event;
use ioring::{Inbox, Outbox, lane};

use super::batch::Batch;

/// The sending side.
pub struct Post<I> {
    pending: RefCell<Batch<I>>,
    given: Event,
    sent: Event,
    lane: Outbox<Batch<I>>,
    spare: Inbox<Batch<I>>,
}

/// The receiving side.
pub struct Incoming<I> {
    lane: Inbox<Batch<I>>,
    spare: Outbox<Batch<I>>,
}

/// A lane for so many batches, with the way back for empty ones.
pub(super) fn pipe<I: Send>(capacity: usize) -> (Post<I>, Incoming<I>) {
    let (to, from) = lane(capacity);
    // Besides those in the lane one is pending, one is being sent and one is being read.
    let (back, spare) = lane(capacity + 3);
    let (pending, given, sent) = (RefCell::default(), Event::new(), Event::new());
    (Post { pending, given, sent, lane: to, spare }, Incoming { lane: from, spare: back })
}

impl<I: Send> Post<I> {
    /// Adds to what gathers.
    #[inline]
    pub fn put(&self, put: impl FnOnce(&mut Batch<I>)) {
        let pending = &mut *self.pending.borrow_mut();
        let first = pending.is_empty();
        put(pending);
        if first {
            self.given.notify();
        }
    }

    /// Bytes that have gathered.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.borrow().bytes.len()
    }

    /// Waits until less than so many bytes have gathered.
    pub async fn wait_for_room(&self, bytes_max: usize) {
        while self.pending_bytes() >= bytes_max {
            self.sent.wait().await;
        }
    }

    /// Sends what gathers, until the receiver is gone.
    pub(super) async fn flush(&self) {
        loop {
            while self.pending.borrow().is_empty() {
                self.given.wait().await;
            }
            let next = self.spare.try_recv().unwrap_or_default();
            let batch = self.pending.replace(next);
            self.sent.notify();
            if self.lane.send(batch).await.is_err() {
                return;
            }
        }
    }
}

impl<I: Send> Incoming<I> {
    /// The next batch; none when the sender is gone.
    pub(super) async fn receive(&self) -> Option<Batch<I>> {
        self.lane.recv().await
    }

    /// Gives a batch back.
    pub(super) fn give_back(&self, mut batch: Batch<I>) {
        if batch.clear() {
            // There is room for all there are, unless the sender is gone.
            drop(self.spare.try_send(batch));
        }
    }
}
