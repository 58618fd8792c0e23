//! What a node costs that nobody uses: memory, disk and processor. One that was just busy first
//! does what it owes, and then nothing either.

#![expect(clippy::unwrap_used, reason = "a node that does not answer has failed the test")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use bench::host::ProcessUse;
use client::Reply;
use support::{Folder, Node, PATIENCE, call};

const MIB: u64 = 1 << 20;
/// How long the node is watched doing nothing.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn an_idle_node_costs_next_to_nothing() {
    let folder = Folder::new();
    let node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    assert_eq!(call(&mut connection, &["SET", "hello", "world"]), Reply::Simple("OK".into()));

    let before = ProcessUse::read(node.pid()).unwrap();
    thread::sleep(WATCHED);
    let used = ProcessUse::read(node.pid()).unwrap().since(&before);
    let processor = used.user + used.system;
    let resident = used.resident_bytes / MIB;
    let files = fs::read_dir(folder.data()).unwrap().map(|entry| entry.unwrap());
    // What the file system set aside, not what the files claim.
    let disk = files.map(|file| file.metadata().unwrap().blocks() * 512).sum::<u64>() / MIB;
    println!("idle: {processor:?} of processor in {WATCHED:?}, {resident} MiB, {disk} MiB on disk");
    assert!(processor < WATCHED / 100, "an idle node used {processor:?} in {WATCHED:?}");
    assert!(resident < 150, "an idle node holds {resident} MiB of memory");
    assert!(disk < 300, "an idle node holds {disk} MiB of disk");
}

/// The sum of a metric over its labels.
fn metric(node: &Node, name: &str) -> u64 {
    let mut answer = ureq::get(format!("http://{}/metrics", node.http)).call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let values: Vec<u64> =
        lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name} is not among the metrics");
    values.into_iter().sum()
}

/// Written to one shard, so that its memtable fills and bars have something to flush and merge.
#[test]
fn a_node_left_alone_pays_its_debt_and_then_writes_nothing() {
    const VALUE_SIZE: usize = 32 << 10;
    let folder = Folder::new();
    let node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    let value = "v".repeat(VALUE_SIZE);
    // Keys are overwritten, so that there is something to merge too.
    for number in 0..2000 {
        let key = format!("{{hot}}{}", number % 600);
        assert_eq!(call(&mut connection, &["SET", &key, &value]), Reply::Simple("OK".into()));
    }
    assert!(metric(&node, "quorate_compaction_flushes_total") > 0, "no bar has flushed anything");

    let written = || ProcessUse::read(node.pid()).unwrap().written_bytes;
    let (begun, quiet) = (Instant::now(), Duration::from_secs(2));
    loop {
        let before = written();
        assert!(before > 2000 * VALUE_SIZE as u64, "{before} bytes written: they are not counted");
        thread::sleep(quiet);
        if written() == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it goes on writing: {}", node.log());
    }
    println!("quiet {:?} after the last write", begun.elapsed() - quiet);
    assert_eq!(metric(&node, "quorate_compaction_debt_blocks"), 0);
    let op = metric(&node, "quorate_op");
    thread::sleep(quiet);
    assert_eq!(metric(&node, "quorate_op"), op, "the log goes on without anybody writing");
}
