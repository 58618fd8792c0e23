//! Which segment is written, which are free, where each op's frame is. Pure bookkeeping.
//!
//! A segment is *free* when it is not the one being written, holds no op's frame above the
//! checkpoint, has no write in flight, and does not hold the newest marker. It is used again under
//! a new epoch; nothing needs to be erased.
//!
//! # Never stuck
//!
//! Frames of ops above the checkpoint come to at most the log budget, half of what segments can
//! hold. Still the free segments could run out while old segments hold a few live frames each.
//! Therefore, when fewer than two segments are free, the live frames of the oldest segment
//! (the *victim*) are appended again, which frees it. For this to always have room:
//!
//! 1. Ordinary frames never take the last free segment, and when none is free they wait.
//! 2. Frames appended again may take it. A victim's live frames fit into one empty segment, because
//!    they fitted into one before, in the same order.
//! 3. So when none is free, the segment being written holds nothing but copies whose originals are
//!    still in the victim; when the victim is done, it is free, and there is one again.
//! 4. Each victim that is not full of live frames leaves room for ordinary ones. As live frames are
//!    at most half of what segments hold, going through all of them meets such victims.
//!
//! A crash between 2 and 3 leaves both: copies and originals. Recovery may then count either as the
//! live one; where the copies would leave no segment free it takes the originals of those in one
//! segment.
//!
//! # What vouches for the tail is kept
//!
//! The newest marker's segment is not reused before a newer marker is durable, and a
//! segment with the newest commit number in a frame is the newest one. So freeing a segment never
//! makes an acknowledged op look torn.

use std::collections::{BTreeMap, VecDeque};

use wire::{Checksum, Header, Incarnation, Op};

use super::layout::{
    Entry, Place, SECTOR, SegmentEpoch, SegmentId, frame_size, index_size, segment_offset,
};
use super::recovery::{Location, Sighting};
use crate::format::Configuration;

/// The sizes that the journal works with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of a segment.
    pub segment_size: u32,
    /// Segments.
    pub segment_count: u32,
    /// Bytes of the largest frame.
    pub frame_max: usize,
    /// Prepares in flight at most; also how many headers a marker has.
    pub pipeline_max: usize,
    /// Bytes of live frames at most.
    pub log_budget: u64,
}

impl Geometry {
    /// The sizes that `configuration` asks for.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Geometry {
        Geometry {
            segment_size: configuration.journal_segment_size,
            segment_count: configuration.journal_segment_count,
            frame_max: frame_size(configuration.prepare_size_max as usize),
            pipeline_max: usize::from(configuration.pipeline_max),
            log_budget: configuration.log_budget(),
        }
    }
}

/// Who asks for space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// A new prepare or a marker: leaves the last free segment alone.
    Ordinary,
    /// What frees a segment: may take the last one.
    Again,
}

/// The state of one segment.
struct Segment {
    epoch: SegmentEpoch,
    /// Bytes used, from the segment's start.
    used: u32,
    /// Ops whose frame is here.
    live: u32,
    /// Writes in flight.
    pending: u32,
    /// Its header sector is to be written.
    header_due: bool,
    /// Index entries, until the index is written.
    entries: Vec<Entry>,
    /// Nothing more is appended and the index is to be written.
    seal_due: bool,
    sealed: bool,
}

#[derive(Clone, Copy)]
struct Known {
    location: Location,
    checksum: Checksum,
}

/// See the module's documentation.
pub(crate) struct Ring {
    geometry: Geometry,
    incarnation: Incarnation,
    segments: Vec<Segment>,
    current: Option<SegmentId>,
    epoch_last: SegmentEpoch,
    /// Where each op's frame is, from the op after the checkpoint on.
    ops: VecDeque<Option<Known>>,
    checkpoint: Op,
    live_bytes: u64,
    marker: Option<SegmentId>,
    spare: Vec<Vec<Entry>>,
}

impl Ring {
    pub(crate) fn new(
        geometry: Geometry,
        incarnation: Incarnation,
        epochs: &[SegmentEpoch],
        checkpoint: Op,
    ) -> Ring {
        assert!(epochs.len() == geometry.segment_count as usize);
        let segment = |epoch: &SegmentEpoch| Segment {
            epoch: *epoch,
            used: geometry.segment_size,
            live: 0,
            pending: 0,
            header_due: false,
            entries: Vec::new(),
            seal_due: false,
            sealed: false,
        };
        let entries_max = geometry.segment_size as usize / SECTOR;
        Ring {
            geometry,
            incarnation,
            segments: epochs.iter().map(segment).collect(),
            current: None,
            epoch_last: epochs.iter().copied().max().unwrap_or_default(),
            ops: VecDeque::with_capacity(
                usize::try_from(geometry.log_budget).unwrap_or(0) / SECTOR,
            ),
            checkpoint,
            live_bytes: 0,
            marker: None,
            spare: (0..2).map(|_| Vec::with_capacity(entries_max)).collect(),
        }
    }

