//! Reads: in place when memory has the answer, else by a fixed number of readers.
//!
//! *In place.* A connection's look-up of a key of its own core is a borrow of the shard, one
//! look-up and the rendering of the reply, without a task switch. A read of one key needs no read
//! index: what is acknowledged is applied, so the newest entry here is at least as new as anything
//! the client can have heard of. A read of several keys is as of one version, that of the newest op
//! of which anything may have been acknowledged. Compaction drops what is superseded, whoever still
//! reads it: when a read of several keys has taken so long that its version is below what a shard
//! keeps, or the table was flushed after it, it begins again as of a newer version; after
//! [`ATTEMPTS_MAX`] of them it fails by name (`snapshot_too_old`).
//!
//! *By a reader.* What memory cannot tell becomes a job: one of a fixed number of reader tasks
//! awaits the grid, renders the reply and completes the connection's run. Their number bounds the
//! look-ups in flight; jobs wait in line, as many as connections have put on their desks.
//!
//! *On other cores.* What is asked of a key of another core goes there by lane, is answered by that
//! core out of memory or by its readers, and completes the run here. A read of several keys that
//! are not all of this core first takes a *read index* from the replica's core: the newest op that
//! was given to the cores, which contains everything acknowledged by then. Each core applies up to
//! it and looks up as of its version, so that the read sees one state of all cores.
//!
//! *For the applier.* What a committed prepare cannot go on without is fetched by tasks of their
//! own. A reader may wait for log time, and log time moves only when prepares are applied: if the
//! applier had to wait for a reader, a few reads of keys that have just expired could stop it for
//! ever.
//!
//! *In a cluster* this node alone cannot know what was acknowledged: every run of look-ups first
//! takes a read index ([`crate::replica::rounds`]), of which all that come meanwhile share the
//! next, and is as of that version. What memory has is answered at once then.
//!
//! *Expiry.* Whether a deadline has passed is a fact only when log time has passed it. A read that
//! finds a deadline between log time and now first has a pulse committed ([`Expiry::Due`]), then
//! looks again; so what was once seen expired is expired in every replay.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::{self, Event};
use ioring::{Either, Queue, spawn};
use lsm::lookup::{LookupError, OwnedEntry, Read as GridRead, Want};
use vsr::replica::Expiry;
use wire::{ErrorCode, Outcome, Slot, Timestamp, Value, Version, slot_of_key};

use super::Core;
use super::desk::{Asked, Desk, Lookup};
use crate::gateway::runs::{RunId, Tag};
use crate::machine::Entry;
use crate::mesh::ReadIndex;
use crate::mesh::batch::{Ask, FarLookup, Reply};
use crate::metrics::Counter;
use crate::repair;
use crate::replica::member::PATIENCE;
use crate::resp::plan::{Form, TABLE};
use crate::resp::{Arguments, Combine, KeyRead, read, reply};
use crate::shard::apply::{MISSING_MAX, Missing};
use crate::shard::{LATEST, Looked};
use crate::topology::CoreIndex;

/// Readers of a core: look-ups in flight.
const READERS: usize = 64;
/// Look-ups in flight for the applier.
const FETCHERS: usize = 32;
/// How often a read of several keys begins before it is given up: each time several bars have ended
/// under it, so reads have no chance against writes.
const ATTEMPTS_MAX: u32 = 32;
/// Jobs that wait in line without an allocation.
const JOBS: usize = 4096;
/// How long to wait when a deadline is still to come by the replica's clock.
const CLOCK_STEP: Duration = Duration::from_millis(1);
/// Idle vectors of keys kept.
const KEYS_KEPT: usize = 256;

/// Whether a read was answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// The reply is appended.
    Rendered,
    /// It has to wait; nothing is appended.
    Wait,
}

/// What a look-up in memory came to, seen from a reader.
enum Found<R> {
    Answer(R),
    /// The deadline is between log time and now.
    Due(Timestamp),
    Grid(GridRead),
    /// Another core has the key.
    Elsewhere,
    /// What was there at the version may be gone.
    Stale,
}

