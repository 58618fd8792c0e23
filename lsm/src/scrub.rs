//! Scrubbing: a walk over every live block of a shard while it serves, to find rot before a reader
//! or a merge needs the block.
//!
//! A *cycle* reads each block that is live from the cycle's beginning to its end once, from the
//! device and past the cache. It goes like this:
//!
//! 1. tables, in the order of their index blocks' addresses, as a ring that begins at a random
//!    place: of a device that is read for two weeks and restarted every week all of it gets its
//!    turn. Of each table the index block, the value blocks that it names, and the overflow blocks
//!    that their entries name; each against the checksum that led to it, so a block that is intact
//!    and not the right one is found too;
//! 2. the manifest log and the newest checkpoint's own blocks;
//! 3. the file's header.
//!
//! The owner drives it: [`Forest::scrub_step`] gives the next read, which owns what it needs and is
//! awaited without the forest, and [`Forest::scrub_take`] takes what came of it. How fast is the
//! owner's to decide; [`Scrub::remaining`] is what it can be decided from.
//!
//! **The live set changes meanwhile.** The walk keeps no list of what it will read, only its place
//! in the ring, and the blocks of one table. A table that a bar has replaced is left at once. A
//! block may be released, freed and written again while it is read, and then differs from its
//! reference: so a failed read counts only if the table is still live afterwards. A table's blocks
//! are released with the table, never before, so then the block was in use all the time. Blocks of
//! a checkpoint that is being written are not on the disk yet: the walk waits for it.
//!
//! **What a fault leads to.** A table with a corrupt block is quarantined, as by a merge that meets
//! one: reads that need the block fail by name, nothing else does. A corrupt block of the manifest
//! log is written anew by the next checkpoint, since all that it says is in memory; the
//! checkpoint's own blocks always are; the header is written anew at once. Until then a restart
//! would be refused. Each block is reported once while its content is live.
//!
//! Where others have copies of the grid, a corrupt block is written anew from one at once
//! ([`ScrubStep::Repair`]), and none of the above happens: what is merged, and what a checkpoint
//! consists of, is then the same on all replicas, whatever one of them has found.
//!
//! After "scrubbing" in Schwarz et al., Disk Scrubbing in Large Archival Storage Systems, 2004.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use thiserror::Error;

use crate::block::{Block, BlockAddress, BlockFault, BlockReference, BlockType, Checksum};
use crate::entry::{Level, Payload};
use crate::forest::Forest;
use crate::grid::{Grid, Original, REPAIR_PATIENCE, Repair, copy_helps};
use crate::index::Index;
use crate::lookup::CorruptRead;
use crate::manifest_log::ManifestLog;
use crate::table::{BlockCursor, TableInfo};
use crate::tree::Tree;

/// Faults that are told apart; what is found beyond that is neither counted nor reported.
const REPORTED_MAX: usize = 64 << 10;
/// Entries looked at without letting others have a turn.
const SLICE: u64 = 256;

/// A corrupt block that a scrub has found.
#[derive(Debug, Error)]
pub enum ScrubFault {
    /// A block of a table.
    #[error(transparent)]
    Table(Box<CorruptRead>),
    /// A block that says what the shard consists of.
    #[error("shard {shard}: the {block_type} block at offset {offset} is corrupt ({fault})")]
    Own {
        /// The shard.
        shard: u16,
        /// What the block is for.
        block_type: BlockType,
        /// The grid file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        fault: BlockFault,
    },
}

impl ScrubFault {
    /// Where in the grid file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            ScrubFault::Table(corrupt) => corrupt.offset,
            ScrubFault::Own { offset, .. } => *offset,
        }
    }

    /// What can be done about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            ScrubFault::Table(_) => {
                "write the keys of the range anew (SET), or restore them from a copy; all others \
                 are served. Reads of what the block holds answer corrupt_block until then"
            }
            ScrubFault::Own { block_type: BlockType::GridHeader, .. } => {
                "it was written anew; watch the device"
            }
            ScrubFault::Own { .. } => {
                "the next checkpoint writes it anew; do not stop the node before: it would not \
                 start. Writes bring the checkpoint about (quorate_checkpoint in /metrics)"
            }
        }
    }
}

/// The smallest and the largest key that need a block.
type Keys = (Box<[u8]>, Box<[u8]>);

/// A block to read.
#[derive(Clone, Debug)]
struct Item {
    /// None for the file's header.
    reference: Option<BlockReference>,
    block_type: BlockType,
    /// The keys that need it, of a table's block.
    keys: Option<Keys>,
}

