//! What compaction saves, and what it keeps bounded. Each of these tests fails when what it is
//! about is switched off.

use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use ioring::sim::{Config as SimConfig, World};

use super::harness::{self, Action, Driver};
use crate::config::Config;
use crate::grid::Class;
use crate::tree::Tree;

fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + 'static) {
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("store");
    world.run(node, main).unwrap();
}

async fn open() -> Driver {
    Driver::open(&harness::config(), Rc::default()).await
}

fn put(key: u32, len: usize) -> Action {
    Action::Put { key, len, deadline: 0 }
}

/// Puts keys, four an op.
async fn puts(driver: &mut Driver, log: &mut Vec<Vec<Action>>, keys: impl Iterator<Item = u32>) {
    let keys: Vec<u32> = keys.collect();
    log.extend(keys.chunks(4).map(|keys| keys.iter().map(|key| put(*key, 100)).collect()));
    driver.run(log, log.len() as u64).await;
}

async fn pulses(driver: &mut Driver, log: &mut Vec<Vec<Action>>, count: usize) {
    log.extend((0..count).map(|_| vec![Action::Pulse]));
    driver.run(log, log.len() as u64).await;
}

/// Bars of pulses until nothing is left to do.
async fn settle(driver: &mut Driver, log: &mut Vec<Vec<Action>>) {
    let mut bars = driver.bars + 3;
    while driver.bars < bars {
        pulses(driver, log, 1).await;
        if driver.forest.pending().jobs {
            bars = driver.bars + 3;
        }
    }
}

/// Entries in all tables of objects, and tombstones among them.
fn stored(driver: &Driver) -> (u64, u64) {
    let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
    let sum = |sum: (u64, u64), table: &crate::table::TableInfo| {
        (sum.0 + table.entries, sum.1 + table.tombstones)
    };
    manifest.tables().fold((0, 0), |at, (_, table)| sum(at, table))
}

#[test]
fn tables_that_overlap_nothing_move_without_being_read() {
    run(|| async {
        let (mut driver, mut log) = (open().await, Vec::new());
        puts(&mut driver, &mut log, 0..3000).await;
        settle(&mut driver, &mut log).await;
        let stats = driver.forest.stats();
        assert!(stats.tables_moved > 20, "{stats:?}");
        assert_eq!((stats.blocks_read, stats.entries_merged), (0, 3000), "only flushes merge");
        driver.check(&log, 3000).await;
        assert_eq!(driver.forest.verify().await, []);
    });
}

/// Many writers, each with ascending keys of its own: all tables overlap, most blocks do not.
#[test]
fn blocks_that_overlap_nothing_move_without_being_read() {
    run(|| async {
        let (mut driver, mut log) = (open().await, Vec::new());
        for round in 0..50 {
            for writer in 0..3 {
                let first = writer * 100_000 + round * 100;
                puts(&mut driver, &mut log, first..first + 60).await;
            }
        }
        settle(&mut driver, &mut log).await;
        let stats = driver.forest.stats();
        assert!(stats.blocks_moved > 50, "{stats:?}");
        assert!(driver.checkpoints > 2, "blocks moved across checkpoints");
        assert_eq!(driver.forest.verify().await, []);
        for key in (0..300_000).step_by(7) {
            let found = driver.get(&harness::key_of(key), u64::MAX).await.unwrap();
            assert_eq!(found.is_some(), key % 100_000 < 5000 && key % 100 < 60, "key {key}");
        }
    });
}

#[test]
fn tombstones_that_meet_nothing_below_are_dropped() {
    run(|| async {
        let (mut driver, mut log) = (open().await, Vec::new());
        puts(&mut driver, &mut log, 0..1500).await;
        settle(&mut driver, &mut log).await;
        log.extend((0..1500).map(|key| vec![Action::Delete { key }]));
        let ops = log.len() as u64;
        driver.run(&log, ops).await;
        settle(&mut driver, &mut log).await;
        assert!(driver.forest.stats().tombstones_dropped > 1000, "{:?}", driver.forest.stats());
        let (entries, tombstones) = stored(&driver);
        assert!(entries < 150 && tombstones < 150, "{entries} entries, {tombstones} tombstones");
    });
}

/// Idle times end bars early, with little in them.
#[test]
fn small_flushes_do_not_leave_many_runs() {
    run(|| async {
        let (mut driver, mut log) = (open().await, Vec::new());
        puts(&mut driver, &mut log, 0..2000).await;
        let mut runs_max = 0;
        for round in 0..40 {
            puts(&mut driver, &mut log, [3000 + 7 * (round % 40)].into_iter()).await;
            pulses(&mut driver, &mut log, 33).await;
            let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
            runs_max = runs_max.max(manifest.sorted_runs().count());
        }
        let stats = driver.forest.stats();
        assert!(stats.coalesced > 10, "{stats:?}");
        driver.check(&log, 3400).await;
        assert_eq!(driver.forest.verify().await, []);
    });
}

