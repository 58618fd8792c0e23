//! The bytes of the journal: sectors, frames, markers, index parts.
//!
//! All that is written is a *frame*: whole sectors that begin with a [`FrameHeader`] of 256 bytes.
//! There are four kinds: a segment's header sector, a prepare, a marker, a part of a sealed
//! segment's index. A frame names where it belongs: incarnation of the replica, epoch of the
//! segment and byte offset in the file. So a frame left over from the segment's last use, written
//! by another replica or delivered from another place is recognised without a look at its contents.
//!
//! No place is written twice in one epoch: a segment is only appended to, and after a restart
//! appending goes on in another segment with a new epoch. Therefore a copy of a frame inside a
//! client's value can never pass for a frame when recovery resynchronises in a damaged body: when
//! that value was made, no frame of this epoch and offset had existed to be copied.
//!
//! A prepare's frame holds no checksum of its payload: the prepare's own header has one, and
//! summing the body twice would double what a write costs. Padding up to the sector's end is zero.

use std::mem::offset_of;

use wire::{Checksum, HEADER_SIZE, Header, Incarnation, Op, checksum};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::superblock::{FORMAT, ZONE_SIZE};

/// The unit of writing and of resynchronisation.
pub const SECTOR: usize = 4096;
/// Bytes of a frame's own header.
pub const FRAME_HEADER_SIZE: usize = 256;
/// Where a prepare's body begins in its frame.
pub const BODY_OFFSET: usize = FRAME_HEADER_SIZE + HEADER_SIZE;
/// Bytes of an entry of a segment's index.
pub const INDEX_ENTRY_SIZE: usize = 8 + HEADER_SIZE;
/// Entries in one part of an index.
pub const INDEX_PART_ENTRIES: usize = 247;
/// Bytes of a full part of an index.
pub const INDEX_PART_SIZE: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"QRTFRAME";
const COVERED_FROM: usize = 16;

/// Bytes that a message of `message_size` bytes (header and body) takes in the journal.
#[must_use]
pub const fn frame_size(message_size: usize) -> usize {
    (FRAME_HEADER_SIZE + message_size).next_multiple_of(SECTOR)
}

/// Bytes of the index of `entries` prepares.
#[must_use]
pub const fn index_size(entries: usize) -> usize {
    let rest = entries % INDEX_PART_ENTRIES;
    let last = if rest == 0 { 0 } else { frame_size(rest * INDEX_ENTRY_SIZE) };
    entries / INDEX_PART_ENTRIES * INDEX_PART_SIZE + last
}

/// A segment of the journal, counted from 0 in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u32);

/// The use of a segment: each time one is begun, it gets the next number of the whole journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentEpoch(pub u64);

/// Where a segment begins in the file.
#[must_use]
pub fn segment_offset(segment: SegmentId, segment_size: u32) -> u64 {
    ZONE_SIZE as u64 + u64::from(segment.0) * u64::from(segment_size)
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The first sector of a segment.
    Segment = 1,
    /// A prepare: its 256-byte header and its body.
    Prepare = 2,
    /// Headers of the newest durable prepares, and the commit number.
    Marker = 3,
    /// Offsets and prepare headers of a sealed segment's frames.
    Index = 4,
}

impl FrameKind {
    fn from_u8(number: u8) -> Option<FrameKind> {
        match number {
            1 => Some(FrameKind::Segment),
            2 => Some(FrameKind::Prepare),
            3 => Some(FrameKind::Marker),
            4 => Some(FrameKind::Index),
            _ => None,
        }
    }
}

/// The first 256 bytes of every frame. The byte map is in `docs/FORMAT.md`.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct FrameHeader {
    checksum: U128,
    magic: [u8; 8],
    format: U16,
    kind: u8,
    compression: u8,
    encryption: u8,
    reserved_codec: [u8; 3],
    incarnation: U128,
    epoch: U64,
    offset: U64,
    length: U32,
    payload_size: U32,
    segment: U32,
    count: U32,
    commit: U64,
    part: U32,
    parts: U32,
    checksum_payload: U128,
    key_id: U32,
    reserved_key: [u8; 4],
    nonce: [u8; 24],
    reserved: [u8; 112],
}

