//! The index block of a table: which page may hold a key.
//!
//! ```text
//! offset  size    field
//! 0       256     block header; its metadata holds the table's counts
//! 256     32      offsets and lengths of the sections below
//! 288     96·B    value blocks: reference, first page, pages, counts, filter, sample
//! …       8·P     heads: the first 8 bytes of each page's separator behind the common prefix
//! …       32·P    pages: checksum, offset in the block, lengths, entries, separator
//! …       …       keys: smallest, largest, and the separators
//! …       …       filters: fingerprints, one run per value block
//! …       4·S     samples: hashes of keys, one run per value block
//! ```
//!
//! **Separators.** Each page has a separator: a position not after its first entry and after every
//! entry of the page before. It is the shortest prefix of the first key that does this. Where a
//! key's versions continue from one page to the next, the separator is the key with the largest
//! version that is not in the page before. So for every (key, version) exactly one page can hold
//! the newest entry not after it, and a point read never needs a second page.
//!
//! **Search.** All keys of the table share a prefix (that of smallest and largest key). The eight
//! bytes behind it, as a big-endian number, decide nearly all comparisons; they stand together, so
//! a search touches few cache lines. [`Index::find`] searches the value block first, asks its
//! filter, and searches the page only if the filter lets the key pass.
//!
//! **Trust.** A block that passes its checksums was written by a release of this program, but
//! possibly a faulty one: [`Index::verify`] checks every offset, count and the order of separators
//! once, when the block is loaded. The view used afterwards relies on that.

mod builder;

use std::cmp::Ordering;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) use builder::{IndexBuilder, PageEntry, Summary};

use crate::block::{
    BlockAddress, BlockFault, BlockReference, BlockType, Checksum, HEADER_SIZE, Header,
};
use crate::entry::Position;
use crate::filter::{Filter, Probe};
use crate::page::PAGE_HEADER_SIZE;

const SECTIONS_SIZE: usize = 32;
const BLOCK_RECORD_SIZE: usize = 96;
const HEAD_SIZE: usize = 8;
const PAGE_RECORD_SIZE: usize = 32;
/// Set in a separator's length if a version follows its key.
const VERSION_FLAG: u16 = 0x8000;

/// The table's counts, in the block header's metadata.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Counts {
    block_count: U32,
    page_count: U32,
    entries: U64,
    tombstones: U64,
    value_bytes: U64,
    version_min: U64,
    version_max: U64,
    overflow_blocks: U32,
    level: u8,
    filter: u8,
    reserved: [u8; 10],
}

const _: () = assert!(size_of::<Counts>() == crate::block::METADATA_SIZE);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sections {
    prefix_len: U32,
    key_min_len: U32,
    key_max_len: U32,
    keys_len: U32,
    filters_len: U32,
    samples: U32,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<Sections>() == SECTIONS_SIZE);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BlockRecord {
    address: U64,
    checksum: U128,
    size: U32,
    page_first: U32,
    page_count: U32,
    entries: U32,
    filter_offset: U32,
    filter_len: U32,
    filter_seed: U64,
    segment_length: U32,
    segment_count_length: U32,
    keys: U32,
    tombstones: U32,
    value_bytes: U64,
    overflow_blocks: U32,
    sample_first: U32,
    sample_count: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<BlockRecord>() == BLOCK_RECORD_SIZE);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PageRecord {
    checksum: U64,
    offset: U32,
    stored_len: U32,
    raw_len: U32,
    entries: U32,
    key_offset: U32,
    key_len: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<PageRecord>() == PAGE_RECORD_SIZE);

/// All that is needed to read one page and to know that it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageReference {
    /// The value block it stands in.
    pub block: BlockReference,
    /// Where it begins in the block.
    pub offset: u32,
    /// Bytes as stored.
    pub stored_len: u32,
    /// Bytes after decompression.
    pub raw_len: u32,
    /// Checksum of the page as stored.
    pub checksum: u64,
}

/// A value block of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueBlock {
    /// The block.
    pub reference: BlockReference,
    /// Its pages, as numbers within the table.
    pub pages: Range<usize>,
    /// Entries in it.
    pub entries: u32,
    /// Distinct keys among them.
    pub keys: u32,
    /// Tombstones among them.
    pub tombstones: u32,
}

/// Where in a table a key is, if it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Number of the value block.
    pub(crate) block: usize,
    /// What its filter is to be asked; none if it has no filter.
    pub(crate) probe: Option<Probe<'a>>,
}

/// A verified index block, borrowed.
#[derive(Clone, Copy)]
pub struct Index<'a> {
    counts: &'a Counts,
    prefix_len: usize,
    key_min: &'a [u8],
    key_max: &'a [u8],
    blocks: &'a [BlockRecord],
    heads: &'a [U64],
    pages: &'a [PageRecord],
    keys: &'a [u8],
    filters: &'a [u8],
    samples: &'a [U32],
}

