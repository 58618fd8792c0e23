//! A cluster of three in the simulator of which one member's grid goes bad: its clients notice
//! nothing but time, what its log says is done, and the grid is then what it was.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::{Crash, NodeId, World};
use ioring::{Outbox, Stream};
use node::control::Question;
use node::metrics::Counter;
use node::server;
use node::status::CoreReport;
use support::{DIR, PORT, configuration, format_member, parts_and_asks, request};
use vsr::format::Configuration;

const PEERS_PORT: u16 = 7400;
const KEYS: usize = 600;
const BATCH: usize = 40;
/// What damage looks like.
const ROT: u8 = 0xA5;
/// The member whose grids go bad.
const SICK: usize = 1;
/// Types of blocks, and where the type stands in a block's header.
const OF_TABLES: [u8; 3] = [2, 3, 4];
const ALL_TYPES: [u8; 7] = [2, 3, 4, 5, 6, 7, 8];
const TYPE_OFFSET: usize = 72;

fn clustered() -> Configuration {
    Configuration { replica_count: 3, ..configuration() }
}

fn key(number: usize) -> String {
    format!("k{number:05}")
}

/// Sends requests that are answered with one line, or a bulk of one line; gives the answers.
async fn ask(stream: &Stream, requests: &[Vec<String>]) -> Vec<String> {
    let bytes: Vec<u8> = requests.iter().flat_map(|words| request(words)).collect();
    let (sent, _) = stream.send(bytes).await;
    sent.expect("the node takes requests");
    let mut text = String::new();
    loop {
        let mut lines = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n"));
        let mut answers = Vec::new();
        while let Some(line) = lines.next() {
            let bulk = line.starts_with('$') && line != "$-1\r\n";
            let Some(answer) = (if bulk { lines.next() } else { Some(line) }) else { break };
            answers.push(answer.trim_end().to_owned());
        }
        if answers.len() == requests.len() {
            return answers;
        }
        let received = ioring::timeout(Duration::from_secs(60), stream.recv()).await;
        let received = received.expect("in time").expect("the node answers");
        assert!(!received.is_empty(), "the node serves");
        text += std::str::from_utf8(&received).expect("replies are text");
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Asks the same of every key.
async fn ask_all(stream: &Stream, command: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for first in (0..KEYS).step_by(BATCH) {
        let batch: Vec<_> = (first..first + BATCH).map(|n| words(&[command, &key(n)])).collect();
        answers.extend(ask(stream, &batch).await);
    }
    answers
}

async fn connect(address: SocketAddr) -> Stream {
    loop {
        if let Ok(stream) = Stream::connect(address).await
            && ask(&stream, &[words(&["GET", "none"])]).await == ["$-1"]
        {
            return stream;
        }
        ioring::sleep(Duration::from_millis(5)).await;
    }
}

fn assert_raised(answers: &[String], by: usize) {
    for (key, answer) in answers.iter().enumerate() {
        assert_eq!(answer.trim_start_matches(':'), (key + by).to_string(), "key {key}");
    }
}

/// Gives every key its number, has that checkpointed, and writes some values of several blocks.
async fn fill(stream: Stream) {
    let value = "x".repeat(300);
    for first in (0..KEYS).step_by(BATCH) {
        let set = |number| words(&["SET", &key(number), &number.to_string()]);
        let batch: Vec<_> = (first..first + BATCH).map(set).collect();
        assert!(ask(&stream, &batch).await.iter().all(|answer| answer == "+OK"));
    }
    for number in 0..600 {
        let size = if number % 100 == 0 { 4000 } else { 300 };
        let value = value.repeat(size / 300);
        let set = words(&["SET", &format!("other{number}"), &value]);
        assert_eq!(ask(&stream, &[set]).await, ["+OK"]);
    }
}

struct Cluster {
    world: World,
    members: Vec<NodeId>,
    client: NodeId,
    cores: u16,
    asks: Vec<Vec<Outbox<Question>>>,
}

impl Cluster {
    fn new(cores: u16) -> Cluster {
        let mut world = World::new(5, SimConfig::default());
        let members: Vec<_> = (0..3).map(|n| world.add_node(&format!("member {n}"))).collect();
        let client = world.add_node("client");
        for (replica, node) in (0..).zip(&members) {
            let format = move || format_member(replica, clustered());
            world.run(*node, format).expect("formatting ends");
        }
        let asks = (0..3).map(|_| Vec::new()).collect();
        let mut cluster = Cluster { world, members, client, cores, asks };
        (0..3).for_each(|member| cluster.start(member));
        cluster
    }

    fn start(&mut self, member: usize) {
        let at = |node, port| SocketAddr::new(self.world.address(node), port).to_string();
        let peers: Vec<_> = self.members.iter().map(|node| at(*node, PEERS_PORT)).collect();
        let (listen, peers) = (peers[member].clone(), peers.join(","));
        let node = self.members[member];
        let resp = SocketAddr::new(self.world.address(node), PORT);
        let settings = [("listen", &*listen), ("peers", &*peers), ("scrub_cycle", "off")];
        let (parts, asks) = parts_and_asks(resp, self.cores, &settings);
        self.asks[member] = asks;
        self.world.start(node, parts, |part| async move {
            server::serve(part).await.expect("the node starts");
        });
    }

    /// Runs what a client of a member does.
    fn run<F, R>(&mut self, member: usize, client: impl FnOnce(Stream) -> F + 'static) -> R
    where
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        let address = SocketAddr::new(self.world.address(self.members[member]), PORT);
        let run = move || async move { client(connect(address).await).await };
        self.world.run(self.client, run).expect("the client is done")
    }

    fn reports(&mut self, member: usize) -> Vec<CoreReport> {
        let ask = |ask: &Outbox<Question>| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            assert!(ask.try_send(Question::Report(sender)).is_ok());
            receiver
        };
        let receivers: Vec<_> = self.asks[member].iter().map(ask).collect();
        let take = |mut receiver: tokio::sync::oneshot::Receiver<CoreReport>| {
            let mut report = None;
            self.world.run_until(|_| {
                report = receiver.try_recv().ok();
                report.is_some()
            });
            report.expect("the node answers")
        };
        receivers.into_iter().map(take).collect()
    }

    /// Has all of a member scrubbed; how many blocks were found corrupt, and repaired, so far.
    fn scrub(&mut self, member: usize) -> (u64, u64) {
        let cycles = |reports: &[CoreReport]| -> u64 {
            let shards = reports.iter().flat_map(|report| &report.shards);
            shards.map(|shard| shard.scrub.cycles).min().unwrap_or(0)
        };
        let before = cycles(&self.reports(member));
        for ask in &self.asks[member] {
            assert!(ask.try_send(Question::Scrub).is_ok());
        }
        loop {
            self.world.run_for(Duration::from_millis(100));
            let reports = self.reports(member);
            if cycles(&reports) > before {
                let shards = || reports.iter().flat_map(|report| &report.shards);
                let faults = shards().map(|shard| shard.scrub.faults).sum();
                return (faults, shards().map(|shard| shard.blocks_repaired).sum());
            }
        }
    }

    /// Damages the blocks of some types of a member's grids, whether anybody needs them or not;
    /// what they held: file, offset, bytes.
    fn damage(&mut self, member: usize, types: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let size = clustered().block_size as usize;
        let mut healthy = Vec::new();
        for shard in 0..clustered().shard_count {
            let file = format!("{DIR}/shard-{shard:04}.grid");
            let disk = &mut *self.world.disk(self.members[member]);
            let contents = disk.contents(Path::new(&file)).expect("there is a grid");
            for (number, block) in contents.chunks(size).enumerate().skip(1) {
                if types.contains(&block[TYPE_OFFSET]) {
                    let offset = number * size;
                    healthy.push((file.clone(), offset, block.to_vec()));
                    disk.overwrite(Path::new(&file), offset as u64, &vec![ROT; size])
                        .expect("the file is that long");
                }
            }
        }
        assert!(healthy.len() > 10, "hardly anything is in tables");
        healthy
    }

    /// Blocks that are still damaged, and blocks that are not what they were otherwise.
    fn damaged(&mut self, member: usize, healthy: &[(String, usize, Vec<u8>)]) -> (usize, usize) {
        let disk = self.world.disk(self.members[member]);
        let (mut damaged, mut others) = (0, 0);
        for (file, offset, bytes) in healthy {
            let contents = disk.contents(Path::new(file)).expect("there is a grid");
            let header = lsm::block::header(bytes).expect("it was healthy");
            // Behind a block's end nothing is ever read.
            let now = &contents[*offset..offset + header.size as usize];
            if now[..256].iter().all(|byte| *byte == ROT) {
                damaged += 1;
            } else {
                others += usize::from(now != &bytes[..now.len()]);
            }
        }
        (damaged, others)
    }

    fn heal(&mut self, member: usize, healthy: &[(String, usize, Vec<u8>)]) {
        let disk = &mut *self.world.disk(self.members[member]);
        for (file, offset, bytes) in healthy {
            disk.overwrite(Path::new(file), *offset as u64, bytes).expect("it is that long");
        }
    }
}

/// With three cores what is damaged is not on the core that has the connections to peers.
const CORES: [u16; 2] = [1, 3];

#[test]
fn reads_and_the_log_go_on_over_damaged_tables() {
    for cores in CORES {
        let mut cluster = Cluster::new(cores);
        cluster.run(0, fill);
        cluster.world.run_for(Duration::from_secs(3));
        // A restart, so that nothing of it is in memory.
        cluster.world.crash(cluster.members[SICK], Crash::Process);
        let healthy = cluster.damage(SICK, &OF_TABLES);
        cluster.start(SICK);
        // Another member is sick too: it has no copies to give.
        let too = cluster.damage(2, &OF_TABLES);
        cluster.run(SICK, |stream| async move {
            assert_raised(&ask_all(&stream, "GET").await, 0);
            // Passed on to the primary, and applied here too.
            assert_raised(&ask_all(&stream, "INCR").await, 1);
            assert_raised(&ask_all(&stream, "GET").await, 1);
        });
        cluster.world.run_for(Duration::from_secs(2));
        assert!(cluster.scrub(SICK).1 > 0);
        cluster.scrub(2);
        for member in [SICK, 2] {
            let (before, _) = cluster.scrub(member);
            assert_eq!(cluster.scrub(member).0, before, "member {member}: something is left");
            let reports = cluster.reports(member);
            let corrupt = |r: &CoreReport| r.metrics.get(Counter::Corrupt);
            assert_eq!(reports.iter().map(corrupt).sum::<u64>(), 0, "somebody was refused");
        }
        assert!(cluster.damaged(SICK, &healthy).0 < healthy.len());
        assert!(cluster.damaged(2, &too).0 < too.len());
        let served = cluster.reports(0)[0].metrics.get(Counter::BlocksServed);
        assert!(served > 0, "the healthy member gave nothing");
        for member in 0..3 {
            cluster.run(member, |stream| async move {
                assert_raised(&ask_all(&stream, "GET").await, 1);
            });
        }
    }
}

#[test]
fn a_scrub_repairs_all_that_a_restart_needs() {
    for cores in CORES {
        let mut cluster = Cluster::new(cores);
        cluster.run(0, fill);
        cluster.world.run_for(Duration::from_secs(3));
        let healthy = cluster.damage(SICK, &ALL_TYPES);
        let (faults, repaired) = cluster.scrub(SICK);
        assert!(faults > 10 && repaired >= faults, "{faults} found, {repaired} repaired");
        assert_eq!(cluster.scrub(SICK).0, faults, "something is left");
        // Nothing was written meanwhile.
        let (damaged, others) = cluster.damaged(SICK, &healthy);
        assert!(damaged < healthy.len() && others == 0, "{damaged}, {others}");
        cluster.world.crash(cluster.members[SICK], Crash::Process);
        cluster.start(SICK);
        cluster.run(SICK, |stream| async move {
            assert_raised(&ask_all(&stream, "GET").await, 0);
            assert_raised(&ask_all(&stream, "INCR").await, 1);
        });
        assert_eq!(cluster.scrub(SICK).0, 0);
    }
}

#[test]
fn what_nobody_has_is_refused_by_name_until_somebody_has_it() {
    let mut cluster = Cluster::new(1);
    cluster.run(0, fill);
    cluster.world.run_for(Duration::from_secs(3));
    cluster.world.crash(cluster.members[SICK], Crash::Process);
    let healthy: Vec<_> = (0..3).map(|member| cluster.damage(member, &OF_TABLES[..1])).collect();
    cluster.start(SICK);
    cluster.run(SICK, |stream| async move {
        let answers = ask(&stream, &[words(&["GET", &key(0)])]).await;
        assert!(answers[0].starts_with("-ERR corrupt_block"), "{answers:?}");
    });
    // The log waits for it, and is not another than elsewhere.
    cluster.run(0, |stream| async move {
        let set = words(&["SET", "after", "1"]);
        assert_eq!(ask(&stream, &[set]).await, ["+OK"]);
    });
    cluster.heal(0, &healthy[0]);
    cluster.run(SICK, |stream| async move {
        assert_raised(&ask_all(&stream, "GET").await, 0);
        assert_raised(&ask_all(&stream, "INCR").await, 1);
        assert_raised(&ask_all(&stream, "GET").await, 1);
    });
}
