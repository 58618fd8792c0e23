//! The replica: orders requests into the log. Pure: no I/O, no clock, no randomness inside.
//!
//! Whoever drives it (a node's replica core, a test, a script) tells it what happened and asks it
//! what to do next. For a cluster of one replica, which needs no messages, that is:
//!
//! ```text
//! on_request ──► batch ──► advance closes it: op, time, parent ──► next_append ──► journal
//!                                                                                   │
//! shards, replies ◄── next_commit ◄── in op order, once durable ◄── on_journal_written
//! ```
//!
//! 1. A request (operations already encoded, with the tag its answer goes to) is copied into the
//!    open [`batch`]. Requests wait nowhere else: when the batch is full and cannot be closed, the
//!    request is refused with the [`Bottleneck`] and stays with whoever has it.
//! 2. [`Replica::advance`], once per turn of the driver's loop, closes the batch if *group commit*
//!    lets it: at once while no partly filled prepare is being written; otherwise what arrives goes
//!    into the next one, and that goes out in parallel only when it is worth a write of its own
//!    (64 KiB) or the oldest write is overdue. So a lone request waits for nobody, and a thousand
//!    share one write.
//! 3. A closed prepare gets the next op, a timestamp after every version before it, and the
//!    checksum of the prepare before it as its parent. It is summed once and never copied again.
//! 4. Frames become durable in any order; ops commit in theirs ([`pipeline`]). The answers' tags
//!    are in the committed bytes, so a commit is all that a reply needs.
//!
//! Invariants, asserted here: ops have no gaps; timestamps strictly increase, versions included;
//! nothing is given out as committed unless it and all before it are durable; no op is given beyond
//! the pipeline's length or the log's budget ([`budget`]); nothing is accepted before the view is
//! durable.
//!
//! Why a crash is safe at each point: before an append nothing of a batch exists, and nobody was
//! told; between append and completion the frame is there or torn, and nobody was told; after
//! completion it is in the chain that recovery keeps ([`RecoveredLog`]). What recovery drops it
//! drops under a view that was raised durably before anything new was given an op, so a dropped
//! frame that comes to light later is void.
//!
//! Steady state allocates nothing: buffers come from a pool sized at start, the pipeline and the
//! budget's ring have fixed capacity. Sources: Viewstamped Replication Revisited (Liskov and
//! Cowling, 2012), section 4; group commit: DeWitt et al., SIGMOD '84.

mod batch;
mod budget;
mod clock;
mod config;
mod pipeline;
mod recovered;
mod report;

use batch::Batch;
use budget::LogBudget;
use ioring::{Buffer, BufferPool, Frozen};
use pipeline::Pipeline;
use wire::message::{Prepare, Purpose};
use wire::{CheckpointId, Draft, Header, Op, RequestView, Timestamp, Version, View};

use crate::journal::{BODY_OFFSET, frame_size};

pub use clock::{Expiry, JUMP_NS, LogClock, Moment, SLEW_DIVISOR};
pub use config::Config;
pub use recovered::{LogHead, RecoveredLog, RecoveryError};
pub use report::{Counters, Report, Status};

/// How many versions a pulse has for the deletes that it turns due deadlines into.
pub const PULSE_VERSION_COUNT: u32 = 1 << 16;

/// What a request would have to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bottleneck {
    /// As many prepares as may be are being written or applied.
    Pipeline,
    /// The log is as long as it may be until the next checkpoint.
    Log,
    /// All buffers are in use.
    Buffers,
}

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The replica's view is not durable yet.
    #[error("the replica does not serve yet")]
    NotServing,
    /// No prepare could hold it.
    #[error("a request of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The request's size in bytes.
        size: usize,
        /// The largest there may be.
        limit: usize,
    },
    /// There is no room now; offer it again after the next completion.
    #[error("waiting for room: {0:?}")]
    Full(Bottleneck),
}

/// A prepare to be journaled.
#[derive(Debug)]
pub struct Append {
    /// The prepare's header.
    pub header: Header,
    /// The frame: room for its header, the prepare's header, the body.
    pub buffer: Buffer,
}

/// A prepare to be applied, and its requests to be answered.
#[derive(Debug)]
pub struct Commit {
    /// The prepare's header.
    pub header: Header,
    /// The frame, as the journal wrote it.
    pub frame: Frozen,
}

impl Commit {
    /// The prepare's body: its requests. Empty for a pulse.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.frame[BODY_OFFSET..BODY_OFFSET + self.header.body_size()]
    }
}

