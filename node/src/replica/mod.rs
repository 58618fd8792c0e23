//! The replica's core: what drives [`vsr::Replica`], which does no I/O itself.
//!
//! ```text
//! submit ─▶ on_request ─▶ (turn) advance ─▶ next_append ─▶ writers ─▶ journal
//!                                                             │ durable
//! connections ◀─ outcomes ◀─ applier ◀─ next_commit ◀─────────┘
//! ```
//!
//! 1. *Submitting* copies a request into the open prepare; when there is no room the submitter
//!    waits for the next completion, and its connection is not read meanwhile: that is the whole of
//!    backpressure.
//! 2. The first request of an idle moment wakes the driver's task. It runs behind everything that
//!    is runnable now, so all connections that have something to say get into the same prepare;
//!    then group commit decides.
//! 3. A closed prepare goes to one of a fixed number of *writers*, as many as the pipeline is long.
//!    A writer awaits the journal, reports the frame durable and closes the next prepare, which
//!    another writer hands to the disk before this one gives out what is committed: the disk works
//!    while the shards apply and the connections answer.
//! 4. A *commit* is given to the appliers of all cores, in op order.
//!
//! In a cluster the same driver also takes messages of peers and sends them, commits what a quorum
//! has, and refuses or holds back requests while it is not the primary: [`member`]; and reads ask
//! how far to apply the log before they are answered: [`rounds`].
//!
//! The journal decides when a write is durable, the replica in which order things happen, the
//! applier what they do; this module only carries things between them.

pub mod checkpoint;
pub mod dispatch;
mod divergence;
mod forward;
pub mod in_flight;
pub mod member;
pub mod pulse;
pub mod rounds;
mod seen;
pub mod weight;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::{self, Event};
use ioring::{Either, Frozen, Instant, Queue, spawn};
use vsr::replica::{Append, Refused, Replica, Status};
use wire::operation::Opcode;
use wire::{
    CheckpointId, Draft, ErrorCode, Op, Outcome, ReplicaId, RequestView, RootReference, SliceSink,
    Timestamp,
};

use crate::core::{Admission, Core, moment};
use crate::mesh::ReadIndex;
use crate::metrics::{Counter, Stage};
use crate::session::{REFUSE_SIZE, Sessions, encode_refuse};
use crate::shard::apply::Deliver;
use crate::status::ReplicaReport;
use crate::topology::CoreIndex;

use self::checkpoint::Checkpoints;
use self::dispatch::Dispatch;
use self::member::{Gate, Member};
use self::rounds::Rounds;

/// Who asked for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A connection of this node: what cannot be ordered here is passed on to the primary.
    Client,
    /// A peer that has passed it on: it is not passed on again.
    Peer,
}

/// The way from the log to the shards and back.
pub struct Log {
    /// Committed prepares on their way to the shards.
    pub dispatch: Dispatch,
    /// What makes the log before them unnecessary.
    pub checkpoints: Checkpoints,
    /// What of them is executed, and what it came to.
    pub sessions: Sessions,
    /// The sessions of the last checkpoint, as the core that has them said, until they are taken.
    pub sessions_at_open: RefCell<Vec<u8>>,
}

impl Log {
    /// Dispatches what waited for results of sessions, if these have come.
    pub fn go_on(&self, core: &Core) {
        if self.sessions.take_settled() {
            self.dispatch.go_on(core);
        }
    }
}

/// The replica and what surrounds it on its core.
pub struct ReplicaCore {
    replica: RefCell<Replica>,
    appends: sync::Queue<Append>,
    /// As many as there are writers.
    appends_max: usize,
    /// What only a member of a cluster has.
    member: Option<Member>,
    rounds: Rounds,
    /// Something was submitted, or time is to be looked at.
    work: Event,
    /// A completion may have made room.
    room: Event,
    waiting_for_room: Cell<u32>,
    /// When the open prepare got its first request.
    opened: Cell<Option<Instant>>,
    /// Tasks that use the journal now.
    busy: Cell<u32>,
    stopped: Cell<bool>,
}

impl ReplicaCore {
    /// A replica that serves, and the journal that it continues.
    #[must_use]
    pub fn new(replica: Replica, pipeline_max: usize) -> ReplicaCore {
        let report = replica.report();
        ReplicaCore {
            member: (!replica.is_alone()).then(|| Member::new(&report, replica.members())),
            replica: RefCell::new(replica),
            appends: sync::Queue::new(pipeline_max),
            appends_max: pipeline_max,
            rounds: Rounds::new(),
            work: Event::new(),
            room: Event::new(),
            waiting_for_room: Cell::new(0),
            opened: Cell::new(None),
            busy: Cell::new(0),
            stopped: Cell::new(false),
        }
    }

