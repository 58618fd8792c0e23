//! The applier: committed prepares in, changed shards and outcomes out.
//!
//! A core's applier takes committed prepares in op order and does to the core's shards what is
//! theirs of each:
//!
//! 1. For every operation on a key of this core: look up what evaluation needs of the current
//!    entry, evaluate, apply the effect, deliver the outcome to the connection that waits for it.
//! 2. When an entry is not in memory, the prepare stops at that operation. Its look-up and those of
//!    operations behind it that need one, up to a bound, go to the grid together; when they are
//!    there the prepare goes on where it stopped. Prepares behind it wait: versions are applied in
//!    order.
//! 3. An all-or-none request is voted on before any of it is applied. When keys of several cores
//!    are in it, each of these votes for its own once the request is at its front, sends the others
//!    its ballot and goes on when it has theirs: all count the same ballots, so all come to the
//!    same verdict, in a replay as well. Cores that have no key of it do not stop. It cannot come
//!    to a circle: every core goes through the same log in order, so of all requests that are being
//!    voted on, all cores of the first have come to it or will, and ballots never wait for a lane.
//! 4. After the last operation the shards do their beat, and the op counts as applied. What has to
//!    wait then (pulses, debt, the end of a bar) is the keeper's ([`super::keeper`]).
//!
//! As long as everything is in memory all of this is one synchronous call out of the commit: no
//! task is woken, nothing is allocated. Only a prepare that has to wait goes on in the applier's
//! task.
//!
//! The body of a prepare is looked at where it lies, through a shared handle of the buffer that was
//! written to the journal. What is stored is copied once, into the memtable's arena.
//!
//! *Resuming.* A stopped prepare is walked again from its start, skipping the operations done. An
//! entry that was fetched is used only if memory still does not tell: an operation of the same
//! prepare may have written the key meanwhile, and memory is always newer. What was fetched is
//! bounded in bytes and freed with its operation, so a prepare of many small operations on large
//! values costs no more memory than one of few.
//!
//! *Corrupt blocks.* With one replica an entry may be unreadable for good. The operation that needs
//! it changes nothing and answers `corrupt_block`; an all-or-none request is refused as a whole.
//! The place is condemned, here and in the checkpoints that follow, so that what an operation could
//! not know nobody learns later: see [`lsm::grid`]. A replay does the same. What was acknowledged
//! before the crash and cannot be done again then stays unreadable, by name, instead of going back
//! to what it was.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use ioring::Frozen;
use ioring::sync::Event;
use lsm::bar::Step;
use lsm::forest::TooManyCondemned;
use lsm::lookup::{CorruptRead, OwnedEntry, Read, Want};
use vsr::journal::BODY_OFFSET;
use wire::message::{Prepare, Purpose};
use wire::operation::Opcode;
use wire::{
    ClientTag, ErrorCode, Header, Op, OperationView, Outcome, RequestView, Requests, Timestamp,
    Version,
};

use super::ahead::Ahead;
use super::keeper::{self, Rest};
use super::{LATEST, Looked, Shards};
use crate::machine::{self, Budget, Context, Entry, Needs, Scratch, Verdict, Vote};
use crate::mesh::ReadIndex;
use crate::mesh::batch::{Ballot, CoreSet};
use crate::session::{Encoded, Skipped};
use crate::topology::CoreIndex;

/// Look-ups that a prepare asks for at once. What is missing beyond that it asks for when it gets
/// there.
pub const MISSING_MAX: usize = 1024;

/// A committed prepare on its way to the shards.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place in the log.
    pub op: Op,
    /// Its log time.
    pub timestamp: Timestamp,
    /// How many versions from the timestamp on are its own.
    pub version_count: u32,
    /// Its requests.
    pub body: Frozen,
    /// What the schedule says comes with it.
    pub step: Step,
    /// Whether it is a pulse.
    pub pulse: bool,
    /// Whether somebody may be waiting for outcomes. Not so in a replay.
    pub live: bool,
    /// Requests of sessions that are not to be executed: see [`crate::session`].
    pub skipped: Skipped,
    /// The sessions as of the end of the bar before, if a checkpoint of that is due now.
    pub sessions: Option<Encoded>,
}

