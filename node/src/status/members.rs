//! The members of a cluster, as one of them sees them: itself exactly, the others by what they said
//! last.
//!
//! How another member is doing it does not say; what can be told from outside is enough to see who
//! is missing. One that was not heard for a while is `down`. One that is heard is `normal` if it is
//! in the view of a cluster that has a primary, `recovering` while its view is an older one, and in
//! `view_change` otherwise. Whoever wants to know better asks that member: `quorate status` does.
//!
//! The *faults that the cluster can take now* are how many of the members that are normal can be
//! lost and leave a majority.

use serde::Serialize;

use crate::metrics::text::Gauge;
use crate::peers::PeersReport;

use super::{Identity, ReplicaReport};

/// What a member knows of another one.
#[derive(Debug, Clone, Serialize)]
pub struct OtherReport {
    /// Which.
    pub replica: u8,
    /// Whether it was heard a moment ago.
    pub up: bool,
    /// When it was heard last; nothing if never.
    pub heard_ms_ago: Option<u64>,
    /// Its view.
    pub view: u32,
    /// The highest op in its log.
    pub op: u64,
    /// The highest op that it knows to be committed.
    pub commit: u64,
    /// The op of its last durable checkpoint.
    pub checkpoint: u64,
}

/// A member in the status.
#[derive(Debug, Clone, Serialize)]
pub struct MemberStatus {
    replica: u8,
    /// Where Redis clients connect; of another member where replicas do.
    address: String,
    state: &'static str,
    role: &'static str,
    op: u64,
    commit: u64,
    checkpoint: u64,
    /// How many committed ops it lacks.
    lag: u64,
    /// Of another member: when it was heard last.
    heard_ms_ago: Option<u64>,
    /// Of this member only.
    log_time_ns: Option<u64>,
    blocked_by: Option<u64>,
}

/// What the members' states come to.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) primary: Option<u8>,
    pub(super) faults_tolerated: u8,
    pub(super) members: Vec<MemberStatus>,
}

impl Cluster {
    /// Of a node that has opened its directory and has no replica yet.
    pub(super) fn unknown(identity: &Identity) -> Cluster {
        let own = MemberStatus {
            replica: identity.replica,
            address: identity.resp.to_string(),
            state: "recovering",
            role: "backup",
            op: 0,
            commit: 0,
            checkpoint: 0,
            lag: 0,
            heard_ms_ago: None,
            log_time_ns: Some(0),
            blocked_by: None,
        };
        Cluster { primary: None, faults_tolerated: 0, members: vec![own] }
    }

    /// As this member's replica sees it.
    pub(super) fn new(
        identity: &Identity,
        replica: &ReplicaReport,
        peers: Option<&PeersReport>,
    ) -> Cluster {
        let primary = replica.primary_in_touch();
        let newest = replica.commit_max();
        let lag = |commit: u64| newest - commit;
        let role = |of: u8| if primary == Some(of) { "primary" } else { "backup" };
        let own = MemberStatus {
            replica: replica.replica,
            address: identity.resp.to_string(),
            // One that follows nobody is about to look for a primary.
            state: match replica.state {
                "normal" if primary.is_none() => "view_change",
                state => state,
            },
            role: role(replica.replica),
            op: replica.op,
            commit: replica.commit,
            checkpoint: replica.checkpoint,
            lag: lag(replica.commit),
            heard_ms_ago: None,
            log_time_ns: Some(replica.log_time_ns),
            blocked_by: replica.blocked_by,
        };
        let address = |of: u8| {
            let known = peers.and_then(|peers| peers.peers.iter().find(|peer| peer.replica == of));
            known.map_or_else(String::new, |peer| peer.address.clone())
        };
        let others = replica.others.iter().map(|other| MemberStatus {
            replica: other.replica,
            address: address(other.replica),
            state: match other {
                _ if !other.up => "down",
                _ if other.view < replica.view => "recovering",
                _ if primary.is_some() && other.view == replica.view => "normal",
                _ => "view_change",
            },
            role: role(other.replica),
            op: other.op,
            commit: other.commit,
            checkpoint: other.checkpoint,
            lag: lag(other.commit),
            heard_ms_ago: other.heard_ms_ago,
            log_time_ns: None,
            blocked_by: None,
        });
        let mut members: Vec<_> = others.chain([own]).collect();
        members.sort_by_key(|member| member.replica);
        let normal = members.iter().filter(|member| member.state == "normal").count() as u8;
        let faults_tolerated = match primary {
            Some(_) => normal.saturating_sub(replica.replicas / 2 + 1),
            None => 0,
        };
        Cluster { primary, faults_tolerated, members }
    }
}

