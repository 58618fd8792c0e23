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
//! # What vouches is kept
//!
//! That an op was durable is known from the index of its segment, from a marker, or from a commit
//! number in any later frame. A segment that is begun anew takes all of these with it. Alone little
//! depends on it: the newest marker's segment is not reused before a newer marker is durable, a
//! segment with the newest commit number in a frame is the newest one, and a restart has the
//! superblock name the tail.
//!
//! A member's frames come in any order, some are given up, and a restart must not take for torn
//! what was acknowledged. So a member's segment is free only if the newest durable marker was begun
//! after anything was last written to the segment and after its last live frame had lost its place.
//! Such a marker has what the segment may have said about ops that still count: it names the tail,
//! and its commit number is at least that of any prepare that was durable. An op that is not of the
//! tail was displaced by one a pipeline or more above it, and that one's commit number covers it.
//!
//! # Several versions of an op
//!
//! A view change may replace a version. Nothing of a view is written before the record of the view
//! is durable, so the version written last is the one that counts, and the one before is dead as
//! soon as it is durable. What a view gives up without writing another version in its place (above
//! its head, or below a hole) stays live until whoever knows says so ([`Ring::give_up`]) or until
//! it is replaced: never dead by guessing.
//!
//! *Strays* are frames that a restart found at an op of which it cannot be told which version is
//! meant. All of them are live, until one is written anew or is said to be given up.
//!
//! Space for that: the replica's budget counts the versions that count. Beyond them are live (1)
//! frames given up while they were being written, a pipeline at most, (2) strays and versions given
//! up that the replica does not know as such yet, because it lacks headers. It gets those from its
//! peers without writing here; then [`Ring::give_up`] frees them. What can be live without
//! stopping the ring is all but one segment's contents, the budget of a member at most that of all
//! but three, half of the ring as a rule.
//!
//! A member's segments keep room for two markers of those that free segments: one that a restart
//! begins with, one behind the copies of a victim. So point 3 holds with them: a victim's frames
//! and the marker that makes it free fit into one segment.

use std::collections::{BTreeMap, VecDeque};

use wire::{Checksum, Header, Incarnation, Op};

use super::layout::{
    Entry, INDEX_ENTRY_SIZE, Place, SECTOR, SegmentEpoch, SegmentId, frame_size, index_size,
    segment_offset,
};
use super::recovery::{Location, Sighting};
use crate::format::Configuration;
use crate::superblock::State;

/// The sizes that the journal works with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of a segment.
    pub segment_size: u32,
    /// Segments.
    pub segment_count: u32,
    /// Bytes of the largest frame.
    pub frame_max: usize,
    /// Prepares in flight at most; also how many headers the tail has.
    pub pipeline_max: usize,
    /// Bytes of live frames at most.
    pub log_budget: u64,
    /// Whether it is a member's journal.
    pub has_peers: bool,
}

impl Geometry {
    /// The sizes that `configuration` asks for.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Geometry {
        let mut geometry = Geometry {
            segment_size: configuration.journal_segment_size,
            segment_count: configuration.journal_segment_count,
            frame_max: frame_size(configuration.prepare_size_max as usize),
            pipeline_max: usize::from(configuration.pipeline_max),
            log_budget: 0,
            has_peers: configuration.replica_count > 1,
        };
        geometry.log_budget = geometry.budget();
        geometry
    }

    /// Half of the journal, or less where segments are so few or so short that two free ones and
    /// the unusable ends of the others leave less than that.
    fn budget(&self) -> u64 {
        let segment = self.segment_size as usize;
        // The index of a segment full of the smallest frames; it, the header sector, the room for
        // markers and the rest that is too short for the next frame are what cannot be used.
        let index = (segment / SECTOR * INDEX_ENTRY_SIZE * 17 / 16).next_multiple_of(SECTOR);
        let unusable = SECTOR + self.frame_max + index + self.marker_room();
        let usable = segment.saturating_sub(unusable) as u64;
        let segments = u64::from(self.segment_count);
        (segments * segment as u64 / 2).min(usable * segments.saturating_sub(3))
    }

    /// Entries that a marker has at most: the tail, and strays that may be of it.
    pub(crate) fn marker_entries(&self) -> usize {
        self.pipeline_max * if self.has_peers { 3 } else { 1 }
    }

    /// Bytes of the largest marker.
    fn marker_size(&self) -> usize {
        frame_size(self.marker_entries() * INDEX_ENTRY_SIZE)
    }

    /// Bytes that a segment keeps for markers that free segments.
    fn marker_room(&self) -> usize {
        if self.has_peers { MARKERS_KEPT * self.marker_size() } else { 0 }
    }
}

