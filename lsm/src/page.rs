//! A page: a short sorted run of entries, the unit of a cold point read.
//!
//! ```text
//! offset  size  field
//! 0       8     XXH3-64 of bytes 8.. as stored
//! 8       4     stored length, header included
//! 12      4     raw length, header included
//! 16      4     entries
//! 20      4     restart points
//! 24      1     compression of what follows the header
//! 25      7     zero
//! 32      …     entries, then one u32 per restart point: its offset behind the header
//! ```
//!
//! An entry is stored as: flags (payload kind, "has a deadline"), then as varints the length shared
//! with the key before it, the length of the rest of the key, and (unless it is a tombstone) the
//! length of the payload; then the version, the deadline if any, the rest of the key, the payload.
//! At a restart point, every `restart_interval` entries, the shared length is zero.
//!
//! **Seek.** A binary search over restart points compares whole keys in place. From there entries
//! are walked without rebuilding a key: it is enough to know how much of the target the previous
//! key matched (`matched`). With `shared` the length an entry shares with its predecessor:
//!
//! * `shared > matched`: it differs from the target where its predecessor did: still smaller;
//! * `0 < shared < matched`: it exceeds its predecessor inside the matched part: greater, stop
//!   (zero may be a restart point, where the shared length is not stored: compare afresh);
//! * otherwise compare the rest, which moves `matched` on.
//!
//! So a point read copies and allocates nothing: the entry's key is the caller's own slice.
//!
//! **Trust.** The checksum stands in the page and again in the index of its table: a page is read
//! alone and verified against the index, which makes stale and misdirected reads visible. Reading
//! is safe on any bytes all the same: every offset is checked, and a page that passes its checksum
//! but makes no sense is a [`PageFault`], never a panic.

mod builder;
mod codec;
mod cursor;
mod unpacked;

use std::cmp::Ordering;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use builder::PageBuilder;
pub use cursor::Cursor;
pub(crate) use unpacked::Unpacked;

use crate::config::Compression;
use crate::entry::{DEADLINE_NONE, EntryRef, Payload, Position};
use crate::overflow::OverflowReference;

/// Bytes of a page header.
pub const PAGE_HEADER_SIZE: usize = 32;
const RESTART_SIZE: usize = 4;

const KIND_MASK: u8 = 0b11;
const KIND_TOMBSTONE: u8 = 0;
const KIND_INLINE: u8 = 1;
const KIND_OVERFLOW: u8 = 2;
const FLAG_DEADLINE: u8 = 0b100;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    checksum: U64,
    stored_len: U32,
    raw_len: U32,
    entries: U32,
    restarts: U32,
    compression: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawHeader>() == PAGE_HEADER_SIZE);

/// Why bytes are not a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageFault {
    /// Fewer bytes than the header, or than the header says.
    #[error("page of {actual} bytes, expected {expected}")]
    Short {
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        actual: usize,
    },
    /// The bytes are not those that were written.
    #[error("page checksum is {actual:016x}, expected {expected:016x}")]
    Checksum {
        /// What the header or the index says.
        expected: u64,
        /// What the bytes give, or what the header says where the index says another.
        actual: u64,
    },
    /// The codec number is unknown, or the bytes do not decompress.
    #[error("page does not decompress (codec {0})")]
    Codec(u8),
    /// The header's counts do not fit the page.
    #[error("page of {raw_len} bytes cannot hold {restarts} restart points, {entries} entries")]
    Counts {
        /// Raw length.
        raw_len: usize,
        /// Restart points.
        restarts: usize,
        /// Entries.
        entries: usize,
    },
    /// An entry makes no sense.
    #[error("malformed entry at offset {0} of the page")]
    Entry(usize),
    /// Entries are not in order.
    #[error("entry at offset {0} of the page is out of order")]
    Order(usize),
}

/// What a stored page's header says, after its checksum was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Checksum of the page.
    pub checksum: u64,
    /// Bytes as stored.
    pub stored_len: usize,
    /// Bytes after decompression.
    pub raw_len: usize,
    /// How it is stored.
    pub compression: Compression,
}

