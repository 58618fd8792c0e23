//! Writes that arrive where they cannot be ordered: a backup passes them on to the primary, so that
//! a client may talk to whichever replica it likes.
//!
//! ```text
//!   backup                                     primary
//!   submit ─▶ pending ─(turn)─▶ Forward ──────▶ verified, tags exchanged ─▶ submit
//!   runs ◀── outcomes, by the writes that were kept ◀── Forwarded ◀── outcomes of the run
//! ```
//!
//! 1. What gathers in a turn goes as one message. Who forwards keeps the writes until they are
//!    answered: they say whom each outcome belongs to.
//! 2. The primary verifies every byte as if a client had sent it. A forwarder, one of a fixed
//!    number of tasks, has a run of its own ([`crate::gateway::runs`]), whose tags the requests
//!    get; from there on they are as those of a connection. What it is given once the line is full
//!    is refused as overloaded.
//! 3. Nothing is sent twice. What could not be sent was not done, and is refused; what was sent and
//!    is not answered within [`PATIENCE`], or before the view ends, is unknown, and its connections
//!    are closed, as clients of a protocol without numbers expect.
//!
//! Numbers begin at random in each life, and an answer has to come from whom the writes went to:
//! one to a forward of the life before answers nothing.
//!
//! A run of a connection is handed over only when the one before it is answered, so its writes are
//! executed in the order it sent them. Its reads ask for a read index and so see them.
//!
//! Steady state allocates nothing: vectors of answered writes serve those to come.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ioring::{Instant, Queue, spawn, sync};
use vsr::replica::Replica;
use wire::message::{Forward, Forwarded};
use wire::outcome::OUTCOME_HEADER_SIZE;
use wire::{ErrorCode, Header, Outcome, ReplicaId, RequestView, Requests, Version, View};

use super::member::{Gate, PATIENCE};
use super::{Origin, ReplicaCore, refuse};
use crate::core::Core;
use crate::gateway::runs::{OPERATIONS_MAX, Tag};

/// Bytes of writes in a message, unless a single one is larger.
const MESSAGE_MAX: usize = 64 << 10;
/// Messages of writes that are not answered.
const UNANSWERED_MAX: usize = 256;
/// Tasks at a primary that execute what was forwarded.
const FORWARDERS: usize = 32;
/// Messages that wait for one of them.
const LINE: usize = 256;
/// Idle vectors kept, and the most bytes that one may have.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 2 * MESSAGE_MAX;

/// What is said of an operation of which nothing can be said.
const UNKNOWN: Outcome<'static> = Outcome { result: Err(ErrorCode::Timeout), version: Version(0) };

/// Writes that were sent.
struct Sent {
    number: u64,
    /// The view whose primary has got them, and that primary.
    view: View,
    to: ReplicaId,
    until: Instant,
    writes: Vec<u8>,
}

/// Writes of a peer's clients.
struct Taken {
    from: ReplicaId,
    number: u64,
    writes: Vec<u8>,
}

/// See the module's text.
pub(super) struct Forwards {
    pending: RefCell<Vec<u8>>,
    /// Until when what is pending waits to be sent.
    until: Cell<Option<Instant>>,
    /// The number that this life began with, and the last one given.
    first: u64,
    number: Cell<u64>,
    sent: RefCell<VecDeque<Sent>>,
    line: sync::Queue<Taken>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Forwards {
    pub(super) fn new() -> Forwards {
        let first = ioring::random("forwards").next_u64() >> 1;
        Forwards {
            first,
            pending: RefCell::default(),
            until: Cell::default(),
            number: Cell::new(first),
            sent: RefCell::default(),
            line: sync::Queue::new(LINE),
            spare: RefCell::default(),
        }
    }

    /// Starts the forwarders.
    pub(super) fn start(core: &Rc<Core>) {
        for _ in 0..FORWARDERS {
            let core = core.clone();
            spawn(Queue::Foreground, "forwarder", async move { execute(&core).await }).detach();
        }
    }

    fn take_spare(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, mut vector: Vec<u8>) {
        let spare = &mut *self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && vector.capacity() <= SPARE_BYTES_MAX {
            vector.clear();
            spare.push(vector);
        }
    }

    // ---- a backup ----

    /// Takes a write to be passed on, unless there is no room.
    pub(super) fn add(&self, request: &RequestView<'_>) -> bool {
        let pending = &mut *self.pending.borrow_mut();
        if !pending.is_empty() && pending.len() + request.bytes().len() > MESSAGE_MAX {
            return false;
        }
        if pending.is_empty() {
            self.until.set(Some(ioring::now() + PATIENCE));
        }
        pending.extend_from_slice(request.bytes());
        true
    }

    /// Whether nothing waits to be sent or answered.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.borrow().is_empty() && self.sent.borrow().is_empty()
    }

