//! What a disk can do: the limit that everything else is a share of.
//!
//! One file is written once, then each row does one kind of operation with one size at one depth
//! for a fixed time, at random aligned offsets, with direct I/O. Rows of different runtimes are
//! interleaved round by round, so that a noisy neighbour hits both sides; a row's figure is the
//! median of its rounds.
//!
//! Processor time is that of the measuring thread alone, as the scheduler counts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ioring::{Buffer, BufferPool, Direct, File, OpenOptions, Queue, uring};
use rand::RngExt;
use serde::Serialize;

use crate::report::{Latencies, LatencySummary};
use crate::thread_time::ThreadTime;
use crate::turns::turns;
use crate::workload::random_stream;

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Random reads.
    Read,
    /// Random overwrites, durable when the device says so, at some later time.
    Write,
    /// Random overwrites that are on the device when they complete.
    DurableWrite,
}

/// Which runtime drives the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// This project's.
    Ioring,
    /// The reference; needs the cargo feature `glommio`.
    Glommio,
}

impl std::str::FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Runtime, String> {
        match text {
            "ioring" => Ok(Runtime::Ioring),
            "glommio" if cfg!(feature = "glommio") => Ok(Runtime::Glommio),
            "glommio" => Err("glommio is not built in: build with --features glommio".to_owned()),
            _ => Err("expected ioring or glommio".to_owned()),
        }
    }
}

/// One line of the table to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What it does.
    pub access: Access,
    /// Bytes of one operation.
    pub size: usize,
    /// Operations in flight.
    pub depth: usize,
}

/// The rows that are measured by default.
pub const CASES: [Case; 11] = [
    Case { access: Access::Read, size: 4 << 10, depth: 1 },
    Case { access: Access::Read, size: 4 << 10, depth: 32 },
    Case { access: Access::Read, size: 4 << 10, depth: 128 },
    Case { access: Access::Read, size: 256 << 10, depth: 8 },
    Case { access: Access::Write, size: 4 << 10, depth: 1 },
    Case { access: Access::Write, size: 4 << 10, depth: 32 },
    Case { access: Access::Write, size: 256 << 10, depth: 8 },
    Case { access: Access::DurableWrite, size: 4 << 10, depth: 1 },
    Case { access: Access::DurableWrite, size: 4 << 10, depth: 8 },
    Case { access: Access::DurableWrite, size: 64 << 10, depth: 1 },
    Case { access: Access::DurableWrite, size: 64 << 10, depth: 4 },
];

/// What to measure, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for the file; it is removed afterwards.
    pub directory: PathBuf,
    /// Bytes of the file.
    pub file_size: u64,
    /// How long a row takes in one round.
    pub duration: Duration,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Runtimes, side by side.
    pub runtimes: Vec<Runtime>,
    /// The core to measure on.
    pub cpu: usize,
}

/// One measured line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was done.
    #[serde(flatten)]
    pub case: Case,
    /// By which runtime.
    pub runtime: Runtime,
    /// Operations a second.
    pub per_second: f64,
    /// Processor time for an operation in microseconds.
    pub cpu_us: f64,
    /// Latencies.
    pub latency: LatencySummary,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}: {reason}")]
pub struct DeviceError {
    path: PathBuf,
    what: &'static str,
    reason: String,
}

impl DeviceError {
    fn new(path: &Path, what: &'static str, reason: impl ToString) -> DeviceError {
        DeviceError { path: path.to_owned(), what, reason: reason.to_string() }
    }
}

/// What one round of one case brought.
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    pub(crate) latencies: Latencies,
}

/// Measures `cases`, calling `progress` with each row's case and runtime before each round.
pub fn run(
    options: &Options,
    cases: &[Case],
    progress: impl Fn(&Case, Runtime, usize),
) -> Result<Vec<Row>, DeviceError> {
    let path = options.directory.join("quorate-bench-device");
    let result = prepare(&path, options).and_then(|()| {
        let mut rows = Vec::new();
        for case in cases {
            rows.extend(measure_case(&path, options, case, &progress)?);
        }
        Ok(rows)
    });
    // The file may never have been made.
    let _ = fs::remove_file(&path);
    result
}

/// A file to ask the disk with, again and again; dropped, it is removed.
pub(crate) struct Probe {
    path: PathBuf,
    options: Options,
}

impl Probe {
    /// Writes a file of so many bytes in a folder.
    pub(crate) fn new(directory: &Path, file_size: u64, cpu: usize) -> Result<Probe, DeviceError> {
        let options = Options {
            directory: directory.to_owned(),
            file_size,
            duration: Duration::ZERO,
            rounds: 1,
            runtimes: vec![Runtime::Ioring],
            cpu,
        };
        let probe = Probe { path: directory.join("quorate-bench-probe"), options };
        prepare(&probe.path, &probe.options)?;
        Ok(probe)
    }

    /// What the disk does of this kind, a second.
    pub(crate) fn per_second(&self, case: &Case, duration: Duration) -> Result<f64, DeviceError> {
        let options = Options { duration, ..self.options.clone() };
        let sample = with_ioring(&self.path, &options, case)?;
        Ok(sample.latencies.summary().count as f64 / sample.elapsed.as_secs_f64())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may be gone with its folder.
        let _ = fs::remove_file(&self.path);
    }
}

fn measure_case(
    path: &Path,
    options: &Options,
    case: &Case,
    progress: &impl Fn(&Case, Runtime, usize),
) -> Result<Vec<Row>, DeviceError> {
    let mut samples: Vec<Vec<Sample>> = options.runtimes.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for side in turns(options.runtimes.len(), round) {
            let runtime = options.runtimes[side];
            progress(case, runtime, round);
            samples[side].push(match runtime {
                Runtime::Ioring => with_ioring(path, options, case)?,
                Runtime::Glommio => with_glommio(path, options, case)?,
            });
        }
    }
    let sides = options.runtimes.iter().zip(samples);
    Ok(sides.map(|(runtime, samples)| summarise(*case, *runtime, samples)).collect())
}

