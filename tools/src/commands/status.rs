//! `quorate status`: the cluster at a glance, asked from the nodes' HTTP addresses.

mod merge;

use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use node::config::units::{format_size, parse_duration};
use serde_json::Value;

use crate::outcome::{Failure, Outcome, print, print_line};

/// Show the state of a running cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate status\n  quorate status 10.0.0.1:7480 10.0.0.2:7480 \
                  10.0.0.3:7480 --watch")]
pub(crate) struct Arguments {
    /// HTTP addresses of nodes; each is asked, and believed about itself
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:7480")]
    addresses: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show it again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    loop {
        let (status, silent) = ask(arguments)?;
        if arguments.json {
            print_line(&status);
        } else {
            let mut text = render(&status);
            for error in silent {
                text.push_str(&format!("{error:#}\n"));
            }
            if arguments.watch {
                // Home and clear: the same screen is drawn again.
                print("\x1b[H\x1b[2J");
            }
            print(text);
        }
        if !arguments.watch {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// What all that answer say together, and why the others do not.
fn ask(arguments: &Arguments) -> Result<(Value, Vec<anyhow::Error>), Failure> {
    let timeout = arguments.timeout;
    let answers: Vec<anyhow::Result<Value>> = thread::scope(|scope| {
        let ask = |address: &String| {
            ask_one(address, timeout).with_context(|| format!("no status from {address}"))
        };
        let asked: Vec<_> =
            arguments.addresses.iter().map(|address| scope.spawn(move || ask(address))).collect();
        asked
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("asking failed"))))
            .collect()
    });
    let (answers, silent): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let answers: Vec<Value> = answers.into_iter().flatten().collect();
    let mut silent: Vec<anyhow::Error> = silent.into_iter().filter_map(Result::err).collect();
    if answers.is_empty() {
        let last = silent.pop().unwrap_or_else(|| anyhow!("no address given"));
        let hint = "is a node running there? `quorate dev` starts one";
        return Err(Failure::Failed(last.context(hint)));
    }
    Ok((merge::merge(answers), silent))
}

pub(crate) fn ask_one(address: &str, timeout: Duration) -> anyhow::Result<Value> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(timeout)).build().into();
    let body =
        agent.get(format!("http://{address}/status")).call()?.into_body().read_to_string()?;
    serde_json::from_str(&body).context("the answer is not JSON")
}

fn field<'a>(object: &'a Value, name: &str) -> std::borrow::Cow<'a, str> {
    match object.get(name) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(value) => value.to_string().into(),
    }
}

fn render(status: &Value) -> String {
    let mut text = format!(
        "cluster {}   view {}   primary {}   can lose {} more   compression {}\n",
        field(status, "cluster"),
        field(status, "view"),
        field(status, "primary"),
        field(status, "faults_tolerated"),
        field(status, "compression")
    );
    text.push_str(&format!(
        "{:<8} {:<22} {:<12} {:<8} {:>12} {:>12} {:>12} {:>8}\n",
        "replica", "address", "state", "role", "op", "commit", "checkpoint", "lag"
    ));
    for replica in array(status, "replicas") {
        text.push_str(&format!(
            "{:<8} {:<22} {:<12} {:<8} {:>12} {:>12} {:>12} {:>8}{}\n",
            field(replica, "replica"),
            field(replica, "address"),
            field(replica, "state"),
            field(replica, "role"),
            field(replica, "op"),
            field(replica, "commit"),
            field(replica, "checkpoint"),
            field(replica, "lag"),
            match replica["blocked_by"].as_u64() {
                Some(op) => format!("   waits for op {op}"),
                None => String::new(),
            }
        ));
    }
    match status["nodes"].as_array() {
        None => text.push_str(&render_shards(status)),
        Some(nodes) => {
            for node in nodes {
                text.push_str(&format!("replica {}:\n", field(node, "replica")));
                text.push_str(&render_shards(node));
            }
        }
    }
    text
}

fn array<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().map_or(&[], Vec::as_slice)
}

/// The shards of one node.
fn render_shards(status: &Value) -> String {
    let mut text = String::new();
    for shard in array(status, "shards") {
        let memtable = shard["memtable_bytes"].as_u64().map_or("-".to_owned(), format_size);
        text.push_str(&format!(
            "shard {:<3} core {:<3} applied {:>10}   memtable {memtable:>10}   blocks free {:>8}, \
             reserved {:>8}\n",
            field(shard, "shard"),
            field(shard, "core"),
            field(shard, "applied"),
            field(shard, "grid_blocks_free"),
            field(shard, "grid_blocks_reserved")
        ));
    }
    for shard in array(status, "shards") {
        if let Some(scrub) = shard.get("scrub") {
            let shard = field(shard, "shard");
            text.push_str(&format!("shard {shard:<3} scrub {}\n", describe(scrub)));
        }
    }
    text
}

/// How far a shard's scrub is.
fn describe(scrub: &Value) -> String {
    let number = |name| scrub[name].as_u64().unwrap_or(0);
    let (read, left, faults) = (number("blocks_read"), number("blocks_left"), number("faults"));
    match scrub["state"].as_str() {
        Some("reading") => format!(
            "{:>3} % ({read} of {} blocks), {} to go, {faults} corrupt",
            number("percent"),
            read + left,
            rough(number("eta_s"))
        ),
        Some("resting") => match scrub["next_s"].as_u64() {
            Some(next) => {
                format!("done ({read} blocks), next in {}, {faults} corrupt", rough(next))
            }
            None => format!("done ({read} blocks), next when asked for, {faults} corrupt"),
        },
        _ => "off".to_owned(),
    }
}

/// A duration in its two largest units.
pub(crate) fn rough(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_with_what_it_has() {
        let status = serde_json::json!({
            "cluster": 7, "view": 3, "primary": null, "compression": "none,lz4",
            "replicas": [{ "replica": 0, "address": "127.0.0.1:7400", "state": "recovering" }],
        });
        let text = render(&status);
        let head = "cluster 7   view 3   primary -   can lose - more   compression none,lz4";
        assert!(text.contains(head), "{text}");
        assert!(text.contains("recovering"), "{text}");
    }

    #[test]
    fn scrubs_are_shown_in_words() {
        let mut scrub = serde_json::json!({
            "state": "reading", "percent": 37, "blocks_read": 37, "blocks_left": 63,
            "faults": 2, "eta_s": 8 * 86_400 + 3 * 3600, "next_s": null,
        });
        assert_eq!(describe(&scrub), " 37 % (37 of 100 blocks), 8 d 3 h to go, 2 corrupt");
        scrub["state"] = "resting".into();
        assert_eq!(describe(&scrub), "done (37 blocks), next when asked for, 2 corrupt");
        scrub["next_s"] = 61.into();
        assert_eq!(describe(&scrub), "done (37 blocks), next in 1 min, 2 corrupt");
        assert_eq!(describe(&Value::Null), "off");
        assert_eq!((rough(59), rough(3660)), ("59 s".to_owned(), "1 h 1 min".to_owned()));
    }
}
