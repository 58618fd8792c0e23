//! Point reads: from memory if possible, else a plan that reads what is missing.
//!
//! The places of a tree are asked from the newest to the oldest (see [`crate::tree`]); the first
//! version at or below the snapshot decides. In a table the index names the one page that can hold
//! it, or says with its filter that none does.
//!
//! While index blocks and pages are cached nothing waits and nothing is allocated. At the first one
//! that is not, the lookup turns into a [`Read`]: the key, the snapshot, and the tables still to be
//! asked, all owned. Writes that happen meanwhile are above the snapshot and do not matter. A
//! compaction that finishes meanwhile does not matter either, at first: its inputs' blocks are not
//! reused before the checkpoint that no longer needs them is durable, which takes more than a bar.
//! If one is reused nevertheless, the page's or block's checksum differs; the read sees that bars
//! have ended since it began ([`LookupError::Moved`]), and the caller looks again. A checksum that
//! differs in the same bar is a corrupt block, and the error says what is lost with it.

use std::cell::Cell;
use std::rc::Rc;

use thiserror::Error;

use crate::block::{BlockAddress, BlockFault, BlockType};
use crate::entry::{EntryRef, Level as LevelNumber, Payload};
use crate::filter;
use crate::grid::{Cached, Class, Grid, Original, REPAIR_PATIENCE, ReadError, Repair};
use crate::index::Place;
use crate::manifest::Manifest;
use crate::overflow::OverflowReference;
use crate::table::TableInfo;
use crate::tree::Tree;

/// What a lookup needs of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All of it: a value in overflow blocks has to be read.
    Value,
    /// Only that it is there, its length, version and deadline: the payload may be a reference.
    Metadata,
}

/// Outcome of a lookup in memory.
#[derive(Debug)]
pub enum Lookup<R> {
    /// The key has a value at the snapshot; this is what the closure made of it.
    Found(R),
    /// The key has no value at the snapshot.
    Absent,
    /// Memory does not tell: await the plan.
    NeedsRead(Read),
}

/// An entry that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// When it was written.
    pub version: u64,
    /// When it ends, or [`crate::entry::DEADLINE_NONE`].
    pub deadline: u64,
    /// Length of the value, also where the value itself was not wanted.
    pub value_len: u64,
    /// The value; empty if only metadata was wanted and it stands in overflow blocks.
    pub value: Vec<u8>,
}

/// A block that cannot be read, and what is lost with it.
#[derive(Debug, Error)]
#[error(
    "shard {shard}, tree {tree:?}, level {level}, table {table}: block {block} is corrupt \
     ({fault}); keys from {} to {} may be affected",
    key_min.escape_ascii(),
    key_max.escape_ascii()
)]
pub struct CorruptRead {
    /// The shard.
    pub shard: u16,
    /// The tree.
    pub tree: Tree,
    /// The level of the table.
    pub level: LevelNumber,
    /// The table: the address of its index block.
    pub table: BlockAddress,
    /// The block.
    pub block: BlockAddress,
    /// Offset in the grid file of what could not be read.
    pub offset: u64,
    /// Smallest key of the table.
    pub key_min: Box<[u8]>,
    /// Largest key of the table.
    pub key_max: Box<[u8]>,
    /// What is wrong with it.
    pub fault: BlockFault,
}

/// Why a read gave no answer.
#[derive(Debug, Error)]
pub enum LookupError {
    /// Compaction replaced what was being read: look again.
    #[error("the tables changed under the read")]
    Moved,
    /// A block is corrupt; only reads that need it fail.
    #[error(transparent)]
    Corrupt(Box<CorruptRead>),
}

/// What readers share with the forest: enough to read, to know whether bars have ended meanwhile,
/// and to name what is broken.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) grid: Rc<Grid>,
    pub(crate) tree: Tree,
    epoch: Rc<Cell<u64>>,
    epoch_started: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({:?}, bar {})", self.tree, self.epoch_started)
    }
}

impl Reader {
    pub(crate) fn new(grid: &Rc<Grid>, tree: Tree, epoch: &Rc<Cell<u64>>) -> Reader {
        let epoch_started = epoch.get();
        Reader { grid: Rc::clone(grid), tree, epoch: Rc::clone(epoch), epoch_started }
    }

    fn is_of_this_bar(&self) -> bool {
        self.epoch.get() == self.epoch_started
    }

