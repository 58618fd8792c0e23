//! What the forest's tests drive it with: a log made from a seed, a model, a driver that applies
//! the log to a forest as a shard's loop does, and a superblock of two slots.
//!
//! The log itself is taken for durable: a run after a crash applies it from the newest checkpoint
//! whose root the superblock holds.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use ioring::sim::Dice;
use ioring::{Buffer, Direct, File, OpenOptions, Task};

use crate::bar::{Limits, Schedule, Weight};
use crate::block::{BlockAddress, BlockReference, Checksum, Identity};
use crate::checkpoint::Root;
use crate::config::Config;
use crate::entry::{DEADLINE_NONE, EntryRef, Payload};
use crate::expiry::DueStep;
use crate::forest::{Forest, Options};
use crate::grid::{Class, Grid, Owner};
use crate::key;
use crate::lookup::{Lookup, LookupError, OwnedEntry, Want};
use crate::memtable::Memtable;
use crate::scan::{Direction, Scan, ScanStep};
use crate::tree::Tree;

pub(crate) const GRID_PATH: &str = "/grid";
const SUPER_PATH: &str = "/super";
const OWNER: Owner =
    Owner { identity: Identity { cluster: 7, shard: 3 }, replica: 0, incarnation: 99 };

/// What an op does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Put {
        key: u32,
        len: usize,
        deadline: u64,
    },
    Delete {
        key: u32,
    },
    /// A pulse: deletes what is due.
    Pulse,
}

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) ops: u64,
    pub(crate) keys: u32,
    pub(crate) value_max: usize,
    /// Of a thousand ops.
    pub(crate) large: u32,
    pub(crate) deletes: u32,
    pub(crate) deadlines: u32,
    pub(crate) pulses: u32,
    pub(crate) sequential: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            ops: 1500,
            keys: 400,
            value_max: 200,
            large: 5,
            deletes: 150,
            deadlines: 100,
            pulses: 20,
            sequential: false,
        }
    }
}

/// The log of a seed: op n is `log[n - 1]`.
pub(crate) fn log(seed: u64, shape: &Shape) -> Vec<Vec<Action>> {
    let mut dice = Dice::new(seed, "log");
    let mut next = 0;
    let mut below = |n: u64| dice.below(n);
    (1..=shape.ops)
        .map(|op| {
            let draw = below(1000) as u32;
            if draw < shape.pulses {
                return vec![Action::Pulse];
            }
            let count = 1 + below(4);
            (0..count)
                .map(|_| {
                    next += 1;
                    let key = if shape.sequential { next } else { below(shape.keys.into()) as u32 };
                    let kind = below(1000) as u32;
                    if kind < shape.deletes {
                        return Action::Delete { key };
                    }
                    let large = (below(1000) as u32) < shape.large;
                    let len = below(shape.value_max as u64) as usize;
                    let len = if large { 1500 + 20 * len } else { len };
                    let expires = (below(1000) as u32) < shape.deadlines;
                    let deadline = version(op, 0) + below(200) * OP_SPAN + 1;
                    Action::Put {
                        key,
                        len,
                        deadline: if expires { deadline } else { DEADLINE_NONE },
                    }
                })
                .collect()
        })
        .collect()
}

pub(crate) const OP_SPAN: u64 = 1 << 20;

/// The version of an op's write.
pub(crate) fn version(op: u64, index: u64) -> u64 {
    assert!(index < OP_SPAN);
    op * OP_SPAN + index
}

pub(crate) fn key_of(number: u32) -> Vec<u8> {
    let prefix = key::Prefix { table: 1, generation: 1, kind: 0 };
    key::encode(prefix, format!("key{number:06}").as_bytes(), b"")
}

pub(crate) fn value_of(key: u32, version: u64, len: usize) -> Vec<u8> {
    let seed = (u64::from(key) << 32) ^ version;
    (0..len).map(|i| (seed >> (i % 8 * 8)) as u8 ^ i as u8).collect()
}

/// Deadline and value; no value for a tombstone.
type Written = (u64, Option<Vec<u8>>);

/// Every version ever written: deadline and value, none for a tombstone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    objects: BTreeMap<(Vec<u8>, Reverse<u64>), Written>,
}

