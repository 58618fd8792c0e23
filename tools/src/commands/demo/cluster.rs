//! The demonstration with three replicas.
//!
//! 1. Format and start three replicas on loopback, each a process of its own.
//! 2. Load all of them; a ledger keeps what was acknowledged.
//! 3. `kill -9` the primary. The others choose a new one, and writes go on: how long they paused is
//!    what clients noticed.
//! 4. Start the one that was killed; it catches up while the load goes on.
//! 5. Stop the load, read every key back at each of the three, judge each byte by the ledger.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bench::report::Verification;
use ioring::Direct;
use serde::Serialize;
use serde_json::Value;
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

use super::Arguments;
use super::load::Load;
use super::node::Node;
use crate::commands::bench::run_number;
use crate::commands::{format, status};
use crate::outcome::{Failure, Outcome, print, print_line};
use crate::progress::Line;

const REPLICAS: usize = 3;
const JOURNAL_SIZE: u64 = 128 << 20;
const GRID_SIZE_MAX: u64 = 64 << 30;
/// How often the live line is drawn anew.
const TICK: Duration = Duration::from_millis(500);
/// How long the cluster may take for a primary, or a replica to catch up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the demonstration found.
#[derive(Debug, Serialize)]
struct Report {
    replicas: usize,
    operations_acknowledged: u64,
    operations_lost: u64,
    operations_wrong: u64,
    /// At all replicas together.
    keys_read_back: u64,
    /// The longest time without an acknowledgement after the primary was killed.
    time_to_fail_over_ms: u64,
    /// From the start of the replica that was killed until it served.
    time_to_serve_ms: u64,
    throughput_per_second: f64,
    latency_p50_us: f64,
    latency_p99_us: f64,
}

/// The replicas, and where they are.
struct Cluster {
    folder: PathBuf,
    peers: String,
    native: Vec<String>,
    resp: Vec<String>,
    http: Vec<String>,
    nodes: Vec<Node>,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let say = |text: String| {
        if !arguments.json {
            print_line(text);
        }
    };
    say(format!("1. starting three replicas in {}", folder.path().display()));
    let mut cluster = Cluster::start(folder.path())?;
    say(format!("   they serve Redis clients on {}", cluster.resp.join(", ")));
    say(format!("2. loading all of them: 12 clients, 100-byte values, {} s", arguments.seconds));
    let load = Load::new(cluster.resp.clone(), run_number());
    let half = Duration::from_secs(arguments.seconds);
    let started = Instant::now();
    let (fail_over, time_to_serve) = thread::scope(|scope| {
        load.start(scope);
        // Whatever goes wrong, the clients have to be told to end.
        let result = cluster.lose_the_primary(&load, half, &say);
        load.stop();
        result
    })?;
    let seconds = started.elapsed().as_secs_f64();
    say("5. reading everything back at each of the three".to_owned());
    let tally = load.tally();
    let mut sum = Verification::default();
    for address in &cluster.resp {
        let found = bench::load::verify(address, &tally.ledger, u64::MAX, 0)?;
        sum.keys_read += found.keys_read;
        sum.lost += found.lost;
        sum.wrong += found.wrong;
    }
    let latency = tally.latencies.summary();
    let report = Report {
        replicas: REPLICAS,
        operations_acknowledged: tally.acknowledged,
        operations_lost: sum.lost,
        operations_wrong: sum.wrong,
        keys_read_back: sum.keys_read,
        time_to_fail_over_ms: fail_over.as_millis() as u64,
        time_to_serve_ms: time_to_serve.as_millis() as u64,
        throughput_per_second: tally.acknowledged as f64 / seconds,
        latency_p50_us: latency.p50_us,
        latency_p99_us: latency.p99_us,
    };
    match arguments.json {
        true => print_line(serde_json::to_string(&report)?),
        false => print(render(&report)),
    }
    match sum.lost + sum.wrong {
        0 => Ok(()),
        _ => Err(Failure::Corrupt(anyhow!("{} keys lost, {} keys wrong", sum.lost, sum.wrong))),
    }
}

fn render(report: &Report) -> String {
    let verdict = if report.operations_lost + report.operations_wrong == 0 {
        "operations lost: 0; every acknowledged write is at all three, byte for byte".to_owned()
    } else {
        format!("LOST {} keys, WRONG {} keys", report.operations_lost, report.operations_wrong)
    };
    format!(
        "\n   acknowledged writes  {}, {:.0} a second\n   keys read back       {}\n   \
         durable SET latency  p50 {:.0} us, p99 {:.0} us, 16 at once\n   \
         time to fail over    {} ms without an acknowledgement\n   \
         time to serve again  {} ms\n\n   {verdict}\n",
        report.operations_acknowledged,
        report.throughput_per_second,
        report.keys_read_back,
        report.latency_p50_us,
        report.latency_p99_us,
        report.time_to_fail_over_ms,
        report.time_to_serve_ms
    )
}

