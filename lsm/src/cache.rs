//! The block cache: pages ready to be searched, and index blocks.
//!
//! Memory is cut into two *classes* at start. Pages of a slot have equal frames. Index blocks and
//! larger pages share a region of small units, of which each takes as many neighbouring ones as it
//! has bytes ([`ioring::ExtentPool`]): an index block is between a few KiB and a whole block long,
//! and a frame of a block for each would hold as much nothing as index. Pages of a slot never
//! displace the indexes that lead to them; larger pages may, if they are asked for more often, and
//! where there are none all of the region is for indexes. Each class evicts on its own, until what
//! comes next finds its units side by side. Rows have a cache of their own: [`crate::rows`].
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP
//! 2023): what is new enters a small queue, a tenth of the class; what is asked for again while it
//! is there moves to the main queue, the rest leaves and is remembered by name only (*ghost*); a
//! name remembered enters the main queue at once. The main queue gives second chances. So a scan
//! passes through the small queue and washes nothing out, and a hit changes one byte. The paper
//! counts items; here sizes differ, so queues and the age of ghosts are counted in units.
//!
//! An item is named by address, offset and *checksum*: a block that was freed and written again
//! never answers for its predecessor, and stale items need no invalidation; they age out.
//!
//! A hit clones a counted handle, or only borrows it: no copy, no allocation. Evicting drops the
//! cache's handle; the frame goes back to its pool when the last reader is done with it. Nothing
//! that is stored depends on what is cached.

use std::cell::Cell;
use std::collections::VecDeque;

use ioring::{Buffer, BufferPool, ExtentPool, Frozen};

use crate::config::{Config, SECTOR_SIZE};

/// Frames, or blocks' worth of units, that readers and reads in flight may hold beyond what the
/// cache holds.
const FRAMES_SPARE: usize = 8;
/// Bytes of a unit of the region for index blocks and larger pages: the least larger page.
const UNIT_SIZE: usize = 2 * SECTOR_SIZE;
const FREQUENCY_MAX: u8 = 3;
const NONE: u32 = u32::MAX;

/// Name of a cached item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) address: u64,
    /// Offset of a page in its block; `u32::MAX` for an index block.
    pub(crate) offset: u32,
    pub(crate) checksum: u64,
}

impl Key {
    fn hash(&self) -> u64 {
        // The checksum is a good hash already; the place tells equal pages of two blocks apart.
        let place = (self.address << 20) ^ u64::from(self.offset);
        (self.checksum ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

/// Where an item's memory is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameClass {
    /// The equal frames of pages of a slot.
    Page,
    /// The region that index blocks and larger pages share.
    Extent,
}

/// Hits and misses since start. A look-up that no memtable answers asks for the row, then for an
/// index and a page of each table on the way; scans ask for indexes and pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Rows found; counted by the forest, which has them.
    pub row_hits: u64,
    /// Rows not found.
    pub row_misses: u64,
    /// Pages found.
    pub page_hits: u64,
    /// Pages not found.
    pub page_misses: u64,
    /// Index blocks found.
    pub index_hits: u64,
    /// Index blocks not found.
    pub index_misses: u64,
}

/// All classes of a shard's cache.
pub(crate) struct Cache {
    classes: [Class; 2],
}

impl Cache {
    pub(crate) fn new(config: &Config) -> Cache {
        let shares = config.cache_shares();
        let (page, block) = (config.page_size as usize, config.block_size as usize);
        // A page that takes one slot may begin behind the block's header: its read is one slot.
        let page = page.next_multiple_of(SECTOR_SIZE);
        let pages = (shares.pages / page).max(4);
        let block_units = block.div_ceil(UNIT_SIZE);
        let units = (shares.extents / UNIT_SIZE).max(4 * block_units);
        let extents = ExtentPool::new("index cache", UNIT_SIZE, units + FRAMES_SPARE * block_units);
        let classes = [
            Class::new(
                Frames::Equal(BufferPool::new("page cache", page, FRAMES_SPARE + pages)),
                pages,
            ),
            Class::new(Frames::Extents(extents), units),
        ];
        Cache { classes }
    }