impl Model {
    pub(crate) fn get(&self, key: &[u8], version_max: u64) -> Option<OwnedEntry> {
        let (at, (deadline, value)) =
            self.objects.range((key.to_vec(), Reverse(version_max))..).next()?;
        let value = value.as_ref().filter(|_| at.0 == key)?;
        Some(OwnedEntry {
            version: at.1.0,
            deadline: *deadline,
            value_len: value.len() as u64,
            value: value.clone(),
        })
    }

    pub(crate) fn live(&self, version_max: u64) -> Vec<(Vec<u8>, OwnedEntry)> {
        let mut live = Vec::new();
        let mut last: Option<&[u8]> = None;
        for (key, _) in self.objects.keys() {
            if last != Some(key) {
                last = Some(key);
                live.extend(self.get(key, version_max).map(|entry| (key.clone(), entry)));
            }
        }
        live
    }

    fn put(&mut self, key: &[u8], version: u64, deadline: u64, value: Option<Vec<u8>>) {
        self.objects.insert((key.to_vec(), Reverse(version)), (deadline, value));
    }
}

/// The model after each op of a log.
pub(crate) fn model(log: &[Vec<Action>], ops: u64) -> Model {
    let mut model = Model::default();
    for (op, actions) in (1..=ops).zip(log) {
        for (index, action) in actions.iter().enumerate() {
            let at = version(op, index as u64);
            match action {
                Action::Put { key, len, deadline } => {
                    model.put(&key_of(*key), at, *deadline, Some(value_of(*key, at, *len)));
                }
                Action::Delete { key } => model.put(&key_of(*key), at, DEADLINE_NONE, None),
                Action::Pulse => expire(&mut model, op),
            }
        }
    }
    model
}

fn expire(model: &mut Model, op: u64) {
    let now = version(op, 0);
    let mut due: Vec<(u64, Vec<u8>)> = model
        .live(u64::MAX)
        .into_iter()
        .filter(|(_, entry)| entry.deadline != DEADLINE_NONE && entry.deadline <= now)
        .map(|(key, entry)| (entry.deadline, key))
        .collect();
    due.sort();
    for (index, (_, key)) in due.into_iter().enumerate() {
        model.put(&key, now + 1 + index as u64, DEADLINE_NONE, None);
    }
}

pub(crate) fn config() -> Config {
    Config { grid_blocks_max: 16 << 10, free_set_chunk_blocks: 4096, ..Config::test_min() }
}

pub(crate) fn limits(config: &Config) -> Limits {
    // The largest value twice, or a few small ones.
    let prepare_bytes_max = u64::from(config.value_size_max) * 2;
    let limits = Limits {
        memtable_bytes: config.memtable_bytes,
        memtable_bytes_max: 0,
        log_bytes_max: 64 * prepare_bytes_max,
        prepare_bytes_max,
        effects_bytes_max: prepare_bytes_max,
        pipeline: 4,
    };
    Limits { memtable_bytes_max: limits.memtable_bytes_needed(), ..limits }
}

pub(crate) fn options(config: &Config) -> Options {
    let limits = limits(config);
    Options::standard(limits.memtable_bytes_max)
}

/// Two slots of a sector each, written in turn; the higher valid sequence number counts.
pub(super) struct SuperBlock {
    file: File,
    sequence: u64,
}

impl SuperBlock {
    async fn open() -> (SuperBlock, Option<(u64, Root)>) {
        let options = OpenOptions { read: true, write: true, create: true, ..Default::default() };
        let file = File::open(Path::new(SUPER_PATH), &options).unwrap();
        ioring::fs::sync_dir(Path::new("/")).unwrap();
        let mut newest: Option<(u64, u64, Root)> = None;
        for slot in 0..2 {
            let (result, buffer) = file.read(Buffer::zeroed(4096), slot * 4096).await;
            let field = |at: usize| u64::from_le_bytes(buffer[at..at + 8].try_into().unwrap());
            let checksum = u128::from_le_bytes(buffer[64..80].try_into().unwrap());
            if result.is_err() || Checksum::of(&buffer[..64]) != Checksum(checksum) {
                continue;
            }
            let root = Root(BlockReference {
                address: BlockAddress::new(field(16)).unwrap(),
                size: field(24) as u32,
                checksum: Checksum(u128::from_le_bytes(buffer[32..48].try_into().unwrap())),
            });
            if newest.is_none_or(|(sequence, ..)| sequence < field(0)) {
                newest = Some((field(0), field(8), root));
            }
        }
        let sequence = newest.map_or(0, |(sequence, ..)| sequence);
        (SuperBlock { file, sequence }, newest.map(|(_, op, root)| (op, root)))
    }

