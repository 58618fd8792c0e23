//! Disks that lie: each row of the fault table that a journal alone can answer.

use std::path::Path;
use std::time::Duration;

use ioring::sim::{Config, NodeId, ReadFault, Status, World, WriteFault};
use wire::Op;

use super::super::{Location, RecoverError, Sabotage};
use super::support::{self, TestError, TestLog};
use crate::format::{OpenError, inspect};
use crate::journal::inspect::ItemKind;
use crate::superblock::{COPY_SIZE, QuorumError};

const DIR: &str = "/replica";
const JOURNAL: &str = "/replica/journal";

/// How a run ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// With a marker.
    Clean,
    /// Killed after the marker delay.
    Marked,
    /// Killed right after the last acknowledgement.
    Sudden,
}

struct Fixture {
    world: World,
    node: NodeId,
    /// Where each op's frame is, from op 1 on.
    frames: Vec<Location>,
}

impl Fixture {
    /// A journal with prepares of these sizes.
    fn new(sizes: &'static [usize], end: End) -> Fixture {
        Fixture::sabotaged(sizes, end, Sabotage::None)
    }

    fn sabotaged(sizes: &'static [usize], end: End, sabotage: Sabotage) -> Fixture {
        let mut world = World::new(11, Config::default());
        let node = world.add_node("faults");
        let frames = world.run(node, move || async move {
            support::make(Path::new(DIR)).await;
            let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
            log.journal.shared.sabotage.set(sabotage);
            for &size in sizes {
                log.append(size).await;
            }
            if end == End::Marked {
                ioring::sleep(Duration::from_millis(20)).await;
            }
            let frames = log.locations();
            log.stop(end == End::Clean).await;
            frames
        });
        let frames = frames.unwrap();
        world.disk(node).settle();
        Fixture { world, node, frames }
    }

    fn rot(&mut self, op: u64, within: u64) {
        let offset = self.frames[op as usize - 1].offset + within;
        self.world.disk(self.node).rot(Path::new(JOURNAL), offset, 0x40).unwrap();
    }

    fn recover(&mut self) -> Result<Op, TestError> {
        let recovered = self.world.run(self.node, || async {
            let log = TestLog::open(Path::new(DIR)).await?;
            log.check().await;
            Ok(log.recovered.head)
        });
        recovered.unwrap()
    }

    /// Starting is refused naming this op and its offset, `inspect` says the same, and nothing is
    /// written by either.
    #[track_caller]
    fn refused(&mut self, op: u64) {
        let before = self.world.disk(self.node).contents(Path::new(JOURNAL)).unwrap();
        let error = match self.recover() {
            Err(TestError::Recover(error)) => error,
            other => panic!("{other:?}"),
        };
        let text = error.to_string();
        let RecoverError::Damaged { damaged, .. } = error else { panic!("{text}") };
        assert_eq!(damaged[0].op, Op(op));
        assert_eq!(damaged[0].offset, self.frames[op as usize - 1].offset);
        assert!(text.contains(JOURNAL) && text.contains(&format!("op {op} ")), "{text}");
        let report = self.world.run(self.node, || inspect::inspect(Path::new(DIR), true));
        let report = report.unwrap().unwrap();
        assert!(report.is_damaged());
        assert_eq!(report.journal.unwrap().damaged, damaged);
        let after = self.world.disk(self.node).contents(Path::new(JOURNAL)).unwrap();
        assert!(before == after, "something was written");
    }
}

const SIZES: &[usize] = &[100, 7000, 1, 3000, 5000];

#[test]
fn rot_in_an_acknowledged_frame_is_refused_by_name() {
    for end in [End::Clean, End::Marked] {
        for op in 1..=5 {
            // The frame's header, the prepare's, the body.
            for within in [70, 300, 512] {
                let mut fixture = Fixture::new(SIZES, end);
                fixture.rot(op, within);
                fixture.refused(op);
            }
        }
    }
}

#[test]
fn rot_in_padding_harms_nothing() {
    let mut fixture = Fixture::new(SIZES, End::Clean);
    fixture.rot(1, 4000);
    assert_eq!(fixture.recover().unwrap(), Op(5));
}

#[test]
fn without_a_marker_rot_of_the_very_last_frame_is_taken_for_torn() {
    let mut fixture = Fixture::new(SIZES, End::Sudden);
    fixture.rot(5, 600);
    assert_eq!(fixture.recover().unwrap(), Op(4), "what remains, as documented");
    // The marker is what makes the difference.
    let mut fixture = Fixture::sabotaged(SIZES, End::Marked, Sabotage::NoMarker);
    fixture.rot(5, 600);
    assert_eq!(fixture.recover().unwrap(), Op(4));
}

