//! Building a table from entries in order.
//!
//! A whole value block of another table can be taken as it is ([`Builder::adopt`]): its pages, its
//! filter and its sample go into this table's index, the block itself is neither read nor written.
//! The bounds known of it are the separators around it, so a table that begins or ends with such a
//! block may claim a little more of the key space than its entries do: up to the next separator.

use ioring::Buffer;

use super::{BlockImage, TableInfo};
use crate::block::{
    self, BlockAddress, BlockReference, BlockType, HEADER_SIZE, Identity, METADATA_SIZE, Seal,
};
use crate::config::{Compression, Config, SECTOR_SIZE};
use crate::entry::{EntryRef, Level, Payload, Position, TreeId};
use crate::filter;
use crate::index::{Index, IndexBuilder, PageEntry, Summary};
use crate::page::{PageBuilder, common_prefix_len};

/// Bytes of a page's offset in a value block's directory.
const DIRECTORY_ENTRY_SIZE: usize = 4;
/// Slots a page of several entries takes at most.
const SLOTS_MAX: usize = 4;
/// What packing saves is not left empty again: a packed page begins at the next slot only where
/// that wastes at most this part of a slot, and else costs its reader a slot more.
const WASTE_DIVISOR: usize = 8;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Push {
    /// It was taken.
    Accepted,
    /// Not taken: first give a block with [`Builder::open_block`].
    NeedsBlock,
    /// Not taken: first take the full block with [`Builder::close_block`].
    BlockFull,
    /// Not taken: finish this table; the entry begins the next one.
    TableFull,
}

struct OpenBlock {
    buffer: Buffer,
    address: BlockAddress,
    /// End of the last finished page.
    position: usize,
    /// Offsets of finished pages.
    directory: Vec<u32>,
    /// Slot bytes at the open page's disposal.
    page_budget: usize,
}

/// Builds one table.
pub struct Builder {
    config: Config,
    identity: Identity,
    tree: TreeId,
    level: Level,
    op: u64,
    compression: Compression,
    value_blocks_max: usize,
    open: Option<OpenBlock>,
    page: PageBuilder,
    index: IndexBuilder,
    /// Hashes of the open block's distinct keys.
    hashes: Vec<u64>,
    key_min: Vec<u8>,
    last_key: Vec<u8>,
    last_version: u64,
    /// Whether `last_key` is a bound and no key: all entries so far are before it.
    last_is_bound: bool,
    summary: Summary,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Builder { tree, level, summary, .. } = self;
        write!(f, "Builder(tree {tree}, level {level}, {} entries)", summary.entries)
    }
}

impl Builder {
    /// An empty table of this tree, for this level, created at this op.
    #[must_use]
    pub fn new(config: &Config, identity: Identity, tree: TreeId, level: Level, op: u64) -> Self {
        Builder {
            config: config.clone(),
            identity,
            tree,
            level,
            op,
            compression: config.compression_of(level),
            value_blocks_max: config.table_value_blocks_max_of(level) as usize,
            open: None,
            page: PageBuilder::new(config.restart_interval),
            index: IndexBuilder::new(config),
            hashes: Vec::new(),
            key_min: Vec::new(),
            last_key: Vec::new(),
            last_version: 0,
            last_is_bound: false,
            summary: Summary { version_min: u64::MAX, ..Summary::default() },
        }
    }

