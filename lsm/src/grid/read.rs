//! Reading pages, index blocks, whole blocks and large values.

use std::path::PathBuf;

use ioring::sync::Slot;
use ioring::{Buffer, Frozen};
use thiserror::Error;

use super::{Class, Grid, IndexHandle, Original, PageHandle};
use crate::block::{
    self, Block, BlockAddress, BlockFault, BlockReference, BlockType, HEADER_SIZE, Header,
};
use crate::cache::{FrameClass, Key};
use crate::config::SECTOR_SIZE;
use crate::index::{Index, PageReference};
use crate::overflow::OverflowReference;
use crate::page::{self, Page, PageFault};
use crate::table::TableInfo;

/// A block that cannot be read or is not what it should be.
#[derive(Debug, Error)]
#[error(
    "corrupt block {address} of shard {shard} ({path}, offset {offset}): {fault}",
    path = path.display()
)]
pub struct CorruptBlock {
    /// The grid file.
    pub path: PathBuf,
    /// The shard.
    pub shard: u16,
    /// The block.
    pub address: BlockAddress,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What was expected and what was found.
    pub fault: BlockFault,
    /// What should stand there; none if a copy would not help.
    pub(crate) wanted: Option<Original>,
}

/// Why a read gave nothing.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The block is damaged, on two attempts.
    #[error(transparent)]
    Corrupt(Box<CorruptBlock>),
}

pub(super) fn page_key(reference: &PageReference) -> Key {
    let PageReference { block, offset, checksum, .. } = *reference;
    Key { address: block.address.get(), offset, checksum }
}

pub(super) fn index_key(reference: &BlockReference) -> Key {
    let address = reference.address.get();
    Key { address, offset: u32::MAX, checksum: reference.checksum.0 as u64 }
}

/// First byte and length, within the block, of the sectors that hold a page.
pub(super) fn span(reference: &PageReference) -> (usize, usize) {
    let start = reference.offset as usize / SECTOR_SIZE * SECTOR_SIZE;
    let end = reference.offset as usize + reference.stored_len as usize;
    (start, end.next_multiple_of(SECTOR_SIZE) - start)
}

/// Bytes of the frame in which a page is kept: the sectors as read, or the page unpacked.
pub(super) fn frame_len(reference: &PageReference) -> usize {
    if is_packed(reference) { reference.raw_len as usize } else { span(reference).1 }
}

fn is_packed(reference: &PageReference) -> bool {
    reference.stored_len != reference.raw_len
}

/// Takes an item off the list of those being read, however the read ends.
struct InFlight<'g> {
    grid: &'g Grid,
    key: Key,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.grid.in_flight.borrow_mut().retain(|key| *key != self.key);
        self.grid.read_done.notify();
    }
}

