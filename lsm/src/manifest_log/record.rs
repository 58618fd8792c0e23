//! Records of the manifest log, as stored.
//!
//! ```text
//! remove:  kind 2 │ tree │ 6 zero bytes │ index block's address
//! insert:  kind 1 │ tree │ level │ zero │ lengths of smallest and largest key │ address │ the rest
//!          of the table's fields │ sample │ smallest key │ largest key │ zeros to a multiple of 8
//! ```

use std::collections::VecDeque;
use std::rc::Rc;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::malformed;
use crate::block::{Block, BlockAddress, BlockFault, BlockReference, Checksum, HEADER_SIZE};
use crate::entry::{Level, TreeId};
use crate::table::TableInfo;

/// Bytes of a predecessor's reference.
pub(super) const PREDECESSOR_SIZE: usize = 28;
const REMOVE_SIZE: usize = 16;
const INSERT_SIZE: usize = 104;
/// More entries, or bytes, than any table can have: sums of them do not overflow.
const COUNT_MAX: u64 = 1 << 48;
const KIND_INSERT: u8 = 1;
const KIND_REMOVE: u8 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawInsert {
    kind: u8,
    tree: u8,
    level: u8,
    zero: u8,
    key_min_len: U16,
    key_max_len: U16,
    address: U64,
    checksum: U128,
    size: U32,
    value_blocks: U32,
    overflow_blocks: U32,
    sample_count: U32,
    version_min: U64,
    version_max: U64,
    op: U64,
    run: U64,
    entries: U64,
    tombstones: U64,
    value_bytes: U64,
}

const _: () = assert!(size_of::<RawInsert>() == INSERT_SIZE);

/// One change of the set of live tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A table became live in a level, or moved to it.
    Insert {
        /// The level.
        level: Level,
        /// The table.
        table: Rc<TableInfo>,
    },
    /// The table with this index block is no longer live.
    Remove {
        /// Its tree.
        tree: TreeId,
        /// Its index block.
        address: BlockAddress,
    },
}

impl Record {
    pub(super) fn stored_len(&self) -> usize {
        match self {
            Record::Remove { .. } => REMOVE_SIZE,
            Record::Insert { table, .. } => {
                let keys = table.key_min.len() + table.key_max.len();
                INSERT_SIZE + (4 * table.sample.len() + keys).next_multiple_of(8)
            }
        }
    }

    /// Writes the record at `start`; gives its end.
    pub(super) fn encode(&self, block: &mut [u8], start: usize) -> usize {
        let end = start + self.stored_len();
        let out = &mut block[start..end];
        match self {
            Record::Remove { tree, address } => {
                out[..8].copy_from_slice(&[KIND_REMOVE, tree.0, 0, 0, 0, 0, 0, 0]);
                out[8..].copy_from_slice(&address.get().to_le_bytes());
            }
            Record::Insert { level, table } => {
                let raw = RawInsert {
                    kind: KIND_INSERT,
                    tree: table.tree.0,
                    level: level.0,
                    zero: 0,
                    key_min_len: U16::new(table.key_min.len() as u16),
                    key_max_len: U16::new(table.key_max.len() as u16),
                    address: U64::new(table.index.address.get()),
                    checksum: U128::new(table.index.checksum.0),
                    size: U32::new(table.index.size),
                    value_blocks: U32::new(table.value_blocks),
                    overflow_blocks: U32::new(table.overflow_blocks),
                    sample_count: U32::new(table.sample.len() as u32),
                    version_min: U64::new(table.version_min),
                    version_max: U64::new(table.version_max),
                    op: U64::new(table.op),
                    run: U64::new(table.run),
                    entries: U64::new(table.entries),
                    tombstones: U64::new(table.tombstones),
                    value_bytes: U64::new(table.value_bytes),
                };
                let (head, rest) = out.split_at_mut(INSERT_SIZE);
                head.copy_from_slice(raw.as_bytes());
                let (sample, keys) = rest.split_at_mut(4 * table.sample.len());
                for (stored, hash) in sample.as_chunks_mut::<4>().0.iter_mut().zip(&table.sample) {
                    *stored = hash.to_le_bytes();
                }
                let (key_min, rest) = keys.split_at_mut(table.key_min.len());
                let (key_max, padding) = rest.split_at_mut(table.key_max.len());
                key_min.copy_from_slice(&table.key_min);
                key_max.copy_from_slice(&table.key_max);
                padding.fill(0);
            }
        }
        end
    }

