//! The bookkeeping of a member's ring, step by step.

use wire::message::{Prepare, Purpose};
use wire::{CheckpointId, Draft, Timestamp, View};

use super::*;

fn header(op: u64, view: u32) -> Header {
    let prepare = Prepare {
        parent: Checksum(0),
        checkpoint: CheckpointId(0),
        op: Op(op),
        commit: Op(0),
        timestamp: Timestamp(op),
        version_count: 1,
        request_count: 0,
        purpose: Purpose::Requests,
    };
    Draft { view: View(view), ..Draft::default() }.seal(&prepare, b"")
}

/// A member's ring of five segments, each with room for `frames` frames, after its first marker.
fn ring(frames: usize) -> Ring {
    let mut geometry = Geometry {
        segment_size: 0,
        segment_count: 5,
        frame_max: 4 * SECTOR,
        pipeline_max: 4,
        log_budget: 0,
        has_peers: true,
    };
    let size = SECTOR + frames * SECTOR + index_size(frames) + geometry.marker_room();
    geometry.segment_size = u32::try_from(size).unwrap();
    let mut ring = Ring::new(geometry, Incarnation(1), &[SegmentEpoch(0); 5], Op(0));
    ring.begin_with(SegmentId(0));
    assert_eq!(ring.free_count(), 1);
    mark(&mut ring);
    assert_eq!(ring.free_count(), 4);
    ring
}

fn mark(ring: &mut Ring) {
    let place = ring.reserve(SECTOR, None, Claim::Again).unwrap();
    ring.marker_written(place);
}

fn begin(ring: &mut Ring, header: &Header, claim: Claim) -> Place {
    ring.reserve(SECTOR, Some(header), claim).expect("there is room")
}

fn write(ring: &mut Ring, op: u64, view: u32) -> Location {
    let header = header(op, view);
    let place = begin(ring, &header, Claim::Ordinary);
    ring.prepare_written(place, SECTOR as u32, Op(op), header.checksum());
    ring.find(Op(op), header.checksum()).unwrap()
}

#[test]
fn a_copy_counts_if_its_original_still_does() {
    let mut ring = ring(8);
    let from = write(&mut ring, 1, 0);
    let (old, new) = (header(1, 0), header(1, 2));
    let place = begin(&mut ring, &old, Claim::Again);
    // Another version becomes durable while the copy is written.
    let there = write(&mut ring, 1, 2);
    ring.copy_written(place, Op(1), old.checksum(), from);
    assert_eq!(ring.locate(Op(1)), Some((there, new.checksum())));
    assert_eq!(ring.find(Op(1), old.checksum()), None);
    assert_eq!(ring.live_bytes(), SECTOR as u64);
    // Nothing does.
    let place = begin(&mut ring, &new, Claim::Again);
    let offset = place.offset;
    ring.copy_written(place, Op(1), new.checksum(), there);
    assert_eq!(ring.find(Op(1), new.checksum()).unwrap().offset, offset);
    assert_eq!(ring.live_bytes(), SECTOR as u64);
    // Released meanwhile.
    let from = ring.find(Op(1), new.checksum()).unwrap();
    let place = begin(&mut ring, &new, Claim::Again);
    ring.release(Op(1));
    ring.copy_written(place, Op(1), new.checksum(), from);
    assert_eq!((ring.live_bytes(), ring.locate(Op(1))), (0, None));
}

#[test]
fn a_segment_is_free_once_a_newer_marker_has_said_what_it_said() {
    let mut ring = ring(4);
    for op in 1..=9 {
        write(&mut ring, op, 0);
    }
    let before = ring.free_count();
    // A marker that is under way does not know of what follows.
    let place = ring.reserve(SECTOR, None, Claim::Ordinary).unwrap();
    ring.release(Op(5));
    ring.marker_written(place);
    assert_eq!(ring.free_count(), before);
    mark(&mut ring);
    assert!(ring.free_count() > before);
}

#[test]
fn strays_are_kept_until_their_op_is_written_given_up_or_released() {
    let mut ring = ring(8);
    let stray = |op: u64, view: u32, location: Location| {
        let summary = super::super::recovery::Summary::of(&header(op, view));
        Sighting { summary, location, good: true }
    };
    let places: Vec<Location> = (1..=4).map(|op| write(&mut ring, op, 0)).collect();
    ring.give_up(|_, _| true);
    assert_eq!(ring.live_bytes(), 0);
    for (op, place) in (1..).zip(&places) {
        ring.place_stray(&stray(op, 0, *place));
        ring.place_stray(&stray(op, 1, *place));
    }
    let live = |ring: &Ring| ring.live_bytes() / SECTOR as u64;
    assert_eq!((live(&ring), ring.live_in(SegmentId(0)).len()), (8, 8));
    assert_eq!(ring.find(Op(2), header(2, 1).checksum()), Some(places[1]));
    assert_eq!(ring.locate(Op(2)), None);
    ring.release(Op(1));
    assert_eq!(live(&ring), 6);
    write(&mut ring, 2, 1);
    assert_eq!((live(&ring), ring.find(Op(2), header(2, 0).checksum())), (5, None));
    ring.give_up(|op, checksum| op == Op(3) && checksum == header(3, 0).checksum());
    assert_eq!(live(&ring), 4);
    ring.lose(Op(3), header(3, 1).checksum());
    assert_eq!(live(&ring), 3);
}
