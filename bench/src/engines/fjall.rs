//! fjall 3: an LSM engine in Rust.
//!
//! It has no direct I/O: it reads and writes through the kernel's page cache. Its journal cannot be
//! turned off: every write is appended to a file first. It is left at its least, buffered and never
//! asked to be durable, but its bytes are written and count. Compression is off, filters have as
//! many bits as RocksDB's, a memtable is as large as ours.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PartitioningPolicy, PinningPolicy,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::peer::Peer;
use crate::engine::store::Write;
use crate::engine::{Options, config};

const FILTER_BITS: f32 = 10.0;
const BLOCK_SIZE: u32 = 4 << 10;
const WORKERS: usize = 4;
const POLL: Duration = Duration::from_millis(5);
/// For how long nothing is done until it has nothing to do: it has no better way to be asked.
const QUIET: Duration = Duration::from_millis(100);

/// See the module's text.
pub(super) struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

fn text(error: fjall::Error) -> String {
    error.to_string()
}

impl Peer for Fjall {
    const DIRECT: bool = false;

    fn open(folder: &Path, options: &Options) -> Result<Fjall, String> {
        let database = Database::builder(folder)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKERS)
            .manual_journal_persist(true)
            .open()
            .map_err(text)?;
        let filter = BloomConstructionPolicy::BitsPerKey(FILTER_BITS);
        let create = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(config(options).memtable_bytes)
                .data_block_size_policy(BlockSizePolicy::all(BLOCK_SIZE))
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(filter)))
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_pinning_policy(PinningPolicy::all(true))
                .filter_block_partitioning_policy(PartitioningPolicy::all(false))
                .index_block_partitioning_policy(PartitioningPolicy::all(false))
                .manual_journal_persist(true)
        };
        let keyspace = database.keyspace("bench", create).map_err(text)?;
        Ok(Fjall { database, keyspace })
    }

    fn settings(options: &Options) -> Vec<(String, String)> {
        let settings = [
            ("max_memtable_size", config(options).memtable_bytes.to_string()),
            ("cache_size", options.cache_bytes.to_string()),
            ("data_block_size", BLOCK_SIZE.to_string()),
            ("bloom_bits", FILTER_BITS.to_string()),
            ("index_and_filters", "whole, pinned".to_owned()),
            ("worker_threads", WORKERS.to_string()),
            ("journal", "on (cannot be off), persisted manually, never synced".to_owned()),
            ("direct_io", "no: page cache".to_owned()),
            ("compression", "none".to_owned()),
            ("checksum", "xxh3 (fixed)".to_owned()),
            ("others", "default".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), String> {
        let mut batch = self.database.batch();
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.insert(&self.keyspace, *key, *value),
                None => batch.remove(&self.keyspace, *key),
            }
        }
        batch.commit().map_err(text)
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, String> {
        let found = self.keyspace.get(key).map_err(text)?;
        Ok(look(found.as_deref()))
    }

    fn scan(
        &self,
        first: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), String> {
        for guard in self.keyspace.range(first..) {
            let (key, value) = guard.into_inner().map_err(text)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        self.keyspace.rotate_memtable_and_wait().map_err(text)?;
        let mut quiet_since = Instant::now();
        let mut completed = self.database.compactions_completed();
        while quiet_since.elapsed() < QUIET {
            let now = self.database.compactions_completed();
            let busy = self.database.outstanding_flushes() > 0
                || self.database.active_compactions() > 0
                || now != completed;
            if busy {
                (quiet_since, completed) = (Instant::now(), now);
            }
            std::thread::sleep(POLL);
        }
        self.database.persist(PersistMode::SyncAll).map_err(text)
    }
}
