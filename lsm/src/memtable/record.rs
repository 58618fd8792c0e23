//! What the arena holds per key and per version.
//!
//! ```text
//! key record       newest version (u32) | key length (u16) | versions (u16) | key bytes
//! version record   older (u32) | jump (u32) | kind and length (u32)
//!                  | version (u64) | deadline (u64) | payload bytes
//! ```
//!
//! A key's versions form a chain from the newest to the oldest. Readers nearly always want its
//! head; a reader of an older snapshot may have to pass every version a hot key got in this bar, so
//! each record also carries a *jump* link: that of the n-th version leads to the one whose number
//! is n without its lowest set bit (the tree of Fenwick, "A New Data Structure for Cumulative
//! Frequency Tables", Software: Practice and Experience 24, 1994). Any version is found in O(log²
//! n) steps, for four bytes; and a new version of a key looks at one older version on average, none
//! in half of all cases, as each of them is likely to miss the processor's caches. The key record
//! counts versions modulo 2^16, and the links start anew there.
//!
//! The first version of a key is allocated right behind the key, so a read usually touches
//! adjacent cache lines.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::arena::{Arena, NULL, Offset};
use crate::entry::{EntryRef, Payload};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct KeyRecord {
    newest: U32,
    key_len: U16,
    /// Versions in the chain, modulo 2^16.
    versions: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VersionRecord {
    older: U32,
    jump: U32,
    /// Bits 31..30: kind; the rest: payload length.
    kind_and_len: U32,
    version: U64,
    deadline: U64,
}

const _: () = assert!(size_of::<KeyRecord>() == 8);
const _: () = assert!(size_of::<VersionRecord>() == 28);

/// Bytes of a payload that are worth asking for: the processor finds out about longer runs itself.
const PREFETCHED_PAYLOAD: usize = 96;

const KIND_SHIFT: u32 = 30;
const LEN_MASK: u32 = (1 << KIND_SHIFT) - 1;
const KIND_TOMBSTONE: u32 = 0;
const KIND_INLINE: u32 = 1;

/// Upper bound of record bytes per entry beside key and payload: both headers, both roundings.
pub(super) const BYTES_PER_ENTRY: usize = size_of::<KeyRecord>() + size_of::<VersionRecord>() + 14;

/// Allocates a key record without versions.
pub(super) fn new_key(arena: &mut Arena, key: &[u8]) -> Offset {
    let offset = arena.allocate(size_of::<KeyRecord>() + key.len());
    let record = arena.get_mut::<KeyRecord>(offset);
    record.newest = U32::new(NULL);
    record.versions = U16::new(0);
    record.key_len = U16::new(u16::try_from(key.len()).expect("an encoded key is below 64 KiB"));
    arena.slice_mut(offset + size_of::<KeyRecord>() as Offset, key.len()).copy_from_slice(key);
    offset
}

#[inline]
pub(super) fn key(arena: &Arena, record: Offset) -> &[u8] {
    let len = arena.get::<KeyRecord>(record).key_len.get() as usize;
    arena.slice(record + size_of::<KeyRecord>() as Offset, len)
}

/// The newest version of a key.
#[inline]
pub(super) fn newest(arena: &Arena, record: Offset) -> Offset {
    arena.get::<KeyRecord>(record).newest.get()
}

#[inline]
pub(super) fn older(arena: &Arena, version: Offset) -> Offset {
    arena.get::<VersionRecord>(version).older.get()
}

/// Puts a version in front of a key's chain. Versions of a key only grow.
pub(super) fn push_version(arena: &mut Arena, key: Offset, entry: &EntryRef<'_>) {
    let (kind, payload): (u32, &[u8]) = match entry.payload {
        Payload::Tombstone => (KIND_TOMBSTONE, &[]),
        Payload::Inline(value) => (KIND_INLINE, value),
        Payload::Overflow(_) => unreachable!("values move out of line when a memtable is flushed"),
    };
    assert!(payload.len() <= LEN_MASK as usize, "a payload is below 1 GiB");
    let record = arena.get::<KeyRecord>(key);
    let (older, number) = (record.newest.get(), record.versions.get());
    let jump = link(arena, older, number);
    if cfg!(debug_assertions) && older != NULL {
        // Looking would be a wait for memory; the forest asserts it for all keys together.
        let before = arena.get::<VersionRecord>(older).version.get();
        assert!(before < entry.version, "versions of a key grow: {} after {before}", entry.version);
    }
    let offset = arena.allocate(size_of::<VersionRecord>() + payload.len());
    *arena.get_mut::<VersionRecord>(offset) = VersionRecord {
        older: U32::new(older),
        jump: U32::new(jump),
        kind_and_len: U32::new(kind << KIND_SHIFT | payload.len() as u32),
        version: U64::new(entry.version),
        deadline: U64::new(entry.deadline),
    };
    let start = offset + size_of::<VersionRecord>() as Offset;
    arena.slice_mut(start, payload.len()).copy_from_slice(payload);
    let record = arena.get_mut::<KeyRecord>(key);
    record.newest = U32::new(offset);
    record.versions = U16::new(number.wrapping_add(1));
}

/// Where the jump of version `number` leads, whose predecessor is `older`: the walk along jumps
/// from there clears one set bit after the other at the end of its number.
fn link(arena: &Arena, older: Offset, number: u16) -> Offset {
    if number == 0 {
        return NULL;
    }
    let mut to = older;
    for _ in 0..number.trailing_zeros() {
        to = arena.get::<VersionRecord>(to).jump.get();
    }
    to
}

/// Asks for a key record whose key is of about this length.
#[inline]
pub(super) fn prefetch_key(arena: &Arena, record: Offset, key_len: usize) {
    arena.prefetch(record, size_of::<KeyRecord>() + key_len);
}

/// Asks for the newest version of a key and the start of its payload.
#[inline]
pub(super) fn prefetch_newest(arena: &Arena, record: Offset) {
    let newest = newest(arena, record);
    if newest != NULL {
        arena.prefetch(newest, size_of::<VersionRecord>() + PREFETCHED_PAYLOAD);
    }
}

/// The newest version of a key's chain that is not above `version_max`; null if there is none.
#[inline]
pub(super) fn newest_at(arena: &Arena, key: Offset, version_max: u64) -> Offset {
    let mut offset = newest(arena, key);
    while let Some(older) = step(arena, offset, version_max) {
        offset = older;
    }
    offset
}

/// Where the search for a version goes on from a record that is above it; none from one that is
/// not, and from the end.
#[inline]
fn step(arena: &Arena, offset: Offset, version_max: u64) -> Option<Offset> {
    if offset == NULL {
        return None;
    }
    let record = arena.get::<VersionRecord>(offset);
    if record.version.get() <= version_max {
        return None;
    }
    let jump = record.jump.get();
    let far = jump != NULL && arena.get::<VersionRecord>(jump).version.get() > version_max;
    Some(if far { jump } else { record.older.get() })
}

/// Reads a version record as an entry.
#[inline]
pub(super) fn entry(arena: &Arena, key_record: Offset, version: Offset) -> EntryRef<'_> {
    let record = arena.get::<VersionRecord>(version);
    let kind_and_len = record.kind_and_len.get();
    let start = version + size_of::<VersionRecord>() as Offset;
    let payload = arena.slice(start, (kind_and_len & LEN_MASK) as usize);
    let payload = match kind_and_len >> KIND_SHIFT {
        KIND_TOMBSTONE => Payload::Tombstone,
        KIND_INLINE => Payload::Inline(payload),
        kind => unreachable!("version records are written with two kinds, not {kind}"),
    };
    EntryRef {
        key: key(arena, key_record),
        version: record.version.get(),
        deadline: record.deadline.get(),
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::ALIGN;
    use super::*;

    /// More versions than their count in the key record can tell apart.
    #[test]
    fn any_of_many_versions_is_a_few_steps_away() {
        const VERSIONS: u64 = 70_000;
        let mut arena = Arena::new(4 << 20);
        let key = new_key(&mut arena, b"hot");
        for version in 1..=VERSIONS {
            let payload = Payload::Tombstone;
            push_version(&mut arena, key, &EntryRef { key: b"hot", version, deadline: 0, payload });
        }
        for wanted in (0..=VERSIONS).step_by(67).chain(VERSIONS - 40..VERSIONS) {
            let (mut offset, mut steps) = (newest(&arena, key), 0);
            while let Some(older) = step(&arena, offset, wanted) {
                (offset, steps) = (older, steps + 1);
            }
            assert!(steps <= 150, "{steps} steps to version {wanted}");
            let found = arena.get::<VersionRecord>(offset.max(ALIGN as Offset)).version.get();
            assert!(if wanted == 0 { offset == NULL } else { found == wanted });
        }
    }
}
