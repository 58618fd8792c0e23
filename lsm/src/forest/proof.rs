//! The forest against a model over long random logs, and against itself: the proofs of the engine.
//!
//! A *play* is one log on one simulated disk. It goes in runs, each of which opens the grid from
//! whatever the run before left:
//!
//! 1. the log ([`log`]) is applied op by op, as a shard's loop does it: puts of all sizes, deletes,
//!    deadlines, pulses, flushes of the table;
//! 2. beside it readers ([`readers`]) compare points, ranges in both directions and old snapshots
//!    with an incremental model ([`model`]);
//! 3. the run ends at a random op, or by a crash of the process or of the power at a random step,
//!    in the middle of whatever was under way; where the shape says so a block of a table rots;
//! 4. the last run applies the rest, compares everything, and reads every live block.
//!
//! All settings of a play are drawn from its seed ([`log::Shape`]), so that rare combinations come
//! up. What is checked beside the answers:
//!
//! - a checkpoint that was durable before a crash, or a newer one, is there after it;
//! - two checkpoints of one op, the second one from a replay, have the same root. A root holds the
//!   checksum of everything below it, so the two grids are equal in every live byte. The same is
//!   asked of plays of one log in worlds that differ in the times of I/O, the crashes, the reads
//!   and the host-local settings ([`tests`]);
//! - with rotten blocks: only reads that need one fail, and they name it; [`rot`] damages every
//!   kind of block in many ways.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Config as SimConfig, Crash, Dice, NodeId, Status, World};

use self::log::{Change, DUE_PER_PULSE, Scale, Shape, TABLE};
use self::model::Model;
use self::readers::Readers;
use super::harness::{Driver, GRID_PATH, value_of, version};
use crate::bar::Weight;
use crate::block::BlockAddress;
use crate::checkpoint::Root;
use crate::entry::DEADLINE_NONE;
use crate::expiry::{Due, DueStep};
use crate::grid::Class;
use crate::lookup::{Lookup, Want};
use crate::memtable::Memtable;
use crate::tree::Tree;

/// What a play is; equal ones do the same.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    scale: Scale,
    ops: u64,
    /// Plays of one log in different worlds have the same checkpoints.
    world: u64,
    reads: bool,
    /// Whether blocks may rot.
    rots: bool,
}

/// What a play came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    runs: u64,
    applied: u64,
    bars: u64,
    checkpoints: u64,
    crashes_process: u64,
    crashes_power: u64,
    rotten: u64,
    flushes: u64,
    expired: u64,
    reads: u64,
    moved: u64,
    unreadable: u64,
    scans: u64,
    scans_late: u64,
    checks: u64,
    model_versions: u64,
    index_entries: u64,
}

/// What outlives the process that is crashed.
struct Proof {
    plan: Plan,
    shape: Shape,
    model: RefCell<Model>,
    durable: Rc<Cell<u64>>,
    roots: Rc<RefCell<BTreeMap<u64, Root>>>,
    rotten: RefCell<BTreeSet<BlockAddress>>,
    tally: RefCell<Tally>,
}

impl Proof {
    fn new(plan: Plan) -> Proof {
        let mut shape = Shape::draw(plan.seed, plan.scale);
        shape.rots &= plan.rots;
        let local = &mut Dice::new(plan.world, "local settings");
        if plan.scale == Scale::Tiny {
            shape.config = log::local(local, shape.config);
        }
        Proof {
            plan,
            shape,
            model: RefCell::default(),
            durable: Rc::default(),
            roots: Rc::default(),
            rotten: RefCell::default(),
            tally: RefCell::default(),
        }
    }

    /// Brings the indexes in step with the write just done; gives the bytes that takes at most.
    fn reindex(&self, driver: &mut Driver, key: &[u8], version: u64, lives: bool) -> u64 {
        if !self.shape.indexed {
            return 0;
        }
        let before = self.model.borrow().version_of(key, version - 1);
        indexes::reindex(&mut driver.forest, key, before, (version, lives))
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.borrow_mut());
    }
}

