//! The durable history of which tables are live.
//!
//! The manifest itself lives in memory, above. What it must survive a restart with stands in a log
//! of grid blocks: records of tables inserted (or moved to another level) and removed. A table is
//! named by the address of its index block: addresses are unique among live tables, and one is
//! reused only after a checkpoint, when the removal stands in the log already. The newest record
//! of an address decides.
//!
//! ```text
//! block body:  predecessors │ records
//!              newest first, (address, checksum, size) each, up to 16
//! ```
//!
//! **Writing.** Changes gather in memory while a bar runs and reach the log when a checkpoint seals
//! it ([`ManifestLog::seal`]). Blocks are written once; the root names the newest block and how
//! many blocks there are.
//!
//! **Opening.** From the newest block back: each block names up to 16 predecessors, so that many
//! are read side by side. Records are taken newest first; the first one seen of an address counts.
//!
//! **Compaction.** Old blocks hold ever fewer records that still count. A seal whose new records
//! alone would fill f blocks (the last one maybe partly) also takes the 3·f oldest blocks, writes
//! their live inserts again behind the new records, and releases them. Live inserts are in memory:
//! nothing is read. Removals in the oldest block are dropped, since what they remove is older still
//! and so already gone.
//!
//! **Why the log stays small.** Let L be the blocks that all live records would fill, F the largest
//! f. A seal writes at most f blocks for new records and ⌈r⌉ ≤ r + 1 for r blocks' worth of
//! rewritten ones. Take the W blocks of the log at some moment; a round lasts until all of them are
//! taken. Its seals have Σf ≤ W/3 + F, there are at most Σf of them, and each live record is
//! rewritten at most once: a round leaves at most Σf + (L + Σf) ≤ 2W/3 + 2F + L blocks. Repeated,
//! that falls to 3L + 6F. Within a round the log never exceeds W + L, since a seal takes three
//! blocks for every two it adds beyond rewritten ones. So it holds at most **4L + 6F blocks**, at a
//! constant amount of work per new block, whatever is inserted and removed in whatever order.

mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use ioring::Buffer;

pub use record::{Record, predecessors, records};

use crate::block::{
    self, Block, BlockAddress, BlockFault, BlockReference, BlockType, Checksum, HEADER_SIZE,
    Identity, METADATA_SIZE, Seal,
};
use crate::config::{Config, SECTOR_SIZE};
use crate::entry::{Level, TreeId};
use crate::grid::{Class, Grid, ReadError};
use crate::table::{BlockImage, TableInfo};

/// Predecessors that a block names at most.
pub const PREDECESSORS_MAX: usize = 16;
/// Oldest blocks taken for every block of new records.
const COMPACTED_PER_BLOCK: usize = 3;

/// What a checkpoint stores of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestRoot {
    /// The newest block; none while no table was ever inserted.
    pub newest: Option<BlockReference>,
    /// Blocks of the log.
    pub block_count: u32,
}

impl ManifestRoot {
    /// Bytes of the stored form.
    pub const SIZE: usize = 32;

    /// The stored form: address (zero for none), checksum, size, block count.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ManifestRoot::SIZE] {
        let mut bytes = [0; ManifestRoot::SIZE];
        if let Some(newest) = &self.newest {
            bytes[0..8].copy_from_slice(&newest.address.get().to_le_bytes());
            bytes[8..24].copy_from_slice(&newest.checksum.0.to_le_bytes());
            bytes[24..28].copy_from_slice(&newest.size.to_le_bytes());
            bytes[28..32].copy_from_slice(&self.block_count.to_le_bytes());
        }
        bytes
    }

    /// Reads the stored form.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ManifestRoot::SIZE]) -> ManifestRoot {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte))
        };
        let Some(address) = BlockAddress::new(number(0..8) as u64) else {
            return ManifestRoot::default();
        };
        let (checksum, size) = (Checksum(number(8..24)), number(24..28) as u32);
        let newest = Some(BlockReference { address, size, checksum });
        ManifestRoot { newest, block_count: number(28..32) as u32 }
    }
}