    /// Whether nothing was taken yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.summary.entries == 0
    }

    /// Whether the newest entry is a version of this key.
    pub(crate) fn ends_with(&self, key: &[u8]) -> bool {
        !self.last_is_bound && self.last_key == key
    }

    /// Begins a value block in a buffer of a whole block, which will stand at `address`.
    pub fn open_block(&mut self, mut buffer: Buffer, address: BlockAddress) {
        assert!(self.open.is_none(), "the open block comes first");
        buffer.set_len(self.config.block_size as usize);
        let open = OpenBlock {
            buffer,
            address,
            position: HEADER_SIZE,
            directory: Vec::new(),
            page_budget: 0,
        };
        self.open = Some(open);
    }

    /// Takes the next entry of the order, or says what is needed first.
    pub fn push(&mut self, entry: &EntryRef<'_>) -> Push {
        assert!(entry.payload.stored_len() <= self.config.inline_value_size_max());
        assert!(entry.key.len() <= self.config.key_size_max as usize);
        let last = Position { key: &self.last_key, version: self.last_version };
        assert!(
            self.is_empty() || last < entry.position() || self.last_is_bound,
            "entries come in order"
        );
        assert!(!self.last_is_bound || &self.last_key[..] <= entry.key, "entries come in order");
        let Some(open) = &self.open else {
            let is_full = self.index.block_count() == self.value_blocks_max;
            if is_full || !self.page_fits_index(entry, 0) {
                return Push::TableFull;
            }
            return Push::NeedsBlock;
        };
        if !self.page.is_empty() && self.page_takes(open, entry) {
            if !self.index.fits(self.hashes.len() + 1, None) {
                return Push::TableFull;
            }
            return self.accept(entry);
        }
        if !self.page_fits_index(entry, self.hashes.len()) {
            return Push::TableFull;
        }
        self.end_page();
        let raw_len = self.page.raw_len_with(entry);
        let open = self.open.as_mut().expect("checked above");
        if !fits_block(&self.config, self.compression, open, raw_len) {
            return Push::BlockFull;
        }
        open.page_budget = page_budget(&self.config, open.position);
        if self.is_empty() {
            self.key_min.extend_from_slice(entry.key);
        }
        // Borrowed apart from the index.
        let last = Position { key: &self.last_key, version: self.last_version };
        let separator = match self.last_is_bound {
            true => Position { key: &self.last_key, version: u64::MAX },
            false => separator(self.summary.entries > 0, &last, entry),
        };
        self.index.begin_page(&separator);
        self.accept(entry)
    }

    /// Takes a value block of another table as it is; says whether it fits. All its entries come
    /// behind those taken so far and before `behind`, the separator of what follows it there; none
    /// if it is that table's last block. No block may be open.
    pub(crate) fn adopt(
        &mut self,
        index: &Index<'_>,
        block: usize,
        behind: Option<&[u8]>,
        versions: (u64, u64),
    ) -> bool {
        assert!(self.open.is_none(), "close_block comes first");
        let is_full = self.index.block_count() == self.value_blocks_max;
        if is_full || !self.index.fits_block(index, block) {
            return false;
        }
        let first = index.page_separator(index.block(block).pages.start);
        if self.is_empty() {
            self.key_min.extend_from_slice(first.key);
        } else {
            assert!(&self.last_key[..] <= first.key, "blocks come in order");
        }
        self.index.adopt(index, block, &mut self.summary);
        self.summary.version_min = self.summary.version_min.min(versions.0);
        self.summary.version_max = self.summary.version_max.max(versions.1);
        self.last_key.clear();
        self.last_key.extend_from_slice(behind.unwrap_or(index.key_max()));
        // The last key itself may be what the table ends with: what follows is behind it.
        (self.last_version, self.last_is_bound) = (0, behind.is_some());
        true
    }

    /// Whether the index could take a page that begins with this entry.
    fn page_fits_index(&self, entry: &EntryRef<'_>, block_keys: usize) -> bool {
        let last = Position { key: &self.last_key, version: self.last_version };
        let separator = match self.last_is_bound {
            true => Position { key: &self.last_key, version: u64::MAX },
            false => separator(!self.is_empty(), &last, entry),
        };
        self.index.fits(block_keys + 1, Some(&separator))
    }

    /// Whether the open page, not empty, takes this entry as well.
    fn page_takes(&self, open: &OpenBlock, entry: &EntryRef<'_>) -> bool {
        let len = self.page.raw_len();
        let len_with = self.page.raw_len_with(entry);
        if !fits_block(&self.config, self.compression, open, len_with) {
            return false;
        }
        let slot = self.config.page_size as usize;
        if self.compression != Compression::None {
            return len_with <= 2 * slot;
        }
        let mut room = open.page_budget;
        while room < len {
            room += slot;
        }
        len_with <= room || (len * 4 < room * 3 && room < SLOTS_MAX * slot)
    }

    fn accept(&mut self, entry: &EntryRef<'_>) -> Push {
        let new_in_block = self.hashes.is_empty() || self.last_key != entry.key;
        if new_in_block {
            self.hashes.push(filter::hash(entry.key));
        }
        self.page.push(entry);
        self.last_key.clear();
        self.last_key.extend_from_slice(entry.key);
        self.last_version = entry.version;
        self.last_is_bound = false;
        let summary = &mut self.summary;
        summary.entries += 1;
        summary.tombstones += u64::from(entry.payload.is_tombstone());
        summary.value_bytes += entry.key.len() as u64 + entry.payload.value_len();
        summary.version_min = summary.version_min.min(entry.version);
        summary.version_max = summary.version_max.max(entry.version);
        if let Payload::Overflow(reference) = entry.payload {
            summary.overflow_blocks += reference.block_count() as u32;
        }
        Push::Accepted
    }

    fn end_page(&mut self) {
        if self.page.is_empty() {
            return;
        }
        let open = self.open.as_mut().expect("a page is open only within a block");
        let (entries, raw_len) = (self.page.entry_count(), self.page.raw_len());
        let stored = self.page.finish(self.compression);
        let is_packed = stored.len() < raw_len;
        let offset = place(&self.config, open.position, stored.len(), is_packed);
        open.buffer[open.position..offset].fill(0);
        open.buffer[offset..offset + stored.len()].copy_from_slice(stored);
        open.position = offset + stored.len();
        open.directory.push(offset as u32);
        let checksum = u64::from_le_bytes(stored[..8].try_into().expect("eight bytes"));
        let stored_len = stored.len();
        self.index.end_page(&PageEntry { checksum, offset, stored_len, raw_len, entries });
    }

    /// Completes the open value block, if there is one.
    pub fn close_block(&mut self) -> Option<BlockImage> {
        self.end_page();
        let OpenBlock { mut buffer, address, position, directory, .. } = self.open.take()?;
        assert!(!directory.is_empty(), "a block is opened only for an entry that fits");
        let start = position.next_multiple_of(DIRECTORY_ENTRY_SIZE);
        let size = start + directory.len() * DIRECTORY_ENTRY_SIZE;
        buffer[position..start].fill(0);
        let records = buffer[start..size].chunks_exact_mut(DIRECTORY_ENTRY_SIZE);
        for (record, offset) in records.zip(&directory) {
            record.copy_from_slice(&offset.to_le_bytes());
        }
        let mut metadata = [0; METADATA_SIZE];
        metadata[0..4].copy_from_slice(&(directory.len() as u32).to_le_bytes());
        metadata[4..8].copy_from_slice(&(start as u32).to_le_bytes());
        metadata[8] = self.level.0;
        let image = self.image(buffer, size, address, BlockType::Value, metadata);
        self.index.end_block(&image.reference, &mut self.hashes, &self.summary);
        Some(image)
    }

    /// Completes the table in a buffer of a whole block, which will stand at `address`. The last
    /// value block must have been closed.
    #[must_use]
    pub fn finish(self, mut buffer: Buffer, address: BlockAddress) -> (BlockImage, TableInfo) {
        assert!(self.open.is_none(), "close_block comes first");
        assert!(!self.is_empty(), "a table holds at least one entry");
        buffer.set_len(self.config.block_size as usize);
        let Builder { ref index, ref key_min, ref last_key, level, summary, .. } = self;
        let (size, metadata) = index.encode(&mut buffer, key_min, last_key, level, &summary);
        let image = self.image(buffer, size, address, BlockType::Index, metadata);
        let info = TableInfo {
            tree: self.tree,
            index: image.reference,
            key_min: self.key_min.into(),
            key_max: self.last_key.into(),
            version_min: self.summary.version_min,
            version_max: self.summary.version_max,
            op: self.op,
            run: self.op,
            entries: self.summary.entries,
            tombstones: self.summary.tombstones,
            value_bytes: self.summary.value_bytes,
            value_blocks: self.index.block_count() as u32,
            overflow_blocks: self.summary.overflow_blocks,
            sample: self.index.sample(),
        };
        (image, info)
    }

    fn image(
        &self,
        mut buffer: Buffer,
        size: usize,
        address: BlockAddress,
        block_type: BlockType,
        metadata: [u8; METADATA_SIZE],
    ) -> BlockImage {
        let Builder { identity, tree, op, .. } = *self;
        let seal = Seal { identity, address, block_type, tree, op, metadata };
        let reference: BlockReference = block::seal(&mut buffer[..size], &seal);
        let padded = size.next_multiple_of(SECTOR_SIZE);
        buffer[size..padded].fill(0);
        buffer.set_len(padded);
        BlockImage { reference, bytes: buffer.freeze() }
    }
}