/// How a run ended that was not crashed.
struct End {
    /// The grid takes no more writes: blocks are rotten.
    stuck: bool,
    /// Where the play may let a bit flip.
    victim: Option<BlockAddress>,
}

/// One process: a forest that the log is applied to.
struct Run {
    proof: Rc<Proof>,
    driver: Driver,
    readers: Readers,
    generation: u32,
    flushed: u64,
    /// A checkpoint that is not known durable yet: its op, and its oldest snapshot.
    taken: Option<(u64, u64)>,
}

impl Run {
    async fn open(proof: Rc<Proof>) -> Run {
        let number = proof.tally.borrow().runs;
        let promised = proof.durable.get();
        let mut driver = Driver::open(&proof.shape.config, Rc::clone(&proof.durable)).await;
        assert!(driver.op >= promised, "{promised} was durable, {} was found", driver.op);
        if proof.rotten.borrow().is_empty() {
            driver.roots = Rc::clone(&proof.roots);
        }
        let stored = driver.remembered().as_chunks::<8>().0;
        let field = |number: usize| stored.get(number).map_or(0, |b| u64::from_le_bytes(*b));
        let (generation, flushed) = (field(0) as u32, field(1));
        if generation > 0 {
            driver.forest.set_generation(TABLE, generation, flushed);
        }
        let kept = proof.model.borrow().snapshot_min();
        assert!(driver.forest.snapshot_min() >= kept, "older than what the checkpoint keeps");
        let readers = Readers::new(proof.plan.seed, number);
        Run { proof, driver, readers, generation, flushed, taken: None }
    }

    /// Applies the log up to an op.
    async fn apply_to(&mut self, target: u64) -> bool {
        while self.driver.op < target {
            let rotten = !self.proof.rotten.borrow().is_empty();
            if rotten
                && (self.driver.forest.is_stuck() || !self.driver.forest.space().allows_puts())
            {
                return false;
            }
            self.step().await;
            if self.proof.plan.reads {
                self.readers.beside(&self.proof, &self.driver.forest).await;
            }
        }
        true
    }

    async fn step(&mut self) {
        let (proof, driver) = (Rc::clone(&self.proof), &mut self.driver);
        driver.op += 1;
        let op = proof.shape.op(driver.op);
        if proof.model.borrow().op < driver.op {
            proof.model.borrow_mut().apply(&proof.shape, &op.changes);
        }
        let mut weight = Weight {
            log_bytes: op.log_bytes,
            memtable_bytes: 0,
            effects_bytes: 0,
            pulse: op.changes == [Change::Pulse],
        };
        for (index, change) in op.changes.iter().enumerate() {
            let at = version(driver.op, index as u64);
            match *change {
                Change::Put { number, len, deadline } => {
                    let key = proof.shape.key(number, self.generation);
                    driver.forest.put(&key, at, &value_of(len as u32, at, len), deadline);
                    weight.memtable_bytes += entry_bytes(&key, len, deadline);
                    weight.memtable_bytes += proof.reindex(driver, &key, at, true);
                }
                Change::Delete { number } => {
                    let key = proof.shape.key(number, self.generation);
                    driver.forest.delete(&key, at);
                    weight.memtable_bytes += entry_bytes(&key, 0, DEADLINE_NONE);
                    weight.memtable_bytes += proof.reindex(driver, &key, at, false);
                }
                Change::Pulse => {
                    let expired = expire(&proof, driver, at).await;
                    proof.count(|tally| tally.expired += expired);
                    // The most that it can delete.
                    weight.effects_bytes = 2 * u64::from(proof.shape.config.value_size_max);
                }
                Change::Flush => {
                    (self.generation, self.flushed) = (self.generation + 1, at);
                    driver.forest.set_generation(TABLE, self.generation, at);
                    proof.count(|tally| tally.flushes += 1);
                }
            }
        }
        let (generation, flushed) = (u64::from(self.generation), self.flushed);
        driver.remember(&[generation.to_le_bytes(), flushed.to_le_bytes()].concat());
        let (bars, checkpoints) = (driver.bars, driver.checkpoints);
        driver.after(weight).await;
        let (bars, checkpoints) = (driver.bars - bars, driver.checkpoints - checkpoints);
        proof.count(|tally| {
            tally.applied += 1;
            tally.bars += bars;
            tally.checkpoints += checkpoints;
        });
        self.forget(checkpoints > 0);
    }

