//! Damaged and mistaken directories: what the built binary does about them.
//!
//! One test for each row of the fault table that a single replica can answer; errors of the device
//! itself and lost writes are played in the simulator. Wherever a node refuses, the directory's
//! files must be as they were.
//!
//! What is about grids works on copies of a directory that holds enough for a few checkpoints, so
//! that keys are read from tables, and asks `quorate inspect` where what is to be damaged stands.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use client::Reply;
use serde_json::Value;
use support::{Folder, Node, PATIENCE, call, quorate};

const COPY_SIZE: u64 = 16 << 10;

/// A directory with some acknowledged writes, its node killed.
fn written(keys: u32) -> Folder {
    let folder = Folder::new();
    let mut node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    for key in 0..keys {
        let reply = call(&mut connection, &["SET", &format!("key{key}"), &format!("value{key}")]);
        assert_eq!(reply, Reply::Simple("OK".into()));
    }
    node.kill();
    folder
}

fn everything_is_there(folder: &Folder, keys: u32) {
    let node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    for key in 0..keys {
        let reply = call(&mut connection, &["GET", &format!("key{key}")]);
        assert_eq!(reply, Reply::Bulk(format!("value{key}").into_bytes()), "{}", node.log());
    }
}

fn journal(folder: &Folder) -> File {
    let path = folder.data().join("journal");
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn flip(file: &File, offset: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

fn run(arguments: &[&str], dir: &Path) -> Output {
    quorate().args(arguments).arg("--dir").arg(dir).output().unwrap()
}

fn inspect(folder: &Folder, what: &[&str]) -> Value {
    let output = run(&[&["inspect", "--json"], what].concat(), &folder.data());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn verify_says(folder: &Folder, code: i32) -> String {
    let output = run(&["verify"], &folder.data());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    text
}

/// Checksums of the journal and the grids.
fn contents(folder: &Folder) -> Vec<(String, u128)> {
    let entries = fs::read_dir(folder.data()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, u128)> = entries
        .filter(|path| path.file_name().is_some_and(|name| name != "LOCK"))
        .map(|path| (path.display().to_string(), wire::checksum(&fs::read(path).unwrap()).0))
        .collect();
    files.sort();
    files
}

/// Starts a node that must refuse, naming all of `words`, without changing a file.
fn is_refused(folder: &Folder, words: &[&str]) {
    let before = contents(folder);
    let Err(log) = Node::try_start(&folder.data(), &[]) else { panic!("it was not refused") };
    for word in words {
        assert!(log.contains(word), "{word:?} is not named in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(before == contents(folder), "a refused directory was changed");
}

#[test]
fn an_undamaged_directory_verifies() {
    let folder = written(20);
    assert!(verify_says(&folder, 0).contains("undamaged"));
    everything_is_there(&folder, 20);
}

#[test]
fn a_torn_tail_is_forgotten_and_nothing_acknowledged_with_it() {
    let folder = written(20);
    let head = inspect(&folder, &["journal"])["head"].as_u64().unwrap();
    let frame = &inspect(&folder, &["op", &head.to_string()])["frames"][0];
    // Behind the newest frame: a sector of what a cut write leaves.
    let behind = frame["offset"].as_u64().unwrap() + 4096;
    let file = journal(&folder);
    let mut torn = vec![0; 4096];
    file.read_exact_at(&mut torn[..600], behind - 4096).unwrap();
    torn[300] ^= 1;
    let mut there = [0; 4096];
    file.read_exact_at(&mut there, behind).unwrap();
    // A marker may stand there already; then the torn frame goes behind it.
    let place = if there.iter().all(|byte| *byte == 0) { behind } else { behind + 4096 };
    file.write_all_at(&torn, place).unwrap();
    everything_is_there(&folder, 20);
}

#[test]
fn a_damaged_entry_is_refused_by_op_and_offset() {
    let folder = written(20);
    let head = inspect(&folder, &["journal"])["head"].as_u64().unwrap();
    let op = head / 2;
    let frame = &inspect(&folder, &["op", &op.to_string()])["frames"][0];
    let offset = frame["offset"].as_u64().unwrap();
    flip(&journal(&folder), offset + 520);
    is_refused(&folder, &[&format!("op {op}"), &offset.to_string()]);
    let text = verify_says(&folder, 4);
    assert!(text.contains(&format!("op {op}")), "{text}");
    // Mended, it serves again: refusing did no harm.
    flip(&journal(&folder), offset + 520);
    everything_is_there(&folder, 20);
}

#[test]
fn three_damaged_superblock_copies_are_survived_and_repaired() {
    let folder = written(5);
    for slot in [0, 3, 6] {
        flip(&journal(&folder), slot * COPY_SIZE + 200);
    }
    assert!(verify_says(&folder, 4).contains("superblock copy 3"));
    everything_is_there(&folder, 5);
    verify_says(&folder, 0);
}

#[test]
fn five_damaged_superblock_copies_are_refused() {
    let folder = written(5);
    for slot in 0..5 {
        flip(&journal(&folder), slot * COPY_SIZE + 200);
    }
    is_refused(&folder, &["5 of 8", "superblock", "journal"]);
    verify_says(&folder, 4);
}

#[test]
fn a_journal_that_was_cut_is_refused() {
    let folder = written(5);
    let file = journal(&folder);
    let length = file.metadata().unwrap().len();
    file.set_len(length - 4096).unwrap();
    is_refused(&folder, &["journal", &length.to_string()]);
    verify_says(&folder, 4);
}

#[test]
fn a_folder_that_is_no_data_directory_is_refused_by_start() {
    let folder = Folder::new();
    fs::create_dir_all(folder.data()).unwrap();
    let output = run(&["start"], &folder.data());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("quorate format"), "{text}");
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let folder = written(1);
    let _first = Node::start(&folder.data(), &[]);
    let Err(log) = Node::try_start(&folder.data(), &[]) else { panic!("two nodes at once") };
    assert!(log.contains("open in another process"), "{log}");
}

#[test]
fn format_refuses_a_folder_that_is_not_empty() {
    let folder = written(3);
    let arguments = ["format", "--cluster", "1", "--replica", "0", "--replicas", "1"];
    let output = run(&arguments, &folder.data());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    everything_is_there(&folder, 3);
}

#[test]
fn another_format_version_is_refused_by_name() {
    let folder = written(1);
    let file = journal(&folder);
    for slot in 0..8 {
        // Format version, at byte 32 of each copy; what a later release would write there.
        let mut copy = vec![0; COPY_SIZE as usize];
        file.read_exact_at(&mut copy, slot * COPY_SIZE).unwrap();
        copy[32] = 9;
        let sum = wire::checksum(&copy[32..]).0.to_le_bytes();
        copy[..16].copy_from_slice(&sum);
        file.write_all_at(&copy, slot * COPY_SIZE).unwrap();
    }
    is_refused(&folder, &["format 9"]);
    assert_eq!(run(&["start"], &folder.data()).status.code(), Some(3));
}

#[test]
fn a_grid_of_another_format_version_is_refused_by_name() {
    let folder = written(1);
    let file = grid(&folder, 1);
    // As release 1 of the format wrote it: the version at byte 70 of the header.
    let mut header = vec![0; 256];
    file.read_exact_at(&mut header, 0).unwrap();
    header[70] = 1;
    let sum = wire::checksum(&header[16..]).0.to_le_bytes();
    header[..16].copy_from_slice(&sum);
    file.write_all_at(&header, 0).unwrap();
    is_refused(&folder, &["shard-0001.grid", "format 1", "release that wrote it"]);
    assert_eq!(run(&["start"], &folder.data()).status.code(), Some(3));
}

// ---- grids ----

/// Keys in a directory with checkpoints, and the bytes of each value.
const KEYS: u32 = 8_000;
const VALUE_SIZE: usize = 6_000;
/// Keys written by one command, and reads under way at the same time.
const BATCH: u32 = 50;
const BLOCK_SIZE: u64 = 256 << 10;

fn key(number: u32) -> String {
    format!("key{number:06}")
}

fn value(number: u32) -> String {
    format!("{:.<VALUE_SIZE$}", key(number))
}

fn format(folder: &Folder, cluster: &str, shards: &str) {
    let sizes = ["--journal-size", "64MiB", "--grid-size-max", "64GiB"];
    let identity = ["format", "--cluster", cluster, "--replica", "0", "--replicas", "1"];
    let output = run(&[&identity[..], &["--shards", shards], &sizes].concat(), &folder.data());
    assert!(output.status.success(), "{output:?}");
}

/// What `format` is told of compression is recorded and shown; what is no codec makes nothing.
#[test]
fn compression_is_chosen_at_format() {
    let folder = Folder::new();
    let format = ["format", "--cluster", "7", "--replica", "0", "--replicas", "1"];
    let sizes = ["--shards", "1", "--journal-size", "64MiB", "--grid-size-max", "64GiB"];
    let format = [&format[..], &sizes, &["--compression"]].concat();
    let refused = run(&[&format[..], &["none,zip"]].concat(), &folder.data());
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("`zip` is no codec; there are none, lz4, zstd"), "{text}");
    assert!(!folder.data().exists());
    let made = run(&[&format[..], &["none,lz4,zstd,zstd"]].concat(), &folder.data());
    assert!(made.status.success(), "{made:?}");
    for what in ["superblock", "constants"] {
        let shown = run(&["inspect", what], &folder.data());
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = text.lines().find(|line| line.trim_start().starts_with("compression"));
        assert!(line.is_some_and(|line| line.ends_with(" none,lz4,zstd")), "{what}: {text}");
    }
}

/// A directory whose oldest keys are in tables and whose newest ones are in the journal only; tests
/// that run at the same time share it.
fn checkpointed() -> Arc<Folder> {
    static SHARED: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    if let Some(folder) = shared.upgrade() {
        return folder;
    }
    let folder = Folder::new();
    format(&folder, "1", "2");
    let mut node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    for first in (0..KEYS).step_by(BATCH as usize) {
        let mut command = vec!["MSET".to_owned()];
        (first..first + BATCH).for_each(|number| command.extend([key(number), value(number)]));
        assert_eq!(connection.call(&command).unwrap(), Reply::Simple("OK".into()));
    }
    assert!(node.stop().success());
    let folder = Arc::new(folder);
    *shared = Arc::downgrade(&folder);
    folder
}

/// A copy of it, to damage.
fn copy() -> Folder {
    let shared = checkpointed();
    let folder = Folder::new();
    fs::create_dir_all(folder.data()).unwrap();
    for entry in fs::read_dir(shared.data()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.data().join(entry.file_name())).unwrap();
    }
    folder
}

fn grid(folder: &Folder, shard: u64) -> File {
    let path = folder.data().join(format!("shard-{shard:04}.grid"));
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// A table of the objects' tree.
struct Table {
    shard: u64,
    level: u64,
    index: u64,
    value_blocks: Vec<u64>,
    /// The keys that it holds.
    keys: BTreeSet<String>,
}

/// The first that is listed.
fn a_table(folder: &Folder) -> Table {
    table(folder, |listed| listed.first())
}

/// The one whose index block stands behind all others': nothing is behind it but what it wrote.
fn the_last_table(folder: &Folder) -> Table {
    table(folder, |listed| listed.iter().max_by_key(|table| table["table"].as_u64()))
}

fn table(folder: &Folder, choose: fn(&[Value]) -> Option<&Value>) -> Table {
    let shard = 1;
    let asked = ["--shard", "1"];
    let tables = inspect(folder, &[&["tables"][..], &asked].concat());
    let tables = tables["shards"][0]["tables"].as_array().unwrap().clone();
    let objects: Vec<Value> =
        tables.into_iter().filter(|table| table["tree"] == "objects").collect();
    let table = choose(&objects).expect("nothing in tables");
    let index = table["table"].as_u64().unwrap();
    let keys = inspect(folder, &[&["keys", "--limit", "100000"][..], &asked].concat());
    let entries = keys["entries"].as_array().unwrap().iter();
    let entries = entries.filter(|entry| entry["index"] == index);
    Table {
        shard,
        level: table["level"].as_u64().unwrap(),
        index,
        value_blocks: list(&table["value_blocks"]),
        keys: entries.map(|entry| entry["key"].as_str().unwrap().to_owned()).collect(),
    }
}

fn list(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

/// Reads every key; gives those that fail with `corrupt_block`. All others must be there.
fn unreadable(node: &Node) -> BTreeSet<String> {
    let mut connection = node.connect();
    let mut failed = BTreeSet::new();
    for first in (0..KEYS).step_by(BATCH as usize) {
        (first..first + BATCH).for_each(|number| connection.send(&["GET", &key(number)]));
        for number in first..first + BATCH {
            match connection.receive().unwrap() {
                Reply::Error(text) if text.starts_with("ERR corrupt_block") => {
                    failed.insert(key(number));
                }
                reply => assert_eq!(reply, Reply::Bulk(value(number).into_bytes())),
            }
        }
    }
    failed
}

/// Serves a directory with a damaged block of `table`: the reads in `must` fail, none outside the
/// table does, and everything else goes on.
fn only_fails(folder: &Folder, table: &Table, block: u64, must: &BTreeSet<String>) {
    let mut node = Node::start(&folder.data(), &[]);
    // The first to meet the block is a write that needs it: it is in the log, and a replay meets
    // the block again.
    let lost = must.last().unwrap();
    assert_corrupt(&call(&mut node.connect(), &["APPEND", lost, "more"]));
    node.kill();
    let node = Node::start(&folder.data(), &[]);
    let failed = unreadable(&node);
    assert!(!must.is_empty() && failed.is_superset(must), "{} failed", failed.len());
    // The filter of the damaged table may send a few more keys to it: its own range only.
    let (first, last) = (table.keys.first().unwrap(), table.keys.last().unwrap());
    assert!(failed.range(..first.clone()).next().is_none(), "{failed:?} are not in the table");
    assert!(failed.iter().all(|key| key <= last), "{failed:?} are not in the table");
    let log = node.log();
    let Table { shard, level, index, .. } = table;
    let place = format!("shard {shard}, tree Objects, level {level}, table {index}: block {block}");
    assert!(log.contains(&place), "{place:?} is not named in:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    // Writes go on, of unreadable keys too: a new value does not need the old one.
    let mut connection = node.connect();
    let again = must.first().unwrap();
    assert_eq!(call(&mut connection, &["SET", again, "new"]), Reply::Simple("OK".into()));
    assert_eq!(call(&mut connection, &["GET", again]), Reply::Bulk(b"new".into()));
    assert_corrupt(&call(&mut connection, &["MSETNX", lost, "1", "fresh", "1"]));
    assert_eq!(call(&mut connection, &["GET", "fresh"]), Reply::Nil);
}

fn assert_corrupt(reply: &Reply) {
    assert!(
        matches!(reply, Reply::Error(text) if text.starts_with("ERR corrupt_block")),
        "{reply:?}"
    );
}

/// What `verify` must say of a damaged block of a table.
fn verify_places(folder: &Folder, table: &Table, block: u64) {
    let text = verify_says(folder, 4);
    let Table { shard, level, index, .. } = table;
    let offset = block * BLOCK_SIZE;
    let file = format!("shard-{shard:04}.grid at offset {offset}");
    let place = format!("shard {shard}, tree objects, level {level}, table {index}, block {block}");
    assert!(text.contains(&file) && text.contains(&place), "{file}, {place} not in:\n{text}");
}

#[test]
fn a_directory_with_checkpoints_verifies_and_can_be_looked_into() {
    let folder = copy();
    let before = contents(&folder);
    assert!(verify_says(&folder, 0).contains("undamaged"));
    let grids = inspect(&folder, &["grid"]);
    let grids = grids["shards"].as_array().unwrap();
    assert_eq!(grids.len(), 2);
    for (number, grid) in grids.iter().enumerate() {
        assert_eq!(grid["header"]["shard"], number);
        assert_eq!(grid["header"]["cluster"], "1");
        assert_eq!(grid["faults"].as_array().unwrap().len(), 0, "{grid}");
        let types = grid["blocks_by_type"].as_object().unwrap();
        let count: u64 = types.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(grid["space"]["in_use"], count, "{grid}");
        assert!(types["value"].as_u64() > Some(0) && types["index"].as_u64() > Some(0), "{grid}");
        assert_eq!(types["checkpoint"], 1);
        assert!(!types.contains_key("unreadable"), "{grid}");
    }
    let table = a_table(&folder);
    let manifest = inspect(&folder, &["manifest", "--shard", "1"]);
    let levels = manifest["shards"][0]["levels"].as_array().unwrap();
    let entries: u64 = levels.iter().map(|level| level["entries"].as_u64().unwrap()).sum();
    let keys = inspect(&folder, &["keys", "--shard", "1", "--limit", "100000"]);
    assert_eq!(keys["entries"].as_array().unwrap().len() as u64, entries);
    assert_eq!(keys["entries"][0]["size"], VALUE_SIZE);
    let block = inspect(&folder, &["block", &table.index.to_string(), "--shard", "1"]);
    assert_eq!(block["type"], "index");
    assert_eq!(block["entries"], format!("{}, 0 of them tombstones", table.keys.len()));
    assert!(before == contents(&folder), "looking changed something");
}

#[test]
fn a_damaged_value_block_fails_only_the_reads_that_need_it() {
    let folder = copy();
    let table = a_table(&folder);
    let block = table.value_blocks[table.value_blocks.len() / 2];
    let garbage = vec![0xA5; BLOCK_SIZE as usize - 4096];
    grid(&folder, table.shard).write_all_at(&garbage, block * BLOCK_SIZE + 4096).unwrap();
    verify_places(&folder, &table, block);
    let shown = inspect(&folder, &["block", &block.to_string(), "--shard", "1"]);
    assert_eq!(shown["type"], "value");
    assert!(shown["fault"].as_str().unwrap().contains("body checksum"), "{shown}");
    // What can still be listed of the table shows which keys were in the block; the first page is
    // as it was.
    let lost = table.keys.difference(&a_table(&folder).keys).skip(3).cloned().collect();
    only_fails(&folder, &table, block, &lost);
}

#[test]
fn a_block_with_the_content_of_another_is_not_taken_for_it() {
    let folder = copy();
    let table = a_table(&folder);
    let [from, to] = [table.value_blocks[0], table.value_blocks[1]];
    let file = grid(&folder, table.shard);
    let mut block = vec![0; BLOCK_SIZE as usize];
    file.read_exact_at(&mut block, from * BLOCK_SIZE).unwrap();
    file.write_all_at(&block, to * BLOCK_SIZE).unwrap();
    verify_places(&folder, &table, to);
    let text = verify_says(&folder, 4);
    assert!(text.contains(&format!("belongs at address {from}, found at {to}")), "{text}");
    let lost: BTreeSet<String> = table.keys.difference(&a_table(&folder).keys).cloned().collect();
    only_fails(&folder, &table, to, &lost);
}

#[test]
fn a_damaged_index_block_fails_only_the_reads_of_its_table() {
    let folder = copy();
    let table = a_table(&folder);
    flip(&grid(&folder, table.shard), table.index * BLOCK_SIZE + 1000);
    verify_places(&folder, &table, table.index);
    only_fails(&folder, &table, table.index, &table.keys);
}

#[test]
fn a_damaged_root_or_manifest_is_refused_by_block() {
    let folder = copy();
    let grids = inspect(&folder, &["grid"]);
    let root = grids["shards"][0]["root"]["block"].as_u64().unwrap();
    let manifest = list(&inspect(&folder, &["manifest"])["shards"][0]["blocks"])[0];
    for block in [root, manifest] {
        let offset = block * BLOCK_SIZE;
        flip(&grid(&folder, 0), offset + 300);
        let place = format!("shard-0000.grid, offset {offset}");
        is_refused(&folder, &[&format!("block {block}"), &place]);
        let text = verify_says(&folder, 4);
        assert!(text.contains(&format!("shard-0000.grid at offset {offset}")), "{text}");
        flip(&grid(&folder, 0), offset + 300);
    }
    verify_says(&folder, 0);
}

#[test]
fn a_damaged_header_or_free_set_is_refused_by_place_and_remedy() {
    let folder = copy();
    let root = inspect(&folder, &["grid"])["shards"][1]["root"]["block"].as_u64().unwrap();
    // The blocks of a checkpoint stand together, the root last, the generations before it.
    let free_set = (1..root).rev().find(|block| {
        inspect(&folder, &["block", &block.to_string(), "--shard", "1"])["type"] == "free set"
    });
    let free_set = free_set.expect("a checkpoint has a free set") * BLOCK_SIZE;
    let remedies = [(0, "verify"), (free_set, "only a copy of the directory brings it back")];
    for (offset, remedy) in remedies {
        flip(&grid(&folder, 1), offset + 100);
        let place = format!("offset {offset}");
        is_refused(&folder, &["shard-0001.grid", &place, remedy]);
        assert!(verify_says(&folder, 4).contains("shard-0001.grid"));
        flip(&grid(&folder, 1), offset + 100);
    }
    verify_says(&folder, 0);
}

/// What a running node's scrub says: exit status and standard error.
fn scrub(node: &Node) -> (Option<i32>, String) {
    let output = quorate().args(["scrub", &node.http, "--wait"]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_scrub_of_a_running_node_finds_what_went_bad_and_only_that_fails() {
    let folder = copy();
    let table = a_table(&folder);
    let block = table.value_blocks[table.value_blocks.len() / 2];
    let node = Node::start(&folder.data(), &["--scrub-cycle", "off"]);
    assert_eq!(scrub(&node).0, Some(0), "{}", node.log());
    let garbage = vec![0xA5; BLOCK_SIZE as usize - 4096];
    grid(&folder, table.shard).write_all_at(&garbage, block * BLOCK_SIZE + 4096).unwrap();
    let (code, said) = scrub(&node);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("1 corrupt block"), "{said}");
    let log = node.log();
    let Table { shard, level, index, .. } = table;
    let place = format!("shard {shard}, tree Objects, level {level}, table {index}: block {block}");
    let offset = format!("offset={}", block * BLOCK_SIZE);
    for word in [&place, &offset, "shard-0001.grid", "keys from", "SET", "quarantined"] {
        assert!(log.contains(word), "{word:?} is not named in:\n{log}");
    }
    let failed = unreadable(&node);
    assert!(!failed.is_empty() && failed.is_subset(&table.keys), "{failed:?}");
    // Known: asked again it is counted and logged no second time.
    assert_eq!(scrub(&node).0, Some(4));
    assert_eq!(node.log().matches("a scrub found").count(), 1, "{}", node.log());
    let mut connection = node.connect();
    let again = failed.first().unwrap();
    assert_eq!(call(&mut connection, &["SET", again, "new"]), Reply::Simple("OK".into()));
    assert_eq!(call(&mut connection, &["GET", again]), Reply::Bulk(b"new".into()));
    let status = quorate().args(["status", &node.http]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("shard 1   scrub done") && status.contains("1 corrupt"), "{status}");
}

#[test]
fn a_short_cycle_finds_rot_without_being_asked() {
    let folder = copy();
    let table = a_table(&folder);
    flip(&grid(&folder, table.shard), table.index * BLOCK_SIZE + 1000);
    let node = Node::start(&folder.data(), &["--scrub-cycle", "1s"]);
    let deadline = Instant::now() + PATIENCE;
    while !node.log().contains("a scrub found a corrupt block") {
        assert!(Instant::now() < deadline, "nothing found:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let failed = unreadable(&node);
    assert!(failed.is_superset(&table.keys), "{} of {}", failed.len(), table.keys.len());
}

#[test]
fn swapped_grid_files_are_refused() {
    let folder = copy();
    let path = |name: &str| folder.data().join(name);
    fs::rename(path("shard-0000.grid"), path("between")).unwrap();
    fs::rename(path("shard-0001.grid"), path("shard-0000.grid")).unwrap();
    fs::rename(path("between"), path("shard-0001.grid")).unwrap();
    is_refused(&folder, &["shard-0000.grid", "shard is 1, expected 0"]);
    let text = verify_says(&folder, 4);
    assert!(text.contains("shard is 1, expected 0"), "{text}");
    assert!(text.contains("shard is 0, expected 1"), "{text}");
}

#[test]
fn a_grid_of_another_cluster_is_refused() {
    let folder = copy();
    let other = Folder::new();
    format(&other, "2", "2");
    let name = "shard-0001.grid";
    fs::copy(other.data().join(name), folder.data().join(name)).unwrap();
    is_refused(&folder, &[name, "cluster is 2, expected 1"]);
    let text = verify_says(&folder, 4);
    assert!(text.contains(name) && text.contains("cluster is 2, expected 1"), "{text}");
}

#[test]
fn a_missing_grid_file_is_refused() {
    let folder = copy();
    fs::remove_file(folder.data().join("shard-0001.grid")).unwrap();
    is_refused(&folder, &["shard-0001.grid"]);
    assert!(verify_says(&folder, 4).contains("shard-0001.grid"));
}

#[test]
fn a_grid_that_was_cut_is_found() {
    let folder = copy();
    let root = inspect(&folder, &["grid"])["shards"][1]["root"]["block"].as_u64().unwrap();
    // Cut in front of the checkpoint's root: there is nothing to go on with.
    grid(&folder, 1).set_len(root * BLOCK_SIZE).unwrap();
    let place = format!("shard-0001.grid, offset {}", root * BLOCK_SIZE);
    is_refused(&folder, &[&format!("block {root}"), &place]);
    assert!(verify_says(&folder, 4).contains(&format!("shard 1, block {root}")));
}

#[test]
fn a_grid_that_was_cut_behind_its_root_fails_only_the_reads_of_what_is_gone() {
    let folder = copy();
    let table = the_last_table(&folder);
    let root = inspect(&folder, &["grid"])["shards"][1]["root"]["block"].as_u64().unwrap();
    // The index is written last of a table's blocks.
    assert!(root < table.index, "the newest table stands behind the first checkpoint");
    grid(&folder, 1).set_len(table.index * BLOCK_SIZE).unwrap();
    let text = verify_says(&folder, 4);
    assert!(text.contains("it was cut"), "{text}");
    verify_places(&folder, &table, table.index);
    let cut = format!("size={} needed=", table.index * BLOCK_SIZE);
    let log = Node::start(&folder.data(), &[]).log();
    let told = log.lines().any(|line| line.contains("was cut") && line.contains(&cut));
    assert!(told && log.contains("shard-0001.grid"), "{log}");
    only_fails(&folder, &table, table.index, &table.keys);
}

#[test]
fn verify_refuses_a_directory_that_is_in_use() {
    let folder = written(1);
    let mut node = Node::start(&folder.data(), &[]);
    let output = run(&["verify"], &folder.data());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("open in another process"), "{text}");
    assert!(node.stop().success());
    verify_says(&folder, 0);
}

#[test]
fn grids_can_be_looked_into_without_a_superblock() {
    let folder = copy();
    for slot in 0..8 {
        flip(&journal(&folder), slot * COPY_SIZE + 200);
    }
    verify_says(&folder, 4);
    let grids = inspect(&folder, &["grid"]);
    let grids = grids["shards"].as_array().unwrap();
    assert_eq!(grids.len(), 2);
    assert_eq!(grids[1]["header"]["shard"], 1);
    assert!(grids[1]["blocks_by_type"]["value"].as_u64() > Some(0), "{grids:?}");
    let block = inspect(&folder, &["block", "1", "--shard", "1"]);
    assert_eq!((&block["shard"], &block["fault"]), (&"1".into(), &Value::Null), "{block}");
}

#[test]
fn another_number_of_shards_is_refused() {
    // As a setting: it is none, it was decided by format.
    let folder = copy();
    let settings = folder.data().join("quorate.toml");
    fs::write(&settings, "shards = 4\n").unwrap();
    is_refused(&folder, &["quorate.toml", "shards"]);
    fs::remove_file(settings).unwrap();
    // As a journal that was formatted so, beside grids that were not.
    let other = Folder::new();
    format(&other, "1", "4");
    fs::copy(other.data().join("journal"), folder.data().join("journal")).unwrap();
    is_refused(&folder, &["shard-0000.grid", "incarnation"]);
    let text = verify_says(&folder, 4);
    assert!(text.contains("incarnation") && text.contains("shard-0003.grid"), "{text}");
}
