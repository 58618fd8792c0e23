//! A grid file as it lies on disk, read without opening it as a node would.
//!
//! The file is opened for reading only, and nothing about it is believed: whose it is, how long it
//! is and what a block holds may all be wrong, which is what one inspects it for. Blocks are
//! checked against the identity in the superblock, or, when no superblock can be read, against the
//! one in the file's own header.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ioring::Buffer;
use lsm::block::{
    self, Block, BlockAddress, BlockFault, BlockReference, BlockType, Checksum, HEADER_SIZE,
    Header, Identity,
};
use lsm::grid::Owner;
use vsr::superblock::State;
use wire::ShardId;

use super::fault::Fault;

/// Largest block that any configuration allows; more is taken for damage.
const BLOCK_SIZE_MAX: u32 = 1 << 20;

/// Whose file it is, as its own header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) owner: Owner,
    pub(crate) block_size: u32,
}

/// A grid file.
#[derive(Debug)]
pub(crate) struct GridFile {
    file: File,
    pub(crate) path: PathBuf,
    pub(crate) shard: u16,
    pub(crate) length: u64,
    pub(crate) header: Result<FileHeader, BlockFault>,
    /// Cluster and shard that its blocks must have.
    pub(crate) identity: Identity,
    pub(crate) block_size: u32,
    /// What the superblock says of its owner.
    expected: Option<FileHeader>,
}

/// What the superblock says of a shard's grid.
pub(crate) fn owner(state: &State, shard: u16) -> Owner {
    Owner {
        identity: Identity { cluster: state.identity.cluster.0, shard },
        replica: state.identity.replica.0,
        incarnation: state.identity.incarnation.0,
    }
}

/// The root of a shard's last checkpoint; none before the first.
pub(crate) fn root(state: &State, shard: u16) -> Option<BlockReference> {
    let root = state.checkpoint.shards.get(usize::from(shard))?;
    Some(BlockReference {
        address: BlockAddress::new(root.address())?,
        size: u32::try_from(root.size()).ok()?,
        checksum: Checksum(root.checksum().0),
    })
}

impl GridFile {
    /// Opens a shard's file for reading.
    pub(crate) fn open(dir: &Path, shard: u16, state: Option<&State>) -> anyhow::Result<GridFile> {
        let path = vsr::format::grid_path(dir, ShardId(shard));
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata().with_context(|| path.display().to_string())?.len();
        let expected = state.map(|state| {
            let block_size = state.configuration.block_size;
            FileHeader { owner: owner(state, shard), block_size }
        });
        let header = read_header(&file, length);
        let known = expected.or(header.ok());
        let identity = known.map_or(Identity { cluster: 0, shard }, |known| known.owner.identity);
        let block_size = known.map_or(0, |known| known.block_size);
        Ok(GridFile { file, path, shard, length, header, identity, block_size, expected })
    }

    /// Blocks that the file has space for, the header's included.
    pub(crate) fn blocks(&self) -> u64 {
        self.length.checked_div(u64::from(self.block_size)).unwrap_or(0)
    }

    /// A fault of this file as a whole.
    pub(crate) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::of_grid(&self.path, self.shard, what.into())
    }

    /// A fault of a block.
    pub(crate) fn block_fault(&self, address: BlockAddress, what: impl Into<String>) -> Fault {
        self.fault(what).at_block(address, self.block_size)
    }

    /// What is wrong with the header block: unreadable, or another replica's.
    pub(crate) fn header_faults(&self) -> Vec<Fault> {
        let fault = |what: String| Fault { offset: Some(0), ..self.fault(what) };
        let header = match &self.header {
            Ok(header) => header,
            Err(error) => return vec![fault(format!("header block: {error}"))],
        };
        let Some(expected) = &self.expected else { return Vec::new() };
        let fields = |header: &FileHeader| {
            let FileHeader { owner, block_size } = header;
            [
                ("cluster", owner.identity.cluster),
                ("shard", owner.identity.shard.into()),
                ("replica", owner.replica.into()),
                ("replica's incarnation", owner.incarnation),
                ("block size", (*block_size).into()),
            ]
        };
        let pairs = fields(expected).into_iter().zip(fields(header));
        pairs
            .filter(|((_, expected), (_, actual))| expected != actual)
            .map(|((name, expected), (_, actual))| {
                fault(format!("header block: {name} is {actual}, expected {expected}"))
            })
            .collect()
    }

    /// Reads and checks a block.
    pub(crate) fn block(
        &self,
        reference: &BlockReference,
        block_type: BlockType,
    ) -> Result<Block, BlockFault> {
        if reference.size > self.block_size || (reference.size as usize) < HEADER_SIZE {
            return Err(BlockFault::Size(reference.size));
        }
        let bytes = self.read(reference.address, reference.size as usize)?;
        Block::verify(bytes.freeze(), self.identity, reference, block_type)
    }

    /// The header of whatever stands at an address.
    pub(crate) fn block_header(&self, address: BlockAddress) -> Result<Header, BlockFault> {
        block::header(&self.read(address, HEADER_SIZE)?)
    }

    fn read(&self, address: BlockAddress, length: usize) -> Result<Buffer, BlockFault> {
        let mut buffer = Buffer::zeroed(length);
        let read = self.file.read_exact_at(&mut buffer, address.offset(self.block_size));
        read.map_err(|error| BlockFault::Device(error.kind()))?;
        Ok(buffer)
    }
}

/// The header block's fields; their layout stands in `docs/FORMAT.md`, "Grid".
fn read_header(file: &File, length: u64) -> Result<FileHeader, BlockFault> {
    let mut bytes = vec![0; length.min(4096) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|error| BlockFault::Device(error.kind()))?;
    let (identity, metadata) = block::verify_grid_header(&bytes)?;
    let number = |range: std::ops::Range<usize>| {
        metadata[range].iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte))
    };
    let owner = Owner { identity, replica: metadata[20], incarnation: number(0..16) };
    let block_size = number(16..20) as u32;
    if block_size == 0 || block_size > BLOCK_SIZE_MAX {
        return Err(BlockFault::Size(block_size));
    }
    Ok(FileHeader { owner, block_size })
}

/// The shards to look at: the one asked for, or as many as the directory has.
pub(crate) fn shards(dir: &Path, state: Option<&State>, asked: Option<u16>) -> Vec<u16> {
    match (asked, state) {
        (Some(shard), _) => vec![shard],
        (None, Some(state)) => (0..state.configuration.shard_count).collect(),
        (None, None) => {
            let exists = |shard: &u16| vsr::format::grid_path(dir, ShardId(*shard)).exists();
            (0..vsr::superblock::SHARDS_MAX as u16).take_while(exists).collect()
        }
    }
}
