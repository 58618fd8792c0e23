//! What of a grid's free space is kept for what.
//!
//! Blocks that flushes and merges release are free again only once the checkpoint that no longer
//! names them is durable: up to [`BARS_UNTIL_FREE`] bars later. Until then new ones have to come
//! from what is free. So the owner asks before it gives a write its place in the log, where nothing
//! can be refused any more, and keeps room for all that the writes before will cause:
//!
//! 1. Flushes and a checkpoint *must* have room: a memtable that cannot be flushed stops the log.
//!    What they take at most follows from the size of memtables and from the manifest.
//! 2. Merges *should* have room. Without it they wait for a later bar, so this is for their going
//!    on, not for safety, and in a small grid it is only an eighth.
//! 3. Deletes may go into what puts are kept from: they are what brings space back.

use super::{Forest, Options};
use crate::bar::BARS_UNTIL_FREE;
use crate::checkpoint;
use crate::compaction::plan;
use crate::config::Config;
use crate::manifest::Manifest;
use crate::manifest_log::ManifestLog;
use crate::tree::Tree;

/// What the grid's free space still allows; see [`Forest::space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Blocks that can be acquired.
    pub free: u64,
    /// What flushes, merges and checkpoints may take before blocks come free again.
    pub reserve: u64,
    /// The part of it that cannot wait for space: flushes and a checkpoint.
    pub must: u64,
}

impl Space {
    /// Whether writes that add data are to be accepted.
    #[must_use]
    pub fn allows_puts(&self) -> bool {
        self.free > self.reserve_puts()
    }

    /// What is kept from writes that add data: the reserve, and room for the deletes that bring
    /// space back.
    #[must_use]
    pub fn reserve_puts(&self) -> u64 {
        self.reserve.saturating_add(self.must)
    }

    /// Whether deletes are to be accepted.
    #[must_use]
    pub fn allows_deletes(&self) -> bool {
        self.free > self.reserve
    }
}

impl Forest {
    /// The grid's free space against what may be needed before blocks come free again.
    #[must_use]
    pub fn space(&self) -> Space {
        let merges =
            self.trees.iter().map(|state| merges_blocks_max(&self.config, &state.manifest));
        let (free, must) = (self.grid.space().free(), self.must_blocks_max());
        Space { free, reserve: must + merges_reserve(&self.config, merges.sum()), must }
    }

    /// The space of a forest that holds nothing yet: whether a grid of this size can be used.
    #[must_use]
    pub fn space_empty(config: &Config, options: Options) -> Space {
        let manifest = Manifest::new(config.levels);
        let merges = Tree::ALL.iter().map(|_| merges_blocks_max(config, &manifest)).sum();
        let must = flushes_blocks_max(config, options)
            + checkpoint::blocks_max(config, &ManifestLog::new(config));
        // The header block is none of them.
        let free = config.grid_blocks_max - 1;
        Space { free, reserve: must + merges_reserve(config, merges), must }
    }

    /// Blocks that the flushes of both memtables of each tree and a checkpoint take at most: what
    /// cannot wait for space.
    pub(super) fn must_blocks_max(&self) -> u64 {
        flushes_blocks_max(&self.config, self.options) + self.checkpoint_blocks_max()
    }
}

/// Blocks that the flushes of both memtables of every tree take at most.
fn flushes_blocks_max(config: &Config, options: Options) -> u64 {
    2 * plan::flush_blocks_max(config, options.memtable_bytes_max) * Tree::ALL.len() as u64
}

/// Blocks that a tree's merges may take before blocks come free again.
fn merges_blocks_max(config: &Config, manifest: &Manifest) -> u64 {
    plan::bars_blocks_max(config, u64::from(BARS_UNTIL_FREE), manifest)
}

/// What of these is kept free. Merges without room wait, so this is for their going on, not for
/// safety: in a small grid an eighth has to do, or nothing would be left for data.
fn merges_reserve(config: &Config, merges: u64) -> u64 {
    merges.min(config.grid_blocks_max / 8)
}
