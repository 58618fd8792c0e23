//! Lives of a node, one after the other, over one directory.
//!
//! A life:
//!
//! 1. The node starts on what the last life left. It must start, whatever that is.
//! 2. One client surveys all keys; the ledger compares. If the node dies first, the next life does.
//! 3. Now and then one client empties the node. Then all clients write and read at once. They end
//!    when they have done their batches.
//! 4. The life ends as [`End`] says: at a given step of the node (counted from the start of the
//!    process, so it may fall into recovery, the survey or the work), after the work, or in order.
//!
//! A [`Snapshot`] is a directory between two lives with all that is known about it: a world can be
//! started from it again and again.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{
    Clock, Config, Crash, Dice, DiskConfig, FaultPlan, NodeId, Outcome, SimDisk, Status,
    WORLD_BEGINS, World,
};
use node::server::StartError;

use crate::Violation;
use crate::clients::{self, Plan};
use crate::ledger::{Counts, Ledger, Survey};
use crate::server::{self, Shape, Watch};

/// Clients that write at the same time.
pub const CLIENTS: usize = 3;
/// Virtual time after which a life that makes no end is given up.
const LIFE_MAX: Duration = Duration::from_secs(120);

/// How often in a million lives the node is emptied before the work.
const FLUSH_CHANCE: u32 = 150_000;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The node dies before this step of its process; when it makes fewer, after the work.
    Step(u64, Crash),
    /// The node dies when the clients are done.
    Work(Crash),
    /// The node is told to stop when the clients are done, and stops.
    Stop,
}

/// What a life was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Steps that the node made: polls, completions and blocking calls.
    pub steps: u64,
    /// Steps when the survey was done, if it was.
    pub surveyed_at: Option<u64>,
    /// Whether the node crashed where it was asked to.
    pub crashed: bool,
}

/// A directory between two lives.
#[derive(Clone)]
pub struct Snapshot {
    disk: SimDisk,
    ledger: Ledger,
    time: u64,
    died: u64,
}

impl Snapshot {
    /// The same, with what a crash leaves drawn from another seed.
    #[must_use]
    pub fn with_crash_seed(&self, seed: u64) -> Snapshot {
        let mut snapshot = self.clone();
        snapshot.disk.reseed_crashes(seed);
        snapshot
    }
}

/// A node, its clients, and what is known.
pub struct Simulation {
    world: World,
    node: NodeId,
    shape: Shape,
    dice: Dice,
    hosts: Vec<NodeId>,
    ledger: Rc<RefCell<Ledger>>,
    /// Nanoseconds since 1970 when the world began.
    began: u64,
    /// When the node last ended.
    died: u64,
    /// Scrubs that came to their end.
    scrubbed: u64,
}

/// A world in which every kind of delay happens.
fn config(seed: u64) -> Config {
    let mut dice = Dice::new(seed, "weather");
    let slow = if dice.chance(250_000) { 20_000 } else { 500 };
    let faults = FaultPlan { slow, ..FaultPlan::default() };
    // What is atomic is a sector of either size.
    let sector = if dice.coin() { 512 } else { 4096 };
    Config { disk: DiskConfig { sector, faults, ..DiskConfig::default() }, ..Config::default() }
}