impl Item {
    fn own(block_type: BlockType, reference: Option<BlockReference>) -> Item {
        Item { reference, block_type, keys: None }
    }

    fn own_block(&self) -> Option<(BlockType, BlockReference)> {
        Some((self.block_type, self.reference?))
    }
}

/// A table that is being read.
#[derive(Debug)]
struct Walked {
    table: Rc<TableInfo>,
    level: Level,
    items: VecDeque<Item>,
}

/// A place in a cycle.
#[derive(Debug)]
pub struct Scrub {
    /// Where the ring of tables begins.
    first: u64,
    /// The table that was begun last.
    last: u64,
    /// Whether the ring's end is behind.
    wrapped: bool,
    walked: Option<Walked>,
    /// What is left of the blocks that belong to no table; none before these are begun.
    own: Option<VecDeque<Item>>,
    /// What was found corrupt and can be repaired.
    repair: Option<ScrubRepair>,
    read: u64,
    remaining: u64,
}

impl Scrub {
    /// Blocks read in this cycle.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Blocks that are left to read, as far as is known.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn is_ahead(&self, table: u64) -> bool {
        match self.wrapped {
            false => table > self.last || table < self.first,
            true => table > self.last && table < self.first,
        }
    }

    fn next_table(&mut self, log: &ManifestLog) -> Option<(Level, Rc<TableInfo>)> {
        let mut next = log.table_behind(self.last);
        if next.is_none() && !self.wrapped {
            (self.wrapped, self.last) = (true, 0);
            next = log.table_behind(0);
        }
        let (level, table) = next?;
        let address = table.index.address.get();
        if self.wrapped && address >= self.first {
            return None;
        }
        self.last = address;
        Some((level, Rc::clone(table)))
    }
}

/// What comes next in a cycle.
#[derive(Debug)]
pub enum ScrubStep {
    /// Await this, and give what comes of it to [`Forest::scrub_take`].
    Read(ScrubRead),
    /// Await this, and give what comes of it to [`Forest::scrub_repaired`].
    Repair(ScrubRepair),
    /// A checkpoint is being written: try again later.
    Wait,
    /// The cycle has ended.
    End,
}

/// A read of one block.
#[derive(Debug)]
pub struct ScrubRead {
    grid: Rc<Grid>,
    item: Item,
    /// Whether entries of the block may have overflow blocks.
    overflows: bool,
}

/// The repair of a block from a copy.
#[derive(Debug)]
pub struct ScrubRepair {
    grid: Rc<Grid>,
    item: Item,
    wanted: Original,
    /// No bar has ended since the block was known to be in use.
    epoch: Rc<Cell<u64>>,
    epoch_started: u64,
}

/// What a repair came to.
#[derive(Debug)]
pub struct ScrubRepaired {
    item: Item,
    outcome: Repair,
}

impl ScrubRepaired {
    /// Whether the block is intact again.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome == Repair::Done
    }
}

impl ScrubRepair {
    /// Has the block written anew.
    pub async fn run(self) -> ScrubRepaired {
        let ScrubRepair { grid, item, wanted, epoch, epoch_started } = self;
        let is_in_use = || epoch.get() == epoch_started;
        let outcome = grid.repair(&wanted, Some(REPAIR_PATIENCE), is_in_use).await;
        ScrubRepaired { item, outcome }
    }
}

/// What a read came to.
#[derive(Debug)]
pub struct Scrubbed {
    item: Item,
    /// The blocks that this one names.
    named: Result<Vec<Item>, BlockFault>,
}

impl ScrubRead {
    /// Reads and checks the block.
    pub async fn run(self) -> Scrubbed {
        let named = self.check().await;
        Scrubbed { item: self.item, named }
    }

    async fn check(&self) -> Result<Vec<Item>, BlockFault> {
        let Some(reference) = &self.item.reference else {
            return self.grid.scrub_header().await.map(|()| Vec::new());
        };
        let block = self.grid.scrub_block(reference, self.item.block_type).await?;
        match self.item.block_type {
            BlockType::Index => value_blocks(&block),
            BlockType::Value if self.overflows => overflow_blocks(&self.grid, block).await,
            _ => Ok(Vec::new()),
        }
    }
}

fn value_blocks(block: &Block) -> Result<Vec<Item>, BlockFault> {
    let index = Index::verify(block.bytes())?;
    let count = index.block_count();
    // A separator is not after the first key behind it: a bound for the keys on both sides.
    let bound = |number| match number {
        0 => index.key_min().into(),
        number if number == count => index.key_max().into(),
        number => index.page_separator(index.block(number).pages.start).key.into(),
    };
    let item = |number| Item {
        reference: Some(index.block(number).reference),
        block_type: BlockType::Value,
        keys: Some((bound(number), bound(number + 1))),
    };
    Ok((0..count).map(item).collect())
}

