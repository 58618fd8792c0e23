//! Which log a new view begins with: one pure function of what a view-change quorum sent.
//!
//! Each [`Vote`] is a do-view-change: the sender's log view, head, commit number, and the headers
//! of its newest ops with two bits each. *Present*: it has the prepare whole. *Nack*: it certainly
//! never acknowledged it. Damaged is neither.
//!
//! 1. *Log view.* The highest among the votes. Only the logs of that view count: whatever was
//!    committed before it is in them, because it began with a log chosen as here.
//! 2. *Head.* The highest op of those logs. In one view an op has one version, so they agree
//!    wherever they overlap.
//! 3. *Committed.* The highest commit number or checkpoint that any vote knows, and every op a
//!    pipeline's length behind the head: a primary gives no op further ahead of its commit number.
//!    These ops are kept, whatever else is known of them.
//! 4. Each op above, upwards from the lowest, by this table:
//!
//! | header | a vote has it present | nacks | result |
//! | --- | --- | --- | --- |
//! | known | yes | any | kept: it can be fetched, committed or not |
//! | known | no | a nack quorum | dropped with all above it: it was never committed |
//! | known | no | fewer | undecided: it may be committed, and whoever has it is away |
//! | unknown | – | a nack quorum | dropped with all above it |
//! | unknown | – | fewer | undecided |
//!
//! 5. Undecided means waiting: more votes may come, up to all members. If all have voted and it is
//!    still undecided, a frame that may have been acknowledged is lost on every member that had it.
//!
//! # What counts as a nack
//!
//! | what the vote says of an op | nack |
//! | --- | --- |
//! | at or below its own commit number | never |
//! | above its head | yes: in its log view it never got that far |
//! | listed, same version, nack bit set | yes |
//! | listed, another version | yes, whatever it acknowledged in older views: see below |
//! | listed, same version, nack bit not set | no: durable there, or damaged |
//! | not listed though below its head, nack bit set | yes: it never arrived |
//! | not listed though below its head, nack bit not set | no: damaged, what it was is not known |
//!
//! A member whose log in its log view *w* has another version of the op, or none, may have
//! acknowledged this version in a view before *w*. It does not matter: had the version been
//! committed before *w*, the log of *w* would have it; in *w* the member did not acknowledge it,
//! and after *w* it acknowledged nothing. So it belongs to no quorum that committed it.
//!
//! A nack quorum leaves fewer members than a replication quorum, so the op was not committed; nor
//! was any above it, since ops commit in order.
//!
//! Sources: Viewstamped Replication Revisited (Liskov and Cowling, 2012), section 4.2; the bits:
//! Protocol-Aware Recovery (Alagappan et al., FAST '18), section 3.

use wire::{Checksum, Header, Op, ReplicaId, View};

use super::quorum::Quorums;
use crate::journal::recovery::Summary;

/// What a member sent for the choice.
#[derive(Clone, Debug)]
pub struct Vote {
    /// Who.
    pub replica: ReplicaId,
    /// The view whose log it has.
    pub log_view: View,
    /// Its head.
    pub op: Op,
    /// The highest commit number it knows.
    pub commit: Op,
    /// The op of its checkpoint.
    pub checkpoint_op: Op,
    /// Headers of its newest ops, from the highest down, those that it knows.
    pub headers: Vec<Header>,
    /// Bit i: it has the prepare i below its head whole.
    pub present: u128,
    /// Bit i: it never acknowledged a prepare i below its head, or not in the version it lists.
    pub nack: u128,
}

/// The log that a view begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewLog {
    /// Its head.
    pub head: Op,
    /// Headers from the head down, without gaps, those of ops that were in doubt at most; none if
    /// the head is nobody's but a checkpoint's.
    pub headers: Vec<Header>,
    /// Ops up to here are committed.
    pub commit_max: Op,
}

/// What the votes come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The view can begin.
    Log(NewLog),
    /// It cannot be told whether this op was committed.
    Undecided(Op),
}

impl Vote {
    fn listed(&self, op: Op) -> Option<&Header> {
        self.headers.iter().find(|header| Summary::of(header).op == op)
    }

    fn is_set(&self, bits: u128, op: Op) -> bool {
        let index = self.op.0.checked_sub(op.0).and_then(|index| u32::try_from(index).ok());
        index.and_then(|index| bits.checked_shr(index)).is_some_and(|bits| bits & 1 == 1)
    }

    fn has(&self, op: Op, checksum: Checksum) -> bool {
        let listed = self.listed(op).map(Header::checksum);
        listed == Some(checksum) && self.is_set(self.present, op)
    }

