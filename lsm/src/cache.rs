//! The block cache: pages ready to be searched, and index blocks.
//!
//! Memory is cut into *classes* of equal frames at start: one for pages of a slot, two for larger
//! pages, and one for index blocks, whose share keeps them from being displaced by the pages they
//! lead to. Each class evicts on its own. Rows have a cache of their own: [`crate::rows`].
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP
//! 2023): what is new enters a small queue, a tenth of the class; what is asked for again while it
//! is there moves to the main queue, the rest leaves and is remembered by name only (*ghost*); a
//! name remembered enters the main queue at once. The main queue gives second chances. So a scan
//! passes through the small queue and washes nothing out, and a hit changes one byte.
//!
//! An item is named by address, offset and *checksum*: a block that was freed and written again
//! never answers for its predecessor, and stale items need no invalidation; they age out.
//!
//! A hit clones a counted handle: no copy, no allocation. Evicting drops the cache's handle; the
//! frame goes back to its pool when the last reader is done with it. Nothing that is stored depends
//! on what is cached.

use std::collections::VecDeque;

use ioring::{Buffer, BufferPool, Frozen};

use crate::config::{Config, SECTOR_SIZE};

/// Frames that readers and reads in flight may hold beyond what the cache holds.
const FRAMES_SPARE: usize = 8;
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

/// Which frames an item takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameClass {
    Page,
    PageMedium,
    PageLarge,
    Index,
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
    classes: [Class; 4],
    pub(crate) stats: CacheStats,
}

impl Cache {
    pub(crate) fn new(config: &Config) -> Cache {
        let shares = config.cache_shares();
        let (page, block) = (config.page_size as usize, config.block_size as usize);
        // A page that takes one slot may begin behind the block's header: its read is one slot.
        let class = |name, size: usize, share| {
            let size = size.next_multiple_of(SECTOR_SIZE);
            Class::new(
                BufferPool::new(name, size, FRAMES_SPARE + frames(share, size)),
                frames(share, size),
            )
        };
        let classes = [
            class("page cache", page, shares.pages),
            class("page cache, medium", 4 * page + SECTOR_SIZE, shares.pages_medium),
            class("page cache, large", block, shares.pages_large),
            class("index cache", block, shares.indexes),
        ];
        Cache { classes, stats: CacheStats::default() }
    }

    /// The smallest class whose frames hold this many bytes of pages.
    pub(crate) fn class_of_page(&self, len: usize) -> FrameClass {
        if len <= self.class(FrameClass::Page).pool.buffer_size() {
            FrameClass::Page
        } else if len <= self.class(FrameClass::PageMedium).pool.buffer_size() {
            FrameClass::PageMedium
        } else {
            FrameClass::PageLarge
        }
    }

    #[inline]
    pub(crate) fn get(&mut self, class: FrameClass, key: &Key) -> Option<Frozen> {
        self.classes[class as usize].get(key)
    }

    /// Whether an item is there; does not count as asking for it.
    pub(crate) fn contains(&self, class: FrameClass, key: &Key) -> bool {
        self.classes[class as usize].find(key) != NONE
    }

    pub(crate) fn insert(&mut self, class: FrameClass, key: Key, bytes: Frozen) {
        self.classes[class as usize].insert(key, bytes);
    }

    /// A frame, at the price of an item if need be; none if readers hold all of them.
    pub(crate) fn try_frame(&mut self, class: FrameClass) -> Option<Buffer> {
        let class = &mut self.classes[class as usize];
        loop {
            if let Some(frame) = class.pool.try_take() {
                return Some(frame);
            }
            if class.len() == 0 {
                return None;
            }
            class.evict();
        }
    }

    fn class(&self, class: FrameClass) -> &Class {
        &self.classes[class as usize]
    }
}

fn frames(share: usize, size: usize) -> usize {
    (share / size).max(4)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueName {
    Small,
    Main,
}

struct Item {
    key: Key,
    bytes: Option<Frozen>,
    frequency: u8,
    /// Next item of the same hash bucket, or of the list of free items.
    next: u32,
}

/// Frames of one size, with their items.
struct Class {
    pool: BufferPool,
    items: Box<[Item]>,
    free: u32,
    buckets: Box<[u32]>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    small_max: usize,
    ghost: Ghost,
}

impl Class {
    fn new(pool: BufferPool, capacity: usize) -> Class {
        let item = |next| {
            let key = Key { address: 0, offset: 0, checksum: 0 };
            Item { key, bytes: None, frequency: 0, next }
        };
        let last = capacity as u32 - 1;
        Class {
            pool,
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
    fn get(&mut self, key: &Key) -> Option<Frozen> {
        let item = self.items.get_mut(self.find(key) as usize)?;
        item.frequency = (item.frequency + 1).min(FREQUENCY_MAX);
        item.bytes.clone()
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
        if self.free == NONE {
            self.evict();
        }
        let hash = key.hash();
        let bucket = self.bucket(hash);
        let at = self.free;
        let item = &mut self.items[at as usize];
        self.free = item.next;
        *item = Item { key, bytes: Some(bytes), frequency: 0, next: self.buckets[bucket] };
        self.buckets[bucket] = at;
        if self.ghost.take(hash) {
            self.main.push_back(at);
        } else {
            self.small.push_back(at);
        }
    }

    /// Drops one item. There is at least one.
    fn evict(&mut self) {
        loop {
            let from_small = self.small.len() >= self.small_max || self.main.is_empty();
            let name = if from_small { QueueName::Small } else { QueueName::Main };
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let at = queue.pop_front().expect("the class holds an item");
            let item = &mut self.items[at as usize];
            if item.frequency == 0 {
                let hash = item.key.hash();
                self.remove(at, hash);
                if name == QueueName::Small {
                    self.ghost.put(hash);
                }
                return;
            }
            // Asked for since: from the small queue it is promoted, in the main one it stays.
            item.frequency = if from_small { 0 } else { item.frequency - 1 };
            self.main.push_back(at);
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

/// Names that left the small queue not long ago: a table of hashes with the time they came.
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

    fn put(&mut self, hash: u64) {
        self.time = self.time.wrapping_add(1);
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
        Class::new(BufferPool::new("test", 4096, capacity + 4), capacity)
    }

    fn frame(class: &mut Class, number: u64) -> Frozen {
        while class.pool.available() == 0 {
            class.evict();
        }
        let mut buffer = class.pool.try_take().unwrap();
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
                prop_assert_eq!(class.pool.available() + class.len(), class.pool.count());
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