/// A live table.
#[derive(Clone, Debug)]
struct Live {
    level: Level,
    table: Rc<TableInfo>,
    /// The block that holds its newest record; none while that is not sealed.
    block: Option<u64>,
}

struct LogBlock {
    number: u64,
    reference: BlockReference,
}

/// What a seal produced.
#[derive(Debug, Default)]
pub struct Sealed {
    /// Blocks to write, oldest first.
    pub images: Vec<BlockImage>,
    /// Blocks that the log no longer needs.
    pub released: Vec<BlockAddress>,
    /// What the checkpoint stores.
    pub root: ManifestRoot,
}

/// The log, and which tables it says are live.
pub struct ManifestLog {
    config: Config,
    /// Oldest first.
    blocks: VecDeque<LogBlock>,
    number_next: u64,
    live: BTreeMap<BlockAddress, Live>,
    /// Which live records each sealed block holds.
    live_in: BTreeSet<(u64, BlockAddress)>,
    /// Addresses whose newest record is not sealed: inserts if live, removals if not.
    pending: BTreeMap<BlockAddress, TreeId>,
    /// The newest block that is corrupt: the next seal does without it and all before.
    corrupt: Option<u64>,
}

impl std::fmt::Debug for ManifestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (blocks, live, pending) = (self.blocks.len(), self.live.len(), self.pending.len());
        write!(f, "ManifestLog({blocks} blocks, {live} tables, {pending} changes)")
    }
}

/// What a seal will write.
struct Plan {
    records: Vec<Record>,
    /// Records of each block, as counts.
    blocks: Vec<usize>,
    compacted: usize,
}

impl ManifestLog {
    /// An empty log.
    #[must_use]
    pub fn new(config: &Config) -> ManifestLog {
        ManifestLog {
            config: config.clone(),
            blocks: VecDeque::new(),
            number_next: 0,
            live: BTreeMap::new(),
            live_in: BTreeSet::new(),
            pending: BTreeMap::new(),
            corrupt: None,
        }
    }

    /// Notes that a table became live in a level, or moved to it.
    pub fn insert(&mut self, level: Level, table: Rc<TableInfo>) {
        let (address, tree) = (table.index.address, table.tree);
        match self.live.get_mut(&address) {
            Some(live) => {
                assert!(live.table.index == table.index, "two live tables at block {address}");
                // A table that moves may become part of another run.
                (live.level, live.table) = (level, table);
            }
            None => {
                let reused_unsealed = self.pending.contains_key(&address);
                assert!(!reused_unsealed, "block {address} was reused before a checkpoint");
                self.live.insert(address, Live { level, table, block: None });
            }
        }
        self.pending.insert(address, tree);
    }

    /// Notes that a table is no longer live.
    pub fn remove(&mut self, table: &TableInfo) {
        let address = table.index.address;
        let live = self.live.remove(&address).expect("only a live table is removed");
        assert!(live.table.index == table.index, "another table is live at block {address}");
        match live.block {
            Some(block) => {
                assert!(self.live_in.remove(&(block, address)));
                self.pending.insert(address, table.tree);
            }
            None => {
                self.pending.remove(&address);
            }
        }
    }

