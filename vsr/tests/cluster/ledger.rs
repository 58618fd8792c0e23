//! What the world outside knows, and what may never happen.
//!
//! * One history: what any member gives out as committed at an op is what every member gives out
//!   there, in every life.
//! * A quorum: when an op is given out for the first time, a replication quorum has it on disk.
//! * Acknowledgements: the member that took a request answers it when it is committed; a request is
//!   in the log once at most. As the history never changes, it is there for ever. One that it says
//!   was dropped without an op never gets into the log.
//! * Time: timestamps strictly increase, versions included.
//! * Promises: what a member acknowledges is on its disk (`world`); what it says of a view is
//!   covered by its superblock when it says so, and once it has left a view it acknowledges nothing
//!   of it any more, in any life.
//! * Reads: an index covers everything that was acknowledged before it was asked for.

use std::collections::{HashMap, HashSet};

use vsr::replica::{Commit, LogHead, MEMBERS_MAX, ViewRecord};
use wire::message::DoViewChange;
use wire::{Checksum, Command, Header, Op, Requests, View};

#[derive(Default)]
pub(crate) struct Ledger {
    /// The checksum of each committed op, from op 1 on.
    pub(crate) history: Vec<Checksum>,
    pub(crate) headers: Vec<Header>,
    /// Where each request is in the log.
    places: HashMap<u64, Op>,
    /// Requests that were said never to happen.
    pub(crate) refused: HashSet<u64>,
    /// How many were said to have an unknown outcome.
    pub(crate) unknown: u64,
    /// The highest op whose requests were answered.
    pub(crate) acknowledged: Op,
    pub(crate) acknowledgements: u64,
    /// Reads under way, and what they must see.
    pub(crate) reads: HashMap<u64, Op>,
    pub(crate) reads_answered: u64,
    /// The newest view that each member has said to have left for.
    promised: [View; MEMBERS_MAX],
}

impl Ledger {
    pub(crate) fn head(&self) -> Op {
        Op(self.history.len() as u64)
    }

    /// A member gives out an op that `copies` of a needed `quorum` have; `own` says whether it took
    /// a request itself.
    pub(crate) fn commit(
        &mut self,
        commit: &Commit,
        (copies, quorum): (usize, usize),
        mut own: impl FnMut(u64) -> bool,
    ) {
        let head = LogHead::of(&commit.header);
        let op = head.op;
        match self.history.get(op.0 as usize - 1) {
            Some(before) => assert_eq!(*before, head.checksum, "op {op} changed"),
            None => {
                assert_eq!(op, self.head().next(), "commits have no gaps");
                assert!(copies >= quorum, "op {op} is committed and {copies} have it");
                if let Some(last) = self.headers.last() {
                    let before = LogHead::of(last).version_max.0;
                    assert!(head.timestamp.0 > before, "time runs forward at op {op}");
                }
                self.history.push(head.checksum);
                self.headers.push(commit.header);
            }
        }
        for request in Requests::verify(commit.body()).expect("what commits is well-formed") {
            let tag = request.tag().0;
            assert!(!self.refused.contains(&tag), "request {tag} was said never to happen");
            let place = *self.places.entry(tag).or_insert(op);
            assert_eq!(place, op, "request {tag} is in the log twice");
            if own(tag) {
                self.acknowledged = self.acknowledged.max(op);
                self.acknowledgements += 1;
            }
        }
    }

    /// A member tells who waits for a request that no commit will answer it.
    pub(crate) fn drop_request(&mut self, tag: u64, may_happen: bool) {
        if may_happen {
            self.unknown += 1;
        } else {
            assert!(!self.places.contains_key(&tag), "request {tag} has happened");
            self.refused.insert(tag);
        }
    }

    /// A member whose superblock says this sends a message.
    pub(crate) fn hear(&mut self, member: usize, header: &Header, durable: &ViewRecord) {
        let (view, promised) = (header.view(), &mut self.promised[member]);
        match header.command() {
            Command::StartViewChange | Command::DoViewChange => {
                assert!(
                    view <= durable.view,
                    "member {member} leaves for {view} before it is durable"
                );
                let vote = header.tail::<DoViewChange>();
                assert!(
                    vote.is_none_or(|vote| vote.log_view == durable.log_view),
                    "member {member} votes with a log of a view that is not durable"
                );
                *promised = view.max(*promised);
            }
            Command::PrepareOk | Command::StartView => {
                assert!(view <= durable.log_view, "member {member} speaks in {view} too early");
                assert!(view >= *promised, "member {member} speaks in {view}, left for {promised}");
            }
            _ => {}
        }
    }

    pub(crate) fn ask(&mut self, tag: u64) {
        self.reads.insert(tag, self.acknowledged);
    }

    pub(crate) fn answer(&mut self, tag: u64, commit: Option<Op>) {
        let Some(known) = self.reads.remove(&tag) else { return };
        if let Some(commit) = commit {
            assert!(
                commit >= known,
                "a read sees op {commit} and not {known}, acknowledged before"
            );
            self.reads_answered += 1;
        }
    }
}
