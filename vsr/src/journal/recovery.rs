//! What a restart makes of the journal: present, torn, damaged, void. Pure.
//!
//! Frames stand in the order they were written, not in op order; an op may be there more than once
//! and in versions of which only one is meant. The scan collects [`Evidence`]; [`decide`] works
//! it out, from the superblock's word (checkpoint, log view, headers of its log):
//!
//! 1. *Highest commit.* The largest commit number in the superblock or any good prepare header or
//!    marker. All ops up to it were durable once.
//! 2. *Void.* A frame or a marker's entry of an older view above the head of the superblock's view
//!    headers was given up when that view began. One of a newer view than the superblock's log
//!    view cannot be (the superblock is durable first): the superblock lost its last update,
//!    refused.
//! 3. *Version.* Above the head all is of the current view, in which an op has one version; two are
//!    refused. At the head and below, the view headers name the version, and each version's
//!    parent checksum names the one before it. Where the chain breaks because a header is missing,
//!    it begins again at what is known to be committed: a prepare's ancestors up to its commit
//!    number are, whatever became of the prepare. What is between cannot be told from superseded
//!    versions and counts as unresolved.
//! 4. *State of an op* above the checkpoint: *present* if there is a good frame of its version.
//!    Otherwise *damaged* if it was durable once: at or below the highest commit, named by a view
//!    header (alone), by a marker, or by a sealed segment's index. Otherwise *torn*: never known to
//!    have been acknowledged.
//! 5. *Alone*, the prefix ends before the first op that is not present. If that op is damaged,
//!    starting is refused by name. If it is torn, it and everything behind it is forgotten: ops
//!    commit in order, so nothing behind it was acknowledged either. The view is raised durably
//!    before serving, and the next recovery finds what was dropped void by rule 2.
//! 6. *With peers* nothing is refused, and only what is torn at the end is forgotten:
//!    [`MemberLog`].
//!
//! What remains: a crash together with rot of exactly the newest frames, those in the pipeline
//! that no later commit number and, within the marker delay, no marker vouches for. They are then
//! taken for torn although they may have been acknowledged. The table with every row is in
//! `docs/FORMAT.md`; the tests go through it.

mod evidence;
mod expendable;
mod member;

use std::collections::BTreeMap;

use wire::{Checksum, Header, Op, View};

pub use evidence::Evidence;
pub use member::{MemberLog, RecoveredOp};

use super::layout::{SegmentEpoch, SegmentId};
use crate::superblock::VIEW_HEADERS_MAX;

/// What recovery needs of a prepare's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The position in the log.
    pub op: Op,
    /// The view it was made in.
    pub view: View,
    /// Names the prepare.
    pub checksum: Checksum,
    /// Names the prepare before it.
    pub parent: Checksum,
    /// The commit number when it was made.
    pub commit: Op,
}

impl Summary {
    /// The summary of a prepare's header.
    ///
    /// # Panics
    /// When it is the header of something else.
    #[must_use]
    pub fn of(header: &Header) -> Summary {
        let prepare = header.tail::<wire::message::Prepare>().expect("the header of a prepare");
        Summary {
            op: prepare.op,
            view: header.view(),
            checksum: header.checksum(),
            parent: prepare.parent,
            commit: prepare.commit,
        }
    }
}

/// Where a frame lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// In the file, in bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
    /// The segment.
    pub segment: SegmentId,
    /// The use of the segment.
    pub epoch: SegmentEpoch,
}

/// A frame with a readable prepare header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The prepare.
    pub summary: Summary,
    /// Its frame.
    pub location: Location,
    /// Whether the body is intact.
    pub good: bool,
}

/// The superblock's word on the log.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    /// The checkpoint; all ops up to it are in the grids.
    pub checkpoint_op: Op,
    /// The checksum of the prepare at the checkpoint; of the root at op 0.
    pub checkpoint_checksum: Checksum,
    /// The view whose log this is.
    pub log_view: View,
    /// The headers of the log when that view began, its newest prepares.
    pub headers: Vec<Summary>,
    /// The highest commit number recorded.
    pub commit_max: Op,
    /// Whether there are peers. Then a view may begin with prepares that this replica does not have
    /// yet: its headers name versions, and say nothing about what was durable here.
    pub has_peers: bool,
}

