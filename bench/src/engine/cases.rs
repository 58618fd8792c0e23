//! The kinds of work, one after the other. The module above says what each is.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ioring::{Instant, Queue, spawn};
use lsm::entry::Payload;
use lsm::grid::GridStats;
use lsm::key::Range;
use lsm::lookup::{Lookup, LookupError, Want};
use lsm::scan::{Direction, Scan, ScanStep};
use lsm::tree::Tree;

use super::data::{self, Data};
use super::plan::{Action, Plan, hot_keys, workers};
use super::store::{Store, Write};
use super::tally::{Around, DiskUse, Tally};
use super::{EngineError, Options, Progress, Row, Work};
use crate::host::ProcessUse;

/// Keys read back after work that writes.
pub(crate) const SAMPLE: u64 = 20_000;
/// How often progress is shown, and the clock looked at by whoever does not wait.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);
/// Operations between two looks at the other tasks: a worker that never waits would starve them.
const YIELD_EVERY: u64 = 64;
/// Entries that one step of a scan looks at.
const SCAN_STEP: usize = 128;

pub(super) type Show = Rc<dyn Fn(&Progress)>;

/// The engine and what is in it, from one kind of work to the next.
pub(crate) struct Cases {
    folder: PathBuf,
    options: Options,
    progress: Show,
    shared: Option<Rc<Shared>>,
    /// Measured so far.
    round: u64,
    /// Where deletes stopped.
    deleted: u64,
}

/// What all workers of a work share.
pub(super) struct Shared {
    store: Store,
    data: Data,
    options: Options,
    tally: RefCell<Tally>,
    /// When progress was last shown.
    shown: Cell<Instant>,
    progress: Show,
}

/// Where a measurement began.
struct Start {
    at: Instant,
    process: ProcessUse,
    stats: GridStats,
    stalls: u64,
}

impl Cases {
    /// With nothing in it.
    pub(crate) fn new(folder: &Path, options: &Options, progress: Show) -> Cases {
        let (folder, options) = (folder.to_owned(), options.clone());
        Cases { folder, options, progress, shared: None, round: 0, deleted: 0 }
    }

    /// Does one kind of work. What needs data and finds none is preceded by a fill.
    pub(crate) async fn measure(&mut self, work: Work) -> Result<Row, EngineError> {
        if matches!(work, Work::FillSequential | Work::FillRandom) {
            return self.fill(work).await;
        }
        if self.shared.is_none() {
            self.fill(Work::FillRandom).await?;
        }
        let shared = self.shared.take().expect("it was filled");
        let shared = match work {
            Work::ReadCold | Work::MissCold => reopen(shared).await?,
            _ => shared,
        };
        if matches!(work, Work::ReadCached | Work::MissCached) {
            warm(&shared).await?;
        }
        self.shared = Some(shared);
        self.run(work).await
    }

    /// Fills an empty one.
    async fn fill(&mut self, work: Work) -> Result<Row, EngineError> {
        self.shared = None;
        let progress = Rc::clone(&self.progress);
        self.shared = Some(Rc::new(Shared::create(&self.folder, &self.options, progress).await?));
        self.deleted = 0;
        self.run(work).await
    }

    /// Has workers do one kind of work.
    async fn run(&mut self, work: Work) -> Result<Row, EngineError> {
        let shared = self.shared.as_ref().expect("it is open");
        self.round += 1;
        let from = if work == Work::Delete { self.deleted } else { 0 };
        let start = shared.begin();
        let until = start.at + self.options.duration;
        let tasks: Vec<_> = (0..workers(work, &self.options) as u64)
            .map(|number| {
                let plan = Plan::new(work, &self.options, self.round, number, from);
                let shared = Rc::clone(shared);
                let worker = Worker { shared, work, started: start.at, until, plan };
                spawn(Queue::Foreground, "bench", worker.run())
            })
            .collect();
        for task in tasks {
            let index = task.await?;
            if work == Work::Delete {
                self.deleted = index;
            }
        }
        shared.row(work, start).await
    }
}

async fn reopen(shared: Rc<Shared>) -> Result<Rc<Shared>, EngineError> {
    let shared = Rc::into_inner(shared).expect("all workers are done");
    Ok(Rc::new(Shared { store: shared.store.reopen().await?, ..shared }))
}

/// One of those who do a kind of work.
struct Worker {
    shared: Rc<Shared>,
    work: Work,
    started: Instant,
    until: Instant,
    plan: Plan,
}

