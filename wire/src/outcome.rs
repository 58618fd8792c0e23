//! Outcomes: the answers to operations.
//!
//! An outcome is a 24-byte header and, for bytes, the bytes and zeros up to a multiple of 8. It has
//! a status (done, or an error's code), a typed value, and the version that the key had afterwards.
//! Outcomes stand in the order of their operations and say nothing about which they answer.
//!
//! The types are few because every protocol must be able to speak them; how an outcome looks to a
//! client (`:1`, `+OK`, `$-1`, `_`) is decided where the command is known.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{ErrorCode, Full, Sink, Version};

/// Bytes of an outcome before the bytes it may carry.
pub const OUTCOME_HEADER_SIZE: usize = 24;

const ALIGNMENT: usize = 8;

/// What an operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// There is no value: no such key, or a condition did not hold.
    Nil,
    /// Done, and there is nothing to say about it.
    Ok,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Integer(i64),
    /// A string of bytes.
    Bytes(&'a [u8]),
}

/// The answer to one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome<'a> {
    /// The value, or why there is none.
    pub result: Result<Value<'a>, ErrorCode>,
    /// The version of the key after the operation; 0 when it does not exist.
    pub version: Version,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    status: U16,
    kind: u8,
    reserved: u8,
    size: U32,
    integer: I64,
    version: U64,
}

const _: () = assert!(size_of::<Layout>() == OUTCOME_HEADER_SIZE);

const KIND_NIL: u8 = 0;
const KIND_OK: u8 = 1;
const KIND_BOOL: u8 = 2;
const KIND_INTEGER: u8 = 3;
const KIND_BYTES: u8 = 4;

impl<'a> Outcome<'a> {
    /// A successful outcome.
    #[must_use]
    pub fn done(value: Value<'a>, version: Version) -> Outcome<'a> {
        Outcome { result: Ok(value), version }
    }

    /// A failed outcome.
    #[must_use]
    pub fn failed(code: ErrorCode) -> Outcome<'a> {
        Outcome { result: Err(code), version: Version(0) }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn encoded_size(&self) -> usize {
        let carried = if let Ok(Value::Bytes(bytes)) = self.result { bytes.len() } else { 0 };
        OUTCOME_HEADER_SIZE + carried.next_multiple_of(ALIGNMENT)
    }

    /// Appends it to a sink.
    ///
    /// # Errors
    /// [`Full`] when it does not fit; nothing of it is then written.
    pub fn encode(&self, sink: &mut impl Sink) -> Result<(), Full> {
        let before = sink.position();
        self.encode_parts(sink).inspect_err(|_| sink.truncate(before))
    }

    fn encode_parts(&self, sink: &mut impl Sink) -> Result<(), Full> {
        let (status, kind, integer, bytes): (u16, u8, i64, &[u8]) = match self.result {
            Err(code) => (code as u16, KIND_NIL, 0, &[]),
            Ok(Value::Nil) => (0, KIND_NIL, 0, &[]),
            Ok(Value::Ok) => (0, KIND_OK, 0, &[]),
            Ok(Value::Bool(yes)) => (0, KIND_BOOL, i64::from(yes), &[]),
            Ok(Value::Integer(integer)) => (0, KIND_INTEGER, integer, &[]),
            Ok(Value::Bytes(bytes)) => (0, KIND_BYTES, 0, bytes),
        };
        let layout = Layout {
            status: status.into(),
            kind,
            reserved: 0,
            size: u32::try_from(bytes.len()).map_err(|_| Full)?.into(),
            integer: integer.into(),
            version: self.version.0.into(),
        };
        sink.append(layout.as_bytes())?;
        sink.append(bytes)?;
        sink.append(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
    }

    /// Reads the outcome that `bytes` start with and says how many bytes it takes; `None` when
    /// they are no outcome.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<(Outcome<'a>, usize)> {
        let (layout, rest) = Layout::ref_from_prefix(bytes).ok()?;
        let carried = layout.size.get() as usize;
        let padded = carried.next_multiple_of(ALIGNMENT);
        let (status, integer) = (layout.status.get(), layout.integer.get());
        if padded > rest.len() || layout.reserved != 0 {
            return None;
        }
        if rest[carried..padded].iter().any(|&byte| byte != 0) {
            return None;
        }
        if (layout.kind != KIND_BYTES && carried != 0) || (status != 0 && layout.kind != KIND_NIL) {
            return None;
        }
        let value = match (layout.kind, integer) {
            (KIND_NIL, 0) => Value::Nil,
            (KIND_OK, 0) => Value::Ok,
            (KIND_BOOL, 0) => Value::Bool(false),
            (KIND_BOOL, 1) => Value::Bool(true),
            (KIND_INTEGER, integer) => Value::Integer(integer),
            (KIND_BYTES, 0) => Value::Bytes(&rest[..carried]),
            _ => return None,
        };
        let result = if status == 0 { Ok(value) } else { Err(ErrorCode::from_u16(status)?) };
        let outcome = Outcome { result, version: Version(layout.version.get()) };
        Some((outcome, OUTCOME_HEADER_SIZE + padded))
    }
}
