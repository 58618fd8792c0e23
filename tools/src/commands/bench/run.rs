//! `quorate bench run`: load a running node over RESP and report.

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use bench::load::{self, Options};
use bench::workload::{Distribution, Mix, ValueSizes};
use node::config::units::parse_duration;

use crate::outcome::{Failure, Outcome, print, print_line};
use crate::progress;

/// Load a running node, or any server that speaks RESP, and report latencies
///
/// A run is verified: each key has one writer, so what was acknowledged is known, and a sample is
/// read back at the end. Latencies of an open loop (--rate) count from when a request was due.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quorate bench run --workload put --clients 50 --duration 10s\n  \
                        quorate bench run --workload b --distribution zipf:0.99 --rate 50000"
)]
pub(crate) struct Arguments {
    /// RESP address of the server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6400")]
    addr: String,
    /// The protocol to speak
    #[arg(long, value_name = "PROTOCOL", default_value = "resp", value_parser = ["resp"])]
    protocol: String,
    /// a, b, c, f (YCSB's mixes), put, get, mixed (80 % reads) or ttl
    #[arg(long, value_name = "NAME", default_value = "a")]
    workload: Mix,
    /// Number of keys
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    keys: u64,
    /// Size of values in bytes, or a range as in 100..1000
    #[arg(long, value_name = "BYTES", default_value = "100")]
    value_size: ValueSizes,
    /// uniform, zipf:S or latest
    #[arg(long, value_name = "SHAPE", default_value = "uniform")]
    distribution: Distribution,
    /// Connections
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    clients: usize,
    /// Requests outstanding on each connection
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    depth: usize,
    /// Operations a second in total, or max for as many as are answered
    #[arg(long, value_name = "RATE", default_value = "max", value_parser = parse_rate)]
    rate: Rate,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Seed of keys, operations and sizes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Do not write all keys once before measuring a workload that reads
    #[arg(long)]
    no_load: bool,
    /// Keys to read back at the end; 0 leaves the result unverified
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    verify: u64,
    /// Pin the generator to this core
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    /// Report the use of this process, the server's
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rate(Option<f64>);

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Rate(None)),
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Rate(Some(rate))),
        _ => Err("expected operations a second, as in 50000, or max".to_owned()),
    }
}

/// A number that values of different runs differ by.
pub(crate) fn run_number() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.subsec_nanos() ^ (since.as_secs() as u32).rotate_left(8)
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let options = Options {
        address: arguments.addr.clone(),
        mix: arguments.workload,
        distribution: arguments.distribution,
        keys: arguments.keys,
        values: arguments.value_size,
        clients: arguments.clients,
        depth: arguments.depth,
        rate: arguments.rate.0,
        duration: arguments.duration,
        seed: arguments.seed,
        run: run_number(),
        preload: arguments.workload.reads() && !arguments.no_load,
        verify_keys: arguments.verify,
        cpu: arguments.cpu,
        server_pid: arguments.server_pid,
    };
    let line = progress::Line::new();
    let shown = line.clone();
    let finished =
        load::run(&options, move |now| shown.show(now)).map_err(|error| match error {
            error @ load::LoadError::TooFewKeys { .. } => Failure::Usage(error.into()),
            error => Failure::Failed(error.into()),
        })?;
    line.finish();
    let report = finished.report;
    if arguments.json {
        print_line(serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    if report.is_good() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("the run met errors or wrong answers, listed above")))
}
