//! One growing run of bytes addressed by `u32` offsets, sized at start.
//!
//! The memtable keeps everything here: keys, version records, tree nodes. An allocation is an
//! addition; nothing is freed before the whole arena is reset at a bar's end. Three consequences
//! are the reason for it:
//!
//! 1. no heap allocation per entry, and what a memtable may take is known when the process starts;
//! 2. links are four bytes, so records are small and the structure can be moved or reused whole;
//! 3. the bytes come zeroed from the operating system and are touched only as they are allocated,
//!    so an idle shard costs address space and no memory.
//!
//! Offsets are multiples of eight and offset 0 is never handed out: it is the null link. Records
//! are `zerocopy` structs of alignment one, read and written in place through bounds-checked
//! slices, so there is no `unsafe` here; an offset that does not come from `allocate` panics
//! instead of reading something else.
//!
//! Running out is a bug of the caller: the bar ends long before (the format asserts that the arena
//! holds a memtable, two groups and one prepare's effects), so `allocate` asserts.

use ioring::{Buffer, prefetch};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A link inside an arena; 0 is null.
pub(super) type Offset = u32;

/// The null link.
pub(super) const NULL: Offset = 0;

/// Every offset is a multiple of this.
pub(super) const ALIGN: usize = 8;

pub(super) struct Arena {
    bytes: Buffer,
    used: usize,
}

impl Arena {
    /// Reserves `capacity` bytes of zeroed address space; memory is touched by allocation only.
    pub(super) fn new(capacity: usize) -> Arena {
        assert!(capacity <= u32::MAX as usize, "an arena is addressed by u32: {capacity}");
        assert!(capacity > ALIGN, "an arena holds at least the null offset");
        Arena { bytes: Buffer::zeroed(capacity), used: ALIGN }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Forgets every allocation. The bytes keep their old content: whoever allocates writes.
    pub(super) fn reset(&mut self) {
        self.used = ALIGN;
    }

    /// Hands out `size` bytes, aligned to eight. The content is whatever was there before.
    pub(super) fn allocate(&mut self, size: usize) -> Offset {
        let offset = self.used;
        let end = offset + size.next_multiple_of(ALIGN);
        assert!(
            end <= self.bytes.len(),
            "memtable arena overflow: {size} bytes at {offset} of {}; the bar should have ended",
            self.bytes.len()
        );
        self.used = end;
        debug_assert!(offset.is_multiple_of(ALIGN) && offset != 0);
        // Fits: the capacity was asserted to be at most u32::MAX.
        offset as Offset
    }

    /// Asks the processor for bytes that will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, offset: Offset, len: usize) {
        let end = (offset as usize + len).min(self.used);
        prefetch(&self.bytes[offset as usize..end]);
    }

    #[inline]
    pub(super) fn slice(&self, offset: Offset, len: usize) -> &[u8] {
        let start = offset as usize;
        &self.bytes[start..start + len]
    }

    #[inline]
    pub(super) fn slice_mut(&mut self, offset: Offset, len: usize) -> &mut [u8] {
        let start = offset as usize;
        &mut self.bytes[start..start + len]
    }

    #[inline]
    pub(super) fn get<T>(&self, offset: Offset) -> &T
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        T::ref_from_bytes(self.slice(offset, size_of::<T>()))
            .expect("the slice has the record's size and the record has alignment one")
    }

    #[inline]
    pub(super) fn get_mut<T>(&mut self, offset: Offset) -> &mut T
    where
        T: FromBytes + IntoBytes + KnownLayout + Unaligned,
    {
        T::mut_from_bytes(self.slice_mut(offset, size_of::<T>()))
            .expect("the slice has the record's size and the record has alignment one")
    }
}
