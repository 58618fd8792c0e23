//! The bytes of one superblock copy: 16 KiB, of which more than a third is reserved.
//!
//! The checksum covers everything from the format number on. What stands before it (checksum,
//! magic, number of the copy) is compared field by field instead, so that all eight copies of one
//! version have the same checksum: it *is* the version's name, and what the next version gives as
//! its parent. The byte map is in `docs/FORMAT.md`.

use std::mem::offset_of;

use wire::{Checksum, HEADER_SIZE, Header, RootReference, checksum};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::Configuration;
use crate::format::configuration::RECORD_SIZE;

/// Bytes of one copy.
pub const COPY_SIZE: usize = 16 * 1024;
/// How many copies there are.
pub const COPIES: usize = 8;
/// Bytes of the superblock zone, the first of the file `journal`.
pub const ZONE_SIZE: usize = COPY_SIZE * COPIES;
/// Shards that have room for a root.
pub const SHARDS_MAX: usize = 128;
/// Headers of the current log view that have room.
pub const VIEW_HEADERS_MAX: usize = 16;
/// The version of all that `vsr` writes to disk. Another version is refused by name.
pub const FORMAT: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"QRTSUPER";

/// One copy, as it lies on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Copy {
    pub(crate) checksum: U128,
    pub(crate) magic: [u8; 8],
    pub(crate) copy: U16,
    pub(crate) reserved_copy: [u8; 6],
    pub(crate) format: U32,
    pub(crate) release: U32,
    pub(crate) sequence: U64,
    pub(crate) parent: U128,
    pub(crate) cluster: U128,
    pub(crate) incarnation: U128,
    pub(crate) replica: u8,
    pub(crate) reserved_replica: [u8; 3],
    pub(crate) shard_count: U32,
    pub(crate) view_header_count: U32,
    pub(crate) reserved_counts: [u8; 4],
    pub(crate) fingerprint: U128,
    pub(crate) configuration: [u8; RECORD_SIZE],
    pub(crate) view: U32,
    pub(crate) log_view: U32,
    pub(crate) commit_max: U64,
    pub(crate) checkpoint_op: U64,
    pub(crate) sync_op_min: U64,
    pub(crate) sync_op_max: U64,
    pub(crate) reserved_vsr: [u8; 8],
    pub(crate) checkpoint_id: U128,
    pub(crate) checkpoint_header: [u8; HEADER_SIZE],
    pub(crate) sessions: RootReference,
    pub(crate) shards: [RootReference; SHARDS_MAX],
    pub(crate) view_headers: [[u8; HEADER_SIZE]; VIEW_HEADERS_MAX],
    pub(crate) reserved: [u8; RESERVED],
}

const RESERVED: usize = 7200;
const COVERED_FROM: usize = offset_of!(Copy, format);

const _: () = {
    assert!(size_of::<Copy>() == COPY_SIZE);
    assert!(RESERVED * 4 >= COPY_SIZE);
    assert!(COVERED_FROM == 32);
    assert!(offset_of!(Copy, configuration) == 128);
    assert!(offset_of!(Copy, view) == 640);
    assert!(offset_of!(Copy, shards) == 992);
    assert!(COPIES.is_multiple_of(2));
};

/// What is wrong with one copy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CopyFault {
    /// The device could not read it, twice.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Nothing but zeros.
    #[error("is blank")]
    Blank,
    /// It does not start as a superblock does.
    #[error("is no superblock")]
    Magic,
    /// Its bytes do not sum to its checksum.
    #[error("checksum is {actual}, the copy says {expected}")]
    Checksum {
        /// What the copy says.
        expected: Checksum,
        /// What its bytes sum to.
        actual: Checksum,
    },
    /// A valid copy that belongs to another place: a misdirected write or read.
    #[error("is copy {found}, misplaced")]
    Misplaced {
        /// The number in the copy.
        found: u16,
    },
    /// Written by a release with another format.
    #[error("has format {found}, this release reads {FORMAT}")]
    OtherFormat {
        /// Its format.
        found: u32,
    },
    /// Its checksum is right and its contents are impossible: a bug wrote it.
    #[error("has an impossible {0}")]
    Contents(&'static str),
}

impl Copy {
    pub(crate) fn sum(&self) -> Checksum {
        checksum(&self.as_bytes()[COVERED_FROM..])
    }

    /// Checks that `bytes` are a copy that belongs at `slot`.
    pub(crate) fn verify(bytes: &[u8], slot: usize) -> Result<&Copy, CopyFault> {
        let copy = Copy::ref_from_bytes(bytes).map_err(|_| CopyFault::Magic)?;
        if copy.magic != MAGIC {
            let blank = bytes.iter().all(|&byte| byte == 0);
            return Err(if blank { CopyFault::Blank } else { CopyFault::Magic });
        }
        let expected = Checksum(copy.checksum.get());
        let actual = copy.sum();
        if actual != expected {
            return Err(CopyFault::Checksum { expected, actual });
        }
        if copy.format.get() != FORMAT {
            return Err(CopyFault::OtherFormat { found: copy.format.get() });
        }
        if usize::from(copy.copy.get()) != slot {
            return Err(CopyFault::Misplaced { found: copy.copy.get() });
        }
        if copy.reserved_copy != [0; 6] {
            return Err(CopyFault::Contents("reserved field"));
        }
        copy.verify_contents()?;
        Ok(copy)
    }

    fn verify_contents(&self) -> Result<(), CopyFault> {
        let configuration = Configuration::decode(&self.configuration)
            .ok_or(CopyFault::Contents("configuration"))?;
        if configuration.fingerprint().0 != self.fingerprint.get() {
            return Err(CopyFault::Contents("configuration fingerprint"));
        }
        if self.shard_count.get() as usize > SHARDS_MAX
            || self.shard_count.get() != u32::from(configuration.shard_count)
        {
            return Err(CopyFault::Contents("number of shards"));
        }
        let headers = self.view_header_count.get() as usize;
        if headers > VIEW_HEADERS_MAX {
            return Err(CopyFault::Contents("number of view headers"));
        }
        for header in &self.view_headers[..headers] {
            Header::verify(header).map_err(|_| CopyFault::Contents("view header"))?;
        }
        if self.checkpoint_op.get() > 0 {
            Header::verify(&self.checkpoint_header)
                .map_err(|_| CopyFault::Contents("checkpoint header"))?;
        }
        if self.log_view.get() > self.view.get() {
            return Err(CopyFault::Contents("log view"));
        }
        Ok(())
    }
}
