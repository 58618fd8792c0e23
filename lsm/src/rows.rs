//! The row cache: the newest entry of a key, so that a key found in tables before costs one probe.
//!
//! Finding a row in tables takes an index block and a page even when both are cached: two binary
//! searches over cold memory, a filter, a walk through the page. A row that is asked for again and
//! again is kept here as a copy:
//!
//! ```text
//! buckets   8 slots of 8 bytes, a cache line:  place of the row | part of the hash | used
//! ring      rows in the order in which they came:  lengths, version, deadline | key | value
//! ```
//!
//! **What it holds.** For some keys of the tree of objects, the newest version that the tables
//! hold, if it has a value and the value stands in a page. The invariant that makes this simple:
//!
//! > A key in the row cache has no version in either memtable.
//!
//! 1. A row is put in only as the newest version that the tables hold, with nothing of the key in
//!    the memtables. A look-up that has just found it in the tables, as of a snapshot not below the
//!    newest version written, puts it in in the same call: nothing can have been written in
//!    between. What had to be waited for is put in by a call of its own
//!    ([`crate::forest::Forest::keep_row`]), which asks the memtables once more: a version that
//!    came meanwhile is there as long as no bar has ended, and if one has, nothing is put in.
//! 2. A write removes its key. It is enough to do so when the key is new to the mutable memtable:
//!    if it is there already, it was removed then and rule 1 has kept it out since.
//! 3. A flush moves versions from the immutable memtable into tables: by the invariant none of
//!    their keys is here. A merge keeps the newest version of every key ([`crate::merge`]), unless
//!    that is a tombstone, which is never here, or of a dead generation. So what the tables answer
//!    for a key in here never changes, and a bar's end has nothing to tell the row cache.
//!
//! The memtables are asked first all the same, so a reader of any snapshot gets from them what is
//! theirs. A row answers every snapshot from its version on: it is the newest version there is.
//! Older snapshots are answered by the tables. FLUSHALL gives keys another generation, so another
//! name; rows of dead generations are not asked for again and age out. When a place of the grid is
//! condemned everything is forgotten, so that no operation of the log is done with a row which its
//! replay could not read ([`crate::grid`]).
//!
//! **Eviction.** The ring is a queue: a new row takes the place of the oldest ones. One that was
//! used since it came or last got a second chance goes to the front again (CLOCK, in a form that
//! needs no list). Once the ring is full a row has to be asked for twice before it comes in: the
//! first time only leaves a mark, in a table of marks that later ones overwrite. So reading much
//! more than fits, once, leaves what is used where it is (TinyLFU's doorkeeper; Einziger, Friedman
//! and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", 2017, reduced to one bit).
//!
//! Memory is taken once, and touched as rows come. Nothing that is stored depends on what is here.

use ioring::Buffer;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::entry::{EntryRef, Payload};
use crate::filter;

const ALIGN: usize = 8;
const SLOT_SIZE: usize = size_of::<u64>();
const BUCKET_SLOTS: usize = 8;
/// What a row is taken for when buckets and marks are sized. If rows are smaller, there are fewer
/// than fit the ring: buckets for the smallest rows would be nearly empty with all others, and
/// every slot that is used a cache line of its own.
const ROW_SIZE: usize = 128;
/// A row takes this part of the ring at most, so that a few large ones do not empty it.
const ROW_SHARE: usize = 32;
/// Rows that get a second chance for one that comes in, so that its cost is bounded.
const CHANCES: u32 = 32;
const CAPACITY_MIN: usize = 4096;
/// The key length of what fills the ring's end when a row does not fit there.
const PADDING: u16 = u16::MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    /// Bytes of the value; of padding, its size.
    value_len: U32,
    key_len: U16,
    reserved: U16,
    version: U64,
    deadline: U64,
}

const HEADER_SIZE: usize = size_of::<Header>();
const _: () = assert!(HEADER_SIZE == 24 && CAPACITY_MIN.is_multiple_of(ALIGN));

/// The rows of one tree; see the module.
pub(crate) struct RowCache {
    buckets: Buffer,
    bucket_count: usize,
    ring: Buffer,
    /// Bytes ever written to the ring and ever taken from it, padding included: where in the ring
    /// the next row goes and where the oldest one is.
    written: u64,
    taken: u64,
    /// Hashes of rows that were asked for and not let in, where the ring is full.
    marks: Buffer,
    hits: u64,
    misses: u64,
}

/// A place in the ring, as a slot keeps it: never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u32);

impl Place {
    fn of(offset: usize) -> Place {
        Place((offset / ALIGN) as u32 + 1)
    }

    fn offset(self) -> usize {
        (self.0 as usize - 1) * ALIGN
    }
}

