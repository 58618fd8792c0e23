//! The demonstration with one node.
//!
//! 1. Start `quorate dev` in a temporary folder, on ports of its own choosing.
//! 2. Load it with the generator of `quorate bench run`, which keeps a ledger of what was
//!    acknowledged.
//! 3. Half way through, `kill -9`: nothing gets to say goodbye.
//! 4. Start it again, wait until it serves, read every key back, judge each byte by the ledger.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bench::load::{self, Options, Run};
use bench::report::Verification;
use bench::workload::{Distribution, Mix, ValueSizes};
use serde::Serialize;

use super::Arguments;
use super::node::Node;
use crate::commands::bench::run_number;
use crate::outcome::{Failure, Outcome, print, print_line};
use crate::progress;

/// Ports of the kernel's choosing.
const FLAGS: &[&str] = &["--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"];

/// What the demonstration found.
#[derive(Debug, Serialize)]
struct Report {
    operations_acknowledged: u64,
    operations_lost: u64,
    operations_wrong: u64,
    keys_read_back: u64,
    time_to_serve_ms: u64,
    throughput_per_second: f64,
    latency_p50_us: f64,
    latency_p99_us: f64,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let directory = folder.path().join("data");
    let say = |text: String| {
        if !arguments.json {
            print_line(text);
        }
    };
    say(format!("1. starting a node in {}", directory.display()));
    let mut node = Node::start(&directory, FLAGS)?;
    say(format!("   it serves Redis clients on {}", node.resp));

    say(format!("2. loading it: 50 connections, 100-byte values, {} s", arguments.seconds));
    let Run { report, ledger } = load_and_kill(&mut node, arguments)?;
    say(format!(
        "   {} writes and reads answered, {:.0} a second",
        report.operations, report.throughput
    ));
    say("3. killed with SIGKILL in the middle of it".to_owned());

    let restarted = Instant::now();
    let node = Node::start(&directory, FLAGS)?;
    let time_to_serve = restarted.elapsed();
    say(format!("4. started again: serving after {} ms", time_to_serve.as_millis()));

    let Verification { keys_read, lost, wrong } = load::verify(&node.resp, &ledger, u64::MAX, 0)?;
    let latency = report.latencies.iter().find(|(name, _)| name == "SET").map(|(_, l)| *l);
    let latency = latency.unwrap_or_default();
    let report = Report {
        operations_acknowledged: ledger.acknowledged_total(),
        operations_lost: lost,
        operations_wrong: wrong,
        keys_read_back: keys_read,
        time_to_serve_ms: time_to_serve.as_millis() as u64,
        throughput_per_second: report.throughput,
        latency_p50_us: latency.p50_us,
        latency_p99_us: latency.p99_us,
    };
    if arguments.json {
        print_line(serde_json::to_string(&report)?);
    } else {
        print(render(&report));
    }
    if lost + wrong > 0 {
        return Err(Failure::Corrupt(anyhow!("{lost} keys lost, {wrong} keys wrong")));
    }
    Ok(())
}

fn render(report: &Report) -> String {
    let verdict = if report.operations_lost + report.operations_wrong == 0 {
        "every acknowledged write is there, byte for byte".to_owned()
    } else {
        format!("LOST {} keys, WRONG {} keys", report.operations_lost, report.operations_wrong)
    };
    format!(
        "\n   acknowledged writes  {}\n   keys read back       {}\n   durable SET latency  \
         p50 {:.0} us, p99 {:.0} us\n   time to serve        {} ms\n\n   {verdict}\n",
        report.operations_acknowledged,
        report.keys_read_back,
        report.latency_p50_us,
        report.latency_p99_us,
        report.time_to_serve_ms
    )
}

/// Runs the load in a thread of its own and kills the node when the time has come.
fn load_and_kill(node: &mut Node, arguments: &Arguments) -> anyhow::Result<Run> {
    let options = Options {
        address: node.resp.clone(),
        mix: "a".parse::<Mix>()?,
        distribution: Distribution::Zipf(0.99),
        keys: 100_000,
        values: ValueSizes { min: 100, max: 100 },
        clients: 50,
        depth: 4,
        rate: None,
        // The kill ends it.
        duration: Duration::from_secs(arguments.seconds + 600),
        seed: 1,
        run: run_number(),
        preload: false,
        verify_keys: 0,
        cpu: None,
        server_pid: None,
    };
    let line = progress::Line::new();
    let shown = line.clone();
    let show = !arguments.json;
    let load = thread::spawn(move || {
        load::run(&options, move |now| {
            if show {
                shown.show(now);
            }
        })
    });
    thread::sleep(Duration::from_secs(arguments.seconds));
    if load.is_finished() {
        line.finish();
        load.join().map_err(|_| anyhow!("the load generator failed"))??;
        bail!("the load ended before the kill");
    }
    node.kill()?;
    let run = load.join().map_err(|_| anyhow!("the load generator failed"))??;
    line.finish();
    Ok(run)
}
