//! The hash index beside the ordered tree: key hash → key record, for point reads and overwrites.
//!
//! Open addressing with linear probing over 8-byte slots:
//!
//! ```text
//! bits 63..35  offset of the key record in the arena, in units of eight bytes
//! bits 34..8   the upper 27 bits of the hash
//! bits  7..0   epoch: a slot of another epoch is empty
//! ```
//!
//! **Size.** A table as large as the arena could ever need is a cache miss and a TLB miss for each
//! look-up, though most bars hold few keys and most look-ups find nothing here. So a bar begins
//! with a table of [`SLOTS_MIN`] slots, and doubles it when three quarters are taken. The table of
//! n slots stands at slots n..2n of one region that is reserved at start: every size has a place of
//! its own, and nothing is allocated or moved aside.
//!
//! **Doubling** never looks at a record. The home of a hash among n slots is its upper log2(n)
//! bits, which are in the slot: what had home h goes to 2h or 2h + 1. So copying reads and writes
//! both tables from their beginnings to their ends. It is spread over the insertions that follow,
//! [`COPIED_AT_ONCE`] slots each:
//!
//! 1. the old table is not changed any more: until it is copied, what is not found in the new one
//!    is looked for in the old one;
//! 2. new keys go to the new table only;
//! 3. the copy ends long before the new table is full (checked below), so there are never more than
//!    two.
//!
//! **Emptying** it at a bar's end is an increment of the epoch. Only every 255th time are slots
//! really cleared, as many as were ever used. Slots are zeroed by the operating system when first
//! touched (epoch 0 is never current), so an idle table takes no memory.
//!
//! Keys are never removed before the whole memtable is, so there are no deletion marks. The order
//! of slots decides nothing: nobody iterates over them.

use ioring::{Buffer, prefetch};

use super::arena::{ALIGN, Offset};

/// Slots of a bar's first table: they fit the first-level cache beside everything else.
const SLOTS_MIN: usize = 256;
/// Slots of the old table that an insertion copies.
const COPIED_AT_ONCE: usize = 32;
const SLOT_SIZE: usize = size_of::<u64>();
const EPOCH_BITS: u32 = 8;
/// Bits of a hash that a slot keeps: no table has more slots than they can tell apart.
const HASH_BITS: u32 = 27;
const OFFSET_SHIFT: u32 = EPOCH_BITS + HASH_BITS;
const NAME_MASK: u64 = (1 << OFFSET_SHIFT) - 1;

const _: () = assert!((u32::MAX as u64 / ALIGN as u64) >> (u64::BITS - OFFSET_SHIFT) == 0);
const _: () = assert!(SLOTS_MIN.is_power_of_two() && SLOTS_MIN.is_multiple_of(COPIED_AT_ONCE));
// A table of n slots was copied after n/2 / COPIED_AT_ONCE insertions, and doubles after 3n/8.
const _: () = assert!(COPIED_AT_ONCE >= 2);

pub(super) struct HashIndex {
    /// The tables of all sizes, one behind the other.
    memory: Buffer,
    /// Slots of the table in use: a power of two.
    slots: usize,
    slots_max: usize,
    /// Slots of the largest table there ever was.
    slots_used: usize,
    /// Slots of the table before this one that are copied; all of them, except while doubling.
    copied: usize,
    epoch: u8,
    len: usize,
}

impl HashIndex {
    /// A table that can grow to `keys_max` keys.
    pub(super) fn new(keys_max: usize) -> HashIndex {
        let slots_max = (keys_max * 4 / 3 + 4).next_power_of_two().max(SLOTS_MIN);
        assert!(slots_max <= 1 << HASH_BITS, "{keys_max} keys need more bits of their hashes");
        HashIndex {
            memory: Buffer::zeroed(2 * slots_max * SLOT_SIZE),
            slots: SLOTS_MIN,
            slots_max,
            slots_used: SLOTS_MIN,
            copied: SLOTS_MIN / 2,
            epoch: 1,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn reset(&mut self) {
        self.slots_used = self.slots_used.max(self.slots);
        (self.slots, self.copied, self.len) = (SLOTS_MIN, SLOTS_MIN / 2, 0);
        if self.epoch == u8::MAX {
            self.memory[..2 * self.slots_used * SLOT_SIZE].fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
    }

    /// Finds the record for which `matches` holds among those with this hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, matches: impl Fn(Offset) -> bool) -> Option<Offset> {
        let found = self.find_in(self.slots, hash, &matches);
        if found.is_some() || self.is_copied() {
            return found;
        }
        self.find_in(self.slots / 2, hash, &matches)
    }

    /// Asks for the slot at which a look-up of this hash begins.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let at = (self.slots + home(self.name(hash), self.slots)) * SLOT_SIZE;
        prefetch(&self.memory[at..at + SLOT_SIZE]);
    }

    /// Adds a record that is not there yet.
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, record: Offset) {
        if !self.is_copied() {
            self.copy_some();
        }
        if self.len >= self.slots / 4 * 3 && self.slots < self.slots_max {
            assert!(self.is_copied(), "a copy ends long before the next one is due");
            self.slots *= 2;
            self.copied = 0;
        }
        self.len += 1;
        assert!(self.len < self.slots, "a full table would make a search endless");
        let units = u64::from(record) / ALIGN as u64;
        self.fill(units << OFFSET_SHIFT | self.name(hash));
    }

    #[inline]
    fn find_in(&self, size: usize, hash: u64, matches: &impl Fn(Offset) -> bool) -> Option<Offset> {
        let table = &self.memory.as_chunks::<SLOT_SIZE>().0[size..2 * size];
        let name = self.name(hash);
        let mut at = home(name, size);
        loop {
            let slot = u64::from_le_bytes(table[at]);
            if slot & NAME_MASK == name {
                let record = (slot >> OFFSET_SHIFT) as Offset * ALIGN as Offset;
                if matches(record) {
                    return Some(record);
                }
            } else if slot as u8 != self.epoch {
                return None;
            }
            at = (at + 1) & (size - 1);
        }
    }

