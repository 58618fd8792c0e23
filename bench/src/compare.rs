//! Side by side with Redis on one machine, in one run.
//!
//! 1. Every server is started once, pinned to the same core, each with a folder of its own on the
//!    same disk; the generator, `redis-benchmark`, is pinned to another core. It is the peer's own
//!    tool, so the peer has no disadvantage from it.
//! 2. Every server first does two million writes: what is compared is how they run, not how they
//!    touch their memory for the first time. That is two bars with the default memtables.
//! 3. For each row (command and pipeline depth) the servers take turns, round by round, so that a
//!    noisy moment hits all of them; the median over the rounds counts.
//! 4. A server's processor time is read before and after, so that its cost for an operation does
//!    not depend on what the generator can do.
//!
//! Sides: this product as it is deployed, formatted and started with its defaults; Redis that syncs
//! before it answers (`appendfsync always`), the same promise; Redis without persistence, what the
//! protocol costs at least.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Connection;
use serde::Serialize;

use crate::device::median;
use crate::host::ProcessUse;
use crate::turns::turns;

/// How long a server may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Operations of the run that estimates the rate.
const ESTIMATE_OPERATIONS: u64 = 20_000;

/// Writes that every server does before it is measured.
const WARM_UP_OPERATIONS: u64 = 2_000_000;

/// How many of them a connection sends at a time.
const WARM_UP_DEPTH: u32 = 16;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// `quorate format` and `quorate start`, with one replica.
    Quorate,
    /// `appendonly yes`, `appendfsync always`.
    RedisDurable,
    /// No persistence at all.
    RedisVolatile,
}

impl Side {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Side; 3] = [Side::Quorate, Side::RedisDurable, Side::RedisVolatile];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Side::Quorate => "quorate",
            Side::RedisDurable => "redis, fsync always",
            Side::RedisVolatile => "redis, in memory",
        }
    }
}

/// One line of the table to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// The command, as `redis-benchmark -t` knows it.
    pub command: &'static str,
    /// Requests outstanding on each connection.
    pub depth: u32,
}

/// The rows that are measured by default.
pub const CASES: [Case; 4] = [
    Case { command: "set", depth: 1 },
    Case { command: "set", depth: 16 },
    Case { command: "get", depth: 1 },
    Case { command: "get", depth: 16 },
];

/// What to measure, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// This product's binary.
    pub binary: PathBuf,
    /// Folder on the disk to use; what is made in it is removed again.
    pub directory: PathBuf,
    /// About how long a row takes in one round.
    pub duration: Duration,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Connections.
    pub clients: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Different keys.
    pub keys: u64,
    /// Core of the servers.
    pub server_cpu: usize,
    /// Core of the generator.
    pub client_cpu: usize,
}

/// One measured line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was done.
    #[serde(flatten)]
    pub case: Case,
    /// By which server.
    pub side: Side,
    /// Operations a second: the median, the least and the most of the rounds.
    pub per_second: [f64; 3],
    /// Median latencies in milliseconds, as `redis-benchmark` reports them.
    pub p50_ms: f64,
    /// The 99th percentile, likewise.
    pub p99_ms: f64,
    /// The server's processor time for an operation in microseconds, in user mode.
    pub user_us: f64,
    /// The same in the kernel.
    pub system_us: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A program could not be run.
    #[error("cannot run {program}: {source} (Debian packages: redis-server, redis-tools)")]
    Program {
        /// Its name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A server did not come to serve.
    #[error("{side} does not serve: {reason}")]
    Server {
        /// Which.
        side: &'static str,
        /// What is known of it.
        reason: String,
    },
    /// The generator said something else than its table.
    #[error("redis-benchmark failed: {0}")]
    Generator(String),
    /// No folder could be made.
    #[error("{path}: {source}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Measures `cases` on all sides, calling `progress` before each measurement.
pub fn run(
    options: &Options,
    cases: &[Case],
    progress: impl Fn(&Case, Side, usize),
) -> Result<Vec<Row>, CompareError> {
    let servers = Side::ALL
        .into_iter()
        .map(|side| Server::start(side, options))
        .collect::<Result<Vec<Server>, CompareError>>()?;
    for server in &servers {
        let case = Case { command: "set", depth: WARM_UP_DEPTH };
        progress(&case, server.side, 0);
        generate(server, case, options, WARM_UP_OPERATIONS)?;
    }
    let mut rows = Vec::new();
    for case in cases {
        let mut rounds: Vec<Vec<Round>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            for side in turns(servers.len(), round) {
                progress(case, servers[side].side, round);
                rounds[side].push(measure(&servers[side], *case, options)?);
            }
        }
        for (server, rounds) in servers.iter().zip(rounds) {
            rows.push(summarise(*case, server.side, &rounds));
        }
    }
    Ok(rows)
}

struct Round {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    user_us: f64,
    system_us: f64,
}

fn summarise(case: Case, side: Side, rounds: &[Round]) -> Row {
    let middle = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let rates = || rounds.iter().map(|round| round.per_second);
    Row {
        case,
        side,
        per_second: [
            middle(|round| round.per_second),
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        ],
        p50_ms: middle(|round| round.p50_ms),
        p99_ms: middle(|round| round.p99_ms),
        user_us: middle(|round| round.user_us),
        system_us: middle(|round| round.system_us),
    }
}

