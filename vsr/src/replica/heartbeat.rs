//! Heartbeats, round trips, and the primary that steps down.
//!
//! 1. The primary sends *commit* to all backups every heartbeat: its commit number with the
//!    checksum of that prepare, and a number of the round. A backup that hears it starts its
//!    silence anew, learns how far the log is committed, and answers *commit-ok*.
//! 2. The answers say three things: that a quorum still follows this primary (`reads`), how far
//!    backups are, and how long a round takes.
//! 3. A primary that has not heard a quorum for a while falls *silent*: it sends no heartbeats and
//!    takes no requests, and would leave its view. Without that, a primary that is heard and hears
//!    nobody would hold up the cluster for ever.
//! 4. The same when its disk takes ten times as long as the fastest backup's answers do, network
//!    included: its own vote is never among the first then, and everything else it does is late.
//! 5. And when it is behind: it could not commit what it gives ops to.
//! 6. Pings between all members measure round trips, which timeouts and the choice of whom to ask
//!    follow, and tell each other's checkpoints. Timeouts follow as many of the nearest as make a
//!    quorum; who has not answered for some pings counts for nothing.

use wire::message::{Commit, CommitOk, Ping, Pong};
use wire::{Header, Op, ReplicaId, Timestamp};

use super::quorum::MEMBERS_MAX;
use super::timeouts::Timer;
use super::{Replica, Status};

/// A disk is slow that takes so many times as long as the backups.
const SLOW_FACTOR: u64 = 10;
/// The longest round trip that counts as one: beyond that a message was held up, or is a lie.
const ROUND_TRIP_MAX_NS: u64 = 2_000_000_000;
/// Pings without an answer after which a peer is neither near nor far.
const PINGS_MISSED: u64 = 4;
/// Writes that must have been measured before a disk is called slow.
const SLOW_SAMPLES: u32 = 32;

/// What a replica knows of the others.
#[derive(Debug)]
pub(super) struct Peers {
    /// So many of them make a quorum with this replica.
    needed: usize,
    /// Smoothed round trips; 0 where none was measured of late.
    rtt_ns: [u64; MEMBERS_MAX],
    /// When each was measured last.
    measured_ns: [u64; MEMBERS_MAX],
    /// The last checkpoint of each, as far as it has said.
    pub(super) checkpoint: [Op; MEMBERS_MAX],
}

impl Peers {
    pub(super) fn new(quorum: u8) -> Peers {
        let needed = usize::from(quorum).saturating_sub(1);
        let (rtt_ns, measured_ns) = Default::default();
        Peers { needed, rtt_ns, measured_ns, checkpoint: Default::default() }
    }

    fn measure(&mut self, peer: ReplicaId, sample_ns: u64, now_ns: u64) {
        self.measured_ns[usize::from(peer.0)] = now_ns;
        let sample_ns = sample_ns.min(ROUND_TRIP_MAX_NS);
        let rtt = &mut self.rtt_ns[usize::from(peer.0)];
        *rtt = if *rtt == 0 { sample_ns.max(1) } else { (*rtt * 7 + sample_ns) / 8 };
    }

    /// Forgets how near those were who have not answered since.
    fn forget(&mut self, since_ns: u64) {
        for (rtt_ns, at_ns) in self.rtt_ns.iter_mut().zip(self.measured_ns) {
            *rtt_ns = if at_ns < since_ns { 0 } else { *rtt_ns };
        }
    }

    pub(super) fn rtt_ns(&self, peer: ReplicaId) -> u64 {
        self.rtt_ns[usize::from(peer.0)]
    }

    /// How long the round trip to as many of the nearest as make a quorum takes; 0 before any was
    /// measured. One that is far away, or was when it died, holds up nobody who can do without it.
    pub(super) fn quorum_rtt_ns(&self) -> u64 {
        let mut measured = self.rtt_ns;
        measured.sort_unstable();
        let first = measured.partition_point(|rtt| *rtt == 0);
        let wanted = (first + self.needed).clamp(1, MEMBERS_MAX) - 1;
        measured[wanted]
    }

