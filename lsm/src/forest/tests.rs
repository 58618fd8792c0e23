//! The forest against its model: random logs, reopening, crashes, determinism, faults.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use ioring::sim::{Config as SimConfig, Crash, NodeId, Status, World, every_crash_point, trace};

use super::harness::{self, Action, Driver, Shape};
use crate::config::Config;
use crate::entry::Level;
use crate::expiry::DueStep;
use crate::lookup::LookupError;

fn world(seed: u64) -> World {
    World::new(seed, SimConfig::default())
}

/// Runs the log up to `ops`, from whatever the disk holds; gives the op it began with.
fn run(world: &mut World, node: NodeId, log: &Rc<Vec<Vec<Action>>>, ops: u64) -> u64 {
    let log = Rc::clone(log);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let start = driver.op;
        driver.run(&log, ops).await;
        driver.settle().await;
        start
    };
    world.run(node, main).unwrap()
}

fn check(world: &mut World, node: NodeId, log: &Rc<Vec<Vec<Action>>>, shape: &Shape) -> u64 {
    let (log, keys, ops) = (Rc::clone(log), shape.keys, shape.ops);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let start = driver.op;
        driver.run(&log, ops).await;
        driver.check(&log, keys).await;
        start
    };
    world.run(node, main).unwrap()
}

#[test]
fn equals_the_model_at_every_bar() {
    for seed in 0..6 {
        let shape = Shape { sequential: seed == 5, ..Shape::default() };
        let log = harness::log(seed, &shape);
        let mut world = world(seed);
        let node = world.add_node("store");
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            let mut checked = 0;
            for op in 1..=shape.ops {
                driver.run(&log, op).await;
                if driver.bars >= checked + 8 {
                    checked = driver.bars;
                    driver.check(&log, shape.keys).await;
                }
            }
            driver.check(&log, shape.keys).await;
            assert!(driver.bars > 10, "{} bars", driver.bars);
            assert!(driver.checkpoints > 2, "{} checkpoints", driver.checkpoints);
        };
        world.run(node, main).unwrap();
    }
}