impl std::fmt::Debug for Index<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (blocks, pages) = (self.blocks.len(), self.pages.len());
        write!(f, "Index({blocks} blocks, {pages} pages, {} entries)", self.entries())
    }
}

fn malformed(what: &'static str) -> BlockFault {
    BlockFault::Malformed { block_type: BlockType::Index, what }
}

impl<'a> Index<'a> {
    /// Checks the whole structure of an index block whose checksums were verified.
    pub fn verify(block: &'a [u8]) -> Result<Index<'a>, BlockFault> {
        let index = Index::view(block).ok_or(malformed("sections do not fit the block"))?;
        index.validate()?;
        Ok(index)
    }

    /// A view of a block that [`Index::verify`] has passed before: costs a few loads.
    #[inline]
    #[must_use]
    pub(crate) fn view(block: &'a [u8]) -> Option<Index<'a>> {
        let metadata = block.get(HEADER_SIZE - size_of::<Counts>()..HEADER_SIZE)?;
        let counts = Counts::ref_from_bytes(metadata).ok()?;
        let body = &block[HEADER_SIZE..];
        let (sections, rest) = Sections::ref_from_prefix(body).ok()?;
        let block_count = counts.block_count.get() as usize;
        let page_count = counts.page_count.get() as usize;
        let (blocks, rest) = <[BlockRecord]>::ref_from_prefix_with_elems(rest, block_count).ok()?;
        let (heads, rest) = <[U64]>::ref_from_prefix_with_elems(rest, page_count).ok()?;
        let (pages, rest) = <[PageRecord]>::ref_from_prefix_with_elems(rest, page_count).ok()?;
        let (keys, rest) = rest.split_at_checked(sections.keys_len.get() as usize)?;
        let (filters, rest) = rest.split_at_checked(sections.filters_len.get() as usize)?;
        let sample_count = sections.samples.get() as usize;
        let (samples, _) = <[U32]>::ref_from_prefix_with_elems(rest, sample_count).ok()?;
        let key_min_len = sections.key_min_len.get() as usize;
        let (key_min, rest) = keys.split_at_checked(key_min_len)?;
        let key_max = rest.get(..sections.key_max_len.get() as usize)?;
        let prefix_len = sections.prefix_len.get() as usize;
        Some(Index {
            counts,
            prefix_len,
            key_min,
            key_max,
            blocks,
            heads,
            pages,
            keys,
            filters,
            samples,
        })
    }

    fn validate(&self) -> Result<(), BlockFault> {
        let prefix = self.key_min.get(..self.prefix_len);
        if prefix.is_none() || prefix != self.key_max.get(..self.prefix_len) {
            return Err(malformed("key range does not have the common prefix"));
        }
        if self.blocks.is_empty() || self.key_min > self.key_max {
            return Err(malformed("no blocks, or an empty key range"));
        }
        let mut page_next = 0;
        for record in self.blocks {
            if record.page_first.get() as usize != page_next || record.page_count.get() == 0 {
                return Err(malformed("value blocks do not partition the pages"));
            }
            page_next += record.page_count.get() as usize;
            let pages = self.pages.get(record.page_first.get() as usize..page_next);
            let pages = pages.ok_or(malformed("a value block has pages beyond the last"))?;
            validate_block(record, pages, self.filters, self.samples)?;
        }
        if page_next != self.pages.len() {
            return Err(malformed("pages that belong to no value block"));
        }
        self.validate_separators()
    }

    fn validate_separators(&self) -> Result<(), BlockFault> {
        for page in 0..self.pages.len() {
            let separator =
                self.separator_checked(page).ok_or(malformed("a separator is out of bounds"))?;
            let behind = separator.key.get(self.prefix_len..);
            let behind = behind.ok_or(malformed("a separator is shorter than the prefix"))?;
            if separator.key[..self.prefix_len] != self.key_min[..self.prefix_len]
                || self.heads[page].get() != head(behind)
            {
                return Err(malformed("a separator does not have its head"));
            }
            if page > 0 && self.separator(page - 1) >= separator {
                return Err(malformed("separators are out of order"));
            }
        }
        Ok(())
    }

    /// The page that may hold the newest entry of `key` with a version of at most `version_max`;
    /// none if the table has no such entry. `hash` is [`crate::filter::hash`] of the key.
    #[must_use]
    pub fn find(&self, key: &[u8], hash: u64, version_max: u64) -> Option<PageReference> {
        let is_covered = key >= self.key_min && key <= self.key_max;
        if is_covered { self.find_covered(key, hash, version_max) } else { None }
    }

    /// As [`Index::find`], for a key that the table's bounds are known to cover: those stand apart
    /// from what a search reads, and comparing with them is two more cache misses. None for a key
    /// that they do not cover, though not for all of them.
    #[must_use]
    pub(crate) fn find_covered(
        &self,
        key: &[u8],
        hash: u64,
        version_max: u64,
    ) -> Option<PageReference> {
        let place = self.block_for(key, hash, version_max)?;
        if place.probe.is_some_and(|probe| !probe.may_pass()) {
            return None;
        }
        self.find_in(place.block, key, version_max)
    }

    /// The first step of that: the value block, and what to ask its filter.
    #[inline]
    #[must_use]
    pub(crate) fn block_for(&self, key: &[u8], hash: u64, version_max: u64) -> Option<Place<'a>> {
        let target = Target::new(key, self.prefix_len, version_max)?;
        let block = self
            .blocks
            .partition_point(|record| self.not_after(record.page_first.get() as usize, &target));
        let block = block.saturating_sub(1);
        let probe = self.filter_of(&self.blocks[block]).map(|filter| filter.probe(hash));
        Some(Place { block, probe })
    }

    /// The last step, once the filter has let the key pass: the page of the value block.
    #[must_use]
    pub(crate) fn find_in(
        &self,
        block: usize,
        key: &[u8],
        version_max: u64,
    ) -> Option<PageReference> {
        let record = &self.blocks[block];
        let target = Target::new(key, self.prefix_len, version_max)?;
        let (first, count) = (record.page_first.get() as usize, record.page_count.get() as usize);
        let page = self.search(first + 1, first + count, &target) - 1;
        Some(page_reference(record, &self.pages[page]))
    }

    /// The page in which a walk from this position begins: the last one whose separator is not
    /// after it, or the first page.
    #[must_use]
    pub fn page_of(&self, position: &Position<'_>) -> usize {
        let prefix = &self.key_min[..self.prefix_len];
        let len = self.prefix_len.min(position.key.len());
        match position.key[..len].cmp(&prefix[..len]) {
            Ordering::Less => 0,
            Ordering::Greater => self.pages.len() - 1,
            Ordering::Equal if len < self.prefix_len => 0,
            Ordering::Equal => {
                let target = Target::new(position.key, self.prefix_len, position.version);
                let target = target.expect("the key has the prefix");
                self.search(1, self.pages.len(), &target) - 1
            }
        }
    }

    /// The first page of `low..high` whose separator is after the target, or `high`.
    fn search(&self, low: usize, high: usize, target: &Target<'_>) -> usize {
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.not_after(middle, target) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    #[inline]
    fn not_after(&self, page: usize, target: &Target<'_>) -> bool {
        match self.heads[page].get().cmp(&target.head) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.separator(page) <= target.position,
        }
    }

    fn separator(&self, page: usize) -> Position<'a> {
        self.separator_checked(page).expect("verified when the index was loaded")
    }

