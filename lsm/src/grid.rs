//! The grid: a shard's file of blocks, and the way to every one of them.
//!
//! ```text
//! shard-NNNN.grid:  header block │ block 1 │ block 2 │ …      block A begins at A × block size
//! ```
//!
//! **Reading.** A point read needs one page: [`Grid::try_page`] looks in the cache and nowhere
//! else, [`Grid::read_page`] reads the sectors that hold the page straight into a cache frame.
//! Whole blocks ([`Grid::read_block`]) go through pools of their own, one for merges and
//! checkpoints and a small one for requests, and leave the cache alone: a merge that holds buffers
//! delays no request. Concurrency is bounded by slots, one set for requests and one for background
//! work; who finds the page it wants already being read waits for that read.
//!
//! Everything read is verified against the reference that led to it: checksum, address, cluster and
//! shard. A read that fails or does not verify is tried once more, then reported as
//! [`CorruptBlock`], naming file, address, offset and what was expected. It never panics and never
//! gives wrong data. Where others have copies, the block is written anew from one ([`copies`]).
//!
//! **Writing.** A block is written once, to an address that the free set handed out, and is durable
//! only after [`Grid::sync`]. Until then nothing durable refers to it: a checkpoint syncs every
//! grid before the superblock names the checkpoint. If a write or a sync fails the process ends:
//! what the disk holds is unknown, and no retry can make it true.
//!
//! **Growing.** The file grows by extents, before a write needs the space ([`growth`]). A crash
//! during growth leaves a longer file, whose length means nothing: what is in use stands in the
//! free set.
//!
//! **Space.** The grid owns the free set; [`Grid::space`] is what `no_space` is decided from.
//!
//! All methods take `&self`, and no borrow lives across an await. What is read is handed out as
//! counted handles that stay valid whatever happens to the block.

mod condemned;
mod copies;
mod file;
mod growth;
mod read;
mod scrub;
mod stretch;

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use ioring::sync::{Event, Slots};
use ioring::{Buffer, BufferPool, Fatal, File, Frozen};

pub use condemned::CONDEMNED_MAX;
use copies::Repairs;
pub use copies::{Copies, Fetch};
pub(crate) use copies::{Original, REPAIR_PATIENCE, Repair, copy_helps};
pub use file::{OpenError, Owner};
use growth::Growth;
pub use read::{CorruptBlock, ReadError};
pub(crate) use stretch::Stretch;

use crate::block::{BlockAddress, BlockFault, BlockReference, Identity};
use crate::cache::{Cache, CacheStats, FrameClass, Key};
use crate::config::Config;
use crate::free_set::{FreeSet, Reservation, Snapshot, Space};
use crate::index::{Index, PageReference};
use crate::page::Page;
use crate::table::{BlockImage, TableInfo};

/// Block buffers beyond those that reads and writes in flight hold: for builders and cursors. A
/// merge holds two blocks of each of its inputs: of the runs it takes, and of the last level.
const BUFFERS_SPARE: usize = 2 * (crate::compaction::plan::GROUP_RUNS_MAX + 1) + 8;
/// Block buffers for requests at most: pieces of large values being copied out.
const BUFFERS_FOREGROUND_MAX: usize = 16;

/// Whose read it is: decides which slots it takes and whether it fills the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A request waits for it.
    Foreground,
    /// Merges, checkpoints, scrubbing: the cache is asked but not filled.
    Background,
}

/// What a grid has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridStats {
    /// Hits and misses of the cache.
    pub cache: CacheStats,
    /// Reads of pages and blocks.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Reads tried a second time.
    pub retries: u64,
    /// Reads that failed for good, or until the block was written anew from a copy.
    pub corrupt: u64,
    /// Blocks written anew from a copy.
    pub repaired: u64,
    /// Blocks written.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

/// A page in memory, ready to be searched.
#[derive(Clone, Debug)]
pub struct PageHandle {
    bytes: Frozen,
}

impl PageHandle {
    /// The page.
    #[inline]
    #[must_use]
    pub fn page(&self) -> Page<'_> {
        Page::parse(&self.bytes).expect("parsed once when it was read")
    }
}

/// An index block in memory.
#[derive(Clone, Debug)]
pub struct IndexHandle {
    bytes: Frozen,
}

impl IndexHandle {
    /// The index.
    #[inline]
    #[must_use]
    pub fn index(&self) -> Index<'_> {
        Index::view(&self.bytes).expect("verified when it was read")
    }
}

/// See [`Grid::cached`].
pub(crate) struct Cached<'g> {
    cache: Ref<'g, Cache>,
}

