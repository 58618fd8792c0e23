//! Writing an index block: pages and value blocks are noted as they fill.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64, U128};

use super::{
    BLOCK_RECORD_SIZE, BlockRecord, Counts, HEAD_SIZE, Index, PAGE_RECORD_SIZE, PageRecord,
    SECTIONS_SIZE, Sections, VERSION_FLAG, head,
};
use crate::block::{BlockReference, HEADER_SIZE, METADATA_SIZE};
use crate::config::{Config, FilterKind};
use crate::entry::{Level, Position};
use crate::filter::{self, Built};
use crate::page::common_prefix_len;
use crate::sample;

/// A finished page.
pub(crate) struct PageEntry {
    pub(crate) checksum: u64,
    pub(crate) offset: usize,
    pub(crate) stored_len: usize,
    pub(crate) raw_len: usize,
    pub(crate) entries: usize,
}

/// Totals of a table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    pub(crate) value_bytes: u64,
    pub(crate) version_min: u64,
    pub(crate) version_max: u64,
    pub(crate) overflow_blocks: u32,
}

impl Summary {
    /// Adds what a block holds.
    fn add(&mut self, record: &BlockRecord) {
        self.entries += u64::from(record.entries.get());
        self.tombstones += u64::from(record.tombstones.get());
        self.value_bytes += record.value_bytes.get();
        self.overflow_blocks += record.overflow_blocks.get();
    }

    fn since(&self, before: &Summary) -> Summary {
        Summary {
            tombstones: self.tombstones - before.tombstones,
            value_bytes: self.value_bytes - before.value_bytes,
            overflow_blocks: self.overflow_blocks - before.overflow_blocks,
            ..*self
        }
    }
}

/// Collects what an index block will say.
pub(crate) struct IndexBuilder {
    config: Config,
    capacity: usize,
    blocks: Vec<BlockRecord>,
    pages: Vec<PageRecord>,
    pages_open: usize,
    separators: Vec<u8>,
    filters: Vec<u8>,
    samples: Vec<U32>,
    /// What stood in the finished blocks.
    finished: Summary,
}

impl IndexBuilder {
    pub(crate) fn new(config: &Config) -> IndexBuilder {
        // Smallest and largest key stand in the block as well, at their longest.
        let reserved = SECTIONS_SIZE + 2 * config.key_size_max as usize;
        IndexBuilder {
            config: config.clone(),
            capacity: config.block_body_size() - reserved,
            blocks: Vec::new(),
            pages: Vec::new(),
            pages_open: 0,
            separators: Vec::new(),
            filters: Vec::new(),
            samples: Vec::new(),
            finished: Summary::default(),
        }
    }

    /// Whether the block would still hold everything if the open value block grew to `block_keys`
    /// distinct keys and, if there is a separator, began one more page.
    pub(crate) fn fits(&self, block_keys: usize, separator: Option<&Position<'_>>) -> bool {
        let page = separator
            .map_or(0, |separator| HEAD_SIZE + PAGE_RECORD_SIZE + separator_len(separator));
        let filter = match self.config.filter {
            FilterKind::None => 0,
            FilterKind::Fuse8 => filter::len_max(block_keys),
        };
        let samples = 4 * (sample::marks_max(&self.config) - self.samples.len()).min(block_keys);
        self.used() + BLOCK_RECORD_SIZE + page + filter + samples <= self.capacity
    }

    fn used(&self) -> usize {
        self.blocks.len() * BLOCK_RECORD_SIZE
            + self.pages.len() * (HEAD_SIZE + PAGE_RECORD_SIZE)
            + self.separators.len()
            + self.filters.len()
            + 4 * self.samples.len()
    }

    /// Whether a finished block of another table fits.
    pub(crate) fn fits_block(&self, index: &Index<'_>, block: usize) -> bool {
        let record = &index.blocks[block];
        let first = record.page_first.get() as usize;
        let pages = first..first + record.page_count.get() as usize;
        let separators: usize =
            pages.clone().map(|page| separator_len(&index.page_separator(page))).sum();
        let needed = BLOCK_RECORD_SIZE
            + pages.len() * (HEAD_SIZE + PAGE_RECORD_SIZE)
            + separators
            + record.filter_len.get() as usize
            + 4 * record.sample_count.get() as usize;
        self.used() + needed <= self.capacity
    }

