//! Buffers for I/O: aligned to 4 KiB, either unique and mutable or frozen and shared.
//!
//! ```text
//! BufferPool::take ─► Buffer ── freeze ──► Frozen ── clone / slice ──► Frozen …
//!                        ▲                   │ try_thaw (last handle)      │
//!                        └───────────────────┘                             ▼
//! pool ◄──────────────────────────────── dropping the last handle, on any core
//! ```
//!
//! A [`Buffer`] has one owner and can be written. A [`Frozen`] can only be read, and is shared by
//! counting references in the buffer's header: the same bytes go to the journal, the network and
//! the shards without a copy and without an allocation. When the last handle goes, the buffer
//! returns to the pool that it came from, or to the system if it came from none.
//!
//! # Invariants
//!
//! * The header and its bytes live as long as any handle: a pooled buffer's header holds a
//!   reference to its pool while the buffer is out.
//! * The reference count is 0 in the pool, 1 while a `Buffer`, at least 1 while `Frozen`.
//! * Bytes are initialised always (zeroed at first), though a pooled buffer shows what its last
//!   user left there.

#![expect(unsafe_code, reason = "shared ownership of raw memory with an intrusive count")]

mod extents;
mod memory;
mod pool;

use std::cell::UnsafeCell;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

pub use extents::ExtentPool;
use extents::Extents;
pub use memory::ALIGNMENT;
pub(crate) use memory::Memory;
use pool::Shared;
pub use pool::{BufferPool, Take};

/// More handles than this to one buffer can only be a leak.
const REFERENCES_MAX: u32 = u32::MAX / 2;

/// The part of a buffer that all its handles share.
struct Header {
    references: AtomicU32,
    /// Position in the pool's array of headers.
    index: u32,
    start: NonNull<u8>,
    /// Changes only while there is no handle.
    capacity: AtomicUsize,
    /// Length when it was frozen; given back by `try_thaw`.
    frozen_len: AtomicUsize,
    home: UnsafeCell<Home>,
}

/// Where a buffer goes when its last handle is dropped.
enum Home {
    /// It is in its pool.
    Pooled,
    /// It is out; the pool stays alive with it.
    Out(Arc<Shared>),
    /// It is a run of units, and out; the region stays alive with it.
    Extent(Arc<Extents>),
    /// It has memory of its own.
    Alone(Memory),
}

impl Header {
    fn new(index: u32, start: NonNull<u8>, capacity: usize, home: Home) -> Header {
        Header {
            references: AtomicU32::new(0),
            index,
            start,
            capacity: AtomicUsize::new(capacity),
            frozen_len: AtomicUsize::new(0),
            home: UnsafeCell::new(home),
        }
    }
}

/// The memory of a whole pool, of either kind, as a ring may register it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Never used twice in a process.
    pub(crate) number: u32,
    pub(crate) start: NonNull<u8>,
    pub(crate) size: usize,
}

/// The region of the pool that a buffer is from.
///
/// # Safety
/// `header` is that of a live handle.
unsafe fn region(header: NonNull<Header>) -> Option<Region> {
    // SAFETY: as the caller promises; `home` is only changed without any handle.
    match unsafe { &*header.as_ref().home.get() } {
        Home::Out(shared) => Some(shared.region()),
        Home::Extent(shared) => Some(shared.region()),
        Home::Alone(_) => None,
        Home::Pooled => unreachable!("a buffer in its pool has no handle"),
    }
}

/// Gives the buffer back. The caller held the last handle.
///
/// # Safety
/// `header` is valid, and no other handle to it exists or can come into being.
unsafe fn release(header: NonNull<Header>) {
    // SAFETY: the caller has the only handle, so nobody else looks at `home`; the header stays
    // valid until the pool's reference is dropped at the end, or the box is, and is not used after
    // that.
    unsafe {
        header.as_ref().references.store(0, Ordering::Relaxed);
        let index = header.as_ref().index;
        match std::mem::replace(&mut *header.as_ref().home.get(), Home::Pooled) {
            Home::Out(shared) => shared.give_back(index),
            Home::Extent(shared) => shared.give_back(index),
            Home::Alone(memory) => {
                drop(Box::from_raw(header.as_ptr()));
                drop(memory);
            }
            Home::Pooled => unreachable!("a buffer in its pool has no handle"),
        }
    }
}

