//! Three replicas beside one, on this machine: what replication costs.
//!
//! Both are started from the same program on folders of their own and stay up for the whole run;
//! the load goes to them by turns, so that what the machine does to one it does to the other. With
//! three replicas all of them share the machine's cores and disk with the generator: the figures
//! say what the protocol costs, not what three machines can do. The load goes to the primary or, as
//! *backup*, to a member that passes writes on.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, Reply};
use serde::Serialize;

use crate::device::median;
use crate::host::ProcessUse;
use crate::load::{self, LoadError};
use crate::report::LatencySummary;
use crate::turns::turns;

/// How long nodes may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program.
    pub binary: PathBuf,
    /// Where the data goes; removed at the end.
    pub directory: PathBuf,
    /// How many turns each row has.
    pub rounds: usize,
    /// The load; its address and duration count for each turn.
    pub load: load::Options,
    /// Requests outstanding on each connection, one after the other.
    pub depths: Vec<usize>,
}

/// Where the load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// A cluster of one.
    Alone,
    /// The primary of three.
    Primary,
    /// Another member of the three.
    Backup,
}

impl Side {
    /// All of them.
    pub const ALL: [Side; 3] = [Side::Alone, Side::Primary, Side::Backup];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Alone => "one replica",
            Side::Primary => "three, primary",
            Side::Backup => "three, backup",
        }
    }
}

/// A row: the middle of its turns.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Where the load went.
    pub side: Side,
    /// Requests outstanding on each connection.
    pub depth: usize,
    /// Operations a second: the middle, the least, the most.
    pub per_second: [f64; 3],
    /// Latencies, each the middle of the turns'.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// Processor time of all replicas for each operation.
    pub cpu_us: f64,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program cannot be started, or a folder not made.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// A node ended or hung.
    #[error("a node did not come to serve: {0}")]
    Node(String),
    /// The load failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Answers were wrong.
    #[error("{0} reads were wrong or lost")]
    Wrong(u64),
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> ClusterError {
    move |error| ClusterError::Io { what, error }
}

/// A node as a child process.
struct Node {
    child: Child,
    resp: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removed with the value; nodes are dropped before it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left for whoever looks there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An address that nobody listens on now.
fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Formats and starts `replicas` nodes, and waits until all of them serve.
fn start(binary: &Path, folder: &Path, replicas: usize) -> Result<Vec<Node>, ClusterError> {
    let addresses = (0..replicas).map(|_| free_address()).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(io("cannot find a free port"))?;
    let mut waiting = Vec::new();
    for (index, listen) in addresses.iter().enumerate() {
        let directory = folder.join(format!("{replicas}-{index}"));
        let format = Command::new(binary)
            .args(["format", "--cluster", "1", "--journal-size", "256MiB", "--shards", "4"])
            .args(["--replicas", &replicas.to_string(), "--replica", &index.to_string(), "--dir"])
            .arg(&directory)
            .output()
            .map_err(io("cannot run the program"))?;
        if !format.status.success() {
            return Err(ClusterError::Node(String::from_utf8_lossy(&format.stderr).into()));
        }
        let child = Command::new(binary)
            .args(["start", "--cores", "1", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--listen", listen, "--peers", &addresses.join(","), "--dir"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io("cannot run the program"))?;
        waiting.push(Node { child, resp: String::new() });
    }
    for node in &mut waiting {
        node.resp = wait_serving(&mut node.child)?;
    }
    Ok(waiting)
}

/// Waits for the line that says where a node serves.
fn wait_serving(child: &mut Child) -> Result<String, ClusterError> {
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let words = line.strip_prefix("listening ").into_iter().flat_map(str::split_whitespace);
            if let Some(resp) = words.into_iter().find_map(|word| word.strip_prefix("resp=")) {
                // Nobody listens any more once the address is known.
                let _ = sender.send(resp.to_owned());
            }
        }
    });
    // Read to its end, so that the node never waits for a reader.
    let log = thread::spawn(move || {
        let mut text = String::new();
        let read = BufReader::new(stderr).read_to_string(&mut text);
        read.map_or_else(|error| error.to_string(), |_| text)
    });
    receiver.recv_timeout(PATIENCE).map_err(|_| {
        // It may have ended by itself.
        let _ = child.kill();
        ClusterError::Node(log.join().unwrap_or_default())
    })
}

