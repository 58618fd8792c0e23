//! The checksum of everything that is sent or stored: XXH3-128.
//!
//! It finds accidents (torn, lost, misdirected and rotten bytes) at memory speed. It is no
//! signature: two honest replicas never meet a collision by chance, an attacker could make one.
//! Each byte is summed once per hop: a body's sum goes into its header, the header's own sum covers
//! that, and so one 16-byte number names a header, its body and, through the parent checksum in a
//! prepare, the whole log before it.

use std::fmt;

/// An XXH3-128 sum. Ordered only so that it can be a key of ordered maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Checksum(pub u128);

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The sum of `bytes`. A run of zeros has a sum that is not zero, so erased space never verifies.
#[must_use]
pub fn checksum(bytes: &[u8]) -> Checksum {
    Checksum(xxhash_rust::xxh3::xxh3_128(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_sums() {
        assert_eq!(checksum(b"").0, 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_ne!(checksum(&[0; 240]), Checksum(0));
        assert_ne!(checksum(&[0; 4096]), Checksum(0));
        assert_ne!(checksum(&[0; 240]), checksum(&[0; 241]));
    }
}