/// A unique, mutable, aligned run of bytes.
pub struct Buffer {
    header: NonNull<Header>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Buffer` is the only handle to its bytes and header.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` bytes can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of its own, of `len` zero bytes, from no pool.
    pub fn zeroed(len: usize) -> Buffer {
        let memory = Memory::zeroed(len);
        let (start, capacity) = (memory.start(), memory.size());
        let header = Header::new(0, start, capacity, Home::Alone(memory));
        let mut buffer = Buffer::adopt(NonNull::from(Box::leak(Box::new(header))));
        buffer.len = len;
        buffer
    }

    /// Makes the first handle of a buffer that has none; the length is the capacity.
    fn adopt(header: NonNull<Header>) -> Buffer {
        // SAFETY: the callers own the header; it has no handle yet.
        let inner = unsafe { header.as_ref() };
        let before = inner.references.swap(1, Ordering::Relaxed);
        assert_eq!(before, 0, "a buffer given out twice");
        let len = inner.capacity.load(Ordering::Relaxed);
        Buffer { header, start: inner.start, len }
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        // SAFETY: a handle keeps its header valid.
        unsafe { self.header.as_ref() }.capacity.load(Ordering::Relaxed)
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes the length; bytes that come into view hold what was last written there.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} of a buffer of {}", self.capacity());
        self.len = len;
    }

    /// The pool's memory that these bytes are part of.
    pub(crate) fn region(&self) -> Option<Region> {
        // SAFETY: a handle keeps its header valid.
        unsafe { region(self.header) }
    }

    /// Gives up writing, to share the bytes.
    pub fn freeze(self) -> Frozen {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the handle, which lives on as a `Frozen`, keeps the header valid.
        unsafe { this.header.as_ref() }.frozen_len.store(this.len, Ordering::Relaxed);
        Frozen { header: this.header, start: this.start, len: this.len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` ≤ capacity bytes, initialised, nobody writes them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and this is the only handle.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: a `Buffer` is the only handle.
        unsafe { release(self.header) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.capacity())
    }
}

/// Immutable bytes, shared by reference count across cores. Cloning allocates nothing.
pub struct Frozen {
    header: NonNull<Header>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are immutable while any `Frozen` exists; the count is atomic.
unsafe impl Send for Frozen {}
// SAFETY: as above.
unsafe impl Sync for Frozen {}

impl Frozen {
    /// Bytes that fit the whole buffer: what keeping this handle keeps.
    pub fn capacity(&self) -> usize {
        // SAFETY: a handle keeps its header valid.
        unsafe { self.header.as_ref() }.capacity.load(Ordering::Relaxed)
    }

    /// Number of bytes in view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are in view.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pool's memory that these bytes are part of.
    pub(crate) fn region(&self) -> Option<Region> {
        // SAFETY: a handle keeps its header valid.
        unsafe { region(self.header) }
    }

    /// Position of the buffer in its pool.
    fn index(&self) -> usize {
        // SAFETY: a handle keeps its header valid.
        unsafe { self.header.as_ref() }.index as usize
    }

    /// Another handle, to a part of the bytes in view.
    ///
    /// # Panics
    /// If the range is outside the bytes in view.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Frozen {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&to) => to,
            Bound::Unbounded => self.len,
        };
        assert!(from <= to && to <= self.len, "slice {from}..{to} of {} bytes", self.len);
        let mut part = self.clone();
        // SAFETY: `from` ≤ `len`, so the pointer stays within the buffer.
        part.start = unsafe { part.start.add(from) };
        part.len = to - from;
        part
    }

    /// The whole buffer back, writable, at the length it was frozen with; `Err` gives the handle
    /// back if it is not the last one.
    pub fn try_thaw(self) -> Result<Buffer, Frozen> {
        // SAFETY: a handle keeps its header valid.
        let header = unsafe { self.header.as_ref() };
        // Acquire: what other cores read of the bytes happened before they are written again.
        if header.references.load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        let len = header.frozen_len.load(Ordering::Relaxed);
        Ok(Buffer { header: this.header, start: header.start, len })
    }
}

impl Clone for Frozen {
    fn clone(&self) -> Frozen {
        // SAFETY: a handle keeps its header valid. Relaxed, as in `Arc`: a new handle is made from
        // one that is there already.
        let before = unsafe { self.header.as_ref() }.references.fetch_add(1, Ordering::Relaxed);
        assert!(before < REFERENCES_MAX, "handles of a buffer leak");
        Frozen { header: self.header, start: self.start, len: self.len }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: a handle keeps its header valid.
        if unsafe { self.header.as_ref() }.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // As in `Arc`: all uses through other handles happened before the buffer is used again.
        fence(Ordering::Acquire);
        // SAFETY: that was the last handle.
        unsafe { release(self.header) }
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the buffer, initialised, immutable while any `Frozen` exists.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frozen({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests;
