//! The write-ahead log: what was acknowledged is in here, whatever happens.
//!
//! A ring of fixed-size segments behind the superblock, only ever appended to. The parts:
//!
//! | module | what |
//! | --- | --- |
//! | [`layout`] | the bytes: sectors, frames, markers, indexes |
//! | `scan` | one look at a segment, pure |
//! | [`recovery`] | what of it counts: present, torn, damaged, void; pure |
//! | `ring` | which segment is written, which are free, where ops are; pure |
//! | `recover`, `read_ahead`, `replay` | the I/O of restarts |
//! | `member` | the journal of a member of a cluster: how it begins, what is given up |
//! | `maintain` | markers, indexes, writing again; a task |
//! | [`inspect`] | read-only findings for tools |
//!
//! # The life of a frame
//!
//! 1. [`Journal::frame`] takes a buffer in which a prepare stands behind room for the frame's
//!    header, gives it its place and fills that header in. From here on the bytes are shared with
//!    whoever else needs them (peers, shards).
//! 2. [`Journal::append`] writes it, durable on completion. Several may be in flight.
//! 3. When it returns the prepare may be acknowledged. Its place is remembered, the newest frames
//!    stay in memory, and the next marker names it.
//!
//! # Invariants
//!
//! * Space is written before it is used: `format` wrote all of it once, so a durable write touches
//!   no metadata of the file system.
//! * A place is reserved before anything is awaited; frames never overlap and never cross the end
//!   of their segment.
//! * An index or marker names only frames that are durable.
//! * A durable write that fails ends the process. It is not tried again: what is on the device is
//!   then unknown, and a later success would prove nothing about it.
//! * Appending in steady state allocates nothing here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ioring::sync::Event;
use ioring::{Buffer, Fatal, File, Frozen, Instant, Queue, Task};
use wire::{Checksum, Header, Op};

pub mod inspect;
pub mod layout;
mod maintain;
mod member;
mod read;
pub(crate) mod read_ahead;
mod recover;
pub mod recovery;
mod replay;
mod ring;
pub(crate) mod scan;

pub use layout::{BODY_OFFSET, FRAME_HEADER_SIZE, SECTOR, frame_size};
pub use member::RecoveredMember;
pub use read::ReadError;
pub use recovery::{Contradiction, DamagedOp, Location, Log, LogView, OpState, SoloLog, Summary};
pub use replay::Replay;
pub use ring::Geometry;

use crate::superblock::{State as SuperBlockState, SuperBlock};
use layout::Place;
use recover::Found;
use ring::{Claim, Ring};

/// How many prepares stay in memory, and what tests break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Newest prepares whose frames are kept in memory for readers. Their buffers are those of the
    /// batcher's pool, which must have as many more.
    pub recent_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { recent_max: 8 }
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Ops that were acknowledged cannot be read any more, and there is no one to ask.
    #[error(
        "{path}: op {first_op} was durable and its frame at offset {offset} is damaged{more}; with \
         one replica there is no copy to repair it from: restore the directory from a backup, and \
         see `quorate inspect op {first_op}` for what is left. To give up everything from op \
         {first_op} on is what `quorate recover --accept-loss` is for; this release has it not yet",
        path = path.display(), first_op = damaged[0].op, offset = damaged[0].offset,
        more = more(damaged)
    )]
    Damaged {
        /// The journal.
        path: std::path::PathBuf,
        /// What is damaged; at least one.
        damaged: Vec<DamagedOp>,
    },
    /// Nothing is lost, and there is nowhere to write.
    #[error(
        "{path}: frames that were being moved are damaged, so that no segment is free to write to; \
         everything acknowledged is still there: restore the directory from a backup, or keep it \
         for a release that can export from it",
        path = path.display()
    )]
    NoFreeSegment {
        /// The journal.
        path: std::path::PathBuf,
    },
    /// Journal and superblock do not belong together.
    #[error("{path}: {source}", path = path.display())]
    Contradiction {
        /// The journal.
        path: std::path::PathBuf,
        /// How.
        source: Contradiction,
    },
}

fn more(damaged: &[DamagedOp]) -> String {
    match damaged.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    }
}

