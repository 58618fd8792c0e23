//! How long a node needs to serve again after `kill -9`, with as much to replay as there can be.
//!
//! The short form shows that it works. The long form fills a journal of 256 MiB several times over,
//! kills the node at another place between two checkpoints each time, and holds an optimised build
//! to a second:
//!
//!     QUORATE_TEST_FULL=1 cargo test --release -p quorate --test restart -- --nocapture

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::time::{Duration, Instant};

use client::{Connection, Reply};
use support::{Folder, Node, call, quorate};

const VALUE_SIZE: usize = 1000;
/// Keys written by one command, and commands under way.
const BATCH: u64 = 50;
const DEPTH: u64 = 8;
const KEYS: u64 = 1_000_000;

fn value(number: u64) -> String {
    format!("{number:.<VALUE_SIZE$}")
}

fn key(number: u64) -> String {
    format!("key{}", number % KEYS)
}

/// Writes so many bytes of values from a number on; the next number.
fn write(connection: &mut Connection, first: u64, bytes: u64) -> u64 {
    let commands = (bytes / VALUE_SIZE as u64).div_ceil(BATCH);
    let ok = Reply::Simple("OK".into());
    for command in 0..commands {
        let mut words = vec!["MSET".to_owned()];
        let start = first + command * BATCH;
        (start..start + BATCH).for_each(|number| words.extend([key(number), value(number)]));
        connection.send(&words);
        if command >= DEPTH {
            assert_eq!(connection.receive().unwrap(), ok);
        }
    }
    for _ in 0..commands.min(DEPTH) {
        assert_eq!(connection.receive().unwrap(), ok);
    }
    first + commands * BATCH
}

/// What the node said of its replay: ops and time.
fn replayed(node: &Node) -> String {
    let log = node.log();
    let line = log.lines().find(|line| line.contains("journal replayed"));
    let line = line.unwrap_or_else(|| panic!("nothing is said of a replay:\n{log}"));
    line.split("journal replayed").nth(1).unwrap().trim().to_owned()
}

#[test]
fn a_node_with_a_full_journal_serves_soon_after_a_kill() {
    let full = std::env::var_os("QUORATE_TEST_FULL").is_some();
    let (size, mib, rounds) = if full { ("256MiB", 256_u64, 12) } else { ("64MiB", 64, 2) };
    let limit = Duration::from_secs(if full && !cfg!(debug_assertions) { 1 } else { 30 });
    let folder = Folder::new();
    let identity = ["format", "--cluster", "1", "--replica", "0", "--replicas", "1"];
    let sizes = ["--shards", "2", "--journal-size", size];
    let format = quorate().args(identity).args(sizes).arg("--dir").arg(folder.data()).output();
    assert!(format.unwrap().status.success());
    let mut node = Node::start(&folder.data(), &[]);
    let (mut next, mut longest) = (0, Duration::ZERO);
    println!("journal of {size}, values of {VALUE_SIZE} bytes in commands of {BATCH} keys");
    for round in 0..rounds {
        // The first round fills the journal; the others move on by a part of it.
        let bytes = if round == 0 { mib } else { mib / 16 + 3 } << 20;
        next = write(&mut node.connect(), next, bytes);
        node.kill();
        let started = Instant::now();
        node = Node::start(&folder.data(), &[]);
        let elapsed = started.elapsed();
        longest = longest.max(elapsed);
        println!("round {round:>2}: serving after {elapsed:?}; replayed {}", replayed(&node));
        let mut connection = node.connect();
        for number in next - BATCH..next {
            let found = call(&mut connection, &["GET", &key(number)]);
            assert!(found == Reply::Bulk(value(number).into_bytes()), "{}", key(number));
        }
    }
    println!("longest: {longest:?}");
    assert!(longest < limit, "{longest:?} until the node served");
}
