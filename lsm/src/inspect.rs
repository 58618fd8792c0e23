//! What an operator may want to see of a grid, as plain data.
//!
//! Reading a damaged directory is what inspection is for: every function here takes blocks as they
//! are and gives what can be said about them, or a fault by name. Nothing is written, and nothing
//! here is on a data path: these structures own their bytes.

use crate::block::{
    Block, BlockAddress, BlockFault, BlockReference, BlockType, Checksum, Header, METADATA_SIZE,
};
use crate::checkpoint::RootView;
use crate::config::Compression;
use crate::entry::{Level, Payload, TreeId};
use crate::free_set::Space;
use crate::grid::{Grid, GridStats, Owner};
use crate::index::Index;
use crate::manifest_log::{self, Record};
use crate::page::{self, PAGE_HEADER_SIZE, Page};
use crate::table::{self, BlockCursor, TableInfo};

/// A grid at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridView {
    /// Whose file it is.
    pub owner: Owner,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks the file has space for, header included.
    pub blocks_allocated: u64,
    /// Blocks in each state.
    pub space: Space,
    /// What was done since it was opened.
    pub stats: GridStats,
}

impl GridView {
    /// Looks at a grid.
    #[must_use]
    pub fn of(grid: &Grid) -> GridView {
        GridView {
            owner: grid.owner(),
            block_size: grid.config().block_size,
            blocks_allocated: grid.blocks_allocated(),
            space: grid.space(),
            stats: grid.stats(),
        }
    }
}

/// A block taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockView {
    /// Where it stands.
    pub address: BlockAddress,
    /// Its checksum.
    pub checksum: Checksum,
    /// Its tree, or zero.
    pub tree: TreeId,
    /// The op that created it.
    pub op: u64,
    /// Bytes of header and body.
    pub size: u32,
    /// What it holds.
    pub contents: Contents,
}

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Pages of entries.
    Value {
        /// Level it was written for.
        level: Level,
        /// Its pages.
        pages: Vec<PageView>,
    },
    /// A table's index.
    Index {
        /// What the manifest keeps of the table.
        table: TableInfo,
        /// Its value blocks.
        blocks: Vec<BlockReference>,
        /// Number of its pages.
        pages: usize,
        /// Bytes of all filters.
        filter_bytes: usize,
    },
    /// A piece of a large value.
    Overflow {
        /// Number of the piece.
        number: u32,
        /// Length of the whole value.
        value_len: u32,
    },
    /// Records of the manifest log.
    Manifest {
        /// Blocks before it.
        predecessors: Vec<BlockReference>,
        /// Its records, oldest first.
        records: Vec<Record>,
    },
    /// The root of a checkpoint.
    Checkpoint(RootView),
    /// A type whose contents others describe.
    Other(BlockType),
}

/// A page of a value block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageView {
    /// Bytes as stored.
    pub stored_len: usize,
    /// Bytes after decompression.
    pub raw_len: usize,
    /// How it is stored.
    pub compression: Compression,
    /// Entries in it.
    pub entries: usize,
    /// Whether its own checksum is right.
    pub checksum_matches: bool,
}

/// An entry, owning its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryView {
    /// Encoded key; see [`crate::key::decode`].
    pub key: Vec<u8>,
    /// Version.
    pub version: u64,
    /// Deadline, zero for none.
    pub deadline: u64,
    /// What it says.
    pub value: ValueView,
}

/// The payload of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueView {
    /// Deleted.
    Tombstone,
    /// The value.
    Inline(Vec<u8>),
    /// A large value: its length and blocks.
    Overflow {
        /// Bytes of the value.
        value_len: u32,
        /// Its blocks.
        blocks: Vec<BlockAddress>,
    },
}

/// Takes a block apart.
pub fn block(block: &Block) -> Result<BlockView, BlockFault> {
    let Header { address, checksum, tree, op, size, block_type, .. } = *block.header();
    let contents = contents(block, block_type)?;
    Ok(BlockView { address, checksum, tree, op, size, contents })
}

