//! `quorate inspect block`.

use anyhow::anyhow;
use lsm::block::{Block, BlockAddress, Header};
use lsm::inspect::{self, Contents, PageView};
use lsm::manifest_log::Record;
use serde_json::{Value, json};

use super::fault::tree_name;
use super::grid_file::GridFile;
use super::keys::key_text;
use crate::outcome::{Failure, Outcome, print_line};

pub(super) fn show(grid: &GridFile, address: u64, as_json: bool) -> Outcome {
    let Some(address) = BlockAddress::new(address) else {
        return Err(Failure::Usage(anyhow!(
            "block 0 is the file's own header: `quorate inspect grid` shows it"
        )));
    };
    let header = grid.block_header(address);
    let block: Option<Result<Block, _>> = header
        .as_ref()
        .ok()
        .filter(|header| header.block_type != lsm::block::BlockType::GridHeader)
        .map(|header| {
            let reference = lsm::block::BlockReference { address, ..header.reference() };
            grid.block(&reference, header.block_type)
        });
    let fault = match (&header, &block) {
        (Err(fault), _) | (_, Some(Err(fault))) => Some(fault.to_string()),
        _ => None,
    };
    let intact = block.and_then(Result::ok);
    let contents = intact.as_ref().map(|block| {
        let view = inspect::block(block);
        view.map_or_else(|fault| vec![("FAULT", fault.to_string())], |v| summary(&v.contents))
    });
    let mut lines = vec![
        ("file", grid.path.display().to_string()),
        ("offset", address.offset(grid.block_size).to_string()),
    ];
    lines.extend(header.iter().flat_map(header_lines));
    lines.extend(contents.into_iter().flatten());
    if let Some(fault) = fault {
        let end = grid.length;
        let cut = address.offset(grid.block_size) >= end;
        lines.push(("FAULT", if cut { format!("the file ends at offset {end}") } else { fault }));
    }
    if as_json {
        print_line(to_json(address, &lines));
    } else {
        print_line(format_args!("block {address} of shard {}", grid.shard));
        lines.iter().for_each(|(name, value)| print_line(format_args!("  {name:<14}{value}")));
    }
    Ok(())
}

/// One field for each name; a name that comes several times gives a list.
fn to_json(address: BlockAddress, lines: &[(&str, String)]) -> Value {
    let mut object = json!({ "block": address.get() });
    for (name, value) in lines {
        let name = if *name == "FAULT" { "fault" } else { name }.replace(' ', "_");
        match &mut object[&name] {
            place @ Value::Null => *place = json!(value),
            Value::Array(list) => list.push(json!(value)),
            place => *place = json!([place.take(), value]),
        }
    }
    object
}

fn header_lines(header: &Header) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("type", header.block_type.to_string()),
        ("address", header.address.to_string()),
        ("cluster", header.identity.cluster.to_string()),
        ("shard", header.identity.shard.to_string()),
        ("created at", format!("op {}", header.op)),
        ("size", format!("{} bytes", header.size)),
        ("checksum", header.checksum.to_string()),
        ("body", header.checksum_body.to_string()),
    ];
    if header.tree.0 != 0 {
        lines.insert(1, ("tree", tree_name(header.tree).to_owned()));
    }
    lines
}

fn summary(contents: &Contents) -> Vec<(&'static str, String)> {
    match contents {
        Contents::Value { level, pages } => {
            let mut lines = vec![("level", level.to_string())];
            lines.extend(
                pages.iter().enumerate().map(|(number, view)| ("page", page(number, view))),
            );
            lines
        }
        Contents::Index { table, blocks, pages, filter_bytes } => vec![
            ("first key", key_text(table.tree, &table.key_min)),
            ("last key", key_text(table.tree, &table.key_max)),
            ("versions", format!("{} to {}", table.version_min, table.version_max)),
            ("entries", format!("{}, {} of them tombstones", table.entries, table.tombstones)),
            ("pages", format!("{pages} in {} value blocks", blocks.len())),
            ("filters", format!("{filter_bytes} bytes")),
            ("value blocks", addresses(blocks)),
        ],
        Contents::Overflow { number, value_len } => {
            vec![("piece", format!("{number} of a value of {value_len} bytes"))]
        }
        Contents::Manifest { predecessors, records } => {
            let mut lines = vec![("predecessors", addresses(predecessors))];
            lines.extend(records.iter().map(|entry| ("record", record(entry))));
            lines
        }
        Contents::Checkpoint(root) => vec![
            ("op", format!("{}, taken at the end of op {}", root.op, root.op_trigger)),
            ("version", format!("{}, reads from {} on", root.version, root.snapshot_min)),
            ("free set", addresses(&root.free_set)),
            ("generations", format!("{} bytes, {}", root.extra_size, addresses(&root.extra))),
            ("manifest", {
                let newest = root.manifest.newest.map_or("-".to_owned(), |b| b.to_string());
                format!("{} blocks, the newest {newest}", root.manifest.block_count)
            }),
        ],
        Contents::Other(_) => Vec::new(),
    }
}

fn addresses(blocks: &[lsm::block::BlockReference]) -> String {
    let blocks: Vec<String> = blocks.iter().map(|block| block.address.to_string()).collect();
    if blocks.is_empty() { "no blocks".to_owned() } else { format!("blocks {}", blocks.join(" ")) }
}

fn page(number: usize, page: &PageView) -> String {
    let fault = if page.checksum_matches { "" } else { ": BAD CHECKSUM" };
    let PageView { entries, stored_len, raw_len, compression, .. } = page;
    format!("{number}: {entries} entries, {stored_len} of {raw_len} bytes, {compression:?}{fault}")
}

fn record(record: &Record) -> String {
    match record {
        Record::Insert { level, table } => format!(
            "table {} of {} is live in level {level}: {} to {}",
            table.index.address,
            tree_name(table.tree),
            key_text(table.tree, &table.key_min),
            key_text(table.tree, &table.key_max)
        ),
        Record::Remove { tree, address } => {
            format!("table {address} of {} is no longer live", tree_name(*tree))
        }
    }
}
