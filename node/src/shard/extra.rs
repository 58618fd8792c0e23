//! What a checkpoint keeps of a shard beside its trees, as bytes.
//!
//! Records of 16 bytes, little-endian: table 4, generation 4, version 8. A record whose table is
//! [`PLACE`], which no table is numbered, is an offset in the grid file instead: a condemned place
//! (see [`lsm::grid`]), in the version's bytes, with generation 0. One whose table is [`SESSIONS`]
//! is the last, and says in the version's bytes how many bytes of the node's sessions follow
//! ([`crate::session`]); it is there only if there are sessions.
//!
//! The generations are as of the end of the bar before, like the trees. The condemned places are as
//! of now: those found since belong to operations that a replay from this checkpoint meets again,
//! and a place that failed one of them is to fail it again.

use wire::{TableId, Version};

use super::{Flushed, Generations};

/// Stands for a place in the grid where a table would stand.
const PLACE: TableId = TableId(u32::MAX);

/// Stands where a table would before the sessions.
const SESSIONS: TableId = TableId(u32::MAX - 1);

/// Bytes of a record.
const RECORD: usize = 16;

/// What a checkpoint keeps of a shard beside its trees.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Its tables' generations.
    pub generations: Generations,
    /// Places in its grid that are not read.
    pub condemned: Vec<u64>,
    /// The node's sessions; empty if there are none, or another shard keeps them.
    pub sessions: Vec<u8>,
}

/// Bytes that are no such list.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint's {actual} bytes of generations, places and sessions are malformed")]
pub struct ExtraError {
    /// How many bytes there are.
    pub actual: usize,
}

/// As a checkpoint keeps them.
#[must_use]
pub fn encode(generations: &Generations, condemned: &[u64], sessions: &[u8]) -> Vec<u8> {
    let record = |table, number| Flushed { table, generation: 0, version: Version(number) };
    let places = condemned.iter().map(|offset| record(PLACE, *offset));
    let behind = (!sessions.is_empty()).then(|| record(SESSIONS, sessions.len() as u64));
    let records = generations.0.iter().copied().chain(places).chain(behind);
    let mut bytes = Vec::with_capacity(RECORD * (generations.0.len() + 1) + sessions.len());
    records.for_each(|record| bytes.extend_from_slice(&to_bytes(&record)));
    bytes.extend_from_slice(sessions);
    bytes
}

/// Out of a checkpoint.
///
/// # Errors
/// If the bytes are not such a list.
pub fn decode(bytes: &[u8]) -> Result<Extra, ExtraError> {
    let malformed = || ExtraError { actual: bytes.len() };
    let (mut extra, mut rest) = (Extra::default(), bytes);
    while !rest.is_empty() {
        let (record, behind) = rest.split_first_chunk::<RECORD>().ok_or_else(malformed)?;
        rest = behind;
        let record = of_bytes(record);
        match record.table {
            SESSIONS if record.version.0 == rest.len() as u64 && !rest.is_empty() => {
                extra.sessions = std::mem::take(&mut rest).to_vec();
            }
            SESSIONS => return Err(malformed()),
            PLACE => extra.condemned.push(record.version.0),
            _ => extra.generations.0.push(record),
        }
    }
    Ok(extra)
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
    fn generations_places_and_sessions_come_back() {
        let mut generations = Generations::default();
        generations.raise(TableId(0), Version(1));
        generations.raise(TableId(0), Version(20));
        generations.raise(TableId(7), Version(21));
        let condemned = vec![4096, 1 << 40];
        let bytes = encode(&generations, &condemned, &[]);
        assert_eq!(bytes.len(), 4 * RECORD);
        let sessions = Vec::new();
        let extra = Extra { generations, condemned, sessions };
        assert_eq!(decode(&bytes).unwrap(), extra);
        assert!(decode(&bytes[1..]).is_err());
        assert_eq!(decode(&[]).unwrap(), Extra::default());
        let sessions = b"not a multiple of sixteen bytes".to_vec();
        let bytes = encode(&extra.generations, &extra.condemned, &sessions);
        assert_eq!(decode(&bytes).unwrap(), Extra { sessions, ..extra });
        for cut in 4 * RECORD + 1..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{cut} bytes");
        }
    }
}
