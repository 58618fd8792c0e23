//! Seeds of clusters: a few always, as many as there is time for when asked.
//!
//! ```text
//! SIM_SEEDS=2000 cargo test --release -p sim --test cluster seeds -- --nocapture    so many seeds
//! SIM_MINUTES=30 cargo test --release -p sim --test cluster seeds -- --nocapture    so long
//! SIM_FIRST=5000 …    from this one on
//! SIM_SEED=17 SIM_TRACE=1 cargo test --release -p sim --test cluster seeds -- --nocapture
//! SIM_CANARY=all cargo test --release -p sim --test cluster broken -- --nocapture   each way to
//!     break the protocol (or the one named), until a seed notices it
//! ```
//!
//! A violation is printed with its seed and the command that plays it again, at once; the run goes
//! on, and fails at its end. Coverage marks are counted where debug assertions are on.

#![expect(clippy::print_stdout, reason = "a long run reports what it played")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ioring::sim::marks;
use sim::cluster::plan::Plan;
use sim::cluster::{Played, play};
use vsr::replica::Canary;

/// Seeds that always run.
const SEEDS: u64 = 8;
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(20);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Plays a seed; a panic is a violation as well.
fn try_seed(seed: u64) -> Result<Played, String> {
    match catch_unwind(AssertUnwindSafe(|| play(seed))) {
        Ok(played) => played.map_err(|violation| violation.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// What many seeds came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    violations: Vec<u64>,
    played: Vec<Played>,
}

impl Total {
    fn sum(&self, of: impl Fn(&Played) -> u64) -> u64 {
        self.played.iter().map(of).sum()
    }

    fn add(&mut self, seed: u64, played: Result<Played, String>) {
        self.seeds += 1;
        match played {
            Ok(played) => self.played.push(played),
            Err(what) => {
                println!(
                    "seed {seed}: {what}\nagain: SIM_SEED={seed} SIM_TRACE=1 cargo test --release \
                     -p sim --test cluster seeds -- --nocapture"
                );
                self.violations.push(seed);
            }
        }
    }

    fn say(&self, started: Instant) {
        let real = started.elapsed().as_secs_f64();
        let virtual_s: f64 = self.played.iter().map(|played| played.time.as_secs_f64()).sum();
        let slowest = self.played.iter().map(|played| played.calm.until_served).max();
        println!(
            "{} seeds, {} violations; {:.0} s of virtual time in {real:.0} s ({:.2} to 1), {} \
             million steps\n  {} answers, {} writes, {} refusals, {} unknown; {} ops and {} \
             checkpoints on disks\n  {} deaths ({} at a chosen step), {} blackouts, {} pauses, {} \
             slow disks, {} clocks, {} cuts of clients, {} disturbances, {} frames damaged\n  all \
             served again after {:?} at most, {} members need a peer's checkpoint",
            self.seeds,
            self.violations.len(),
            virtual_s,
            virtual_s / real,
            self.sum(|it| it.steps) / 1_000_000,
            self.sum(|it| it.counts.answered),
            self.sum(|it| it.counts.writes),
            self.sum(|it| it.counts.refused),
            self.sum(|it| it.counts.unknown),
            self.sum(|it| it.ops),
            self.sum(|it| it.checkpoints),
            self.sum(|it| it.faults.deaths),
            self.sum(|it| it.faults.at_steps),
            self.sum(|it| it.faults.blackouts),
            self.sum(|it| it.faults.pauses),
            self.sum(|it| it.faults.slow_disks),
            self.sum(|it| it.faults.clocks),
            self.sum(|it| it.faults.client_cuts),
            self.sum(|it| it.faults.disturbances),
            self.sum(|it| it.faults.damaged),
            slowest.unwrap_or_default(),
            self.sum(|it| it.calm.behind),
        );
    }
}

/// Marks in the crates that a cluster runs, which no seed has come to.
fn say_missing_marks() {
    if !cfg!(debug_assertions) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["vsr/src", "node/src", "lsm/src"] {
        let missing = marks::never_hit(&root.join(folder)).expect("the sources are there");
        println!("{folder}: marks never reached: {missing:?}");
    }
}

#[test]
fn seeds() {
    let one = number("SIM_SEED");
    let first = one.or(number("SIM_FIRST")).unwrap_or(0);
    let limit = number("SIM_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let usual = if limit.is_some() { u64::MAX - first } else { SEEDS };
    let count = if one.is_some() { 1 } else { number("SIM_SEEDS").unwrap_or(usual) };
    let (started, mut said, mut total) = (Instant::now(), Instant::now(), Total::default());
    for seed in first..first + count {
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            break;
        }
        total.add(seed, try_seed(seed));
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            total.say(started);
        }
    }
    total.say(started);
    say_missing_marks();
    assert!(total.violations.is_empty(), "seeds {:?} failed", total.violations);
    if one.is_none() {
        assert!(total.sum(|it| it.counts.writes) > 100 * total.seeds, "too little work");
        assert!(total.sum(|it| it.faults.deaths) > total.seeds, "too few faults");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let runs = [1, 1, 2].map(|seed| try_seed(seed).unwrap_or_else(|what| panic!("{what}")));
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0].trace, runs[2].trace);
}

