//! Scrubbing beside a forest that goes on, and of a disk on which something has gone bad.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use ioring::sim::{Config as SimConfig, NodeId, World};
use ioring::{Buffer, File, OpenOptions};

use super::{Scrub, ScrubFault, ScrubStep};
use crate::block::{BlockReference, BlockType};
use crate::forest::harness::{self, Action, Driver, Shape};
use crate::lookup::LookupError;

mod repair;

/// Reads one block, or goes on to the end; `false` there.
async fn step(driver: &mut Driver, scrub: &mut Scrub, faults: &mut Vec<ScrubFault>) -> bool {
    match driver.forest.scrub_step(scrub) {
        ScrubStep::End => false,
        ScrubStep::Repair(repair) => {
            let done = repair.run().await;
            driver.forest.scrub_repaired(scrub, done);
            true
        }
        ScrubStep::Wait => {
            driver.checkpoint_durable().await;
            true
        }
        ScrubStep::Read(read) => {
            let done = read.run().await;
            faults.extend(driver.forest.scrub_take(scrub, done));
            true
        }
    }
}

/// A whole cycle that begins at a random place; what it found, and how many blocks it read.
async fn cycle(driver: &mut Driver, random: u64) -> (Vec<ScrubFault>, u64) {
    let mut faults = Vec::new();
    let mut scrub = driver.forest.scrub(random);
    let expected = scrub.remaining();
    let mut left = expected;
    while step(driver, &mut scrub, &mut faults).await {
        assert!(scrub.remaining() <= left, "what is left grows while nothing changes");
        left = scrub.remaining();
    }
    if driver.forest.faults().is_empty() {
        assert_eq!((scrub.read(), scrub.remaining()), (expected, 0));
    }
    (faults, scrub.read())
}

fn shape() -> Shape {
    Shape { ops: 900, keys: 3000, deadlines: 0, pulses: 0, large: 30, ..Shape::default() }
}

/// A disk with a forest after so many ops; gives all that is live, by type.
fn filled(
    log: &Rc<Vec<Vec<Action>>>,
    ops: u64,
) -> (World, NodeId, Vec<(BlockType, BlockReference)>) {
    let mut world = World::new(8, SimConfig::default());
    let node = world.add_node("store");
    let log = Rc::clone(log);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        driver.run(&log, ops).await;
        driver.settle().await;
        drop(driver);
        // As a restart finds it.
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        live(&mut driver).await
    };
    let live = world.run(node, main).expect("it runs to its end");
    (world, node, live)
}

