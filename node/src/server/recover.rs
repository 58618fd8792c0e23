//! From a data directory to a core that serves: what a start does with what the last run left.
//!
//! 1. [`open`]: the lock, the superblock by its quorum, the journal's decision what of the log
//!    counts. Nothing has been written yet, except repairs of damaged superblock copies.
//! 2. [`Opened::core`]: the shards as of the last checkpoint.
//! 3. [`Opened::replay`]: every prepare after the checkpoint is applied as when it was committed,
//!    only that nobody waits for outcomes. The replica checks the chain once more on the way.
//! 4. The view is raised in the superblock, durably and naming the log's newest headers, before a
//!    request is taken: what recovery has forgotten stays forgotten, even if its frame should come
//!    to light later.
//!
//! A crash during any of this changes nothing: the next start finds the same log, at most under a
//! higher view.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use ioring::BufferPool;
use ioring::sync::Event;
use vsr::format::{DataDirectory, OpenError, OpenOptions};
use vsr::journal::{self, Journal, ReadError, Recovered};
use vsr::replica::{self, LogClock, LogHead, RecoveredLog, Replica};
use wire::{Header, Op, ShardId, Timestamp};

use super::Options;
use crate::core::clients::{Clients, OpenCount};
use crate::core::reads::Reads;
use crate::core::walk::Walks;
use crate::core::{Core, Desks, Vectors, moment};
use crate::gateway::runs::Runs;
use crate::metrics::Metrics;
use crate::replica::checkpoint::Checkpoints;
use crate::replica::dispatch::Dispatch;
use crate::replica::{Log, ReplicaCore, pulse};
use crate::resp::cursor::{Capacity, CursorTable};
use crate::shard::apply::{self, Applier};
use crate::shard::keeper::Keeper;
use crate::shard::{self, Shard, Shards};
use crate::status::{Identity, PhaseCell};
use crate::topology::{CoreIndex, Topology};

/// Prepares that are kept in memory by the journal for whoever asks for them again.
const RECENT: usize = 8;
/// Prepares that shards may still hold while they are applied.
const APPLYING: usize = 8;

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
    recovered: Recovered,
    shards: Vec<Shard>,
}

/// What a replay still needs when the core has the rest.
pub(super) struct Unplayed {
    recovered: Recovered,
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
    let (journal, recovered) = Journal::recover_solo(&directory.journal, &state, recent).await?;
    for (offset, why) in &recovered.bad {
        tracing::warn!(offset, why, "a place in the journal cannot be used");
    }
    tracing::info!(
        cluster = %state.identity.cluster,
        replica = %state.identity.replica,
        checkpoint = %state.checkpoint.op,
        head = %recovered.head,
        forgotten = recovered.forgotten,
        "journal recovered"
    );
    let shard_count = state.configuration.shard_count;
    let cache_bytes = options.config.cache_bytes / u64::from(shard_count);
    let mut shards = Vec::new();
    for id in (0..shard_count).map(ShardId) {
        let path = directory.grid_path(id);
        shards.push(shard::open::open(&path, &state, id, cache_bytes, options.direct).await?);
    }
    Ok(Opened { directory, journal, recovered, shards })
}

impl Opened {
    /// The only core, with its shards as of the last checkpoint.
    pub(super) fn core(
        self,
        options: &Options,
        resp: std::net::SocketAddr,
        phase: PhaseCell,
        open: OpenCount,
    ) -> (Rc<Core>, Unplayed) {
        let Opened { directory, journal, recovered, shards } = self;
        let state = directory.superblock.state();
        let (identity, configuration) = (state.identity, &state.configuration);
        let index = CoreIndex(0);
        let topology = Topology::new(1, configuration.shard_count, None);
        let limits = apply::Limits {
            value_max: configuration.value_size_max,
            effects_max: u64::from(configuration.effects_size_max),
            fetched_max: 2 * configuration.effects_size_max as usize,
        };
        let head = checkpoint_head(&state);
        let applied_time = Timestamp(head.version_max.0);
        let shards = Shards::new(topology, shards);
        let mut random = ioring::random("node");
        let table = CursorTable::new(index.0 as u8, Capacity::default(), random.next_u64());
        let log = Log {
            dispatch: Dispatch::new(configuration, head.op),
            checkpoints: Checkpoints::new(directory, journal),
        };
        let core = Rc::new_cyclic(|weak| Core {
            index,
            topology,
            metrics: Metrics::default(),
            phase,
            identity: Identity { cluster: identity.cluster.0, replica: identity.replica.0, resp },
            clients: Clients::new(index, topology.cores(), options.config.clients_max, open),
            runs: Runs::new(options.connections.reply_max),
            vectors: Vectors::default(),
            desks: Desks::default(),
            reads: Reads::default(),
            applier: Applier::new(shards, limits, head.op, applied_time),
            space: Cell::default(),
            activity: Event::new(),
            keeper: Keeper::default(),
            walks: Walks::new(table),
            random: RefCell::new(random),
            log: Some(log),
            replica: OnceCell::new(),
            weak: weak.clone(),
            connection_limits: options.connections,
            request_limits: crate::resp::Limits::for_prepare(
                configuration.prepare_size_max as usize,
            ),
            clock: Cell::new(LogClock::new(applied_time, moment())),
            turn_at: Cell::new(ioring::now()),
            value_max: configuration.value_size_max as usize,
            started: ioring::now(),
        });
        (core, Unplayed { recovered })
    }
}

