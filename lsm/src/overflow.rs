//! Values too large to stand in a page: a list of blocks, moved by reference.
//!
//! A value longer than [`Config::inline_value_size_max`] is cut into pieces of a block's body each;
//! the entry holds the list of the blocks, so that they can be read in parallel, moved from table
//! to table without being read, and freed without being read:
//!
//! ```text
//! offset       size  field
//! 0            4     value length in bytes
//! 4            4     zero
//! 8 + 24·i     8     address of block i
//! 16 + 24·i    16    header checksum of block i
//! ```
//!
//! All blocks but the last are full, so lengths follow from the value's. A block's header carries
//! the piece's number and the value's length, so that an inspector can tell what it is part of.
//!
//! Only a flush creates overflow blocks; a merge copies the list. The blocks of a list are released
//! when a merge drops the entry, and by nothing else: exactly one live entry holds a list.

use crate::block::{
    self, BlockAddress, BlockReference, BlockType, Checksum, HEADER_SIZE, Identity, METADATA_SIZE,
    Seal,
};
use crate::config::Config;
use crate::entry::TreeId;

/// Bytes in front of the list.
pub const REFERENCE_HEADER_SIZE: usize = 8;
/// Bytes of one block's reference in the list.
pub const BLOCK_REFERENCE_SIZE: usize = 24;

/// The blocks of a large value, borrowed from the entry that holds the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowReference<'a> {
    bytes: &'a [u8],
}

impl<'a> OverflowReference<'a> {
    /// Takes the stored form, if it is one: a header, then at least one block, none at address 0.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<OverflowReference<'a>> {
        let list = bytes.get(REFERENCE_HEADER_SIZE..)?;
        if list.is_empty() || !list.len().is_multiple_of(BLOCK_REFERENCE_SIZE) {
            return None;
        }
        let (records, _) = list.as_chunks::<BLOCK_REFERENCE_SIZE>();
        let addresses_valid = records.iter().all(|record| record[..8] != [0; 8]);
        addresses_valid.then_some(OverflowReference { bytes })
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the value, in bytes.
    #[must_use]
    pub fn value_len(&self) -> u32 {
        let [a, b, c, d, ..] = *self.bytes else { return 0 };
        u32::from_le_bytes([a, b, c, d])
    }

    /// Number of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        (self.bytes.len() - REFERENCE_HEADER_SIZE) / BLOCK_REFERENCE_SIZE
    }

    /// Addresses and checksums of the blocks, in order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = (BlockAddress, Checksum)> + use<'a> {
        let (records, _) = self.bytes[REFERENCE_HEADER_SIZE..].as_chunks::<BLOCK_REFERENCE_SIZE>();
        records.iter().map(|record| {
            let (address, checksum) = record.split_at(8);
            let address = u64::from_le_bytes(address.try_into().expect("eight bytes"));
            let checksum = u128::from_le_bytes(checksum.try_into().expect("sixteen bytes"));
            let address = BlockAddress::new(address).expect("parse refuses address 0");
            (address, Checksum(checksum))
        })
    }

    /// References to the blocks, if the list is as long as the value's length asks for.
    pub fn references(
        &self,
        config: &Config,
    ) -> Option<impl ExactSizeIterator<Item = BlockReference> + use<'a>> {
        let value_len = self.value_len() as usize;
        let body = config.block_body_size();
        if value_len == 0 || config.overflow_blocks(value_len) != self.block_count() {
            return None;
        }
        Some(self.blocks().enumerate().map(move |(piece, (address, checksum))| {
            let size = HEADER_SIZE + body.min(value_len - piece * body);
            BlockReference { address, size: size as u32, checksum }
        }))
    }
}

/// Builds the stored form of a list, piece by piece.
#[derive(Debug)]
pub struct ListBuilder {
    bytes: Vec<u8>,
}