/// What is known of an op above the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpState {
    /// There is a good frame of the version that is meant.
    Present(Sighting),
    /// It was durable once and no good frame of it is left.
    Damaged {
        /// The version that is meant, if a header names it.
        expected: Option<Checksum>,
        /// Where a bad frame of it lies.
        offset: Option<u64>,
    },
    /// Below a break in the chain: which version is meant cannot be told yet.
    Unresolved,
    /// Never known to have been acknowledged.
    Torn,
}

/// Why the journal contradicts the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Contradiction {
    /// A frame of a view that the superblock does not know.
    #[error(
        "op {op} at offset {offset} is of view {view}, the superblock of log view {log_view}: \
         the superblock lost its last update"
    )]
    NewerView {
        /// The op.
        op: Op,
        /// Where.
        offset: u64,
        /// Its view.
        view: View,
        /// The superblock's log view.
        log_view: View,
    },
    /// Two prepares at one op of one view.
    #[error("op {op} has two versions in view {view}, at offsets {offset_a} and {offset_b}")]
    TwoVersions {
        /// The op.
        op: Op,
        /// The view.
        view: View,
        /// One of them.
        offset_a: u64,
        /// The other.
        offset_b: u64,
    },
    /// A prepare whose parent is not the one before it.
    #[error(
        "op {op} at offset {offset} does not continue the log: it follows {parent}, not {found}"
    )]
    BrokenChain {
        /// The op.
        op: Op,
        /// Where.
        offset: u64,
        /// The parent that it names.
        parent: Checksum,
        /// The prepare that is there.
        found: Checksum,
    },
}

/// The log as far as it can be known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The op of the checkpoint: `ops` begins after it.
    pub checkpoint_op: Op,
    /// The state of each op, from the one after the checkpoint on.
    pub ops: Vec<OpState>,
    /// The highest commit number that anything vouches for.
    pub commit_max: Op,
    /// Frames of versions that were given up.
    pub void: u64,
    /// Good frames of superseded versions and second copies.
    pub superseded: u64,
    /// The earliest written good copy of each present op that has several.
    pub copies: BTreeMap<Op, Location>,
    /// Good frames at unresolved ops: one of them may be of the version that is meant.
    pub unresolved: Vec<Sighting>,
    /// The newest op that the view began with, or the checkpoint's.
    pub view_head: Op,
    /// The versions meant of torn ops, where they are known.
    pub torn: BTreeMap<Op, Checksum>,
}

/// The log of a replica that is alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SoloLog {
    /// The prepares to keep, in op order, from the one after the checkpoint on.
    pub prefix: Vec<Sighting>,
    /// The newest op kept: the checkpoint's when there is no prefix.
    pub head: Op,
    /// Its checksum.
    pub head_checksum: Checksum,
    /// How many ops were seen behind the head and are forgotten.
    pub forgotten: usize,
    /// The earliest written good copy of each op of the prefix that has several.
    pub copies: BTreeMap<Op, Location>,
}

/// An op that was durable and is not any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedOp {
    /// The op.
    pub op: Op,
    /// Where its frame is, or must have been.
    pub offset: u64,
    /// Whether a bad frame of it was seen there.
    pub seen: bool,
}

/// The versions of one op that were seen.
#[derive(Default)]
struct Candidates {
    versions: Vec<Candidate>,
}

struct Candidate {
    summary: Summary,
    vouched: bool,
    frame: Option<Sighting>,
    earliest: Option<Location>,
}

impl Candidates {
    fn add(&mut self, summary: Summary, vouched: bool, frame: Option<Sighting>) -> u64 {
        let found =
            self.versions.iter_mut().find(|known| known.summary.checksum == summary.checksum);
        let Some(known) = found else {
            let earliest = frame.filter(|frame| frame.good).map(|frame| frame.location);
            self.versions.push(Candidate { summary, vouched, frame, earliest });
            return 0;
        };
        known.vouched |= vouched;
        let Some(new) = frame else { return 0 };
        let order = |location: &Location| (location.epoch, location.offset);
        if new.good && known.earliest.is_none_or(|old| order(&new.location) < order(&old)) {
            known.earliest = Some(new.location);
        }
        let Some(old) = &mut known.frame else {
            known.frame = Some(new);
            return 0;
        };
        // A good copy before a bad one, then the one written last.
        let rank = |frame: &Sighting| (frame.good, frame.location.epoch, frame.location.offset);
        if rank(&new) > rank(old) {
            *old = new;
        }
        1
    }

    fn get(&self, checksum: Checksum) -> Option<&Candidate> {
        self.versions.iter().find(|known| known.summary.checksum == checksum)
    }
}

