//! The key-value state machine: what an operation does to the entry of its key.
//!
//! Pure, and a function of the log alone: the operation, the entry before it, and the prepare's
//! timestamp decide everything. No clock, no randomness, no floating point of the processor; every
//! replica that applies the same log computes the same effects and the same outcomes, and a
//! replay gives them again.
//!
//! For each operation of a committed prepare the shard that owns the key does:
//!
//! 1. [`needs`] says what of the current entry is wanted: nothing, whether it exists and until
//!    when, or its value too. Only then is anything looked up.
//! 2. [`evaluate`] computes the effect on the entry and the outcome for the client.
//! 3. The shard applies the effect to its forest, with the version prepare timestamp + index.
//!
//! A request that is *all or none* (MSETNX) is decided before any of it: every shard takes a
//! [`vote`] for each of its operations against the state before the request, and evaluates with
//! the verdict of all: conditions are then neither checked again nor seen to be broken by the
//! request's own earlier operations.
//!
//! **Expiry is logical.** An entry whose deadline is not after the prepare's timestamp does not
//! exist, whether or not anything deleted it meanwhile. A put or change of deadline that would have
//! expired already is a deletion.
//!
//! **Bounded effects.** APPEND, SETRANGE and INCRBYFLOAT make more of what is stored than the
//! request carried, a change of the deadline writes the entry again, and a value that is answered
//! has to be held. What a prepare may cost a shard beyond the size of its requests is a [`Budget`],
//! taken in op order and computed the same way everywhere; beyond it an operation answers
//! `overloaded` and changes nothing.

mod evaluate;
pub mod float;

use wire::operation::{Opcode, OperationView};
use wire::{ErrorCode, Outcome, Timestamp, Version};

pub use evaluate::{evaluate, vote};

/// What is stored for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The value; empty when it was not asked for.
    pub value: &'a [u8],
    /// The size of the value, whether or not it is here.
    pub value_size: u32,
    /// When it expires, in nanoseconds of log time; 0 is never.
    pub deadline: u64,
    /// When it was written.
    pub version: Version,
}

impl<'a> Entry<'a> {
    /// An entry with its value.
    #[must_use]
    pub fn new(value: &'a [u8], deadline: u64, version: Version) -> Entry<'a> {
        let value_size = u32::try_from(value.len()).expect("values are far below 4 GiB");
        Entry { value, value_size, deadline, version }
    }

    /// Whether it exists at this time.
    #[must_use]
    #[inline]
    pub fn lives_at(&self, now: Timestamp) -> bool {
        self.deadline == 0 || self.deadline > now.0
    }
}

/// What of the current entry an operation is evaluated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it need not be looked up.
    Nothing,
    /// That it exists, and its deadline.
    Metadata,
    /// All of it.
    Value,
}

/// What [`evaluate`] wants to know of the key's entry.
#[must_use]
#[inline]
pub fn needs(operation: &OperationView<'_>) -> Needs {
    use wire::operation::Flags;
    let has = |flags| operation.flags.contains(flags);
    match operation.opcode {
        _ if has(Flags::RETURN_OLD) => Needs::Value,
        Opcode::Put if has(Flags::IF_NONE) || has(Flags::IF_SOME) || has(Flags::KEEP_DEADLINE) => {
            Needs::Metadata
        }
        Opcode::Put | Opcode::Flush => Needs::Nothing,
        Opcode::Register | Opcode::Hold | Opcode::Refuse => Needs::Nothing,
        Opcode::Delete | Opcode::Expire | Opcode::Persist => Needs::Metadata,
        Opcode::Increment | Opcode::IncrementFloat | Opcode::Append | Opcode::SetRange => {
            Needs::Value
        }
    }
}

/// Whether an operation is evaluated with the key's entry at all.
#[must_use]
pub fn reads_current(operation: &OperationView<'_>) -> bool {
    needs(operation) != Needs::Nothing
}

/// Whether conditions still have to be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The operation stands for itself.
    #[default]
    Own,
    /// It is part of an all-or-none request whose conditions all hold.
    Holds,
    /// It is part of one where some condition does not hold, or that is refused for this reason.
    Fails(Option<ErrorCode>),
}

/// What an operation's conditions say on their own: see the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    /// They hold.
    Yes,
    /// They do not.
    No,
    /// The operation cannot be done.
    Refused(ErrorCode),
}

impl Vote {
    /// The verdict on a request that got this vote and those counted in `verdict` before.
    /// Start with [`Verdict::Holds`]; in op order the first reason not to do it is kept.
    #[must_use]
    pub fn count_into(self, verdict: Verdict) -> Verdict {
        match (verdict, self) {
            (Verdict::Fails(_), _) | (_, Vote::Yes) => verdict,
            (_, Vote::No) => Verdict::Fails(None),
            (_, Vote::Refused(code)) => Verdict::Fails(Some(code)),
        }
    }
}

/// What a prepare may still cost a shard beyond the size of its requests, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub u64);

impl Budget {
    /// What a prepare has by default.
    pub const DEFAULT: Budget = Budget(8 << 20);

    fn take(&mut self, bytes: u64) -> Result<(), ErrorCode> {
        self.0 = self.0.checked_sub(bytes).ok_or(ErrorCode::Overloaded)?;
        Ok(())
    }
}

/// What evaluation needs to know besides operation and entry.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The prepare's timestamp: log time.
    pub timestamp: Timestamp,
    /// The version that what is written gets.
    pub version: Version,
    /// The longest value, a format-time setting.
    pub value_max: u32,
    /// Whether conditions are to be checked.
    pub verdict: Verdict,
}

/// Memory that evaluations share, so that none of them allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    value: Vec<u8>,
    floats: float::Workspace,
}

/// What is to be done to the key's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Nothing.
    None,
    /// It becomes this.
    Put {
        /// The value.
        value: &'a [u8],
        /// The deadline; 0 is none.
        deadline: u64,
    },
    /// Its value stays, its deadline becomes this; 0 is none.
    SetDeadline(u64),
    /// It is deleted.
    Delete,
    /// All keys of the operation's table are gone.
    Flush,
}

/// An effect and its outcome, and how they came about.
pub type Evaluated<'a> = (Effect<'a>, Outcome<'a>);