    pub(super) fn at_checkpoint(&mut self, peer: ReplicaId, op: Op) {
        let known = &mut self.checkpoint[usize::from(peer.0)];
        *known = (*known).max(op);
    }
}

/// What only a primary needs.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// It has fallen silent and would leave the view.
    pub(super) silent: bool,
    /// The head of the log that its view began with.
    pub(super) began_with: Op,
    /// How often prepares were sent again without any progress.
    pub(super) retransmits: u32,
    /// The number of the last round of heartbeats.
    pub(super) round: u64,
    /// When it was sent.
    round_at_ns: u64,
    /// The last round that each has answered.
    pub(super) answered: [u64; MEMBERS_MAX],
    /// When each was heard last.
    heard_ns: [u64; MEMBERS_MAX],
    /// Smoothed time from ordering a prepare to its being durable here.
    own_ns: u64,
    /// The same to the first backup's acknowledgement.
    peer_ns: u64,
    samples: u32,
}

impl Leading {
    /// A view begins; rounds go on counting, so that no answer to an old one counts for a new one.
    pub(super) fn begin(&mut self, began_with: Op, now_ns: u64) {
        let round = self.round;
        *self = Leading { began_with, round, ..Leading::default() };
        self.answered = [round; MEMBERS_MAX];
        self.heard_ns = [now_ns; MEMBERS_MAX];
    }

    pub(super) fn own_write(&mut self, sample_ns: u64) {
        self.own_ns = (self.own_ns * 7 + sample_ns) / 8;
        self.samples = self.samples.saturating_add(1);
    }

    pub(super) fn peer_write(&mut self, sample_ns: u64) {
        self.peer_ns = (self.peer_ns * 7 + sample_ns) / 8;
    }

    fn disk_is_slow(&self, floor_ns: u64) -> bool {
        self.samples >= SLOW_SAMPLES
            && self.own_ns >= floor_ns
            && self.own_ns >= SLOW_FACTOR * self.peer_ns.max(1)
    }

    /// How many peers were heard since.
    fn heard_since(&self, ns: u64, peers: impl Iterator<Item = ReplicaId>) -> u8 {
        peers.filter(|peer| self.heard_ns[usize::from(peer.0)] >= ns).count() as u8
    }
}

impl Replica {
    /// Sends a round of heartbeats.
    pub(super) fn heartbeat(&mut self) {
        if !self.serves() {
            return;
        }
        self.leading.round += 1;
        self.leading.round_at_ns = self.monotonic_ns;
        let commit = Commit {
            prepare: self.committed.checksum,
            commit: self.committed.op,
            checkpoint: self.checkpoint_id,
            checkpoint_op: self.checkpoint,
            round: self.leading.round,
            timestamp: self.committed.timestamp,
        };
        self.broadcast(&commit);
        self.timers.set(Timer::Heartbeat, self.monotonic_ns + self.config.timing.heartbeat_ns);
    }

    pub(super) fn on_commit(&mut self, from: ReplicaId, header: &Header) {
        let commit = header.tail::<Commit>().expect("the command says so");
        if !self.are_ops_sound(commit.checkpoint_op, commit.commit, commit.commit) {
            return self.refuse();
        }
        self.peers.at_checkpoint(from, commit.checkpoint_op);
        if header.view() > self.view {
            return self.note_newer(header.view());
        }
        let current = header.view() == self.view && self.status == Status::Normal;
        if !current || from != self.primary() || self.is_primary() {
            return;
        }
        self.hear_primary();
        if let Some(ours) = self.known_at(commit.commit).filter(|ours| *ours != commit.prepare) {
            return self.diverge(commit.commit, ours, commit.prepare);
        }
        self.learn_commit(commit.commit);
        self.anchor(commit.commit, commit.prepare);
        self.advance_commit();
        if self.committed.op < self.commit_max {
            self.expect_repair();
        }
        if self.vouches() {
            let ok = CommitOk { round: commit.round, commit: self.committed.op };
            self.send(from, &ok);
        }
    }

