//! Neighbouring pages read at once: what a scan reads ahead with.
//!
//! Pages of a value block stand one behind the other, so a scan that wants several of them reads
//! one stretch of the file: one request to the device where there would be many. A page of a
//! stretch is verified when the scan comes to it, and then given out like any other; one that does
//! not verify is read again by itself, and that read reports it.
//!
//! *The cache.* A short scan is likely to be done again: the pages it comes to are copied into the
//! cache. A long one is not, and would displace what point reads use: its pages stay in the
//! stretch, which goes when the scan is behind it. The caller says which of the two it is.
//!
//! *Memory.* Stretches have a pool of their own, sized at start. Nobody waits for it: a scan that
//! finds none free reads page by page.

use std::ops::Range;

use ioring::{BufferPool, Frozen};

use super::read::{frame_len, page_key, span};
use super::{Class, Grid, PageHandle};
use crate::block::BlockAddress;
use crate::config::{Config, SECTOR_SIZE};
use crate::index::{Index, PageReference};

/// Bytes of a stretch at most.
const STRETCH_SIZE: usize = 128 << 10;
/// Stretches that all scans of a shard hold at most.
const STRETCHES: usize = 16;

/// The pool of stretches.
pub(super) fn pool(config: &Config) -> BufferPool {
    let size = STRETCH_SIZE.min(config.block_size as usize);
    BufferPool::new("stretches", size, STRETCHES)
}

/// Some pages of a table, as stored.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// Their numbers in the table.
    pub(crate) pages: Range<usize>,
    /// From the sector on in which the first one begins.
    bytes: Frozen,
    /// Where that sector begins in the block.
    start: usize,
}

impl Grid {
    /// Cuts a range of pages of one value block so that it fits a stretch and does not end with
    /// pages that are cached. `keep` is the page that stays; it is the first or the last one.
    pub(crate) fn stretch_of(
        &self,
        index: &Index<'_>,
        range: Range<usize>,
        keep: usize,
    ) -> Range<usize> {
        let mut range = range;
        while range.len() > 1 {
            let far = if keep == range.start { range.end - 1 } else { range.start };
            let (first, last) = (index.page(range.start), index.page(range.end - 1));
            let (start, len) = span(&last);
            let fits = start + len - span(&first).0 <= self.stretches.buffer_size();
            if fits && !self.is_cached(&index.page(far)) {
                break;
            }
            range = if keep == range.start { range.start..far } else { far + 1..range.end };
        }
        range
    }

    fn is_cached(&self, reference: &PageReference) -> bool {
        let cache = self.cache.borrow();
        cache.contains(cache.class_of_page(frame_len(reference)), &page_key(reference))
    }

    /// A buffer for a stretch, filled with these pages of one value block; none if no buffer is
    /// free or the device fails.
    pub(crate) async fn read_stretch(
        &self,
        (address, offsets): (BlockAddress, Range<usize>),
        pages: Range<usize>,
    ) -> Option<Stretch> {
        let mut buffer = self.stretches.try_take()?;
        let slot = self.slot(Class::Foreground).await;
        let start = offsets.start / SECTOR_SIZE * SECTOR_SIZE;
        buffer.set_len(offsets.end.next_multiple_of(SECTOR_SIZE) - start);
        let (fault, buffer) = self.fill(&slot, buffer, address, start as u64).await;
        fault.is_none().then(|| Stretch { pages, bytes: buffer.freeze(), start })
    }

    /// A page of a stretch, verified; none if it has to be read by itself. If `keep`, it goes into
    /// the cache.
    pub(crate) fn page_of(
        &self,
        stretch: &Stretch,
        reference: &PageReference,
        keep: bool,
    ) -> Option<PageHandle> {
        let offset =
            reference.block.address.offset(self.config.block_size) + span(reference).0 as u64;
        let from = (reference.offset as usize).checked_sub(stretch.start)?;
        let range = from..from + reference.stored_len as usize;
        let stored = stretch.bytes.get(range.clone())?;
        if self.is_condemned(offset) {
            return None;
        }
        let packed = self.verify_page(reference, stored).ok()?;
        let bytes = match packed {
            Some(packed) => self.unpack(reference, stored, &packed).ok()?,
            None if keep => {
                let class = self.cache.borrow().class_of_page(frame_len(reference));
                let mut frame = self.frame(class, stored.len());
                frame.set_len(stored.len());
                frame.copy_from_slice(stored);
                frame.freeze()
            }
            None => stretch.bytes.slice(range),
        };
        if keep {
            let mut cache = self.cache.borrow_mut();
            let class = cache.class_of_page(frame_len(reference));
            cache.insert(class, page_key(reference), bytes.clone());
        }
        Some(PageHandle { bytes })
    }
}
