//! Sessions: what makes a client's request happen once, however often it is sent.
//!
//! A client opens a session, which is an op, and numbers its requests; several may be outstanding
//! (as in RIFL: Lee et al., SOSP '15). The table of sessions is the node's, on the replica's core,
//! and is asked about every request of a session at its place in the log, before the prepare is
//! given to the shards:
//!
//! 1. Request *n* is executed if *n* − 1 was. Its result is kept until the client says, in a later
//!    request, that it has it.
//! 2. A number that was executed before is not executed again: the client gets the result that is
//!    kept or, if that is still under way, what it comes to.
//! 3. What would take more than the limits (requests outstanding, bytes of results, both per
//!    session, and bytes of all sessions) is refused as `overloaded`, and so is what comes behind
//!    it: nothing was done, and the same numbers may be sent again. A result over 4 KiB is not
//!    kept; whoever asks for it again learns that the request was executed.
//! 4. One session more than there may be evicts the one whose last commit is the oldest. Its client
//!    is told `session_evicted` at its next request.
//!
//! ```text
//!                       decide                       outcomes
//!   log ──► dispatch ──► table ──► shards, of every core ──► under way ──► table ──► connection
//!                          │ known, refused                                   │
//!                          └────────────► connection          bar's end ──► checkpoint
//! ```
//!
//! # Refusals before the log
//!
//! A request may be refused before it has a place in the log: no space, a corrupt block. Were that
//! all, request *n* + 1 could never be executed, and a copy of *n* that is still on its way
//! somewhere might be. So in place of a refused request of a session the node gives the log a
//! `refuse`, which takes the number and answers with the error; whichever copy of *n* commits first
//! is what *n* was.
//!
//! # Names
//!
//! A session's name is the version of the operation that opened it, which nothing else in the log
//! has, beside 8 bytes that the client drew. So a copy of an old registration that arrives late
//! opens a session that nobody uses, and never one that was there before, in which requests would
//! be executed a second time.
//!
//! # Determinism, and the checkpoint
//!
//! [`table`] decides by the log alone: not by results, nor by when they come. So all replicas and
//! every replay agree. A checkpoint of op C contains the table as of C: its results too, which come
//! later than its decisions. Where a bar ends, the next op is therefore decided only when
//! everything before has its result; no shard could have applied that op earlier, since a bar's end
//! comes between. Then the table is encoded, and the bytes travel with the prepare that ends the
//! next bar, where a checkpoint of the end of the bar before may be due, to the core of shard 0,
//! whose checkpoint keeps them ([`crate::shard::extra`]): in the same grid, under the same root,
//! durable at the same moment as the trees. A start takes them from there and a replay does the
//! rest.

mod stored;
pub mod table;
#[cfg(test)]
mod tests;
mod under_way;

use std::cell::RefCell;
use std::sync::Arc;

use wire::message::{Prepare, Purpose};
use wire::operation::{OPERATION_HEADER_SIZE, Opcode};
use wire::request::{REQUEST_HEADER_SIZE, SESSION_SIZE};
use wire::{
    ClientTag, ErrorCode, Full, Op, OperationView, Outcome, RequestBuilder, RequestView, Requests,
    Session, Sink, TableId, Value, Version,
};

pub use stored::{StoredError, size_max};
pub use table::{Limits, Report, Table};

use crate::core::Core;
use crate::metrics::Counter;
use crate::shard::apply::Deliver;
use table::{Decision, Place};
use under_way::UnderWay;

/// Bytes before the outcomes in the answer to a request of a session: op, log time.
pub const ANSWER_HEAD_SIZE: usize = 16;

/// A table in bytes, as of an op; empty without sessions.
pub type Encoded = Arc<[u8]>;

/// First operations of a prepare's requests that are not to be executed; ascending.
pub type Skipped = Option<Arc<[u32]>>;