    /// Starts the driver and the writers on the core that has the replica.
    pub fn start(core: &Rc<Core>, writers: usize) {
        for _ in 0..writers {
            let core = core.clone();
            spawn(Queue::Replication, "journal writer", async move { write(&core).await }).detach();
        }
        if core.replica().member.is_some() {
            Member::start(core);
            Rounds::start(core);
        }
        let core = core.clone();
        spawn(Queue::Foreground, "replica", async move { drive(&core).await }).detach();
    }

    /// Takes a request for the log; waits while there is no room. Its outcomes go where its tag
    /// says, also when it is refused.
    pub async fn submit(&self, core: &Core, request: &RequestView<'_>, origin: Origin) {
        if let Err(code) = self.try_submit(core, request, origin).await {
            self.refuse(core, request, code, origin).await;
        }
    }

    /// Refuses a request before the log. One of a session that can be told for good is refused
    /// within it, by a request in its place: see [`crate::session`].
    pub async fn refuse(
        &self,
        core: &Core,
        request: &RequestView<'_>,
        code: ErrorCode,
        origin: Origin,
    ) {
        let numbered = request.session().filter(|session| session.number.0 > 0);
        let Some(session) = numbered.filter(|_| !code.is_transient() || code == ErrorCode::NoSpace)
        else {
            return refuse(core, request, code);
        };
        let mut bytes = [0; REFUSE_SIZE];
        let mut sink = SliceSink::new(&mut bytes);
        encode_refuse(&mut sink, request.tag(), session, code).expect("it has room");
        let in_place = RequestView::verify(&bytes).expect("it was encoded so");
        if let Err(code) = self.try_submit(core, &in_place, origin).await {
            refuse(core, request, code);
        }
    }

    async fn try_submit(
        &self,
        core: &Core,
        request: &RequestView<'_>,
        origin: Origin,
    ) -> Result<(), ErrorCode> {
        let in_flight = &core.log().dispatch.in_flight;
        loop {
            let admission = core.space.get();
            if admission != Admission::All && !admits(admission, request) {
                if admission == Admission::Stuck {
                    return Err(ErrorCode::CorruptBlock);
                }
                core.metrics.count(Counter::RefusedNoSpace);
                return Err(ErrorCode::NoSpace);
            }
            match (self.wait_for_gate().await, origin) {
                (Gate::Open, _) => {}
                // Clients with sessions go to the primary by themselves.
                (Gate::Elsewhere, Origin::Client) if request.session().is_none() => {
                    self.forward(core, request).await;
                    return Ok(());
                }
                _ => return Err(ErrorCode::NotPrimary),
            }
            let op = self.replica.borrow().op();
            let Some(added) = in_flight.weigh(request, op) else {
                self.wait_for_room(core).await;
                continue;
            };
            let refused = match self.replica.borrow_mut().on_request(request) {
                Ok(()) => {
                    in_flight.admit(added);
                    break;
                }
                Err(refused) => refused,
            };
            match refused {
                Refused::Full(_) => {
                    self.wait_for_room(core).await;
                }
                Refused::NotServing => match &self.member {
                    Some(member) => {
                        member.doubt();
                        self.work.notify();
                    }
                    None => return Err(ErrorCode::NotReady),
                },
                Refused::TooLarge { .. } => return Err(ErrorCode::TooLarge),
            }
        }
        if self.opened.get().is_none() {
            self.opened.set(Some(ioring::now()));
            self.work.notify();
        }
        Ok(())
    }

    /// Waits until it is known who is primary, but not for ever: see [`member`].
    async fn wait_for_gate(&self) -> Gate {
        let Some(member) = &self.member else { return Gate::Open };
        while let (Gate::Wait, since) = member.gate() {
            let late = ioring::sleep_until(since + member::PATIENCE);
            if let Either::Second(()) = ioring::select(member.moved.wait(), late).await {
                break;
            }
        }
        member.gate().0
    }

    async fn wait_for_room(&self, core: &Core) {
        core.metrics.count(Counter::WritesWaited);
        self.waiting_for_room.set(self.waiting_for_room.get() + 1);
        let _waiting = Counted(&self.waiting_for_room);
        self.room.wait().await;
    }

    /// A group is applied on all cores: less is in flight.
    pub fn on_reported(&self) {
        if self.waiting_for_room.get() > 0 {
            self.room.notify();
        }
    }

    /// A read met a deadline that has passed and log time has not: see
    /// [`Replica::request_time`].
    pub fn request_time(&self, deadline: Timestamp) -> bool {
        if !self.proposes() {
            // The primary has the deadline too, and will pass it.
            return false;
        }
        let will = self.replica.borrow_mut().request_time(deadline, moment());
        self.work.notify();
        will
    }