    /// Takes a finished block of another table as it is, with its pages, filter and sample.
    pub(crate) fn adopt(&mut self, index: &Index<'_>, block: usize, summary: &mut Summary) {
        assert!(self.pages_open == 0, "the open block comes first");
        let record = index.blocks[block];
        let first = record.page_first.get() as usize;
        let page_first = U32::new(self.pages.len() as u32);
        for page in first..first + record.page_count.get() as usize {
            self.begin_page(&index.page_separator(page));
            let begun = self.pages.last_mut().expect("a page was begun");
            let (key_offset, key_len) = (begun.key_offset, begun.key_len);
            *begun = PageRecord { key_offset, key_len, ..index.pages[page] };
        }
        self.pages_open = 0;
        let filter_offset = U32::new(self.filters.len() as u32);
        let start = record.filter_offset.get() as usize;
        let filter = &index.filters[start..start + record.filter_len.get() as usize];
        self.filters.extend_from_slice(filter);
        let sample_first = U32::new(self.samples.len() as u32);
        let start = record.sample_first.get() as usize;
        let sample = &index.samples[start..start + record.sample_count.get() as usize];
        let room = sample::marks_max(&self.config) - self.samples.len();
        let sample = &sample[..sample.len().min(room)];
        self.samples.extend_from_slice(sample);
        let sample_count = U32::new(sample.len() as u32);
        self.blocks.push(BlockRecord {
            page_first,
            filter_offset,
            sample_first,
            sample_count,
            ..record
        });
        summary.add(&record);
        self.finished = *summary;
    }

    /// Notes the separator of the page that begins; its record follows with `end_page`.
    pub(crate) fn begin_page(&mut self, separator: &Position<'_>) {
        let flag = if separator.version == u64::MAX { 0 } else { VERSION_FLAG };
        let key_len = u16::try_from(separator.key.len()).expect("keys are shorter than 32 KiB");
        assert!(key_len & VERSION_FLAG == 0);
        self.pages.push(PageRecord {
            checksum: U64::ZERO,
            offset: U32::ZERO,
            stored_len: U32::ZERO,
            raw_len: U32::ZERO,
            entries: U32::ZERO,
            key_offset: U32::new(self.separators.len() as u32),
            key_len: U16::new(key_len | flag),
            reserved: U16::ZERO,
        });
        self.separators.extend_from_slice(separator.key);
        if flag != 0 {
            self.separators.extend_from_slice(&separator.version.to_le_bytes());
        }
        self.pages_open += 1;
    }

    pub(crate) fn end_page(&mut self, page: &PageEntry) {
        let record = self.pages.last_mut().expect("begin_page came before");
        assert!(record.stored_len.get() == 0, "a page ends once");
        record.checksum = U64::new(page.checksum);
        record.offset = U32::new(page.offset as u32);
        record.stored_len = U32::new(page.stored_len as u32);
        record.raw_len = U32::new(page.raw_len as u32);
        record.entries = U32::new(page.entries as u32);
    }

