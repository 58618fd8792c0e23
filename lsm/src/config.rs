//! Everything about a shard's storage that a test may want smaller.
//!
//! Two kinds of settings stand here side by side. *Format-time* ones decide stored bytes: they are
//! recorded in the superblock, equal on all replicas, and `start` refuses to run with others.
//! *Host-local* ones (cache, slots) decide only speed and memory, and may differ from start to
//! start.
//!
//! Relations between settings that the code relies on are checked by [`Config::validate`], once, at
//! format and at start. Code behind it may assert them.

use thiserror::Error;

use crate::entry::Level;

/// Levels a tree can have at most.
pub const LEVELS_MAX: usize = 7;

/// Alignment of every offset and length handed to the device, in bytes.
pub const SECTOR_SIZE: usize = 4096;

/// How the pages of a level are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// As they are.
    None = 0,
    /// LZ4 block format, per page, kept only where it saves at least an eighth.
    Lz4 = 1,
    /// One zstd frame per page, kept only where it saves at least an eighth.
    Zstd = 2,
}

impl Compression {
    /// All there are, by their numbers.
    pub const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    /// The codec of a stored number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Compression> {
        Compression::ALL.into_iter().find(|codec| *codec as u8 == number)
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// The filter of a table's value blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FilterKind {
    /// No filter: a miss reads a page.
    None = 0,
    /// Binary fuse filter with 8-bit fingerprints: 9 to 11 bits per key, 0.4 % false positives.
    Fuse8 = 1,
}

/// Settings of one shard's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    // Format-time.
    /// Bytes of a grid block, header included.
    pub block_size: u32,
    /// Target size of a page within a value block: what a cold point read reads.
    pub page_size: u32,
    /// Largest encoded key (see [`crate::key::encoded_len_max`]), in bytes.
    pub key_size_max: u32,
    /// Largest value, in bytes.
    pub value_size_max: u32,
    /// Levels of a tree.
    pub levels: u8,
    /// Runs of a level below 0 that make their merge into the next level due.
    pub growth_factor: u32,
    /// Runs of level 0 that make their merge into level 1 due.
    pub level0_runs_max: u32,
    /// How far back superseded versions are kept beside those of the current and the previous bar,
    /// in nanoseconds of log time.
    pub history_window: u64,
    /// Value blocks of a table of the last level at most, of other levels half as many; a table
    /// also ends when its index block is full.
    pub table_value_blocks_max: u32,
    /// Keys between two restart points of a page.
    pub restart_interval: u16,
    /// Compression of each level's pages.
    pub compression: [Compression; LEVELS_MAX],
    /// Filter of every table.
    pub filter: FilterKind,
    /// Bytes of entries a memtable holds before its bar is due to end.
    pub memtable_bytes: u64,
    /// Blocks the grid may grow to: `--grid-size-max` over the block size.
    pub grid_blocks_max: u64,
    /// Blocks of a free-set chunk: the unit of its serialisation. A multiple of 64.
    pub free_set_chunk_blocks: u32,

    // Host-local.
    /// Blocks by which the grid file grows.
    pub grid_extent_blocks: u64,
    /// Bytes of the cache: rows, pages and index blocks together.
    pub cache_bytes: u64,
    /// Page and index reads in flight for requests.
    pub reads_foreground_max: u32,
    /// Block reads in flight for compaction and scrubbing.
    pub reads_background_max: u32,
    /// Block writes in flight.
    pub writes_max: u32,
}

/// How a shard's cache is divided, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShares {
    /// Copies of rows.
    pub rows: usize,
    /// Pages of a slot at least: they have what index blocks leave.
    pub pages: usize,
    /// Index blocks, and larger pages, at most.
    pub extents: usize,
}