impl Simulation {
    /// Formats a directory.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(seed: u64, shape: Shape) -> Result<Simulation, Violation> {
        let mut simulation = Simulation::empty(seed, shape, Ledger::new(CLIENTS), WORLD_BEGINS);
        let node = simulation.node;
        match simulation.world.run(node, server::format) {
            Ok(Ok(())) => Ok(simulation),
            Ok(Err(error)) => Err(Violation(format!("format: {error}"))),
            Err(status) => Err(Violation(format!("format: {status:?}"))),
        }
    }

    /// Goes on from a directory as it was, under another seed.
    #[must_use]
    pub fn resume(seed: u64, shape: Shape, snapshot: &Snapshot) -> Simulation {
        let mut ledger = snapshot.ledger.clone();
        // What was played before is not played again.
        ledger.counts = Counts { checkpoint: ledger.counts.checkpoint, ..Counts::default() };
        let mut simulation = Simulation::empty(seed, shape, ledger, snapshot.time);
        simulation.died = snapshot.died;
        simulation.world.set_disk(simulation.node, snapshot.disk.clone());
        simulation
    }

    fn empty(seed: u64, shape: Shape, ledger: Ledger, began: u64) -> Simulation {
        let mut world = World::new(seed, config(seed));
        let offset_ns = (began - WORLD_BEGINS) as i64;
        let mut add = |name: &str| {
            let node = world.add_node(name);
            world.set_clock(node, Clock { offset_ns, ..Clock::default() });
            node
        };
        let node = add("node");
        let hosts = (0..ledger.owners()).map(|owner| add(&format!("client {owner}"))).collect();
        let ledger = Rc::new(RefCell::new(ledger));
        let dice = Dice::new(seed, "flushes");
        Simulation { world, node, shape, dice, hosts, ledger, began, died: began, scrubbed: 0 }
    }

    /// The directory as it is now, between two lives.
    pub fn snapshot(&mut self) -> Snapshot {
        let disk = self.world.disk(self.node).clone();
        let ledger = self.ledger.borrow().clone();
        Snapshot { disk, ledger, time: self.time(), died: self.died }
    }

    /// What clients have done so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.borrow().clone()
    }

    /// Blocks that scrubs read, in all lives so far.
    #[must_use]
    pub fn scrubbed(&self) -> u64 {
        self.scrubbed
    }

    /// The world, for faults.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// The node's host.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Equal for equal seeds and equal lives.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }

    fn time(&self) -> u64 {
        self.began + self.world.now().as_nanos() as u64
    }

    /// Plays a life in which each client sends so many batches.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn life(&mut self, batches: u32, end: End) -> Result<Life, Violation> {
        if let End::Step(step, crash) = end {
            self.world.crash_at(self.node, step, crash);
        }
        let watch = Rc::new(Watch::default());
        let outcome = self.start(&watch);
        let surveyed_at = self.survey()?;
        if surveyed_at.is_some() {
            if self.dice.chance(FLUSH_CHANCE) {
                self.flush()?;
            }
            self.work(batches)?;
        }
        let crashed = !self.is_running();
        match end {
            _ if crashed => {}
            End::Step(_, crash) | End::Work(crash) => self.world.crash(self.node, crash),
            End::Stop => self.stop(&watch)?,
        }
        self.world.crash_never(self.node);
        self.died = self.time();
        for host in self.hosts.clone() {
            if *self.world.status(host) == Status::Running {
                self.world.crash(host, Crash::Process);
            }
        }
        let steps = self.world.node_steps(self.node);
        self.ended_well(end, &outcome)?;
        let (looks, blocks) = watch.seen();
        self.scrubbed += blocks;
        if end == End::Stop && !crashed && looks == 0 {
            return Err(Violation("nobody asked the node what its scrubs found".into()));
        }
        Ok(Life { steps, surveyed_at, crashed })
    }

    fn start(&mut self, watch: &Rc<Watch>) -> Outcome<Result<(), StartError>> {
        self.world.start(self.node, server::parts(self.shape, watch), server::serve)
    }

    fn is_running(&self) -> bool {
        *self.world.status(self.node) == Status::Running
    }

    /// Whether the node ended as it was to.
    fn ended_well(
        &self,
        end: End,
        outcome: &Outcome<Result<(), StartError>>,
    ) -> Result<(), Violation> {
        match self.world.status(self.node) {
            Status::Crashed(_) => Ok(()),
            Status::Finished => match outcome.take().map(node::server::outcome) {
                Some(Ok(())) if end == End::Stop => Ok(()),
                Some(Err(error)) => Err(Violation(format!("the node does not start: {error}"))),
                other => Err(Violation(format!("the node ended on its own: {other:?}"))),
            },
            status => Err(Violation(format!("the node ended: {status:?}"))),
        }
    }

    fn plan(&self, owner: usize, batches: u32) -> Plan {
        let address = SocketAddr::new(self.world.address(self.node), server::PORT);
        Plan { owner, address, batches, ledger: self.ledger.clone() }
    }

    /// Reads everything back and compares; the step at which that was done, unless the node died.
    fn survey(&mut self) -> Result<Option<u64>, Violation> {
        let plan = self.plan(0, 0);
        let host = self.hosts[0];
        let surveyor = self.world.start(host, vec![plan], clients::survey);
        self.run_while_busy(&[host])?;
        let found: Option<Survey> = surveyor.take().and_then(|mut results| results.pop()?);
        self.violated()?;
        let Some(survey) = found else { return Ok(None) };
        self.ledger.borrow_mut().settle(&survey, self.died)?;
        Ok(Some(self.world.node_steps(self.node)))
    }

    /// Empties the node.
    fn flush(&mut self) -> Result<(), Violation> {
        if !self.is_running() {
            return Ok(());
        }
        let (plan, host) = (self.plan(0, 0), self.hosts[0]);
        drop(self.world.start(host, vec![plan], clients::flush));
        self.run_while_busy(&[host])?;
        self.violated()
    }

    fn work(&mut self, batches: u32) -> Result<(), Violation> {
        if !self.is_running() {
            return Ok(());
        }
        for (owner, host) in self.hosts.clone().into_iter().enumerate() {
            let plan = self.plan(owner, batches);
            drop(self.world.start(host, vec![plan], clients::work));
        }
        self.run_while_busy(&self.hosts.clone())?;
        self.violated()
    }

    fn violated(&mut self) -> Result<(), Violation> {
        self.ledger.borrow_mut().violation.take().map_or(Ok(()), Err)
    }

    fn stop(&mut self, watch: &Watch) -> Result<(), Violation> {
        watch.stop();
        self.run_while_busy(&[self.node])
    }

    /// Lets time pass until none of the processes runs, or the node does not.
    fn run_while_busy(&mut self, hosts: &[NodeId]) -> Result<(), Violation> {
        let node = self.node;
        let limit = self.world.now() + LIFE_MAX;
        let ended = self.world.run_until(|world| {
            let runs = |host: &NodeId| *world.status(*host) == Status::Running;
            !hosts.iter().any(runs) || !runs(&node) || world.now() > limit
        });
        if !ended || self.world.now() > limit {
            let now = self.world.now();
            return Err(Violation(format!("no progress: clients still wait after {now:?}")));
        }
        Ok(())
    }
}
