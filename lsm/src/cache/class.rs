//! Which items of a class stay: S3-FIFO (see the module above), with items of different sizes.
//!
//! A class knows names, bytes and how many units each item takes; where these are is the cache's
//! business. How many units all items may take together is told, and may change
//! ([`Class::set_capacity`]).
//!
//! An item can be taken out of turn ([`Class::remove`]). It cannot be found from then on, and its
//! units are given up; its place in the queue is passed over when its turn comes.

use std::cell::Cell;
use std::collections::VecDeque;

use ioring::Frozen;

use super::Key;

const FREQUENCY_MAX: u8 = 3;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Item {
    key: Key,
    /// None: it was removed, or is on the list of free items.
    bytes: Option<Frozen>,
    units: u32,
    frequency: Cell<u8>,
    queue: Queue,
    /// Next item of the same hash bucket, or of the list of free items.
    next: u32,
}

/// Items of one kind; see the module.
pub(super) struct Class {
    /// Units that items may have together, and how many those of each queue have.
    capacity: usize,
    units_small: usize,
    units_main: usize,
    /// Those that there ever were, as many as there may be units at most: memory that no item
    /// needed yet is not touched.
    items: Vec<Item>,
    free: u32,
    buckets: Box<[u32]>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: Ghost,
}

impl Class {
    /// A class of items of at most `units_most` units together, each of at least one.
    pub(super) fn new(units_most: usize) -> Class {
        Class {
            capacity: units_most,
            units_small: 0,
            units_main: 0,
            items: Vec::with_capacity(units_most),
            free: NONE,
            buckets: vec![NONE; (units_most * 2).next_power_of_two()].into(),
            small: VecDeque::with_capacity(units_most),
            main: VecDeque::with_capacity(units_most),
            ghost: Ghost::new(units_most),
        }
    }

    /// Units of all items.
    pub(super) fn units(&self) -> usize {
        self.units_small + self.units_main
    }

    /// From now on items have at most so many units together; those that have to leave do.
    pub(super) fn set_capacity(&mut self, units: usize) {
        assert!(units > 0 && units <= self.items.capacity(), "{units} units");
        self.capacity = units;
        self.ghost.age_max = units as u32;
        self.shrink_to(units);
    }

