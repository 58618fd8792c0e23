//! The hash index beside the ordered tree: key hash → key record, for point reads and overwrites.
//!
//! Open addressing with linear probing over 8-byte slots:
//!
//! ```text
//! bits 63..32  offset of the key record in the arena
//! bits 31..8   24 bits of the hash, so that nearly every probe of a wrong key is rejected here
//! bits  7..0   epoch: a slot of another epoch is empty
//! ```
//!
//! The table is sized at start for as many keys as fit the arena and never grows. Emptying it at a
//! bar's end is an increment of the epoch; only every 255th time the slots are really cleared, so
//! a bar's end does not pay for the table's size. Slots are zeroed by the operating system when
//! first touched (epoch 0 is never current), so an idle table takes no memory.
//!
//! Keys are never removed before the whole memtable is, so there are no deletion marks. The order
//! of slots decides nothing: nobody iterates over them.

use super::arena::Offset;

pub(super) struct HashIndex {
    slots: Vec<u64>,
    mask: usize,
    epoch: u8,
    len: usize,
}

/// What a probe found: the record, or the slot where it belongs.
pub(super) enum Probe {
    Found(Offset),
    Vacant(usize),
}

impl HashIndex {
    /// A table that keeps its load at or below three quarters with `keys_max` keys.
    pub(super) fn new(keys_max: usize) -> HashIndex {
        let slots = (keys_max * 4 / 3 + 4).next_power_of_two();
        HashIndex { slots: vec![0; slots], mask: slots - 1, epoch: 1, len: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.len = 0;
        if self.epoch == u8::MAX {
            self.slots.fill(0);
            self.epoch = 1;
        } else {
            self.epoch += 1;
        }
    }

    /// Finds the record for which `matches` holds among those with this hash.
    #[inline]
    pub(super) fn probe(&self, hash: u64, matches: impl Fn(Offset) -> bool) -> Probe {
        let wanted = self.low_bits(hash);
        let mut slot = home(hash) & self.mask;
        loop {
            let value = self.slots[slot];
            let low = value as u32;
            if low == wanted {
                let offset = (value >> 32) as Offset;
                if matches(offset) {
                    return Probe::Found(offset);
                }
            } else if low as u8 != self.epoch {
                return Probe::Vacant(slot);
            }
            slot = (slot + 1) & self.mask;
        }
    }

    /// Fills the vacant slot that `probe` returned for this hash.
    #[inline]
    pub(super) fn fill(&mut self, slot: usize, hash: u64, offset: Offset) {
        assert!(self.slots[slot] as u8 != self.epoch, "the slot is taken");
        self.len += 1;
        assert!(self.len < self.slots.len(), "a full table would make a probe endless");
        self.slots[slot] = (u64::from(offset) << 32) | u64::from(self.low_bits(hash));
    }

    #[inline]
    fn low_bits(&self, hash: u64) -> u32 {
        ((hash as u32) & !0xff) | u32::from(self.epoch)
    }
}

/// The first slot to look at comes from bits that the slot's own 24 do not hold.
#[inline]
fn home(hash: u64) -> usize {
    (hash >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(index: &mut HashIndex, hash: u64, offset: Offset) {
        match index.probe(hash, |found| found == offset) {
            Probe::Vacant(slot) => index.fill(slot, hash, offset),
            Probe::Found(_) => panic!("already there"),
        }
    }

    fn find(index: &HashIndex, hash: u64, offset: Offset) -> bool {
        matches!(index.probe(hash, |found| found == offset), Probe::Found(_))
    }

    #[test]
    fn colliding_hashes_are_kept_apart() {
        let mut index = HashIndex::new(64);
        for offset in 1..=64 {
            insert(&mut index, 42, offset * 8);
        }
        for offset in 1..=64 {
            assert!(find(&index, 42, offset * 8));
        }
        assert!(!find(&index, 42, 8 * 65));
        assert!(!find(&index, 43 << 32, 8));
    }

    #[test]
    fn a_reset_empties_the_table_also_when_the_epoch_wraps() {
        let mut index = HashIndex::new(8);
        for round in 0..600_u32 {
            let hash = u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert!(!find(&index, hash, 8), "round {round} sees an older round");
            insert(&mut index, hash, 8);
            assert!(find(&index, hash, 8));
            index.reset();
            assert!(!find(&index, hash, 8));
        }
    }
}