    /// Whether the sender belongs to no quorum that committed this version.
    fn nacks(&self, op: Op, checksum: Option<Checksum>) -> bool {
        if op <= self.commit.max(self.checkpoint_op) {
            return false;
        }
        if op > self.op {
            return true;
        }
        match (self.listed(op).map(Header::checksum), checksum) {
            (Some(listed), Some(checksum)) if listed != checksum => true,
            (Some(_), None) => false,
            (Some(_), Some(_)) | (None, _) => self.is_set(self.nack, op),
        }
    }
}

/// Chooses the log of a view from the votes of a view-change quorum or more. See the module's
/// documentation.
///
/// Where two logs of one view disagree the protocol was broken. Which of them is that of the view
/// cannot be told, so it is undecided at that op.
///
/// # Panics
/// When there are fewer votes.
#[must_use]
pub fn choose(votes: &[&Vote], quorums: Quorums, pipeline_max: usize) -> Choice {
    assert!(votes.len() >= usize::from(quorums.view_change), "{} votes are no quorum", votes.len());
    let log_view = votes.iter().map(|vote| vote.log_view).max().expect("there are votes");
    let newest: Vec<&Vote> =
        votes.iter().copied().filter(|vote| vote.log_view == log_view).collect();
    let head = newest.iter().map(|vote| vote.op).max().expect("one has the highest log view");
    let known = votes.iter().map(|vote| vote.commit.max(vote.checkpoint_op)).max();
    let behind = Op(head.0.saturating_sub(pipeline_max as u64));
    let commit_max = known.expect("there are votes").max(behind);
    if head < commit_max {
        return Choice::Undecided(commit_max);
    }
    let lowest = newest.iter().filter_map(|vote| vote.headers.last()).map(|h| Summary::of(h).op);
    let lowest = lowest.min().unwrap_or(head.next()).max(behind);
    match canonical(votes, &newest, lowest, head) {
        Ok(log) => decide(votes, quorums, lowest, &log, (head, commit_max)),
        Err(op) => Choice::Undecided(op),
    }
}

/// An op's header, or at least its checksum, if they are known.
#[derive(Clone, Copy, Default)]
struct Known {
    header: Option<Header>,
    checksum: Option<Checksum>,
}

/// What the logs of the highest log view say of each op from `lowest` to `head`, or at which op
/// they say two things.
fn canonical(votes: &[&Vote], newest: &[&Vote], lowest: Op, head: Op) -> Result<Vec<Known>, Op> {
    let mut log = vec![Known::default(); (head.0 + 1 - lowest.0) as usize];
    let mut named: Option<Checksum> = None;
    for op in (lowest.0..=head.0).rev().map(Op) {
        let mut listed = newest.iter().filter_map(|vote| vote.listed(op));
        let mut header = listed.next().copied();
        if let Some(header) = header {
            let same = listed.all(|other| other.checksum() == header.checksum());
            let follows = named.is_none_or(|named| named == header.checksum());
            if !same || !follows {
                return Err(op);
            }
        } else if let Some(named) = named {
            let mut others = votes.iter().filter_map(|vote| vote.listed(op));
            header = others.find(|header| header.checksum() == named).copied();
        }
        let checksum = header.map(|header| header.checksum()).or(named);
        log[(op.0 - lowest.0) as usize] = Known { header, checksum };
        named = header.map(|header| Summary::of(&header).parent);
    }
    Ok(log)
}

/// Goes through the table, upwards.
fn decide(
    votes: &[&Vote],
    quorums: Quorums,
    lowest: Op,
    log: &[Known],
    (mut head, commit_max): (Op, Op),
) -> Choice {
    let known = |op: Op| {
        let index = op.0.checked_sub(lowest.0).map(|index| index as usize);
        index.and_then(|index| log.get(index)).copied().unwrap_or_default()
    };
    for op in (commit_max.0 + 1..=head.0).map(Op) {
        let Known { header, checksum } = known(op);
        let present = checksum.is_some_and(|sum| votes.iter().any(|vote| vote.has(op, sum)));
        if present && header.is_some() {
            continue;
        }
        let nacks = votes.iter().filter(|vote| vote.nacks(op, checksum)).count();
        if nacks < usize::from(quorums.nack) {
            return Choice::Undecided(op);
        }
        head = Op(op.0 - 1);
        break;
    }
    let down = (lowest.0..=head.0).rev().map(|op| known(Op(op)).header);
    let headers: Vec<Header> = down.map_while(|header| header).collect();
    // A head without a header is a checkpoint's, which nobody keeps in its log, or damaged.
    let checkpointed = votes.iter().any(|vote| vote.checkpoint_op == head) || head == Op(0);
    if headers.is_empty() && !checkpointed {
        return Choice::Undecided(head);
    }
    Choice::Log(NewLog { head, headers, commit_max })
}

#[cfg(test)]
mod tests;
