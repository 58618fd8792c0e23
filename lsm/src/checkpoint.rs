//! Checkpoints: a shard's durable root, and opening from it.
//!
//! A checkpoint is taken at a bar's end, after the bar's changes. What it takes synchronously is
//! references and small copies: the manifest log's new blocks, the free set's chunks, the owner's
//! `extra` bytes, and a root block that refers to all of them. Everything after that waits for the
//! disk beside the next bar ([`Checkpoint::write`]):
//!
//! 1. write the checkpoint's blocks (those of tables were written before the bar ended);
//! 2. sync the grid: all of them are durable;
//! 3. hand out the [`Root`]; the caller writes it, with those of the other shards, into the
//!    superblock. That write is what makes the checkpoint.
//!
//! Why a failure at each point is safe: no block of the checkpoint stands where the one before has
//! a block (released blocks are not free before F(C), which is not applied before C is durable).
//! Before step 3's write is durable, the superblock refers to the checkpoint before, whose blocks
//! are all intact; after it, to this one, whose blocks were durable by step 2. Without the sync in
//! step 2 the superblock could name blocks that a power failure takes back.
//!
//! The checkpoint's own blocks are drawn at its trigger, before the next bar's jobs reserve theirs,
//! and those of the checkpoint before are released: so the free set that is stored already knows
//! both, and an open goes on as if it had never stopped.
//!
//! The root block's byte map stands in `docs/FORMAT.md`, "Checkpoint root".

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Buffer;
use thiserror::Error;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{
    self, BlockAddress, BlockReference, BlockType, Checksum, HEADER_SIZE, METADATA_SIZE, Seal,
};
use crate::config::Config;
use crate::entry::TreeId;
use crate::forest::{BarError, Forest};
use crate::free_set::{FreeSet, FreeSetFault, Snapshot};
use crate::grid::{Class, Grid, ReadError};
use crate::manifest_log::{ManifestLog, ManifestRoot};
use crate::table::BlockImage;

/// Blocks of a checkpoint written at the same time.
const WRITES_MAX: usize = 4;

/// A shard's checkpoint: the reference to its root block. What the superblock keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root(pub BlockReference);

/// The fixed part of a root block's body; the references follow, then the manifest's root.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RootHeader {
    op: U64,
    op_trigger: U64,
    version: U64,
    snapshot_min: U64,
    extra_size: U64,
    free_set_blocks: U32,
    extra_blocks: U32,
    chunk_size: U32,
    reserved: [u8; 76],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoredReference {
    checksum: U128,
    address: U64,
    size: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RootHeader>() == 128);
const _: () = assert!(size_of::<StoredReference>() == 32);

impl StoredReference {
    fn new(reference: &BlockReference) -> StoredReference {
        StoredReference {
            checksum: U128::new(reference.checksum.0),
            address: U64::new(reference.address.get()),
            size: U32::new(reference.size),
            reserved: U32::ZERO,
        }
    }

    fn reference(&self) -> Option<BlockReference> {
        Some(BlockReference {
            address: BlockAddress::new(self.address.get())?,
            size: self.size.get(),
            checksum: Checksum(self.checksum.get()),
        })
    }
}

/// Why a checkpoint cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// One of its blocks cannot be read.
    #[error("{what} of the checkpoint: {reference}: {fault}")]
    Read {
        /// What the block holds.
        what: &'static str,
        /// The block.
        reference: BlockReference,
        /// What is wrong.
        fault: ReadError,
    },
    /// The root block is intact, but its content makes no sense to this release.
    #[error("root block {0} is malformed")]
    Malformed(BlockReference),
    /// The free set does not fit the grid.
    #[error("free set of the checkpoint: {0}")]
    FreeSet(#[from] FreeSetFault),
    /// A table of a tree that this release does not have.
    #[error("a table belongs to unknown tree {0}")]
    UnknownTree(TreeId),
    /// A table, named by its index block, that shares keys with another one of its run.
    #[error("table {0} does not fit its level")]
    Misplaced(BlockAddress),
    /// The manifest cannot be read.
    #[error("manifest of the checkpoint: {0}")]
    Manifest(ReadError),
}

