//! What the connections of a core are waiting for: a slab of runs, one per connection.
//!
//! A *run* is a sequence of operations that one connection has handed over and whose outcomes it
//! awaits: the consecutive writes, or the consecutive reads, of one turn. A connection has at most
//! one run at a time, so the run lives in the connection's slot for as long as the connection
//! does, and its vectors are reused: in steady state nothing is allocated.
//!
//! 1. `open` gives the connection its slot, `close` takes it back and raises its generation.
//! 2. `begin` says how many outcomes the run will have, then requests carrying its [`Tag`]s leave.
//! 3. Outcomes come back in any order, from this core directly or from others by lane; each is
//!    stored at its index. The last one wakes the connection: once per run, not once per outcome.
//! 4. The connection takes the outcomes in order, writes its replies and begins the next run.
//!
//! An outcome whose generation is not the slot's belongs to a connection that is gone, and is
//! dropped: what was written stays written, nobody is there to be told. That is also why a tag is
//! never trusted further than the slab: every field of it is checked against what is there.
//!
//! The bytes of one run's outcomes are bounded by `reply_max`: a reply never costs more memory than
//! is configured.

use std::cell::RefCell;
use std::task::{Poll, Waker};
use wire::{ClientTag, Outcome};

use super::outcomes::Outcomes;
use crate::topology::CoreIndex;

/// Idle pairs of vectors kept.
const SPARE_MAX: usize = 256;

/// A connection's slot on its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunId {
    slot: u32,
    generation: u16,
}

/// Where an outcome goes: core, slot, generation, and the index of the request's first operation
/// within the run. Travels as the request's opaque [`ClientTag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The core that has the connection.
    pub core: CoreIndex,
    /// The connection's slot there.
    pub run: RunId,
    /// Index in the run of the request's first operation.
    pub first: u32,
}

const CORE_BITS: u32 = 8;
const SLOT_BITS: u32 = 20;
const FIRST_BITS: u32 = 20;
const GENERATION_BITS: u32 = 16;
const _: () = assert!(CORE_BITS + SLOT_BITS + FIRST_BITS + GENERATION_BITS == 64);

/// Connections a core can have at most.
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;
/// Operations a run can have at most.
pub const OPERATIONS_MAX: usize = 1 << FIRST_BITS;

impl Tag {
    /// The tag as a request carries it.
    #[must_use]
    pub fn pack(self) -> ClientTag {
        assert!(self.run.slot < 1 << SLOT_BITS && self.first < 1 << FIRST_BITS);
        assert!(self.core.0 < 1 << CORE_BITS, "more cores than tags can name");
        let mut bits = u64::from(self.core.0);
        bits = bits << SLOT_BITS | u64::from(self.run.slot);
        bits = bits << FIRST_BITS | u64::from(self.first);
        bits = bits << GENERATION_BITS | u64::from(self.run.generation);
        ClientTag(bits)
    }

    /// The tag of a request. Every bit pattern is a tag; whether it means anything the slab says.
    #[must_use]
    pub fn unpack(tag: ClientTag) -> Tag {
        let field = |shift: u32, bits: u32| (tag.0 >> shift) as u32 & ((1 << bits) - 1);
        let core = field(GENERATION_BITS + FIRST_BITS + SLOT_BITS, CORE_BITS);
        Tag {
            core: CoreIndex(core as u16),
            run: RunId {
                slot: field(GENERATION_BITS + FIRST_BITS, SLOT_BITS),
                generation: field(0, GENERATION_BITS) as u16,
            },
            first: field(GENERATION_BITS, FIRST_BITS),
        }
    }
}

#[derive(Debug, Default)]
struct Run {
    generation: u16,
    open: bool,
    missing: u32,
    /// Whether an operation may have more than one outcome; the first one is kept.
    in_parts: bool,
    /// Whether some look-up could not be answered as of its version.
    stale: bool,
    store: Outcomes,
    waker: Option<Waker>,
}

