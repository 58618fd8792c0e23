//! What may not grow without end: debt, bars, space; and what an idle forest does.

use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Config as SimConfig, World};

use super::harness::{self, Action, Driver, Shape};
use crate::config::Config;

/// Debt that applying goes on with, for so much work: see [`super::Forest::paced`].
fn debt_max(work: u64) -> u64 {
    work / 4 + 1
}

async fn pulse(driver: &mut Driver, log: &mut Vec<Vec<Action>>) {
    log.push(vec![Action::Pulse]);
    driver.run(log, log.len() as u64).await;
}

/// Values of several blocks between ones of a few bytes: a value is one entry and all its blocks.
#[test]
fn large_values_between_small_ones_keep_bars_ending_and_debt_within_its_bound() {
    let mut world = World::new(21, SimConfig::default());
    let node = world.add_node("store");
    let main = || async {
        let config = Config { grid_blocks_max: 12 << 10, ..harness::config() };
        let mut driver = Driver::open(&config, Rc::default()).await;
        let (mut log, mut bars, mut bar_ops, mut longest) = (Vec::new(), 0, 0, 0);
        for op in 0..2500u32 {
            let len = if op % 3 == 0 { 16 << 10 } else { 20 };
            log.push(vec![Action::Put { key: op % 500, len, deadline: 0 }]);
            driver.run(&log, log.len() as u64).await;
            let stats = driver.forest.stats();
            assert!(stats.debt <= debt_max(stats.work), "op {op}: {stats:?}");
            assert!(driver.forest.space().allows_puts(), "op {op}: {:?}", driver.forest.space());
            bar_ops = if driver.bars == bars { bar_ops + 1 } else { 0 };
            longest = longest.max(bar_ops);
            bars = driver.bars;
        }
        // The log's share of a bar, in ops of a sector each, is the longest that one can be.
        assert!(bars > 40 && longest < 200, "{bars} bars, the longest of {longest} ops");
        // 500 keys, a third of them of four blocks and a bit: what was overwritten is gone again.
        let live = driver.forest.grid().space();
        let live = live.acquired - live.staged - live.pending;
        assert!(live < 3 * 500 * 5, "{live} blocks for 500 keys");
        for key in 0..500 {
            log.push(vec![Action::Delete { key }]);
        }
        driver.run(&log, log.len() as u64).await;
        for _ in 0..40 * 32 {
            pulse(&mut driver, &mut log).await;
        }
        let left = driver.forest.grid().space();
        let left = left.acquired - left.staged - left.pending;
        assert!(left < live, "{left} of {live} blocks are left of nothing");
        driver.check(&log, 500).await;
        assert_eq!(driver.forest.verify().await, []);
    };
    world.run(node, main).unwrap();
}

/// Pulses pay for what the last bar planned; after that neither is one asked for nor the disk used.
#[test]
fn an_idle_forest_is_done_after_some_pulses_and_then_leaves_the_disk_alone() {
    for ops in [333, 700, 1111] {
        let shape = Shape { ops, deadlines: 0, pulses: 0, ..Shape::default() };
        let mut log = harness::log(91, &shape);
        let mut world = World::new(22, SimConfig::default());
        let node = world.add_node("store");
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            // Up to where a bar has planned jobs.
            let mut at = ops - 300;
            while at < ops || !driver.forest.pending().jobs {
                at += 1;
                driver.run(&log, at.min(log.len() as u64)).await;
                if at > ops {
                    log.push(vec![Action::Put { key: 1, len: 100, deadline: 0 }]);
                }
                assert!(at < ops + 500, "no bar has jobs");
            }
            let mut pulses = 0;
            while driver.forest.pending().jobs {
                pulse(&mut driver, &mut log).await;
                pulses += 1;
                // A bar for each level that may come to be over its size, and one for the flush.
                assert!(pulses <= 32 * 6, "{:?} after {pulses} pulses", driver.forest.pending());
            }
            assert!(pulses > 0);
            driver.settle().await;
            let before = driver.forest.grid().stats();
            ioring::sleep(Duration::from_secs(3600)).await;
            assert_eq!(driver.forest.grid().stats(), before);
            assert!(!driver.forest.pending().jobs && driver.forest.pending().deadline.is_none());
            let stats = driver.forest.stats();
            assert_eq!(stats.debt, 0);
        };
        world.run(node, main).unwrap();
    }
}

