//! Crashes everywhere: at every step of simulated runs, and in every state that a recorded run's
//! disk could have been left in. After each, what was acknowledged is there, what was not is there
//! wholly or not at all, and the directory goes on working, also when that is interrupted again.
//!
//! The same runs with one thing broken (`Sabotage`) must be noticed: each check was seen failing.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::fs;
use ioring::sim::trace::crash_states;
use ioring::sim::{Config, Crash, NodeId, Probe, SimDisk, World, every_crash_point};
use wire::Op;

use super::super::Sabotage;
use super::support::{self, TestLog};
use crate::format::{self, DataDirectory};
use crate::superblock;

const DIR: &str = "/replica";

/// What a run had been told when it ended.
#[derive(Clone, Copy, Default, Debug)]
struct Acks {
    formatted: bool,
    attempted: u64,
    acknowledged: u64,
}

/// What a run does.
#[derive(Clone)]
enum Step {
    /// Appends prepares of these sizes, all in flight at once.
    Append(Vec<usize>),
    /// Advances the checkpoint to this many ops behind the head.
    Checkpoint(u64),
    /// Lets time pass, so that markers are written.
    Idle(u64),
    /// Stops cleanly and opens again.
    Reopen,
}

#[derive(Clone)]
struct Run {
    steps: Vec<Step>,
    sabotage: Sabotage,
    acks: Rc<Cell<Acks>>,
    probe: Option<Rc<Probe>>,
}

impl Run {
    fn new(steps: &[Step], sabotage: Sabotage) -> Run {
        let acks = Rc::new(Cell::new(Acks { formatted: true, ..Acks::default() }));
        Run { steps: steps.to_vec(), sabotage, acks, probe: None }
    }

    fn acknowledge(&self, op: u64) {
        self.acks.set(Acks { acknowledged: op, ..self.acks.get() });
        if let Some(probe) = &self.probe {
            probe.note(op);
        }
    }

    async fn open(&self) -> Result<TestLog, String> {
        let log = TestLog::open(Path::new(DIR)).await.map_err(|error| format!("{error:?}"))?;
        log.journal.shared.sabotage.set(self.sabotage);
        Ok(log)
    }

    async fn run(self) -> Result<(), String> {
        let mut log = self.open().await?;
        for step in self.steps.clone() {
            match step {
                Step::Append(sizes) => self.append(&mut log, &sizes).await,
                Step::Checkpoint(behind) => {
                    let op = Op(log.head.0.saturating_sub(behind));
                    if op > log.directory.superblock.state().checkpoint.op {
                        log.checkpoint(op).await;
                    }
                }
                Step::Idle(ms) => ioring::sleep(Duration::from_millis(ms)).await,
                Step::Reopen => {
                    log.stop(true).await;
                    log = self.open().await?;
                }
            }
        }
        log.stop(true).await;
        Ok(())
    }

    async fn append(&self, log: &mut TestLog, sizes: &[usize]) {
        let durable = Rc::new(Cell::new(BTreeSet::new()));
        let mut writes = Vec::new();
        for &size in sizes {
            let (_, buffer) = log.next(size);
            self.acks.set(Acks { attempted: log.head.0, ..self.acks.get() });
            let frame = log.journal.frame(buffer).await;
            let (write, this, durable) = (log.journal.append(frame), self.clone(), durable.clone());
            writes.push(async move {
                let op = write.await;
                let mut set = durable.take();
                set.insert(op.0);
                // Answers go out in op order.
                while set.contains(&(this.acks.get().acknowledged + 1)) {
                    this.acknowledge(this.acks.get().acknowledged + 1);
                }
                durable.set(set);
            });
        }
        ioring::join_all(writes).await;
        log.commit = log.head;
        log.journal.note_commit(log.head);
    }
}

/// Recovers and checks everything; then appends, so that the next check has more to find.
async fn verify(acks: Rc<Cell<Acks>>) -> Result<(), String> {
    let expected = acks.get();
    if !fs::exists(Path::new(DIR)) {
        return if expected.formatted { Err("the directory is gone".into()) } else { Ok(()) };
    }
    let grid = fs::read_small(&format::grid_path(Path::new(DIR), wire::ShardId(0)));
    if grid.map_err(|error| error.to_string())? != b"grid" {
        return Err("the grid file is incomplete".into());
    }
    let log = TestLog::open(Path::new(DIR)).await;
    let mut log = log.map_err(|error| format!("{error:?}"))?;
    let head = log.head.0;
    if head < expected.acknowledged || head > expected.attempted {
        return Err(format!("head is {head}, expected {expected:?}"));
    }
    log.check().await;
    acks.set(Acks { attempted: head + 1, acknowledged: head, ..expected });
    log.append(3000).await;
    acks.set(Acks { acknowledged: head + 1, ..acks.get() });
    Ok(())
}