/// Verifies a page as stored: lengths, codec number, checksum.
pub fn verify_stored(bytes: &[u8]) -> Result<Stored, PageFault> {
    let stored = parse_stored(bytes)?;
    let (expected, actual) = (stored.checksum, xxh3_64(&bytes[8..stored.stored_len]));
    if expected != actual {
        return Err(PageFault::Checksum { expected, actual });
    }
    Ok(stored)
}

/// As [`verify_stored`], for a page of a block whose own checksum was verified.
pub(crate) fn parse_stored(bytes: &[u8]) -> Result<Stored, PageFault> {
    let short = PageFault::Short { expected: PAGE_HEADER_SIZE, actual: bytes.len() };
    let (header, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| short)?;
    let checksum = header.checksum.get();
    let stored_len = header.stored_len.get() as usize;
    let raw_len = header.raw_len.get() as usize;
    if stored_len > bytes.len() {
        return Err(PageFault::Short { expected: stored_len, actual: bytes.len() });
    }
    if stored_len < PAGE_HEADER_SIZE || raw_len < PAGE_HEADER_SIZE {
        let actual = raw_len.min(stored_len);
        return Err(PageFault::Short { expected: PAGE_HEADER_SIZE, actual });
    }
    let number = header.compression;
    let compression = Compression::of_number(number)
        .filter(|codec| (*codec == Compression::None) == (stored_len == raw_len))
        .ok_or(PageFault::Codec(number))?;
    Ok(Stored { checksum, stored_len, raw_len, compression })
}

/// Puts the raw form of a verified stored page into `out`, which is exactly `raw_len` long.
pub fn unpack(bytes: &[u8], stored: &Stored, out: &mut [u8]) -> Result<(), PageFault> {
    assert!(out.len() == stored.raw_len, "{} bytes for {stored:?}", out.len());
    let (head, body) = out.split_at_mut(PAGE_HEADER_SIZE);
    head.copy_from_slice(&bytes[..PAGE_HEADER_SIZE]);
    if !codec::unpack(stored.compression, &bytes[PAGE_HEADER_SIZE..stored.stored_len], body) {
        return Err(PageFault::Codec(stored.compression as u8));
    }
    Ok(())
}

/// A raw page, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Entries, without header and restart points.
    entries: &'a [u8],
    restarts: &'a [[u8; RESTART_SIZE]],
    entry_count: usize,
}

impl<'a> Page<'a> {
    /// Takes a raw page apart. Cheap: checks lengths only, entries are checked as they are read.
    pub fn parse(raw: &'a [u8]) -> Result<Page<'a>, PageFault> {
        let short = PageFault::Short { expected: PAGE_HEADER_SIZE, actual: raw.len() };
        let (header, _) = RawHeader::ref_from_prefix(raw).map_err(|_| short)?;
        let raw_len = header.raw_len.get() as usize;
        let restarts = header.restarts.get() as usize;
        let entries = header.entries.get() as usize;
        let short = PageFault::Short { expected: raw_len, actual: raw.len() };
        let body = raw.get(PAGE_HEADER_SIZE..raw_len).ok_or(short)?;
        let counts = PageFault::Counts { raw_len, restarts, entries };
        let split = restarts.checked_mul(RESTART_SIZE).and_then(|n| body.len().checked_sub(n));
        let (body, tail) = body.split_at(split.ok_or(counts)?);
        let (points, _) = tail.as_chunks::<RESTART_SIZE>();
        if points.is_empty() || entries < restarts {
            return Err(counts);
        }
        Ok(Page { entries: body, restarts: points, entry_count: entries })
    }

    /// Number of entries.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entry_count
    }

