//! The kinds of work, one after the other. The module above says what each is.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::{Instant, Queue, spawn};
use lsm::config::Config;
use lsm::entry::Payload;
use lsm::grid::GridStats;
use lsm::key::Range;
use lsm::lookup::{Lookup, LookupError, Want};
use lsm::scan::{Direction, Scan, ScanStep};
use lsm::tree::Tree;
use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::data::{self, Data};
use super::store::{Store, Write};
use super::{EngineError, Options, Progress, Row, WORKS, Work};
use crate::host::ProcessUse;
use crate::report::Latencies;
use crate::thread_time::ThreadTime;
use crate::workload::random_stream;

/// Keys read back after work that writes.
const SAMPLE: u64 = 20_000;
/// How often progress is shown, and the clock looked at by whoever does not wait.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);
/// Operations between two looks at the other tasks: a worker that never waits would starve them.
const YIELD_EVERY: u64 = 64;
/// Entries that one step of a scan looks at.
const SCAN_STEP: usize = 128;

type Show = Rc<dyn Fn(&Progress)>;

/// What all workers of a work share.
struct Shared {
    store: Store,
    data: Data,
    options: Options,
    tally: RefCell<Tally>,
    /// When progress was last shown.
    shown: Cell<Instant>,
    progress: Show,
}

/// What has been done so far.
#[derive(Default)]
struct Tally {
    latencies: Latencies,
    operations: u64,
    reads: u64,
    wrong: u64,
    bytes_written: u64,
    bytes_returned: u64,
}

/// Where a measurement began.
struct Start {
    at: Instant,
    cpu: ThreadTime,
    stats: GridStats,
    stalls: u64,
}

/// All of it.
pub(super) async fn all(
    folder: &Path,
    options: &Options,
    config: &Config,
    progress: Show,
) -> Result<Vec<Row>, EngineError> {
    let mut rows = Vec::new();
    let new = async |file: &str| {
        Ok::<_, EngineError>(Rc::new(Shared {
            store: Store::create(&folder.join(file), config).await?,
            data: Data::new(options.keys, options.value_size as usize, options.seed),
            options: options.clone(),
            tally: RefCell::default(),
            shown: Cell::new(ioring::now()),
            progress: Rc::clone(&progress),
        }))
    };
    let sequential = new("sequential.grid").await?;
    rows.push(measure(&sequential, Work::FillSequential).await?);
    drop(sequential);
    let mut shared = new("random.grid").await?;
    for work in WORKS.into_iter().skip(1) {
        match work {
            Work::ReadCold | Work::MissCold => shared = reopen(shared).await?,
            Work::ReadCached | Work::MissCached => warm(&shared).await?,
            _ => {}
        }
        rows.push(measure(&shared, work).await?);
    }
    Ok(rows)
}

async fn reopen(shared: Rc<Shared>) -> Result<Rc<Shared>, EngineError> {
    let shared = Rc::into_inner(shared).expect("all workers are done");
    Ok(Rc::new(Shared { store: shared.store.reopen().await?, ..shared }))
}

/// Has workers do one kind of work.
async fn measure(shared: &Rc<Shared>, work: Work) -> Result<Row, EngineError> {
    let workers = match work {
        Work::ReadCold | Work::MissCold | Work::Mixed95 | Work::Mixed50 => shared.options.depth,
        _ => 1,
    };
    let start = shared.begin();
    let until = start.at + shared.options.duration;
    let works: Vec<_> = (0..workers as u64)
        .map(|number| {
            let worker = Worker {
                shared: Rc::clone(shared),
                work,
                started: start.at,
                until,
                random: random_stream(shared.options.seed ^ (work as u64) << 32, number),
            };
            spawn(Queue::Foreground, "bench", worker.run())
        })
        .collect();
    for work in works {
        work.await?;
    }
    shared.row(work, start).await
}

/// One of those who do a kind of work.
struct Worker {
    shared: Rc<Shared>,
    work: Work,
    started: Instant,
    until: Instant,
    random: Xoshiro256PlusPlus,
}

impl Worker {
    async fn run(mut self) -> Result<(), EngineError> {
        let (mut done, mut yielded) = (0, 0);
        let mut batch = Vec::with_capacity(self.shared.options.batch);
        loop {
            let before = ioring::now();
            let filling = matches!(self.work, Work::FillSequential | Work::FillRandom);
            if !filling && before >= self.until {
                return Ok(());
            }
            let operations = match self.work {
                Work::FillSequential | Work::FillRandom | Work::Overwrite | Work::Delete => {
                    self.choose(done, &mut batch);
                    if batch.is_empty() {
                        return Ok(());
                    }
                    self.shared.write_keys(&batch, self.work == Work::Delete).await?;
                    batch.len() as u64
                }
                _ => self.one().await.map(|()| 1)?,
            };
            self.shared.note(ioring::now().since(before), operations);
            done += operations;
            if done - yielded >= YIELD_EVERY {
                yielded = done;
                self.shared.show(self.work, self.started);
                ioring::yield_now().await;
            }
        }
    }

    /// The keys of the next op.
    fn choose(&mut self, done: u64, batch: &mut Vec<u64>) {
        let (keys, size) = (self.shared.data.keys(), self.shared.options.batch as u64);
        batch.clear();
        match self.work {
            Work::FillSequential => batch.extend(done..(done + size).min(keys)),
            Work::FillRandom | Work::Delete => {
                let indices = done..(done + size).min(keys);
                batch.extend(indices.map(|index| data::scatter(index, keys)));
            }
            _ => {
                batch.extend((0..size).map(|_| self.random.random_range(0..keys)));
                // An op changes a key once: the last of its changes is what it comes to.
                batch.sort_unstable();
                batch.dedup();
            }
        }
    }

