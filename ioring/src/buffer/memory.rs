//! Aligned, zeroed memory, given back to the system on drop.
//!
//! Large regions are mapped and not allocated: mapped pages cost nothing until they are touched, so
//! a pool sized for the worst case is resident only as far as it is used. The kernel is asked to
//! back them with huge pages where it can.

#![expect(unsafe_code, reason = "owns raw memory; nothing else in the crate allocates it")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of every buffer: a page, and at least what any device asks of direct I/O.
pub const ALIGNMENT: usize = 4096;

/// From this size on memory is mapped.
const MAPPED_MIN: usize = 1 << 20;

/// What the kernel may back with one huge page.
const HUGE_PAGE: usize = 2 << 20;

/// From this size on memory that is worked on gets huge pages: smaller regions would often be
/// resident for the few pages of them that are touched.
const HUGE_MIN: usize = 4 * HUGE_PAGE;

/// A region of zeroed memory, aligned to [`ALIGNMENT`], of a multiple of it in size.
pub(crate) struct Memory {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: `Memory` owns its region; access to the bytes is governed by whoever holds it.
unsafe impl Send for Memory {}
// SAFETY: as above; `Memory` itself hands out a pointer only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Takes at least `size` bytes; zero-sized requests get one unit of alignment.
    pub(crate) fn zeroed(size: usize) -> Memory {
        Memory::with_huge_pages_from(size, HUGE_MIN)
    }

    /// The same for what devices read and write. A transfer takes a descriptor of the device's
    /// queue for each piece of physical memory: 256 KiB of small pages take 64 of the 256 that a
    /// virtual disk may have, so that no more than three transfers are under way; of a huge page
    /// it is one.
    pub(crate) fn for_transfers(size: usize) -> Memory {
        Memory::with_huge_pages_from(size, HUGE_PAGE)
    }

    fn with_huge_pages_from(size: usize, huge_min: usize) -> Memory {
        let size = size.max(1).next_multiple_of(ALIGNMENT);
        let start = if is_mapped(size) { map(size, size >= huge_min) } else { allocate(size) };
        Memory { start, size }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if is_mapped(self.size) {
            // SAFETY: exactly this range was mapped by `map`, and nobody refers to it any more.
            let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
            assert_eq!(result, 0, "unmapping {} bytes", self.size);
        } else {
            // SAFETY: allocated by `allocate` with this very layout.
            unsafe { dealloc(self.start.as_ptr(), layout(self.size)) }
        }
    }
}

/// Miri has no huge pages and its own checks for allocations, so there everything is allocated.
const fn is_mapped(size: usize) -> bool {
    size >= MAPPED_MIN && !cfg!(miri)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGNMENT).expect("a buffer's size is far below isize::MAX")
}

fn allocate(size: usize) -> NonNull<u8> {
    // SAFETY: the size is at least ALIGNMENT, so not zero.
    let start = unsafe { alloc_zeroed(layout(size)) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(size)))
}

fn map(size: usize, huge: bool) -> NonNull<u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous private mapping at an address of the kernel's choosing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        handle_alloc_error(layout(size));
    }
    if huge {
        // SAFETY: the range was just mapped; this is advice, and its failure changes nothing.
        unsafe { libc::madvise(start, size, libc::MADV_HUGEPAGE) };
    }
    NonNull::new(start.cast()).expect("the kernel never maps the zero page unasked")
}
