//! Buffers of different sizes out of one region: runs of neighbouring units.
//!
//! A cache of items whose sizes differ by two orders of magnitude would waste most of its memory
//! on frames of the largest size, and with a pool for each size it would have to be told
//! beforehand how many of each there will be. Here a buffer takes as many units as it needs,
//! wherever they are free side by side.
//!
//! 1. A map has a bit for each unit, set where it is free, and above it one for each word of these
//!    that is not all taken.
//! 2. Taking looks for the first run that is long enough, from the start: what is small fills the
//!    holes there, and long runs stay whole further on. The map of a region of 128 MiB in units of
//!    8 KiB is 2 KiB long: a look at it is far below what the transfer costs that the buffer is
//!    for.
//! 3. A buffer of one unit can be had from the other end too: what always takes one unit and what
//!    takes runs share a region without tearing it, until it is full.
//! 4. Giving back sets the bits; neighbours join by themselves.
//!
//! Nothing is moved, so the region can be too torn for a buffer that its free units would hold.
//! Who takes has to live with that: a cache evicts until there is a run.
//!
//! Buffers may be dropped on any core; the map is behind a mutex which in practice one core uses.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::region_number;
use super::{ALIGNMENT, Buffer, Frozen, Header, Home, Memory, Region};

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
        Some(self.adopt(index, units))
    }

    /// A buffer of one unit, the last that is free.
    pub fn try_take_last(&self) -> Option<Buffer> {
        let index = self.shared.map(FreeMap::take_last)?;
        Some(self.adopt(index, 1))
    }

    /// The buffer of units that were just taken off the map.
    fn adopt(&self, index: usize, units: usize) -> Buffer {
        let header = &self.shared.headers[index];
        header.capacity.store(units * self.shared.unit, Ordering::Relaxed);
        // SAFETY: taking its units off the map made this the only handle to the buffer.
        unsafe { *header.home.get() = Home::Extent(self.shared.clone()) };
        Buffer::adopt(std::ptr::NonNull::from(header))
    }

    /// The first unit of a buffer, if it is from this region.
    pub fn place_of(&self, bytes: &Frozen) -> Option<usize> {
        let is_own = bytes.region().is_some_and(|region| region.number == self.shared.region);
        is_own.then(|| bytes.index())
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
    /// Which words have a free unit.
    summary: Box<[u64]>,
    available: usize,
}

impl FreeMap {
    fn new(count: usize) -> FreeMap {
        let words: Box<[u64]> = vec![0; count.div_ceil(64)].into();
        let summary = vec![0; words.len().div_ceil(64)].into();
        let mut map = FreeMap { words, summary, available: 0 };
        map.give_back(0, count);
        map
    }

    /// The first run of this many free units, taken.
    fn take(&mut self, units: usize) -> Option<usize> {
        if units > self.available {
            return None;
        }
        let end = self.words.len() * 64;
        let mut start = self.next_free(0);
        while start + units <= end {
            let run_end = self.next_taken(start);
            if run_end - start >= units {
                self.mark(start, units, false);
                return Some(start);
            }
            start = self.next_free(run_end);
        }
        None
    }

    /// The last free unit, taken.
    fn take_last(&mut self) -> Option<usize> {
        let last = |words: &[u64]| words.iter().rposition(|word| *word != 0);
        let high = |word: u64| 63 - word.leading_zeros() as usize;
        let at = last(&self.summary)?;
        let word = at * 64 + high(self.summary[at]);
        let unit = word * 64 + high(self.words[word]);
        self.mark(unit, 1, false);
        Some(unit)
    }

    /// Frees units; says whether none of them was free.
    fn give_back(&mut self, start: usize, units: usize) -> bool {
        self.mark(start, units, true)
    }

    /// The first free unit from `from` on; the end if there is none.
    fn next_free(&self, from: usize) -> usize {
        let first = self.words.get(from / 64).map_or(0, |word| word >> (from % 64));
        if first != 0 {
            return from + first.trailing_zeros() as usize;
        }
        let mut at = from / 64 + 1;
        while let Some(words) = self.summary.get(at / 64) {
            let sought = words >> (at % 64);
            if sought != 0 {
                let word = at + sought.trailing_zeros() as usize;
                return word * 64 + self.words[word].trailing_zeros() as usize;
            }
            at = at / 64 * 64 + 64;
        }
        self.words.len() * 64
    }

    /// The first unit from `from` on that is not free; the end if there is none.
    fn next_taken(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(word) = self.words.get(at / 64) {
            let sought = !*word >> (at % 64);
            if sought != 0 {
                return at + sought.trailing_zeros() as usize;
            }
            at = at / 64 * 64 + 64;
        }
        self.words.len() * 64
    }

    /// Makes units free or taken; says whether all of them were the other.
    fn mark(&mut self, start: usize, units: usize, free: bool) -> bool {
        let (mut at, end, mut were_other) = (start, start + units, true);
        while at < end {
            let count = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << (at % 64);
            let word = &mut self.words[at / 64];
            were_other &= *word & mask == if free { 0 } else { mask };
            *word = if free { *word | mask } else { *word & !mask };
            let (any, bit) = (*word != 0, 1 << (at / 64 % 64));
            let summary = &mut self.summary[at / 64 / 64];
            *summary = if any { *summary | bit } else { *summary & !bit };
            at += count;
        }
        self.available = if free { self.available + units } else { self.available - units };
        were_other
    }
}