    /// One read, scan, or write of a mix.
    async fn one(&mut self) -> Result<(), EngineError> {
        let keys = self.shared.data.keys();
        let any = self.random.random_range(0..keys);
        let hot = self.random.random_range(0..self.shared.hot_keys());
        let reads_percent = match self.work {
            Work::Mixed95 => 95,
            Work::Mixed50 => 50,
            _ => 100,
        };
        if self.random.random_range(0..100) >= reads_percent {
            return self.shared.write_keys(&[any], false).await;
        }
        match self.work {
            Work::ReadCached => self.shared.read_key(hot, false).await,
            Work::MissCached => self.shared.read_key(hot, true).await,
            Work::MissCold => self.shared.read_key(any, true).await,
            Work::Scan => self.shared.scan(any).await,
            _ => self.shared.read_key(any, false).await,
        }
    }
}

impl Shared {
    fn begin(&self) -> Start {
        *self.tally.borrow_mut() = Tally::default();
        let stalls = ioring::stats().stalls;
        Start { at: ioring::now(), cpu: ThreadTime::start(), stats: self.store.stats(), stalls }
    }

    /// Keys that fit in an eighth of the cache: their pages hold older versions and other keys too.
    fn hot_keys(&self) -> u64 {
        let fit = self.options.cache_bytes / 8 / (self.data.entry_bytes() + 32);
        fit.clamp(1, self.data.keys())
    }

    fn note(&self, latency: Duration, operations: u64) {
        let tally = &mut *self.tally.borrow_mut();
        tally.latencies.record_many(latency, operations);
        tally.operations += operations;
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
    async fn write_keys(&self, numbers: &[u64], delete: bool) -> Result<(), EngineError> {
        let mut bytes = Vec::with_capacity(numbers.len() * self.data.entry_bytes() as usize);
        let mut places = Vec::with_capacity(numbers.len());
        let mut key = Vec::with_capacity(64);
        for number in numbers {
            data::encode(*number, false, &mut key);
            let start = bytes.len();
            bytes.extend_from_slice(&key);
            let value = bytes.len();
            match delete {
                true => self.data.delete(*number),
                false => self.data.next_value(*number, &mut bytes),
            }
            places.push((start, value, bytes.len()));
        }
        let write = |&(start, value, end): &(usize, usize, usize)| Write {
            key: &bytes[start..value],
            value: (!delete).then_some(&bytes[value..end]),
        };
        let writes: Vec<Write<'_>> = places.iter().map(write).collect();
        self.store.apply(&writes).await?;
        let given = if delete { data::KEY_SIZE as u64 } else { self.data.entry_bytes() };
        self.tally.borrow_mut().bytes_written += given * numbers.len() as u64;
        Ok(())
    }

    /// Reads so many entries in order from a key on, and checks them.
    async fn scan(&self, first: u64) -> Result<(), EngineError> {
        let mut lower = Vec::new();
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
                    let right = data::decode(entry.key) == Some(next)
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

    fn check(&self, work: Work) -> Result<(), EngineError> {
        let Tally { reads, wrong, .. } = *self.tally.borrow();
        if wrong > 0 { Err(EngineError::Wrong { work, wrong, reads }) } else { Ok(()) }
    }

    /// Reads a sample of all keys back.
    async fn read_back(&self, work: Work) -> Result<(), EngineError> {
        *self.tally.borrow_mut() = Tally::default();
        let keys = self.data.keys();
        for index in 0..SAMPLE.min(keys) {
            self.read_key(data::scatter(index, keys), false).await?;
        }
        self.check(work)
    }

    /// The line of what was done since `start`.
    async fn row(&self, work: Work, start: Start) -> Result<Row, EngineError> {
        let (seconds, cpu) = (ioring::now().since(start.at).as_secs_f64(), start.cpu.elapsed());
        let stalls = ioring::stats().stalls - start.stalls;
        self.check(work)?;
        let tally = self.tally.take();
        let read = self.store.stats();
        let operations = tally.operations;
        if tally.bytes_written > 0 {
            self.store.settle().await?;
        }
        let written = self.store.stats().write_bytes - start.stats.write_bytes;
        let over = |bytes: u64, of: u64| (of > 0).then(|| bytes as f64 / of as f64);
        let read_bytes = read.read_bytes - start.stats.read_bytes;
        let existing = self.data.existing() * self.data.entry_bytes();
        let process = ProcessUse::read(std::process::id());
        let row = Row {
            work,
            operations,
            seconds,
            bytes_per_second: (tally.bytes_written + tally.bytes_returned) as f64 / seconds,
            latency: tally.latencies.summary(),
            write_amplification: over(written, tally.bytes_written),
            read_amplification: over(read_bytes, tally.bytes_returned)
                .filter(|_| tally.bytes_written == 0),
            device_reads: (read.reads - start.stats.reads) as f64 / operations.max(1) as f64,
            space_amplification: over(self.store.bytes_used(), existing),
            cpu_us: cpu.as_secs_f64() * 1e6 / operations.max(1) as f64,
            resident_bytes: process.map_or(0, |process| process.resident_bytes),
            stalls,
        };
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
    for number in 0..shared.hot_keys() {
        shared.read_key(number, false).await?;
    }
    Ok(())
}