/// What a read is answered by: everything committed, as of one timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPoint {
    /// The op that must have been applied.
    pub commit: Op,
    /// The newest version that the read sees.
    pub version_max: Version,
    /// Log time at that op.
    pub log_time: Timestamp,
    /// Now, by which deadlines are judged ([`Expiry::at`]).
    pub now: Timestamp,
}

/// The replica of a cluster of one. See the module's documentation.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    pool: BufferPool,
    status: Status,
    view: View,
    clock: LogClock,
    monotonic_ns: u64,
    checkpoint: Op,
    checkpoint_id: CheckpointId,
    head: LogHead,
    committed: LogHead,
    budget: LogBudget,
    pipeline: Pipeline,
    batch: Option<Batch>,
    pulse_wanted: bool,
    counters: Counters,
}

impl Replica {
    /// The replica that continues a recovered log. It serves once the view after `view`, the
    /// superblock's, is durable ([`Replica::view_to_persist`]). `commit_max` is the highest commit
    /// number that the superblock or any frame remembers.
    ///
    /// # Errors
    /// [`RecoveryError::Lost`] when the log ends before `commit_max`.
    ///
    /// # Panics
    /// When the configuration contradicts itself or the pool's buffers are too small.
    pub fn recovered(
        config: Config,
        pool: BufferPool,
        log: &RecoveredLog,
        checkpoint_id: CheckpointId,
        view: View,
        commit_max: Op,
        moment: Moment,
    ) -> Result<Replica, RecoveryError> {
        config.check();
        assert!(pool.buffer_size() >= config.frame_size_max(), "buffers hold the largest prepare");
        let head = log.head();
        if commit_max > head.op {
            return Err(RecoveryError::Lost { head: head.op, commit_max });
        }
        assert!(view >= head.view, "the superblock knows every view that the log has");
        let mut budget = LogBudget::new(config.log_budget, config.pulse_reserve(), log.checkpoint);
        for (index, &size) in log.sizes.iter().enumerate() {
            let op = Op(log.checkpoint.0 + 1 + index as u64);
            budget.add(op, frame_size(size as usize) as u64);
        }
        let pipeline = Pipeline::new(config.pipeline_max, head.op);
        Ok(Replica {
            config,
            pool,
            status: Status::Recovering,
            view: view.next(),
            clock: LogClock::new(Timestamp(head.version_max.0), moment),
            monotonic_ns: moment.monotonic_ns,
            checkpoint: log.checkpoint,
            checkpoint_id,
            head,
            committed: head,
            budget,
            pipeline,
            batch: None,
            pulse_wanted: false,
            counters: Counters::default(),
        })
    }

    /// The view to be made durable, with the log's head as its headers say, before the replica
    /// serves; `None` once it is.
    #[must_use]
    pub fn view_to_persist(&self) -> Option<View> {
        (self.status == Status::Recovering).then_some(self.view)
    }

    /// The superblock with this view is durable.
    ///
    /// # Panics
    /// When it is not the view that was to be persisted.
    pub fn on_view_durable(&mut self, view: View) {
        assert_eq!(self.view_to_persist(), Some(view), "only the view asked for becomes durable");
        self.status = Status::Normal;
    }

    /// Takes a request into the open prepare.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the request was then taken.
    pub fn on_request(&mut self, request: &RequestView<'_>) -> Result<(), Refused> {
        let size = request.bytes().len();
        self.can_accept(size)?;
        if self.batch.as_ref().is_some_and(|batch| !batch.fits(size)) {
            self.close();
        }
        if self.batch.is_none() {
            let buffer = self.pool.try_take().ok_or(Refused::Full(Bottleneck::Buffers))?;
            self.batch = Some(Batch::new(buffer, self.config.frame_end_max()));
        }
        let batch = self.batch.as_mut().expect("there is an open batch now");
        batch.push(request);
        self.counters.requests += 1;
        self.counters.operations += u64::from(request.operation_count());
        Ok(())
    }

    /// Whether a request of `size` bytes would be taken now.
    ///
    /// # Errors
    /// [`Refused`] as [`Replica::on_request`] would say.
    pub fn can_accept(&self, size: usize) -> Result<(), Refused> {
        let limit = self.config.request_size_max();
        if self.status != Status::Normal {
            return Err(Refused::NotServing);
        }
        if size > limit {
            return Err(Refused::TooLarge { size, limit });
        }
        match &self.batch {
            Some(batch) if batch.fits(size) => Ok(()),
            Some(batch) => self.can_close(batch.body_size()).and_then(|()| self.can_open()),
            None => self.can_open(),
        }
    }

