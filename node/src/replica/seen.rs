//! What a member knows of the others: what each said of itself last, and when. For people who ask
//! how the cluster is; nothing is decided by it.
//!
//! Every message says which view its sender is in, and some how far its log is: pings, which all
//! members send to all others twice a second, heartbeats and their answers, acknowledgements. What
//! is known is so old by half a second at most, unless the other one is silent: then it counts as
//! down after [`DOWN_AFTER`]. A prepare proves only that somebody sent it: it may be an old one
//! that is repaired.

use std::cell::Cell;
use std::time::Duration;

use ioring::Instant;
use vsr::replica::MEMBERS_MAX;
use wire::message::{Commit, CommitOk, Ping, PrepareOk};
use wire::{Command, Header, ReplicaId};

use crate::status::OtherReport;

/// Nothing heard for so long: several pings are missing.
const DOWN_AFTER: Duration = Duration::from_millis(1500);

/// One of the others.
#[derive(Clone, Copy, Default)]
struct Other {
    heard: Option<Instant>,
    view: u32,
    op: u64,
    commit: u64,
    checkpoint: u64,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Seen([Cell<Other>; MEMBERS_MAX]);

impl Seen {
    /// A message of another member has arrived.
    pub(super) fn note(&self, from: ReplicaId, header: &Header) {
        let cell = &self.0[usize::from(from.0)];
        let mut other = cell.get();
        other.heard = Some(ioring::now());
        if header.command() != Command::Prepare {
            other.view = header.view().0;
        }
        match header.command() {
            Command::Ping => {
                let ping: Ping = header.tail().expect("the command says so");
                (other.op, other.commit) = (ping.op.0, ping.commit.0);
                other.checkpoint = ping.checkpoint_op.0;
            }
            Command::Commit => {
                let commit: Commit = header.tail().expect("the command says so");
                other.commit = commit.commit.0;
                other.checkpoint = commit.checkpoint_op.0;
            }
            Command::CommitOk => {
                let ok: CommitOk = header.tail().expect("the command says so");
                other.commit = ok.commit.0;
            }
            Command::PrepareOk => {
                let ok: PrepareOk = header.tail().expect("the command says so");
                (other.op, other.commit) = (ok.op.0, ok.commit.0);
            }
            _ => {}
        }
        // Only pings tell both at one moment.
        other.op = other.op.max(other.commit);
        cell.set(other);
    }

    /// What is known of the other members of a cluster of so many.
    pub(super) fn report(&self, me: ReplicaId, members: u8) -> Vec<OtherReport> {
        let now = ioring::now();
        let others = (0..members).filter(|&replica| replica != me.0);
        let report = |replica: u8| {
            let Other { heard, view, op, commit, checkpoint } = self.0[usize::from(replica)].get();
            let silence = heard.map(|heard| now - heard);
            OtherReport {
                replica,
                up: silence.is_some_and(|silence| silence < DOWN_AFTER),
                heard_ms_ago: silence.map(|silence| silence.as_millis() as u64),
                view,
                op,
                commit,
                checkpoint,
            }
        };
        others.map(report).collect()
    }
}
