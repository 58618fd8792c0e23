//! What is missing: headers by the chain, prepares by their checksums, from peers in turn.
//!
//! *Headers* are asked for downwards: the lowest trusted header names its parent, so a header is
//! taken only when its checksum is expected. Where the newest op is missing, the checksum in the
//! heartbeat's commit number is what is expected. *Prepares* are asked for upwards, because that is
//! the order in which they can be applied. What answers a question is taken wherever it comes from:
//! a checksum leaves nothing to trust.
//!
//! At most [`ASKED_MAX`] prepares are asked for at once. Each is asked of the peer with the
//! shortest round trip first, of another one now and then, and of the next one whenever an answer
//! does not come. A question that cannot be answered is not answered. Nothing here recurses: an
//! answer asks the next question when it has been dealt with.
//!
//! A prepare that is not in memory is read from the journal for whoever needs it, a peer or this
//! replica's own shards. If it cannot be read it is damaged, and repaired like one that is missing.
//!
//! *Behind.* Journals keep what is after the checkpoint. When every peer's checkpoint has passed an
//! op that this replica needs, no journal has it for sure. The replica says so; it needs a peer's
//! checkpoint, and it goes on as a member as far as it can.

use ioring::Frozen;
use wire::message::{GetHeaders, GetPrepare, Headers};
use wire::{Checksum, Header, Op, ReplicaId};

use super::log::{Bytes, Disk};
use super::outbox::{self, Body, frame_header};
use super::timeouts::Timer;
use super::{Replica, Status};

/// Prepares asked for at once.
const ASKED_MAX: usize = 8;
/// Headers in an answer at most.
const HEADERS_MAX: u64 = 64;
/// Reads of the journal that may be wanted at once.
const READS_MAX: usize = 32;
/// Committed prepares that are read ahead of what is given out.
const READ_AHEAD: u64 = 4;
/// Ops that are looked at for something missing.
const LOOK_MAX: u64 = 1024;
/// Once in so many questions the fastest peer is not asked.
const EXPLORE: u64 = 8;

/// Questions without an answer after which an op counts as missing everywhere.
const STUCK: u32 = 16;

/// A prepare to be read from the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrepareRead {
    /// Its op.
    pub op: Op,
    /// Its checksum.
    pub checksum: Checksum,
}

#[derive(Debug)]
struct Asked {
    op: Op,
    at_ns: u64,
    attempts: u32,
}

#[derive(Debug)]
struct Wanted {
    read: PrepareRead,
    /// The peer that asked; `None` for this replica's own commits.
    to: Option<ReplicaId>,
    issued: bool,
}

#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Where trusted headers end downwards, as far as it was followed last.
    pub(super) floor: Op,
    /// A committed op and the checksum of its prepare, from a heartbeat.
    pub(super) anchor: Option<(Op, Checksum)>,
    asked: Vec<Asked>,
    headers_asked_at_ns: Option<u64>,
    wanted: Vec<Wanted>,
    turn: u8,
    /// The op that no peer's journal has.
    behind: Option<Op>,
}

impl Repair {
    /// The log is another one: what was asked for is not what is needed.
    pub(super) fn reset(&mut self) {
        self.anchor = None;
        self.asked.clear();
        self.headers_asked_at_ns = None;
        self.behind = None;
    }

    pub(super) fn fall_behind(&mut self, op: Op) {
        self.behind = Some(op);
    }

    /// An op that was asked for often and that nobody who is there has.
    pub(super) fn stuck_at(&self) -> Option<Op> {
        let often = self.asked.iter().filter(|asked| asked.attempts >= STUCK);
        often.map(|asked| asked.op).min()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }
}

impl Replica {
    /// Something is missing: it may still come by itself, so it is asked for a little later.
    pub(super) fn expect_repair(&mut self) {
        if !self.timers.runs(Timer::Repair) {
            let wait_ns = self.repair_wait_ns();
            self.timers.spread(Timer::Repair, self.monotonic_ns, wait_ns);
        }
    }

    fn repair_wait_ns(&self) -> u64 {
        self.config.timing.repair_ns.max(2 * self.peers.quorum_rtt_ns())
    }

    /// A heartbeat names a committed prepare.
    pub(super) fn anchor(&mut self, op: Op, checksum: Checksum) {
        if op <= self.committed.op || !self.log.holds(op) {
            return;
        }
        self.log.extend(op);
        self.repair.anchor = Some((op, checksum));
        let entry = self.log.get(op).expect("the log was extended to it");
        let named = entry.checksum().filter(|named| entry.trusted && *named != checksum);
        if let Some(named) = named {
            // It would be committed here as something else than where it was.
            return self.diverge(op, named, checksum);
        }
        if !entry.trusted && entry.checksum() == Some(checksum) {
            let header = entry.header.expect("it has a checksum");
            self.accept_header(&header);
        }
    }

