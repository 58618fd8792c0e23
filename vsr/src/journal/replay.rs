//! Reading the log in op order, fast: what a restart does before it serves.
//!
//! Frames that follow each other in the file (they mostly do: one replica appends in op order) are
//! read together, up to a megabyte at a time and several reads ahead, and handed out as slices of
//! what was read.

use std::collections::VecDeque;

use ioring::Frozen;
use wire::{Checksum, Op};

use super::Journal;
use super::read::{ReadError, verify};
use super::read_ahead::{Range, ReadAhead};
use super::recovery::Location;

/// Bytes read at a time, unless one frame is longer.
const GROUP: u64 = 1 << 20;
/// Bytes between two frames (markers, mostly) that are read along rather than apart.
const HOLE: u64 = 64 << 10;

/// See [`Journal::replay`].
pub struct Replay<'a> {
    journal: &'a Journal,
    frames: VecDeque<(Op, Location, Checksum)>,
    /// For each frame that is left, whether a new range begins with it.
    begins: VecDeque<bool>,
    reader: ReadAhead<std::vec::IntoIter<Range>>,
    chunk: Option<(Range, Frozen)>,
}

impl Journal {
    /// The frames of `first..=last`, one after the other.
    ///
    /// # Errors
    /// [`ReadError::Absent`] when one of them is not in the journal.
    pub fn replay(&self, first: Op, last: Op) -> Result<Replay<'_>, ReadError> {
        let state = self.shared.state.borrow();
        let frames = (first.0..=last.0).map(Op).map(|op| {
            let (location, checksum) = state.ring.locate(op).ok_or(ReadError::Absent(op))?;
            Ok((op, location, checksum))
        });
        let frames = frames.collect::<Result<VecDeque<_>, ReadError>>()?;
        let (ranges, begins) = ranges(frames.iter().map(|(_, location, _)| *location));
        let length_max = ranges.iter().map(|range| range.length).max().unwrap_or(1);
        let reader = ReadAhead::new(&self.shared.file, length_max, ranges.into_iter());
        Ok(Replay { journal: self, frames, begins, reader, chunk: None })
    }
}

impl Replay<'_> {
    /// The next frame, checked; `None` after the last.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when it went bad since recovery.
    pub async fn next(&mut self) -> Result<Option<Frozen>, ReadError> {
        let Some((op, location, checksum)) = self.frames.pop_front() else { return Ok(None) };
        if self.begins.pop_front() == Some(true) {
            // The old chunk first: its buffer may be the one that the next is read into.
            self.chunk = None;
            let chunk = self.reader.next().await.expect("a range for each that begins");
            self.chunk = Some((chunk.range, chunk.bytes.freeze()));
        }
        let (range, chunk) = self.chunk.as_ref().expect("the first frame begins a range");
        assert!(contains(*range, location), "ranges come in the order of their frames");
        let from = (location.offset - range.offset) as usize;
        let frame = chunk.slice(from..from + location.length as usize);
        match verify(&frame, &self.journal.shared, location, checksum) {
            Ok(()) => Ok(Some(frame)),
            Err(_) => self.journal.read(op, checksum).await.map(Some),
        }
    }
}

fn contains(range: Range, location: Location) -> bool {
    location.offset >= range.offset
        && location.offset + u64::from(location.length) <= range.offset + range.length as u64
}

/// Joins frames that follow each other closely into ranges to read at once, and says with which
/// frames they begin.
fn ranges(frames: impl Iterator<Item = Location>) -> (Vec<Range>, VecDeque<bool>) {
    let mut ranges: Vec<Range> = Vec::new();
    let mut begins = VecDeque::new();
    for location in frames {
        let end = location.offset + u64::from(location.length);
        if let Some(last) = ranges.last_mut() {
            let last_end = last.offset + last.length as u64;
            let follows = location.offset >= last_end && location.offset - last_end <= HOLE;
            if follows && end - last.offset <= GROUP {
                last.length = (end - last.offset) as usize;
                begins.push_back(false);
                continue;
            }
        }
        ranges.push(Range { offset: location.offset, length: location.length as usize });
        begins.push_back(true);
    }
    (ranges, begins)
}

#[cfg(test)]
mod tests {
    use super::super::layout::{SegmentEpoch, SegmentId};
    use super::*;

    #[test]
    fn neighbours_are_read_together() {
        let at = |offset: u64, length: u32| Location {
            offset,
            length,
            segment: SegmentId(0),
            epoch: SegmentEpoch(1),
        };
        let frames = [at(4096, 4096), at(8192, 8192), at(20480, 4096), at(1 << 20, 4096)];
        let (joined, begins) = ranges(frames.into_iter());
        assert_eq!(begins, [true, false, false, true]);
        let expected =
            [Range { offset: 4096, length: 20480 }, Range { offset: 1 << 20, length: 4096 }];
        assert_eq!(joined, expected);
        // The third lies within what the first two made one range of, and is still its own.
        let (between, begins) = ranges([at(0, 4096), at(8192, 4096), at(4096, 4096)].into_iter());
        assert_eq!((between.len(), begins), (2, [true, false, true].into()));
        let (big, _) = ranges([at(0, 1 << 20), at(1 << 20, 4096)].into_iter());
        assert_eq!(big.len(), 2);
    }
}