    pub(super) fn on_commit_ok(&mut self, from: ReplicaId, header: &Header) {
        let ok = header.tail::<CommitOk>().expect("the command says so");
        if header.view() > self.view {
            return self.note_newer(header.view());
        }
        if header.view() != self.view || !self.leads() {
            return;
        }
        if ok.round > self.leading.round {
            return self.refuse();
        }
        self.hear_backup(from);
        if ok.round == self.leading.round {
            let sample_ns = self.monotonic_ns.saturating_sub(self.leading.round_at_ns);
            self.peers.measure(from, sample_ns, self.monotonic_ns);
        }
        let answered = &mut self.leading.answered[usize::from(from.0)];
        *answered = (*answered).max(ok.round);
        // What a backup has committed is committed, though this primary may not have known.
        self.commit_max = self.commit_max.max(ok.commit.min(self.log.head()));
        self.advance_commit();
        self.answer_reads();
    }

    /// The primary of the view was heard.
    pub(super) fn hear_primary(&mut self) {
        self.stay();
        let silence_ns = self.silence_ns();
        self.timers.spread(Timer::Silence, self.monotonic_ns, silence_ns);
    }

    /// A backup of this primary's view was heard.
    pub(super) fn hear_backup(&mut self, from: ReplicaId) {
        self.leading.heard_ns[usize::from(from.0)] = self.monotonic_ns;
    }

    /// Falls silent when no quorum was heard for long, or the disk is slow.
    pub(super) fn check_contact(&mut self) {
        if !self.leads() || self.leading.silent {
            return;
        }
        let timing = self.config.timing;
        let since_ns = self.monotonic_ns.saturating_sub(timing.contact_ns);
        let heard = 1 + self.leading.heard_since(since_ns, self.config.peers());
        let slow = self.leading.disk_is_slow(timing.slow_disk_ns);
        if heard >= self.quorums.view_change && !slow && !self.repair.is_behind() {
            self.timers.spread(Timer::Contact, self.monotonic_ns, timing.contact_ns / 4);
            return;
        }
        self.leading.silent = true;
        self.drop_batch();
        self.timers.stop(Timer::Heartbeat);
        self.suspect();
    }

    pub(super) fn ping(&mut self) {
        let since_ns = self.monotonic_ns.saturating_sub(PINGS_MISSED * self.config.timing.ping_ns);
        self.peers.forget(since_ns);
        let ping = Ping {
            monotonic: self.monotonic_ns,
            checkpoint: self.checkpoint_id,
            checkpoint_op: self.checkpoint,
            op: self.log.head(),
            commit: self.committed.op,
        };
        self.broadcast(&ping);
        self.timers.spread(Timer::Ping, self.monotonic_ns, self.config.timing.ping_ns);
    }

    pub(super) fn on_ping(&mut self, from: ReplicaId, header: &Header) {
        let ping = header.tail::<Ping>().expect("the command says so");
        if !self.are_ops_sound(ping.checkpoint_op, ping.commit, ping.op) {
            return self.refuse();
        }
        self.peers.at_checkpoint(from, ping.checkpoint_op);
        let pong = Pong { monotonic: ping.monotonic, wall: Timestamp(self.clock.now().0) };
        self.send(from, &pong);
    }

    pub(super) fn on_pong(&mut self, from: ReplicaId, header: &Header) {
        let pong = header.tail::<Pong>().expect("the command says so");
        // One that answers a ping of an earlier life may be from the future.
        if let Some(sample_ns) = self.monotonic_ns.checked_sub(pong.monotonic) {
            self.peers.measure(from, sample_ns, self.monotonic_ns);
        }
    }
}