    /// Asks for what is missing, as far as it is not asked for already.
    pub(super) fn repair(&mut self) {
        if !self.mends() {
            return;
        }
        let missing_headers = self.repair_headers();
        let missing_prepares = self.follows() && self.repair_prepares();
        if missing_headers || missing_prepares {
            self.timers.stop(Timer::Repair);
            self.expect_repair();
        }
    }

    /// Whether this replica mends the chain of its log. It does so between views too, for whoever
    /// asks it for headers, and for its next vote: what mends the chain can only be what was there.
    fn mends(&self) -> bool {
        matches!(self.status, Status::Normal | Status::ViewChange) && !self.config.is_alone()
    }

    /// Asks for headers below the lowest trusted one; returns whether any are missing.
    fn repair_headers(&mut self) -> bool {
        let Some(op_max) = self.highest_hole() else { return false };
        let due_ns = self.repair.headers_asked_at_ns.map(|at_ns| at_ns + self.repair_wait_ns());
        if due_ns.is_none_or(|due_ns| due_ns <= self.monotonic_ns) {
            let lowest = op_max.0.saturating_sub(HEADERS_MAX - 1);
            let op_min = Op(lowest.max(self.committed.op.0 + 1));
            let peer = self.pick_peer(u32::from(due_ns.is_some()));
            self.send(peer, &GetHeaders { op_min, op_max });
            self.repair.headers_asked_at_ns = Some(self.monotonic_ns);
        }
        true
    }

    /// The highest op without a trusted header whose checksum is expected.
    fn highest_hole(&self) -> Option<Op> {
        let is_hole = |op: Op| {
            op > self.committed.op
                && self.log.get(op).is_some_and(|entry| !entry.trusted)
                && self.expected(op).is_some()
        };
        let below = Op(self.repair.floor.0.saturating_sub(1));
        if is_hole(below) {
            return Some(below);
        }
        (self.committed.op.0 + 1..=self.log.head().0).rev().map(Op).find(|op| is_hole(*op))
    }

    /// Asks for prepares whose headers are known; returns whether any are missing.
    fn repair_prepares(&mut self) -> bool {
        let (now_ns, wait_ns) = (self.monotonic_ns, self.repair_wait_ns());
        let first = self.given.next();
        let last = Op(self.log.head().0.min(first.0 + LOOK_MAX));
        let missing = self.log.range(first, last).filter(|(_, e)| e.trusted && !e.is_held());
        let missing = missing.filter(|(op, _)| !self.log.has_orphan(*op));
        let missing: Vec<(Op, Checksum)> =
            missing.take(ASKED_MAX).filter_map(|(op, e)| Some((op, e.checksum()?))).collect();
        // What was asked for and is not among the first any more gives its place to what is.
        self.repair.asked.retain(|asked| missing.iter().any(|(op, _)| *op == asked.op));
        for &(op, prepare) in &missing {
            let count = self.repair.asked.len();
            let attempts = match self.repair.asked.iter_mut().find(|asked| asked.op == op) {
                Some(asked) if asked.at_ns + wait_ns > now_ns => continue,
                Some(asked) => {
                    (asked.at_ns, asked.attempts) = (now_ns, asked.attempts + 1);
                    asked.attempts
                }
                None if count >= ASKED_MAX => break,
                None => {
                    self.repair.asked.push(Asked { op, at_ns: now_ns, attempts: 0 });
                    0
                }
            };
            let peer = self.pick_peer(attempts);
            self.counters.prepares_asked += 1;
            self.send(peer, &GetPrepare { prepare, op });
        }
        self.notice_behind();
        !missing.is_empty()
    }

    /// Whether every peer's checkpoint has passed what is needed next: a prepare, or a header
    /// without which the log's chain does not go on from what is committed.
    fn notice_behind(&mut self) {
        let mut next = self.log.range(self.given.next(), self.committed.op.next());
        let prepare = next.find(|(_, entry)| !entry.is_held()).map(|(op, _)| op);
        let passed = |op: Op| {
            let passed = |peer: ReplicaId| self.peers.checkpoint[usize::from(peer.0)] >= op;
            self.config.peers().all(passed)
        };
        self.repair.behind = prepare.or(self.highest_hole()).filter(|op| passed(*op));
    }

    /// The fastest peer at first, mostly; then each in turn.
    fn pick_peer(&mut self, attempts: u32) -> ReplicaId {
        let explores = self.timers.random().chance(EXPLORE);
        // Who was not measured of late is away, or new: 0 becomes the longest there is.
        let distance = |peer: &ReplicaId| self.peers.rtt_ns(*peer).wrapping_sub(1);
        let fastest = self.config.peers().min_by_key(distance);
        if attempts == 0 && !explores {
            return fastest.expect("a cluster has peers");
        }
        self.repair.turn = self.repair.turn.wrapping_add(1);
        let index = usize::from(self.repair.turn) % (usize::from(self.config.replica_count) - 1);
        self.config.peers().nth(index).expect("a peer for each index")
    }

    /// A prepare that was missing is here.
    pub(super) fn repaired(&mut self, op: Op) {
        self.repair.asked.retain(|asked| asked.op != op);
    }