/// Works out the log. See the module's documentation for the rules.
///
/// # Errors
/// [`Contradiction`] when journal and superblock cannot both be right.
pub fn decide(view: &LogView, evidence: &Evidence) -> Result<Log, Contradiction> {
    let base = view.checkpoint_op;
    let head = view.headers.iter().map(|header| header.op).max().unwrap_or(base).max(base);
    let commit_max = evidence.commit_max.max(view.commit_max).max(base);
    let mut log = Log {
        checkpoint_op: base,
        ops: Vec::new(),
        commit_max,
        void: 0,
        superseded: 0,
        copies: BTreeMap::new(),
        unresolved: Vec::new(),
        view_head: head,
        torn: BTreeMap::new(),
    };
    let mut seen: BTreeMap<Op, Candidates> = BTreeMap::new();
    for header in view.headers.iter().filter(|header| header.op > base) {
        seen.entry(header.op).or_default().add(*header, !view.has_peers, None);
    }
    let current = |summary: &Summary, offset: u64| -> Result<bool, Contradiction> {
        let Summary { op, view: found, .. } = *summary;
        if found > view.log_view {
            let log_view = view.log_view;
            return Err(Contradiction::NewerView { op, offset, view: found, log_view });
        }
        Ok(op > base && (op <= head || found == view.log_view))
    };
    for summary in &evidence.vouched {
        if current(summary, 0)? {
            seen.entry(summary.op).or_default().add(*summary, true, None);
        }
    }
    for frame in &evidence.frames {
        if current(&frame.summary, frame.location.offset)? {
            let candidates = seen.entry(frame.summary.op).or_default();
            log.superseded += candidates.add(frame.summary, false, Some(*frame));
        } else if frame.summary.op > base {
            log.void += 1;
        }
    }
    let top = seen.keys().next_back().copied().unwrap_or(base).max(commit_max);
    let chosen = choose(view, head, top, &seen)?;
    for (index, chosen) in chosen.iter().enumerate() {
        let op = Op(base.0 + 1 + index as u64);
        log.ops.push(state(op, chosen, commit_max, seen.get(&op)));
        if let (Choice::Version(checksum), OpState::Torn) = (chosen, &log.ops[index]) {
            log.torn.insert(op, *checksum);
        }
        if let (Choice::Unresolved, Some(seen)) = (chosen, seen.get(&op)) {
            let frames = seen.versions.iter().filter_map(|version| version.frame);
            log.unresolved.extend(frames.filter(|frame| frame.good));
        }
        if let (Choice::Version(checksum), Some(seen)) = (chosen, seen.get(&op)) {
            let others = seen
                .versions
                .iter()
                .filter(|other| other.summary.checksum != *checksum && other.frame.is_some());
            log.superseded += others.count() as u64;
            if let (OpState::Present(frame), Some(known)) = (&log.ops[index], seen.get(*checksum)) {
                let copy = known.earliest.filter(|copy| *copy != frame.location);
                log.copies.extend(copy.map(|copy| (op, copy)));
            }
        }
    }
    Ok(log)
}

/// Which version of an op is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// This one.
    Version(Checksum),
    /// Nothing says anything about the op.
    Unseen,
    /// The chain is broken above it.
    Unresolved,
}

/// The meant version of each op above the checkpoint, the chain checked.
fn choose(
    view: &LogView,
    head: Op,
    top: Op,
    seen: &BTreeMap<Op, Candidates>,
) -> Result<Vec<Choice>, Contradiction> {
    let base = view.checkpoint_op;
    let count = usize::try_from(top.0 - base.0).expect("ops of one journal fit memory");
    let mut chosen = vec![Choice::Unseen; count];
    let index = |op: Op| (op.0 - base.0 - 1) as usize;
    let offset = |known: &Candidate| known.frame.map_or(0, |frame| frame.location.offset);

    for (&op, candidates) in seen.range(head.next()..) {
        if let [first, second, ..] = &candidates.versions[..] {
            let (offset_a, offset_b) = (offset(first), offset(second));
            let view = first.summary.view;
            return Err(Contradiction::TwoVersions { op, view, offset_a, offset_b });
        }
        chosen[index(op)] = Choice::Version(candidates.versions[0].summary.checksum);
    }
    let mut expected: Option<Checksum> = None;
    for op in (base.0 + 1..=head.0).rev().map(Op) {
        let named = view.headers.iter().find(|header| header.op == op);
        expected = named.map(|header| header.checksum).or(expected);
        expected = expected.or_else(|| committed(op, seen));
        chosen[index(op)] = expected.map_or(Choice::Unresolved, Choice::Version);
        let known = expected.and_then(|checksum| seen.get(&op)?.get(checksum));
        expected = known.map(|known| known.summary.parent);
    }

    let mut before = Some(view.checkpoint_checksum);
    for op in (base.0 + 1..=top.0).map(Op) {
        let version = match chosen[index(op)] {
            Choice::Version(checksum) => seen.get(&op).and_then(|seen| seen.get(checksum)),
            Choice::Unseen | Choice::Unresolved => None,
        };
        if let (Some(known), Some(found)) = (version, before)
            && known.summary.parent != found
        {
            let (offset, parent) = (offset(known), known.summary.parent);
            return Err(Contradiction::BrokenChain { op, offset, parent, found });
        }
        before = match chosen[index(op)] {
            Choice::Version(checksum) => Some(checksum),
            Choice::Unseen | Choice::Unresolved => None,
        };
    }
    Ok(chosen)
}