    fn can_open(&self) -> Result<(), Refused> {
        let free = self.pool.available() > 0;
        if free { Ok(()) } else { Err(Refused::Full(Bottleneck::Buffers)) }
    }

    /// Whether requests of `body_size` bytes, or with none a pulse, can be given an op.
    fn can_close(&self, body_size: usize) -> Result<(), Refused> {
        if !self.pipeline.has_room() {
            return Err(Refused::Full(Bottleneck::Pipeline));
        }
        if !self.budget.admits(frame_size(wire::HEADER_SIZE + body_size) as u64, body_size == 0) {
            return Err(Refused::Full(Bottleneck::Log));
        }
        Ok(())
    }

    /// Work is due that only ops pay for: unless requests do it first, a pulse is proposed. Asking
    /// again before one went out changes nothing.
    pub fn request_pulse(&mut self) {
        self.pulse_wanted = true;
    }

    /// A read met a deadline that now has passed and log time has not ([`Expiry::Due`]): makes sure
    /// that an op commits that passes it. Returns whether one will; if not, the deadline is still
    /// to come by the replica's own clock, and the entry is live.
    pub fn request_time(&mut self, deadline: Timestamp, moment: Moment) -> bool {
        self.look_at_clocks(moment);
        if self.head.timestamp >= deadline {
            return true;
        }
        let due = deadline <= self.clock.now();
        self.pulse_wanted |= due;
        due
    }

    /// Moves time forward and closes the open prepare if group commit lets it. To be called once
    /// per turn of the driver's loop, after the turn's requests and completions, and at
    /// [`Replica::deadline_ns`].
    pub fn advance(&mut self, moment: Moment) {
        self.look_at_clocks(moment);
        match self.next_close() {
            Some(purpose) if !self.is_time_to_close(purpose) => {}
            Some(Purpose::Pulse) => self.close_pulse(),
            Some(_) => self.close(),
            None => {}
        }
    }

    fn look_at_clocks(&mut self, moment: Moment) {
        self.monotonic_ns = self.monotonic_ns.max(moment.monotonic_ns);
        self.clock.advance(moment);
    }

    /// What could be given an op now: the open prepare, or a pulse that is wanted when there is
    /// none or when it waits for the checkpoint that pulses pay for.
    fn next_close(&self) -> Option<Purpose> {
        if self.status != Status::Normal {
            return None;
        }
        let batch = self.batch.as_ref().map(|batch| self.can_close(batch.body_size()));
        if batch == Some(Ok(())) {
            return Some(Purpose::Requests);
        }
        let pulse = self.pulse_wanted && self.can_close(0).and_then(|()| self.can_open()).is_ok();
        pulse.then_some(Purpose::Pulse)
    }

    /// Group commit.
    fn is_time_to_close(&self, purpose: Purpose) -> bool {
        let size = self.batch.as_ref().map_or(0, Batch::body_size);
        !self.pipeline.has_partly_filled()
            || (purpose == Purpose::Requests && size >= self.config.parallel_size)
            || self.overdue_at_ns().is_some_and(|at| at <= self.monotonic_ns)
    }

    fn overdue_at_ns(&self) -> Option<u64> {
        Some(self.pipeline.oldest_closed_at_ns()? + self.config.overdue_ns)
    }

