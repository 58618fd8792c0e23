//! What is asked of a node: which operations, which keys, which values.
//!
//! **Mixes** carry the names of the Yahoo cloud serving benchmark (Cooper et al., "Benchmarking
//! Cloud Serving Systems with YCSB", SoCC 2010) next to plain ones. Scans (workload E) are left to
//! a protocol that has them.
//!
//! **Keys** are numbered 0..n and written as `key:` and twelve digits. They are divided over the
//! connections (key modulo connections), so each key has one writer and its writes have an order:
//! that is what makes the read-back of [`crate::ledger`] exact. The distribution chooses within
//! the connection's share; its shape is the same as over all keys.
//!
//! **Values** begin with their [`Origin`]: key, sequence number and a number of the run. The rest
//! is filled from a stream seeded by these and the size: any changed or missing byte shows, and
//! what an earlier run left behind is not mistaken for this one's.

use std::str::FromStr;

use rand::{RngExt, SeedableRng};
use rand_distr::Distribution as _;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Size of the part of a value that says where it came from.
pub const VALUE_HEADER_SIZE: usize = 16;

/// Why an option was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a {what}: expected {expected}")]
pub struct ParseError {
    given: String,
    what: &'static str,
    expected: &'static str,
}

/// Shares of the operations, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// As given on the command line.
    pub name: &'static str,
    /// `GET`
    pub read: u32,
    /// `SET`
    pub write: u32,
    /// `GET` and, with its reply in hand, `SET` of the same key.
    pub read_modify_write: u32,
    /// `SET … PX`: entries that expire within seconds.
    pub expiring: u32,
}

impl Mix {
    const ALL: [Mix; 8] = [
        Mix { name: "a", read: 50, write: 50, read_modify_write: 0, expiring: 0 },
        Mix { name: "b", read: 95, write: 5, read_modify_write: 0, expiring: 0 },
        Mix { name: "c", read: 100, write: 0, read_modify_write: 0, expiring: 0 },
        Mix { name: "f", read: 50, write: 0, read_modify_write: 50, expiring: 0 },
        Mix { name: "put", read: 0, write: 100, read_modify_write: 0, expiring: 0 },
        Mix { name: "get", read: 100, write: 0, read_modify_write: 0, expiring: 0 },
        Mix { name: "mixed", read: 80, write: 20, read_modify_write: 0, expiring: 0 },
        Mix { name: "ttl", read: 50, write: 0, read_modify_write: 0, expiring: 50 },
    ];

    /// Whether any operation of the mix reads.
    pub fn reads(&self) -> bool {
        self.read + self.read_modify_write > 0
    }

    /// Chooses the next operation.
    pub fn choose(&self, random: &mut Xoshiro256PlusPlus) -> Choice {
        let roll = random.random_range(0..100u32);
        if roll < self.read {
            Choice::Read
        } else if roll < self.read + self.write {
            Choice::Write
        } else if roll < self.read + self.write + self.read_modify_write {
            Choice::ReadModifyWrite
        } else {
            Choice::Expiring
        }
    }
}

impl FromStr for Mix {
    type Err = ParseError;

    fn from_str(given: &str) -> Result<Mix, ParseError> {
        Mix::ALL.into_iter().find(|mix| mix.name == given).ok_or_else(|| ParseError {
            given: given.to_owned(),
            what: "workload",
            expected: "a, b, c, f (YCSB), put, get, mixed or ttl",
        })
    }
}

/// One operation of a [`Mix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Read a key.
    Read,
    /// Overwrite a key.
    Write,
    /// Read a key, then overwrite it.
    ReadModifyWrite,
    /// Write a key that expires.
    Expiring,
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// By rank, with this exponent; ranks are scattered over the keys.
    Zipf(f64),
    /// Zipf over the distance from the newest key.
    Latest,
}

impl FromStr for Distribution {
    type Err = ParseError;

    fn from_str(given: &str) -> Result<Distribution, ParseError> {
        let error = || ParseError {
            given: given.to_owned(),
            what: "distribution",
            expected: "uniform, latest, or zipf:S with 0 < S <= 5, as in zipf:0.99",
        };
        match given {
            "uniform" => Ok(Distribution::Uniform),
            "latest" => Ok(Distribution::Latest),
            _ => match given.strip_prefix("zipf:").and_then(|s| s.parse::<f64>().ok()) {
                Some(exponent) if exponent > 0.0 && exponent <= 5.0 => {
                    Ok(Distribution::Zipf(exponent))
                }
                _ => Err(error()),
            },
        }
    }
}

