//! A node of eight shards of which one takes all the traffic: every key has the same `{tag}`.
//!
//! Bars end on all shards together, so the hot shard decides when, and the cold ones have to end
//! theirs with nothing written. What is asked of the node, all the while clients write:
//!
//! 1. bars go on ending, and all shards have ended as many;
//! 2. what a bar's merges owe stays within what applying waits for, on every shard (the simulated
//!    disk is quick, so that waiting is rarely what keeps it there);
//! 3. when the clients are done, all debt is paid, and the node then adds nothing to its log;
//! 4. a scrub that begins anew several times a second finds nothing corrupt: there is nothing.

#![expect(clippy::unwrap_used, reason = "a client of the test that gets no answer has failed")]

mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::World;
use ioring::{Outbox, Queue, Stream};
use node::control::Question;
use node::metrics::Counter;
use node::server;
use node::status::CoreReport;
use support::{PORT, configuration, format_as, parts_with, request};
use tokio::sync::oneshot;
use vsr::format::Configuration;

const SHARDS: u16 = 8;
/// Keys of the hot shard, and batches that are written to them.
const KEYS: u64 = 400;
const BATCHES: u64 = 250;
const BATCH: u64 = 20;
/// Bars that this must end at least.
const BARS_MIN: u64 = 40;

/// What the node says of itself, over and over.
#[derive(Default)]
struct Seen {
    reports: Cell<u64>,
    last: RefCell<Option<CoreReport>>,
}

/// Debt that applying goes on with, for so much work, and what a beat may add before it waits.
fn debt_max(report: &lsm::forest::Stats) -> u64 {
    report.work / 8 + 4 + report.beat_blocks_max
}

/// Checks every report there is.
async fn watch(ask: Outbox<Question>, seen: Rc<Seen>) {
    loop {
        let (answer, report) = oneshot::channel();
        ask.send(Question::Report(answer)).await.unwrap();
        let report = report.await.unwrap();
        let bars: Vec<u64> = report.shards.iter().map(|shard| shard.compaction.bars).collect();
        let (least, most) = (*bars.iter().min().unwrap(), *bars.iter().max().unwrap());
        assert!(
            most - least <= 1,
            "shards are apart by more than the bar that is ending: {bars:?}"
        );
        for shard in &report.shards {
            let stats = &shard.compaction;
            assert!(stats.debt <= debt_max(stats), "shard {}: {stats:?}", shard.shard);
        }
        assert_eq!(report.metrics.get(Counter::ScrubFaults), 0, "there is nothing to be found");
        seen.last.replace(Some(report));
        seen.reports.set(seen.reports.get() + 1);
        ioring::sleep(Duration::from_micros(500)).await;
    }
}

async fn send(stream: &Stream, bytes: Vec<u8>, replies: usize) {
    stream.send(bytes).await.0.unwrap();
    let mut lines = 0;
    while lines < replies {
        let received = stream.recv().await.unwrap();
        assert!(!received.is_empty(), "the node serves");
        assert!(!received.contains(&b'-'), "{}", String::from_utf8_lossy(&received));
        lines += received.iter().filter(|byte| **byte == b'\n').count();
    }
}

async fn load(address: SocketAddr, seen: Rc<Seen>) {
    while seen.last.borrow().is_none() {
        ioring::sleep(Duration::from_millis(5)).await;
    }
    let stream = Stream::connect(address).await.unwrap();
    for batch in 0..BATCHES {
        let requests = (0..BATCH).flat_map(|number| {
            // Prime to the number of keys, so that all of them come up before one comes again.
            let key = (batch * BATCH + number) * 7 % KEYS;
            let value = "x".repeat(100 + (key as usize * 37) % 300);
            request(&["SET", &format!("{{hot}}{key}"), &value])
        });
        send(&stream, requests.collect(), BATCH as usize).await;
    }
    // Nobody asks for anything any more.
    let op = || seen.last.borrow().as_ref().unwrap().replica.as_ref().unwrap().op;
    let mut before = 0;
    for _ in 0..400 {
        if op() == before {
            return;
        }
        before = op();
        ioring::sleep(Duration::from_secs(1)).await;
    }
    panic!("the log goes on without anybody writing: op {}", op());
}

#[test]
fn one_hot_shard_keeps_all_bars_ending_and_every_debt_bounded() {
    let mut world = World::new(5, SimConfig::default());
    let (host, client) = (world.add_node("node"), world.add_node("client"));
    let all = Configuration { shard_count: SHARDS, ..configuration() };
    world.run(host, move || format_as(all)).unwrap();
    let address = SocketAddr::new(world.address(host), PORT);
    let seen = Rc::new(Seen::default());
    let (parts, ask) = parts_with(address, 1, &[("scrub_cycle", "200ms")]);
    let watched = Rc::new(Cell::new(Some((ask, seen.clone()))));
    let _serves = world.start(host, parts, move |part| {
        let (ask, seen) = watched.take().unwrap();
        async move {
            ioring::spawn(Queue::Background, "watch", watch(ask, seen)).detach();
            server::serve(part).await.unwrap();
        }
    });
    let done = seen.clone();
    world.run(client, move || load(address, done)).unwrap();

    let last = seen.last.borrow();
    let last = last.as_ref().unwrap();
    assert_eq!(last.shards.len(), usize::from(SHARDS));
    assert!(seen.reports.get() > 500, "{} reports", seen.reports.get());
    assert!(last.metrics.get(Counter::ScrubCycles) > 2 * u64::from(SHARDS));
    let written: Vec<u64> = last.shards.iter().map(|shard| shard.compaction.flushes).collect();
    assert_eq!(written.iter().filter(|flushes| **flushes > 0).count(), 1, "{written:?}");
    for shard in &last.shards {
        let stats = &shard.compaction;
        assert!(stats.bars >= BARS_MIN, "shard {}: {stats:?}", shard.shard);
        assert_eq!(stats.debt, 0, "shard {}: {stats:?}", shard.shard);
        assert_eq!(shard.scrub.faults, 0);
    }
}