/// What a scrub reads, in its order.
async fn live(driver: &mut Driver) -> Vec<(BlockType, BlockReference)> {
    let (mut live, mut faults) = (Vec::new(), Vec::new());
    let mut scrub = driver.forest.scrub(0);
    loop {
        // What comes next is seen by what is asked for.
        match driver.forest.scrub_step(&mut scrub) {
            ScrubStep::Read(read) => {
                live.extend(read.item.reference.map(|block| (read.item.block_type, block)));
                let done = read.run().await;
                faults.extend(driver.forest.scrub_take(&mut scrub, done));
            }
            ScrubStep::Wait => panic!("no checkpoint is being written"),
            ScrubStep::Repair(_) => panic!("nothing is damaged"),
            ScrubStep::End => break,
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
    live
}

#[test]
fn a_cycle_reads_every_live_block_once_wherever_it_begins() {
    let log = Rc::new(harness::log(61, &shape()));
    let (mut world, node, all) = filled(&log, 900);
    let main = || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let addresses: BTreeSet<u64> = all.iter().map(|(_, block)| block.address.get()).collect();
        assert_eq!(addresses.len(), all.len(), "a block is read twice");
        let space = driver.forest.grid().space();
        assert_eq!(all.len() as u64, space.acquired - space.staged - space.pending);
        for kind in [
            BlockType::Value,
            BlockType::Index,
            BlockType::Overflow,
            BlockType::Manifest,
            BlockType::FreeSet,
            BlockType::Extra,
            BlockType::Checkpoint,
        ] {
            assert!(all.iter().any(|(found, _)| *found == kind), "no block of type {kind:?}");
        }
        let before = driver.forest.grid().stats();
        for random in [1, 7, 100, u64::MAX - 3] {
            let (faults, read) = cycle(&mut driver, random).await;
            // The header has no address.
            assert_eq!((faults.len(), read), (0, all.len() as u64 + 1), "from {random}");
        }
        // Past the cache, and not into it.
        let after = driver.forest.grid().stats();
        assert_eq!(after.reads - before.reads, 4 * all.len() as u64);
        assert_eq!(after.cache, before.cache);
    };
    world.run(node, main).expect("it runs to its end");
}

/// A read that takes as long as some bars: asked for before, done after.
#[test]
fn blocks_that_are_freed_and_reused_meanwhile_are_not_reported() {
    const LATER: u64 = 400;
    let mut overtaken = 0;
    for seed in 0..4 {
        let log = harness::log(70 + seed, &Shape { ops: 2500, ..Shape::default() });
        let mut world = World::new(seed, SimConfig::default());
        let node = world.add_node("store");
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            let (mut faults, mut overtaken) = (Vec::new(), 0);
            while driver.op + LATER <= 2500 {
                let mut scrub = driver.forest.scrub(seed + driver.op);
                // Some way into the first tables.
                for _ in 0..driver.op % 5 {
                    step(&mut driver, &mut scrub, &mut faults).await;
                }
                let next = driver.forest.scrub_step(&mut scrub);
                driver.run(&log, driver.op + LATER).await;
                let ScrubStep::Read(read) = next else { continue };
                let done = read.run().await;
                overtaken += u32::from(done.named.is_err());
                faults.extend(driver.forest.scrub_take(&mut scrub, done));
                while step(&mut driver, &mut scrub, &mut faults).await {}
            }
            assert!(faults.is_empty(), "seed {seed}: {faults:?}");
            assert!(driver.forest.faults().is_empty() && !driver.forest.is_damaged());
            overtaken
        };
        overtaken += world.run(node, main).expect("it runs to its end");
    }
    assert!(overtaken > 0, "no block was reused while it was read");
}

#[test]
fn a_checkpoint_that_is_being_written_is_waited_for() {
    let log = harness::log(64, &shape());
    let mut world = World::new(2, SimConfig::default());
    let node = world.add_node("store");
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        while driver.op < 900 {
            let checkpoints = driver.checkpoints;
            driver.run(&log, driver.op + 1).await;
            if driver.checkpoints == checkpoints {
                continue;
            }
            // Behind the last table.
            let mut scrub = driver.forest.scrub(0);
            (scrub.last, scrub.wrapped) = (u64::MAX - 1, true);
            assert!(matches!(driver.forest.scrub_step(&mut scrub), ScrubStep::Wait));
            driver.checkpoint_durable().await;
            let mut faults = Vec::new();
            while step(&mut driver, &mut scrub, &mut faults).await {}
            assert!(faults.is_empty() && scrub.read() > 3, "{faults:?}");
        }
        assert!(driver.checkpoints > 2);
    };
    world.run(node, main).expect("it runs to its end");
}

/// Flips a bit of a file that is in use.
async fn rot(offset: u64) {
    let options = OpenOptions { read: true, write: true, ..Default::default() };
    let file = File::open(Path::new(harness::GRID_PATH), &options).expect("there is a grid");
    let sector = offset / 4096 * 4096;
    let (result, mut buffer) = file.read(Buffer::zeroed(4096), sector).await;
    result.expect("the sector is there");
    buffer[(offset - sector) as usize] ^= 0x10;
    file.write(buffer.freeze(), sector).await.expect("the sector can be written");
    file.sync().await.expect("and synced");
}

fn offset_of(block: &BlockReference) -> u64 {
    block.address.offset(harness::config().block_size)
}

/// Rot in a block of each kind, in its header and in its body, found by a scrub while the shard
/// serves.
#[test]
fn a_corrupt_block_of_a_table_is_named_and_only_its_reads_fail() {
    let log = Rc::new(harness::log(62, &shape()));
    let (_, _, all) = filled(&log, 500);
    for kind in [BlockType::Value, BlockType::Index, BlockType::Overflow] {
        for place in [20, 300] {
            let of_kind: Vec<_> = all.iter().filter(|(found, _)| *found == kind).collect();
            let victim = of_kind[of_kind.len() - 1].1;
            a_table_block_goes_bad(&log, kind, victim, place);
        }
    }
}