/// The shortest position not after `entry` and after `last`.
fn separator<'e>(has_last: bool, last: &Position<'_>, entry: &EntryRef<'e>) -> Position<'e> {
    if !has_last {
        return Position { key: entry.key, version: u64::MAX };
    }
    if last.key == entry.key {
        return Position { key: entry.key, version: last.version - 1 };
    }
    let len = common_prefix_len(last.key, entry.key) + 1;
    Position { key: &entry.key[..len], version: u64::MAX }
}

/// Where a page of this length begins when the one before ends at `position`.
fn place(config: &Config, position: usize, len: usize, is_packed: bool) -> usize {
    let slot = config.page_size as usize;
    let dense = position.next_multiple_of(8);
    let touched = (dense + len - 1) / slot - dense / slot + 1;
    let aligned = position.next_multiple_of(slot);
    let is_worth_it = !is_packed || aligned - dense <= slot / WASTE_DIVISOR;
    if touched > len.div_ceil(slot) && is_worth_it { aligned } else { dense }
}

/// Bytes up to the edge of the slot in which the next page probably begins.
fn page_budget(config: &Config, position: usize) -> usize {
    let slot = config.page_size as usize;
    let packed = position.next_multiple_of(8);
    let left = packed.next_multiple_of(slot) - packed;
    if left * 2 < slot { slot } else { left }
}

/// Whether a page of this raw length, and the directory with one more record, fit the block. A
/// page that compression makes shorter may begin later than it would raw: at the next slot.
fn fits_block(config: &Config, codec: Compression, open: &OpenBlock, len: usize) -> bool {
    let start = match codec {
        Compression::None => place(config, open.position, len, false),
        Compression::Lz4 | Compression::Zstd => {
            open.position.next_multiple_of(config.page_size as usize)
        }
    };
    let directory = (open.directory.len() + 1) * DIRECTORY_ENTRY_SIZE;
    let end = (start + len).next_multiple_of(DIRECTORY_ENTRY_SIZE);
    end + directory <= config.block_size as usize
}
