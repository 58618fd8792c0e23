//! From one view to the next.
//!
//! ```text
//!  normal ──silence──► would leave ──pre-vote quorum──► view + 1, made durable
//!                                                             │ start-view-change to all
//!                                                             ▼
//!  normal ◄──start-view, made durable◄── the primary of the view chooses ◄── do-view-change
//! ```
//!
//! 1. *Pre-vote.* Who hears nothing of the primary says so to all, and stays. Only when a quorum
//!    says so of the same view, itself included, does it leave: a member that is cut off raises no
//!    view and disturbs nobody when it is back.
//! 2. *Start-view-change* says that the sender has left, once that is durable. Who gets one of a
//!    newer view leaves as well.
//! 3. *Do-view-change.* When a quorum has left, each sends the new primary what it has: the headers
//!    of its newest ops, and for each whether it has the prepare and whether it certainly never
//!    acknowledged it.
//! 4. The new primary *chooses* the log ([`super::choice`]), makes it durable as the log of the
//!    view, and repairs: all headers, and the prepares that are not known to be committed.
//! 5. *Start-view* tells the backups the head and the headers. Each makes that durable before it
//!    acknowledges anything in the view.
//!
//! Whoever waits for a request that has no op yet when its primary leaves the view is told so, and
//! for one whose op the new log does not have, that nobody knows (`dropped`).
//!
//! Everything is said again until it is answered or overtaken: start-view-change and do-view-change
//! by those who wait, start-view by the primary to whoever shows that it has not got it, get-view
//! by those who see a message of a view that they do not know.
//!
//! # Why a crash is safe at each point
//!
//! * Before the view is durable nothing was said in it.
//! * After do-view-change: the restart finds view above log view and waits for the new view again;
//!   it acknowledges nothing of the old one.
//! * The new primary, between its choice and start-view: the log view is durable, and the log is
//!   the one chosen. It is the only one that has it, so it is as if it had been chosen by the next.
//! * A primary after a restart does not know what it had sent: backups may have committed ops that
//!   its own journal never got. It never leads that view again but would leave it.
//! * A member whose newest frames are damaged does not know its own head. It says nothing until a
//!   start-view that answers its own question ([`GetView`], by a random number) or is of a newer
//!   view tells it: an older start-view might name a head below what it acknowledged. What it lacks
//!   of that log it may have acknowledged, so it does not deny it.

use wire::message::{DoViewChange, GetView, PreVote, StartView, StartViewChange};
use wire::{Header, Op, ReplicaId, View};

use super::choice::{Choice, Vote, choose};
use super::log::{Bytes, Disk};
use super::outbox::Body;
use super::quorum::{MEMBERS_MAX, Members};
use super::timeouts::Timer;
use super::{Canary, LogHead, Replica, Status};

/// How often the wait for a view doubles.
const DOUBLINGS: u32 = 6;

/// What leaving a view takes.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Whether this replica would leave its view.
    suspects: bool,
    /// Who else would leave for which view, and when it said so.
    pre_votes: [Option<(View, u64)>; MEMBERS_MAX],
    /// Who has left for this view.
    left: Members,
    /// What they sent, at the new primary.
    votes: [Option<Vote>; MEMBERS_MAX],
    /// Whether this replica has sent its own.
    voted: bool,
    /// Whether this replica, the new primary, has chosen the view's log and not begun the view.
    pub(super) chosen: bool,
    /// The op that the last choice could not be made for.
    blocked_by: Option<Op>,
    /// Views left without having been normal in between.
    attempts: u32,
    /// The newest view that a message was seen of.
    newer: View,
    /// Asked for in start-view.
    nonce: u128,
}

impl Leaving {
    pub(super) fn blocked_by(&self) -> Option<Op> {
        self.blocked_by
    }
}

impl Replica {
    /// How long silence is borne now.
    pub(super) fn silence_ns(&self) -> u64 {
        let timing = &self.config.timing;
        let doubled = timing.silence_ns << self.leaving.attempts.min(DOUBLINGS);
        let round_trip_ns = self.peers.quorum_rtt_ns().max(self.peers.rtt_ns(self.primary()));
        doubled.min(timing.silence_max_ns) + 4 * round_trip_ns
    }

    /// The view is alive after all: this replica would not leave it any more.
    pub(super) fn stay(&mut self) {
        self.leaving.suspects = false;
        self.leaving.attempts = 0;
        self.leaving.blocked_by = None;
    }

    /// This replica would leave its view, and says so.
    pub(super) fn suspect(&mut self) {
        if self.status == Status::RecoveringHead || (self.leads() && !self.leading.silent) {
            return;
        }
        self.leaving.suspects = true;
        self.say_pre_vote();
        self.ask_soon();
        self.count_pre_votes();
    }

