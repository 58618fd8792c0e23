//! The read index: how far a reader must have applied the log to see everything acknowledged before
//! it asked.
//!
//! 1. A read that arrives at the primary waits for a round of heartbeats that begins after it. One
//!    round serves all that wait; while one is out, what arrives waits for the next.
//! 2. When a quorum, the primary included, has answered the round, the primary was still primary
//!    when the round began: whoever answered had not left the view, and a newer view would have
//!    needed one of them. So all that was acknowledged before the read was acknowledged by this
//!    primary or before its view, and the commit number covers it.
//! 3. That holds only once everything the view began with is committed: some of it may have been
//!    acknowledged by a primary before. Reads that come sooner wait.
//! 4. A backup passes its readers' questions on to the primary and hands its answers back. A
//!    question or an answer may be lost; who asks asks again.
//!
//! Alone there is nobody to ask: the answer is there at once.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4.

use std::collections::VecDeque;

use wire::message::{GetReadIndex, ReadIndex as ReadIndexMessage};
use wire::{ClientTag, Header, Op, ReplicaId, Timestamp};

use super::quorum::MEMBERS_MAX;
use super::{Bottleneck, Canary, Refused, Replica};

/// Reads that may wait for a round, and answers to be taken.
const READS_MAX: usize = 4096;

/// The answer to a read that asked how far to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadIndex {
    /// The read's tag.
    pub tag: ClientTag,
    /// Apply the log up to here; `None` when the primary changed and who asks must ask again.
    pub commit: Option<Op>,
    /// Log time at that op.
    pub timestamp: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    tag: ClientTag,
    /// The backup that asks; `None` for a reader of this node.
    from: Option<ReplicaId>,
    round: u64,
}

#[derive(Debug)]
pub(super) struct Reads {
    waiting: VecDeque<Waiting>,
    answers: VecDeque<ReadIndex>,
}

impl Reads {
    pub(super) fn new() -> Reads {
        Reads { waiting: VecDeque::new(), answers: VecDeque::new() }
    }
}

impl Replica {
    /// A read asks how far it must have applied the log. The answer comes out of
    /// [`Replica::next_read_index`]; on a backup it may be lost.
    ///
    /// # Errors
    /// [`Refused::NotServing`] where no primary is known; [`Refused::Full`] when too many wait.
    pub fn read_index(&mut self, tag: ClientTag) -> Result<(), Refused> {
        if self.reads.waiting.len() + self.reads.answers.len() >= READS_MAX {
            return Err(Refused::Full(Bottleneck::Reads));
        }
        if self.serves() {
            self.wait_for_round(tag, None);
            Ok(())
        } else if self.vouches() && !self.is_primary() {
            self.send(self.primary(), &GetReadIndex { tag });
            Ok(())
        } else {
            Err(Refused::NotServing)
        }
    }

    /// The next answer to a read.
    pub fn next_read_index(&mut self) -> Option<ReadIndex> {
        self.reads.answers.pop_front()
    }

    fn wait_for_round(&mut self, tag: ClientTag, from: Option<ReplicaId>) {
        let round = self.leading.round + 1;
        self.reads.waiting.push_back(Waiting { tag, from, round });
        if self.config.is_alone() || self.config.breaks(Canary::ReadWithoutRound) {
            self.leading.round = round;
            self.leading.answered = [round; MEMBERS_MAX];
            self.answer_reads();
        }
    }

    /// Sends the round that reads wait for, unless one is out.
    pub(super) fn begin_round(&mut self) {
        let wanted = self.reads.waiting.back().is_some_and(|last| last.round > self.leading.round);
        if wanted && self.confirmed_round() == self.leading.round {
            self.heartbeat();
        }
    }

    /// The newest round that a quorum, this primary included, has answered.
    fn confirmed_round(&self) -> u64 {
        let mut answered = self.leading.answered;
        answered[usize::from(self.config.replica.0)] = self.leading.round;
        let members = &mut answered[..usize::from(self.config.replica_count)];
        members.sort_unstable();
        members[members.len() - usize::from(self.quorums.view_change)]
    }

    /// Answers the reads whose round is confirmed.
    pub(super) fn answer_reads(&mut self) {
        if !self.serves() || self.committed.op < self.leading.began_with {
            return;
        }
        let confirmed = self.confirmed_round();
        let (commit, timestamp) = (self.committed.op, self.committed.timestamp);
        while self.reads.waiting.front().is_some_and(|first| first.round <= confirmed) {
            let Some(Waiting { tag, from, .. }) = self.reads.waiting.pop_front() else { return };
            match from {
                Some(peer) => self.send(peer, &ReadIndexMessage { tag, commit, timestamp }),
                None => {
                    let commit = Some(commit);
                    self.reads.answers.push_back(ReadIndex { tag, commit, timestamp });
                }
            }
        }
    }

    /// Tells readers that wait that this replica cannot answer them any more.
    pub(super) fn give_up_reads(&mut self) {
        while let Some(Waiting { tag, from, .. }) = self.reads.waiting.pop_front() {
            if from.is_none() {
                let timestamp = Timestamp(0);
                self.reads.answers.push_back(ReadIndex { tag, commit: None, timestamp });
            }
        }
    }

    pub(super) fn on_get_read_index(&mut self, from: ReplicaId, header: &Header) {
        let question = header.tail::<GetReadIndex>().expect("the command says so");
        let room = self.reads.waiting.len() < READS_MAX;
        if header.view() == self.view && self.serves() && room {
            self.wait_for_round(question.tag, Some(from));
        }
    }

    pub(super) fn on_read_index(&mut self, from: ReplicaId, header: &Header) {
        let answer = header.tail::<ReadIndexMessage>().expect("the command says so");
        if from != self.quorums.primary(header.view()) {
            return self.refuse();
        }
        if self.reads.answers.len() < READS_MAX {
            let ReadIndexMessage { tag, commit, timestamp } = answer;
            self.reads.answers.push_back(ReadIndex { tag, commit: Some(commit), timestamp });
        }
    }
}
