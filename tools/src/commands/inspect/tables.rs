//! `quorate inspect manifest` and `quorate inspect tables`.

use std::collections::BTreeMap;

use lsm::block::{BlockFault, BlockType};
use lsm::entry::Level;
use lsm::index::Index;
use lsm::table::TableInfo;
use serde_json::{Value, json};

use super::Shards;
use super::fault::{Fault, tree_name};
use super::grid_file::GridFile;
use super::keys::key_text;
use super::live::Live;
use crate::outcome::{Outcome, print, print_line};

/// What a level holds.
#[derive(Default)]
struct LevelView {
    tables: u64,
    entries: u64,
    tombstones: u64,
    value_bytes: u64,
    blocks: u64,
}

/// Shows how many tables each level of each tree has.
pub(super) fn show_manifest(shards: &Shards, as_json: bool) -> Outcome {
    let mut objects = Vec::new();
    for shard in shards.numbers() {
        let (grid, live) = shards.open(shard)?;
        let mut levels: BTreeMap<(&'static str, u8), LevelView> = BTreeMap::new();
        for (level, table) in &live.tables {
            let view = levels.entry((tree_name(table.tree), level.0)).or_default();
            view.tables += 1;
            view.entries += table.entries;
            view.tombstones += table.tombstones;
            view.value_bytes += table.value_bytes;
            view.blocks += u64::from(table.value_blocks) + u64::from(table.overflow_blocks) + 1;
        }
        if as_json {
            objects.push(manifest_json(shard, &live, &levels));
        } else {
            print(render_manifest(&grid, &live, &levels));
        }
    }
    if as_json {
        print_line(json!({ "shards": objects }));
    }
    Ok(())
}

fn render_manifest(
    grid: &GridFile,
    live: &Live,
    levels: &BTreeMap<(&'static str, u8), LevelView>,
) -> String {
    let log: Vec<String> = live.manifest.iter().map(|block| block.address.to_string()).collect();
    let log = if log.is_empty() { "none".to_owned() } else { log.join(" ") };
    let mut text = format!("shard {}: manifest blocks, newest first: {log}\n", grid.shard);
    if !levels.is_empty() {
        text.push_str("  tree     level  tables     entries  tombstones   value bytes  blocks\n");
    }
    for ((tree, level), view) in levels {
        let LevelView { tables, entries, tombstones, value_bytes, blocks } = view;
        text.push_str(&format!(
            "  {tree:<9}{level:>5}{tables:>8}{entries:>12}{tombstones:>12}{value_bytes:>14}\
             {blocks:>8}\n"
        ));
    }
    live.faults.iter().for_each(|fault| text.push_str(&format!("  FAULT {fault}\n")));
    text
}

fn manifest_json(
    shard: u16,
    live: &Live,
    levels: &BTreeMap<(&'static str, u8), LevelView>,
) -> Value {
    let levels: Vec<Value> = levels
        .iter()
        .map(|((tree, level), view)| {
            json!({
                "tree": tree,
                "level": level,
                "tables": view.tables,
                "entries": view.entries,
                "tombstones": view.tombstones,
                "value_bytes": view.value_bytes,
                "blocks": view.blocks,
            })
        })
        .collect();
    let blocks: Vec<u64> = live.manifest.iter().map(|block| block.address.get()).collect();
    json!({ "shard": shard, "blocks": blocks, "levels": levels, "faults": live.faults })
}

/// Shows every live table with its blocks.
pub(super) fn show(shards: &Shards, as_json: bool) -> Outcome {
    let mut objects = Vec::new();
    for shard in shards.numbers() {
        let (grid, live) = shards.open(shard)?;
        if !as_json {
            print_line(format_args!("shard {shard}: {} tables", live.tables.len()));
        }
        let mut tables = Vec::new();
        for (level, table) in &live.tables {
            let blocks = value_blocks(&grid, table);
            let fault = blocks.as_ref().err().map(|fault| {
                grid.block_fault(table.index.address, fault.to_string()).in_table(*level, table)
            });
            let blocks = blocks.unwrap_or_default();
            if as_json {
                tables.push(table_json(*level, table, &blocks, fault.as_ref()));
            } else {
                print(render(*level, table, &blocks, fault.as_ref()));
            }
        }
        if as_json {
            let faults = &live.faults;
            objects.push(json!({ "shard": shard, "tables": tables, "faults": faults }));
        } else {
            live.faults.iter().for_each(|fault| print_line(format_args!("  FAULT {fault}")));
        }
    }
    if as_json {
        print_line(json!({ "shards": objects }));
    }
    Ok(())
}

/// The value blocks that a table's index names.
pub(super) fn value_blocks(
    grid: &GridFile,
    table: &TableInfo,
) -> Result<Vec<lsm::block::BlockReference>, BlockFault> {
    let block = grid.block(&table.index, BlockType::Index)?;
    let index = Index::verify(block.bytes())?;
    Ok((0..index.block_count()).map(|number| index.block(number).reference).collect())
}

fn render(
    level: Level,
    table: &TableInfo,
    blocks: &[lsm::block::BlockReference],
    fault: Option<&Fault>,
) -> String {
    let (tree, address) = (tree_name(table.tree), table.index.address);
    let mut text = format!("  {tree} level {level} table {address}, created at op {}\n", table.op);
    let mut line = |name: &str, value: String| text.push_str(&format!("    {name:<10}{value}\n"));
    let (first, last) =
        (key_text(table.tree, &table.key_min), key_text(table.tree, &table.key_max));
    line("keys", format!("{first} to {last}"));
    line("versions", format!("{} to {}", table.version_min, table.version_max));
    line(
        "entries",
        format!(
            "{}, {} of them tombstones; {} bytes of values",
            table.entries, table.tombstones, table.value_bytes
        ),
    );
    let listed: Vec<String> = blocks.iter().map(|block| block.address.to_string()).collect();
    let overflow = match table.overflow_blocks {
        0 => String::new(),
        count => format!(", and {count} overflow blocks"),
    };
    line("blocks", format!("{}{overflow}", listed.join(" ")));
    if let Some(fault) = fault {
        line("FAULT", fault.to_string());
    }
    text
}

fn table_json(
    level: Level,
    table: &TableInfo,
    blocks: &[lsm::block::BlockReference],
    fault: Option<&Fault>,
) -> Value {
    let blocks: Vec<u64> = blocks.iter().map(|block| block.address.get()).collect();
    json!({
        "tree": tree_name(table.tree),
        "level": level.0,
        "table": table.index.address.get(),
        "op": table.op,
        "key_first": key_text(table.tree, &table.key_min),
        "key_last": key_text(table.tree, &table.key_max),
        "version_min": table.version_min,
        "version_max": table.version_max,
        "entries": table.entries,
        "tombstones": table.tombstones,
        "value_bytes": table.value_bytes,
        "value_blocks": blocks,
        "overflow_blocks": table.overflow_blocks,
        "fault": fault,
    })
}