impl Cached<'_> {
    /// A table's index, if it is in the cache. It is not counted: see [`Grid::note_index`].
    #[inline]
    pub(crate) fn index(&self, table: &TableInfo) -> Option<Index<'_>> {
        let bytes = self.index_bytes(&table.index)?;
        Some(Index::view(bytes).expect("verified when it was read"))
    }

    #[inline]
    fn index_bytes(&self, reference: &BlockReference) -> Option<&Frozen> {
        self.cache.get(FrameClass::Extent, &read::index_key(reference))
    }
}

/// A shard's blocks.
pub struct Grid {
    config: Config,
    owner: Owner,
    file: File,
    free_set: RefCell<FreeSet>,
    cache: RefCell<Cache>,
    /// Blocks the file has space for, header included.
    blocks_allocated: Cell<u64>,
    growth: Growth,
    slots_foreground: Slots,
    slots_background: Slots,
    slots_write: Slots,
    blocks: BufferPool,
    /// For requests: each is held for one read and the copy out of it, never while another is
    /// waited for.
    blocks_foreground: BufferPool,
    /// For scans: neighbouring pages that were read at once.
    stretches: BufferPool,
    /// Items being read for the cache.
    in_flight: RefCell<Vec<Key>>,
    read_done: Event,
    /// Offsets in the file that fail every read.
    condemned: RefCell<BTreeSet<u64>>,
    repairs: Repairs,
    stats: Cell<GridStats>,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grid({}, shard {})", self.file.path().display(), self.owner.identity.shard)
    }
}

impl Grid {
    fn new(config: &Config, owner: Owner, file: File, blocks_allocated: u64) -> Rc<Grid> {
        let (reads, writes) = (config.reads_background_max as usize, config.writes_max as usize);
        let block_size = config.block_size as usize;
        let foreground = (config.reads_foreground_max as usize).min(BUFFERS_FOREGROUND_MAX);
        Rc::new(Grid {
            config: config.clone(),
            owner,
            file,
            free_set: RefCell::new(FreeSet::new(
                config.grid_blocks_max,
                config.free_set_chunk_blocks,
            )),
            cache: RefCell::new(Cache::new(config)),
            blocks_allocated: Cell::new(blocks_allocated),
            growth: Growth::default(),
            slots_foreground: Slots::new(config.reads_foreground_max as usize),
            slots_background: Slots::new(reads),
            slots_write: Slots::new(writes),
            blocks: BufferPool::new("grid blocks", block_size, reads + writes + BUFFERS_SPARE),
            blocks_foreground: BufferPool::new("request blocks", block_size, foreground),
            stretches: stretch::pool(config),
            in_flight: RefCell::new(Vec::with_capacity(config.reads_foreground_max as usize)),
            read_done: Event::new(),
            condemned: RefCell::default(),
            repairs: Repairs::default(),
            stats: Cell::new(GridStats::default()),
        })
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which replica the file belongs to.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Blocks the file has space for, header included.
    #[must_use]
    pub fn blocks_allocated(&self) -> u64 {
        self.blocks_allocated.get()
    }

    /// Blocks up to the last one that was ever handed out, header included.
    #[must_use]
    pub fn blocks_needed(&self) -> u64 {
        self.free_set.borrow().address_max() + 1
    }

    /// Cluster and shard of its blocks.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.owner.identity
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether the file bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> GridStats {
        self.stats.get()
    }

    fn count(&self, update: impl FnOnce(&mut GridStats)) {
        let mut stats = self.stats.get();
        update(&mut stats);
        self.stats.set(stats);
    }

    /// A page, if it is in the cache.
    #[inline]
    #[must_use]
    pub fn try_page(&self, reference: &PageReference) -> Option<PageHandle> {
        let found = self.cached_page(reference);
        self.count(|GridStats { cache, .. }| {
            *(if found.is_some() { &mut cache.page_hits } else { &mut cache.page_misses }) += 1;
        });
        found
    }

    fn cached_page(&self, reference: &PageReference) -> Option<PageHandle> {
        let cache = self.cache.borrow();
        let class = cache.class_of_page(read::frame_len(reference));
        let bytes = cache.get(class, &read::page_key(reference))?.clone();
        Some(PageHandle { bytes })
    }

    /// A table's index, if it is in the cache.
    #[inline]
    #[must_use]
    pub fn try_index(&self, table: &TableInfo) -> Option<IndexHandle> {
        let found = self.cached_index(&table.index);
        self.note_index(found.is_some());
        found
    }

    fn cached_index(&self, reference: &BlockReference) -> Option<IndexHandle> {
        let bytes = self.cached().index_bytes(reference)?.clone();
        Some(IndexHandle { bytes })
    }

    /// The cache, to look at several indexes without a handle to each. While it is borrowed nothing
    /// can come in: not across an await.
    #[inline]
    pub(crate) fn cached(&self) -> Cached<'_> {
        Cached { cache: self.cache.borrow() }
    }