/// The middle value; zero of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn summarise(case: Case, runtime: Runtime, samples: Vec<Sample>) -> Row {
    let mut latencies = Latencies::default();
    let mut rates = Vec::new();
    let mut costs = Vec::new();
    for sample in &samples {
        let count = sample.latencies.summary().count as f64;
        rates.push(count / sample.elapsed.as_secs_f64());
        costs.push(sample.cpu.as_secs_f64() * 1e6 / count.max(1.0));
        latencies.add(&sample.latencies);
    }
    let latency = latencies.summary();
    Row { case, runtime, per_second: median(rates), cpu_us: median(costs), latency }
}

fn ring_config(cpu: usize) -> uring::Config {
    // Sleeping at once: what a figure costs is what it needs, not what is spent looking for work.
    uring::Config { cpus: vec![cpu], idle: uring::Idle::Sleep, ..uring::Config::default() }
}

/// Runs one future on a core of its own.
fn on_core<R: Send + 'static, F: Future<Output = R> + 'static>(
    path: &Path,
    cpu: usize,
    main: impl Fn() -> F + Clone + Send,
) -> Result<R, DeviceError> {
    let runtime = uring::Runtime::new(ring_config(cpu))
        .map_err(|error| DeviceError::new(path, "the ring cannot be set up", error))?;
    let mut results = runtime.run(vec![()], move |()| main());
    Ok(results.pop().expect("one part was given"))
}

/// Writes the file once, so that every later write overwrites written space.
fn prepare(path: &Path, options: &Options) -> Result<(), DeviceError> {
    let (owned, size) = (path.to_owned(), options.file_size);
    on_core(path, options.cpu, move || prepare_file(owned.clone(), size))?
        .map_err(|error| DeviceError::new(path, "cannot write the file", error))
}

async fn prepare_file(path: PathBuf, size: u64) -> std::io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let options = OpenOptions {
        read: true,
        write: true,
        create: true,
        direct: Direct::Required,
        ..OpenOptions::default()
    };
    let file = File::open(&path, &options).map_err(std::io::Error::other)?;
    file.allocate(0, size).await?;
    let mut chunk = Buffer::zeroed(CHUNK);
    let mut random = random_stream(1, 0);
    chunk.iter_mut().for_each(|byte| *byte = random.random());
    let chunk = chunk.freeze();
    for offset in (0..size).step_by(CHUNK) {
        file.write(chunk.clone(), offset).await?;
    }
    file.sync().await
}

fn with_ioring(path: &Path, options: &Options, case: &Case) -> Result<Sample, DeviceError> {
    let (owned, file_size, case, duration) =
        (path.to_owned(), options.file_size, *case, options.duration);
    on_core(path, options.cpu, move || measure(owned.clone(), file_size, case, duration))?
        .map_err(|error| DeviceError::new(path, "the measurement failed", error))
}

async fn measure(
    path: PathBuf,
    file_size: u64,
    case: Case,
    duration: Duration,
) -> std::io::Result<Sample> {
    let options =
        OpenOptions { read: true, write: true, direct: Direct::Required, ..OpenOptions::default() };
    let file = std::rc::Rc::new(File::open(&path, &options).map_err(std::io::Error::other)?);
    // Pooled, as everything that the product reads and writes is: the ring knows these buffers.
    let pool = BufferPool::new("bench", case.size, case.depth);
    let cpu = ThreadTime::start();
    let started = ioring::now();
    let end = started + duration;
    let tasks: Vec<_> = (0..case.depth as u64)
        .map(|stream| {
            let file = std::rc::Rc::clone(&file);
            let buffer = pool.try_take().expect("a buffer for each stream");
            let repeated = repeat(file, buffer, file_size, case, stream, end);
            ioring::spawn(Queue::Foreground, "access", repeated)
        })
        .collect();
    let mut latencies = Latencies::default();
    for task in tasks {
        latencies.add(&task.await?);
    }
    Ok(Sample { elapsed: ioring::now().since(started), cpu: cpu.elapsed(), latencies })
}

/// One operation after the other until the time is over.
async fn repeat(
    file: std::rc::Rc<File>,
    mut buffer: Buffer,
    file_size: u64,
    case: Case,
    stream: u64,
    end: ioring::Instant,
) -> std::io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut random = random_stream(7, stream);
    let places = file_size / case.size as u64;
    loop {
        let offset = random.random_range(0..places) * case.size as u64;
        let before = ioring::now();
        if before >= end {
            return Ok(latencies);
        }
        match case.access {
            Access::Read => {
                let (result, returned) = file.read(buffer, offset).await;
                buffer = returned;
                result?;
            }
            Access::Write | Access::DurableWrite => {
                let data = buffer.freeze();
                match case.access {
                    Access::Write => file.write(data.clone(), offset).await?,
                    _ => file.write_durable(data.clone(), offset).await?,
                }
                buffer = data.try_thaw().expect("the write gave its share back");
            }
        }
        latencies.record(ioring::now().since(before));
    }
}

#[cfg(feature = "glommio")]
fn with_glommio(path: &Path, options: &Options, case: &Case) -> Result<Sample, DeviceError> {
    crate::reference::device(path, options, case)
        .map_err(|error| DeviceError::new(path, "the measurement with glommio failed", error))
}

#[cfg(not(feature = "glommio"))]
fn with_glommio(path: &Path, _: &Options, _: &Case) -> Result<Sample, DeviceError> {
    Err(DeviceError::new(path, "glommio is not built in", "build with --features glommio"))
}