/// A slot: place in the upper half, 31 bits of the hash, and whether it was used lately.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    const VACANT: Slot = Slot(0);
    const USED: u64 = 1;

    fn new(place: Place, hash: u64) -> Slot {
        Slot(u64::from(place.0) << 32 | u64::from(hash as u32 & !1))
    }

    /// Whether the row's hash may be this one.
    #[inline]
    fn may_be(self, hash: u64) -> bool {
        (self.0 as u32 ^ hash as u32) & !1 == 0 && self != Slot::VACANT
    }

    #[inline]
    fn place(self) -> Place {
        Place((self.0 >> 32) as u32)
    }

    fn is_used(self) -> bool {
        self.0 & Slot::USED != 0
    }
}

impl RowCache {
    /// A cache that takes about `bytes`, all told.
    pub(crate) fn new(bytes: usize) -> RowCache {
        // Slots and marks take 20 to 40 bytes for each row.
        let capacity = (bytes / 4 * 3).max(CAPACITY_MIN) / ALIGN * ALIGN;
        assert!(capacity / ALIGN < u32::MAX as usize, "a ring is addressed by u32: {capacity}");
        // One slot in two is filled at most, so that few buckets overflow.
        let slots = (2 * capacity / ROW_SIZE).next_power_of_two().max(BUCKET_SLOTS);
        RowCache {
            buckets: Buffer::zeroed(slots * SLOT_SIZE),
            bucket_count: slots / BUCKET_SLOTS,
            ring: Buffer::zeroed(capacity),
            written: 0,
            taken: 0,
            marks: Buffer::zeroed(slots / 2 * size_of::<u32>()),
            hits: 0,
            misses: 0,
        }
    }

