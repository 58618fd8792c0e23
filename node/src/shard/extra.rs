//! What a checkpoint keeps of a shard beside its trees, as bytes.
//!
//! Records of 16 bytes, little-endian: table 4, generation 4, version 8. A record whose table is
//! [`PLACE`], which no table is numbered, is an offset in the grid file instead: a condemned place
//! (see [`lsm::grid`]), in the version's bytes, with generation 0.
//!
//! The generations are as of the end of the bar before, like the trees. The condemned places are as
//! of now: those found since belong to operations that a replay from this checkpoint meets again,
//! and a place that failed one of them is to fail it again.

use wire::{TableId, Version};

use super::{Flushed, Generations};

/// Stands for a place in the grid where a table would stand.
const PLACE: TableId = TableId(u32::MAX);

/// Bytes that are no such list.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint's {actual} bytes of generations and places are malformed")]
pub struct ExtraError {
    /// How many bytes there are.
    pub actual: usize,
}

/// As a checkpoint keeps them.
#[must_use]
pub fn encode(generations: &Generations, condemned: &[u64]) -> Vec<u8> {
    let place = |offset: &u64| Flushed { table: PLACE, generation: 0, version: Version(*offset) };
    let places = condemned.iter().map(place);
    generations.0.iter().copied().chain(places).flat_map(|record| to_bytes(&record)).collect()
}

/// Out of a checkpoint: generations and condemned places.
///
/// # Errors
/// If the bytes are not such a list.
pub fn decode(bytes: &[u8]) -> Result<(Generations, Vec<u64>), ExtraError> {
    let (all, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(ExtraError { actual: bytes.len() });
    }
    let records = all.iter().map(of_bytes);
    let (places, generations): (Vec<Flushed>, Vec<Flushed>) =
        records.partition(|record| record.table == PLACE);
    let offsets = places.iter().map(|place| place.version.0).collect();
    Ok((Generations(generations), offsets))
}

fn to_bytes(record: &Flushed) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&record.table.0.to_le_bytes());
    bytes[4..8].copy_from_slice(&record.generation.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.version.0.to_le_bytes());
    bytes
}

fn of_bytes(bytes: &[u8; 16]) -> Flushed {
    let [t0, t1, t2, t3, g0, g1, g2, g3, version @ ..] = *bytes;
    Flushed {
        table: TableId(u32::from_le_bytes([t0, t1, t2, t3])),
        generation: u32::from_le_bytes([g0, g1, g2, g3]),
        version: Version(u64::from_le_bytes(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_and_places_come_back() {
        let mut generations = Generations::default();
        generations.raise(TableId(0), Version(1));
        generations.raise(TableId(0), Version(20));
        generations.raise(TableId(7), Version(21));
        let places = vec![4096, 1 << 40];
        let bytes = encode(&generations, &places);
        assert_eq!(bytes.len(), 4 * 16);
        assert_eq!(decode(&bytes).unwrap(), (generations, places));
        assert!(decode(&bytes[1..]).is_err());
        assert_eq!(decode(&[]).unwrap(), (Generations::default(), vec![]));
    }
}
