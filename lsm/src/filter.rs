//! The filter of a value block: so that a miss costs no read.
//!
//! A binary fuse filter (Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor
//! Filters", 2022) with 8-bit fingerprints over the 64-bit hashes of the block's distinct keys,
//! without their versions: three probes, no false negatives, 0.4 % false positives. Every value
//! block has a filter of its own inside the table's index block, for two reasons: building one
//! takes tens of microseconds where a filter of a whole table would stall the core for
//! milliseconds, and a value block can move into another table together with its filter without
//! being read. The price is about 11 bits per key where one large filter would take 9.
//!
//! Filters are stored, so building must be deterministic: hashes are sorted and deduplicated, the
//! crate draws its seeds from a fixed sequence, and its release is pinned exactly.
//!
//! A builder must know before it accepts a key whether the filter will still fit its index block.
//! [`len_max`] bounds the filter's length from the number of keys in integers; a test compares it
//! with what is built.

use xorf::BinaryFuse8;
use xxhash_rust::xxh3::xxh3_64;

/// Hash of an encoded key: what filters are asked with.
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// A filter as stored, borrowed from its index block.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    seed: u64,
    segment_length: u32,
    segment_count_length: u32,
    fingerprints: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Takes the parts, if they fit together so that no probe can miss the fingerprints.
    #[must_use]
    pub fn new(
        seed: u64,
        segment_length: u32,
        segment_count_length: u32,
        fingerprints: &'a [u8],
    ) -> Option<Filter<'a>> {
        let expected = u64::from(segment_count_length) + 2 * u64::from(segment_length);
        let fits = segment_length.is_power_of_two()
            && segment_count_length > 0
            && segment_count_length.is_multiple_of(segment_length)
            && fingerprints.len() as u64 == expected;
        fits.then_some(Filter { seed, segment_length, segment_count_length, fingerprints })
    }

    /// False if the key with this hash is certainly not in the block.
    #[inline]
    #[must_use]
    pub fn may_contain(&self, hash: u64) -> bool {
        self.probe(hash).may_pass()
    }

    /// What asking for the key with this hash comes to.
    #[inline]
    #[must_use]
    pub(crate) fn probe(&self, hash: u64) -> Probe<'a> {
        let hash = murmur64(hash.wrapping_add(self.seed));
        let mask = self.segment_length - 1;
        let first = (u128::from(hash) * u128::from(self.segment_count_length)) >> 64;
        let h0 = first as u32;
        let h1 = (h0 + self.segment_length) ^ ((hash >> 18) as u32 & mask);
        let h2 = (h0 + 2 * self.segment_length) ^ (hash as u32 & mask);
        let expected = (hash ^ (hash >> 32)) as u8;
        Probe { fingerprints: self.fingerprints, places: [h0, h1, h2], expected }
    }
}

/// A question to a filter, to be asked when its memory has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe<'a> {
    fingerprints: &'a [u8],
    places: [u32; 3],
    expected: u8,
}

impl Probe<'_> {
    /// Asks the processor for what the answer depends on.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for place in self.places {
            ioring::prefetch(&self.fingerprints[place as usize..=place as usize]);
        }
    }

    /// False if the key is certainly not in the block.
    #[inline]
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        let [a, b, c] = self.places.map(|place| self.fingerprints[place as usize]);
        self.expected ^ a ^ b ^ c == 0
    }
}

/// MurmurHash3's finaliser.
#[inline]
fn murmur64(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// A filter just built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    pub(crate) seed: u64,
    pub(crate) segment_length: u32,
    pub(crate) segment_count_length: u32,
    pub(crate) fingerprints: Box<[u8]>,
}

/// Builds the filter of these key hashes; an empty one, which rules nothing out, if there is no
/// seed that works. Sorts and deduplicates the hashes.
pub(crate) fn build(hashes: &mut Vec<u64>) -> Built {
    hashes.sort_unstable();
    hashes.dedup();
    let Ok(filter) = BinaryFuse8::try_from(&hashes[..]) else { return Built::default() };
    let built = Built {
        seed: filter.descriptor.seed,
        segment_length: filter.descriptor.segment_length,
        segment_count_length: filter.descriptor.segment_count_length,
        fingerprints: filter.fingerprints,
    };
    assert!(built.fingerprints.len() <= len_max(hashes.len()));
    built
}

