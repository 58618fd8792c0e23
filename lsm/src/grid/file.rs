//! The grid file: its header block, creating, opening, extending.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ioring::{Buffer, Direct, Fatal, File, FileError, Frozen, OpenOptions};
use thiserror::Error;

use super::Grid;
use crate::block::{self, BlockFault, HEADER_SIZE, Identity, METADATA_SIZE};
use crate::config::{Config, SECTOR_SIZE};

/// Which replica a grid file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Cluster and shard.
    pub identity: Identity,
    /// Number of the replica in its cluster.
    pub replica: u8,
    /// Drawn when the replica was formatted.
    pub incarnation: u128,
}

/// Why a grid file was not opened. Nothing was written.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file, while it was read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The header block is damaged.
    #[error(
        "{path}: header block at offset 0: {fault}; nothing was changed. Put the file's first 4096 \
         bytes back from a copy of it; `quorate verify` lists what else is damaged",
        path = path.display()
    )]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: BlockFault,
    },
    /// The file was written by a release with another format.
    #[error(
        "{path}: the grid has format {actual}, this release reads {expected}: use the release \
         that wrote it; nothing was changed",
        path = path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format this release knows.
        expected: u16,
        /// The file's.
        actual: u16,
    },
    /// A grid of another cluster, shard, replica or incarnation.
    #[error("{path}: {what} is {actual}, expected {expected}", path = path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Which part of its identity differs.
        what: &'static str,
        /// What it should be.
        expected: u128,
        /// What the header says.
        actual: u128,
    },
}

impl Grid {
    /// Creates a grid file that must not exist yet, with its first extent, and syncs it. The
    /// directory is the caller's to sync.
    pub async fn format(
        path: &Path,
        owner: Owner,
        config: &Config,
        direct: Direct,
    ) -> Result<(), OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let options =
            OpenOptions { read: true, write: true, create_new: true, direct, ..Default::default() };
        let file = File::open(path, &options)?;
        let blocks = config.grid_extent_blocks.min(config.grid_blocks_max);
        allocate(&file, config.block_size, 0, blocks).await.map_err(io)?;
        file.write(header(owner, config), 0).await.map_err(io)?;
        file.sync().await.map_err(io)
    }

    /// Opens a grid file and checks whose it is. Its free set is empty until one is installed.
    pub async fn open(
        path: &Path,
        owner: Owner,
        config: &Config,
        direct: Direct,
    ) -> Result<Rc<Grid>, OpenError> {
        let options = OpenOptions { read: true, write: true, direct, ..Default::default() };
        Grid::open_as(path, owner, config, options).await
    }

    /// As [`Grid::open`], for verification: without the right to write to the file.
    pub async fn open_read_only(
        path: &Path,
        owner: Owner,
        config: &Config,
        direct: Direct,
    ) -> Result<Rc<Grid>, OpenError> {
        let options = OpenOptions { read: true, direct, ..Default::default() };
        Grid::open_as(path, owner, config, options).await
    }

    async fn open_as(
        path: &Path,
        owner: Owner,
        config: &Config,
        options: OpenOptions,
    ) -> Result<Rc<Grid>, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let file = File::open(path, &options)?;
        let (result, header) = file.read(Buffer::zeroed(SECTOR_SIZE), 0).await;
        result.map_err(io)?;
        let verified = block::verify_grid_header(&header);
        let (identity, found) = verified.map_err(|fault| {
            let path = path.to_owned();
            match fault {
                BlockFault::FormatVersion { expected, actual } => {
                    OpenError::Format { path, expected, actual }
                }
                fault => OpenError::Header { path, fault },
            }
        })?;
        check_owner(path, owner, config, identity, &found)?;
        let blocks_allocated = file.len().map_err(io)? / u64::from(config.block_size);
        Ok(Grid::new(config, owner, file, blocks_allocated))
    }
}

/// The header block's first sector.
pub(super) fn header(owner: Owner, config: &Config) -> Frozen {
    let mut header = Buffer::zeroed(SECTOR_SIZE);
    let metadata = metadata(owner, config);
    block::seal_grid_header(&mut header[..HEADER_SIZE], owner.identity, metadata);
    header.freeze()
}

/// Header fields: incarnation (16), block size (4), replica (1).
fn metadata(owner: Owner, config: &Config) -> [u8; METADATA_SIZE] {
    let mut metadata = [0; METADATA_SIZE];
    metadata[0..16].copy_from_slice(&owner.incarnation.to_le_bytes());
    metadata[16..20].copy_from_slice(&config.block_size.to_le_bytes());
    metadata[20] = owner.replica;
    metadata
}

fn check_owner(
    path: &Path,
    owner: Owner,
    config: &Config,
    identity: Identity,
    found: &[u8; METADATA_SIZE],
) -> Result<(), OpenError> {
    let field = |range: std::ops::Range<usize>| {
        found[range].iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte))
    };
    let checks = [
        ("cluster", owner.identity.cluster, identity.cluster),
        ("shard", owner.identity.shard.into(), identity.shard.into()),
        ("replica", owner.replica.into(), field(20..21)),
        ("replica's incarnation", owner.incarnation, field(0..16)),
        ("block size", config.block_size.into(), field(16..20)),
    ];
    for (what, expected, actual) in checks {
        if expected != actual {
            return Err(OpenError::Owner { path: path.to_owned(), what, expected, actual });
        }
    }
    Ok(())
}

/// Extends the file; says whether the host had space for it.
pub(super) async fn extend(file: &File, block_size: u32, have: u64, target: u64) -> bool {
    let Err(error) = allocate(file, block_size, have, target).await else { return true };
    if is_out_of_space(&error) {
        return false;
    }
    let path = file.path().to_owned();
    let offset = have * u64::from(block_size);
    ioring::fatal(Fatal::DurableWrite { path, offset, error });
}

async fn allocate(file: &File, block_size: u32, have: u64, target: u64) -> io::Result<()> {
    let (offset, end) = (have * u64::from(block_size), target * u64::from(block_size));
    match file.allocate(offset, end - offset).await {
        // Some file systems cannot reserve space: a sparse file has to do.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => file.set_len(end),
        result => result,
    }
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