impl Worker {
    /// Works until the time is over or there is no more to do; how far its plan came.
    async fn run(mut self) -> Result<u64, EngineError> {
        let (mut done, mut yielded) = (0, 0);
        let shared = &self.shared;
        loop {
            let before = ioring::now();
            if !self.plan.has_end() && before >= self.until {
                return Ok(self.plan.index());
            }
            let operations = match self.plan.next() {
                None => return Ok(self.plan.index()),
                Some(Action::Write(numbers)) => {
                    shared.write_keys(numbers, false).await?;
                    numbers.len() as u64
                }
                Some(Action::Delete(numbers)) => {
                    shared.write_keys(numbers, true).await?;
                    numbers.len() as u64
                }
                Some(Action::Read { number, missing }) => {
                    shared.read_key(number, missing).await.map(|()| 1)?
                }
                Some(Action::Scan(first)) => shared.scan(first).await.map(|()| 1)?,
            };
            let now = ioring::now();
            shared.note(now.since(self.started), now.since(before), operations);
            done += operations;
            if done - yielded >= YIELD_EVERY {
                yielded = done;
                shared.show(self.work, self.started);
                ioring::yield_now().await;
            }
        }
    }
}

impl Shared {
    /// An empty engine in a folder; what was there is gone.
    pub(super) async fn create(
        folder: &Path,
        options: &Options,
        progress: Show,
    ) -> Result<Shared, EngineError> {
        let path = folder.join("grid");
        // There is none the first time.
        let _ = ioring::fs::remove_file(&path);
        let Options { keys, value_size, seed, .. } = *options;
        Ok(Shared {
            store: Store::create(&path, &super::config(options)).await?,
            data: Data::new(keys, value_size as usize, seed),
            options: options.clone(),
            tally: RefCell::default(),
            shown: Cell::new(ioring::now()),
            progress,
        })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// On the disk that is used.
    pub(super) fn folder(&self) -> &Path {
        &self.options.directory
    }

    /// Bytes of keys and values written since the start or the last read-back.
    pub(super) fn bytes_given(&self) -> u64 {
        self.tally.borrow().bytes_written
    }

    /// Bytes of blocks in use over bytes of keys and values that exist.
    pub(super) fn space_amplification(&self) -> f64 {
        let existing = self.data.existing() * self.data.entry_bytes();
        self.store.bytes_used() as f64 / existing as f64
    }

    fn begin(&self) -> Start {
        *self.tally.borrow_mut() = Tally::default();
        Start {
            at: ioring::now(),
            process: ProcessUse::read(std::process::id()).unwrap_or_default(),
            stats: self.store.stats(),
            stalls: ioring::stats().stalls,
        }
    }

    fn note(&self, elapsed: Duration, latency: Duration, operations: u64) {
        self.tally.borrow_mut().note(elapsed, latency, operations);
    }

    /// Reads a key and checks what comes.
    async fn read_key(&self, number: u64, missing: bool) -> Result<(), EngineError> {
        let mut key = Vec::with_capacity(64);
        data::encode(number, missing, &mut key);
        let before = self.data.known(number);
        let right = |value: Option<&[u8]>| match value {
            value if !missing => self.data.is_right(number, value, before),
            value => value.is_none(),
        };
        let (mut is_right, mut bytes) = (None, 0);
        while is_right.is_none() {
            let looked = self.store.with(|forest| {
                forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, |entry| {
                    match entry.payload {
                        Payload::Inline(value) => {
                            bytes = self.data.entry_bytes();
                            right(Some(value))
                        }
                        _ => false,
                    }
                })
            });
            match looked {
                Lookup::Found(found) => is_right = Some(found),
                Lookup::Absent => is_right = Some(right(None)),
                Lookup::NeedsRead(read) => match read.run().await {
                    Ok(found) => {
                        if let Some(entry) = &found {
                            self.store.with(|forest| forest.keep_row(&read, entry));
                        }
                        let value = found.as_ref().map(|entry| entry.value.as_slice());
                        bytes = value.map_or(0, |_| self.data.entry_bytes());
                        is_right = Some(right(value));
                    }
                    Err(LookupError::Moved) => {}
                    Err(error) => return Err(EngineError::Corrupt(error.to_string())),
                },
            }
        }
        let tally = &mut *self.tally.borrow_mut();
        tally.reads += 1;
        tally.bytes_returned += bytes;
        tally.wrong += u64::from(is_right == Some(false));
        Ok(())
    }