/// Bytes of fingerprints for this many keys, at most.
#[must_use]
pub(crate) fn len_max(keys: usize) -> usize {
    let Some(magnitude) = keys.checked_ilog2() else { return 0 };
    let (factor, segment) = LENGTHS[(magnitude as usize).min(LENGTHS.len() - 1)];
    (3 * segment).max((keys * factor).div_ceil(1024) + segment)
}

/// For key counts from 2^i up to 2^(i+1): fingerprints per 1,024 keys, and segment length; both at
/// the end of the interval where they are larger.
const LENGTHS: [(usize, usize); 21] = [
    (5999, 4),
    (5999, 8),
    (3448, 8),
    (2597, 16),
    (2172, 32),
    (1917, 32),
    (1747, 64),
    (1625, 64),
    (1534, 128),
    (1463, 256),
    (1407, 256),
    (1360, 512),
    (1322, 512),
    (1289, 1024),
    (1261, 1024),
    (1237, 2048),
    (1215, 4096),
    (1197, 4096),
    (1180, 8192),
    (1165, 8192),
    (1152, 16384),
];

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::block::Checksum;

    fn hashes(count: usize) -> Vec<u64> {
        (0..count as u64).map(|i| hash(&i.to_le_bytes())).collect()
    }

    fn view(built: &Built) -> Filter<'_> {
        let Built { seed, segment_length, segment_count_length, ref fingerprints } = *built;
        Filter::new(seed, segment_length, segment_count_length, fingerprints).unwrap()
    }

    #[test]
    fn every_size_builds_within_its_bound_and_forgets_nothing() {
        let sizes = (1..300).chain([511, 512, 513, 1000, 2047, 2048, 2240, 4096, 9000]);
        for count in sizes {
            let hashes = hashes(count);
            let built = build(&mut hashes.clone());
            assert!(!built.fingerprints.is_empty(), "no filter for {count} keys");
            assert!(built.fingerprints.len() <= len_max(count), "{count} keys");
            let filter = view(&built);
            assert!(hashes.iter().all(|&hash| filter.may_contain(hash)), "{count} keys");
        }
    }

    #[test]
    fn most_misses_are_ruled_out() {
        let built = build(&mut hashes(2240));
        let filter = view(&built);
        let misses = (10_000..110_000u64).map(|i| hash(&i.to_le_bytes()));
        let wrong = misses.filter(|&hash| filter.may_contain(hash)).count();
        assert!(wrong < 600, "{wrong} false positives in 100,000");
    }

    /// Filters are stored: their bytes may not change unnoticed.
    #[test]
    fn golden_bytes() {
        let built = build(&mut hashes(1000));
        assert_eq!((built.segment_length, built.segment_count_length), (128, 1152));
        let checksum = Checksum::of(&built.fingerprints).to_string();
        assert_eq!(
            (built.seed, checksum.as_str()),
            (10_451_216_379_200_822_465, "29e5b8e4293971a5f79e8cd0bb283f78")
        );
    }

    proptest! {
        #[test]
        fn order_and_repetition_of_keys_do_not_matter(mut keys in vec(0u64..50, 1..60)) {
            let mut forward: Vec<u64> = keys.iter().map(|k| hash(&k.to_le_bytes())).collect();
            keys.reverse();
            keys.dedup();
            let mut backward: Vec<u64> = keys.iter().map(|k| hash(&k.to_le_bytes())).collect();
            prop_assert_eq!(build(&mut forward).fingerprints, build(&mut backward).fingerprints);
        }

        #[test]
        fn any_parts_that_are_taken_can_be_asked(
            seed: u64,
            segment in 0u32..40,
            count in 0u32..200,
            bytes in vec(any::<u8>(), 0..300),
            hash: u64,
        ) {
            if let Some(filter) = Filter::new(seed, segment, count, &bytes) {
                let _ = filter.may_contain(hash);
            }
        }
    }
}