    /// Closes what group commit lets close, and hands it to the writers.
    fn turn(&self, core: &Core) {
        if self.stopped.get() {
            return;
        }
        let mut replica = self.replica.borrow_mut();
        replica.advance(moment());
        while self.appends.len() < self.appends_max
            && let Some(append) = replica.next_append()
        {
            core.metrics.count(Counter::Prepares);
            core.metrics.add(Counter::PrepareBytes, append.header.size() as u64);
            if let Some(opened) = self.opened.take() {
                core.metrics.record(Stage::Queue, ioring::now() - opened);
            }
            self.appends.try_push(append).expect("there is room for one more");
        }
        if let Some(member) = &self.member {
            self.rounds.take(&mut replica);
            if member.turn(core, &mut replica) {
                // In the log of a view that has ended, or among what is passed on.
                self.room.notify();
            }
        }
        if replica.report().batch_size > 0 && self.opened.get().is_none() {
            self.opened.set(Some(ioring::now()));
        }
        core.clock.set(replica.clock());
        if replica.waits_for_log() {
            core.activity.notify();
        }
    }

    /// Gives out what is committed.
    fn commit(&self, core: &Core) {
        while self.member.as_ref().is_none_or(|member| member.may_give(core)) {
            let next = self.replica.borrow_mut().next_commit();
            let Some(commit) = next else { break };
            let live = self.member.as_ref().is_none_or(|member| member.on_commit(&commit));
            core.log().dispatch.push(core, &commit.header, &commit.frame, live);
        }
        if let Some(member) = &self.member {
            member.want_reads(&mut self.replica.borrow_mut());
            self.rounds.look(core, self);
        }
    }

    /// A frame is durable; what is committed now.
    fn on_written(&self, op: Op, frame: Frozen) -> Op {
        let mut replica = self.replica.borrow_mut();
        replica.on_journal_written(op, frame);
        replica.commit()
    }

    /// Whether ops can be proposed here: alone always, in a cluster at the primary.
    #[must_use]
    pub fn proposes(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.gate().0 == Gate::Open)
    }

    /// The primary, if it is another member.
    #[must_use]
    pub fn primary_elsewhere(&self) -> Option<ReplicaId> {
        let gate = self.member.as_ref()?.gate().0;
        (gate == Gate::Elsewhere).then(|| self.replica.borrow().primary())
    }

    /// An op that contains everything acknowledged by whichever member before this was called.
    ///
    /// # Errors
    /// [`ErrorCode::NotPrimary`] when there is no primary for a while.
    pub async fn read_index(&self) -> Result<ReadIndex, ErrorCode> {
        self.rounds.index(self).await
    }

    /// The same for another core, which is answered by its round.
    pub fn read_index_for(&self, core: CoreIndex, round: u64) {
        self.rounds.ask_far(self, core, round);
    }

    /// Whether nothing waits to be written or given out; where nothing can be, whether nothing
    /// waits to be passed on.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        match &self.member {
            Some(member) if !self.proposes() => member.forwards.is_idle(),
            _ => self.replica.borrow().is_idle(),
        }
    }

    /// Takes and says nothing any more, and waits until the journal is not in use: not so at a
    /// backup whose journal has no room. A stop without its last marker is like a crash.
    pub async fn stop(&self, patience: Duration, interval: Duration) {
        self.stopped.set(true);
        let deadline = ioring::now() + patience;
        let is_busy = || self.busy.get() > 0 || !self.appends.is_empty();
        while is_busy() && ioring::now() < deadline {
            ioring::sleep(interval).await;
        }
    }

    /// Counts a task that uses the journal, for as long as it does.
    fn busy(&self) -> Counted<'_> {
        self.busy.set(self.busy.get() + 1);
        Counted(&self.busy)
    }

    /// Whether requests wait for a checkpoint: see [`Replica::waits_for_log`].
    #[must_use]
    pub fn waits_for_log(&self) -> bool {
        self.replica.borrow().waits_for_log()
    }

    /// A checkpoint is durable: there is room in the log.
    pub fn on_checkpoint(&self, core: &Core, op: Op, id: CheckpointId, roots: Vec<RootReference>) {
        if let Some(member) = &self.member {
            member.on_checkpoint(op, id, roots);
        }
        self.replica.borrow_mut().on_checkpoint(op, id);
        if self.member.is_some() {
            member::give_up(core, &self.replica.borrow());
        }
        self.work.notify();
        self.room.notify();
    }

    /// Everything committed is applied: buffers came back.
    pub fn on_applied(&self) {
        if self.member.is_some() {
            // Commits may be held back, or a new primary waits for this.
            self.work.notify();
        }
        if self.waiting_for_room.get() > 0 {
            self.room.notify();
        }
        if self.replica.borrow().report().batch_size > 0 {
            self.work.notify();
        }
    }

    /// Has a pulse proposed, unless requests move the log on first.
    pub fn request_pulse(&self) {
        self.replica.borrow_mut().request_pulse();
        self.work.notify();
    }

    /// What every message of this replica says.
    #[must_use]
    pub fn draft(&self) -> Draft {
        self.replica.borrow().draft()
    }

    /// The replica's numbers.
    #[must_use]
    pub fn report(&self) -> ReplicaReport {
        let replica = self.replica.borrow();
        let report = replica.report();
        let state = match report.status {
            Status::Normal => "normal",
            Status::ViewChange => "view_change",
            Status::Recovering | Status::RecoveringHead => "recovering",
            Status::Behind => "syncing",
            Status::Diverged => "diverged",
        };
        let led = report.status == Status::Normal
            && (report.serves || replica.primary() != report.replica);
        let member = self.member.as_ref();
        ReplicaReport {
            replica: report.replica.0,
            replicas: replica.members(),
            state,
            primary: led.then(|| replica.primary().0),
            others: member.map_or_else(Vec::new, |member| {
                member.seen.report(report.replica, replica.members())
            }),
            writes: member.map_or(Gate::Open, |member| member.gate().0) as u8,
            forwarded: member.map_or(0, |member| member.forwards.sent_total()),
            read_rounds: self.rounds.asked_total(),
            counters: report.counters,
            blocked_by: report.blocked_by.map(|op| op.0),
            view: report.view.0,
            op: report.op.0,
            commit: report.commit.0,
            checkpoint: report.checkpoint.0,
            log_time_ns: report.log_time.0,
        }
    }
}

