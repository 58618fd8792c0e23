//! Which blocks of the grid are free, reserved, acquired or released.
//!
//! ```text
//!            reserve            acquire             release         checkpoint_begin
//!   free ──────────────▶ reserved ─────▶ acquired ─────────▶ staged ──────────────▶ pending
//!    ▲ ▲                    │                                                          │
//!    │ └────── forfeit ─────┘                                                          │
//!    └──────────────────────────────── checkpoint_free, at F(C) ───────────────────────┘
//! ```
//!
//! **Determinism.** Every replica must draw the same addresses. A reservation takes the lowest free
//! addresses there are at that moment and owns them, one by one; what is acquired from it later
//! depends on nothing else. So only the order of `reserve`, `forfeit`, `release` and the checkpoint
//! calls must be a function of the log, and several merges may draw addresses in whatever order
//! their I/O finishes.
//!
//! **Reuse.** A released block still belongs to the last durable checkpoint, so it may not be
//! written. Releases gather (*staged*) until a checkpoint C begins; C no longer refers to them, and
//! they wait (*pending*) until C is known durable on a quorum, at op F(C). One checkpoint is under
//! way at a time: the pending set is empty when the next begins. A crash before C is durable finds
//! the previous checkpoint and every block it refers to untouched; a crash after it finds the
//! pending set in C itself, and frees it when the log reaches F(C) again.
//!
//! **Serialisation.** The set is cut into chunks of a fixed number of blocks. A chunk is stored as
//! two bitmaps, acquired (staged and pending ones included) and pending. Reservations are not
//! stored: those of merges have ended when a checkpoint begins, and the checkpoint acquires its own
//! blocks before it takes the snapshot. A snapshot shares the chunks and costs no copy; a chunk
//! changed afterwards is copied once. Chunks that two snapshots share need not be written again.
//!
//! Address 0 is the file's header and never free.

use std::rc::Rc;

use thiserror::Error;

use crate::block::BlockAddress;

const WORD_BITS: u64 = 64;

/// Blocks that one piece of work may acquire.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reservation is acquired from or forfeited"]
pub struct Reservation {
    /// Runs of addresses, ascending; taken from the front.
    runs: Vec<Run>,
    run_first: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
}

impl Reservation {
    /// A reservation of nothing.
    pub fn empty() -> Reservation {
        Reservation { runs: Vec::new(), run_first: 0 }
    }

    /// Blocks not acquired yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.runs[self.run_first..].iter().map(|run| run.len).sum()
    }

    /// The largest address of the next `count` blocks; none of no blocks, or more than there are.
    #[must_use]
    pub fn last_of(&self, count: u64) -> Option<u64> {
        let mut left = count;
        let mut runs = self.runs[self.run_first..].iter();
        let run = runs.find(|run| {
            let found = left <= run.len;
            left -= if found { 0 } else { run.len };
            found
        })?;
        Some(run.start + left.checked_sub(1)?)
    }

    fn next(&mut self) -> Option<u64> {
        let run = self.runs.get_mut(self.run_first)?;
        let address = run.start;
        run.start += 1;
        run.len -= 1;
        if run.len == 0 {
            self.run_first += 1;
        }
        Some(address)
    }
}

/// How the blocks of a grid are spoken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Blocks there can be, without the header block.
    pub blocks_max: u64,
    /// Blocks in use, released ones included.
    pub acquired: u64,
    /// Blocks reserved and not acquired.
    pub reserved: u64,
    /// Blocks released that wait for the next checkpoint to begin.
    pub staged: u64,
    /// Blocks released that wait for their checkpoint to be durable.
    pub pending: u64,
}

impl Space {
    /// Blocks that can be reserved.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.blocks_max - self.acquired - self.reserved
    }
}

/// Why stored chunks are not a free set of this grid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FreeSetFault {
    /// Another number of chunks.
    #[error("{actual} chunks, expected {expected}")]
    ChunkCount {
        /// Chunks of a grid of this size.
        expected: usize,
        /// Chunks given.
        actual: usize,
    },
    /// A chunk of another length.
    #[error("chunk {chunk} has {actual} bytes, expected {expected}")]
    ChunkSize {
        /// Number of the chunk.
        chunk: usize,
        /// Bytes of every chunk.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A block that cannot be acquired is marked as such.
    #[error("chunk {chunk} marks blocks outside the grid, or the header block")]
    Outside {
        /// Number of the chunk.
        chunk: usize,
    },
    /// A block waits to be freed and is not in use.
    #[error("chunk {chunk} frees blocks that are not acquired")]
    PendingNotAcquired {
        /// Number of the chunk.
        chunk: usize,
    },
}

