//! `quorate inspect journal` and `quorate inspect op`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use vsr::format::inspect::DirectoryReport;
use vsr::journal::inspect::{Item, ItemKind, JournalReport, SegmentReport};
use vsr::journal::{BODY_OFFSET, OpState};
use wire::message::Prepare;
use wire::{Header, Op, Requests};

use crate::outcome::{Failure, Outcome, print, print_line};

/// Bytes of a value that are shown.
const VALUE_SHOWN: usize = 64;

fn journal(report: &DirectoryReport) -> Result<&JournalReport, Failure> {
    report.journal.as_ref().ok_or_else(|| {
        Failure::Corrupt(anyhow!("no superblock copy can be read, so the journal has no sizes"))
    })
}

pub(super) fn show(report: &DirectoryReport, frames: bool, as_json: bool) -> Outcome {
    let journal = journal(report)?;
    if as_json {
        print_line(to_json(journal, frames));
        return Ok(());
    }
    print(render(journal, frames));
    Ok(())
}

fn prepare_of(header: &Header) -> Prepare {
    header.tail().expect("the scan reports prepares only")
}

fn render(journal: &JournalReport, frames: bool) -> String {
    let mut text = format!(
        "checkpoint      op {}\ncommit          at least op {}\nlog view        {}\n",
        journal.checkpoint, journal.commit_max, journal.log_view
    );
    let head = journal.head.map_or("unknown".to_owned(), |op| format!("op {op}"));
    text.push_str(&format!("restart keeps   to {head}\n"));
    for damaged in &journal.damaged {
        let Op(op) = damaged.op;
        text.push_str(&format!("DAMAGED         op {op} at offset {}\n", damaged.offset));
    }
    if let Some(contradiction) = &journal.contradiction {
        text.push_str(&format!("CONTRADICTION   {contradiction}\n"));
    }
    for (offset, fault) in &journal.bad {
        text.push_str(&format!("unusable        offset {offset}: {fault}\n"));
    }
    text.push_str("\nsegment      offset  epoch  prepares      ops             markers  sealed\n");
    for segment in &journal.segments {
        text.push_str(&line(segment));
        if frames {
            segment.items.iter().for_each(|item| text.push_str(&frame(item)));
        }
    }
    text
}

/// Counts of what belongs to the newest use of a segment.
fn line(segment: &SegmentReport) -> String {
    let (mut prepares, mut markers, mut sealed) = (0, 0, false);
    let mut ops: Option<(Op, Op)> = None;
    for item in &segment.items {
        match &item.kind {
            ItemKind::Prepare { epoch, header, .. } if *epoch == segment.epoch => {
                prepares += 1;
                let op = prepare_of(header).op;
                let (min, max) = ops.unwrap_or((op, op));
                ops = Some((min.min(op), max.max(op)));
            }
            ItemKind::Marker { epoch, .. } if *epoch == segment.epoch => markers += 1,
            ItemKind::Index { epoch, .. } if *epoch == segment.epoch => sealed = true,
            _ => {}
        }
    }
    let ops = ops.map_or("-".to_owned(), |(min, max)| format!("{min}..{max}"));
    format!(
        "{:>7}{:>12}{:>7}{prepares:>10}  {ops:<20}{markers:>7}  {}\n",
        segment.segment.0,
        segment.offset,
        segment.epoch.0,
        if sealed { "yes" } else { "no" }
    )
}

fn frame(item: &Item) -> String {
    let what = match &item.kind {
        ItemKind::Header { epoch } => format!("segment header, epoch {}", epoch.0),
        ItemKind::Prepare { epoch, length, header, fault } => {
            let prepare = prepare_of(header);
            let fault = fault.as_ref().map_or(String::new(), |fault| format!(", BAD: {fault}"));
            format!(
                "prepare op {}, view {}, {} requests, {length} bytes, epoch {}{fault}",
                prepare.op,
                header.view(),
                prepare.request_count,
                epoch.0
            )
        }
        ItemKind::Marker { commit, ops, .. } => {
            format!("marker, commit {commit}, vouches for {} ops", ops.len())
        }
        ItemKind::Index { ops, .. } => format!("index of {} ops", ops.len()),
        ItemKind::Bad { fault } => format!("bad: {fault}"),
        ItemKind::Gap { length, blank: true } => format!("blank, {length} bytes"),
        ItemKind::Gap { length, blank: false } => format!("no frame, {length} bytes"),
    };
    format!("{:>19}  {what}\n", item.offset)
}

