//! Our storage engine side by side with others, in one run: `quorate bench compare --engine`.
//!
//! Every engine is embedded in a process of its own ([`serve`]) bound to the same core, and does
//! the work of [`crate::engine`] with the same keys, values, order, batches, depth and cache,
//! without a log (or with as little of one as it can have), compression or durability of a single
//! write.
//!
//! 1. For each kind of work, round by round, the engines take turns; the order is reversed in every
//!    second round. So whatever the machine does in those minutes it does to all of them.
//! 2. Before each turn the disk is asked what it can do at that moment: random reads of 4 KiB at
//!    the same depth before work that reads, writes of 256 KiB before work that writes. A shared
//!    disk changes its speed by the minute; a figure without the disk's own beside it says little.
//! 3. A figure is the median of its rounds. A ratio is made within a round, of turns that followed
//!    each other, and given as the median with the least and the most of the rounds.
//!
//! *In whose favour.* The core is one for all: a peer's threads, its background ones too, share it.
//! A peer's index and filter blocks are in memory beside its cache; ours count as part of it. The
//! engine `rocksdb+` is RocksDB with its own in the cache too, so with as much memory as ours.
//! Peers without direct I/O have the kernel's page cache on top of theirs, in memory that no column
//! shows; it is emptied twice a second where reads should come from the disk, and helps in between.
//! Latencies of writes are those of the whole batch.
//!
//! The engine `quorate` as a peer measures ours against itself: how much of a ratio is noise.

#[cfg(feature = "engines")]
mod fjall;
#[cfg(any(feature = "engines", test))]
mod peer;
#[cfg(feature = "engines")]
mod redb;
#[cfg(feature = "engines")]
mod rocksdb;
mod serve;
mod summary;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::{Access, Case, DeviceError, Probe};
use crate::engine::{self, EngineError, Options, Work};
use crate::turns::turns;
pub use serve::serve;
use serve::{Reply, Setup};
pub use summary::{Ratio, Row, Spread};
use summary::{Turn, summarise};

/// How the disk is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// For how long, each time.
    pub duration: Duration,
}

impl Default for Ask {
    /// Long enough for some thousand operations.
    fn default() -> Ask {
        Ask { file_bytes: 256 << 20, duration: Duration::from_millis(200) }
    }
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are names")]
pub enum Engine {
    Quorate,
    Rocksdb,
    RocksdbCounted,
    Fjall,
    Redb,
}

impl Engine {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Engine::Quorate => "quorate",
            Engine::Rocksdb => "rocksdb",
            Engine::RocksdbCounted => "rocksdb+",
            Engine::Fjall => "fjall",
            Engine::Redb => "redb",
        }
    }
}