    fn parse(bytes: &[u8]) -> Option<(Record, &[u8])> {
        match *bytes.first()? {
            KIND_REMOVE => {
                let (record, rest) = bytes.split_first_chunk::<REMOVE_SIZE>()?;
                let address = record.last_chunk::<8>()?;
                let address = BlockAddress::new(u64::from_le_bytes(*address))?;
                Some((Record::Remove { tree: TreeId(record[1]), address }, rest))
            }
            KIND_INSERT => {
                let (raw, rest) = RawInsert::ref_from_prefix(bytes).ok()?;
                let lens = [raw.key_min_len.get() as usize, raw.key_max_len.get() as usize];
                let sample_len = (raw.sample_count.get() as usize).checked_mul(4)?;
                let behind = (sample_len.checked_add(lens[0] + lens[1])?).next_multiple_of(8);
                let (behind, rest) = rest.split_at_checked(behind)?;
                let (sample, keys) = behind.split_at(sample_len);
                let sample = sample.as_chunks::<4>().0.iter().map(|hash| u32::from_le_bytes(*hash));
                let mut table = raw.table(&keys[..lens[0]], &keys[lens[0]..lens[0] + lens[1]])?;
                table.sample = sample.collect();
                let level = Level(raw.level);
                Some((Record::Insert { level, table: Rc::new(table) }, rest))
            }
            _ => None,
        }
    }
}

impl RawInsert {
    fn table(&self, key_min: &[u8], key_max: &[u8]) -> Option<TableInfo> {
        let address = BlockAddress::new(self.address.get())?;
        let checksum = Checksum(self.checksum.get());
        let in_bounds = key_min <= key_max
            && self.size.get() as usize >= HEADER_SIZE
            && (self.level as usize) < crate::config::LEVELS_MAX
            && self.tombstones.get() <= self.entries.get()
            && self.entries.get() <= COUNT_MAX
            && self.value_bytes.get() <= COUNT_MAX;
        in_bounds.then(|| TableInfo {
            tree: TreeId(self.tree),
            index: BlockReference { address, size: self.size.get(), checksum },
            key_min: key_min.into(),
            key_max: key_max.into(),
            version_min: self.version_min.get(),
            version_max: self.version_max.get(),
            op: self.op.get(),
            run: self.run.get(),
            entries: self.entries.get(),
            tombstones: self.tombstones.get(),
            value_bytes: self.value_bytes.get(),
            value_blocks: self.value_blocks.get(),
            overflow_blocks: self.overflow_blocks.get(),
            sample: Box::default(),
        })
    }
}

pub(super) fn encode_predecessor(
    block: &mut [u8],
    start: usize,
    reference: &BlockReference,
) -> usize {
    let end = start + PREDECESSOR_SIZE;
    let out = &mut block[start..end];
    out[0..8].copy_from_slice(&reference.address.get().to_le_bytes());
    out[8..24].copy_from_slice(&reference.checksum.0.to_le_bytes());
    out[24..28].copy_from_slice(&reference.size.to_le_bytes());
    end
}

/// Predecessors and records of a manifest block, as counts.
fn counts(block: &Block) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h, ..] = block.header().metadata;
    let count = |bytes| u32::from_le_bytes(bytes) as usize;
    (count([a, b, c, d]), count([e, f, g, h]))
}

/// The blocks before a manifest block, newest first, as far as it names them.
pub fn predecessors(block: &Block) -> Result<VecDeque<BlockReference>, BlockFault> {
    let (count, _) = counts(block);
    let (stored, _) = block.body().as_chunks::<PREDECESSOR_SIZE>();
    let stored = stored.get(..count).ok_or(malformed("predecessors do not fit the block"))?;
    let parse = |bytes: &[u8; PREDECESSOR_SIZE]| {
        let address = u64::from_le_bytes(*bytes.first_chunk()?);
        let address = BlockAddress::new(address)?;
        let checksum = Checksum(u128::from_le_bytes(*bytes[8..].first_chunk()?));
        let size = u32::from_le_bytes(*bytes.last_chunk()?);
        (size as usize >= HEADER_SIZE).then_some(BlockReference { address, size, checksum })
    };
    let parsed: Option<VecDeque<_>> = stored.iter().map(parse).collect();
    parsed.ok_or(malformed("a predecessor is no block"))
}

/// The records of a manifest block, oldest first.
pub fn records(block: &Block) -> Result<Vec<Record>, BlockFault> {
    let (skip, count) = counts(block);
    let start = skip.saturating_mul(PREDECESSOR_SIZE);
    let rest = block.body().get(start..);
    let mut rest = rest.ok_or(malformed("predecessors do not fit the block"))?;
    let mut records = Vec::new();
    for _ in 0..count {
        let parsed =
            Record::parse(rest).ok_or(malformed("a record is none this release writes"))?;
        records.push(parsed.0);
        rest = parsed.1;
    }
    if rest.is_empty() { Ok(records) } else { Err(malformed("bytes behind the last record")) }
}
