//! The block cache: pages ready to be searched, and index blocks.
//!
//! Memory is one region of units of a page's size ([`ioring::ExtentPool`]). What is cached is of
//! two
//! *classes*, each of which evicts on its own. Pages of a slot take a unit each, from the region's
//! end. Index blocks and larger pages take as many neighbouring units as they have bytes, from its
//! beginning: an index block is between a few KiB and a whole block long. Rows have a cache of
//! their own: [`crate::rows`].
//!
//! *Who has how much.* Index blocks and larger pages may have up to their share of the region;
//! pages have the rest, always, so what indexes do not need is not idle. Pages of a slot never
//! displace the indexes that lead to them. When an index needs room and is within its share:
//!
//! 1. pages leave until all are within what remains for them;
//! 2. if the free units are not side by side, the pages that stand lowest leave, whatever their
//!    turn, until there is a run: so the two kinds stay apart without ever being moved;
//! 3. if that is not enough, because readers hold pages there, an index leaves.
//!
//! Beyond its share the class evicts its own, until what comes next finds its units side by side.
//! The index of a table that is gone is taken out at once ([`Cache::remove`]).
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP
//! 2023): what is new enters a small queue, a tenth of the class; what is asked for again while it
//! is there moves to the main queue, the rest leaves and is remembered by name only (*ghost*); a
//! name remembered enters the main queue at once. The main queue gives second chances. So a scan
//! passes through the small queue and washes nothing out, and a hit changes one byte. The paper
//! counts items; here sizes differ, so queues and the age of ghosts are counted in units
//! ([`class`]).
//!
//! An item is named by address, offset and *checksum*: a block that was freed and written again
//! never answers for its predecessor, and stale pages need no invalidation; they age out.
//!
//! A hit clones a counted handle, or only borrows it: no copy, no allocation. Evicting drops the
//! cache's handle; the units are free when the last reader is done with them. Nothing that is
//! stored depends on what is cached.

mod class;

use ioring::{Buffer, ExtentPool, Frozen};

use self::class::Class;
use crate::config::{Config, SECTOR_SIZE};

/// Pages, and blocks' worth of units, that readers and reads in flight may hold beyond what the
/// cache holds.
const SPARE: usize = 8;
const NONE: u32 = u32::MAX;

/// Name of a cached item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) address: u64,
    /// Offset of a page in its block; `u32::MAX` for an index block.
    pub(crate) offset: u32,
    pub(crate) checksum: u64,
}

impl Key {
    fn hash(&self) -> u64 {
        // The checksum is a good hash already; the place tells equal pages of two blocks apart.
        let place = (self.address << 20) ^ u64::from(self.offset);
        (self.checksum ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

/// Where an item's memory is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameClass {
    /// Pages of a slot: a unit each.
    Page,
    /// Index blocks and larger pages: runs of units.
    Extent,
}

/// Hits and misses since start. A look-up that no memtable answers asks for the row, then for an
/// index and a page of each table on the way; scans ask for indexes and pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Rows found; counted by the forest, which has them.
    pub row_hits: u64,
    /// Rows not found.
    pub row_misses: u64,
    /// Pages found.
    pub page_hits: u64,
    /// Pages not found.
    pub page_misses: u64,
    /// Index blocks found.
    pub index_hits: u64,
    /// Index blocks not found.
    pub index_misses: u64,
}

/// Both classes of a shard's cache.
pub(crate) struct Cache {
    pool: ExtentPool,
    /// Units that may be cached together, and how many of them extents may have.
    units_max: usize,
    extents_max: usize,
    pages: Class,
    extents: Class,
    /// For each unit of the region the page that was put there last: its number in the class. It
    /// may have left since.
    page_at: Box<[u32]>,
    /// No page stands below this unit.
    page_lowest: usize,
}

impl Cache {
    pub(crate) fn new(config: &Config) -> Cache {
        let shares = config.cache_shares();
        // A page that takes one slot may begin behind the block's header: its read is one slot.
        let unit = (config.page_size as usize).next_multiple_of(SECTOR_SIZE);
        let block_units = (config.block_size as usize).div_ceil(unit);
        let pages_least = (shares.pages / unit).max(4);
        let extents_max = (shares.extents / unit).max(4 * block_units);
        let spare = SPARE + SPARE * block_units;
        Cache::with_units(unit, pages_least + extents_max, extents_max, spare)
    }

