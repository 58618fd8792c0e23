//! `quorate inspect superblock`.

use node::config::compression::format_compression;
use serde_json::{Value, json};
use vsr::format::inspect::DirectoryReport;
use vsr::superblock::State;

use crate::outcome::{Outcome, print, print_line};

pub(super) fn show(report: &DirectoryReport, as_json: bool) -> Outcome {
    if as_json {
        print_line(to_json(report));
    } else {
        print(render(report));
    }
    Ok(())
}

fn render(report: &DirectoryReport) -> String {
    let mut text = String::from("copy  sequence  checksum\n");
    for (slot, reading) in report.readings.copies.iter().enumerate() {
        let line = match reading {
            Ok(version) => format!("{:>8}  {}", version.sequence, version.checksum),
            Err(fault) => format!("{:>8}  {fault}", "-"),
        };
        text.push_str(&format!("{slot:>4}  {line}\n"));
    }
    match &report.decision {
        Ok(decision) => {
            text.push_str(&format!("\nopens with sequence {}", decision.version.sequence));
            if decision.interrupted() {
                text.push_str(", completing an interrupted update");
            }
            if decision.damaged > 0 {
                text.push_str(&format!(", repairing {} damaged copies", decision.damaged));
            }
            text.push('\n');
        }
        Err(error) => text.push_str(&format!("\ndoes not open: {error}\n")),
    }
    if let Some(state) = &report.state {
        text.push('\n');
        for (name, value) in fields(state) {
            text.push_str(&format!("{name:<16}{value}\n"));
        }
        for (shard, root) in state.checkpoint.shards.iter().enumerate() {
            let root = match root.address() {
                0 => "no root".to_owned(),
                address => {
                    format!("root at block {address}, {} bytes, {}", root.size(), root.checksum())
                }
            };
            text.push_str(&format!("shard {shard:<10}{root}\n"));
        }
    }
    text
}

fn fields(state: &State) -> Vec<(&'static str, String)> {
    let sync = state.sync.map_or("none".to_owned(), |(min, max)| format!("ops {min} to {max}"));
    vec![
        ("cluster", state.identity.cluster.to_string()),
        ("replica", state.identity.replica.to_string()),
        ("incarnation", format!("{:032x}", state.identity.incarnation.0)),
        ("release", state.release.to_string()),
        ("fingerprint", state.configuration.fingerprint().to_string()),
        ("compression", format_compression(&state.configuration.compression)),
        ("view", state.view.to_string()),
        ("log view", state.log_view.to_string()),
        ("view headers", state.view_headers.len().to_string()),
        ("commit", format!("at least {}", state.commit_max)),
        ("checkpoint", format!("op {}", state.checkpoint.op)),
        ("state sync", sync),
    ]
}

fn to_json(report: &DirectoryReport) -> Value {
    let copies: Vec<Value> = report
        .readings
        .copies
        .iter()
        .enumerate()
        .map(|(slot, reading)| match reading {
            Ok(version) => json!({
                "copy": slot,
                "sequence": version.sequence,
                "checksum": version.checksum.to_string(),
                "parent": version.parent.to_string(),
            }),
            Err(fault) => json!({ "copy": slot, "fault": fault.to_string() }),
        })
        .collect();
    let opens = match &report.decision {
        Ok(decision) => json!({
            "sequence": decision.version.sequence,
            "interrupted": decision.interrupted(),
            "damaged_copies": decision.damaged,
        }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let state = report.state.as_ref().map(|state| {
        let shards: Vec<Value> = state
            .checkpoint
            .shards
            .iter()
            .map(|root| json!({ "address": root.address(), "size": root.size() }))
            .collect();
        json!({
            "cluster": state.identity.cluster.to_string(),
            "replica": state.identity.replica.0,
            "incarnation": format!("{:032x}", state.identity.incarnation.0),
            "compression": format_compression(&state.configuration.compression),
            "view": state.view.0,
            "log_view": state.log_view.0,
            "commit_max": state.commit_max.0,
            "checkpoint_op": state.checkpoint.op.0,
            "shards": shards,
        })
    });
    json!({ "copies": copies, "opens": opens, "state": state })
}
