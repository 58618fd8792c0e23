//! Making and opening a shard's storage: what `format` recorded, as the storage engine's settings.

use std::io;
use std::path::Path;

use ioring::Direct;
use lsm::bar;
use lsm::block::{BlockAddress, BlockReference, Identity};
use lsm::checkpoint::Root;
use lsm::config::{Compression, Config, LEVELS_MAX};
use lsm::forest::{Forest, Options};
use lsm::grid::{Grid, Owner};
use lsm::{block, checkpoint, grid, key};
use vsr::format::Configuration;
use vsr::journal;
use vsr::superblock::State;
use wire::{RootReference, ShardId};

use super::Shard;
use super::extra::{self, Extra, ExtraError};
use crate::replica::in_flight::Bound;
use crate::replica::weight::Scale;
use crate::session;

/// Why a shard's storage cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The grid file.
    #[error(transparent)]
    Grid(#[from] grid::OpenError),
    /// The last checkpoint.
    #[error(
        "shard {shard}: {source}; nothing was changed. With one replica only a copy of the \
         directory brings it back; `quorate verify` lists everything that is damaged"
    )]
    Checkpoint {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: checkpoint::OpenError,
    },
    /// What the checkpoint keeps beside the trees.
    #[error("shard {shard}: {source}")]
    Extra {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: ExtraError,
    },
}

/// The storage engine's settings for a shard.
#[must_use]
pub fn config(configuration: &Configuration, cache_bytes: u64) -> Config {
    let standard = Config::standard();
    let key_size_max = usize::from(configuration.key_size_max);
    let block_size = configuration.block_size;
    let body = u64::from(block_size) - block::HEADER_SIZE as u64;
    let chunk_max = u32::try_from(body * 4 / 64 * 64).unwrap_or(u32::MAX);
    let mut compression = [Compression::None; LEVELS_MAX];
    for (to, from) in compression.iter_mut().zip(configuration.compression) {
        *to = Compression::of_number(from).expect("a configuration is validated before it is used");
    }
    Config {
        block_size,
        page_size: configuration.page_size,
        key_size_max: key::encoded_len_max(key_size_max, 8 + key_size_max) as u32,
        value_size_max: configuration.value_size_max,
        levels: configuration.levels.min(LEVELS_MAX as u8),
        growth_factor: u32::from(configuration.growth_factor),
        compression,
        history_window: configuration.history_window_ns,
        memtable_bytes: configuration.memtable_size,
        grid_blocks_max: configuration.grid_size_max / u64::from(block_size),
        free_set_chunk_blocks: standard.free_set_chunk_blocks.min(chunk_max),
        cache_bytes,
        ..standard
    }
}

/// The numbers that bars are computed from.
#[must_use]
pub fn bar_limits(configuration: &Configuration) -> bar::Limits {
    let mut limits = bar::Limits {
        memtable_bytes: configuration.memtable_size,
        memtable_bytes_max: 0,
        log_bytes_max: configuration.log_budget(),
        prepare_bytes_max: journal::frame_size(configuration.prepare_size_max as usize) as u64,
        effects_bytes_max: Scale::new(configuration).prepare_max(configuration),
        pipeline: u64::from(configuration.pipeline_max),
    };
    limits.memtable_bytes_max = limits.memtable_bytes_needed();
    limits
}

/// What the forest must know beside its settings. Every shard keeps room for the sessions, though
/// one has them: shards are of one size.
#[must_use]
pub fn options(configuration: &Configuration) -> Options {
    let (bound, pulse) = (Bound::new(configuration), Scale::new(configuration).pulse());
    let sessions = session::size_max(&session::Limits::new(configuration));
    Options {
        memtable_bytes_max: bar_limits(configuration).memtable_bytes_max,
        unapplied_bytes_max: bound.objects + pulse,
        unapplied_expiry_bytes_max: bound.expiry + pulse,
        unapplied_index_bytes_max: 0,
        extra_bytes_max: sessions,
    }
}

fn owner(state: &State, shard: ShardId) -> Owner {
    Owner {
        identity: Identity { cluster: state.identity.cluster.0, shard: shard.0 },
        replica: state.identity.replica.0,
        incarnation: state.identity.incarnation.0,
    }
}

/// Makes a shard's grid file.
///
/// # Errors
/// What the file system says.
pub async fn format(path: &Path, state: &State, shard: ShardId, direct: Direct) -> io::Result<()> {
    let config = config(&state.configuration, 0);
    let made = Grid::format(path, owner(state, shard), &config, direct).await;
    made.map_err(io::Error::other)
}

/// Opens a shard as of the last checkpoint; with the sessions, if it keeps them.
///
/// # Errors
/// [`OpenError`] naming file and cause.
pub async fn open(
    path: &Path,
    state: &State,
    shard: ShardId,
    cache_bytes: u64,
    direct: Direct,
) -> Result<(Shard, Vec<u8>), OpenError> {
    let config = config(&state.configuration, cache_bytes);
    let grid = Grid::open(path, owner(state, shard), &config, direct).await?;
    let root = state.checkpoint.shards.get(usize::from(shard.0)).and_then(root);
    let options = options(&state.configuration);
    let opened = Forest::open(grid, root.as_ref(), options).await;
    let (mut forest, extra) = opened.map_err(|source| OpenError::Checkpoint { shard, source })?;
    let Extra { generations, condemned, sessions } =
        extra::decode(&extra).map_err(|source| OpenError::Extra { shard, source })?;
    if let Some((size, needed)) = forest.cut() {
        tracing::error!(
            %shard,
            path = %path.display(),
            size,
            needed,
            "the grid file was cut: reads of what stood behind its end fail with corrupt_block; \
             `quorate verify` names the tables, and only a copy of the file brings them back"
        );
    }
    for offset in condemned {
        let taken = forest.condemn(offset);
        assert!(taken.is_ok(), "a checkpoint keeps no more places than there may be");
    }
    Ok((Shard::new(shard, forest, generations), sessions))
}

/// A root as the storage engine takes it; none before the first checkpoint.
fn root(reference: &RootReference) -> Option<Root> {
    let address = BlockAddress::new(reference.address())?;
    let size = u32::try_from(reference.size()).ok()?;
    let checksum = block::Checksum(reference.checksum().0);
    Some(Root(BlockReference { address, size, checksum }))
}
