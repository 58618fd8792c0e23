//! A crash at every step of a window.
//!
//! 1. A directory is brought to some age by lives under the seed, and kept.
//! 2. One life of it is played to its end, to count its steps.
//! 3. For each step of the window (or evenly spread ones) the same life is played again up to that
//!    step and crashed there; up to the crash it is the same. What it leaves of unsynced data
//!    is drawn anew each time.
//! 4. The node is restarted. Every third time it is crashed once more within that start, which is a
//!    crash point of its own. Then everything is read back and compared, and more commands are
//!    played, so that a log that only looks whole does not pass.

use ioring::sim::{Crash, Dice};

use crate::Violation;
use crate::server::Shape;
use crate::simulation::{End, Life, Simulation, Snapshot};

/// Which steps.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Lives before the one that is crashed.
    pub age: u32,
    /// Batches that each client sends in a life.
    pub batches: u32,
    /// How many crash points.
    pub points: u64,
    /// Whether they are consecutive steps, from a drawn one on, or spread over the whole life.
    pub consecutive: bool,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Crashes at a chosen step, after each of which everything was read back.
    pub points: u64,
    /// Of these, crashes within a recovery or the survey that followed it.
    pub in_recovery: u64,
    /// Writes that were not acknowledged at a crash and found to be there.
    pub found: u64,
    /// Writes that were not acknowledged at a crash and found not to be there.
    pub lost: u64,
    /// Checkpoints from which the node was seen to start.
    pub checkpoints: u64,
    /// Blocks that scrubs read, and found to be as they should.
    pub scrubbed: u64,
}

impl Played {
    fn count(&mut self, life: &Life) {
        if life.crashed {
            self.points += 1;
            self.in_recovery += u64::from(life.surveyed_at.is_none());
        }
    }

    fn learn(&mut self, simulation: &Simulation) {
        let counts = simulation.ledger().counts;
        self.found += counts.found;
        self.lost += counts.lost;
        self.checkpoints += counts.checkpoints;
        self.scrubbed += simulation.scrubbed();
    }

    /// Adds what another run played.
    pub fn add(&mut self, other: &Played) {
        self.points += other.points;
        self.in_recovery += other.in_recovery;
        self.found += other.found;
        self.lost += other.lost;
        self.checkpoints += other.checkpoints;
        self.scrubbed += other.scrubbed;
    }
}

fn crash(dice: &mut Dice) -> Crash {
    if dice.chance(250_000) { Crash::Process } else { Crash::Power }
}

/// Lives that end at random steps, over one directory: the last one is checked too.
///
/// # Errors
/// The promise that was broken.
pub fn random_lives(
    seed: u64,
    shape: Shape,
    lives: u32,
    batches: u32,
) -> Result<Played, Violation> {
    let mut dice = Dice::new(seed, "lives");
    let mut simulation = Simulation::new(seed, shape)?;
    let mut played = Played::default();
    let mut usual = simulation.life(batches, End::Work(Crash::Power))?;
    for _ in 0..lives {
        let crash = crash(&mut dice);
        let end = match dice.below(10) {
            0 => End::Work(crash),
            1 => End::Stop,
            // Within recovery or shortly after it.
            2..4 => End::Step(dice.below(usual.surveyed_at.unwrap_or(usual.steps)), crash),
            _ => End::Step(dice.below(usual.steps), crash),
        };
        let (host, slower) = (simulation.node(), 1 + dice.below(3) * dice.below(3));
        simulation.world().set_disk_slower(host, slower);
        let life = simulation.life(batches, end)?;
        played.count(&life);
        if !life.crashed {
            usual = life;
        }
    }
    simulation.life(1, End::Stop)?;
    simulation.life(0, End::Stop)?;
    played.learn(&simulation);
    Ok(played)
}

/// A directory that has lived.
fn aged(seed: u64, shape: Shape, window: &Window) -> Result<Snapshot, Violation> {
    let mut simulation = Simulation::new(seed, shape)?;
    for life in 0..window.age {
        let crash = if life % 2 == 0 { Crash::Power } else { Crash::Process };
        simulation.life(window.batches, End::Work(crash))?;
    }
    Ok(simulation.snapshot())
}

/// Crashes one life at each step of a window.
///
/// # Errors
/// The promise that was broken, and the step.
pub fn every_step(seed: u64, shape: Shape, window: &Window) -> Result<Played, Violation> {
    let base = aged(seed, shape, window)?;
    let whole =
        Simulation::resume(seed, shape, &base).life(window.batches, End::Work(Crash::Power))?;
    let mut dice = Dice::new(seed, "window");
    let points = window.points.min(whole.steps);
    let first = dice.below(whole.steps - points + 1);
    let mut played = Played::default();
    for point in 0..points {
        let step = if window.consecutive { first + point } else { point * whole.steps / points };
        let end = End::Step(step, crash(&mut dice));
        let snapshot = base.with_crash_seed(dice.bits());
        let again = (point % 3 == 2).then(|| dice.below(whole.surveyed_at.unwrap_or(1)));
        let run = one_point((seed, shape), &snapshot, window.batches, end, again, &mut played);
        run.map_err(|Violation(what)| Violation(format!("{end:?}, then {again:?}: {what}")))?;
    }
    Ok(played)
}

fn one_point(
    (seed, shape): (u64, Shape),
    snapshot: &Snapshot,
    batches: u32,
    end: End,
    again: Option<u64>,
    played: &mut Played,
) -> Result<(), Violation> {
    let mut simulation = Simulation::resume(seed, shape, snapshot);
    played.count(&simulation.life(batches, end)?);
    if let Some(step) = again {
        played.count(&simulation.life(batches, End::Step(step, Crash::Power))?);
    }
    simulation.life(1, End::Work(Crash::Process))?;
    simulation.life(0, End::Work(Crash::Process))?;
    played.learn(&simulation);
    Ok(())
}