    /// Takes over what recovery found: the prefix, and the earlier copies in it. `false` if no
    /// segment is free: bad frames where copies should be can have that effect.
    #[must_use]
    pub(crate) fn load(&mut self, prefix: &[Sighting], copies: &BTreeMap<Op, Location>) -> bool {
        for frame in prefix {
            let known = Known { location: frame.location, checksum: frame.summary.checksum };
            self.place_op(frame.summary.op, known);
        }
        if self.free_count() > 0 {
            return true;
        }
        // The segment that was written when the process died, if it holds nothing but copies.
        let elsewhere = |frame: &Sighting, segment| {
            copies.get(&frame.summary.op).copied().filter(|copy| copy.segment != segment)
        };
        let in_it = |segment| prefix.iter().filter(move |frame| frame.location.segment == segment);
        let spare = self
            .ids()
            .find(|&segment| in_it(segment).all(|frame| elsewhere(frame, segment).is_some()));
        let Some(spare) = spare else { return false };
        ioring::mark!("journal_originals_taken");
        for frame in in_it(spare) {
            let location = elsewhere(frame, spare).expect("just seen");
            let known = Known { location, checksum: frame.summary.checksum };
            self.place_op(frame.summary.op, known);
        }
        assert!(self.free_count() > 0, "a segment without live frames is free");
        true
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(crate) fn checkpoint(&self) -> Op {
        self.checkpoint
    }

    /// The newest op that has a frame.
    pub(crate) fn head(&self) -> Op {
        Op(self.checkpoint.0 + self.ops.len() as u64)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn locate(&self, op: Op) -> Option<(Location, Checksum)> {
        let index = usize::try_from(op.0.checked_sub(self.checkpoint.0 + 1)?).ok()?;
        let known = (*self.ops.get(index)?)?;
        Some((known.location, known.checksum))
    }

    fn segment(&self, segment: SegmentId) -> &Segment {
        &self.segments[segment.0 as usize]
    }

    fn segment_mut(&mut self, segment: SegmentId) -> &mut Segment {
        &mut self.segments[segment.0 as usize]
    }

    fn ids(&self) -> impl Iterator<Item = SegmentId> + use<> {
        (0..self.geometry.segment_count).map(SegmentId)
    }

    fn is_free(&self, id: SegmentId) -> bool {
        let segment = self.segment(id);
        segment.live == 0
            && segment.pending == 0
            && self.current != Some(id)
            && self.marker != Some(id)
    }

    pub(crate) fn free_count(&self) -> usize {
        self.ids().filter(|&id| self.is_free(id)).count()
    }

    /// Finds room for a frame of `length` bytes; `header` is given for a prepare, which gets an
    /// entry in the segment's index. `None`: wait until something is freed.
    pub(crate) fn reserve(
        &mut self,
        length: usize,
        header: Option<&Header>,
        claim: Claim,
    ) -> Option<Place> {
        assert!(
            length.is_multiple_of(SECTOR) && (SECTOR..=self.geometry.frame_max).contains(&length)
        );
        let free = self.free_count();
        let fits = self.current.is_some_and(|id| self.fits(id, length, header.is_some()));
        let needed = usize::from(!fits) + usize::from(claim == Claim::Ordinary);
        if free < needed {
            return None;
        }
        if !fits {
            self.open_next();
        }
        let id = self.current.expect("a segment is open");
        assert!(self.fits(id, length, header.is_some()), "an empty segment holds any frame");
        let start = segment_offset(id, self.geometry.segment_size);
        let segment = &mut self.segments[id.0 as usize];
        let offset = segment.used;
        let length = u32::try_from(length).expect("a frame fits its segment");
        segment.used += length;
        segment.pending += 1;
        segment.entries.extend(header.map(|&header| Entry { offset, length, header }));
        let (epoch, offset) = (segment.epoch, start + u64::from(offset));
        Some(Place { incarnation: self.incarnation, epoch, segment: id, offset })
    }

    fn fits(&self, id: SegmentId, length: usize, entry: bool) -> bool {
        let segment = self.segment(id);
        let index = index_size(segment.entries.len() + usize::from(entry));
        segment.used as usize + length + index <= self.geometry.segment_size as usize
    }

    /// Closes the current segment and begins the next free one in the order of the file.
    fn open_next(&mut self) {
        let count = self.geometry.segment_count;
        let after = self.current.map_or(count - 1, |id| id.0);
        let next = (1..=count).map(|step| SegmentId((after + step) % count));
        let next = { next }.find(|&id| self.is_free(id)).expect("a free segment was counted");
        if let Some(current) = self.current {
            self.segment_mut(current).seal_due = true;
        }
        self.epoch_last.0 += 1;
        let epoch = self.epoch_last;
        // A segment freed before its index was written still has its entries.
        let old = &mut self.segments[next.0 as usize].entries;
        let mut entries = std::mem::take(old);
        if entries.capacity() == 0 {
            entries = self.spare.pop().unwrap_or_default();
        }
        entries.clear();
        let segment = self.segment_mut(next);
        assert!(segment.epoch < epoch, "each use of a segment has a newer epoch");
        *segment = Segment {
            epoch,
            used: SECTOR as u32,
            live: 0,
            pending: 0,
            header_due: true,
            entries,
            seal_due: false,
            sealed: false,
        };
        self.current = Some(next);
    }

    /// A segment whose header sector is to be written, now counted as a write in flight.
    pub(crate) fn take_header(&mut self) -> Option<Place> {
        let id = self.ids().find(|&id| self.segment(id).header_due)?;
        let offset = segment_offset(id, self.geometry.segment_size);
        let incarnation = self.incarnation;
        let segment = self.segment_mut(id);
        segment.header_due = false;
        segment.pending += 1;
        Some(Place { incarnation, epoch: segment.epoch, segment: id, offset })
    }

    /// A closed segment whose frames are all durable: where its index goes, and its entries. It
    /// counts as a write in flight until [`Ring::sealed`].
    pub(crate) fn take_seal(&mut self) -> Option<(Place, Vec<Entry>)> {
        let due = |segment: &Segment| {
            segment.seal_due && segment.pending == 0 && segment.live > 0 && !segment.header_due
        };
        let id = self.ids().find(|&id| due(self.segment(id)))?;
        let start = segment_offset(id, self.geometry.segment_size);
        let incarnation = self.incarnation;
        let segment = self.segment_mut(id);
        segment.seal_due = false;
        segment.pending += 1;
        let offset = start + u64::from(segment.used);
        let place = Place { incarnation, epoch: segment.epoch, segment: id, offset };
        Some((place, std::mem::take(&mut segment.entries)))
    }

    /// The index of a segment is durable.
    pub(crate) fn sealed(&mut self, place: Place, mut entries: Vec<Entry>) {
        entries.clear();
        self.spare.push(entries);
        let segment = self.segment_mut(place.segment);
        assert!(segment.epoch == place.epoch && !segment.sealed);
        segment.sealed = true;
        segment.pending -= 1;
    }

    /// A write that is no prepare's is durable.
    pub(crate) fn written(&mut self, place: Place) {
        let segment = self.segment_mut(place.segment);
        assert!(segment.epoch == place.epoch && segment.pending > 0);
        segment.pending -= 1;
    }

    /// A marker is durable: the one before it is not needed any more.
    pub(crate) fn marker_written(&mut self, place: Place) {
        self.written(place);
        self.marker = Some(place.segment);
    }

    /// A prepare's frame is durable.
    pub(crate) fn prepare_written(&mut self, place: Place, length: u32, op: Op, sum: Checksum) {
        self.written(place);
        let Place { offset, segment, epoch, .. } = place;
        let location = Location { offset, length, segment, epoch };
        self.place_op(op, Known { location, checksum: sum });
    }

    fn place_op(&mut self, op: Op, known: Known) {
        // Released while it was written again.
        if op <= self.checkpoint {
            return;
        }
        let index = usize::try_from(op.0 - self.checkpoint.0 - 1).expect("ops fit memory");
        if index >= self.ops.len() {
            self.ops.resize(index + 1, None);
        }
        let old = self.ops[index].replace(known);
        self.segment_mut(known.location.segment).live += 1;
        self.live_bytes += u64::from(known.location.length);
        if let Some(old) = old {
            self.forget(old);
        }
    }

    fn forget(&mut self, known: Known) {
        let segment = self.segment_mut(known.location.segment);
        assert!(segment.epoch == known.location.epoch && segment.live > 0);
        segment.live -= 1;
        self.live_bytes -= u64::from(known.location.length);
    }

    /// All ops up to `checkpoint` are durable in the grids.
    pub(crate) fn release(&mut self, checkpoint: Op) {
        while self.checkpoint < checkpoint {
            self.checkpoint = self.checkpoint.next();
            if let Some(Some(known)) = self.ops.pop_front() {
                self.forget(known);
            }
        }
    }

    /// The segment whose live frames are to be appended again, if free ones are short.
    pub(crate) fn victim(&self) -> Option<SegmentId> {
        if self.free_count() >= 2 {
            return None;
        }
        let idle = |id: &SegmentId| {
            let segment = self.segment(*id);
            self.current != Some(*id) && segment.pending == 0 && !self.is_free(*id)
        };
        self.ids().filter(idle).min_by_key(|&id| self.segment(id).epoch)
    }

    /// The first op at or after `from` whose frame is in `segment`.
    pub(crate) fn next_live(
        &self,
        segment: SegmentId,
        from: Op,
    ) -> Option<(Op, Location, Checksum)> {
        let skip = usize::try_from(from.0.saturating_sub(self.checkpoint.0 + 1)).ok()?;
        let known = self.ops.iter().enumerate().skip(skip);
        let mut here = known.filter_map(|(index, known)| Some((index, (*known)?)));
        let (index, known) = here.find(|(_, known)| known.location.segment == segment)?;
        Some((Op(self.checkpoint.0 + 1 + index as u64), known.location, known.checksum))
    }

    pub(crate) fn has_live(&self, segment: SegmentId) -> bool {
        self.segment(segment).live > 0
    }
}
