//! A shard's storage without a log: a forest driven as the node drives it.
//!
//! Every write belongs to an op. After its writes are in the memtable an op does its beat and waits
//! while the bar's jobs are behind; at a group's end the memtable is reported, at a bar's end the
//! jobs are awaited, the bar is ended and the checkpoint that it takes is written beside everything
//! that follows. The order is that of `node::shard::keeper`; the schedule is the same pure
//! function. What is missing is the journal in front and the superblock behind: the root of the
//! newest checkpoint is kept in memory, which is enough to open the grid again with an empty cache.
//!
//! Writers take turns, because an op may have to wait in the middle; readers do not wait for them.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ioring::sync::Slots;
use ioring::{Direct, Instant, Queue, Task, spawn};
use lsm::bar::{BarEnd, Limits, Schedule, Step, Weight};
use lsm::block::Identity;
use lsm::checkpoint::{self, Root};
use lsm::config::Config;
use lsm::forest::{BarError, Forest, Options};
use lsm::grid::{Grid, GridStats, OpenError, Owner};
use lsm::memtable::Memtable;
use thiserror::Error;

/// What a write of the node may weigh at most: one prepare.
const PREPARE_BYTES: u64 = 1 << 20;
/// What the node's log holds between checkpoints by default.
const LOG_BYTES: u64 = 512 << 20;
const OWNER: Owner =
    Owner { identity: Identity { cluster: 1, shard: 0 }, replica: 0, incarnation: 1 };

/// Why the storage cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The grid file.
    #[error(transparent)]
    Grid(#[from] OpenError),
    /// Its last checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::OpenError),
    /// It is full.
    #[error(transparent)]
    Full(#[from] BarError),
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// The value; none deletes.
    pub value: Option<&'a [u8]>,
}

type Checkpointing = Task<(u64, Root)>;

/// A checkpoint's time.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// It was triggered.
    pub began: Instant,
    /// It was durable.
    pub durable: Instant,
    /// Blocks that it wrote.
    pub blocks: u64,
}

/// What a borrow of the storage reaches.
pub struct Inner {
    /// The trees.
    pub forest: Forest,
    schedule: Schedule,
    op: u64,
    version: u64,
    /// The op of the last write.
    written: u64,
    checkpoint: Option<Checkpointing>,
    durable: Option<(u64, Root)>,
}

/// See the module's text.
pub struct Store {
    path: PathBuf,
    config: Config,
    grid: Rc<Grid>,
    inner: RefCell<Inner>,
    turn: Slots,
    spans: Rc<RefCell<Vec<Span>>>,
}

fn limits(config: &Config) -> Limits {
    let mut limits = Limits {
        memtable_bytes: config.memtable_bytes,
        memtable_bytes_max: 0,
        log_bytes_max: LOG_BYTES,
        prepare_bytes_max: PREPARE_BYTES,
        effects_bytes_max: PREPARE_BYTES,
        pipeline: 8,
    };
    limits.memtable_bytes_max = limits.memtable_bytes_needed();
    limits
}

