//! `quorate bench soak`: whether compaction shows in the latency of a steady load.

use std::path::PathBuf;
use std::time::Duration;

use bench::engine::soak::{self, Load, Report};
use bench::engine::{self, Options};
use node::config::units::{format_size, parse_duration, parse_size};

use super::common::{Printing, engine_failure};
use crate::outcome::Outcome;
use crate::progress::Line;

/// Soak the storage engine in a steady load, and compare with the same load and nothing to merge
///
/// Fills more than memory holds, looks for the highest rate, then overwrites and deletes at a share
/// of it. By turns the same load runs with all merges done beforehand; the two should look alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench soak --dir /mnt/nvme\n  \
                        quorate bench soak --duration 30m --json")]
pub(crate) struct Arguments {
    /// Folder on the disk to use; what is made in it is removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// How long to soak
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    duration: Duration,
    /// Hundredths of the highest rate to ask for, as its slowest two seconds had it
    #[arg(long, value_name = "PERCENT", default_value_t = 70)]
    share: u32,
    /// Operations a second to ask for, whatever the highest rate is
    #[arg(long, value_name = "OPERATIONS", conflicts_with = "share",
          value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Of a hundred ops, how many delete
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    deletes: u32,
    /// Number of keys [default: ten times what memtables and cache hold]
    #[arg(long, value_name = "COUNT")]
    keys: Option<u64>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_size: u32,
    /// Bytes of the engine's cache
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    cache: u64,
    /// Writes in an op, as group commit gathers them
    #[arg(long, value_name = "COUNT", default_value_t = 32,
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
    let keys = arguments.keys;
    let options = Options {
        directory: arguments.dir.clone(),
        keys: keys.unwrap_or_else(|| soak::keys_for(arguments.cache, arguments.value_size)),
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
    let Arguments { duration, share: percent, rate, deletes, .. } = *arguments;
    let line = Line::new();
    let shown = line.clone();
    let result = soak::run(&options, Load { duration, percent, rate, deletes }, move |what| {
        shown.say(what.to_owned());
    });
    line.finish();
    let report = result.map_err(engine_failure)?;
    let settings = format_args!(
        "{} keys of {} bytes, values of {} bytes, cache {}, core {}, ops of {} writes,\n\
         {deletes} of a hundred delete",
        options.keys,
        engine::data::KEY_SIZE,
        options.value_size,
        format_size(options.cache_bytes),
        options.cpu,
        options.batch,
    );
    arguments.printing.print_as("soak", &report, settings, render);
    Ok(())
}

fn render(report: &Report) -> String {
    let mut text = format!(
        "{:.0} operations a second at most, {:.0} in the slowest two seconds of it;\n\
         {:.0} asked for, for {:?}\n\n{:<10}{:>12}{:>9}{:>9}\
         {:>9}{:>9}{:>10}\n",
        report.most,
        report.held,
        report.rate,
        report.load.duration,
        "",
        "operations",
        "p50 us",
        "p99 us",
        "p99.9",
        "p99.99",
        "max us"
    );
    for (name, latency) in [("soak", &report.soak), ("control", &report.control)] {
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
    let mut bars: Vec<u64> = report.bars.iter().map(|bar| bar.blocks).collect();
    bars.sort_unstable();
    let of = |part: usize| bars.get((bars.len() * part / 100).min(bars.len().saturating_sub(1)));
    let [least, median, most] = [0, 50, 100].map(|part| of(part).copied().unwrap_or(0));
    text.push_str(&format!(
        "\nwrite amplification {:.2}; {} bars, blocks merged in each: {least} at least,\n\
         {median} in the middle, {most} at most\n\
         fixed work took {:.2} x as long in the core's slowest second as usual\n\n",
        report.write_amplification,
        bars.len(),
        report.slowest_second,
    ));
    for promise in report.promises() {
        let (at, held) = (if promise.least { "at least" } else { "at most" }, promise.held());
        text.push_str(&format!(
            "{:<42}{:>7.2}  {at} {:<5} {}\n",
            promise.name,
            promise.found,
            promise.bound,
            if held { "held" } else { "missed" }
        ));
    }
    text
}
