//! Another engine doing what ours does, on threads, because that is the interface it has.
//!
//! The work is that of [`crate::engine`]: the same plans, the same data, the same checks. What
//! differs is how several operations are in flight at once: ours has so many futures on a core, a
//! peer has so many threads. All threads, the peer's own for its background work too, are bound to
//! the cores of the process.
//!
//! 1. A fill makes an empty store; everything else goes on with the store there is.
//! 2. Before cold reads the store is closed and opened again. Where the peer reads through the
//!    kernel's page cache, that is emptied of its files before cold reads, scans and mixes, and
//!    twice a second meanwhile: a machine whose memory is larger than the data would otherwise
//!    answer from it. Pages that are not written yet stay. Before cached reads the hot keys are
//!    read once.
//! 3. The workers do their plans. A key that threads write at the same time is changed under a lock
//!    of its own, so that it is known which change came last.
//! 4. After work that writes the peer is asked to write out and to finish what is due.
//! 5. What was read was compared on the way; after work that writes a sample is read back.
//!
//! *Counted.* The kernel counts for the process: `syscr` (calls that read), `read_bytes` (fetched
//! from the disk), `write_bytes` less `cancelled_write_bytes` (pages made dirty, or written
//! directly). A peer with direct I/O reads the disk once for every call; for one that reads through
//! the page cache a read is 4 KiB fetched.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::cases::SAMPLE;
use crate::engine::data::{Data, KEY_SIZE, scatter, user_key};
use crate::engine::plan::{Action, Plan, hot_keys, workers};
use crate::engine::store::Write;
use crate::engine::tally::{Around, DiskUse, Tally};
use crate::engine::{EngineError, Options, Row, Work};
use crate::host::ProcessUse;

/// Locks that keys share.
const LOCKS: usize = 1024;
/// How often the page cache is emptied while cold reads are measured.
const FORGET_INTERVAL: Duration = Duration::from_millis(500);
const PAGE_SIZE: u64 = 4096;

/// An engine that can be asked from several threads.
pub(super) trait Peer: Sync + Sized {
    /// Whether it reads and writes past the kernel's page cache.
    const DIRECT: bool;

    /// Opens what is in a folder, or an empty store.
    fn open(folder: &Path, options: &Options) -> Result<Self, String>;

    /// Its settings, by name.
    fn settings(options: &Options) -> Vec<(String, String)>;