/// Checks after a crash, with another crash in the middle of that.
fn check_after(world: &mut World, node: NodeId, acks: &Rc<Cell<Acks>>, twice: u64) -> bool {
    if twice > 0 {
        world.crash_at(node, twice, Crash::Power);
        let again = acks.clone();
        if let Ok(Err(error)) = world.run(node, move || verify(again)) {
            eprintln!("first: {error}");
            return false;
        }
        world.crash_never(node);
    }
    let again = acks.clone();
    match world.run(node, move || verify(again)) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            eprintln!("failed: {error}");
            false
        }
        Err(status) => panic!("the node died: {status:?}"),
    }
}

/// A formatted disk, with `steps` done and cleanly stopped.
fn prepared(steps: &[Step]) -> (SimDisk, Acks) {
    let mut world = World::new(1, Config::default());
    let node = world.add_node("base");
    world.run(node, || support::make(Path::new(DIR))).unwrap();
    let run = Run::new(steps, Sabotage::None);
    let acks = run.acks.clone();
    world.run(node, || run.run()).unwrap().unwrap();
    world.disk(node).settle();
    (world.disk(node).clone(), acks.get())
}

/// Crashes a run at every step (or `limit` of them); returns points and failures.
fn crash_everywhere(
    (base, before): &(SimDisk, Acks),
    steps: &[Step],
    sabotage: Sabotage,
    limit: u64,
    seed: u64,
) -> (u64, u64) {
    let (mut runs, mut failures) = (seed * 1_000_003, 0);
    let workload = |world: &mut World, node: NodeId| {
        runs += 1;
        let mut disk = base.clone();
        disk.reseed_crashes(runs);
        world.set_disk(node, disk);
        let run = Run::new(steps, sabotage);
        run.acks.set(*before);
        let acks = run.acks.clone();
        if let Ok(result) = world.run(node, || run.run()) {
            result.unwrap();
        }
        acks
    };
    let points =
        every_crash_point(seed, &Config::default(), limit, workload, |world, node, point, acks| {
            let twice = if point.step % 3 == 0 { 5 + point.step % 97 } else { 0 };
            failures += u64::from(!check_after(world, node, &acks, twice));
        });
    (points, failures)
}

/// Rebuilds disks from a recorded run; returns states and failures.
fn all_states(
    (base, before): &(SimDisk, Acks),
    steps: &[Step],
    sabotage: Sabotage,
    limit: usize,
) -> (u64, u64) {
    let mut world = World::new(3, Config::default());
    let node = world.add_node("recorded");
    world.set_disk(node, base.clone());
    world.disk(node).record();
    let mut run = Run::new(steps, sabotage);
    run.acks.set(*before);
    run.probe = Some(Rc::new(world.probe(node)));
    let acks = run.acks.clone();
    world.run(node, || run.run()).unwrap().unwrap();
    let trace = world.disk(node).take_trace().unwrap();
    let (mut states, mut failures) = (0, 0);
    for state in crash_states(&trace, limit, 5) {
        let mut world = World::new(states, Config::default());
        let node = world.add_node("rebuilt");
        world.set_disk(node, state.disk);
        let acknowledged = state.notes.last().copied().unwrap_or(before.acknowledged);
        let found = Rc::new(Cell::new(Acks { acknowledged, ..acks.get() }));
        failures += u64::from(!check_after(&mut world, node, &found, 0));
        states += 1;
    }
    (states, failures)
}

fn appends() -> Vec<Step> {
    vec![
        Step::Append(vec![100]),
        Step::Append(vec![0, 5000, 7000]),
        Step::Idle(12),
        Step::Append(vec![7_900, 1, 700, 4000]),
        Step::Reopen,
        Step::Append(vec![3000, 3000]),
        Step::Idle(12),
    ]
}

/// Segments wrap; restarts leave them part empty, so that live frames must be written again.
fn wraps(rounds: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..rounds {
        steps.push(Step::Append(vec![7000, 200 + round * 37 % 4000, 3900]));
        if round % 2 == 1 {
            steps.push(Step::Checkpoint(9));
        }
        if round % 5 == 1 {
            steps.push(Step::Idle(6));
        }
        if round % 7 > 4 {
            steps.push(Step::Reopen);
        }
    }
    steps
}

