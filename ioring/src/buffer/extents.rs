//! Buffers of different sizes out of one region: runs of neighbouring units.
//!
//! A cache of items whose sizes differ by two orders of magnitude would waste most of its memory
//! on frames of the largest size, and with a pool for each size it would have to be told
//! beforehand how many of each there will be. Here a buffer takes as many units as it needs,
//! wherever they are free side by side.
//!
//! 1. A map has a bit for each unit, set where it is free.
//! 2. Taking looks for the first run that is long enough, from the start: what is small fills the
//!    holes there, and long runs stay whole further on. The map of a region of 128 MiB in units of
//!    8 KiB is 2 KiB long: a look at it is far below what the transfer costs that the buffer is
//!    for.
//! 3. Giving back sets the bits; neighbours join by themselves.
//!
//! Nothing is moved, so the region can be too torn for a buffer that its free units would hold.
//! Who takes has to live with that: a cache evicts until there is a run.
//!
//! Buffers may be dropped on any core; the map is behind a mutex which in practice one core uses.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::region_number;
use super::{ALIGNMENT, Buffer, Header, Home, Memory, Region};

pub(super) struct Extents {
    name: &'static str,
    unit: usize,
    /// That of a unit is the header of the buffer that begins there.
    headers: Box<[Header]>,
    free: Mutex<FreeMap>,
    region: u32,
    memory: Memory,
}

// SAFETY: a header's `home` is touched only by the one who holds all of its buffer: who takes it
// from the map, or who drops its last handle. Everything else in it is atomic or constant.
unsafe impl Send for Extents {}
// SAFETY: as above.
unsafe impl Sync for Extents {}

impl Extents {
    pub(super) fn give_back(&self, index: u32) {
        let units = self.headers[index as usize].capacity.load(Ordering::Relaxed) / self.unit;
        let came_twice = !self.map(|free| free.give_back(index as usize, units));
        assert!(!came_twice, "extents {}: units came back twice", self.name);
    }

    pub(super) fn region(&self) -> Region {
        let (start, size) = (self.memory.start(), self.memory.size());
        Region { number: self.region, start, size }
    }

    fn map<R>(&self, use_map: impl FnOnce(&mut FreeMap) -> R) -> R {
        use_map(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A region of units, and the buffers cut from it. Clones are handles to the same region.
#[derive(Clone)]
pub struct ExtentPool {
    shared: Arc<Extents>,
}

impl ExtentPool {
    /// Makes a region of `count` units of `unit` bytes (rounded up to a multiple of
    /// [`super::ALIGNMENT`]). `name` appears in messages. Memory becomes resident when first used.
    pub fn new(name: &'static str, unit: usize, count: usize) -> ExtentPool {
        assert!(unit > 0 && count > 0, "extents {name}: {count} units of {unit} bytes");
        let unit = unit.next_multiple_of(ALIGNMENT);
        let memory = Memory::for_transfers(unit * count);
        let headers = (0..count).map(|index| {
            // SAFETY: `index` < `count`, so within the region.
            let start = unsafe { memory.start().add(index * unit) };
            let index = u32::try_from(index).expect("a region has fewer than 2^32 units");
            Header::new(index, start, unit, Home::Pooled)
        });
        let headers: Box<[Header]> = headers.collect();
        let free = Mutex::new(FreeMap::new(count));
        let shared = Extents { name, unit, headers, free, region: region_number(), memory };
        ExtentPool { shared: Arc::new(shared) }
    }

    /// A buffer that holds `len` bytes, if there is a run of free units. Its length is its
    /// capacity: that of the units.
    pub fn try_take(&self, len: usize) -> Option<Buffer> {
        let units = len.div_ceil(self.shared.unit).max(1);
        let index = self.shared.map(|free| free.take(units))?;
        let header = &self.shared.headers[index];
        header.capacity.store(units * self.shared.unit, Ordering::Relaxed);
        // SAFETY: taking its units off the map made this the only handle to the buffer.
        unsafe { *header.home.get() = Home::Extent(self.shared.clone()) };
        Some(Buffer::adopt(std::ptr::NonNull::from(header)))
    }

    /// Bytes of a unit.
    pub fn unit(&self) -> usize {
        self.shared.unit
    }

    /// All units, free or not.
    pub fn count(&self) -> usize {
        self.shared.headers.len()
    }

    /// Units that are free now, though not side by side.
    pub fn available(&self) -> usize {
        self.shared.map(|free| free.available)
    }
}

impl std::fmt::Debug for ExtentPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, unit) = (self.shared.name, self.shared.unit);
        write!(f, "ExtentPool({name}: {} of {} × {unit})", self.available(), self.count())
    }
}

/// Which units are free.
struct FreeMap {
    words: Box<[u64]>,
    available: usize,
}

impl FreeMap {
    fn new(count: usize) -> FreeMap {
        let mut map = FreeMap { words: vec![0; count.div_ceil(64)].into(), available: 0 };
        map.give_back(0, count);
        map
    }

    /// The first run of this many free units, taken.
    fn take(&mut self, units: usize) -> Option<usize> {
        if units > self.available {
            return None;
        }
        let end = self.words.len() * 64;
        let mut start = self.next(0, true);
        while start + units <= end {
            let run_end = self.next(start, false);
            if run_end - start >= units {
                self.each(start, units, |word, mask| *word &= !mask);
                self.available -= units;
                return Some(start);
            }
            start = self.next(run_end, true);
        }
        None
    }

    /// Frees units; says whether none of them was free.
    fn give_back(&mut self, start: usize, units: usize) -> bool {
        let mut were_taken = true;
        self.each(start, units, |word, mask| {
            were_taken &= *word & mask == 0;
            *word |= mask;
        });
        self.available += units;
        were_taken
    }

    /// The first unit from `from` on that is free, or that is not; the end if there is none.
    fn next(&self, from: usize, free: bool) -> usize {
        let mut at = from;
        while let Some(word) = self.words.get(at / 64) {
            let sought = (if free { *word } else { !*word }) >> (at % 64);
            if sought != 0 {
                return at + sought.trailing_zeros() as usize;
            }
            at = at / 64 * 64 + 64;
        }
        self.words.len() * 64
    }

    /// Shows the words that these units are in, each with a mask of theirs.
    fn each(&mut self, start: usize, units: usize, mut change: impl FnMut(&mut u64, u64)) {
        let (mut at, end) = (start, start + units);
        while at < end {
            let count = (64 - at % 64).min(end - at);
            change(&mut self.words[at / 64], (u64::MAX >> (64 - count)) << (at % 64));
            at += count;
        }
    }
}