    /// What a failed read of a table's block means.
    pub(crate) fn error(
        &self,
        level: LevelNumber,
        table: &TableInfo,
        Failed { block, offset, fault, .. }: Failed,
    ) -> LookupError {
        if !self.is_of_this_bar() {
            return LookupError::Moved;
        }
        let shard = self.grid.identity().shard;
        LookupError::Corrupt(Box::new(CorruptRead {
            shard,
            tree: self.tree,
            level,
            table: table.index.address,
            block,
            offset,
            key_min: table.key_min.clone(),
            key_max: table.key_max.clone(),
            fault,
        }))
    }

    /// Reads, and once more each time that a corrupt block it met was written anew from a copy. It
    /// is only while no bar has ended that a block which a reader was led to is surely in use.
    pub(crate) async fn read<T>(
        &self,
        read: impl AsyncFn() -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        loop {
            let failed = match read().await {
                Err(failed) if self.is_of_this_bar() => failed,
                result => return result,
            };
            let Some(wanted) = &failed.wanted else { return Err(failed) };
            let is_in_use = || self.is_of_this_bar();
            match self.grid.repair(wanted, Some(REPAIR_PATIENCE), is_in_use).await {
                Repair::Done => {}
                Repair::Moved | Repair::NoCopy => return Err(failed),
            }
        }
    }

    async fn overflow(&self, reference: &OverflowReference<'_>) -> Result<Vec<u8>, Failed> {
        let mut value = Vec::with_capacity(reference.value_len() as usize);
        let read = self.grid.read_overflow(reference, Class::Foreground, &mut value).await;
        read.map_err(failed).map(|()| value)
    }
}

/// A block, the place in the file, and what is wrong with it.
pub(crate) struct Failed {
    pub(crate) block: BlockAddress,
    offset: u64,
    pub(crate) fault: BlockFault,
    /// What should stand there, if a copy of it would help.
    wanted: Option<Original>,
}

pub(crate) fn failed(error: ReadError) -> Failed {
    let ReadError::Corrupt(corrupt) = error;
    let crate::grid::CorruptBlock { address: block, offset, fault, wanted, .. } = *corrupt;
    Failed { block, offset, fault, wanted }
}

/// A lookup that has to wait for the disk. It owns all it needs.
#[derive(Debug)]
pub struct Read {
    reader: Reader,
    key: Box<[u8]>,
    version_max: u64,
    want: Want,
    /// The tables to ask, newest first.
    tables: Vec<(LevelNumber, Rc<TableInfo>)>,
}

impl Read {
    /// The key, and the newest version that was looked for.
    pub(crate) fn asked(&self) -> (&[u8], u64) {
        (&self.key, self.version_max)
    }

    /// The tree that was asked.
    pub(crate) fn tree(&self) -> Tree {
        self.reader.tree
    }

    /// Whether no bar has ended since it began.
    pub(crate) fn is_of_this_bar(&self) -> bool {
        self.reader.is_of_this_bar()
    }

    /// Finds the newest version up to the snapshot in the tables; none if the key has no value.
    pub async fn run(&self) -> Result<Option<OwnedEntry>, LookupError> {
        let hash = filter::hash(&self.key);
        for (level, table) in &self.tables {
            match self.reader.read(async || self.ask(table, hash).await).await {
                Ok(None) => {}
                Ok(Some(Answer::Tombstone)) => return Ok(None),
                Ok(Some(Answer::Entry(entry))) => return Ok(Some(entry)),
                Err(failed) => return Err(self.reader.error(*level, table, failed)),
            }
        }
        Ok(None)
    }

    async fn ask(&self, table: &TableInfo, hash: u64) -> Result<Option<Answer>, Failed> {
        let grid = &self.reader.grid;
        let index = grid.read_index(table, Class::Foreground).await.map_err(failed)?;
        let Some(reference) = index.index().find_covered(&self.key, hash, self.version_max) else {
            return Ok(None);
        };
        let handle = grid.read_page(&reference, Class::Foreground).await.map_err(failed)?;
        let found = handle.page().seek(&self.key, self.version_max);
        let malformed = |_| failed(grid.malformed(reference.block.address, MALFORMED));
        let Some(entry) = found.map_err(malformed)? else {
            return Ok(None);
        };
        let value = match &entry.payload {
            Payload::Tombstone => return Ok(Some(Answer::Tombstone)),
            Payload::Inline(value) => value.to_vec(),
            Payload::Overflow(_) if self.want == Want::Metadata => Vec::new(),
            Payload::Overflow(reference) => self.reader.overflow(reference).await?,
        };
        let EntryRef { version, deadline, .. } = entry;
        let value_len = entry.payload.value_len();
        Ok(Some(Answer::Entry(OwnedEntry { version, deadline, value_len, value })))
    }
}

