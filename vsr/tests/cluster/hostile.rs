//! Clusters among which lies are told: messages with the right checksums that say anything.
//!
//! Nothing is promised of what such a cluster does, but that no member panics or grows without
//! bound because of a message: it refuses what makes no sense, and stops under a name where it is
//! told by a primary that histories have diverged.

use vsr::replica::{Divergence, Report, Status};
use wire::message::{Commit, Prepare, Purpose, StartView, Tail};
use wire::{CheckpointId, Checksum, Draft, Header, Op, ReplicaId, Timestamp, View};

use crate::lives::config;
use crate::world::{MS, Sabotage, Weather, World};

/// Seeds that always run.
const SEEDS: u64 = 60;
/// Messages that are forged in a life, apart from those that are altered on their way.
const FORGED: u64 = 3000;

/// To whom lies were told, and what came of it.
#[derive(Default, Debug)]
struct Told {
    lies: u64,
    primary: u64,
    backup: u64,
    view_change: u64,
    recovering_head: u64,
    behind: u64,
    stopped: u64,
    ops: u64,
    views: u64,
    refused: u64,
}

/// One life.
fn lie(seed: u64, told: &mut Told) {
    let mut world = World::new(seed, config(if seed % 4 == 3 { 5 } else { 3 }));
    world.sabotage = Sabotage::Lies;
    if seed % 3 == 1 {
        world.weather = Weather { lost: 100, twice: 100, damaged: 20, late: 100 };
    }
    let members = world.members() as u64;
    (0..world.members()).for_each(|node| world.start(node));
    // At first genuine messages only, so that there is something to lie about.
    world.run_until(500 * MS);
    let mut forged = 0;
    while forged < FORGED {
        let passed = world.random.below(20 * MS);
        world.run_until(world.now + passed);
        let node = world.random.below(members) as usize;
        let count = world.random.below(20);
        if world.is_up(node) {
            let report = world.replica(node).report();
            let to = match report.status {
                Status::Normal if report.serves => &mut told.primary,
                Status::Normal | Status::Recovering => &mut told.backup,
                Status::ViewChange => &mut told.view_change,
                Status::RecoveringHead => &mut told.recovering_head,
                Status::Behind => &mut told.behind,
                Status::Diverged => &mut told.stopped,
            };
            *to += count;
            world.forge(node, count);
            let after = world.replica(node).report();
            told.refused += after.counters.messages_refused - report.counters.messages_refused;
            told.ops += after.commit.0 - report.commit.0;
            told.views += u64::from(after.view.0 - report.view.0);
        }
        forged += count;
        disturb(&mut world, node);
        for node in 0..world.members() {
            if world.is_up(node) && world.replica(node).serves() {
                let size = 8 * world.random.below(160) as usize;
                world.request(node, size);
                world.read(node);
            }
        }
    }
    told.lies += world.lies;
}

/// Members come and go, with what their disks have of all that.
fn disturb(world: &mut World, node: usize) {
    if !world.is_up(node) {
        return world.start(node);
    }
    let stopped = world.replica(node).report().status == Status::Diverged;
    match world.random.below(40) {
        0 | 1 => world.crash(node),
        2 => world.nodes[node].slowness = 1 + world.random.below(30),
        3 => world.nodes[node].slowness = 1,
        4 => world.mark(node),
        5..8 => world.checkpoint_given(node),
        _ if stopped => world.crash(node),
        _ => {}
    }
}