/// Why a look-up has no answer.
enum Unanswered {
    Failed(ErrorCode),
    /// What was there at its version may be gone.
    Stale,
}

/// A connection's look-up on its way through a reader.
struct Job {
    tag: Tag,
    asked: Asked,
    slot: Slot,
    key: Vec<u8>,
    as_of: Option<ReadIndex>,
}

/// The readers of a core and what waits for them.
pub struct Reads {
    jobs: sync::Queue<Job>,
    /// What the line has no room for; readers that are done look here first.
    overflow: RefCell<VecDeque<Job>>,
    /// Look-ups for the applier that wait for a fetcher.
    fetches: sync::Queue<Missing>,
    /// Look-ups for the applier, waiting or under way.
    fetching: Cell<usize>,
    keys: RefCell<Vec<Vec<u8>>>,
    /// Something was applied: whoever waits for that looks again.
    applied: Event,
    waiting: Cell<u32>,
    encoded: RefCell<Vec<u8>>,
    rendered: RefCell<Vec<u8>>,
}

impl Default for Reads {
    fn default() -> Reads {
        Reads {
            jobs: sync::Queue::new(JOBS),
            overflow: RefCell::default(),
            fetches: sync::Queue::new(MISSING_MAX),
            fetching: Cell::new(0),
            keys: RefCell::default(),
            applied: Event::new(),
            waiting: Cell::new(0),
            encoded: RefCell::default(),
            rendered: RefCell::default(),
        }
    }
}

impl Reads {
    /// Starts the readers and the fetchers.
    pub fn start(core: &Rc<Core>) {
        for _ in 0..READERS {
            let core = core.clone();
            spawn(Queue::Foreground, "reader", async move { core.reads.serve(&core).await })
                .detach();
        }
        for _ in 0..FETCHERS {
            let core = core.clone();
            let fetch = async move {
                while let Some(missing) = core.reads.fetches.pop().await {
                    core.reads.fetch_one(&core, missing).await;
                }
            };
            spawn(Queue::Foreground, "fetcher", fetch).detach();
        }
    }

    /// Reads one key in place.
    #[inline]
    pub fn key_in_place(
        &self,
        core: &Core,
        what: KeyRead,
        key: &[u8],
        form: Form,
        out: &mut Vec<u8>,
    ) -> InPlace {
        if core.clustered {
            return InPlace::Wait;
        }
        let render = |entry: Option<Entry<'_>>, now| what.append(entry, now, form, out);
        match self.look(core, slot_of_key(key), key, LATEST, want(what), render) {
            Found::Answer(()) => {
                core.metrics.count(Counter::ReadsInPlace);
                InPlace::Rendered
            }
            Found::Due(_) | Found::Grid(_) | Found::Elsewhere => InPlace::Wait,
            Found::Stale => unreachable!("the newest entry is never stale"),
        }
    }

