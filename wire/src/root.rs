//! Where the root of a shard's state lies in its grid.
//!
//! A checkpoint is one such reference per shard and one for the node's sessions. The superblock
//! stores them and a sync message carries them; what the referenced block means only the storage
//! engine knows.

use zerocopy::little_endian::{U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Checksum;

/// A reference to a root block: 32 bytes, all zero when there is none yet.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Debug,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct RootReference {
    address: U64,
    size: U64,
    checksum: U128,
}

const _: () = assert!(size_of::<RootReference>() == 32);

impl RootReference {
    /// No root: the state of a shard that never checkpointed.
    pub const NONE: RootReference =
        RootReference { address: U64::ZERO, size: U64::ZERO, checksum: U128::ZERO };

    /// A reference to the block at `address` (counted from 1) with `size` bytes in use.
    #[must_use]
    pub fn new(address: u64, size: u64, checksum: Checksum) -> RootReference {
        assert!(address > 0, "block addresses start at 1");
        RootReference { address: address.into(), size: size.into(), checksum: checksum.0.into() }
    }

    /// The block's address; 0 when there is no root.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address.get()
    }

    /// The bytes of the root in use.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// The checksum that the block must have.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum(self.checksum.get())
    }
}
