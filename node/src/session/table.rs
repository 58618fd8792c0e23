//! The table itself: pure, and a function of the log alone.
//!
//! [`Table::decide`] is called for each request of a session in the order of the log and changes
//! the table; [`Table::complete`] brings what a request came to, whenever that is known, and
//! decides nothing. So what is executed depends on no result, and no prepare waits for the results
//! of the one before it.
//!
//! That is why what a result may take is *charged* when its request is decided, by what its
//! operations may answer at most ([`charge`]): the limits of retained bytes are then limits of
//! charges, which the log alone determines, and what is really kept is less.
//!
//! Sessions stand in a list in the order of their last commits, linked through a slab: the first
//! is the one that is evicted when one more is opened. Results stand in their session in the order
//! of their numbers, without gaps: those after the last acknowledged up to the last executed.

use std::collections::{HashMap, VecDeque};

use vsr::format::Configuration;
use wire::operation::{Flags, Opcode};
use wire::outcome::OUTCOME_HEADER_SIZE;
use wire::{ClientId, ErrorCode, Op, OperationView, Outcome, RequestView, Timestamp, Version};

use crate::machine::float;

/// A result of more bytes is not kept.
pub const RESULT_MAX: usize = 4096;
/// What a result is charged beside its outcomes.
pub const RESULT_CHARGE: usize = 40;

/// Places that a session's results keep without an allocation.
const RESULTS_KEPT: usize = 64;
/// Vectors of results kept for the next ones, and the size above which one is not.
const SPARE_MAX: usize = 4096;
const SPARE_BYTES_MAX: usize = 256;
/// No session: the end of a list.
const NONE: u32 = u32::MAX;

/// What sessions may take: values of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions.
    pub sessions_max: u32,
    /// Requests of one session that are not acknowledged.
    pub window: u64,
    /// Charges of one session.
    pub session_bytes_max: u64,
    /// Charges of all sessions.
    pub bytes_max: u64,
}

impl Limits {
    /// Those of a cluster.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Limits {
        Limits {
            sessions_max: configuration.sessions_max,
            window: u64::from(configuration.session_window),
            session_bytes_max: u64::from(configuration.session_results_size_max),
            bytes_max: configuration.sessions_results_size_max,
        }
    }
}

/// Where a request stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The prepare.
    pub op: Op,
    /// Its log time.
    pub timestamp: Timestamp,
    /// The version of the request's first operation: no other request has the same.
    pub version: Version,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It is executed; its result is to be brought.
    Execute,
    /// It was executed before, and its result is not known yet.
    UnderWay,
    /// It was executed before, or in place of it nothing is done: this is its result.
    Known(&'a Kept),
    /// It was executed before, and its result is gone.
    Gone,
    /// It opened this session.
    Opened(ClientId),
    /// Nothing is done, and the number is not taken.
    Refused(ErrorCode),
}

/// A result as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// The op that it reflects.
    pub op: Op,
    /// That op's log time.
    pub timestamp: Timestamp,
    /// Its outcomes, encoded.
    pub outcomes: Vec<u8>,
}

/// What is known of a request that was executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    UnderWay,
    /// It was over [`RESULT_MAX`].
    Dropped,
    /// This.
    Kept(Kept),
}

/// A request that was executed and is not acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Executed {
    pub(super) charge: u32,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: ClientId,
    pub(super) acknowledged: u64,
    /// From the first that is not acknowledged to the last that was executed.
    pub(super) executed: VecDeque<Executed>,
    pub(super) charged: u64,
    older: u32,
    newer: u32,
}

impl Session {
    fn new(client: ClientId) -> Session {
        let (executed, charged) = (VecDeque::new(), 0);
        Session { client, acknowledged: 0, executed, charged, older: NONE, newer: NONE }
    }

    /// One out of a checkpoint.
    pub(super) fn restored(
        client: ClientId,
        acknowledged: u64,
        executed: VecDeque<Executed>,
        charged: u64,
    ) -> Session {
        Session { acknowledged, executed, charged, ..Session::new(client) }
    }

    fn last(&self) -> u64 {
        self.acknowledged + self.executed.len() as u64
    }
}

/// What the table holds, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions that are open.
    pub sessions: u64,
    /// What their results are charged.
    pub charged: u64,
    /// Sessions that were evicted since the start.
    pub evicted: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    slab: Vec<Session>,
    free: Vec<u32>,
    by_client: HashMap<u128, u32>,
    /// The ends of the list in the order of the last commits.
    oldest: u32,
    newest: u32,
    charged: u64,
    evicted: u64,
    spare: Vec<Vec<u8>>,
}

