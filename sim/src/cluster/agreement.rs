//! What the members' disks say, compared.
//!
//! * A committed op is the same prepare on every member, at all times.
//! * Checkpoints at the same op have the same identifier: it is a hash of the roots of all shards,
//!   and roots name the checksums of what is below them, so the grids are equal to the byte.
//! * Views in superblocks never go back.
//!
//! A disk is looked at as it lies, in a world of its own, so that looking changes nothing: neither
//! time nor any throw of the dice passes in the cluster's world.

use std::collections::BTreeMap;
use std::path::Path;

use ioring::sim::{Config, SimDisk, World};
use vsr::format::inspect::{DirectoryReport, inspect};
use vsr::journal::OpState;
use wire::{CheckpointId, Checksum, Op, View};

use crate::Violation;
use crate::server::DIR;

/// Reads a member's superblock and journal.
///
/// # Errors
/// When there is none: members are formatted before anything else.
pub fn read(disk: SimDisk) -> Result<DirectoryReport, Violation> {
    let mut world = World::new(0, Config::default());
    let host = world.add_node("inspector");
    world.set_disk(host, disk);
    let read = world.run(host, || inspect(Path::new(DIR), true));
    match read {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) => Err(Violation(format!("a journal cannot be read: {error}"))),
        Err(status) => Err(Violation(format!("a journal cannot be read: {status:?}"))),
    }
}

/// All that any disk ever said.
#[derive(Default)]
pub struct Agreement {
    ops: BTreeMap<Op, (Checksum, usize)>,
    checkpoints: BTreeMap<Op, (CheckpointId, usize)>,
    views: BTreeMap<usize, (View, View)>,
}

impl Agreement {
    /// How many committed ops and checkpoints were seen.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.ops.len(), self.checkpoints.len())
    }

    /// Compares what a member's disk says with all that was seen before.
    ///
    /// # Errors
    /// What contradicts it.
    pub fn compare(&mut self, member: usize, report: &DirectoryReport) -> Result<(), Violation> {
        let Some(state) = &report.state else {
            let why = report.decision.as_ref().err().map(ToString::to_string);
            return Err(Violation(format!("member {member} has no superblock: {why:?}")));
        };
        let views = (state.view, state.log_view);
        let before = self.views.insert(member, views).unwrap_or_default();
        if views < before {
            let text = format!("member {member} went back from views {before:?} to {views:?}");
            return Err(Violation(text));
        }
        let (op, id) = (state.checkpoint.op, state.checkpoint.id);
        let (first, whose) = *self.checkpoints.entry(op).or_insert((id, member));
        if first != id {
            let text = format!("checkpoint {op} is {id} on member {member}, {first} on {whose}");
            return Err(Violation(text));
        }
        let Some(journal) = &report.journal else { return Ok(()) };
        for (op, state) in &journal.ops {
            if let OpState::Present(frame) = state
                && *op <= journal.commit_max
            {
                let checksum = frame.summary.checksum;
                let (first, whose) = *self.ops.entry(*op).or_insert((checksum, member));
                if first != checksum {
                    let text = format!("op {op} is another on members {member} and {whose}");
                    return Err(Violation(text));
                }
            }
        }
        Ok(())
    }
}