    /// The class whose frames hold this many bytes of pages.
    pub(crate) fn class_of_page(&self, len: usize) -> FrameClass {
        match &self.classes[FrameClass::Page as usize].frames {
            Frames::Equal(pool) if len <= pool.buffer_size() => FrameClass::Page,
            _ => FrameClass::Extent,
        }
    }

    /// An item, counted as asked for. Who keeps it longer than the borrow of the cache clones it.
    #[inline]
    pub(crate) fn get(&self, class: FrameClass, key: &Key) -> Option<&Frozen> {
        self.classes[class as usize].get(key)
    }

    /// Whether an item is there; does not count as asking for it.
    pub(crate) fn contains(&self, class: FrameClass, key: &Key) -> bool {
        self.classes[class as usize].find(key) != NONE
    }

    pub(crate) fn insert(&mut self, class: FrameClass, key: Key, bytes: Frozen) {
        self.classes[class as usize].insert(key, bytes);
    }

    /// A frame that holds `len` bytes, at the price of items if need be; none if readers hold what
    /// it would take.
    pub(crate) fn try_frame(&mut self, class: FrameClass, len: usize) -> Option<Buffer> {
        let class = &mut self.classes[class as usize];
        loop {
            if let Some(frame) = class.frames.try_take(len) {
                return Some(frame);
            }
            if class.len() == 0 {
                return None;
            }
            class.evict();
        }
    }
}

/// The memory of a class.
enum Frames {
    Equal(BufferPool),
    Extents(ExtentPool),
}

impl Frames {
    fn try_take(&self, len: usize) -> Option<Buffer> {
        match self {
            Frames::Equal(pool) => pool.try_take(),
            Frames::Extents(pool) => pool.try_take(len),
        }
    }