/// What recovery found, for logs and for the replica.
#[derive(Debug)]
pub struct Recovered {
    /// The newest op kept.
    pub head: Op,
    /// Its checksum: the parent of the next prepare.
    pub head_checksum: Checksum,
    /// The newest headers kept, at most as many as the superblock takes, in op order: what the
    /// superblock must name before anything is appended.
    pub tail: Vec<Header>,
    /// The highest commit number that was found.
    pub commit_max: Op,
    /// Ops behind the head that were never known acknowledged and are forgotten.
    pub forgotten: usize,
    /// Frames of versions given up earlier.
    pub void: u64,
    /// Frame headers and payloads that could not be used: offset and why.
    pub bad: Vec<(u64, String)>,
}

impl Recovered {
    /// Raises the view of a replica that is alone, durably, naming what recovery kept. From here on
    /// what it dropped is void; before it nothing may be appended.
    pub async fn raise_view(&self, superblock: &SuperBlock) -> Rc<SuperBlockState> {
        let raise = |state: &mut SuperBlockState| {
            state.view = state.view.next();
            state.log_view = state.view;
            state.view_headers.clone_from(&self.tail);
            // Alone, what is durable and in the chain is committed.
            state.commit_max = state.commit_max.max(self.head);
        };
        superblock.update(raise).await
    }
}

/// A frame with its place, not yet written.
#[must_use = "a frame holds its place in the journal until it is appended"]
pub struct Frame {
    bytes: Frozen,
    place: Place,
    header: Header,
}

impl Frame {
    /// The frame: its own header, the prepare's, the body, padding.
    #[must_use]
    pub fn bytes(&self) -> &Frozen {
        &self.bytes
    }

    /// The prepare's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// Ways in which a test breaks the journal, to see that it is noticed.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sabotage {
    /// As it should be.
    #[default]
    None,
    /// Frames are written without the durable flag.
    NotDurable,
    /// Markers are never written.
    NoMarker,
    /// A victim is given up before the copies of its frames are durable.
    CopiesNotDurable,
    /// Whoever drives a member gives up what counts.
    GiveUpTooMuch,
}

struct State {
    ring: Ring,
    /// By op modulo the pipeline: headers of the newest durable prepares, for markers.
    tail: Vec<Option<Header>>,
    /// Frames above every commit number of which it is not known whether they are of the tail,
    /// those of the newest views first.
    strays: Vec<Header>,
    /// By op modulo its length.
    recent: Vec<Option<(Op, Checksum, Frozen)>>,
    /// The highest commit number that was told, or that a durable prepare has.
    commit: Op,
    /// Since when something durable is not named by a marker.
    unmarked: Option<Instant>,
    in_flight: Vec<Flight>,
    /// Whether the last prepare that was offered found no room.
    full: bool,
    last_write: Instant,
    stopping: bool,
}

/// A prepare that has its place and is not durable yet.
struct Flight {
    op: Op,
    checksum: Checksum,
    /// Whether it was given up meanwhile.
    void: bool,
}

struct Shared {
    file: File,
    state: RefCell<State>,
    /// Space may have become free.
    freed: Event,
    /// There may be something for the maintenance task.
    work: Event,
    #[cfg(test)]
    sabotage: Cell<Sabotage>,
}

/// An open journal. It belongs to one core; see the module's documentation.
pub struct Journal {
    shared: Rc<Shared>,
    maintenance: Cell<Option<Task<()>>>,
}

