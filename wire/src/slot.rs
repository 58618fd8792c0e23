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
    // Most keys have no brace; without an early exit this is a few vector instructions.
    let tagged = key.iter().fold(false, |found, &byte| found | (byte == b'{'));
    let open = if tagged { key.iter().position(|&byte| byte == b'{') } else { None };
    let Some(open) = open else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &tail[..length],
        _ => key,
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.chunks(STRIDE).fold(0, crc16_chunk)
}

/// Continues a sum by up to [`STRIDE`] bytes at once: what each of them contributes is looked up
/// independently of the others, by how many bytes follow it.
fn crc16_chunk(crc: u16, chunk: &[u8]) -> u16 {
    let [high, low] = crc.to_be_bytes();
    let last = chunk.len() - 1;
    let first = CRC16_TABLES[last][usize::from(chunk[0] ^ high)];
    let Some(second) = chunk.get(1) else { return first ^ (u16::from(low) << 8) };
    let start = first ^ CRC16_TABLES[last - 1][usize::from(second ^ low)];
    let rest = CRC16_TABLES[..last - 1].iter().rev().zip(&chunk[2..]);
    rest.fold(start, |sum, (table, &byte)| sum ^ table[usize::from(byte)])
}

const STRIDE: usize = 8;

/// Table k holds what a byte contributes when k bytes follow it.
static CRC16_TABLES: [[u16; 256]; STRIDE] = {
    let mut tables = [[0; 256]; STRIDE];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut following = 0;
        while following < STRIDE {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
                bit += 1;
            }
            tables[following][index] = crc;
            following += 1;
        }
        index += 1;
    }
    tables
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
    fn sums_of_any_length_are_those_bit_by_bit() {
        let bytes: Vec<u8> = (0..100u32).map(|index| (index * 151 + 7) as u8).collect();
        for end in 0..bytes.len() {
            let by_bits = bytes[..end].iter().fold(0u16, |crc, &byte| {
                (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                    if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 }
                })
            });
            assert_eq!(crc16(&bytes[..end]), by_bits, "{end} bytes");
        }
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