/// What a request's result may take at most, by what its operations may answer.
#[must_use]
pub fn charge(request: &RequestView<'_>) -> u32 {
    let most = request.operations().map(|operation| answer_max(&operation)).sum::<usize>();
    (RESULT_CHARGE + most.min(RESULT_MAX)) as u32
}

fn answer_max(operation: &OperationView<'_>) -> usize {
    let bytes = match operation.opcode {
        _ if operation.flags.contains(Flags::RETURN_OLD) => RESULT_MAX,
        Opcode::IncrementFloat => float::TEXT_MAX,
        _ => 0,
    };
    OUTCOME_HEADER_SIZE + bytes
}

impl Table {
    /// No sessions.
    #[must_use]
    pub fn new(limits: Limits) -> Table {
        Table {
            limits,
            slab: Vec::new(),
            free: Vec::new(),
            by_client: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            charged: 0,
            evicted: 0,
            spare: Vec::new(),
        }
    }

    /// What they may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it holds.
    #[must_use]
    pub fn report(&self) -> Report {
        let (sessions, charged) = (self.by_client.len() as u64, self.charged);
        Report { sessions, charged, evicted: self.evicted }
    }

    /// Decides on the next request of the log. One without a session has nothing to do with this.
    pub fn decide(&mut self, request: &RequestView<'_>, place: &Place) -> Decision<'_> {
        let Some(session) = request.session() else {
            return Decision::Refused(ErrorCode::BadRequest);
        };
        let first = request.operations().next().expect("a request has an operation");
        if session.number.0 == 0 {
            return self.open(&first, place);
        }
        let Some(&slot) = self.by_client.get(&session.client.0) else {
            return Decision::Refused(ErrorCode::SessionEvicted);
        };
        self.touch(slot);
        let (number, acknowledged) = (session.number.0, session.acknowledged.0);
        if acknowledged >= number || acknowledged > self.slab[slot as usize].last() {
            return Decision::Refused(ErrorCode::BadRequest);
        }
        self.acknowledge(slot, acknowledged);
        if number <= self.slab[slot as usize].last() {
            return self.known(slot, number);
        }
        let charge = charge(request);
        if let Err(code) = self.admits(slot, number, charge) {
            return Decision::Refused(code);
        }
        let refused = first.opcode == Opcode::Refuse;
        let answer = match refused {
            true => Answer::Kept(self.refusal(&first, place)),
            false => Answer::UnderWay,
        };
        let session = &mut self.slab[slot as usize];
        self.charged += u64::from(charge);
        session.charged += u64::from(charge);
        session.executed.push_back(Executed { charge, answer });
        if refused { self.known(slot, number) } else { Decision::Execute }
    }

    /// What is known of a request that was executed.
    fn known(&self, slot: u32, number: u64) -> Decision<'_> {
        let session = &self.slab[slot as usize];
        let Some(place) = number.checked_sub(session.acknowledged + 1) else {
            return Decision::Gone;
        };
        match &session.executed[place as usize].answer {
            Answer::UnderWay => Decision::UnderWay,
            Answer::Dropped => Decision::Gone,
            Answer::Kept(kept) => Decision::Known(kept),
        }
    }

    /// Whether a request that was not executed may be.
    fn admits(&self, slot: u32, number: u64, charge: u32) -> Result<(), ErrorCode> {
        let session = &self.slab[slot as usize];
        let Limits { window, session_bytes_max, bytes_max, .. } = self.limits;
        if number > session.acknowledged.saturating_add(window) {
            return Err(ErrorCode::Overloaded);
        }
        if number != session.last() + 1 {
            // One before it was not executed, and is to be sent again first.
            return Err(ErrorCode::Overloaded);
        }
        let charge = u64::from(charge);
        let fits =
            session.charged + charge <= session_bytes_max && self.charged + charge <= bytes_max;
        if fits { Ok(()) } else { Err(ErrorCode::Overloaded) }
    }

    fn refusal(&mut self, refuse: &OperationView<'_>, place: &Place) -> Kept {
        let number = u16::try_from(refuse.argument).ok();
        let code = number.and_then(ErrorCode::from_u16).unwrap_or(ErrorCode::BadRequest);
        let mut outcomes = self.spare.pop().unwrap_or_default();
        Outcome::failed(code).encode(&mut outcomes).expect("vectors grow");
        Kept { op: place.op, timestamp: place.timestamp, outcomes }
    }

