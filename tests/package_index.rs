//! The main job on data that nobody here made: the package index of the Debian distribution.
//!
//! 1. `apt-cache dumpavail` gives the index; each field of each package becomes a key
//!    `package:field`.
//! 2. The keys are loaded by `redis-cli --pipe`, some packages at a time, so that it is known which
//!    were acknowledged, while `redis-benchmark` loads the same node with SET, GET, INCR and MSET
//!    from 50 connections, at depth 1 and then 16.
//! 3. Half way through, `kill -9`. Start again; every key of every acknowledged batch must be
//!    there, byte for byte; a key of the batch that was cut off is there wholly or not at all.
//! 4. The rest is loaded, and everything compared once more.
//!
//! A slice of the index by default; all of it with `QUORATE_TEST_FULL=1`. Skips, loudly, where the
//! index or the clients are missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "the output is the evidence")]

mod support;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use client::resp::push_request;
use client::{Connection, Reply};
use support::{Folder, Node};

/// Packages of the short form.
const PACKAGES_SHORT: usize = 1_500;
/// Batches that the index is loaded in.
const BATCHES: usize = 30;

/// Keys and values of some packages.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The index as key-value pairs, package by package.
fn index() -> Option<Vec<Fields>> {
    let output = Command::new("apt-cache").arg("dumpavail").output().ok()?;
    let text = output.stdout;
    let mut packages = Vec::new();
    let stanzas = text.split(|byte| *byte == b'\n').collect::<Vec<_>>();
    for stanza in stanzas.split(|line| line.is_empty()).filter(|stanza| !stanza.is_empty()) {
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for line in stanza {
            let continued = line.first().is_some_and(|byte| byte.is_ascii_whitespace());
            match (continued, fields.last_mut()) {
                (true, Some((_, value))) => {
                    value.push(b'\n');
                    value.extend_from_slice(line);
                }
                _ => {
                    let colon = line.iter().position(|byte| *byte == b':')?;
                    let value = line[colon + 1..].trim_ascii_start();
                    fields.push((line[..colon].to_vec(), value.to_vec()));
                }
            }
        }
        let name = fields.iter().find(|(field, _)| field == b"Package")?.1.clone();
        let keyed = fields
            .into_iter()
            .map(|(field, value)| ([name.as_slice(), b":", &field].concat(), value));
        packages.push(keyed.collect());
    }
    // One package may stand in the index more than once; the last stays, as for any overwrite.
    (packages.len() > PACKAGES_SHORT).then_some(packages)
}

fn port(node: &Node) -> &str {
    node.resp.rsplit(':').next().unwrap()
}

/// Loads a batch with `redis-cli --pipe`; whether all of it was acknowledged.
fn load(node: &Node, batch: &[Fields]) -> bool {
    let mut requests = Vec::new();
    let mut count = 0;
    for (key, value) in batch.iter().flatten() {
        push_request(&mut requests, &[b"SET", key.as_slice(), value]);
        count += 1;
    }
    let mut cli = Command::new("redis-cli")
        .args(["-p", port(node), "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = cli.stdin.take().unwrap();
    let feeding = thread::spawn(move || drop(input.write_all(&requests)));
    let output = cli.wait_with_output().unwrap();
    feeding.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.contains(&format!("errors: 0, replies: {count}"))
}

fn benchmark(node: &Node, depth: &str) -> Child {
    Command::new("redis-benchmark")
        .args(["-p", port(node), "-t", "set,get,incr,mset", "-c", "50", "-P", depth])
        .args(["-n", "100000000", "-r", "100000", "-q"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Compares every key of `packages` with what the node has. With `may_miss`, keys may be absent.
fn compare(connection: &mut Connection, packages: &[Fields], may_miss: bool) -> u64 {
    let mut found = 0;
    for chunk in packages.chunks(64) {
        let fields = || chunk.iter().flatten();
        fields().for_each(|(key, _)| connection.send(&[b"GET", key.as_slice()]));
        for (key, value) in fields() {
            match connection.receive().unwrap() {
                Reply::Bulk(read) => {
                    assert!(read == *value, "{} differs", key.escape_ascii());
                    found += 1;
                }
                Reply::Nil if may_miss => {}
                other => panic!("{}: {other:?}", key.escape_ascii()),
            }
        }
    }
    found
}

#[test]
fn the_debian_package_index_survives_kill_9_byte_for_byte() {
    let full = std::env::var_os("QUORATE_TEST_FULL").is_some();
    let clients = Command::new("redis-benchmark").arg("--version").stdout(Stdio::null()).status();
    let (Some(mut packages), Ok(_)) = (index(), clients) else {
        println!("SKIPPED: no package index (apt-get update) or no redis-tools here");
        return;
    };
    if !full {
        packages.truncate(PACKAGES_SHORT);
    }
    // Later duplicates overwrite earlier ones: only the last of a name is kept to compare with.
    let mut last = std::collections::BTreeMap::new();
    packages.into_iter().for_each(|fields| drop(last.insert(fields[0].0.clone(), fields)));
    let packages: Vec<Fields> = last.into_values().collect();
    let batches: Vec<&[Fields]> = packages.chunks(packages.len().div_ceil(BATCHES)).collect();
    let keys: usize = packages.iter().map(Vec::len).sum();
    println!("{} packages, {keys} keys", packages.len());

    let folder = Folder::new();
    let acknowledged = load_and_kill(&folder, &batches);
    let restarted = Instant::now();
    let node = Node::start(&folder.data(), &[]);
    println!("serving again after {} ms", restarted.elapsed().as_millis());
    let mut connection = node.connect();
    let mut found = 0;
    for batch in &batches[..acknowledged] {
        found += compare(&mut connection, batch, false);
    }
    println!("{found} acknowledged keys compared byte for byte: all there");
    let cut = compare(&mut connection, batches[acknowledged], true);
    println!("{cut} keys of the batch that was cut off are there, and whole");

    for batch in &batches[acknowledged..] {
        assert!(load(&node, batch), "a batch was refused:\n{}", node.log());
    }
    let all = compare(&mut connection, &packages, false);
    assert_eq!(all as usize, keys);
    println!("{all} keys compared byte for byte after loading the rest: all there");
}

/// Loads batches under load from benchmarks until the node is killed half way; how many were
/// acknowledged.
fn load_and_kill(folder: &Folder, batches: &[&[Fields]]) -> usize {
    let node = Node::start(&folder.data(), &[]);
    let pid = node.pid();
    let (half, halfway) = mpsc::channel();
    thread::scope(|scope| {
        let killer = scope.spawn(move || {
            halfway.recv().unwrap();
            // Into the middle of a batch.
            thread::sleep(Duration::from_millis(15));
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            assert!(killed.success());
        });
        let mut acknowledged = 0;
        let mut generator = benchmark(&node, "1");
        for (number, batch) in batches.iter().enumerate() {
            if number == batches.len() / 4 {
                generator.kill().unwrap();
                generator.wait().unwrap();
                generator = benchmark(&node, "16");
            }
            if number == batches.len() / 2 {
                half.send(()).unwrap();
            }
            if !load(&node, batch) {
                break;
            }
            acknowledged += 1;
        }
        generator.kill().unwrap();
        generator.wait().unwrap();
        killer.join().unwrap();
        assert!(acknowledged < batches.len(), "the kill came too late");
        println!("killed with {acknowledged} of {} batches acknowledged", batches.len());
        acknowledged
    })
}
