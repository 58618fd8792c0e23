//! A core: everything that one pinned thread has, and how its parts reach each other.
//!
//! ```text
//!   connections ─writes──▶ replica (core 0) ─commits──▶ applier ─outcomes──▶ runs ─▶ connections
//!        └───────reads───────────────────────────────────▶ shards ──rendered───────────┘
//! ```
//!
//! There is one [`Core`] value per core, shared by the core's tasks by reference count. Each part
//! owns its state behind its own cell and borrows it for the length of a call: nothing is borrowed
//! across an await, and no part reaches into another. What leaves the core goes by lane
//! ([`crate::mesh`]): writes to the replica's core, commits from it, look-ups of keys that other
//! cores have, and outcomes back.
//!
//! What is particular here is only what concerns several parts: where an outcome goes
//! ([`Deliver`]), and what a connection needs to know of time ([`Core::host`]).

pub mod clients;
pub mod damage;
pub mod desk;
pub mod pools;
pub mod reads;
pub mod walk;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Instant, Random};
use vsr::replica::{LogClock, Moment};
use wire::{ClientTag, ErrorCode, Op, Outcome, Requests, RootReference, ShardId, Slot, Timestamp};

use self::clients::Clients;
pub use self::pools::{Desks, Vectors};
use self::reads::Reads;
use self::walk::Walks;
use crate::connection;
use crate::gateway::runs::{RunId, Runs, Tag};
use crate::mesh::batch::{Answer, Ballot, Query};
use crate::mesh::{Mesh, Report, Summary};
use crate::metrics::{Counter, Metrics, Snapshot, Stage};
use crate::native::{self, answer::Voice};
use crate::peers::Peers;
use crate::repair::Repairs;
use crate::replica::member::PATIENCE;
use crate::replica::{Log, Origin, ReplicaCore, pulse};
use crate::resp::plan::Form;
use crate::resp::{self, Ask, Host};
use crate::shard::apply::{Applier, Committed, Deliver, Progress};
use crate::shard::keeper::Keeper;
use crate::shard::scrubber::Scrubbers;
use crate::status::{CacheReport, CoreReport, Identity, PhaseCell, ReplicaReport, ShardReport};
use crate::topology::{CoreIndex, Topology};

/// See the module's text.
pub struct Core {
    /// Which core this is.
    pub index: CoreIndex,
    /// Who has which shard.
    pub topology: Topology,
    /// What this core counts.
    pub metrics: Metrics,
    /// What the node does.
    pub phase: PhaseCell,
    /// Who the node is.
    pub identity: Identity,
    /// The way to other cores.
    pub mesh: Mesh,
    /// The node's connections on this core.
    pub clients: Clients,
    /// What connections wait for.
    pub runs: Runs,
    /// Vectors lent to connections.
    pub vectors: Vectors,
    /// Desks lent to turns.
    pub desks: Desks,
    /// Look-ups that wait.
    pub reads: Reads,
    /// The core's shards and what is committed for them.
    pub applier: Applier,
    /// What the grids still have space for: on the replica's core those of all cores.
    pub space: Cell<Admission>,
    /// What this core's grids still have space for.
    pub space_here: Cell<Admission>,
    /// They have become short of it.
    pub short: Event,
    /// Ops were applied: who watches for an idle log looks again.
    pub activity: Event,
    /// What finishes ops that have to wait.
    pub keeper: Keeper,
    /// What reads the grids for rot.
    pub scrubbers: Scrubbers,
    /// Blocks from peers, and for them.
    pub repairs: Repairs,
    /// Reads that walk the key space.
    pub walks: Walks,
    /// For what need not be repeatable.
    pub random: RefCell<Random>,
    /// The way from the log to the shards and back, on the replica's core.
    pub log: Option<Log>,
    /// Whether this node is a member of a cluster of several.
    pub clustered: bool,
    /// The replica, on the core that has it.
    pub replica: OnceCell<ReplicaCore>,
    /// The connections between replicas, on the core that has the replica, if it listens for them.
    pub peers: OnceCell<Rc<Peers>>,
    /// This core, for tasks.
    pub weak: Weak<Core>,
    /// What a connection may cost.
    pub connection_limits: connection::Limits,
    /// What a request may cost.
    pub request_limits: resp::Limits,
    /// Log time's clock, as of the last commit seen here.
    pub clock: Cell<LogClock>,
    /// When the turn under way began.
    pub turn_at: Cell<Instant>,
    /// The longest value.
    pub value_max: usize,
    /// Requests outstanding in one session.
    pub window: u64,
    /// When the node started.
    pub started: Instant,
}

