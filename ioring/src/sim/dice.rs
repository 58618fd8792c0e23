//! Seeded decisions and the hash that proves them repeatable.
//!
//! Everything that is left to chance in a simulation is a throw of a [`Dice`], and every purpose
//! has dice of its own, split from the seed by name. Two purposes therefore never disturb each
//! other: a disk that throws once more does not change what the scheduler does next, which keeps a
//! failing run close to its neighbours while one looks for the cause.
//!
//! Integers only: floating point would make a run depend on how the machine rounds.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// A stream of seeded decisions.
#[derive(Clone, Debug)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The dice of `purpose` under `seed`.
    pub fn new(seed: u64, purpose: &str) -> Dice {
        let mut hash = TraceHash::new();
        hash.add(seed);
        hash.add_bytes(purpose.as_bytes());
        Dice(Xoshiro256PlusPlus::seed_from_u64(hash.value()))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // A multiplication instead of a remainder: the bias (2^-64 × bound) does not matter here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low}..={high}");
        low + self.below(high - low + 1)
    }

    /// True `per_million` times in a million. Draws nothing at a rate of zero, so that a run
    /// without faults does not change when a kind of fault is added.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }
}

/// A running 64-bit hash of what happened. Not cryptographic: equal traces give equal values and
/// unequal ones almost never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceHash(u64);

impl TraceHash {
    /// The hash of nothing.
    pub fn new() -> TraceHash {
        TraceHash(0x9e37_79b9_7f4a_7c15)
    }

    /// Mixes in one number.
    pub fn add(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = (mixed ^ (mixed >> 32)).rotate_left(23).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }

    /// Mixes in bytes, and their number.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The value so far.
    pub fn value(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

impl Default for TraceHash {
    fn default() -> TraceHash {
        TraceHash::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_have_streams_of_their_own() {
        let draw = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            [dice.bits(), dice.bits(), dice.bits()]
        };
        assert_eq!(draw(7, "disk"), draw(7, "disk"));
        assert_ne!(draw(7, "disk"), draw(7, "net"));
        assert_ne!(draw(7, "disk"), draw(8, "disk"));
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut dice = Dice::new(1, "range");
        let drawn: Vec<u64> = (0..400).map(|_| dice.between(3, 6)).collect();
        assert!((3..=6).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (3..=6).contains(n)));
        assert!(!dice.chance(0) && dice.chance(1_000_000));
    }

    #[test]
    fn the_hash_sees_order_and_boundaries() {
        let of = |parts: &[&[u8]]| {
            let mut hash = TraceHash::new();
            parts.iter().for_each(|part| hash.add_bytes(part));
            hash.value()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"b", b"a"]));
        assert_ne!(of(&[b"\0"]), of(&[b"\0\0"]));
    }
}