    /// Messages of writes sent since the start.
    pub(super) fn sent_total(&self) -> u64 {
        self.number.get() - self.first
    }

    /// When something is due though nothing else happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sent = self.sent.borrow().front().map(|sent| sent.until);
        sent.into_iter().chain(self.until.get()).min()
    }

    /// Sends what is pending to the primary, if there is one; gives up what has waited too long.
    /// Returns whether there is room again.
    pub(super) fn turn(&self, core: &Core, gate: Gate, replica: &Replica) -> bool {
        let (now, view) = (ioring::now(), replica.view());
        let is_over = |sent: &Sent| sent.until <= now || sent.view != view;
        while self.sent.borrow().front().is_some_and(is_over) {
            let sent = self.sent.borrow_mut().pop_front().expect("looked at just now");
            refuse_all(core, &sent.writes, ErrorCode::Timeout);
            self.give_back(sent.writes);
        }
        if self.pending.borrow().is_empty() {
            return false;
        }
        if gate == Gate::Elsewhere && self.send(core, replica) {
            return true;
        }
        // Nobody has got them, so they were not done.
        let late = self.until.get().is_some_and(|until| until <= now);
        if gate == Gate::Open || late {
            let writes = std::mem::take(&mut *self.pending.borrow_mut());
            self.until.set(None);
            refuse_all(core, &writes, ErrorCode::NotPrimary);
            self.give_back(writes);
            return true;
        }
        false
    }

    fn send(&self, core: &Core, replica: &Replica) -> bool {
        if self.sent.borrow().len() >= UNANSWERED_MAX {
            return false;
        }
        let number = self.number.get() + 1;
        let pending = &mut *self.pending.borrow_mut();
        let (to, header) = (replica.primary(), replica.draft().seal(&Forward { number }, pending));
        if !core.peers.get().is_some_and(|peers| peers.forward(to, &header, pending)) {
            return false;
        }
        self.number.set(number);
        self.until.set(None);
        let writes = std::mem::replace(pending, self.take_spare());
        let until = ioring::now() + PATIENCE;
        self.sent.borrow_mut().push_back(Sent { number, view: replica.view(), to, until, writes });
        true
    }

    /// The primary has answered.
    pub(super) fn on_answer(&self, core: &Core, header: &Header, body: &[u8]) {
        let answer = header.tail::<Forwarded>().expect("the command says so");
        let sent = &mut *self.sent.borrow_mut();
        // One that comes too late has nobody left to tell.
        let from = header.replica();
        let place = sent.iter().position(|sent| (sent.number, sent.to) == (answer.number, from));
        let Some(Sent { writes, .. }) = place.and_then(|place| sent.remove(place)) else { return };
        deliver(core, &writes, body);
        self.give_back(writes);
    }

    // ---- a primary ----

    /// A backup passes writes on.
    pub(super) fn on_writes(&self, core: &Core, from: ReplicaId, header: &Header, body: &[u8]) {
        let Forward { number } = header.tail().expect("the command says so");
        let mut writes = self.take_spare();
        writes.extend_from_slice(body);
        let taken = Taken { from, number, writes };
        let refused = match is_whole(body) {
            true => self.line.try_push(taken).err().map(|taken| (taken, ErrorCode::Overloaded)),
            false => Some((taken, ErrorCode::BadRequest)),
        };
        let Some((Taken { writes, .. }, code)) = refused else { return };
        if code == ErrorCode::Overloaded {
            let mut outcomes = self.take_spare();
            let count = Requests::of_body(&writes).map(|request| request.operation_count()).sum();
            for _ in 0..count {
                push(&Outcome::failed(code), &mut outcomes);
            }
            answer(core, from, number, count, &outcomes);
            self.give_back(outcomes);
        }
        self.give_back(writes);
    }
}

