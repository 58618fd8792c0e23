//! A node of eight shards of which one takes all the traffic: every key has the same `{tag}`. It
//! has one core, or three of which one has the replica and no shards.
//!
//! Bars end on all shards together, so the hot shard decides when, and the cold ones have to end
//! theirs with nothing written. What is asked of the node, all the while clients write:
//!
//! 1. bars go on ending, and all shards have ended as many;
//! 2. what a bar's merges owe stays within what applying waits for, on every shard. The disk is
//!    slow, but bars are so small that this holds without the waiting too: the test shows that it
//!    holds, not what makes it hold;
//! 3. when the clients are done, all debt is paid, and the node then adds nothing to its log;
//! 4. a scrub that begins anew several times a second finds nothing corrupt: there is nothing.

#![expect(clippy::unwrap_used, reason = "a client of the test that gets no answer has failed")]

mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::config::{Config as SimConfig, DiskTiming};
use ioring::sim::world::World;
use ioring::{Outbox, Queue, Stream};
use node::control::Question;
use node::metrics::Counter;
use node::server;
use node::status::CoreReport;
use support::{PORT, configuration, format_as, parts_and_asks, request};
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
    /// Reports of a shard whose debt was as large as it may be when applying goes on.
    in_debt: Cell<u64>,
    /// Of each core, if it was asked yet.
    last: RefCell<Vec<Option<CoreReport>>>,
}

impl Seen {
    fn new(cores: u16) -> Rc<Seen> {
        let seen = Seen::default();
        seen.last.borrow_mut().resize_with(usize::from(cores), || None);
        Rc::new(seen)
    }

    /// The newest op in the log, once all cores have been asked.
    fn op(&self) -> Option<u64> {
        let last = self.last.borrow();
        if last.iter().any(Option::is_none) {
            return None;
        }
        last[0].as_ref()?.replica.as_ref().map(|replica| replica.op)
    }
}

/// Debt that applying goes on with, for so much work.
fn debt_max(report: &lsm::forest::Stats) -> u64 {
    report.work / 8 + 4
}

/// Checks every report of a core.
async fn watch(core: usize, ask: Outbox<Question>, seen: Rc<Seen>) {
    loop {
        let (answer, report) = oneshot::channel();
        ask.send(Question::Report(answer)).await.unwrap();
        let report = report.await.unwrap();
        for shard in &report.shards {
            let (stats, most) = (&shard.compaction, debt_max(&shard.compaction));
            // What one beat may add: the wait comes behind it.
            let bound = most + stats.beat_blocks_max;
            assert!(stats.debt <= bound, "shard {}: {stats:?}", shard.shard);
            seen.in_debt.set(seen.in_debt.get() + u64::from(stats.debt >= most));
        }
        assert_eq!(report.metrics.get(Counter::ScrubFaults), 0, "there is nothing to be found");
        seen.last.borrow_mut()[core] = Some(report);
        check_bars(&seen.last.borrow());
        seen.reports.set(seen.reports.get() + 1);
        ioring::sleep(Duration::from_micros(500)).await;
    }
}

/// Shards of one core are apart by the bar that is ending, those of several by what was dispatched
/// to one core and not yet to another besides.
fn check_bars(reports: &[Option<CoreReport>]) {
    let shards = reports.iter().flatten().flat_map(|report| &report.shards);
    let bars: Vec<u64> = shards.map(|shard| shard.compaction.bars).collect();
    let (least, most) = (bars.iter().min().unwrap_or(&0), bars.iter().max().unwrap_or(&0));
    let apart = if reports.len() > 1 { 2 } else { 1 };
    assert!(most - least <= apart, "bars of shards are apart: {bars:?}");
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
    while seen.op().is_none() {
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
    let op = || seen.op().unwrap();
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

/// A disk on which a merge's reads and writes take as long as several prepares.
fn slow() -> SimConfig {
    let disk_timing = DiskTiming {
        read: Duration::from_millis(2),
        write: Duration::from_millis(2),
        ..DiskTiming::default()
    };
    SimConfig { disk_timing, ..SimConfig::default() }
}

fn play(cores: u16) {
    let mut world = World::new(5, slow());
    let (host, client) = (world.add_node("node"), world.add_node("client"));
    let all = Configuration { shard_count: SHARDS, ..configuration() };
    world.run(host, move || format_as(all)).unwrap();
    let address = SocketAddr::new(world.address(host), PORT);
    let seen = Seen::new(cores);
    let (parts, asks) = parts_and_asks(address, cores, &[("scrub_cycle", "200ms")]);
    let watched: Vec<_> = parts.into_iter().zip(asks).enumerate().collect();
    let watcher = seen.clone();
    let _serves = world.start(host, watched, move |(core, (part, ask))| {
        let seen = watcher.clone();
        async move {
            ioring::spawn(Queue::Background, "watch", watch(core, ask, seen)).detach();
            server::serve(part).await.unwrap();
        }
    });
    let done = seen.clone();
    world.run(client, move || load(address, done)).unwrap();
    check_end(&seen);
}

fn check_end(seen: &Seen) {
    let last = seen.last.borrow();
    let reports: Vec<&CoreReport> = last.iter().flatten().collect();
    let shards: Vec<_> = reports.iter().flat_map(|report| &report.shards).collect();
    assert_eq!(shards.len(), usize::from(SHARDS));
    assert!(seen.reports.get() > 500, "{} reports", seen.reports.get());
    assert!(seen.in_debt.get() > 20, "waiting had nothing to bound: {}", seen.in_debt.get());
    let cycles: u64 = reports.iter().map(|report| report.metrics.get(Counter::ScrubCycles)).sum();
    assert!(cycles > 2 * u64::from(SHARDS), "{cycles} scrubs");
    let written: Vec<u64> = shards.iter().map(|shard| shard.compaction.flushes).collect();
    assert_eq!(written.iter().filter(|flushes| **flushes > 0).count(), 1, "{written:?}");
    for shard in shards {
        let stats = &shard.compaction;
        assert!(stats.bars >= BARS_MIN, "shard {}: {stats:?}", shard.shard);
        assert_eq!(stats.debt, 0, "shard {}: {stats:?}", shard.shard);
        assert_eq!(shard.scrub.faults, 0);
    }
}

#[test]
fn one_hot_shard_keeps_all_bars_ending_and_every_debt_bounded() {
    play(1);
}

#[test]
fn one_hot_shard_of_several_cores_keeps_all_bars_ending_and_every_debt_bounded() {
    play(3);
}
