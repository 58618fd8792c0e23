//! Headers: every message survives a round trip, nothing damaged does, the bytes are pinned.

use proptest::prelude::*;
use wire::message::{
    Block, Checkpoint, Commit, DoViewChange, Error, Forward, Forwarded, Hello, Ping, Prepare,
    PrepareOk, Purpose, Reply, Request, StartView, Tail,
};
use wire::{
    CheckpointId, Checksum, ClientId, ClusterId, Command, Draft, Epoch, ErrorCode, HEADER_SIZE,
    Header, HeaderError, Incarnation, MapVersion, Op, Release, ReplicaId, RequestNumber, ShardId,
    Slot, Timestamp, View, checksum,
};

fn draft() -> Draft {
    Draft {
        cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        view: View(7),
        release: Release::new(0, 1, 0),
        replica: ReplicaId(2),
        epoch: Epoch(3),
        slot: Slot(12_182),
        map_version: MapVersion(9),
    }
}

fn prepare() -> Prepare {
    Prepare {
        parent: Checksum(0x11),
        checkpoint: CheckpointId(0x22),
        op: Op(0x33),
        commit: Op(0x32),
        timestamp: Timestamp(0x44),
        version_count: 5,
        request_count: 4,
        purpose: Purpose::Requests,
    }
}

fn assert_round_trip<T: Tail + PartialEq + std::fmt::Debug>(tail: &T) {
    let body = b"whatever";
    let header = draft().seal(tail, body);
    let read = Header::verify(header.bytes()).expect("what was sealed verifies");
    assert_eq!(read, header);
    assert_eq!(read.tail::<T>().as_ref(), Some(tail));
    assert_eq!(read.command(), T::COMMAND);
    assert_eq!((read.size(), read.body_size()), (HEADER_SIZE + 8, 8));
    assert_eq!(read.verify_body(body), Ok(()));
    assert_eq!(read.cluster(), draft().cluster);
    assert_eq!((read.view(), read.replica()), (View(7), ReplicaId(2)));
    assert_eq!((read.epoch(), read.slot()), (Epoch(3), Slot(12_182)));
    assert_eq!((read.map_version(), read.release()), (MapVersion(9), Release::new(0, 1, 0)));
}

#[test]
fn messages_survive_a_round_trip() {
    assert_round_trip(&prepare());
    assert_round_trip(&Hello {
        incarnation: Incarnation(u128::MAX),
        configuration: Checksum(5),
        protocol_min: 1,
        protocol_max: 2,
        release_max: Release::new(1, 2, 3),
        replica_count: 5,
        client: true,
        class: 3,
    });
    assert_round_trip(&Ping {
        monotonic: u64::MAX,
        checkpoint: CheckpointId(1),
        checkpoint_op: Op(2),
        op: Op(3),
        commit: Op(4),
    });
    assert_round_trip(&Request {
        client: ClientId(1),
        number: RequestNumber(2),
        acknowledged: RequestNumber(1),
        patience: 4,
        operation_count: 5,
        read_level: 1,
        all_or_none: true,
    });
    assert_round_trip(&PrepareOk {
        prepare: Checksum(1),
        op: Op(2),
        commit: Op(3),
        checkpoint: CheckpointId(4),
        incarnation: Incarnation(5),
    });
    assert_round_trip(&Reply {
        client: ClientId(1),
        number: RequestNumber(2),
        op: Op(3),
        timestamp: Timestamp(4),
        credits: 5,
        outcome_count: 6,
    });
    assert_round_trip(&Commit {
        prepare: Checksum(1),
        commit: Op(2),
        checkpoint: CheckpointId(3),
        checkpoint_op: Op(4),
        round: 5,
        timestamp: Timestamp(6),
    });
}

#[test]
fn messages_of_view_change_and_repair_survive_a_round_trip() {
    assert_round_trip(&DoViewChange {
        present: 1,
        nack: 1 << 127,
        log_view: View(3),
        op: Op(4),
        commit: Op(5),
        checkpoint_op: Op(6),
        incarnation: Incarnation(7),
    });
    assert_round_trip(&StartView {
        op: Op(1),
        commit: Op(2),
        checkpoint: CheckpointId(3),
        checkpoint_op: Op(4),
        nonce: 5,
    });
    assert_round_trip(&Block { block: Checksum(1), address: 2, shard: ShardId(3) });
    assert_round_trip(&Checkpoint {
        checkpoint: CheckpointId(1),
        parent: CheckpointId(2),
        prepare: Checksum(3),
        op: Op(4),
        timestamp: Timestamp(5),
        root_count: 6,
    });
    assert_round_trip(&Error {
        client: ClientId(1),
        number: RequestNumber(2),
        code: ErrorCode::NotPrimary,
        retry_after_ms: 4,
        primary: ReplicaId(5),
        primary_known: true,
    });
    assert_round_trip(&Forward { number: 1 });
    assert_round_trip(&Forwarded { number: 1, outcome_count: 2 });
}