    /// The newest entry of exactly this key whose version is at most `version_max`.
    pub fn seek(&self, key: &'a [u8], version_max: u64) -> Result<Option<EntryRef<'a>>, PageFault> {
        let target = Position { key, version: version_max };
        let mut offset = self.restart_before(&target)?;
        let mut matched = 0;
        while offset < self.entries.len() {
            let skim = self.skim_at(offset)?;
            let at = offset;
            offset = skim.next;
            if skim.shared > matched {
                continue;
            }
            if skim.shared < matched {
                if skim.shared > 0 {
                    return Ok(None);
                }
                matched = 0;
            }
            let suffix = skim.suffix(self.entries);
            let rest = &key[matched..];
            let common = common_prefix_len(suffix, rest);
            matched += common;
            if common < suffix.len() {
                if common == rest.len() || suffix[common] > rest[common] {
                    return Ok(None);
                }
            } else if common == rest.len() {
                let EntryFields { version, deadline, payload, .. } = self.entry_at(at)?;
                if version <= version_max {
                    return Ok(Some(EntryRef { key, version, deadline, payload }));
                }
            }
        }
        Ok(None)
    }

    /// Offset of the last restart point whose entry comes before `target`; the first if none does.
    fn restart_before(&self, target: &Position<'_>) -> Result<usize, PageFault> {
        let (mut low, mut high) = (0, self.restarts.len());
        // Invariant: the entry at restart `low` comes before the target, or low is 0.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let offset = self.restart(middle);
            let skim = self.skim_at(offset)?;
            if skim.shared != 0 {
                return Err(PageFault::Entry(offset));
            }
            let before = match skim.suffix(self.entries).cmp(target.key) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => self.entry_at(offset)?.version > target.version,
            };
            if before {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(self.restart(low))
    }

    fn restart(&self, index: usize) -> usize {
        u32::from_le_bytes(self.restarts[index]) as usize
    }

    /// The entry that starts at `offset`; its shared length is not checked against a predecessor.
    #[inline]
    fn entry_at(&self, offset: usize) -> Result<EntryFields<'a>, PageFault> {
        decode(self.entries, offset).ok_or(PageFault::Entry(offset))
    }

    #[inline]
    fn skim_at(&self, offset: usize) -> Result<Skim, PageFault> {
        skim(self.entries, offset).ok_or(PageFault::Entry(offset))
    }

    /// Walks every entry: counts, restart points and order must be right.
    pub fn validate(&self) -> Result<(), PageFault> {
        let mut cursor = Cursor::new();
        let mut previous = (Vec::new(), 0);
        let mut count = 0;
        let mut restarts = 0;
        let mut present = cursor.first(self)?;
        while present {
            let offset = cursor.offset();
            let entry = cursor.entry(self);
            let before = Position { key: &previous.0, version: previous.1 };
            if count > 0 && before >= entry.position() {
                return Err(PageFault::Order(offset));
            }
            if restarts < self.restarts.len() && self.restart(restarts) == offset {
                restarts += 1;
            }
            previous.0.clear();
            previous.0.extend_from_slice(entry.key);
            previous.1 = entry.version;
            count += 1;
            present = cursor.next(self)?;
        }
        if count != self.entry_count || restarts != self.restarts.len() {
            let raw_len = self.entries.len() + RESTART_SIZE * self.restarts.len();
            let raw_len = raw_len + PAGE_HEADER_SIZE;
            let (restarts, entries) = (self.restarts.len(), self.entry_count);
            return Err(PageFault::Counts { raw_len, restarts, entries });
        }
        Ok(())
    }
}

/// One entry as stored.
#[derive(Clone, Copy, Debug)]
struct EntryFields<'a> {
    shared: usize,
    suffix: &'a [u8],
    version: u64,
    deadline: u64,
    payload: Payload<'a>,
    next: usize,
}

/// What of an entry is not its key, without a borrow of the page: payloads end where entries do.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    version: u64,
    deadline: u64,
    payload_len: u32,
    end: u32,
    kind: u8,
}

impl Place {
    #[inline]
    fn of(fields: &EntryFields<'_>) -> Place {
        let (kind, payload_len) = match &fields.payload {
            Payload::Tombstone => (KIND_TOMBSTONE, 0),
            Payload::Inline(value) => (KIND_INLINE, value.len()),
            Payload::Overflow(reference) => (KIND_OVERFLOW, reference.as_bytes().len()),
        };
        let (payload_len, end) = (payload_len as u32, fields.next as u32);
        Place { version: fields.version, deadline: fields.deadline, payload_len, end, kind }
    }

