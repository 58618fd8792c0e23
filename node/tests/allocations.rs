//! GET and SET of 100 bytes allocate nothing in the steady state, from socket to socket, whichever
//! of a node's cores have the connection, the key and the log.
//!
//! A whole node runs in this process; a raw socket on the test's thread sends requests that were
//! encoded before and reads into a buffer that is there already, so whatever is allocated, the node
//! has allocated.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;

use ioring::Direct;
use node::config::{Config, Layers};
use node::connection;
use node::server::{self, Options};
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

#[path = "../../tests/support/counting.rs"]
mod counting;

/// A node on so many cores, with a connection on each.
fn start(dir: &Path, cores: usize) -> Vec<TcpStream> {
    let configuration =
        Configuration { shard_count: 2, ..Configuration::default() }.with_journal_size(64 << 20);
    let options = FormatOptions {
        direct: Direct::Preferred,
        ..FormatOptions::new(ClusterId(1), ReplicaId(0), configuration)
    };
    server::format(dir, &options, |_, _| ()).expect("an empty directory is formatted");
    let mut layers = Layers::default();
    for (name, text) in [("resp", "127.0.0.1:0"), ("http", "127.0.0.1:0"), ("lock_memory", "no")] {
        layers.set_flag(name, text);
    }
    layers.set_flag("cores", cores.to_string());
    let options = Options {
        dir: dir.to_owned(),
        config: Config::new(&layers).expect("the settings are valid"),
        direct: Direct::Preferred,
        connections: connection::Limits::default(),
    };
    let (serving, served) = mpsc::channel();
    // The node ends with the process.
    std::thread::spawn(move || {
        server::run(options, move |at| serving.send(at.resp).expect("the test waits"))
    });
    let address = served.recv().expect("the node serves");
    let connect = |_| {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("it is a socket");
        stream
    };
    (0..cores).map(connect).collect()
}

/// Sends the same bytes again and again, each time awaiting the whole answer; allocations per
/// round, in thousandths.
fn allocations(stream: &mut &TcpStream, request: &[u8], reply_len: usize, rounds: u64) -> u64 {
    let mut reply = vec![0; reply_len];
    let mut run = |rounds: u64| {
        for _ in 0..rounds {
            stream.write_all(request).expect("the node takes requests");
            stream.read_exact(&mut reply).expect("the node answers");
        }
    };
    run(500);
    let before = counting::in_all();
    run(rounds);
    (counting::in_all() - before) * 1000 / rounds
}

fn measure(cores: usize) {
    let folder = tempfile::tempdir().expect("there is a place for it");
    let streams = start(&folder.path().join("data"), cores);
    let value = "v".repeat(100);
    // Of different shards.
    for (mut stream, key) in streams.iter().flat_map(|stream| [(stream, "key"), (stream, "bar")]) {
        let set = format!("*3\r\n$3\r\nSET\r\n$3\r\n{key}\r\n$100\r\n{value}\r\n");
        let get = format!("*2\r\n$3\r\nGET\r\n$3\r\n{key}\r\n").into_bytes();
        let (ok, found) = (5, format!("$100\r\n{value}\r\n").len());
        for depth in [1, 16] {
            let set = set.repeat(depth).into_bytes();
            let sets = allocations(&mut stream, &set, depth * ok, 1000);
            let gets = allocations(&mut stream, &get.repeat(depth), depth * found, 1000);
            // Markers of an idle journal and bars may allocate now and then; requests may not.
            let what = format!("allocations in a thousand rounds; {cores} cores, depth {depth}");
            assert!(sets < 500, "SET {key}: {sets} {what}");
            assert!(gets < 500, "GET {key}: {gets} {what}");
        }
    }
}

#[test]
fn get_and_set_allocate_nothing_in_the_steady_state() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    assert_ne!(shard("key"), shard("bar"));
    for cores in 1..=processors.min(2) {
        measure(cores);
    }
}

/// Which of two shards has a key.
fn shard(key: &str) -> u16 {
    wire::slot_of_key(key.as_bytes()).0 / (wire::SLOT_COUNT / 2)
}
