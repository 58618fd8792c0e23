//! A node in the simulator whose data does not fit memory: what waits for the grid, for log time
//! and for other prepares never waits for each other in a circle.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::{NodeId, Status, World};
use ioring::{Direct, Stream, lane};
use node::config::{Config, Layers};
use node::connection;
use node::core::clients::OpenCount;
use node::server::{self, Options, Part};
use node::status::PhaseCell;
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

const DIR: &str = "/data";
const PORT: u16 = 6400;
/// Keys of 600 bytes that stay: several times the cache.
const COLD: usize = 1500;

async fn format() {
    let configuration = Configuration {
        journal_segment_size: 256 << 10,
        journal_segment_count: 10,
        grid_size_max: 1 << 30,
        memtable_size: 8 << 10,
        ..Configuration::test_min()
    };
    let options = FormatOptions {
        shift_sectors_max: 4,
        ..FormatOptions::new(ClusterId(7), ReplicaId(0), configuration)
    };
    server::format_here(Path::new(DIR), &options, |_, _| ()).await.unwrap();
}

fn part(address: SocketAddr) -> Part {
    let mut layers = Layers::default();
    layers.set_flag("resp", address.to_string());
    layers.set_flag("insecure", "yes");
    layers.set_flag("cache", "256KiB");
    let (_ask, questions) = lane(1);
    Part {
        options: Options {
            dir: DIR.into(),
            config: Config::new(&layers).unwrap(),
            direct: Direct::Required,
            connections: connection::Limits::default(),
        },
        http: "127.0.0.1:1".parse().unwrap(),
        questions,
        phase: PhaseCell::default(),
        identity: Arc::new(OnceLock::new()),
        open: OpenCount::default(),
        serving: Box::new(|_| ()),
    }
}

fn request(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        let word = word.as_ref();
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

async fn send(stream: &Stream, bytes: Vec<u8>) {
    let (sent, _) = stream.send(bytes).await;
    sent.unwrap();
}

/// Receives `lines` lines, in time.
async fn receive(stream: &Stream, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    while bytes.iter().filter(|byte| **byte == b'\n').count() < lines {
        let received = ioring::timeout(Duration::from_secs(20), stream.recv()).await;
        let received = received.expect("the node answers").unwrap();
        assert!(!received.is_empty(), "the node serves");
        bytes.extend_from_slice(&received);
    }
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

/// Connects to a node that serves.
async fn connect(address: SocketAddr) -> Stream {
    loop {
        if let Ok(stream) = Stream::connect(address).await {
            send(&stream, request(&["GET", "none"])).await;
            if receive(&stream, 1).await == ["$-1"] {
                return stream;
            }
        }
        ioring::sleep(Duration::from_millis(5)).await;
    }
}

fn cold(index: usize) -> String {
    format!("cold{}", index % COLD)
}

/// Writes the keys that stay.
async fn fill(stream: &Stream) {
    let value = "1".repeat(600);
    for first in (0..COLD).step_by(10) {
        let batch = (first..first + 10).flat_map(|key| request(&["SET", &cold(key), &value]));
        send(stream, batch.collect()).await;
        assert!(receive(stream, 10).await.iter().all(|reply| reply == "+OK"));
    }
}

/// Runs what a client does against a node that is up.
fn against_node<F>(seed: u64, client: fn(SocketAddr) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let mut world = World::new(seed, SimConfig::default());
    let (server, other): (NodeId, NodeId) = (world.add_node("server"), world.add_node("client"));
    world.run(server, format).unwrap();
    let address = SocketAddr::new(world.address(server), PORT);
    world.start(server, vec![part(address)], |part| async move {
        server::serve(part).await.unwrap();
    });
    let done = world.run(other, move || client(address));
    assert_eq!(*world.status(server), Status::Running);
    done.unwrap();
}

/// A prepare whose write needs the grid is in the log, before anything that passes the deadline of
/// many keys, when all of these are asked for at once.
async fn read_what_expires(address: SocketAddr) {
    let (reads, writes) = (connect(address).await, connect(address).await);
    fill(&writes).await;
    let keys: Vec<String> = (0..200).map(|key| format!("due{key}")).collect();
    for round in 0..20 {
        let batch = keys.iter().flat_map(|key| request(&["SET", key, "x", "PX", "500"]));
        send(&writes, batch.collect()).await;
        receive(&writes, keys.len()).await;
        ioring::sleep(Duration::from_millis(500)).await;
        let mget = [&["MGET".to_owned()][..], &keys].concat();
        send(&writes, request(&["APPEND", &cold(round * 71), "2"])).await;
        send(&reads, request(&mget)).await;
        assert_eq!(receive(&reads, 1 + keys.len()).await[1..], vec!["$-1"; keys.len()]);
        receive(&writes, 1).await;
    }
}

#[test]
fn reads_that_wait_for_log_time_leave_the_applier_its_look_ups() {
    for seed in 0..3 {
        against_node(seed, read_what_expires);
    }
}

/// Many clients change cold keys at once: prepares wait for the grid while groups end.
async fn change_cold_keys(address: SocketAddr) {
    let first = connect(address).await;
    fill(&first).await;
    let client = |number: usize| async move {
        let stream = connect(address).await;
        for round in 0..150 {
            send(&stream, request(&["APPEND", &cold(round * 97 + number * 13), "2"])).await;
            receive(&stream, 1).await;
        }
    };
    ioring::join_all((0..6).map(client)).await;
}

#[test]
fn a_group_ends_while_the_next_prepare_waits_for_the_grid() {
    for seed in 0..3 {
        against_node(seed, change_cold_keys);
    }
}