struct State {
    table: Table,
    under_way: UnderWay,
    /// The end of the last bar, and the table as of it.
    bar: (Op, Encoded),
    /// A bar has ended with this op, and the table as of it is not taken yet.
    bar_ended: Option<Op>,
    /// The last result that this waited for has come.
    settled: bool,
    skipped: Vec<u32>,
    answer: Vec<u8>,
}

/// The sessions of a node, on the replica's core.
pub struct Sessions(RefCell<State>);

impl Sessions {
    /// Those of a table, which is that of the last checkpoint.
    #[must_use]
    pub fn new(table: Table) -> Sessions {
        Sessions(RefCell::new(State {
            table,
            under_way: UnderWay::default(),
            bar: (Op(0), Arc::new([])),
            bar_ended: None,
            settled: false,
            skipped: Vec::new(),
            answer: Vec::new(),
        }))
    }

    /// Takes the table of the last checkpoint, before anything is replayed.
    ///
    /// # Errors
    /// [`StoredError`] if the bytes are no such table.
    pub fn restore(&self, bytes: &[u8]) -> Result<(), StoredError> {
        let state = &mut *self.0.borrow_mut();
        assert!(state.under_way.is_empty(), "a table is restored before there are requests");
        state.table = Table::decode(*state.table.limits(), bytes)?;
        Ok(())
    }

    /// What the table holds.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0.borrow().table.report()
    }

    /// Whether the next op may be decided: takes the table as of a bar's end if that is due and
    /// everything before has its result.
    pub(crate) fn is_ready(&self) -> bool {
        let state = &mut *self.0.borrow_mut();
        let Some(op) = state.bar_ended else { return true };
        if !state.under_way.is_empty() {
            return false;
        }
        state.bar = (op, state.table.encode().into());
        state.bar_ended = None;
        true
    }

    /// The table as of the end of the bar before.
    ///
    /// # Panics
    /// If that bar ended with another op: checkpoints are of the end of the bar before.
    pub(crate) fn of_bar(&self, op: Op) -> Encoded {
        let state = self.0.borrow();
        let (of, table) = &state.bar;
        assert_eq!(*of, op, "a checkpoint keeps the sessions as of its own op");
        table.clone()
    }

    /// The prepare that was decided last, of this op, ends a bar.
    pub(crate) fn end_bar(&self, op: Op) {
        let before = self.0.borrow_mut().bar_ended.replace(op);
        assert_eq!(before, None, "the table as of a bar's end is taken before the next op");
    }

    /// Whether what [`Sessions::is_ready`] waited for has come since this was asked last.
    pub(crate) fn take_settled(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().settled)
    }

    /// Decides on the requests of a prepare, the next one of the log, and answers those that need
    /// nothing more. `live` says whether somebody on this node may be waiting.
    pub(crate) fn decide(
        &self,
        core: &Core,
        prepare: &Prepare,
        body: &[u8],
        live: bool,
    ) -> Skipped {
        if prepare.purpose != Purpose::Requests {
            return None;
        }
        let state = &mut *self.0.borrow_mut();
        let mut first = 0;
        for request in Requests::of_body(body) {
            if request.session().is_some() {
                let version = prepare.timestamp.version(first);
                let place = Place { op: prepare.op, timestamp: prepare.timestamp, version };
                state.decide_one(core, &request, place, first, live);
            }
            first += request.operation_count();
        }
        if state.skipped.is_empty() {
            return None;
        }
        let skipped = Arc::from(state.skipped.as_slice());
        state.skipped.clear();
        Some(skipped)
    }

    /// Takes the outcome of an operation of a request that is executed; with the last one of the
    /// request its result is kept, and whoever waits for it is answered.
    pub(crate) fn take(&self, core: &Core, op: Op, first: u32, index: u32, outcome: &Outcome<'_>) {
        let state = &mut *self.0.borrow_mut();
        let State { table, under_way, answer, .. } = state;
        let Some(request) = under_way.take(op, first, index, outcome) else { return };
        begin_answer(answer, &request.place);
        request.append_outcomes(answer);
        let outcomes = &answer[ANSWER_HEAD_SIZE..];
        table.complete(request.client, request.number, &request.place, outcomes);
        for tag in request.tag.iter().chain(&request.again) {
            deliver(core, *tag, answer);
        }
        under_way.clear_done();
        state.settled |= state.bar_ended.is_some() && state.under_way.is_empty();
    }
}

