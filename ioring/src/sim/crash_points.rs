//! A crash at every step of a workload.
//!
//! 1. The workload runs once, undisturbed, to count the steps (polls, completions, blocking calls)
//!    it makes.
//! 2. For each step in turn (or evenly spread ones, when there are more than the limit) it runs
//!    again from the same seed, is crashed at that step, and a checker gets the world.
//! 3. Up to the crash a run is the same as the undisturbed one, so each step is a different and
//!    repeatable place. The kind of crash alternates; the seed of the disk's decisions moves with
//!    the point, so that neighbouring points differ in what was lost.

use super::{Config, Crash, NodeId, World};

/// Where a run was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// The step of the node before which it died.
    pub step: u64,
    /// How it died.
    pub crash: Crash,
    /// Seed of the world.
    pub seed: u64,
}

/// Runs `workload` on a fresh node once for each crash point, at most `limit` of them, and `check`
/// after each crash. Returns how many points were checked.
///
/// `workload` starts the node and steps until it is finished or dead ([`World::run`] does both),
/// and returns what the checker has to know. It must not depend on anything but the world.
pub fn every_crash_point<A>(
    seed: u64,
    config: &Config,
    limit: u64,
    mut workload: impl FnMut(&mut World, NodeId) -> A,
    mut check: impl FnMut(&mut World, NodeId, CrashPoint, A),
) -> u64 {
    let mut world = World::new(seed, config.clone());
    let node = world.add_node("crash point");
    workload(&mut world, node);
    let steps = world.node_steps(node);
    assert!(steps > 0, "the workload did not run");
    let points = steps.min(limit);
    for point in 0..points {
        let step = (u128::from(point) * u128::from(steps) / u128::from(points)) as u64;
        let crash = if point % 4 == 3 { Crash::Process } else { Crash::Power };
        let mut world = World::new(seed, config.clone());
        let node = world.add_node("crash point");
        world.disk(node).reseed_crashes(seed.wrapping_mul(31).wrapping_add(point));
        world.crash_at(node, step, crash);
        let acknowledged = workload(&mut world, node);
        if world.status(node) == &super::Status::Running {
            world.crash(node, crash);
        }
        check(&mut world, node, CrashPoint { step, crash, seed }, acknowledged);
    }
    points
}