impl Journal {
    /// Recovers the journal of a replica that is alone. The caller raises the view in the
    /// superblock ([`Recovered::raise_view`]) before it appends.
    ///
    /// After a kill the device's cache may hold frames that were written and are not durable yet;
    /// the scan finds them good. All that was read is therefore made durable before anything is
    /// concluded from it: else the superblock could name an op that a loss of power takes back.
    ///
    /// # Errors
    /// [`RecoverError`]; nothing is changed.
    pub async fn recover_solo(
        file: &File,
        superblock: &SuperBlockState,
        options: Options,
    ) -> Result<(Journal, Recovered), RecoverError> {
        let Found { view, evidence, log } = recover::read(file, superblock, |_, _, _| ()).await?;
        let path = || file.path().to_owned();
        let damaged = |damaged| RecoverError::Damaged { path: path(), damaged };
        let solo = log.solo(view.checkpoint_checksum).map_err(damaged)?;
        if solo.forgotten > 0 {
            ioring::mark!("journal_torn_tail_forgotten");
        }
        let mut ring = Ring::recovered(superblock, &evidence.epochs);
        ring.load(&solo.prefix, &[]);
        let used = ring.unused().next().is_none();
        if used && ring.take_originals(&solo.prefix, &solo.copies, |_| true).is_none() {
            return Err(RecoverError::NoFreeSegment { path: path() });
        }
        let tail = tail_headers(file, superblock, &solo).await.map_err(damaged)?;
        let recovered = Recovered {
            head: solo.head,
            head_checksum: solo.head_checksum,
            tail,
            commit_max: log.commit_max,
            forgotten: solo.forgotten,
            void: log.void,
            bad: evidence.bad,
        };
        let shared = Shared::new(file, ring, log.commit_max, options);
        Ok((Journal::start(shared), recovered))
    }

    /// Starts what keeps it in shape.
    fn start(shared: Rc<Shared>) -> Journal {
        let task = maintain::run(shared.clone());
        let task = ioring::spawn(Queue::Replication, "journal maintenance", task);
        Journal { shared, maintenance: Cell::new(Some(task)) }
    }

    /// Gives the prepare in `buffer` its place: bytes 256.. hold its header and body, bytes 0..256
    /// are filled in here. Waits while the journal is full, until a checkpoint is released.
    ///
    /// # Panics
    /// When the buffer holds no prepare, or one larger than the format-time limit.
    pub async fn frame(&self, mut buffer: Buffer) -> Frame {
        loop {
            match self.try_frame(buffer) {
                Ok(frame) => return frame,
                Err(refused) => buffer = refused,
            }
            ioring::mark!("journal_append_waited_for_space");
            self.shared.freed.wait().await;
        }
    }

    /// As [`Journal::frame`], giving the buffer back instead of waiting.
    ///
    /// # Errors
    /// The buffer, when there is no space now.
    pub fn try_frame(&self, mut buffer: Buffer) -> Result<Frame, Buffer> {
        let header = Header::verify(&buffer[FRAME_HEADER_SIZE..]).expect("a sealed prepare");
        let prepare = header.tail::<wire::message::Prepare>().expect("a prepare");
        let length = frame_size(header.size());
        let mut state = self.shared.state.borrow_mut();
        assert!(prepare.op > state.ring.checkpoint(), "what is checkpointed is not logged again");
        let Geometry { log_budget, has_peers, .. } = state.ring.geometry();
        // A member's log is what its replica says; the journal may hold more (`ring`).
        let within = has_peers || state.ring.live_bytes() + length as u64 <= log_budget;
        let place =
            if within { state.ring.reserve(length, Some(&header), Claim::Ordinary) } else { None };
        state.full = place.is_none();
        let Some(place) = place else {
            drop(state);
            self.shared.work.notify();
            return Err(buffer);
        };
        let (op, checksum) = (prepare.op, header.checksum());
        state.in_flight.push(Flight { op, checksum, void: false });
        buffer.set_len(length);
        layout::seal_prepare(&mut buffer, place, header.size());
        Ok(Frame { bytes: buffer.freeze(), place, header })
    }

    /// Writes a frame; returns its op when it is durable. A failed write ends the process.
    pub fn append(&self, frame: Frame) -> impl Future<Output = Op> + use<> {
        let shared = self.shared.clone();
        shared.state.borrow_mut().last_write = ioring::now();
        async move {
            let Frame { bytes, place, header } = frame;
            shared.write(bytes.clone(), place.offset).await;
            let prepare = header.tail::<wire::message::Prepare>().expect("checked by frame");
            shared.state.borrow_mut().durable(place, &header, bytes);
            shared.freed.notify();
            shared.work.notify();
            prepare.op
        }
    }

    /// Tells the highest op known to be committed, for the next marker.
    pub fn note_commit(&self, commit: Op) {
        let mut state = self.shared.state.borrow_mut();
        state.commit = state.commit.max(commit);
    }

    /// Releases all ops up to a checkpoint. The superblock that names it must be in effect.
    pub fn release(&self, checkpoint: Op) {
        self.shared.state.borrow_mut().ring.release(checkpoint);
        self.shared.freed.notify();
        self.shared.work.notify();
    }