    /// Counts an index that a reader asked for, and whether it was there.
    #[inline]
    pub(crate) fn note_index(&self, found: bool) {
        self.count(|GridStats { cache, .. }| {
            *(if found { &mut cache.index_hits } else { &mut cache.index_misses }) += 1;
        });
    }

    /// A buffer of a whole block; waits until one is free.
    pub async fn buffer(&self) -> Buffer {
        self.blocks.take().await
    }

    /// A buffer of a whole block, if one is free.
    #[must_use]
    pub fn try_buffer(&self) -> Option<Buffer> {
        self.blocks.try_take()
    }

    /// Buffers of whole blocks that are free.
    pub(crate) fn buffers_free(&self) -> usize {
        self.blocks.available()
    }

    /// Writes a block to an address that was acquired for it. Durable after [`Grid::sync`].
    pub async fn write_block(&self, image: BlockImage) {
        let address = image.reference.address;
        assert!(self.free_set.borrow().is_live(address), "block {address} was not acquired");
        assert!(image.bytes.len() >= image.reference.size as usize);
        assert!(image.bytes.len() <= self.config.block_size as usize);
        self.wait_for_repair(address).await;
        let _slot = self.slots_write.acquire().await;
        self.grow(address.get() + 1).await;
        let offset = address.offset(self.config.block_size);
        let len = image.bytes.len() as u64;
        if let Err(error) = self.file.write(image.bytes, offset).await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset, error });
        }
        self.count(|stats| {
            stats.writes += 1;
            stats.write_bytes += len;
        });
    }

    /// Makes every block whose write has completed durable.
    pub async fn sync(&self) {
        if let Err(error) = self.file.sync().await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset: 0, error });
        }
    }

    /// Blocks in each state: what `no_space` is decided from.
    #[must_use]
    pub fn space(&self) -> Space {
        self.free_set.borrow().space()
    }

    /// Takes the lowest `count` free blocks; none if there are not that many. Called in an order
    /// that is a function of the log, as [`Grid::forfeit`] and [`Grid::release`] are.
    #[must_use]
    pub fn reserve(&self, count: u64) -> Option<Reservation> {
        self.free_set.borrow_mut().reserve(count)
    }

    /// Takes the next block of a reservation.
    pub fn acquire(&self, reservation: &mut Reservation) -> BlockAddress {
        self.free_set.borrow_mut().acquire(reservation)
    }

    /// Gives back what is left of a reservation.
    pub fn forfeit(&self, reservation: Reservation) {
        self.free_set.borrow_mut().forfeit(reservation);
    }

    /// Notes that nothing refers to a block any more, from the next checkpoint on.
    pub fn release(&self, address: BlockAddress) {
        self.forget_condemned(address);
        self.free_set.borrow_mut().release(address);
    }

    /// A checkpoint begins: blocks released so far are not part of it. Take the snapshot of the
    /// free set when the checkpoint's own blocks have been acquired.
    pub fn checkpoint_begin(&self) {
        self.free_set.borrow_mut().checkpoint_begin();
    }

    /// The free set as it is now.
    #[must_use]
    pub fn free_set_snapshot(&self) -> Snapshot {
        self.free_set.borrow().snapshot()
    }

    /// The checkpoint that began last is durable on a quorum: what it left behind is free. Gives
    /// the number of blocks.
    pub fn checkpoint_free(&self) -> u64 {
        self.free_set.borrow_mut().checkpoint_free()
    }

    /// Puts the free set that a checkpoint stored in place of the empty one.
    pub fn install_free_set(&self, free_set: FreeSet) {
        *self.free_set.borrow_mut() = free_set;
    }

    /// Whether a block is in use and was not released: what a scrubber reads.
    #[must_use]
    pub fn is_live(&self, address: BlockAddress) -> bool {
        self.free_set.borrow().is_live(address)
    }

    /// A block that is intact and makes no sense to whoever read it.
    pub(crate) fn malformed(&self, address: BlockAddress, fault: BlockFault) -> ReadError {
        self.corrupt(address, address.offset(self.config.block_size), fault, None)
    }

    fn corrupt_block(&self, wanted: Original, fault: BlockFault) -> ReadError {
        let address = wanted.reference.address;
        self.corrupt(address, address.offset(self.config.block_size), fault, Some(wanted))
    }

    fn corrupt(
        &self,
        address: BlockAddress,
        offset: u64,
        fault: BlockFault,
        wanted: Option<Original>,
    ) -> ReadError {
        self.count(|stats| stats.corrupt += 1);
        let wanted = wanted.filter(|_| copy_helps(fault));
        let path = self.file.path().to_owned();
        let shard = self.owner.identity.shard;
        ReadError::Corrupt(Box::new(CorruptBlock { path, shard, address, offset, fault, wanted }))
    }
}

#[cfg(test)]
mod tests;