const _: () = {
    assert!(size_of::<FrameHeader>() == FRAME_HEADER_SIZE);
    assert!(offset_of!(FrameHeader, magic) == COVERED_FROM);
    assert!(offset_of!(FrameHeader, incarnation) == 32);
    assert!(offset_of!(FrameHeader, checksum_payload) == 96);
    assert!(frame_size(INDEX_PART_ENTRIES * INDEX_ENTRY_SIZE) == INDEX_PART_SIZE);
    assert!(SECTOR.is_multiple_of(FRAME_HEADER_SIZE));
};

/// Where a frame is put, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: SegmentEpoch,
    pub(crate) segment: SegmentId,
    /// In the file, in bytes.
    pub(crate) offset: u64,
}

/// Why the bytes at a sector are no frame of this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameFault {
    /// They do not begin as a frame does.
    #[error("no frame begins here")]
    Magic,
    /// The frame header's own checksum does not match.
    #[error("frame header checksum is {actual}, the header says {expected}")]
    HeaderChecksum {
        /// What the header says.
        expected: Checksum,
        /// What its bytes sum to.
        actual: Checksum,
    },
    /// A frame of another format.
    #[error("frame of format {found}")]
    Format {
        /// Its format.
        found: u16,
    },
    /// A frame of another replica, or of this one before it was formatted again.
    #[error("frame of another incarnation")]
    Incarnation,
    /// A frame that belongs at another offset.
    #[error("misplaced: the frame belongs at offset {found}")]
    Misplaced {
        /// Where it belongs.
        found: u64,
    },
    /// A field has a value that no writer gives it.
    #[error("frame header with an impossible {0}")]
    Field(&'static str),
    /// A marker's or index part's contents do not match their checksum.
    #[error("payload checksum is {actual}, the frame says {expected}")]
    Payload {
        /// What the frame says.
        expected: Checksum,
        /// What the payload sums to.
        actual: Checksum,
    },
    /// The prepare's header is damaged.
    #[error("prepare header: {0}")]
    Prepare(wire::HeaderError),
}

impl FrameHeader {
    fn new(kind: FrameKind, place: Place, length: usize, payload_size: usize) -> FrameHeader {
        assert!(length.is_multiple_of(SECTOR) && place.offset.is_multiple_of(SECTOR as u64));
        assert!(FRAME_HEADER_SIZE + payload_size <= length);
        let mut header = FrameHeader::new_zeroed();
        header.magic = MAGIC;
        header.format = U16::new(u16::try_from(FORMAT).expect("formats are small"));
        header.kind = kind as u8;
        header.incarnation = place.incarnation.0.into();
        header.epoch = place.epoch.0.into();
        header.offset = place.offset.into();
        header.segment = place.segment.0.into();
        header.length = u32_of(length).into();
        header.payload_size = u32_of(payload_size).into();
        header
    }

    fn seal(mut self, frame: &mut [u8]) {
        self.checksum = self.sum().0.into();
        frame[..FRAME_HEADER_SIZE].copy_from_slice(self.as_bytes());
    }

    fn sum(&self) -> Checksum {
        checksum(&self.as_bytes()[COVERED_FROM..])
    }

    /// Checks the frame header at the start of `bytes`, but not yet the payload.
    pub(crate) fn verify(
        bytes: &[u8],
        incarnation: Incarnation,
        offset: u64,
    ) -> Result<&FrameHeader, FrameFault> {
        let (header, _) =
            FrameHeader::ref_from_prefix(bytes).map_err(|_| FrameFault::Field("length"))?;
        if header.magic != MAGIC {
            return Err(FrameFault::Magic);
        }
        let (expected, actual) = (Checksum(header.checksum.get()), header.sum());
        if expected != actual {
            return Err(FrameFault::HeaderChecksum { expected, actual });
        }
        if u32::from(header.format.get()) != FORMAT {
            return Err(FrameFault::Format { found: header.format.get() });
        }
        if header.incarnation.get() != incarnation.0 {
            return Err(FrameFault::Incarnation);
        }
        if header.offset.get() != offset {
            return Err(FrameFault::Misplaced { found: header.offset.get() });
        }
        if FrameKind::from_u8(header.kind).is_none() {
            return Err(FrameFault::Field("kind"));
        }
        if header.compression != 0 || header.encryption != 0 {
            return Err(FrameFault::Field("algorithm"));
        }
        let length = header.length();
        if length == 0
            || !length.is_multiple_of(SECTOR)
            || FRAME_HEADER_SIZE + header.payload_size() > length
        {
            return Err(FrameFault::Field("length"));
        }
        Ok(header)
    }

