//! A node of several cores, from outside: what one core does not have it gets from another, and
//! nobody can tell from the answers. Connections go to the cores with shards in turn, so that of as
//! many connections as there are cores each is on another.

#![expect(clippy::unwrap_used, reason = "a client of the test that gets no answer has failed")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use client::Reply;
use client::resp::push_request;
use ioring::sim::{Config, NodeId, Status, World};
use node::topology::Topology;
use sim::clients::Connection;
use sim::server::{self, Shape, Watch};
use wire::slot_of_key;

/// Shapes with more than one core.
const SHAPES: [Shape; 2] = [Shape::TWO, Shape::THREE];

/// A node under test, as its clients see it.
#[derive(Clone, Copy)]
struct Target {
    address: SocketAddr,
    topology: Topology,
}

impl Target {
    async fn connect(&self, count: usize) -> Vec<Connection> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(Connection::open(self.address).await);
        }
        connections
    }

    /// The core that has a key.
    fn core_of(&self, key: &str) -> u16 {
        self.topology.core_of(self.topology.shard_of(slot_of_key(key.as_bytes()))).0
    }

    /// So many keys of this name on each core with shards.
    fn keys(&self, name: &str, each: usize) -> Vec<String> {
        let mut keys = Vec::new();
        for core in self.topology.all_cores().filter(|core| self.topology.has_shards(*core)) {
            let all = (0..).map(|number| format!("{name}{number}"));
            keys.extend(all.filter(|key| self.core_of(key) == core.0).take(each));
        }
        keys
    }
}

/// Runs what clients do against a node of each shape, under several seeds; then the node stops.
fn against_nodes<F>(seeds: u64, clients: fn(Target) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for shape in SHAPES {
        for seed in 0..seeds {
            let mut world = World::new(seed, Config::default());
            let (host, other): (NodeId, NodeId) =
                (world.add_node("node"), world.add_node("clients"));
            world.run(host, server::format).unwrap().unwrap();
            let watch = Rc::new(Watch::default());
            let results = world.start(host, server::parts(shape, &watch), server::serve);
            let address = SocketAddr::new(world.address(host), server::PORT);
            let shards = server::configuration().shard_count;
            let topology = Topology::new(shape.cores, shards, Some(shape.dedicated));
            assert_eq!(topology.shard_cores(), 2);
            let done = world.run(other, move || clients(Target { address, topology }));
            assert!(done.is_ok(), "{shape:?}, seed {seed}: {done:?}");
            assert_eq!(*world.status(host), Status::Running, "{shape:?}, seed {seed}");
            watch.stop();
            world.run_until(|world| *world.status(host) != Status::Running);
            let results = results.take().map(node::server::outcome);
            assert!(matches!(results, Some(Ok(()))), "{shape:?}, seed {seed}: {results:?}");
        }
    }
}

async fn send(connection: &Connection, requests: &[Vec<String>]) {
    let mut bytes = Vec::new();
    for request in requests {
        push_request(&mut bytes, request);
    }
    connection.send(bytes).await.expect("the node takes requests");
}