impl Run {
    /// One of the outcomes that were missing has come.
    #[inline]
    fn came(&mut self) {
        self.missing -= 1;
        if self.missing == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// The slab. Borrows are short: nothing here awaits.
#[derive(Debug)]
pub struct Runs {
    slots: RefCell<Slots>,
    reply_max: usize,
}

#[derive(Debug, Default)]
struct Slots {
    runs: Vec<Run>,
    free: Vec<u32>,
    spare: Vec<Outcomes>,
}

impl Slots {
    fn give_back(&mut self, mut store: Outcomes) {
        if store.is_small() && self.spare.len() < SPARE_MAX {
            store.clear();
            self.spare.push(store);
        }
    }

    fn get(&mut self, id: RunId) -> &mut Run {
        let run = &mut self.runs[id.slot as usize];
        assert!(run.open && run.generation == id.generation, "a run of a closed connection");
        run
    }
}

impl Runs {
    /// A slab whose runs hold at most `reply_max` bytes each.
    #[must_use]
    pub fn new(reply_max: usize) -> Runs {
        assert!(u32::try_from(reply_max).is_ok(), "ranges of bytes are 32 bits");
        Runs { slots: RefCell::default(), reply_max }
    }

    /// Gives a connection its slot.
    ///
    /// # Panics
    /// If more connections are open than tags can name: `clients_max` is checked against it.
    pub fn open(&self) -> RunId {
        let slots = &mut *self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            assert!(slots.runs.len() < SLOTS_MAX, "no tag for one more connection");
            slots.runs.push(Run::default());
            slots.runs.len() as u32 - 1
        });
        let run = &mut slots.runs[slot as usize];
        assert!(!run.open && run.missing == 0, "a slot given out twice");
        run.open = true;
        RunId { slot, generation: run.generation }
    }

    /// Takes a slot back. Outcomes still to come for it will be dropped.
    pub fn close(&self, id: RunId) {
        let slots = &mut *self.slots.borrow_mut();
        let run = slots.get(id);
        let generation = run.generation.wrapping_add(1);
        let closed = std::mem::replace(run, Run { generation, ..Run::default() });
        slots.give_back(closed.store);
        slots.free.push(id.slot);
    }

    /// Begins a run of `operations`, some of which have outcomes in several parts: `parts` is how
    /// many outcomes will come beyond one for each operation.
    pub fn begin(&self, id: RunId, operations: usize, parts: u32) {
        assert!(operations <= OPERATIONS_MAX, "a run of {operations} operations");
        let slots = &mut *self.slots.borrow_mut();
        let mut store = slots.spare.pop().unwrap_or_default();
        store.expect(operations);
        let run = slots.get(id);
        assert!(run.store.is_empty(), "a run begins before the last one has ended");
        run.store = store;
        run.missing = operations as u32 + parts;
        run.in_parts = parts > 0;
        run.stale = false;
    }

    /// Ends a complete run; its memory serves the next one, of whichever connection.
    pub fn end(&self, id: RunId) {
        let slots = &mut *self.slots.borrow_mut();
        let run = slots.get(id);
        assert_eq!(run.missing, 0, "a run ends before it is complete");
        let store = std::mem::take(&mut run.store);
        slots.give_back(store);
    }

    /// Stores an outcome and wakes the connection if it was the last one missing.
    ///
    /// # Panics
    /// If an outcome comes twice, or has an index that the run does not have: outcomes are made
    /// by this process, so that is a bug.
    #[inline]
    pub fn complete(&self, tag: Tag, index: u32, outcome: &Outcome<'_>) {
        let slots = &mut *self.slots.borrow_mut();
        let run = &mut slots.runs[tag.run.slot as usize];
        if !run.open || run.generation != tag.run.generation {
            return;
        }
        let index = (tag.first + index) as usize;
        if run.store.is_unknown(index) && !run.in_parts {
            // What was given up happened after all: the connection is about to be closed.
            return;
        }
        if !run.in_parts || run.store.is_missing(index) {
            run.store.set(index, outcome, self.reply_max);
        }
        run.came();
    }

    /// A look-up of the run cannot be answered as of its version: the run has to begin again.
    pub fn stale(&self, tag: Tag) {
        let slots = &mut *self.slots.borrow_mut();
        let run = &mut slots.runs[tag.run.slot as usize];
        if run.open && run.generation == tag.run.generation {
            run.stale = true;
            run.came();
        }
    }

    /// Whether a complete run has to begin again.
    #[must_use]
    pub fn is_stale(&self, id: RunId) -> bool {
        self.slots.borrow_mut().get(id).stale
    }

    /// Whether any connection waits for outcomes.
    #[must_use]
    pub fn any_waiting(&self) -> bool {
        self.slots.borrow().runs.iter().any(|run| run.missing > 0)
    }

    /// Whether nothing is missing any more.
    #[must_use]
    pub fn is_complete(&self, id: RunId) -> bool {
        self.slots.borrow_mut().get(id).missing == 0
    }

