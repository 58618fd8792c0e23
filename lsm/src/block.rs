//! The header and identity of every grid block.
//!
//! A block is written once and never changed in place. Its header says what it is and where it
//! belongs; a reference to it carries the header's checksum, and the header carries the body's, so
//! whoever holds a trusted reference can tell the block from anything else the disk may return:
//!
//! * *rot, torn write*: a checksum does not match;
//! * *lost write*: an older block stands at the address, its header checksum is not the expected;
//! * *misdirected write or read*: the address in the header is another;
//! * *swapped or foreign file*: cluster or shard is another.
//!
//! The order of checks is fixed, so that the error names the most telling difference: a header that
//! is intact but belongs elsewhere is reported as misdirected and not as a checksum mismatch.
//!
//! Nothing in a header differs between replicas: grids are byte-identical at every checkpoint, and
//! a block can be fetched from any replica by (address, checksum). Which replica a file belongs to
//! stands in the file's own header block only.
//!
//! A block's `size` counts header and body; what lies behind it in the block's slot of the file is
//! not part of the block and never read. Writes are padded with zeros to a whole sector.
//!
//! The byte map stands in `docs/FORMAT.md`, "Grid block".

use std::fmt;
use std::num::NonZeroU64;

use ioring::Frozen;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::entry::TreeId;

/// Bytes of a block header.
pub const HEADER_SIZE: usize = 256;
/// Bytes of the type's own part of the header.
pub const METADATA_SIZE: usize = 64;
/// Format version of every structure in this crate.
pub const FORMAT_VERSION: u16 = 3;

/// Where a block stands in the grid, counted in blocks; 0 is the file's own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockAddress(pub NonZeroU64);

impl BlockAddress {
    /// The address, unless the number is the header block's.
    #[must_use]
    pub fn new(address: u64) -> Option<BlockAddress> {
        NonZeroU64::new(address).map(BlockAddress)
    }

    /// The address as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// Offset in the grid file, in bytes; of an address that no file has, the largest there is.
    #[must_use]
    pub fn offset(self, block_size: u32) -> u64 {
        self.get().saturating_mul(u64::from(block_size))
    }
}

impl fmt::Display for BlockAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// XXH3-128 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(pub u128);

impl Checksum {
    /// The checksum of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(xxh3_128(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// All that is needed to read a block and to know that it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockReference {
    /// Where it stands.
    pub address: BlockAddress,
    /// Bytes of header and body.
    pub size: u32,
    /// Checksum of its header, which holds the checksum of its body.
    pub checksum: Checksum,
}

impl fmt::Display for BlockReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} ({} bytes, {})", self.address, self.size, self.checksum)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockType {
    /// The first block of a grid file.
    GridHeader = 1,
    /// Pages of entries.
    Value = 2,
    /// Index of a table.
    Index = 3,
    /// Part of a large value.
    Overflow = 4,
    /// Table inserts and removes.
    Manifest = 5,
    /// Chunks of the free set.
    FreeSet = 6,
    /// Root of a checkpoint.
    Checkpoint = 7,
    /// Opaque state that the machine above hands to a checkpoint.
    Extra = 8,
}

impl BlockType {
    /// The type with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<BlockType> {
        Some(match number {
            1 => BlockType::GridHeader,
            2 => BlockType::Value,
            3 => BlockType::Index,
            4 => BlockType::Overflow,
            5 => BlockType::Manifest,
            6 => BlockType::FreeSet,
            7 => BlockType::Checkpoint,
            8 => BlockType::Extra,
            _ => return None,
        })
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockType::GridHeader => "grid header",
            BlockType::Value => "value",
            BlockType::Index => "index",
            BlockType::Overflow => "overflow",
            BlockType::Manifest => "manifest",
            BlockType::FreeSet => "free set",
            BlockType::Checkpoint => "checkpoint",
            BlockType::Extra => "extra",
        })
    }
}

/// Whose blocks a grid holds: equal on all replicas of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u128,
    /// The shard within every replica.
    pub shard: u16,
}

/// The header as stored, not yet verified.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    checksum_header: U128,
    checksum_body: U128,
    cluster: U128,
    address: U64,
    op: U64,
    size: U32,
    shard: U16,
    format_version: U16,
    block_type: u8,
    tree: u8,
    compression: u8,
    encryption: u8,
    encryption_key: U32,
    nonce: [u8; 24],
    reserved: [u8; 88],
    metadata: [u8; METADATA_SIZE],
}