    fn shrink_to(&mut self, units: usize) {
        while self.units() > units {
            assert!(self.evict(), "who has units has items");
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    pub(super) fn get(&self, key: &Key) -> Option<&Frozen> {
        let item = self.items.get(self.find(key) as usize)?;
        item.frequency.set((item.frequency.get() + 1).min(FREQUENCY_MAX));
        item.bytes.as_ref()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.find(key) != NONE
    }

    #[inline]
    fn find(&self, key: &Key) -> u32 {
        let mut at = self.buckets[self.bucket(key.hash())];
        while at != NONE && self.items[at as usize].key != *key {
            at = self.items[at as usize].next;
        }
        at
    }

    /// What an item holds, by the number that [`Class::insert`] gave; none if it has left, while
    /// no other has its number.
    pub(super) fn bytes(&self, number: u32) -> Option<&Frozen> {
        self.items.get(number as usize)?.bytes.as_ref()
    }

    /// Takes an item in, at the price of others; its number, unless it is there already.
    pub(super) fn insert(&mut self, key: Key, bytes: Frozen, units: usize) -> Option<u32> {
        if self.get(&key).is_some() {
            return None;
        }
        assert!(units > 0 && units <= self.capacity, "an item of {units} units");
        self.shrink_to(self.capacity - units);
        // Items that were removed keep their numbers until their turn comes.
        while self.free == NONE && self.items.len() == self.items.capacity() {
            assert!(self.evict(), "an item that is not free is in a queue");
        }
        let hash = key.hash();
        let bucket = self.bucket(hash);
        let queue = if self.ghost.take(hash) { Queue::Main } else { Queue::Small };
        let (frequency, next, units) = (Cell::new(0), self.buckets[bucket], units as u32);
        let item = Item { key, bytes: Some(bytes), units, frequency, queue, next };
        let at = self.free;
        let at = match self.items.get_mut(at as usize) {
            Some(free) => {
                self.free = std::mem::replace(free, item).next;
                at
            }
            None => {
                self.items.push(item);
                self.items.len() as u32 - 1
            }
        };
        self.buckets[bucket] = at;
        self.enter(at, queue);
        Some(at)
    }

    fn enter(&mut self, at: u32, queue: Queue) {
        let item = &mut self.items[at as usize];
        item.queue = queue;
        let (names, units) = match queue {
            Queue::Small => (&mut self.small, &mut self.units_small),
            Queue::Main => (&mut self.main, &mut self.units_main),
        };
        names.push_back(at);
        *units += item.units as usize;
    }

    /// Drops one item, if there is one; or only what one that was removed has left.
    pub(super) fn evict(&mut self) -> bool {
        let small_max = (self.capacity / 10).max(1);
        loop {
            let from_small = self.units_small >= small_max || self.main.is_empty();
            let next = if from_small { self.small.pop_front() } else { self.main.pop_front() };
            // What is left of the small queue may have been removed, all of it.
            let Some(at) = next else { return false };
            let item = &self.items[at as usize];
            if item.bytes.is_none() {
                self.release(at);
                return true;
            }
            let (queue, frequency) = (item.queue, item.frequency.get());
            if frequency == 0 {
                let (hash, units) = (item.key.hash(), item.units);
                self.remove_item(at);
                self.release(at);
                if queue == Queue::Small {
                    self.ghost.put(hash, units);
                }
                return true;
            }
            // Asked for since: from the small queue it is promoted, in the main one it stays.
            item.frequency.set(if queue == Queue::Small { 0 } else { frequency - 1 });
            *self.units_of(queue) -= self.items[at as usize].units as usize;
            self.enter(at, Queue::Main);
        }
    }

    fn units_of(&mut self, queue: Queue) -> &mut usize {
        match queue {
            Queue::Small => &mut self.units_small,
            Queue::Main => &mut self.units_main,
        }
    }

    /// Takes an item out of turn, if it is there.
    pub(super) fn remove(&mut self, key: &Key) {
        let at = self.find(key);
        if at != NONE {
            self.remove_item(at);
        }
    }

    /// The same by its number.
    pub(super) fn remove_item(&mut self, at: u32) {
        let item = &mut self.items[at as usize];
        assert!(item.bytes.take().is_some(), "an item leaves once");
        let (hash, next) = (item.key.hash(), item.next);
        let (queue, units) = (item.queue, item.units as usize);
        *self.units_of(queue) -= units;
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while self.items[before as usize].next != at {
            before = self.items[before as usize].next;
        }
        self.items[before as usize].next = next;
    }

    /// Puts an item that is in no queue any more on the list of free ones.
    fn release(&mut self, at: u32) {
        self.items[at as usize].next = self.free;
        self.free = at;
    }
}

/// Names that left the small queue not long ago: a table of hashes with the time they came. Time is
/// counted in units that left: what is remembered was together as large as the class.
pub(super) struct Ghost {
    slots: Box<[(u32, u32)]>,
    time: u32,
    age_max: u32,
    /// What `age_max` may be at most.
    most: u32,
}

impl Ghost {
    pub(super) fn new(units_most: usize) -> Ghost {
        let slots = vec![(0, 0); (units_most * 4).next_power_of_two()].into();
        let most = units_most as u32;
        Ghost { slots, time: most + 1, age_max: most, most }
    }

    pub(super) fn slot(&mut self, hash: u64) -> &mut (u32, u32) {
        let slot = (hash >> 24) as usize & (self.slots.len() - 1);
        &mut self.slots[slot]
    }

    fn put(&mut self, hash: u64, units: u32) {
        self.time = self.time.wrapping_add(units);
        let time = self.time;
        *self.slot(hash) = (hash as u32, time);
    }

    fn take(&mut self, hash: u64) -> bool {
        let (time, age_max, most) = (self.time, self.age_max, self.most);
        let slot = self.slot(hash);
        let known = slot.0 == hash as u32 && time.wrapping_sub(slot.1) < age_max;
        if known {
            slot.1 = time.wrapping_sub(most);
        }
        known
    }
}

#[cfg(test)]
mod tests;