    /// Reads several keys in place, all as of one version, or none.
    pub fn many_in_place(
        &self,
        core: &Core,
        combine: Combine,
        keys: Arguments<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> InPlace {
        if core.clustered || core.applier.is_behind() {
            return InPlace::Wait;
        }
        let start = out.len();
        let mut existing = 0;
        if combine == Combine::Values {
            read::append_values_head(keys.len(), form, out);
        }
        for key in keys.iter() {
            let slot = slot_of_key(key);
            let found = match combine {
                Combine::Values => self.look(core, slot, key, LATEST, Want::Value, |entry, now| {
                    KeyRead::Value.append(entry, now, form, out);
                }),
                Combine::Count => {
                    self.look(core, slot, key, LATEST, Want::Metadata, |entry, now| {
                        existing += u64::from(entry.is_some_and(|entry| entry.lives_at(now)));
                    })
                }
            };
            // What is too large for a reply is found out by the readers, who count as they go.
            let too_large = out.len() - start > core.connection_limits.reply_max;
            if too_large || !matches!(found, Found::Answer(())) {
                out.truncate(start);
                return InPlace::Wait;
            }
        }
        if combine == Combine::Count {
            read::append_count(existing, form, out);
        }
        core.metrics.add(Counter::ReadsInPlace, keys.len() as u64);
        InPlace::Rendered
    }

    /// Looks a key up in memory. `render` gets the entry and the time to judge it by.
    #[inline]
    fn look<R>(
        &self,
        core: &Core,
        slot: Slot,
        key: &[u8],
        version: Version,
        want: Want,
        render: impl FnOnce(Option<Entry<'_>>, Timestamp) -> R,
    ) -> Found<R> {
        let encoded = &mut *self.encoded.borrow_mut();
        let (log_time, now) = (core.applier.log_time(), core.now());
        core.applier.with_shards(|shards| {
            let Some(shard) = shards.of_slot(slot) else { return Found::Elsewhere };
            shard.encode_key(TABLE, key, encoded);
            let looked = shard.look(encoded, version, want, |entry| match entry {
                Some(entry) if is_due(entry.deadline, log_time, now) => {
                    Err(Timestamp(entry.deadline))
                }
                entry => Ok(render(entry, now)),
            });
            match looked {
                Looked::Known(Ok(answer)) => Found::Answer(answer),
                Looked::Known(Err(deadline)) => Found::Due(deadline),
                Looked::NeedsRead(read) => Found::Grid(read),
            }
        })
    }

    /// Has the readers, of whichever cores have the keys, answer a desk's look-ups: when this
    /// returns the run is complete.
    pub async fn answer_run(&self, core: &Core, run: RunId, desk: &Desk) {
        let mut together = desk.lookups().iter().filter(|lookup| lookup.together).peekable();
        let any = together.peek().is_some();
        let here = together.all(|lookup| core.has_slot(lookup.slot));
        for attempt in 0.. {
            let as_of = match (any, here) {
                _ if core.clustered => match read_index(core).await {
                    Ok(index) => Some(index),
                    Err(code) => return self.refuse_run(core, run, desk, code),
                },
                (false, _) => None,
                // What is acknowledged may be of a prepare that is applied in part.
                (true, true) => Some(core.applier.acknowledged()),
                (true, false) => Some(newest(core).await),
            };
            core.runs.begin(run, desk.outcomes(), 0);
            self.submit(core, run, desk, as_of);
            core.runs.wait(run).await;
            if !core.runs.is_stale(run) {
                return;
            }
            core.runs.end(run);
            core.metrics.count(Counter::ReadsBegunAgain);
            if attempt == ATTEMPTS_MAX {
                return self.give_up(core, run, desk).await;
            }
        }
    }

    /// Answers what has to be as of one version with an error, and the rest as ever.
    async fn give_up(&self, core: &Core, run: RunId, desk: &Desk) {
        core.runs.begin(run, desk.outcomes(), 0);
        for (first, lookup) in (0..).zip(desk.lookups()) {
            if lookup.together {
                let tag = Tag { core: core.index, run, first };
                core.runs.complete(tag, 0, &Outcome::failed(ErrorCode::SnapshotTooOld));
            } else {
                self.submit_one(core, run, desk, first, None);
            }
        }
        core.runs.wait(run).await;
    }

    /// Answers all look-ups of a desk with an error.
    fn refuse_run(&self, core: &Core, run: RunId, desk: &Desk, code: ErrorCode) {
        core.runs.begin(run, desk.outcomes(), 0);
        for first in 0..desk.outcomes() as u32 {
            let tag = Tag { core: core.index, run, first };
            core.runs.complete(tag, 0, &Outcome::failed(code));
        }
    }

    /// Hands a desk's look-ups to the readers; their outcomes complete the run.
    fn submit(&self, core: &Core, run: RunId, desk: &Desk, as_of: Option<ReadIndex>) {
        for (first, lookup) in (0..).zip(desk.lookups()) {
            let as_of = as_of.filter(|_| lookup.together || core.clustered);
            self.submit_one(core, run, desk, first, as_of);
        }
    }

    fn submit_one(
        &self,
        core: &Core,
        run: RunId,
        desk: &Desk,
        first: u32,
        as_of: Option<ReadIndex>,
    ) {
        let Lookup { asked, slot, ref key, .. } = desk.lookups()[first as usize];
        let key = &desk.keys()[key.start as usize..key.end as usize];
        let tag = Tag { core: core.index, run, first };
        if core.has_slot(slot) {
            return match core.clustered {
                true => self.answer_now(core, tag, asked, slot, key, as_of),
                false => self.enqueue(tag, asked, slot, key, as_of),
            };
        }
        core.mesh.ask(core.core_of(slot), |batch| {
            let start = batch.bytes.len();
            batch.bytes.extend_from_slice(key);
            let key = start..batch.bytes.len();
            batch.items.push(Ask::Lookup(FarLookup { tag, asked, slot, key, as_of }));
        });
    }

    /// Answers another core's look-up: at once if memory tells and the way back is clear, else by a
    /// reader.
    pub fn answer_far(&self, core: &Core, lookup: &FarLookup, bytes: &[u8]) {
        let FarLookup { tag, asked, slot, ref key, as_of } = *lookup;
        let key = &bytes[key.clone()];
        match core.mesh.has_room(tag.core) {
            true => self.answer_now(core, tag, asked, slot, key, as_of),
            false => self.enqueue(tag, asked, slot, key, as_of),
        }
    }

    /// Answers a look-up at once if memory tells, else has a reader do it.
    fn answer_now(
        &self,
        core: &Core,
        tag: Tag,
        asked: Asked,
        slot: Slot,
        key: &[u8],
        as_of: Option<ReadIndex>,
    ) {
        if as_of.is_some_and(|as_of| core.applier.done() < as_of.op) {
            return self.enqueue(tag, asked, slot, key, as_of);
        }
        let rendered = &mut *self.rendered.borrow_mut();
        rendered.clear();
        match self.look_asked(core, asked, slot, key, as_of, rendered) {
            Found::Answer(exists) => {
                core.metrics.count(Counter::ReadsInPlace);
                finish(core, tag, asked, Ok(exists), rendered);
            }
            Found::Stale => finish(core, tag, asked, Err(Unanswered::Stale), rendered),
            Found::Due(_) | Found::Grid(_) => self.enqueue(tag, asked, slot, key, as_of),
            Found::Elsewhere => unreachable!("a look-up goes to the core of its slot"),
        }
    }

    /// Fetches what the applier cannot go on without.
    pub fn fetch(&self, missing: Vec<Missing>) {
        assert_eq!(self.fetching.get(), 0, "the applier asks again when it has what it asked for");
        self.fetching.set(missing.len());
        for missing in missing {
            self.fetches.try_push(missing).expect("the line takes all that may be missing");
        }
    }

    fn enqueue(&self, tag: Tag, asked: Asked, slot: Slot, key: &[u8], as_of: Option<ReadIndex>) {
        let mut copy = self.keys.borrow_mut().pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(key);
        let job = Job { tag, asked, slot, key: copy, as_of };
        if let Err(job) = self.jobs.try_push(job) {
            self.overflow.borrow_mut().push_back(job);
        }
    }

    /// Whether look-ups for the applier are under way.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        self.fetching.get() > 0
    }

    /// Something was applied: log time has moved.
    pub fn on_applied(&self) {
        if self.waiting.get() > 0 {
            self.applied.notify();
        }
    }

    async fn serve(&self, core: &Core) {
        let mut rendered = Vec::new();
        loop {
            let next = self.overflow.borrow_mut().pop_front();
            let job = match next {
                Some(job) => job,
                None => match self.jobs.pop().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let Job { tag, asked, slot, key, as_of } = job;
            rendered.clear();
            let answer = self.answer(core, asked, slot, &key, as_of, &mut rendered).await;
            if tag.core != core.index {
                core.mesh.wait_for_room(tag.core).await;
            }
            finish(core, tag, asked, answer, &rendered);
            let mut keys = self.keys.borrow_mut();
            if keys.len() < KEYS_KEPT {
                keys.push(key);
            }
        }
    }

    /// Fetches an entry for the applier, which goes on when the last one is there.
    async fn fetch_one(&self, core: &Core, missing: Missing) {
        let (operation, read) = missing.into_parts();
        let entry = match core.applier.has_room_for(operation) {
            true => read.run().await,
            false => Err(LookupError::Moved),
        };
        match entry {
            Ok(entry) => core.applier.fetched(operation, entry),
            // The tables changed, or there is no room: the applier looks again and asks again.
            Err(LookupError::Moved) => {}
            // What the log says cannot be done without knowing what was there: it is not done, or
            // looked for again.
            Err(LookupError::Corrupt(fault)) if repair::waits_for_copy(core, &fault).await => {}
            Err(LookupError::Corrupt(fault)) => {
                core.on_corrupt();
                let op = core.applier.applied().next();
                tracing::error!(%op, operation, %fault, "an operation of the log is not done");
                if let Err(error) = core.applier.unreadable(operation, &fault) {
                    ioring::fatal(ioring::Fatal::Corrupt(format!("{error}: {fault}")));
                }
            }
        }
        self.fetching.set(self.fetching.get() - 1);
        if self.fetching.get() == 0 {
            core.advance();
        }
    }

    /// Looks a key up in memory and renders what is asked; whether it exists.
    fn look_asked(
        &self,
        core: &Core,
        asked: Asked,
        slot: Slot,
        key: &[u8],
        as_of: Option<ReadIndex>,
        out: &mut Vec<u8>,
    ) -> Found<bool> {
        if is_stale(core, slot, as_of) {
            return Found::Stale;
        }
        let version = as_of.map_or(LATEST, |as_of| as_of.version);
        let want = match asked {
            Asked::Render(what, _) => want(what),
            Asked::Exists => Want::Metadata,
        };
        self.look(core, slot, key, version, want, |entry, now| render(asked, entry, now, out))
    }

    /// Looks a key up, waiting for what is needed; whether it exists.
    async fn answer(
        &self,
        core: &Core,
        asked: Asked,
        slot: Slot,
        key: &[u8],
        as_of: Option<ReadIndex>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Unanswered> {
        while as_of.is_some_and(|as_of| core.applier.done() < as_of.op) {
            self.wait_applied().await;
        }
        loop {
            let read = match self.look_asked(core, asked, slot, key, as_of, out) {
                Found::Answer(exists) => return Ok(exists),
                Found::Stale => return Err(Unanswered::Stale),
                Found::Due(deadline) => {
                    self.wait_for_time(core, deadline).await;
                    continue;
                }
                Found::Grid(read) => read,
                Found::Elsewhere => unreachable!("a look-up goes to the core of its slot"),
            };
            core.metrics.count(Counter::ReadsFromGrid);
            let result = read.run().await;
            if is_stale(core, slot, as_of) {
                return Err(Unanswered::Stale);
            }
            match result {
                Err(LookupError::Moved) => {}
                Err(LookupError::Corrupt(fault)) => {
                    core.on_corrupt();
                    tracing::error!(%fault, "a read met a corrupt block");
                    let Asked::Render(_, form) = asked else {
                        return Err(Unanswered::Failed(ErrorCode::CorruptBlock));
                    };
                    if as_of.is_some() || asked.is_coded() {
                        return Err(Unanswered::Failed(ErrorCode::CorruptBlock));
                    }
                    // A reply of its own can say more than a code.
                    reply::append_corrupt(&fault, form, out);
                    return Ok(false);
                }
                Ok(entry) => {
                    if let Some(entry) = &entry {
                        core.applier.with_shards(|shards| {
                            let shard = shards.of_slot(slot);
                            shard.into_iter().for_each(|shard| shard.keep(&read, entry));
                        });
                    }
                    let (log_time, now) = (core.applier.log_time(), core.now());
                    let deadline = entry.as_ref().map_or(0, |entry| entry.deadline);
                    if is_due(deadline, log_time, now) {
                        self.wait_for_time(core, Timestamp(deadline)).await;
                        continue;
                    }
                    return Ok(render(asked, entry.as_ref().map(of_owned), now, out));
                }
            }
        }
    }

    /// Has an op committed that passes the deadline, and waits until it is applied here.
    async fn wait_for_time(&self, core: &Core, deadline: Timestamp) {
        while core.applier.log_time() < deadline {
            if core.request_time(deadline) {
                self.wait_applied().await;
            } else {
                ioring::select(self.wait_applied(), ioring::sleep(CLOCK_STEP)).await;
            }
        }
    }

    /// In a cluster, waits until this core has applied everything acknowledged before.
    ///
    /// # Errors
    /// [`ErrorCode::NotPrimary`] when there is no primary for a while.
    pub async fn catch_up(&self, core: &Core) -> Result<(), ErrorCode> {
        if core.clustered {
            let index = read_index(core).await?;
            while core.applier.done() < index.op {
                self.wait_applied().await;
            }
        }
        Ok(())
    }

    /// Waits until something more is applied.
    async fn wait_applied(&self) {
        let _waiting = Waiting::new(&self.waiting);
        self.applied.wait().await;
    }
}

/// One that waits, counted for as long as it does.
struct Waiting<'a>(&'a Cell<u32>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<u32>) -> Waiting<'a> {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Completes a look-up on the core of its connection.
fn finish(core: &Core, tag: Tag, asked: Asked, answer: Result<bool, Unanswered>, rendered: &[u8]) {
    let result = match (answer, asked) {
        (Ok(exists), Asked::Exists) => Ok(Value::Bool(exists)),
        (Ok(_), Asked::Render(..)) => Ok(Value::Bytes(rendered)),
        (Err(Unanswered::Failed(code)), _) => Err(code),
        (Err(Unanswered::Stale), _) if tag.core == core.index => return core.runs.stale(tag),
        (Err(Unanswered::Stale), _) => {
            return core.mesh.reply(tag.core, |batch| batch.items.push(Reply::Stale(tag)));
        }
    };
    core.finish(tag, 0, &Outcome { result, version: Version(0) });
}

/// The newest op that any core may have acknowledged something of.
async fn newest(core: &Core) -> ReadIndex {
    match core.index {
        // It is given to this core's applier when it is given to the others.
        CoreIndex::REPLICA => core.applier.newest(),
        _ => core.mesh.read_index().await,
    }
}

/// What a read in a cluster is as of: an op that contains everything acknowledged by now.
async fn read_index(core: &Core) -> Result<ReadIndex, ErrorCode> {
    if core.index == CoreIndex::REPLICA {
        return core.replica().read_index().await;
    }
    let patience = ioring::sleep(PATIENCE);
    match ioring::select(core.mesh.read_index(), patience).await {
        Either::First(index) => Ok(index),
        Either::Second(()) => Err(ErrorCode::NotPrimary),
    }
}

/// Whether what was there at a version may be gone from the slot's shard.
fn is_stale(core: &Core, slot: Slot, as_of: Option<ReadIndex>) -> bool {
    let Some(ReadIndex { version, .. }) = as_of else { return false };
    core.applier.with_shards(|shards| {
        let shard = shards.of_slot(slot).expect("a look-up goes to the core of its slot");
        shard.forest().snapshot_min() > version.0 || shard.generations().flushed_at(TABLE) > version
    })
}

/// Renders what is asked of an entry; whether it exists.
#[inline]
fn render(asked: Asked, entry: Option<Entry<'_>>, now: Timestamp, out: &mut Vec<u8>) -> bool {
    if let Asked::Render(what, form) = asked {
        what.append(entry, now, form, out);
    }
    entry.is_some_and(|entry| entry.lives_at(now))
}

#[inline]
fn is_due(deadline: u64, log_time: Timestamp, now: Timestamp) -> bool {
    deadline != 0 && Expiry::at(deadline, log_time, now) == Expiry::Due
}

fn want(what: KeyRead) -> Want {
    if what.needs_value() { Want::Value } else { Want::Metadata }
}

fn of_owned(entry: &OwnedEntry) -> Entry<'_> {
    let value_size = u32::try_from(entry.value_len).expect("values are far below 4 GiB");
    let (deadline, version) = (entry.deadline, Version(entry.version));
    Entry { value: &entry.value, value_size, deadline, version }
}