    /// Notes a finished value block: all pages since the one before are its, and what the totals
    /// have grown by.
    pub(crate) fn end_block(
        &mut self,
        reference: &BlockReference,
        hashes: &mut Vec<u64>,
        summary: &Summary,
    ) {
        let keys = hashes.len() as u32;
        let sample_first = self.samples.len();
        let room = sample::marks_max(&self.config) - sample_first;
        let marks = hashes.iter().filter_map(|hash| sample::mark(&self.config, *hash));
        self.samples.extend(marks.take(room).map(U32::new));
        let counts = summary.since(&self.finished);
        self.finished = *summary;
        let page_first = self.pages.len() - self.pages_open;
        let entries = self.pages[page_first..].iter().map(|page| page.entries.get()).sum();
        let built = match self.config.filter {
            FilterKind::None => Built::default(),
            FilterKind::Fuse8 => filter::build(hashes),
        };
        hashes.clear();
        self.blocks.push(BlockRecord {
            address: U64::new(reference.address.get()),
            checksum: U128::new(reference.checksum.0),
            size: U32::new(reference.size),
            page_first: U32::new(page_first as u32),
            page_count: U32::new(self.pages_open as u32),
            entries: U32::new(entries),
            filter_offset: U32::new(self.filters.len() as u32),
            filter_len: U32::new(built.fingerprints.len() as u32),
            filter_seed: U64::new(built.seed),
            segment_length: U32::new(built.segment_length),
            segment_count_length: U32::new(built.segment_count_length),
            keys: U32::new(keys),
            tombstones: U32::new(counts.tombstones as u32),
            value_bytes: U64::new(counts.value_bytes),
            overflow_blocks: U32::new(counts.overflow_blocks),
            sample_first: U32::new(sample_first as u32),
            sample_count: U32::new((self.samples.len() - sample_first) as u32),
            reserved: U32::ZERO,
        });
        self.filters.extend_from_slice(&built.fingerprints);
        self.pages_open = 0;
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The table's sample, once all blocks are finished.
    pub(crate) fn sample(&self) -> Box<[u32]> {
        self.samples.iter().map(|mark| mark.get()).collect()
    }

    /// Writes the body behind the header of `block`; gives its end and the header's metadata.
    pub(crate) fn encode(
        &self,
        block: &mut [u8],
        key_min: &[u8],
        key_max: &[u8],
        level: Level,
        summary: &Summary,
    ) -> (usize, [u8; METADATA_SIZE]) {
        assert!(self.pages_open == 0 && !self.blocks.is_empty());
        let prefix_len = common_prefix_len(key_min, key_max);
        let keys_base = key_min.len() + key_max.len();
        let sections = Sections {
            prefix_len: U32::new(prefix_len as u32),
            key_min_len: U32::new(key_min.len() as u32),
            key_max_len: U32::new(key_max.len() as u32),
            keys_len: U32::new((keys_base + self.separators.len()) as u32),
            filters_len: U32::new(self.filters.len() as u32),
            samples: U32::new(self.samples.len() as u32),
            reserved: [0; 8],
        };
        let mut end = HEADER_SIZE;
        put(block, &mut end, sections.as_bytes());
        put(block, &mut end, self.blocks.as_bytes());
        for page in &self.pages {
            let start = page.key_offset.get() as usize;
            let len = (page.key_len.get() & !VERSION_FLAG) as usize;
            let separator = &self.separators[start..start + len];
            put(block, &mut end, &head(&separator[prefix_len..]).to_le_bytes());
        }
        for page in &self.pages {
            let key_offset = U32::new(page.key_offset.get() + keys_base as u32);
            put(block, &mut end, PageRecord { key_offset, ..*page }.as_bytes());
        }
        for section in [key_min, key_max, &self.separators, &self.filters] {
            put(block, &mut end, section);
        }
        put(block, &mut end, self.samples.as_bytes());
        let counts = Counts {
            block_count: U32::new(self.blocks.len() as u32),
            page_count: U32::new(self.pages.len() as u32),
            entries: U64::new(summary.entries),
            tombstones: U64::new(summary.tombstones),
            value_bytes: U64::new(summary.value_bytes),
            version_min: U64::new(summary.version_min),
            version_max: U64::new(summary.version_max),
            overflow_blocks: U32::new(summary.overflow_blocks),
            level: level.0,
            filter: self.config.filter as u8,
            reserved: [0; 10],
        };
        let metadata = counts.as_bytes().try_into().expect("sizes are equal, see above");
        (end, metadata)
    }
}

fn separator_len(separator: &Position<'_>) -> usize {
    separator.key.len() + if separator.version == u64::MAX { 0 } else { 8 }
}

fn put(block: &mut [u8], end: &mut usize, bytes: &[u8]) {
    block[*end..*end + bytes.len()].copy_from_slice(bytes);
    *end += bytes.len();
}
