//! `quorate bench cluster`: three replicas beside one on this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bench::cluster::{self, ClusterError, Options, Row, Side};
use bench::load;
use bench::workload::{Distribution, Mix, ValueSizes};
use node::config::units::parse_duration;

use super::common::{Printing, Rounds};
use super::run::run_number;
use crate::outcome::{Failure, Outcome};
use crate::progress;

/// Measure what replication costs: three replicas beside one, on this machine, taking turns
///
/// Starts a cluster of one and a cluster of three, each replica on one core, and loads them by
/// turns. The three share this machine's cores and disk with each other and with the generator.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench cluster --clients 64 --depth 1,16 --rounds 5")]
pub(crate) struct Arguments {
    /// Folder on the disk to use; what is made in it is removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// put, get, mixed (80 % reads), or a, b, c, f (YCSB's mixes)
    #[arg(long, value_name = "NAME", default_value = "put")]
    workload: Mix,
    /// Connections
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    clients: usize,
    /// Requests outstanding on each connection, one measurement for each
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "1,16")]
    depth: Vec<usize>,
    /// Number of keys
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_size: usize,
    /// How long to measure each side in each round
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    rounds: Rounds,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let load = load::Options {
        address: String::new(),
        mix: arguments.workload,
        distribution: Distribution::Uniform,
        keys: arguments.keys,
        values: ValueSizes { min: arguments.value_size, max: arguments.value_size },
        clients: arguments.clients.max(1),
        depth: 1,
        rate: None,
        duration: arguments.duration,
        seed: 1,
        run: run_number(),
        preload: false,
        verify_keys: 1000,
        cpu: None,
        server_pid: None,
    };
    let options = Options {
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        directory: arguments.dir.clone(),
        rounds: arguments.rounds.count(),
        load,
        depths: arguments.depth.iter().map(|depth| (*depth).max(1)).collect(),
    };
    let line = progress::Line::new();
    let rows = cluster::run(&options, |text| line.say(text));
    line.finish();
    let rows = rows.map_err(|error| match error {
        error @ ClusterError::Wrong(_) => Failure::Corrupt(anyhow!(error)),
        error => Failure::Failed(anyhow!(error)),
    })?;
    let settings = format_args!(
        "{} connections, values of {} bytes, {} keys, {} rounds of {:?}",
        options.load.clients,
        arguments.value_size,
        arguments.keys,
        options.rounds,
        arguments.duration
    );
    arguments.printing.print(&rows, settings, render);
    Ok(())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>5}  {:<16}{:>11}{:>23}{:>10}{:>10}{:>12}{:>10}\n",
        "depth",
        "load to",
        "per second",
        "(least .. most)",
        "p50 us",
        "p99 us",
        "cpu us/op",
        "x one"
    );
    for row in rows {
        let [middle, least, most] = row.per_second;
        let one = rows.iter().find(|one| one.depth == row.depth && one.side == Side::Alone);
        let ratio = one.map_or(1.0, |one| middle / one.per_second[0]);
        text.push_str(&format!(
            "{:>5}  {:<16}{middle:>11.0}{:>23}{:>10.0}{:>10.0}{:>12.1}{ratio:>10.2}\n",
            row.depth,
            row.side.name(),
            format!("({least:.0} .. {most:.0})"),
            row.p50_us,
            row.p99_us,
            row.cpu_us
        ));
    }
    text.push_str("\ncpu us/op: processor time of all replicas together for each operation\n");
    text
}
