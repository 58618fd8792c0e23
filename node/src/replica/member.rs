//! What the replica's core does for a member of a cluster, beyond what one that is alone needs.
//!
//! ```text
//!   peers ─▶ on_message ─▶ (turn) ─▶ sends ──▶ peers
//!                            │  │
//!        superblock ◀─ views ┘  └─ prepares to be read back ─▶ journal
//! ```
//!
//! The replica says what it wants after each turn, and it is begun at once: messages go to the
//! outboxes of the peers, which drop what they cannot take; prepares that are not in memory are
//! read back by a fixed number of tasks; a view that has to be vouched for is made durable by a
//! task of its own, one at a time.
//!
//! # Whose outcomes
//!
//! A commit is answered where its requests came from: at the member that made the prepare, in the
//! same life; nobody else knows what the tags mean. Each request that was taken is answered once:
//! by its commit, or, when a change of views drops it, by the replica's word for that
//! ([`vsr::replica::Dropped`]). That may take as long as there is no primary, so connections wait
//! for [`PATIENCE`] at most, and are closed then: what happened to their writes is unknown.
//!
//! # Which writes are taken
//!
//! Only a primary takes writes, and only once all cores have applied what its view began with: what
//! the primary before it admitted then lies in memtables, as after a restart, and the bound of what
//! is in flight ([`super::in_flight`]) starts from nothing. Between views writes wait for a while;
//! where another member is primary they are passed on to it ([`super::forward`]).
//!
//! # How far commits run ahead
//!
//! A member that catches up has more commits than its shards can take. It gives out no more than
//! [`COMMITS_AHEAD`] beyond what all cores have applied.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ioring::sync::{self, Event};
use ioring::{Frozen, Instant, Queue, spawn};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE};
use vsr::replica::{self, Commit, PrepareRead, Replica, Report, Status};
use wire::message::Prepare;
use wire::{Command, ErrorCode, Header, Op, ReplicaId, Requests, View};

use super::divergence::Checkpoints;
use super::forward::Forwards;
use super::seen::Seen;
use super::{ReplicaCore, refuse};
use crate::core::{Core, moment};
use crate::mesh::COMMITS_AHEAD;
use crate::peers::{Body, Class, Deliver};

/// How long a write or read waits for a primary before it is refused or given up.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Prepares read back at the same time.
const READERS: usize = 4;
/// Prepares that wait to be read back: more than a replica ever wants.
const READS_MAX: usize = 64;

/// What becomes of writes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// They are taken.
    Open,
    /// They may be soon.
    Wait,
    /// Another member is primary.
    Elsewhere,
}

/// See the module's text.
pub struct Member {
    replica: ReplicaId,
    /// Views up to this one began before this life: what was made in them nobody waits for.
    view_before: View,
    /// And since when.
    gate: Cell<(Gate, Instant)>,
    /// The gate has moved.
    pub(super) moved: Event,
    /// The last op of the log that the view began with, while this member leads.
    began_with: Cell<Option<Op>>,
    given: Cell<Op>,
    views: Event,
    reads: sync::Queue<PrepareRead>,
    pub(super) forwards: Forwards,
    pub(super) seen: Seen,
    /// This member's, and those of the others.
    pub(super) checkpoints: RefCell<Checkpoints>,
}

impl Member {
    /// A member at the start of a life, whose shards are as of a checkpoint.
    pub(super) fn new(report: &Report, members: u8) -> Member {
        Member {
            replica: report.replica,
            // A view that was only voted for may begin now, under this member.
            view_before: report.log_view,
            gate: Cell::new((Gate::Wait, ioring::now())),
            moved: Event::new(),
            began_with: Cell::default(),
            given: Cell::new(report.checkpoint),
            views: Event::new(),
            reads: sync::Queue::new(READS_MAX),
            forwards: Forwards::new(),
            seen: Seen::default(),
            checkpoints: RefCell::new(Checkpoints::new(members)),
        }
    }

    /// Starts the tasks that read prepares back and make views durable.
    pub(super) fn start(core: &Rc<Core>) {
        for _ in 0..READERS {
            let core = core.clone();
            let read = async move { read_back(&core).await };
            spawn(Queue::Replication, "prepares read back", read).detach();
        }
        Forwards::start(core);
        let core = core.clone();
        spawn(Queue::Replication, "views", async move { make_durable(&core).await }).detach();
    }

    /// What becomes of writes now, and since when.
    pub(super) fn gate(&self) -> (Gate, Instant) {
        self.gate.get()
    }

    /// The replica has refused a request: the next look will say why.
    pub(super) fn doubt(&self) {
        self.gate.set((Gate::Wait, ioring::now()));
    }

    /// Begins what the replica wants done; returns whether whoever waits for room should look
    /// again.
    pub(super) fn turn(&self, core: &Core, replica: &mut Replica) -> bool {
        if let Some(divergence) = replica.diverged() {
            ioring::fatal(ioring::Fatal::Diverged(divergence.to_string()));
        }
        if replica.view_to_persist().is_some() {
            self.views.notify();
        }
        self.want_reads(replica);
        if core.log().checkpoints.journal().is_some_and(|journal| journal.is_full()) {
            give_up(core, replica);
        }
        tell_dropped(core, replica);
        let moved = self.look(core, replica);
        send(core, replica);
        self.forwards.turn(core, self.gate.get().0, replica) || moved
    }

    /// Has prepares read back.
    pub(super) fn want_reads(&self, replica: &mut Replica) {
        while let Some(read) = replica.next_read() {
            self.reads.try_push(read).expect("a replica wants fewer reads than fit");
        }
    }

