//! No space: devices that are too small or full, and grids at their limit.
//!
//! Small devices are ext4 images on loop devices, which needs the right to mount. Where that cannot
//! be had these tests say so on standard error and pass; direct I/O works on such a device, as on a
//! disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use client::{Connection, Reply};
use support::{Folder, Node, PATIENCE, call, quorate};

const VALUE_SIZE: usize = 60_000;
/// Keys written by one command.
const BATCH: u32 = 10;

/// A small device with a file system of its own, mounted while this lives.
struct Device {
    folder: Folder,
}

impl Device {
    /// None, loudly, where devices cannot be made.
    fn new(size: u64) -> Option<Device> {
        let folder = Folder::new();
        fs::create_dir_all(folder.data()).unwrap();
        let image = folder.data().with_file_name("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let (place, image) = (folder.data(), image.to_str().unwrap());
        let make: &[&[&str]] = &[
            &["mkfs.ext4", "-q", "-F", "-m", "0", image],
            &["mount", "-o", "loop", image, place.to_str().unwrap()],
        ];
        for words in make {
            let done = Command::new(words[0]).args(&words[1..]).output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                println!("SKIPPED: no small device can be made here: {words:?}: {done:?}");
                return None;
            }
        }
        Some(Device { folder })
    }

    /// Where it is mounted.
    fn path(&self) -> PathBuf {
        self.folder.data()
    }

    /// Takes all space but so many bytes.
    fn fill_but(&self, left: u64) -> PathBuf {
        let path = self.path().join("filler");
        let answer = Command::new("df").args(["--output=avail", "-B1"]).arg(self.path()).output();
        let text = String::from_utf8(answer.unwrap().stdout).unwrap();
        let available: u64 = text.lines().last().unwrap().trim().parse().unwrap();
        let size = (available - left).to_string();
        let filled = Command::new("fallocate").args(["-l", &size]).arg(&path).status().unwrap();
        assert!(filled.success());
        path
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Lazily: a node that was killed may hold a file for a moment longer.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn format(dir: &Path, shards: &str, grid: &str) -> Output {
    let identity = ["format", "--cluster", "1", "--replica", "0", "--replicas", "1"];
    let sizes = ["--shards", shards, "--journal-size", "64MiB", "--grid-size-max", grid];
    quorate().args(identity).args(sizes).arg("--dir").arg(dir).output().unwrap()
}

fn key(number: u32) -> String {
    format!("key{number:06}")
}

fn value(number: u32) -> String {
    format!("{:.<VALUE_SIZE$}", key(number))
}

/// Writes the next keys; what the node says, or none when it is gone.
fn write(connection: &mut Connection, first: u32) -> Option<Reply> {
    let mut command = vec!["MSET".to_owned()];
    (first..first + BATCH).for_each(|number| command.extend([key(number), value(number)]));
    connection.call(&command).ok()
}

/// Writes until something else than OK comes: how many keys, and what came.
fn fill(connection: &mut Connection) -> (u32, Option<Reply>) {
    for first in (0..).step_by(BATCH as usize) {
        match write(connection, first) {
            Some(Reply::Simple(_)) => {}
            other => return (first, other),
        }
    }
    unreachable!("a device has an end")
}

fn assert_all_there(connection: &mut Connection, keys: u32) {
    for number in 0..keys {
        let found = call(connection, &["GET", &key(number)]);
        assert!(found == Reply::Bulk(value(number).into_bytes()), "{}", key(number));
    }
}

#[test]
fn format_on_a_device_that_is_too_small_says_so_and_leaves_nothing() {
    let Some(device) = Device::new(48 << 20) else { return };
    let dir = device.path().join("replica");
    let output = format(&dir, "2", "16GiB");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("journal") && text.to_lowercase().contains("no space left"), "{text}");
    let left: Vec<_> = fs::read_dir(device.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.ends_with("lost+found")), "{left:?}");
}

