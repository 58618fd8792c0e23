//! What the arena holds per key and per version.
//!
//! ```text
//! key record       newest version (u32) | key length (u16) | 0 (u16) | key bytes
//! version record   older (u32) | jump (u32) | depth (u32) | kind and length (u32)
//!                  | version (u64) | deadline (u64) | payload bytes
//! ```
//!
//! A key's versions form a chain from the newest to the oldest. Readers nearly always want its
//! head; a reader of an older snapshot may have to pass every version a hot key got in this bar, so
//! each record also carries a *jump* link, laid out as in Myers, "An applicative random-access
//! stack" (Information Processing Letters 17, 1983): with the chain's depth n, any version is found
//! in O(log n) steps, for four bytes and no rebalancing.
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
    reserved: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VersionRecord {
    older: U32,
    jump: U32,
    depth: U32,
    /// Bits 31..30: kind; the rest: payload length.
    kind_and_len: U32,
    version: U64,
    deadline: U64,
}

const _: () = assert!(size_of::<KeyRecord>() == 8);
const _: () = assert!(size_of::<VersionRecord>() == 32);

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
    let older = newest(arena, key);
    let (jump, depth) = link(arena, older, entry.version);
    let offset = arena.allocate(size_of::<VersionRecord>() + payload.len());
    *arena.get_mut::<VersionRecord>(offset) = VersionRecord {
        older: U32::new(older),
        jump: U32::new(jump),
        depth: U32::new(depth),
        kind_and_len: U32::new(kind << KIND_SHIFT | payload.len() as u32),
        version: U64::new(entry.version),
        deadline: U64::new(entry.deadline),
    };
    let start = offset + size_of::<VersionRecord>() as Offset;
    arena.slice_mut(start, payload.len()).copy_from_slice(payload);
    arena.get_mut::<KeyRecord>(key).newest = U32::new(offset);
}

/// Where the jump of a record in front of `older` leads, and the record's depth.
fn link(arena: &Arena, older: Offset, version: u64) -> (Offset, u32) {
    if older == NULL {
        return (NULL, 0);
    }
    let record = arena.get::<VersionRecord>(older);
    assert!(
        record.version.get() < version,
        "versions of a key grow: {version} after {}",
        record.version.get()
    );
    let depth = record.depth.get() + 1;
    let jump = record.jump.get();
    if jump == NULL {
        return (older, depth);
    }
    let record_jump = arena.get::<VersionRecord>(jump);
    let span = record.depth.get() - record_jump.depth.get();
    let next = record_jump.jump.get();
    if next != NULL
        && record_jump.depth.get() - arena.get::<VersionRecord>(next).depth.get() == span
    {
        return (next, depth);
    }
    (older, depth)
}

/// The newest version of a key's chain that is not above `version_max`; null if there is none.
#[inline]
pub(super) fn newest_at(arena: &Arena, key: Offset, version_max: u64) -> Offset {
    let mut offset = newest(arena, key);
    while offset != NULL {
        let record = arena.get::<VersionRecord>(offset);
        if record.version.get() <= version_max {
            return offset;
        }
        let jump = record.jump.get();
        let far = jump != NULL && arena.get::<VersionRecord>(jump).version.get() > version_max;
        offset = if far { jump } else { record.older.get() };
    }
    NULL
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