async fn overflow_blocks(grid: &Grid, block: Block) -> Result<Vec<Item>, BlockFault> {
    let mut items = Vec::new();
    let mut cursor = BlockCursor::new(block)?;
    let mut looked = 0;
    while cursor.next()? {
        looked += 1;
        if looked % SLICE == 0 {
            ioring::yield_now().await;
        }
        let entry = cursor.entry();
        let Payload::Overflow(list) = entry.payload else { continue };
        let what = "a large value's list of blocks does not fit its length";
        let malformed = BlockFault::Malformed { block_type: BlockType::Overflow, what };
        let references = list.references(grid.config()).ok_or(malformed)?;
        items.extend(references.map(|reference| Item {
            reference: Some(reference),
            block_type: BlockType::Overflow,
            keys: Some((entry.key.into(), entry.key.into())),
        }));
    }
    Ok(items)
}

/// Blocks found corrupt, and the content that they should have had.
pub(crate) type Reported = BTreeSet<(BlockAddress, Checksum)>;

impl Forest {
    /// Begins a cycle at a random place.
    #[must_use]
    pub fn scrub(&self, random: u64) -> Scrub {
        let first = 1 + random % self.grid().blocks_needed();
        let mut scrub = Scrub {
            first,
            last: first - 1,
            wrapped: false,
            walked: None,
            own: None,
            repair: None,
            read: 0,
            remaining: 0,
        };
        scrub.remaining = self.scrub_remaining(&scrub);
        scrub
    }

    /// The next read of a cycle.
    pub fn scrub_step(&self, scrub: &mut Scrub) -> ScrubStep {
        if let Some(repair) = scrub.repair.take() {
            return ScrubStep::Repair(repair);
        }
        loop {
            if let Some(walked) = &mut scrub.walked {
                let live = self.manifest_log.is_live(&walked.table);
                if let Some(item) = walked.items.pop_front().filter(|_| live) {
                    let overflows = walked.table.overflow_blocks > 0;
                    return ScrubStep::Read(ScrubRead {
                        grid: self.grid().clone(),
                        item,
                        overflows,
                    });
                }
                scrub.walked = None;
            }
            if let Some(own) = &mut scrub.own {
                let Some(item) = own.pop_front() else { return ScrubStep::End };
                let (grid, overflows) = (self.grid().clone(), false);
                return ScrubStep::Read(ScrubRead { grid, item, overflows });
            }
            if let Some((level, table)) = scrub.next_table(&self.manifest_log) {
                let (reference, block_type) = (Some(table.index), BlockType::Index);
                let keys = Some((table.key_min.clone(), table.key_max.clone()));
                let items = VecDeque::from([Item { reference, block_type, keys }]);
                let blocks = blocks_of(&table);
                scrub.walked = Some(Walked { table, level, items });
                scrub.remaining = blocks + self.scrub_remaining(scrub);
            } else if self.checkpoint_written.get() {
                let own = self.own_blocks().map(|(kind, block)| Item::own(kind, Some(block)));
                let header = Item::own(BlockType::GridHeader, None);
                scrub.own = Some(own.chain([header]).collect());
                scrub.remaining = self.scrub_remaining(scrub);
            } else {
                return ScrubStep::Wait;
            }
        }
    }

    /// Takes what a read came to; gives a fault the first time it is found.
    pub fn scrub_take(&mut self, scrub: &mut Scrub, read: Scrubbed) -> Option<ScrubFault> {
        let Scrubbed { item, named } = read;
        scrub.read += 1;
        scrub.remaining = scrub.remaining.saturating_sub(1);
        let fault = match (named, &mut scrub.walked) {
            (Ok(named), Some(walked)) => {
                // In front: what a block names is read while its table is likely to be live.
                named.into_iter().rev().for_each(|item| walked.items.push_front(item));
                return None;
            }
            (Ok(_), None) => return None,
            (Err(fault), _) => fault,
        };
        match &scrub.walked {
            Some(walked) if self.manifest_log.is_live(&walked.table) => {
                let (table, level) = (Rc::clone(&walked.table), walked.level);
                scrub.repair = self.repair_of(&item, fault);
                self.on_table_fault(&table, level, item, fault)
            }
            Some(_) => None,
            None => {
                let is_in_use = self.own_blocks().any(|own| Some(own) == item.own_block());
                scrub.repair = self.repair_of(&item, fault).filter(|_| is_in_use);
                self.on_own_fault(&item, fault)
            }
        }
    }

