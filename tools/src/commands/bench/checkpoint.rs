//! `quorate bench checkpoint`: what a checkpoint does to the latency of a steady load.

use std::path::PathBuf;
use std::time::Duration;

use bench::engine::checkpoint::{self, Report, WINDOW};
use bench::engine::{self, Options};
use node::config::units::{format_size, parse_duration, parse_size};

use super::common::{Printing, engine_failure};
use crate::outcome::Outcome;
use crate::progress::Line;

/// Show the latency of a steady load before, during and after the engine's checkpoints
///
/// Fills, looks for the highest rate, then overwrites at a share of it. Every write is put to the
/// checkpoint that was written meanwhile, or shortly after or before it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench checkpoint --dir /mnt/nvme")]
pub(crate) struct Arguments {
    /// Folder on the disk to use; what is made in it is removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    duration: Duration,
    /// Hundredths of the highest rate to ask for
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    share: u32,
    /// Number of keys
    #[arg(long, value_name = "COUNT", default_value_t = 200_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 1000)]
    value_size: u32,
    /// Bytes of the engine's cache
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    cache: u64,
    /// Writes in an op, as group commit gathers them
    #[arg(long, value_name = "COUNT", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
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
        depth: 1,
        scan_length: 1,
        cache_bytes: arguments.cache,
        cpu: arguments.cpu,
        delete_rounds: 1,
        seed: arguments.seed,
    };
    let line = Line::new();
    let shown = line.clone();
    let result = checkpoint::run(&options, arguments.share, move |what| shown.say(what.to_owned()));
    line.finish();
    let report = result.map_err(engine_failure)?;
    let settings = format_args!(
        "{} keys of {} bytes, values of {} bytes, cache {}, core {}, ops of {} writes,\n\
         {:?} at {} of a hundred of the highest rate; before and after are {WINDOW:?} each",
        options.keys,
        engine::data::KEY_SIZE,
        options.value_size,
        format_size(options.cache_bytes),
        options.cpu,
        options.batch,
        arguments.duration,
        arguments.share,
    );
    arguments.printing.print_as("checkpoint", &report, settings, render);
    Ok(())
}

fn render(report: &Report) -> String {
    let mut text = format!(
        "{:.0} operations a second at most; {:.0} asked for\n{} checkpoints of {:.1} blocks; \
         from trigger to durable {:.1} ms (median), {:.1} ms at most\n\n{:<10}{:>12}{:>9}{:>9}\
         {:>9}{:>9}{:>10}\n",
        report.most,
        report.rate,
        report.checkpoints,
        report.blocks,
        report.lasted.p50_us / 1000.0,
        report.lasted.max_us / 1000.0,
        "",
        "operations",
        "p50 us",
        "p99 us",
        "p99.9",
        "p99.99",
        "max us"
    );
    for (name, latency) in &report.writes {
        text.push_str(&format!(
            "{name:<10}{:>12}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>10.1}\n",
            latency.count,
            latency.p50_us,
            latency.p99_us,
            latency.p999_us,
            latency.p9999_us,
            latency.max_us
        ));
    }
    text
}