impl Committed {
    /// The prepare with this header in this frame.
    ///
    /// # Panics
    /// If the header is not a prepare's: only prepares are committed.
    #[must_use]
    pub fn new(header: &Header, frame: &Frozen, step: Step, live: bool) -> Committed {
        let prepare = header.tail::<Prepare>().expect("only prepares are committed");
        Committed {
            op: prepare.op,
            timestamp: prepare.timestamp,
            version_count: prepare.version_count,
            body: frame.slice(BODY_OFFSET..BODY_OFFSET + header.body_size()),
            step,
            pulse: prepare.purpose == Purpose::Pulse,
            live,
            skipped: None,
            sessions: None,
        }
    }

    /// Whether the request that begins with this operation is not to be executed.
    #[inline]
    fn skips(&self, operation: u32) -> bool {
        let skipped = self.skipped.as_ref();
        skipped.is_some_and(|skipped| skipped.binary_search(&operation).is_ok())
    }

    /// The newest version that is readable once this is applied.
    #[must_use]
    pub fn version_last(&self) -> Version {
        self.timestamp.version(self.version_count.saturating_sub(1))
    }
}

/// Where outcomes go.
pub trait Deliver {
    /// Delivers the outcome of the operation at `index` of the request with this tag.
    fn deliver(&self, tag: ClientTag, index: u32, outcome: &Outcome<'_>);

    /// Delivers the same of a request that belongs to a session: the one of this op whose first
    /// operation is `first` of the prepare. In a replay too: what sessions keep is made again.
    fn deliver_to_session(&self, op: Op, first: u32, index: u32, outcome: &Outcome<'_>);

    /// Lets another core know what this core's part of an all-or-none request comes to.
    fn vote(&self, to: CoreIndex, ballot: Ballot);
}

/// What the applier cannot go on without.
#[derive(Debug)]
pub struct Missing {
    /// Index of the operation in its prepare.
    operation: u32,
    /// The look-up to await.
    read: Read,
}

/// Why a prepare stops before its end.
enum Stop {
    /// This look-up has to be done first.
    Missing(Missing),
    /// Other cores' ballots are not there.
    Ballots,
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Stop {
        Stop::Missing(missing)
    }
}

/// How far an attempt to apply came.
#[derive(Debug)]
pub enum Progress {
    /// Everything that was committed is applied.
    Idle,
    /// The prepare at the front waits for these look-ups.
    Waiting(Vec<Missing>),
    /// The prepare at the front waits for other cores' ballots.
    Voting,
    /// The prepare at the front is applied; the rest of it is the keeper's.
    Keeper(Rest),
    /// The keeper is at work.
    Kept,
}

/// An entry that was fetched for the prepare at the front.
struct Fetched {
    operation: u32,
    entry: Result<Option<OwnedEntry>, Unreadable>,
}

/// The entry stands in a corrupt block.
#[derive(Debug, Clone, Copy)]
struct Unreadable;

impl Fetched {
    fn bytes(&self) -> usize {
        let entry = self.entry.as_ref().ok().and_then(Option::as_ref);
        entry.map_or(0, |entry| entry.value.capacity())
    }
}

/// How far the prepare at the front is.
#[derive(Default)]
struct Front {
    /// Operations that are done.
    done: u32,
    /// The verdict on the all-or-none request that is under way.
    verdict: Option<Verdict>,
    /// Whether this core has voted on it, and sent its ballot to the others that it concerns.
    voted: bool,
    /// What the prepare may still cost each shard of this core; empty before it starts.
    budgets: Vec<Budget>,
    /// The operation that could not be done at the last attempt.
    stopped: u32,
    /// In order of the operations.
    fetched: VecDeque<Fetched>,
    fetched_bytes: usize,
}

impl Front {
    fn begin(&mut self, shards: usize, effects_max: u64) {
        if self.budgets.is_empty() {
            self.budgets.resize(shards, Budget(effects_max));
        }
    }

    fn end(&mut self) {
        assert!(self.verdict.is_none(), "a request is under way at the end of its prepare");
        assert!(!self.voted, "a request is voted on at the end of its prepare");
        self.done = 0;
        self.budgets.clear();
        assert!(self.fetched.is_empty(), "what was fetched is freed with its operation");
    }

    /// An operation is done, and its entry is needed no more.
    #[inline]
    fn done(&mut self, operation: u32) {
        self.done = operation + 1;
        while self.fetched.front().is_some_and(|fetched| fetched.operation <= operation) {
            let fetched = self.fetched.pop_front().expect("there is one at the front");
            self.fetched_bytes -= fetched.bytes();
        }
    }

    fn has_room_for(&self, operation: u32, fetched_max: usize) -> bool {
        self.fetched_bytes < fetched_max || operation == self.stopped
    }

    fn fetched(&self, operation: u32) -> Option<&Fetched> {
        let place = self.fetched.binary_search_by_key(&operation, |fetched| fetched.operation);
        place.ok().map(|place| &self.fetched[place])
    }

    fn keep(&mut self, fetched: Fetched) {
        let place = self.fetched.partition_point(|before| before.operation < fetched.operation);
        self.fetched_bytes += fetched.bytes();
        self.fetched.insert(place, fetched);
    }
}

struct State {
    shards: Shards,
    queue: VecDeque<Committed>,
    /// The keeper has the prepare at the front.
    kept: bool,
    reports: VecDeque<(u64, u64)>,
    front: Front,
    /// Ballots on the request at the front, and those that came before this core was there: of each
    /// other core one at most.
    tallies: Vec<Tally>,
    scratch: Scratch,
    key: Vec<u8>,
    value: Vec<u8>,
    value_max: u32,
    effects_max: u64,
    fetched_max: usize,
}

/// What is known of the votes on one request.
struct Tally {
    count: u32,
    all: Ballot,
}

/// The applier of one core.
pub struct Applier {
    state: RefCell<State>,
    applied: Cell<Op>,
    applied_version: Cell<Version>,
    applied_time: Cell<Timestamp>,
    /// A replay waits for what it gave.
    progressed: Event,
}

/// What the applier needs to know of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest value.
    pub value_max: u32,
    /// What a prepare may cost a shard beyond its requests.
    pub effects_max: u64,
    /// Bytes of entries that are fetched ahead of their operations. Beyond that look-ups wait until
    /// their operations are next.
    pub fetched_max: usize,
}

impl Applier {
    /// An applier over shards whose state is that after `applied`.
    #[must_use]
    pub fn new(shards: Shards, limits: Limits, applied: Op, applied_time: Timestamp) -> Applier {
        let state = State {
            shards,
            queue: VecDeque::with_capacity(64),
            kept: false,
            reports: VecDeque::with_capacity(4),
            front: Front::default(),
            tallies: Vec::new(),
            scratch: Scratch::default(),
            key: Vec::with_capacity(2 * wire::operation::KEY_SIZE_MAX + 16),
            value: Vec::new(),
            value_max: limits.value_max,
            effects_max: limits.effects_max,
            fetched_max: limits.fetched_max,
        };
        Applier {
            state: RefCell::new(state),
            applied: Cell::new(applied),
            applied_version: Cell::new(Version(applied_time.0)),
            applied_time: Cell::new(applied_time),
            progressed: Event::new(),
        }
    }