    /// A body became durable or readable: what waited for it goes on.
    pub(super) fn on_body(&mut self) {
        if self.config.is_alone() {
            return;
        }
        self.try_begin();
        if self.timers.runs(Timer::Repair) {
            self.repair();
        }
    }

    pub(super) fn on_get_headers(&mut self, from: ReplicaId, header: &Header) {
        let question = header.tail::<GetHeaders>().expect("the command says so");
        let highest = question.op_max.0.min(self.log.head().0);
        let lowest = question.op_min.0.max(self.log.base().0);
        let ops = (lowest..=highest).rev().take(HEADERS_MAX as usize).map(Op);
        let body = outbox::encode(ops.filter_map(|op| self.log.header(op)));
        let count = (body.len() / wire::HEADER_SIZE) as u32;
        if count > 0 {
            let answer = self.draft().seal(&Headers { count }, &body);
            self.outbox.push(from, answer, Body::Headers(body));
        }
    }

    pub(super) fn on_headers(&mut self, header: &Header, body: &[u8]) {
        let Some(headers) = self.sound_list(body, header.view(), HEADERS_MAX as usize) else {
            return self.refuse();
        };
        if !self.mends() {
            return;
        }
        let mut taken = false;
        for header in &headers {
            taken |= self.accept_header(header);
        }
        if taken {
            self.repair.headers_asked_at_ns = None;
            self.advance_commit();
            self.repair();
            self.try_begin();
        }
    }

    pub(super) fn on_get_prepare(&mut self, from: ReplicaId, header: &Header) {
        let GetPrepare { prepare, op } = header.tail().expect("the command says so");
        if self.log.get(op).is_some_and(|entry| entry.checksum() == Some(prepare)) {
            self.give_prepare(op, from);
        }
    }

    /// Sends a prepare to a peer, from memory or from the journal, if it is here.
    pub(super) fn give_prepare(&mut self, op: Op, peer: ReplicaId) {
        let Some(entry) = self.log.get(op) else { return };
        let Some(header) = entry.header else { return };
        if let Bytes::Shared(frame) = &entry.bytes {
            self.outbox.push(peer, header, Body::Repair(frame.clone()));
        } else if entry.disk == Disk::Durable {
            self.want(PrepareRead { op, checksum: header.checksum() }, Some(peer));
        }
    }

    fn want(&mut self, read: PrepareRead, to: Option<ReplicaId>) {
        let known = |wanted: &Wanted| wanted.read == read && wanted.to == to;
        // A place is kept for the replica's own.
        let room = READS_MAX - if to.is_some() { READ_AHEAD as usize } else { 0 };
        if self.repair.wanted.len() < room && !self.repair.wanted.iter().any(known) {
            self.repair.wanted.push(Wanted { read, to, issued: false });
        }
    }

    /// Has the next committed prepares read that are not in memory.
    pub(super) fn read_ahead(&mut self) {
        let last = self.committed.op.0.min(self.given.0 + READ_AHEAD);
        for op in (self.given.0 + 1..=last).map(Op) {
            let entry = self.log.get(op).expect("what is not given out is in the log");
            if let (Bytes::None, Disk::Durable, Some(checksum)) =
                (&entry.bytes, entry.disk, entry.checksum())
            {
                self.want(PrepareRead { op, checksum }, None);
            }
        }
    }

    /// The next prepare to be read from the journal.
    pub fn next_read(&mut self) -> Option<PrepareRead> {
        let wanted = self.repair.wanted.iter_mut().find(|wanted| !wanted.issued)?;
        let read = wanted.read;
        for wanted in &mut self.repair.wanted {
            wanted.issued |= wanted.read == read;
        }
        Some(read)
    }

    /// A prepare was read, or could not be.
    ///
    /// # Panics
    /// When the frame is another one.
    pub fn on_prepare_read(&mut self, read: PrepareRead, frame: Option<Frozen>) {
        let header = frame.as_ref().map(|frame| frame_header(frame));
        let same = header.as_ref().is_none_or(|header| header.checksum() == read.checksum);
        assert!(same, "op {} was read and is another prepare", read.op);
        while let Some(index) = self.repair.wanted.iter().position(|w| w.issued && w.read == read) {
            let wanted = self.repair.wanted.swap_remove(index);
            if let (Some(peer), Some(header), Some(frame)) = (wanted.to, header, &frame) {
                self.outbox.push(peer, header, Body::Repair(frame.clone()));
            }
        }
        let given = self.given;
        let Some(entry) = self.log.get_mut(read.op) else { return };
        if entry.checksum() != Some(read.checksum) || entry.disk != Disk::Durable {
            return;
        }
        match (frame, &entry.bytes) {
            (Some(frame), Bytes::None) if read.op > given => entry.bytes = Bytes::Shared(frame),
            (Some(_), _) => {}
            (None, _) => {
                entry.disk = Disk::Absent;
                self.expect_repair();
            }
        }
    }
}
