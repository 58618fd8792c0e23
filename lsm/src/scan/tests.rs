//! Scans that go on while bars end, scans that come too late, what they read, and what they leave
//! of the cache.

use std::rc::Rc;

use ioring::sim::{Config as SimConfig, NodeId, World};

use super::{Direction, Scan};
use crate::config::Config;
use crate::forest::harness::{self, Action, Driver, Shape};
use crate::grid::GridStats;
use crate::key::Range;
use crate::lookup::{Lookup, Want};
use crate::tree::Tree;

const BOTH: [Direction; 2] = [Direction::Ascending, Direction::Descending];

fn all() -> Range {
    Range { lower: Vec::new(), upper: None }
}

fn world(seed: u64) -> (World, NodeId) {
    let mut world = World::new(seed, SimConfig::default());
    let node = world.add_node("store");
    (world, node)
}

/// Live objects of the model as scans give them.
fn expected(log: &[Vec<Action>], op: u64, snapshot: u64) -> Vec<(Vec<u8>, u64, u64)> {
    let live = harness::model(log, op).live(snapshot);
    live.into_iter().map(|(key, entry)| (key, entry.version, entry.value_len)).collect()
}

/// The snapshot is within the history window for the whole scan, which goes on while bars end and
/// tables are merged: it gives what was there when it began, in both directions.
#[test]
fn a_scan_over_many_bars_is_one_snapshot() {
    for (seed, direction) in [(61, BOTH[0]), (62, BOTH[1]), (63, BOTH[0]), (64, BOTH[1])] {
        let shape = Shape { ops: 1400, keys: 150, ..Shape::default() };
        let log = harness::log(seed, &shape);
        let (mut world, node) = world(seed);
        let main = move || async move {
            let window = harness::version(1200, 0);
            let config = Config { history_window: window, ..harness::config() };
            let mut driver = Driver::open(&config, Rc::default()).await;
            driver.run(&log, 300).await;
            let (began, bars, snapshot) = (driver.op, driver.bars, driver.forest.version());
            let mut scan = Scan::new(Tree::Objects, all(), direction, snapshot);
            let mut live = Vec::new();
            while driver.scan_step(&mut scan, 1, &mut live).await == Some(false) {
                driver.run(&log, (driver.op + 4).min(shape.ops)).await;
            }
            let mut expected = expected(&log, began, snapshot);
            if direction == Direction::Descending {
                expected.reverse();
            }
            assert_eq!(live, expected, "seed {seed}");
            assert!(driver.bars > bars + 10, "{bars} bars, then {}", driver.bars);
        };
        world.run(node, main).unwrap();
    }
}

/// Without a history window, a scan as of a version that bars have left behind is told so. It does
/// not hold back what merges drop.
#[test]
fn a_scan_that_comes_too_late_is_told() {
    let shape = Shape { ops: 900, keys: 200, ..Shape::default() };
    let log = harness::log(65, &shape);
    let (mut world, node) = world(65);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        driver.run(&log, 300).await;
        for direction in BOTH {
            let (began, snapshot) = (driver.op, driver.forest.version());
            let mut scan = Scan::new(Tree::Objects, all(), direction, snapshot);
            let mut live = Vec::new();
            assert_eq!(driver.scan_step(&mut scan, 3, &mut live).await, Some(false));
            let bars = driver.bars;
            while snapshot >= driver.forest.snapshot_min() {
                driver.run(&log, driver.op + 1).await;
            }
            assert!(
                driver.bars <= bars + 3,
                "{} bars for one that is not kept",
                driver.bars - bars
            );
            assert_eq!(driver.scan_step(&mut scan, 3, &mut live).await, None);
            let mut seen = expected(&log, began, snapshot);
            seen.retain(|row| live.contains(row));
            assert_eq!(seen.len(), live.len(), "what it gave before was right");
        }
    };
    world.run(node, main).unwrap();
}

/// Pages as large as in production, and many of them.
fn config() -> Config {
    Config {
        block_size: 64 << 10,
        page_size: 4 << 10,
        cache_bytes: 2 << 20,
        reads_foreground_max: 16,
        memtable_bytes: 256 << 10,
        table_value_blocks_max: 60,
        compression: Config::standard().compression,
        ..harness::config()
    }
}