#[test]
fn what_was_forgotten_stays_void_when_it_becomes_readable_again() {
    let mut fixture = Fixture::new(SIZES, End::Sudden);
    fixture.rot(5, 600);
    assert_eq!(fixture.recover().unwrap(), Op(4));
    fixture.rot(5, 600);
    let report = fixture.world.run(fixture.node, || inspect::inspect(Path::new(DIR), true));
    let journal = report.unwrap().unwrap().journal.unwrap();
    assert!(
        journal
            .frames_of(Op(5))
            .any(|item| { matches!(&item.kind, ItemKind::Prepare { fault: None, .. }) })
    );
    assert_eq!(fixture.recover().unwrap(), Op(4));
}

#[test]
fn unreadable_sectors_are_damage_of_what_lies_on_them() {
    let mut fixture = Fixture::new(SIZES, End::Clean);
    let offset = fixture.frames[1].offset + 4096;
    fixture.world.disk(fixture.node).make_unreadable(Path::new(JOURNAL), offset, 512).unwrap();
    fixture.refused(2);
    // In a superblock copy: survived, and repaired by writing it.
    let mut fixture = Fixture::new(SIZES, End::Clean);
    let copy = 3 * COPY_SIZE as u64;
    fixture.world.disk(fixture.node).make_unreadable(Path::new(JOURNAL), copy, 512).unwrap();
    assert_eq!(fixture.recover().unwrap(), Op(5));
    let report = fixture.world.run(fixture.node, || inspect::inspect(Path::new(DIR), false));
    assert!(!report.unwrap().unwrap().is_damaged());
}

#[test]
fn lost_misdirected_and_torn_writes_are_detected() {
    for fault in [WriteFault::Lost, WriteFault::Misdirected, WriteFault::Torn] {
        let mut found = 0;
        for seed in 0..12 {
            let mut world = World::new(seed, Config::default());
            let node = world.add_node("liar");
            let probe = world.probe(node);
            let written = world.run(node, move || async move {
                support::make(Path::new(DIR)).await;
                let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
                log.append(100).await;
                ioring::sleep(Duration::from_millis(20)).await;
                probe.with_disk(|disk| disk.inject_write(Path::new(JOURNAL), fault).unwrap());
                log.append(6000).await;
                log.append(200).await;
                log.stop(true).await;
            });
            written.unwrap();
            let recovered = world.run(node, || async {
                let log = TestLog::open(Path::new(DIR)).await?;
                log.check().await;
                Ok::<_, TestError>(log.recovered.head)
            });
            match recovered.unwrap() {
                Err(TestError::Recover(RecoverError::Damaged { damaged, .. })) => {
                    // A misdirected write also hits what it lands on.
                    let named = damaged.iter().any(|damaged| damaged.op == Op(2));
                    assert!(named || fault == WriteFault::Misdirected, "{damaged:?}");
                    found += 1;
                }
                Err(other) => assert!(fault == WriteFault::Misdirected, "{other:?}"),
                // Torn so that only padding is missing, or every sector is there.
                Ok(head) => assert_eq!(head, Op(3)),
            }
        }
        assert!(found > 0, "{fault:?}");
    }
}

