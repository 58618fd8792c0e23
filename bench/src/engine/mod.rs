//! What the storage engine does alone: in this process, on one core, without a log and a network.
//!
//! What a node does on top of this is the log's and the network's; what it can never do better is
//! here. The engine is driven as a shard's core drives it ([`store`]): beats, bars, checkpoints, on
//! `ioring` with direct I/O. Each line of the table is one kind of work:
//!
//! | work | what it is |
//! | --- | --- |
//! | fill sequential | every key once, in order, into an empty grid |
//! | fill random | every key once, scattered, into another one; what follows goes on with that |
//! | overwrite | random keys again |
//! | read, cold | random keys that exist, right after an open with an empty cache |
//! | read, cached | random keys of as many as fit in an eighth of the cache |
//! | miss, cold / cached | keys that were never written, between those that were |
//! | scan | so many entries in order from a random key on |
//! | mixed 95/5, mixed 50/50 | random reads and overwrites |
//! | delete | random keys, until the time is over or all are gone |
//!
//! *Measured.* An operation's latency is from when its caller asks to when it may go on: a read
//! with its answer, a write when its op is applied and the op's share of compaction is paid. Writes
//! come in ops of a batch each, as group commit makes them; all of a batch have its latency. Write
//! amplification is bytes written to the grid over bytes of keys and values given, merges that are
//! still due and a last checkpoint included; so is the processor time, that of the whole process.
//! How long it took to do what was due is a column of its own. Read amplification is bytes read
//! from the grid for reads (not merges, where nothing merges) over bytes of keys and values
//! returned. Space amplification is bytes of blocks in use over bytes of keys and values that
//! exist, at the end.
//!
//! *Checked.* Every value read is compared with what was written last ([`data`]); after each work
//! that writes a sample of keys is read back. Any difference fails the run.

pub(crate) mod cases;
pub mod checkpoint;
pub mod data;
mod gauge;
pub(crate) mod plan;
pub mod soak;
mod steady;
pub mod store;
pub(crate) mod tally;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ioring::uring;
use lsm::config::Config;
use serde::{Deserialize, Serialize};

use crate::report::LatencySummary;
use store::StoreError;

/// What to measure, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Folder for the grids; they are removed afterwards.
    pub directory: PathBuf,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_size: u32,
    /// How long to measure what has no end of its own.
    pub duration: Duration,
    /// Writes in an op.
    pub batch: usize,
    /// Reads in flight.
    pub depth: usize,
    /// Entries of a scan.
    pub scan_length: usize,
    /// Bytes of the engine's cache.
    pub cache_bytes: u64,
    /// The core to measure on.
    pub cpu: usize,
    /// Rounds that deleting all keys is spread over.
    pub delete_rounds: u64,
    /// Seed of keys and order.
    pub seed: u64,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the module's table says it")]
pub enum Work {
    FillSequential,
    FillRandom,
    Overwrite,
    ReadCold,
    ReadCached,
    MissCold,
    MissCached,
    Scan,
    Mixed95,
    Mixed50,
    Delete,
}

/// All of it, in the order in which it is done.
pub const WORKS: [Work; 11] = [
    Work::FillSequential,
    Work::FillRandom,
    Work::Overwrite,
    Work::ReadCold,
    Work::MissCold,
    Work::ReadCached,
    Work::MissCached,
    Work::Scan,
    Work::Mixed95,
    Work::Mixed50,
    Work::Delete,
];

impl Work {
    /// As the table names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Work::FillSequential => "fill sequential",
            Work::FillRandom => "fill random",
            Work::Overwrite => "overwrite",
            Work::ReadCold => "read, cold",
            Work::ReadCached => "read, cached",
            Work::MissCold => "miss, cold",
            Work::MissCached => "miss, cached",
            Work::Scan => "scan",
            Work::Mixed95 => "mixed 95/5",
            Work::Mixed50 => "mixed 50/50",
            Work::Delete => "delete",
        }
    }
}

/// One measured line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub work: Work,
    /// Operations done; of scans, scans.
    pub operations: u64,
    /// In how many seconds.
    pub seconds: f64,
    /// Bytes of keys and values written and returned, each second.
    pub bytes_per_second: f64,
    /// Latencies of operations.
    pub latency: LatencySummary,
    /// Bytes written to the grid over bytes given; where something was written.
    pub write_amplification: Option<f64>,
    /// Bytes read from the grid over bytes returned; where nothing was written.
    pub read_amplification: Option<f64>,
    /// Reads of the grid for an operation.
    pub device_reads: f64,
    /// Bytes of blocks in use over bytes that exist, at the end.
    pub space_amplification: Option<f64>,
    /// Processor time of the process for an operation, in microseconds.
    pub cpu_us: f64,
    /// Resident memory of the process at the end, in bytes.
    pub resident_bytes: u64,
    /// Times that a step held the core for more than a millisecond.
    pub stalls: u64,
    /// Time in which less than a tenth of the mean was done, in seconds.
    pub stall_seconds: f64,
    /// Seconds from the last operation until what was due because of them was done.
    pub settle_seconds: f64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub work: Work,
    /// Operations done of it.
    pub operations: u64,
    /// For how long.
    pub elapsed: Duration,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ring cannot be set up.
    #[error("the ring cannot be set up: {0}")]
    Runtime(String),
    /// What was asked for cannot be measured.
    #[error("{0}")]
    Options(String),
    /// The storage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block went bad.
    #[error("{0}")]
    Corrupt(String),
    /// Another engine refused.
    #[error("{0}")]
    Peer(String),
    /// Reads gave what they must not.
    #[error("{work}: {wrong} of {reads} reads gave what was not written last", work = work.name())]
    Wrong {
        /// The work.
        work: Work,
        /// Wrong answers.
        wrong: u64,
        /// All answers.
        reads: u64,
    },
}