    async fn write(&mut self, op: u64, root: Root) {
        self.sequence += 1;
        let mut buffer = Buffer::zeroed(4096);
        buffer[0..8].copy_from_slice(&self.sequence.to_le_bytes());
        buffer[8..16].copy_from_slice(&op.to_le_bytes());
        buffer[16..24].copy_from_slice(&root.0.address.get().to_le_bytes());
        buffer[24..32].copy_from_slice(&u64::from(root.0.size).to_le_bytes());
        buffer[32..48].copy_from_slice(&root.0.checksum.0.to_le_bytes());
        let checksum = Checksum::of(&buffer[..64]);
        buffer[64..80].copy_from_slice(&checksum.0.to_le_bytes());
        let slot = self.sequence % 2;
        self.file.write_durable(buffer.freeze(), slot * 4096).await.unwrap();
    }
}

/// Creates the grid file, once.
pub(crate) async fn format(config: &Config) {
    let temporary = Path::new("/grid.new");
    if ioring::fs::exists(Path::new(GRID_PATH)) {
        return;
    }
    let _ = ioring::fs::remove_file(temporary);
    Grid::format(temporary, OWNER, config, Direct::Preferred).await.unwrap();
    ioring::fs::rename(temporary, Path::new(GRID_PATH)).unwrap();
    ioring::fs::sync_dir(Path::new("/")).unwrap();
}

/// Opens the newest checkpoint, or another root; gives the forest, what its owner stored in it, and
/// its op.
pub(super) async fn open_forest(
    config: &Config,
    other: Option<Root>,
) -> Result<(Forest, Vec<u8>, u64, SuperBlock), Box<dyn std::error::Error>> {
    let grid = Grid::open(Path::new(GRID_PATH), OWNER, config, Direct::Preferred).await?;
    let (superblock, newest) = SuperBlock::open().await;
    let op = newest.map_or(0, |(op, _)| op);
    let root = other.or(newest.map(|(_, root)| root));
    let (forest, extra) = Forest::open(grid, root.as_ref(), options(config)).await?;
    Ok((forest, extra, op, superblock))
}

/// A shard's loop in small.
pub(crate) struct Driver {
    pub(crate) forest: Forest,
    schedule: Schedule,
    pub(crate) op: u64,
    checkpoint: Option<Task<SuperBlock>>,
    superblock: Option<SuperBlock>,
    /// The op, and what else is to be known of it when the log is applied from it on.
    extra: Vec<u8>,
    extra_previous: Vec<u8>,
    pub(crate) checkpoints: u64,
    pub(crate) bars: u64,
    /// Op of the newest checkpoint known durable, for a test to look at after a crash.
    pub(crate) durable: Rc<Cell<u64>>,
    pub(crate) roots: Rc<RefCell<BTreeMap<u64, Root>>>,
}

impl Driver {
    pub(crate) async fn open(config: &Config, durable: Rc<Cell<u64>>) -> Driver {
        format(config).await;
        let (forest, extra, op, superblock) = open_forest(config, None).await.unwrap();
        // The owner's bytes are as of the checkpoint's op.
        let extra_op = extra.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        assert_eq!(extra_op, op, "extra is as of the checkpoint's op");
        Driver {
            forest,
            schedule: Schedule::new(limits(config), op),
            op,
            checkpoint: None,
            superblock: Some(superblock),
            extra_previous: extra.clone(),
            extra,
            checkpoints: 0,
            bars: 0,
            durable,
            roots: Rc::default(),
        }
    }

    /// What was remembered of the op that the log is applied from on; see [`Driver::remember`].
    pub(crate) fn remembered(&self) -> &[u8] {
        self.extra.get(8..).unwrap_or(&[])
    }