/// A flush cannot wait for a repair: what it was to take with it is left alone.
#[test]
fn a_flush_goes_on_without_a_small_run_that_is_corrupt() {
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("store");
    let log = Rc::new({
        let mut log: Vec<Vec<Action>> = (0..8).map(|key| vec![put(key, 100)]).collect();
        log.extend((0..33 * 8).map(|_| vec![Action::Pulse]));
        log
    });
    let first = Rc::clone(&log);
    let victim = world.run(node, move || async move {
        let mut driver = open().await;
        driver.run(&first, first.len() as u64).await;
        driver.settle().await;
        let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
        let table = Rc::clone(&manifest.runs()[0].tables.tables()[0]);
        let index = driver.forest.grid().read_index(&table, Class::Foreground).await.unwrap();
        index.index().block(0).reference.address
    });
    let offset = victim.unwrap().offset(harness::config().block_size) + 300;
    world.disk(node).rot(Path::new(harness::GRID_PATH), offset, 0x10).unwrap();
    let main = move || async move {
        let mut driver = open().await;
        let mut log = (*log).clone();
        log.extend((100..108).map(|key| vec![put(key, 100)]));
        // In a page of the small run that can be read.
        log.push(vec![Action::Delete { key: 7 }]);
        let ops = log.len() as u64;
        driver.run(&log, ops).await;
        let before = driver.forest.stats();
        assert!(driver.forest.faults().is_empty(), "nobody has met the block");
        let runs =
            |driver: &Driver| driver.forest.trees[Tree::Objects.index()].manifest.runs().len();
        let runs_before = runs(&driver);
        // To the end of the bar in which they are flushed.
        while driver.forest.stats().flushes == before.flushes {
            pulses(&mut driver, &mut log, 1).await;
        }
        let stats = driver.forest.stats();
        assert_eq!(stats.flushes - before.flushes, 1);
        assert_eq!(stats.coalesced, before.coalesced, "it was not flushed with it");
        assert_eq!(driver.forest.faults().len(), 1, "the flush met the block");
        assert_eq!(runs(&driver), runs_before + 1, "the small run stays");
        for key in 100..108 {
            let found = driver.get(&harness::key_of(key), u64::MAX).await.unwrap();
            assert!(found.is_some(), "key {key} is lost");
        }
        let deleted = driver.get(&harness::key_of(7), u64::MAX).await.unwrap();
        assert_eq!(deleted, None, "the tombstone hides what is in the run that stays");
        let other = driver.get(&harness::key_of(6), u64::MAX).await.unwrap();
        assert!(other.is_some(), "its page can be read");
    };
    world.run(node, main).unwrap();
}

#[test]
fn tables_of_the_last_level_are_twice_as_large() {
    run(|| async {
        let config = Config { table_value_blocks_max: 6, ..harness::config() };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        for round in 0..4 {
            puts(&mut driver, &mut log, (0..2000).map(|n| n * 7919 % 2003 + round)).await;
        }
        let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
        let upper = manifest.runs().iter().flat_map(|run| run.tables.tables());
        let upper = upper.map(|table| table.value_blocks).max().unwrap();
        let last = manifest.last().tables().iter().map(|table| table.value_blocks).max().unwrap();
        assert_eq!((upper, last), (3, 6));
    });
}

/// However often keys are written again, what is dead is given back in time: with levels that hold
/// so many runs that none is ever full, nothing but the census asks for it.
#[test]
fn dead_versions_are_bounded() {
    run(|| async {
        let config = Config { level0_runs_max: 16, growth_factor: 64, ..harness::config() };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        let keys = 3000;
        puts(&mut driver, &mut log, 0..keys).await;
        let mut most = 0;
        for round in 0..12 {
            let again = (0..keys / 2).map(|n| (n * 7919 + round * 31) % keys);
            puts(&mut driver, &mut log, again).await;
            most = most.max(stored(&driver).0);
        }
        // A third, what comes while it is cleared away, and the error of a small sample.
        assert!(most < u64::from(keys) * 2, "{most} entries for {keys} keys");
        settle(&mut driver, &mut log).await;
        let (entries, _) = stored(&driver);
        assert!(entries * 100 < u64::from(keys) * 125, "{entries} entries for {keys} keys");
        driver.check(&log, keys).await;
        assert_eq!(driver.forest.verify().await, []);
    });
}

/// New keys are not written again and again, and no bar does all of a large merge.
#[test]
fn filling_writes_little_and_evenly() {
    run(|| async {
        let config = Config { level0_runs_max: 4, growth_factor: 4, ..harness::config() };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        let (mut work_max, mut cut) = (0, 0);
        for part in 0..60 {
            puts(&mut driver, &mut log, (0..100).map(|n| (part * 100 + n) * 7919 % 6007)).await;
            work_max = work_max.max(driver.forest.stats().work);
            cut = driver.forest.stats().tables_cut;
        }
        let stats = driver.forest.stats();
        let memtable = config.memtable_bytes / u64::from(config.block_size);
        let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
        let stored: u64 = manifest.tables().map(|(_, table)| u64::from(table.value_blocks)).sum();
        assert!(stored > 100 * memtable, "{stored} blocks stored");
        assert!(cut > 0, "no merge was large enough to be done in slices");
        let merged = stats.entries_merged;
        assert!(merged < 5 * 6000, "{merged} entries merged for 6000");
        assert!(3 * work_max < 2 * stored, "a bar of {work_max} blocks, {stored} stored");
        assert!(driver.forest.verify().await.is_empty());
    });
}