/// Draws keys of one connection's share.
#[derive(Debug, Clone)]
pub struct KeyChooser {
    share: KeyShare,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Uniform,
    Scattered(rand_distr::Zipf<f64>),
    FromNewest(rand_distr::Zipf<f64>),
}

/// The keys of one connection: `first`, `first + stride`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyShare {
    first: u64,
    stride: u64,
    count: u64,
}

impl KeyShare {
    /// The share of connection `index` of `connections` in `keys` keys; there must be at least as
    /// many keys as connections.
    pub fn new(keys: u64, index: u64, connections: u64) -> KeyShare {
        assert!(index < connections && keys >= connections);
        let count = (keys - index).div_ceil(connections);
        KeyShare { first: index, stride: connections, count }
    }

    /// Number of keys in the share.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The `n`-th key of the share.
    pub fn key(&self, n: u64) -> u64 {
        assert!(n < self.count);
        self.first + n * self.stride
    }
}

impl KeyChooser {
    /// A chooser over `share`.
    pub fn new(share: KeyShare, distribution: Distribution) -> KeyChooser {
        let zipf = |exponent| {
            rand_distr::Zipf::new(share.count as f64, exponent)
                .expect("a share has keys and the exponent was checked when parsed")
        };
        let shape = match distribution {
            Distribution::Uniform => Shape::Uniform,
            Distribution::Zipf(exponent) => Shape::Scattered(zipf(exponent)),
            Distribution::Latest => Shape::FromNewest(zipf(0.99)),
        };
        KeyChooser { share, shape }
    }

    /// Draws one key.
    pub fn choose(&self, random: &mut Xoshiro256PlusPlus) -> u64 {
        let count = self.share.count;
        let n = match &self.shape {
            Shape::Uniform => random.random_range(0..count),
            // The rank is multiplied by a large odd number so that hot keys are no neighbours.
            Shape::Scattered(zipf) => {
                (rank(zipf, random).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) % count
            }
            Shape::FromNewest(zipf) => count - 1 - rank(zipf, random).min(count - 1),
        };
        self.share.key(n)
    }
}

fn rank(zipf: &rand_distr::Zipf<f64>, random: &mut Xoshiro256PlusPlus) -> u64 {
    zipf.sample(random) as u64 - 1
}

/// Writes the name of a key: 16 bytes.
pub fn key_name(key: u64) -> [u8; 16] {
    let mut name = *b"key:000000000000";
    let mut rest = key;
    for digit in name[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

/// Sizes of values, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueSizes {
    /// Smallest, at least [`VALUE_HEADER_SIZE`].
    pub min: usize,
    /// Largest.
    pub max: usize,
}

impl FromStr for ValueSizes {
    type Err = ParseError;

    fn from_str(given: &str) -> Result<ValueSizes, ParseError> {
        let error = || ParseError {
            given: given.to_owned(),
            what: "value size",
            expected: "bytes, or a range as in 100..1000; at least 16",
        };
        let (min, max) = given.split_once("..").unwrap_or((given, given));
        let min = min.parse().map_err(|_| error())?;
        let max = max.parse().map_err(|_| error())?;
        if min < VALUE_HEADER_SIZE || max < min {
            return Err(error());
        }
        Ok(ValueSizes { min, max })
    }
}

impl ValueSizes {
    /// The size of the value that the `sequence`-th write of `key` stores.
    fn of(&self, key: u64, sequence: u32) -> usize {
        if self.min == self.max {
            return self.min;
        }
        let span = (self.max - self.min + 1) as u64;
        self.min + (mix(key ^ (u64::from(sequence) << 40)) % span) as usize
    }

    /// Appends the value of the write `origin` to `out`.
    pub fn push_value(&self, out: &mut Vec<u8>, origin: Origin) {
        let size = self.of(origin.key, origin.sequence);
        out.extend_from_slice(&origin.key.to_le_bytes());
        out.extend_from_slice(&origin.sequence.to_le_bytes());
        out.extend_from_slice(&origin.run.to_le_bytes());
        let mut left = size - VALUE_HEADER_SIZE;
        let mut state = origin.fill_seed(size);
        while left > 0 {
            let word = next(&mut state).to_le_bytes();
            let taken = left.min(word.len());
            out.extend_from_slice(&word[..taken]);
            left -= taken;
        }
    }

    /// The size of the value that the write `origin` stores.
    pub fn value_size(&self, origin: Origin) -> usize {
        self.of(origin.key, origin.sequence)
    }
}

/// Which write a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Number of the run.
    pub run: u32,
    /// Number of the key.
    pub key: u64,
    /// Number of the write among those of its key, from 1.
    pub sequence: u32,
}

