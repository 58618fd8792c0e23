//! Operations in flight: a slab that owns their memory until the driver is done with it.
//!
//! ```text
//! submit ─► in flight ── complete ──► done ── polled ──► free
//!              │                                           ▲
//!              └─ future dropped ─► abandoned ── complete ─┘
//! ```
//!
//! The slab, and not the future, owns the [`Operation`], so dropping a future abandons the
//! operation but not its buffer: no use after free by construction. Slots are used again, and grow
//! in number only when more operations are in flight than ever before, so the steady state
//! allocates nothing. A token's generation is checked at every use.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::core::Core;
use crate::driver::{Operation, Token};

enum State {
    Free,
    InFlight { waker: Option<Waker> },
    Abandoned,
    Done { result: i32 },
}

struct Slot {
    generation: u32,
    state: State,
    operation: Option<Operation>,
}

/// The operations of one core.
pub(crate) struct Operations {
    slots: Vec<Slot>,
    free: Vec<u32>,
    in_flight: usize,
}

/// Drivers have 28 bits for a generation.
const GENERATION_MASK: u32 = (1 << 28) - 1;

/// Slots made at start.
const SLOTS_AT_START: usize = 1024;

impl Operations {
    pub(crate) fn new() -> Operations {
        let mut operations = Operations {
            slots: Vec::with_capacity(SLOTS_AT_START),
            free: Vec::with_capacity(SLOTS_AT_START),
            in_flight: 0,
        };
        for _ in 0..SLOTS_AT_START {
            let slot = operations.grow();
            operations.free.push(slot);
        }
        operations.free.reverse();
        operations
    }

    fn grow(&mut self) -> u32 {
        self.slots.push(Slot { generation: 0, state: State::Free, operation: None });
        u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations in flight")
    }

    /// Operations that the driver has not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Tokens of all operations in flight.
    pub(crate) fn tokens_in_flight(&self) -> Vec<Token> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| matches!(slot.state, State::InFlight { .. } | State::Abandoned))
            .map(|(index, slot)| Token { slot: index as u32, generation: slot.generation })
            .collect()
    }

    pub(crate) fn insert(&mut self, operation: Operation) -> Token {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        let entry = &mut self.slots[slot as usize];
        assert!(matches!(entry.state, State::Free) && entry.operation.is_none());
        entry.state = State::InFlight { waker: None };
        entry.operation = Some(operation);
        self.in_flight += 1;
        Token { slot, generation: entry.generation }
    }

    /// The operation of a token that is in flight.
    pub(crate) fn get_mut(&mut self, token: Token) -> &mut Operation {
        let slot = self.slot(token);
        assert!(
            matches!(slot.state, State::InFlight { .. } | State::Abandoned),
            "{token:?} is not in flight"
        );
        slot.operation.as_mut().expect("an operation in flight is in its slot")
    }

    /// Records a result. Gives the waker to wake, or the abandoned operation to drop.
    pub(crate) fn complete(
        &mut self,
        token: Token,
        result: i32,
    ) -> (Option<Waker>, Option<Operation>) {
        self.in_flight -= 1;
        let slot = self.slot(token);
        match std::mem::replace(&mut slot.state, State::Done { result }) {
            State::InFlight { waker } => (waker, None),
            State::Abandoned => (None, Some(self.free(token).1)),
            State::Free | State::Done { .. } => unreachable!("{token:?} completed twice"),
        }
    }

    /// The result and the operation, if it is done; otherwise remembers whom to wake.
    pub(crate) fn poll(&mut self, token: Token, waker: &Waker) -> Poll<(i32, Operation)> {
        match &mut self.slot(token).state {
            State::InFlight { waker: Some(known) } if known.will_wake(waker) => Poll::Pending,
            State::InFlight { waker: known } => {
                *known = Some(waker.clone());
                Poll::Pending
            }
            State::Done { .. } => Poll::Ready(self.free(token)),
            State::Free | State::Abandoned => unreachable!("{token:?} polled without a future"),
        }
    }

    /// The future is gone. Gives the operation to drop, if it is done, or says that it is not.
    pub(crate) fn abandon(&mut self, token: Token) -> Option<Operation> {
        let slot = self.slot(token);
        match slot.state {
            State::InFlight { .. } => {
                slot.state = State::Abandoned;
                None
            }
            State::Done { .. } => Some(self.free(token).1),
            State::Free | State::Abandoned => unreachable!("{token:?} abandoned twice"),
        }
    }

    fn slot(&mut self, token: Token) -> &mut Slot {
        let slot = &mut self.slots[token.slot as usize];
        assert_eq!(slot.generation, token.generation, "{token:?} is of the past");
        slot
    }

    fn free(&mut self, token: Token) -> (i32, Operation) {
        let slot = self.slot(token);
        let State::Done { result } = std::mem::replace(&mut slot.state, State::Free) else {
            unreachable!("only what is done is freed");
        };
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        let operation = slot.operation.take().expect("what is done is still in its slot");
        self.free.push(token.slot);
        (result, operation)
    }
}

/// Waits for an operation. Dropping it leaves the operation to itself.
pub(crate) struct InFlight {
    token: Option<Token>,
    /// Whether to ask the driver for an early end when this is dropped.
    cancel_on_drop: bool,
}

impl InFlight {
    /// Hands an operation to the driver of the core that is installed.
    pub(crate) fn submit(operation: Operation) -> InFlight {
        // Transfers of files end by themselves. These may wait for a peer that never moves, and
        // hold their socket open meanwhile.
        let cancel_on_drop = matches!(
            operation,
            Operation::Connect { .. } | Operation::Send { .. } | Operation::SendFrozen { .. }
        );
        let token = Core::with(|core| core.submit(operation));
        InFlight { token: Some(token), cancel_on_drop }
    }
}

impl Future for InFlight {
    type Output = (i32, Operation);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let token = self.token.expect("not polled after it was ready");
        let poll = Core::with(|core| core.poll_operation(token, context.waker()));
        if poll.is_ready() {
            self.token = None;
        }
        poll
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            Core::with(|core| core.abandon(token, self.cancel_on_drop));
        }
    }
}