impl ReplicaReport {
    /// The primary, unless it has fallen silent.
    pub(super) fn primary_in_touch(&self) -> Option<u8> {
        let is_up = |replica: &u8| {
            let other = self.others.iter().find(|other| other.replica == *replica);
            other.is_none_or(|other| other.up)
        };
        self.primary.filter(is_up)
    }

    /// The highest op that any member is known to have committed.
    pub(super) fn commit_max(&self) -> u64 {
        self.others.iter().map(|other| other.commit).fold(self.commit, u64::max)
    }
}

type OfReplica = (&'static str, &'static str, fn(&ReplicaReport) -> u64);

/// What is shown of the replica: name, help, value.
const OF_REPLICA: &[OfReplica] = &[
    ("view", "The replica's view.", |replica| u64::from(replica.view)),
    ("op", "The highest op in the log.", |replica| replica.op),
    ("commit", "The highest op committed.", |replica| replica.commit),
    ("checkpoint", "The op of the last durable checkpoint.", |replica| replica.checkpoint),
    ("is_primary", "1 while this replica is the primary.", |replica| {
        u64::from(replica.primary == Some(replica.replica))
    }),
    ("has_primary", "1 while this replica is in touch with a primary, or is it.", |replica| {
        u64::from(replica.primary_in_touch().is_some())
    }),
    (
        "writes_gate",
        "What becomes of writes: 0 taken here, 1 held back for want of a primary, 2 passed on.",
        |replica| u64::from(replica.writes),
    ),
    ("view_changes_total", "Views that this replica has left.", |r| r.counters.views_left),
    (
        "repairs_asked_total",
        "Prepares asked of other replicas because they were missing or damaged here.",
        |replica| replica.counters.prepares_asked,
    ),
    ("forwards_total", "Messages of writes that were passed on to a primary.", |r| r.forwarded),
    (
        "read_index_rounds_total",
        "Read indexes asked for, each on behalf of all reads that waited.",
        |replica| replica.read_rounds,
    ),
    (
        "replica_messages_refused_total",
        "Messages of peers that were damaged, foreign or made no sense.",
        |replica| replica.counters.messages_refused,
    ),
    (
        "replica_messages_dropped_total",
        "Messages to peers that were not sent because too many waited.",
        |replica| replica.counters.messages_dropped,
    ),
];

/// The metrics of the replica and of what it knows of the others.
pub(super) fn gauges(replica: &ReplicaReport) -> Vec<Gauge> {
    let own = OF_REPLICA.iter().map(|&(name, help, value)| {
        let values = vec![(String::new(), value(replica))];
        Gauge { name, help, values }
    });
    let newest = replica.commit_max();
    let of_others = |name, help, value: &dyn Fn(&OtherReport) -> u64| {
        let others = replica.others.iter();
        let values = others.map(|other| (format!("peer=\"{}\"", other.replica), value(other)));
        Gauge { name, help, values: values.collect() }
    };
    let others = [
        of_others("peer_up", "1 while the replica is heard.", &|other| u64::from(other.up)),
        of_others("peer_lag_ops", "Committed ops that the replica lacks.", &|other| {
            newest - other.commit
        }),
    ];
    own.chain(others).collect()
}

#[cfg(test)]
mod tests;
