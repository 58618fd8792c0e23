//! `quorate bench compare`: side by side with Redis, or with other storage engines, in one run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bench::compare::{self, CASES, Case, Options, Row, Side};
use node::config::units::parse_duration;

use super::common::{Printing, Rounds};
use super::compare_engines;
use crate::outcome::Outcome;

/// Measure this product and another one on the same cores and disk, taking turns
///
/// With Redis: a node over the network. Needs redis-server, redis-benchmark and taskset. Servers
/// share one core, the generator has another; processor time of the servers is given for each
/// operation.
///
/// With --engine: the storage engine alone, embedded, against others. Each has a process on the
/// same core. Needs a build with --features engines, and taskset.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench compare --rounds 5 --dir /mnt/nvme\n  \
                        quorate bench compare --engine rocksdb,fjall --work fill-random,scan")]
pub(crate) struct Arguments {
    /// The system to compare with
    #[arg(long, value_name = "NAME", default_value = "redis", value_parser = ["redis"])]
    against: String,
    /// Folder on the disk to use; what is made in it is removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(super) dir: PathBuf,
    /// About how long to measure each row on each side in each round
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) rounds: Rounds,
    /// Connections
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    clients: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(super) value_size: u32,
    /// Number of different keys [default: 100000, of engines 2000000]
    #[arg(long, value_name = "COUNT")]
    pub(super) keys: Option<u64>,
    /// Core of what is measured
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(super) server_cpu: usize,
    /// Core of the generator
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    client_cpu: usize,
    #[command(flatten)]
    pub(super) engines: compare_engines::Arguments,
    #[command(flatten)]
    pub(super) printing: Printing,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if !arguments.engines.engine.is_empty() {
        return compare_engines::run(arguments);
    }
    let options = Options {
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        directory: arguments.dir.clone(),
        duration: arguments.duration,
        rounds: arguments.rounds.count(),
        clients: arguments.clients,
        value_size: arguments.value_size,
        keys: arguments.keys.unwrap_or(100_000),
        server_cpu: arguments.server_cpu,
        client_cpu: arguments.client_cpu,
    };
    let rows = compare::run(&options, &CASES, |_, _, _| {})?;
    let settings = format_args!(
        "servers on core {}, redis-benchmark on core {}: {} connections, values of {} bytes, \
         {} keys, {} rounds of about {:?}",
        options.server_cpu,
        options.client_cpu,
        options.clients,
        options.value_size,
        options.keys,
        options.rounds,
        options.duration
    );
    arguments.printing.print(&rows, settings, render);
    Ok(())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<5}{:>6}  {:<20}{:>11}{:>23}{:>9}{:>9}{:>10}{:>11}{:>14}{:>10}\n",
        "",
        "depth",
        "server",
        "per second",
        "(least .. most)",
        "p50 ms",
        "p99 ms",
        "user us",
        "kernel us",
        "x throughput",
        "x cpu"
    );
    for row in rows {
        let Row { case: Case { command, depth }, side, per_second, .. } = row;
        let [middle, least, most] = per_second;
        let spread = format!("({least:.0} .. {most:.0})");
        let own = rows.iter().find(|own| own.case == row.case && own.side == Side::Quorate);
        let ratios = own.filter(|_| *side != Side::Quorate).map_or(String::new(), |own| {
            let cpu = |row: &Row| row.user_us + row.system_us;
            format!("{:>14.2}{:>10.2}", own.per_second[0] / middle, cpu(own) / cpu(row))
        });
        text.push_str(&format!(
            "{:<5}{depth:>6}  {:<20}{middle:>11.0}{spread:>23}{:>9.3}{:>9.3}{:>10.2}{:>11.2}\
             {ratios}\n",
            command.to_uppercase(),
            side.name(),
            row.p50_ms,
            row.p99_ms,
            row.user_us,
            row.system_us
        ));
    }
    text.push_str("\nx throughput: ours over theirs, more is better; x cpu: less is better\n");
    text
}