/// A full grid of which every key is deleted, once by deletes and once by a flush of everything.
/// After deletes writes are taken again within some bars; after a flush nearly all of the space is
/// back after the next checkpoint.
#[test]
fn a_full_grid_takes_writes_again_within_a_number_of_bars() {
    for (flush, bars_max) in [(true, 12), (false, 200)] {
        let mut world = World::new(23, SimConfig::default());
        let node = world.add_node("store");
        let main = move || async move {
            let config = Config { grid_blocks_max: 8192, ..harness::config() };
            let mut driver = Driver::open(&config, Rc::default()).await;
            let (mut log, mut key) = (Vec::new(), 0);
            while driver.forest.space().allows_puts() {
                let put = |key| Action::Put { key, len: 900, deadline: 0 };
                log.push((key..key + 4).map(put).collect());
                key += 4;
                driver.run(&log, log.len() as u64).await;
            }
            let bars = driver.bars;
            if flush {
                driver.forest.set_generation(1, 2, driver.forest.version() + 1);
            } else {
                for first in (0..key).step_by(4) {
                    while !driver.forest.space().allows_deletes() {
                        pulse(&mut driver, &mut log).await;
                        let bars = driver.bars - bars;
                        assert!(bars <= 1000, "{bars} bars, key {first} of {key}");
                    }
                    log.push((first..first + 4).map(|key| Action::Delete { key }).collect());
                    driver.run(&log, log.len() as u64).await;
                }
            }
            let bars = driver.bars;
            let wanted = if flush { 8192 * 9 / 10 } else { 0 };
            let is_back = |driver: &Driver| {
                let space = driver.forest.space();
                space.allows_puts() && space.free > wanted
            };
            while !is_back(&driver) {
                let pending = driver.forest.pending();
                assert!(flush || pending.jobs || pending.space, "{:?}", driver.forest.space());
                pulse(&mut driver, &mut log).await;
                let bars = driver.bars - bars;
                assert!(bars <= bars_max, "{bars} bars: {:?}", driver.forest.space());
            }
            assert_eq!(driver.forest.verify().await, []);
        };
        world.run(node, main).unwrap();
    }
}

/// A grid that is filled again and again: it goes on, and says what it should. Keys are written in
/// random order, so all runs overlap, and merges are cut wherever their room ends.
#[test]
fn a_grid_that_is_full_again_and_again_goes_on() {
    let mut early = 0;
    for seed in 1..=2 {
        let mut world = World::new(seed, SimConfig::default());
        let node = world.add_node("store");
        let main = move || async move {
            let config = Config { grid_blocks_max: 2000, ..harness::config() };
            let mut driver = Driver::open(&config, Rc::default()).await;
            let mut dice = ioring::sim::Dice::new(seed, "full");
            let mut log = Vec::new();
            for round in 0..2 {
                let mut puts = 0;
                while driver.forest.space().allows_puts() {
                    let mut put = || {
                        let (key, len) = (dice.below(60_000) as u32, dice.below(1000) as usize);
                        Action::Put { key, len, deadline: 0 }
                    };
                    log.push((0..4).map(|_| put()).collect());
                    driver.run(&log, log.len() as u64).await;
                    puts += 1;
                }
                assert!(puts > 100, "{puts} puts in round {round}: {:?}", driver.forest.space());
                let deleted: Vec<u32> = (0..15_000).map(|_| dice.below(60_000) as u32).collect();
                for keys in deleted.chunks(20) {
                    while !driver.forest.space().allows_deletes() {
                        pulse(&mut driver, &mut log).await;
                    }
                    log.push(keys.iter().map(|&key| Action::Delete { key }).collect());
                    driver.run(&log, log.len() as u64).await;
                }
                let bars = driver.bars;
                while !driver.forest.space().allows_puts() {
                    pulse(&mut driver, &mut log).await;
                    assert!(driver.bars < bars + 60, "{:?}", driver.forest.space());
                }
            }
            driver.check(&log, 2000).await;
            assert_eq!(driver.forest.verify().await, []);
            driver.forest.stats().ended_early
        };
        early += world.run(node, main).unwrap();
    }
    assert!(early > 10, "{early} merges ended early");
}