/// Markers that a member's segment keeps room for.
const MARKERS_KEPT: usize = 2;

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
    /// Bytes kept for markers that free segments.
    marker_room: u32,
    /// How many markers had been begun when it was written to, or lost a live frame, last.
    touched: u64,
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
    /// Frames at ops of which it is not known which version is meant.
    strays: BTreeMap<(Op, u128), Location>,
    checkpoint: Op,
    live_bytes: u64,
    marker: Option<SegmentId>,
    /// Markers begun, and the number of the newest that is durable.
    markers_begun: u64,
    marker_durable: u64,
    spare: Vec<Vec<Entry>>,
}

impl Ring {
    fn new(
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
            marker_room: 0,
            touched: 1,
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
            strays: BTreeMap::new(),
            checkpoint,
            live_bytes: 0,
            marker: None,
            markers_begun: 1,
            marker_durable: 1,
            spare: (0..2).map(|_| Vec::with_capacity(entries_max)).collect(),
        }
    }

    /// The ring of a journal that was scanned.
    pub(crate) fn recovered(superblock: &State, epochs: &[SegmentEpoch]) -> Ring {
        let geometry = Geometry::of(&superblock.configuration);
        Ring::new(geometry, superblock.identity.incarnation, epochs, superblock.checkpoint.op)
    }

    /// Takes over what recovery found: the frames that count, and those that may.
    pub(crate) fn load(&mut self, frames: &[Sighting], strays: &[Sighting]) {
        for frame in frames {
            let known = Known { location: frame.location, checksum: frame.summary.checksum };
            self.place_op(frame.summary.op, known);
        }
        for stray in strays {
            self.place_stray(stray);
        }
    }

    /// Empties the segment that was being written when the process died, if it holds nothing but
    /// `copies` and `may` be used: their originals count instead. `None`: there is no such segment;
    /// bad frames where copies should be can have that effect.
    pub(crate) fn take_originals(
        &mut self,
        frames: &[Sighting],
        copies: &BTreeMap<Op, Location>,
        may: impl Fn(SegmentId) -> bool,
    ) -> Option<SegmentId> {
        let elsewhere = |frame: &Sighting, segment| {
            copies.get(&frame.summary.op).copied().filter(|copy| copy.segment != segment)
        };
        let in_it = |segment| frames.iter().filter(move |frame| frame.location.segment == segment);
        let stray = |segment| self.strays.values().any(|location| location.segment == segment);
        let spare = self.ids().find(|&segment| {
            self.has_live(segment)
                && !stray(segment)
                && in_it(segment).all(|frame| elsewhere(frame, segment).is_some())
                && may(segment)
        })?;
        ioring::mark!("journal_originals_taken");
        for frame in in_it(spare) {
            let location = elsewhere(frame, spare).expect("just seen");
            let known = Known { location, checksum: frame.summary.checksum };
            self.place_op(frame.summary.op, known);
        }
        assert!(!self.has_live(spare), "a segment of copies is emptied");
        Some(spare)
    }

    /// Segments without live frames, those that were used longest ago first: after a restart.
    pub(crate) fn unused(&self) -> impl Iterator<Item = SegmentId> + use<> {
        assert!(self.current.is_none(), "looked at before anything is written");
        let mut unused: Vec<SegmentId> =
            self.ids().filter(|&id| self.segment(id).live == 0).collect();
        unused.sort_unstable_by_key(|&id| self.segment(id).epoch);
        unused.into_iter()
    }

    /// What this segment says is not needed: it is free before the first marker of a member.
    pub(crate) fn begin_with(&mut self, segment: SegmentId) {
        self.segment_mut(segment).touched = 0;
        assert!(self.is_free(segment), "a member begins with an unused segment");
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

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn index(&self, op: Op) -> Option<usize> {
        usize::try_from(op.0.checked_sub(self.checkpoint.0 + 1)?).ok()
    }

    /// The version of an op that was written last.
    pub(crate) fn locate(&self, op: Op) -> Option<(Location, Checksum)> {
        let known = (*self.ops.get(self.index(op)?)?)?;
        Some((known.location, known.checksum))
    }

    /// Where the frame of this version is.
    pub(crate) fn find(&self, op: Op, checksum: Checksum) -> Option<Location> {
        let main = self.locate(op).filter(|(_, found)| *found == checksum);
        main.map(|(location, _)| location).or_else(|| self.strays.get(&(op, checksum.0)).copied())
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
            && (!self.geometry.has_peers || segment.touched < self.marker_durable)
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
        let fits = self.current.is_some_and(|id| self.fits(id, length, header.is_some(), claim));
        let needed = usize::from(!fits) + usize::from(claim == Claim::Ordinary);
        if free < needed {
            return None;
        }
        if !fits {
            self.open_next();
        }
        let id = self.current.expect("a segment is open");
        assert!(self.fits(id, length, header.is_some(), claim), "an empty segment holds any frame");
        let start = segment_offset(id, self.geometry.segment_size);
        let marker_size = u32::try_from(self.geometry.marker_size()).expect("markers are small");
        self.markers_begun += u64::from(header.is_none());
        let segment = &mut self.segments[id.0 as usize];
        let offset = segment.used;
        let length = u32::try_from(length).expect("a frame fits its segment");
        if header.is_none() && claim == Claim::Again {
            segment.marker_room = segment.marker_room.saturating_sub(marker_size);
        }
        segment.used += length;
        segment.pending += 1;
        segment.entries.extend(header.map(|&header| Entry { offset, length, header }));
        let (epoch, offset) = (segment.epoch, start + u64::from(offset));
        Some(Place { incarnation: self.incarnation, epoch, segment: id, offset })
    }

    fn fits(&self, id: SegmentId, length: usize, prepare: bool, claim: Claim) -> bool {
        let segment = self.segment(id);
        let index = index_size(segment.entries.len() + usize::from(prepare));
        let takes_room = !prepare && claim == Claim::Again;
        let own_room = if takes_room { self.geometry.marker_size() } else { 0 };
        let kept = (segment.marker_room as usize).saturating_sub(own_room);
        segment.used as usize + length + index + kept <= self.geometry.segment_size as usize
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
        let marker_room = u32::try_from(self.geometry.marker_room()).expect("markers are small");
        let touched = self.markers_begun;
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
            marker_room,
            touched,
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

    /// A write that gives no op its place is durable.
    pub(crate) fn written(&mut self, place: Place) {
        let markers_begun = self.markers_begun;
        let segment = self.segment_mut(place.segment);
        assert!(segment.epoch == place.epoch && segment.pending > 0);
        segment.pending -= 1;
        segment.touched = markers_begun;
    }

    /// A marker is durable: the one before it is not needed any more. One is written at a time.
    pub(crate) fn marker_written(&mut self, place: Place) {
        self.written(place);
        self.marker = Some(place.segment);
        self.marker_durable = self.markers_begun;
    }

    /// A prepare's frame is durable: this version of the op counts now.
    pub(crate) fn prepare_written(&mut self, place: Place, length: u32, op: Op, sum: Checksum) {
        self.written(place);
        let Place { offset, segment, epoch, .. } = place;
        let location = Location { offset, length, segment, epoch };
        self.place_op(op, Known { location, checksum: sum });
        if !self.strays.is_empty() {
            self.drop_strays(|other, _| other == op);
        }
    }

    /// A copy of a frame is durable; it counts if the original still did.
    pub(crate) fn copy_written(&mut self, place: Place, op: Op, sum: Checksum, from: Location) {
        self.written(place);
        if self.find(op, sum) != Some(from) {
            return;
        }
        let location = Location { offset: place.offset, segment: place.segment, ..from };
        let location = Location { epoch: place.epoch, ..location };
        if self.strays.contains_key(&(op, sum.0)) {
            self.lose(op, sum);
            self.put_stray((op, sum.0), location);
        } else {
            self.place_op(op, Known { location, checksum: sum });
        }
    }

    fn place_op(&mut self, op: Op, known: Known) {
        // Released while it was written again.
        if op <= self.checkpoint {
            return;
        }
        let index = self.index(op).expect("ops fit memory");
        if index >= self.ops.len() {
            self.ops.resize(index + 1, None);
        }
        let old = self.ops[index].replace(known);
        self.count(known.location);
        if let Some(old) = old {
            self.forget(old.location);
        }
    }

    fn place_stray(&mut self, stray: &Sighting) {
        let Sighting { summary, location, .. } = *stray;
        if self.find(summary.op, summary.checksum).is_none() {
            self.put_stray((summary.op, summary.checksum.0), location);
        }
    }

    fn put_stray(&mut self, version: (Op, u128), location: Location) {
        self.count(location);
        let old = self.strays.insert(version, location);
        assert!(old.is_none(), "a version is kept once");
    }

    fn count(&mut self, location: Location) {
        self.segment_mut(location.segment).live += 1;
        self.live_bytes += u64::from(location.length);
    }

    fn forget(&mut self, location: Location) {
        let markers_begun = self.markers_begun;
        let segment = self.segment_mut(location.segment);
        assert!(segment.epoch == location.epoch && segment.live > 0);
        segment.live -= 1;
        segment.touched = markers_begun;
        self.live_bytes -= u64::from(location.length);
    }

    fn drop_strays(&mut self, mut dropped: impl FnMut(Op, Checksum) -> bool) {
        let gone = self.strays.extract_if(.., |(op, sum), _| dropped(*op, Checksum(*sum)));
        let gone: Vec<Location> = gone.map(|(_, location)| location).collect();
        gone.into_iter().for_each(|location| self.forget(location));
    }

    /// This version's frame is of no use any more.
    pub(crate) fn lose(&mut self, op: Op, checksum: Checksum) {
        if let Some(location) = self.strays.remove(&(op, checksum.0)) {
            self.forget(location);
        } else if let Some(index) = self.index(op).filter(|index| *index < self.ops.len())
            && let Some(known) = self.ops[index].take_if(|known| known.checksum == checksum)
        {
            self.forget(known.location);
        }
    }

    /// Forgets the versions that do not count any more.
    pub(crate) fn give_up(&mut self, mut is_void: impl FnMut(Op, Checksum) -> bool) {
        for index in 0..self.ops.len() {
            let op = Op(self.checkpoint.0 + 1 + index as u64);
            if let Some(known) = self.ops[index].take_if(|known| is_void(op, known.checksum)) {
                ioring::mark!("journal_version_given_up");
                self.forget(known.location);
            }
        }
        if !self.strays.is_empty() {
            self.drop_strays(is_void);
        }
    }

    /// All ops up to `checkpoint` are durable in the grids.
    pub(crate) fn release(&mut self, checkpoint: Op) {
        while self.checkpoint < checkpoint {
            self.checkpoint = self.checkpoint.next();
            if let Some(Some(known)) = self.ops.pop_front() {
                self.forget(known.location);
            }
        }
        if !self.strays.is_empty() {
            self.drop_strays(|op, _| op <= checkpoint);
        }
    }

    /// The segment whose live frames are to be appended again, if free ones are short. One without
    /// live frames waits for a marker. A member's comes first: it costs no copies.
    pub(crate) fn victim(&self) -> Option<SegmentId> {
        if self.free_count() >= 2 {
            return None;
        }
        let idle = |id: &SegmentId| {
            let segment = self.segment(*id);
            self.current != Some(*id) && segment.pending == 0 && !self.is_free(*id)
        };
        self.ids().filter(idle).min_by_key(|&id| {
            let segment = self.segment(id);
            (self.geometry.has_peers && segment.live > 0, segment.epoch)
        })
    }

    /// The versions whose frames are in a segment.
    pub(crate) fn live_in(&self, segment: SegmentId) -> Vec<(Op, Checksum, Location)> {
        let first = self.checkpoint.0 + 1;
        let ops = self.ops.iter().enumerate();
        let ops = ops.filter_map(|(index, known)| Some((Op(first + index as u64), (*known)?)));
        let ops = ops.map(|(op, known)| (op, known.checksum, known.location));
        let strays = self.strays.iter();
        let strays = strays.map(|((op, sum), location)| (*op, Checksum(*sum), *location));
        let live = ops.chain(strays);
        live.filter(|(_, _, location)| location.segment == segment).collect()
    }

    pub(crate) fn has_live(&self, segment: SegmentId) -> bool {
        self.segment(segment).live > 0
    }
}

#[cfg(test)]
mod tests;
