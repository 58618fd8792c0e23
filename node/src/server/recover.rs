//! From a data directory to a core that serves: what a start does with what the last run left.
//!
//! 1. [`open`]: the lock, the superblock by its quorum, the journal's decision what of the log counts.
//!    Nothing has been written yet, except repairs of damaged superblock copies.
//! 2. [`Opened::core`]: the shards as of the last checkpoint.
//! 3. [`Opened::replay`]: every prepare after the checkpoint is applied as when it was committed,
//!    only that nobody waits for outcomes. The replica checks the chain once more on the way.
//! 4. The view is raised in the superblock, durably and naming the log's newest headers, before a
//!    request is taken: what recovery has forgotten stays forgotten, even if its frame should come
//!    to light later.
//!
//! A crash during any of this changes nothing: the next start finds the same log, at most under a
//! higher view.

use std::cell::Cell;
use std::rc::Rc;

use ioring::BufferPool;
use lsm::bar;
use lsm::forest::{self, Forest};
use vsr::format::{Configuration, DataDirectory, OpenError, OpenOptions};
use vsr::journal::{self, Journal, ReadError, Recovered};
use vsr::replica::{self, LogClock, LogHead, RecoveredLog, Replica};
use wire::{Header, Timestamp};

use super::Options;
use crate::core::clients::{Clients, OpenCount};
use crate::core::reads::Reads;
use crate::core::{Core, Desks, Vectors, moment};
use crate::gateway::runs::Runs;
use crate::metrics::Metrics;
use crate::replica::ReplicaCore;
use crate::shard::apply::{self, Applier, Committed};
use crate::shard::{Generations, Shard, Shards};
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
    Ok(Opened { directory, journal, recovered })
}

impl Opened {
    /// The only core, with its shards as of the last checkpoint.
    pub(super) fn core(
        &self,
        options: &Options,
        resp: std::net::SocketAddr,
        phase: PhaseCell,
        open: OpenCount,
    ) -> Core {
        let state = self.directory.superblock.state();
        let (identity, configuration) = (state.identity, &state.configuration);
        let index = CoreIndex(0);
        let topology = Topology::new(1, configuration.shard_count, None);
        let shards = topology.shards_of(index).map(|id| {
            let memtable_bytes_max = bar_limits(configuration).memtable_bytes_max;
            let forest = Forest::new(&forest::Options { memtable_bytes_max });
            Shard::new(id, forest, Generations::default())
        });
        let limits = apply::Limits {
            value_max: configuration.value_size_max,
            effects_max: u64::from(configuration.effects_size_max),
        };
        let head = checkpoint_head(&self.directory);
        let applied_time = Timestamp(head.version_max.0);
        let shards = Shards::new(topology, shards.collect());
        let prepare_size_max = configuration.prepare_size_max as usize;
        Core {
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
            replica: std::cell::OnceCell::new(),
            connection_limits: options.connections,
            request_limits: crate::resp::Limits::for_prepare(prepare_size_max),
            clock: Cell::new(LogClock::new(applied_time, moment())),
            value_max: configuration.value_size_max as usize,
            started: ioring::now(),
        }
    }

    /// Replays the log and makes the core serve.
    pub(super) async fn replay(self, core: &Rc<Core>) -> Result<(), RecoverError> {
        let started = ioring::now();
        let head = checkpoint_head(&self.directory);
        let mut log = RecoveredLog::at_checkpoint(head);
        Reads::start(core);
        let mut frames = self.journal.replay(head.op.next(), self.recovered.head)?;
        while let Some(frame) = frames.next().await? {
            let header = Header::verify(&frame[journal::FRAME_HEADER_SIZE..])
                .expect("the journal gives out frames that it has verified");
            log.replay(&header)?;
            core.commit(Committed::new(&header, &frame, false));
            core.applier.wait_applied(log.head().op).await;
        }
        drop(frames);
        let ops = log.head().op.0 - head.op.0;
        tracing::info!(ops, elapsed = ?(ioring::now() - started), "journal replayed");
        self.serve(core, &log).await
    }

    /// Raises the view and hands the log to the replica.
    async fn serve(self, core: &Rc<Core>, log: &RecoveredLog) -> Result<(), RecoverError> {
        let state = self.directory.superblock.state();
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
        self.directory.superblock.update(raise).await;
        replica.on_view_durable(view);
        core.clock.set(replica.clock());
        let replica = ReplicaCore::new(replica, self.journal, self.directory, pipeline_max);
        assert!(core.replica.set(replica).is_ok(), "a core gets its replica once");
        ReplicaCore::start(core, pipeline_max);
        Ok(())
    }
}

/// The end of the log that the checkpoint contains.
fn checkpoint_head(directory: &DataDirectory) -> LogHead {
    let state = directory.superblock.state();
    let root = || LogHead::root(state.identity.cluster);
    state.checkpoint.header.as_ref().map_or_else(root, LogHead::of)
}

/// The numbers that bars are computed from.
pub(super) fn bar_limits(configuration: &Configuration) -> bar::Limits {
    let mut limits = bar::Limits {
        memtable_bytes: configuration.memtable_size,
        memtable_bytes_max: 0,
        log_bytes_max: configuration.log_budget(),
        prepare_bytes_max: journal::frame_size(configuration.prepare_size_max as usize) as u64,
        effects_bytes_max: u64::from(configuration.effects_size_max),
        pipeline: u64::from(configuration.pipeline_max),
    };
    limits.memtable_bytes_max = limits.memtable_bytes_needed();
    limits
}