    fn separator_checked(&self, page: usize) -> Option<Position<'a>> {
        let record = &self.pages[page];
        let flagged = record.key_len.get() & VERSION_FLAG != 0;
        let len = (record.key_len.get() & !VERSION_FLAG) as usize;
        let rest = self.keys.get(record.key_offset.get() as usize..)?;
        let (key, rest) = rest.split_at_checked(len)?;
        if !flagged {
            return Some(Position { key, version: u64::MAX });
        }
        let version = u64::from_le_bytes(*rest.first_chunk::<8>()?);
        Some(Position { key, version })
    }

    fn filter_of(&self, record: &BlockRecord) -> Option<Filter<'a>> {
        let start = record.filter_offset.get() as usize;
        let bytes = self.filters.get(start..start + record.filter_len.get() as usize)?;
        let (segment, count) = (record.segment_length.get(), record.segment_count_length.get());
        Filter::new(record.filter_seed.get(), segment, count, bytes)
    }

    /// Number of value blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// A value block.
    #[must_use]
    pub fn block(&self, block: usize) -> ValueBlock {
        let record = &self.blocks[block];
        let first = record.page_first.get() as usize;
        let reference = reference_of(record);
        let pages = first..first + record.page_count.get() as usize;
        ValueBlock {
            reference,
            pages,
            entries: record.entries.get(),
            keys: record.keys.get(),
            tombstones: record.tombstones.get(),
        }
    }

    /// The value block that a page belongs to.
    #[must_use]
    pub fn block_of_page(&self, page: usize) -> usize {
        assert!(page < self.pages.len());
        self.blocks.partition_point(|record| record.page_first.get() as usize <= page) - 1
    }

    /// Number of pages.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// A page.
    #[must_use]
    pub fn page(&self, page: usize) -> PageReference {
        page_reference(&self.blocks[self.block_of_page(page)], &self.pages[page])
    }

    /// A position not after the page's first entry, and after every entry of the page before.
    #[must_use]
    pub fn page_separator(&self, page: usize) -> Position<'a> {
        self.separator(page)
    }

    /// Bytes of all filters.
    #[must_use]
    pub fn filter_bytes(&self) -> usize {
        self.filters.len()
    }

    /// Smallest key of the table.
    #[must_use]
    pub fn key_min(&self) -> &'a [u8] {
        self.key_min
    }

    /// Largest key of the table.
    #[must_use]
    pub fn key_max(&self) -> &'a [u8] {
        self.key_max
    }

    /// Entries of the table, tombstones included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.counts.entries.get()
    }

    /// What the manifest keeps of this table; `header` is the index block's.
    #[must_use]
    pub fn info(&self, header: &Header) -> crate::table::TableInfo {
        crate::table::TableInfo {
            tree: header.tree,
            index: header.reference(),
            key_min: self.key_min.into(),
            key_max: self.key_max.into(),
            version_min: self.counts.version_min.get(),
            version_max: self.counts.version_max.get(),
            op: header.op,
            run: header.op,
            entries: self.counts.entries.get(),
            tombstones: self.counts.tombstones.get(),
            value_bytes: self.counts.value_bytes.get(),
            value_blocks: self.counts.block_count.get(),
            overflow_blocks: self.counts.overflow_blocks.get(),
            sample: self.samples.iter().map(|hash| hash.get()).collect(),
        }
    }
}

