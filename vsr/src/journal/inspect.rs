//! What tools show of a journal: every segment, every frame, every fault; nothing is changed.
//!
//! Works on stopped and on damaged directories: all it needs is a superblock copy to know the
//! sizes and the incarnation.

use ioring::File;
use wire::{Checksum, Header, Op, View};

use super::layout::{SegmentEpoch, SegmentId, segment_offset};
use super::recover;
use super::recovery::{self, Contradiction, DamagedOp, LogView, OpState};
use super::ring::Geometry;
use super::scan::Finding;
use crate::superblock::State;

/// What one segment holds.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// Its number in the file.
    pub segment: SegmentId,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its newest use; 0 if it was never used.
    pub epoch: SegmentEpoch,
    /// What is in it, in the order of the file.
    pub items: Vec<Item>,
}

/// What lies at an offset.
#[derive(Clone, Debug)]
pub struct Item {
    /// In the file, in bytes.
    pub offset: u64,
    /// What it is.
    pub kind: ItemKind,
}

/// What a part of a segment is.
#[derive(Clone, Debug)]
pub enum ItemKind {
    /// The segment's header sector.
    Header {
        /// The use that it belongs to.
        epoch: SegmentEpoch,
    },
    /// A prepare's frame.
    Prepare {
        /// The use of the segment that it belongs to.
        epoch: SegmentEpoch,
        /// Bytes of the frame.
        length: u32,
        /// The prepare's header.
        header: Box<Header>,
        /// What is wrong with the body, if anything is.
        fault: Option<String>,
    },
    /// A marker.
    Marker {
        /// The use of the segment that it belongs to.
        epoch: SegmentEpoch,
        /// The commit number in it.
        commit: Op,
        /// The ops and checksums that it vouches for.
        ops: Vec<(Op, Checksum)>,
    },
    /// A part of the index of a sealed segment.
    Index {
        /// The use of the segment that it belongs to.
        epoch: SegmentEpoch,
        /// The ops and checksums that it vouches for.
        ops: Vec<(Op, Checksum)>,
    },
    /// Bytes that begin as a frame does and are none.
    Bad {
        /// Why.
        fault: String,
    },
    /// Sectors in which no frame begins.
    Gap {
        /// Bytes.
        length: u64,
        /// Whether all of them are zero.
        blank: bool,
    },
}

/// A journal as it lies on disk, and what a restart would make of it.
#[derive(Clone, Debug)]
pub struct JournalReport {
    /// Its segments.
    pub segments: Vec<SegmentReport>,
    /// The checkpoint's op: the log begins behind it.
    pub checkpoint: Op,
    /// The highest commit number that anything vouches for.
    pub commit_max: Op,
    /// The newest op that a restart would keep; none when it would refuse.
    pub head: Option<Op>,
    /// The view of the log.
    pub log_view: View,
    /// Ops behind the checkpoint and what is known of them.
    pub ops: Vec<(Op, OpState)>,
    /// Ops that were durable and are damaged: what makes a replica that is alone refuse to start.
    /// Of a member's only those of which a damaged frame is there: others it may never have had.
    pub damaged: Vec<DamagedOp>,
    /// How journal and superblock contradict each other, if they do.
    pub contradiction: Option<Contradiction>,
    /// Offsets that could not be used or read, and why.
    pub bad: Vec<(u64, String)>,
}

impl JournalReport {
    /// Whether a replica that is alone would refuse to start, and a member have to ask its peers.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty() || self.contradiction.is_some()
    }

    /// All frames of one op, whatever their version or state.
    pub fn frames_of(&self, op: Op) -> impl Iterator<Item = &Item> {
        let items = self.segments.iter().flat_map(|segment| &segment.items);
        items.filter(move |item| match &item.kind {
            ItemKind::Prepare { header, .. } => recovery::Summary::of(header).op == op,
            _ => false,
        })
    }
}

/// Reads the whole journal.
pub async fn inspect(file: &File, superblock: &State) -> JournalReport {
    let geometry = Geometry::of(&superblock.configuration);
    let view = LogView::of(superblock);
    let mut segments: Vec<SegmentReport> = (0..geometry.segment_count)
        .map(SegmentId)
        .map(|segment| SegmentReport {
            segment,
            offset: segment_offset(segment, geometry.segment_size),
            epoch: SegmentEpoch(0),
            items: Vec::new(),
        })
        .collect();
    let incarnation = superblock.identity.incarnation;
    let evidence = recover::scan(
        file,
        geometry,
        incarnation,
        view.checkpoint_op,
        |segment, offset, finding| {
            let kind = describe(finding);
            segments[segment.0 as usize].items.push(Item { offset, kind });
        },
    )
    .await;
    for (segment, epoch) in segments.iter_mut().zip(&evidence.epochs) {
        segment.epoch = *epoch;
        segment.items.sort_by_key(|item| item.offset);
    }
    let mut report = JournalReport {
        segments,
        checkpoint: view.checkpoint_op,
        commit_max: evidence.commit_max.max(view.commit_max),
        head: None,
        log_view: view.log_view,
        ops: Vec::new(),
        damaged: Vec::new(),
        contradiction: None,
        bad: evidence.bad.clone(),
    };
    match recovery::decide(&view, &evidence) {
        Ok(log) => {
            report.commit_max = log.commit_max;
            (report.head, report.damaged) = if view.has_peers {
                (Some(log.kept()), log.damaged().into_iter().filter(|op| op.seen).collect())
            } else {
                match log.solo(view.checkpoint_checksum) {
                    Ok(solo) => (Some(solo.head), Vec::new()),
                    Err(_) => (None, log.damaged()),
                }
            };
            let first = view.checkpoint_op.0 + 1;
            let ops = log.ops.into_iter().enumerate();
            report.ops = ops.map(|(index, state)| (Op(first + index as u64), state)).collect();
        }
        Err(contradiction) => report.contradiction = Some(contradiction),
    }
    report
}

fn describe(finding: &Finding<'_>) -> ItemKind {
    let names = |headers: &mut dyn Iterator<Item = Header>| {
        headers
            .map(|header| recovery::Summary::of(&header))
            .map(|summary| (summary.op, summary.checksum))
            .collect()
    };
    match finding {
        Finding::Segment { epoch } => ItemKind::Header { epoch: *epoch },
        Finding::Prepare { epoch, length, header, fault } => ItemKind::Prepare {
            epoch: *epoch,
            length: *length,
            header: Box::new(*header),
            fault: fault.as_ref().map(ToString::to_string),
        },
        Finding::Marker { epoch, commit, entries } => {
            ItemKind::Marker { epoch: *epoch, commit: *commit, ops: names(&mut entries.headers()) }
        }
        Finding::Index { epoch, entries } => {
            ItemKind::Index { epoch: *epoch, ops: names(&mut entries.headers()) }
        }
        Finding::Bad { fault } => ItemKind::Bad { fault: fault.to_string() },
        Finding::Gap { length, blank } => ItemKind::Gap { length: *length, blank: *blank },
    }
}