    /// What the newest durable checkpoint does not keep, the model does not either.
    fn forget(&mut self, new: bool) {
        let durable = self.driver.durable.get();
        if let Some((_, snapshot_min)) = self.taken.take_if(|(op, _)| *op <= durable) {
            self.proof.model.borrow_mut().forget_below(snapshot_min);
        }
        if new {
            let op = self.driver.checkpoint_op();
            self.taken = Some((op, self.driver.forest.snapshot_min()));
        }
    }

    /// Ends the run as a process does that is told to stop.
    async fn end(mut self, last: bool) -> Option<BlockAddress> {
        self.driver.settle().await;
        let proof = Rc::clone(&self.proof);
        if proof.plan.reads {
            self.readers.end(&proof, &self.driver.forest).await;
        }
        if last {
            let rotten = proof.rotten.borrow().clone();
            for fault in self.driver.forest.verify().await {
                assert!(fault.block.is_some_and(|block| rotten.contains(&block)), "{fault:?}");
            }
        }
        if proof.shape.rots { self.victim().await } else { None }
    }

    /// Some block of some table of objects.
    async fn victim(&self) -> Option<BlockAddress> {
        let forest = &self.driver.forest;
        let tables: Vec<_> = forest.trees[Tree::Objects.index()].manifest.tables().collect();
        let (_, table) = tables.get(self.driver.op as usize % tables.len().max(1))?;
        if self.driver.op.is_multiple_of(4) {
            return Some(table.index.address);
        }
        let index = forest.grid().read_index(table, Class::Foreground).await.ok()?;
        let block = self.driver.op as usize % index.index().block_count();
        Some(index.index().block(block).reference.address)
    }
}

/// What an entry adds to the memtable of objects, or to that of deadlines if that is more.
fn entry_bytes(key: &[u8], len: usize, deadline: u64) -> u64 {
    let object = Memtable::entry_bytes(key.len(), len);
    let due = if deadline == DEADLINE_NONE { 0 } else { Memtable::entry_bytes(8 + key.len(), 0) };
    object.max(due) as u64
}

/// A pulse, as a shard does it.
async fn expire(proof: &Proof, driver: &mut Driver, now: u64) -> u64 {
    let mut walk = driver.forest.due(now);
    let mut found: Vec<Due> = Vec::new();
    loop {
        match driver.forest.due_step(&mut walk, DUE_PER_PULSE, &mut found) {
            DueStep::Finished => break,
            DueStep::More if found.len() >= DUE_PER_PULSE => break,
            DueStep::More => {}
            DueStep::NeedsRead(read) => walk.supply(read.run().await.expect("nothing is rotten")),
        }
    }
    for (due, version) in found.iter().zip(now + 1..) {
        let want = Want::Metadata;
        let looked = driver
            .forest
            .get_cached(Tree::Objects, &due.key, u64::MAX, want, |entry| entry.deadline);
        let deadline = match looked {
            Lookup::Found(deadline) => Some(deadline),
            Lookup::Absent => None,
            Lookup::NeedsRead(read) => {
                read.run().await.expect("nothing is rotten").map(|entry| entry.deadline)
            }
        };
        if deadline == Some(due.deadline) {
            driver.forest.delete(&due.key, version);
            proof.reindex(driver, &due.key, version, false);
        }
        driver.forest.delete_due(due, version);
    }
    found.len() as u64
}

async fn run(proof: Rc<Proof>, target: u64) -> End {
    proof.count(|tally| tally.runs += 1);
    let last = target == proof.plan.ops;
    let mut run = Run::open(proof).await;
    let whole = run.apply_to(target).await;
    let victim = run.end(last || !whole).await;
    End { stuck: !whole, victim }
}