    fn say_pre_vote(&mut self) {
        let candidate = self.view.next();
        let own = usize::from(self.config.replica.0);
        self.leaving.pre_votes[own] = Some((candidate, self.monotonic_ns));
        let (log_view, op) = (self.log_view, self.log.head());
        self.broadcast(&PreVote { candidate, log_view, op });
    }

    pub(super) fn on_pre_vote(&mut self, from: ReplicaId, header: &Header) {
        let vote = header.tail::<PreVote>().expect("the command says so");
        if vote.candidate != header.view().next() {
            return self.refuse();
        }
        if header.view() < self.view {
            // It does not know that the view has begun.
            return self.tell_view(from, 0);
        }
        if header.view() > self.view {
            // A quorum would leave this view once, or nobody would be in that one.
            if self.status == Status::RecoveringHead {
                return;
            }
            self.leave(header.view());
        }
        let place = usize::from(from.0);
        self.leaving.pre_votes[place] = Some((vote.candidate, self.monotonic_ns));
        self.count_pre_votes();
    }

    /// Leaves the view if a quorum would.
    fn count_pre_votes(&mut self) {
        let candidate = self.view.next();
        let since_ns = self.monotonic_ns.saturating_sub(3 * self.config.timing.again_ns);
        let fresh = |&&(view, at_ns): &&(View, u64)| view == candidate && at_ns >= since_ns;
        let votes = self.leaving.pre_votes.iter().flatten().filter(fresh).count();
        if self.leaving.suspects && votes >= usize::from(self.quorums.view_change) {
            self.leave(candidate);
        }
    }

    /// Leaves the view for this one, which is to be made durable.
    fn leave(&mut self, view: View) {
        assert!(view > self.view, "views only rise");
        self.counters.views_left += 1;
        self.retire();
        self.view = view;
        self.status = Status::ViewChange;
        self.leaving.attempts += 1;
        let silence_ns = self.silence_ns();
        self.timers.spread(Timer::Silence, self.monotonic_ns, silence_ns);
        self.ask_soon();
        self.expect_repair();
    }

    /// Gives up what belonged to the old view only.
    pub(super) fn retire(&mut self) {
        self.drop_batch();
        self.give_up_reads();
        for timer in [Timer::Heartbeat, Timer::Contact, Timer::Retransmit, Timer::Repair] {
            self.timers.stop(timer);
        }
        self.leading.silent = false;
        let Leaving { attempts, newer, nonce, blocked_by, .. } = self.leaving;
        self.leaving = Leaving { attempts, newer, nonce, blocked_by, ..Leaving::default() };
    }

    /// Whether this replica waits for the view that it is in to begin.
    fn awaits_view(&self) -> bool {
        self.status == Status::ViewChange && self.log_view < self.view
    }

    /// Has what may be lost asked again, soon.
    fn ask_soon(&mut self) {
        let again_ns = self.config.timing.again_ns.max(2 * self.peers.quorum_rtt_ns());
        self.timers.spread(Timer::Again, self.monotonic_ns, again_ns);
    }

    /// Asks again for whatever this replica waits for.
    pub(super) fn ask_again(&mut self) {
        // Whoever is in it will show that again, unless it was no view.
        self.leaving.newer = View(0);
        if self.status == Status::RecoveringHead {
            let question = self.question();
            self.broadcast(&question);
        }
        if self.awaits_view() && self.vouched.0 == self.view {
            self.broadcast(&StartViewChange { log_view: self.log_view });
            if self.leaving.voted {
                self.send_vote();
            }
        }
        if self.leaving.suspects {
            self.say_pre_vote();
            self.count_pre_votes();
        }
        let silent_head = self.status == Status::RecoveringHead;
        if silent_head || self.status == Status::ViewChange || self.leaving.suspects {
            self.ask_soon();
        }
    }