#[derive(Clone, Debug)]
struct Chunk {
    acquired: Rc<Vec<u64>>,
    pending: Rc<Vec<u64>>,
    staged: Vec<u64>,
    /// Reserved, or not a block that can be acquired at all.
    unavailable: Vec<u64>,
    free: u64,
    staged_blocks: u64,
    pending_blocks: u64,
}

impl Chunk {
    fn new(words: usize) -> Chunk {
        Chunk {
            acquired: Rc::new(vec![0; words]),
            pending: Rc::new(vec![0; words]),
            staged: vec![0; words],
            unavailable: vec![0; words],
            free: words as u64 * WORD_BITS,
            staged_blocks: 0,
            pending_blocks: 0,
        }
    }
}

/// The free set of a grid.
#[derive(Debug)]
pub struct FreeSet {
    chunk_blocks: u64,
    chunks: Vec<Chunk>,
    space: Space,
    /// No chunk before this one has a free block.
    chunk_first: usize,
    /// Largest address ever reserved or acquired.
    address_max: u64,
}

impl FreeSet {
    /// All blocks of a grid file of `blocks_max` blocks, header included, are free.
    #[must_use]
    pub fn new(blocks_max: u64, chunk_blocks: u32) -> FreeSet {
        let chunk_blocks = u64::from(chunk_blocks);
        assert!(chunk_blocks > 0 && chunk_blocks.is_multiple_of(WORD_BITS));
        let words = (chunk_blocks / WORD_BITS) as usize;
        let count = blocks_max.div_ceil(chunk_blocks) as usize;
        let mut chunks = vec![Chunk::new(words); count];
        let outside = std::iter::once(0).chain(blocks_max..count as u64 * chunk_blocks);
        for address in outside {
            let chunk = &mut chunks[(address / chunk_blocks) as usize];
            set(&mut chunk.unavailable, address % chunk_blocks);
            chunk.free -= 1;
        }
        let space = Space { blocks_max: blocks_max - 1, ..Space::default() };
        FreeSet { chunk_blocks, chunks, space, chunk_first: 0, address_max: 0 }
    }

    /// How many blocks are in which state.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    /// Largest address that was ever handed out: the file must reach that far.
    #[must_use]
    pub fn address_max(&self) -> u64 {
        self.address_max
    }

    /// Free blocks with an address below `end`.
    #[must_use]
    pub fn free_below(&self, end: u64) -> u64 {
        let (whole, bits) = self.place(end);
        let before: u64 = self.chunks.iter().take(whole).map(|chunk| chunk.free).sum();
        let Some(chunk) = self.chunks.get(whole) else { return before };
        let free = |word: usize| !(chunk.acquired[word] | chunk.unavailable[word]);
        let last = (bits / WORD_BITS) as usize;
        let words: u64 = (0..last).map(|word| u64::from(free(word).count_ones())).sum();
        let rest = match bits % WORD_BITS {
            0 => 0,
            bits => u64::from((free(last) << (WORD_BITS - bits)).count_ones()),
        };
        before + words + rest
    }

    /// Whether a block is in use, be it released already.
    #[must_use]
    pub fn is_acquired(&self, address: BlockAddress) -> bool {
        let (chunk, bit) = self.place(address.get());
        self.chunks.get(chunk).is_some_and(|chunk| get(&chunk.acquired, bit))
    }

    /// Whether a block is in use and was not released.
    #[must_use]
    pub fn is_live(&self, address: BlockAddress) -> bool {
        let (chunk, bit) = self.place(address.get());
        self.is_acquired(address)
            && !get(&self.chunks[chunk].staged, bit)
            && !get(&self.chunks[chunk].pending, bit)
    }

    /// Takes the `count` lowest free blocks; none if there are not that many.
    pub fn reserve(&mut self, count: u64) -> Option<Reservation> {
        if self.space.free() < count {
            return None;
        }
        let mut reservation = Reservation::empty();
        let mut missing = count;
        while missing > 0 {
            let number = self.chunk_first;
            let chunk = &mut self.chunks[number];
            let base = number as u64 * self.chunk_blocks;
            missing -= take_lowest(chunk, base, missing, &mut reservation.runs);
            if missing > 0 {
                assert!(self.chunks[number].free == 0);
                self.chunk_first += 1;
            }
        }
        self.space.reserved += count;
        if let Some(last) = reservation.runs.last() {
            self.address_max = self.address_max.max(last.start + last.len - 1);
        }
        Some(reservation)
    }

