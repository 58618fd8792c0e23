//! `quorate bench net`: what this machine's network stack can do.

use std::time::Duration;

use bench::device::Runtime;
use bench::net::{self, CASES, Case, MESSAGE_SIZE, Options, Row};
use node::config::units::parse_duration;

use super::common::{Cores, Printing, Rounds};
use crate::outcome::Outcome;

/// Measure an echo over loopback, server and generator on a core each
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench net\n  \
                        quorate bench net --runtime ioring,glommio --rounds 5")]
pub(crate) struct Arguments {
    /// How long to measure each row in each round
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    rounds: Rounds,
    /// Runtimes of the server to measure side by side: ioring, and glommio where it is built in
    #[arg(long, value_name = "NAMES", default_value = "ioring", value_delimiter = ',')]
    runtime: Vec<Runtime>,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let options = Options {
        duration: arguments.duration,
        rounds: arguments.rounds.count(),
        runtimes: arguments.runtime.clone(),
        server_cpu: arguments.cores.server_cpu,
        client_cpu: arguments.cores.client_cpu,
    };
    let rows = net::run(&options, &CASES)?;
    let settings = format_args!(
        "messages of {MESSAGE_SIZE} bytes, {} rounds of {:?}",
        options.rounds, options.duration
    );
    arguments.printing.print(&rows, settings, render);
    Ok(())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>11}{:>7}  {:<9}{:>11}{:>15}{:>10}{:>10}{:>10}\n",
        "connections",
        "depth",
        "runtime",
        "per second",
        "server cpu us",
        "p50 us",
        "p99 us",
        "max us"
    );
    for Row { case: Case { connections, depth }, runtime, per_second, server_cpu_us, latency } in
        rows
    {
        let runtime = match runtime {
            Runtime::Ioring => "ioring",
            Runtime::Glommio => "glommio",
        };
        text.push_str(&format!(
            "{connections:>11}{depth:>7}  {runtime:<9}{per_second:>11.0}{server_cpu_us:>15.3}\
             {:>10.1}{:>10.1}{:>10.1}\n",
            latency.p50_us, latency.p99_us, latency.max_us
        ));
    }
    text
}
