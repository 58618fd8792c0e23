//! Reads of the native protocol: what a client asks of keys, as it stands in a request's body.
//!
//! A read looks like an operation ([`crate::operation`]), so that clients write both alike, but its
//! opcodes begin at [`READ_OPCODE_MIN`], where operations of the log end: what only looks at
//! something never gets there. A request has either operations or reads.
//!
//! The outcomes of reads are those of operations: of a get the value, or nil, with its version.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::operation::{ALIGNMENT, KEY_SIZE_MAX, OPERATION_HEADER_SIZE};
use crate::{Full, Sink, Slot, TableId, slot_of_key};

/// Opcodes from this one on are of reads.
pub const READ_OPCODE_MIN: u8 = 64;
/// The value of a key.
pub const GET: u8 = 64;

/// Why bytes are no read that this release knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// A length, slot or reserved byte is wrong.
    #[error("read {index} of the request is malformed")]
    Malformed {
        /// Counted from 0.
        index: u32,
    },
    /// An opcode that this release does not have.
    #[error("read {index} of the request has opcode {opcode}, which this release does not offer")]
    Unknown {
        /// Counted from 0.
        index: u32,
        /// The opcode.
        opcode: u8,
    },
    /// There are not as many as the header says.
    #[error("the request's reads do not end where it does")]
    Count,
}

/// A read of one key, borrowed from wherever it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetView<'a> {
    /// The key's slot.
    pub slot: Slot,
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    opcode: u8,
    reserved: u8,
    flags: U16,
    slot: U16,
    key_size: U16,
    table: U32,
    rest: [u8; 20],
}

const _: () = assert!(size_of::<Layout>() == OPERATION_HEADER_SIZE);

impl<'a> GetView<'a> {
    /// The read of a key.
    #[must_use]
    pub fn new(table: TableId, key: &'a [u8]) -> GetView<'a> {
        GetView { slot: slot_of_key(key), table, key }
    }

    /// Appends it to a sink.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn encode(&self, sink: &mut impl Sink) -> Result<(), Full> {
        let layout = Layout {
            opcode: GET,
            reserved: 0,
            flags: U16::ZERO,
            slot: self.slot.0.into(),
            key_size: u16::try_from(self.key.len()).map_err(|_| Full)?.into(),
            table: self.table.0.into(),
            rest: [0; 20],
        };
        sink.append(layout.as_bytes())?;
        sink.append(self.key)?;
        sink.append(&[0; ALIGNMENT][..self.key.len().next_multiple_of(ALIGNMENT) - self.key.len()])
    }

    fn verify(bytes: &'a [u8], index: u32) -> Result<(GetView<'a>, usize), ReadError> {
        let malformed = ReadError::Malformed { index };
        let (layout, rest) = Layout::ref_from_prefix(bytes).map_err(|_| malformed)?;
        if layout.opcode != GET {
            return Err(ReadError::Unknown { index, opcode: layout.opcode });
        }
        let key_size = usize::from(layout.key_size.get());
        let padded = key_size.next_multiple_of(ALIGNMENT);
        let blank = layout.reserved == 0 && layout.flags == U16::ZERO && layout.rest == [0; 20];
        let fits = (1..=KEY_SIZE_MAX).contains(&key_size) && padded <= rest.len();
        if !blank || !fits || rest[key_size..padded].iter().any(|&byte| byte != 0) {
            return Err(malformed);
        }
        let get = GetView::new(TableId(layout.table.get()), &rest[..key_size]);
        if get.slot.0 != layout.slot.get() {
            return Err(malformed);
        }
        Ok((get, OPERATION_HEADER_SIZE + padded))
    }
}

/// The reads of a request, in place.
#[derive(Clone, Debug)]
pub struct Reads<'a> {
    rest: &'a [u8],
}

impl<'a> Reads<'a> {
    /// Whether a body is of reads.
    #[must_use]
    pub fn are_in(body: &[u8]) -> bool {
        body.first().is_some_and(|&opcode| opcode >= READ_OPCODE_MIN)
    }

    /// Checks that `bytes` are exactly `count` reads, each of them well-formed.
    ///
    /// # Errors
    /// [`ReadError`] of the first that is not.
    pub fn verify(bytes: &'a [u8], count: u32) -> Result<Reads<'a>, ReadError> {
        let mut rest = bytes;
        for index in 0..count {
            if rest.is_empty() {
                return Err(ReadError::Count);
            }
            rest = &rest[GetView::verify(rest, index)?.1..];
        }
        if rest.is_empty() { Ok(Reads { rest: bytes }) } else { Err(ReadError::Count) }
    }
}

impl<'a> Iterator for Reads<'a> {
    type Item = GetView<'a>;

    fn next(&mut self) -> Option<GetView<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (get, size) = GetView::verify(self.rest, 0).expect("a request's reads were verified");
        self.rest = &self.rest[size..];
        Some(get)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(keys: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for key in keys {
            GetView::new(TableId(0), key).encode(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn golden_get() {
        #[rustfmt::skip]
        let expected = [
            64, 0, 0, 0, 0x96, 0x2f, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            b'f', b'o', b'o', 0, 0, 0, 0, 0,
        ];
        assert_eq!(body(&[b"foo"]), expected);
    }

    #[test]
    fn reads_come_back_and_what_is_wrong_is_named() {
        let good = body(&[b"foo", b"a longer key"]);
        let keys: Vec<_> = Reads::verify(&good, 2).unwrap().map(|get| get.key).collect();
        assert_eq!(keys, [&b"foo"[..], b"a longer key"]);
        assert!(Reads::are_in(&good) && !Reads::are_in(&[1]) && !Reads::are_in(&[]));
        assert_eq!(Reads::verify(&good, 1).unwrap_err(), ReadError::Count);
        assert_eq!(Reads::verify(&good, 3).unwrap_err(), ReadError::Count);
        let broken = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Reads::verify(&bytes, 2).unwrap_err()
        };
        assert_eq!(broken(0, 65), ReadError::Unknown { index: 0, opcode: 65 });
        for at in [1, 2, 4, 6, 12, 31, 36] {
            assert_eq!(broken(at, 1), ReadError::Malformed { index: 0 }, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..4u32,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = GET;
            }
            if let Ok(reads) = Reads::verify(&bytes, count) {
                prop_assert_eq!(reads.count() as u32, count);
            }
        }
    }
}