    /// Takes the next block of a reservation, which must not be used up.
    pub fn acquire(&mut self, reservation: &mut Reservation) -> BlockAddress {
        let address = reservation.next().expect("work never takes more than it reserved");
        let (chunk, bit) = self.place(address);
        let chunk = &mut self.chunks[chunk];
        assert!(get(&chunk.unavailable, bit) && !get(&chunk.acquired, bit));
        clear(&mut chunk.unavailable, bit);
        let acquired = Rc::make_mut(&mut chunk.acquired);
        set(acquired, bit);
        self.space.reserved -= 1;
        self.space.acquired += 1;
        BlockAddress::new(address).expect("address 0 is never free")
    }

    /// Gives back what is left of a reservation.
    pub fn forfeit(&mut self, reservation: Reservation) {
        for run in &reservation.runs[reservation.run_first..] {
            let (mut address, end) = (run.start, run.start + run.len);
            while address < end {
                let (number, bit) = self.place(address);
                let count = (end - address).min(WORD_BITS - bit % WORD_BITS);
                let mask = u64::MAX >> (WORD_BITS - count) << (bit % WORD_BITS);
                let word = (bit / WORD_BITS) as usize;
                let chunk = &mut self.chunks[number];
                assert!(chunk.unavailable[word] & mask == mask && chunk.acquired[word] & mask == 0);
                chunk.unavailable[word] &= !mask;
                chunk.free += count;
                self.chunk_first = self.chunk_first.min(number);
                self.space.reserved -= count;
                address += count;
            }
        }
    }

    /// Notes that nothing refers to a block any more, from the next checkpoint on.
    pub fn release(&mut self, address: BlockAddress) {
        assert!(self.is_live(address), "block {address} is released but not in use");
        let (chunk, bit) = self.place(address.get());
        set(&mut self.chunks[chunk].staged, bit);
        self.chunks[chunk].staged_blocks += 1;
        self.space.staged += 1;
    }

    /// A checkpoint begins: what was released so far is not part of it.
    pub fn checkpoint_begin(&mut self) {
        assert!(self.space.pending == 0, "the previous checkpoint's blocks are free first");
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.staged_blocks > 0) {
            let pending = Rc::make_mut(&mut chunk.pending);
            pending.copy_from_slice(&chunk.staged);
            chunk.staged.fill(0);
            chunk.pending_blocks = std::mem::take(&mut chunk.staged_blocks);
        }
        self.space.pending = std::mem::take(&mut self.space.staged);
    }

    /// The checkpoint that began last is durable on a quorum: what it left behind is free. Gives
    /// the number of blocks.
    pub fn checkpoint_free(&mut self) -> u64 {
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            let freed = std::mem::take(&mut chunk.pending_blocks);
            if freed == 0 {
                continue;
            }
            let acquired = Rc::make_mut(&mut chunk.acquired);
            for (word, pending) in acquired.iter_mut().zip(chunk.pending.iter()) {
                assert!(*word & pending == *pending, "a pending block was in use");
                *word &= !pending;
            }
            Rc::make_mut(&mut chunk.pending).fill(0);
            chunk.free += freed;
            self.space.acquired -= freed;
            self.chunk_first = self.chunk_first.min(number);
        }
        std::mem::take(&mut self.space.pending)
    }

    /// The set as it is now; later changes do not show in it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let share = |chunk: &Chunk| SharedChunk {
            acquired: Rc::clone(&chunk.acquired),
            pending: Rc::clone(&chunk.pending),
        };
        Snapshot { chunks: self.chunks.iter().map(share).collect() }
    }

    /// The set that a checkpoint stored.
    pub fn restore<'a>(
        blocks_max: u64,
        chunk_blocks: u32,
        stored: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<FreeSet, FreeSetFault> {
        let mut set = FreeSet::new(blocks_max, chunk_blocks);
        let expected = set.chunks.len();
        if stored.len() != expected {
            return Err(FreeSetFault::ChunkCount { expected, actual: stored.len() });
        }
        for (number, bytes) in stored.enumerate() {
            set.restore_chunk(number, bytes)?;
        }
        Ok(set)
    }

    fn restore_chunk(&mut self, number: usize, bytes: &[u8]) -> Result<(), FreeSetFault> {
        let words = (self.chunk_blocks / WORD_BITS) as usize;
        let (expected, actual) = (chunk_size(words), bytes.len());
        if expected != actual {
            return Err(FreeSetFault::ChunkSize { chunk: number, expected, actual });
        }
        let (acquired, pending) = bytes.split_at(expected / 2);
        let (acquired, pending) = (words_of(acquired), words_of(pending));
        let chunk = &mut self.chunks[number];
        if acquired.iter().zip(&chunk.unavailable).any(|(a, outside)| a & outside != 0) {
            return Err(FreeSetFault::Outside { chunk: number });
        }
        if pending.iter().zip(&acquired).any(|(p, a)| p & !a != 0) {
            return Err(FreeSetFault::PendingNotAcquired { chunk: number });
        }
        let count = |words: &[u64]| words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        chunk.free -= count(&acquired);
        chunk.pending_blocks = count(&pending);
        self.space.acquired += count(&acquired);
        self.space.pending += count(&pending);
        if let Some(word) = acquired.iter().rposition(|word| *word != 0) {
            let bit = word as u64 * WORD_BITS + WORD_BITS - 1;
            let bit = bit - u64::from(acquired[word].leading_zeros());
            self.address_max = number as u64 * self.chunk_blocks + bit;
        }
        chunk.acquired = Rc::new(acquired);
        chunk.pending = Rc::new(pending);
        Ok(())
    }

    fn place(&self, address: u64) -> (usize, u64) {
        ((address / self.chunk_blocks) as usize, address % self.chunk_blocks)
    }
}

