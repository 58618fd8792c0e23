//! Crashes everywhere: at every step of simulated runs, and in every state that a recorded run's
//! disk could have been left in.

use std::rc::Rc;

use ioring::sim::trace::crash_states;
use ioring::sim::{Config, Crash, NodeId, SimDisk, World, every_crash_point};

use super::node::{History, Member, make};
use super::{Model, seeds};
use crate::journal::Sabotage;

/// A formatted disk, with a life of so many steps on it.
fn prepared(seed: u64, steps: u64) -> (SimDisk, Model) {
    let mut world = World::new(1, Config::default());
    let node = world.add_node("base");
    world.run(node, make).unwrap();
    let history = History::new(Model::new());
    let told = history.clone();
    let lived = world.run(node, move || live(told, seed, steps, Sabotage::None));
    lived.unwrap().unwrap();
    world.disk(node).settle();
    let model = history.now.borrow().clone();
    (world.disk(node).clone(), model)
}

/// A life: what was found is checked, so many things are done, all that is held is read.
async fn live(history: History, seed: u64, steps: u64, sabotage: Sabotage) -> Result<(), String> {
    for part in 0..3 {
        let mut member = Member::open(history.clone(), seed + part).await?;
        member.check(false).await?;
        member.journal.shared.sabotage.set(sabotage);
        member.run(steps / 3).await;
        if sabotage == Sabotage::None {
            member.check_held().await?;
        }
        member.stop(part == 1).await;
    }
    Ok(())
}

/// Checks after a crash, some of them interrupted by another one.
fn check_after(world: &mut World, node: NodeId, model: &Model, twice: u64) -> bool {
    let mut model = model.clone();
    if twice > 0 {
        let history = History::new(model);
        let told = history.clone();
        world.crash_at(node, twice, Crash::Power);
        if let Ok(Err(error)) = world.run(node, move || live(told, twice, 30, Sabotage::None)) {
            eprintln!("first: {error}");
            return false;
        }
        world.crash_never(node);
        model = history.now.borrow().clone();
    }
    match world.run(node, move || live(History::new(model), 5, 12, Sabotage::None)) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            eprintln!("failed: {error}");
            false
        }
        Err(status) => panic!("the node died: {status:?}"),
    }
}

/// Crashes a life at every step, or `limit` of them; returns points and failures.
fn crash_everywhere(
    (base, before): &(SimDisk, Model),
    (seed, steps): (u64, u64),
    sabotage: Sabotage,
    limit: u64,
) -> (u64, u64) {
    let (mut runs, mut failures) = (seed * 1_000_003, 0);
    let workload = |world: &mut World, node: NodeId| {
        runs += 1;
        let mut disk = base.clone();
        disk.reseed_crashes(runs);
        world.set_disk(node, disk);
        let history = History::new(before.clone());
        let told = history.clone();
        if let Ok(result) = world.run(node, move || live(told, seed, steps, sabotage)) {
            result.unwrap();
        }
        history
    };
    let config = Config::default();
    let points =
        every_crash_point(seed, &config, limit, workload, |world, node, point, history| {
            let twice = if point.step % 3 == 0 { 5 + point.step % 197 } else { 0 };
            let model = history.now.borrow().clone();
            failures += u64::from(!check_after(world, node, &model, twice));
        });
    (points, failures)
}

/// Rebuilds disks from a recorded life; returns states and failures.
fn all_states(
    (base, before): &(SimDisk, Model),
    (seed, steps): (u64, u64),
    sabotage: Sabotage,
    limit: usize,
) -> (u64, u64) {
    let mut world = World::new(3, Config::default());
    let node = world.add_node("recorded");
    world.set_disk(node, base.clone());
    world.disk(node).record();
    let mut history = History::new(before.clone());
    history.probe = Some(Rc::new(world.probe(node)));
    let told = history.clone();
    world.run(node, move || live(told, seed, steps, sabotage)).unwrap().unwrap();
    let trace = world.disk(node).take_trace().unwrap();
    let last = history.now.borrow().clone();
    let (mut states, mut failures) = (0, 0);
    for state in crash_states(&trace, limit, 5) {
        let mut world = World::new(states, Config::default());
        let node = world.add_node("rebuilt");
        world.set_disk(node, state.disk);
        let index = state.notes.last().map(|index| *index as usize);
        let at = index.map_or(before.clone(), |index| history.states.borrow()[index].clone());
        // A note comes a moment after what it tells was begun.
        let model = Model { logs: last.logs.clone(), attempted: last.attempted.clone(), ..at };
        failures += u64::from(!check_after(&mut world, node, &model, 0));
        states += 1;
    }
    (states, failures)
}

#[test]
fn lives_of_members() {
    ioring::sim::marks::reset();
    for seed in 0..seeds(40) {
        prepared(1000 * seed, 240);
    }
    let reached = ioring::sim::marks::hits();
    for mark in [
        "journal_frame_void",
        "journal_frame_written_again",
        "journal_marker_written",
        "journal_segment_sealed",
        "journal_version_given_up",
    ] {
        assert!(reached.contains_key(mark), "{mark} was never reached: {reached:?}");
    }
}

#[test]
fn members_survive_any_crash() {
    for seed in 1..=seeds(4) {
        let base = prepared(seed, 60 * (1 + seed % 4));
        let (points, failures) = crash_everywhere(&base, (seed, 60), Sabotage::None, 300);
        assert!(points > 200 && failures == 0, "{failures} of {points}");
    }
    let base = prepared(7, 150);
    let (states, failures) = all_states(&base, (9, 60), Sabotage::None, 1500);
    assert!(states > 500 && failures == 0, "{failures} of {states}");
    let reached = ioring::sim::marks::hits();
    for mark in ["journal_append_waited_for_space", "journal_frame_written_again"] {
        assert!(reached.contains_key(mark), "{mark} was never reached: {reached:?}");
    }
}

#[test]
fn broken_members_are_noticed() {
    for sabotage in [Sabotage::NotDurable, Sabotage::CopiesNotDurable, Sabotage::GiveUpTooMuch] {
        let noticed = (0..10).any(|seed| {
            let base = prepared(seed, 150);
            crash_everywhere(&base, (seed, 120), sabotage, 60).1 > 0
        });
        assert!(noticed, "{sabotage:?}");
    }
}
