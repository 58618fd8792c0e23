//! Random lives of clusters: faults of all kinds for some seconds, then none; and then everything
//! must go on.
//!
//! While faults last, the ledger checks what may never happen. When they stop, all members are
//! started and all cuts healed (in some seeds a minority stays dead, if no disk was damaged). Then
//! a request must be taken, committed and given out by all members within bounded virtual time.

use vsr::replica::Config;
use wire::Op;

use crate::world::{MS, Sabotage, Weather, World};

/// Seeds that always run.
const SEEDS: u64 = 300;
/// Virtual time in which faults happen, and in which everything must go on after them.
const FAULTS_NS: u64 = 4000 * MS;
const CALM_NS: u64 = 20_000 * MS;

pub(crate) fn config(members: u8) -> Config {
    Config { replica_count: members, log_budget: 96 * 4096, overdue_ns: MS, ..Config::test_min() }
}

/// What happened in a life, to see that the faults do something.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) damaged: u64,
    pub(crate) copies_lost: u64,
    pub(crate) ops: u64,
    pub(crate) views: u64,
    pub(crate) reads: u64,
    pub(crate) acknowledged: u64,
    pub(crate) checkpoints: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

/// One life of a cluster of three or five; panics when something is wrong.
pub(crate) fn live(seed: u64, change: impl FnOnce(&mut Config), sabotage: Sabotage) -> Tally {
    let mut config = config(if seed % 4 == 3 { 5 } else { 3 });
    change(&mut config);
    let mut world = World::new(seed, config);
    world.sabotage = sabotage;
    let mut tally = Tally::default();
    let members = world.members();
    world.weather = match seed % 3 {
        0 => Weather::default(),
        1 => Weather { lost: 20, twice: 20, damaged: 5, late: 10 },
        _ => Weather { lost: 150, twice: 100, damaged: 20, late: 100 },
    };
    let damages = seed.is_multiple_of(2);
    (0..members).for_each(|node| world.start(node));
    while world.now < FAULTS_NS {
        let passed = world.random.below(30 * MS);
        world.run_until(world.now + passed);
        disturb(&mut world, damages, &mut tally);
        offer(&mut world);
    }
    calm(&mut world, seed.is_multiple_of(5) && !damages);
    let end = world.now + CALM_NS;
    let settled = settle(&mut world, end, World::is_converged);
    assert!(settled, "not converged:\n{}", world.describe());
    let before = world.ledger.head();
    let primary = world.primary().expect("it is converged");
    let end = world.now + CALM_NS;
    // One that is full may take it only after a checkpoint.
    while world.request(primary, 8).is_none() && world.now < end {
        let next = world.now + 200 * MS;
        settle(&mut world, next, |_| false);
    }
    let done =
        settle(&mut world, end, |world| world.ledger.head() > before && world.is_converged());
    assert!(done, "a request is not committed:\n{}", world.describe());
    let up = world.nodes.iter().filter(|node| node.replica.is_some());
    let answered = up.map(|node| node.taken.len()).sum::<usize>() == 0;
    assert!(answered, "requests are not answered:\n{}", world.describe());
    (tally.refused, tally.unknown) = (world.ledger.refused.len() as u64, world.ledger.unknown);
    tally.ops = world.ledger.head().0;
    tally.views = u64::from(world.replica(primary).report().view.0);
    tally.reads = world.ledger.reads_answered;
    tally.acknowledged = world.ledger.acknowledgements;
    tally
}

/// One thing that may go wrong, or be repaired.
fn disturb(world: &mut World, damages: bool, tally: &mut Tally) {
    let members = world.members() as u64;
    let node = world.random.below(members) as usize;
    match world.random.below(24) {
        0 | 1 if world.is_up(node) => {
            tally.crashes += 1;
            world.crash(node);
        }
        2 => {
            // All at once: a loss of power.
            tally.crashes += members;
            (0..world.members())
                .filter(|node| world.is_up(*node))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|node| world.crash(node));
        }
        3..=6 if !world.is_up(node) => world.start(node),
        7 => {
            tally.cuts += 1;
            let other = world.random.below(members) as usize;
            world.cut[node][other] = true;
        }
        8 => {
            tally.cuts += 1;
            (0..world.members()).for_each(|other| {
                world.cut[node][other] = true;
                world.cut[other][node] = true;
            });
        }
        9..=11 => world.cut = Default::default(),
        12 => world.nodes[node].slowness = 1 + world.random.below(30),
        13 if damages && world.random.chance(3) => {
            tally.copies_lost += u64::from(world.lose_all_but_one_copy());
        }
        14 | 15 if damages => {
            tally.damaged += 1;
            world.damage(node);
        }
        16 | 17 => {
            tally.checkpoints += 1;
            world.checkpoint(node);
        }
        18 | 19 => world.mark(node),
        20 if world.is_up(node) => world.read(node),
        21 => world.nodes[node].slowness = 1,
        _ => {}
    }
}