/// What a world is like: how long I/O takes is what order it finishes in.
fn world(plan: &Plan) -> World {
    let dice = &mut Dice::new(plan.world, "world");
    let mut config = SimConfig { steps_max: u64::MAX, ..SimConfig::default() };
    config.disk_timing.read = Duration::from_micros(dice.between(5, 400));
    config.disk_timing.write = Duration::from_micros(dice.between(5, 400));
    config.disk_timing.tail = dice.below(100_000) as u32;
    World::new(plan.world, config)
}

/// Plays a log.
fn play(plan: Plan) -> (Tally, BTreeMap<u64, Root>) {
    let (mut world, proof) = (world(&plan), Rc::new(Proof::new(plan)));
    let node = world.add_node("store");
    play_in(&mut world, node, &proof);
    (*proof.tally.borrow(), proof.roots.borrow().clone())
}

fn play_in(world: &mut World, node: NodeId, proof: &Rc<Proof>) {
    let plan = proof.plan;
    let dice = &mut Dice::new(plan.world, "play");
    loop {
        let op = proof.model.borrow().op;
        let last = op + 1 >= plan.ops || dice.below(6) == 0 && proof.durable.get() * 2 > plan.ops;
        let reach = dice.below(13);
        let target = if last { plan.ops } else { (op + 1 + dice.below(1 << reach)).min(plan.ops) };
        let crash = if dice.coin() { Crash::Process } else { Crash::Power };
        let reach = dice.below(18);
        if target < plan.ops && dice.coin() {
            world.crash_at(node, 1 + dice.below(1 << reach), crash);
        }
        let inside = Rc::clone(proof);
        let end = world.run(node, move || run(inside, target));
        world.crash_never(node);
        match end {
            Ok(end) if end.stuck || target == plan.ops => break,
            Ok(end) => {
                // Let three blocks rot in a play, one at a time.
                if let Some(victim) = end.victim.filter(|_| proof.rotten.borrow().len() < 3) {
                    let offset = victim.offset(proof.shape.config.block_size) + 280;
                    world.disk(node).rot(Path::new(GRID_PATH), offset, 1).expect("it is there");
                    proof.rotten.borrow_mut().insert(victim);
                    proof.count(|tally| tally.rotten += 1);
                }
                // What was not synced is lost.
                if crash == Crash::Power {
                    world.crash(node, crash);
                }
            }
            Err(Status::Crashed(Crash::Process)) => proof.count(|tally| tally.crashes_process += 1),
            Err(Status::Crashed(Crash::Power)) => proof.count(|tally| tally.crashes_power += 1),
            Err(status) => panic!("the store ended as {status:?}"),
        }
    }
    proof.count(|tally| tally.model_versions = proof.model.borrow().size() as u64);
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        let Tally { runs, applied, bars, checkpoints, crashes_process, crashes_power, .. } = other;
        self.runs += runs;
        self.applied += applied;
        self.bars += bars;
        self.checkpoints += checkpoints;
        self.crashes_process += crashes_process;
        self.crashes_power += crashes_power;
        self.rotten += other.rotten;
        self.flushes += other.flushes;
        self.expired += other.expired;
        self.reads += other.reads;
        self.moved += other.moved;
        self.unreadable += other.unreadable;
        self.scans += other.scans;
        self.scans_late += other.scans_late;
        self.checks += other.checks;
        self.index_entries += other.index_entries;
        self.model_versions = self.model_versions.max(other.model_versions);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { runs, applied, bars, checkpoints, .. } = self;
        write!(f, "{applied} ops in {runs} runs, {bars} bars, {checkpoints} checkpoints; ")?;
        write!(f, "{} crashes of the process, ", self.crashes_process)?;
        write!(f, "{} of the power, {} rotten blocks; ", self.crashes_power, self.rotten)?;
        write!(f, "{} flushes, {} expired; ", self.flushes, self.expired)?;
        write!(f, "{} reads ({} moved, ", self.reads, self.moved)?;
        write!(f, "{} unreadable), {} scans ", self.unreadable, self.scans)?;
        write!(f, "({} too late), {} whole checks, ", self.scans_late, self.checks)?;
        write!(f, "{} entries of indexes", self.index_entries)
    }
}

mod indexes;
mod log;
mod model;
mod readers;
mod rot;
mod tests;