    /// When [`Replica::advance`] is to be called though nothing else happens, in nanoseconds of the
    /// monotonic clock: when the oldest write becomes overdue and something waits for it.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        self.next_close().and_then(|_| self.overdue_at_ns())
    }

    fn close(&mut self) {
        let batch = self.batch.take().expect("only an open prepare is closed");
        self.order(batch);
    }

    fn close_pulse(&mut self) {
        // Whoever shares the pool may just have taken the last buffer: the pulse stays wanted.
        if let Some(buffer) = self.pool.try_take() {
            self.order(Batch::new(buffer, self.config.frame_end_max()));
        }
    }

    /// Gives a prepare its place in the log; one without requests is a pulse.
    fn order(&mut self, batch: Batch) {
        let pulse = batch.request_count() == 0;
        let now = self.clock.now().0;
        let timestamp = Timestamp(now.max(self.head.version_max.0 + 1));
        let prepare = Prepare {
            parent: self.head.checksum,
            checkpoint: self.checkpoint_id,
            op: self.head.op.next(),
            commit: self.commit(),
            timestamp,
            version_count: if pulse { PULSE_VERSION_COUNT } else { batch.operation_count() },
            request_count: batch.request_count(),
            purpose: if pulse { Purpose::Pulse } else { Purpose::Requests },
        };
        let draft = Draft {
            cluster: self.config.cluster,
            view: self.view,
            release: self.config.release,
            replica: self.config.replica,
            ..Draft::default()
        };
        let partly_filled = batch.body_size() < self.config.parallel_size;
        let (header, buffer) =
            batch.close(|body_size, sum| draft.seal_summed(&prepare, body_size, sum));
        let head = LogHead::of(&header);
        assert!(head.timestamp.0 > self.head.version_max.0 || self.head.op == Op(0));
        assert!(prepare.commit < prepare.op, "an op is not committed before it exists");
        self.clock.raise(timestamp);
        self.budget.add(head.op, frame_size(header.size()) as u64);
        self.pipeline.push(head.op, header, buffer, partly_filled, self.monotonic_ns);
        self.head = head;
        self.pulse_wanted = false;
        self.counters.closed(pulse, header.body_size());
    }

    /// The next prepare to be journaled, in op order.
    pub fn next_append(&mut self) -> Option<Append> {
        let (header, buffer) = self.pipeline.next_append()?;
        Some(Append { header, buffer })
    }

    /// The frame of `op` is durable.
    ///
    /// # Panics
    /// When the op was not given out to be journaled, or this frame is not its.
    pub fn on_journal_written(&mut self, op: Op, frame: Frozen) {
        self.pipeline.on_durable(op, frame);
        if let Some(header) = self.pipeline.commit_header() {
            self.committed = LogHead::of(header);
        }
        assert_eq!(self.committed.op, self.pipeline.commit(), "the commit number is durable");
    }

    /// The next prepare to be applied and answered, in op order: each exactly once. Not asking
    /// is how shards that are behind slow down requests.
    pub fn next_commit(&mut self) -> Option<Commit> {
        let (header, frame) = self.pipeline.next_commit()?;
        Some(Commit { header, frame })
    }

    /// A checkpoint at `op` is durable: the log before it may go.
    ///
    /// # Panics
    /// When the op is not committed, or before the last checkpoint.
    pub fn on_checkpoint(&mut self, op: Op, id: CheckpointId) {
        assert!(op <= self.commit(), "a checkpoint at {op} of ops that are not committed");
        self.budget.checkpoint(op);
        self.checkpoint = op;
        self.checkpoint_id = id;
    }

    /// What a read that begins now is answered by.
    pub fn read_point(&mut self, moment: Moment) -> ReadPoint {
        self.look_at_clocks(moment);
        ReadPoint {
            commit: self.committed.op,
            version_max: self.committed.version_max,
            log_time: self.committed.timestamp,
            now: self.clock.now(),
        }
    }

    /// Log time's clock, to be copied to other cores.
    #[must_use]
    pub fn clock(&self) -> LogClock {
        self.clock
    }

    /// The highest committed op.
    #[must_use]
    pub fn commit(&self) -> Op {
        self.committed.op
    }

    /// The newest op in the log, committed or not.
    #[must_use]
    pub fn op(&self) -> Op {
        self.head.op
    }

    /// Whether nothing waits, is written, or is to be applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.is_none() && !self.pulse_wanted && self.pipeline.is_empty()
    }

    /// Whether requests wait for room in the log. A checkpoint makes room, and if nothing else
    /// moves the log on, pulses have to bring it about.
    #[must_use]
    pub fn waits_for_log(&self) -> bool {
        let waits = |batch: &Batch| self.can_close(batch.body_size());
        self.batch.as_ref().map(waits) == Some(Err(Refused::Full(Bottleneck::Log)))
    }

    /// The replica's numbers, for status and metrics.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            status: self.status,
            replica: self.config.replica,
            view: self.view,
            op: self.head.op,
            commit: self.commit(),
            checkpoint: self.checkpoint,
            log_time: self.committed.timestamp,
            log_used: self.budget.used(),
            log_budget: self.budget.limit(),
            in_flight: self.pipeline.len(),
            batch_size: self.batch.as_ref().map_or(0, Batch::body_size),
            counters: self.counters,
        }
    }
}
