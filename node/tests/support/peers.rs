//! What stands in for replicas where only the connections between them are looked at: members of a
//! cluster that was never formatted, and prepares as a primary has them.

use std::rc::Rc;

use ioring::{Buffer, BufferPool, Frozen, Listener};
use node::peers::{Config, Deliver, Member, Peers};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE};
use wire::message::{Prepare, Purpose};
use wire::{
    CheckpointId, Checksum, ClusterId, Draft, HEADER_SIZE, Incarnation, Op, ReplicaId, Timestamp,
};

pub(crate) const CLUSTER: ClusterId = ClusterId(77);
const CONFIGURATION: Checksum = Checksum(5);

/// A member of a cluster of so many.
pub(crate) fn member(replica: u8, replica_count: u8) -> Member {
    Member {
        cluster: CLUSTER,
        replica: ReplicaId(replica),
        replica_count,
        configuration: CONFIGURATION,
        incarnation: Incarnation(u128::from(replica) + 100),
    }
}

/// What is the same in all headers of a member.
pub(crate) fn draft(replica: ReplicaId) -> Draft {
    Draft { cluster: CLUSTER, replica, ..Draft::default() }
}

/// A member's connections; prepares have up to `prepare_size_max` bytes, and `frames_max` of them
/// wait for a peer.
pub(crate) fn connect(
    member: Member,
    addresses: &[String],
    listener: Listener,
    (prepare_size_max, frames_max): (usize, usize),
    (pool, deliver): (BufferPool, Rc<dyn Deliver>),
) -> Rc<Peers> {
    let addresses = addresses.to_vec();
    let config = Config { member, addresses, prepare_size_max, frames_max };
    Peers::start(config, pool, listener, deliver)
}

/// A prepare of `size` bytes, header included, whose body `fill` writes: in its frame, of which a
/// message is the slice given.
pub(crate) fn prepare(
    mut frame: Buffer,
    from: ReplicaId,
    (op, parent): (Op, Checksum),
    size: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Frozen {
    let tail = Prepare {
        parent,
        checkpoint: CheckpointId(0),
        op,
        commit: Op(0),
        timestamp: Timestamp(0),
        version_count: 0,
        request_count: 0,
        purpose: Purpose::Requests,
    };
    let body = BODY_OFFSET..BODY_OFFSET + size - HEADER_SIZE;
    fill(&mut frame[body.clone()]);
    let header = draft(from).seal(&tail, &frame[body]);
    frame[FRAME_HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
    frame.freeze().slice(FRAME_HEADER_SIZE..FRAME_HEADER_SIZE + size)
}