impl Unplayed {
    /// Replays the log and makes the core serve.
    pub(super) async fn replay(self, core: &Rc<Core>) -> Result<(), RecoverError> {
        let started = ioring::now();
        let head = checkpoint_head(&core.log().checkpoints.directory().superblock.state());
        let mut log = RecoveredLog::at_checkpoint(head);
        Reads::start(core);
        Keeper::start(core);
        Checkpoints::start(core);
        core.measure_space();
        let journal = core.log().checkpoints.journal().expect("the node has not stopped");
        let mut frames = journal.replay(head.op.next(), self.recovered.head)?;
        while let Some(frame) = frames.next().await? {
            let header = Header::verify(&frame[journal::FRAME_HEADER_SIZE..])
                .expect("the journal gives out frames that it has verified");
            log.replay(&header)?;
            core.log().dispatch.push(core, &header, &frame, false);
            core.applier.wait_applied(log.head().op).await;
        }
        drop(frames);
        let ops = log.head().op.0 - head.op.0;
        tracing::info!(ops, elapsed = ?(ioring::now() - started), "journal replayed");
        self.serve(core, &log, head.op).await
    }

    /// Raises the view and hands the log to the replica.
    async fn serve(
        self,
        core: &Rc<Core>,
        log: &RecoveredLog,
        checkpoint: Op,
    ) -> Result<(), RecoverError> {
        let superblock = &core.log().checkpoints.directory().superblock;
        let state = superblock.state();
        let configuration = &state.configuration;
        let pipeline_max = usize::from(configuration.pipeline_max);
        let config = replica::Config {
            prepare_size_max: configuration.prepare_size_max as usize,
            pipeline_max,
            ..replica::Config::new(
                state.identity.cluster,
                state.identity.replica,
                configuration.log_budget(),
            )
        };
        let buffers = 1 + pipeline_max + RECENT + APPLYING;
        let pool = BufferPool::new("prepares", config.frame_size_max(), buffers);
        let commit_max = self.recovered.commit_max.max(state.commit_max);
        let (id, view) = (state.checkpoint.id, state.view);
        let mut replica = Replica::recovered(config, pool, log, id, view, commit_max, moment())?;
        let view = replica.view_to_persist().expect("a replica starts with a view to persist");
        let (tail, head) = (self.recovered.tail, log.head().op);
        let raise = move |state: &mut vsr::superblock::State| {
            state.view = view;
            state.log_view = view;
            state.view_headers = tail;
            state.commit_max = head;
        };
        superblock.update(raise).await;
        replica.on_view_durable(view);
        // The replay may have taken a checkpoint of its own. Nothing waits from here on until the
        // core has the replica, which is told of those to come.
        let (durable, id) = core.log().checkpoints.durable();
        if durable > checkpoint {
            replica.on_checkpoint(durable, id);
        }
        core.clock.set(replica.clock());
        let replica = ReplicaCore::new(replica, pipeline_max);
        assert!(core.replica.set(replica).is_ok(), "a core gets its replica once");
        ReplicaCore::start(core, pipeline_max);
        pulse::start(core);
        Ok(())
    }
}

/// The end of the log that the checkpoint contains.
fn checkpoint_head(state: &vsr::superblock::State) -> LogHead {
    let root = || LogHead::root(state.identity.cluster);
    state.checkpoint.header.as_ref().map_or_else(root, LogHead::of)
}
