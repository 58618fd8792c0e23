//! A node in the simulator whose data does not fit memory: what waits for the grid, for log time
//! and for other prepares never waits for each other in a circle, reads of several keys see one
//! state however long they take, and the node can be stopped at any moment.

mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::{NodeId, Status, World};
use ioring::{Outbox, Queue, Stream};
use node::control::Question;
use node::server;
use support::{PORT, format, parts, request};

/// Keys of 600 bytes that stay: several times the cache.
const COLD: usize = 1500;

async fn send(stream: &Stream, bytes: Vec<u8>) {
    let (sent, _) = stream.send(bytes).await;
    sent.expect("the node takes requests");
}

/// Receives `lines` lines, in time.
async fn receive(stream: &Stream, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    while bytes.iter().filter(|byte| **byte == b'\n').count() < lines {
        let received = ioring::timeout(Duration::from_secs(20), stream.recv()).await;
        let received = received.expect("in time").expect("the node answers");
        assert!(!received.is_empty(), "the node serves");
        bytes.extend_from_slice(&received);
    }
    String::from_utf8(bytes).expect("replies are text").lines().map(str::to_owned).collect()
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
fn against_node<F>(seed: u64, cores: u16, client: fn(SocketAddr) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let mut world = World::new(seed, SimConfig::default());
    let (server, other): (NodeId, NodeId) = (world.add_node("server"), world.add_node("client"));
    world.run(server, format).expect("formatting ends");
    let address = SocketAddr::new(world.address(server), PORT);
    let (parts, _ask) = parts(address, cores);
    world.start(server, parts, |part| async move {
        server::serve(part).await.expect("the node starts");
    });
    let done = world.run(other, move || client(address));
    assert_eq!(*world.status(server), Status::Running);
    done.expect("the client is done");
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
        against_node(seed, 1 + seed as u16, read_what_expires);
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
        against_node(seed, 1 + seed as u16, change_cold_keys);
    }
}

/// Prepares whose operations need more than may be fetched ahead of them.
async fn change_many_cold_keys(address: SocketAddr) {
    let stream = connect(address).await;
    fill(&stream).await;
    for round in 0..10 {
        // Needs the value, and costs nothing of what a prepare may cost beyond its requests.
        let increment = |key: usize| request(&["INCR", &cold(round * 100 + key)]);
        send(&stream, (0..100).flat_map(increment).collect()).await;
        let replies = receive(&stream, 100).await;
        assert!(replies.iter().all(|reply| reply.starts_with("-ERR value")), "{replies:?}");
    }
}

#[test]
fn a_prepare_that_needs_more_than_is_fetched_at_once_goes_on() {
    for cores in [1, 2] {
        against_node(0, cores, change_many_cold_keys);
    }
}

/// Reads several keys: which of them there are.
async fn read_many(stream: &Stream, keys: &[String]) -> Vec<bool> {
    let mget = [&["MGET".to_owned()][..], keys].concat();
    send(stream, request(&mget)).await;
    let mut text = String::new();
    loop {
        let received = stream.recv().await.expect("the node answers");
        assert!(!received.is_empty(), "the node serves");
        text += std::str::from_utf8(&received).expect("replies are text");
        if text.starts_with("-TRYAGAIN snapshot_too_old") {
            // Writes overtook it as often as it may begin again: it is asked anew.
            text.clear();
            send(stream, request(&mget)).await;
            continue;
        }
        let mut lines = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n")).skip(1);
        let mut there = Vec::new();
        while let Some(line) = lines.next() {
            let found = line != "$-1\r\n";
            if !found || lines.next().is_some() {
                there.push(found);
            }
        }
        if there.len() == keys.len() {
            return there;
        }
    }
}

/// Keys whose reading takes longer than several bars, between two others.
fn between(first: &str, last: &str) -> Vec<String> {
    let keys = [first.to_owned()].into_iter().chain((0..2 * COLD).map(cold));
    keys.chain([last.to_owned()]).collect()
}

/// While many keys are read, the last of them is set again and again.
async fn read_what_is_superseded(address: SocketAddr) {
    let (reads, writes) = (connect(address).await, connect(address).await);
    fill(&writes).await;
    let stop = Rc::new(Cell::new(false));
    for _ in 0..4 {
        let stop = stop.clone();
        let write = async move {
            let stream = connect(address).await;
            let hot = request(&["SET", "hot", &"2".repeat(600)]).repeat(20);
            while !stop.get() {
                send(&stream, hot.clone()).await;
                receive(&stream, 20).await;
            }
        };
        ioring::spawn(Queue::Foreground, "writes", write).detach();
    }
    ioring::sleep(Duration::from_millis(5)).await;
    for _ in 0..3 {
        let there = read_many(&reads, &between("hot", "hot")).await;
        assert!(there.iter().all(|there| *there), "a key that was always there was not found");
    }
    stop.set(true);
}

#[test]
fn a_read_of_many_keys_that_outlasts_its_version_begins_again() {
    for cores in [1, 2, 3] {
        against_node(0, cores, read_what_is_superseded);
    }
}

/// While many keys are read, all keys are flushed.
async fn read_what_is_flushed(address: SocketAddr) {
    let (reads, writes) = (connect(address).await, connect(address).await);
    for round in 0..6 {
        fill(&writes).await;
        send(&writes, request(&["MSET", "first", "1", "last", "1"])).await;
        receive(&writes, 1).await;
        let flush = async {
            ioring::sleep(Duration::from_micros(300 * round)).await;
            send(&writes, request(&["FLUSHALL"])).await;
            receive(&writes, 1).await;
        };
        let read = async {
            let there = read_many(&reads, &between("first", "last")).await;
            assert!(there.iter().all(|key| *key == there[0]), "half of what was flushed is there");
        };
        let both = [Box::pin(flush) as Pin<Box<dyn Future<Output = ()>>>, Box::pin(read)];
        ioring::join_all(both).await;
    }
}

#[test]
fn a_read_of_many_keys_sees_all_of_a_flush_or_nothing() {
    for cores in [1, 2, 3] {
        against_node(0, cores, read_what_is_flushed);
    }
}

/// Writes to a node from within, and asks it to stop after a while.
async fn write_and_stop(address: SocketAddr, ask: Outbox<Question>, pause: Duration) {
    let stream = connect(address).await;
    fill(&stream).await;
    ioring::sleep(pause).await;
    assert!(ask.try_send(Question::Stop).is_ok());
    std::future::pending::<()>().await;
}

#[test]
fn a_node_stops_cleanly_at_any_moment() {
    for step in 0..20 {
        let mut world = World::new(step, SimConfig::default());
        let server = world.add_node("server");
        world.run(server, format).expect("formatting ends");
        let address = SocketAddr::new(world.address(server), PORT);
        // Around the moment at which an idle log gets its first pulse.
        let pause = Duration::from_micros(16_000 + 300 * step);
        let (parts, ask) = parts(address, 1 + step as u16 % 3);
        let ask = Rc::new(Cell::new(Some(ask)));
        let results = world.start(server, parts, move |part| {
            let ask = if part.is_first() { ask.take() } else { None };
            async move {
                if let Some(ask) = ask {
                    let load = write_and_stop(address, ask, pause);
                    ioring::spawn(Queue::Foreground, "load", load).detach();
                }
                server::serve(part).await
            }
        });
        assert!(world.run_until(|world| *world.status(server) != Status::Running));
        assert_eq!(*world.status(server), Status::Finished);
        for result in results.take().expect("all cores returned") {
            result.expect("the node starts and stops");
        }
    }
}
