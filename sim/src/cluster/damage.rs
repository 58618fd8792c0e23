//! What a disk does to a member that is down, within what the protocol promises to bear.
//!
//! Bounds, without which nothing could be promised:
//!
//! 1. An op is damaged on one member only (the one that its number falls to), so another one of any
//!    replication quorum still has it.
//! 2. It is above the checkpoints of all members: nobody has dropped it yet.
//! 3. A restart can tell that it was durable once. The newest frames, which nothing vouches for,
//!    are taken for torn writes when they are damaged together with a crash; that is outside of
//!    what any log can bear, and said so in `vsr::journal::recovery`. Whether it can tell is tried:
//!    the damage is done to a copy of the disk, which is then read as a restart would.
//! 4. Of the eight copies of a superblock one or two are damaged: any three may be.

use ioring::sim::{Dice, SimDisk};
use vsr::format::inspect::DirectoryReport;
use vsr::journal::{Location, OpState};
use vsr::superblock::{COPIES, COPY_SIZE};
use wire::Op;

use super::agreement::read;
use super::members::Cluster;
use crate::Violation;

/// How many frames are the newest.
const NEWEST: usize = 3;

/// What a restart would make of a disk.
fn outlook(report: &DirectoryReport) -> Option<(usize, usize, u64)> {
    let journal = report.journal.as_ref().filter(|journal| journal.contradiction.is_none())?;
    let torn = journal.ops.iter().filter(|(_, state)| *state == OpState::Torn).count();
    let version = report.decision.as_ref().ok()?.version;
    Some((journal.ops.len(), torn, version.sequence))
}

fn damage_frame(disk: &mut SimDisk, frame: &Location, dice: &mut Dice) {
    let path = Cluster::journal();
    let length = u64::from(frame.length);
    let place = frame.offset + dice.below(length);
    let done = match dice.below(4) {
        0 => disk.overwrite(path, frame.offset, &vec![0; length as usize]),
        1 => disk.make_unreadable(path, place, 1),
        // In the headers, which are in the first sector.
        2 => disk.rot(path, frame.offset + dice.below(512), 1 << dice.below(8)),
        _ => disk.rot(path, place, 1 << dice.below(8)),
    };
    done.expect("the journal is there");
}

fn damage_copies(disk: &mut SimDisk, dice: &mut Dice) {
    for _ in 0..=dice.below(2) {
        let copy = dice.below(COPIES as u64) * COPY_SIZE as u64;
        let place = copy + dice.below(COPY_SIZE as u64);
        disk.rot(Cluster::journal(), place, 1 << dice.below(8)).expect("the journal is there");
    }
}

/// Damages a member that is down, its `newest` frames or any; returns how many.
///
/// # Errors
/// When its disk cannot be read.
pub fn damage(
    cluster: &mut Cluster,
    number: usize,
    newest: bool,
    dice: &mut Dice,
) -> Result<u64, Violation> {
    let members = cluster.members.len() as u64;
    let mut released = Op(0);
    for other in 0..cluster.members.len() {
        let disk = cluster.world.disk(cluster.members[other].host).clone();
        if let Some(state) = read(disk)?.state {
            released = released.max(state.checkpoint.op);
        }
    }
    let host = cluster.members[number].host;
    let mut disk = cluster.world.disk(host).clone();
    let before = read(disk.clone())?;
    let (Some(journal), Some(now)) = (&before.journal, outlook(&before)) else { return Ok(0) };
    let own = |op: Op| op > released && op.0 % members == number as u64;
    let frames = journal.ops.iter().filter(|(op, _)| own(*op));
    let frames = frames.filter_map(|(op, state)| match state {
        OpState::Present(sighting) => Some((*op, sighting.location)),
        _ => None,
    });
    let mut frames: Vec<(Op, Location)> = frames.collect();
    if newest {
        frames = frames.split_off(frames.len().saturating_sub(NEWEST));
    }
    let mut damaged = 0;
    for _ in 0..dice.below(4).min(frames.len() as u64) {
        let (op, frame) = &frames[dice.below(frames.len() as u64) as usize];
        let mut tried = disk.clone();
        damage_frame(&mut tried, frame, dice);
        if outlook(&read(tried.clone())?) == Some(now) {
            cluster.say(|| format!("member {number}: op {op} is damaged"));
            disk = tried;
            damaged += 1;
        }
    }
    if dice.chance(250_000) {
        let mut tried = disk.clone();
        damage_copies(&mut tried, dice);
        // An update that was cut off has damaged some by itself.
        if outlook(&read(tried.clone())?) == Some(now) {
            cluster.say(|| format!("member {number}: copies of the superblock are damaged"));
            disk = tried;
        }
    }
    cluster.world.set_disk(host, disk);
    Ok(damaged)
}
