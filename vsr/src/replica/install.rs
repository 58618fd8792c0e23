//! Taking over the log that a view begins with: at the primary that chose it, at backups that are
//! told it.
//!
//! 1. What is above its head was given up. It is dropped, also from the journal's point of view:
//!    the record that is made durable next names the head.
//! 2. The headers that came with it name its newest ops. Where this replica has another version, it
//!    is given up; where it has the same, what it has stays good.
//! 3. What is below is left from the view before, and is trusted only as far as the parents of
//!    trusted headers name it. A committed op is never given up: if the new log has another version
//!    of one, or ends before it, histories have diverged, and this replica stops (`sound`).
//! 4. What is missing then is repaired (`repair`).

use wire::{Checksum, Header, Op};

use super::log::{Bytes, Disk};
use super::{Canary, Replica, outbox};
use crate::journal::frame_size;
use crate::journal::recovery::Summary;

impl Replica {
    /// Takes over a log: its head, and headers from the head down; returns whether it continues
    /// what is committed here.
    pub(super) fn install(&mut self, head: Op, headers: &[Header], commit_max: Op) -> bool {
        let committed = self.committed;
        if head < committed.op {
            self.diverge(committed.op, committed.checksum, Checksum(0));
            return false;
        }
        for op in (head.0 + 1..=self.log.head().0).map(Op) {
            self.budget.remove(op);
        }
        self.log.truncate(head);
        self.log.extend(head);
        if !self.config.breaks(Canary::TrustStale) {
            self.log.distrust(committed.op);
        }
        let mut lowest = None;
        for header in headers {
            let op = Summary::of(header).op;
            if op > committed.op {
                self.name(op, *header);
                lowest = Some(op);
            } else if let Some(ours) = self.known_at(op).filter(|o| *o != header.checksum()) {
                self.diverge(op, ours, header.checksum());
                return false;
            }
        }
        self.view_headers = headers.iter().rev().copied().collect();
        self.commit_max = self.commit_max.max(commit_max);
        self.repair.reset();
        if let Some(lowest) = lowest {
            self.link_down(lowest);
        }
        self.appends.clear();
        // Also what is committed and was damaged here: it is given out once it is journaled again.
        let closed = self.log.range(self.given.next(), head);
        let closed = closed.filter(|(_, entry)| matches!(entry.bytes, Bytes::Closed(_)));
        self.appends.extend(closed.map(|(op, _)| op));
        self.advance_commit();
        self.diverged.is_none()
    }

    /// The prepare at an op that is committed here, if it is remembered.
    pub(super) fn known_at(&self, op: Op) -> Option<Checksum> {
        if op == self.committed.op {
            return Some(self.committed.checksum);
        }
        self.log.header(op).filter(|_| op < self.committed.op).map(Header::checksum)
    }

    /// Makes this the header of its op, giving up what was there of another version.
    pub(super) fn name(&mut self, op: Op, header: Header) {
        let before = self.log.get(op).and_then(super::log::Entry::checksum);
        if before != Some(header.checksum()) {
            self.budget.remove(op);
        }
        self.log.name(op, header);
        if self.log.get(op).is_some_and(|entry| entry.disk == Disk::Durable) {
            self.budget.add(op, frame_size(header.size()) as u64);
        }
    }

    /// Trusts what the parents of a trusted op name, downwards, until something is missing or has
    /// another version, which is given up. If it leads to something else than what is committed,
    /// histories have diverged.
    pub(super) fn link_down(&mut self, from: Op) {
        let mut op = from;
        loop {
            self.repair.floor = op;
            let header = self.log.header(op).expect("linking begins at a trusted header");
            let parent = Summary::of(header).parent;
            let below = Op(op.0 - 1);
            if below <= self.committed.op {
                if below == self.committed.op && parent != self.committed.checksum {
                    self.diverge(below, self.committed.checksum, parent);
                }
                return;
            }
            let entry = self.log.get_mut(below).expect("it is after the committed ops");
            match entry.checksum() {
                Some(checksum) if checksum == parent => {
                    if std::mem::replace(&mut entry.trusted, true) {
                        return;
                    }
                    op = below;
                }
                // The log of the view says two things: what is committed will show which is wrong.
                Some(_) if entry.trusted => return self.refuse(),
                Some(_) => {
                    self.budget.remove(below);
                    self.log.clear(below);
                }
                None => match self.log.stray(below, parent) {
                    Some(header) => {
                        self.name(below, header);
                        op = below;
                    }
                    None => return,
                },
            }
        }
    }

    /// What the header of an op that is missing must sum to, if that is known.
    pub(super) fn expected(&self, op: Op) -> Option<Checksum> {
        if let Some(above) = self.log.get(op.next()).filter(|entry| entry.trusted) {
            return above.header.as_ref().map(|header| Summary::of(header).parent);
        }
        self.repair.anchor.filter(|(anchored, _)| *anchored == op).map(|(_, checksum)| checksum)
    }

    /// Takes a header for an op that misses its own, if it is the one that is expected there.
    pub(super) fn accept_header(&mut self, header: &Header) -> bool {
        let op = Summary::of(header).op;
        let missing = op > self.committed.op && self.log.get(op).is_some_and(|e| !e.trusted);
        if !missing || self.expected(op) != Some(header.checksum()) {
            return false;
        }
        self.name(op, *header);
        self.link_down(op);
        true
    }

    /// The newest trusted headers from the head down, at most a pipeline's and one more.
    pub(super) fn suffix(&self) -> impl Iterator<Item = (Op, &Header)> {
        let head = self.log.head();
        let lowest = head.0.saturating_sub(self.config.pipeline_max as u64);
        let ops = (lowest.max(self.log.base().0)..=head.0).rev().map(Op);
        ops.filter_map(|op| Some((op, self.log.header(op)?)))
    }

    /// The newest headers as a body.
    pub(super) fn encode_suffix(&self) -> std::rc::Rc<[u8]> {
        outbox::encode(self.suffix().map(|(_, header)| header))
    }
}