/// A free set at one moment, sharing memory with it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    chunks: Vec<SharedChunk>,
}

/// Acquired and pending blocks of a chunk.
#[derive(Clone, Debug)]
struct SharedChunk {
    acquired: Rc<Vec<u64>>,
    pending: Rc<Vec<u64>>,
}

impl Snapshot {
    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of every chunk.
    #[must_use]
    pub fn chunk_size(&self) -> usize {
        self.chunks.first().map_or(0, |chunk| chunk_size(chunk.acquired.len()))
    }

    /// Whether a chunk has not changed since an earlier snapshot.
    #[must_use]
    pub fn is_unchanged(&self, chunk: usize, earlier: &Snapshot) -> bool {
        let (now, then) = (&self.chunks[chunk], &earlier.chunks[chunk]);
        Rc::ptr_eq(&now.acquired, &then.acquired) && Rc::ptr_eq(&now.pending, &then.pending)
    }

    /// Writes a chunk; `out` is exactly [`Snapshot::chunk_size`] long.
    pub fn encode_chunk(&self, chunk: usize, out: &mut [u8]) {
        let SharedChunk { acquired, pending } = &self.chunks[chunk];
        assert!(out.len() == chunk_size(acquired.len()));
        let words = acquired.iter().chain(pending.iter());
        for (bytes, word) in out.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn chunk_size(words: usize) -> usize {
    2 * words * 8
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn take_lowest(chunk: &mut Chunk, base: u64, count: u64, runs: &mut Vec<Run>) -> u64 {
    let mut taken = 0;
    for word in 0..chunk.acquired.len() {
        let mut free = !(chunk.acquired[word] | chunk.unavailable[word]);
        while free != 0 && taken < count {
            let bit = u64::from(free.trailing_zeros());
            // The free blocks that follow each other from this one on.
            let len = u64::from((free >> bit).trailing_ones()).min(count - taken);
            let mask = u64::MAX >> (WORD_BITS - len) << bit;
            free &= !mask;
            chunk.unavailable[word] |= mask;
            let start = base + word as u64 * WORD_BITS + bit;
            match runs.last_mut() {
                Some(run) if run.start + run.len == start => run.len += len,
                _ => runs.push(Run { start, len }),
            }
            taken += len;
        }
        if taken == count {
            break;
        }
    }
    chunk.free -= taken;
    taken
}

fn get(words: &[u64], bit: u64) -> bool {
    words[(bit / WORD_BITS) as usize] & 1 << (bit % WORD_BITS) != 0
}

fn set(words: &mut [u64], bit: u64) {
    words[(bit / WORD_BITS) as usize] |= 1 << (bit % WORD_BITS);
}

fn clear(words: &mut [u64], bit: u64) {
    words[(bit / WORD_BITS) as usize] &= !(1 << (bit % WORD_BITS));
}

#[cfg(test)]
mod tests;