/// What writes the grids have space for: judged before a request is given an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Admission {
    /// All.
    #[default]
    All,
    /// Those that delete, so that space comes back.
    Deletes,
    /// Only pulses and flushes.
    None,
    /// The same: a corrupt table keeps what is written from being merged.
    Stuck,
}

/// How often space that is short is looked at.
const SPACE_LOOK: Duration = Duration::from_secs(1);

/// The two clocks of this moment.
#[must_use]
pub fn moment() -> Moment {
    Moment { monotonic_ns: ioring::now().as_nanos(), wall_ns: ioring::wall_clock().0 }
}

impl Core {
    /// What planning commands needs to know of this moment.
    #[must_use]
    pub fn host(&self) -> Host {
        let moment = moment();
        let mut clock = self.clock.get();
        clock.advance(moment);
        self.clock.set(clock);
        self.turn_at.set(Instant::from_nanos(moment.monotonic_ns));
        Host { now: clock.now(), wall_clock_ns: moment.wall_ns, value_max: self.value_max }
    }

    /// What messages of the native protocol say of this node and of what it has applied.
    #[must_use]
    pub fn voice(&self) -> Voice {
        Voice {
            draft: native::draft(self),
            op: self.applier.applied(),
            timestamp: self.applier.log_time(),
            window: self.window,
            primary: self.replica.get().and_then(ReplicaCore::primary_elsewhere),
        }
    }

