//! The replica: orders requests into the log, alone or with peers. Pure: no I/O, no clock, no
//! randomness inside but a generator whose seed is given.
//!
//! Whoever drives it (a node's replica core, a test, a script) tells it what happened and asks it
//! what to do next:
//!
//! ```text
//! on_request ──► batch ──► advance closes it ──► next_append ──► journal
//!                                                                   │
//! shards, replies ◄── next_commit ◄── a quorum, in op order ◄── on_journal_written
//!                                        ▲
//!            on_message ◄── peers ◄── next_send;   deadline_ns says when to call advance
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | `order`, `batch`, `budget`, `clock` | from requests to ops |
//! | `log` | the ops in memory: headers, what the journal has of them, bytes |
//! | `normal` | prepare, prepare-ok, commit |
//! | `heartbeat` | commit as a sign of life, round trips, a primary that steps down |
//! | `view_change`, [`choice`], `install` | from one view to the next |
//! | `vouch` | what must be durable before what is said |
//! | `repair` | headers and prepares that are missing |
//! | `reads` | the read index |
//! | `dropped` | requests that no commit will answer |
//! | `sound` | what a message may say, and what proves that histories differ |
//! | `quorum`, `timeouts`, `outbox` | who counts, when, and what is sent |
//! | `recovered`, `rejoin` | what a restart begins with, alone and with peers |
//!
//! Alone it sends and receives nothing; its own write is the quorum.
//!
//! Invariants, asserted here: ops have no gaps; timestamps strictly increase, versions included;
//! nothing is given out as committed unless a quorum has it and all before it; what is committed at
//! an op never changes; no op is given beyond the pipeline's length or the log's budget; nothing is
//! accepted or acknowledged before the view is durable.
//!
//! Why a crash is safe at each point: before an append nothing of a batch exists, and nobody was
//! told; between append and completion the frame is there or torn, and it was not acknowledged;
//! after completion it is in the log that recovery keeps, or recovery knows that it was. What views
//! give up they give up under a view that was made durable before anything else of it was, so a
//! frame that was given up and comes to light later is void.
//!
//! Steady state allocates nothing: buffers come from a pool sized at start, and every queue has its
//! size. Source: Viewstamped Replication Revisited (Liskov and Cowling, 2012), section 4.

mod batch;
mod budget;
mod canary;
pub mod choice;
mod clock;
mod config;
mod dropped;
mod heartbeat;
mod install;
mod log;
mod normal;
mod order;
mod outbox;
mod quorum;
mod reads;
mod recovered;
mod rejoin;
mod repair;
mod report;
mod sound;
mod timeouts;
mod view_change;
mod vouch;

use std::collections::VecDeque;

use batch::Batch;
use budget::LogBudget;
use heartbeat::{Leading, Peers};
use ioring::{Buffer, BufferPool, Frozen};
use log::Log;
use outbox::Outbox;
use reads::Reads;
use repair::Repair;
use timeouts::{Timer, Timers};
use view_change::Leaving;
use wire::message::{Purpose, Tail};
use wire::{CheckpointId, Command, Draft, Header, Op, ReplicaId, Timestamp, Version, View};

use crate::journal::{BODY_OFFSET, frame_size};

#[cfg(feature = "canary")]
pub use canary::Canary;
#[cfg(not(feature = "canary"))]
use canary::Canary;
pub use clock::{Expiry, JUMP_NS, LogClock, Moment, SLEW_DIVISOR};
pub use config::Config;
pub use dropped::Dropped;
pub use outbox::{Body, Send};
pub use quorum::{MEMBERS_MAX, Quorums};
pub use reads::ReadIndex;
pub use recovered::{LogHead, RecoveredLog, RecoveryError};
pub use repair::PrepareRead;
pub use report::{Counters, Report, Status};
pub use sound::Divergence;
pub use timeouts::Timing;
pub use vouch::ViewRecord;

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
    /// As many reads as may be wait for their index.
    Reads,
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

/// The replica. See the module's documentation.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    quorums: Quorums,
    pool: BufferPool,
    status: Status,
    view: View,
    /// The view whose log this is.
    log_view: View,
    /// View and log view as they are durable.
    vouched: (View, View),
    /// The newest headers of the log when its view began, in op order.
    view_headers: Vec<Header>,
    clock: LogClock,
    monotonic_ns: u64,
    checkpoint: Op,
    checkpoint_id: CheckpointId,
    log: Log,
    /// What the next prepare continues, at a primary.
    head: LogHead,
    /// The highest op that is committed with all before it, and is here.
    committed: LogHead,
    /// The highest op that is known to be committed by the log of the view.
    commit_max: Op,
    /// The last op given out as committed.
    given: Op,
    budget: LogBudget,
    /// Ops to be journaled.
    appends: VecDeque<Op>,
    batch: Option<Batch>,
    pulse_wanted: bool,
    counters: Counters,
    outbox: Outbox,
    timers: Timers,
    peers: Peers,
    leading: Leading,
    leaving: Leaving,
    repair: Repair,
    reads: Reads,
    diverged: Option<Divergence>,
}