    /// Blocks the log has now.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The log's blocks, oldest first: for inspection and scrubbing.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = BlockReference> + '_ {
        self.blocks.iter().map(|block| block.reference)
    }

    /// Live tables, in the order of their index blocks' addresses.
    pub fn tables(&self) -> impl ExactSizeIterator<Item = (Level, &Rc<TableInfo>)> {
        self.live.values().map(|live| (live.level, &live.table))
    }

    /// The live table with the lowest address behind this one.
    pub(crate) fn table_behind(&self, address: u64) -> Option<(Level, &Rc<TableInfo>)> {
        let next = BlockAddress::new(address + 1)?;
        self.live.range(next..).next().map(|(_, live)| (live.level, &live.table))
    }

    /// Whether a table is live.
    pub(crate) fn is_live(&self, table: &TableInfo) -> bool {
        let live = self.live.get(&table.index.address);
        live.is_some_and(|live| live.table.index == table.index)
    }

    /// Has the next seal do without a block that cannot be read any more, if it is one of the log:
    /// all that it says is in memory.
    pub(crate) fn rewrite(&mut self, address: BlockAddress) {
        let found = self.blocks.iter().find(|block| block.reference.address == address);
        self.corrupt = self.corrupt.max(found.map(|block| block.number));
    }

    /// Blocks that the next seal acquires: exactly as many.
    #[must_use]
    pub fn blocks_needed(&self) -> usize {
        self.plan().blocks.len()
    }

    /// Writes all changes since the last seal into blocks at the addresses given, for a checkpoint
    /// at `op`, and compacts. The caller writes the images and releases what is released.
    pub fn seal(
        &mut self,
        identity: Identity,
        op: u64,
        mut acquire: impl FnMut() -> BlockAddress,
    ) -> Sealed {
        let Plan { records, blocks, compacted } = self.plan();
        let mut sealed = Sealed::default();
        for block in self.blocks.drain(..compacted) {
            let first = (block.number, BlockAddress(std::num::NonZeroU64::MIN));
            let behind = (block.number + 1, first.1);
            let moved: Vec<_> = self.live_in.range(first..behind).copied().collect();
            for place in moved {
                self.live_in.remove(&place);
            }
            sealed.released.push(block.reference.address);
        }
        let mut records = records.into_iter();
        for count in blocks {
            let number = self.number_next;
            self.number_next += 1;
            let block: Vec<Record> = records.by_ref().take(count).collect();
            for record in &block {
                let Record::Insert { table, .. } = record else { continue };
                let address = table.index.address;
                let live = self.live.get_mut(&address).expect("inserts of a plan are live");
                if let Some(before) = live.block.replace(number) {
                    self.live_in.remove(&(before, address));
                }
                self.live_in.insert((number, address));
            }
            let predecessors = self.blocks.iter().rev().map(|block| block.reference);
            let predecessors: Vec<_> = predecessors.take(PREDECESSORS_MAX).collect();
            let image = encode_block(&self.config, identity, op, acquire(), &predecessors, &block);
            self.blocks.push_back(LogBlock { number, reference: image.reference });
            sealed.images.push(image);
        }
        assert!(records.next().is_none(), "the plan counts every record");
        self.pending.clear();
        self.corrupt = None;
        sealed.root = self.root();
        sealed
    }

    /// What a checkpoint stores of the log as it was sealed last.
    #[must_use]
    pub fn root(&self) -> ManifestRoot {
        let newest = self.blocks.back().map(|block| block.reference);
        ManifestRoot { newest, block_count: self.blocks.len() as u32 }
    }

    fn plan(&self) -> Plan {
        let mut records: Vec<Record> = self
            .pending
            .iter()
            .map(|(&address, &tree)| match self.live.get(&address) {
                Some(live) => Record::Insert { level: live.level, table: live.table.clone() },
                None => Record::Remove { tree, address },
            })
            .collect();
        let capacity = block_capacity(&self.config);
        let fresh = pack(&records, capacity).len();
        let corrupt = self.blocks.partition_point(|block| Some(block.number) <= self.corrupt);
        let compacted = (fresh * COMPACTED_PER_BLOCK).max(corrupt).min(self.blocks.len());
        for block in self.blocks.iter().take(compacted) {
            let first = (block.number, BlockAddress(std::num::NonZeroU64::MIN));
            for (_, address) in self.live_in.range(first..(block.number + 1, first.1)) {
                if !self.pending.contains_key(address) {
                    let live = &self.live[address];
                    records.push(Record::Insert { level: live.level, table: live.table.clone() });
                }
            }
        }
        let blocks = pack(&records, capacity);
        Plan { records, blocks, compacted }
    }

    /// Reads the log that a checkpoint stored.
    pub async fn open(grid: &Grid, root: &ManifestRoot) -> Result<ManifestLog, ReadError> {
        let mut log = ManifestLog::new(grid.config());
        let mut seen = BTreeSet::new();
        let mut ahead: VecDeque<BlockReference> = root.newest.iter().copied().collect();
        // Blocks are numbered from the oldest; the walk meets the newest first.
        let mut number = u64::from(root.block_count);
        log.number_next = number;
        while number > 0 {
            let batch: Vec<BlockReference> = ahead.drain(..).take(number as usize).collect();
            let reads = batch.iter().map(|reference| {
                grid.read_block(reference, BlockType::Manifest, Class::Background)
            });
            for (reference, block) in batch.iter().zip(ioring::join_all(reads).await) {
                let block = block?;
                number -= 1;
                let taken = log.take_block(&block, *reference, number, &mut seen);
                let predecessors = taken.and_then(|()| predecessors(&block));
                ahead = predecessors.map_err(|fault| grid.malformed(reference.address, fault))?;
            }
            if number > 0 && ahead.is_empty() {
                let fault = malformed("the chain of manifest blocks ends early");
                let last = batch.last().or(root.newest.as_ref());
                let address = last.expect("a log of blocks has a newest one").address;
                return Err(grid.malformed(address, fault));
            }
        }
        Ok(log)
    }

    fn take_block(
        &mut self,
        block: &Block,
        reference: BlockReference,
        number: u64,
        seen: &mut BTreeSet<BlockAddress>,
    ) -> Result<(), BlockFault> {
        for record in records(block)?.into_iter().rev() {
            match record {
                Record::Remove { address, .. } => {
                    seen.insert(address);
                }
                Record::Insert { level, table } => {
                    let address = table.index.address;
                    if seen.insert(address) {
                        self.live_in.insert((number, address));
                        self.live.insert(address, Live { level, table, block: Some(number) });
                    }
                }
            }
        }
        self.blocks.push_front(LogBlock { number, reference });
        Ok(())
    }
}

