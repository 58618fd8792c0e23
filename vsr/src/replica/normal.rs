//! Normal operation: prepare, prepare-ok, commit.
//!
//! 1. The primary journals a prepare and sends it to all backups at once: as soon as the journal
//!    has given the frame its place ([`Replica::on_frame`]) its bytes are shared, and nobody waits
//!    for the disk first.
//! 2. A backup takes prepares of its view in any order. It extends its log to the op, journals the
//!    prepare, and when that is durable acknowledges exactly this (op, checksum), never what is
//!    before it. What it misses in between it repairs.
//! 3. An op commits at the primary when a replication quorum has it durable and the op before it is
//!    committed. The primary's own write is one vote and need not be among the first.
//! 4. Backups learn the commit number from prepares and heartbeats. They commit what the parents of
//!    trusted headers lead to, once they have the body; it is the same prepare everywhere.
//! 5. Prepares without a quorum are sent again, later and later.
//!
//! Why an op that committed survives: a quorum has it durable under a durable log view, so in any
//! later view change somebody of the quorum says so (`choice`). A prepare that is older than the
//! view is only taken where its checksum is expected: whatever an old primary sent, and whenever it
//! arrives, it cannot get into the log of a newer view.

use ioring::Frozen;
use wire::message::{Prepare, PrepareOk};
use wire::{Header, Op, ReplicaId};

use super::log::{Bytes, Disk, Entry};
use super::outbox::{Body, frame_header};
use super::sound::{continues, is_body_sound};
use super::timeouts::Timer;
use super::{Append, Canary, Commit, LogHead, Replica, Status};
use crate::journal::recovery::Summary;
use crate::journal::{BODY_OFFSET, FRAME_HEADER_SIZE, frame_size};

/// How often the time to the next retransmission doubles.
const RETRANSMIT_DOUBLINGS: u32 = 5;

impl Replica {
    /// The next prepare to be journaled. Alone and at a primary they come in op order; a backup's
    /// as they arrive. With peers nothing is journaled before its view is durable.
    pub fn next_append(&mut self) -> Option<Append> {
        if !self.may_append() {
            return None;
        }
        for _ in 0..self.appends.len() {
            let op = self.appends.pop_front()?;
            if self.log.has_orphan(op) {
                self.appends.push_back(op);
                continue;
            }
            let Some(entry) = self.log.get_mut(op) else { continue };
            if !matches!(entry.bytes, Bytes::Closed(_)) {
                continue;
            }
            let bytes = std::mem::replace(&mut entry.bytes, Bytes::None);
            let (Bytes::Closed(buffer), Some(header)) = (bytes, entry.header) else {
                unreachable!("what is closed has a header");
            };
            entry.disk = Disk::Writing;
            return Some(Append { header, buffer });
        }
        None
    }

    /// The journal has given the prepare its place: its bytes can be shared. A primary with peers
    /// sends it to them now. Not needed alone.
    pub fn on_frame(&mut self, frame: &Frozen) {
        let header = frame_header(frame);
        let op = Summary::of(&header).op;
        let early = self.config.breaks(Canary::AcknowledgeBeforeDurable) && !self.is_primary();
        let Some(entry) = self.log.get_mut(op) else { return };
        if entry.checksum() != Some(header.checksum()) || entry.disk != Disk::Writing {
            return;
        }
        entry.bytes = Bytes::Shared(frame.clone());
        if early {
            entry.disk = Disk::Durable;
            self.acknowledge(op);
        }
        if self.leads() && header.view() == self.view {
            for peer in self.config.peers() {
                self.outbox.push(peer, header, Body::Prepare(frame.clone()));
            }
            if !self.timers.runs(Timer::Retransmit) {
                self.expect_quorum();
            }
        }
    }

    /// The frame of `op` is durable.
    ///
    /// # Panics
    /// When the op was not given out to be journaled, or this frame is not its.
    pub fn on_journal_written(&mut self, op: Op, frame: Frozen) {
        let header = frame_header(&frame);
        let checksum = header.checksum();
        assert_eq!(Summary::of(&header).op, op, "the frame is another op's");
        let orphan = self.log.end_orphan(&header, &frame);
        let keep = op > self.given && op.0 <= self.given.0 + 2 * self.config.pipeline_max as u64;
        let (own, leads) = (self.config.replica, self.leads());
        let entry = self.log.get_mut(op).filter(|entry| entry.checksum() == Some(checksum));
        let Some(entry) = entry else {
            // It was given up, or a checkpoint that peers helped to has passed it.
            assert!(orphan || !self.config.is_alone(), "op {op} was not being written");
            return;
        };
        let early = self.config.breaks(Canary::AcknowledgeBeforeDurable);
        assert!(orphan || early || entry.disk == Disk::Writing, "op {op} was not being written");
        (entry.disk, entry.acknowledged) = (Disk::Durable, true);
        entry.bytes = if keep { Bytes::Shared(frame) } else { Bytes::None };
        let closed_at_ns = entry.closed_at_ns;
        if leads {
            entry.oks.insert(own);
            self.leading.own_write(self.monotonic_ns.saturating_sub(closed_at_ns));
        } else if op > self.commit_max {
            self.acknowledge(op);
        }
        self.advance_commit();
        self.on_body();
    }

