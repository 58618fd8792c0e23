//! The bytes of one file: sparse, and cheap to copy.
//!
//! A file is a map from chunk number to a reference-counted chunk; what is absent reads as zeros.
//! Copying an image copies references, and writing to a shared chunk copies that chunk alone. The
//! disk keeps two images per file (what reads see, what would survive) and a crash-state search
//! keeps hundreds of disks, so this sharing is what makes both affordable.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sim::dice::TraceHash;

const CHUNK: usize = 4096;

/// Sparse bytes; reading beyond what was written gives zeros.
#[derive(Clone, Default)]
pub(super) struct Image {
    chunks: BTreeMap<u64, Arc<[u8; CHUNK]>>,
}

impl Image {
    /// Copies the bytes at `offset` into `out`.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (chunk, within, piece) in pieces(offset, out.len()) {
            match self.chunks.get(&chunk) {
                Some(data) => {
                    let end = within + piece.len();
                    out[piece].copy_from_slice(&data[within..end]);
                }
                None => out[piece].fill(0),
            }
        }
    }

    /// Stores `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (chunk, within, piece) in pieces(offset, data.len()) {
            let piece = &data[piece];
            if !self.chunks.contains_key(&chunk) && piece.iter().all(|byte| *byte == 0) {
                continue;
            }
            let stored = self.chunks.entry(chunk).or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(stored)[within..within + piece.len()].copy_from_slice(piece);
        }
    }

    /// Turns `length` bytes at `offset` into zeros.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let chunk_size = CHUNK as u64;
        let whole_from = offset.div_ceil(chunk_size);
        let whole_to = end / chunk_size;
        if whole_from < whole_to {
            let inside: Vec<u64> = self.chunks.range(whole_from..whole_to).map(|c| *c.0).collect();
            for chunk in inside {
                self.chunks.remove(&chunk);
            }
        }
        for chunk in [offset / chunk_size, end / chunk_size] {
            let Some(stored) = self.chunks.get_mut(&chunk) else { continue };
            let base = chunk * chunk_size;
            let from = (offset.max(base) - base).min(chunk_size) as usize;
            let to = (end.max(base) - base).min(chunk_size) as usize;
            Arc::make_mut(stored)[from..to].fill(0);
        }
    }

    /// Mixes the first `length` bytes into `hash`, zeros and absence alike.
    pub(super) fn hash(&self, length: u64, hash: &mut TraceHash) {
        hash.add(length);
        for (number, chunk) in &self.chunks {
            let base = number * CHUNK as u64;
            let visible = length.saturating_sub(base).min(CHUNK as u64) as usize;
            if chunk[..visible].iter().any(|byte| *byte != 0) {
                hash.add(base);
                hash.add_bytes(&chunk[..visible]);
            }
        }
    }
}

/// The pieces of `length` bytes at `offset`: chunk, offset within the chunk, range of the caller's
/// buffer.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let position = offset + done as u64;
        let within = (position % CHUNK as u64) as usize;
        let count = (CHUNK - within).min(length - done);
        let range = done..done + count;
        done += count;
        Some((position / CHUNK as u64, within, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_vector(steps in prop::collection::vec(
            (0u64..30_000, 0usize..9_000, 0u8..4), 1..12)) {
            let mut image = Image::default();
            let mut model = vec![0u8; 40_000];
            for (offset, length, value) in steps {
                let range = offset as usize..offset as usize + length;
                if value == 0 {
                    image.zero(offset, length as u64);
                } else {
                    image.write(offset, &vec![value; length]);
                }
                model[range].fill(value);
            }
            let mut seen = vec![9; 40_000];
            image.read(0, &mut seen);
            prop_assert!(seen == model);
        }
    }

    #[test]
    fn copies_share_until_written() {
        let mut first = Image::default();
        first.write(100, b"one");
        let second = first.clone();
        first.write(100, b"two");
        let mut seen = [0; 3];
        second.read(100, &mut seen);
        assert_eq!(&seen, b"one");
    }

    #[test]
    fn the_hash_ignores_how_zeros_came_to_be() {
        let (mut absent, mut written) = (Image::default(), Image::default());
        absent.write(0, b"x");
        written.write(0, b"x");
        written.write(10_000, b"y");
        written.write(10_000, b"\0");
        let of = |image: &Image| {
            let mut hash = TraceHash::new();
            image.hash(20_000, &mut hash);
            hash.value()
        };
        assert_eq!(of(&absent), of(&written));
    }
}
