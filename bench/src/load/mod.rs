//! Load over RESP against a running node, or any server that speaks it.
//!
//! One core drives all connections on [`ioring`]. Each connection has two tasks: the *sender* keeps
//! up to `depth` requests outstanding and sends all that fit at once; the *receiver* matches
//! replies to requests in order, records latencies, and keeps the [`Ledger`].
//!
//! - **Closed loop** (no rate): a request is due when there is room for it.
//! - **Open loop** (a rate): requests are due at fixed times whether or not the node keeps up, and
//!   latency counts from that time. A connection falls behind rather than skip.
//!
//! A run is: load all keys once if the workload reads (not measured), run for the duration, wait
//! for what is outstanding, read a sample back. A connection that is lost stays lost: its
//! outstanding writes are neither acknowledged nor denied, which the ledger allows for.

mod connection;
mod tally;
mod verify;

use std::cell::RefCell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use ioring::{Queue, uring};

use crate::host::{Host, ProcessUse};
use crate::ledger::Ledger;
use crate::report::{RunReport, Verification};
use crate::workload::{Distribution, KeyChooser, KeyShare, Mix, ValueSizes, random_stream};

use connection::{Driver, Limit};
pub use tally::Progress;
use tally::Tally;
pub use verify::verify;

/// Requests that a connection keeps outstanding while keys are loaded.
const LOAD_DEPTH: usize = 32;

/// How long replies may take after the end of the run before they are given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` of the server's RESP listener.
    pub address: String,
    /// Which operations.
    pub mix: Mix,
    /// Which keys.
    pub distribution: Distribution,
    /// Number of keys.
    pub keys: u64,
    /// Sizes of values.
    pub values: ValueSizes,
    /// Connections.
    pub clients: usize,
    /// Requests outstanding on each connection.
    pub depth: usize,
    /// Operations a second over all connections; `None` is a closed loop.
    pub rate: Option<f64>,
    /// How long to measure.
    pub duration: Duration,
    /// Seed of keys, operations and sizes.
    pub seed: u64,
    /// Number of the run: tells its values from those of others.
    pub run: u32,
    /// Whether all keys are written once before the measured part.
    pub preload: bool,
    /// Keys to read back at the end.
    pub verify_keys: u64,
    /// Core that the generator is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// The server's process, when it is on this machine: its use is reported.
    pub server_pid: Option<u32>,
}

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address does not resolve.
    #[error("{address} is not an address: {source}")]
    Address {
        /// As given.
        address: String,
        /// From the resolver.
        source: std::io::Error,
    },
    /// Fewer keys than connections, or nothing at all to do.
    #[error("{keys} keys cannot be divided over {clients} connections: each needs at least one")]
    TooFewKeys {
        /// Keys asked for.
        keys: u64,
        /// Connections asked for.
        clients: usize,
    },
    /// The runtime could not start.
    #[error("the load generator's ring cannot be set up: {0}")]
    Runtime(String),
    /// The first connection failed.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// As given.
        address: String,
        /// Of the attempt.
        source: std::io::Error,
    },
    /// The read-back did not get through.
    #[error("the read-back failed: {0}")]
    Verify(#[from] client::ClientError),
}

/// A finished run: what was measured and what is known to be stored.
#[derive(Debug)]
pub struct Run {
    /// For people and programs.
    pub report: RunReport,
    /// What a later read-back can hold the node to.
    pub ledger: Ledger,
}

/// Runs the load to its end, calling `progress` about every second.
///
/// Connections that are lost on the way are counted as errors; the run ends early when none is
/// left.
pub fn run(
    options: &Options,
    progress: impl Fn(&Progress) + Clone + Send + Sync + 'static,
) -> Result<Run, LoadError> {
    resume(options, Ledger::new(options.run, options.keys), progress)
}

/// As [`run`], of keys that were written before, as `ledger` knows. The ledger must be of as many
/// keys, and of the same run.
pub fn resume(
    options: &Options,
    ledger: Ledger,
    progress: impl Fn(&Progress) + Clone + Send + Sync + 'static,
) -> Result<Run, LoadError> {
    let address = resolve(&options.address)?;
    if options.clients == 0 || options.depth == 0 || options.keys < options.clients as u64 {
        return Err(LoadError::TooFewKeys { keys: options.keys, clients: options.clients });
    }
    let config = uring::Config {
        cpus: vec![options.cpu.unwrap_or(0)],
        pin: options.cpu.is_some(),
        ..uring::Config::default()
    };
    let runtime =
        uring::Runtime::new(config).map_err(|error| LoadError::Runtime(error.to_string()))?;
    let parts = vec![(options.clone(), ledger)];
    let mut measured = runtime
        .run(parts, move |(options, ledger)| measure(options, ledger, address, progress.clone()));
    let Measured { tally, ledger, server, elapsed } =
        measured.pop().expect("one part was given, one result comes back")?;
    let verification = match options.verify_keys {
        0 => None,
        _ if tally.connections_left() == 0 => None,
        sample => Some(verify(&options.address, &ledger, sample, options.seed)?),
    };
    let report = report(options, tally, server, elapsed, verification);
    Ok(Run { report, ledger })
}