/// A relation between settings that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A size that must be a power of two within limits is not.
    #[error("{name} is {actual}: must be a power of two from {min} to {max}")]
    Size {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        actual: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A number is outside its limits.
    #[error("{name} is {actual}: must be from {min} to {max}")]
    Range {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        actual: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
}

impl Config {
    /// The defaults of a production shard.
    #[must_use]
    pub fn standard() -> Config {
        Config {
            block_size: 256 << 10,
            page_size: 4 << 10,
            key_size_max: crate::key::encoded_len_max(1024, 8 + 1024) as u32,
            value_size_max: (1 << 20) - (4 << 10),
            levels: LEVELS_MAX as u8,
            growth_factor: 8,
            level0_runs_max: 8,
            history_window: 0,
            table_value_blocks_max: 40,
            restart_interval: 16,
            compression: [Compression::None; LEVELS_MAX],
            filter: FilterKind::Fuse8,
            memtable_bytes: 16 << 20,
            grid_blocks_max: (64 << 30) / (256 << 10),
            free_set_chunk_blocks: 32 << 10,
            grid_extent_blocks: 64,
            cache_bytes: 64 << 20,
            reads_foreground_max: 64,
            reads_background_max: 16,
            writes_max: 16,
        }
    }

    /// The smallest configuration that works: full blocks, full pools and merges all the time.
    #[must_use]
    pub fn test_min() -> Config {
        Config {
            block_size: 4 << 10,
            page_size: 512,
            key_size_max: crate::key::encoded_len_max(64, 24) as u32,
            value_size_max: 16 << 10,
            levels: 4,
            growth_factor: 2,
            level0_runs_max: 2,
            history_window: 0,
            table_value_blocks_max: 3,
            restart_interval: 4,
            compression: [
                Compression::None,
                Compression::None,
                Compression::Lz4,
                Compression::Lz4,
                Compression::None,
                Compression::None,
                Compression::None,
            ],
            filter: FilterKind::Fuse8,
            memtable_bytes: 8 << 10,
            grid_blocks_max: 4096,
            free_set_chunk_blocks: 256,
            grid_extent_blocks: 16,
            cache_bytes: 64 << 10,
            reads_foreground_max: 2,
            reads_background_max: 2,
            writes_max: 2,
        }
    }

    /// Bytes of a block behind its header.
    #[must_use]
    pub fn block_body_size(&self) -> usize {
        self.block_size as usize - crate::block::HEADER_SIZE
    }

    /// Values longer than this stand in overflow blocks.
    #[must_use]
    pub fn inline_value_size_max(&self) -> usize {
        self.block_size as usize / 4
    }

    /// Blocks that an overflowing value of `value_len` bytes takes.
    #[must_use]
    pub fn overflow_blocks(&self, value_len: usize) -> usize {
        value_len.div_ceil(self.block_body_size())
    }

    /// Compression of a level's pages.
    #[must_use]
    pub fn compression_of(&self, level: Level) -> Compression {
        self.compression[level.0 as usize]
    }

    /// Value blocks of a level's tables at most.
    #[must_use]
    pub fn table_value_blocks_max_of(&self, level: Level) -> u32 {
        match level.0 + 1 == self.levels {
            true => self.table_value_blocks_max,
            false => self.table_value_blocks_max.div_ceil(2),
        }
    }

    /// How the cache is divided. What is read one by one is worth keeping as rows: a page of which
    /// one row is asked for takes the room of thirty. Index blocks have the largest share: without
    /// its index a read costs most of a block instead of a page. They are a fortieth of the data
    /// where entries are small, so that the share holds those of data of sixteen times the
    /// cache.
    #[must_use]
    pub fn cache_shares(&self) -> CacheShares {
        let sixteenth = self.cache_bytes as usize / 16;
        CacheShares { rows: 4 * sixteenth, pages: 4 * sixteenth, extents: 8 * sixteenth }
    }

    /// Checks every relation that the storage code relies on.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let block = u64::from(self.block_size);
        power_of_two("block_size", block, 4 << 10, 1 << 20)?;
        power_of_two("page_size", u64::from(self.page_size), 512, block / 4)?;
        // A page takes an entry of a longest key and a longest inline value; a manifest record
        // takes two keys; both must fit a block with room to spare.
        range("key_size_max", u64::from(self.key_size_max), 16, block / 8)?;
        range("value_size_max", u64::from(self.value_size_max), 1, 64 << 20)?;
        let references = self.overflow_blocks(self.value_size_max as usize)
            * crate::overflow::BLOCK_REFERENCE_SIZE
            + crate::overflow::REFERENCE_HEADER_SIZE;
        range("overflow references", references as u64, 0, block / 4)?;
        // Level 0 overlaps itself, so there is one below it.
        range("levels", u64::from(self.levels), 2, LEVELS_MAX as u64)?;
        // A merge holds two blocks of each of its inputs.
        range("level0_runs_max", u64::from(self.level0_runs_max), 2, 16)?;
        range("growth_factor", u64::from(self.growth_factor), 2, 64)?;
        range("table_value_blocks_max", u64::from(self.table_value_blocks_max), 1, 65_535)?;
        range("restart_interval", u64::from(self.restart_interval), 1, 256)?;
        range("memtable_bytes", self.memtable_bytes, 1 << 10, 1 << 36)?;
        range("grid_blocks_max", self.grid_blocks_max, 16, 1 << 40)?;
        let chunk_max = 8 * (block - crate::block::HEADER_SIZE as u64) / 2;
        range("free_set_chunk_blocks", u64::from(self.free_set_chunk_blocks), 64, chunk_max)?;
        range("free_set_chunk_blocks % 64", u64::from(self.free_set_chunk_blocks % 64), 0, 0)?;
        range("grid_extent_blocks", self.grid_extent_blocks, 1, 1 << 20)?;
        range("reads_foreground_max", u64::from(self.reads_foreground_max), 1, 4096)?;
        range("reads_background_max", u64::from(self.reads_background_max), 1, 4096)?;
        range("writes_max", u64::from(self.writes_max), 1, 4096)
    }
}

fn power_of_two(name: &'static str, actual: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if actual.is_power_of_two() && (min..=max).contains(&actual) {
        return Ok(());
    }
    Err(ConfigError::Size { name, actual, min, max })
}

fn range(name: &'static str, actual: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&actual) {
        return Ok(());
    }
    Err(ConfigError::Range { name, actual, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        Config::standard().validate().unwrap();
        Config::test_min().validate().unwrap();
    }

    #[test]
    fn a_broken_relation_is_named() {
        let config = Config { page_size: 3000, ..Config::standard() };
        let error = config.validate().unwrap_err();
        assert!(error.to_string().contains("page_size is 3000"), "{error}");
        let config = Config { key_size_max: 60_000, ..Config::standard() };
        assert!(matches!(config.validate(), Err(ConfigError::Range { name: "key_size_max", .. })));
    }
}