/// With a history window, readers far behind see what was there, through merges and a restart.
#[test]
fn a_history_window_keeps_superseded_versions() {
    for seed in 50..53 {
        let shape = Shape { ops: 700, keys: 25, ..Shape::default() };
        let log = harness::log(seed, &shape);
        let window = harness::version(300, 0);
        let mut world = world(seed);
        let node = world.add_node("store");
        for ops in [400, 700] {
            let log = log.clone();
            let main = move || async move {
                let config = Config { history_window: window, ..harness::config() };
                let mut driver = Driver::open(&config, Rc::default()).await;
                driver.run(&log, ops).await;
                let reach = driver.forest.version() - driver.forest.snapshot_min();
                assert!(reach >= window, "snapshots reach back {reach} of {window}");
                driver.check(&log, shape.keys).await;
                assert_eq!(driver.forest.verify().await, []);
                driver.settle().await;
            };
            world.run(node, main).unwrap();
        }
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_and_replays_to_the_model() {
    let shape = Shape { ops: 260, keys: 120, ..Shape::default() };
    let log = Rc::new(harness::log(11, &shape));
    let replayed_from = RefCell::new(Vec::new());
    let points = every_crash_point(
        3,
        &SimConfig::default(),
        crash_points(),
        |world, node| {
            let durable = Rc::new(Cell::new(0));
            let (log, inside) = (Rc::clone(&log), Rc::clone(&durable));
            let end = world.run(node, move || async move {
                let mut driver = Driver::open(&harness::config(), inside).await;
                driver.run(&log, shape.ops).await;
                driver.settle().await;
            });
            assert!(end.is_ok() || matches!(world.status(node), Status::Crashed(_)));
            durable.get()
        },
        |world, node, _, durable| {
            let start = check(world, node, &log, &shape);
            assert!(start >= durable, "checkpoint {durable} was durable, {start} was found");
            replayed_from.borrow_mut().push(start);
        },
    );
    assert!(points >= crash_points().min(30));
    let mut starts = replayed_from.into_inner();
    starts.dedup();
    assert!(starts.len() > 2, "crashes before and after several checkpoints: {starts:?}");
}

/// How many crash points one run of the tests takes; a longer one is asked for by name.
fn crash_points() -> u64 {
    std::env::var("LSM_CRASH_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// The same log gives the same bytes, whatever order I/O finishes in, and through a restart.
#[test]
fn the_same_log_gives_the_same_grid() {
    let shape = Shape { ops: 700, ..Shape::default() };
    let log = Rc::new(harness::log(21, &shape));
    let mut grids = Vec::new();
    for (seed, stops) in [(1, vec![]), (2, vec![]), (3, vec![350]), (4, vec![200, 210, 500])] {
        let mut world = world(seed);
        let node = world.add_node("store");
        let mut from = Vec::new();
        for ops in stops.into_iter().chain([shape.ops]) {
            from.push(run(&mut world, node, &log, ops));
            world.crash(node, Crash::Process);
        }
        assert!(from.len() < 2 || from[1] > 0, "a restart goes on from a checkpoint: {from:?}");
        let bytes = world.disk(node).contents(Path::new(harness::GRID_PATH)).unwrap();
        grids.push(bytes);
    }
    let block = harness::config().block_size as usize;
    for other in &grids[1..] {
        for (number, (a, b)) in grids[0].chunks(block).zip(other.chunks(block)).enumerate() {
            assert!(a == b, "block {number} differs");
        }
    }
}

/// Every state a power failure can leave behind around a checkpoint opens and replays.
#[test]
fn a_checkpoint_is_whole_or_the_one_before_is() {
    let shape = Shape { ops: 500, keys: 60, deadlines: 0, pulses: 0, ..Shape::default() };
    let log = Rc::new(harness::log(31, &shape));
    let mut world = world(5);
    let node = world.add_node("store");
    let probe = world.probe(node);
    let inside = Rc::clone(&log);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        while driver.checkpoints < 2 {
            driver.run(&inside, driver.op + 1).await;
        }
        driver.checkpoint_durable().await;
        // From here up to the next checkpoint, and until it is durable.
        let before = driver.durable.get();
        probe.with_disk(|disk| disk.record());
        probe.note(before);
        while driver.durable.get() == before {
            driver.run(&inside, driver.op + 1).await;
        }
        probe.note(driver.durable.get());
    };
    world.run(node, main).unwrap();
    let recorded = world.disk(node).take_trace().unwrap();
    let (mut states, mut found) = (0, Vec::new());
    for (number, state) in trace::crash_states(&recorded, 3, 1).enumerate() {
        // Near the end, where the checkpoint is, all of them; before, some.
        if number % 3 != 0 && state.prefix + 40 < recorded.len() {
            continue;
        }
        let promised = state.notes.last().copied().unwrap_or(0);
        let mut world = self::world(1);
        let node = world.add_node("recovering");
        world.set_disk(node, state.disk);
        let start = check(&mut world, node, &log, &shape);
        assert!(start >= promised, "{promised} was promised, {start} was found");
        found.push(start);
        states += 1;
    }
    found.sort_unstable();
    found.dedup();
    assert!(states > 50 && found.len() == 2, "{states} states, checkpoints {found:?}");
}

/// A rotten block: reads that need it fail by name, compaction leaves the table alone, all else
/// goes on.
#[test]
fn a_corrupt_block_costs_only_what_it_holds() {
    let shape =
        Shape { ops: 900, keys: 3000, deadlines: 0, pulses: 0, large: 0, ..Shape::default() };
    let log = Rc::new(harness::log(41, &shape));
    let mut world = world(6);
    let node = world.add_node("store");
    run(&mut world, node, &log, 450);
    let victim = {
        let log = Rc::clone(&log);
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            let victim = driver.value_block_of_last_level().await;
            driver.run(&log, 450).await;
            driver.settle().await;
            assert_eq!(driver.forest.verify().await, []);
            victim
        };
        world.run(node, main).unwrap()
    };
    // In several of its pages: what one of them holds may be written again.
    for within in (300..3300).step_by(500) {
        let offset = victim.offset(harness::config().block_size) + within;
        world.disk(node).rot(Path::new(harness::GRID_PATH), offset, 0x10).unwrap();
    }
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let faults = driver.forest.verify().await;
        assert!(faults.iter().any(|fault| fault.block == Some(victim)), "{faults:?}");
        driver.run(&log, shape.ops).await;
        driver.settle().await;
        let model = harness::model(&log, shape.ops);
        let (mut failed, mut read) = (0, 0);
        for number in 0..shape.keys {
            let key = harness::key_of(number);
            match driver.get(&key, u64::MAX).await {
                Ok(found) => {
                    assert_eq!(found, model.get(&key, u64::MAX));
                    read += 1;
                }
                Err(LookupError::Corrupt(corrupt)) => {
                    assert_eq!((corrupt.block, corrupt.shard), (victim, 3));
                    assert!(*corrupt.key_min <= key[..] && key[..] <= *corrupt.key_max);
                    failed += 1;
                }
                Err(LookupError::Moved) => panic!("nothing moves while nothing runs"),
            }
        }
        assert!(failed > 0 && read > failed, "{failed} failed, {read} read");
        assert!(!driver.forest.faults().is_empty(), "a merge met the block");
    };
    world.run(node, main).unwrap();
}

/// A corrupt table under level 0 stops its merges. Writes are to be refused before its runs are too
/// many, and not before.
#[test]
fn a_corrupt_table_does_not_let_level_0_grow_without_end() {
    let shape =
        Shape { ops: 3000, keys: 3000, deadlines: 0, pulses: 0, large: 0, ..Shape::default() };
    let log = Rc::new(harness::log(42, &shape));
    let mut world = world(10);
    let node = world.add_node("store");
    run(&mut world, node, &log, 450);
    let main = || async {
        let driver = Driver::open(&harness::config(), Rc::default()).await;
        assert!(!driver.forest.is_stuck());
        driver.value_block_of_last_level().await
    };
    let victim = world.run(node, main).unwrap();
    let offset = victim.offset(harness::config().block_size) + 300;
    world.disk(node).rot(Path::new(harness::GRID_PATH), offset, 0x10).unwrap();
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let (mut runs_max, mut healthy) = (0, 0);
        while driver.op < shape.ops && !driver.forest.is_stuck() {
            driver.run(&log, driver.op + 1).await;
            let runs =
                driver.forest.trees.iter().map(|tree| tree.manifest.runs_of(Level(0)).count());
            runs_max = runs.max().unwrap();
            healthy += u64::from(driver.forest.faults().is_empty());
        }
        assert!(driver.forest.is_stuck(), "{runs_max} runs and no end");
        assert!(!driver.forest.faults().is_empty() && healthy > 0, "{:?}", driver.forest.faults());
        assert_eq!(runs_max, 8 * harness::config().level0_runs_max as usize);
    };
    world.run(node, main).unwrap();
}