    /// Writes and deletes keys together.
    fn write(&self, writes: &[Write<'_>]) -> Result<(), String>;

    /// Looks a key up, and what is found at.
    fn get<R>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, String>;

    /// Visits entries in order from a key on.
    fn scan(
        &self,
        first: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), String>;

    /// Writes everything out and finishes what is due.
    fn settle(&self) -> Result<(), String>;
}

/// A peer and what is in it, from one kind of work to the next.
pub(super) struct Cases<P> {
    folder: PathBuf,
    options: Options,
    peer: Option<P>,
    data: Data,
    locks: Vec<Mutex<()>>,
    round: u64,
    deleted: u64,
}

fn no_data(options: &Options) -> Data {
    Data::new(options.keys, options.value_size as usize, options.seed)
}

impl<P: Peer> Cases<P> {
    /// With nothing in it.
    pub(super) fn new(options: &Options) -> Cases<P> {
        Cases {
            folder: options.directory.join("store"),
            options: options.clone(),
            peer: None,
            data: no_data(options),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            round: 0,
            deleted: 0,
        }
    }

    /// Does one kind of work. What needs data and finds none is preceded by a fill.
    pub(super) fn measure(&mut self, work: Work) -> Result<Row, EngineError> {
        if matches!(work, Work::FillSequential | Work::FillRandom) {
            return self.fill(work);
        }
        if self.peer.is_none() {
            self.fill(Work::FillRandom)?;
        }
        if matches!(work, Work::ReadCold | Work::MissCold) {
            self.peer = None;
            self.peer = Some(P::open(&self.folder, &self.options).map_err(EngineError::Peer)?);
        }
        if matches!(work, Work::ReadCached | Work::MissCached) {
            let mut tally = Tally::default();
            let peer = self.peer.as_ref().expect("it is open");
            for number in 0..hot_keys(&self.options) {
                self.read(peer, number, false, &mut tally)?;
            }
            tally.check(work)?;
        }
        self.run(work)
    }

    fn fill(&mut self, work: Work) -> Result<Row, EngineError> {
        self.peer = None;
        self.data = no_data(&self.options);
        self.deleted = 0;
        // There is none the first time.
        let _ = fs::remove_dir_all(&self.folder);
        let folder = &self.folder;
        fs::create_dir_all(folder)
            .map_err(|error| EngineError::Peer(format!("{}: {error}", folder.display())))?;
        self.peer = Some(P::open(folder, &self.options).map_err(EngineError::Peer)?);
        self.run(work)
    }

    /// Whether it reads keys of which most should not be in memory.
    fn reads_everywhere(work: Work) -> bool {
        use Work::{MissCold, Mixed50, Mixed95, ReadCold, Scan};
        matches!(work, ReadCold | MissCold | Scan | Mixed95 | Mixed50)
    }

    fn run(&mut self, work: Work) -> Result<Row, EngineError> {
        self.round += 1;
        let peer = self.peer.as_ref().expect("it is open");
        let cold = !P::DIRECT && Self::reads_everywhere(work);
        if cold {
            forget(&self.folder);
        }
        let (process, before) = (own_use(), Counters::read());
        let started = Instant::now();
        let (tally, index) = self.work(peer, work, started, cold)?;
        let seconds = started.elapsed().as_secs_f64();
        let disk = Counters::read().since(&before);
        tally.check(work)?;
        let settling = Instant::now();
        if tally.bytes_written > 0 {
            peer.settle().map_err(EngineError::Peer)?;
        }
        let around = Around {
            seconds,
            settle_seconds: settling.elapsed().as_secs_f64(),
            disk: disk.reads(P::DIRECT),
            write_bytes: Counters::read().since(&before).write_bytes,
            process: own_use().since(&process),
            bytes_used: folder_bytes(&self.folder),
            bytes_existing: self.data.existing() * self.data.entry_bytes(),
            stalls: 0,
        };
        if tally.bytes_written > 0 {
            let mut tally = Tally::default();
            for index in 0..SAMPLE.min(self.data.keys()) {
                self.read(peer, scatter(index, self.data.keys()), false, &mut tally)?;
            }
            tally.check(work)?;
        }
        if work == Work::Delete {
            self.deleted = index;
        }
        Ok(tally.row(work, &around))
    }

    /// Has workers do one kind of work; what they did, and how far the last one's plan came.
    fn work(
        &self,
        peer: &P,
        work: Work,
        started: Instant,
        cold: bool,
    ) -> Result<(Tally, u64), EngineError> {
        let (from, done) =
            (if work == Work::Delete { self.deleted } else { 0 }, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers(work, &self.options) as u64)
                .map(|number| {
                    let plan = Plan::new(work, &self.options, self.round, number, from);
                    scope.spawn(move || self.worker(peer, plan, started))
                })
                .collect();
            if cold {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::thread::sleep(FORGET_INTERVAL);
                        forget(&self.folder);
                    }
                });
            }
            let mut all = Tally::default();
            let mut reached = Ok(from);
            for thread in threads {
                match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    Ok((tally, index)) => {
                        all.add(&tally);
                        reached = reached.map(|_| index);
                    }
                    Err(error) => reached = Err(error),
                }
            }
            done.store(true, Ordering::Relaxed);
            reached.map(|index| (all, index))
        })
    }

    fn worker(
        &self,
        peer: &P,
        mut plan: Plan,
        started: Instant,
    ) -> Result<(Tally, u64), EngineError> {
        let mut tally = Tally::default();
        loop {
            let before = Instant::now();
            if !plan.has_end() && before - started >= self.options.duration {
                return Ok((tally, plan.index()));
            }
            let operations = match plan.next() {
                None => return Ok((tally, plan.index())),
                Some(Action::Write(numbers)) => self.write(peer, numbers, false, &mut tally)?,
                Some(Action::Delete(numbers)) => self.write(peer, numbers, true, &mut tally)?,
                Some(Action::Read { number, missing }) => {
                    self.read(peer, number, missing, &mut tally)?
                }
                Some(Action::Scan(first)) => self.scan(peer, first, &mut tally)?,
            };
            let now = Instant::now();
            tally.note(now - started, now - before, operations);
        }
    }

    fn write(
        &self,
        peer: &P,
        numbers: &[u64],
        delete: bool,
        tally: &mut Tally,
    ) -> Result<u64, EngineError> {
        // Only mixes have several writers, and they write a key at a time: no order of locks.
        let _turn = match numbers {
            [number] => Some(self.locks[*number as usize % LOCKS].lock()),
            _ => None,
        }
        .map(|lock| lock.unwrap_or_else(PoisonError::into_inner));
        let mut values = Vec::with_capacity(numbers.len() * self.options.value_size as usize);
        let mut places = Vec::with_capacity(numbers.len());
        let mut changes = Vec::with_capacity(numbers.len());
        for number in numbers {
            let start = values.len();
            changes.push(match delete {
                true => self.data.delete(*number),
                false => self.data.next_value(*number, &mut values),
            });
            places.push((user_key(*number, false), start, values.len()));
        }
        let write = |(key, start, end): &'_ ([u8; KEY_SIZE], usize, usize)| (*key, *start..*end);
        let parts: Vec<_> = places.iter().map(write).collect();
        let value = |range: &std::ops::Range<usize>| (!delete).then(|| &values[range.clone()]);
        let writes: Vec<Write<'_>> =
            parts.iter().map(|(key, range)| Write { key, value: value(range) }).collect();
        peer.write(&writes).map_err(EngineError::Peer)?;
        for (number, change) in numbers.iter().zip(changes) {
            self.data.acknowledge(*number, change);
        }
        let given = if delete { KEY_SIZE as u64 } else { self.data.entry_bytes() };
        tally.bytes_written += given * numbers.len() as u64;
        Ok(numbers.len() as u64)
    }

    /// Reads a key and checks what comes.
    fn read(
        &self,
        peer: &P,
        number: u64,
        missing: bool,
        tally: &mut Tally,
    ) -> Result<u64, EngineError> {
        let before = self.data.known(number);
        let look = |value: Option<&[u8]>| {
            let right =
                if missing { value.is_none() } else { self.data.is_right(number, value, before) };
            (right, value.is_some())
        };
        let (right, found) =
            peer.get(&user_key(number, missing), look).map_err(EngineError::Peer)?;
        tally.reads += 1;
        tally.bytes_returned += if found { self.data.entry_bytes() } else { 0 };
        tally.wrong += u64::from(!right);
        Ok(1)
    }

    /// Reads so many entries in order from a key on, and checks them.
    fn scan(&self, peer: &P, first: u64, tally: &mut Tally) -> Result<u64, EngineError> {
        let end = (first + self.options.scan_length as u64).min(self.data.keys());
        let (mut next, mut wrong) = (first, 0);
        let visit = |key: &[u8], value: &[u8]| {
            let right = key == user_key(next, false)
                && self.data.is_right(next, Some(value), self.data.known(next));
            wrong += u64::from(!right);
            next += 1;
            if next == end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        peer.scan(&user_key(first, false), visit).map_err(EngineError::Peer)?;
        tally.reads += next - first;
        tally.bytes_returned += (next - first) * self.data.entry_bytes();
        tally.wrong += wrong + (end - next);
        Ok(1)
    }
}

