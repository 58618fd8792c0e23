//! Slots: what spreads keys over shards, and later over clusters.
//!
//! The slot of a key is CRC16 (XMODEM: polynomial 0x1021, initial 0) of the key modulo 16,384, as
//! Redis Cluster defines it. When the key has a `{`, and a `}` after it with at least one byte
//! between, only those bytes (of the first such pair) count, so that a user can place keys
//! together: `{user7}.name` and `{user7}.mail` share a slot.

use std::fmt;

/// How many slots there are.
pub const SLOT_COUNT: u16 = 16_384;

/// A slot, below [`SLOT_COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The slot of a key.
#[must_use]
pub fn slot_of_key(key: &[u8]) -> Slot {
    Slot(crc16(hashed_part(key)) % SLOT_COUNT)
}

fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &tail[..length],
        _ => key,
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |crc: u16, &byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of_key(b"123456789"), Slot(0x31c3));
        assert_eq!(slot_of_key(b"foo"), Slot(12_182));
        assert_eq!(slot_of_key(b""), Slot(0));
    }

    #[test]
    fn only_the_first_tag_counts_and_only_if_it_holds_something() {
        let user = slot_of_key(b"user1000");
        for key in ["{user1000}", "{user1000}.following", "a{user1000}{other}", "{user1000}}x"] {
            assert_eq!(slot_of_key(key.as_bytes()), user, "{key}");
        }
        assert_eq!(slot_of_key(b"foo{{bar}}zap"), slot_of_key(b"{bar"));
        for whole in [&b"foo{}{bar}"[..], b"foo{bar", b"foo}bar{", b"{}"] {
            assert_eq!(slot_of_key(whole), Slot(crc16(whole) % SLOT_COUNT));
        }
    }
}