    /// Writes or deletes keys in one op.
    pub(super) async fn write_keys(
        &self,
        numbers: &[u64],
        delete: bool,
    ) -> Result<(), EngineError> {
        let mut bytes = Vec::with_capacity(numbers.len() * self.data.entry_bytes() as usize);
        let mut places = Vec::with_capacity(numbers.len());
        let mut changes = Vec::with_capacity(numbers.len());
        let mut key = Vec::with_capacity(64);
        for number in numbers {
            data::encode(*number, false, &mut key);
            let start = bytes.len();
            bytes.extend_from_slice(&key);
            let value = bytes.len();
            let change = match delete {
                true => self.data.delete(*number),
                false => self.data.next_value(*number, &mut bytes),
            };
            places.push((start, value, bytes.len()));
            changes.push(change);
        }
        let write = |&(start, value, end): &(usize, usize, usize)| Write {
            key: &bytes[start..value],
            value: (!delete).then_some(&bytes[value..end]),
        };
        let writes: Vec<Write<'_>> = places.iter().map(write).collect();
        self.store.apply(&writes).await?;
        for (number, change) in numbers.iter().zip(changes) {
            self.data.acknowledge(*number, change);
        }
        let given = if delete { data::KEY_SIZE as u64 } else { self.data.entry_bytes() };
        self.tally.borrow_mut().bytes_written += given * numbers.len() as u64;
        Ok(())
    }

    /// Reads so many entries in order from a key on, and checks them.
    async fn scan(&self, first: u64) -> Result<(), EngineError> {
        let (mut lower, mut expected) = (Vec::new(), Vec::new());
        data::encode(first, false, &mut lower);
        let range = Range { lower, upper: None };
        let mut scan = Scan::new(Tree::Objects, range, Direction::Ascending, u64::MAX);
        let (mut next, mut wrong) = (first, 0);
        let end = (first + self.options.scan_length as u64).min(self.data.keys());
        while next < end {
            let step = self.store.with(|forest| {
                forest.scan_step(&mut scan, SCAN_STEP, |entry| {
                    let value = match entry.payload {
                        Payload::Inline(value) => Some(value),
                        _ => None,
                    };
                    data::encode(next, false, &mut expected);
                    let right = entry.key == expected
                        && self.data.is_right(next, value, self.data.known(next));
                    wrong += u64::from(!right);
                    next += 1;
                    if next == end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            });
            match step {
                ScanStep::Done => break,
                ScanStep::More => {}
                ScanStep::TooOld => unreachable!("the newest version is never too old"),
                ScanStep::NeedsRead(read) => match read.run().await {
                    Ok(loaded) => scan.supply(loaded),
                    Err(LookupError::Moved) => {}
                    Err(error) => return Err(EngineError::Corrupt(error.to_string())),
                },
            }
        }
        let tally = &mut *self.tally.borrow_mut();
        tally.reads += next - first;
        tally.bytes_returned += (next - first) * self.data.entry_bytes();
        tally.wrong += wrong + (end - next);
        Ok(())
    }

    /// Reads a sample of all keys back.
    pub(super) async fn read_back(&self, work: Work) -> Result<(), EngineError> {
        *self.tally.borrow_mut() = Tally::default();
        let keys = self.data.keys();
        for index in 0..SAMPLE.min(keys) {
            self.read_key(data::scatter(index, keys), false).await?;
        }
        self.tally.borrow().check(work)
    }

    /// The line of what was done since `start`.
    async fn row(&self, work: Work, start: Start) -> Result<Row, EngineError> {
        let ended = ioring::now();
        let stalls = ioring::stats().stalls - start.stalls;
        let tally = self.tally.take();
        tally.check(work)?;
        let read = self.store.stats();
        if tally.bytes_written > 0 {
            self.store.idle().await?;
        }
        let process = ProcessUse::read(std::process::id()).unwrap_or_default();
        let row = tally.row(
            work,
            &Around {
                seconds: ended.since(start.at).as_secs_f64(),
                settle_seconds: ioring::now().since(ended).as_secs_f64(),
                disk: DiskUse {
                    reads: read.reads - start.stats.reads,
                    read_bytes: read.read_bytes - start.stats.read_bytes,
                },
                write_bytes: self.store.stats().write_bytes - start.stats.write_bytes,
                process: process.since(&start.process),
                bytes_used: self.store.bytes_used(),
                bytes_existing: self.data.existing() * self.data.entry_bytes(),
                stalls,
            },
        );
        if tally.bytes_written > 0 {
            self.read_back(work).await?;
        }
        Ok(row)
    }

    fn show(&self, work: Work, started: Instant) {
        let now = ioring::now();
        if now.since(self.shown.get()) >= SHOW_INTERVAL {
            self.shown.set(now);
            let operations = self.tally.borrow().operations;
            (self.progress)(&Progress { work, operations, elapsed: now.since(started) });
        }
    }
}

/// Reads every hot key once.
async fn warm(shared: &Shared) -> Result<(), EngineError> {
    for number in 0..hot_keys(&shared.options) {
        shared.read_key(number, false).await?;
    }
    Ok(())
}