/// One of those that are counted, for as long as it goes on: it may be given up.
struct Counted<'a>(&'a Cell<u32>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether nearly full grids take a request: all of its operations have to be of those that give
/// space back.
fn admits(admission: Admission, request: &RequestView<'_>) -> bool {
    request.operations().all(|operation| match operation.opcode {
        Opcode::Flush | Opcode::Register | Opcode::Refuse => true,
        Opcode::Delete => admission == Admission::Deletes,
        _ => false,
    })
}

/// Answers every operation of a request that will not be done, those that concern all shards in
/// every core's stead. One of a session has one answer.
fn refuse(core: &Core, request: &RequestView<'_>, code: ErrorCode) {
    if request.session().is_some() {
        return core.deliver(request.tag(), 0, &Outcome::failed(code));
    }
    for (index, operation) in (0..).zip(request.operations()) {
        let parts = if operation.opcode.has_key() { 1 } else { core.topology.shard_cores() };
        for _ in 0..parts {
            core.deliver(request.tag(), index, &Outcome::failed(code));
        }
    }
}

/// The driver: a turn whenever something was submitted or a deadline has come.
async fn drive(core: &Core) {
    let this = core.replica();
    loop {
        let deadline = this.replica.borrow().deadline_ns().map(Instant::from_nanos);
        let forwards = this.member.as_ref().and_then(|member| member.forwards.deadline());
        match deadline.into_iter().chain(forwards).min() {
            None => this.work.wait().await,
            Some(deadline) => {
                ioring::select(this.work.wait(), ioring::sleep_until(deadline)).await;
            }
        }
        this.turn(core);
        if this.member.is_some() {
            this.commit(core);
            this.turn(core);
        }
    }
}

/// A writer: one prepare after the other, durable, committed, applied; until the journal is closed.
async fn write(core: &Core) {
    let this = core.replica();
    while let Some(append) = this.appends.pop().await {
        // Without a journal the node has stopped: what comes now was promised to nobody.
        let Some(journal) = core.log().checkpoints.journal() else { return };
        let _busy = this.busy();
        let started = ioring::now();
        let frame = journal.frame(append.buffer).await;
        let bytes = frame.bytes().clone();
        if this.member.is_some() {
            this.replica.borrow_mut().on_frame(&bytes);
            this.turn(core);
        }
        let op = journal.append(frame).await;
        core.metrics.record(Stage::Journal, ioring::now() - started);
        let commit = this.on_written(op, bytes);
        journal.note_commit(commit);
        drop(journal);
        // The next prepare goes to the disk before this one is applied: the disk is what the next
        // one waits for, and nobody waits for the order of these two.
        this.turn(core);
        ioring::yield_now().await;
        this.commit(core);
        this.turn(core);
        if this.waiting_for_room.get() > 0 {
            this.room.notify();
        }
    }
}