    /// Brings what an executed request came to. The session may be gone meanwhile.
    ///
    /// # Panics
    /// If it comes twice, or was not executed: requests are executed by this process.
    pub fn complete(&mut self, client: ClientId, number: u64, place: &Place, outcomes: &[u8]) {
        let Some(&slot) = self.by_client.get(&client.0) else { return };
        let session = &mut self.slab[slot as usize];
        let Some(index) = number.checked_sub(session.acknowledged + 1) else { return };
        let executed = session.executed.get_mut(index as usize);
        let executed = executed.expect("what was executed stays until it is acknowledged");
        assert_eq!(executed.answer, Answer::UnderWay, "a request has one result");
        if outcomes.len() > RESULT_MAX {
            executed.answer = Answer::Dropped;
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(outcomes);
        let (op, timestamp) = (place.op, place.timestamp);
        executed.answer = Answer::Kept(Kept { op, timestamp, outcomes: bytes });
    }

    fn open(&mut self, register: &OperationView<'_>, place: &Place) -> Decision<'_> {
        let drawn = register.value.first_chunk::<8>();
        let (Opcode::Register, Some(drawn)) = (register.opcode, drawn) else {
            return Decision::Refused(ErrorCode::BadRequest);
        };
        let client =
            ClientId(u128::from(u64::from_le_bytes(*drawn)) << 64 | u128::from(place.version.0));
        if self.by_client.len() == self.limits.sessions_max as usize {
            self.evict();
        }
        self.insert(Session::new(client));
        Decision::Opened(client)
    }

    /// Whether a session is open.
    #[must_use]
    pub fn has(&self, client: ClientId) -> bool {
        self.by_client.contains_key(&client.0)
    }

    /// Puts a session at the end of the list.
    pub(super) fn insert(&mut self, session: Session) {
        let client = session.client;
        self.charged += session.charged;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = session;
                slot
            }
            None => {
                self.slab.push(session);
                self.slab.len() as u32 - 1
            }
        };
        let before = self.by_client.insert(client.0, slot);
        assert_eq!(before, None, "versions are given once");
        self.link(slot);
    }

    fn evict(&mut self) {
        let slot = self.oldest;
        assert_ne!(slot, NONE, "a full table has a session");
        self.unlink(slot);
        let session = &mut self.slab[slot as usize];
        let session = std::mem::replace(session, Session::new(ClientId(0)));
        self.by_client.remove(&session.client.0);
        self.charged -= session.charged;
        self.evicted += 1;
        self.free.push(slot);
        for executed in session.executed {
            give_back(&mut self.spare, executed.answer);
        }
    }

    fn acknowledge(&mut self, slot: u32, acknowledged: u64) {
        let session = &mut self.slab[slot as usize];
        while session.acknowledged < acknowledged {
            let executed =
                session.executed.pop_front().expect("only what was executed is answered");
            session.acknowledged += 1;
            session.charged -= u64::from(executed.charge);
            self.charged -= u64::from(executed.charge);
            give_back(&mut self.spare, executed.answer);
        }
        let places = session.executed.capacity();
        if places > RESULTS_KEPT && session.executed.len() < places / 8 {
            session.executed.shrink_to(RESULTS_KEPT);
        }
    }

    /// Sessions from the one whose last commit is the oldest on.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        let at = |slot: u32| self.slab.get(slot as usize);
        std::iter::successors(at(self.oldest), move |session| at(session.newer))
    }

    fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.link(slot);
        }
    }

    fn link(&mut self, slot: u32) {
        let newest = std::mem::replace(&mut self.newest, slot);
        let session = &mut self.slab[slot as usize];
        (session.older, session.newer) = (newest, NONE);
        match self.slab.get_mut(newest as usize) {
            Some(before) => before.newer = slot,
            None => self.oldest = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Session { older, newer, .. } = self.slab[slot as usize];
        match self.slab.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.slab.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }
}

/// Keeps an answer's memory for the next one.
fn give_back(spare: &mut Vec<Vec<u8>>, answer: Answer) {
    if let Answer::Kept(Kept { mut outcomes, .. }) = answer
        && outcomes.capacity() <= SPARE_BYTES_MAX
        && spare.len() < SPARE_MAX
    {
        outcomes.clear();
        spare.push(outcomes);
    }
}
