//! The client's half of the native protocol, without I/O, clock or randomness of its own.
//!
//! [`Protocol`] is told what happened (connected, these bytes arrived, the connection is gone, it
//! is now so late) and says what to do ([`Protocol::next_action`], [`Protocol::output`]) and what
//! came of requests ([`Protocol::next_result`]). [`crate::native`] drives it over a socket; a
//! simulation can drive the same code.
//!
//! # What is promised
//!
//! Each request gets one result. One that says `Ok` was executed once, however often it was sent;
//! one that failed was not executed, unless [`Failure::may_have_happened`] says that this is not
//! known.
//!
//! # How
//!
//! Requests stand in one queue, in the order in which they were submitted. Of these the first
//! `outstanding` have been sent on the connection that there is:
//!
//! ```text
//!   ◄─ answered │ outstanding: sent, and to be answered in this order │ waiting to be sent ◄─
//! ```
//!
//! 1. A connection begins with a greeting. Where no session is open, the registration is sent and
//!    answered before anything else.
//! 2. A write gets its number when it is sent for the first time. From then on it stays in the
//!    queue until it is answered, even if the caller was told that its deadline has passed: the
//!    numbers behind it are worth nothing without it.
//! 3. Answers come in the order of the requests, so each is to the first one outstanding. It leaves
//!    the queue, and with the next request the node is told that its result need not be kept.
//! 4. *The connection is lost*, says nothing for too long, or its node is not the one to ask: the
//!    next address is tried, and everything in the queue that was sent is sent again, in order,
//!    with the numbers it has. What was executed already is answered from the table of sessions.
//! 5. *`overloaded`*: nothing was done, nor will anything behind it be. What is still answered is
//!    passed over, reads too, since they would miss the writes before them; then all is sent again.
//! 6. *The session is gone*: whatever was sent in it may have happened, and fails so. What was not
//!    sent goes into a new one.
//!
//! A caller whose deadline passes is told `timeout`: for a write that was sent it is then unknown
//! what becomes of it, one that was not sent is taken back.
//!
//! # Bounds
//!
//! No more is outstanding than the session's window, and than [`SENT_MAX`] bytes unless it is a
//! single request: so much fits into the buffers between, and a driver may write all of it before
//! it reads.

mod body;
mod machine;
mod message;
#[cfg(test)]
mod tests;

pub use body::Body;
pub use machine::{Action, Protocol};
pub use message::MessageError;

use wire::{ErrorCode, Op, Outcome, Timestamp};

/// Bytes of requests outstanding on a connection.
pub const SENT_MAX: usize = 64 << 10;

/// A moment by a clock that only goes forward, in nanoseconds.
pub type Nanoseconds = u64;

/// Which request a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the protocol needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many addresses there are to try.
    pub addresses: usize,
    /// The cluster, if it is known: another one is then refused.
    pub cluster: Option<u128>,
    /// How long a node may take for an answer before another is asked.
    pub patience: Nanoseconds,
    /// How long to wait before a failed connection is tried again; doubles up to `backoff_max`.
    pub backoff_min: Nanoseconds,
    /// See `backoff_min`.
    pub backoff_max: Nanoseconds,
    /// Anything that other clients do not have.
    pub seed: u64,
}

impl Options {
    /// What suits most: `addresses` of one cluster, two seconds for an answer.
    #[must_use]
    pub fn new(addresses: usize, seed: u64) -> Options {
        Options {
            addresses,
            cluster: None,
            patience: 2_000_000_000,
            backoff_min: 10_000_000,
            backoff_max: 1_000_000_000,
            seed,
        }
    }
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The op that it reflects.
    pub op: Op,
    /// The log time of that op.
    pub timestamp: Timestamp,
    outcomes: Vec<u8>,
}

impl Answer {
    /// The outcomes of its operations, in order.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome<'_>> {
        let mut rest = self.outcomes.as_slice();
        std::iter::from_fn(move || {
            let (outcome, size) = Outcome::decode(rest)?;
            rest = &rest[size..];
            Some(outcome)
        })
    }

    /// The outcome of its first operation.
    #[must_use]
    pub fn first(&self) -> Outcome<'_> {
        self.outcomes().next().expect("an answer has an outcome for each operation")
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}", if *may_have_happened { ": it may have happened" } else { "" })]
pub struct Failure {
    /// Why.
    pub code: ErrorCode,
    /// Whether it may have been executed all the same.
    pub may_have_happened: bool,
}
