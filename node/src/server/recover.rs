//! From a data directory to a core that serves: what a start does with what the last run left.
//!
//! 1. [`open`], on the replica's core: the lock, the superblock by its quorum, the journal's
//!    decision what of the log counts. Nothing has been written yet, except repairs of damaged
//!    superblock copies.
//! 2. [`Opening::shards`] and [`Opening::core`], on every core: its shards as of the last
//!    checkpoint.
//! 3. [`Unplayed::serve`]: every prepare after the checkpoint is given to all cores and applied as
//!    when it was committed, only that nobody waits for outcomes. The replica checks the chain once
//!    more on the way, and goes no further ahead of the slowest core than a few ops.
//! 4. The view is raised in the superblock, durably and naming the log's newest headers, before a
//!    request is taken: what recovery has forgotten stays forgotten, even if its frame should come
//!    to light later.
//!
//! A member of a cluster ([`Unplayed::join`]) does not replay by itself: what of its log counts the
//! cluster knows. The replica gives out what is committed, from the journal or from peers, as it
//! does from then on. The node serves once a read index has come, which proves that it is in touch
//! with a quorum, and all cores have applied up to it.
//!
//! A crash during any of this changes nothing: the next start finds the same log, at most under a
//! higher view.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use ioring::sync::Event;
use ioring::{BufferPool, Either};
use vsr::format::{DataDirectory, OpenError, OpenOptions};
use vsr::journal::recovery::MemberLog;
use vsr::journal::{self, Journal, ReadError, Recovered, RecoveredMember};
use vsr::replica::{self, LogClock, LogHead, RecoveredLog, Replica, ViewRecord};
use vsr::superblock::State;
use wire::{Header, Op, ShardId, Timestamp};