    /// Log time now, by the moment of the turn under way: see [`Core::host`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.get().now()
    }

    /// The replica of this core.
    ///
    /// # Panics
    /// Before the log is replayed, and on a core without it.
    #[must_use]
    pub fn replica(&self) -> &ReplicaCore {
        self.replica.get().expect("the log is replayed, and this core has the replica")
    }

    /// Hands encoded requests over to the log; waits while it has no room for them.
    pub async fn submit(&self, writes: &[u8]) {
        if self.index != CoreIndex::REPLICA {
            return self.mesh.submit(writes).await;
        }
        self.take_writes(writes).await;
    }

    /// Gives encoded requests, of connections of whichever core, to the replica of this one.
    pub async fn take_writes(&self, writes: &[u8]) {
        self.order(writes, Origin::Client).await;
    }

    /// Gives encoded requests to the replica of this core, one after the other.
    pub async fn order(&self, writes: &[u8], origin: Origin) {
        let replica = self.replica();
        for request in Requests::of_body(writes) {
            // In a cluster what cannot be read is repaired, and its op waits for that.
            let doubtful = !self.clustered && self.is_damaged();
            if doubtful && !damage::is_readable(self, &request).await {
                replica.refuse(self, &request, ErrorCode::CorruptBlock, origin).await;
                continue;
            }
            replica.submit(self, &request, origin).await;
        }
    }

    /// Whether a grid has a block that cannot be read: on this core or, as far as the replica's
    /// core has been told, on another.
    fn is_damaged(&self) -> bool {
        self.has_damage() || self.mesh.summaries(|others| others.iter().any(|core| core.damaged))
    }

    /// A block of this core's grids cannot be read: it counts, and the replica's core is told.
    pub fn on_corrupt(&self) {
        self.metrics.count(Counter::Corrupt);
        self.on_damage();
    }

    /// There may be damage on this core that was not known: the replica's core is told.
    pub fn on_damage(&self) {
        if self.index != CoreIndex::REPLICA {
            self.mesh.report(Report::Summary(self.summary()));
        }
    }

    /// Whether a grid of this core has a block that cannot be read.
    fn has_damage(&self) -> bool {
        self.applier.with_shards(|shards| shards.iter().any(|shard| shard.forest().is_damaged()))
    }

    /// Makes sure that an op commits that passes the deadline; `false` if that may still be to come
    /// by the replica's clock: then it has to be asked for again.
    pub fn request_time(&self, deadline: Timestamp) -> bool {
        if self.index == CoreIndex::REPLICA {
            return self.replica().request_time(deadline);
        }
        self.mesh.request_time(deadline);
        false
    }

    /// Waits until nothing of a run is missing; in a cluster, which may be without a primary, not
    /// for ever: `false` when something may still come.
    pub async fn wait_for_run(&self, run: RunId) -> bool {
        if !self.clustered {
            self.runs.wait(run).await;
            return true;
        }
        let late = ioring::sleep(2 * PATIENCE);
        matches!(ioring::select(self.runs.wait(run), late).await, ioring::Either::First(()))
    }

    /// Whether a slot's shard is on this core.
    #[inline]
    #[must_use]
    pub fn has_slot(&self, slot: Slot) -> bool {
        self.mesh.is_alone() || self.core_of(slot) == self.index
    }

    /// The core of a slot's shard.
    #[must_use]
    pub fn core_of(&self, slot: Slot) -> CoreIndex {
        self.topology.core_of(self.topology.shard_of(slot))
    }

    /// Log time has come to a timestamp.
    pub fn raise_clock(&self, timestamp: Timestamp) {
        let mut clock = self.clock.get();
        // Raised as of now: what has passed before is in the timestamp.
        clock.advance(moment());
        clock.raise(timestamp);
        self.clock.set(clock);
    }

    /// Completes an operation or look-up on the core of its connection.
    #[inline]
    pub fn finish(&self, tag: Tag, index: u32, outcome: &Outcome<'_>) {
        if tag.core == self.index {
            self.runs.complete(tag, index, outcome);
        } else {
            self.mesh.outcome(tag, index, outcome);
        }
    }

    /// This core, for a task of its own.
    #[must_use]
    pub fn this(&self) -> Rc<Core> {
        self.weak.upgrade().expect("somebody is using this core")
    }

    /// The way from the log to the shards.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.log.as_ref().expect("this core has the replica")
    }

    /// Takes the root that a shard's checkpoint came to.
    pub fn on_root(&self, op: Op, shard: ShardId, root: RootReference) {
        match &self.log {
            Some(log) => log.checkpoints.on_root(op, shard, root),
            None => self.mesh.report(Report::Root(op, shard, root)),
        }
    }

    /// Waits until a checkpoint is durable.
    pub async fn wait_durable(&self, op: Op) {
        match &self.log {
            Some(log) => log.checkpoints.wait_durable(op).await,
            None => self.mesh.wait_durable(op).await,
        }
    }

    /// Takes a commit: gives it to the other cores if this is the replica's, and applies it as far
    /// as it can be applied at once.
    pub fn commit(&self, committed: Committed) {
        if self.index == CoreIndex::REPLICA {
            self.mesh.commit(&committed);
        }
        self.applier.push(committed);
        self.advance();
    }

    /// Applies what is committed, and starts what is missing for the rest.
    pub fn advance(&self) {
        if self.reads.is_fetching() {
            return;
        }
        let started = ioring::now();
        let before = self.applier.applied();
        let progress = self.applier.advance(self);
        self.metrics.record(Stage::Apply, ioring::now() - started);
        let idle = matches!(progress, Progress::Idle);
        // Other cores wait for each op: those behind it are theirs too.
        if idle || !self.mesh.is_alone() && self.applier.applied() > before {
            self.on_applied();
        }
        match progress {
            Progress::Idle | Progress::Voting | Progress::Kept => {}
            Progress::Waiting(missing) => {
                self.metrics.count(Counter::PreparesPrefetched);
                self.reads.fetch(missing);
            }
            Progress::Keeper(rest) => {
                self.reads.on_applied();
                self.keeper.give(rest);
            }
        }
        // Last: a report may dispatch the next prepare, which comes back here. By then everything
        // that this attempt found out has to be in its place.
        while let Some((group, memtable_bytes)) = self.applier.take_report() {
            self.measure_space();
            match &self.log {
                Some(log) => log.dispatch.report(self, group, memtable_bytes),
                None => self.mesh.report(Report::Group(group, memtable_bytes)),
            }
        }
        if let Some(log) = &self.log {
            log.go_on(self);
        }
    }

    /// Looks how much space the fullest grid of this core has.
    pub fn measure_space(&self) {
        let before = self.space_here.get();
        self.space_here.set(self.applier.with_shards(|shards| {
            shards.iter().for_each(|shard| shard.forest().look_ahead());
            let space = |shard: &crate::shard::Shard| shard.forest().space();
            let puts = shards.iter().all(|shard| space(shard).allows_puts());
            let deletes = shards.iter().all(|shard| space(shard).allows_deletes());
            let stuck = shards.iter().any(|shard| shard.forest().is_stuck());
            match (puts, deletes) {
                _ if stuck => Admission::Stuck,
                (true, _) => Admission::All,
                (false, true) => Admission::Deletes,
                (false, false) => Admission::None,
            }
        }));
        if before == Admission::All && self.space_here.get() != Admission::All {
            self.short.notify();
        }
        self.judge_space();
    }

    /// Looks at the space now, and again and again while it is short: the host may have some again,
    /// and nothing that is applied would tell.
    pub fn start_space_watch(self: &Rc<Core>) {
        self.measure_space();
        let core = self.clone();
        let watch = async move {
            loop {
                match core.space_here.get() {
                    Admission::All => core.short.wait().await,
                    _ => ioring::sleep(SPACE_LOOK).await,
                }
                core.measure_space();
            }
        };
        ioring::spawn(ioring::Queue::Background, "space", watch).detach();
    }

    /// Decides which writes are taken: on the replica's core, by the fullest grid of all.
    pub fn judge_space(&self) {
        let mut admission = self.space_here.get();
        if self.index == CoreIndex::REPLICA {
            let others = |all: &[Summary]| all.iter().map(|summary| summary.admission).max();
            admission = admission.max(self.mesh.summaries(others).unwrap_or_default());
        }
        if self.space.replace(admission) == admission {
            return;
        }
        match self.index {
            CoreIndex::REPLICA => {
                tracing::warn!(?admission, "the grids' state decides which writes are taken");
            }
            _ => self.mesh.report(Report::Summary(self.summary())),
        }
    }

    /// Something was applied: whoever waits for that goes on.
    fn on_applied(&self) {
        self.reads.on_applied();
        if self.index != CoreIndex::REPLICA {
            return self.mesh.report(Report::Summary(self.summary()));
        }
        self.on_applied_elsewhere();
    }

    /// Another core has applied something: whoever waits for all cores goes on.
    pub fn on_applied_elsewhere(&self) {
        self.activity.notify();
        if let Some(replica) = self.replica.get() {
            replica.on_applied();
        }
    }

    /// How far this core is.
    fn summary(&self) -> Summary {
        let work = pulse::Work::of(self);
        let (applied, admission) = (self.applier.applied(), self.space_here.get());
        Summary { applied, admission, damaged: self.has_damage(), work }
    }

    /// Whether every core has applied everything up to this op.
    #[must_use]
    pub fn have_all_applied(&self, op: Op) -> bool {
        self.applier.applied() >= op && self.mesh.applied().is_none_or(|applied| applied >= op)
    }

    /// Answers what only the node knows.
    pub async fn answer(
        &self,
        ask: &Ask<'_>,
        client: &clients::Client,
        form: Form,
        out: &mut Vec<u8>,
    ) {
        let now = ioring::now();
        match ask {
            Ask::Info(sections) => {
                resp::info::append(&self.info().await, *sections, form, out);
            }
            Ask::ClientInfo => {
                let mut line = Vec::new();
                self.clients.describe(now, |id| id == client.id(), &mut line);
                append_text(&line, form, out);
            }
            Ask::ClientList(filter) => {
                let mut lines = self.clients.lines(now);
                for answer in self.mesh.query_all(|| Query::Clients).await {
                    if let Answer::Clients(more) = answer {
                        lines.extend(more);
                    }
                }
                lines.retain(|(id, _)| filter.admits(*id));
                lines.sort_unstable_by_key(|(id, _)| *id);
                let text: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line).collect();
                append_text(&text, form, out);
            }
        }
    }

    /// What INFO reports.
    async fn info(&self) -> resp::info::Snapshot {
        let mut report = self.replica.get().map(ReplicaCore::report);
        let mut sum = self.metrics.snapshot();
        for answer in self.mesh.query_all(|| Query::Report).await {
            if let Answer::Report(there) = answer {
                sum.merge(&there.metrics);
                report = report.or(there.replica);
            }
        }
        self.info_of(report, &sum)
    }

    fn info_of(&self, report: Option<ReplicaReport>, sum: &Snapshot) -> resp::info::Snapshot {
        resp::info::Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            port: self.identity.resp.port(),
            uptime_s: ioring::now().since(self.started).as_secs(),
            clients: sum.get(Counter::ConnectionsOpen),
            connections: sum.get(Counter::ConnectionsAccepted),
            commands: sum.get(Counter::Commands),
            cluster: self.identity.cluster,
            replica: self.identity.replica,
            replicas: report.as_ref().map_or(1, |report| report.replicas),
            is_primary: report.as_ref().is_none_or(|r| r.primary == Some(r.replica)),
            view: report.as_ref().map_or(0, |report| report.view),
            op: report.as_ref().map_or(0, |report| report.op),
            commit: report.as_ref().map_or(0, |report| report.commit),
            checkpoint: report.as_ref().map_or(0, |report| report.checkpoint),
            ..resp::info::Snapshot::default()
        }
    }

    /// The core's numbers, for the control plane.
    #[must_use]
    pub fn report(&self) -> CoreReport {
        let applied = self.applier.applied().0;
        let shards = self.applier.with_shards(|shards| {
            let report = |(index, shard): (usize, &crate::shard::Shard)| ShardReport {
                shard: shard.id().0,
                core: self.index.0,
                applied,
                memtable_bytes: shard.forest().memtable_bytes(),
                grid_blocks_free: shard.forest().space().free,
                grid_blocks_reserved: shard.forest().space().reserve_puts(),
                scrub: self.scrubbers.report(index),
                blocks_repaired: shard.forest().blocks_repaired(),
                compaction: shard.forest().stats(),
                cache: CacheReport::new(&shard.forest().cache_stats()),
            };
            shards.iter().enumerate().map(report).collect()
        });
        CoreReport {
            core: self.index.0,
            metrics: self.metrics.snapshot(),
            shards,
            replica: self.replica.get().map(ReplicaCore::report),
            sessions: self.log.as_ref().map(|log| log.sessions.report()),
            peers: self.peers.get().map(|peers| peers.report()),
            stalls: ioring::stats().stalls,
        }
    }
}

impl Deliver for Core {
    #[inline]
    fn deliver(&self, tag: ClientTag, index: u32, outcome: &Outcome<'_>) {
        self.finish(Tag::unpack(tag), index, outcome);
    }

    fn deliver_to_session(&self, op: Op, first: u32, index: u32, outcome: &Outcome<'_>) {
        match &self.log {
            Some(log) => log.sessions.take(self, op, first, index, outcome),
            None => self.mesh.session_outcome(op, first, index, outcome),
        }
    }

    fn vote(&self, to: CoreIndex, ballot: Ballot) {
        self.mesh.vote(to, ballot);
    }
}

fn append_text(text: &[u8], form: Form, out: &mut Vec<u8>) {
    if !form.muted {
        resp::Encoder::new(out, form.protocol).verbatim(text);
    }
}