impl Cluster {
    /// Formats and starts the replicas, and waits until all of them serve.
    fn start(folder: &Path) -> anyhow::Result<Cluster> {
        let addresses =
            || (0..REPLICAS).map(|_| free_address()).collect::<anyhow::Result<Vec<_>>>();
        let native = addresses()?;
        let mut cluster = Cluster {
            folder: folder.to_owned(),
            peers: native.join(","),
            native,
            resp: addresses()?,
            http: addresses()?,
            nodes: Vec::new(),
        };
        for replica in 0..REPLICAS {
            let configuration = Configuration {
                replica_count: REPLICAS as u8,
                shard_count: 2,
                grid_size_max: GRID_SIZE_MAX,
                ..Default::default()
            }
            .with_journal_size(JOURNAL_SIZE);
            let options = FormatOptions {
                direct: Direct::Preferred,
                ..FormatOptions::new(ClusterId(1), ReplicaId(replica as u8), configuration)
            };
            let formatted = format::format(&cluster.directory(replica), &options);
            formatted.map_err(Failure::into_error)?;
        }
        for replica in 0..REPLICAS {
            let node = cluster.spawn(replica)?;
            cluster.nodes.push(node);
        }
        cluster.nodes.iter_mut().try_for_each(Node::wait_until_serving)?;
        Ok(cluster)
    }

    fn directory(&self, replica: usize) -> PathBuf {
        self.folder.join(replica.to_string())
    }

    fn spawn(&self, replica: usize) -> anyhow::Result<Node> {
        let (native, resp, http) =
            (&*self.native[replica], &*self.resp[replica], &*self.http[replica]);
        let flags = ["--peers", &self.peers, "--listen", native, "--resp", resp, "--http", http];
        let flags = [&flags[..], &["--cores", "1", "--cache", "64MiB"]].concat();
        Node::spawn(&self.directory(replica), &flags)
    }

    /// Kills the primary in the middle of the load and starts it again; how long writes paused, and
    /// how long it took to serve again.
    fn lose_the_primary(
        &mut self,
        load: &Load,
        half: Duration,
        say: &dyn Fn(String),
    ) -> anyhow::Result<(Duration, Duration)> {
        let line = Line::new();
        self.watch(load, &line, half);
        let primary = self.primary().context("the cluster has no primary")?;
        load.measure_pause();
        self.nodes[primary].kill()?;
        line.finish();
        say(format!("3. replica {primary}, the primary, killed with SIGKILL in the middle of it"));
        let line = Line::new();
        self.watch(load, &line, half.min(Duration::from_secs(5)));
        let pause = load.pause();
        line.finish();
        say(format!("   writes paused for {} ms", pause.as_millis()));
        let restarted = Instant::now();
        self.nodes[primary] = self.spawn(primary)?;
        self.nodes[primary].wait_until_serving()?;
        let time_to_serve = restarted.elapsed();
        say(format!(
            "4. replica {primary} started again: serving after {} ms",
            time_to_serve.as_millis()
        ));
        let line = Line::new();
        self.watch(load, &line, Duration::from_secs(2));
        line.finish();
        Ok((pause, time_to_serve))
    }

    /// Shows what goes on for some time.
    fn watch(&self, load: &Load, line: &Line, length: Duration) {
        let started = Instant::now();
        let mut before = load.tally().acknowledged;
        let mut at = started;
        while started.elapsed() < length {
            thread::sleep(TICK.min(length));
            let now = load.tally().acknowledged;
            let rate = (now - before) as f64 / at.elapsed().as_secs_f64();
            (before, at) = (now, Instant::now());
            line.say(format!(
                "{now:>9} writes acknowledged, {rate:>7.0} a second;  {}",
                self.show()
            ));
        }
    }

    /// How each replica is, in a few words.
    fn show(&self) -> String {
        let word = |replica: usize| match self.ask(replica) {
            None => format!("{replica} is down"),
            Some(status) => {
                let own = &status["replicas"][replica];
                let (role, op) = (own["role"].as_str().unwrap_or("-"), &own["commit"]);
                format!("{replica} {role} at op {op}")
            }
        };
        (0..REPLICAS).map(word).collect::<Vec<_>>().join(", ")
    }

    fn ask(&self, replica: usize) -> Option<Value> {
        status::ask_one(&self.http[replica], Duration::from_secs(1)).ok()
    }

    /// The primary, as it says itself; waits for one.
    fn primary(&self) -> Option<usize> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let leads = |replica: &usize| {
                let status = self.ask(*replica);
                status.is_some_and(|status| status["primary"].as_u64() == Some(*replica as u64))
            };
            if let Some(primary) = (0..REPLICAS).find(leads) {
                return Some(primary);
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

/// An address of loopback that nobody listens on now.
fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    Ok(listener.local_addr()?.to_string())
}
