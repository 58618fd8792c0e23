//! `quorate inspect grid`.

use std::collections::BTreeMap;

use lsm::block::{BlockAddress, BlockReference};
use lsm::free_set::FreeSet;
use serde_json::{Value, json};

use super::Shards;
use super::fault::Fault;
use super::grid_file::GridFile;
use super::live::Live;
use crate::outcome::{Outcome, print, print_line};

/// What a shard's file turned out to be.
struct View {
    shard: u16,
    grid: Result<(GridFile, Live, Types), String>,
}

/// How many blocks there are of each type, by the type's name.
type Types = BTreeMap<String, u64>;

pub(super) fn show(shards: &Shards, as_json: bool) -> Outcome {
    let views: Vec<View> = shards.numbers().map(|shard| view(shards, shard)).collect();
    if as_json {
        let shards: Vec<Value> = views.iter().map(to_json).collect();
        print_line(json!({ "shards": shards }));
    } else {
        print(views.iter().map(render).collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

fn view(shards: &Shards, shard: u16) -> View {
    let grid = shards.open(shard).map_err(|error| format!("{error:#}")).map(|(grid, live)| {
        let types = count_types(&grid, live.free_set.as_ref());
        (grid, live, types)
    });
    View { shard, grid }
}

/// Reads the header of every block in use; of every block of the file when it is unknown which are.
fn count_types(grid: &GridFile, free_set: Option<&FreeSet>) -> Types {
    let mut types = Types::new();
    let last = free_set.map_or(u64::MAX, FreeSet::address_max).min(grid.blocks().max(1) - 1);
    for address in (1..=last).filter_map(BlockAddress::new) {
        let name = match free_set {
            Some(set) if !set.is_acquired(address) => continue,
            Some(set) if !set.is_live(address) => "released".to_owned(),
            _ => match grid.block_header(address) {
                Ok(header) => header.block_type.to_string(),
                // Never written, or damaged: without a free set it is not known which.
                Err(_) if free_set.is_none() => continue,
                Err(_) => "unreadable".to_owned(),
            },
        };
        *types.entry(name).or_default() += 1;
    }
    types
}

fn faults(grid: &GridFile, live: &Live) -> Vec<Fault> {
    grid.header_faults().into_iter().chain(live.faults.iter().cloned()).collect()
}

fn root_text(live: &Live) -> String {
    let Some(BlockReference { address, size, checksum }) = live.reference else {
        let known = if live.complete { "none: nothing was checkpointed yet" } else { "unknown" };
        return known.to_owned();
    };
    let op = live.root.as_ref().map_or("unreadable".to_owned(), |root| format!("op {}", root.op));
    format!("block {address}, {size} bytes, {checksum}: {op}")
}

fn render(view: &View) -> String {
    let (grid, live, types) = match &view.grid {
        Ok(grid) => grid,
        Err(error) => return format!("shard {}: FAULT {error}\n", view.shard),
    };
    let (path, block_size) = (grid.path.display(), grid.block_size);
    let mut text = format!("shard {}: {path}\n", view.shard);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12}{value}\n"));
    let (length, blocks) = (grid.length, grid.blocks());
    line("file", format!("{length} bytes, {blocks} blocks of {block_size} bytes"));
    if let Ok(header) = &grid.header {
        let owner = header.owner;
        line(
            "belongs to",
            format!(
                "cluster {}, replica {}, shard {}, incarnation {:032x}",
                owner.identity.cluster, owner.replica, owner.identity.shard, owner.incarnation
            ),
        );
    }
    line("root", root_text(live));
    if let Some(space) = live.free_set.as_ref().map(FreeSet::space) {
        let released = space.staged + space.pending;
        let (used, free, max) = (space.acquired, space.free(), space.blocks_max);
        line("in use", format!("{used} blocks, {released} of them released"));
        line("free", format!("{free} blocks of the {max} that it may grow to"));
    }
    let types: Vec<String> = types.iter().map(|(name, count)| format!("{name} {count}")).collect();
    line("blocks", if types.is_empty() { "-".to_owned() } else { types.join(", ") });
    line("tables", live.tables.len().to_string());
    for fault in faults(grid, live) {
        line("FAULT", fault.to_string());
    }
    text
}

fn to_json(view: &View) -> Value {
    let (grid, live, types) = match &view.grid {
        Ok(grid) => grid,
        Err(error) => return json!({ "shard": view.shard, "faults": [{ "what": error }] }),
    };
    let header = grid.header.as_ref().ok().map(|header| {
        json!({
            "cluster": header.owner.identity.cluster.to_string(),
            "replica": header.owner.replica,
            "shard": header.owner.identity.shard,
            "incarnation": format!("{:032x}", header.owner.incarnation),
            "block_size": header.block_size,
        })
    });
    let root = live.reference.map(|reference| {
        json!({
            "block": reference.address.get(),
            "size": reference.size,
            "checksum": reference.checksum.to_string(),
            "op": live.root.as_ref().map(|root| root.op),
        })
    });
    let space = live.free_set.as_ref().map(FreeSet::space).map(|space| {
        json!({
            "blocks_max": space.blocks_max,
            "in_use": space.acquired,
            "released": space.staged + space.pending,
            "free": space.free(),
        })
    });
    json!({
        "shard": view.shard,
        "file": grid.path,
        "bytes": grid.length,
        "blocks": grid.blocks(),
        "header": header,
        "root": root,
        "space": space,
        "blocks_by_type": types,
        "tables": live.tables.len(),
        "faults": faults(grid, live),
    })
}
