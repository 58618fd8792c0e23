//! `quorate inspect keys`: entries as they stand in tables, every version of them.

use lsm::block::{BlockReference, BlockType};
use lsm::entry::{DEADLINE_NONE, Level, TreeId};
use lsm::inspect::{EntryView, ValueView, entries};
use lsm::table::TableInfo;
use lsm::tree::Tree;
use lsm::{expiry, key, secondary};
use serde_json::{Value, json};

use super::Shards;
use super::fault::{Fault, tree_name};
use super::grid_file::GridFile;
use super::tables::value_blocks;
use crate::outcome::{Outcome, print_line};

/// Prints entries as they are met, so that `| head` costs no more than it shows.
struct Printer {
    left: u64,
    as_json: bool,
    entries: Vec<Value>,
    faults: Vec<Fault>,
}

pub(super) fn show(shards: &Shards, limit: u64, as_json: bool) -> Outcome {
    let mut printer = Printer { left: limit, as_json, entries: Vec::new(), faults: Vec::new() };
    for shard in shards.numbers() {
        let (grid, live) = shards.open(shard)?;
        live.faults.into_iter().for_each(|fault| printer.fault(fault));
        for (level, table) in &live.tables {
            if printer.left > 0 {
                printer.table(&grid, *level, table);
            }
        }
    }
    if as_json {
        print_line(json!({ "entries": printer.entries, "faults": printer.faults }));
    }
    Ok(())
}

impl Printer {
    fn fault(&mut self, fault: Fault) {
        if !self.as_json {
            print_line(format_args!("FAULT {fault}"));
        }
        self.faults.push(fault);
    }

    fn table(&mut self, grid: &GridFile, level: Level, table: &TableInfo) {
        let (shard, address) = (grid.shard, table.index.address);
        if !self.as_json {
            let tree = tree_name(table.tree);
            print_line(format_args!("shard {shard}, tree {tree}, level {level}, table {address}"));
        }
        let blocks = match value_blocks(grid, table) {
            Ok(blocks) => blocks,
            Err(fault) => {
                let fault = grid.block_fault(address, fault.to_string());
                return self.fault(fault.in_table(level, table));
            }
        };
        for reference in blocks {
            if self.left > 0 {
                self.block(grid, level, table, &reference);
            }
        }
    }

    fn block(
        &mut self,
        grid: &GridFile,
        level: Level,
        table: &TableInfo,
        reference: &BlockReference,
    ) {
        let walked = grid.block(reference, BlockType::Value).and_then(|block| {
            entries(&block, |entry| {
                self.left -= 1;
                if self.as_json {
                    self.entries.push(to_json(grid.shard, level, table, &entry));
                } else {
                    print_line(render(table.tree, &entry));
                }
                self.left > 0
            })
        });
        if let Err(fault) = walked {
            let fault = grid.block_fault(reference.address, fault.to_string());
            self.fault(fault.in_table(level, table));
        }
    }
}

/// A stored key for reading: table, generation, and the user's key; a deadline in front of it in
/// the tree of deadlines.
pub(super) fn key_text(tree: TreeId, encoded: &[u8]) -> String {
    if Tree::from_id(tree) == Some(Tree::Expiry) {
        return match expiry::decode(encoded) {
            Some((deadline, object)) => format!("due {deadline}: {}", object_text(object)),
            None => format!("malformed {}", encoded.escape_ascii()),
        };
    }
    if Tree::from_id(tree) == Some(Tree::Indexes) {
        let mut object = Vec::new();
        return match key::decode(encoded) {
            Ok(decoded) if secondary::object_key_into(&mut object, encoded) => {
                let (index, under) = (decoded.prefix.kind, decoded.user_key());
                let under = under.escape_ascii();
                format!("index {index} \"{under}\": {}", object_text(&object))
            }
            _ => format!("malformed {}", encoded.escape_ascii()),
        };
    }
    object_text(encoded)
}

fn object_text(encoded: &[u8]) -> String {
    match key::decode(encoded) {
        Ok(decoded) => {
            let (prefix, user_key) = (decoded.prefix, decoded.user_key());
            let sub_key = match decoded.sub_key {
                [] => String::new(),
                sub_key => format!(" \"{}\"", sub_key.escape_ascii()),
            };
            format!(
                "table {} generation {} \"{}\"{sub_key}",
                prefix.table,
                prefix.generation,
                user_key.escape_ascii()
            )
        }
        Err(error) => format!("malformed ({error}) {}", encoded.escape_ascii()),
    }
}

fn value_text(value: &ValueView) -> String {
    match value {
        ValueView::Tombstone => "deleted".to_owned(),
        ValueView::Inline(value) => format!("{} bytes", value.len()),
        ValueView::Overflow { value_len, blocks } => {
            let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            format!("{value_len} bytes in blocks {}", blocks.join(" "))
        }
    }
}

fn render(tree: TreeId, entry: &EntryView) -> String {
    let deadline = match entry.deadline {
        DEADLINE_NONE => String::new(),
        deadline => format!(", ends {deadline}"),
    };
    let (key, value) = (key_text(tree, &entry.key), value_text(&entry.value));
    format!("  {key} version {}: {value}{deadline}", entry.version)
}

fn to_json(shard: u16, level: Level, table: &TableInfo, entry: &EntryView) -> Value {
    let mut object = Vec::new();
    let object_key = match Tree::from_id(table.tree) {
        Some(Tree::Expiry) => expiry::decode(&entry.key).map_or(&[][..], |(_, key)| key),
        Some(Tree::Indexes) if secondary::object_key_into(&mut object, &entry.key) => &object,
        _ => &entry.key,
    };
    let decoded = key::decode(object_key).ok();
    let user_key = decoded.map(|decoded| decoded.user_key().escape_ascii().to_string());
    let (size, blocks) = match &entry.value {
        ValueView::Tombstone => (None, Vec::new()),
        ValueView::Inline(value) => (Some(value.len() as u64), Vec::new()),
        ValueView::Overflow { value_len, blocks } => {
            let blocks = blocks.iter().map(|address| address.get()).collect();
            (Some(u64::from(*value_len)), blocks)
        }
    };
    json!({
        "shard": shard,
        "tree": tree_name(table.tree),
        "level": level.0,
        "index": table.index.address.get(),
        "table": decoded.map(|decoded| decoded.prefix.table),
        "generation": decoded.map(|decoded| decoded.prefix.generation),
        "key": user_key,
        "version": entry.version,
        "deadline": (entry.deadline != DEADLINE_NONE).then_some(entry.deadline),
        "tombstone": matches!(entry.value, ValueView::Tombstone),
        "size": size,
        "overflow_blocks": blocks,
    })
}
