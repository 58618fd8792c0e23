//! The whole node crashed at thousands of places, and what it then says compared with what it said.
//!
//! Seeds take turns with one core, two, and two besides the replica's. Short form: a few seeds of
//! each test. Long form: `QUORATE_SIM_SEEDS=n` plays n seeds of each,
//! and `--nocapture` shows how many crash points that were. `QUORATE_SEED=s` plays one seed alone.

#![expect(clippy::print_stdout, reason = "the long form reports what it played")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use ioring::sim::{Crash, marks};
use sim::Violation;
use sim::points::{Played, Window, every_step, random_lives};
use sim::server::Shape;
use sim::simulation::{End, Simulation};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Plays one seed; what goes wrong is said with the command that plays it again.
fn play_seed(test: &str, seed: u64, play: impl FnOnce(u64) -> Result<Played, Violation>) -> Played {
    let again = || {
        format!("QUORATE_SEED={seed} cargo test -p sim --test crash -- --exact {test} --nocapture")
    };
    match catch_unwind(AssertUnwindSafe(|| play(seed))) {
        Ok(Ok(played)) => played,
        Ok(Err(violation)) => panic!("seed {seed}: {violation}\nagain: {}", again()),
        Err(payload) => {
            println!("seed {seed} panicked; again: {}", again());
            resume_unwind(payload);
        }
    }
}

/// Plays the seeds that were asked for, or `few`.
fn play(test: &str, few: u64, play: impl Fn(u64) -> Result<Played, Violation>) -> Played {
    let started = Instant::now();
    let seeds = match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QUORATE_SIM_SEEDS").unwrap_or(few),
    };
    let mut all = Played::default();
    for seed in seeds.clone() {
        all.add(&play_seed(test, seed, &play));
    }
    println!(
        "{test}: seeds {seeds:?}, {} crash points ({} within recovery), {} checkpoints, \
         {} unacknowledged writes found and {} gone, {:.1} s",
        all.points,
        all.in_recovery,
        all.checkpoints,
        all.found,
        all.lost,
        started.elapsed().as_secs_f64()
    );
    all
}

#[test]
fn lives_that_end_anywhere() {
    let played =
        play("lives_that_end_anywhere", 6, |seed| random_lives(seed, Shape::of(seed), 12, 20));
    if number("QUORATE_SEED").is_none() {
        assert!(played.points > 20 && played.in_recovery > 0, "{played:?}");
        assert!(played.lost > 0, "crashes came while writes were under way: {played:?}");
        assert!(played.scrubbed > 100, "scrubs read, and find nothing: {played:?}");
    }
}

#[test]
fn a_crash_at_every_step_of_a_window() {
    let played = play("a_crash_at_every_step_of_a_window", 3, |seed| {
        let window = Window { age: 2, batches: 12, points: 50, consecutive: true };
        every_step(seed, Shape::of(seed), &window)
    });
    assert!(played.points > 20, "{played:?}");
}

#[test]
fn crashes_all_over_a_life() {
    let played = play("crashes_all_over_a_life", 3, |seed| {
        let window =
            Window { age: 1 + seed as u32 % 4, batches: 20, points: 40, consecutive: false };
        every_step(seed, Shape::of(seed), &window)
    });
    assert!(played.points > 20, "{played:?}");
}

#[test]
fn the_rare_paths_are_reached() {
    const RARE: [&str; 4] = [
        "journal_segment_sealed",
        "journal_marker_written",
        "journal_torn_tail_forgotten",
        "superblock_update_finished",
    ];
    marks::reset();
    let mut played = Played::default();
    for seed in 100..160 {
        let counted = cfg!(debug_assertions);
        if seed >= 103 && (!counted || RARE.iter().all(|mark| marks::hits().contains_key(mark))) {
            break;
        }
        let play = |seed| random_lives(seed, Shape::of(seed), 8, 40);
        played.add(&play_seed("the_rare_paths_are_reached", seed, play));
    }
    let reached = marks::hits();
    println!("{reached:?}");
    assert!(played.checkpoints > 3, "{played:?}");
    if cfg!(debug_assertions) {
        for mark in RARE {
            assert!(reached.contains_key(mark), "{mark} was never reached: {reached:?}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let history = |seed| {
        let mut simulation = Simulation::new(seed, Shape::of(seed)).unwrap();
        let first = simulation.life(10, End::Step(2500, Crash::Power)).unwrap();
        let second = simulation.life(10, End::Stop).unwrap();
        (first, second, simulation.trace_hash(), simulation.ledger().counts)
    };
    for seed in 0..3 {
        assert_eq!(history(seed), history(seed));
    }
    assert_ne!(history(0).2, history(1).2);
}

/// A disk that acknowledges syncs and does not do them must be found out, or nothing here proves
/// anything.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let mut found = 0;
    for seed in 0..8 {
        let mut simulation = Simulation::new(seed, Shape::of(seed)).unwrap();
        simulation.life(10, End::Stop).unwrap();
        let node = simulation.node();
        simulation.world().disk(node).ignore_syncs(true);
        let lied = catch_unwind(AssertUnwindSafe(|| {
            simulation.life(10, End::Work(Crash::Power))?;
            simulation.life(0, End::Work(Crash::Power))
        }));
        // A node that notices by itself, by refusing or by an assertion, has noticed too.
        found += u32::from(!matches!(lied, Ok(Ok(_))));
    }
    assert!(found >= 6, "{found} of 8");
}