const _: () = assert!(size_of::<Raw>() == HEADER_SIZE);
const _: () = assert!(std::mem::offset_of!(Raw, metadata) + METADATA_SIZE == HEADER_SIZE);

/// A verified header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Checksum of the header itself: what references carry.
    pub checksum: Checksum,
    /// Checksum of the body.
    pub checksum_body: Checksum,
    /// Cluster and shard.
    pub identity: Identity,
    /// Where the block stands.
    pub address: BlockAddress,
    /// What it holds.
    pub block_type: BlockType,
    /// The tree it belongs to; zero where it belongs to none.
    pub tree: TreeId,
    /// The op during which it was created.
    pub op: u64,
    /// Bytes of header and body.
    pub size: u32,
    /// The type's own fields.
    pub metadata: [u8; METADATA_SIZE],
}

impl Header {
    /// The reference to this block.
    #[must_use]
    pub fn reference(&self) -> BlockReference {
        BlockReference { address: self.address, size: self.size, checksum: self.checksum }
    }
}

/// What a writer says about a block; checksums and size come from [`seal`].
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// Cluster and shard.
    pub identity: Identity,
    /// Where the block will stand.
    pub address: BlockAddress,
    /// What it holds.
    pub block_type: BlockType,
    /// The tree it belongs to, or zero.
    pub tree: TreeId,
    /// The op that creates it.
    pub op: u64,
    /// The type's own fields.
    pub metadata: [u8; METADATA_SIZE],
}

/// Fills the header of a block whose body stands in `block[HEADER_SIZE..]`, and gives the
/// reference to it. `block` is exactly header and body, without padding.
pub fn seal(block: &mut [u8], seal: &Seal) -> BlockReference {
    assert!(block.len() >= HEADER_SIZE, "a block of {} bytes has no header", block.len());
    seal_raw(block, seal.address.get(), seal)
}

/// As [`seal`], for the grid's header block, whose address is zero.
pub fn seal_grid_header(block: &mut [u8], identity: Identity, metadata: [u8; 64]) {
    let address = BlockAddress(NonZeroU64::MIN);
    let block_type = BlockType::GridHeader;
    let header = Seal { identity, address, block_type, tree: TreeId(0), op: 0, metadata };
    seal_raw(block, 0, &header);
}

fn seal_raw(block: &mut [u8], address: u64, seal: &Seal) -> BlockReference {
    let size = u32::try_from(block.len()).expect("a block is at most 1 MiB");
    let (head, body) = block.split_at_mut(HEADER_SIZE);
    let raw = Raw {
        checksum_header: U128::ZERO,
        checksum_body: U128::new(xxh3_128(body)),
        cluster: U128::new(seal.identity.cluster),
        address: U64::new(address),
        op: U64::new(seal.op),
        size: U32::new(size),
        shard: U16::new(seal.identity.shard),
        format_version: U16::new(FORMAT_VERSION),
        block_type: seal.block_type as u8,
        tree: seal.tree.0,
        compression: 0,
        encryption: 0,
        encryption_key: U32::ZERO,
        nonce: [0; 24],
        reserved: [0; 88],
        metadata: seal.metadata,
    };
    head.copy_from_slice(raw.as_bytes());
    let checksum = Checksum::of(&head[16..]);
    head[..16].copy_from_slice(&checksum.0.to_le_bytes());
    BlockReference { address: seal.address, size, checksum }
}