const MALFORMED: BlockFault =
    BlockFault::Malformed { block_type: BlockType::Value, what: "a page cannot be searched" };

enum Answer {
    Tombstone,
    Entry(OwnedEntry),
}

/// A key's [`filter::hash`], the key, the newest version to look for, and what of it.
pub(crate) type Wanted<'k> = (u64, &'k [u8], u64, Want);

/// Tables that are looked at together.
const TOGETHER: usize = 8;

/// A table that may have the key, and where in it; no place if its index block is not cached.
#[derive(Clone, Copy)]
struct Candidate<'m, 'c> {
    level: LevelNumber,
    table: &'m Rc<TableInfo>,
    place: Option<Place<'c>>,
}

/// Asks the tables of a tree as far as memory reaches. Some tables together: finding out that one
/// does not have the key ends with a look into its filter, which is three cache misses, and those
/// of several tables are waited for at the same time.
///
/// 1. Takes the next tables that may have the key, up to the first one whose index block is not
///    cached; finds the value block in each and prefetches what its filter will be asked for.
/// 2. Asks them in order, as if nothing had been done together.
///
/// The cache stays borrowed meanwhile, so that no handle is taken to an index that is only looked
/// at.
pub(crate) fn tables<R>(
    reader: impl FnOnce() -> Reader,
    grid: &Grid,
    manifest: &Manifest,
    (hash, key, version_max, want): Wanted<'_>,
    found: impl FnOnce(&EntryRef<'_>) -> R,
) -> Lookup<R> {
    let tables = manifest.sorted_runs();
    let tables = tables.flat_map(|(level, run)| run.find(key).iter().map(move |t| (level, t)));
    let mut tables = tables.filter(|(_, table)| table.version_min <= version_max);
    let cached = grid.cached();
    loop {
        let mut room = [None; TOGETHER];
        let candidates = gather(&cached, &mut tables, (hash, key, version_max), &mut room);
        for (at, candidate) in candidates.iter().flatten().enumerate() {
            grid.note_index(candidate.place.is_some());
            let page = match candidate.place {
                Some(Place { probe: Some(probe), .. }) if !probe.may_pass() => continue,
                Some(Place { block, .. }) => {
                    let index = cached.index(candidate.table).expect("it is still borrowed");
                    let Some(page) = index.find_in(block, key, version_max) else { continue };
                    grid.try_page(&page)
                }
                None => None,
            };
            let entry = page.as_ref().map(|page| page.page().seek(key, version_max));
            let is_here =
                |payload: &_| want == Want::Metadata || !matches!(payload, Payload::Overflow(_));
            match entry {
                Some(Ok(None)) => {}
                Some(Ok(Some(entry))) if entry.payload.is_tombstone() => return Lookup::Absent,
                Some(Ok(Some(entry))) if is_here(&entry.payload) => {
                    return Lookup::Found(found(&entry));
                }
                // Not in memory, or a page that does not parse: it is read again, to be reported.
                _ => {
                    let rest = candidates[at..].iter().flatten().map(|c| (c.level, c.table));
                    let tables = rest.chain(tables).map(|(l, table)| (l, Rc::clone(table)));
                    let (reader, key, tables) = (reader(), Box::from(key), tables.collect());
                    return Lookup::NeedsRead(Read { reader, key, version_max, want, tables });
                }
            }
        }
        if candidates.len() < TOGETHER {
            return Lookup::Absent;
        }
    }
}

/// The first step of [`tables`].
#[inline]
fn gather<'a, 'm, 'c>(
    cached: &'c Cached<'_>,
    tables: &mut impl Iterator<Item = (LevelNumber, &'m Rc<TableInfo>)>,
    (hash, key, version_max): (u64, &[u8], u64),
    room: &'a mut [Option<Candidate<'m, 'c>>; TOGETHER],
) -> &'a [Option<Candidate<'m, 'c>>] {
    let mut count = 0;
    while count < room.len()
        && let Some((level, table)) = tables.next()
    {
        let place = match cached.index(table) {
            None => None,
            Some(index) => match index.block_for(key, hash, version_max) {
                Some(place) => Some(place),
                None => continue,
            },
        };
        if let Some(probe) = place.and_then(|place| place.probe) {
            probe.prefetch();
        }
        room[count] = Some(Candidate { level, table, place });
        count += 1;
        if place.is_none() {
            break;
        }
    }
    &room[..count]
}

#[cfg(test)]
mod tests;
