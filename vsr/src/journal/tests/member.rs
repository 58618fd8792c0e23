//! A member's journal against a model: random logs of random views, prepares in any order, versions
//! replaced, given up while they are written, checkpoints, a ring that wraps; with crashes
//! everywhere (`crash`) and damage (`damage`).
//!
//! The world outside has one log for each view and a commit number; the member gets prepares of its
//! view's log in any order. What it did is told to a [`Model`] as it happens. After a restart the
//! model says what must have been found, by the log of the view that the superblock names:
//!
//! * What was durable and is not given up is there and can be read, or is kept as a stray.
//! * What was never attempted is not there.
//! * With damage: what was durable is there or damaged; it is never absent.

mod cases;
mod crash;
mod damage;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use wire::message::{Prepare, Purpose};
use wire::{CheckpointId, Checksum, ClusterId, Draft, Header, Op, Timestamp, View};

use super::support;
use crate::journal::recovery::{MemberLog, RecoveredOp, Summary};
use crate::replica::LogHead;

/// Ops that may be beyond the commit number.
const PIPELINE: u64 = 4;

/// Seeds of a test: so many, or as many as `VSR_JOURNAL_SEEDS` says.
fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("VSR_JOURNAL_SEEDS").ok();
    asked.map_or(usual, |text| text.parse().expect("a number of seeds"))
}

type Version = (Op, u128);

fn version(header: &Header) -> Version {
    (Summary::of(header).op, header.checksum().0)
}

/// What the world outside knows.
#[derive(Clone, Default)]
struct Model {
    /// The log of each view that the member had to follow, from op 1 on.
    logs: BTreeMap<u32, Vec<Header>>,
    /// The highest op that is committed somewhere.
    commit: u64,
    /// Versions whose write was begun, ever.
    attempted: BTreeSet<Version>,
    /// Versions that were durable and that no durable view has given up.
    counts: BTreeSet<Version>,
    /// The newest view whose record is durable.
    view: u32,
    checkpoint: u64,
}

impl Model {
    fn new() -> Model {
        Model { logs: [(0, Vec::new())].into(), ..Model::default() }
    }

    /// The prepare after this log in a view.
    fn next(&self, log: &[Header], view: u32, size: usize) -> Header {
        let root = LogHead::root(ClusterId(7)).checksum;
        let op = log.len() as u64 + 1;
        let tail = Prepare {
            parent: log.last().map_or(root, Header::checksum),
            checkpoint: CheckpointId(0),
            op: Op(op),
            commit: Op(self.commit),
            timestamp: Timestamp(op),
            version_count: 1,
            request_count: 0,
            purpose: Purpose::Requests,
        };
        let draft = Draft { cluster: ClusterId(7), view: View(view), ..Draft::default() };
        draft.seal(&tail, &body(Op(op), View(view), size))
    }

    /// What must be true of a log that a restart found under the record of a view.
    fn check(&self, found: &MemberLog, view: u32, damaged: bool) -> Result<(), String> {
        let log = self.logs.get(&view).ok_or(format!("view {view} was never attempted"))?;
        if found.checkpoint_op.0 < self.checkpoint || view < self.view {
            return Err(format!("view {view} or checkpoint {} went back", found.checkpoint_op));
        }
        let strays: BTreeSet<Version> = found.strays.iter().map(version).collect();
        for (index, header) in log.iter().enumerate().skip(found.checkpoint_op.0 as usize) {
            let known = found.ops.get(index - found.checkpoint_op.0 as usize);
            let counts = self.counts.contains(&version(header));
            let fine = match known {
                Some(RecoveredOp::Present(there)) => {
                    there == header && self.attempted.contains(&version(header))
                }
                Some(RecoveredOp::Damaged(there)) => {
                    let kept = damaged || !counts || strays.contains(&version(header));
                    kept && there.is_none_or(|there| there == *header)
                }
                Some(RecoveredOp::Absent(_)) | None => !counts,
            };
            if !fine {
                let op = index + 1;
                return Err(format!("op {op} counts: {counts}, found {known:?} in view {view}"));
            }
        }
        let found_head = found.checkpoint_op.0 + found.ops.len() as u64;
        if found_head > log.len() as u64 {
            return Err(format!("op {found_head} was found, the log has {}", log.len()));
        }
        if !damaged && !found.head_known && found_head > self.commit {
            return Err(format!("the head {found_head} is unknown, {} is committed", self.commit));
        }
        Ok(())
    }
}

/// The body of a prepare, by op and view so that a mix-up shows.
fn body(op: Op, view: View, size: usize) -> Vec<u8> {
    support::body(Op(op.0 * 1000 + u64::from(view.0)), size)
}

/// Whether a frame is that of a prepare, whole.
fn is_frame_of(frame: &[u8], header: &Header) -> bool {
    let Ok(found) = Header::verify(&frame[crate::journal::FRAME_HEADER_SIZE..]) else {
        return false;
    };
    let op = Summary::of(header).op;
    let expected = body(op, header.view(), header.body_size());
    found == *header
        && frame[crate::journal::BODY_OFFSET..][..expected.len()] == expected[..]
        && found.checksum() != Checksum(0)
}