/// A checkpoint under way: owns the images of its blocks.
#[must_use = "a checkpoint that is not written is not one"]
pub struct Checkpoint {
    grid: Rc<Grid>,
    op: u64,
    images: Vec<BlockImage>,
    root: Root,
    /// Whether its blocks are on the disk: not to be read before.
    written: Rc<Cell<bool>>,
}

impl Checkpoint {
    /// Its op: replay starts right after it.
    #[must_use]
    pub fn op(&self) -> u64 {
        self.op
    }

    /// Blocks that it writes.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.images.len() as u64
    }

    /// Writes its blocks and makes them durable. The root is to be written to the superblock.
    pub async fn write(self) -> Root {
        let mut writes = VecDeque::new();
        for image in self.images {
            if writes.len() == WRITES_MAX {
                let oldest: ioring::Task<_> = writes.pop_front().expect("several are in flight");
                oldest.await;
            }
            let grid = Rc::clone(&self.grid);
            let write = async move { grid.write_block(image).await };
            writes.push_back(ioring::spawn(ioring::Queue::Background, "checkpoint write", write));
        }
        for write in writes {
            write.await;
        }
        self.grid.sync().await;
        self.written.set(true);
        self.root
    }
}

/// How a checkpoint's small parts are laid out in blocks.
struct Layout {
    body: usize,
    chunks_per_block: usize,
    chunk_count: usize,
    extra_len: usize,
}

impl Layout {
    fn free_set_blocks(&self) -> usize {
        self.chunk_count.div_ceil(self.chunks_per_block)
    }

    fn extra_blocks(&self) -> usize {
        self.extra_len.div_ceil(self.body)
    }
}

impl Forest {
    /// Takes a checkpoint of `op` at the end of the bar that ends with `op_trigger`.
    pub(crate) fn checkpoint(
        &mut self,
        op: u64,
        op_trigger: u64,
        extra: &[u8],
    ) -> Result<Checkpoint, BarError> {
        for (_, block) in std::mem::take(&mut self.root_blocks) {
            self.grid().release(block.address);
        }
        let layout = self.layout(extra.len());
        let manifest_blocks = self.manifest_log.blocks_needed();
        let own = layout.free_set_blocks() + layout.extra_blocks() + 1;
        let needed = (manifest_blocks + own) as u64;
        let Some(mut reservation) = self.grid().reserve(needed) else {
            let free = self.grid().space().free();
            return Err(BarError::Full { what: "a checkpoint", needed, free });
        };
        let (grid, identity) = (Rc::clone(self.grid()), self.grid().identity());
        let acquire = || grid.acquire(&mut reservation);
        let sealed = self.manifest_log.seal(identity, op_trigger, acquire);
        let own_addresses: Vec<BlockAddress> =
            (0..own).map(|_| self.grid().acquire(&mut reservation)).collect();
        assert_eq!(reservation.remaining(), 0, "a checkpoint takes what it planned");
        for address in sealed.released {
            self.grid().release(address);
        }
        self.grid().checkpoint_begin();
        let snapshot = self.grid().free_set_snapshot();
        let mut builder = ImageBuilder {
            grid: self.grid(),
            op: op_trigger,
            addresses: own_addresses.iter(),
            images: sealed.images,
            built: Vec::new(),
        };
        let (version, snapshot_min) = self.snapshot();
        let header = RootHeader {
            op: U64::new(op),
            op_trigger: U64::new(op_trigger),
            version: U64::new(version),
            snapshot_min: U64::new(snapshot_min),
            extra_size: U64::new(extra.len() as u64),
            free_set_blocks: U32::new(layout.free_set_blocks() as u32),
            extra_blocks: U32::new(layout.extra_blocks() as u32),
            chunk_size: U32::new(snapshot.chunk_size() as u32),
            reserved: [0; 76],
        };
        let root = builder.build(&layout, header, &snapshot, extra, &sealed.root);
        let (grid, images) = (Rc::clone(self.grid()), builder.images);
        self.root_blocks = builder.built;
        self.checkpoint_written = Rc::default();
        let written = Rc::clone(&self.checkpoint_written);
        Ok(Checkpoint { grid, op, images, root, written })
    }