    /// Takes what a repair came to. A block that was repaired is read again, for what it names; so
    /// is one of which it was not certain any more whether it is in use.
    pub fn scrub_repaired(&mut self, scrub: &mut Scrub, repaired: ScrubRepaired) {
        let ScrubRepaired { item, outcome } = repaired;
        if outcome == Repair::NoCopy {
            return;
        }
        if let Some(reference) = item.reference.filter(|_| outcome == Repair::Done) {
            self.reported.remove(&(reference.address, reference.checksum));
        }
        match (&mut scrub.walked, &mut scrub.own) {
            (Some(walked), _) => walked.items.push_front(item),
            (None, Some(own)) => own.push_front(item),
            (None, None) => unreachable!("an item is of a table or of none"),
        }
        (scrub.read, scrub.remaining) = (scrub.read - 1, scrub.remaining + 1);
    }

    /// How a block that is in use is repaired, if it can be.
    fn repair_of(&self, item: &Item, fault: BlockFault) -> Option<ScrubRepair> {
        let (grid, block_type) = (self.grid(), item.block_type);
        let reference = item.reference.filter(|_| grid.has_copies() && copy_helps(fault))?;
        let epoch = self.epoch();
        Some(ScrubRepair {
            grid: Rc::clone(grid),
            item: item.clone(),
            wanted: Original { reference, block_type },
            epoch_started: epoch.get(),
            epoch: Rc::clone(epoch),
        })
    }

    fn on_table_fault(
        &mut self,
        table: &Rc<TableInfo>,
        level: Level,
        item: Item,
        fault: BlockFault,
    ) -> Option<ScrubFault> {
        let reference = item.reference.expect("a table's blocks have references");
        let (key_min, key_max) = item.keys.expect("and keys that need them");
        let block = reference.address;
        if !self.grid().has_copies() {
            self.quarantine(table, block, fault);
        }
        if !self.is_new_fault(&reference) {
            return None;
        }
        self.grid().note_corrupt();
        let offset = block.offset(self.config.block_size);
        Some(ScrubFault::Table(Box::new(CorruptRead {
            shard: self.grid().identity().shard,
            tree: Tree::from_id(table.tree).expect("live tables belong to trees"),
            level,
            table: table.index.address,
            block,
            offset,
            key_min,
            key_max,
            fault,
        })))
    }

    fn on_own_fault(&mut self, item: &Item, fault: BlockFault) -> Option<ScrubFault> {
        let block_type = item.block_type;
        let mut offset = 0;
        if let Some(reference) = item.reference {
            let live = self.own_blocks().any(|own| own == (block_type, reference));
            if !live || !self.is_new_fault(&reference) {
                return None;
            }
            if !self.grid().has_copies() {
                self.manifest_log.rewrite(reference.address);
            }
            offset = reference.address.offset(self.config.block_size);
        }
        let (path, shard) = (self.grid().path().to_owned(), self.grid().identity().shard);
        Some(ScrubFault::Own { shard, block_type, path, offset, fault })
    }

    fn is_new_fault(&mut self, reference: &BlockReference) -> bool {
        let (reported, fault) = (&mut self.reported, (reference.address, reference.checksum));
        reported.len() < REPORTED_MAX && reported.insert(fault)
    }

    /// What of the tables, and of the rest, is ahead of a place.
    fn scrub_remaining(&self, scrub: &Scrub) -> u64 {
        if let Some(own) = &scrub.own {
            return own.len() as u64;
        }
        let tables = self.manifest_log.tables().map(|(_, table)| table);
        let ahead = tables.filter(|table| scrub.is_ahead(table.index.address.get()));
        let blocks: u64 = ahead.map(|table| blocks_of(table)).sum();
        blocks + self.own_blocks().count() as u64 + 1
    }

    /// The blocks of the manifest log and of the newest checkpoint: which tables are live, and what
    /// is kept beside them.
    pub(crate) fn own_blocks(&self) -> impl Iterator<Item = (BlockType, BlockReference)> + '_ {
        let manifest = self.manifest_log.blocks().map(|block| (BlockType::Manifest, block));
        manifest.chain(self.root_blocks.iter().copied())
    }
}

fn blocks_of(table: &TableInfo) -> u64 {
    1 + u64::from(table.value_blocks) + u64::from(table.overflow_blocks)
}

#[cfg(test)]
mod tests;