    /// Puts a slot into the table in use.
    #[inline]
    fn fill(&mut self, slot: u64) {
        let (size, epoch) = (self.slots, self.epoch);
        let table = &mut self.memory.as_chunks_mut::<SLOT_SIZE>().0[size..2 * size];
        let mut at = home(slot & NAME_MASK, size);
        while u64::from_le_bytes(table[at]) as u8 == epoch {
            at = (at + 1) & (size - 1);
        }
        table[at] = slot.to_le_bytes();
    }

    #[inline]
    fn is_copied(&self) -> bool {
        self.copied == self.slots / 2
    }

    /// Copies the next few slots of the old table.
    fn copy_some(&mut self) {
        let start = self.slots / 2 + self.copied;
        self.copied += COPIED_AT_ONCE;
        for at in start..start + COPIED_AT_ONCE {
            let slot = u64::from_le_bytes(self.memory.as_chunks::<SLOT_SIZE>().0[at]);
            if slot as u8 == self.epoch {
                self.fill(slot);
            }
        }
    }

    /// What a slot of this hash has below its offset.
    #[inline]
    fn name(&self, hash: u64) -> u64 {
        hash >> (u64::BITS - HASH_BITS) << EPOCH_BITS | u64::from(self.epoch)
    }
}

/// The first slot to look at among `size`: the upper bits of the hash, as a name has them.
#[inline]
fn home(name: u64, size: usize) -> usize {
    (name >> (OFFSET_SHIFT - size.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Finds by record: what a memtable does by comparing keys.
    fn find(index: &HashIndex, hash: u64, record: Offset) -> bool {
        index.find(hash, |found| found == record).is_some()
    }

    fn scattered(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn colliding_hashes_are_kept_apart() {
        let mut index = HashIndex::new(1000);
        for record in 1..=900 {
            insert_checked(&mut index, 42 << 40, record * 8);
        }
        for record in 1..=900 {
            assert!(find(&index, 42 << 40, record * 8));
        }
        assert!(!find(&index, 42 << 40, 8 * 901));
        assert!(!find(&index, 43 << 40, 8));
    }

    fn insert_checked(index: &mut HashIndex, hash: u64, record: Offset) {
        assert!(!find(index, hash, record), "already there");
        index.insert(hash, record);
        assert!(find(index, hash, record), "not there after it was inserted");
    }

    /// Every key is found before, while and after the table doubles, at every size up to the
    /// largest; the steps in which all are looked up lie closer while a copy is under way.
    #[test]
    fn nothing_is_lost_while_the_table_doubles_from_the_first_size_to_the_last() {
        const KEYS: u32 = 50_000;
        let mut index = HashIndex::new(KEYS as usize);
        let (mut sizes, mut looked_while_copying) = (1, 0);
        for number in 1..=KEYS {
            let before = index.slots;
            insert_checked(&mut index, scattered(number.into()), number * 8);
            sizes += u32::from(index.slots != before);
            let stride = if index.is_copied() { 4999 } else { 1 + index.slots as u32 / 512 };
            if number % stride == 0 {
                looked_while_copying += u32::from(!index.is_copied());
                for other in 1..=number {
                    assert!(find(&index, scattered(other.into()), other * 8), "{other}");
                }
                assert!(!find(&index, scattered((number + 1).into()), number * 8 + 8));
            }
        }
        assert_eq!(sizes, 1 + (index.slots_max / SLOTS_MIN).ilog2());
        assert!(looked_while_copying > 30, "{looked_while_copying}");
    }

    #[test]
    fn the_largest_offset_and_the_largest_hash_fit_a_slot() {
        let mut index = HashIndex::new(100);
        let largest = u32::MAX / 8 * 8;
        insert_checked(&mut index, u64::MAX, largest);
        assert_eq!(index.find(u64::MAX, |_| true), Some(largest));
        assert_eq!(index.find(0, |_| true), None);
    }

    /// Rounds of different sizes: the large one that wraps the epoch meets the slots of the large
    /// one before, which had the same epoch, where no round in between has been.
    #[test]
    fn a_reset_empties_tables_of_every_size_also_when_the_epoch_wraps() {
        let mut index = HashIndex::new(4000);
        for round in 0..600_u64 {
            let keys = if round % 255 == 0 { 3000 } else { 10 + round };
            for number in 0..keys {
                let hash = scattered(number);
                assert!(index.find(hash, |_| true).is_none(), "round {round} sees an older one");
                index.insert(hash, 8 + 8 * number as u32);
            }
            index.reset();
            assert!(index.find(scattered(1), |_| true).is_none());
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64))]
        /// Hashes with few different upper bits make long runs of slots that wrap around.
        #[test]
        fn equals_a_map(rounds in proptest::collection::vec(
            (0u32..1200, 1u64..64, any::<u64>()), 1..4,
        )) {
            let mut index = HashIndex::new(4000);
            for (count, spread, seed) in rounds {
                let hash_of = |number: u32| {
                    let hash = scattered(u64::from(number) ^ seed);
                    (hash % spread) << 58 | hash >> 12
                };
                let mut model = BTreeMap::new();
                for number in 0..count {
                    index.insert(hash_of(number), number * 8 + 8);
                    model.insert(number * 8 + 8, hash_of(number));
                }
                for (record, hash) in model {
                    prop_assert!(find(&index, hash, record));
                    prop_assert!(!find(&index, !hash, record));
                }
                index.reset();
            }
        }
    }
}