impl std::str::FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Engine, String> {
        use Engine::{Fjall, Quorate, Redb, Rocksdb, RocksdbCounted};
        let all = [Quorate, Rocksdb, RocksdbCounted, Fjall, Redb];
        match all.into_iter().find(|engine| engine.name() == text) {
            None => Err("expected rocksdb, rocksdb+, fjall, redb or quorate".to_owned()),
            Some(Engine::Quorate) => Ok(Engine::Quorate),
            Some(engine) if cfg!(feature = "engines") => Ok(engine),
            Some(_) => Err(format!("{text} is not built in: build with --features engines")),
        }
    }
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// This product's binary.
    pub binary: PathBuf,
    /// What every engine does, and where.
    pub options: Options,
    /// The peers.
    pub engines: Vec<Engine>,
    /// The kinds of work.
    pub works: Vec<Work>,
    /// Rounds.
    pub rounds: usize,
    /// How the disk is asked before each turn.
    pub probe: Ask,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What every engine did.
    pub options: Options,
    /// In so many rounds.
    pub rounds: usize,
    /// Of every engine, ours first.
    pub settings: Vec<(Engine, Vec<(String, String)>)>,
    /// A line for each kind of work and engine.
    pub rows: Vec<Row>,
    /// A line for each kind of work and peer.
    pub ratios: Vec<Ratio>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum EnginesError {
    /// A side's process cannot be started.
    #[error("cannot run taskset: {0} (Debian package: util-linux)")]
    Start(std::io::Error),
    /// A side failed.
    #[error("{side}: {reason}")]
    Side {
        /// Which.
        side: &'static str,
        /// Why.
        reason: String,
    },
    /// What was asked for cannot be measured.
    #[error(transparent)]
    Options(#[from] EngineError),
    /// The disk cannot be asked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No folder could be made.
    #[error("{path}: {source}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Measures all engines, calling `progress` before each turn.
///
/// # Errors
/// [`EnginesError`]; a wrong answer of any engine is one.
pub fn run(
    comparison: &Comparison,
    progress: impl Fn(Work, Engine, usize),
) -> Result<Report, EnginesError> {
    let launch = |setup: &Setup| Side::start(&comparison.binary, setup);
    run_with(comparison, launch, progress)
}

/// As [`run`], with whatever `launch` gives as sides.
fn run_with(
    comparison: &Comparison,
    launch: impl Fn(&Setup) -> Result<Side, EnginesError>,
    progress: impl Fn(Work, Engine, usize),
) -> Result<Report, EnginesError> {
    engine::check(&comparison.options)?;
    let folder = Folder::create(&comparison.options.directory)?;
    let probe = Probe::new(&folder.0, comparison.probe.file_bytes, comparison.options.cpu)?;
    let mut sides = Vec::new();
    let mut settings = Vec::new();
    for engine in [Engine::Quorate].into_iter().chain(comparison.engines.iter().copied()) {
        let directory = folder.0.join(format!("{}-{}", sides.len(), engine.name()));
        std::fs::create_dir_all(&directory)
            .map_err(|source| EnginesError::Folder { path: directory.clone(), source })?;
        let options = Options { directory, ..comparison.options.clone() };
        let mut side = launch(&Setup { engine, options })?;
        settings.push((engine, side.settings()?));
        sides.push(side);
    }
    let (mut rows, mut ratios) = (Vec::new(), Vec::new());
    for work in &comparison.works {
        let mut done: Vec<Vec<Turn>> = sides.iter().map(|_| Vec::new()).collect();
        for round in 0..comparison.rounds {
            for place in turns(sides.len(), round) {
                progress(*work, sides[place].engine, round);
                let disk = Disk::ask(&probe, *work, comparison)?;
                done[place].push(Turn { row: sides[place].measure(*work)?, disk });
            }
        }
        let names: Vec<Engine> = sides.iter().map(|side| side.engine).collect();
        let (own, against) = summarise(*work, &names, &done);
        rows.extend(own);
        ratios.extend(against);
    }
    let (options, rounds) = (comparison.options.clone(), comparison.rounds);
    Ok(Report { options, rounds, settings, rows, ratios })
}

/// What the disk could do just before a turn.
#[derive(Debug, Clone, Copy, Default)]
struct Disk {
    /// Random reads of 4 KiB a second, at the depth of the work.
    reads: Option<f64>,
    /// Bytes written a second.
    write_bytes: Option<f64>,
}

impl Disk {
    fn ask(probe: &Probe, work: Work, comparison: &Comparison) -> Result<Disk, DeviceError> {
        let mixed = matches!(work, Work::Mixed95 | Work::Mixed50);
        let writes = matches!(
            work,
            Work::FillSequential | Work::FillRandom | Work::Overwrite | Work::Delete
        );
        let depth = engine::plan::workers(work, &comparison.options);
        let read = Case { access: Access::Read, size: 4 << 10, depth };
        let write = Case { access: Access::Write, size: 256 << 10, depth: 4 };
        let ask = |case: Case| probe.per_second(&case, comparison.probe.duration);
        let reads = if writes { None } else { Some(ask(read)?) };
        let write_bytes = match writes || mixed {
            true => Some(ask(write)? * write.size as f64),
            false => None,
        };
        Ok(Disk { reads, write_bytes })
    }
}

/// A folder that is removed when it is not needed any more.
struct Folder(PathBuf);

impl Folder {
    fn create(directory: &Path) -> Result<Folder, EnginesError> {
        let path = directory.join(format!("quorate-bench-engines-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|source| EnginesError::Folder { path: path.clone(), source })?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An engine in a process of its own; dropped, the process is ended.
struct Side {
    engine: Engine,
    input: Option<Box<dyn Write>>,
    output: Box<dyn BufRead>,
    child: Option<Child>,
}

impl Side {
    fn start(binary: &Path, setup: &Setup) -> Result<Side, EnginesError> {
        let mut child = Command::new("taskset")
            .args(["-c", &setup.options.cpu.to_string()])
            .arg(binary)
            .args(["bench", "engine-side"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(EnginesError::Start)?;
        let input = Box::new(child.stdin.take().expect("it was asked for"));
        let output = Box::new(BufReader::new(child.stdout.take().expect("it was asked for")));
        Side::talk(setup, input, output, Some(child))
    }

    fn talk(
        setup: &Setup,
        input: Box<dyn Write>,
        output: Box<dyn BufRead>,
        child: Option<Child>,
    ) -> Result<Side, EnginesError> {
        let mut side = Side { engine: setup.engine, input: Some(input), output, child };
        side.say(setup)?;
        Ok(side)
    }

    fn failed(&self, reason: impl ToString) -> EnginesError {
        EnginesError::Side { side: self.engine.name(), reason: reason.to_string() }
    }

    fn say(&mut self, message: &impl Serialize) -> Result<(), EnginesError> {
        let text = serde_json::to_string(message).expect("numbers and text only");
        let input = self.input.as_mut().expect("it is closed when dropped only");
        let said = writeln!(input, "{text}").and_then(|()| input.flush());
        said.map_err(|error| self.failed(error))
    }

    fn hear(&mut self) -> Result<Reply, EnginesError> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(self.failed("its process ended")),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.failed(error)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn settings(&mut self) -> Result<Vec<(String, String)>, EnginesError> {
        match self.hear()? {
            Reply::Settings(settings) => Ok(settings),
            Reply::Error(reason) => Err(self.failed(reason)),
            Reply::Row(_) => Err(self.failed("it answered what it was not asked")),
        }
    }

    fn measure(&mut self, work: Work) -> Result<engine::Row, EnginesError> {
        self.say(&work)?;
        match self.hear()? {
            Reply::Row(row) => Ok(*row),
            Reply::Error(reason) => Err(self.failed(reason)),
            Reply::Settings(_) => Err(self.failed("it answered what it was not asked")),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // The end of its input is its end.
        self.input = None;
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}
