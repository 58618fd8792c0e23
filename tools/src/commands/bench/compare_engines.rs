//! `quorate bench compare --engine`: the storage engine side by side with others.

use anyhow::{Context, anyhow};
use bench::engine::{Options, WORKS, Work, data};
use bench::engines::{self, Ask, Comparison, Engine, EnginesError, Ratio, Report, Row, Spread};
use node::config::units::{format_size, parse_size};

use crate::outcome::{Failure, Outcome};
use crate::progress::Line;

/// What only a comparison of engines has; no group of its own, whose name `compare` has already.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Storage engines to compare ours with: rocksdb, rocksdb+ (its indexes and filters count as
    /// part of its cache, as ours do), fjall, redb; quorate is ours once more
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
          conflicts_with_all = ["against", "clients", "client_cpu"])]
    pub(super) engine: Vec<Engine>,
    /// Kinds of work, with --engine: all, or names as the table has them, with a hyphen
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "engine",
          default_value = "all", value_parser = parse_work)]
    work: Vec<Works>,
    /// Bytes of an engine's cache, with --engine
    #[arg(long, value_name = "SIZE", requires = "engine", default_value = "64MiB",
          value_parser = parse_size)]
    cache: u64,
    /// Writes in a batch, with --engine
    #[arg(long, value_name = "COUNT", requires = "engine", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Operations in flight where they wait for the disk, with --engine
    #[arg(long, value_name = "COUNT", requires = "engine", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Entries of a scan, with --engine
    #[arg(long, value_name = "COUNT", requires = "engine", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    scan_length: u32,
}

/// One kind of work or all.
#[derive(Debug, Clone, Copy)]
enum Works {
    All,
    One(Work),
}

/// A work's name on the command line.
fn flag_name(work: Work) -> String {
    work.name().replace(", ", "-").replace([' ', '/'], "-")
}

fn parse_work(text: &str) -> Result<Works, String> {
    if text == "all" {
        return Ok(Works::All);
    }
    let found = WORKS.into_iter().find(|work| flag_name(*work) == text);
    found.map(Works::One).ok_or_else(|| {
        let names: Vec<String> = WORKS.into_iter().map(flag_name).collect();
        format!("expected all or some of {}", names.join(", "))
    })
}

pub(super) fn run(arguments: &super::compare::Arguments) -> Outcome {
    let own = &arguments.engines;
    let asked = |work: &Work| {
        own.work.iter().any(|works| match works {
            Works::All => true,
            Works::One(one) => one == work,
        })
    };
    let comparison = Comparison {
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        options: Options {
            directory: arguments.dir.clone(),
            keys: arguments.keys.unwrap_or(2_000_000),
            value_size: arguments.value_size,
            duration: arguments.duration,
            batch: usize::from(own.batch),
            depth: usize::from(own.depth),
            scan_length: own.scan_length as usize,
            cache_bytes: own.cache,
            cpu: arguments.server_cpu,
            delete_rounds: arguments.rounds.count() as u64,
            seed: 1,
        },
        engines: own.engine.clone(),
        works: WORKS.into_iter().filter(asked).collect(),
        rounds: arguments.rounds.count(),
        probe: Ask::default(),
    };
    let line = Line::new();
    let shown = line.clone();
    let result = engines::run(&comparison, move |work, engine, round| {
        shown.say(format!("round {}  {:<16} {}", round + 1, work.name(), engine.name()));
    });
    line.finish();
    let report = result.map_err(|error| match error {
        error @ EnginesError::Options(_) => Failure::Usage(anyhow!(error)),
        error => Failure::Failed(anyhow!(error)),
    })?;
    arguments.printing.print_as("report", &report, settings(&comparison), render);
    Ok(())
}