impl Grid {
    /// Reads a page, or finds it in the cache.
    pub async fn read_page(
        &self,
        reference: &PageReference,
        class: Class,
    ) -> Result<PageHandle, ReadError> {
        loop {
            if let Some(page) = self.cached_page(reference) {
                return Ok(page);
            }
            let Some(in_flight) = self.begin(page_key(reference)) else {
                self.read_done.wait().await;
                continue;
            };
            let bytes = match self.load_page(reference, class).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    drop(in_flight);
                    self.mend(error, class).await?;
                    continue;
                }
            };
            if class == Class::Foreground {
                let mut cache = self.cache.borrow_mut();
                let frame = cache.class_of_page(frame_len(reference));
                cache.insert(frame, page_key(reference), bytes.clone());
            }
            return Ok(PageHandle { bytes });
        }
    }

    /// Reads a table's index, or finds it in the cache. It enters the cache whoever asks: merges
    /// of the table's neighbours and requests will ask again.
    pub async fn read_index(
        &self,
        table: &TableInfo,
        class: Class,
    ) -> Result<IndexHandle, ReadError> {
        loop {
            if let Some(index) = self.cached_index(&table.index) {
                return Ok(index);
            }
            let Some(in_flight) = self.begin(index_key(&table.index)) else {
                self.read_done.wait().await;
                continue;
            };
            let bytes = match self.load_index(&table.index, class).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    drop(in_flight);
                    self.mend(error, class).await?;
                    continue;
                }
            };
            let key = index_key(&table.index);
            self.cache.borrow_mut().insert(FrameClass::Extent, key, bytes.clone());
            return Ok(IndexHandle { bytes });
        }
    }

    /// Puts a table's index that was just built into the cache: no read follows a flush.
    pub fn keep_index(&self, table: &TableInfo, image: &Frozen) {
        let size = table.index.size as usize;
        let frame = self.cache.borrow_mut().try_frame(FrameClass::Extent, size);
        let Some(mut frame) = frame else { return };
        frame.set_len(size);
        frame.copy_from_slice(&image[..size]);
        let key = index_key(&table.index);
        self.cache.borrow_mut().insert(FrameClass::Extent, key, frame.freeze());
    }

    /// Forgets the index of a table that is gone.
    pub(crate) fn forget_index(&self, table: &TableInfo) {
        self.cache.borrow_mut().remove(&index_key(&table.index));
    }

    /// Reads a whole block, past the cache.
    pub async fn read_block(
        &self,
        reference: &BlockReference,
        block_type: BlockType,
        class: Class,
    ) -> Result<Block, ReadError> {
        loop {
            match self.load_block(reference, block_type, class).await {
                Ok(block) => return Ok(block),
                Err(error) => self.mend(error, class).await?,
            }
        }
    }

    async fn load_block(
        &self,
        reference: &BlockReference,
        block_type: BlockType,
        class: Class,
    ) -> Result<Block, ReadError> {
        self.check_condemned(reference.address)?;
        let slot = self.slot(class).await;
        let mut buffer = match class {
            Class::Foreground => self.blocks_foreground.take().await,
            Class::Background => self.blocks.take().await,
        };
        let (address, identity) = (reference.address, self.owner.identity);
        for attempt in 0.. {
            let size = (reference.size as usize).next_multiple_of(SECTOR_SIZE);
            buffer.set_len(size.min(self.config.block_size as usize));
            let fault;
            (fault, buffer) = self.fill(&slot, buffer, address, 0).await;
            let fault = match fault {
                Some(fault) => fault,
                None => match block::verify(&buffer, identity, reference, block_type) {
                    Ok(header) => return Ok(Block::verified(header, buffer.freeze())),
                    Err(fault) => fault,
                },
            };
            if attempt > 0 {
                let wanted = Original { reference: *reference, block_type };
                return Err(self.corrupt_block(wanted, fault));
            }
            self.count(|stats| stats.retries += 1);
        }
        unreachable!("the second attempt returns")
    }

    /// Reads and verifies whatever block stands at an address: for inspection.
    pub async fn inspect_block(&self, address: BlockAddress) -> Result<Block, ReadError> {
        let slot = self.slot(Class::Background).await;
        let mut buffer = self.blocks.take().await;
        buffer.set_len(self.config.block_size as usize);
        let (fault, buffer) = self.fill(&slot, buffer, address, 0).await;
        let offset = address.offset(self.config.block_size);
        if let Some(fault) = fault {
            return Err(self.corrupt(address, offset, fault, None));
        }
        let header: Header = block::verify_any(&buffer, self.owner.identity, address.get())
            .map_err(|fault| self.corrupt(address, offset, fault, None))?;
        Ok(Block::verified(header, buffer.freeze()))
    }

    /// Appends a large value to `out`, reading its blocks side by side. Each block goes as soon as
    /// its piece is copied: a value may have more blocks than there are buffers, and readers that
    /// kept some while they wait for the rest would wait for each other.
    pub async fn read_overflow(
        &self,
        reference: &OverflowReference<'_>,
        class: Class,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let Some(blocks) = reference.references(&self.config) else {
            let what = "a large value's list of blocks does not fit its length";
            let fault = BlockFault::Malformed { block_type: BlockType::Overflow, what };
            let address = reference.blocks().next().map(|(address, _)| address);
            let address = address.expect("a list has at least one block");
            return Err(self.malformed(address, fault));
        };
        let start = out.len();
        out.resize(start + reference.value_len() as usize, 0);
        let pieces = out[start..].chunks_mut(self.config.block_body_size());
        let reads = blocks.zip(pieces).map(async |(reference, piece)| {
            let block = self.read_block(&reference, BlockType::Overflow, class).await?;
            piece.copy_from_slice(block.body());
            Ok(())
        });
        ioring::join_all(reads).await.into_iter().collect()
    }

    /// Notes that an item is being read; none if it is already.
    fn begin(&self, key: Key) -> Option<InFlight<'_>> {
        let mut in_flight = self.in_flight.borrow_mut();
        if in_flight.contains(&key) {
            return None;
        }
        in_flight.push(key);
        Some(InFlight { grid: self, key })
    }

    pub(super) async fn slot(&self, class: Class) -> Slot {
        match class {
            Class::Foreground => self.slots_foreground.acquire().await,
            Class::Background => self.slots_background.acquire().await,
        }
    }

    /// A frame; memory of its own where readers hold what it would take. Waiting for them
    /// could be waiting for a walk that holds one page and wants the next.
    pub(super) fn frame(&self, class: FrameClass, len: usize) -> Buffer {
        let frame = self.cache.borrow_mut().try_frame(class, len);
        frame.unwrap_or_else(|| Buffer::zeroed(len))
    }

    async fn load_page(&self, page: &PageReference, class: Class) -> Result<Frozen, ReadError> {
        let slot = self.slot(class).await;
        let (start, len) = span(page);
        let frame = self.cache.borrow().class_of_page(len);
        let mut buffer = self.frame(frame, len);
        let offset = page.block.address.offset(self.config.block_size) + start as u64;
        if self.is_condemned(offset) {
            return Err(self.corrupt(page.block.address, offset, BlockFault::Condemned, None));
        }
        for attempt in 0.. {
            buffer.set_len(len);
            let fault;
            (fault, buffer) = self.fill(&slot, buffer, page.block.address, start as u64).await;
            let fault = match fault {
                Some(fault) => fault,
                None => {
                    let within = page.offset as usize - start;
                    match self.verify_page(page, &buffer[within..]) {
                        Ok(None) => {
                            let end = within + page.stored_len as usize;
                            return Ok(buffer.freeze().slice(within..end));
                        }
                        Ok(Some(stored)) => match self.unpack(page, &buffer[within..], &stored) {
                            Ok(bytes) => return Ok(bytes),
                            Err(fault) => fault,
                        },
                        Err(fault) => fault,
                    }
                }
            };
            if attempt > 0 {
                let (reference, block_type) = (page.block, BlockType::Value);
                let wanted = Some(Original { reference, block_type });
                return Err(self.corrupt(page.block.address, offset, fault, wanted));
            }
            self.count(|stats| stats.retries += 1);
        }
        unreachable!("the second attempt returns")
    }

    /// Checks a page as stored against its reference; gives how it is packed, if it is.
    pub(super) fn verify_page(
        &self,
        page: &PageReference,
        bytes: &[u8],
    ) -> Result<Option<page::Stored>, BlockFault> {
        let bytes = &bytes[..bytes.len().min(page.stored_len as usize)];
        let stored = page::verify_stored(bytes).map_err(|fault| page_fault(page, &fault))?;
        if stored.checksum != page.checksum {
            let (offset, expected, actual) = (page.offset, page.checksum, stored.checksum);
            return Err(BlockFault::PageChecksum { offset, expected, actual });
        }
        let lens = (stored.stored_len, stored.raw_len);
        if lens != (page.stored_len as usize, page.raw_len as usize) {
            let what = "a page's lengths differ from its index";
            return Err(BlockFault::Malformed { block_type: BlockType::Value, what });
        }
        if is_packed(page) {
            return Ok(Some(stored));
        }
        Page::parse(bytes).map_err(|fault| page_fault(page, &fault))?;
        Ok(None)
    }

    pub(super) fn unpack(
        &self,
        page: &PageReference,
        bytes: &[u8],
        stored: &page::Stored,
    ) -> Result<Frozen, BlockFault> {
        let frame = self.cache.borrow().class_of_page(stored.raw_len);
        let mut raw = self.frame(frame, stored.raw_len);
        raw.set_len(stored.raw_len);
        page::unpack(bytes, stored, &mut raw).map_err(|fault| page_fault(page, &fault))?;
        Page::parse(&raw).map_err(|fault| page_fault(page, &fault))?;
        Ok(raw.freeze())
    }

    async fn load_index(
        &self,
        reference: &BlockReference,
        class: Class,
    ) -> Result<Frozen, ReadError> {
        self.check_condemned(reference.address)?;
        let slot = self.slot(class).await;
        let size = (reference.size as usize).next_multiple_of(SECTOR_SIZE);
        let size = size.min(self.config.block_size as usize);
        let mut buffer = self.frame(FrameClass::Extent, size);
        let (address, identity) = (reference.address, self.owner.identity);
        for attempt in 0.. {
            buffer.set_len(size);
            let fault;
            (fault, buffer) = self.fill(&slot, buffer, address, 0).await;
            let fault = match fault {
                Some(fault) => fault,
                None => {
                    let verified = block::verify(&buffer, identity, reference, BlockType::Index);
                    let block = &buffer[..(reference.size as usize).min(buffer.len())];
                    match verified.and_then(|_| Index::verify(block)) {
                        Ok(_) => return Ok(buffer.freeze().slice(..reference.size as usize)),
                        Err(fault) => fault,
                    }
                }
            };
            if attempt > 0 {
                let block_type = BlockType::Index;
                return Err(
                    self.corrupt_block(Original { reference: *reference, block_type }, fault)
                );
            }
            self.count(|stats| stats.retries += 1);
        }
        unreachable!("the second attempt returns")
    }

    fn check_condemned(&self, address: BlockAddress) -> Result<(), ReadError> {
        if self.is_condemned_in(address) {
            return Err(self.malformed(address, BlockFault::Condemned));
        }
        Ok(())
    }

    /// Fills a buffer from a block, from `start` on; a device error is a fault.
    pub(super) async fn fill(
        &self,
        _slot: &Slot,
        buffer: Buffer,
        address: BlockAddress,
        start: u64,
    ) -> (Option<BlockFault>, Buffer) {
        let len = buffer.len() as u64;
        let offset = address.offset(self.config.block_size) + start;
        let (result, buffer) = self.file.read(buffer, offset).await;
        self.count(|stats| {
            stats.reads += 1;
            stats.read_bytes += len;
        });
        (result.err().map(|error| BlockFault::Device(error.kind())), buffer)
    }
}

fn page_fault(page: &PageReference, fault: &PageFault) -> BlockFault {
    match *fault {
        PageFault::Checksum { expected: _, actual } => {
            let (offset, expected) = (page.offset, page.checksum);
            BlockFault::PageChecksum { offset, expected, actual }
        }
        PageFault::Short { expected, actual } => {
            let expected = HEADER_SIZE.max(expected);
            BlockFault::Short { expected, actual }
        }
        PageFault::Codec(_) => malformed("a page does not decompress"),
        PageFault::Counts { .. } => malformed("a page's counts do not fit its length"),
        PageFault::Entry(_) | PageFault::Order(_) => malformed("a page has a malformed entry"),
    }
}

fn malformed(what: &'static str) -> BlockFault {
    BlockFault::Malformed { block_type: BlockType::Value, what }
}
