//! How fast the core is while something is measured on it.
//!
//! A virtual machine shares its host, and is not told when it gets less of it: a neighbour on the
//! same physical core takes issue slots, one on the same socket takes cache and memory. So fixed
//! pieces of work are timed every now and then, between two ops, each for one of these. What they
//! take in a second, against what they take usually, tells a slow host from a slow engine. At
//! 100 µs in 50 ms they take 0.2 % of the core.

use std::hint::black_box;
use std::time::Duration;

use ioring::Instant;
use rand::RngExt;

use crate::workload::random_stream;

/// More than the caches of a core hold.
const PLACES: usize = 8 << 20;
/// Steps of a walk.
const STEPS: usize = 256;
/// Times that the sums over a page are taken.
const ROUNDS: u64 = 128;
/// Bytes that are copied.
const COPY: usize = 256 << 10;
/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long each piece of work took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    /// Sums over a page in eight chains that do not wait for each other.
    pub(super) arithmetic: Duration,
    /// A walk through memory in an order that no prefetcher foresees.
    pub(super) walk: Duration,
    /// A copy of as many bytes as a block has, from memory that is in no cache.
    pub(super) copy: Duration,
}

/// Times fixed pieces of work, every [`INTERVAL`].
pub(super) struct Gauge {
    /// One cycle through all places: each names the next.
    places: Vec<u32>,
    at: u32,
    page: [[u64; 8]; 64],
    block: Vec<u32>,
    last: Instant,
}

impl Gauge {
    pub(super) fn new() -> Gauge {
        let mut places: Vec<u32> = (0..PLACES as u32).collect();
        let mut random = random_stream(1, 1 << 41);
        // Sattolo's shuffle: a permutation of one cycle.
        for index in (1..PLACES).rev() {
            places.swap(index, random.random_range(0..index));
        }
        let block = vec![0; COPY / size_of::<u32>()];
        Gauge { places, at: 0, page: [[3; 8]; 64], block, last: ioring::now() }
    }

    /// How long the work took, if it was time to look.
    pub(super) fn look(&mut self) -> Option<Look> {
        let start = ioring::now();
        if start.since(self.last) < INTERVAL {
            return None;
        }
        let mut sums = [u64::from(self.at); 8];
        for round in 0..ROUNDS {
            for words in &self.page {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = (*sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(round);
                }
            }
        }
        self.page[0] = black_box(sums);
        let summed = ioring::now();
        for _ in 0..STEPS {
            self.at = self.places[self.at as usize];
        }
        let walked = ioring::now();
        let length = self.block.len();
        let from = self.at as usize % (PLACES - length);
        self.block.copy_from_slice(&self.places[from..from + length]);
        black_box(&self.block);
        self.last = ioring::now();
        Some(Look {
            arithmetic: summed.since(start),
            walk: walked.since(summed),
            copy: self.last.since(walked),
        })
    }
}

/// The middle of each of the times, in microseconds; zero of none.
pub(super) fn medians_us(looks: &[Look]) -> [f64; 3] {
    let of: [fn(&Look) -> Duration; 3] =
        [|look| look.arithmetic, |look| look.walk, |look| look.copy];
    of.map(|of| {
        let mut times: Vec<Duration> = looks.iter().map(of).collect();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_of_those_there_are() {
        let look = |us: u64| {
            let of = |times| Duration::from_micros(times * us);
            Look { arithmetic: of(1), walk: of(2), copy: of(3) }
        };
        assert_eq!(medians_us(&[]), [0.0; 3]);
        assert_eq!(medians_us(&[look(5), look(1), look(9)]), [5.0, 10.0, 15.0]);
    }
}
