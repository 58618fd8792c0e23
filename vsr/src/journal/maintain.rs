//! What keeps the journal in shape, off the path of appends: one task, one thing at a time.
//!
//! 1. A segment that was begun gets its header sector. Nothing waits for that: frames name their
//!    epoch themselves.
//! 2. A segment that was closed gets its index once all its frames are durable.
//! 3. When free segments are short, the oldest one's live frames are appended again, then it is
//!    free (the rules are in `ring`).
//! 4. When nothing was written for 5 ms and something durable is not vouched for yet, or at a clean
//!    stop, a marker is appended: the newest headers and the commit number. From then on a bad
//!    frame among those is known to be damaged and not torn. A member does not wait for the quiet
//!    for ever: what it repairs has old commit numbers, which vouch for nothing new.
//!
//! The task sleeps in between and ends when the journal is closed or dropped.

use std::rc::Rc;
use std::time::Duration;

use ioring::{Buffer, Fatal, Instant};
use wire::{Checksum, Header, Op};

#[cfg(test)]
use super::Sabotage;
use super::Shared;
use super::layout::{
    self, Entry, FRAME_HEADER_SIZE, FrameKind, INDEX_ENTRY_SIZE, INDEX_PART_ENTRIES,
    INDEX_PART_SIZE, Place, SECTOR, SegmentId, frame_size,
};
use super::recovery::{Location, Summary};
use super::ring::Claim;

/// How long nothing must have been written before a marker is.
const MARKER_DELAY: Duration = Duration::from_millis(5);
/// How long a member's frame may be without one. While a member repairs, writes need not have an
/// end, nor higher commit numbers.
const MARKER_DELAY_MAX: Duration = Duration::from_millis(100);

/// What to do next.
enum Step {
    Header(Place),
    Seal(Place, Vec<Entry>),
    Again(SegmentId),
    Marker(Claim),
    Sleep(Option<Instant>),
    Stop,
}

pub(super) async fn run(shared: Rc<Shared>) {
    // Reused for everything but frames that are appended again.
    let mut scratch = Some(Buffer::zeroed(INDEX_PART_SIZE));
    loop {
        match next_step(&shared) {
            Step::Header(place) => {
                let mut sector = take(&mut scratch, SECTOR);
                layout::seal_segment(&mut sector, place);
                scratch = shared.write_scratch(sector, place.offset).await;
                shared.state.borrow_mut().ring.written(place);
                shared.freed.notify();
            }
            Step::Seal(place, entries) => {
                scratch = seal(&shared, place, &entries, scratch).await;
                ioring::mark!("journal_segment_sealed");
                shared.state.borrow_mut().ring.sealed(place, entries);
                shared.freed.notify();
            }
            Step::Again(victim) => append_again(&shared, victim).await,
            Step::Marker(claim) => scratch = marker(&shared, claim, scratch).await,
            Step::Sleep(None) => shared.work.wait().await,
            Step::Sleep(Some(deadline)) => {
                let wait = shared.work.wait();
                ioring::select(wait, ioring::sleep_until(deadline)).await;
            }
            Step::Stop => return,
        }
    }
}

fn next_step(shared: &Shared) -> Step {
    let mut state = shared.state.borrow_mut();
    if let Some(place) = state.ring.take_header() {
        return Step::Header(place);
    }
    if let Some((place, entries)) = state.ring.take_seal() {
        return Step::Seal(place, entries);
    }
    if let Some(victim) = state.ring.victim() {
        // Without live frames it is kept only because of what it vouches for.
        let step = if state.ring.has_live(victim) {
            Step::Again(victim)
        } else {
            Step::Marker(Claim::Again)
        };
        return step;
    }
    let due_at = state.marker_due_at().filter(|_| shared.marks());
    if due_at.is_some_and(|at| state.stopping || ioring::now() >= at) {
        return Step::Marker(Claim::Ordinary);
    }
    if state.stopping {
        return Step::Stop;
    }
    Step::Sleep(due_at)
}

impl Shared {
    fn marks(&self) -> bool {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::NoMarker {
            return false;
        }
        true
    }

    fn reserve_again(&self, length: usize, header: &Header) -> Option<Place> {
        self.state.borrow_mut().ring.reserve(length, Some(header), Claim::Again)
    }

    async fn write_copy(&self, buffer: Buffer, offset: u64) {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::CopiesNotDurable {
            self.file.write(buffer.freeze(), offset).await.expect("the test's disk works");
            return;
        }
        self.write(buffer.freeze(), offset).await;
    }

    async fn write_scratch(&self, buffer: Buffer, offset: u64) -> Option<Buffer> {
        let bytes = buffer.freeze();
        self.write(bytes.clone(), offset).await;
        bytes.try_thaw().ok()
    }
}

fn take(scratch: &mut Option<Buffer>, length: usize) -> Buffer {
    let mut buffer = scratch.take().unwrap_or_else(|| Buffer::zeroed(INDEX_PART_SIZE));
    buffer.set_len(length);
    buffer
}

/// Writes the index of a segment, in parts.
async fn seal(
    shared: &Shared,
    place: Place,
    entries: &[Entry],
    mut scratch: Option<Buffer>,
) -> Option<Buffer> {
    let commit = shared.state.borrow().commit;
    let parts = entries.len().div_ceil(INDEX_PART_ENTRIES);
    let mut place = place;
    for (part, entries) in entries.chunks(INDEX_PART_ENTRIES).enumerate() {
        let length = frame_size(entries.len() * INDEX_ENTRY_SIZE);
        let mut buffer = take(&mut scratch, length);
        let entries = entries.iter().copied();
        layout::seal_entries(&mut buffer, FrameKind::Index, place, commit, (part, parts), entries);
        scratch = shared.write_scratch(buffer, place.offset).await;
        place.offset += length as u64;
    }
    scratch
}