impl Replica {
    /// The replica that is alone and continues a recovered log. It serves once the view after
    /// `view`, the superblock's, is durable ([`Replica::view_to_persist`]). `commit_max` is the
    /// highest commit number that the superblock or any frame remembers.
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
        assert!(config.is_alone(), "members of a cluster rejoin it");
        let head = log.head();
        if commit_max > head.op {
            return Err(RecoveryError::Lost { head: head.op, commit_max });
        }
        assert!(view >= head.view, "the superblock knows every view that the log has");
        let entries = Log::new(head.op, None, config.window());
        let checkpoint = (log.checkpoint, checkpoint_id);
        let mut replica = Replica::new(config, pool, entries, head, checkpoint, moment);
        for (index, &size) in log.sizes.iter().enumerate() {
            let op = Op(log.checkpoint.0 + 1 + index as u64);
            replica.budget.add(op, frame_size(size as usize) as u64);
        }
        let named = replica.config.pipeline_max.min(log.tail.len());
        replica.view_headers = log.tail.range(log.tail.len() - named..).copied().collect();
        replica.vouched = (view, view);
        (replica.view, replica.log_view) = (view.next(), view.next());
        Ok(replica)
    }

    /// A replica whose log ends with what it has applied.
    fn new(
        config: Config,
        pool: BufferPool,
        log: Log,
        committed: LogHead,
        (checkpoint, checkpoint_id): (Op, CheckpointId),
        moment: Moment,
    ) -> Replica {
        config.check();
        assert!(pool.buffer_size() >= config.frame_size_max(), "buffers hold the largest prepare");
        let mut quorums = config.quorums();
        if config.breaks(Canary::CommitWithoutQuorum) {
            quorums.replication = 1;
        }
        if config.breaks(Canary::DropWithoutNacks) {
            quorums.nack = 1;
        }
        Replica {
            quorums,
            pool,
            status: Status::Recovering,
            view: View(0),
            log_view: View(0),
            vouched: (View(0), View(0)),
            view_headers: Vec::new(),
            clock: LogClock::new(Timestamp(committed.version_max.0), moment),
            monotonic_ns: moment.monotonic_ns,
            checkpoint,
            checkpoint_id,
            log,
            head: committed,
            committed,
            commit_max: committed.op,
            given: committed.op,
            budget: LogBudget::new(config.log_budget, config.pulse_reserve(), checkpoint),
            appends: VecDeque::with_capacity(2 * config.pipeline_max),
            batch: None,
            pulse_wanted: false,
            counters: Counters::default(),
            outbox: Outbox::new(config.replica_count),
            timers: Timers::new(config.seed, config.replica.0),
            peers: Peers::new(quorums.view_change),
            leading: Leading::default(),
            leaving: Leaving::default(),
            repair: Repair::default(),
            reads: Reads::new(),
            diverged: None,
            config,
        }
    }

    /// Moves time forward, does what is due, and closes the open prepare if group commit lets it.
    /// To be called once per turn of the driver's loop, after the turn's requests, messages and
    /// completions, and at [`Replica::deadline_ns`].
    pub fn advance(&mut self, moment: Moment) {
        self.look_at_clocks(moment);
        if self.diverged.is_some() {
            return;
        }
        if !self.config.is_alone() {
            self.fire_timers();
            self.begin_round();
        }
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

    fn fire_timers(&mut self) {
        while let Some(timer) = self.timers.fire(self.monotonic_ns) {
            match timer {
                Timer::Heartbeat => self.heartbeat(),
                Timer::Contact => self.check_contact(),
                Timer::Silence => self.suspect(),
                Timer::Again => self.ask_again(),
                Timer::Retransmit => self.retransmit(),
                Timer::Repair => self.repair(),
                Timer::Ping => self.ping(),
            }
        }
    }

    /// When [`Replica::advance`] is to be called though nothing else happens, in nanoseconds of the
    /// monotonic clock: when the oldest write becomes overdue and something waits for it, or a
    /// timer fires.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        if self.diverged.is_some() {
            return None;
        }
        let close = self.next_close().and_then(|_| self.overdue_at_ns());
        [close, self.timers.next_ns()].into_iter().flatten().min()
    }

    /// A message from a peer. What is damaged, foreign or makes no sense is counted and dropped, as
    /// if the network had lost it. One that proves that histories differ ends this replica
    /// ([`Replica::diverged`]).
    pub fn on_message(&mut self, from: ReplicaId, header: &Header, body: &[u8], moment: Moment) {
        self.look_at_clocks(moment);
        let member = from.0 < self.config.replica_count && from != self.config.replica;
        let command = header.command();
        let own = command == Command::Prepare || header.replica() == from;
        let ours = header.cluster() == self.config.cluster && self.is_view_sound(header.view());
        if !member || !own || !ours || header.verify_body(body).is_err() {
            return self.refuse();
        }
        if self.diverged.is_some() {
            return;
        }
        match command {
            Command::Prepare => self.on_prepare(from, header, body),
            Command::PrepareOk => self.on_prepare_ok(from, header),
            Command::Commit => self.on_commit(from, header),
            Command::CommitOk => self.on_commit_ok(from, header),
            Command::Ping => self.on_ping(from, header),
            Command::Pong => self.on_pong(from, header),
            Command::PreVote => self.on_pre_vote(from, header),
            Command::StartViewChange => self.on_start_view_change(from, header),
            Command::DoViewChange => self.on_do_view_change(from, header, body),
            Command::StartView => self.on_start_view(from, header, body),
            Command::GetView => self.on_get_view(from, header),
            Command::GetHeaders => self.on_get_headers(from, header),
            Command::Headers => self.on_headers(header, body),
            Command::GetPrepare => self.on_get_prepare(from, header),
            Command::GetReadIndex => self.on_get_read_index(from, header),
            Command::ReadIndex => self.on_read_index(from, header),
            _ => self.refuse(),
        }
    }

    /// The next message to be sent.
    pub fn next_send(&mut self) -> Option<Send> {
        if self.diverged.is_some() {
            return None;
        }
        self.outbox.pop()
    }

    /// The head of a message of this replica.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft {
            cluster: self.config.cluster,
            view: self.view,
            release: self.config.release,
            replica: self.config.replica,
            ..Draft::default()
        }
    }

    /// Sends a message without a body.
    fn send<T: Tail>(&mut self, to: ReplicaId, tail: &T) {
        assert_ne!(to, self.config.replica, "nobody sends to itself");
        let header = self.draft().seal(tail, &[]);
        self.outbox.push(to, header, Body::None);
    }

    fn broadcast<T: Tail>(&mut self, tail: &T) {
        let header = self.draft().seal(tail, &[]);
        for peer in self.config.peers() {
            self.outbox.push(peer, header, Body::None);
        }
    }

    /// The primary of the view.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.quorums.primary(self.view)
    }

    /// The newest view that this replica knows of as a member.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// How many members the cluster has.
    #[must_use]
    pub fn members(&self) -> u8 {
        self.config.replica_count
    }

    /// Whether it has no peers.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.config.is_alone()
    }

    fn is_primary(&self) -> bool {
        self.primary() == self.config.replica
    }

    /// Whether it is primary of a view that has begun.
    fn leads(&self) -> bool {
        self.status == Status::Normal && self.is_primary()
    }

    /// Whether requests are taken: it is primary, its view is durable, and it can reach a quorum as
    /// far as it knows.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.leads() && self.vouched == (self.view, self.view) && !self.leading.silent
    }

    /// What a read that begins now is answered by, as far as this replica knows: alone that is
    /// everything; with peers it may be old, unless a read index says otherwise.
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
        self.log.head()
    }

    /// Ops that are not given out as committed.
    fn in_flight(&self) -> usize {
        usize::try_from(self.log.head().0 - self.given.0).expect("a log's ops fit memory")
    }

    /// Whether nothing waits, is written, or is to be applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.is_none() && !self.pulse_wanted && self.in_flight() == 0
    }

    /// Whether requests wait for room in the log. A checkpoint makes room, and if nothing else
    /// moves the log on, pulses have to bring it about.
    #[must_use]
    pub fn waits_for_log(&self) -> bool {
        let waits = |batch: &Batch| self.can_close(batch.body_size());
        self.batch.as_ref().map(waits) == Some(Err(Refused::Full(Bottleneck::Log)))
    }

    /// A checkpoint at `op` is durable: the log before it may go.
    ///
    /// # Panics
    /// When the op is not committed, or before the last checkpoint.
    pub fn on_checkpoint(&mut self, op: Op, id: CheckpointId) {
        assert!(op <= self.commit(), "a checkpoint at {op} of ops that are not committed");
        self.budget.checkpoint(op);
        if !self.config.is_alone() {
            assert!(op <= self.given, "a checkpoint at {op} of ops that were not given out");
            self.log.release(op);
        }
        self.checkpoint = op;
        self.checkpoint_id = id;
    }

    /// The replica's numbers, for status and metrics.
    #[must_use]
    pub fn report(&self) -> Report {
        let status = if self.repair.is_behind() { Status::Behind } else { self.status };
        Report {
            status,
            replica: self.config.replica,
            view: self.view,
            log_view: self.log_view,
            serves: self.serves(),
            blocked_by: self.leaving.blocked_by().or(self.repair.stuck_at()),
            op: self.log.head(),
            commit: self.commit(),
            checkpoint: self.checkpoint,
            log_time: self.committed.timestamp,
            log_used: self.budget.used(),
            log_budget: self.budget.limit(),
            in_flight: self.in_flight(),
            batch_size: self.batch.as_ref().map_or(0, Batch::body_size),
            counters: Counters { messages_dropped: self.outbox.dropped, ..self.counters },
        }
    }
}
