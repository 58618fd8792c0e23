//! `quorate bench net`: what this machine's network stack can do.

use std::time::Duration;

use bench::device::Runtime;
use bench::host::Host;
use bench::net::{self, CASES, Case, MESSAGE_SIZE, Options, Row};
use node::config::units::parse_duration;

use crate::outcome::{Outcome, print, print_line};

/// Measure an echo over loopback, server and generator on a core each
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate bench net\n  \
                        quorate bench net --runtime ioring,glommio --rounds 5")]
pub(crate) struct Arguments {
    /// How long to measure each row in each round
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    duration: Duration,
    /// Rounds; the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// Runtimes of the server to measure side by side: ioring, and glommio where it is built in
    #[arg(long, value_name = "NAMES", default_value = "ioring", value_delimiter = ',')]
    runtime: Vec<Runtime>,
    /// Core of the server
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    server_cpu: usize,
    /// Core of the generator
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    client_cpu: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let options = Options {
        duration: arguments.duration,
        rounds: arguments.rounds.max(1),
        runtimes: arguments.runtime.clone(),
        server_cpu: arguments.server_cpu,
        client_cpu: arguments.client_cpu,
    };
    let rows = net::run(&options, &CASES)?;
    let host = Host::read();
    if arguments.json {
        print_line(serde_json::json!({ "host": host, "rows": rows }));
        return Ok(());
    }
    print_line(format_args!(
        "{}, {} cores, Linux {}, messages of {MESSAGE_SIZE} bytes, {} rounds of {:?}\n",
        host.cpu, host.cores, host.kernel, options.rounds, options.duration
    ));
    print(render(&rows));
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