/// Seeds that did not come to a good end once; `docs/TESTING.md` says of what they died.
#[test]
fn what_failed_once() {
    for seed in [12, 43, 91, 124] {
        try_seed(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

/// Each way to break the protocol.
const CANARIES: [Canary; 10] = [
    Canary::AcknowledgeBeforeDurable,
    Canary::CommitWithoutQuorum,
    Canary::NackDamage,
    Canary::DropWithoutNacks,
    Canary::OlderLog,
    Canary::LeadAfterRestart,
    Canary::TrustStale,
    Canary::AcknowledgeUnvouched,
    Canary::ReadWithoutRound,
    Canary::ForgetView,
];

/// The first seed, from one on, that notices that something is broken, and how.
fn notices(canary: Canary, first: u64, count: usize) -> Option<(u64, String)> {
    canary.plant();
    // Only those whose faults can show it.
    let shows = |plan: &Plan| match canary {
        Canary::NackDamage | Canary::DropWithoutNacks => plan.damage,
        Canary::AcknowledgeBeforeDurable => plan.blackouts && plan.disks.iter().any(|it| *it > 1),
        Canary::ReadWithoutRound => !plan.weather.is_empty(),
        _ => plan.crashes || plan.step_crashes,
    };
    let seeds = (first..).filter(|seed| {
        let plan = Plan::of(*seed);
        plan.members() > 1 && shows(&plan)
    });
    let found = seeds.take(count).find_map(|seed| Some((seed, try_seed(seed).err()?)));
    Canary::None.plant();
    found
}

/// The checkers prove themselves. The usual run tries one break only, and begins shortly before a
/// seed that noticed it: all of them take many minutes.
#[test]
fn a_broken_protocol_is_noticed() {
    let name = std::env::var("SIM_CANARY");
    let usual = if name.is_ok() { 0 } else { 36 };
    let first = number("SIM_FIRST").unwrap_or(usual);
    let name = name.unwrap_or_else(|_| "CommitWithoutQuorum".to_owned());
    let chosen = CANARIES.into_iter().filter(|it| name == "all" || name == format!("{it:?}"));
    let (mut tried, mut missed) = (0, Vec::new());
    for canary in chosen {
        tried += 1;
        let started = Instant::now();
        match notices(canary, first, number("SIM_SEEDS").unwrap_or(100) as usize) {
            Some((seed, what)) => {
                let (first, took) = (what.lines().next().unwrap_or_default(), started.elapsed());
                println!("{canary:?}: seed {seed} notices it, after {took:.0?}: {first}");
            }
            None => missed.push(canary),
        }
    }
    assert!(tried > 0, "SIM_CANARY={name} is none of {CANARIES:?}");
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