/// The place of the primary.
fn primary(nodes: &[Node]) -> Result<usize, ClusterError> {
    let leads = |node: &Node| {
        let mut connection = Connection::connect(&node.resp, PATIENCE).ok()?;
        let Reply::Bulk(text) = connection.call(&["INFO", "replication"]).ok()? else {
            return None;
        };
        Some(String::from_utf8(text).ok()?.contains("quorate_role:primary"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(index) = nodes.iter().position(|node| leads(node) == Some(true)) {
            return Ok(index);
        }
        if Instant::now() > deadline {
            return Err(ClusterError::Node("there is no primary".to_owned()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// One turn's figures.
struct Turn {
    per_second: f64,
    latency: LatencySummary,
    cpu_us: f64,
}

fn turn(nodes: &[Node], to: usize, options: &load::Options) -> Result<Turn, ClusterError> {
    let used = || -> Duration {
        let uses = nodes.iter().filter_map(|node| ProcessUse::read(node.child.id()));
        uses.map(|used| used.user + used.system).sum()
    };
    let before = used();
    let options = load::Options { address: nodes[to].resp.clone(), ..options.clone() };
    let report = load::run(&options, |_| {})?.report;
    let cpu = used().saturating_sub(before);
    let verified = report.verification.as_ref().map_or(0, |found| found.lost + found.wrong);
    if report.wrong_reads + verified > 0 {
        return Err(ClusterError::Wrong(report.wrong_reads + verified));
    }
    let latency = report.latencies.first().map(|(_, latency)| *latency).unwrap_or_default();
    let cpu_us = cpu.as_secs_f64() * 1e6 / report.operations.max(1) as f64;
    Ok(Turn { per_second: report.throughput, latency, cpu_us })
}

/// Measures all rows; `said` is told what is being done.
///
/// # Errors
/// [`ClusterError`]
pub fn run(options: &Options, mut said: impl FnMut(String)) -> Result<Vec<Row>, ClusterError> {
    let folder = Folder(options.directory.join(format!("quorate-cluster-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).map_err(io("cannot make a folder"))?;
    let alone = start(&options.binary, &folder.0, 1)?;
    let three = start(&options.binary, &folder.0, 3)?;
    let mut rows = Vec::new();
    let mut load = options.load.clone();
    for &depth in &options.depths {
        load.depth = depth;
        let mut found: Vec<Vec<Turn>> = Side::ALL.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            for place in turns(Side::ALL.len(), round) {
                let side = Side::ALL[place];
                let leader = primary(&three)?;
                let (nodes, to) = match side {
                    Side::Alone => (&alone, 0),
                    Side::Primary => (&three, leader),
                    Side::Backup => (&three, (leader + 1) % three.len()),
                };
                // What another turn has written is not to be taken for this one's.
                load.run = load.run.wrapping_add(1);
                said(format!("round {} of {}, depth {depth}", round + 1, options.rounds));
                found[place].push(turn(nodes, to, &load)?);
            }
        }
        rows.extend(Side::ALL.iter().zip(&found).map(|(side, found)| row(*side, depth, found)));
    }
    Ok(rows)
}

fn row(side: Side, depth: usize, turns: &[Turn]) -> Row {
    let of = |value: fn(&Turn) -> f64| turns.iter().map(value).collect::<Vec<f64>>();
    let per_second = of(|turn| turn.per_second);
    let least = per_second.iter().copied().fold(f64::INFINITY, f64::min);
    let most = per_second.iter().copied().fold(0.0, f64::max);
    Row {
        side,
        depth,
        per_second: [median(per_second), least, most],
        p50_us: median(of(|turn| turn.latency.p50_us)),
        p99_us: median(of(|turn| turn.latency.p99_us)),
        cpu_us: median(of(|turn| turn.cpu_us)),
    }
}