fn measure(server: &Server, case: Case, options: &Options) -> Result<Round, CompareError> {
    let estimate = generate(server, case, options, ESTIMATE_OPERATIONS)?;
    let operations = (estimate.per_second * options.duration.as_secs_f64()) as u64;
    let operations = operations.max(ESTIMATE_OPERATIONS);
    let before = ProcessUse::read(server.child.id()).unwrap_or_default();
    let found = generate(server, case, options, operations)?;
    let after = ProcessUse::read(server.child.id()).unwrap_or_default();
    let used = after.since(&before);
    let per = |time: Duration| time.as_secs_f64() * 1e6 / operations as f64;
    Ok(Round {
        per_second: found.per_second,
        p50_ms: found.p50_ms,
        p99_ms: found.p99_ms,
        user_us: per(used.user),
        system_us: per(used.system),
    })
}

/// What the generator printed.
struct Generated {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn generate(
    server: &Server,
    case: Case,
    options: &Options,
    operations: u64,
) -> Result<Generated, CompareError> {
    let arguments = [
        ("-p", server.port.to_string()),
        ("-t", case.command.to_owned()),
        ("-n", operations.to_string()),
        ("-c", options.clients.to_string()),
        ("-P", case.depth.to_string()),
        ("-d", options.value_size.to_string()),
        ("-r", options.keys.to_string()),
    ];
    let mut command = pinned(options.client_cpu, "redis-benchmark");
    for (flag, value) in &arguments {
        command.args([flag, value.as_str()]);
    }
    let output = command.arg("--csv").output().map_err(|source| CompareError::Program {
        program: "redis-benchmark".to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_csv(&text).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        CompareError::Generator(format!("{text}{errors}"))
    })
}

/// Reads `"test","rps","avg_latency_ms","min_…","p50_…","p95_…","p99_…","max_…"` and its one row.
fn parse_csv(text: &str) -> Option<Generated> {
    let mut lines = text.lines().filter(|line| line.starts_with('"'));
    let names: Vec<&str> = lines.next()?.split(',').map(|name| name.trim_matches('"')).collect();
    let row: Vec<&str> = lines.next()?.split("\",\"").map(|cell| cell.trim_matches('"')).collect();
    let cell = |name: &str| -> Option<f64> {
        row.get(names.iter().position(|found| *found == name)?)?.parse().ok()
    };
    Some(Generated {
        per_second: cell("rps")?,
        p50_ms: cell("p50_latency_ms")?,
        p99_ms: cell("p99_latency_ms")?,
    })
}

/// `program`, bound to one core.
fn pinned(cpu: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

/// A running server; dropped, it is killed and its folder removed.
struct Server {
    side: Side,
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Server {
    fn start(side: Side, options: &Options) -> Result<Server, CompareError> {
        let name = format!("quorate-compare-{}-{}", std::process::id(), side as u8);
        let folder = options.directory.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|source| CompareError::Folder { path: folder.clone(), source })?;
        let port = free_port().map_err(|source| CompareError::Server {
            side: side.name(),
            reason: format!("no free port: {source}"),
        })?;
        let mut command = match side {
            Side::Quorate => quorate(&folder, port, options)?,
            Side::RedisDurable => redis(&folder, port, options, &["yes", "always"]),
            Side::RedisVolatile => redis(&folder, port, options, &["no", "no"]),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| CompareError::Program { program: side.name().to_owned(), source })?;
        let mut server = Server { side, child, port, folder };
        server.wait_until_serving()?;
        Ok(server)
    }

    fn wait_until_serving(&mut self) -> Result<(), CompareError> {
        // Read to its end, so that the server never waits for a reader.
        if let Some(output) = self.child.stdout.take() {
            std::thread::spawn(move || BufReader::new(output).lines().for_each(drop));
        }
        let address = format!("127.0.0.1:{}", self.port);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let connected = Connection::connect(&address, Duration::from_secs(1));
            let reason = match connected.and_then(|mut connection| connection.call(&["PING"])) {
                Ok(client::Reply::Simple(_)) => return Ok(()),
                Ok(reply) => reply.to_string(),
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                return Err(CompareError::Server { side: self.side.name(), reason });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and its folder with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn quorate(folder: &Path, port: u16, options: &Options) -> Result<Command, CompareError> {
    let data = folder.join("data");
    let program = |source| CompareError::Program { program: "quorate".to_owned(), source };
    let format = Command::new(&options.binary)
        .args(["format", "--cluster", "1", "--replica", "0", "--replicas", "1", "--dir"])
        .arg(&data)
        .output()
        .map_err(program)?;
    if !format.status.success() {
        let reason = String::from_utf8_lossy(&format.stderr).trim().to_owned();
        return Err(CompareError::Server { side: Side::Quorate.name(), reason });
    }
    let mut command = Command::new(&options.binary);
    command.args(["start", "--http", "127.0.0.1:0", "--resp", &format!("127.0.0.1:{port}")]);
    command.arg("--cores").arg(format!("{0}-{0}", options.server_cpu)).arg("--dir").arg(data);
    Ok(command)
}

fn redis(folder: &Path, port: u16, options: &Options, persistence: &[&str; 2]) -> Command {
    let mut command = pinned(options.server_cpu, "redis-server");
    command.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"]);
    command.args(["--appendonly", persistence[0], "--appendfsync", persistence[1]]);
    // A rewrite in the middle of a round would be measured as the server's own cost.
    command.args(["--auto-aof-rewrite-percentage", "0", "--dir"]).arg(folder);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_table_is_read_by_column() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                    \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"58139.53\",\"0.8\",\"0.2\",\"0.703\",\"1.1\",\"1.303\",\"3.9\"\n";
        let found = parse_csv(text).unwrap();
        assert!((found.per_second - 58139.53).abs() < 0.01);
        assert!((found.p50_ms - 0.703).abs() < 0.001 && (found.p99_ms - 1.303).abs() < 0.001);
        assert!(parse_csv("Could not connect to Redis").is_none());
    }
}