#[test]
fn a_grid_that_could_hold_nothing_is_refused_by_format() {
    let folder = Folder::new();
    let output = format(&folder.data(), "2", "64MiB");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let least = text.split("--grid-size-max ").nth(1).and_then(|rest| rest.split(' ').next());
    let least = least.unwrap_or_else(|| panic!("no size is named in {text}"));
    assert!(!folder.data().exists());
    let output = format(&folder.data(), "2", least);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_node_takes_writes_at_once_whatever_its_grids_may_grow_to() {
    for grid in ["1GiB", "16GiB", "1TiB"] {
        let folder = Folder::new();
        let output = format(&folder.data(), "2", grid);
        assert!(output.status.success(), "{output:?}");
        let node = Node::start(&folder.data(), &[]);
        let mut connection = node.connect();
        for number in 0..20 {
            let reply = call(&mut connection, &["SET", &key(number), "1"]);
            assert_eq!(reply, Reply::Simple("OK".into()), "{grid}");
        }
    }
}

#[test]
fn a_full_grid_refuses_writes_serves_the_rest_and_recovers_after_deletes() {
    let folder = Folder::new();
    assert!(format(&folder.data(), "1", "1GiB").status.success());
    let mut node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    let (keys, refused) = fill(&mut connection);
    let refused = refused.expect("the node answers");
    assert!(matches!(&refused, Reply::Error(text) if text.starts_with("OOM no_space")));
    println!("full: {} MiB of values", (u64::from(keys) * VALUE_SIZE as u64) >> 20);
    assert!(keys > 1000, "a gigabyte takes more than {keys} keys");
    assert_all_there(&mut connection, keys);
    assert_eq!(call(&mut connection, &["DEL", &key(0)]), Reply::Integer(1));
    assert!(node.stop().success());

    let node = Node::start(&folder.data(), &[]);
    let mut connection = node.connect();
    assert_eq!(call(&mut connection, &["GET", &key(0)]), Reply::Nil);
    for number in 1..keys {
        assert_eq!(call(&mut connection, &["DEL", &key(number)]), Reply::Integer(1), "{number}");
    }
    write_when_there_is_room(&mut connection, 0, &node);
    assert_all_there(&mut connection, BATCH);
}

/// Writes again and again until one is taken.
fn write_when_there_is_room(connection: &mut Connection, first: u32, node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    while write(connection, first) != Some(Reply::Simple("OK".into())) {
        assert!(Instant::now() < deadline, "no space came back:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_no_space(reply: Option<&Reply>) -> bool {
    matches!(reply, Some(Reply::Error(text)) if text.starts_with("OOM no_space"))
}

/// The device is full long before the grid reaches its limit.
#[test]
fn a_device_that_is_full_refuses_writes_and_recovers_after_deletes_and_when_it_has_room() {
    let Some(device) = Device::new(1 << 30) else { return };
    let dir = device.path().join("replica");
    let output = format(&dir, "1", "64GiB");
    assert!(output.status.success(), "{output:?}");
    let filler = device.fill_but(500 << 20);
    let mut node = Node::start(&dir, &[]);
    let mut connection = node.connect();
    let (keys, refused) = fill(&mut connection);
    assert!(is_no_space(refused.as_ref()), "{refused:?}\n{}", node.log());
    println!("full: {} MiB of values", (u64::from(keys) * VALUE_SIZE as u64) >> 20);
    assert!(keys > 1000, "half a gigabyte takes more than {keys} keys");
    assert_all_there(&mut connection, keys);

    // It stops and starts in order, full as it is.
    assert!(node.stop().success());
    let node = Node::start(&dir, &[]);
    let mut connection = node.connect();
    assert_all_there(&mut connection, keys);
    let (again, refused) = fill(&mut connection);
    assert!(is_no_space(refused.as_ref()), "{refused:?}\n{}", node.log());
    let keys = keys.max(again);

    // Deletes bring room within the file.
    for number in 0..keys {
        assert_eq!(call(&mut connection, &["DEL", &key(number)]), Reply::Integer(1), "{number}");
    }
    write_when_there_is_room(&mut connection, 0, &node);
    let (keys, refused) = fill(&mut connection);
    assert!(is_no_space(refused.as_ref()), "{refused:?}\n{}", node.log());
    assert!(keys > 100, "what was deleted is room for more than {keys} keys");

    // The device has room again.
    fs::remove_file(filler).unwrap();
    write_when_there_is_room(&mut connection, keys, &node);
    assert_all_there(&mut connection, keys + BATCH);
}