fn contents(block: &Block, block_type: BlockType) -> Result<Contents, BlockFault> {
    let metadata: &[u8; METADATA_SIZE] = &block.header().metadata;
    let [a, b, c, d, e, f, g, h, level, ..] = *metadata;
    Ok(match block_type {
        BlockType::Value => {
            let pages = table::pages(block)?.map(page_view).collect::<Option<_>>();
            let what = "a page's header makes no sense";
            let pages = pages.ok_or(BlockFault::Malformed { block_type, what })?;
            Contents::Value { level: Level(level), pages }
        }
        BlockType::Index => {
            let index = Index::verify(block.bytes())?;
            Contents::Index {
                table: index.info(block.header()),
                blocks: (0..index.block_count()).map(|i| index.block(i).reference).collect(),
                pages: index.page_count(),
                filter_bytes: index.filter_bytes(),
            }
        }
        BlockType::Overflow => Contents::Overflow {
            number: u32::from_le_bytes([a, b, c, d]),
            value_len: u32::from_le_bytes([e, f, g, h]),
        },
        BlockType::Manifest => Contents::Manifest {
            predecessors: manifest_log::predecessors(block)?.into(),
            records: manifest_log::records(block)?,
        },
        BlockType::Checkpoint => {
            let what = "its references do not fit it";
            let root = RootView::parse(block);
            Contents::Checkpoint(root.ok_or(BlockFault::Malformed { block_type, what })?)
        }
        other => Contents::Other(other),
    })
}

fn page_view(bytes: &[u8]) -> Option<PageView> {
    let stored = page::parse_stored(bytes).ok()?;
    let mut header = [0; PAGE_HEADER_SIZE];
    header.copy_from_slice(&bytes[..PAGE_HEADER_SIZE]);
    let [.., a, b, c, d] = header[..20] else { return None };
    Some(PageView {
        stored_len: stored.stored_len,
        raw_len: stored.raw_len,
        compression: stored.compression,
        entries: u32::from_le_bytes([a, b, c, d]) as usize,
        checksum_matches: page::verify_stored(bytes).is_ok(),
    })
}

/// The entries of a value block, in order, until `take` gives false.
pub fn entries(block: &Block, mut take: impl FnMut(EntryView) -> bool) -> Result<(), BlockFault> {
    let mut cursor = BlockCursor::new(block.clone())?;
    while cursor.next()? {
        let entry = cursor.entry();
        let value = match entry.payload {
            Payload::Tombstone => ValueView::Tombstone,
            Payload::Inline(value) => ValueView::Inline(value.to_vec()),
            Payload::Overflow(reference) => ValueView::Overflow {
                value_len: reference.value_len(),
                blocks: reference.blocks().map(|(address, _)| address).collect(),
            },
        };
        let (version, deadline) = (entry.version, entry.deadline);
        if !take(EntryView { key: entry.key.to_vec(), version, deadline, value }) {
            return Ok(());
        }
    }
    Ok(())
}

/// Checks everything inside an intact value block that its checksums do not: every page parses,
/// and all entries are in order.
pub fn check_value_block(block: &Block) -> Result<u64, BlockFault> {
    let malformed = |what| BlockFault::Malformed { block_type: BlockType::Value, what };
    for bytes in table::pages(block)? {
        let stored = page::verify_stored(bytes);
        let stored = stored.map_err(|_| malformed("a page's checksum or lengths are wrong"))?;
        if stored.raw_len > 1 << 20 {
            return Err(malformed("a page is longer than any block"));
        }
        let mut raw = vec![0; stored.raw_len];
        let unpacked = page::unpack(bytes, &stored, &mut raw);
        unpacked.map_err(|_| malformed("a page does not decompress"))?;
        let valid = Page::parse(&raw).and_then(|page| page.validate());
        valid.map_err(|_| malformed("a page's entries make no sense"))?;
    }
    let mut last: Option<(Vec<u8>, u64)> = None;
    let mut count = 0;
    let mut in_order = true;
    entries(block, |entry| {
        in_order = last.as_ref().is_none_or(|(key, version)| {
            (key, std::cmp::Reverse(*version)) < (&entry.key, std::cmp::Reverse(entry.version))
        });
        last = Some((entry.key, entry.version));
        count += 1;
        in_order
    })?;
    if in_order { Ok(count) } else { Err(malformed("entries of two pages are out of order")) }
}
