//! Who counts: sets of members, and how many of them make a quorum.
//!
//! | members | replication | view change | nack |
//! | --- | --- | --- | --- |
//! | 1 | 1 | 1 | 1 |
//! | 3 | 2 | 2 | 2 |
//! | 5 | 3 | 3 | 3 |
//!
//! Any replication quorum and any view-change quorum have a member in common, so whoever begins a
//! view hears of every op that may have been committed. A *nack quorum* is as many members as leave
//! no room for a replication quorum among the others: if so many certainly never acknowledged a
//! prepare, it was never committed.

use wire::{ReplicaId, View};

/// The most members that a cluster may have.
pub const MEMBERS_MAX: usize = 5;

/// How many members make which quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorums {
    /// Members of the cluster.
    pub members: u8,
    /// So many have a prepare durable when it commits.
    pub replication: u8,
    /// So many must have left a view before the next begins.
    pub view_change: u8,
    /// So many that never acknowledged a prepare prove that it was not committed.
    pub nack: u8,
}

impl Quorums {
    /// Those of a cluster of so many members: 1, 3 or 5.
    #[must_use]
    pub const fn of(members: u8) -> Quorums {
        let majority = members / 2 + 1;
        Quorums {
            members,
            replication: majority,
            view_change: majority,
            nack: members - majority + 1,
        }
    }

    /// The primary of a view.
    #[must_use]
    pub const fn primary(&self, view: View) -> ReplicaId {
        ReplicaId((view.0 % self.members as u32) as u8)
    }
}

const _: () = {
    let mut members = 1;
    while members <= MEMBERS_MAX as u8 {
        let quorums = Quorums::of(members);
        assert!(quorums.replication + quorums.view_change > members);
        assert!(quorums.nack + quorums.replication > members);
        assert!(quorums.nack + quorums.replication - 1 <= members);
        members += 2;
    }
};

/// A set of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Members(u8);

impl Members {
    pub(super) fn insert(&mut self, member: ReplicaId) {
        assert!(usize::from(member.0) < MEMBERS_MAX, "member {member} of at most {MEMBERS_MAX}");
        self.0 |= 1 << member.0;
    }

    pub(super) fn contains(self, member: ReplicaId) -> bool {
        self.0 >> member.0 & 1 == 1
    }

    pub(super) fn count(self) -> u8 {
        self.0.count_ones() as u8
    }
}
