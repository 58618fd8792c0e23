//! Sequential reading of ranges, several in flight, delivered in order.
//!
//! What the device refuses to read is asked for once more, whole, and then sector by sector; a
//! sector that cannot be read is delivered as zeros and reported, so that one bad sector costs the
//! frame that lies on it and nothing else.

use std::collections::VecDeque;

use ioring::{Buffer, BufferPool, File, Queue, Task};

use super::layout::SECTOR;

/// Reads in flight.
const DEPTH: usize = 4;

/// A range of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// The bytes of a range.
pub(crate) struct Chunk {
    pub(crate) range: Range,
    pub(crate) bytes: Buffer,
    /// Offsets of sectors that could not be read, and why.
    pub(crate) unreadable: Vec<(u64, String)>,
}

/// Delivers the ranges of an iterator, in order.
pub(crate) struct ReadAhead<I> {
    file: File,
    pool: BufferPool,
    ranges: I,
    in_flight: VecDeque<Task<Chunk>>,
}

impl<I: Iterator<Item = Range>> ReadAhead<I> {
    /// No range is longer than `length_max`.
    pub(crate) fn new(file: &File, length_max: usize, ranges: I) -> ReadAhead<I> {
        // The consumer holds one chunk while the others are read.
        let pool = BufferPool::new("journal read-ahead", length_max, DEPTH + 1);
        ReadAhead { file: file.clone(), pool, ranges, in_flight: VecDeque::with_capacity(DEPTH) }
    }

    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        while self.in_flight.len() < DEPTH {
            let Some(range) = self.ranges.next() else { break };
            let (file, pool) = (self.file.clone(), self.pool.clone());
            let read = async move {
                let mut buffer = pool.take().await;
                buffer.set_len(range.length);
                read_range(&file, buffer, range).await
            };
            self.in_flight.push_back(ioring::spawn(Queue::Replication, "journal read", read));
        }
        Some(self.in_flight.pop_front()?.await)
    }
}

async fn read_range(file: &File, mut buffer: Buffer, range: Range) -> Chunk {
    let mut unreadable = Vec::new();
    for _ in 0..2 {
        let result;
        (result, buffer) = file.read(buffer, range.offset).await;
        if result.is_ok() {
            return Chunk { range, bytes: buffer, unreadable };
        }
    }
    let mut sector = Buffer::zeroed(SECTOR);
    for start in (0..range.length).step_by(SECTOR) {
        let offset = range.offset + start as u64;
        let result;
        (result, sector) = file.read(sector, offset).await;
        let target = &mut buffer[start..start + SECTOR];
        match result {
            Ok(()) => target.copy_from_slice(&sector),
            Err(error) => {
                target.fill(0);
                unreadable.push((offset, error.to_string()));
            }
        }
    }
    Chunk { range, bytes: buffer, unreadable }
}