/// Where keys are overwritten all the time, every bar has about the same to merge: the last level
/// is written anew in equal parts, and level 0 is merged beside it.
#[test]
fn overwriting_costs_about_the_same_in_every_bar() {
    run(|| async {
        let config = Config {
            level0_runs_max: 4,
            growth_factor: 4,
            memtable_bytes: 64 << 10,
            table_value_blocks_max: 8,
            ..harness::config()
        };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        let (mut works, mut random) = (Vec::new(), 1_u32);
        let mut bars = 0;
        while works.len() < 160 {
            let keys = (0..16).map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 8) % 9000
            });
            // The jobs' work is known once all are laid out, which is not long after their start.
            let work = driver.forest.stats().work;
            puts(&mut driver, &mut log, keys).await;
            if driver.forest.stats().bars > bars {
                bars = driver.forest.stats().bars;
                works.push(work);
            }
        }
        // Until the last level has been written anew a few times there is less to do; at first
        // there is no last level.
        let first = works[..80].iter().max().copied().unwrap();
        let works = &works[80..];
        let mean = works.iter().sum::<u64>() / works.len() as u64;
        let (least, most) = (works.iter().min().unwrap(), works.iter().max().unwrap());
        println!("{least} to {most} blocks a bar, {mean} on average: {works:?}");
        assert!(5 * *most <= 7 * mean, "a bar of {most} blocks, {mean} on average");
        assert!(2 * *least >= mean, "a bar of {least} blocks, {mean} on average");
        assert!(first <= 2 * mean, "a bar of {first} blocks at first, {mean} on average");
        assert!(driver.forest.verify().await.is_empty());
    });
}

/// A few keys written again and again, and all of it within the history window: a flush merges many
/// times as many entries as the memtable has keys, and still ends.
#[test]
fn a_flush_of_many_versions_of_few_keys_ends() {
    run(|| async {
        let (history_window, memtable_bytes) = (u64::MAX / 2, 256 << 10);
        let config = Config { history_window, memtable_bytes, ..harness::config() };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        for _ in 0..8000 {
            puts(&mut driver, &mut log, 0..4).await;
        }
        assert!(driver.forest.stats().bars > 2);
        driver.check(&log, 4).await;
    });
}

/// What is read is right at every step of a merge in slices, and the steps are recognised.
#[test]
fn groups_are_recognised_on_their_way() {
    run(|| async {
        let (mut driver, mut log) = (open().await, Vec::new());
        let mut met = 0;
        for part in 0..300_u32 {
            puts(&mut driver, &mut log, (0..16).map(|n| (part * 16 + n) * 7919 % 2003)).await;
            let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
            for group in manifest.groups() {
                met += 1;
                for run in &group.runs {
                    assert!(run.level < group.level && run.number <= group.number);
                }
            }
            if part % 50 == 0 {
                driver.check(&log, 2003).await;
            }
        }
        assert!(met > 12, "{met} groups on their way");
        driver.check(&log, 2003).await;
    });
}

/// Runs that wait for more of their size are merged when nobody writes, and only then; a byte is
/// written once more for it, and after that there is nothing left to be woken for.
#[test]
fn an_idle_log_has_its_runs_merged() {
    run(|| async {
        let config = Config { level0_runs_max: 8, growth_factor: 8, ..harness::config() };
        let (mut driver, mut log) = (Driver::open(&config, Rc::default()).await, Vec::new());
        let runs = |driver: &Driver| {
            driver.forest.trees[Tree::Objects.index()].manifest.sorted_runs().count()
        };
        let scattered = |from: u32| (from..from + 600).map(|n| n * 7919 % 10_007);
        for round in 0.. {
            puts(&mut driver, &mut log, scattered(600 * round)).await;
            if round > 4 && runs(&driver) >= 6 {
                break;
            }
        }
        assert!(driver.forest.pending().tidy, "{} runs", runs(&driver));
        let before = driver.forest.stats();
        let stored = driver.forest.grid().space().acquired;
        let mut count = 0;
        while driver.forest.pending().tidy || driver.forest.pending().jobs {
            pulses(&mut driver, &mut log, 1).await;
            count += 1;
            assert!(count <= 32 * 8, "{:?} after {count} pulses", driver.forest.pending());
        }
        driver.settle().await;
        let written = driver.forest.stats().blocks_written - before.blocks_written;
        assert!(runs(&driver) <= 3, "{} runs", runs(&driver));
        assert!(written < 2 * stored, "{written} blocks written, {stored} stored");
        // As long as there are writes, runs wait for others.
        let mut runs_max = 0;
        for round in 20..40 {
            puts(&mut driver, &mut log, scattered(600 * round)).await;
            runs_max = runs_max.max(runs(&driver));
        }
        assert!(runs_max >= 8, "{runs_max} runs while there are writes");
        driver.check(&log, 10_007).await;
        assert_eq!(driver.forest.verify().await, []);
    });
}