#[test]
fn stale_bytes_of_an_earlier_use_are_detected() {
    let mut fixture = Fixture::new(SIZES, End::Clean);
    let old = fixture.world.disk(fixture.node).contents(Path::new(JOURNAL)).unwrap();
    // Go round until op 2's place is used again, then let the device return the old bytes.
    let place = fixture.frames[1];
    let used = fixture.world.run(fixture.node, move || async move {
        let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
        loop {
            log.append(7000).await;
            let (location, _) = log.journal.shared.state.borrow().ring.locate(log.head).unwrap();
            let end = location.offset + u64::from(location.length);
            if (location.offset..end).contains(&place.offset) {
                let frames = log.locations();
                let checkpoint = log.directory.superblock.state().checkpoint.op;
                // Another that vouches for it.
                log.append(10).await;
                log.stop(true).await;
                return (checkpoint, frames);
            }
            let behind = Op(log.head.0 - 3);
            log.checkpoint(behind).await;
        }
    });
    let (checkpoint, frames) = used.unwrap();
    let last = *frames.last().unwrap();
    let range = last.offset as usize..last.offset as usize + last.length as usize;
    let path = Path::new(JOURNAL);
    fixture.world.disk(fixture.node).overwrite(path, last.offset, &old[range]).unwrap();
    fixture.world.disk(fixture.node).settle();
    match fixture.recover() {
        Err(TestError::Recover(RecoverError::Damaged { damaged, .. })) => {
            assert_eq!(damaged[0].op, Op(checkpoint.0 + frames.len() as u64));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_inside_a_value_is_never_taken_for_a_frame() {
    let mut world = World::new(5, Config::default());
    let node = world.add_node("nested");
    let places = world.run(node, || async {
        support::make(Path::new(DIR)).await;
        let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
        log.append(50).await;
        let inner = log.read(Op(1)).await;
        // So that the copy begins at a sector of the outer frame.
        let mut value = vec![0; 4096 - crate::journal::BODY_OFFSET];
        value.extend_from_slice(&inner[..3500]);
        log.append_body(value).await;
        log.append(10).await;
        let frames = log.locations();
        log.stop(true).await;
        frames
    });
    let outer = places.unwrap()[1];
    world.disk(node).rot(Path::new(JOURNAL), outer.offset + 64, 1).unwrap();
    let report = world.run(node, || inspect::inspect(Path::new(DIR), true)).unwrap().unwrap();
    let journal = report.journal.unwrap();
    assert_eq!(journal.damaged[0].op, Op(2));
    assert_eq!(journal.frames_of(Op(1)).count(), 1, "the copy is not among the frames");
    let misplaced = |item: &crate::journal::inspect::Item| match &item.kind {
        ItemKind::Bad { fault } => fault.contains("misplaced"),
        _ => false,
    };
    let items = journal.segments.iter().flat_map(|segment| &segment.items);
    assert!({ items }.any(|item| item.offset == outer.offset + 4096 && misplaced(item)));
}

#[test]
fn a_failed_durable_write_ends_the_process_by_name() {
    for superblock in [false, true] {
        let mut world = World::new(9, Config::default());
        let node = world.add_node("eio");
        let probe = world.probe(node);
        let ended = world.run(node, move || async move {
            support::make(Path::new(DIR)).await;
            let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
            log.append(100).await;
            ioring::sleep(Duration::from_millis(20)).await;
            let fail = WriteFault::Error;
            probe.with_disk(|disk| disk.inject_write(Path::new(JOURNAL), fail).unwrap());
            if superblock {
                log.checkpoint(Op(1)).await;
            } else {
                log.append(100).await;
            }
        });
        let Err(Status::Fatal(reason, status)) = ended else { panic!("{ended:?}") };
        assert_eq!(status, 70);
        assert!(reason.contains(JOURNAL) && reason.contains("offset"), "{reason}");
        // What was acknowledged before is still there.
        let head = world.run(node, || async {
            let log = TestLog::open(Path::new(DIR)).await.unwrap();
            log.check().await;
            log.recovered.head
        });
        assert!(head.unwrap() >= Op(1));
    }
}

#[test]
fn a_misdirected_read_is_asked_for_again() {
    let mut fixture = Fixture::new(SIZES, End::Clean);
    let probe = fixture.world.probe(fixture.node);
    let read = fixture.world.run(fixture.node, move || async move {
        let log = TestLog::open(Path::new(DIR)).await.unwrap();
        let fault = ReadFault::Misdirected;
        probe.with_disk(|disk| disk.inject_read(Path::new(JOURNAL), fault).unwrap());
        support::check_frame(Op(2), &log.read(Op(2)).await);
    });
    read.unwrap();
    assert_eq!(fixture.world.disk(fixture.node).fault_counts().misdirected_reads, 1);
}

#[test]
fn a_superblock_that_went_back_is_refused() {
    let mut fixture = Fixture::new(SIZES, End::Clean);
    let path = Path::new(JOURNAL);
    let old = fixture.world.disk(fixture.node).contents(path).unwrap();
    let _ = fixture.world.run(fixture.node, || async {
        let mut log = TestLog::open(Path::new(DIR)).await.unwrap();
        log.append(10).await;
        log.stop(true).await;
    });
    // All eight copies of an older version: no quorum rule can see that, the log does.
    let zone = crate::superblock::ZONE_SIZE;
    fixture.world.disk(fixture.node).overwrite(path, 0, &old[..zone]).unwrap();
    fixture.world.disk(fixture.node).settle();
    match fixture.recover() {
        Err(TestError::Recover(RecoverError::Contradiction { source, .. })) => {
            assert!(source.to_string().contains("lost its last update"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    fixture.world.disk(fixture.node).overwrite(path, 0, &vec![0; zone]).unwrap();
    match fixture.recover() {
        Err(TestError::Open(OpenError::SuperBlock { source, .. })) => {
            assert_eq!(source, QuorumError::Blank);
        }
        other => panic!("{other:?}"),
    }
}