/// Whether a peer's bytes are requests, of no more operations than a run may have, and of no
/// session: clients that have one speak to the primary.
fn is_whole(body: &[u8]) -> bool {
    let Ok(requests) = Requests::verify(body) else { return false };
    if requests.clone().any(|request| request.session().is_some()) {
        return false;
    }
    let operations = requests.map(|request| request.operation_count() as usize);
    let total = operations.fold(0, usize::saturating_add);
    (1..=OPERATIONS_MAX).contains(&total)
}

/// A forwarder.
async fn execute(core: &Core) {
    let this = core.replica();
    let forwards = &this.member().forwards;
    let mut run = core.runs.open();
    let body_max = core.peers.get().map_or(0, |peers| peers.forward_size_max());
    let mut outcomes = Vec::new();
    while let Some(Taken { from, number, mut writes }) = forwards.line.pop().await {
        let (mut operations, mut of_all) = (0, 0);
        wire::request::retag(&mut writes, |request| {
            let tag = Tag { core: core.index, run, first: operations };
            operations += request.operation_count();
            of_all += request.operations().filter(|op| !op.opcode.has_key()).count() as u32;
            tag.pack()
        });
        let parts = of_all * (core.topology.shard_cores() - 1);
        core.runs.begin(run, operations as usize, parts);
        core.order(&writes, Origin::Peer).await;
        outcomes.clear();
        if core.wait_for_run(run).await {
            core.runs.outcomes(run, |all| {
                for index in 0..all.len() {
                    // What is too large for the way back was done, and cannot be told.
                    let most = body_max.saturating_sub((all.len() - index) * OUTCOME_HEADER_SIZE);
                    let outcome = all.outcome(index);
                    let fits = outcomes.len() + outcome.encoded_size() <= most;
                    push(if fits { &outcome } else { &UNKNOWN }, &mut outcomes);
                }
            });
            core.runs.end(run);
        } else {
            // What still comes for this run finds it closed.
            core.runs.close(run);
            run = core.runs.open();
            (0..operations).for_each(|_| push(&UNKNOWN, &mut outcomes));
        }
        answer(core, from, number, operations, &outcomes);
        forwards.give_back(writes);
    }
}

fn push(outcome: &Outcome<'_>, outcomes: &mut Vec<u8>) {
    outcome.encode(outcomes).expect("a vector grows");
}

/// Answers a backup. An answer that cannot be sent is missed there, and is unknown then.
fn answer(core: &Core, to: ReplicaId, number: u64, outcome_count: u32, outcomes: &[u8]) {
    let (Some(peers), Some(this)) = (core.peers.get(), core.replica.get()) else { return };
    let draft = this.replica.borrow().draft();
    let header = draft.seal(&Forwarded { number, outcome_count }, outcomes);
    peers.forward(to, &header, outcomes);
}

/// Gives each write's outcomes to whom they belong.
fn deliver(core: &Core, writes: &[u8], mut outcomes: &[u8]) {
    for request in Requests::of_body(writes) {
        for (index, operation) in (0..).zip(request.operations()) {
            let decoded = Outcome::decode(outcomes);
            // What a primary of another mind has left out is unknown.
            let (outcome, size) = decoded.unwrap_or((Outcome::failed(ErrorCode::Timeout), 0));
            outcomes = &outcomes[size..];
            let parts = if operation.opcode.has_key() { 1 } else { core.topology.shard_cores() };
            for _ in 0..parts {
                core.finish(Tag::unpack(request.tag()), index, &outcome);
            }
        }
    }
}

fn refuse_all(core: &Core, writes: &[u8], code: ErrorCode) {
    Requests::of_body(writes).for_each(|request| refuse(core, &request, code));
}

impl ReplicaCore {
    /// Passes a write on to the primary.
    pub(super) async fn forward(&self, core: &Core, request: &RequestView<'_>) {
        let member = self.member();
        while !member.forwards.add(request) {
            self.wait_for_room(core).await;
        }
        self.work.notify();
    }
}
