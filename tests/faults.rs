//! Damaged and mistaken directories: what the built binary does about them.
//!
//! One test for each row of the fault table that a single replica can answer; errors of the device
//! itself and lost writes are played in the simulator. Wherever a node refuses, the directory's
//! files must be as they were.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use client::Reply;
use serde_json::Value;
use support::{Folder, Node, call, quorate};

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

/// Starts a node that must refuse, naming all of `words`, without changing the journal.
fn is_refused(folder: &Folder, words: &[&str]) {
    let before = fs::read(folder.data().join("journal")).ok();
    let Err(log) = Node::try_start(&folder.data(), &[]) else { panic!("it was not refused") };
    for word in words {
        assert!(log.contains(word), "{word:?} is not named in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    let after = fs::read(folder.data().join("journal")).ok();
    assert!(before == after, "a refused directory was changed");
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
}