impl Origin {
    /// Reads back what [`ValueSizes::push_value`] wrote, or `None` when any byte differs from what
    /// that write stored.
    pub fn of_value(value: &[u8]) -> Option<Origin> {
        let origin = Origin::of_header(value)?;
        let mut state = origin.fill_seed(value.len());
        for chunk in value[VALUE_HEADER_SIZE..].chunks(8) {
            if chunk != &next(&mut state).to_le_bytes()[..chunk.len()] {
                return None;
            }
        }
        Some(origin)
    }

    /// As [`Origin::of_value`], believing all but the first 16 bytes: for the hot path.
    pub fn of_header(value: &[u8]) -> Option<Origin> {
        let header: &[u8; VALUE_HEADER_SIZE] = value.first_chunk()?;
        Some(Origin {
            key: u64::from_le_bytes(header[..8].try_into().ok()?),
            sequence: u32::from_le_bytes(header[8..12].try_into().ok()?),
            run: u32::from_le_bytes(header[12..].try_into().ok()?),
        })
    }

    fn fill_seed(&self, size: usize) -> u64 {
        let write = self.key.wrapping_add(u64::from(self.sequence) << 44);
        mix(mix(write) ^ ((u64::from(self.run) << 32) | size as u64))
    }
}

/// The stream of operations of one connection: the same seed gives the same stream.
pub fn random_stream(seed: u64, connection: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(mix(seed) ^ mix(connection.wrapping_add(1)))
}

/// One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mix(*state)
}

fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_belongs_to_exactly_one_connection() {
        for (keys, connections) in [(1, 1), (10, 3), (100, 7), (64, 64)] {
            let mut seen = vec![0; keys];
            for index in 0..connections {
                let share = KeyShare::new(keys as u64, index, connections);
                (0..share.count()).for_each(|n| seen[share.key(n) as usize] += 1);
            }
            assert!(seen.iter().all(|&times| times == 1), "{keys} keys, {connections}: {seen:?}");
        }
    }

    #[test]
    fn a_value_names_its_write_and_any_changed_byte_shows() {
        let sizes = ValueSizes { min: 16, max: 100 };
        for sequence in 1..50 {
            let origin = Origin { run: 5, key: 7, sequence };
            let mut value = Vec::new();
            sizes.push_value(&mut value, origin);
            assert_eq!(value.len(), sizes.value_size(origin));
            assert_eq!(Origin::of_value(&value), Some(origin));
            for at in 0..value.len() {
                let mut changed = value.clone();
                changed[at] ^= 1;
                assert_ne!(Origin::of_value(&changed), Some(origin), "byte {at}");
            }
            if value.len() > VALUE_HEADER_SIZE + 1 {
                assert_eq!(Origin::of_value(&value[..value.len() - 1]), None);
            }
        }
    }

    #[test]
    fn distributions_stay_in_range_and_have_their_shape() {
        let mut random = random_stream(1, 0);
        let share = KeyShare::new(10_000, 3, 10);
        for (name, least_top, most_top) in
            [("uniform", 0, 60), ("zipf:0.99", 500, 3_000), ("latest", 500, 3_000)]
        {
            let chooser = KeyChooser::new(share, name.parse().unwrap());
            let mut times = std::collections::HashMap::new();
            for _ in 0..10_000 {
                let key = chooser.choose(&mut random);
                assert!(key < 10_000 && key % 10 == 3);
                *times.entry(key).or_insert(0) += 1;
            }
            let (hottest, top) = times.iter().max_by_key(|(_, times)| **times).unwrap();
            assert!((least_top..most_top).contains(top), "{name}: {top}");
            assert!(name != "latest" || *hottest == 9_993);
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused_by_name() {
        assert!("zipf:0".parse::<Distribution>().is_err());
        assert!("zipf".parse::<Distribution>().is_err());
        assert!("15".parse::<ValueSizes>().is_err());
        assert!("200..100".parse::<ValueSizes>().is_err());
        let error = "x".parse::<Mix>().unwrap_err().to_string();
        assert!(error.contains("\"x\"") && error.contains("put"), "{error}");
        assert_eq!("100..200".parse(), Ok(ValueSizes { min: 100, max: 200 }));
    }

    #[test]
    fn every_mix_adds_up() {
        for mix in Mix::ALL {
            let total = mix.read + mix.write + mix.read_modify_write + mix.expiring;
            assert_eq!(total, 100, "{}", mix.name);
        }
    }

    #[test]
    fn key_names_sort_as_their_numbers() {
        assert_eq!(&key_name(0), b"key:000000000000");
        assert_eq!(&key_name(123_456_789_012), b"key:123456789012");
        assert!(key_name(9) < key_name(10));
    }
}
