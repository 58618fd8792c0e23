//! Short and long forms of the proofs, and the seeds that once failed.
//!
//! ```text
//! LSM_MODEL_SEEDS=n   logs that are played (default 40), from seed 0 on
//! LSM_MODEL_OPS=n     ops of each (default 1500)
//! LSM_SEED=s          this seed alone, as a failing one says
//! ```

use std::collections::BTreeMap;
use std::time::Instant;

use super::log::Scale;
use super::rot::damage;
use super::{Plan, Tally, play};

/// Plays that once found something: seed, world, scale, ops.
const KEPT: [(u64, u64, Scale, u64); 3] = [
    // A pulse dealt with what a flush had emptied: how much that was depended on compaction, so it
    // differed after a replay from a checkpoint.
    (13, 13, Scale::Tiny, 1500),
    // One buffer for the blocks of requests: an open held the root's and waited for another.
    (5, 1_000_008, Scale::Tiny, 700),
    // The manifest log forgot the run that a moved table had become part of: other runs, and their
    // ages, after a restart.
    (437, 1_000_440, Scale::Tiny, 700),
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// Says how to replay the play under way if it panics.
struct Replay(&'static str, u64, u64);

impl Drop for Replay {
    fn drop(&mut self) {
        let Replay(test, seed, ops) = self;
        if std::thread::panicking() {
            eprintln!(
                "replay: LSM_SEED={seed} LSM_MODEL_OPS={ops} cargo test --release -p lsm --lib \
                 {test}"
            );
        }
    }
}

/// Calls `one` for each seed asked for.
fn seeds(
    test: &'static str,
    seeds: u64,
    ops: u64,
    mut one: impl FnMut(u64, u64) -> Tally,
) -> Tally {
    let (alone, ops) = (number("LSM_SEED"), number("LSM_MODEL_OPS").unwrap_or(ops));
    let count = number("LSM_MODEL_SEEDS");
    let loud = alone.is_some() || count.is_some();
    let seeds = match alone {
        Some(seed) => seed..seed + 1,
        None => 0..count.unwrap_or(seeds),
    };
    let (mut total, began) = (Tally::default(), Instant::now());
    for seed in seeds.clone() {
        let replay = Replay(test, seed, ops);
        total.add(&one(seed, ops));
        drop(replay);
        if loud && (seed + 1 - seeds.start).is_multiple_of(100) {
            eprintln!("{test}, up to seed {seed}, {:.0?}: {total}", began.elapsed());
        }
    }
    if loud {
        let count = seeds.end - seeds.start;
        eprintln!("{test}, {count} seeds of {ops} ops, {:.0?}: {total}", began.elapsed());
    }
    total
}

fn plan(seed: u64, scale: Scale, ops: u64) -> Plan {
    Plan { seed, scale, ops, world: seed, reads: true, rots: true }
}

#[test]
fn model_tiny() {
    let total = seeds("proof::tests::model_tiny", 40, 1500, |seed, ops| {
        play(plan(seed, Scale::Tiny, ops)).0
    });
    if number("LSM_SEED").is_none() {
        assert!(total.checkpoints > 100 && total.crashes_power > 20, "{total}");
        assert!(total.reads > 10_000 && total.scans > 100 && total.flushes > 0, "{total}");
        assert!(total.expired > 0 && total.unreadable > 0 && total.scans_late > 0, "{total}");
        assert!(total.index_entries > 10_000, "{total}");
    }
}

#[test]
fn model_standard() {
    let total = seeds("proof::tests::model_standard", 4, 300, |seed, ops| {
        play(plan(seed, Scale::Standard, ops)).0
    });
    assert!(total.bars > 4 || number("LSM_SEED").is_some(), "{total}");
}

#[test]
fn model_of_kept_seeds() {
    for (seed, world, scale, ops) in KEPT {
        let plan = Plan { rots: world == seed, ..plan(seed, scale, ops) };
        let (_, roots) = play(Plan { world, ..plan });
        compare(&play(plan).1, &roots);
    }
}

/// The same log gives the same checkpoints, whatever order I/O finishes in, where the node was
/// crashed, what was read, and how large its cache is.
#[test]
fn the_same_log_gives_the_same_checkpoints() {
    let test = "proof::tests::the_same_log";
    let total = seeds(test, 12, 700, |seed, ops| {
        let undisturbed = Plan { rots: false, ..plan(seed, Scale::Tiny, ops) };
        let (mut tally, expected) = play(undisturbed);
        for world in 1..3 {
            let world = seed + world * 1_000_003;
            let (other, roots) =
                play(Plan { world, reads: world.is_multiple_of(2), ..undisturbed });
            compare(&expected, &roots);
            tally.add(&other);
        }
        tally
    });
    assert!(total.checkpoints > 100 || number("LSM_SEED").is_some(), "{total}");
}

fn compare<R: PartialEq + std::fmt::Debug>(one: &BTreeMap<u64, R>, other: &BTreeMap<u64, R>) {
    for (op, root) in one {
        assert_eq!(other.get(op), Some(root), "the checkpoint of op {op}");
    }
    assert_eq!(one.len(), other.len(), "both have taken the same checkpoints");
}

/// Every damage is met by an error or does not matter; `LSM_ROT_CASES` asks for more of each grid.
#[test]
fn damage_anywhere_gives_no_wrong_answer() {
    let (mut refused, mut unreadable, mut right) = (0, 0, 0);
    for seed in 0..6 {
        let met = damage(seed, 300, number("LSM_ROT_CASES").unwrap_or(40));
        refused += met.refused;
        unreadable += met.unreadable;
        right += met.right;
    }
    assert!(refused > 10 && unreadable > 10 && right > 1000, "{refused} {unreadable} {right}");
}