/// Why bytes are not the block that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockFault {
    /// Fewer bytes than a header, or than the header's size says.
    #[error("{actual} bytes where {expected} are needed")]
    Short {
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        actual: usize,
    },
    /// The header is not intact.
    #[error("header checksum is {actual}, expected {expected}")]
    HeaderChecksum {
        /// What the header says.
        expected: Checksum,
        /// What its bytes give.
        actual: Checksum,
    },
    /// The body is not intact.
    #[error("body checksum is {actual}, expected {expected}")]
    BodyChecksum {
        /// What the header says.
        expected: Checksum,
        /// What the bytes give.
        actual: Checksum,
    },
    /// An intact block of another format.
    #[error("format version is {actual}, this release reads {expected}")]
    FormatVersion {
        /// The version this release knows.
        expected: u16,
        /// The version found.
        actual: u16,
    },
    /// An intact block of another cluster.
    #[error("block of cluster {actual}, expected cluster {expected}")]
    Cluster {
        /// The cluster this grid belongs to.
        expected: u128,
        /// The cluster found.
        actual: u128,
    },
    /// An intact block of another shard.
    #[error("block of shard {actual}, expected shard {expected}")]
    Shard {
        /// The shard this grid belongs to.
        expected: u16,
        /// The shard found.
        actual: u16,
    },
    /// An intact block that belongs elsewhere: a misdirected read or write.
    #[error("block belongs at address {actual}, found at {expected}")]
    Address {
        /// The address that was read.
        expected: u64,
        /// The address in the header.
        actual: u64,
    },
    /// An intact block of this address, but another than the one referred to: a lost write, or a
    /// block that was freed and written again.
    #[error("another block at this address: {actual} (created at op {op}), expected {expected}")]
    Stale {
        /// Header checksum of the block referred to.
        expected: Checksum,
        /// Header checksum found.
        actual: Checksum,
        /// The op in the header found.
        op: u64,
    },
    /// An intact block of another type or of an unknown one.
    #[error("block type is {actual}, expected {expected}")]
    Type {
        /// The type asked for.
        expected: BlockType,
        /// The number found.
        actual: u8,
    },
    /// The size field is impossible.
    #[error("block size field is {0}")]
    Size(u32),
    /// An intact block in which a field is set that this release keeps zero.
    #[error("a reserved field of the header is set: written by a later release")]
    Reserved,
    /// Header and body are intact, but the body's structure is not one this release writes.
    #[error("malformed {block_type} block: {what}")]
    Malformed {
        /// What the block should hold.
        block_type: BlockType,
        /// What is wrong.
        what: &'static str,
    },
    /// A page does not match the checksum in its table's index.
    #[error("page at {offset} of the block: checksum is {actual:016x}, expected {expected:016x}")]
    PageChecksum {
        /// Offset of the page in the block.
        offset: u32,
        /// What the index says.
        expected: u64,
        /// What the bytes give.
        actual: u64,
    },
    /// The place failed an operation of the log, and is not believed again.
    #[error("an operation of the log could not be done without it; it is not read again")]
    Condemned,
    /// The device reported an error twice.
    #[error("device error {0:?}")]
    Device(std::io::ErrorKind),
}

/// Verifies the header of the block that `reference` stands for.
pub fn verify_header(
    bytes: &[u8],
    identity: Identity,
    reference: &BlockReference,
    block_type: BlockType,
) -> Result<Header, BlockFault> {
    let header = parse_header(bytes)?;
    check_identity(&header, identity, reference.address.get())?;
    if header.checksum() != reference.checksum {
        let (expected, actual) = (reference.checksum, header.checksum());
        return Err(BlockFault::Stale { expected, actual, op: header.op.get() });
    }
    if header.block_type != block_type as u8 {
        return Err(BlockFault::Type { expected: block_type, actual: header.block_type });
    }
    if header.size.get() != reference.size {
        return Err(BlockFault::Size(header.size.get()));
    }
    header.verified().ok_or(BlockFault::Type { expected: block_type, actual: header.block_type })
}

/// Verifies a whole block: the header as [`verify_header`], then the body.
pub fn verify(
    bytes: &[u8],
    identity: Identity,
    reference: &BlockReference,
    block_type: BlockType,
) -> Result<Header, BlockFault> {
    let header = verify_header(bytes, identity, reference, block_type)?;
    verify_body(bytes, &header)?;
    Ok(header)
}

/// A verified block and its memory.
#[derive(Clone, Debug)]
pub struct Block {
    header: Header,
    bytes: Frozen,
}

impl Block {
    /// Verifies the block in these bytes, which may reach beyond its size.
    pub fn verify(
        bytes: Frozen,
        identity: Identity,
        reference: &BlockReference,
        block_type: BlockType,
    ) -> Result<Block, BlockFault> {
        let header = verify(&bytes, identity, reference, block_type)?;
        Ok(Block { header, bytes })
    }