/// What is kept free in the default configuration is a small part of a grid.
#[test]
fn little_of_a_grid_is_kept_free() {
    let config = Config::standard();
    let options = super::Options::standard(28 << 20);
    let space = super::Forest::space_empty(&config, options);
    let mib = (space.reserve_puts() * u64::from(config.block_size)) >> 20;
    assert!(space.merges < 256 && mib < 700, "{mib} MiB: {space:?}");
}

/// A host that is full makes a grid as large as its file: writes are refused before there is no
/// place for them, deletes bring some back, and so does the host.
#[test]
fn a_grid_on_a_full_host_refuses_writes_and_recovers() {
    let mut world = World::new(24, SimConfig::default());
    let node = world.add_node("store");
    let probe = world.probe(node);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let (mut log, mut key) = (Vec::new(), 0);
        probe.with_disk(|disk| disk.set_capacity(disk.used() + (6 << 20)));
        let mut filled = Vec::new();
        for round in 0..2 {
            let first = key;
            while driver.forest.space().allows_puts() {
                let put =
                    |key: u32| Action::Put { key: key * 7919 % 60_013, len: 900, deadline: 0 };
                log.push((key..key + 4).map(put).collect());
                key += 4;
                driver.run(&log, log.len() as u64).await;
                assert!(key < 20_000, "{:?}", driver.forest.space());
            }
            assert!(driver.forest.grid().is_host_full(), "{:?}", driver.forest.space());
            filled.push(key - first);
            driver.settle().await;
            driver.check(&log, 500).await;
            if round == 0 {
                for number in 0..key {
                    while !driver.forest.space().allows_deletes() {
                        pulse(&mut driver, &mut log).await;
                        assert!(driver.bars < 3000, "{:?}", driver.forest.space());
                    }
                    log.push(vec![Action::Delete { key: number * 7919 % 60_013 }]);
                    driver.run(&log, log.len() as u64).await;
                }
                while !driver.forest.space().allows_puts() {
                    pulse(&mut driver, &mut log).await;
                    assert!(driver.bars < 5000, "{:?}", driver.forest.space());
                }
            }
        }
        assert!(filled[0] > 1000 && filled[1] > 200, "{filled:?} keys");
        probe.with_disk(|disk| disk.set_capacity(u64::MAX));
        driver.forest.look_ahead();
        ioring::sleep(Duration::from_secs(3)).await;
        assert!(driver.forest.space().allows_puts(), "{:?}", driver.forest.space());
        driver.check(&log, 500).await;
        assert_eq!(driver.forest.verify().await, []);
    };
    world.run(node, main).unwrap();
}

/// A full grid of which everything expires, more of it in a bar than could be flushed beside the
/// merges: pulses are never refused, so what they delete has to wait for space.
#[test]
fn a_full_grid_takes_writes_again_after_all_of_it_has_expired() {
    const DUE: u64 = 2500;
    let mut world = World::new(25, SimConfig::default());
    let node = world.add_node("store");
    let main = || async {
        let config = Config { grid_blocks_max: 2000, ..harness::config() };
        let mut driver = Driver::open(&config, Rc::default()).await;
        let (mut log, mut key) = (Vec::new(), 0);
        while driver.forest.space().allows_puts() {
            let put = |key: u32| {
                let deadline = harness::version(DUE + u64::from(key) / 16, 0);
                Action::Put { key: key * 7919 % 20_011, len: 400, deadline }
            };
            log.push((key..key + 8).map(put).collect());
            key += 8;
            driver.run(&log, log.len() as u64).await;
            assert!(driver.op < DUE && key < 20_000, "{:?}", driver.forest.space());
        }
        let end = DUE + u64::from(key) / 16 + 3000;
        while driver.op < end {
            pulse(&mut driver, &mut log).await;
        }
        assert!(driver.forest.space().allows_puts(), "{:?}", driver.forest.space());
        for key in (0..20_011).step_by(100) {
            let found = driver.get(&harness::key_of(key), u64::MAX).await.unwrap();
            assert_eq!(found, None, "key {key}");
        }
        assert_eq!(driver.forest.verify().await, []);
    };
    world.run(node, main).unwrap();
}
