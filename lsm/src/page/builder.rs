//! Writing a page: entries are appended in order, sizes are known before each.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{
    FLAG_DEADLINE, KIND_INLINE, KIND_OVERFLOW, KIND_TOMBSTONE, PAGE_HEADER_SIZE, RESTART_SIZE,
    RawHeader, codec, common_prefix_len,
};
use crate::config::Compression;
use crate::entry::{DEADLINE_NONE, EntryRef, Payload, Position};

/// Builds one page after the other; its memory is reused.
#[derive(Debug)]
pub struct PageBuilder {
    restart_interval: usize,
    entries: Vec<u8>,
    restarts: Vec<u32>,
    entry_count: usize,
    last_key: Vec<u8>,
    last_version: u64,
    packed: Vec<u8>,
}

impl PageBuilder {
    /// An empty page with a restart point every `restart_interval` entries.
    #[must_use]
    pub fn new(restart_interval: u16) -> PageBuilder {
        assert!(restart_interval > 0);
        PageBuilder {
            restart_interval: usize::from(restart_interval),
            entries: Vec::new(),
            restarts: Vec::new(),
            entry_count: 0,
            last_key: Vec::new(),
            last_version: 0,
            packed: Vec::new(),
        }
    }

    /// Entries so far.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entry_count
    }

    /// Whether nothing was pushed since the last page was finished.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Raw length of the page as it is.
    #[must_use]
    pub fn raw_len(&self) -> usize {
        PAGE_HEADER_SIZE + self.entries.len() + self.restarts.len() * RESTART_SIZE
    }

    /// Raw length of the page if this entry were pushed.
    #[must_use]
    pub fn raw_len_with(&self, entry: &EntryRef<'_>) -> usize {
        let restart = self.at_restart();
        let shared = if restart { 0 } else { common_prefix_len(&self.last_key, entry.key) };
        let added = if restart { RESTART_SIZE } else { 0 };
        self.raw_len() + added + entry_len(entry, shared)
    }

    fn at_restart(&self) -> bool {
        self.entry_count.is_multiple_of(self.restart_interval)
    }

    /// Appends the next entry of the order.
    pub fn push(&mut self, entry: &EntryRef<'_>) {
        let last = Position { key: &self.last_key, version: self.last_version };
        assert!(self.entry_count == 0 || last < entry.position(), "entries come in order");
        let mut shared = 0;
        if self.at_restart() {
            self.restarts.push(self.entries.len() as u32);
        } else {
            shared = common_prefix_len(&self.last_key, entry.key);
        }
        let (kind, payload) = match entry.payload {
            Payload::Tombstone => (KIND_TOMBSTONE, &[][..]),
            Payload::Inline(value) => (KIND_INLINE, value),
            Payload::Overflow(reference) => (KIND_OVERFLOW, reference.as_bytes()),
        };
        let has_deadline = entry.deadline != DEADLINE_NONE;
        let out = &mut self.entries;
        out.push(kind | if has_deadline { FLAG_DEADLINE } else { 0 });
        put_varint(out, shared);
        put_varint(out, entry.key.len() - shared);
        if kind != KIND_TOMBSTONE {
            put_varint(out, payload.len());
        }
        out.extend_from_slice(&entry.version.to_le_bytes());
        if has_deadline {
            out.extend_from_slice(&entry.deadline.to_le_bytes());
        }
        out.extend_from_slice(&entry.key[shared..]);
        out.extend_from_slice(payload);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&entry.key[shared..]);
        self.last_version = entry.version;
        self.entry_count += 1;
    }

    /// Completes the page and begins the next; gives the page as stored. It is never longer than
    /// [`PageBuilder::raw_len`].
    pub fn finish(&mut self, compression: Compression) -> &[u8] {
        assert!(self.entry_count > 0, "a page holds at least one entry");
        for restart in &self.restarts {
            self.entries.extend_from_slice(&restart.to_le_bytes());
        }
        let raw_len = PAGE_HEADER_SIZE + self.entries.len();
        self.packed.clear();
        self.packed.resize(PAGE_HEADER_SIZE, 0);
        let used = codec::pack(compression, &self.entries, &mut self.packed);
        let header = RawHeader {
            checksum: U64::ZERO,
            stored_len: U32::new(self.packed.len() as u32),
            raw_len: U32::new(raw_len as u32),
            entries: U32::new(self.entry_count as u32),
            restarts: U32::new(self.restarts.len() as u32),
            compression: used as u8,
            reserved: [0; 7],
        };
        self.packed[..PAGE_HEADER_SIZE].copy_from_slice(header.as_bytes());
        let checksum = xxh3_64(&self.packed[8..]);
        self.packed[..8].copy_from_slice(&checksum.to_le_bytes());
        self.entries.clear();
        self.restarts.clear();
        self.entry_count = 0;
        assert!(self.packed.len() <= raw_len);
        &self.packed
    }
}

fn entry_len(entry: &EntryRef<'_>, shared: usize) -> usize {
    let unshared = entry.key.len() - shared;
    let payload_len = entry.payload.stored_len();
    let framing = if entry.payload.is_tombstone() { 0 } else { varint_len(payload_len) };
    let deadline = if entry.deadline == DEADLINE_NONE { 0 } else { 8 };
    1 + varint_len(shared) + varint_len(unshared) + framing + 8 + deadline + unshared + payload_len
}

fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    assert!(value < 1 << 28, "a length of {value} bytes fits no page");
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
