//! Random numbers: one stream per purpose, so that a new use of randomness does not change what the
//! others draw. Under a simulation the streams follow from its seed; otherwise from the operating
//! system. Not for secrets: the generator is xoshiro256++ (Blackman and Vigna, 2019).

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::core::Core;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    generator: Xoshiro256PlusPlus,
}

/// A new stream for a purpose. Within one simulation, the same purpose on the same core gives a
/// stream that the seed decides.
pub fn random(purpose: &str) -> Random {
    let seed = Core::try_with(|core| core.driver.random_seed(purpose));
    Random::from_seed(seed.unwrap_or_else(entropy))
}

impl Random {
    /// The stream of a seed.
    pub fn from_seed(seed: [u8; 32]) -> Random {
        Random { generator: Xoshiro256PlusPlus::from_seed(seed) }
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A number below `bound`, all equally likely (Lemire, 2019).
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// True once in `one_in` times.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Entropy of the operating system.
pub(crate) fn entropy() -> [u8; 32] {
    let mut seed = [0; 32];
    crate::system::fill_entropy(&mut seed);
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_every_value() {
        let mut random = Random::from_seed([7; 32]);
        let mut seen = [0; 6];
        for _ in 0..6000 {
            seen[random.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    #[test]
    fn streams_follow_from_their_seed() {
        let (mut a, mut b) = (Random::from_seed([1; 32]), Random::from_seed([1; 32]));
        let (mut left, mut right) = ([0; 13], [0; 13]);
        a.fill(&mut left);
        b.fill(&mut right);
        assert_eq!(left, right);
        assert_ne!(random("a").next_u64(), random("a").next_u64());
    }
}