    pub(crate) fn kind(&self) -> FrameKind {
        FrameKind::from_u8(self.kind).expect("checked by verify")
    }

    pub(crate) fn length(&self) -> usize {
        self.length.get() as usize
    }

    pub(crate) fn payload_size(&self) -> usize {
        self.payload_size.get() as usize
    }

    pub(crate) fn epoch(&self) -> SegmentEpoch {
        SegmentEpoch(self.epoch.get())
    }

    pub(crate) fn commit(&self) -> Op {
        Op(self.commit.get())
    }

    /// Checks the prepare in `frame`. The header is given also when only the body is bad.
    pub(crate) fn verify_prepare(&self, frame: &[u8]) -> (Option<Header>, Result<(), FrameFault>) {
        let payload = &frame[FRAME_HEADER_SIZE..][..self.payload_size()];
        let header = match Header::verify(payload) {
            Ok(header) => header,
            Err(error) => return (None, Err(FrameFault::Prepare(error))),
        };
        if header.tail::<wire::message::Prepare>().is_none() {
            return (None, Err(FrameFault::Field("command")));
        }
        let body = header.verify_body(&payload[HEADER_SIZE..]).map_err(FrameFault::Prepare);
        (Some(header), body)
    }

    /// The entries of a marker or index part.
    pub(crate) fn verify_entries<'a>(&self, frame: &'a [u8]) -> Result<Entries<'a>, FrameFault> {
        let payload = &frame[FRAME_HEADER_SIZE..][..self.payload_size()];
        let (expected, actual) = (Checksum(self.checksum_payload.get()), checksum(payload));
        if expected != actual {
            return Err(FrameFault::Payload { expected, actual });
        }
        if payload.len() != self.count.get() as usize * INDEX_ENTRY_SIZE {
            return Err(FrameFault::Field("count"));
        }
        for entry in payload.chunks_exact(INDEX_ENTRY_SIZE) {
            let header = Header::verify(&entry[8..]).map_err(FrameFault::Prepare)?;
            if header.tail::<wire::message::Prepare>().is_none() {
                return Err(FrameFault::Field("command"));
            }
        }
        Ok(Entries { payload })
    }
}

/// Verified entries of a marker or index part.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'a> {
    payload: &'a [u8],
}

impl Entries<'_> {
    pub(crate) fn headers(&self) -> impl Iterator<Item = Header> {
        self.payload
            .chunks_exact(INDEX_ENTRY_SIZE)
            .map(|entry| Header::verify(&entry[8..]).expect("verified as a whole"))
    }
}

/// One entry of a segment's index or of a marker.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// In the segment, in bytes.
    pub(crate) offset: u32,
    /// Of the frame, in bytes.
    pub(crate) length: u32,
    pub(crate) header: Header,
}

/// Fills in the frame header of a prepare that stands at its place in `frame` already, and zeroes
/// the padding.
pub(crate) fn seal_prepare(frame: &mut [u8], place: Place, message_size: usize) {
    let length = frame.len();
    assert!(length == frame_size(message_size), "a frame is its message, rounded up to sectors");
    frame[FRAME_HEADER_SIZE + message_size..].fill(0);
    FrameHeader::new(FrameKind::Prepare, place, length, message_size).seal(frame);
}

/// Makes the header sector of a segment.
pub(crate) fn seal_segment(sector: &mut [u8], place: Place) {
    assert!(sector.len() == SECTOR);
    sector.fill(0);
    FrameHeader::new(FrameKind::Segment, place, SECTOR, 0).seal(sector);
}

