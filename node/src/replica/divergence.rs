//! Whether this member's checkpoints are those of the others.
//!
//! All members execute the same log, so at the same op all have the same checkpoint: its identifier
//! is a hash of all roots, of the prepare, and of the identifier before it. Members tell theirs
//! with every heartbeat and ping. One whose identifier differs has executed something else, through
//! a fault of the program or of the machine, and from there on never comes back to what the others
//! have: what it answers is not to be trusted, and copies of its blocks are of no use.
//!
//! 1. Members take checkpoints at the same ops, but not at the same time: what others claim is kept
//!    until this one is there, and its own until others are, [`KEPT`] of each.
//! 2. If a majority of all members has another identifier than this one at an op, this member is
//!    the one that differs: it stops, by name.
//! 3. If fewer have, it cannot be told from here who is right (with one of three away nobody can):
//!    that is an error in the log, once for each op, with this member's roots, shard by shard, to
//!    be compared with those in the others' logs.
//!
//! Because an identifier contains the one before, what an earlier life has done differently shows
//! in the first checkpoint of this one.

use std::collections::VecDeque;
use std::fmt;

use ioring::Fatal;
use wire::message::{Commit, Ping};
use wire::{CheckpointId, Command, Header, Op, ReplicaId, RootReference};

use super::member::Member;

/// Checkpoints of each member that are remembered: one may be that many ahead of another.
const KEPT: usize = 8;

/// One of this member's own.
#[derive(Debug)]
struct Own {
    op: Op,
    id: CheckpointId,
    roots: Vec<RootReference>,
    /// Others differ, and that was said.
    is_told: bool,
}

/// What this member and the others have.
#[derive(Debug)]
pub(super) struct Checkpoints {
    own: VecDeque<Own>,
    /// By member; this one's place is not used.
    claims: Vec<VecDeque<(Op, CheckpointId)>>,
}

/// A checkpoint that others have otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    op: Op,
    ours: CheckpointId,
    theirs: CheckpointId,
    /// Who has theirs.
    members: Vec<ReplicaId>,
    roots: Vec<RootReference>,
    /// Whether they are a majority of all members.
    pub(super) is_ours_wrong: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { op, ours: CheckpointId(ours), theirs: CheckpointId(theirs), .. } = self;
        write!(f, "the checkpoint of op {op} is {ours:032x} here and {theirs:032x} at member")?;
        for member in &self.members {
            write!(f, " {member}")?;
        }
        write!(f, "; compare the roots in the logs, here:")?;
        for (shard, root) in self.roots.iter().enumerate() {
            write!(f, " shard {shard} block {} {:032x}", root.address(), root.checksum().0)?;
        }
        Ok(())
    }
}

impl Checkpoints {
    pub(super) fn new(members: u8) -> Checkpoints {
        let claims = (0..members).map(|_| VecDeque::with_capacity(KEPT)).collect();
        Checkpoints { own: VecDeque::with_capacity(KEPT), claims }
    }

    /// This member's own is durable.
    pub(super) fn add(&mut self, op: Op, id: CheckpointId, roots: Vec<RootReference>) {
        if self.own.len() == KEPT {
            self.own.pop_front();
        }
        self.own.push_back(Own { op, id, roots, is_told: false });
    }

    /// A member says what its newest is; whether that is news.
    pub(super) fn claim(&mut self, member: ReplicaId, op: Op, id: CheckpointId) -> bool {
        let Some(claims) = self.claims.get_mut(usize::from(member.0)) else { return false };
        if op == Op(0) || claims.back() == Some(&(op, id)) {
            return false;
        }
        if claims.len() == KEPT {
            claims.pop_front();
        }
        claims.push_back((op, id));
        true
    }

    /// The next difference that is not told yet.
    pub(super) fn difference(&mut self) -> Option<Difference> {
        let majority = self.claims.len() / 2 + 1;
        for own in &mut self.own {
            let at = |claims: &VecDeque<(Op, CheckpointId)>| {
                let claim = claims.iter().rfind(|(op, _)| *op == own.op);
                claim.map(|(_, id)| *id).filter(|id| *id != own.id)
            };
            let others: Vec<_> = (0..).map(ReplicaId).zip(self.claims.iter().map(at)).collect();
            let most = |theirs| others.iter().filter(|(_, id)| *id == Some(theirs)).count();
            let differing = others.iter().filter_map(|(_, id)| *id);
            let Some(theirs) = differing.max_by_key(|id| most(*id)) else { continue };
            let is_ours_wrong = most(theirs) >= majority;
            if own.is_told && !is_ours_wrong {
                continue;
            }
            own.is_told = true;
            let members = others.iter().filter(|(_, id)| *id == Some(theirs));
            let members = members.map(|(member, _)| *member).collect();
            let (op, ours, roots) = (own.op, own.id, own.roots.clone());
            return Some(Difference { op, ours, theirs, members, roots, is_ours_wrong });
        }
        None
    }
}