fn own_use() -> ProcessUse {
    ProcessUse::read(std::process::id()).unwrap_or_default()
}

/// The kernel's counters of this process.
#[derive(Clone, Copy, Default)]
struct Counters {
    calls: u64,
    read_bytes: u64,
    write_bytes: u64,
}

impl Counters {
    fn read() -> Counters {
        let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let value = |name: &str| -> u64 {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let written = value("write_bytes").saturating_sub(value("cancelled_write_bytes"));
        Counters { calls: value("syscr"), read_bytes: value("read_bytes"), write_bytes: written }
    }

    fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            calls: self.calls - earlier.calls,
            read_bytes: self.read_bytes - earlier.read_bytes,
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
        }
    }

    fn reads(&self, direct: bool) -> DiskUse {
        let reads = if direct { self.calls } else { self.read_bytes / PAGE_SIZE };
        DiskUse { reads, read_bytes: self.read_bytes }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

/// Bytes of the disk that a folder's files take.
fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let blocks =
        files(folder).into_iter().filter_map(|path| Some(fs::metadata(path).ok()?.blocks()));
    blocks.sum::<u64>() * 512
}

/// Has the kernel drop what it holds of a folder's files in its page cache.
fn forget(folder: &Path) {
    for path in files(folder) {
        let mut from = std::ffi::OsString::from("if=");
        from.push(&path);
        let mut command = Command::new("dd");
        command.arg(from).args(["iflag=nocache", "count=0", "status=none"]);
        // A file may be gone since it was listed; what stays cached shows in the bytes read.
        let _ = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}