    /// Ends the application of the op: a checkpoint of it keeps `more`.
    pub(crate) fn remember(&mut self, more: &[u8]) {
        self.extra.clear();
        self.extra.extend_from_slice(&self.op.to_le_bytes());
        self.extra.extend_from_slice(more);
    }

    /// Applies the log up to an op.
    pub(crate) async fn run(&mut self, log: &[Vec<Action>], ops: u64) {
        while self.op < ops {
            let actions = &log[self.op as usize];
            self.op += 1;
            self.apply(actions).await;
            self.remember(&[]);
            self.after(Weight {
                log_bytes: 4096,
                memtable_bytes: actions.iter().map(weight_of).sum(),
                effects_bytes: 0,
                pulse: matches!(actions[..], [Action::Pulse]),
            })
            .await;
        }
    }

    async fn apply(&mut self, actions: &[Action]) {
        for (index, action) in actions.iter().enumerate() {
            let at = version(self.op, index as u64);
            match action {
                Action::Put { key, len, deadline } => {
                    let value = value_of(*key, at, *len);
                    self.forest.put(&key_of(*key), at, &value, *deadline);
                }
                Action::Delete { key } => self.forest.delete(&key_of(*key), at),
                Action::Pulse => self.pulse().await,
            }
        }
    }

    pub(crate) async fn pulse(&mut self) {
        let now = version(self.op, 0);
        let mut walk = self.forest.due(now);
        let mut all = Vec::new();
        loop {
            match self.forest.due_step(&mut walk, 1000, &mut all) {
                DueStep::Finished => break,
                DueStep::More => {}
                DueStep::NeedsRead(read) => walk.supply(read.run().await.unwrap()),
            }
        }
        let mut at = now;
        for due in all {
            let current = self.get(&due.key, u64::MAX).await.unwrap();
            if current.is_some_and(|entry| entry.deadline == due.deadline) {
                at += 1;
                self.forest.delete(&due.key, at);
            }
            self.forest.delete_due(&due, at);
        }
    }

    /// The beat, and what ends with this op.
    pub(crate) async fn after(&mut self, weight: Weight) {
        let step = self.schedule.dispatch(self.op, &weight);
        self.forest.beat(step.progress);
        self.forest.paced().await;
        if let Some(group) = step.group_end {
            self.forest.look_ahead();
            self.schedule.report(group, self.forest.memtable_bytes());
        }
        let Some(end) = step.bar_end else { return };
        self.forest.bar_done().await;
        if end.free.is_some() {
            self.checkpoint_durable().await;
        }
        self.bars += 1;
        let checkpoint = self.forest.bar_end(&end, &self.extra_previous).unwrap();
        self.extra_previous.clone_from(&self.extra);
        if let Some(checkpoint) = checkpoint {
            self.checkpoint_durable().await;
            let mut superblock = self.superblock.take().unwrap();
            let (durable, roots) = (Rc::clone(&self.durable), Rc::clone(&self.roots));
            let work = async move {
                let op = checkpoint.op();
                let root = checkpoint.write().await;
                let known = roots.borrow_mut().insert(op, root);
                assert!(known.is_none_or(|known| known == root), "op {op} has two checkpoints");
                superblock.write(op, root).await;
                durable.set(op);
                superblock
            };
            self.checkpoints += 1;
            let task = ioring::spawn(ioring::Queue::Background, "checkpoint", work);
            self.checkpoint = Some(task);
        }
    }

    /// Op of the newest checkpoint that was taken.
    pub(crate) fn checkpoint_op(&self) -> u64 {
        self.schedule.checkpoint_op()
    }

    /// Waits for the checkpoint under way.
    pub(crate) async fn checkpoint_durable(&mut self) {
        if let Some(task) = self.checkpoint.take() {
            self.superblock = Some(task.await);
        }
    }

    /// Waits for the bar's jobs and the checkpoint under way.
    pub(crate) async fn settle(&mut self) {
        self.forest.bar_done().await;
        self.checkpoint_durable().await;
    }

    /// A value block of a table of objects that the next merge into the last level reads.
    pub(crate) async fn value_block_of_last_level(&self) -> BlockAddress {
        let manifest = &self.forest.trees[Tree::Objects.index()].manifest;
        let table = Rc::clone(&manifest.last().tables()[0]);
        let index = self.forest.grid().read_index(&table, Class::Foreground).await.unwrap();
        index.index().block(0).reference.address
    }