fn malformed(what: &'static str) -> BlockFault {
    BlockFault::Malformed { block_type: BlockType::Manifest, what }
}

/// Bytes of records that a block holds.
fn block_capacity(config: &Config) -> usize {
    config.block_body_size() - PREDECESSORS_MAX * record::PREDECESSOR_SIZE
}

/// Fills blocks with records in order; gives the number of records of each.
fn pack(records: &[Record], capacity: usize) -> Vec<usize> {
    let mut blocks = Vec::new();
    let mut left = 0;
    for record in records {
        let len = record.stored_len();
        assert!(len <= capacity, "a record of {len} bytes fits no block");
        if len > left {
            blocks.push(0);
            left = capacity;
        }
        left -= len;
        *blocks.last_mut().expect("a block was begun") += 1;
    }
    blocks
}

fn encode_block(
    config: &Config,
    identity: Identity,
    op: u64,
    address: BlockAddress,
    predecessors: &[BlockReference],
    records: &[Record],
) -> BlockImage {
    let mut buffer = Buffer::zeroed(config.block_size as usize);
    let mut end = HEADER_SIZE;
    for predecessor in predecessors {
        end = record::encode_predecessor(&mut buffer, end, predecessor);
    }
    for record in records {
        end = record.encode(&mut buffer, end);
    }
    let mut metadata = [0; METADATA_SIZE];
    metadata[0..4].copy_from_slice(&(predecessors.len() as u32).to_le_bytes());
    metadata[4..8].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let (block_type, tree) = (BlockType::Manifest, TreeId(0));
    let seal = Seal { identity, address, block_type, tree, op, metadata };
    let reference = block::seal(&mut buffer[..end], &seal);
    buffer.set_len(end.next_multiple_of(SECTOR_SIZE));
    BlockImage { reference, bytes: buffer.freeze() }
}

#[cfg(test)]
mod tests;