impl Store {
    /// An empty one, in a new file.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn create(path: &Path, config: &Config) -> Result<Store, StoreError> {
        Grid::format(path, OWNER, config, Direct::Required).await?;
        Store::open(path, config, None).await
    }

    async fn open(
        path: &Path,
        config: &Config,
        durable: Option<(u64, Root)>,
    ) -> Result<Store, StoreError> {
        let grid = Grid::open(path, OWNER, config, Direct::Required).await?;
        let options = Options::standard(limits(config).memtable_bytes_max);
        let root = durable.as_ref().map(|(_, root)| root);
        let (forest, _) = Forest::open(Rc::clone(&grid), root, options).await?;
        let op = durable.map_or(0, |(op, _)| op);
        let schedule = Schedule::new(limits(config), op);
        let version = forest.version();
        let inner = Inner { forest, schedule, op, version, written: op, checkpoint: None, durable };
        let (path, config, inner) = (path.to_owned(), config.clone(), RefCell::new(inner));
        Ok(Store { path, config, grid, inner, turn: Slots::new(1), spans: Rc::default() })
    }

    /// The same data with an empty cache and empty memtables.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn reopen(self) -> Result<Store, StoreError> {
        self.settle().await?;
        let durable = self.inner.borrow().durable;
        let (path, config) = (self.path.clone(), self.config.clone());
        drop(self);
        Store::open(&path, &config, durable).await
    }

    /// Looks at the trees.
    pub fn with<R>(&self, look: impl FnOnce(&Forest) -> R) -> R {
        look(&self.inner.borrow().forest)
    }

    /// What the grid has read and written.
    #[must_use]
    pub fn stats(&self) -> GridStats {
        self.grid.stats()
    }

    /// When its checkpoints since the open were written, in order.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.borrow().clone()
    }

    /// Bytes of the blocks in use, those included that come free with the next checkpoints.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.grid.space().acquired * u64::from(self.config.block_size)
    }

    /// Applies one op with these writes, and does what comes with it.
    ///
    /// # Errors
    /// [`StoreError::Full`]
    pub async fn apply(&self, writes: &[Write<'_>]) -> Result<(), StoreError> {
        let _turn = self.turn.acquire().await;
        let mut bytes = 0;
        {
            let inner = &mut *self.inner.borrow_mut();
            for Write { key, value } in writes {
                inner.version += 1;
                bytes += Memtable::entry_bytes(key.len(), value.map_or(0, <[u8]>::len)) as u64;
                match value {
                    Some(value) => inner.forest.put(key, inner.version, value, 0),
                    None => inner.forest.delete(key, inner.version),
                }
            }
            inner.written = inner.op + 1;
        }
        self.end_op(Weight {
            log_bytes: bytes,
            memtable_bytes: bytes,
            effects_bytes: 0,
            pulse: false,
        })
        .await
    }

    /// The beat of an op, and what ends with it.
    async fn end_op(&self, weight: Weight) -> Result<(), StoreError> {
        let (Step { group_end, bar_end, .. }, paced) = {
            let inner = &mut *self.inner.borrow_mut();
            inner.op += 1;
            let step = inner.schedule.dispatch(inner.op, &weight);
            inner.forest.beat(step.progress);
            (step, inner.forest.paced())
        };
        paced.await;
        if let Some(group) = group_end {
            let inner = &mut *self.inner.borrow_mut();
            let bytes = inner.forest.memtable_bytes();
            inner.schedule.report(group, bytes);
        }
        match bar_end {
            Some(end) => self.end_bar(&end).await,
            None => Ok(()),
        }
    }

    async fn end_bar(&self, end: &BarEnd) -> Result<(), StoreError> {
        let done = self.inner.borrow().forest.bar_done();
        done.await;
        if end.free.is_some() {
            self.wait_durable().await;
        }
        let checkpoint = self.inner.borrow_mut().forest.bar_end(end, &[])?;
        if let Some(checkpoint) = checkpoint {
            self.wait_durable().await;
            let (spans, began) = (Rc::clone(&self.spans), ioring::now());
            let blocks = checkpoint.blocks();
            let write = async move {
                let durable = (checkpoint.op(), checkpoint.write().await);
                spans.borrow_mut().push(Span { began, durable: ioring::now(), blocks });
                durable
            };
            let task = spawn(Queue::Background, "checkpoint", write);
            self.inner.borrow_mut().checkpoint = Some(task);
        }
        Ok(())
    }

    async fn wait_durable(&self) {
        let task = self.inner.borrow_mut().checkpoint.take();
        if let Some(task) = task {
            let durable = task.await;
            self.inner.borrow_mut().durable = Some(durable);
        }
    }

    /// Does all that is left of the bar's jobs now, and waits for the checkpoint under way.
    pub async fn finish_jobs(&self) {
        let _turn = self.turn.acquire().await;
        let done = self.inner.borrow().forest.bar_done();
        done.await;
        self.wait_durable().await;
    }

    /// Lets it be idle until nothing is left to do: what a node does when its clients are silent.
    ///
    /// # Errors
    /// [`StoreError::Full`]
    pub async fn idle(&self) -> Result<(), StoreError> {
        self.settle().await?;
        let _turn = self.turn.acquire().await;
        loop {
            let pending = self.with(Forest::pending);
            if !pending.jobs && !pending.space && !pending.tidy {
                return Ok(());
            }
            let (log_bytes, memtable_bytes, effects_bytes) = (0, 0, 0);
            self.end_op(Weight { log_bytes, memtable_bytes, effects_bytes, pulse: true }).await?;
        }
    }

    /// Has everything written out, merged as far as is due, and covered by a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Full`]
    pub async fn settle(&self) -> Result<(), StoreError> {
        let _turn = self.turn.acquire().await;
        loop {
            let covered = {
                let inner = self.inner.borrow();
                inner.durable.map_or(0, |(op, _)| op) >= inner.written
            };
            if covered {
                break;
            }
            let (log_bytes, memtable_bytes, effects_bytes) = (0, 0, 0);
            self.end_op(Weight { log_bytes, memtable_bytes, effects_bytes, pulse: true }).await?;
            let checkpointed = self.inner.borrow().schedule.checkpoint_op();
            if checkpointed >= self.inner.borrow().written {
                self.wait_durable().await;
            }
        }
        let done = self.inner.borrow().forest.bar_done();
        done.await;
        Ok(())
    }
}
