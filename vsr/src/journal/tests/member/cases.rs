//! Single cases, step by step.

use std::path::Path;
use std::time::Duration;

use ioring::sim::{Config, NodeId, World};
use wire::{Header, Op};

use super::node::{History, Member, make};
use super::{Model, version};
use crate::journal::recovery::{RecoveredOp, Summary};
use crate::journal::{Location, ReadError};

const JOURNAL: &str = "/replica/journal";

/// A world with a formatted member, and prepares of view 0, each of which knows all but the one
/// before it to be committed.
fn fresh(count: u64) -> (World, NodeId, History, Vec<Header>) {
    let mut world = World::new(4, Config::default());
    let node = world.add_node("case");
    world.run(node, make).unwrap();
    let (mut model, mut log) = (Model::new(), Vec::new());
    for op in 1..=count {
        model.commit = op.saturating_sub(2);
        log.push(model.next(&log, 0, 700));
    }
    model.logs.insert(0, log.clone());
    (world, node, History::new(model), log)
}

async fn open(history: &History) -> Member {
    Member::open(history.clone(), 1).await.unwrap()
}

#[test]
fn a_version_given_up_while_it_is_written_never_counts() {
    let (mut world, node, history, log) = fresh(4);
    let case = world.run(node, move || async move {
        let mut member = open(&history).await;
        member.write(log[..3].to_vec()).await;
        let writes = member.begin(&log[3..]).await;
        // A view that ends with op 3.
        history.now.borrow_mut().logs.insert(1, log[..3].to_vec());
        member.install(1, &log[..3]).await;
        ioring::join_all(writes).await;
        let (op, checksum) = (Op(4), log[3].checksum());
        assert_eq!(member.journal.read(op, checksum).await.unwrap_err(), ReadError::Absent(op));
        let (live, _) = member.journal.budget();
        assert_eq!(live, 3 * 4096);
        member.stop(true).await;
        let member = open(&history).await;
        assert_eq!(member.recovered.log.ops.len(), 3);
        assert_eq!(member.recovered.void, 1);
    });
    case.unwrap();
}

#[test]
fn versions_are_read_by_their_checksums() {
    let (mut world, node, history, log) = fresh(4);
    let case = world.run(node, move || async move {
        let mut member = open(&history).await;
        member.write(log.clone()).await;
        let mut other = log[..2].to_vec();
        for _ in 0..2 {
            let next = history.now.borrow().next(&other, 1, 2000);
            other.push(next);
        }
        history.now.borrow_mut().logs.insert(1, other.clone());
        member.install(1, &other).await;
        member.write(other[2..].to_vec()).await;
        for header in &other {
            let op = Summary::of(header).op;
            member.journal.read(op, header.checksum()).await.unwrap();
        }
        for given_up in &log[2..] {
            let op = Summary::of(given_up).op;
            let read = member.journal.read(op, given_up.checksum()).await;
            assert_eq!(read.unwrap_err(), ReadError::Absent(op));
        }
        member.stop(true).await;
        let member = open(&history).await;
        let found: Vec<RecoveredOp> =
            other.iter().map(|header| RecoveredOp::Present(*header)).collect();
        assert_eq!(member.recovered.log.ops, found);
    });
    case.unwrap();
}

/// Where the frames of a member are that has written this log and a marker.
fn written(world: &mut World, node: NodeId, history: &History, log: &[Header]) -> Vec<Location> {
    let (told, log) = (history.clone(), log.to_vec());
    let places = world.run(node, move || async move {
        let mut member = open(&told).await;
        member.write(log).await;
        ioring::sleep(Duration::from_millis(20)).await;
        let places = member.locations();
        member.stop(false).await;
        places
    });
    world.disk(node).settle();
    places.unwrap()
}

#[test]
fn a_marker_has_the_commit_number_of_every_prepare() {
    let (mut world, node, history, log) = fresh(4);
    history.now.borrow_mut().commit = 0;
    let places = written(&mut world, node, &history, &log);
    world.disk(node).rot(Path::new(JOURNAL), places[3].offset + 20, 1).unwrap();
    let case = world.run(node, move || async move {
        let member = open(&history).await;
        assert_eq!(member.recovered.log.commit_max, Op(2));
        assert_eq!(member.recovered.log.ops[3], RecoveredOp::Damaged(Some(log[3])));
    });
    case.unwrap();
}

#[test]
fn markers_do_not_wait_for_the_end_of_a_repair() {
    let (mut world, node, history, log) = fresh(1);
    ioring::sim::marks::reset();
    let case = world.run(node, move || async move {
        let mut member = open(&history).await;
        let begun = ioring::now();
        // No pause is as long as the delay of markers, and the ring does not go round.
        while ioring::now() - begun < Duration::from_millis(150) {
            member.write(log[..1].to_vec()).await;
            ioring::sleep(Duration::from_millis(4)).await;
        }
        member.stop(false).await;
    });
    case.unwrap();
    // The first is that of the start.
    let markers = ioring::sim::marks::hits()["journal_marker_written"];
    assert_eq!(markers, 2);
}

#[test]
fn a_damaged_prepare_is_named_and_costs_nothing_else() {
    let (mut world, node, history, log) = fresh(6);
    let places = written(&mut world, node, &history, &log);
    let probe = world.probe(node);
    let case = world.run(node, move || async move {
        let mut member = open(&history).await;
        let offset = places[2].offset;
        probe.with_disk(|disk| disk.rot(Path::new(JOURNAL), offset + 600, 1)).unwrap();
        let error = member.journal.read(Op(3), log[2].checksum()).await.unwrap_err();
        let ReadError::Damaged { op: Op(3), offset: named, .. } = error else { panic!("{error}") };
        assert_eq!(named, offset);
        for header in log.iter().filter(|header| version(header).0 != Op(3)) {
            member.journal.read(Summary::of(header).op, header.checksum()).await.unwrap();
        }
        // Repaired.
        member.write(vec![log[2]]).await;
        member.check_held().await.unwrap();
        member.stop(true).await;
        let member = open(&history).await;
        member.check(false).await.unwrap();
    });
    case.unwrap();
}