fn validate_block(
    record: &BlockRecord,
    pages: &[PageRecord],
    filters: &[u8],
    samples: &[U32],
) -> Result<(), BlockFault> {
    let first = record.sample_first.get() as usize;
    if samples.get(first..).is_none_or(|rest| rest.len() < record.sample_count.get() as usize) {
        return Err(malformed("a value block's sample is out of bounds"));
    }
    if BlockAddress::new(record.address.get()).is_none() {
        return Err(malformed("a value block has address 0"));
    }
    let (start, len) = (record.filter_offset.get() as usize, record.filter_len.get() as usize);
    let bytes = filters.get(start..start + len).ok_or(malformed("a filter is out of bounds"))?;
    let (segment, count) = (record.segment_length.get(), record.segment_count_length.get());
    if len > 0 && Filter::new(record.filter_seed.get(), segment, count, bytes).is_none() {
        return Err(malformed("a filter's parameters do not fit its length"));
    }
    let mut end = HEADER_SIZE as u64;
    for page in pages {
        let offset = u64::from(page.offset.get());
        let lens = [page.stored_len.get(), page.raw_len.get()];
        if offset < end || lens.iter().any(|&len| (len as usize) < PAGE_HEADER_SIZE) {
            return Err(malformed("pages of a value block overlap or are too short"));
        }
        end = offset + u64::from(page.stored_len.get());
        if end > u64::from(record.size.get()) {
            return Err(malformed("a page ends behind its value block"));
        }
        // What a page unpacks into is allocated from this length: it stays near a block's.
        if page.raw_len.get() > 1 << 20 {
            return Err(malformed("a page is longer than any block"));
        }
    }
    Ok(())
}

/// A search target, its head computed once.
struct Target<'k> {
    position: Position<'k>,
    head: u64,
}

impl<'k> Target<'k> {
    /// None for a key that is shorter than the prefix.
    #[inline]
    fn new(key: &'k [u8], prefix_len: usize, version: u64) -> Option<Target<'k>> {
        let head = head(key.get(prefix_len..)?);
        Some(Target { position: Position { key, version }, head })
    }
}

/// The first eight bytes as a big-endian number, padded with zeros: ordered as the bytes are,
/// except that ties need the bytes themselves.
#[inline]
pub(crate) fn head(bytes: &[u8]) -> u64 {
    if let Some(chunk) = bytes.first_chunk::<HEAD_SIZE>() {
        return u64::from_be_bytes(*chunk);
    }
    let mut chunk = [0; HEAD_SIZE];
    chunk[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(chunk)
}

fn reference_of(record: &BlockRecord) -> BlockReference {
    let address = BlockAddress::new(record.address.get());
    BlockReference {
        address: address.expect("verified when the index was loaded"),
        size: record.size.get(),
        checksum: Checksum(record.checksum.get()),
    }
}

fn page_reference(record: &BlockRecord, page: &PageRecord) -> PageReference {
    PageReference {
        block: reference_of(record),
        offset: page.offset.get(),
        stored_len: page.stored_len.get(),
        raw_len: page.raw_len.get(),
        checksum: page.checksum.get(),
    }
}