    /// The next prepare to be applied and answered, in op order: each exactly once in a life. Not
    /// asking is how shards that are behind slow down requests. With peers, one whose bytes are not
    /// in memory is read from the journal first ([`Replica::next_read`]).
    pub fn next_commit(&mut self) -> Option<Commit> {
        let op = self.given.next();
        if op > self.committed.op || self.diverged.is_some() {
            return None;
        }
        let alone = self.config.is_alone();
        let entry = self.log.get_mut(op).expect("what is not given out is in the log");
        if !matches!(entry.bytes, Bytes::Shared(_)) {
            self.read_ahead();
            return None;
        }
        let header = entry.header.expect("what is committed has a header");
        let Bytes::Shared(frame) = std::mem::replace(&mut entry.bytes, Bytes::None) else {
            unreachable!("looked at just now");
        };
        self.given = op;
        if alone {
            self.log.release(op);
        }
        Some(Commit { header, frame })
    }

    /// Whether frames may be journaled: those of the log view only once it is durable.
    fn may_append(&self) -> bool {
        let taken = self.status == Status::Normal || self.leaving.chosen;
        taken && self.vouched.1 == self.log_view && self.log_view == self.view
    }

    /// An op is said to be committed, and all before it. Of what this log cannot hold nothing
    /// follows.
    pub(super) fn learn_commit(&mut self, commit: Op) {
        self.commit_max = self.commit_max.max(commit.min(self.log.last_held()));
    }

    /// Commits what can be.
    pub(super) fn advance_commit(&mut self) {
        if self.diverged.is_some() {
            return;
        }
        let quorum = self.quorums.replication;
        let before = self.committed.op;
        loop {
            let op = self.committed.op.next();
            let Some(entry) = self.log.get(op).filter(|entry| entry.trusted) else { break };
            let decided = op <= self.commit_max || (self.leads() && entry.oks.count() >= quorum);
            if !decided || !entry.has_body() {
                break;
            }
            let header = entry.header.as_ref().expect("what is trusted has a header");
            if !continues(header, &self.committed) {
                let (before, parent) = (self.committed, Summary::of(header).parent);
                return self.diverge(before.op, before.checksum, parent);
            }
            self.committed = LogHead::of(header);
        }
        if self.committed.op > before {
            self.commit_max = self.commit_max.max(self.committed.op);
            if !self.config.is_alone() {
                self.answer_reads();
                self.on_progress();
            }
        }
    }

    /// The commit number moved on.
    fn on_progress(&mut self) {
        self.clock.raise(self.committed.timestamp);
        self.leading.retransmits = 0;
        self.timers.stop(Timer::Retransmit);
        if self.leads() && self.committed.op < self.log.head() {
            self.expect_quorum();
        }
    }

    /// Has prepares sent again if they get no quorum in time.
    pub(super) fn expect_quorum(&mut self) {
        let doublings = self.leading.retransmits.min(RETRANSMIT_DOUBLINGS);
        let wait_ns = self.config.timing.retransmit_ns.max(4 * self.peers.quorum_rtt_ns());
        self.timers.spread(Timer::Retransmit, self.monotonic_ns, wait_ns << doublings);
    }