    /// The last op applied in full.
    #[must_use]
    pub fn applied(&self) -> Op {
        self.applied.get()
    }

    /// The last op whose operations are all done here, though the keeper may still be at work on
    /// the rest of it.
    #[must_use]
    pub fn done(&self) -> Op {
        let state = self.state.borrow();
        if state.kept { self.applied.get().next() } else { self.applied.get() }
    }

    /// The newest op of which an operation of this core may have been acknowledged: the one at the
    /// front if it is done in part.
    #[must_use]
    pub fn acknowledged(&self) -> ReadIndex {
        let state = self.state.borrow();
        let begun = state.kept || state.front.done > 0;
        state.queue.front().filter(|_| begun).map_or_else(|| self.applied_index(), index_of)
    }

    /// The newest op that was given to this applier, and its newest version.
    #[must_use]
    pub fn newest(&self) -> ReadIndex {
        self.state.borrow().queue.back().map_or_else(|| self.applied_index(), index_of)
    }

    fn applied_index(&self) -> ReadIndex {
        ReadIndex { op: self.applied.get(), version: self.applied_version.get() }
    }

    /// Log time as the shards have it: the timestamp of the last op applied in full.
    #[inline]
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.applied_time.get()
    }

    /// Borrows the shards, for reads.
    #[inline]
    pub fn with_shards<R>(&self, look: impl FnOnce(&Shards) -> R) -> R {
        look(&self.state.borrow().shards)
    }

