//! A model of a member's disk: frames by version, markers, and the superblock.

use std::collections::{BTreeMap, HashMap, HashSet};

use vsr::journal::layout::{SegmentEpoch, SegmentId};
use vsr::journal::recovery::{
    Contradiction, Evidence, MemberLog, OpState, RecoveredOp, Sighting, decide,
};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE, Location, LogView, Summary};
use vsr::replica::{LogHead, ViewRecord};
use wire::{Checksum, ClusterId, Header, Op, View};

/// A frame that was written.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
    pub(crate) good: bool,
}

/// What remains of a member when its process dies.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) cluster: ClusterId,
    pub(crate) record: ViewRecord,
    pub(crate) checkpoint: Option<Header>,
    pub(crate) frames: BTreeMap<(Op, u128), Stored>,
    /// Versions that were durable here at any time.
    durable: HashSet<(Op, u128)>,
    /// The version of each op that was written last.
    newest: BTreeMap<Op, Header>,
    marked: Vec<Header>,
    marked_commit: Op,
    pipeline_max: usize,
}

impl Disk {
    pub(crate) fn new(cluster: ClusterId, pipeline_max: usize) -> Disk {
        let record =
            ViewRecord { view: View(0), log_view: View(0), headers: Vec::new(), commit_max: Op(0) };
        Disk {
            cluster,
            record,
            checkpoint: None,
            frames: BTreeMap::new(),
            durable: HashSet::new(),
            newest: BTreeMap::new(),
            marked: Vec::new(),
            marked_commit: Op(0),
            pipeline_max,
        }
    }

    /// Headers that a superblock has room for at least.
    pub(crate) fn headers_max(&self) -> usize {
        self.pipeline_max + 1
    }

    pub(crate) fn checkpoint_op(&self) -> Op {
        self.checkpoint.as_ref().map_or(Op(0), |header| Summary::of(header).op)
    }

    /// A frame is on the disk, whole or with a body that was cut off.
    pub(crate) fn write(&mut self, frame: &[u8], good: bool) -> Op {
        let header = Header::verify(&frame[FRAME_HEADER_SIZE..]).expect("the replica made it");
        header.verify_body(&frame[BODY_OFFSET..]).expect("the replica made it");
        let op = Summary::of(&header).op;
        let stored = Stored { header, bytes: frame.to_vec(), good };
        let version = (op, header.checksum().0);
        if good {
            self.frames.insert(version, stored);
            self.newest.insert(op, header);
            self.durable.insert(version);
        } else {
            // An earlier copy of it, if there is one, is not touched.
            self.frames.entry(version).or_insert(stored);
        }
        op
    }

    /// A marker names the newest frames and a commit number. Older ones stay where they are.
    pub(crate) fn mark(&mut self, commit: Op) {
        let newest: Vec<Header> =
            self.newest.values().rev().take(self.pipeline_max).copied().collect();
        for header in newest {
            if !self.marked.contains(&header) {
                self.marked.push(header);
            }
        }
        self.marked_commit = self.marked_commit.max(commit);
    }

    pub(crate) fn get(&self, op: Op, checksum: Checksum) -> Option<&Stored> {
        self.frames.get(&(op, checksum.0))
    }

    /// Whether the prepare was ever durable here.
    pub(crate) fn had(&self, op: Op, checksum: Checksum) -> bool {
        self.durable.contains(&(op, checksum.0))
    }

    pub(crate) fn take_checkpoint(&mut self, header: Header) {
        let op = Summary::of(&header).op;
        self.checkpoint = Some(header);
        self.frames.retain(|(other, _), _| *other > op);
    }

    /// Loses every frame after an op, and with them the markers that named them.
    pub(crate) fn lose_tail(&mut self, last: Op) {
        self.frames.retain(|(op, _), _| *op <= last);
        self.marked.clear();
    }

    fn decided(&self) -> Result<(vsr::journal::Log, HashMap<u128, Header>), Contradiction> {
        let base = self.checkpoint.as_ref().map_or(LogHead::root(self.cluster), LogHead::of);
        let view = LogView {
            checkpoint_op: base.op,
            checkpoint_checksum: base.checksum,
            log_view: self.record.log_view,
            headers: self.record.headers.iter().map(Summary::of).collect(),
            commit_max: self.record.commit_max,
            has_peers: true,
        };
        let mut evidence = Evidence { commit_max: self.marked_commit, ..Evidence::default() };
        evidence.vouched = self.marked.iter().map(Summary::of).collect();
        evidence.vouched.retain(|summary| summary.op > base.op);
        for (index, stored) in self.frames.values().enumerate() {
            let summary = Summary::of(&stored.header);
            let (segment, epoch) = (SegmentId(0), SegmentEpoch(1));
            let offset = 4096 * (1 + index as u64);
            let location = Location { offset, length: 4096, segment, epoch };
            evidence.commit_max = evidence.commit_max.max(summary.commit);
            evidence.frames.push(Sighting { summary, location, good: stored.good });
        }
        let log = decide(&view, &evidence)?;
        let headers = self.frames.values().map(|stored| stored.header);
        let headers = headers.chain(self.marked.iter().copied());
        let headers = headers.chain(self.record.headers.iter().copied());
        Ok((log, headers.map(|header| (header.checksum().0, header)).collect()))
    }

    fn states(&self) -> (vsr::journal::Log, HashMap<u128, Header>) {
        self.decided().expect("journal and superblock belong together")
    }

    /// Whether a restart would not refuse what is here.
    pub(crate) fn is_consistent(&self) -> bool {
        self.decided().is_ok()
    }

    pub(crate) fn recover(&self) -> MemberLog {
        let (log, headers) = self.states();
        log.member(|checksum| headers.get(&checksum.0).copied())
    }

    /// The highest op up to which a restart would have the whole `history`.
    pub(crate) fn solid(&self, history: &[Checksum]) -> Op {
        let log = self.recover();
        let mut op = log.checkpoint_op;
        for recovered in &log.ops {
            let RecoveredOp::Present(header) = recovered else { break };
            if history.get(op.0 as usize) != Some(&header.checksum()) {
                break;
            }
            op = op.next();
        }
        op
    }

    /// Damages a frame, if recovery can tell that it was durable once, and still has what peers
    /// have `released`; returns whether it did.
    pub(crate) fn damage(
        &mut self,
        op: Op,
        lose: bool,
        released: Op,
        history: &[Checksum],
    ) -> bool {
        let torn = |disk: &Disk| {
            let (log, _) = disk.states();
            log.ops.iter().filter(|state| matches!(state, OpState::Torn)).count()
        };
        let Some(committed) = history.get(op.0 as usize - 1) else { return false };
        if self.get(op, *committed).is_none() {
            return false;
        }
        let before = (self.clone(), torn(self), self.states().0.ops.len());
        if lose {
            self.frames.retain(|(other, _), _| *other != op);
        } else {
            let damaged = self.frames.range_mut((op, 0)..=(op, u128::MAX));
            damaged.for_each(|(_, stored)| stored.good = false);
        }
        let told = self.solid(history) >= released.min(before.0.solid(history))
            && torn(self) <= before.1
            && self.states().0.ops.len() == before.2;
        if !told {
            *self = before.0;
        }
        told
    }
}