    /// The question for the view. Its random number is one for the whole life: before it, and so
    /// after whatever an earlier life acknowledged, nobody can have answered.
    fn question(&mut self) -> GetView {
        if self.leaving.nonce == 0 {
            let random = self.timers.random();
            self.leaving.nonce =
                u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()) | 1;
        }
        GetView { nonce: self.leaving.nonce, incarnation: self.config.incarnation }
    }

    /// A message of a newer view was seen: its primary is asked for it, once for a while.
    pub(super) fn note_newer(&mut self, view: View) {
        let primary = self.quorums.primary(view);
        if primary == self.config.replica {
            // It would know.
            return self.refuse();
        }
        if view != self.leaving.newer || !self.timers.runs(Timer::Again) {
            self.leaving.newer = view;
            let question = self.question();
            self.send(primary, &question);
            if !self.timers.runs(Timer::Again) {
                self.ask_soon();
            }
        }
    }

    /// Superblock: the view is durable, or the log that was chosen for it.
    pub(super) fn on_change_durable(&mut self) {
        if self.leaving.chosen {
            return self.try_begin();
        }
        if self.awaits_view() && self.vouched.0 == self.view {
            self.broadcast(&StartViewChange { log_view: self.log_view });
            self.leaving.left.insert(self.config.replica);
            self.try_vote();
        }
    }

    pub(super) fn on_start_view_change(&mut self, from: ReplicaId, header: &Header) {
        if self.status == Status::RecoveringHead || header.view() < self.view {
            return;
        }
        if header.view() > self.view {
            self.leave(header.view());
        }
        if self.awaits_view() {
            self.leaving.left.insert(from);
            self.try_vote();
        } else {
            self.tell_view(from, 0);
        }
    }

    /// Sends the new primary what this replica has, once a quorum has left.
    fn try_vote(&mut self) {
        let ready = self.awaits_view() && self.vouched.0 == self.view && !self.leaving.voted;
        if ready && self.leaving.left.count() >= self.quorums.view_change {
            self.leaving.voted = true;
            self.send_vote();
        }
    }

    fn send_vote(&mut self) {
        let (mut present, mut nack) = (0, 0);
        let head = self.log.head();
        let lowest = Op(head.0.saturating_sub(self.config.pipeline_max as u64));
        // What is at the base or below is committed and whole in the checkpoint.
        for (op, entry) in self.log.range(lowest, head) {
            let index = head.0 - op.0;
            present |= u128::from(entry.has_body()) << index;
            let damaged = entry.disk != Disk::Durable;
            let denied = damaged && self.config.breaks(Canary::NackDamage);
            nack |= u128::from(!entry.acknowledged || denied) << index;
        }
        let vote = DoViewChange {
            present,
            nack,
            log_view: self.log_view,
            op: self.log.head(),
            commit: self.commit_max,
            checkpoint_op: self.checkpoint,
            incarnation: self.config.incarnation,
        };
        if self.is_primary() {
            let headers = self.suffix().map(|(_, header)| *header).collect();
            self.take_vote(self.config.replica, &vote, headers);
        } else {
            let body = self.encode_suffix();
            let header = self.draft().seal(&vote, &body);
            self.outbox.push(self.primary(), header, Body::Headers(body));
        }
    }

    pub(super) fn on_do_view_change(&mut self, from: ReplicaId, header: &Header, body: &[u8]) {
        if self.status == Status::RecoveringHead || header.view() < self.view {
            return;
        }
        let vote = header.tail::<DoViewChange>().expect("the command says so");
        let ours = self.quorums.primary(header.view()) == self.config.replica;
        let headers = self.vote_list(body, header.view(), &vote).filter(|_| ours);
        let Some(headers) = headers else { return self.refuse() };
        if header.view() > self.view {
            self.leave(header.view());
        }
        if !self.awaits_view() {
            return self.tell_view(from, 0);
        }
        self.leaving.left.insert(from);
        self.take_vote(from, &vote, headers);
        self.try_vote();
    }

    /// Records a vote; with enough of them chooses the log.
    fn take_vote(&mut self, replica: ReplicaId, vote: &DoViewChange, headers: Vec<Header>) {
        let &DoViewChange { present, nack, log_view, op, commit, checkpoint_op, .. } = vote;
        let older = self.config.breaks(Canary::OlderLog);
        let log_view = if older { View(u32::MAX - log_view.0) } else { log_view };
        let vote = Vote { replica, log_view, op, commit, checkpoint_op, headers, present, nack };
        self.leaving.votes[usize::from(replica.0)] = Some(vote);
        self.try_choose();
    }

    fn try_choose(&mut self) {
        let own = usize::from(self.config.replica.0);
        let votes: Vec<&Vote> = self.leaving.votes.iter().flatten().collect();
        let enough = votes.len() >= usize::from(self.quorums.view_change);
        if !enough || self.leaving.votes[own].is_none() || self.vouched.0 != self.view {
            return;
        }
        let new = match choose(&votes, self.quorums, self.config.pipeline_max) {
            Choice::Undecided(op) => return self.leaving.blocked_by = Some(op),
            Choice::Log(new) => new,
        };
        // Without the head's header here or in the list it is behind what the others checkpointed.
        let known = !new.headers.is_empty() || new.head == self.committed.op;
        if !self.log.holds(new.head) || !known {
            return self.repair.fall_behind(new.head);
        }
        self.leaving.blocked_by = None;
        self.leaving.chosen = true;
        self.log_view = self.view;
        if self.install(new.head, &new.headers, new.commit_max) {
            self.repair();
            self.try_begin();
        }
    }

    /// Begins the view as its primary, once its log is durable and what it needs of it is here.
    pub(super) fn try_begin(&mut self) {
        let durable = self.vouched == (self.view, self.view);
        if !self.leaving.chosen || !durable || !self.is_complete() {
            return;
        }
        self.status = Status::Normal;
        self.stay();
        self.leaving.chosen = false;
        let (now_ns, head) = (self.monotonic_ns, self.log.head());
        let known = head > self.committed.op;
        self.head = self.log.header(head).filter(|_| known).map_or(self.committed, LogHead::of);
        self.clock.raise(self.head.timestamp);
        self.leading.begin(head, now_ns);
        let own = self.config.replica;
        for op in (self.committed.op.0 + 1..=head.0).map(Op) {
            let entry = self.log.get_mut(op).expect("ops after the committed ones have entries");
            entry.closed_at_ns = now_ns;
            if entry.disk == Disk::Durable {
                entry.oks.insert(own);
            }
        }
        for peer in self.config.peers() {
            self.tell_view(peer, 0);
        }
        self.timers.stop(Timer::Silence);
        self.timers.stop(Timer::Again);
        self.timers.spread(Timer::Contact, now_ns, self.config.timing.contact_ns);
        self.heartbeat();
        self.advance_commit();
        self.expect_quorum();
        self.expect_repair();
    }

    /// Whether all headers that are not applied are here, and all prepares that nobody knows to be
    /// committed: those this replica must be able to give to backups.
    fn is_complete(&self) -> bool {
        self.log.range(self.committed.op.next(), self.log.head()).all(|(op, entry)| {
            let here = entry.has_body() || matches!(entry.bytes, Bytes::Closed(_));
            entry.trusted && (op <= self.commit_max || here || entry.disk == Disk::Writing)
        })
    }

    /// Sends the view to somebody who does not have it, if this is its primary.
    fn tell_view(&mut self, to: ReplicaId, nonce: u128) {
        if !self.serves() {
            return;
        }
        let start = StartView {
            op: self.log.head(),
            commit: self.committed.op,
            checkpoint: self.checkpoint_id,
            checkpoint_op: self.checkpoint,
            nonce,
        };
        let body = self.encode_suffix();
        let header = self.draft().seal(&start, &body);
        self.outbox.push(to, header, Body::Headers(body));
    }

    pub(super) fn on_get_view(&mut self, from: ReplicaId, header: &Header) {
        let question = header.tail::<GetView>().expect("the command says so");
        if header.view() > self.view && self.status != Status::RecoveringHead {
            // A quorum would leave this view once, and the one who asks can only be told a newer
            // one.
            return self.leave(header.view());
        }
        self.tell_view(from, question.nonce);
    }

    pub(super) fn on_start_view(&mut self, from: ReplicaId, header: &Header, body: &[u8]) {
        let start = header.tail::<StartView>().expect("the command says so");
        let view = header.view();
        let sound = self.are_ops_sound(start.checkpoint_op, start.commit, start.op)
            && from == self.quorums.primary(view);
        let headers = self.start_list(body, view, start.op).filter(|_| sound);
        let Some(headers) = headers else { return self.refuse() };
        self.peers.at_checkpoint(from, start.checkpoint_op);
        let answer = start.nonce != 0 && start.nonce == self.leaving.nonce;
        let taken = match self.status {
            _ if view != self.view => view > self.view,
            Status::ViewChange => self.log_view < self.view,
            Status::RecoveringHead => answer,
            Status::Normal | Status::Recovering | Status::Behind | Status::Diverged => false,
        };
        if !taken {
            return;
        }
        if !self.log.holds(start.op) {
            return self.repair.fall_behind(start.op);
        }
        self.follow(view, &start, &headers);
    }

    /// Becomes a backup of a view that has begun.
    fn follow(&mut self, view: View, start: &StartView, headers: &[Header]) {
        let head_unknown = self.status == Status::RecoveringHead;
        self.retire();
        self.stay();
        self.status = Status::Normal;
        (self.view, self.log_view) = (view, view);
        if !self.install(start.op, headers, start.commit) {
            return;
        }
        if head_unknown {
            // It may have acknowledged any of what it lacks: it must not deny it.
            self.log.doubt(self.committed.op);
        }
        self.timers.stop(Timer::Again);
        self.hear_primary();
        self.repair();
        // One that did not know its head may have the view durable already.
        self.acknowledge_all();
    }
}
