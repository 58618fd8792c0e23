//! The I/O of recovery: scan all segments once, in the order of the file, reading ahead.
//!
//! Chunks are joined in a window that holds at least the largest frame, so that a frame that
//! crosses from one chunk into the next is judged whole. Nothing is written here.

use ioring::{Fatal, File};
use wire::{Header, Incarnation, Op};

use super::RecoverError;
use super::layout::{FRAME_HEADER_SIZE, SECTOR, SegmentId, segment_offset};
use super::read_ahead::{Range, ReadAhead};
use super::recovery::{self, Evidence, Log, LogView, Sighting, Summary};
use super::ring::Geometry;
use super::scan::{Finding, SegmentScanner};
use crate::superblock::State;

const CHUNK: usize = 1 << 20;

impl LogView {
    /// What the superblock says about the log.
    #[must_use]
    pub fn of(state: &State) -> LogView {
        LogView {
            checkpoint_op: state.checkpoint.op,
            checkpoint_checksum: state.checkpoint_checksum(),
            log_view: state.log_view,
            headers: state.view_headers.iter().map(Summary::of).collect(),
            commit_max: state.commit_max,
            has_peers: state.configuration.replica_count > 1,
        }
    }
}

/// What a restart begins with.
pub(super) struct Found {
    pub(super) view: LogView,
    pub(super) evidence: Evidence,
    pub(super) log: Log,
}

/// Reads the journal, makes durable what was read, and works the log out.
///
/// After a kill the device's cache may hold frames that were written and are not durable yet; the
/// scan finds them good. Were they not made durable before anything is concluded from them, the
/// superblock could come to name, or a member acknowledge, an op that a loss of power takes back.
pub(super) async fn read(
    file: &File,
    superblock: &State,
    observe: impl FnMut(SegmentId, u64, &Finding<'_>),
) -> Result<Found, RecoverError> {
    let geometry = Geometry::of(&superblock.configuration);
    let view = LogView::of(superblock);
    let incarnation = superblock.identity.incarnation;
    let evidence = scan(file, geometry, incarnation, view.checkpoint_op, observe).await;
    let path = || file.path().to_owned();
    if let Err(error) = file.sync().await {
        ioring::fatal(Fatal::DurableWrite { path: path(), offset: 0, error });
    }
    let log = recovery::decide(&view, &evidence)
        .map_err(|source| RecoverError::Contradiction { path: path(), source })?;
    if log.void > 0 {
        ioring::mark!("journal_frame_void");
    }
    Ok(Found { view, evidence, log })
}

/// Scans the journal; `observe` is told every finding with its segment and offset.
pub(crate) async fn scan(
    file: &File,
    geometry: Geometry,
    incarnation: Incarnation,
    checkpoint: Op,
    mut observe: impl FnMut(SegmentId, u64, &Finding<'_>),
) -> Evidence {
    let mut evidence = Evidence::default();
    let size = geometry.segment_size as usize;
    let chunks = (0..geometry.segment_count).map(SegmentId).flat_map(|segment| {
        let start = segment_offset(segment, geometry.segment_size);
        (0..size)
            .step_by(CHUNK)
            .map(move |from| Range { offset: start + from as u64, length: CHUNK.min(size - from) })
    });
    let mut reader = ReadAhead::new(file, CHUNK.min(size), chunks);
    let mut window = Vec::with_capacity(CHUNK + geometry.frame_max);
    for segment in (0..geometry.segment_count).map(SegmentId) {
        let start = segment_offset(segment, geometry.segment_size);
        let mut scanner = SegmentScanner::new(incarnation, start, size as u64);
        let mut unreadable = Vec::new();
        let mut collector = evidence.segment(segment, checkpoint);
        let mut report = |offset, finding: Finding<'_>| {
            observe(segment, offset, &finding);
            collector.add(offset, finding);
        };
        window.clear();
        let mut fed = 0;
        while fed < size {
            let chunk = reader.next().await.expect("a chunk for each part of each segment");
            assert!(chunk.range.offset == start + fed as u64, "chunks come in order");
            fed += chunk.range.length;
            unreadable.extend(chunk.unreadable);
            window.extend_from_slice(&chunk.bytes);
            let done = scanner.feed(&window, geometry.frame_max, &mut report);
            window.drain(..done);
        }
        assert!(window.is_empty(), "frames end where segments do at the latest");
        scanner.finish(&mut report);
        collector.finish();
        evidence.bad.extend(unreadable);
    }
    evidence
}

/// The prepare header in a frame that the scan found good.
pub(crate) async fn read_header(file: &File, frame: &Sighting) -> Option<Header> {
    let sector = ioring::Buffer::zeroed(SECTOR);
    let (result, sector) = file.read(sector, frame.location.offset).await;
    result.ok()?;
    let header = Header::verify(&sector[FRAME_HEADER_SIZE..]).ok()?;
    (header.checksum() == frame.summary.checksum).then_some(header)
}