    /// Units that these bytes keep: a frame is one.
    fn units_of(&self, bytes: &Frozen) -> u32 {
        match self {
            Frames::Equal(_) => 1,
            Frames::Extents(pool) => bytes.capacity().div_ceil(pool.unit()) as u32,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueName {
    Small,
    Main,
}

struct Item {
    key: Key,
    bytes: Option<Frozen>,
    units: u32,
    frequency: Cell<u8>,
    /// Next item of the same hash bucket, or of the list of free items.
    next: u32,
}

/// Frames of one kind, with their items.
struct Class {
    frames: Frames,
    /// Units that items may have together, and how many those of each queue have.
    capacity: usize,
    units_small: usize,
    units_main: usize,
    items: Box<[Item]>,
    free: u32,
    buckets: Box<[u32]>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Units of the small queue from which on it is the one that items leave.
    small_max: usize,
    ghost: Ghost,
}

impl Class {
    /// A class of items of `capacity` units together, each of at least one.
    fn new(frames: Frames, capacity: usize) -> Class {
        let item = |next| {
            let key = Key { address: 0, offset: 0, checksum: 0 };
            Item { key, bytes: None, units: 0, frequency: Cell::new(0), next }
        };
        let last = capacity as u32 - 1;
        Class {
            frames,
            capacity,
            units_small: 0,
            units_main: 0,
            items: (0..=last).map(|i| item(if i == last { NONE } else { i + 1 })).collect(),
            free: 0,
            buckets: vec![NONE; (capacity * 2).next_power_of_two()].into(),
            small: VecDeque::with_capacity(capacity),
            main: VecDeque::with_capacity(capacity),
            small_max: (capacity / 10).max(1),
            ghost: Ghost::new(capacity),
        }
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn get(&self, key: &Key) -> Option<&Frozen> {
        let item = self.items.get(self.find(key) as usize)?;
        item.frequency.set((item.frequency.get() + 1).min(FREQUENCY_MAX));
        item.bytes.as_ref()
    }

    #[inline]
    fn find(&self, key: &Key) -> u32 {
        let mut at = self.buckets[self.bucket(key.hash())];
        while at != NONE && self.items[at as usize].key != *key {
            at = self.items[at as usize].next;
        }
        at
    }

    fn insert(&mut self, key: Key, bytes: Frozen) {
        if self.get(&key).is_some() {
            return;
        }
        let units = self.frames.units_of(&bytes);
        assert!(units > 0 && units as usize <= self.capacity, "an item of {units} units");
        while self.units_small + self.units_main + units as usize > self.capacity {
            self.evict();
        }
        let hash = key.hash();
        let bucket = self.bucket(hash);
        let at = self.free;
        assert!(at != NONE, "there is an item for each unit");
        let item = &mut self.items[at as usize];
        self.free = item.next;
        let (frequency, next) = (Cell::new(0), self.buckets[bucket]);
        *item = Item { key, bytes: Some(bytes), units, frequency, next };
        self.buckets[bucket] = at;
        if self.ghost.take(hash) {
            self.main.push_back(at);
            self.units_main += units as usize;
        } else {
            self.small.push_back(at);
            self.units_small += units as usize;
        }
    }

    /// Drops one item. There is at least one.
    fn evict(&mut self) {
        loop {
            let from_small = self.units_small >= self.small_max || self.main.is_empty();
            let name = if from_small { QueueName::Small } else { QueueName::Main };
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let at = queue.pop_front().expect("the class holds an item");
            let item = &mut self.items[at as usize];
            let units = item.units;
            *(if from_small { &mut self.units_small } else { &mut self.units_main }) -=
                units as usize;
            let frequency = item.frequency.get();
            if frequency == 0 {
                let hash = item.key.hash();
                self.remove(at, hash);
                if name == QueueName::Small {
                    self.ghost.put(hash, units);
                }
                return;
            }
            // Asked for since: from the small queue it is promoted, in the main one it stays.
            item.frequency.set(if from_small { 0 } else { frequency - 1 });
            self.main.push_back(at);
            self.units_main += units as usize;
        }
    }

    fn remove(&mut self, at: u32, hash: u64) {
        let bucket = self.bucket(hash);
        let next = self.items[at as usize].next;
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket];
            while self.items[before as usize].next != at {
                before = self.items[before as usize].next;
            }
            self.items[before as usize].next = next;
        }
        self.items[at as usize].bytes = None;
        self.items[at as usize].next = self.free;
        self.free = at;
    }
}

/// Names that left the small queue not long ago: a table of hashes with the time they came. Time is
/// counted in units that left: what is remembered was together as large as the class.
struct Ghost {
    slots: Box<[(u32, u32)]>,
    time: u32,
    age_max: u32,
}

impl Ghost {
    fn new(capacity: usize) -> Ghost {
        let slots = vec![(0, 0); (capacity * 4).next_power_of_two()].into();
        Ghost { slots, time: capacity as u32 + 1, age_max: capacity as u32 }
    }

    fn slot(&mut self, hash: u64) -> &mut (u32, u32) {
        let slot = (hash >> 24) as usize & (self.slots.len() - 1);
        &mut self.slots[slot]
    }

    fn put(&mut self, hash: u64, units: u32) {
        self.time = self.time.wrapping_add(units);
        let time = self.time;
        *self.slot(hash) = (hash as u32, time);
    }

    fn take(&mut self, hash: u64) -> bool {
        let (time, age_max) = (self.time, self.age_max);
        let slot = self.slot(hash);
        let known = slot.0 == hash as u32 && time.wrapping_sub(slot.1) < age_max;
        if known {
            slot.1 = time.wrapping_sub(age_max);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> Key {
        Key { address: number / 8 + 1, offset: (number % 8) as u32, checksum: number * 77 }
    }

    fn class(capacity: usize) -> Class {
        Class::new(Frames::Equal(BufferPool::new("test", 4096, capacity + 4)), capacity)
    }

    /// Frames or units at home.
    fn available(class: &Class) -> usize {
        match &class.frames {
            Frames::Equal(pool) => pool.available(),
            Frames::Extents(pool) => pool.available(),
        }
    }

    fn frame(class: &mut Class, number: u64) -> Frozen {
        while available(class) == 0 {
            class.evict();
        }
        let mut buffer = class.frames.try_take(4096).unwrap();
        buffer[..8].copy_from_slice(&number.to_le_bytes());
        buffer.freeze()
    }

    proptest! {
        /// Whatever is found is what was put there under that name.
        #[test]
        fn never_answers_for_another(steps in proptest::collection::vec(0u64..60, 1..400)) {
            let mut class = class(16);
            let mut put = HashMap::new();
            for number in steps {
                match class.get(&key(number)) {
                    Some(bytes) => {
                        prop_assert!(put.contains_key(&number));
                        prop_assert_eq!(&bytes[..8], &number.to_le_bytes());
                    }
                    None => {
                        let bytes = frame(&mut class, number);
                        class.insert(key(number), bytes);
                        put.insert(number, ());
                        prop_assert!(class.get(&key(number)).is_some());
                    }
                }
                prop_assert!(class.len() <= 16);
                prop_assert_eq!(available(&class) + class.len(), 16 + 4);
            }
        }
    }

    /// Pages asked for again survive a scan ten times the size of the cache.
    #[test]
    fn a_scan_does_not_wash_out_what_is_used() {
        let mut class = class(100);
        for round in 0..4 {
            for number in 0..50 {
                if class.get(&key(number)).is_none() {
                    let bytes = frame(&mut class, number);
                    class.insert(key(number), bytes);
                }
                let other = 10_000 + round * 50 + number;
                let bytes = frame(&mut class, other);
                class.insert(key(other), bytes);
            }
        }
        for number in 1000..2000 {
            let bytes = frame(&mut class, number);
            class.insert(key(number), bytes);
        }
        let kept = (0..50).filter(|&number| class.get(&key(number)).is_some()).count();
        assert!(kept >= 45, "{kept} of 50 kept");
    }

    proptest! {
        /// Items of any sizes together stay within the class, whatever is evicted for them; what
        /// they do not have is free.
        #[test]
        fn items_of_any_size_share_the_units(
            steps in proptest::collection::vec((0u64..200, 1usize..260_000), 1..400),
        ) {
            let pool = ExtentPool::new("test", UNIT_SIZE, 128 + 64);
            let mut cache = Cache {
                classes: [class(4), Class::new(Frames::Extents(pool), 128)],
            };
            let mut lens = HashMap::new();
            for (number, len) in steps {
                if let Some(bytes) = cache.get(FrameClass::Extent, &key(number)) {
                    prop_assert_eq!((bytes.len(), bytes[0]), (lens[&number], number as u8));
                    continue;
                }
                let mut frame = cache.try_frame(FrameClass::Extent, len).unwrap();
                frame.set_len(len);
                frame[0] = number as u8;
                cache.insert(FrameClass::Extent, key(number), frame.freeze());
                lens.insert(number, len);
                let class = &cache.classes[FrameClass::Extent as usize];
                let items = class.small.iter().chain(&class.main);
                let used: usize = items.map(|&at| class.items[at as usize].units as usize).sum();
                prop_assert_eq!(used, class.units_small + class.units_main);
                prop_assert!(used <= 128);
                prop_assert_eq!(used + available(class), 128 + 64);
            }
        }
    }

    #[test]
    fn another_checksum_at_the_same_place_is_another_item() {
        let mut class = class(4);
        let bytes = frame(&mut class, 1);
        class.insert(key(1), bytes);
        let written_again = Key { checksum: 5, ..key(1) };
        assert!(class.get(&written_again).is_none());
    }
}

#[cfg(test)]
mod model_tests;
