//! Walking the entries of a value block, page by page: what merges and inspection read with.

use crate::block::{Block, BlockFault, BlockType};
use crate::config::Compression;
use crate::entry::{EntryRef, Position};
use crate::page::{self, Cursor, Page, PageFault};

fn malformed(what: &'static str) -> BlockFault {
    BlockFault::Malformed { block_type: BlockType::Value, what }
}

fn page_fault(fault: PageFault) -> BlockFault {
    match fault {
        PageFault::Entry(_) => malformed("a page has a malformed entry"),
        PageFault::Order(_) => malformed("entries of a page are out of order"),
        PageFault::Codec(_) => malformed("a page does not decompress"),
        PageFault::Short { .. } => malformed("a page is shorter than its header says"),
        PageFault::Counts { .. } => malformed("a page's counts do not fit its length"),
        PageFault::Checksum { .. } => malformed("a page's checksum is wrong in an intact block"),
    }
}

/// The pages of a value block, as stored, in order.
pub fn pages(block: &Block) -> Result<impl ExactSizeIterator<Item = &[u8]>, BlockFault> {
    let bytes = block.bytes();
    let directory = directory(block)?;
    for record in directory {
        if u32::from_le_bytes(*record) as usize > bytes.len() {
            return Err(malformed("a page begins behind the block"));
        }
    }
    Ok(directory.iter().map(move |record| &bytes[u32::from_le_bytes(*record) as usize..]))
}

fn directory(block: &Block) -> Result<&[[u8; 4]], BlockFault> {
    let metadata = &block.header().metadata;
    let [a, b, c, d, e, f, g, h, ..] = *metadata;
    let count = u32::from_le_bytes([a, b, c, d]) as usize;
    let start = u32::from_le_bytes([e, f, g, h]) as usize;
    let records = block.bytes().get(start..).and_then(|tail| tail.as_chunks::<4>().0.get(..count));
    match records {
        Some(records) if count > 0 => Ok(records),
        _ => Err(malformed("the directory of pages does not fit the block")),
    }
}

/// A place in a value block. Owns the block's memory and its own scratch, so it can be held across
/// awaits and reused for the next block.
#[derive(Debug)]
pub struct BlockCursor {
    block: Block,
    page_count: usize,
    /// Number of the next page.
    page_next: usize,
    /// The current page: a range of the block, or the scratch if it was compressed.
    page: Option<std::ops::Range<usize>>,
    scratch: Vec<u8>,
    cursor: Cursor,
}

impl BlockCursor {
    /// A cursor before the first entry of a verified value block.
    pub fn new(block: Block) -> Result<BlockCursor, BlockFault> {
        let page_count = directory(&block)?.len();
        let (scratch, cursor) = (Vec::new(), Cursor::new());
        Ok(BlockCursor { block, page_count, page_next: 0, page: None, scratch, cursor })
    }

    /// Goes on with another block, before its first entry, reusing memory.
    pub fn reset(&mut self, block: Block) -> Result<(), BlockFault> {
        self.page_count = directory(&block)?.len();
        self.block = block;
        self.page_next = 0;
        self.page = None;
        self.scratch.clear();
        Ok(())
    }

    /// The block walked.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Goes to the next entry; false behind the last.
    #[expect(clippy::should_implement_trait, reason = "entries borrow from the cursor")]
    pub fn next(&mut self) -> Result<bool, BlockFault> {
        if self.page_next > 0 {
            let page = view(&self.block, &self.page, &self.scratch).map_err(page_fault)?;
            if self.cursor.next(&page).map_err(page_fault)? {
                return Ok(true);
            }
        }
        if self.page_next == self.page_count {
            return Ok(false);
        }
        self.load(self.page_next)?;
        let page = view(&self.block, &self.page, &self.scratch).map_err(page_fault)?;
        self.cursor.first(&page).map_err(page_fault)
    }

    /// Goes forward to the first entry at or behind a position; false if there is none.
    pub fn seek(&mut self, target: &Position<'_>) -> Result<bool, BlockFault> {
        let mut present = self.next()?;
        while present && self.cursor.position() < *target {
            present = self.next()?;
        }
        Ok(present)
    }

    /// The entry the cursor stands on: valid after `next` or `seek` gave true.
    #[must_use]
    pub fn entry(&self) -> EntryRef<'_> {
        let page = view(&self.block, &self.page, &self.scratch);
        self.cursor.entry(&page.expect("the cursor stands on an entry of this page"))
    }

    /// The position the cursor stands on: valid after `next` or `seek` gave true.
    #[inline]
    #[must_use]
    pub fn position(&self) -> Position<'_> {
        self.cursor.position()
    }

    fn load(&mut self, page: usize) -> Result<(), BlockFault> {
        let offset = u32::from_le_bytes(directory(&self.block)?[page]) as usize;
        let bytes = self.block.bytes().get(offset..);
        let bytes = bytes.ok_or(malformed("a page begins behind the block"))?;
        let stored = page::parse_stored(bytes).map_err(page_fault)?;
        self.page = match stored.compression {
            Compression::None => Some(offset..offset + stored.stored_len),
            Compression::Lz4 | Compression::Zstd => {
                if stored.raw_len > 1 << 20 {
                    return Err(malformed("a page is longer than any block"));
                }
                self.scratch.resize(stored.raw_len, 0);
                page::unpack(bytes, &stored, &mut self.scratch).map_err(page_fault)?;
                None
            }
        };
        self.page_next = page + 1;
        Ok(())
    }
}

fn view<'a>(
    block: &'a Block,
    page: &Option<std::ops::Range<usize>>,
    scratch: &'a [u8],
) -> Result<Page<'a>, PageFault> {
    match page {
        Some(range) => Page::parse(&block.bytes()[range.clone()]),
        None => Page::parse(scratch),
    }
}