const KEYS: u32 = 40_000;

/// A forest of nearly [`KEYS`] keys in tables, written in scattered order, opened with an empty
/// cache.
async fn cold() -> Driver {
    let put = |key| Action::Put { key, len: 100, deadline: 0 };
    let scattered = (0..KEYS / 4).map(|n| (0..4).map(|i| put((4 * n + i) * 7919 % KEYS)).collect());
    let log: Vec<Vec<Action>> = scattered.collect();
    let mut driver = Driver::open(&config(), Rc::default()).await;
    driver.run(&log, log.len() as u64).await;
    driver.settle().await;
    drop(driver);
    Driver::open(&config(), Rc::default()).await
}

fn since(driver: &Driver, before: &GridStats) -> (u64, u64) {
    let now = driver.forest.grid().stats();
    (now.reads - before.reads, now.read_bytes - before.read_bytes)
}

/// A short scan asks for what all runs need at the same time, and for little more.
#[test]
fn a_short_scan_waits_once_or_twice() {
    let (mut world, node) = world(66);
    let main = || async {
        let driver = cold().await;
        let runs = driver.forest.trees[0].manifest.sorted_runs().count();
        assert!(runs >= 2, "{runs} runs");
        // Index blocks first, once: they are not what this is about.
        drop(driver.scan(all(), Direction::Ascending, u64::MAX, 1000).await);
        let (mut steps, mut reads, mut bytes) = (0, 0, 0);
        for (number, direction) in (0..40).zip(BOTH.into_iter().cycle()) {
            let edge = harness::key_of(number * 911 + 2000);
            let range = match direction {
                Direction::Ascending => Range { lower: edge, upper: None },
                Direction::Descending => Range { lower: Vec::new(), upper: Some(edge) },
            };
            let before = driver.forest.grid().stats();
            let mut scan = Scan::new(Tree::Objects, range, direction, u64::MAX);
            let mut live = Vec::new();
            while live.len() < 100 {
                assert_eq!(driver.scan_step(&mut scan, 100, &mut live).await, Some(false));
                steps += 1;
            }
            let (more, more_bytes) = since(&driver, &before);
            (reads, bytes) = (reads + more, bytes + more_bytes);
        }
        // A step that reads, and one that goes on; now and then the first guess was short.
        assert!(steps <= 110, "{steps} steps");
        assert!(reads <= 40 * (runs as u64 + 1), "{reads} reads of {runs} runs");
        assert!(bytes <= 40 * (runs as u64 + 1) * (8 * 4096), "{bytes} bytes");
    };
    world.run(node, main).unwrap();
}

/// A scan of everything reads in large pieces, and what point reads use stays in the cache.
#[test]
fn a_full_scan_reads_in_stretches_and_leaves_the_cache_alone() {
    let (mut world, node) = world(67);
    let main = || async {
        let driver = cold().await;
        let hot = || (0..40).map(|number| harness::key_of(number * 997 + 11));
        // As of an older snapshot, so that rows are not found in the cache of rows.
        let snapshot = driver.forest.version() - 1;
        let is_cached = |key: &[u8]| {
            let forest = &driver.forest;
            match forest.get_cached(Tree::Objects, key, snapshot, Want::Value, |_| ()) {
                Lookup::NeedsRead(read) => Some(read),
                _ => None,
            }
        };
        for _ in 0..3 {
            for key in hot() {
                if let Some(read) = is_cached(&key) {
                    read.run().await.unwrap();
                }
            }
        }
        let missing = hot().filter(|key| is_cached(key).is_some()).count();
        assert_eq!(missing, 0, "the hot set fits");
        for direction in BOTH {
            let before = driver.forest.grid().stats();
            let live = driver.scan(all(), direction, u64::MAX, 500).await;
            assert!(live.len() > KEYS as usize * 9 / 10, "{} entries", live.len());
            let (reads, bytes) = since(&driver, &before);
            assert!(bytes > 2 * config().cache_bytes, "{bytes} bytes");
            assert!(bytes / reads > 24 << 10, "{bytes} bytes in {reads} reads");
            let kept = hot().filter(|key| is_cached(key).is_none()).count();
            assert!(kept >= 36, "{kept} of 40 kept");
        }
    };
    world.run(node, main).unwrap();
}
