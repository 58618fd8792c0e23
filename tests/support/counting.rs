//! A global allocator that counts, for tests which hold a path to allocating nothing.
//!
//! A test program takes it in with `#[path]`; it is the whole program's allocator then. What the
//! test harness does on other threads does not show in [`on_this_thread`]; where the work is on
//! threads of its own, [`in_all`] counts those too.

#![allow(dead_code, reason = "each test counts in one of the two ways")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static ALL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is left to the system's allocator; counting touches no memory of its own
// beyond a counter and a thread-local cell without a destructor.
#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALL.fetch_add(1, Ordering::Relaxed);
        OF_THREAD.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations of this thread so far.
pub(crate) fn on_this_thread() -> u64 {
    OF_THREAD.with(Cell::get)
}

/// Allocations of all threads so far.
pub(crate) fn in_all() -> u64 {
    ALL.load(Ordering::Relaxed)
}