/// Requests and reads of clients.
fn offer(world: &mut World) {
    // One whose window the others have left would need a peer's checkpoint.
    let lowest = world.nodes.iter().map(|node| node.disk.checkpoint_op()).min();
    if world.ledger.head().0 > lowest.expect("a cluster has members").0 + 70 {
        return;
    }
    if let Some(primary) = world.primary() {
        for _ in 0..world.random.below(4) {
            let size = 8 * world.random.below(160) as usize;
            world.request(primary, size);
        }
        if world.random.chance(3) {
            world.read(primary);
        }
    }
    // An old primary may still believe that it is one.
    let node = world.random.below(world.members() as u64) as usize;
    if world.is_up(node) && world.replica(node).serves() {
        world.request(node, 8);
        world.read(node);
    }
}

/// No more faults.
fn calm(world: &mut World, minority_stays_dead: bool) {
    world.say(|| "no more faults".to_owned());
    world.weather = Weather::default();
    world.cut = Default::default();
    let members = world.members();
    let mut dead = if minority_stays_dead { members / 2 } else { 0 };
    for node in 0..members {
        world.nodes[node].slowness = 1;
        if dead > 0 && world.is_up(node) {
            world.crash(node);
        }
        if dead > 0 {
            dead -= 1;
        } else if !world.is_up(node) {
            world.start(node);
        }
    }
}

/// Runs without faults until something is true; checkpoints go on meanwhile.
fn settle(world: &mut World, end: u64, done: impl Fn(&World) -> bool) -> bool {
    while world.now < end {
        let next = world.now + 100 * MS;
        if world.run_until_true(next, &done) {
            return true;
        }
        let given = world.nodes.iter().filter(|node| node.replica.is_some());
        let given = given.map(|node| node.given).min().expect("a quorum is up");
        (0..world.members()).for_each(|node| world.checkpoint_at(node, given));
    }
    false
}

/// Runs a seed; when it fails says how to run it alone.
pub(crate) fn try_seed(
    seed: u64,
    change: impl FnOnce(&mut Config) + std::panic::UnwindSafe,
    sabotage: Sabotage,
) -> Result<Tally, String> {
    std::panic::catch_unwind(|| live(seed, change, sabotage)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}

#[test]
fn clusters_live_through_faults() {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let one = number("VSR_SEED");
    let seeds = one.map_or(0..number("VSR_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (mut failed, mut total) = (Vec::new(), Tally::default());
    for seed in seeds {
        match try_seed(seed, |_| (), Sabotage::None) {
            Ok(tally) => {
                total.crashes += tally.crashes;
                total.cuts += tally.cuts;
                total.damaged += tally.damaged;
                total.copies_lost += tally.copies_lost;
                total.ops += tally.ops;
                total.views += tally.views;
                total.reads += tally.reads;
                total.acknowledged += tally.acknowledged;
                total.checkpoints += tally.checkpoints;
                total.refused += tally.refused;
                total.unknown += tally.unknown;
            }
            Err(why) => {
                println!(
                    "VSR_SEED={seed} VSR_TRACE=1 cargo test -p vsr --test cluster lives \
                    -- --nocapture\n  {why}"
                );
                failed.push(seed);
            }
        }
    }
    println!("{total:?}");
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
    if one.is_none() {
        let least = [total.crashes, total.cuts, total.damaged, total.reads, total.views];
        assert!(total.refused > 0 && total.unknown > 0, "nothing was dropped: {total:?}");
        assert!(least.iter().all(|count| *count > 100), "too few faults: {total:?}");
        assert!(Op(total.ops) > Op(1000), "too little work: {total:?}");
    }
}

/// Lives that did not come to a good end once: acknowledgements that were lost and never asked for
/// again, chains broken on all members at once, repairs that waited for others that were done, a
/// member that took what it had never had for the lost end of its log, a committed prepare that was
/// repaired while a view began and then not journaled.
#[test]
fn lives_that_failed_once() {
    for seed in [42, 58, 165, 1266, 1460, 1589, 10950, 16206, 19362, 3785, 15850] {
        live(seed, |_| (), Sabotage::None);
    }
}
