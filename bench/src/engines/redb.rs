//! redb 4: a copy-on-write B+ tree in Rust.
//!
//! It has no log and no direct I/O. A transaction of ours is one of its own with
//! `Durability::None`; so that pages it has copied become free again, a commit with
//! `Durability::Immediate` comes after as many bytes as our memtable holds. One transaction writes
//! at a time. Pages have 4 KiB and XXH3 checksums; it has no compression.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::peer::Peer;
use crate::engine::store::Write;
use crate::engine::{Options, config};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

/// See the module's text.
pub(super) struct Redb {
    database: Database,
    commit_bytes: u64,
    /// Bytes written since the last durable commit.
    written: AtomicU64,
}

fn text(error: impl Into<redb::Error>) -> String {
    error.into().to_string()
}

impl Redb {
    fn commit(&self, writes: &[Write<'_>], durability: Durability) -> Result<(), String> {
        let mut transaction = self.database.begin_write().map_err(text)?;
        transaction.set_durability(durability).map_err(|error| error.to_string())?;
        {
            let mut table = transaction.open_table(TABLE).map_err(text)?;
            for Write { key, value } in writes {
                match value {
                    Some(value) => drop(table.insert(*key, *value).map_err(text)?),
                    None => drop(table.remove(*key).map_err(text)?),
                }
            }
        }
        transaction.commit().map_err(text)
    }
}

impl Peer for Redb {
    const DIRECT: bool = false;

    fn open(folder: &Path, options: &Options) -> Result<Redb, String> {
        let database = Database::builder()
            .set_cache_size(options.cache_bytes as usize)
            .create(folder.join("redb"))
            .map_err(text)?;
        let commit_bytes = config(options).memtable_bytes;
        let peer = Redb { database, commit_bytes, written: AtomicU64::new(0) };
        // Readers need a table.
        peer.commit(&[], Durability::Immediate)?;
        Ok(peer)
    }

    fn settings(options: &Options) -> Vec<(String, String)> {
        let settings = [
            ("cache_size", options.cache_bytes.to_string()),
            ("durability", "none".to_owned()),
            ("durable commit every bytes", config(options).memtable_bytes.to_string()),
            ("direct_io", "no: page cache".to_owned()),
            ("compression", "none (it has none)".to_owned()),
            ("checksum", "xxh3 (fixed)".to_owned()),
            ("others", "default".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), String> {
        let size = |write: &Write<'_>| write.key.len() + write.value.map_or(0, <[u8]>::len);
        let bytes = writes.iter().map(size).sum::<usize>() as u64;
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        let due = before / self.commit_bytes != (before + bytes) / self.commit_bytes;
        self.commit(writes, if due { Durability::Immediate } else { Durability::None })
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, String> {
        let transaction = self.database.begin_read().map_err(text)?;
        let table = transaction.open_table(TABLE).map_err(text)?;
        let found = table.get(key).map_err(text)?;
        Ok(look(found.as_ref().map(|guard| guard.value())))
    }

    fn scan(
        &self,
        first: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let transaction = self.database.begin_read().map_err(text)?;
        let table = transaction.open_table(TABLE).map_err(text)?;
        for entry in table.range(first..).map_err(text)? {
            let (key, value) = entry.map_err(text)?;
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        // Pages freed by a durable commit can be used after the next one.
        self.commit(&[], Durability::Immediate)?;
        self.commit(&[], Durability::Immediate)
    }
}