fn to_json(journal: &JournalReport, frames: bool) -> Value {
    let segments: Vec<Value> = journal
        .segments
        .iter()
        .map(|segment| {
            let mut object = json!({
                "segment": segment.segment.0,
                "offset": segment.offset,
                "epoch": segment.epoch.0,
            });
            if frames {
                let items: Vec<Value> = segment
                    .items
                    .iter()
                    .map(|item| json!({ "offset": item.offset, "what": frame(item).trim() }))
                    .collect();
                object["items"] = json!(items);
            }
            object
        })
        .collect();
    let damaged: Vec<Value> = journal
        .damaged
        .iter()
        .map(|damaged| json!({ "op": damaged.op.0, "offset": damaged.offset }))
        .collect();
    json!({
        "checkpoint": journal.checkpoint.0,
        "commit_max": journal.commit_max.0,
        "log_view": journal.log_view.0,
        "head": journal.head.map(|op| op.0),
        "damaged": damaged,
        "contradiction": journal.contradiction.as_ref().map(ToString::to_string),
        "segments": segments,
    })
}

/// Shows every frame of one op with the operations in it.
pub(super) fn show_op(dir: &Path, report: &DirectoryReport, op: Op, as_json: bool) -> Outcome {
    let journal = journal(report)?;
    let path = dir.join("journal");
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let state = journal.ops.iter().find(|(number, _)| *number == op).map(|(_, state)| state);
    let state = match state {
        None if op <= journal.checkpoint => "covered by the checkpoint",
        None => "not in the log",
        Some(OpState::Present(_)) => "present",
        Some(OpState::Damaged { .. }) => "DAMAGED: it was durable once",
        Some(OpState::Unresolved) => "below a break in the chain",
        Some(OpState::Torn) => "torn: never acknowledged",
    };
    let mut frames = Vec::new();
    for item in journal.frames_of(op) {
        let ItemKind::Prepare { length, header, fault, .. } = &item.kind else { continue };
        let mut frame = vec![0; *length as usize];
        file.read_exact_at(&mut frame, item.offset)
            .with_context(|| format!("cannot read {} at offset {}", path.display(), item.offset))?;
        frames.push((item.offset, **header, fault.clone(), operations(header, &frame)));
    }
    if as_json {
        let frames: Vec<Value> = frames
            .iter()
            .map(|(offset, header, fault, operations)| {
                json!({
                    "offset": offset,
                    "view": header.view().0,
                    "checksum": header.checksum().to_string(),
                    "timestamp": prepare_of(header).timestamp.0,
                    "fault": fault,
                    "operations": operations,
                })
            })
            .collect();
        print_line(json!({ "op": op.0, "state": state, "frames": frames }));
    } else {
        print_line(format_args!("op {op}: {state}"));
        for (offset, header, fault, operations) in &frames {
            let prepare = prepare_of(header);
            print_line(format_args!(
                "\nframe at offset {offset}: view {}, timestamp {}, {} requests\n  checksum {}\n  \
                 parent   {}",
                header.view(),
                prepare.timestamp,
                prepare.request_count,
                header.checksum(),
                prepare.parent
            ));
            if let Some(fault) = fault {
                print_line(format_args!("  BAD: {fault}"));
            }
            operations.iter().for_each(|line| print_line(format_args!("  {line}")));
        }
    }
    Ok(())
}

/// The operations in a frame; none when its body is not what its header says.
fn operations(header: &Header, frame: &[u8]) -> Vec<String> {
    let body = frame.get(BODY_OFFSET..BODY_OFFSET + header.body_size()).unwrap_or_default();
    if header.verify_body(body).is_err() {
        return Vec::new();
    }
    let Ok(requests) = Requests::verify(body) else { return Vec::new() };
    let operations = requests.flat_map(|request| request.operations());
    operations
        .map(|operation| {
            let value = &operation.value[..operation.value.len().min(VALUE_SHOWN)];
            let more = if operation.value.len() > VALUE_SHOWN { "…" } else { "" };
            format!(
                "{:?} slot {} key \"{}\" value \"{}\"{more} ({} bytes) argument {} deadline {}",
                operation.opcode,
                operation.slot.0,
                operation.key.escape_ascii(),
                value.escape_ascii(),
                operation.value.len(),
                operation.argument,
                operation.deadline
            )
        })
        .collect()
}