#[test]
fn lies_make_no_member_panic() {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let one = number("VSR_SEED");
    let seeds = one.map_or(0..number("VSR_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let mut told = Told::default();
    for seed in seeds {
        println!("VSR_SEED={seed}");
        lie(seed, &mut told);
    }
    println!("{told:?}");
}

/// A cluster with some work done, and one of its backups.
fn followed() -> (World, usize, Report) {
    let mut world = World::new(1, config(3));
    (0..3).for_each(|node| world.start(node));
    assert!(world.run_until_true(2000 * MS, |world| world.primary().is_some()));
    let primary = world.primary().expect("it serves");
    for _ in 0..5 {
        world.request(primary, 8).expect("it takes a request");
        world.run_until(world.now + 100 * MS);
    }
    let backup = (primary + 1) % 3;
    let report = world.replica(backup).report();
    assert_eq!((report.status, report.commit), (Status::Normal, Op(5)));
    world.sabotage = Sabotage::Lies;
    (world, backup, report)
}

/// Says something in the name of a view's primary, or of the other member; what the backup has to
/// say to that.
fn say(tail: &impl Tail, view: View, by_primary: bool) -> (Option<Divergence>, bool) {
    let (mut world, backup, report) = followed();
    let primary = ReplicaId((view.0 % 3) as u8);
    let other = (0..3).find(|node| *node != backup && *node != usize::from(primary.0));
    let other = ReplicaId(other.expect("there are three") as u8);
    let draft = Draft { cluster: world.config.cluster, view, ..Draft::default() };
    let header = Draft { replica: primary, ..draft }.seal(tail, &[]);
    let from = if by_primary { primary } else { other };
    world.bring(backup, from, &header, &[]);
    world.turn(backup);
    let after = world.replica(backup).report();
    let refused = after.counters.messages_refused > report.counters.messages_refused;
    (world.replica(backup).diverged(), refused)
}

fn prepare(op: Op, parent: Checksum) -> Prepare {
    Prepare {
        parent,
        checkpoint: CheckpointId(0),
        op,
        commit: Op(op.0 - 1),
        timestamp: Timestamp(1 << 60),
        version_count: 0,
        request_count: 0,
        purpose: Purpose::Pulse,
    }
}

#[test]
fn a_primary_whose_log_is_another_one_ends_who_follows_it() {
    let (_, _, Report { view, .. }) = followed();
    let (prepare_of, checkpoint) = (Checksum(9), CheckpointId(0));
    let heartbeat = |commit| Commit {
        prepare: prepare_of,
        commit,
        checkpoint,
        checkpoint_op: Op(0),
        round: 1,
        timestamp: Timestamp(1),
    };
    for op in [Op(5), Op(2)] {
        let (diverged, _) = say(&heartbeat(op), view, true);
        let diverged = diverged.expect("another prepare is committed there");
        assert_eq!((diverged.op, diverged.theirs, diverged.view), (op, prepare_of, view));
        let text = diverged.to_string();
        assert!(text.contains(&op.to_string()) && text.contains(&prepare_of.to_string()), "{text}");
    }
    let (diverged, _) = say(&prepare(Op(6), Checksum(9)), view, true);
    assert_eq!(diverged.map(|diverged| diverged.op), Some(Op(5)));
}

#[test]
fn a_view_that_begins_without_a_committed_op_ends_who_has_it() {
    let (mut world, backup, Report { view, .. }) = followed();
    let next = View(view.0 + 3);
    let primary = ReplicaId((next.0 % 3) as u8);
    let draft =
        Draft { cluster: world.config.cluster, view: next, replica: primary, ..Draft::default() };
    let first = draft.seal(&Prepare { commit: Op(0), ..prepare(Op(1), Checksum(1)) }, &[]);
    let (checkpoint, checkpoint_op) = (CheckpointId(0), Op(0));
    let start = StartView { op: Op(1), commit: Op(1), checkpoint, checkpoint_op, nonce: 0 };
    let body = first.bytes();
    let header: Header = draft.seal(&start, body);
    world.bring(backup, primary, &header, body);
    assert_eq!(world.replica(backup).diverged().map(|diverged| diverged.op), Some(Op(5)));
    assert_eq!(world.replica(backup).report().status, Status::Diverged);
    world.turn(backup);
    assert!(world.replica(backup).deadline_ns().is_none(), "it does nothing any more");
    assert!(world.replica(backup).view_to_persist().is_none(), "nor says it what it followed");
}

#[test]
fn what_proves_nothing_is_refused() {
    let (_, _, Report { view, .. }) = followed();
    // By a third party, of another version of an op, above a gap of the pipeline, of no known end.
    let (by_other, by_primary) = (false, true);
    for (tail, by) in [
        (prepare(Op(6), Checksum(9)), by_other),
        (prepare(Op(5), Checksum(9)), by_primary),
        (Prepare { commit: Op(6), ..prepare(Op(6), Checksum(9)) }, by_primary),
        (Prepare { commit: Op(1), ..prepare(Op(6), Checksum(9)) }, by_primary),
        (Prepare { timestamp: Timestamp(u64::MAX), ..prepare(Op(6), Checksum(9)) }, by_primary),
        (Prepare { purpose: Purpose::Upgrade, ..prepare(Op(6), Checksum(9)) }, by_primary),
        (prepare(Op(u64::MAX), Checksum(9)), by_primary),
    ] {
        assert_eq!(say(&tail, view, by), (None, true), "{tail:?}");
    }
    let far = View(view.0 + 3 * (1 << 23));
    assert_eq!(say(&prepare(Op(6), Checksum(9)), far, true), (None, true), "views ahead");
}

#[test]
fn lists_that_are_no_stretch_of_a_log_are_refused() {
    let (world, _, Report { view, .. }) = followed();
    let next = View(view.0 + 3);
    let primary = ReplicaId((next.0 % 3) as u8);
    let of_view = |view: View| {
        let replica = ReplicaId((view.0 % 3) as u8);
        Draft { cluster: world.config.cluster, view, replica, ..Draft::default() }
    };
    let chain = |view, ops: std::ops::RangeInclusive<u64>| {
        let mut headers = Vec::new();
        let mut parent = Checksum(3);
        for op in ops {
            let timestamp = Timestamp((1 << 60) + op * (1 << 20));
            let tail = Prepare { timestamp, ..prepare(Op(op), parent) };
            headers.push(of_view(view).seal(&tail, &[]));
            parent = headers[headers.len() - 1].checksum();
        }
        headers.reverse();
        headers
    };
    let refused = |headers: &[Header]| {
        let (mut world, backup, before) = followed();
        let body: Vec<u8> = headers.iter().flat_map(|header| header.bytes()).copied().collect();
        let (checkpoint, checkpoint_op) = (CheckpointId(0), Op(0));
        let start = StartView { op: Op(20), commit: Op(18), checkpoint, checkpoint_op, nonce: 0 };
        let header = of_view(next).seal(&start, &body);
        world.bring(backup, primary, &header, &body);
        let after = world.replica(backup).report();
        assert!(after.view == before.view || after.view == next);
        after.counters.messages_refused > before.counters.messages_refused
    };
    let good = chain(next, 16..=20);
    assert!(!refused(&good), "a list as a primary sends it");
    let with = |change: &dyn Fn(&mut Vec<Header>)| {
        let mut headers = good.clone();
        change(&mut headers);
        headers
    };
    assert!(refused(&with(&|list| list.retain(|header| *header != good[2]))), "a gap");
    assert!(refused(&with(&|list| list.retain(|header| *header != good[0]))), "another head");
    assert!(refused(&with(&|list| list.swap(1, 2))), "another order");
    assert!(refused(&with(&|list| list[3] = chain(next, 17..=17)[0])), "another parent");
    assert!(refused(&[&good[..4], &chain(View(next.0 + 3), 16..=16)].concat()), "of a later view");
    assert!(refused(&chain(next, 15..=20)), "more than may be in doubt");
    assert!(refused(&[]), "none");
}