/// The version of an op that some prepare above it names as committed. A pipeline reaches less far
/// than the superblock's headers.
fn committed(op: Op, seen: &BTreeMap<Op, Candidates>) -> Option<Checksum> {
    let above = seen.range(op.next()..=Op(op.0 + VIEW_HEADERS_MAX as u64));
    let mut knowing = above
        .flat_map(|(_, candidates)| &candidates.versions)
        .filter(|version| version.summary.commit >= op);
    knowing.find_map(|version| {
        let mut ancestor = version.summary;
        while ancestor.op > op.next() {
            let below = seen.get(&Op(ancestor.op.0 - 1))?;
            ancestor = below.get(ancestor.parent)?.summary;
        }
        Some(ancestor.parent)
    })
}

fn state(op: Op, choice: &Choice, commit_max: Op, seen: Option<&Candidates>) -> OpState {
    match *choice {
        Choice::Unresolved => OpState::Unresolved,
        Choice::Unseen if op <= commit_max => OpState::Damaged { expected: None, offset: None },
        Choice::Unseen => OpState::Torn,
        Choice::Version(expected) => {
            let known = seen.and_then(|seen| seen.get(expected));
            let frame = known.and_then(|known| known.frame);
            match frame {
                Some(frame) if frame.good => OpState::Present(frame),
                _ if op <= commit_max || known.is_none_or(|known| known.vouched) => {
                    let offset = frame.map(|frame| frame.location.offset);
                    OpState::Damaged { expected: Some(expected), offset }
                }
                _ => OpState::Torn,
            }
        }
    }
}

impl Log {
    /// The log of a replica that is alone: rule 5.
    ///
    /// # Errors
    /// Every op from the first damaged one on that is known to be damaged.
    pub fn solo(&self, checkpoint: Checksum) -> Result<SoloLog, Vec<DamagedOp>> {
        let mut prefix = Vec::new();
        for state in &self.ops {
            match state {
                OpState::Present(frame) => prefix.push(*frame),
                OpState::Torn => break,
                OpState::Damaged { .. } | OpState::Unresolved => return Err(self.damaged()),
            }
        }
        let head = Op(self.checkpoint_op.0 + prefix.len() as u64);
        assert!(head >= self.commit_max, "what was committed is present or damaged");
        let head_checksum = prefix.last().map_or(checkpoint, |frame| frame.summary.checksum);
        let forgotten = self.ops.len() - prefix.len();
        let mut copies = self.copies.clone();
        copies.retain(|op, _| *op <= head);
        Ok(SoloLog { prefix, head, head_checksum, forgotten, copies })
    }

    /// Ops that were durable once and are not any more.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedOp> {
        let mut damaged = Vec::new();
        let mut behind = crate::superblock::ZONE_SIZE as u64 + super::layout::SECTOR as u64;
        for (index, state) in self.ops.iter().enumerate() {
            let op = Op(self.checkpoint_op.0 + 1 + index as u64);
            match state {
                OpState::Present(frame) => {
                    behind = frame.location.offset + u64::from(frame.location.length);
                }
                OpState::Damaged { offset, .. } => damaged.push(DamagedOp {
                    op,
                    offset: offset.unwrap_or(behind),
                    seen: offset.is_some(),
                }),
                OpState::Torn | OpState::Unresolved => {}
            }
        }
        damaged
    }
}

#[cfg(test)]
mod tests;
