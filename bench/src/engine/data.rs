//! Which keys and values the engine is given, and what it must give back.
//!
//! A value says which key it belongs to and how often that was written before, and goes on with
//! noise that no compression makes smaller. So every value read is checked whole, against what was
//! written last: a benchmark of wrong answers is worth nothing.
//!
//! *With writers and readers at once.* A key's changes are numbered. Two numbers are kept of it:
//! the newest change that was begun and the newest that was acknowledged. A read may find any
//! change from the one that was acknowledged when it began to the one that is begun when it ends.
//! Whoever changes a key numbers the change and has it applied in the same order; readers need no
//! lock.

use std::sync::atomic::{AtomicU32, Ordering};

use lsm::key::{self, Prefix};
use rand::RngExt;

use crate::workload::random_stream;

/// Bytes of a key as a user would give it.
pub const KEY_SIZE: usize = 16;
/// Bytes of a value that tell which it is; the least a value may have.
pub const STAMP_SIZE: usize = 12;
const NOISE_SIZE: usize = 64 << 10;
const PREFIX: Prefix = Prefix { table: 0, generation: 0, kind: 1 };

/// What is known of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// How often it was written or deleted.
    pub changes: u32,
    /// Whether it is there.
    pub exists: bool,
}

/// The keys, and what each of them was set to last.
pub struct Data {
    value_size: usize,
    noise: Vec<u8>,
    /// [`Known::pack`] of the newest change begun, by key.
    begun: Vec<AtomicU32>,
    /// Likewise of the newest one acknowledged.
    acknowledged: Vec<AtomicU32>,
}

impl Known {
    /// Later changes are larger numbers.
    fn pack(self) -> u32 {
        self.changes << 1 | u32::from(self.exists)
    }

    fn unpack(packed: u32) -> Known {
        Known { changes: packed >> 1, exists: packed & 1 == 1 }
    }
}

impl Data {
    /// Keys that do not exist yet.
    #[must_use]
    pub fn new(keys: u64, value_size: usize, seed: u64) -> Data {
        let mut random = random_stream(seed, u64::MAX);
        let noise = (0..NOISE_SIZE + value_size).map(|_| random.random()).collect();
        let none = || (0..keys).map(|_| AtomicU32::new(0)).collect();
        Data { value_size, noise, begun: none(), acknowledged: none() }
    }

    /// How many keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.begun.len() as u64
    }

    /// Bytes of a key with its value.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        (KEY_SIZE + self.value_size) as u64
    }

    /// Keys that exist once all that was begun is done.
    #[must_use]
    pub fn existing(&self) -> u64 {
        let exists = |known: &&AtomicU32| Known::unpack(known.load(Ordering::Relaxed)).exists;
        self.begun.iter().filter(exists).count() as u64
    }

    /// What is known of a key: its newest acknowledged change.
    #[must_use]
    pub fn known(&self, key: u64) -> Known {
        Known::unpack(self.acknowledged[key as usize].load(Ordering::Acquire))
    }

    /// Begins a write of a key, and appends the value to write. Changes of a key are begun one at a
    /// time.
    pub fn next_value(&self, key: u64, out: &mut Vec<u8>) -> Known {
        let known = self.begin(key, true);
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&known.changes.to_le_bytes());
        let rest = self.value_size - STAMP_SIZE;
        let start = self.noise_of(key, known.changes);
        out.extend_from_slice(&self.noise[start..start + rest]);
        known
    }

    /// Begins a delete.
    pub fn delete(&self, key: u64) -> Known {
        self.begin(key, false)
    }

    /// Notes that a change was acknowledged, and all before it with it.
    pub fn acknowledge(&self, key: u64, change: Known) {
        self.acknowledged[key as usize].fetch_max(change.pack(), Ordering::Release);
    }

    fn begin(&self, key: u64, exists: bool) -> Known {
        let begun = &self.begun[key as usize];
        let changes = Known::unpack(begun.load(Ordering::Relaxed)).changes + 1;
        let known = Known { changes, exists };
        begun.store(known.pack(), Ordering::Release);
        known
    }

    fn noise_of(&self, key: u64, changes: u32) -> usize {
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 13) as usize % (NOISE_SIZE - 997)
            + changes as usize % 997
    }

    /// Whether a value, or none, is what a read of a key may find that began when `before` was
    /// known of it.
    #[must_use]
    pub fn is_right(&self, key: u64, value: Option<&[u8]>, before: Known) -> bool {
        let now = Known::unpack(self.begun[key as usize].load(Ordering::Acquire));
        let Some(value) = value else { return !before.exists || !now.exists };
        let Some((stamp, rest)) = value.split_first_chunk::<STAMP_SIZE>() else { return false };
        let (owner, changes) = stamp.split_at(8);
        let changes = u32::from_le_bytes(changes.try_into().expect("four of twelve bytes"));
        let start = self.noise_of(key, changes);
        owner == key.to_le_bytes()
            && (before.changes..=now.changes).contains(&changes)
            && (before.exists || before != now)
            && value.len() == self.value_size
            && rest == &self.noise[start..start + rest.len()]
    }
}