fn a_table_block_goes_bad(
    log: &Rc<Vec<Vec<Action>>>,
    kind: BlockType,
    victim: BlockReference,
    place: u64,
) {
    let (mut world, node, _) = filled(log, 500);
    let log = Rc::clone(log);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let offset = offset_of(&victim);
        for place in (place..u64::from(victim.size)).step_by(if place < 256 { 4096 } else { 100 }) {
            rot(offset + place).await;
        }
        let (faults, _) = cycle(&mut driver, 5).await;
        let [ScrubFault::Table(fault)] = &faults[..] else { panic!("{kind:?}: {faults:?}") };
        assert_eq!(
            (fault.shard, fault.block, fault.offset),
            (3, victim.address, offset_of(&victim))
        );
        let table = driver.forest.faults()[0].table.clone();
        assert_eq!((fault.table, fault.tree.id()), (table.index.address, table.tree));
        assert!(table.key_min <= fault.key_min && fault.key_max <= table.key_max);
        assert_eq!(fault.key_min == fault.key_max, kind == BlockType::Overflow, "{fault}");
        // Reported once.
        assert_eq!(cycle(&mut driver, 6).await.0.len(), 0);
        driver.run(&log, 900).await;
        driver.settle().await;
        let (model, mut failed, mut read) = (harness::model(&log, 900), 0, 0);
        for number in 0..shape().keys {
            let key = harness::key_of(number);
            match driver.get(&key, u64::MAX).await {
                Ok(found) => {
                    assert_eq!(found, model.get(&key, u64::MAX));
                    read += 1;
                }
                Err(LookupError::Corrupt(corrupt)) => {
                    assert_eq!(corrupt.block, victim.address);
                    assert!(*fault.key_min <= key[..] && key[..] <= *fault.key_max);
                    failed += 1;
                }
                Err(LookupError::Moved) => panic!("nothing moves while nothing runs"),
            }
        }
        // Pages are read without the header of their block.
        let some = failed > 0 || (kind == BlockType::Value && place == 20);
        assert!(some && failed < read, "{kind:?}: {failed} failed, {read} read");
    };
    world.run(node, main).expect("it runs to its end");
}

/// What says which blocks are live is in memory as long as the shard serves: it is written anew,
/// and a restart finds nothing wrong.
#[test]
fn a_corrupt_block_of_the_checkpoint_or_the_manifest_is_named_and_written_anew() {
    let log = Rc::new(harness::log(63, &shape()));
    let (_, _, all) = filled(&log, 500);
    for kind in [BlockType::Manifest, BlockType::FreeSet, BlockType::Extra, BlockType::Checkpoint] {
        // The newest: an old one of the manifest is written anew before long in any case.
        let victim = all.iter().rfind(|(found, _)| *found == kind).expect("one of each kind").1;
        an_own_block_goes_bad(&log, kind, Some(victim));
    }
    an_own_block_goes_bad(&log, BlockType::GridHeader, None);
}

fn an_own_block_goes_bad(
    log: &Rc<Vec<Vec<Action>>>,
    kind: BlockType,
    victim: Option<BlockReference>,
) {
    let (mut world, node, _) = filled(log, 500);
    let log = Rc::clone(log);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let place = victim.as_ref().map_or(0, offset_of);
        rot(place + 100).await;
        let (faults, _) = cycle(&mut driver, 5).await;
        let [fault] = &faults[..] else { panic!("{kind:?}: {faults:?}") };
        assert_eq!(fault.offset(), place);
        assert!(fault.to_string().contains(&kind.to_string()), "{fault}");
        assert!(!driver.forest.is_damaged(), "no read needs it");
        let checkpoints = driver.checkpoints;
        driver.run(&log, 900).await;
        driver.settle().await;
        assert!(driver.checkpoints > checkpoints);
        assert_eq!(cycle(&mut driver, 6).await.0.len(), 0, "{kind:?}");
        drop(driver);
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        assert_eq!(driver.forest.verify().await, []);
        driver.run(&log, 900).await;
        driver.check(&log, 200).await;
    };
    world.run(node, main).expect("it runs to its end");
}