    fn layout(&self, extra_len: usize) -> Layout {
        layout(&self.config, extra_len)
    }
}

/// Blocks that a checkpoint with this manifest, and so many bytes of the owner's, takes at most.
pub(crate) fn blocks_max(config: &Config, manifest_log: &ManifestLog, extra_bytes: u64) -> u64 {
    let layout = layout(config, extra_bytes as usize);
    let changes = 4 * manifest_log.blocks_needed() + 8;
    let extra = EXTRA_BLOCKS_MAX + layout.extra_blocks();
    (changes + layout.free_set_blocks() + extra + 1) as u64
}

fn layout(config: &Config, extra_len: usize) -> Layout {
    let body = config.block_body_size();
    // Two bits per block of a chunk.
    let chunk_size = config.free_set_chunk_blocks as usize / 4;
    let chunk_blocks = u64::from(config.free_set_chunk_blocks);
    let chunk_count = config.grid_blocks_max.div_ceil(chunk_blocks) as usize;
    Layout { body, chunks_per_block: body / chunk_size, chunk_count, extra_len }
}

/// Blocks of the owner's bytes that space is always kept for.
const EXTRA_BLOCKS_MAX: usize = 4;

struct ImageBuilder<'a> {
    grid: &'a Grid,
    op: u64,
    addresses: std::slice::Iter<'a, BlockAddress>,
    images: Vec<BlockImage>,
    /// Those that are not the manifest log's.
    built: Vec<(BlockType, BlockReference)>,
}

impl ImageBuilder<'_> {
    fn build(
        &mut self,
        layout: &Layout,
        header: RootHeader,
        snapshot: &Snapshot,
        extra: &[u8],
        manifest: &ManifestRoot,
    ) -> Root {
        assert_eq!(snapshot.chunk_count(), layout.chunk_count);
        let mut references = Vec::new();
        for first in (0..layout.chunk_count).step_by(layout.chunks_per_block) {
            let count = layout.chunks_per_block.min(layout.chunk_count - first);
            let mut body = vec![0; count * snapshot.chunk_size()];
            for (number, out) in body.chunks_exact_mut(snapshot.chunk_size()).enumerate() {
                snapshot.encode_chunk(first + number, out);
            }
            references.push(self.block(BlockType::FreeSet, &body));
        }
        for piece in extra.chunks(layout.body) {
            references.push(self.block(BlockType::Extra, piece));
        }
        let mut body = header.as_bytes().to_vec();
        for reference in &references {
            body.extend_from_slice(StoredReference::new(reference).as_bytes());
        }
        body.extend_from_slice(&manifest.to_bytes());
        assert!(body.len() <= layout.body, "a root block holds {} references", references.len());
        Root(self.block(BlockType::Checkpoint, &body))
    }

    fn block(&mut self, block_type: BlockType, body: &[u8]) -> BlockReference {
        let size = HEADER_SIZE + body.len();
        let mut buffer = Buffer::zeroed(size.next_multiple_of(crate::config::SECTOR_SIZE));
        buffer[HEADER_SIZE..size].copy_from_slice(body);
        let seal = Seal {
            identity: self.grid.identity(),
            address: *self.addresses.next().expect("an address was drawn for every block"),
            block_type,
            tree: TreeId(0),
            op: self.op,
            metadata: [0; METADATA_SIZE],
        };
        let reference = block::seal(&mut buffer[..size], &seal);
        self.images.push(BlockImage { reference, bytes: buffer.freeze() });
        self.built.push((block_type, reference));
        reference
    }
}