    /// Bytes of frames above the checkpoint, and how many there may be. The replica gives no op
    /// that would pass the budget; a frame beyond it waits.
    #[must_use]
    pub fn budget(&self) -> (u64, u64) {
        let state = self.shared.state.borrow();
        (state.ring.live_bytes(), state.ring.geometry().log_budget)
    }

    /// Whether a prepare waits for room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.state.borrow().full
    }

    /// Segments that are free now, and all.
    #[must_use]
    pub fn segments(&self) -> (usize, usize) {
        let state = self.shared.state.borrow();
        (state.ring.free_count(), state.ring.geometry().segment_count as usize)
    }

    /// Writes a last marker and stops. All appends have returned.
    pub async fn close(self) {
        self.shared.state.borrow_mut().stopping = true;
        self.shared.work.notify();
        if let Some(task) = self.maintenance.take() {
            task.await;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Nobody waits for it: the task writes the marker that is due, if it still gets to run, and
        // ends.
        self.shared.state.borrow_mut().stopping = true;
        self.shared.work.notify();
    }
}

impl State {
    /// The prepare in `bytes` is durable at its place.
    fn durable(&mut self, place: Place, header: &Header, bytes: Frozen) {
        let Summary { op, checksum, commit, .. } = Summary::of(header);
        let same = |flight: &Flight| (flight.op, flight.checksum) == (op, checksum);
        let index = self.in_flight.iter().position(same).expect("it was given a place");
        let Flight { void, .. } = self.in_flight.swap_remove(index);
        self.last_write = ioring::now();
        self.commit = self.commit.max(commit);
        if void {
            return self.ring.written(place);
        }
        let length = u32::try_from(bytes.len()).expect("a frame fits its segment");
        self.ring.prepare_written(place, length, op, checksum);
        self.name(op, *header);
        let slot = op.0 as usize % self.recent.len();
        if self.recent[slot].as_ref().is_none_or(|(old, _, _)| *old <= op) {
            self.recent[slot] = Some((op, checksum, bytes));
        }
    }

    /// Has the next marker name a durable prepare, unless it is too old for that.
    fn name(&mut self, op: Op, header: Header) {
        self.unmarked.get_or_insert_with(ioring::now);
        let slot = op.0 as usize % self.tail.len();
        if self.tail[slot].as_ref().is_none_or(|old| Summary::of(old).op <= op) {
            self.tail[slot] = Some(header);
        }
    }
}

impl Shared {
    fn new(file: &File, ring: Ring, commit: Op, options: Options) -> Rc<Shared> {
        let pipeline_max = ring.geometry().pipeline_max;
        let state = State {
            tail: vec![None; pipeline_max],
            strays: Vec::new(),
            recent: vec![None; options.recent_max.max(1)],
            ring,
            commit,
            unmarked: None,
            in_flight: Vec::with_capacity(2 * pipeline_max),
            full: false,
            last_write: ioring::now(),
            stopping: false,
        };
        Rc::new(Shared {
            file: file.clone(),
            state: RefCell::new(state),
            freed: Event::new(),
            work: Event::new(),
            #[cfg(test)]
            sabotage: Cell::default(),
        })
    }

    async fn write(&self, bytes: Frozen, offset: u64) {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::NotDurable {
            self.file.write(bytes, offset).await.expect("the test's disk works");
            return;
        }
        if let Err(error) = self.file.write_durable(bytes, offset).await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset, error });
        }
    }
}

/// The newest headers of a recovered log, at most a pipeline of them.
async fn tail_headers(
    file: &File,
    superblock: &SuperBlockState,
    solo: &SoloLog,
) -> Result<Vec<Header>, Vec<DamagedOp>> {
    let count = usize::from(superblock.configuration.pipeline_max).min(solo.prefix.len());
    let mut headers = Vec::new();
    for frame in &solo.prefix[solo.prefix.len() - count..] {
        let (op, offset) = (frame.summary.op, frame.location.offset);
        let header = recover::read_header(file, frame).await;
        headers.push(header.ok_or_else(|| vec![DamagedOp { op, offset, seen: true }])?);
    }
    Ok(headers)
}

#[cfg(test)]
pub(crate) mod tests;