/// The engine's settings for what is asked for.
pub(crate) fn config(options: &Options) -> Config {
    let standard = Config::standard();
    // Twice as much as all keys and all their changes could ever need here, at least 4 GiB.
    let bytes = (64 * options.keys * u64::from(options.value_size + 64)).max(4 << 30);
    let grid_blocks_max = bytes / u64::from(standard.block_size);
    Config { grid_blocks_max, cache_bytes: options.cache_bytes, ..standard }
}

/// Does all the work, one kind after the other.
///
/// # Errors
/// [`EngineError`]; a wrong answer is one.
pub fn run(
    options: &Options,
    progress: impl Fn(&Progress) + Send + 'static,
) -> Result<Vec<Row>, EngineError> {
    check(options)?;
    in_folder(options, "quorate-bench-engine", move |folder, options| async move {
        let mut cases = cases::Cases::new(&folder, &options, Rc::new(progress));
        let mut rows = Vec::new();
        for work in WORKS {
            rows.push(cases.measure(work).await?);
        }
        Ok(rows)
    })
}

/// Runs `main` on the core that is asked for, in a folder of its own.
fn in_folder<R: Send + 'static, F: Future<Output = Result<R, EngineError>> + 'static>(
    options: &Options,
    name: &str,
    main: impl FnOnce(PathBuf, Options) -> F + Send + 'static,
) -> Result<R, EngineError> {
    let folder = options.directory.join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| EngineError::Options(format!("{}: {error}", folder.display())))?;
    let owned = folder.clone();
    let result = on_core(options, move |options| main(owned, options));
    // What was measured is not needed any more; what cannot be removed does no harm.
    let _ = std::fs::remove_dir_all(&folder);
    result
}

/// Refuses what cannot be measured.
pub(crate) fn check(options: &Options) -> Result<(), EngineError> {
    let config = config(options);
    if options.value_size < data::STAMP_SIZE as u32 || options.value_size > config.value_size_max {
        let (least, most) = (data::STAMP_SIZE, config.value_size_max);
        return Err(EngineError::Options(format!("values have {least} to {most} bytes")));
    }
    if options.keys < 1000 || options.keys > 1 << 30 {
        return Err(EngineError::Options("from a thousand keys to a billion".to_owned()));
    }
    Ok(())
}

/// Runs `main` on the core that is asked for.
pub(crate) fn on_core<R: Send + 'static, F: Future<Output = Result<R, EngineError>> + 'static>(
    options: &Options,
    main: impl FnOnce(Options) -> F + Send + 'static,
) -> Result<R, EngineError> {
    let ring = uring::Config {
        cpus: vec![options.cpu],
        idle: uring::Idle::Sleep,
        ..uring::Config::default()
    };
    let runtime =
        uring::Runtime::new(ring).map_err(|error| EngineError::Runtime(error.to_string()))?;
    let part = (main, options.clone());
    let mut results = runtime.run(vec![part], |(main, options)| main(options));
    results.pop().expect("one part was given")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the build is: on a real file system, with direct I/O.
    fn target() -> PathBuf {
        let program = std::env::current_exe().unwrap();
        program.parent().unwrap().to_owned()
    }

    #[test]
    fn every_kind_of_work_is_done_and_checked() {
        let folder = tempfile::tempdir_in(target()).unwrap();
        let options = Options {
            directory: folder.path().to_owned(),
            keys: 3000,
            value_size: 700,
            duration: Duration::from_millis(20),
            batch: 8,
            depth: 4,
            scan_length: 20,
            cache_bytes: 8 << 20,
            cpu: 0,
            delete_rounds: 1,
            seed: 1,
        };
        let rows = run(&options, |_| ()).unwrap();
        assert!(rows.iter().map(|row| row.work).eq(WORKS));
        for Row { work, operations, seconds, latency, .. } in &rows {
            assert!(*operations > 0 && *seconds > 0.0, "{work:?}");
            assert_eq!(latency.count, *operations, "{work:?}");
        }
        let fill = &rows[0];
        assert_eq!(fill.operations, 3000);
        assert!(fill.write_amplification.is_some_and(|bytes| bytes > 1.0), "{fill:?}");
        assert!(rows[3].device_reads > 0.0, "a cold read reads: {:?}", rows[3]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the grids are gone");
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let options = Options {
            directory: ".".into(),
            keys: 3000,
            value_size: 4,
            duration: Duration::ZERO,
            batch: 1,
            depth: 1,
            scan_length: 1,
            cache_bytes: 1 << 20,
            cpu: 0,
            delete_rounds: 1,
            seed: 1,
        };
        let error = run(&options, |_| ()).unwrap_err();
        assert!(error.to_string().contains("12 to"), "{error}");
    }
}
