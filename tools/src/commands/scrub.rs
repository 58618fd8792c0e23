//! `quorate scrub`: asks a running node to read every block on disk now.

use std::time::Duration;

use anyhow::{Context, anyhow};
use node::config::units::parse_duration;
use serde_json::Value;

use crate::commands::status;
use crate::outcome::{Failure, Outcome, print_line};
use crate::progress::Line;

/// How often progress is asked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// Have a running node read and check every block on disk now
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate scrub --wait\n  quorate scrub 127.0.0.1:7480\n\nWith \
                        --wait the exit code is 4 when the node has found corrupt blocks since it \
                        started; its log names them.")]
pub(crate) struct Arguments {
    /// HTTP address of the node
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:7480")]
    address: String,
    /// Show how far it is, until all shards are read
    #[arg(long)]
    wait: bool,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let address = &arguments.address;
    let before = shards(address, arguments.timeout)?;
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(arguments.timeout)).build().into();
    let asked = agent.post(format!("http://{address}/scrub")).send_empty();
    asked.with_context(|| format!("{address} does not begin a scrub"))?;
    if !arguments.wait {
        print_line(format_args!("a scrub of {} shards has begun: `quorate status`", before.len()));
        return Ok(());
    }
    let line = Line::new();
    loop {
        let now = shards(address, arguments.timeout)?;
        let done =
            |(now, before): (&Value, &Value)| number(now, "cycles") > number(before, "cycles");
        let left = now.iter().zip(&before).filter(|pair| !done(*pair)).count();
        if left == 0 {
            line.finish();
            return outcome(&now);
        }
        line.say(progress(&now, left));
        std::thread::sleep(INTERVAL);
    }
}

/// The scrubs of all shards.
fn shards(address: &str, timeout: Duration) -> Result<Vec<Value>, Failure> {
    let status = status::ask_one(address, timeout)
        .with_context(|| format!("no status from {address}"))
        .context("is a node running there? `quorate dev` starts one")?;
    let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(shards.iter().map(|shard| shard["scrub"].clone()).collect())
}

fn number(scrub: &Value, field: &str) -> u64 {
    scrub[field].as_u64().unwrap_or(0)
}

fn progress(scrubs: &[Value], left: usize) -> String {
    let sum = |field| scrubs.iter().map(|scrub| number(scrub, field)).sum::<u64>();
    let longest = scrubs.iter().map(|scrub| number(scrub, "eta_s")).max().unwrap_or(0);
    let (read, all) = (sum("blocks_read"), sum("blocks_read") + sum("blocks_left"));
    format!(
        "{read} of {all} blocks, {left} shards left, {} to go, {} corrupt blocks",
        status::rough(longest),
        sum("faults")
    )
}

fn outcome(scrubs: &[Value]) -> Outcome {
    let sum = |field| scrubs.iter().map(|scrub| number(scrub, field)).sum::<u64>();
    print_line(format_args!("{} shards, {} blocks read", scrubs.len(), sum("blocks_read")));
    match sum("faults") {
        0 => Ok(()),
        faults => Err(Failure::Corrupt(anyhow!(
            "{faults} corrupt blocks since the node started: its log says where, what they hold \
             and what can be done"
        ))),
    }
}