#[test]
fn a_tail_is_only_its_own_commands() {
    let header = draft().seal(&prepare(), b"");
    assert!(header.tail::<Commit>().is_none());
    for &command in Command::ALL {
        assert_eq!(Command::from_u8(command as u8), Some(command));
    }
    assert_eq!(Command::from_u8(0), None);
    assert_eq!(Command::from_u8(Command::ALL.len() as u8 + 1), None);
}

/// The layout of a prepare's header is on disk: these bytes may only change with the protocol.
#[test]
fn golden_prepare_header() {
    let header = draft().seal(&prepare(), b"body");
    let bytes = header.bytes();
    assert_eq!(bytes[..16], checksum(&bytes[16..]).0.to_le_bytes());
    assert_eq!(bytes[16..32], checksum(b"body").0.to_le_bytes());
    assert_eq!(bytes[32..48], [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[48..52], 260u32.to_le_bytes());
    assert_eq!(bytes[52..56], [7, 0, 0, 0]);
    assert_eq!(bytes[56..60], [0, 0, 1, 0]);
    assert_eq!(bytes[60..64], [2, 0, 4 + 1, 2][..]);
    assert_eq!(bytes[64..68], [3, 0, 0, 0]);
    assert_eq!(bytes[68..80], [0, 0, 0x96, 0x2f, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[80..88], [9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[88..128], [0; 40]);
    assert_eq!(bytes[128..144], 0x11u128.to_le_bytes());
    assert_eq!(bytes[144..160], 0x22u128.to_le_bytes());
    assert_eq!(bytes[160..168], 0x33u64.to_le_bytes());
    assert_eq!(bytes[168..176], 0x32u64.to_le_bytes());
    assert_eq!(bytes[176..184], 0x44u64.to_le_bytes());
    assert_eq!(bytes[184..188], [5, 0, 0, 0]);
    assert_eq!(bytes[188..193], [4, 0, 0, 0, 1]);
    assert_eq!(bytes[193..256], [0; 63]);
    assert_eq!(header.checksum().to_string(), "28f1f7970e03e68ef5406358a7b0e7dd");
}

/// Changes bytes as an older or hostile sender could, with a correct checksum.
fn forged(change: impl FnOnce(&mut [u8; HEADER_SIZE])) -> Result<Header, HeaderError> {
    let mut bytes = *draft().seal(&prepare(), b"").bytes();
    change(&mut bytes);
    let sum = checksum(&bytes[16..]);
    bytes[..16].copy_from_slice(&sum.0.to_le_bytes());
    Header::verify(&bytes)
}

#[test]
fn fields_without_a_meaning_are_refused_by_name() {
    assert!(forged(|_| ()).is_ok());
    assert_eq!(forged(|b| b[60] = 3), Err(HeaderError::Protocol { actual: 3 }));
    assert_eq!(forged(|b| b[62] = 200), Err(HeaderError::Command { actual: 200 }));
    assert_eq!(forged(|b| b[48..52].fill(0)), Err(HeaderError::Size { actual: 0 }));
    let field = Err(HeaderError::Field { command: Command::Prepare });
    for reserved in [68, 69, 72, 76, 79, 88, 111, 112, 127, 192, 193, 255] {
        assert_eq!(forged(|b| b[reserved] = 77), field, "byte {reserved}");
    }
    assert_eq!(forged(|b| b[71] = 0x40), field, "slot");
    assert_eq!(Header::verify(&[0; 255]), Err(HeaderError::Short { actual: 255 }));
    assert!(matches!(Header::verify(&[0; 256]), Err(HeaderError::Checksum { .. })));
}

#[test]
fn a_body_is_checked_for_length_and_sum() {
    let header = draft().seal(&prepare(), b"body");
    assert_eq!(header.verify_body(b"body"), Ok(()));
    let size = HeaderError::BodySize { expected: 4, actual: 3 };
    assert_eq!(header.verify_body(b"bod"), Err(size));
    assert!(matches!(header.verify_body(b"bodx"), Err(HeaderError::BodyChecksum { .. })));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(bit in 0..HEADER_SIZE * 8) {
        let mut bytes = *draft().seal(&prepare(), b"body").bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let noticed = matches!(Header::verify(&bytes), Err(HeaderError::Checksum { .. }));
        prop_assert!(noticed);
    }

    #[test]
    fn forged_bytes_never_panic(
        at in 48..HEADER_SIZE,
        patch in prop::collection::vec(any::<u8>(), 1..32),
    ) {
        let read = forged(|bytes| {
            let end = (at + patch.len()).min(HEADER_SIZE);
            bytes[at..end].copy_from_slice(&patch[..end - at]);
        });
        if let Ok(header) = read {
            let _ = (format!("{header:?}"), header.tail::<Prepare>(), header.body_size());
        }
    }

    #[test]
    fn random_bytes_are_no_header(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Header::verify(&bytes).is_err());
    }
}