/// What a pulse has dealt with is gone from the expiry tree, and the next deadline is known.
#[test]
fn due_objects_are_deleted_and_forgotten() {
    let mut world = world(7);
    let node = world.add_node("store");
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let put = |key, deadline| vec![Action::Put { key, len: 10, deadline }];
        let at = |op| harness::version(op, 0);
        // Key 1 is overwritten with a later deadline, key 2 without one, key 3 is deleted.
        let mut log = vec![put(1, at(5)), put(2, at(5)), put(3, at(5)), put(4, at(5))];
        log.extend([put(1, at(500)), put(2, 0), vec![Action::Delete { key: 3 }]]);
        log.push(vec![Action::Pulse]);
        // Enough to carry everything through several levels.
        log.extend((0..400).map(|n| put(10 + n, 0)));
        log.push(vec![Action::Pulse]);
        let ops = log.len() as u64;
        driver.run(&log, 8).await;
        for (key, lives) in [(1, true), (2, true), (3, false), (4, false)] {
            let found = driver.get(&harness::key_of(key), u64::MAX).await.unwrap();
            assert_eq!(found.is_some(), lives, "key {key}");
        }
        driver.run(&log, ops).await;
        assert_eq!(driver.forest.pending().deadline, Some(at(500)));
        let mut walk = driver.forest.due(at(499));
        let mut due = Vec::new();
        loop {
            match driver.forest.due_step(&mut walk, 10, &mut due) {
                DueStep::Finished => break,
                DueStep::More => {}
                DueStep::NeedsRead(read) => walk.supply(read.run().await.unwrap()),
            }
        }
        assert_eq!(due, []);
        driver.check(&log, 420).await;
    };
    world.run(node, main).unwrap();
}

/// Puts new keys until no more are accepted; gives how many.
async fn fill(driver: &mut Driver, log: &mut Vec<Vec<Action>>) -> u32 {
    let mut key = 0;
    while driver.forest.space().allows_puts() {
        let put = |key| Action::Put { key, len: 900, deadline: 0 };
        log.push((0..4).map(|n| put(key + n)).collect());
        key += 4;
        driver.run(log, log.len() as u64).await;
        assert!(key < 20_000, "the grid never fills: {:?}", driver.forest.space());
    }
    key
}