    /// Borrows the shards, for what beats, bars and checkpoints do to them.
    pub fn with_shards_mut<R>(&self, change: impl FnOnce(&mut Shards) -> R) -> R {
        change(&mut self.state.borrow_mut().shards)
    }

    /// Takes a committed prepare. The caller calls [`Applier::advance`] next.
    pub fn push(&self, committed: Committed) {
        let state = &mut *self.state.borrow_mut();
        let newest = state.queue.back().map_or(self.applied.get(), |last| last.op);
        assert_eq!(committed.op, newest.next(), "prepares are applied in the order of the log");
        state.queue.push_back(committed);
    }

    /// Whether a prepare is committed and not applied.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.state.borrow().queue.is_empty()
    }

    /// Waits until an op is applied.
    pub async fn wait_applied(&self, op: Op) {
        while self.applied.get() < op {
            self.progressed.wait().await;
        }
    }

    /// Applies what can be applied without waiting.
    pub fn advance(&self, deliver: &impl Deliver) -> Progress {
        let state = &mut *self.state.borrow_mut();
        if state.kept {
            return Progress::Kept;
        }
        while let Some(committed) = state.queue.front().cloned() {
            match state.apply(&committed, deliver) {
                Ok(()) => {}
                Err(Stop::Missing(first)) => {
                    return Progress::Waiting(state.missing(first, &committed));
                }
                Err(Stop::Ballots) => return Progress::Voting,
            }
            let pulse = committed.pulse.then_some(committed.timestamp);
            let Committed { op, step, sessions, .. } = committed;
            let rest = Rest { op, step, pulse, sessions };
            match keeper::settle(&mut state.shards, rest) {
                Ok(report) => self.end_op(state, report),
                Err(rest) => {
                    state.kept = true;
                    return Progress::Keeper(rest);
                }
            }
        }
        Progress::Idle
    }

    /// The keeper has done the rest of the prepare at the front.
    pub fn finished(&self, report: Option<(u64, u64)>) {
        let state = &mut *self.state.borrow_mut();
        assert!(state.kept, "the keeper finishes what it was given");
        state.kept = false;
        self.end_op(state, report);
    }

    /// The op at the front counts as applied.
    fn end_op(&self, state: &mut State, report: Option<(u64, u64)>) {
        let committed = state.queue.pop_front().expect("an op at the front was applied");
        state.front.end();
        state.reports.extend(report);
        self.applied.set(committed.op);
        self.applied_version.set(committed.version_last());
        self.applied_time.set(committed.timestamp);
        self.progressed.notify();
    }

    /// Takes another core's ballot. The caller calls [`Applier::advance`] next.
    pub fn count(&self, ballot: &Ballot) {
        self.state.borrow_mut().count(ballot);
    }

    /// Takes the next report for the schedule: a group's number and its end's fullest memtable.
    pub fn take_report(&self) -> Option<(u64, u64)> {
        self.state.borrow_mut().reports.pop_front()
    }

    /// Whether there is room for one more entry of the prepare at the front. There always is for
    /// the one that it cannot go on without.
    #[must_use]
    pub fn has_room_for(&self, operation: u32) -> bool {
        let state = self.state.borrow();
        state.front.has_room_for(operation, state.fetched_max)
    }

    /// Takes what was fetched for the prepare at the front.
    pub fn fetched(&self, operation: u32, entry: Option<OwnedEntry>) {
        self.state.borrow_mut().front.keep(Fetched { operation, entry: Ok(entry) });
    }

    /// What was to be fetched for an operation of the prepare at the front cannot be read.
    ///
    /// # Errors
    /// Too much is unreadable to go on.
    pub fn unreadable(&self, operation: u32, fault: &CorruptRead) -> Result<(), TooManyCondemned> {
        let state = &mut *self.state.borrow_mut();
        let shard = state.shards.iter_mut().find(|shard| shard.id().0 == fault.shard);
        shard.expect("the look-up was on a shard of this core").condemn(fault.offset)?;
        state.front.keep(Fetched { operation, entry: Err(Unreadable) });
        Ok(())
    }
}