    /// Sends prepares again to whoever has not acknowledged them.
    pub(super) fn retransmit(&mut self) {
        if !self.leads() || self.leading.silent || self.committed.op == self.log.head() {
            return;
        }
        let head = self.log.head().0.min(self.committed.op.0 + self.config.pipeline_max as u64);
        for op in (self.committed.op.0 + 1..=head).map(Op) {
            let entry = self.log.get(op).expect("ops up to the head have entries");
            let oks = entry.oks;
            for peer in self.config.peers().filter(|peer| !oks.contains(*peer)) {
                self.give_prepare(op, peer);
            }
        }
        self.leading.retransmits += 1;
        self.expect_quorum();
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, header: &Header, body: &[u8]) {
        let prepare = header.tail::<Prepare>().expect("the command says so");
        if !self.is_prepare_sound(header) {
            return self.refuse();
        }
        if header.view() > self.view {
            return self.note_newer(header.view());
        }
        let same = |entry: &&Entry| entry.checksum() == Some(header.checksum());
        let held = self.log.get(prepare.op).filter(same).is_some_and(Entry::is_held);
        if !held && !is_body_sound(header, body) {
            return self.refuse();
        }
        let current = header.view() == self.view && self.status == Status::Normal;
        if current && !self.is_primary() {
            if from == self.primary() {
                self.hear_primary();
            }
            if !self.fits(from, header) {
                return self.refuse();
            }
            self.extend_by(header, &prepare);
        }
        if !self.follows() {
            return;
        }
        let op = prepare.op;
        self.accept_header(header);
        let Some(entry) = self.log.get(op).filter(|entry| entry.trusted) else { return };
        if entry.checksum() != Some(header.checksum()) {
            return;
        }
        if entry.disk == Disk::Durable {
            self.acknowledge(op);
        } else if !entry.is_held() {
            self.hold(op, header, body);
        }
    }

    /// Whether this replica's log is that of the view, so that it takes prepares into it.
    pub(super) fn follows(&self) -> bool {
        self.status == Status::Normal || self.leaving.chosen
    }

    /// Whether a prepare of the view is what the log of the view has, or may have, at its op. One
    /// from the primary that does not continue what is committed proves that histories differ.
    fn fits(&mut self, from: ReplicaId, header: &Header) -> bool {
        let op = Summary::of(header).op;
        let (own, above, below) =
            (self.log.header(op), self.log.header(op.next()), self.log.header(Op(op.0 - 1)));
        let same = own.is_none_or(|own| own.checksum() == header.checksum());
        let continued = above.is_none_or(|above| continues(above, &LogHead::of(header)));
        if !same || !continued {
            return false;
        }
        if op != self.committed.op.next() {
            return below.is_none_or(|below| continues(header, &LogHead::of(below)));
        }
        let (ours, theirs) = (self.committed.checksum, Summary::of(header).parent);
        if ours != theirs && from == self.primary() {
            self.diverge(self.committed.op, ours, theirs);
        }
        continues(header, &self.committed)
    }

    /// A backup's log gets the header of a prepare of its view.
    fn extend_by(&mut self, header: &Header, prepare: &Prepare) {
        let op = prepare.op;
        self.learn_commit(prepare.commit);
        if op <= self.committed.op || !self.log.holds(op) {
            self.advance_commit();
            return;
        }
        if self.log.head().next() < op {
            self.expect_repair();
        }
        self.log.extend(op);
        if self.log.get(op).is_some_and(|entry| !entry.trusted) {
            self.name(op, *header);
            self.link_down(op);
        }
        self.advance_commit();
    }

    /// Copies a prepare whose header the log has into a buffer, to be journaled.
    fn hold(&mut self, op: Op, header: &Header, body: &[u8]) {
        let size = frame_size(header.size()) as u64;
        let fits = self.budget.admits(size, true);
        let buffer = if fits { self.pool.try_take() } else { None };
        let Some(mut buffer) = buffer else {
            self.counters.prepares_refused += 1;
            return self.expect_repair();
        };
        buffer.set_len(BODY_OFFSET + body.len());
        buffer[FRAME_HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
        buffer[BODY_OFFSET..].copy_from_slice(body);
        self.budget.add(op, size);
        let entry = self.log.get_mut(op).expect("the caller looked at it");
        entry.bytes = Bytes::Closed(buffer);
        entry.closed_at_ns = self.monotonic_ns;
        self.appends.push_back(op);
        self.repaired(op);
    }

    pub(super) fn on_prepare_ok(&mut self, from: ReplicaId, header: &Header) {
        let ok = header.tail::<PrepareOk>().expect("the command says so");
        if header.view() > self.view {
            return self.note_newer(header.view());
        }
        if header.view() != self.view || !self.leads() {
            return;
        }
        self.hear_backup(from);
        self.commit_max = self.commit_max.max(ok.commit.min(self.log.head()));
        if let Some(entry) = self.log.get_mut(ok.op)
            && entry.checksum() == Some(ok.prepare)
        {
            let first = entry.oks.count() == u8::from(entry.oks.contains(self.config.replica));
            entry.oks.insert(from);
            let closed_at_ns = entry.closed_at_ns;
            if first {
                self.leading.peer_write(self.monotonic_ns.saturating_sub(closed_at_ns));
            }
        }
        self.advance_commit();
    }
}