/// A full grid takes no writes: pulses alone have to bring back what a flush of everything left,
/// and end when there is nothing more to bring back.
#[test]
fn a_full_grid_recovers_after_a_flush_without_writes() {
    let mut world = world(9);
    let node = world.add_node("store");
    let main = move || async move {
        let config = Config { grid_blocks_max: 8192, ..harness::config() };
        let mut driver = Driver::open(&config, Rc::default()).await;
        let mut log: Vec<Vec<Action>> = Vec::new();
        let key = fill(&mut driver, &mut log).await;
        let version = driver.forest.version() + 1;
        driver.forest.set_generation(1, 2, version);
        let full = driver.forest.space();
        let mut pulses = 0;
        while !driver.forest.space().allows_puts() {
            let pending = driver.forest.pending();
            assert!(pending.jobs || pending.space, "pulses end: {:?}", driver.forest.space());
            pulses += 1;
            assert!(pulses < 20_000, "{full:?} became {:?}", driver.forest.space());
            log.push(vec![Action::Pulse]);
            driver.run(&log, log.len() as u64).await;
        }
        assert!(key > 200, "{key} keys");
        assert_eq!(driver.forest.verify().await, []);
        pulses = 0;
        while driver.forest.pending().jobs || driver.forest.pending().space {
            pulses += 1;
            assert!(pulses < 20_000, "pulses never end");
            log.push(vec![Action::Pulse]);
            driver.run(&log, log.len() as u64).await;
        }
    };
    world.run(node, main).unwrap();
}

/// What a flush of everything leaves goes table by table, unread: also when there is no shortage
/// and nobody writes. Then there is nothing more to do.
#[test]
fn tables_of_a_dead_generation_are_dropped_whole() {
    for large in [0, 300] {
        let shape =
            Shape { ops: 1500, keys: 4000, deadlines: 0, pulses: 0, large, ..Shape::default() };
        let mut log = harness::log(81, &shape);
        let mut world = world(14);
        let node = world.add_node("store");
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            driver.run(&log, shape.ops).await;
            let live = |driver: &Driver| driver.forest.manifest_log.tables().len();
            let (tables, before) = (live(&driver), driver.forest.grid().space());
            assert!(tables > 20 && driver.forest.space().allows_puts(), "{tables} tables");
            let version = driver.forest.version() + 1;
            driver.forest.set_generation(1, 2, version);
            let (bars, mut jobs) = (driver.bars, driver.forest.stats().blocks_written);
            while driver.forest.pending().jobs {
                log.push(vec![Action::Pulse]);
                driver.run(&log, log.len() as u64).await;
                assert!(driver.bars - bars < 8, "{} tables of {tables}", live(&driver));
                if driver.bars - bars < 2 {
                    // Of a bar that was planned before.
                    jobs = driver.forest.stats().blocks_written;
                }
            }
            driver.settle().await;
            let after = driver.forest.grid().space();
            let written = driver.forest.stats().blocks_written - jobs;
            assert!(written == 0 && driver.bars - bars <= 3, "{written} blocks written");
            assert_eq!(live(&driver), 0);
            let released = after.staged + after.pending + before.acquired - after.acquired;
            assert!(released + 30 > before.acquired, "{before:?}, {after:?}");
            assert_eq!(driver.forest.verify().await, []);
        };
        world.run(node, main).unwrap();
    }
}

/// Admission by `space` keeps bars from failing; deletes bring the space back.
#[test]
fn a_full_grid_refuses_early_and_recovers_after_deletes() {
    let mut world = world(8);
    let node = world.add_node("store");
    let main = move || async move {
        let config = Config { grid_blocks_max: 8192, ..harness::config() };
        let mut driver = Driver::open(&config, Rc::default()).await;
        let mut log: Vec<Vec<Action>> = Vec::new();
        let key = fill(&mut driver, &mut log).await;
        let full = driver.forest.space();
        assert!(full.allows_deletes() && key > 200, "{key} keys in {full:?}");
        for number in (0..key).step_by(4) {
            while !driver.forest.space().allows_deletes() {
                log.push(vec![Action::Pulse]);
                driver.run(&log, log.len() as u64).await;
                assert!(log.len() < 60_000, "stuck after {number} of {key} deletes");
            }
            log.push((0..4).map(|n| Action::Delete { key: number + n }).collect());
            driver.run(&log, log.len() as u64).await;
        }
        // Bars of pulses carry the tombstones down and free what they hide.
        while !driver.forest.space().allows_puts() {
            log.push(vec![Action::Pulse]);
            driver.run(&log, log.len() as u64).await;
            assert!(log.len() < 60_000, "space does not come back: {:?}", driver.forest.space());
        }
        driver.check(&log, key.min(200)).await;
        assert_eq!(driver.forest.verify().await, []);
    };
    world.run(node, main).unwrap();
}
