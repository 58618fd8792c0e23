//! Outcomes in memory: of one run in the order of its operations, or of many on their way.
//!
//! Like [`wire::Outcome`], with the bytes of all of them behind one another in one vector, so that
//! a set of outcomes is two allocations, made once and used again. The versions are not kept: no
//! RESP reply shows them.

use std::ops::Range;
use wire::{ErrorCode, Outcome, Value, Version};

/// Bytes that stay allocated between uses; what a large reply took is given back.
const BYTES_KEPT: usize = 64 * 1024;
/// Outcomes that room is kept for between uses.
const OUTCOMES_KEPT: usize = 4096;

#[derive(Debug, Clone)]
enum Stored {
    Missing,
    Failed(ErrorCode),
    Nil,
    Ok,
    Bool(bool),
    Integer(i64),
    Bytes(Range<u32>),
}

/// A set of outcomes, by index.
#[derive(Debug, Default)]
pub struct Outcomes {
    stored: Vec<Stored>,
    bytes: Vec<u8>,
}

impl Outcomes {
    /// Makes room for `count` outcomes that are to be [`set`](Outcomes::set).
    pub(super) fn expect(&mut self, count: usize) {
        assert!(self.is_empty());
        self.stored.resize(count, Stored::Missing);
    }

    /// Stores the outcome at `index`. Bytes beyond `bytes_max` become `too_large`.
    ///
    /// # Panics
    /// If an outcome comes twice, or has no place: outcomes are made by this process.
    #[inline]
    pub(super) fn set(&mut self, index: usize, outcome: &Outcome<'_>, bytes_max: usize) {
        assert!(matches!(self.stored[index], Stored::Missing), "an outcome came twice");
        self.stored[index] = match outcome.result {
            Ok(Value::Bytes(bytes)) if self.bytes.len() + bytes.len() > bytes_max => {
                Stored::Failed(ErrorCode::TooLarge)
            }
            _ => self.store(outcome),
        };
    }

    /// Whether the outcome at `index` has not come.
    #[inline]
    pub(super) fn is_missing(&self, index: usize) -> bool {
        matches!(self.stored[index], Stored::Missing)
    }

    /// Whether it was said of the outcome at `index` that it is unknown.
    #[inline]
    pub(super) fn is_unknown(&self, index: usize) -> bool {
        matches!(self.stored[index], Stored::Failed(ErrorCode::Timeout))
    }

    #[inline]
    fn store(&mut self, outcome: &Outcome<'_>) -> Stored {
        match outcome.result {
            Err(code) => Stored::Failed(code),
            Ok(Value::Nil) => Stored::Nil,
            Ok(Value::Ok) => Stored::Ok,
            Ok(Value::Bool(yes)) => Stored::Bool(yes),
            Ok(Value::Integer(integer)) => Stored::Integer(integer),
            Ok(Value::Bytes(bytes)) => {
                let start = self.bytes.len() as u32;
                self.bytes.extend_from_slice(bytes);
                let end = u32::try_from(self.bytes.len()).expect("outcomes are bounded");
                Stored::Bytes(start..end)
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// The result at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Result<Value<'_>, ErrorCode> {
        Ok(match &self.stored[index] {
            Stored::Missing => unreachable!("only complete sets are looked at"),
            Stored::Failed(code) => return Err(*code),
            Stored::Nil => Value::Nil,
            Stored::Ok => Value::Ok,
            Stored::Bool(yes) => Value::Bool(*yes),
            Stored::Integer(integer) => Value::Integer(*integer),
            Stored::Bytes(range) => {
                Value::Bytes(&self.bytes[range.start as usize..range.end as usize])
            }
        })
    }

    /// The outcome at `index`, without its version.
    #[must_use]
    pub fn outcome(&self, index: usize) -> Outcome<'_> {
        Outcome { result: self.get(index), version: Version(0) }
    }

    /// Whether it is worth keeping for the next use.
    #[must_use]
    pub(crate) fn is_small(&self) -> bool {
        self.stored.capacity() <= OUTCOMES_KEPT && self.bytes.capacity() <= BYTES_KEPT
    }

    /// Forgets all, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.stored.clear();
        self.bytes.clear();
    }
}
