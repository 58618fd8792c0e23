//! Receive buffers of a core, lent to the kernel through a ring of its own.
//!
//! The kernel takes a buffer when bytes arrive, not when a receive is asked for: thousands of idle
//! connections share a few buffers. A completion names the buffer; [`ProvidedBytes`] gives it back
//! on drop. When none is left a receive ends with `ENOBUFS`, and the sockets it hit are armed again
//! once a buffer came back (`sockets`).
//!
//! # Invariants
//!
//! * A buffer is either the kernel's (between the ring's head and tail) or belongs to exactly one
//!   [`ProvidedBytes`].
//! * An entry is written before the tail moves over it: the store of the tail is a release.

#![expect(unsafe_code, reason = "writes entries that the kernel reads, reads bytes that it wrote")]

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buffer::Memory;

/// The group that receives name; a core has one.
pub(super) const GROUP: u16 = 0;

/// The buffers of one core.
pub(crate) struct Provided {
    entries: Memory,
    bytes: Memory,
    count: u16,
    size: usize,
    tail: Cell<u16>,
    /// Buffers with the kernel, as far as this side knows.
    lent: Cell<u16>,
}

impl Provided {
    /// Makes `count` buffers (a power of two) of `size` bytes and registers them.
    pub(super) fn register(ring: &IoUring, count: u16, size: usize) -> io::Result<Provided> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} receive buffers");
        let entries = Memory::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let bytes = Memory::zeroed(usize::from(count) * size);
        let address = entries.start().as_ptr() as u64;
        // SAFETY: `entries` lives in `Provided`, which outlives the ring's use of it: the driver
        // drops its ring first.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0)? };
        let (tail, lent) = (Cell::new(0), Cell::new(0));
        let provided = Provided { entries, bytes, count, size, tail, lent };
        for id in 0..count {
            provided.give(id);
        }
        Ok(provided)
    }

    /// Whether the kernel has any buffers.
    pub(super) fn is_lending(&self) -> bool {
        self.lent.get() > 0
    }

    /// Takes the bytes of a completion.
    pub(super) fn take(self: &Rc<Provided>, id: u16, length: usize) -> ProvidedBytes {
        assert!(id < self.count && length <= self.size, "buffer {id} with {length} bytes");
        self.lent.set(self.lent.get().checked_sub(1).expect("the kernel had this buffer"));
        ProvidedBytes { home: self.clone(), id, length }
    }

    fn give(&self, id: u16) {
        let tail = self.tail.get();
        let base = self.entries.start().cast::<BufRingEntry>();
        // SAFETY: the index is below `count`, so within `entries`; the kernel does not look at the
        // entry before the tail moves over it. Writing through the setters leaves the tail alone,
        // which shares memory with the first entry's reserved field.
        unsafe {
            let entry = &mut *base.add(usize::from(tail & (self.count - 1))).as_ptr();
            entry.set_addr(self.bytes.start().as_ptr() as u64 + u64::from(id) * self.size as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
        }
        self.tail.set(tail.wrapping_add(1));
        self.lent.set(self.lent.get() + 1);
        // SAFETY: the tail's place in the region, aligned, shared with the kernel, so atomic.
        unsafe {
            let place = BufRingEntry::tail(base.as_ptr()).cast_mut();
            AtomicU16::from_ptr(place).store(tail.wrapping_add(1), Ordering::Release);
        }
    }
}

/// Received bytes in a buffer of the core; dropping gives it back to the kernel.
pub(crate) struct ProvidedBytes {
    home: Rc<Provided>,
    id: u16,
    length: usize,
}

impl std::ops::Deref for ProvidedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel wrote these bytes and does not touch the buffer until it is given
        // back.
        unsafe {
            let start = self.home.bytes.start().add(usize::from(self.id) * self.home.size);
            std::slice::from_raw_parts(start.as_ptr(), self.length)
        }
    }
}

impl Drop for ProvidedBytes {
    fn drop(&mut self) {
        self.home.give(self.id);
    }
}