fn index_of(committed: &Committed) -> ReadIndex {
    ReadIndex { op: committed.op, version: committed.version_last() }
}

impl Missing {
    /// The operation that needs it, and what to await.
    #[must_use]
    pub fn into_parts(self) -> (u32, Read) {
        (self.operation, self.read)
    }
}

/// The prepare that is being applied, and how far it is.
struct Cursor<'a> {
    committed: &'a Committed,
    /// Index of the operation in the prepare.
    operation: u32,
    requests: Requests<'a>,
    /// None if the prepare goes on after a stop.
    ahead: Option<Ahead<'a>>,
}

impl State {
    /// Applies the prepare from the operation at `done` on.
    fn apply(&mut self, committed: &Committed, deliver: &impl Deliver) -> Result<(), Stop> {
        if self.shards.is_empty() {
            return Ok(());
        }
        self.front.begin(self.shards.len(), self.effects_max);
        let begins = self.front.done == 0;
        let mut cursor = Cursor {
            committed,
            operation: 0,
            requests: Requests::of_body(&committed.body),
            ahead: begins.then(|| Ahead::new(Requests::of_body(&committed.body))),
        };
        while let Some(request) = cursor.requests.next() {
            self.apply_request(&request, &mut cursor, deliver)?;
        }
        Ok(())
    }