    /// Waits until nothing is missing.
    pub async fn wait(&self, id: RunId) {
        std::future::poll_fn(|context| {
            let slots = &mut *self.slots.borrow_mut();
            let run = slots.get(id);
            if run.missing == 0 {
                return Poll::Ready(());
            }
            match &mut run.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    /// Looks at the outcomes of a complete run.
    pub fn outcomes<T>(&self, id: RunId, look: impl FnOnce(&Outcomes) -> T) -> T {
        let slots = &mut *self.slots.borrow_mut();
        let run = slots.get(id);
        assert_eq!(run.missing, 0, "outcomes of a run that is not complete");
        look(&run.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};
    use wire::{ErrorCode, Value, Version};

    fn ok() -> Outcome<'static> {
        Outcome::done(Value::Ok, Version(1))
    }

    fn bytes(bytes: &[u8]) -> Outcome<'_> {
        Outcome::done(Value::Bytes(bytes), Version(1))
    }

    fn tag(run: RunId, first: u32) -> Tag {
        Tag { core: CoreIndex(0), run, first }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn outcomes_in_any_order_come_out_in_order_and_wake_once() {
        let runs = Runs::new(1 << 20);
        let id = runs.open();
        runs.begin(id, 4, 0);
        let wakes = Arc::new(Count::default());
        let waker = wakes.clone().into();
        let mut wait = pin!(runs.wait(id));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        runs.complete(tag(id, 2), 1, &bytes(b"last"));
        runs.complete(tag(id, 0), 0, &bytes(b"first"));
        runs.complete(tag(id, 2), 0, &Outcome::failed(ErrorCode::WrongType));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        runs.complete(tag(id, 0), 1, &Outcome::done(Value::Integer(-7), Version(3)));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        runs.outcomes(id, |outcomes| {
            assert_eq!(outcomes.len(), 4);
            assert_eq!(outcomes.get(0), Ok(Value::Bytes(b"first")));
            assert_eq!(outcomes.get(1), Ok(Value::Integer(-7)));
            assert_eq!(outcomes.get(2), Err(ErrorCode::WrongType));
            assert_eq!(outcomes.get(3), Ok(Value::Bytes(b"last")));
        });
    }

    #[test]
    fn what_comes_for_a_closed_connection_is_dropped() {
        let runs = Runs::new(1 << 20);
        let gone = runs.open();
        runs.begin(gone, 2, 0);
        runs.complete(tag(gone, 0), 0, &ok());
        runs.close(gone);
        runs.complete(tag(gone, 0), 1, &ok());
        let next = runs.open();
        assert_eq!(next.slot, gone.slot);
        runs.begin(next, 1, 0);
        runs.complete(tag(gone, 0), 0, &ok());
        assert!(!runs.is_complete(next), "the outcome was another connection's");
        runs.complete(tag(next, 0), 0, &ok());
        assert!(runs.is_complete(next));
    }

    #[test]
    fn a_reply_is_bounded_and_its_memory_given_back() {
        let runs = Runs::new(100_000);
        let id = runs.open();
        runs.begin(id, 3, 0);
        runs.complete(tag(id, 0), 0, &bytes(&[1; 60_000]));
        runs.complete(tag(id, 0), 1, &bytes(&[2; 60_000]));
        runs.complete(tag(id, 0), 2, &bytes(&[3; 40_000]));
        runs.outcomes(id, |outcomes| {
            assert!(matches!(outcomes.get(0), Ok(Value::Bytes(b)) if b.len() == 60_000));
            assert_eq!(outcomes.get(1), Err(ErrorCode::TooLarge));
            assert!(matches!(outcomes.get(2), Ok(Value::Bytes(b)) if b.len() == 40_000));
        });
        runs.end(id);
        assert!(runs.slots.borrow().spare.is_empty(), "100 kB are not kept");
        runs.begin(id, 1, 0);
        runs.complete(tag(id, 0), 0, &ok());
        runs.end(id);
        assert_eq!(runs.slots.borrow().spare.len(), 1);
        runs.begin(id, 1, 0);
        assert_eq!(runs.slots.borrow().spare.len(), 0, "memory is used again");
    }

    #[test]
    fn an_operation_of_all_shards_waits_for_all_of_them() {
        let runs = Runs::new(100);
        let id = runs.open();
        runs.begin(id, 2, 2);
        for _ in 0..3 {
            assert!(!runs.is_complete(id));
            runs.complete(tag(id, 0), 1, &ok());
        }
        assert!(!runs.is_complete(id));
        runs.complete(tag(id, 0), 0, &ok());
        assert!(runs.is_complete(id));
    }

    #[test]
    #[should_panic(expected = "came twice")]
    fn an_outcome_comes_once() {
        let runs = Runs::new(100);
        let id = runs.open();
        runs.begin(id, 2, 0);
        runs.complete(tag(id, 0), 0, &ok());
        runs.complete(tag(id, 0), 0, &ok());
    }

    proptest! {
        #[test]
        fn tags_survive_the_log(
            core in 0u16..256,
            slot in 0u32..1 << SLOT_BITS,
            first in 0u32..1 << FIRST_BITS,
            generation: u16,
        ) {
            let tag = Tag { core: CoreIndex(core), run: RunId { slot, generation }, first };
            prop_assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }
}
