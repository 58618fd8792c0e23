//! RocksDB, through the crate of the same name.
//!
//! Set up as its tuning guide has it for a disk of this kind: direct I/O for everything, no
//! write-ahead log, no compression, whole bloom filters in memory beside the block cache, a hash
//! index in data blocks, dynamic level sizes, and a write buffer of the size of our memtable, so
//! that both have to flush as often. Checksums are its default, XXH3.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DataBlockIndexType,
    FlushOptions, ReadOptions, WriteBatch, WriteOptions,
};

use super::peer::Peer;
use crate::engine::store::Write;
use crate::engine::{Options, config};

const WRITE_BUFFERS: i32 = 4;
const FILTER_BITS: f64 = 10.0;
const BLOCK_SIZE: usize = 4 << 10;
const HASH_RATIO: f64 = 0.75;
const JOBS: i32 = 4;
const LEVEL0_FILES: i32 = 4;
const LEVEL_BASE_BYTES: u64 = 64 << 20;
const READAHEAD: usize = 2 << 20;
/// How often it is asked whether it still has something to do.
const POLL: Duration = Duration::from_millis(5);

/// Indexes and filters count as part of the cache.
pub(super) const COUNTED: bool = true;
/// They are in memory beside it.
pub(super) const BESIDE: bool = false;

/// See the module's text.
pub(super) struct RocksDb<const IN_CACHE: bool> {
    db: DB,
    write: WriteOptions,
}

impl<const IN_CACHE: bool> Peer for RocksDb<IN_CACHE> {
    const DIRECT: bool = true;

    fn open(folder: &Path, options: &Options) -> Result<Self, String> {
        let cache = Cache::new_lru_cache(options.cache_bytes as usize).map_err(String::from)?;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_block_size(BLOCK_SIZE);
        table.set_bloom_filter(FILTER_BITS, false);
        if IN_CACHE {
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            table.set_partition_filters(true);
            table.set_pin_top_level_index_and_filter(true);
        }
        table.set_format_version(5);
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_data_block_hash_ratio(HASH_RATIO);
        let mut tuned = rocksdb::Options::default();
        tuned.create_if_missing(true);
        tuned.set_block_based_table_factory(&table);
        tuned.set_compression_type(DBCompressionType::None);
        tuned.set_use_direct_reads(true);
        tuned.set_use_direct_io_for_flush_and_compaction(true);
        tuned.set_compaction_readahead_size(READAHEAD);
        tuned.set_write_buffer_size(config(options).memtable_bytes as usize);
        tuned.set_max_write_buffer_number(WRITE_BUFFERS);
        tuned.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES);
        tuned.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
        tuned.set_level_compaction_dynamic_level_bytes(true);
        tuned.set_max_background_jobs(JOBS);
        let db = DB::open(&tuned, folder).map_err(String::from)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(RocksDb { db, write })
    }

    fn settings(options: &Options) -> Vec<(String, String)> {
        let shared = [
            ("write_buffer_size", config(options).memtable_bytes.to_string()),
            ("max_write_buffer_number", WRITE_BUFFERS.to_string()),
            ("block_cache (lru)", options.cache_bytes.to_string()),
            ("block_size", BLOCK_SIZE.to_string()),
            ("bloom_bits", FILTER_BITS.to_string()),
            ("data_block_hash_ratio", HASH_RATIO.to_string()),
            ("max_background_jobs", JOBS.to_string()),
            ("level0_file_num_compaction_trigger", LEVEL0_FILES.to_string()),
            ("max_bytes_for_level_base", LEVEL_BASE_BYTES.to_string()),
            ("compaction_readahead_size", READAHEAD.to_string()),
        ];
        let place = match IN_CACHE {
            COUNTED => "in the cache, in partitions, top levels and those of level 0 pinned",
            BESIDE => "in memory beside the cache (default)",
        };
        let fixed = [
            ("wal", "off"),
            ("direct_io", "reads, flushes, compactions"),
            ("compression", "none"),
            ("checksum", "xxh3 (default)"),
            ("format_version", "5"),
            ("dynamic_level_bytes", "on"),
            ("index_and_filters", place),
            ("others", "default"),
        ];
        let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
        shared.into_iter().chain(fixed).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), String> {
        let mut batch = WriteBatch::default();
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.db.write_opt(batch, &self.write).map_err(String::from)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, String> {
        let found = self.db.get_pinned(key).map_err(String::from)?;
        Ok(look(found.as_deref()))
    }

    fn scan(
        &self,
        first: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let mut iterator = self.db.raw_iterator_opt(ReadOptions::default());
        iterator.seek(first);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                break;
            }
            iterator.next();
        }
        iterator.status().map_err(String::from)
    }

    fn settle(&self) -> Result<(), String> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.db.flush_opt(&flush).map_err(String::from)?;
        let names = [
            "rocksdb.mem-table-flush-pending",
            "rocksdb.num-running-flushes",
            "rocksdb.compaction-pending",
            "rocksdb.num-running-compactions",
        ];
        // Between two compactions nothing may be pending for a moment: quiet twice is quiet.
        let mut quiet = 0;
        while quiet < 2 {
            let mut busy = 0;
            for name in names {
                busy += self.db.property_int_value(name).map_err(String::from)?.unwrap_or(0);
            }
            quiet = if busy == 0 { quiet + 1 } else { 0 };
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