    /// The row of a key, which counts as used from now on. `hash` is [`filter::hash`] of the key.
    #[inline]
    pub(crate) fn get(&mut self, hash: u64, key: &[u8]) -> Option<EntryRef<'_>> {
        let Some((at, slot)) = self.find(hash, key) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        if !slot.is_used() {
            self.set(at, Slot(slot.0 | Slot::USED));
        }
        Some(self.row(slot.place()))
    }

    /// Whether a key has a row; does not count as asking for it.
    pub(crate) fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.find(hash, key).is_some()
    }

    /// How often a row was found, and not found.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Takes a row that a look-up has just found in the tables, if it fits and is worth keeping.
    pub(crate) fn offer(&mut self, hash: u64, entry: &EntryRef<'_>) {
        let Payload::Inline(value) = entry.payload else { return };
        let size = row_size(entry.key.len(), value.len());
        assert!(entry.key.len() < PADDING.into(), "an encoded key is far below 64 KiB");
        if size > self.ring.len() / ROW_SHARE || !(self.has_room(size) || self.is_marked(hash)) {
            return;
        }
        assert!(self.find(hash, entry.key).is_none(), "a look-up asks here before the tables");
        let mut chances = CHANCES;
        while !self.has_room(size) {
            self.evict(&mut chances);
        }
        let offset = self.claim(size);
        let header = Header {
            value_len: U32::new(value.len() as u32),
            key_len: U16::new(entry.key.len() as u16),
            reserved: U16::ZERO,
            version: U64::new(entry.version),
            deadline: U64::new(entry.deadline),
        };
        let row = &mut self.ring[offset..offset + size];
        row[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        let (key, rest) = row[HEADER_SIZE..].split_at_mut(entry.key.len());
        key.copy_from_slice(entry.key);
        rest[..value.len()].copy_from_slice(value);
        let at = self.slot_for(hash);
        self.set(at, Slot::new(Place::of(offset), hash));
    }

    /// Forgets a key's row, if there is one.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Some((at, _)) = self.find(hash, key) {
            self.set(at, Slot::VACANT);
        }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        (self.written, self.taken) = (0, 0);
    }

    /// Keys and versions of all rows.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> impl Iterator<Item = EntryRef<'_>> {
        let slots = self.buckets.as_chunks::<SLOT_SIZE>().0.iter();
        let slots = slots.map(|slot| Slot(u64::from_le_bytes(*slot)));
        slots.filter(|slot| *slot != Slot::VACANT).map(|slot| self.row(slot.place()))
    }

    // ---- slots ----

    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<(usize, Slot)> {
        let first = self.bucket(hash);
        let bucket = &self.slots()[first..first + BUCKET_SLOTS];
        for (at, slot) in bucket.iter().enumerate() {
            let slot = Slot(u64::from_le_bytes(*slot));
            if slot.may_be(hash) && self.key(slot.place().offset()) == key {
                return Some((first + at, slot));
            }
        }
        None
    }

    /// A slot for a new row: a vacant one, else one that was not used lately, else any.
    fn slot_for(&mut self, hash: u64) -> usize {
        let first = self.bucket(hash);
        let any = first + (hash >> 29) as usize % BUCKET_SLOTS;
        let all = first..first + BUCKET_SLOTS;
        let vacant = all.clone().find(|&at| self.slot(at) == Slot::VACANT);
        vacant.or_else(|| all.clone().find(|&at| !self.slot(at).is_used())).unwrap_or(any)
    }

    /// The first slot of the bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        ((hash >> 32) as usize & (self.bucket_count - 1)) * BUCKET_SLOTS
    }

    #[inline]
    fn slots(&self) -> &[[u8; SLOT_SIZE]] {
        self.buckets.as_chunks::<SLOT_SIZE>().0
    }

    #[inline]
    fn slot(&self, at: usize) -> Slot {
        Slot(u64::from_le_bytes(self.slots()[at]))
    }

    #[inline]
    fn set(&mut self, at: usize, slot: Slot) {
        self.buckets.as_chunks_mut::<SLOT_SIZE>().0[at] = slot.0.to_le_bytes();
    }

    // ---- the ring ----

    #[inline]
    fn header(&self, offset: usize) -> &Header {
        Header::ref_from_bytes(&self.ring[offset..offset + HEADER_SIZE])
            .expect("the slice has the header's size and the header has alignment one")
    }

    #[inline]
    fn key(&self, offset: usize) -> &[u8] {
        let len = self.header(offset).key_len.get() as usize;
        &self.ring[offset + HEADER_SIZE..offset + HEADER_SIZE + len]
    }

    #[inline]
    fn row(&self, place: Place) -> EntryRef<'_> {
        let offset = place.offset();
        let header = self.header(offset);
        let key = self.key(offset);
        let value = offset + HEADER_SIZE + key.len();
        let value = &self.ring[value..value + header.value_len.get() as usize];
        EntryRef {
            key,
            version: header.version.get(),
            deadline: header.deadline.get(),
            payload: Payload::Inline(value),
        }
    }

    fn offset(&self, position: u64) -> usize {
        (position % self.ring.len() as u64) as usize
    }

    /// Whether a row of this size can be written without taking another one's place.
    fn has_room(&self, size: usize) -> bool {
        let to_end = self.ring.len() - self.offset(self.written);
        let padding = if size > to_end { to_end } else { 0 };
        self.written - self.taken + (padding + size) as u64 <= self.ring.len() as u64
    }

    /// Takes the next `size` bytes of the ring, for which there is room.
    fn claim(&mut self, size: usize) -> usize {
        assert!(self.has_room(size) && size.is_multiple_of(ALIGN));
        let offset = self.offset(self.written);
        let to_end = self.ring.len() - offset;
        if size <= to_end {
            self.written += size as u64;
            return offset;
        }
        // Lengths are multiples of eight, so their fields always fit.
        self.ring[offset..offset + 4].copy_from_slice(&(to_end as u32).to_le_bytes());
        self.ring[offset + 4..offset + 6].copy_from_slice(&PADDING.to_le_bytes());
        self.written += (to_end + size) as u64;
        0
    }

    /// Takes the oldest row out of the ring. If it was used and chances are left, it comes in anew.
    fn evict(&mut self, chances: &mut u32) {
        assert!(self.taken < self.written, "an empty ring has room");
        let offset = self.offset(self.taken);
        let lens = self.ring[offset..].first_chunk::<6>().expect("rows are longer than lengths");
        let [a, b, c, d, key_len @ ..] = *lens;
        let value_len = u32::from_le_bytes([a, b, c, d]) as usize;
        if u16::from_le_bytes(key_len) == PADDING {
            self.taken += value_len as u64;
            return;
        }
        let size = row_size(u16::from_le_bytes(key_len).into(), value_len);
        self.taken += size as u64;
        let hash = filter::hash(self.key(offset));
        let first = self.bucket(hash);
        let place = Place::of(offset);
        let refers = |at: &usize| self.slot(*at).place() == place;
        // A row whose key was removed or lost its slot has nothing that refers to it.
        let Some(at) = (first..first + BUCKET_SLOTS).find(refers) else { return };
        let again = self.slot(at).is_used() && *chances > 0 && self.has_room(size);
        if !again {
            self.set(at, Slot::VACANT);
            return;
        }
        *chances -= 1;
        // Its own bytes are free now, and may overlap with where they go.
        let to = self.claim(size);
        self.ring.copy_within(offset..offset + size, to);
        self.set(at, Slot::new(Place::of(to), hash));
    }

    /// Whether this row was asked for lately; the next time it was.
    fn is_marked(&mut self, hash: u64) -> bool {
        let (marks, _) = self.marks.as_chunks_mut::<4>();
        let at = (hash >> 32) as usize & (marks.len() - 1);
        let mark = (hash as u32).to_le_bytes();
        std::mem::replace(&mut marks[at], mark) == mark
    }
}

fn row_size(key_len: usize, value_len: usize) -> usize {
    (HEADER_SIZE + key_len + value_len).next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests;