use super::Options;
use super::native::FRAMES_QUEUED;
use crate::config::Config;
use crate::config::compression::format_compression;
use crate::core::clients::{Clients, OpenCount};
use crate::core::reads::Reads;
use crate::core::walk::Walks;
use crate::core::{Core, Desks, Vectors, moment};
use crate::gateway::runs::Runs;
use crate::mesh::{APPLYING, Ends, Mesh, RECENT, REPLAY_AHEAD};
use crate::metrics::Metrics;
use crate::repair::Repairs;
use crate::replica::checkpoint::Checkpoints;
use crate::replica::dispatch::Dispatch;
use crate::replica::{Log, ReplicaCore, pulse};
use crate::resp::cursor::{Capacity, CursorTable};
use crate::session::{self, Sessions, StoredError, Table};
use crate::shard::apply::{self, Applier};
use crate::shard::keeper::Keeper;
use crate::shard::scrubber::Scrubbers;
use crate::shard::{self, Shard, Shards};
use crate::status::{Identity, PhaseCell};
use crate::topology::{CoreIndex, Topology};

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its journal cannot be trusted.
    #[error(transparent)]
    Journal(#[from] journal::RecoverError),
    /// A shard's storage cannot be opened.
    #[error(transparent)]
    Shard(#[from] shard::open::OpenError),
    /// What the checkpoint keeps of sessions makes no sense.
    #[error("the checkpoint's sessions: {0}")]
    Sessions(#[from] StoredError),
    /// A frame went bad between recovery and replay.
    #[error("the journal cannot be replayed: {0}")]
    Read(#[from] ReadError),
    /// The log does not continue as it should.
    #[error("the journal cannot be replayed: {0}")]
    Log(#[from] replica::RecoveryError),
}

/// An open directory whose log has been looked at and not yet replayed.
pub(super) struct Opened {
    directory: DataDirectory,
    journal: Journal,
    found: Found,
}

/// What the journal came to.
enum Found {
    /// Of a replica that is alone.
    Alone(Recovered),
    /// Of a member of a cluster.
    Member(RecoveredMember),
}

/// What a replay still needs when the core has the rest.
pub(super) struct Unplayed {
    found: Found,
}

/// What a core needs to open its shards.
pub struct Opening {
    state: State,
    topology: Topology,
    resp: SocketAddr,
    grids: Vec<(ShardId, PathBuf)>,
}

/// What is one for all cores of a node.
#[derive(Clone)]
pub struct Shared {
    /// What to run.
    pub options: Options,
    /// What the node does.
    pub phase: PhaseCell,
    /// Who the node is, once it has opened its directory.
    pub identity: Arc<OnceLock<Identity>>,
    /// How many connections it has open.
    pub open: OpenCount,
}

/// Opens a directory.
pub(super) async fn open(options: &Options) -> Result<Opened, RecoverError> {
    let open = OpenOptions { direct: options.direct, ..OpenOptions::default() };
    let directory = DataDirectory::open(&options.dir, &open).await?;
    if !directory.journal.is_direct() {
        tracing::warn!(
            dir = %options.dir.display(),
            "the file system has no direct I/O: writes go through the page cache"
        );
    }
    let recent = journal::Options { recent_max: RECENT };
    let state = directory.superblock.state();
    let (file, replicas) = (&directory.journal, state.configuration.replica_count);
    let (journal, found) = if replicas == 1 {
        let (journal, recovered) = Journal::recover_solo(file, &state, recent).await?;
        (journal, Found::Alone(recovered))
    } else {
        let (journal, recovered) = Journal::recover_member(file, &state, recent).await?;
        (journal, Found::Member(recovered))
    };
    report(&state, &found);
    Ok(Opened { directory, journal, found })
}

/// Logs what was found.
fn report(state: &State, found: &Found) {
    let (cluster, replica) = (state.identity.cluster, state.identity.replica);
    let checkpoint = state.checkpoint.op;
    let bad = match found {
        Found::Alone(recovered) => &recovered.bad,
        Found::Member(recovered) => &recovered.bad,
    };
    for (offset, why) in bad {
        tracing::warn!(offset, why, "a place in the journal cannot be used");
    }
    match found {
        Found::Alone(Recovered { head, forgotten, .. }) => {
            tracing::info!(%cluster, %replica, %checkpoint, %head, forgotten, "journal recovered");
        }
        Found::Member(RecoveredMember { log, damaged, .. }) => {
            let head = Op(checkpoint.0 + log.ops.len() as u64);
            let (commit, head_known, damaged) = (log.commit_max, log.head_known, damaged.len());
            tracing::info!(
                %cluster, %replica, %checkpoint, %head, head_known, %commit, damaged,
                "journal recovered"
            );
        }
    }
}

impl Opened {
    /// What the superblock says.
    pub(super) fn state(&self) -> Rc<State> {
        self.directory.superblock.state()
    }

    /// What a core of a node with so many has to open.
    pub(super) fn opening(
        &self,
        core: CoreIndex,
        cores: u16,
        config: &Config,
        resp: SocketAddr,
    ) -> Opening {
        let state = State::clone(&self.directory.superblock.state());
        let dedicated = config.dedicated_replica_core;
        let topology = Topology::new(cores, state.configuration.shard_count, dedicated);
        let grids = topology.shards_of(core).map(|id| (id, self.directory.grid_path(id)));
        Opening { grids: grids.collect(), state, topology, resp }
    }

    /// The way from the log to the shards, and what is still to be replayed.
    pub(super) fn log(self, cores: u16) -> (Log, Unplayed) {
        let Opened { directory, journal, found } = self;
        let state = directory.superblock.state();
        let head = checkpoint_head(&state);
        let log = Log {
            dispatch: Dispatch::new(&state.configuration, head.op, cores),
            checkpoints: Checkpoints::new(directory, journal),
            sessions: Sessions::new(Table::new(session::Limits::new(&state.configuration))),
            sessions_at_open: RefCell::default(),
        };
        (log, Unplayed { found })
    }
}

impl Opening {
    /// Opens the core's shards; with the sessions, if one of them keeps them.
    pub(super) async fn shards(
        &self,
        options: &Options,
    ) -> Result<(Vec<Shard>, Vec<u8>), RecoverError> {
        let state = &self.state;
        let cache_bytes = options.config.cache_bytes / u64::from(state.configuration.shard_count);
        let (mut shards, mut sessions) = (Vec::new(), Vec::new());
        for (id, path) in &self.grids {
            let opened = shard::open::open(path, state, *id, cache_bytes, options.direct).await?;
            let (shard, kept) = opened;
            shards.push(shard);
            sessions.extend(kept);
        }
        Ok((shards, sessions))
    }

    /// A core with these shards. The replica's has the log as well.
    pub(super) fn core(
        self,
        shared: &Shared,
        shards: Vec<Shard>,
        log: Option<Log>,
        ends: Ends,
    ) -> Rc<Core> {
        let Opening { state, topology, resp, .. } = self;
        let configuration = &state.configuration;
        let (options, index) = (&shared.options, ends.core());
        let limits = apply::Limits {
            value_max: configuration.value_size_max,
            effects_max: u64::from(configuration.effects_size_max),
            fetched_max: 2 * configuration.effects_size_max as usize,
        };
        let head = checkpoint_head(&state);
        let applied_time = Timestamp(head.version_max.0);
        let clustered = configuration.replica_count > 1;
        let shards = Shards::new(topology, index, shards);
        let scrubbers = Scrubbers::new(options.config.scrub_cycle, shards.len());
        let mut random = ioring::random("node");
        let table = CursorTable::new(index.0 as u8, Capacity::default(), random.next_u64());
        let (mesh, inboxes) = Mesh::new(ends, head.op);
        let (max, open) = (options.config.clients_max, shared.open.clone());
        let core = Rc::new_cyclic(|weak| Core {
            index,
            topology,
            metrics: Metrics::default(),
            phase: shared.phase.clone(),
            identity: identity_of(&state, resp),
            mesh,
            clients: Clients::new(index, topology.cores(), max, open),
            runs: Runs::new(options.connections.reply_max),
            vectors: Vectors::default(),
            desks: Desks::default(),
            reads: Reads::default(),
            applier: Applier::new(shards, limits, head.op, applied_time),
            space: Cell::default(),
            space_here: Cell::default(),
            short: Event::new(),
            activity: Event::new(),
            keeper: Keeper::default(),
            scrubbers,
            repairs: Repairs::default(),
            walks: Walks::new(table),
            random: RefCell::new(random),
            log,
            clustered,
            replica: OnceCell::new(),
            peers: OnceCell::new(),
            weak: weak.clone(),
            connection_limits: options.connections,
            request_limits: crate::resp::Limits::for_prepare(
                configuration.prepare_size_max as usize,
            ),
            clock: Cell::new(LogClock::new(applied_time, moment())),
            turn_at: Cell::new(ioring::now()),
            value_max: configuration.value_size_max as usize,
            window: u64::from(configuration.session_window),
            started: ioring::now(),
        });
        core.start_mesh(inboxes);
        Reads::start(&core);
        Keeper::start(&core);
        Repairs::start(&core);
        Scrubbers::start(&core);
        core.start_space_watch();
        core
    }
}

/// Who the node is.
fn identity_of(state: &State, resp: SocketAddr) -> Identity {
    Identity {
        cluster: state.identity.cluster.0,
        replica: state.identity.replica.0,
        resp,
        compression: format_compression(&state.configuration.compression),
    }
}

impl Unplayed {
    /// Makes the node serve; `false` if another core ended before that.
    pub(super) async fn serve(self, core: &Rc<Core>) -> Result<bool, RecoverError> {
        Checkpoints::start(core);
        core.log().sessions.restore(&core.log().sessions_at_open.take())?;
        match self.found {
            Found::Alone(recovered) => replay(core, &recovered).await,
            Found::Member(recovered) => Ok(join(core, &recovered.log).await),
        }
    }
}

/// Replays the log of a replica that is alone.
async fn replay(core: &Rc<Core>, recovered: &Recovered) -> Result<bool, RecoverError> {
    let started = ioring::now();
    let head = checkpoint_head(&core.log().checkpoints.directory().superblock.state());
    let mut log = RecoveredLog::at_checkpoint(head);
    let journal = core.log().checkpoints.journal().expect("the node has not stopped");
    let mut frames = journal.replay(head.op.next(), recovered.head)?;
    while let Some(frame) = frames.next().await? {
        let header = Header::verify(&frame[journal::FRAME_HEADER_SIZE..])
            .expect("the journal gives out frames that it has verified");
        log.replay(&header)?;
        core.log().dispatch.push(core, &header, &frame, false);
        let op = log.head().op;
        core.applier.wait_applied(op).await;
        if !core.mesh.wait_applied(Op(op.0.saturating_sub(REPLAY_AHEAD))).await {
            return Ok(false);
        }
    }
    drop(frames);
    if !core.mesh.wait_applied(log.head().op).await {
        return Ok(false);
    }
    let ops = log.head().op.0 - head.op.0;
    tracing::info!(ops, elapsed = ?(ioring::now() - started), "journal replayed");
    continue_alone(core, recovered, &log, head.op).await?;
    Ok(true)
}

/// Raises the view and hands the log to the replica.
async fn continue_alone(
    core: &Rc<Core>,
    recovered: &Recovered,
    log: &RecoveredLog,
    checkpoint: Op,
) -> Result<(), RecoverError> {
    let state = core.log().checkpoints.directory().superblock.state();
    let config = replica_config(&state, 0);
    let buffers = 1 + config.pipeline_max + RECENT + APPLYING;
    let pool = BufferPool::new("prepares", config.frame_size_max(), buffers);
    let commit_max = recovered.commit_max.max(state.commit_max);
    let (id, view) = (state.checkpoint.id, state.view);
    let mut replica = Replica::recovered(config, pool, log, id, view, commit_max, moment())?;
    let record = replica.view_to_persist().expect("a replica starts with a view to persist");
    core.log().checkpoints.vouch(&record).await;
    replica.on_view_durable(record.view, record.log_view);
    core.log().dispatch.in_flight.begin_view(record.view);
    // The replay may have taken a checkpoint of its own. Nothing waits from here on until the
    // core has the replica, which is told of those to come.
    let (durable, id) = core.log().checkpoints.durable();
    if durable > checkpoint {
        replica.on_checkpoint(durable, id);
    }
    start(core, replica, config.pipeline_max);
    Ok(())
}

/// Joins the cluster; `false` if another core ended before the node serves.
async fn join(core: &Rc<Core>, log: &MemberLog) -> bool {
    let state = core.log().checkpoints.directory().superblock.state();
    let config = replica_config(&state, ioring::random("replica").next_u64());
    let (pipeline_max, peers) = (config.pipeline_max, usize::from(config.replica_count) - 1);
    // Those of one that is alone; what a backup takes out of order and what a view gives up; and
    // what the outboxes of the peers hold, by class.
    let buffers = 1 + 3 * pipeline_max + RECENT + APPLYING + 2 * peers * FRAMES_QUEUED;
    let pool = BufferPool::new("prepares", config.frame_size_max(), buffers);
    let record = ViewRecord {
        view: state.view,
        log_view: state.log_view,
        headers: state.view_headers.clone(),
        commit_max: state.commit_max,
    };
    let checkpoint = (state.checkpoint.header, state.checkpoint.id);
    let replica = Replica::rejoined(config, pool, log, &record, checkpoint, moment());
    start(core, replica, pipeline_max);
    loop {
        let index = core.replica().read_index();
        match ioring::select(index, core.mesh.ended()).await {
            Either::First(Ok(index)) => {
                core.applier.wait_applied(index.op).await;
                return core.mesh.wait_applied(index.op).await;
            }
            Either::First(Err(_)) => tracing::info!("waiting for a quorum of the cluster"),
            Either::Second(()) => return false,
        }
    }
}

/// Gives the core its replica, which goes on from here.
fn start(core: &Rc<Core>, replica: Replica, writers: usize) {
    core.clock.set(replica.clock());
    let replica = ReplicaCore::new(replica, writers);
    assert!(core.replica.set(replica).is_ok(), "a core gets its replica once");
    ReplicaCore::start(core, writers);
    pulse::start(core);
}

/// What a replica of this directory is.
fn replica_config(state: &State, seed: u64) -> replica::Config {
    let configuration = &state.configuration;
    let identity = &state.identity;
    replica::Config {
        prepare_size_max: configuration.prepare_size_max as usize,
        pipeline_max: usize::from(configuration.pipeline_max),
        replica_count: configuration.replica_count,
        incarnation: identity.incarnation,
        seed,
        ..replica::Config::new(identity.cluster, identity.replica, configuration.log_budget())
    }
}

/// The end of the log that the checkpoint contains.
fn checkpoint_head(state: &State) -> LogHead {
    let root = || LogHead::root(state.identity.cluster);
    state.checkpoint.header.as_ref().map_or_else(root, LogHead::of)
}
