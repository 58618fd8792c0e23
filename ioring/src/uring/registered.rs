//! Files and memory that the ring knows beforehand.
//!
//! A request on a registered file needs no look-up and no reference count in the kernel; one on
//! registered memory need not find and pin its pages. Both are tables with a number of places, made
//! at start; what finds no place works unregistered.
//!
//! Memory is registered pool by pool, when a core first moves bytes from or to a buffer of it on a
//! direct file. Registering makes all of a pool resident, so only as many bytes are as a budget
//! says.

#![expect(unsafe_code, reason = "the kernel is given the addresses of pools")]

use io_uring::IoUring;

use crate::buffer::Region;

/// Files that can be registered; more can be open.
const FILES_MAX: u32 = 512;

/// Pools that can be registered.
const REGIONS_MAX: u32 = 64;

/// The kernel's limit for one region.
const REGION_SIZE_MAX: usize = 1 << 30;

/// The tables of one ring.
pub(super) struct Registered {
    /// Descriptors by file number; −1 where none is open.
    files: Vec<i32>,
    files_free: Vec<u32>,
    file_places: u32,
    /// Numbers of the regions seen, and where they are registered.
    regions: Vec<(u32, Option<u16>)>,
    region_places: u16,
    memory_left: usize,
}

impl Registered {
    /// Makes empty tables on a ring, for at most `memory` bytes.
    pub(super) fn new(ring: &IoUring, memory: usize) -> Registered {
        let submitter = ring.submitter();
        let files = submitter.register_files_sparse(FILES_MAX);
        let regions = (memory > 0).then(|| submitter.register_buffers_sparse(REGIONS_MAX));
        Registered {
            files: Vec::new(),
            files_free: Vec::new(),
            file_places: if files.is_ok() { FILES_MAX } else { 0 },
            regions: Vec::with_capacity(REGIONS_MAX as usize),
            region_places: 0,
            memory_left: if regions.is_some_and(|result| result.is_ok()) { memory } else { 0 },
        }
    }

    /// Takes an open descriptor in; gives the file's number.
    pub(super) fn insert_file(&mut self, ring: &IoUring, descriptor: i32) -> u32 {
        let number = self.files_free.pop().unwrap_or_else(|| {
            self.files.push(-1);
            u32::try_from(self.files.len() - 1).expect("fewer than 2^32 files")
        });
        self.files[number as usize] = descriptor;
        if number < self.file_places
            && ring.submitter().register_files_update(number, &[descriptor]).is_err()
        {
            // Files from here on stay unregistered; those before are.
            self.file_places = number;
        }
        number
    }

    pub(super) fn descriptor(&self, number: u32) -> i32 {
        self.files[number as usize]
    }

    /// Whether requests may name the file by its number.
    pub(super) fn is_registered(&self, number: u32) -> bool {
        number < self.file_places
    }

    /// Lets go of a file; gives the descriptor to close.
    pub(super) fn remove_file(&mut self, ring: &IoUring, number: u32) -> i32 {
        if self.is_registered(number) {
            // If this fails the file stays open in the kernel until the place is taken again.
            let _ = ring.submitter().register_files_update(number, &[-1]);
        }
        self.files_free.push(number);
        std::mem::replace(&mut self.files[number as usize], -1)
    }

    /// Where a pool is registered; registers it when it is first seen, if the budget allows.
    pub(super) fn place(&mut self, ring: &IoUring, region: Region) -> Option<u16> {
        let known = self.regions.iter().find(|known| known.0 == region.number);
        if let Some((_, place)) = known {
            return *place;
        }
        if self.regions.len() == self.regions.capacity() {
            return None;
        }
        let place = self.register(ring, region);
        self.regions.push((region.number, place));
        place
    }

    fn register(&mut self, ring: &IoUring, region: Region) -> Option<u16> {
        if region.size > self.memory_left.min(REGION_SIZE_MAX) {
            return None;
        }
        let place = self.region_places;
        let vector = libc::iovec { iov_base: region.start.as_ptr().cast(), iov_len: region.size };
        // SAFETY: the pool is alive, a buffer of it is being used. Should it be unmapped later, the
        // kernel keeps the pages, and no request names them any more: numbers are not used twice.
        let result =
            unsafe { ring.submitter().register_buffers_update(u32::from(place), &[vector], None) };
        result.ok()?;
        self.region_places += 1;
        self.memory_left -= region.size;
        Some(place)
    }
}