    /// The entry, from the page it stands in; a tombstone if that is another page.
    #[inline]
    fn entry<'a>(&self, key: &'a [u8], page: &Page<'a>) -> EntryRef<'a> {
        let end = self.end as usize;
        let bytes = page.entries.get(end - self.payload_len as usize..end);
        let payload = match (self.kind, bytes) {
            (KIND_INLINE, Some(value)) => Payload::Inline(value),
            (KIND_OVERFLOW, Some(bytes)) => {
                OverflowReference::parse(bytes).map_or(Payload::Tombstone, Payload::Overflow)
            }
            _ => Payload::Tombstone,
        };
        EntryRef { key, version: self.version, deadline: self.deadline, payload }
    }
}

/// Where an entry's key stands and where the next entry begins: all a search needs of most entries.
#[derive(Clone, Copy, Debug)]
struct Skim {
    shared: usize,
    suffix_start: usize,
    suffix_end: usize,
    next: usize,
}

impl Skim {
    #[inline]
    fn suffix<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.suffix_start..self.suffix_end]
    }
}

#[inline]
fn skim(bytes: &[u8], offset: usize) -> Option<Skim> {
    // The shortest entry is longer than this head, whatever its lengths take.
    let head = bytes.get(offset..)?.first_chunk::<4>()?;
    let [flags, shared, unshared, payload_len] = *head;
    let is_short = (shared | unshared | payload_len) < 0x80 && flags & KIND_MASK != KIND_TOMBSTONE;
    let (shared, unshared, payload_len, end) = if is_short {
        (shared.into(), unshared.into(), payload_len.into(), offset + head.len())
    } else {
        let rest = &bytes[offset + 1..];
        let (shared, rest) = take_varint(rest)?;
        let (unshared, rest) = take_varint(rest)?;
        let is_tombstone = flags & KIND_MASK == KIND_TOMBSTONE;
        let (payload_len, rest) = if is_tombstone { (0, rest) } else { take_varint(rest)? };
        (shared, unshared, payload_len, bytes.len() - rest.len())
    };
    let suffix_start = end + if flags & FLAG_DEADLINE == 0 { 8 } else { 16 };
    let suffix_end = suffix_start + unshared;
    let next = suffix_end + payload_len;
    (next <= bytes.len()).then_some(Skim { shared, suffix_start, suffix_end, next })
}

#[inline]
fn decode(bytes: &[u8], offset: usize) -> Option<EntryFields<'_>> {
    let rest = bytes.get(offset..)?;
    let (&flags, rest) = rest.split_first()?;
    let (shared, rest) = take_varint(rest)?;
    let (unshared, rest) = take_varint(rest)?;
    let kind = flags & KIND_MASK;
    let (payload_len, rest) = if kind == KIND_TOMBSTONE { (0, rest) } else { take_varint(rest)? };
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (deadline, rest) = if flags & FLAG_DEADLINE == 0 {
        (DEADLINE_NONE, rest)
    } else {
        let (deadline, rest) = rest.split_first_chunk::<8>()?;
        (u64::from_le_bytes(*deadline), rest)
    };
    let (suffix, rest) = rest.split_at_checked(unshared)?;
    let (payload, rest) = rest.split_at_checked(payload_len)?;
    let payload = match kind {
        KIND_TOMBSTONE => Payload::Tombstone,
        KIND_INLINE => Payload::Inline(payload),
        KIND_OVERFLOW => Payload::Overflow(OverflowReference::parse(payload)?),
        _ => return None,
    };
    let version = u64::from_le_bytes(*version);
    let next = bytes.len() - rest.len();
    Some(EntryFields { shared, suffix, version, deadline, payload, next })
}

/// A length of up to 28 bits, seven per byte, least significant first.
#[inline]
fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((first as usize, rest));
    }
    let mut value = (first & 0x7F) as usize;
    for shift in [7, 14, 21] {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        value |= ((byte & 0x7F) as usize) << shift;
        if byte < 0x80 {
            return Some((value, rest));
        }
    }
    None
}

/// Length of the longest common prefix.
#[inline]
pub(crate) fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (words_a, _) = a.as_chunks::<8>();
    let (words_b, _) = b.as_chunks::<8>();
    for (i, (x, y)) in words_a.iter().zip(words_b).enumerate() {
        let difference = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if difference != 0 {
            return i * 8 + (difference.trailing_zeros() / 8) as usize;
        }
    }
    let tail = words_a.len() * 8;
    tail + a[tail..].iter().zip(&b[tail..]).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests;