    fn apply_request(
        &mut self,
        request: &RequestView<'_>,
        cursor: &mut Cursor<'_>,
        deliver: &impl Deliver,
    ) -> Result<(), Stop> {
        if cursor.operation + request.operation_count() <= self.front.done {
            cursor.operation += request.operation_count();
            return Ok(());
        }
        let first = cursor.operation;
        if cursor.committed.skips(first) {
            cursor.operation += request.operation_count();
            self.front.done(cursor.operation - 1);
            return Ok(());
        }
        let verdict = match self.front.verdict {
            Some(verdict) => verdict,
            None if request.is_all_or_none() => self.verdict(request, cursor, deliver)?,
            None => Verdict::Own,
        };
        self.front.verdict = Some(verdict);
        let Committed { op, timestamp, live, .. } = *cursor.committed;
        let in_session = request.session().is_some();
        let outcome_of = |index: usize, outcome: &Outcome<'_>| {
            if in_session {
                deliver.deliver_to_session(op, first, index as u32, outcome);
            } else if live {
                deliver.deliver(request.tag(), index as u32, outcome);
            }
        };
        for (index, operation) in request.operations().enumerate() {
            let number = cursor.operation;
            cursor.operation += 1;
            if number < self.front.done {
                continue;
            }
            if let Some(ahead) = &mut cursor.ahead {
                ahead.step(&self.shards, &mut self.key);
            }
            if operation.opcode.has_key() {
                let version = timestamp.version(number);
                let value_max = self.value_max;
                let context = Context { timestamp, version, value_max, verdict };
                let outcome = |outcome: &Outcome<'_>| outcome_of(index, outcome);
                self.apply_operation(&operation, number, &context, outcome)?;
            } else {
                self.apply_to_table(&operation, timestamp.version(number));
                outcome_of(index, &Outcome::done(wire::Value::Ok, Version(0)));
            }
            self.front.done(number);
        }
        self.front.verdict = None;
        Ok(())
    }

    /// What concerns every shard.
    fn apply_to_table(&mut self, operation: &OperationView<'_>, version: Version) {
        if operation.opcode == Opcode::Flush {
            for shard in self.shards.iter_mut() {
                shard.flush(operation.table, version);
            }
        }
    }

    #[inline]
    fn apply_operation(
        &mut self,
        operation: &OperationView<'_>,
        number: u32,
        context: &Context,
        outcome: impl FnOnce(&Outcome<'_>),
    ) -> Result<(), Missing> {
        let Some(index) = self.shards.index(operation.slot) else { return Ok(()) };
        let Ok(kept) = self.current(index, operation, number)? else {
            let decided = matches!(context.verdict, Verdict::Own | Verdict::Fails(_));
            assert!(decided, "a request is not voted for without the entry");
            outcome(&Outcome::failed(ErrorCode::CorruptBlock));
            return Ok(());
        };
        let current = kept.map(|kept| kept.entry(&self.value));
        let budget = &mut self.front.budgets[index];
        let (effect, done) =
            machine::evaluate(operation, current, context, budget, &mut self.scratch);
        let value = current.map_or(&[][..], |entry| entry.value);
        self.shards.shards[index].apply(&self.key, context.version, effect, value);
        outcome(&done);
        Ok(())
    }

    /// The entry that an operation is evaluated with, if it can be read. Leaves its encoded key and
    /// value in scratch.
    #[inline]
    fn current(
        &mut self,
        index: usize,
        operation: &OperationView<'_>,
        number: u32,
    ) -> Result<Result<Option<Kept>, Unreadable>, Missing> {
        let shard = &self.shards.shards[index];
        shard.encode_key(operation.table, operation.key, &mut self.key);
        let needs = machine::needs(operation);
        if needs == Needs::Nothing {
            return Ok(Ok(None));
        }
        let value = &mut self.value;
        let keep = |entry: Option<Entry<'_>>| entry.map(|entry| Kept::new(&entry, value));
        let read = match shard.look(&self.key, LATEST, want(operation, needs), keep) {
            Looked::Known(current) => return Ok(Ok(current)),
            Looked::NeedsRead(read) => read,
        };
        match self.front.fetched(number) {
            Some(fetched) => {
                let kept = |entry: &OwnedEntry| Kept::of_owned(entry, &mut self.value);
                Ok(fetched.entry.as_ref().map_err(|fault| *fault).map(|e| e.as_ref().map(kept)))
            }
            None => Err(Missing { operation: number, read }),
        }
    }

    /// The verdict on an all-or-none request, once everybody whom it concerns has voted.
    fn verdict(
        &mut self,
        request: &RequestView<'_>,
        cursor: &Cursor<'_>,
        deliver: &impl Deliver,
    ) -> Result<Verdict, Stop> {
        if self.shards.topology().cores() == 1 {
            return Ok(self.vote(request, cursor)?.verdict);
        }
        let topology = *self.shards.topology();
        let mut voters = CoreSet::default();
        for operation in request.operations() {
            voters.add(topology.core_of(topology.shard_of(operation.slot)));
        }
        let here = self.shards.core();
        if !voters.has(here) {
            // Nothing of it is done here, so it does not matter what is decided.
            return Ok(Verdict::Own);
        }
        if !self.front.voted {
            let ballot = self.vote(request, cursor)?;
            for core in voters.iter().filter(|core| *core != here) {
                deliver.vote(core, ballot);
            }
            self.count(&ballot);
            self.front.voted = true;
        }
        let of_request = |tally: &Tally| {
            (tally.all.op, tally.all.request) == (cursor.committed.op, cursor.operation)
        };
        let place = self.tallies.iter().position(of_request).expect("this core has voted");
        if self.tallies[place].count < voters.len() {
            return Err(Stop::Ballots);
        }
        self.front.voted = false;
        Ok(self.tallies.swap_remove(place).all.verdict)
    }

    /// Counts a ballot.
    fn count(&mut self, ballot: &Ballot) {
        let of_request =
            |tally: &&mut Tally| (tally.all.op, tally.all.request) == (ballot.op, ballot.request);
        match self.tallies.iter_mut().find(of_request) {
            Some(tally) => {
                tally.count += 1;
                tally.all.count(ballot);
            }
            None => self.tallies.push(Tally { count: 1, all: *ballot }),
        }
    }

    /// The votes of this core's operations of an all-or-none request, counted.
    fn vote(&mut self, request: &RequestView<'_>, cursor: &Cursor<'_>) -> Result<Ballot, Missing> {
        let mut ballot = Ballot {
            op: cursor.committed.op,
            request: cursor.operation,
            verdict: Verdict::Holds,
            decided_by: u32::MAX,
        };
        // Votes take from the budgets as if the request were done; only doing it takes for good.
        let mut budgets = self.front.budgets.clone();
        for (offset, operation) in request.operations().enumerate() {
            let number = cursor.operation + offset as u32;
            let Some(index) = self.shards.index(operation.slot) else { continue };
            let Ok(kept) = self.current(index, &operation, number)? else {
                ballot.decide(number, Vote::Refused(ErrorCode::CorruptBlock));
                continue;
            };
            let current = kept.map(|kept| kept.entry(&self.value));
            let context = Context {
                timestamp: cursor.committed.timestamp,
                version: cursor.committed.timestamp.version(number),
                value_max: self.value_max,
                verdict: Verdict::Own,
            };
            let (budget, scratch) = (&mut budgets[index], &mut self.scratch);
            let vote = machine::vote(&operation, current, &context, budget, scratch);
            ballot.decide(number, vote);
        }
        Ok(ballot)
    }

    /// The look-up that stopped the prepare, and those that operations behind it will need.
    fn missing(&mut self, first: Missing, committed: &Committed) -> Vec<Missing> {
        let from = first.operation;
        self.front.stopped = from;
        let mut missing = vec![first];
        let requests = Requests::of_body(&committed.body);
        let operations = requests.flat_map(|request| request.operations());
        for (number, operation) in (0..).zip(operations).skip(from as usize + 1) {
            let Some(index) = self.shards.index(operation.slot) else { continue };
            if missing.len() == MISSING_MAX {
                break;
            }
            if operation.opcode.has_key()
                && let Err(read) = self.current(index, &operation, number)
            {
                missing.push(read);
            }
        }
        missing
    }
}