fn settings(comparison: &Comparison) -> String {
    let Options { keys, value_size, batch, depth, scan_length, cache_bytes, cpu, .. } =
        comparison.options;
    let data_bytes = keys * (data::KEY_SIZE as u64 + u64::from(value_size));
    format!(
        "{keys} keys of {} bytes, values of {value_size} bytes: {:.1} x the cache of {}; core \
         {cpu} for every engine;\nbatches of {batch} writes, {depth} reads in flight, scans of \
         {scan_length} entries; {} rounds, {:?} for what has no end of its own",
        data::KEY_SIZE,
        data_bytes as f64 / cache_bytes as f64,
        format_size(cache_bytes),
        comparison.rounds,
        comparison.options.duration
    )
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for (engine, settings) in &report.settings {
        let settings: Vec<String> =
            settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        text.push_str(&format!("{}: {}\n", engine.name(), settings.join("; ")));
    }
    text.push_str(&format!(
        "\n{:<16}{:<9}{:>9}{:>22}{:>7}{:>8}{:>8}{:>9}{:>9}{:>9}{:>8}{:>7}{:>6}{:>7}{:>6}{:>7}{:>7}\
         {:>5}{:>9}{:>8}\n",
        "work",
        "engine",
        "ops/s",
        "(least .. most)",
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
        "stall",
        "settle",
        "cpu s",
        "RSS",
        "disk r/s",
        "w MB/s"
    ));
    for row in &report.rows {
        text.push_str(&render_row(row));
    }
    text.push_str(LEGEND);
    text.push_str(&format!(
        "\n{:<17}{:<9}{:>21}{:>21}{:>21}{:>21}{:>8}{:>8}{:>7}{:>7}{:>7}{:>7}\n",
        "ours over theirs",
        "engine",
        "x ops/s",
        "x with settling",
        "x p99",
        "x p99.99",
        "x write",
        "x reads",
        "x cpu",
        "x RSS",
        "disk",
        "theirs"
    ));
    for ratio in &report.ratios {
        text.push_str(&render_ratio(ratio));
    }
    text.push_str(RATIO_LEGEND);
    text
}

const LEGEND: &str = "\nmedians of the rounds, max us the most of them; write, read, space: \
amplification, bytes of the disk over bytes of keys and\nvalues; reads: of the disk for an \
operation; stall: seconds in tenths of a second with less than a tenth of the mean rate;\nsettle: \
seconds until flushes and merges that were due were done; cpu s: processor seconds of the process \
for a million\noperations, settling included; RSS in MiB; disk: random reads of 4 KiB a second at \
this depth, and MB/s of writes of 256 KiB,\nmeasured before each turn. Quorate counts what its \
grid reads and writes, the others are counted by /proc/self/io. All answers\nwere compared with \
what was written last, and a sample was read back after all work that writes.\n";

const RATIO_LEGEND: &str = "\nx ops/s and x with settling: more is better; all others: less is \
better. With the least and the most of the rounds.\ndisk, theirs: our and their reads a second \
over those of the disk just before.\n";

fn dash(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn render_row(row: &Row) -> String {
    let Row { engine, per_second, middle, .. } = row;
    let Spread { median, least, most } = per_second;
    let latency = &middle.latency;
    format!(
        "{:<16}{:<9}{median:>9.0}{:>22}{:>7.1}{:>8.1}{:>8.0}{:>9.0}{:>9.0}{:>9.0}{:>8}{:>7}{:>6.2}\
         {:>7}{:>6.1}{:>7.2}{:>7.2}{:>5}{:>9}{:>8}\n",
        middle.work.name(),
        engine.name(),
        format!("({least:.0} .. {most:.0})"),
        middle.bytes_per_second / 1e6,
        latency.p50_us,
        latency.p99_us,
        latency.p999_us,
        latency.p9999_us,
        latency.max_us,
        dash(middle.write_amplification, 2),
        dash(middle.read_amplification, 2),
        middle.device_reads,
        dash(middle.space_amplification, 2),
        middle.stall_seconds,
        middle.settle_seconds,
        middle.cpu_us,
        middle.resident_bytes >> 20,
        dash(row.disk_reads_per_second, 0),
        dash(row.disk_write_bytes_per_second.map(|bytes| bytes / 1e6), 0)
    )
}

fn render_ratio(ratio: &Ratio) -> String {
    let full = |value: &Option<Spread>| {
        value.map_or("-".into(), |Spread { median, least, most }| {
            format!("{median:.2} ({least:.2}..{most:.2})")
        })
    };
    let middle = |value: &Option<Spread>| dash(value.map(|value| value.median), 2);
    format!(
        "{:<17}{:<9}{:>21}{:>21}{:>21}{:>21}{:>8}{:>8}{:>7}{:>7}{:>7}{:>7}\n",
        ratio.work.name(),
        ratio.engine.name(),
        full(&ratio.throughput),
        full(&ratio.throughput_settled),
        full(&ratio.p99),
        full(&ratio.p9999),
        middle(&ratio.write_amplification),
        middle(&ratio.reads),
        middle(&ratio.cpu),
        middle(&ratio.resident),
        middle(&ratio.own_share_of_disk),
        middle(&ratio.share_of_disk)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_work_has_a_name_that_is_understood() {
        for work in WORKS {
            let name = flag_name(work);
            assert!(matches!(parse_work(&name), Ok(Works::One(found)) if found == work), "{name}");
        }
        assert_eq!(flag_name(Work::Mixed95), "mixed-95-5");
        assert_eq!(flag_name(Work::ReadCold), "read-cold");
        assert!(parse_work("reed").unwrap_err().contains("read-cached"));
    }
}