/// Appends a marker; without space for it now, waits for some.
async fn marker(shared: &Shared, claim: Claim, mut scratch: Option<Buffer>) -> Option<Buffer> {
    let reserved = shared.state.borrow_mut().reserve_marker(claim);
    let Some((place, length, commit, entries)) = reserved else {
        shared.freed.wait().await;
        return scratch;
    };
    let mut buffer = take(&mut scratch, length);
    let entries = entries.into_iter();
    layout::seal_entries(&mut buffer, FrameKind::Marker, place, commit, (0, 1), entries);
    scratch = shared.write_scratch(buffer, place.offset).await;
    ioring::mark!("journal_marker_written");
    shared.state.borrow_mut().ring.marker_written(place);
    shared.freed.notify();
    scratch
}

impl super::State {
    /// When a marker is to be written, if one is.
    fn marker_due_at(&self) -> Option<Instant> {
        let since = self.unmarked?;
        let quiet = self.in_flight.is_empty().then_some(self.last_write + MARKER_DELAY);
        let latest = self.ring.geometry().has_peers.then_some(since + MARKER_DELAY_MAX);
        quiet.into_iter().chain(latest).min()
    }

    /// Room for a marker, and what it says. What becomes durable from now on needs another one.
    fn reserve_marker(&mut self, claim: Claim) -> Option<(Place, usize, Op, Vec<Entry>)> {
        let entries: Vec<Entry> = self.marker_entries().collect();
        let length = frame_size(entries.len() * INDEX_ENTRY_SIZE);
        let place = self.ring.reserve(length, None, claim)?;
        self.unmarked = None;
        Some((place, length, self.commit, entries))
    }

    /// The durable headers that a marker names, in op order. Strays are named until the op is
    /// written again, if there is room.
    fn marker_entries(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let ring = &self.ring;
        self.strays.retain(|header| {
            let op = Summary::of(header).op;
            op > ring.checkpoint() && ring.locate(op).is_none()
        });
        let mut headers: Vec<Header> = self.tail.iter().flatten().copied().collect();
        let others = self.strays.iter().filter(|stray| !self.tail.contains(&Some(**stray)));
        headers.extend(others);
        headers.truncate(ring.geometry().marker_entries());
        headers.sort_unstable_by_key(|header| Summary::of(header).op);
        headers.into_iter().map(|header| Entry { offset: 0, length: 0, header })
    }
}

/// Writes the marker that a member begins with.
pub(super) async fn first_marker(shared: &Shared) {
    assert!(shared.state.borrow().ring.free_count() == 1, "before anything else is written");
    marker(shared, Claim::Again, None).await;
}

/// Appends the live frames of a segment again, one after the other. What is given up or released
/// meanwhile is left out.
async fn append_again(shared: &Shared, victim: SegmentId) {
    let live = shared.state.borrow().ring.live_in(victim);
    for (op, checksum, location) in live {
        let find = || shared.state.borrow().ring.find(op, checksum);
        if find() != Some(location) {
            continue;
        }
        let Some(buffer) = read_frame(shared, op, location, checksum).await else {
            shared.state.borrow_mut().ring.lose(op, checksum);
            continue;
        };
        let header = Header::verify(&buffer[FRAME_HEADER_SIZE..]).expect("verified when read");
        let place = loop {
            let reserved = shared.reserve_again(buffer.len(), &header);
            if let Some(place) = reserved {
                break place;
            }
            shared.freed.wait().await;
        };
        let mut buffer = buffer;
        layout::seal_prepare(&mut buffer, place, header.size());
        ioring::mark!("journal_frame_written_again");
        shared.write_copy(buffer, place.offset).await;
        shared.state.borrow_mut().ring.copy_written(place, op, checksum, location);
    }
    shared.freed.notify();
}

/// Reads a frame that is about to lose its place. `None`: it is damaged. A member goes on without
/// it, as after a restart that finds it so: the replica asks its peers when it needs the prepare, a
/// commit number or a marker says that it was durable, and nothing takes that back.
async fn read_frame(
    shared: &Shared,
    op: Op,
    location: Location,
    checksum: Checksum,
) -> Option<Buffer> {
    let mut buffer = Buffer::zeroed(location.length as usize);
    let mut why = String::new();
    for _ in 0..2 {
        let result;
        (result, buffer) = shared.file.read(buffer, location.offset).await;
        match result {
            Ok(()) => match super::read::verify(&buffer, shared, location, checksum) {
                Ok(()) => return Some(buffer),
                Err(fault) => why = fault,
            },
            Err(error) => why = error.to_string(),
        }
    }
    let offset = location.offset;
    if shared.state.borrow().ring.geometry().has_peers {
        tracing::warn!(op = op.0, offset, why, "a prepare in the journal is damaged");
        ioring::mark!("journal_damaged_frame_left_behind");
        return None;
    }
    let path = shared.file.path().display();
    ioring::fatal(Fatal::Corrupt(format!(
        "{path}: op {op} at offset {offset} must be written again and cannot be read: {why}"
    )))
}