/// A key as a user would give it. `between` makes one that stands right behind its number's key and
/// does not exist.
#[must_use]
pub fn user_key(number: u64, between: bool) -> [u8; KEY_SIZE] {
    let mut text = [b'0'; KEY_SIZE];
    let mut rest = number;
    for digit in text.iter_mut().rev().skip(1) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text[KEY_SIZE - 1] = if between { b'x' } else { b'k' };
    text
}

/// Writes the encoded form of a key, as the engine's trees have it.
pub fn encode(number: u64, between: bool, out: &mut Vec<u8>) {
    out.clear();
    key::encode_into(out, PREFIX, &user_key(number, between), &[]);
}

/// A permutation of `0..keys` without a table: the `index`-th of it.
#[must_use]
pub fn scatter(index: u64, keys: u64) -> u64 {
    // Prime and larger than any number of keys, so all remainders are met once.
    const STEP: u64 = 2_147_483_647;
    (u128::from(index) * u128::from(STEP) % u128::from(keys)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_last_is_right() {
        let data = Data::new(10, 100, 1);
        let never = data.known(3);
        assert!(data.is_right(3, None, never));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let change = data.next_value(3, &mut first);
        assert!(data.is_right(3, None, data.known(3)), "it is not acknowledged yet");
        assert!(data.is_right(3, Some(&first), data.known(3)), "and may be there already");
        data.acknowledge(3, change);
        let once = data.known(3);
        assert!(data.is_right(3, Some(&first), once));
        assert!(!data.is_right(3, None, once) && !data.is_right(4, Some(&first), never));
        let change = data.next_value(3, &mut second);
        assert!(data.is_right(3, Some(&first), data.known(3)), "the second may not be there yet");
        data.acknowledge(3, change);
        assert!(data.is_right(3, Some(&first), once), "it was read before the second write");
        assert!(!data.is_right(3, Some(&first), data.known(3)), "an old value");
        second[50] ^= 1;
        assert!(!data.is_right(3, Some(&second), data.known(3)));
        let change = data.delete(3);
        data.acknowledge(3, change);
        assert!(data.is_right(3, None, data.known(3)));
        assert!(!data.is_right(3, Some(&first), data.known(3)), "it was deleted");
        assert_eq!(data.existing(), 0);
    }

    #[test]
    fn keys_are_in_the_order_of_their_numbers_and_permuted() {
        let encoded = |number, between| {
            let mut encoded = Vec::new();
            encode(number, between, &mut encoded);
            encoded
        };
        assert_eq!(&user_key(123, false), b"000000000000123k");
        assert!(encoded(99, true) < encoded(100, false));
        assert!(encoded(100, false) < encoded(100, true));
        let mut seen: Vec<u64> = (0..1000).map(|index| scatter(index, 1000)).collect();
        assert_ne!(seen[1], 1);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
    }
}