#[test]
fn format_is_whole_or_nothing() {
    let workload = |world: &mut World, node: NodeId| {
        let acks = Rc::new(Cell::new(Acks::default()));
        let told = acks.clone();
        let _ = world.run(node, || async move {
            support::make(Path::new(DIR)).await;
            told.set(Acks { formatted: true, ..told.get() });
        });
        acks
    };
    for seed in 0..3 {
        let points = every_crash_point(
            seed,
            &Config::default(),
            400,
            workload,
            |world, node, point, acks| {
                assert!(
                    check_after(world, node, &acks, point.step % 50),
                    "{point:?} {:?}",
                    acks.get()
                );
                // Whatever was left, formatting can be repeated.
                let formatted = world.run(node, || async {
                    if !fs::exists(Path::new(DIR)) {
                        support::make(Path::new(DIR)).await;
                    }
                });
                formatted.unwrap();
                let acks =
                    Rc::new(Cell::new(Acks { formatted: true, attempted: 9, ..Acks::default() }));
                assert!(check_after(world, node, &acks, 0), "{point:?}");
            },
        );
        assert!(points > 10);
    }
}

#[test]
fn format_in_every_disk_state() {
    let mut world = World::new(3, Config::default());
    let node = world.add_node("recorded");
    world.disk(node).record();
    let probe = world.probe(node);
    let made = world.run(node, || async move {
        support::make(Path::new(DIR)).await;
        probe.note(1);
    });
    made.unwrap();
    let trace = world.disk(node).take_trace().unwrap();
    let mut present = 0;
    for state in crash_states(&trace, 1500, 5) {
        let mut world = World::new(1, Config::default());
        let node = world.add_node("rebuilt");
        world.set_disk(node, state.disk);
        let formatted = !state.notes.is_empty();
        let acks = Rc::new(Cell::new(Acks { formatted, ..Acks::default() }));
        assert!(check_after(&mut world, node, &acks, 0), "after {} events", state.prefix);
        present += u64::from(acks.get().attempted > 0);
    }
    assert!(present > 0);
}

#[test]
fn appends_survive_any_crash() {
    let base = prepared(&[]);
    for seed in 0..4 {
        let (points, failures) = crash_everywhere(&base, &appends(), Sabotage::None, 500, seed);
        assert!(points > 100 && failures == 0, "{failures} of {points}");
    }
    let (states, failures) = all_states(&base, &appends(), Sabotage::None, 1500);
    assert!(states > 500 && failures == 0, "{failures} of {states}");
}

#[test]
fn wrapping_and_writing_again_survive_any_crash() {
    let base = prepared(&wraps(20));
    for seed in 0..3 {
        let (points, failures) = crash_everywhere(&base, &wraps(30), Sabotage::None, 600, seed);
        assert!(points > 400 && failures == 0, "{failures} of {points}");
    }
    let (states, failures) = all_states(&base, &wraps(15), Sabotage::None, 1500);
    assert!(states > 500 && failures == 0, "{failures} of {states}");
    let reached = ioring::sim::marks::hits();
    for mark in [
        "journal_frame_void",
        "journal_frame_written_again",
        "journal_marker_written",
        "journal_originals_taken",
        "journal_segment_sealed",
        "journal_torn_tail_forgotten",
        "superblock_update_finished",
    ] {
        assert!(reached.contains_key(mark), "{mark} was never reached: {reached:?}");
    }
}

#[test]
fn frames_that_are_not_durable_are_noticed() {
    let base = prepared(&[]);
    let (points, failures) = crash_everywhere(&base, &appends(), Sabotage::NotDurable, 300, 1);
    assert!(failures > points / 20, "{failures} of {points}");
    let (_, failures) = all_states(&base, &appends(), Sabotage::NotDurable, 1000);
    assert!(failures > 0);
}

#[test]
fn giving_up_a_segment_too_early_is_noticed() {
    let base = prepared(&wraps(20));
    ioring::sim::marks::reset();
    // A checkpoint far behind, so that what moved stays needed; markers, so that it has to move; no
    // restart, because recovery makes durable whatever it finds.
    let mut steps = vec![Step::Checkpoint(2)];
    for _ in 0..70 {
        steps.extend([Step::Append(vec![10]), Step::Idle(6), Step::Checkpoint(27)]);
    }
    let (points, failures) = crash_everywhere(&base, &steps, Sabotage::None, 200, 1);
    assert!(failures == 0, "{failures} of {points}");
    assert!(ioring::sim::marks::hits().contains_key("journal_frame_written_again"));
    let (points, failures) = crash_everywhere(&base, &steps, Sabotage::CopiesNotDurable, 200, 1);
    assert!(failures > 0, "of {points}");
}

