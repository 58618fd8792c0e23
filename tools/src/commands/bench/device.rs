//! `quorate bench device`: what this disk can do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use bench::device::{self, Access, CASES, Case, Options, Row, Runtime};
use node::config::units::{format_size, parse_duration, parse_size};

use super::common::{Printing, Rounds};
use crate::outcome::{Failure, Outcome};

/// Measure random reads, writes and durable writes of this disk
///
/// Direct I/O on one file, at random aligned offsets. The figures are the limit that everything
/// else is a share of.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench device --dir /mnt/nvme\n  \
                        quorate bench device --runtime ioring,glommio --rounds 5")]
pub(crate) struct Arguments {
    /// Folder on the disk to measure; a file is made in it and removed again
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// Size of the file
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    file_size: u64,
    /// How long to measure each row in each round
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    rounds: Rounds,
    /// Runtimes to measure side by side: ioring, and glommio where it is built in
    #[arg(long, value_name = "NAMES", default_value = "ioring", value_delimiter = ',')]
    runtime: Vec<Runtime>,
    /// Core to measure on
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    cpu: usize,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.file_size < (1 << 20) || !arguments.file_size.is_multiple_of(1 << 20) {
        let given = format_size(arguments.file_size);
        let error = anyhow!("--file-size {given}: expected a multiple of 1MiB");
        return Err(Failure::Usage(error));
    }
    let options = Options {
        directory: arguments.dir.clone(),
        file_size: arguments.file_size,
        duration: arguments.duration,
        rounds: arguments.rounds.count(),
        runtimes: arguments.runtime.clone(),
        cpu: arguments.cpu,
    };
    let rows = device::run(&options, &CASES, |_, _, _| {})?;
    let settings = format_args!("{} rounds of {:?}", options.rounds, options.duration);
    arguments.printing.print(&rows, settings, render);
    Ok(())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<14}{:>8}{:>7}  {:<9}{:>11}{:>9}{:>10}{:>10}{:>10}{:>10}\n",
        "access",
        "size",
        "depth",
        "runtime",
        "per second",
        "MiB/s",
        "cpu us",
        "p50 us",
        "p99 us",
        "max us"
    );
    for Row { case: Case { access, size, depth }, runtime, per_second, cpu_us, latency } in rows {
        let access = match access {
            Access::Read => "read",
            Access::Write => "write",
            Access::DurableWrite => "durable write",
        };
        let runtime = match runtime {
            Runtime::Ioring => "ioring",
            Runtime::Glommio => "glommio",
        };
        let mib = per_second * *size as f64 / f64::from(1 << 20);
        text.push_str(&format!(
            "{access:<14}{:>8}{depth:>7}  {runtime:<9}{per_second:>11.0}{mib:>9.1}{cpu_us:>10.2}\
             {:>10.1}{:>10.1}{:>10.1}\n",
            format_size(*size as u64),
            latency.p50_us,
            latency.p99_us,
            latency.max_us
        ));
    }
    text
}