/// What a root block says, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootView {
    /// The checkpoint's op: replay starts right after it.
    pub op: u64,
    /// The op at whose bar end it was taken.
    pub op_trigger: u64,
    /// The newest version in it.
    pub version: u64,
    /// Superseded versions below this one may be gone.
    pub snapshot_min: u64,
    /// Bytes that the owner keeps beside the trees.
    pub extra_size: u64,
    /// Where these stand.
    pub extra: Vec<BlockReference>,
    /// Bytes of a chunk of the free set.
    pub chunk_size: u32,
    /// Where the free set's chunks stand.
    pub free_set: Vec<BlockReference>,
    /// The manifest log.
    pub manifest: ManifestRoot,
}

impl RootView {
    /// Takes a root block apart; none if its content makes no sense to this release.
    #[must_use]
    pub fn parse(block: &block::Block) -> Option<RootView> {
        let (header, rest) = RootHeader::read_from_prefix(block.body()).ok()?;
        let free_set_blocks = header.free_set_blocks.get() as usize;
        let count = free_set_blocks + header.extra_blocks.get() as usize;
        let (stored, rest) = <[StoredReference]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let mut references: Vec<BlockReference> =
            stored.iter().map(StoredReference::reference).collect::<Option<_>>()?;
        let extra = references.split_off(free_set_blocks);
        let manifest =
            rest.first_chunk::<{ ManifestRoot::SIZE }>().map(ManifestRoot::from_bytes)?;
        Some(RootView {
            op: header.op.get(),
            op_trigger: header.op_trigger.get(),
            version: header.version.get(),
            snapshot_min: header.snapshot_min.get(),
            extra_size: header.extra_size.get(),
            extra,
            chunk_size: header.chunk_size.get(),
            free_set: references,
            manifest,
        })
    }

    /// The chunks in a block of the free set.
    pub fn chunks<'b>(&self, block: &'b block::Block) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        block.body().chunks((self.chunk_size as usize).max(1))
    }
}

/// A checkpoint as read back.
pub(crate) struct RootState {
    pub(crate) version: u64,
    pub(crate) snapshot_min: u64,
    pub(crate) extra: Vec<u8>,
    pub(crate) manifest: ManifestRoot,
    pub(crate) free_set: FreeSet,
    /// The checkpoint's own blocks.
    pub(crate) blocks: Vec<(BlockType, BlockReference)>,
}

impl RootState {
    pub(crate) async fn read(grid: &Grid, root: &Root) -> Result<RootState, OpenError> {
        let block = read(grid, "root", &root.0, BlockType::Checkpoint).await?;
        let malformed = || OpenError::Malformed(root.0);
        let view = RootView::parse(&block).ok_or_else(malformed)?;
        // One buffer has to do: there may not be another.
        drop(block);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for reference in &view.free_set {
            let block = read(grid, "free set", reference, BlockType::FreeSet).await?;
            chunks.extend(view.chunks(&block).map(<[u8]>::to_vec));
        }
        let mut extra = Vec::new();
        for reference in &view.extra {
            let block = read(grid, "extra", reference, BlockType::Extra).await?;
            extra.extend_from_slice(block.body());
        }
        if extra.len() as u64 != view.extra_size {
            return Err(malformed());
        }
        let free_set = view.free_set.iter().map(|block| (BlockType::FreeSet, *block));
        let extras = view.extra.iter().map(|block| (BlockType::Extra, *block));
        let own = (BlockType::Checkpoint, root.0);
        let blocks = free_set.chain(extras).chain([own]).collect();
        let config = grid.config();
        let stored = chunks.iter().map(Vec::as_slice);
        let (blocks_max, chunk_blocks) = (config.grid_blocks_max, config.free_set_chunk_blocks);
        let free_set = FreeSet::restore(blocks_max, chunk_blocks, stored)?;
        Ok(RootState {
            version: view.version,
            snapshot_min: view.snapshot_min,
            extra,
            manifest: view.manifest,
            free_set,
            blocks,
        })
    }
}

async fn read(
    grid: &Grid,
    what: &'static str,
    reference: &BlockReference,
    block_type: BlockType,
) -> Result<block::Block, OpenError> {
    let reference = *reference;
    let read = grid.read_block(&reference, block_type, Class::Foreground).await;
    read.map_err(|fault| OpenError::Read { what, reference, fault })
}