    pub(crate) async fn get(
        &self,
        key: &[u8],
        version_max: u64,
    ) -> Result<Option<OwnedEntry>, LookupError> {
        let want = Want::Value;
        match self.forest.get_cached(Tree::Objects, key, version_max, want, owned) {
            Lookup::Found(entry) => Ok(Some(entry)),
            Lookup::Absent => Ok(None),
            Lookup::NeedsRead(read) => read.run().await,
        }
    }

    /// Live objects of a range at a snapshot, read in steps of `limit` entries.
    pub(crate) async fn scan(
        &self,
        range: key::Range,
        direction: Direction,
        version_max: u64,
        limit: usize,
    ) -> Vec<(Vec<u8>, u64, u64)> {
        let mut scan = Scan::new(Tree::Objects, range, direction, version_max);
        let mut live = Vec::new();
        loop {
            let step = self.scan_step(&mut scan, limit, &mut live).await;
            if step.expect("the snapshot is not too old") {
                return live;
            }
        }
    }

    /// One step of a scan, and what it waits for; whether it is done, or none if it is too late.
    pub(crate) async fn scan_step(
        &self,
        scan: &mut Scan,
        limit: usize,
        live: &mut Vec<(Vec<u8>, u64, u64)>,
    ) -> Option<bool> {
        let step = self.forest.scan_step(scan, limit, |entry| {
            live.push((entry.key.to_vec(), entry.version, entry.payload.value_len()));
            ControlFlow::Continue(())
        });
        match step {
            ScanStep::Done => return Some(true),
            ScanStep::More => {}
            ScanStep::NeedsRead(read) => scan.supply(read.run().await.unwrap()),
            ScanStep::TooOld => return None,
        }
        Some(false)
    }

    /// Compares everything that can be read with the model, at the newest and an older snapshot.
    pub(crate) async fn check(&self, log: &[Vec<Action>], keys: u32) {
        let model = model(log, self.op);
        let newest = u64::MAX;
        let middle = (self.forest.snapshot_min() + self.forest.version()) / 2;
        for snapshot in [newest, middle, self.forest.snapshot_min()] {
            for number in 0..keys {
                let key = key_of(number);
                let found = self.get(&key, snapshot).await.unwrap();
                assert_eq!(found, model.get(&key, snapshot), "key {number} at {snapshot}");
            }
            let expected: Vec<(Vec<u8>, u64, u64)> = model
                .live(snapshot)
                .into_iter()
                .map(|(key, entry)| (key, entry.version, entry.value_len))
                .collect();
            let limit = 1 + (snapshot % 50) as usize;
            let all = key::Range { lower: Vec::new(), upper: None };
            let some = key::Range { lower: key_of(keys / 3), upper: Some(key_of(keys / 2)) };
            for range in [all, some] {
                let mut expected = expected.clone();
                expected.retain(|(key, ..)| range.contains(key));
                let up = self.scan(range.clone(), Direction::Ascending, snapshot, limit).await;
                assert_eq!(up, expected, "ascending at {snapshot}");
                expected.reverse();
                let down = self.scan(range, Direction::Descending, snapshot, limit).await;
                assert_eq!(down, expected, "descending at {snapshot}");
            }
        }
    }
}

fn weight_of(action: &Action) -> u64 {
    match action {
        Action::Put { len, deadline, .. } => {
            let entry = Memtable::entry_bytes(24, *len);
            let expiry = if *deadline == DEADLINE_NONE { 0 } else { Memtable::entry_bytes(32, 0) };
            entry.max(expiry) as u64
        }
        Action::Delete { .. } => Memtable::entry_bytes(24, 0) as u64,
        Action::Pulse => 0,
    }
}

pub(crate) fn owned(entry: &EntryRef<'_>) -> OwnedEntry {
    let Payload::Inline(value) = entry.payload else { panic!("a value was wanted") };
    OwnedEntry {
        version: entry.version,
        deadline: entry.deadline,
        value_len: value.len() as u64,
        value: value.to_vec(),
    }
}
