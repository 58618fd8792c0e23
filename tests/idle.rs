//! What a node costs that nobody uses: memory, disk and processor.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use bench::host::ProcessUse;
use client::Reply;
use support::{Folder, Node, call};

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
