//! Checkpoints of the node: roots of all shards become one durable state, and the log before it
//! may go.
//!
//! 1. At a bar's end the schedule says that a checkpoint of some op is due; every shard writes and
//!    syncs its own blocks, beside everything else, and hands in its root.
//! 2. With the last root the superblock is updated: op, the prepare's header, all roots, and the
//!    checkpoint's identifier, a hash of the roots and of the identifier before it. That update is
//!    what makes the checkpoint; before it, the one before is in effect, and all of its blocks are
//!    still there.
//! 3. Then the journal is told that it may reuse what is before the op, the replica that its budget
//!    grew, and whoever waits to free blocks (F(C)) goes on.
//!
//! One checkpoint is under way at a time: the next is triggered a bar later at the earliest, and
//! that bar does not end before this one is durable.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ioring::sync::Event;
use ioring::{Instant, Queue, spawn};
use vsr::format::DataDirectory;
use vsr::journal::Journal;
use vsr::replica::ViewRecord;
use wire::{CheckpointId, Header, Op, RootReference, ShardId};

use crate::core::Core;
use crate::metrics::{Counter, Stage};

struct Pending {
    op: Op,
    started: Instant,
    roots: Vec<RootReference>,
    missing: usize,
}

/// The node's checkpoints, on the replica's core.
pub struct Checkpoints {
    directory: DataDirectory,
    journal: RefCell<Option<Rc<Journal>>>,
    pending: RefCell<Option<Pending>>,
    complete: Event,
    durable: Cell<Op>,
    id: Cell<CheckpointId>,
    became_durable: Event,
}

impl Checkpoints {
    /// Continues from the superblock's checkpoint.
    #[must_use]
    pub fn new(directory: DataDirectory, journal: Journal) -> Checkpoints {
        let state = directory.superblock.state();
        Checkpoints {
            directory,
            journal: RefCell::new(Some(Rc::new(journal))),
            pending: RefCell::new(None),
            complete: Event::new(),
            durable: Cell::new(state.checkpoint.op),
            id: Cell::new(state.checkpoint.id),
            became_durable: Event::new(),
        }
    }

    /// Starts the task that makes them durable.
    pub fn start(core: &Rc<Core>) {
        let core = core.clone();
        let run = async move {
            loop {
                core.log().checkpoints.complete.wait().await;
                core.log().checkpoints.make_durable(&core).await;
            }
        };
        spawn(Queue::Background, "checkpoints", run).detach();
    }

    /// The data directory.
    #[must_use]
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// The journal; none when the node has stopped and closed it.
    #[must_use]
    pub fn journal(&self) -> Option<Rc<Journal>> {
        self.journal.borrow().clone()
    }

    /// Takes the journal away, to close it.
    #[must_use]
    pub fn take_journal(&self) -> Option<Rc<Journal>> {
        self.journal.borrow_mut().take()
    }

    /// Makes a view durable: what is said in it may be said then.
    pub async fn vouch(&self, record: &ViewRecord) {
        let raise = |state: &mut vsr::superblock::State| {
            (state.view, state.log_view) = (record.view, record.log_view);
            state.view_headers.clone_from(&record.headers);
            state.commit_max = state.commit_max.max(record.commit_max);
        };
        self.directory.superblock.update(raise).await;
    }

    /// The op of the last durable checkpoint, and its identifier.
    #[must_use]
    pub fn durable(&self) -> (Op, CheckpointId) {
        (self.durable.get(), self.id.get())
    }

    /// Waits until a checkpoint of `op`, or a newer one, is durable.
    pub async fn wait_durable(&self, op: Op) {
        while self.durable.get() < op {
            self.became_durable.wait().await;
        }
    }

    /// Takes the root of a shard; with the last one the checkpoint becomes durable.
    pub fn on_root(&self, op: Op, shard: ShardId, root: RootReference) {
        let pending = &mut *self.pending.borrow_mut();
        let shards = usize::from(self.directory.superblock.state().configuration.shard_count);
        let pending = pending.get_or_insert_with(|| Pending {
            op,
            started: ioring::now(),
            roots: vec![RootReference::NONE; shards],
            missing: shards,
        });
        assert_eq!(pending.op, op, "one checkpoint is under way at a time");
        let place = &mut pending.roots[usize::from(shard.0)];
        assert_eq!(*place, RootReference::NONE, "a shard has one root in a checkpoint");
        *place = root;
        pending.missing -= 1;
        if pending.missing == 0 {
            self.complete.notify();
        }
    }

    /// Updates the superblock and releases what is before the checkpoint.
    async fn make_durable(&self, core: &Core) {
        let complete = self.pending.borrow_mut().take_if(|pending| pending.missing == 0);
        let Some(Pending { op, started, roots, .. }) = complete else { return };
        let header = core.log().dispatch.bar_header(op);
        let id = identifier(self.id.get(), &header, &roots);
        let kept = roots.clone();
        let update = move |state: &mut vsr::superblock::State| {
            state.commit_max = state.commit_max.max(op);
            let checkpoint = &mut state.checkpoint;
            (checkpoint.op, checkpoint.header) = (op, Some(header));
            (checkpoint.id, checkpoint.shards) = (id, kept);
        };
        self.directory.superblock.update(update).await;
        self.durable.set(op);
        self.id.set(id);
        // A node that stops may have closed its journal meanwhile: then the next start releases.
        if let Some(journal) = self.journal() {
            journal.release(op);
        }
        if let Some(replica) = core.replica.get() {
            replica.on_checkpoint(core, op, id, roots);
        }
        core.metrics.count(Counter::Checkpoints);
        core.metrics.record(Stage::Checkpoint, ioring::now() - started);
        tracing::debug!(%op, "checkpoint durable");
        core.mesh.durable(op);
        self.became_durable.notify();
    }
}

/// A hash of the checkpoint before, the prepare and the roots: equal on all replicas or diverged.
fn identifier(parent: CheckpointId, header: &Header, roots: &[RootReference]) -> CheckpointId {
    let mut bytes = Vec::with_capacity(32 * (roots.len() + 1));
    bytes.extend_from_slice(&parent.0.to_le_bytes());
    bytes.extend_from_slice(&header.checksum().0.to_le_bytes());
    for root in roots {
        bytes.extend_from_slice(&root.address().to_le_bytes());
        bytes.extend_from_slice(&root.size().to_le_bytes());
        bytes.extend_from_slice(&root.checksum().0.to_le_bytes());
    }
    CheckpointId(wire::checksum(&bytes).0)
}