impl ListBuilder {
    /// An empty list for a value of this length.
    #[must_use]
    pub fn new(value_len: u32) -> ListBuilder {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&value_len.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        ListBuilder { bytes }
    }

    /// Appends the next block.
    pub fn push(&mut self, reference: &BlockReference) {
        self.bytes.extend_from_slice(&reference.address.get().to_le_bytes());
        self.bytes.extend_from_slice(&reference.checksum.0.to_le_bytes());
    }

    /// The stored form; parse it with [`OverflowReference::parse`].
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        assert!(OverflowReference::parse(&self.bytes).is_some(), "a list has at least one block");
        self.bytes
    }
}

/// What a writer says about a piece of a large value.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Cluster and shard.
    pub identity: Identity,
    /// The tree of the entry.
    pub tree: TreeId,
    /// The op that creates the block.
    pub op: u64,
    /// Where it will stand.
    pub address: BlockAddress,
    /// Number of the piece, from 0.
    pub number: u32,
}

/// Fills `block` (a whole block's buffer) with one piece of `value`; gives the reference.
pub fn encode_piece(
    block: &mut [u8],
    config: &Config,
    piece: &Piece,
    value: &[u8],
) -> BlockReference {
    let body = config.block_body_size();
    let start = piece.number as usize * body;
    assert!(start < value.len(), "piece {} of {} bytes", piece.number, value.len());
    let bytes = &value[start..value.len().min(start + body)];
    let size = HEADER_SIZE + bytes.len();
    block[HEADER_SIZE..size].copy_from_slice(bytes);
    let mut metadata = [0; METADATA_SIZE];
    metadata[0..4].copy_from_slice(&piece.number.to_le_bytes());
    metadata[4..8].copy_from_slice(&(value.len() as u32).to_le_bytes());
    let seal = Seal {
        identity: piece.identity,
        address: piece.address,
        block_type: BlockType::Overflow,
        tree: piece.tree,
        op: piece.op,
        metadata,
    };
    block::seal(&mut block[..size], &seal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: Identity = Identity { cluster: 1, shard: 0 };

    proptest! {
        #[test]
        fn pieces_give_back_the_value(value_len in 1usize..16_000) {
            let config = Config::test_min();
            let value: Vec<u8> = (0..value_len).map(|i| (i % 251) as u8).collect();
            let mut list = ListBuilder::new(value_len as u32);
            let mut blocks = Vec::new();
            for number in 0..config.overflow_blocks(value_len) as u32 {
                let mut block = vec![0; config.block_size as usize];
                let address = BlockAddress::new(u64::from(number) + 5).unwrap();
                let piece = Piece { identity: IDENTITY, tree: TreeId(1), op: 3, address, number };
                list.push(&encode_piece(&mut block, &config, &piece, &value));
                blocks.push(block);
            }
            let stored = list.finish();
            let reference = OverflowReference::parse(&stored).unwrap();
            prop_assert_eq!(reference.value_len() as usize, value_len);
            let mut read = Vec::new();
            for (block, reference) in blocks.iter().zip(reference.references(&config).unwrap()) {
                block::verify(block, IDENTITY, &reference, BlockType::Overflow).unwrap();
                read.extend_from_slice(&block[HEADER_SIZE..reference.size as usize]);
            }
            prop_assert_eq!(read, value);
        }

        #[test]
        fn parsing_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(reference) = OverflowReference::parse(&garbage) {
                prop_assert_eq!(reference.blocks().len(), reference.block_count());
                let _ = reference.references(&Config::test_min()).map(Iterator::count);
            }
        }
    }

    #[test]
    fn a_list_of_the_wrong_length_is_refused() {
        let mut list = ListBuilder::new(10_000);
        let address = BlockAddress::new(1).unwrap();
        list.push(&BlockReference { address, size: 4096, checksum: Checksum(1) });
        let stored = list.finish();
        let reference = OverflowReference::parse(&stored).unwrap();
        assert!(reference.references(&Config::test_min()).is_none());
    }
}