    fn with_units(unit: usize, units_max: usize, extents_max: usize, spare: usize) -> Cache {
        assert!(units_max > extents_max, "pages have a share of their own");
        let pool = ExtentPool::new("cache", unit, units_max + spare);
        Cache {
            page_at: vec![NONE; pool.count()].into(),
            page_lowest: pool.count(),
            pool,
            units_max,
            extents_max,
            pages: Class::new(units_max),
            extents: Class::new(extents_max),
        }
    }

    /// The class of pages of this many bytes.
    pub(crate) fn class_of_page(&self, len: usize) -> FrameClass {
        if len <= self.pool.unit() { FrameClass::Page } else { FrameClass::Extent }
    }

    #[inline]
    fn class(&self, class: FrameClass) -> &Class {
        match class {
            FrameClass::Page => &self.pages,
            FrameClass::Extent => &self.extents,
        }
    }

    /// An item, counted as asked for. Who keeps it longer than the borrow of the cache clones it.
    #[inline]
    pub(crate) fn get(&self, class: FrameClass, key: &Key) -> Option<&Frozen> {
        self.class(class).get(key)
    }

    /// Whether an item is there; does not count as asking for it.
    pub(crate) fn contains(&self, class: FrameClass, key: &Key) -> bool {
        self.class(class).contains(key)
    }

    pub(crate) fn insert(&mut self, class: FrameClass, key: Key, bytes: Frozen) {
        match class {
            FrameClass::Page => {
                let place = self.pool.place_of(&bytes);
                let number = self.pages.insert(key, bytes, 1);
                if let Some((place, number)) = place.zip(number) {
                    self.page_at[place] = number;
                    self.page_lowest = self.page_lowest.min(place);
                }
            }
            FrameClass::Extent => {
                let units = bytes.capacity().div_ceil(self.pool.unit());
                self.extents.insert(key, bytes, units);
                self.leave_the_rest_to_pages();
            }
        }
    }

    /// Takes an index block or a larger page out.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.extents.remove(key);
        self.leave_the_rest_to_pages();
    }

    fn leave_the_rest_to_pages(&mut self) {
        self.pages.set_capacity(self.units_max - self.extents.units());
    }

    /// A frame that holds `len` bytes, at the price of items if need be; none if readers hold what
    /// it would take.
    pub(crate) fn try_frame(&mut self, class: FrameClass, len: usize) -> Option<Buffer> {
        match class {
            FrameClass::Page => loop {
                let frame = self.pool.try_take_last();
                if frame.is_some() || !self.pages.evict() {
                    return frame;
                }
            },
            FrameClass::Extent => {
                let units = len.div_ceil(self.pool.unit()).max(1);
                loop {
                    if let Some(frame) = self.pool.try_take(len) {
                        return Some(frame);
                    }
                    let is_within = self.extents.units() + units <= self.extents_max;
                    let has_left = is_within && self.evict_lowest_page() || self.extents.evict();
                    if !has_left {
                        return None;
                    }
                }
            }
        }
    }

    /// Drops the page that stands lowest, if there is one.
    fn evict_lowest_page(&mut self) -> bool {
        while let Some(number) = self.page_at.get(self.page_lowest) {
            let bytes = self.pages.bytes(*number);
            if bytes.and_then(|bytes| self.pool.place_of(bytes)) == Some(self.page_lowest) {
                self.pages.remove_item(*number);
                return true;
            }
            self.page_lowest += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests;