impl Member {
    /// Takes from a message what its sender's newest checkpoint is.
    pub(super) fn on_claim(&self, from: ReplicaId, header: &Header) {
        let (op, id) = match header.command() {
            Command::Commit => {
                let commit: Commit = header.tail().expect("the command says so");
                (commit.checkpoint_op, commit.checkpoint)
            }
            Command::Ping => {
                let ping: Ping = header.tail().expect("the command says so");
                (ping.checkpoint_op, ping.checkpoint)
            }
            _ => return,
        };
        if self.checkpoints.borrow_mut().claim(from, op, id) {
            self.compare();
        }
    }

    /// A checkpoint of this member is durable.
    pub(super) fn on_checkpoint(&self, op: Op, id: CheckpointId, roots: Vec<RootReference>) {
        self.checkpoints.borrow_mut().add(op, id, roots);
        self.compare();
    }

    fn compare(&self) {
        while let Some(difference) = self.checkpoints.borrow_mut().difference() {
            if difference.is_ours_wrong {
                ioring::fatal(Fatal::Diverged(difference.to_string()));
            }
            tracing::error!("members differ, and it is not known which is right: {difference}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints(own: &[(u64, u128)], claims: &[(u8, u64, u128)]) -> Checkpoints {
        let mut checkpoints = Checkpoints::new(3);
        for (op, id) in own {
            checkpoints.add(Op(*op), CheckpointId(*id), vec![RootReference::NONE; 2]);
        }
        for (member, op, id) in claims {
            checkpoints.claim(ReplicaId(*member), Op(*op), CheckpointId(*id));
        }
        checkpoints
    }

    #[test]
    fn checkpoints_that_agree_or_cannot_be_compared_are_no_difference() {
        let same = [(1, 10, 7), (2, 10, 7), (1, 20, 8)];
        assert_eq!(checkpoints(&[(10, 7), (20, 8)], &same).difference(), None);
        assert_eq!(checkpoints(&[(10, 7)], &[(1, 20, 9), (2, 0, 1)]).difference(), None);
        assert_eq!(checkpoints(&[], &[(1, 20, 9), (2, 20, 9)]).difference(), None);
        // What no member is numbered is no member's word.
        assert_eq!(checkpoints(&[(10, 7)], &[(3, 10, 9)]).difference(), None);
    }

    #[test]
    fn one_other_is_told_once_and_a_majority_is_right() {
        let mut checkpoints = checkpoints(&[(10, 7)], &[(1, 10, 9)]);
        let difference = checkpoints.difference().unwrap();
        assert!(!difference.is_ours_wrong);
        assert_eq!(difference.members, [ReplicaId(1)]);
        assert!(difference.to_string().contains("op 10 is 0"), "{difference}");
        assert_eq!(checkpoints.difference(), None);
        assert!(!checkpoints.claim(ReplicaId(1), Op(10), CheckpointId(9)));
        assert!(checkpoints.claim(ReplicaId(2), Op(10), CheckpointId(9)));
        assert!(checkpoints.difference().unwrap().is_ours_wrong);
    }

    #[test]
    fn others_that_differ_from_each_other_are_no_majority() {
        let mut checkpoints = checkpoints(&[(10, 7)], &[(1, 10, 9), (2, 10, 8)]);
        assert!(!checkpoints.difference().unwrap().is_ours_wrong);
    }

    #[test]
    fn whoever_comes_first_is_waited_for() {
        let claims = [(1, 10, 9), (1, 20, 5), (2, 10, 9), (2, 20, 5), (2, 30, 6)];
        let mut late = checkpoints(&[], &claims);
        assert_eq!(late.difference(), None);
        late.add(Op(10), CheckpointId(7), Vec::new());
        assert!(late.difference().unwrap().is_ours_wrong);
        let many: Vec<_> = (1..40).map(|op| (op, u128::from(op))).collect();
        let mut early = checkpoints(&many, &[(1, 35, 1), (2, 35, 1)]);
        assert_eq!(early.difference().unwrap().op, Op(35));
        assert!(early.own.len() <= KEPT);
    }
}