    /// Looks whether this member serves.
    fn look(&self, core: &Core, replica: &Replica) -> bool {
        let Report { serves, status, view, op, .. } = replica.report();
        let began_with = serves.then(|| self.began_with.get().unwrap_or(op));
        self.began_with.set(began_with);
        let gate = match began_with {
            Some(op) if core.have_all_applied(op) => Gate::Open,
            None if status == Status::Normal && replica.primary() != self.replica => {
                Gate::Elsewhere
            }
            _ => Gate::Wait,
        };
        let moved = self.gate.get().0 != gate;
        if moved {
            self.gate.set((gate, ioring::now()));
            if gate == Gate::Open {
                core.log().dispatch.in_flight.begin_view(view);
            }
            self.moved.notify();
            core.activity.notify();
        }
        moved
    }

    /// Whether the shards may be given one more commit.
    pub(super) fn may_give(&self, core: &Core) -> bool {
        let ahead = Op(self.given.get().next().0.saturating_sub(COMMITS_AHEAD));
        core.have_all_applied(ahead)
    }

    /// A prepare is given out; whether somebody here may wait for its outcomes.
    pub(super) fn on_commit(&self, commit: &Commit) -> bool {
        let header = &commit.header;
        let prepare: Prepare = header.tail().expect("only prepares are committed");
        self.given.set(prepare.op);
        header.replica() == self.replica && header.view() > self.view_before
    }
}

/// Tells whoever waits for requests that a change of views has dropped.
fn tell_dropped(core: &Core, replica: &mut Replica) {
    while let Some(dropped) = replica.next_dropped() {
        let code = if dropped.may_happen { ErrorCode::Timeout } else { ErrorCode::NotPrimary };
        Requests::of_body(&dropped.request).for_each(|request| refuse(core, &request, code));
    }
}

/// Hands over what is to be sent.
fn send(core: &Core, replica: &mut Replica) {
    let Some(peers) = core.peers.get() else { return };
    while let Some(send) = replica.next_send() {
        // What is dropped the protocol repeats as far as it matters; the peers count it.
        let _ = match &send.body {
            replica::Body::Prepare(frame) => {
                peers.send_prepare(send.to, Class::Prepares, &message(&send.header, frame))
            }
            replica::Body::Repair(frame) => {
                peers.send_prepare(send.to, Class::Transfers, &message(&send.header, frame))
            }
            replica::Body::None | replica::Body::Headers(_) => {
                peers.send(send.to, &send.header, send.body())
            }
        };
    }
}

/// A prepare as it is sent, within its frame.
fn message(header: &Header, frame: &Frozen) -> Frozen {
    frame.slice(FRAME_HEADER_SIZE..FRAME_HEADER_SIZE + header.size())
}

/// Takes the messages of peers.
pub struct Receiver(pub Weak<Core>);

impl Deliver for Receiver {
    fn on_message(&self, from: ReplicaId, header: &Header, body: Body<'_>) {
        let Some(core) = self.0.upgrade() else { return };
        let Some(this) = core.replica.get().filter(|this| !this.stopped.get()) else { return };
        this.member().seen.note(from, header);
        match (header.command(), &body) {
            (Command::Forward, Body::Bytes(writes)) => {
                return this.member().forwards.on_writes(&core, from, header, writes);
            }
            (Command::Forwarded, Body::Bytes(outcomes)) => {
                this.member().forwards.on_answer(&core, header, outcomes);
                return this.work.notify();
            }
            (Command::GetBlocks, Body::Bytes(wanted)) => {
                return core.repairs.on_ask(from, wanted);
            }
            (Command::Block, Body::Frame(copy)) => {
                return core.repairs.on_block(from, header, &copy[..header.body_size()]);
            }
            _ => {}
        }
        this.member().on_claim(from, header);
        let size = header.body_size();
        let body = match &body {
            Body::Bytes(bytes) => bytes,
            Body::Frame(frame) if header.command() == Command::Prepare => {
                &frame[BODY_OFFSET..BODY_OFFSET + size]
            }
            Body::Frame(frame) => &frame[..size],
        };
        this.replica.borrow_mut().on_message(from, header, body, moment());
        this.work.notify();
    }
}

/// Reads prepares back from the journal, for peers and for the shards.
async fn read_back(core: &Core) {
    let this = core.replica();
    while let Some(read) = this.member().reads.pop().await {
        let Some(journal) = core.log().checkpoints.journal() else { return };
        let _busy = this.busy();
        let frame = match journal.read(read.op, read.checksum).await {
            Ok(frame) => Some(frame),
            Err(error) => {
                tracing::warn!(%error, "a prepare is fetched from peers");
                None
            }
        };
        drop(journal);
        this.replica.borrow_mut().on_prepare_read(read, frame);
        this.work.notify();
    }
}

/// Tells the journal which versions the log of the view has given up.
pub(super) fn give_up(core: &Core, replica: &Replica) {
    if let Some(journal) = core.log().checkpoints.journal() {
        journal.give_up(|op, checksum| replica.has_given_up(op, checksum));
    }
}

/// Makes views durable, one after the other.
async fn make_durable(core: &Core) {
    let this = core.replica();
    loop {
        this.member().views.wait().await;
        let wanted = || this.replica.borrow().view_to_persist();
        while let Some(record) = wanted() {
            core.log().checkpoints.vouch(&record).await;
            let mut replica = this.replica.borrow_mut();
            replica.on_view_durable(record.view, record.log_view);
            give_up(core, &replica);
            drop(replica);
            this.turn(core);
            this.commit(core);
        }
    }
}

impl ReplicaCore {
    /// What a member of a cluster has.
    ///
    /// # Panics
    /// If this replica is alone.
    pub(super) fn member(&self) -> &Member {
        self.member.as_ref().expect("this replica is a member of a cluster")
    }
}