    /// A block whose header came out of [`verify`] or [`verify_any`] on these bytes.
    pub(crate) fn verified(header: Header, bytes: Frozen) -> Block {
        assert!(bytes.len() >= header.size as usize);
        Block { header, bytes }
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Header and body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.header.size as usize]
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes()[HEADER_SIZE..]
    }
}

/// Verifies whatever block stands at an address, without a reference to it: for inspection.
pub fn verify_any(bytes: &[u8], identity: Identity, address: u64) -> Result<Header, BlockFault> {
    let raw = parse_header(bytes)?;
    check_identity(&raw, identity, address)?;
    let expected = BlockType::Value;
    let actual = raw.block_type;
    let header = raw.verified().ok_or(BlockFault::Type { expected, actual })?;
    verify_body(bytes, &header)?;
    Ok(header)
}

/// Takes apart the header of whatever block begins here, if it is intact in itself: whether it
/// belongs here, and whether its body is intact, is not looked at.
pub fn header(bytes: &[u8]) -> Result<Header, BlockFault> {
    let raw = parse_header(bytes)?;
    let (expected, actual) = (BlockType::Value, raw.block_type);
    raw.verified().ok_or(BlockFault::Type { expected, actual })
}

/// Verifies a grid file's header block; gives its identity and its own fields.
pub fn verify_grid_header(bytes: &[u8]) -> Result<(Identity, [u8; METADATA_SIZE]), BlockFault> {
    let raw = parse_header(bytes)?;
    if raw.block_type != BlockType::GridHeader as u8 || raw.address.get() != 0 {
        let (expected, actual) = (BlockType::GridHeader, raw.block_type);
        return Err(BlockFault::Type { expected, actual });
    }
    let identity = Identity { cluster: raw.cluster.get(), shard: raw.shard.get() };
    let checksum_body = Checksum(raw.checksum_body.get());
    verify_body_bytes(bytes, raw.size.get(), checksum_body)?;
    Ok((identity, raw.metadata))
}

impl Raw {
    fn checksum(&self) -> Checksum {
        Checksum(self.checksum_header.get())
    }

    fn verified(&self) -> Option<Header> {
        Some(Header {
            checksum: self.checksum(),
            checksum_body: Checksum(self.checksum_body.get()),
            identity: Identity { cluster: self.cluster.get(), shard: self.shard.get() },
            address: BlockAddress::new(self.address.get())?,
            block_type: BlockType::from_u8(self.block_type)?,
            tree: TreeId(self.tree),
            op: self.op.get(),
            size: self.size.get(),
            metadata: self.metadata,
        })
    }
}

fn parse_header(bytes: &[u8]) -> Result<Raw, BlockFault> {
    let short = BlockFault::Short { expected: HEADER_SIZE, actual: bytes.len() };
    let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| short)?;
    let actual = Checksum::of(&bytes[16..HEADER_SIZE]);
    if raw.checksum() != actual {
        return Err(BlockFault::HeaderChecksum { expected: raw.checksum(), actual });
    }
    if raw.format_version.get() != FORMAT_VERSION {
        let (expected, actual) = (FORMAT_VERSION, raw.format_version.get());
        return Err(BlockFault::FormatVersion { expected, actual });
    }
    if (raw.size.get() as usize) < HEADER_SIZE {
        return Err(BlockFault::Size(raw.size.get()));
    }
    let transformed = raw.compression | raw.encryption != 0 || raw.encryption_key.get() != 0;
    if transformed || raw.nonce != [0; 24] || raw.reserved != [0; 88] {
        return Err(BlockFault::Reserved);
    }
    Ok(raw)
}

fn check_identity(raw: &Raw, identity: Identity, address: u64) -> Result<(), BlockFault> {
    if raw.cluster.get() != identity.cluster {
        let (expected, actual) = (identity.cluster, raw.cluster.get());
        return Err(BlockFault::Cluster { expected, actual });
    }
    if raw.shard.get() != identity.shard {
        let (expected, actual) = (identity.shard, raw.shard.get());
        return Err(BlockFault::Shard { expected, actual });
    }
    if raw.address.get() != address {
        return Err(BlockFault::Address { expected: address, actual: raw.address.get() });
    }
    Ok(())
}

fn verify_body(bytes: &[u8], header: &Header) -> Result<(), BlockFault> {
    verify_body_bytes(bytes, header.size, header.checksum_body)
}