impl State {
    fn decide_one(
        &mut self,
        core: &Core,
        request: &RequestView<'_>,
        place: Place,
        first: u32,
        live: bool,
    ) {
        let tag = live.then(|| request.tag());
        let session = request.session().expect("only requests of sessions are decided on");
        match self.table.decide(request, &place) {
            Decision::Execute => {
                core.metrics.count(Counter::SessionRequests);
                let cores = core.topology.shard_cores();
                return self.under_way.add(place, first, request, tag, cores as u16);
            }
            Decision::UnderWay => {
                core.metrics.count(Counter::SessionDuplicates);
                if let Some(tag) = tag {
                    self.under_way.add_again(session.client, session.number.0, tag);
                }
            }
            Decision::Known(kept) => {
                core.metrics.count(Counter::SessionDuplicates);
                let place = Place { op: kept.op, timestamp: kept.timestamp, ..place };
                begin_answer(&mut self.answer, &place);
                self.answer.extend_from_slice(&kept.outcomes);
                tag.into_iter().for_each(|tag| deliver(core, tag, &self.answer));
            }
            Decision::Gone => {
                core.metrics.count(Counter::SessionDuplicates);
                tag.into_iter().for_each(|tag| fail(core, tag, ErrorCode::ResultDropped));
            }
            Decision::Opened(client) => {
                core.metrics.count(Counter::SessionsOpened);
                begin_answer(&mut self.answer, &place);
                let name = client.0.to_le_bytes();
                let opened = Outcome::done(Value::Bytes(&name), place.version);
                opened.encode(&mut self.answer).expect("vectors grow");
                tag.into_iter().for_each(|tag| deliver(core, tag, &self.answer));
            }
            Decision::Refused(code) => {
                core.metrics.count(Counter::SessionRefusals);
                tag.into_iter().for_each(|tag| fail(core, tag, code));
            }
        }
        self.skipped.push(first);
    }
}

/// Bytes of a request that takes the place of a refused one.
pub const REFUSE_SIZE: usize = REQUEST_HEADER_SIZE + SESSION_SIZE + OPERATION_HEADER_SIZE;

/// Encodes what takes the place of a refused request.
///
/// # Errors
/// [`Full`] if the sink has not [`REFUSE_SIZE`] bytes of room.
pub fn encode_refuse(
    sink: &mut impl Sink,
    tag: ClientTag,
    session: Session,
    code: ErrorCode,
) -> Result<(), Full> {
    let refuse = OperationView::on_table(Opcode::Refuse, TableId(0)).with_argument(code as u64);
    let mut builder = RequestBuilder::with_session(sink, tag, session)?;
    builder.push(&refuse)?;
    assert_eq!(builder.finish(), REFUSE_SIZE);
    Ok(())
}

fn begin_answer(answer: &mut Vec<u8>, place: &Place) {
    answer.clear();
    answer.extend_from_slice(&place.op.0.to_le_bytes());
    answer.extend_from_slice(&place.timestamp.0.to_le_bytes());
}

/// A request of a session has one outcome at its connection: all that it came to, as bytes.
fn deliver(core: &Core, tag: ClientTag, answer: &[u8]) {
    // What is too large for a reply was executed all the same.
    if answer.len() > core.connection_limits.reply_max / 2 {
        return fail(core, tag, ErrorCode::ResultDropped);
    }
    core.deliver(tag, 0, &Outcome::done(Value::Bytes(answer), Version(0)));
}

fn fail(core: &Core, tag: ClientTag, code: ErrorCode) {
    core.deliver(tag, 0, &Outcome::failed(code));
}
