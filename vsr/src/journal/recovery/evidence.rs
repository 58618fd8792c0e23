//! What the scan found, segment by segment.
//!
//! Everything that speaks for an op is one of three things: a frame, a name in a marker or an
//! index, a commit number. Each is kept with the segment that it was found in, because a segment
//! that is begun anew takes what it said with it. [`Evidence::without`] is what would be left.

use wire::{Header, Op};

use super::super::layout::{SegmentEpoch, SegmentId};
use super::super::scan::Finding;
use super::{Location, Sighting, Summary};

/// What the scan found.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Frames, in no particular order.
    pub frames: Vec<Sighting>,
    /// Prepares that a marker or an index names: they were durable when it was written.
    pub vouched: Vec<Summary>,
    /// The segments of those markers and indexes.
    pub vouched_in: Vec<SegmentId>,
    /// The highest commit number in any good prepare header or marker.
    pub commit_max: Op,
    /// The same of each segment.
    pub commits: Vec<Op>,
    /// Newest epoch of each segment; 0 where none was found.
    pub epochs: Vec<SegmentEpoch>,
    /// Frames of earlier uses of their segment.
    pub stale: u64,
    /// Frame headers or payloads that could not be used.
    pub bad: Vec<(u64, String)>,
    /// Bytes of written sectors in which no frame begins.
    pub unrecognised: u64,
}

impl Evidence {
    /// Collects the findings of one segment; those of earlier uses of the segment are dropped at
    /// its end, prepares at or below the checkpoint at once.
    pub(crate) fn segment(&mut self, segment: SegmentId, checkpoint: Op) -> SegmentEvidence<'_> {
        let frames_start = self.frames.len();
        SegmentEvidence {
            evidence: self,
            segment,
            checkpoint,
            epoch: SegmentEpoch(0),
            commit: Op(0),
            vouched: Vec::new(),
            frames_start,
        }
    }

    /// What would be known if a segment had been begun anew.
    pub(crate) fn without(&self, segment: SegmentId) -> Evidence {
        let named = self.vouched.iter().zip(&self.vouched_in);
        let (vouched, vouched_in) = named.filter(|(_, id)| **id != segment).unzip();
        let frames = self.frames.iter().filter(|frame| frame.location.segment != segment);
        let commits = self.commits.iter().enumerate();
        let others = commits.filter(|(index, _)| *index != segment.0 as usize);
        Evidence {
            frames: frames.copied().collect(),
            vouched,
            vouched_in,
            commit_max: others.map(|(_, commit)| *commit).max().unwrap_or_default(),
            ..Evidence::default()
        }
    }
}

/// Collects one segment's findings.
pub(crate) struct SegmentEvidence<'a> {
    evidence: &'a mut Evidence,
    segment: SegmentId,
    checkpoint: Op,
    epoch: SegmentEpoch,
    commit: Op,
    vouched: Vec<(SegmentEpoch, Summary)>,
    frames_start: usize,
}

impl SegmentEvidence<'_> {
    pub(crate) fn add(&mut self, offset: u64, finding: Finding<'_>) {
        match finding {
            Finding::Segment { epoch } => self.epoch = self.epoch.max(epoch),
            Finding::Prepare { epoch, length, header, fault } => {
                self.epoch = self.epoch.max(epoch);
                let summary = Summary::of(&header);
                self.commit = self.commit.max(summary.commit);
                if summary.op > self.checkpoint {
                    let segment = self.segment;
                    let location = Location { offset, length, segment, epoch };
                    let good = fault.is_none();
                    self.evidence.frames.push(Sighting { summary, location, good });
                }
                if let Some(fault) = fault {
                    self.evidence.bad.push((offset, format!("op {}: {fault}", summary.op)));
                }
            }
            Finding::Marker { epoch, commit, entries } => {
                self.commit = self.commit.max(commit);
                self.vouch(epoch, entries.headers());
            }
            Finding::Index { epoch, entries } => self.vouch(epoch, entries.headers()),
            Finding::Bad { fault } => self.evidence.bad.push((offset, fault.to_string())),
            Finding::Gap { length, blank } => {
                self.evidence.unrecognised += if blank { 0 } else { length };
            }
        }
    }

    fn vouch(&mut self, epoch: SegmentEpoch, headers: impl Iterator<Item = Header>) {
        self.epoch = self.epoch.max(epoch);
        let live = headers
            .map(|header| Summary::of(&header))
            .filter(|summary| summary.op > self.checkpoint);
        self.vouched.extend(live.map(|summary| (epoch, summary)));
    }

    pub(crate) fn finish(self) {
        let evidence = self.evidence;
        let before = evidence.frames.len();
        let mut index = self.frames_start;
        while index < evidence.frames.len() {
            if evidence.frames[index].location.epoch == self.epoch {
                index += 1;
            } else {
                evidence.frames.swap_remove(index);
            }
        }
        evidence.stale += (before - evidence.frames.len()) as u64;
        let current = self.vouched.into_iter().filter(|(epoch, _)| *epoch == self.epoch);
        for (_, summary) in current {
            evidence.vouched.push(summary);
            evidence.vouched_in.push(self.segment);
        }
        evidence.epochs.push(self.epoch);
        evidence.commits.push(self.commit);
        evidence.commit_max = evidence.commit_max.max(self.commit);
    }
}