// ---- superblock ----

/// Raises the commit number step by step.
async fn updates(acks: Rc<Cell<Acks>>, probe: Option<Probe>, sabotage: superblock::Sabotage) {
    let directory = DataDirectory::open(Path::new(DIR), &support::open_options()).await.unwrap();
    directory.superblock.sabotage.set(sabotage);
    for number in 1..=6 {
        acks.set(Acks { attempted: number, ..acks.get() });
        directory.superblock.update(|state| state.commit_max = Op(number)).await;
        acks.set(Acks { acknowledged: number, ..acks.get() });
        if let Some(probe) = &probe {
            probe.note(number);
        }
    }
}

fn superblock_is_right(world: &mut World, node: NodeId, acks: Acks) -> bool {
    let found = world.run(node, || async {
        let open = DataDirectory::open(Path::new(DIR), &support::open_options()).await;
        open.map(|directory| directory.superblock.state().commit_max.0).ok()
    });
    let expected = acks.acknowledged..=acks.attempted;
    found.unwrap().is_some_and(|commit| expected.contains(&commit))
}

fn crash_updates(sabotage: superblock::Sabotage, seed: u64) -> (u64, u64) {
    let (base, _) = prepared(&[]);
    let (mut runs, mut failures) = (seed * 1_000_003, 0);
    let workload = |world: &mut World, node: NodeId| {
        runs += 1;
        let mut disk = base.clone();
        disk.reseed_crashes(runs);
        world.set_disk(node, disk);
        let acks = Rc::new(Cell::new(Acks { formatted: true, ..Acks::default() }));
        let told = acks.clone();
        let _ = world.run(node, move || updates(told, None, sabotage));
        acks
    };
    let points =
        every_crash_point(seed, &Config::default(), 400, workload, |world, node, point, acks| {
            if point.step % 2 == 0 {
                // A crash while the interrupted update is being completed.
                world.crash_at(node, 3 + point.step % 40, Crash::Power);
                let _ = world.run(node, || async {
                    DataDirectory::open(Path::new(DIR), &support::open_options()).await.is_ok()
                });
                world.crash_never(node);
            }
            failures += u64::from(!superblock_is_right(world, node, acks.get()));
        });
    (points, failures)
}

fn update_states(sabotage: superblock::Sabotage, limit: usize) -> (u64, u64) {
    let (base, _) = prepared(&[]);
    let mut world = World::new(3, Config::default());
    let node = world.add_node("recorded");
    world.set_disk(node, base);
    world.disk(node).record();
    let probe = world.probe(node);
    let acks = Rc::new(Cell::new(Acks::default()));
    world.run(node, move || updates(acks, Some(probe), sabotage)).unwrap();
    let trace = world.disk(node).take_trace().unwrap();
    let (mut states, mut failures) = (0, 0);
    for state in crash_states(&trace, limit, 5) {
        let mut world = World::new(1, Config::default());
        let node = world.add_node("rebuilt");
        world.set_disk(node, state.disk);
        let acknowledged = state.notes.last().copied().unwrap_or(0);
        let acks = Acks { acknowledged, attempted: acknowledged + 1, formatted: true };
        failures += u64::from(!superblock_is_right(&mut world, node, acks));
        states += 1;
    }
    (states, failures)
}

#[test]
fn superblock_updates_survive_any_crash() {
    for seed in 0..4 {
        let (points, failures) = crash_updates(superblock::Sabotage::None, seed);
        assert!(points > 20 && failures == 0, "{failures} of {points}");
    }
    let (states, failures) = update_states(superblock::Sabotage::None, 4000);
    assert!(states > 200 && failures == 0, "{failures} of {states}");
}

#[test]
fn a_broken_superblock_update_is_noticed() {
    use superblock::Sabotage::{HalfOnly, NoBarrier, NotDurable};
    for sabotage in [HalfOnly, NoBarrier, NotDurable] {
        let (states, failures) = update_states(sabotage, 4000);
        assert!(failures > 0, "{sabotage:?} of {states}");
    }
}