/// What an operation on a key needs to have read; none if nothing.
pub(crate) fn wanted(operation: &OperationView<'_>) -> Option<Want> {
    match machine::needs(operation) {
        _ if !operation.opcode.has_key() => None,
        Needs::Nothing => None,
        needs => Some(want(operation, needs)),
    }
}

/// What to look up of an entry. A change of deadline writes the value again, so it needs it.
fn want(operation: &OperationView<'_>, needs: Needs) -> Want {
    let rewrites = matches!(operation.opcode, Opcode::Expire | Opcode::Persist);
    if needs == Needs::Value || rewrites { Want::Value } else { Want::Metadata }
}

/// An entry without its value, which was copied away: evaluation borrows it while shards change.
#[derive(Clone, Copy)]
struct Kept {
    size: u32,
    deadline: u64,
    version: Version,
}

impl Kept {
    fn new(entry: &Entry<'_>, value: &mut Vec<u8>) -> Kept {
        value.clear();
        value.extend_from_slice(entry.value);
        Kept { size: entry.value_size, deadline: entry.deadline, version: entry.version }
    }

    fn of_owned(entry: &OwnedEntry, value: &mut Vec<u8>) -> Kept {
        value.clear();
        value.extend_from_slice(&entry.value);
        let size = u32::try_from(entry.value_len).expect("values are far below 4 GiB");
        Kept { size, deadline: entry.deadline, version: Version(entry.version) }
    }

    fn entry<'a>(&self, value: &'a [u8]) -> Entry<'a> {
        let (deadline, version) = (self.deadline, self.version);
        Entry { value, value_size: self.size, deadline, version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(operation: u32, size: usize) -> Fetched {
        let value = vec![0; size];
        let entry = OwnedEntry { version: 1, deadline: 0, value_len: size as u64, value };
        Fetched { operation, entry: Ok(Some(entry)) }
    }

    #[test]
    fn what_is_fetched_for_a_prepare_is_bounded_and_freed_as_it_is_used() {
        let mut front = Front { stopped: 3, ..Front::default() };
        front.keep(fetched(7, 60));
        assert!(front.has_room_for(9, 100));
        front.keep(fetched(5, 60));
        assert!(!front.has_room_for(9, 100), "120 bytes are there");
        assert!(front.has_room_for(3, 100), "the prepare cannot go on without it");
        front.keep(fetched(3, 60));
        let there = |front: &Front| -> Vec<u32> {
            (0..10).filter(|&n| front.fetched(n).is_some()).collect()
        };
        assert_eq!(there(&front), vec![3, 5, 7]);
        front.done(3);
        front.done(4);
        assert_eq!((there(&front), front.fetched_bytes), (vec![5, 7], 120));
        front.done(5);
        assert!(front.has_room_for(9, 100));
        front.done(7);
        assert_eq!(front.fetched_bytes, 0);
        front.end();
    }
}