/// Makes a marker or one part of an index (`part` of `parts`) in `frame`.
pub(crate) fn seal_entries(
    frame: &mut [u8],
    kind: FrameKind,
    place: Place,
    commit: Op,
    (part, parts): (usize, usize),
    entries: impl Iterator<Item = Entry>,
) {
    frame.fill(0);
    let mut count = 0;
    let mut end = FRAME_HEADER_SIZE;
    for entry in entries {
        frame[end..end + 4].copy_from_slice(&entry.offset.to_le_bytes());
        frame[end + 4..end + 8].copy_from_slice(&entry.length.to_le_bytes());
        frame[end + 8..end + INDEX_ENTRY_SIZE].copy_from_slice(entry.header.bytes());
        end += INDEX_ENTRY_SIZE;
        count += 1;
    }
    assert!(frame.len() == frame_size(end - FRAME_HEADER_SIZE));
    let mut header = FrameHeader::new(kind, place, frame.len(), end - FRAME_HEADER_SIZE);
    header.count = u32_of(count).into();
    header.commit = commit.0.into();
    header.part = u32_of(part).into();
    header.parts = u32_of(parts).into();
    header.checksum_payload = checksum(&frame[FRAME_HEADER_SIZE..end]).0.into();
    header.seal(frame);
}

fn u32_of(value: usize) -> u32 {
    u32::try_from(value).expect("sizes within a segment fit 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_frames_and_indexes() {
        assert_eq!(frame_size(HEADER_SIZE), SECTOR);
        assert_eq!(frame_size(SECTOR - FRAME_HEADER_SIZE), SECTOR);
        assert_eq!(frame_size(SECTOR - FRAME_HEADER_SIZE + 1), 2 * SECTOR);
        assert_eq!(index_size(0), 0);
        assert_eq!(index_size(1), SECTOR);
        assert_eq!(index_size(INDEX_PART_ENTRIES), INDEX_PART_SIZE);
        assert_eq!(index_size(INDEX_PART_ENTRIES + 1), INDEX_PART_SIZE + SECTOR);
    }

    #[test]
    fn every_bit_of_a_frame_header_is_covered() {
        let place = Place {
            incarnation: Incarnation(77),
            epoch: SegmentEpoch(3),
            segment: SegmentId(2),
            offset: 8 * SECTOR as u64,
        };
        let mut sector = vec![0; SECTOR];
        seal_segment(&mut sector, place);
        let verify = |bytes: &[u8]| {
            FrameHeader::verify(bytes, place.incarnation, place.offset).map(|header| header.epoch())
        };
        assert_eq!(verify(&sector), Ok(SegmentEpoch(3)));
        for bit in 0..FRAME_HEADER_SIZE * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&sector).is_err(), "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        let at = |incarnation, offset| {
            FrameHeader::verify(&sector, Incarnation(incarnation), offset).map(|_| ()).unwrap_err()
        };
        assert_eq!(at(78, place.offset), FrameFault::Incarnation);
        assert_eq!(at(77, 0), FrameFault::Misplaced { found: place.offset });
    }

    #[test]
    fn golden_bytes() {
        let place = Place {
            incarnation: Incarnation(77),
            epoch: SegmentEpoch(3),
            segment: SegmentId(2),
            offset: 8 * SECTOR as u64,
        };
        let mut sector = vec![0; SECTOR];
        seal_segment(&mut sector, place);
        assert_eq!(sector[16..27], *b"QRTFRAME\x01\x00\x01");
        assert_eq!(sector[32], 77);
        assert_eq!(sector[48], 3);
        assert_eq!(sector[56..60], [0, 0x80, 0, 0]);
        assert_eq!(sector[64..68], [0, 0x10, 0, 0]);
        assert_eq!(sector[72], 2);
        assert_eq!(checksum(&sector), GOLDEN, "{}", checksum(&sector));
    }

    const GOLDEN: Checksum = Checksum(0x1656_ad6a_301f_66f2_185f_d9e7_04cf_f696);
}