async fn call(connection: &mut Connection, request: &[&str]) -> Reply {
    send(connection, &[request.iter().map(|word| (*word).to_owned()).collect()]).await;
    connection.receive().await.expect("the node answers")
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

fn command(name: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(rest).collect()
}

/// MSET of one value to all keys.
fn set_all(keys: &[String], value: u64) -> Vec<String> {
    command("MSET", keys.iter().flat_map(|key| [key.clone(), value.to_string()]))
}

type Clients = Vec<Pin<Box<dyn Future<Output = ()>>>>;

#[test]
fn what_was_written_over_one_core_is_seen_over_every_other() {
    against_nodes(3, |target| async move {
        let mut connections = target.connect(4).await;
        let keys = target.keys("key", 3);
        for round in 0..40 {
            for (number, key) in keys.iter().enumerate() {
                let value = round.to_string();
                let writer = &mut connections[(round + number) % 4];
                assert_eq!(call(writer, &["SET", key, &value]).await, ok());
                assert_eq!(call(writer, &["GET", key]).await, bulk(&value));
                let reader = &mut connections[(round + number + 1) % 4];
                assert_eq!(call(reader, &["GET", key]).await, bulk(&value));
            }
        }
    });
}

/// One client writes a rising number to keys of all cores at once; others read all of them at once.
/// What they see is one number, at least the last that was acknowledged before they asked.
async fn read_together(target: Target) {
    let keys = target.keys("together", 3);
    let (acknowledged, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let mut writer = target.connect(1).await.remove(0);
    send(&writer, &[set_all(&keys, 0)]).await;
    assert_eq!(writer.receive().await.unwrap(), ok());
    let mut clients: Clients = Vec::new();
    for mut reader in target.connect(4).await {
        let (keys, acknowledged, done) = (keys.clone(), acknowledged.clone(), done.clone());
        clients.push(Box::pin(async move {
            while !done.get() {
                let least: u64 = acknowledged.get();
                send(&reader, &[command("MGET", keys.clone())]).await;
                let Reply::Array(values) = reader.receive().await.unwrap() else { panic!() };
                assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
                let Reply::Bulk(text) = &values[0] else { panic!("{values:?}") };
                let seen: u64 = std::str::from_utf8(text).unwrap().parse().unwrap();
                assert!(seen >= least, "{seen} was read after {least} was acknowledged");
            }
        }));
    }
    clients.push(Box::pin(async move {
        for first in (1..400).step_by(4) {
            let batch: Vec<_> = (first..first + 4).map(|value| set_all(&keys, value)).collect();
            send(&writer, &batch).await;
            for value in first..first + 4 {
                assert_eq!(writer.receive().await.unwrap(), ok());
                acknowledged.set(value);
            }
        }
        done.set(true);
    }));
    ioring::join_all(clients).await;
}

#[test]
fn reads_of_keys_of_several_cores_are_never_torn() {
    against_nodes(3, read_together);
}

/// A lock out of MSETNX on keys of all cores: whoever gets it has it alone, and all of it.
async fn lock(target: Target) {
    let keys = target.keys("lock", 2);
    let holder = Rc::new(Cell::new(None));
    let won = Rc::new(Cell::new(0));
    let client = |name: u64, mut connection: Connection| {
        let (keys, holder, won) = (keys.clone(), holder.clone(), won.clone());
        Box::pin(async move {
            for _ in 0..60 {
                let mut request = set_all(&keys, name);
                request[0] = "MSETNX".to_owned();
                // Each begins with another key, and some ask twice at once.
                request[1..].rotate_left(2 * (name as usize % keys.len()));
                send(&connection, &[request, command("MGET", keys.clone())]).await;
                let got = connection.receive().await.unwrap();
                let seen = connection.receive().await.unwrap();
                let Reply::Array(values) = seen else { panic!("{seen:?}") };
                assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                if got == Reply::Integer(1) {
                    assert_eq!(holder.replace(Some(name)), None, "two have it");
                    assert_eq!(values[0], bulk(&name.to_string()));
                    won.set(won.get() + 1);
                    assert_eq!(holder.replace(None), Some(name));
                    send(&connection, &[command("DEL", keys.clone())]).await;
                    let deleted = connection.receive().await.unwrap();
                    assert_eq!(deleted, Reply::Integer(keys.len() as i64));
                } else {
                    assert_eq!(got, Reply::Integer(0));
                }
            }
        }) as Pin<Box<dyn Future<Output = ()>>>
    };
    let connections = target.connect(5).await;
    ioring::join_all((0..).zip(connections).map(|(name, c)| client(name, c))).await;
    assert!(won.get() >= 20, "{}", won.get());
}

#[test]
fn all_or_none_holds_over_cores() {
    against_nodes(3, lock);
}

/// One key of several is there: nothing of the request is done, whichever core has the one.
#[test]
fn one_key_that_exists_on_any_core_decides() {
    against_nodes(1, |target| async move {
        let mut connections = target.connect(2).await;
        let keys = target.keys("some", 1);
        for there in &keys {
            for connection in &mut connections {
                assert_eq!(call(connection, &["SET", there, "old"]).await, ok());
                let mut request = set_all(&keys, 1);
                request[0] = "MSETNX".to_owned();
                send(connection, &[request]).await;
                assert_eq!(connection.receive().await.unwrap(), Reply::Integer(0));
                let expected =
                    keys.iter().map(|key| if key == there { bulk("old") } else { Reply::Nil });
                send(connection, &[command("MGET", keys.clone())]).await;
                assert_eq!(connection.receive().await.unwrap(), Reply::Array(expected.collect()));
                assert_eq!(call(connection, &["DEL", there]).await, Reply::Integer(1));
            }
        }
    });
}

/// While one client writes and flushes, others see all of what is there or nothing.
async fn flush(target: Target) {
    let keys = target.keys("flushed", 4);
    let done = Rc::new(Cell::new(false));
    let mut writer = target.connect(1).await.remove(0);
    let mut clients: Clients = Vec::new();
    for mut reader in target.connect(3).await {
        let (keys, done) = (keys.clone(), done.clone());
        clients.push(Box::pin(async move {
            while !done.get() {
                send(&reader, &[command("MGET", keys.clone())]).await;
                let Reply::Array(values) = reader.receive().await.unwrap() else { panic!() };
                assert!(values.iter().all(|value| *value == values[0]), "half: {values:?}");
            }
        }));
    }
    clients.push(Box::pin(async move {
        let mut others = target.connect(2).await;
        for round in 0..40 {
            let flush = vec!["FLUSHALL".to_owned()];
            // Together with a write, so in one prepare, and alone.
            send(&writer, &[set_all(&keys, round), flush.clone(), set_all(&keys, round)]).await;
            for _ in 0..3 {
                assert_eq!(writer.receive().await.unwrap(), ok());
            }
            send(&writer, &[flush]).await;
            assert_eq!(writer.receive().await.unwrap(), ok());
            for other in &mut others {
                assert_eq!(call(other, &["DBSIZE"]).await, Reply::Integer(0));
            }
        }
        done.set(true);
    }));
    ioring::join_all(clients).await;
}

#[test]
fn a_flush_empties_all_cores_at_once() {
    against_nodes(3, flush);
}

fn words(reply: &Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { panic!("{reply:?}") };
    let word = |item: &Reply| match item {
        Reply::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    items.iter().map(word).collect()
}

#[test]
fn walks_go_over_all_cores() {
    against_nodes(1, |target| async move {
        let keys: BTreeSet<String> = target.keys("walk", 170).into_iter().collect();
        let mut connections = target.connect(4).await;
        for batch in keys.iter().cloned().collect::<Vec<_>>().chunks(20) {
            send(&connections[0], &[set_all(batch, 1)]).await;
            assert_eq!(connections[0].receive().await.unwrap(), ok());
        }
        for connection in &mut connections {
            assert_eq!(call(connection, &["DBSIZE"]).await, Reply::Integer(keys.len() as i64));
            let found = words(&call(connection, &["KEYS", "*"]).await);
            assert_eq!(found.len(), keys.len());
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
            let mut cores = BTreeSet::new();
            for _ in 0..60 {
                let Reply::Bulk(key) = call(connection, &["RANDOMKEY"]).await else { panic!() };
                let key = String::from_utf8(key).unwrap();
                assert!(keys.contains(&key));
                cores.insert(target.core_of(&key));
            }
            assert_eq!(cores.len(), 2, "random keys are of all cores");
        }
        // Each step over another connection.
        let (mut cursor, mut found, mut step) = ("0".to_owned(), Vec::new(), 0);
        loop {
            let reply = call(&mut connections[step % 3], &["SCAN", &cursor, "COUNT", "7"]).await;
            let Reply::Array(parts) = reply else { panic!("{reply:?}") };
            found.extend(words(&parts[1]));
            let Reply::Bulk(next) = &parts[0] else { panic!() };
            cursor = String::from_utf8(next.clone()).unwrap();
            step += 1;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(found.len(), keys.len(), "every key once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
        let unknown = call(&mut connections[0], &["SCAN", "12345677"]).await;
        assert!(matches!(unknown, Reply::Error(_)), "{unknown:?}");
    });
}

#[test]
fn connections_and_counters_of_all_cores_are_shown_on_each() {
    against_nodes(1, |target| async move {
        let mut connections = target.connect(5).await;
        let ids = Rc::new(RefCell::new(BTreeSet::new()));
        for connection in &mut connections {
            let Reply::Integer(id) = call(connection, &["CLIENT", "ID"]).await else { panic!() };
            assert!(ids.borrow_mut().insert(id), "{id} was given twice");
        }
        for connection in &mut connections {
            let Reply::Bulk(list) = call(connection, &["CLIENT", "LIST"]).await else { panic!() };
            let list = String::from_utf8(list).unwrap();
            assert_eq!(list.lines().count(), 5, "{list}");
            for id in ids.borrow().iter() {
                assert!(list.contains(&format!("id={id} ")), "{list}");
            }
            let Reply::Bulk(info) = call(connection, &["INFO"]).await else { panic!() };
            let info = String::from_utf8(info).unwrap();
            assert!(info.contains("connected_clients:5"), "{info}");
            let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let op: u64 = line("quorate_commit:").trim().parse().unwrap();
            assert!(op < 1000, "{op}");
        }
    });
}

/// Keys of all cores that expire are gone for good for everybody once anybody saw them gone.
#[test]
fn keys_expire_alike_over_all_cores() {
    against_nodes(2, |target| async move {
        let mut connections = target.connect(4).await;
        let keys = target.keys("fleeting", 3);
        for round in 0..8 {
            for key in &keys {
                let writer = &mut connections[round % 4];
                assert_eq!(call(writer, &["SET", key, "x", "PX", "40"]).await, ok());
            }
            ioring::sleep(Duration::from_millis(25 + 3 * round as u64)).await;
            for key in &keys {
                let first = call(&mut connections[(round + 1) % 4], &["GET", key]).await;
                let again = call(&mut connections[(round + 2) % 4], &["GET", key]).await;
                assert!(first == bulk("x") || again == Reply::Nil, "{key} came back");
            }
            ioring::sleep(Duration::from_millis(30)).await;
            send(&connections[0], &[command("MGET", keys.clone())]).await;
            let all = connections[0].receive().await.unwrap();
            assert_eq!(all, Reply::Array(vec![Reply::Nil; keys.len()]));
        }
    });
}

#[test]
fn large_values_come_from_other_cores() {
    against_nodes(1, |target| async move {
        let mut connections = target.connect(2).await;
        let keys = target.keys("large", 40);
        let limit = server::configuration().value_size_max as usize;
        let value = "v".repeat(limit.min(8000));
        for key in &keys {
            assert_eq!(call(&mut connections[0], &["SET", key, &value]).await, ok());
        }
        let many: Vec<String> = keys.iter().cycle().take(keys.len() * 10).cloned().collect();
        for connection in &mut connections {
            send(connection, &[command("MGET", many.clone())]).await;
            let all = connection.receive().await.unwrap();
            assert_eq!(all, Reply::Array(vec![bulk(&value); many.len()]));
        }
    });
}