fn verify_body_bytes(bytes: &[u8], size: u32, expected: Checksum) -> Result<(), BlockFault> {
    let short = BlockFault::Short { expected: size as usize, actual: bytes.len() };
    let body = bytes.get(HEADER_SIZE..size as usize).ok_or(short)?;
    let actual = Checksum::of(body);
    if actual != expected {
        return Err(BlockFault::BodyChecksum { expected, actual });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: Identity = Identity { cluster: 7, shard: 3 };

    fn sealed(address: u64, body: &[u8]) -> (Vec<u8>, BlockReference) {
        let mut block = vec![0; HEADER_SIZE];
        block.extend_from_slice(body);
        let reference = seal(
            &mut block,
            &Seal {
                identity: IDENTITY,
                address: BlockAddress::new(address).unwrap(),
                block_type: BlockType::Value,
                tree: TreeId(2),
                op: 99,
                metadata: [5; METADATA_SIZE],
            },
        );
        (block, reference)
    }

    #[test]
    fn verifies_what_was_sealed() {
        let (block, reference) = sealed(17, b"body");
        let header = verify(&block, IDENTITY, &reference, BlockType::Value).unwrap();
        assert_eq!((header.op, header.size, header.tree), (99, 260, TreeId(2)));
        assert_eq!(header.reference(), reference);
        assert_eq!(verify_any(&block, IDENTITY, 17).unwrap(), header);
    }

    #[test]
    fn golden_bytes() {
        let (block, reference) = sealed(17, b"body");
        assert_eq!(block[16..32], Checksum::of(b"body").0.to_le_bytes());
        assert_eq!(block[32..48], 7u128.to_le_bytes());
        assert_eq!(block[48..56], 17u64.to_le_bytes());
        assert_eq!(block[56..64], 99u64.to_le_bytes());
        assert_eq!(block[64..72], [4, 1, 0, 0, 3, 0, 3, 0]);
        assert_eq!(block[72..76], [2, 2, 0, 0]);
        assert_eq!(reference.checksum.to_string(), GOLDEN_CHECKSUM);
    }

    const GOLDEN_CHECKSUM: &str = "aa16dc429258c839605ddccf4c6d5486";

    /// Every way in which a disk can answer with something else has an error of its own.
    #[test]
    fn faults_are_told_apart() {
        let (block, reference) = sealed(17, b"body");
        let check = |bytes: &[u8], identity, reference: &BlockReference, block_type| {
            verify(bytes, identity, reference, block_type).unwrap_err()
        };
        let value = BlockType::Value;
        let other = Identity { cluster: 8, ..IDENTITY };
        assert!(matches!(check(&block, other, &reference, value), BlockFault::Cluster { .. }));
        let other = Identity { shard: 4, ..IDENTITY };
        assert!(matches!(check(&block, other, &reference, value), BlockFault::Shard { .. }));
        let (misdirected, _) = sealed(18, b"body");
        let fault = check(&misdirected, IDENTITY, &reference, value);
        assert_eq!(fault, BlockFault::Address { expected: 17, actual: 18 });
        let (stale, _) = sealed(17, b"then");
        let fault = check(&stale, IDENTITY, &reference, value);
        assert!(matches!(fault, BlockFault::Stale { op: 99, .. }));
        let fault = check(&block, IDENTITY, &reference, BlockType::Index);
        assert!(matches!(fault, BlockFault::Type { .. }));
        let fault = check(&block[..258], IDENTITY, &reference, value);
        assert_eq!(fault, BlockFault::Short { expected: 260, actual: 258 });
        let older = crate::testing::of_version(&block, 2);
        let fault = check(&older, IDENTITY, &reference, value);
        assert_eq!(fault, BlockFault::FormatVersion { expected: 3, actual: 2 });
        assert_eq!(fault.to_string(), "format version is 2, this release reads 3");
        let fault = check(&[0; 4096], IDENTITY, &reference, value);
        assert!(matches!(fault, BlockFault::HeaderChecksum { .. }));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_seen(bit in 0usize..(HEADER_SIZE + 40) * 8) {
            let (mut block, reference) = sealed(17, &[9; 40]);
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify(&block, IDENTITY, &reference, BlockType::Value).is_err());
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(verify_any(&garbage, IDENTITY, 17).is_err());
        }
    }
}
