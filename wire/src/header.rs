//! The 256-byte header that every message starts with, and every entry of the log.
//!
//! The first half is the same for all commands, the second half is the command's own *tail*
//! ([`crate::message`]). Bytes become a [`Header`] in one of two ways:
//!
//! 1. A sender fills a [`Draft`] and *seals* it over the body: the body's checksum goes into the
//!    header, then the header's own checksum over everything after it. A header's checksum
//!    therefore names header and body.
//! 2. A receiver *verifies* bytes: checksum first, then protocol, command, size and every
//!    enumeration in the tail. The checksum comes first because no other field means anything
//!    without it. The body is verified apart ([`Header::verify_body`]), when it has arrived.
//!
//! There is no other way to a `Header`, so whoever holds one may trust it.
//!
//! Reserved bytes are zero and checked: what an older release would silently ignore it refuses.
//! The algorithm, key identifier and nonce fields are where compressed or encrypted bodies will say
//! so; slot and map version are where routing between clusters will.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::message::{self, Command, Tail};
use crate::{Checksum, ClusterId, Epoch, MapVersion, Release, ReplicaId, Slot, View, checksum};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 256;
/// Bytes of a header that belong to its command.
pub const TAIL_SIZE: usize = 128;
/// The version of all layouts of this crate. Another version is refused by name.
pub const PROTOCOL: u16 = 2;

/// A verified (or self-made) header. See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Header(Layout);

/// The bytes of a header, verified or not: private, so that nobody mistakes one for the other.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    checksum: U128,
    checksum_body: U128,
    cluster: U128,
    size: U32,
    view: U32,
    release: U32,
    protocol: U16,
    command: u8,
    replica: u8,
    epoch: U32,
    compression: u8,
    encryption: u8,
    slot: U16,
    key_id: U32,
    reserved_flags: U32,
    map_version: U64,
    nonce: [u8; 24],
    reserved: [u8; 16],
    tail: [u8; TAIL_SIZE],
}

const _: () = {
    assert!(size_of::<Layout>() == HEADER_SIZE);
    assert!(std::mem::offset_of!(Layout, tail) + TAIL_SIZE == HEADER_SIZE);
};

/// Why bytes are no header, or a body not the header's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("{actual} bytes are too few for a header of {HEADER_SIZE}")]
    Short {
        /// How many bytes there are.
        actual: usize,
    },
    /// The header's bytes do not sum to its checksum.
    #[error("header checksum is {actual}, the header says {expected}")]
    Checksum {
        /// What the header says.
        expected: Checksum,
        /// What its bytes sum to.
        actual: Checksum,
    },
    /// A header of another version of the protocol.
    #[error("protocol {actual} is not {PROTOCOL}")]
    Protocol {
        /// The header's version.
        actual: u16,
    },
    /// A command that this version does not have.
    #[error("command {actual} is unknown")]
    Command {
        /// The number found.
        actual: u8,
    },
    /// A size that no message can have.
    #[error("a size of {actual} is less than the header's own")]
    Size {
        /// The size the header claims.
        actual: u32,
    },
    /// A field of the command's tail has a value without a meaning, or a reserved byte is set.
    #[error("the header of a {command:?} has a field without a meaning")]
    Field {
        /// The header's command.
        command: Command,
    },
    /// The body's length is not what the header says.
    #[error("the body has {actual} bytes, the header says {expected}")]
    BodySize {
        /// What the header says.
        expected: usize,
        /// How many bytes were given.
        actual: usize,
    },
    /// The body's bytes do not sum to the header's checksum of them.
    #[error("body checksum is {actual}, the header says {expected}")]
    BodyChecksum {
        /// What the header says.
        expected: Checksum,
        /// What the bytes sum to.
        actual: Checksum,
    },
}

/// What a sender decides about a header; the rest is computed when it is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Draft {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender's view; 0 from clients.
    pub view: View,
    /// The release that executes the entry, or the sender's.
    pub release: Release,
    /// The sender; in a prepare the primary that made it.
    pub replica: ReplicaId,
    /// The membership configuration the sender knows.
    pub epoch: Epoch,
    /// The slot a client routed by.
    pub slot: Slot,
    /// The map a client routed by; 0 when it used none.
    pub map_version: MapVersion,
}

impl Draft {
    /// The header over `body`, checksums included.
    ///
    /// # Panics
    /// When header and body do not fit 32 bits: callers bound bodies far below.
    #[must_use]
    pub fn seal<T: Tail>(&self, tail: &T, body: &[u8]) -> Header {
        self.seal_summed(tail, body.len(), checksum(body))
    }

