//! `quorate bench engine`: what the storage engine does alone.

use std::path::PathBuf;
use std::time::Duration;

use bench::engine::{self, Options, Row};
use node::config::units::{format_size, parse_duration, parse_size};

use super::common::{Printing, engine_failure};
use crate::outcome::Outcome;
use crate::progress::Line;

/// Measure the storage engine in this process, on one core, without log and network
///
/// Fills, overwrites, reads, scans, mixes and deletes; every answer is compared with what was
/// written last. The figures are the limit of what a shard can do.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench engine --dir /mnt/nvme\n  \
                        quorate bench engine --keys 10000000 --value-size 1000 --duration 30s")]
pub(crate) struct Arguments {
    /// Folder on the disk to use; what is made in it is removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// Number of keys
    #[arg(long, value_name = "COUNT", default_value_t = 2_000_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_size: u32,
    /// How long to measure each kind of work that has no end of its own
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of the engine's cache
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    cache: u64,
    /// Writes in an op, as group commit gathers them
    #[arg(long, value_name = "COUNT", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Operations in flight where they wait for the disk
    #[arg(long, value_name = "COUNT", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Entries of a scan
    #[arg(long, value_name = "COUNT", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    scan_length: u32,
    /// Core to measure on
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    cpu: usize,
    /// Seed of keys and order
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let options = Options {
        directory: arguments.dir.clone(),
        keys: arguments.keys,
        value_size: arguments.value_size,
        duration: arguments.duration,
        batch: usize::from(arguments.batch),
        depth: usize::from(arguments.depth),
        scan_length: arguments.scan_length as usize,
        cache_bytes: arguments.cache,
        cpu: arguments.cpu,
        delete_rounds: 1,
        seed: arguments.seed,
    };
    let line = Line::new();
    let shown = line.clone();
    let result = engine::run(&options, move |progress| {
        let seconds = progress.elapsed.as_secs_f64();
        let per_second = progress.operations as f64 / seconds;
        let work = progress.work.name();
        shown.say(format!("{work:<16}{seconds:>5.1} s  {per_second:>10.0} operations/s"));
    });
    line.finish();
    let rows = result.map_err(engine_failure)?;
    let settings = format_args!(
        "{} keys of {} bytes, values of {} bytes, cache {}, core {}, ops of {} writes,\n{} reads \
         in flight, scans of {} entries, {:?} for what has no end of its own",
        options.keys,
        engine::data::KEY_SIZE,
        options.value_size,
        format_size(options.cache_bytes),
        options.cpu,
        options.batch,
        options.depth,
        options.scan_length,
        options.duration
    );
    arguments.printing.print(&rows, settings, render);
    Ok(())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16}{:>10}{:>8}{:>9}{:>9}{:>9}{:>9}{:>10}{:>7}{:>7}{:>7}{:>7}{:>9}{:>7}{:>8}\
         {:>8}{:>9}\n",
        "work",
        "ops/s",
        "MB/s",
        "p50 us",
        "p99 us",
        "p99.9",
        "p99.99",
        "max us",
        "write",
        "read",
        "reads",
        "space",
        "cpu us",
        "RSS",
        "stalls",
        "stall s",
        "settle s"
    );
    for row in rows {
        let amplification = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.2}"));
        let latency = &row.latency;
        text.push_str(&format!(
            "{:<16}{:>10.0}{:>8.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>10.1}{:>7}{:>7}{:>7.2}{:>7}\
             {:>9.3}{:>7}{:>8}{:>8.1}{:>9.2}\n",
            row.work.name(),
            row.operations as f64 / row.seconds,
            row.bytes_per_second / 1e6,
            latency.p50_us,
            latency.p99_us,
            latency.p999_us,
            latency.p9999_us,
            latency.max_us,
            amplification(row.write_amplification),
            amplification(row.read_amplification),
            row.device_reads,
            amplification(row.space_amplification),
            row.cpu_us,
            row.resident_bytes >> 20,
            row.stalls,
            row.stall_seconds,
            row.settle_seconds
        ));
    }
    text.push_str(LEGEND);
    text
}

const LEGEND: &str = "\nwrite, read, space: amplification, bytes of the device over bytes of keys \
and values; reads: of the device,\nfor an operation; cpu us: of the process for an operation, \
settling included; RSS in MiB; stalls: steps that\nheld the core for more than a millisecond; \
stall s: seconds in tenths of a second with less than a tenth of\nthe mean rate; settle s: until \
what was due was done. All answers were compared with what was written last.\n";