fn resolve(address: &str) -> Result<SocketAddr, LoadError> {
    let error = |source| LoadError::Address { address: address.to_owned(), source };
    let mut found = address.to_socket_addrs().map_err(error)?;
    found.next().ok_or_else(|| error(std::io::Error::other("the name has no address")))
}

/// What the generator's core brings back.
struct Measured {
    tally: Tally,
    ledger: Ledger,
    server: Option<ProcessUse>,
    elapsed: Duration,
}

/// What the tasks of the generator share.
struct Shared {
    options: Options,
    ledger: RefCell<Ledger>,
    tally: RefCell<Tally>,
}

async fn measure(
    options: Options,
    ledger: Ledger,
    address: SocketAddr,
    progress: impl Fn(&Progress) + 'static,
) -> Result<Measured, LoadError> {
    let clients = options.clients as u64;
    let shared = Rc::new(Shared {
        ledger: RefCell::new(ledger),
        tally: RefCell::new(Tally::new(options.clients)),
        options,
    });
    let mut drivers = Vec::new();
    for index in 0..clients {
        let options = &shared.options;
        let share = KeyShare::new(options.keys, index, clients);
        let chooser = KeyChooser::new(share, options.distribution);
        let random = random_stream(options.seed, index);
        let connected = Driver::connect(Rc::clone(&shared), address, share, chooser, random).await;
        drivers.push(connected.map_err(|source| LoadError::Connect {
            address: shared.options.address.clone(),
            source,
        })?);
    }
    let drivers: Vec<Rc<Driver>> = drivers.into_iter().map(Rc::new).collect();
    if shared.options.preload {
        drive(&drivers, |driver| driver.limit_to_load(LOAD_DEPTH)).await;
        shared.tally.borrow_mut().restart();
    }
    let before = shared.options.server_pid.and_then(ProcessUse::read);
    let started = ioring::now();
    let watch = watch(Rc::clone(&shared), progress);
    drive(&drivers, |driver| driver.limit_to_run(started)).await;
    let elapsed = ioring::now().since(started);
    watch.cancel();
    let server = before.and_then(|before| {
        let after = ProcessUse::read(shared.options.server_pid?)?;
        Some(after.since(&before))
    });
    drivers.iter().for_each(|driver| driver.close());
    drop(drivers);
    let tally = shared.tally.take();
    let ledger = shared.ledger.replace(Ledger::new(0, 0));
    Ok(Measured { tally, ledger, server, elapsed })
}

/// Runs all drivers to the limit that `limit` gives each.
async fn drive(drivers: &[Rc<Driver>], limit: impl Fn(&Driver) -> Limit) {
    let tasks: Vec<_> = drivers
        .iter()
        .map(|driver| {
            let limit = limit(driver);
            let driver = Rc::clone(driver);
            ioring::spawn(Queue::Foreground, "load", async move { driver.run(limit).await })
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

/// Reports progress every second until cancelled.
fn watch(shared: Rc<Shared>, progress: impl Fn(&Progress) + 'static) -> ioring::Task<()> {
    ioring::spawn(Queue::Background, "progress", async move {
        let mut last = shared.tally.borrow().progress(Duration::ZERO, None);
        let started = ioring::now();
        loop {
            ioring::sleep(Duration::from_secs(1)).await;
            let elapsed = ioring::now().since(started);
            let now = shared.tally.borrow().progress(elapsed, Some(&last));
            progress(&now);
            last = now;
        }
    })
}

fn report(
    options: &Options,
    tally: Tally,
    server: Option<ProcessUse>,
    elapsed: Duration,
    verification: Option<Verification>,
) -> RunReport {
    let seconds = elapsed.as_secs_f64();
    let operations = tally.operations();
    let distribution = match options.distribution {
        Distribution::Uniform => "uniform".to_owned(),
        Distribution::Latest => "latest".to_owned(),
        Distribution::Zipf(exponent) => format!("zipf:{exponent}"),
    };
    let rate = options.rate.map_or("max".to_owned(), |rate| rate.to_string());
    let values = format!("{}..{}", options.values.min, options.values.max);
    let settings = [
        ("workload", options.mix.name.to_owned()),
        ("keys", options.keys.to_string()),
        ("value-size", values),
        ("distribution", distribution),
        ("clients", options.clients.to_string()),
        ("depth", options.depth.to_string()),
        ("rate", rate),
        ("seed", options.seed.to_string()),
    ];
    RunReport {
        address: options.address.clone(),
        settings: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        host: Host::read(),
        seconds,
        operations,
        throughput: if seconds > 0.0 { operations as f64 / seconds } else { 0.0 },
        latencies: tally.latencies(),
        wrong_reads: tally.wrong_reads(),
        errors: tally.into_errors(),
        server,
        verification,
    }
}