    /// The header over a body of `body_size` bytes whose sum is known.
    ///
    /// # Panics
    /// When header and body do not fit 32 bits.
    #[must_use]
    pub fn seal_summed<T: Tail>(&self, tail: &T, body_size: usize, body: Checksum) -> Header {
        let size = u32::try_from(HEADER_SIZE + body_size).expect("a message fits 32 bits");
        let mut layout = Layout {
            checksum: U128::ZERO,
            checksum_body: body.0.into(),
            cluster: self.cluster.0.into(),
            size: size.into(),
            view: self.view.0.into(),
            release: self.release.0.into(),
            protocol: PROTOCOL.into(),
            command: T::COMMAND as u8,
            replica: self.replica.0,
            epoch: self.epoch.0.into(),
            compression: 0,
            encryption: 0,
            slot: self.slot.0.into(),
            key_id: U32::ZERO,
            reserved_flags: U32::ZERO,
            map_version: self.map_version.0.into(),
            nonce: [0; 24],
            reserved: [0; 16],
            tail: [0; TAIL_SIZE],
        };
        tail.write(&mut layout.tail);
        layout.checksum = layout.sum().0.into();
        Header(layout)
    }
}

impl Layout {
    fn sum(&self) -> Checksum {
        checksum(&self.as_bytes()[size_of::<U128>()..])
    }

    fn verify(&self) -> Result<(), HeaderError> {
        let (expected, actual) = (Checksum(self.checksum.get()), self.sum());
        if actual != expected {
            return Err(HeaderError::Checksum { expected, actual });
        }
        if self.protocol.get() != PROTOCOL {
            return Err(HeaderError::Protocol { actual: self.protocol.get() });
        }
        let command =
            Command::from_u8(self.command).ok_or(HeaderError::Command { actual: self.command })?;
        if (self.size.get() as usize) < HEADER_SIZE {
            return Err(HeaderError::Size { actual: self.size.get() });
        }
        let reserved_zero = self.compression == 0
            && self.encryption == 0
            && self.key_id == U32::ZERO
            && self.reserved_flags == U32::ZERO
            && self.nonce == [0; 24]
            && self.reserved == [0; 16];
        let slot_valid = self.slot.get() < crate::SLOT_COUNT;
        if !reserved_zero || !slot_valid || !message::tail_is_valid(command, &self.tail) {
            return Err(HeaderError::Field { command });
        }
        Ok(())
    }
}

impl Header {
    /// Takes the first 256 of `bytes` for a header once all about them is checked.
    ///
    /// # Errors
    /// [`HeaderError`] naming what is wrong; the bytes are then nothing.
    pub fn verify(bytes: &[u8]) -> Result<Header, HeaderError> {
        let (layout, _) = Layout::ref_from_prefix(bytes)
            .map_err(|_| HeaderError::Short { actual: bytes.len() })?;
        layout.verify()?;
        Ok(Header(*layout))
    }

    /// Checks that `body` is this header's: its length and its sum.
    ///
    /// # Errors
    /// [`HeaderError::BodySize`] or [`HeaderError::BodyChecksum`].
    pub fn verify_body(&self, body: &[u8]) -> Result<(), HeaderError> {
        if body.len() != self.body_size() {
            let expected = self.body_size();
            return Err(HeaderError::BodySize { expected, actual: body.len() });
        }
        let actual = checksum(body);
        if actual != self.checksum_body() {
            return Err(HeaderError::BodyChecksum { expected: self.checksum_body(), actual });
        }
        Ok(())
    }

    /// The header as it goes to the wire or the journal.
    #[must_use]
    pub fn bytes(&self) -> &[u8; HEADER_SIZE] {
        zerocopy::transmute_ref!(&self.0)
    }

    /// The command's own half; `None` when the header is of another command.
    #[must_use]
    pub fn tail<T: Tail>(&self) -> Option<T> {
        (self.0.command == T::COMMAND as u8)
            .then(|| T::read(&self.0.tail).expect("a header's tail was checked when it was made"))
    }

    /// The checksum of header and, through it, body: the identity of the message.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum(self.0.checksum.get())
    }

    /// The checksum that the body must have.
    #[must_use]
    pub fn checksum_body(&self) -> Checksum {
        Checksum(self.0.checksum_body.get())
    }

    /// The cluster of the sender.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId(self.0.cluster.get())
    }

    /// Bytes of header and body.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size.get() as usize
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_size(&self) -> usize {
        self.size() - HEADER_SIZE
    }

    /// The sender's view; in a prepare the view it was made in.
    #[must_use]
    pub fn view(&self) -> View {
        View(self.0.view.get())
    }

    /// The release that executes the entry, or the sender's.
    #[must_use]
    pub fn release(&self) -> Release {
        Release(self.0.release.get())
    }

    /// The sender; in a prepare the primary that made it.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        ReplicaId(self.0.replica)
    }

    /// What the message is.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_u8(self.0.command).expect("a header's command was checked when it was made")
    }

    /// The membership configuration the sender knows.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.0.epoch.get())
    }

    /// The slot a client routed by.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot(self.0.slot.get())
    }

    /// The map a client routed by.
    #[must_use]
    pub fn map_version(&self) -> MapVersion {
        MapVersion(self.0.map_version.get())
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Header");
        out.field("command", &self.command()).field("checksum", &self.checksum());
        out.field("view", &self.view()).field("replica", &self.replica());
        out.field("size", &self.size());
        if let Some(prepare) = self.tail::<message::Prepare>() {
            out.field("prepare", &prepare);
        }
        out.finish_non_exhaustive()
    }
}
