//! The world: nodes with their cores, a scheduler with a seed, and virtual time.
//!
//! One step of a world is one decision, and everything else follows from the state and the seed:
//!
//! 1. A crash that was asked for at this point of a node's run happens.
//! 2. If an operation is due, its result is delivered to its core.
//! 3. Timers that are due and wake-ups from other cores make tasks runnable.
//! 4. Of all tasks of all cores that are free, the dice pick one, whatever its queue; it is polled
//!    once and holds its core for a drawn time. Cores of one node run side by side in virtual time.
//! 5. If no task can run, time moves to the next thing that will happen. If nothing will, the world
//!    is idle.
//!
//! A crash falls between two steps: between any two polls, completions and blocking calls (those of
//! [`crate::fs`] and opening files), so at every await point of every task and between any two
//! changes of names. The process's tasks are dropped (they find a dead kernel: files and sockets
//! answer nothing), what was in flight is forgotten, and the disk decides what is left.
//!
//! [`crate::fatal`], and a crash at a blocking call, end the node by unwinding through the task. In
//! programs built with `panic = "abort"` the former ends the program, the latter comes after the
//! poll; tests always unwind.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::config::{Clock, Config};
use super::dice::Dice;
use super::disk::SimDisk;
use super::driver::{NodeEnded, SimDriver};
use super::log::Happened;
use super::net::SimNet;
use super::state::{Host, OpKey, Rest, State};
use crate::core::{Core, CoreConfig, CoreId};
use crate::task::{Queue, Shares};
use crate::time::Instant;

/// A node of a world, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// How a node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: the kernel keeps what it had accepted, and closes connections.
    Process,
    /// The host loses power: unsynced data is lost, kept or torn, and connections hang.
    Power,
}

/// What a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    New,
    /// Its process runs (or is paused).
    Running,
    /// All its mains returned.
    Finished,
    /// It was crashed.
    Crashed(Crash),
    /// It ended itself: the reason and the exit status.
    Fatal(String, u8),
}

/// Results of the mains of one run of a node, in order of cores.
pub struct Outcome<R>(Rc<RefCell<Vec<Option<R>>>>);

impl<R> Outcome<R> {
    /// The results, once all mains have returned.
    pub fn take(&self) -> Option<Vec<R>> {
        let mut results = self.0.borrow_mut();
        if results.iter().any(Option::is_none) {
            return None;
        }
        Some(results.drain(..).flatten().collect())
    }
}

struct SimCore {
    core: Rc<Core>,
    free_at: u64,
    /// Whether its main has returned.
    done: Rc<Cell<bool>>,
}

struct Node {
    name: String,
    cores: Vec<SimCore>,
    status: Status,
}

/// A simulated cluster. See the module above for how to use it.
pub struct World {
    state: Rc<RefCell<State>>,
    nodes: Vec<Node>,
    dice: Dice,
    steps: u64,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, config: Config) -> World {
        assert!(config.poll_min <= config.poll_max, "polls take from poll_min to poll_max");
        World {
            state: Rc::new(RefCell::new(State::new(seed, config))),
            nodes: Vec::new(),
            dice: Dice::new(seed, "scheduler"),
            steps: 0,
        }
    }

    // ---- nodes ----

    /// Adds a host with an empty disk, its process not started.
    pub fn add_node(&mut self, name: &str) -> NodeId {
        let mut state = self.state.borrow_mut();
        let number = self.nodes.len();
        let seed = Dice::new(state.seed, &format!("disk of node {number}")).bits();
        let disk = SimDisk::new(state.config.disk.clone(), seed);
        state.hosts.push(Host::new(disk));
        self.nodes.push(Node { name: name.to_owned(), cores: Vec::new(), status: Status::New });
        NodeId(number)
    }

    /// Adds a node and starts it: one core for each part.
    pub fn spawn_node<T, F, R>(
        &mut self,
        name: &str,
        parts: Vec<T>,
        main: impl Fn(T) -> F + Clone + 'static,
    ) -> (NodeId, Outcome<R>)
    where
        T: 'static,
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        let node = self.add_node(name);
        let outcome = self.start(node, parts, main);
        (node, outcome)
    }

    /// Starts (or restarts) a node's process: one core for each part, each running `main`. When a
    /// core's main returns its other tasks are dropped, when all have the process ends.
    ///
    /// # Panics
    /// If the node is running.
    pub fn start<T, F, R>(
        &mut self,
        node: NodeId,
        parts: Vec<T>,
        main: impl Fn(T) -> F + Clone + 'static,
    ) -> Outcome<R>
    where
        T: 'static,
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        let boot = self.boot(node, parts.len());
        let results = Rc::new(RefCell::new(parts.iter().map(|_| None).collect::<Vec<_>>()));
        for (number, part) in parts.into_iter().enumerate() {
            let seeds = RefCell::new(BTreeMap::new());
            let state = self.state.clone();
            let driver = Rc::new(SimDriver { state, node: node.0, boot, core: number, seeds });
            let id = CoreId(u16::try_from(number).expect("a node has fewer than 65,536 cores"));
            let stall_threshold = Duration::MAX;
            let config = CoreConfig { id, shares: Shares::default(), stall_threshold };
            let core = Core::new(config, driver);
            let done = Rc::new(Cell::new(false));
            let (results, returned, main) = (results.clone(), done.clone(), main.clone());
            core.enter(|| {
                core.spawn_boxed(Queue::Foreground, "main", async move {
                    let result = main(part).await;
                    results.borrow_mut()[number] = Some(result);
                    returned.set(true);
                })
            });
            self.nodes[node.0].cores.push(SimCore { core, free_at: 0, done });
        }
        Outcome(results)
    }

    /// Makes a host ready for a new process and returns the boot's number.
    fn boot(&mut self, node: NodeId, cores: usize) -> u32 {
        let entry = &mut self.nodes[node.0];
        assert!(entry.cores.is_empty(), "node {} is running already", entry.name);
        assert!(cores > 0, "a node has at least one core");
        entry.status = Status::Running;
        let mut state = self.state.borrow_mut();
        state.net.host_up(node.0);
        let host = &mut state.hosts[node.0];
        (host.boot, host.paused, host.steps) = (host.boot + 1, false, 0);
        let boot = host.boot;
        state.happened(node.0, Happened::Started { boot });
        boot
    }

    /// Runs one main on a node with one core until it returns or the node dies.
    ///
    /// # Errors
    /// How the node died.
    ///
    /// # Panics
    /// If nothing in the world can happen any more and the main still waits.
    pub fn run<F, R>(
        &mut self,
        node: NodeId,
        main: impl FnOnce() -> F + 'static,
    ) -> Result<R, Status>
    where
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        let main = Rc::new(Cell::new(Some(main)));
        let outcome = self.start(node, vec![main], |main| async move {
            let main = main.take().expect("a node with one core runs its main once");
            main().await
        });
        while self.nodes[node.0].status == Status::Running {
            if !self.step() {
                self.say(node, "deadlock");
                panic!("{}: it waits for something that never happens", self.place(node));
            }
        }
        let mut results = outcome.take().unwrap_or_default();
        results.pop().ok_or_else(|| self.nodes[node.0].status.clone())
    }

    /// What a node is doing.
    pub fn status(&self, node: NodeId) -> &Status {
        &self.nodes[node.0].status
    }

    /// The address of a node's host, for others to connect to.
    pub fn address(&self, node: NodeId) -> IpAddr {
        SimNet::host(node.0)
    }

    // ---- faults ----

    /// Kills a running node now.
    pub fn crash(&mut self, node: NodeId, crash: Crash) {
        let state = self.state.clone();
        {
            let mut state = state.borrow_mut();
            state.happened(node.0, Happened::Crashed { power: crash == Crash::Power });
            state.hosts[node.0].boot += 1;
            state.node_gone(node.0);
            let now = state.now;
            state.net.node_gone(now, node.0, crash == Crash::Power);
        }
        self.drop_process(node);
        match crash {
            Crash::Process => state.borrow_mut().disk(node.0).process_end(),
            Crash::Power => state.borrow_mut().disk(node.0).power_loss(),
        }
        self.nodes[node.0].status = Status::Crashed(crash);
    }

    /// Kills a node when it has made `steps` steps of its run (see [`World::node_steps`]); if it is
    /// not running, of its next.
    pub fn crash_at(&mut self, node: NodeId, steps: u64, crash: Crash) {
        self.state.borrow_mut().hosts[node.0].crash_at = Some((steps, crash));
    }

    /// Takes back [`World::crash_at`], if it has not come to that.
    pub fn crash_never(&mut self, node: NodeId) {
        self.state.borrow_mut().hosts[node.0].crash_at = None;
    }

    /// Stops a node's process where it is; its host and kernel go on.
    pub fn pause(&mut self, node: NodeId) {
        self.state.borrow_mut().hosts[node.0].paused = true;
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, node: NodeId) {
        self.state.borrow_mut().hosts[node.0].paused = false;
    }

    /// Sets a node's time of day wrong (or right again).
    pub fn set_clock(&mut self, node: NodeId, clock: Clock) {
        self.state.borrow_mut().hosts[node.0].clock = clock;
    }

    /// Makes every operation of a node's disk take so many times as long.
    pub fn set_disk_slower(&mut self, node: NodeId, factor: u64) {
        self.state.borrow_mut().hosts[node.0].disk_slower = factor.max(1);
    }

    /// A node's disk: to inject faults, to record, to look.
    pub fn disk(&mut self, node: NodeId) -> RefMut<'_, SimDisk> {
        RefMut::map(self.state.borrow_mut(), |state| state.disk(node.0))
    }

    /// Puts another disk into a node that does not run: an empty one, or a crash state.
    pub fn set_disk(&mut self, node: NodeId, disk: SimDisk) {
        assert!(self.nodes[node.0].cores.is_empty(), "the node uses its disk");
        *self.state.borrow_mut().disk(node.0) = disk;
    }

    /// The network: to cut, slow down and reset.
    pub fn net(&mut self) -> RefMut<'_, SimNet> {
        RefMut::map(self.state.borrow_mut(), |state| &mut state.net)
    }

    /// A way for code that runs inside a node to note things in its disk's recording, and to
    /// inject faults.
    pub fn probe(&self, node: NodeId) -> Probe {
        Probe { state: Rc::downgrade(&self.state), node: node.0 }
    }

    // ---- time ----

    /// Virtual time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.state.borrow().now)
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps (polls, completions and blocking calls) of a node's present or last run: the number of
    /// points at which it can crash.
    pub fn node_steps(&self, node: NodeId) -> u64 {
        self.state.borrow().hosts[node.0].steps
    }

    /// Hash of every scheduling decision, completion and receive so far, and of all disks: equal
    /// for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        let state = self.state.borrow();
        let mut hash = state.hash;
        hash.add(state.now);
        state.hosts.iter().for_each(|host| hash.add(host.disk.hash()));
        hash.value()
    }

    /// Steps until `done` says so, or nothing can happen any more; returns whether it said so.
    pub fn run_until(&mut self, mut done: impl FnMut(&World) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.step() {
                return false;
            }
        }
    }

    /// Steps for so much virtual time. In an idle world the time passes at once.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.next_time().is_some_and(|next| Duration::from_nanos(next) <= end) {
            self.step();
        }
        self.state.borrow_mut().now = end.as_nanos() as u64;
    }

    /// Makes one decision. False: the world is idle.
    pub fn step(&mut self) -> bool {
        self.steps += 1;
        let limit = self.state.borrow().config.steps_max;
        assert!(self.steps <= limit, "no end after {limit} steps: a livelock, or raise steps_max");
        if self.crash_due() {
            return true;
        }
        let due = self.state.borrow_mut().take_due();
        if let Some((key, rest)) = due {
            self.deliver(key, rest);
            return true;
        }
        let now = self.state.borrow().now;
        self.make_runnable(now);
        if let Some((node, core, position)) = self.pick(now) {
            self.poll(node, core, position);
            return true;
        }
        match self.next_time() {
            Some(next) => {
                let mut state = self.state.borrow_mut();
                state.now = state.now.max(next);
                true
            }
            None => false,
        }
    }

    fn crash_due(&mut self) -> bool {
        let Some(node) = self.find_crash_due() else { return false };
        let crash = self.state.borrow_mut().hosts[node].crash_at.take();
        if let Some((_, crash)) = crash {
            self.crash(NodeId(node), crash);
        }
        true
    }

    fn find_crash_due(&self) -> Option<usize> {
        let state = self.state.borrow();
        let running = |node: &usize| !self.nodes[*node].cores.is_empty();
        (0..self.nodes.len()).filter(running).find(|node| state.hosts[*node].crash_is_due())
    }

    fn deliver(&mut self, key: OpKey, rest: Rest) {
        let core = self.nodes[key.node].cores[key.core].core.clone();
        let mut state = self.state.borrow_mut();
        state.hosts[key.node].steps += 1;
        let result = core.with_operation(key.token, |operation| state.finish(key, rest, operation));
        drop(state);
        core.enter(|| core.complete(key.token, result));
    }

    /// Cores of processes that run and are not paused, with their node's number.
    fn awake(&self) -> impl Iterator<Item = (usize, usize, &SimCore)> {
        let state = self.state.borrow();
        let awake: Vec<usize> =
            (0..self.nodes.len()).filter(|node| !state.hosts[*node].paused).collect();
        awake.into_iter().flat_map(|node| {
            let cores = self.nodes[node].cores.iter().enumerate();
            cores.map(move |(number, core)| (node, number, core))
        })
    }

    fn make_runnable(&self, now: u64) {
        for (_, _, SimCore { core, .. }) in self.awake() {
            core.enter(|| {
                core.absorb_wakes();
                core.fire_timers(Instant::from_nanos(now));
            });
        }
    }

    /// Picks the task to poll next: node, core, position.
    fn pick(&mut self, now: u64) -> Option<(usize, usize, usize)> {
        let runnable = |core: &SimCore| if core.free_at <= now { core.core.runnable() } else { 0 };
        let total: usize = self.awake().map(|(_, _, core)| runnable(core)).sum();
        let mut chosen = self.dice.below(total as u64) as usize;
        let found = self.awake().find_map(|(node, number, core)| {
            let count = runnable(core);
            if chosen < count {
                return Some((node, number, chosen));
            }
            chosen -= count;
            None
        });
        found.filter(|_| total > 0)
    }

    fn poll(&mut self, node: usize, number: usize, position: usize) {
        let mut state = self.state.borrow_mut();
        let config = &state.config;
        let (least, most) = (config.poll_min.as_nanos(), config.poll_max.as_nanos());
        let cost = self.dice.between(least as u64, most as u64);
        let now = state.now;
        state.happened(node, Happened::Polled { core: number, position });
        state.hosts[node].steps += 1;
        state.polling = true;
        drop(state);
        let slot = &mut self.nodes[node].cores[number];
        slot.free_at = now + cost;
        let core = slot.core.clone();
        let polled = catch_unwind(AssertUnwindSafe(|| core.enter(|| core.poll_at(position))));
        self.state.borrow_mut().polling = false;
        match polled {
            Ok(_) if slot.done.get() => {
                core.enter(|| core.drop_tasks());
                drop(core);
                if self.nodes[node].cores.iter().all(|core| core.done.get()) {
                    self.finish(NodeId(node));
                }
            }
            Ok(_) => {}
            Err(payload) if payload.is::<NodeEnded>() => self.end_within_poll(NodeId(node)),
            Err(payload) => {
                self.say(NodeId(node), "panic");
                resume_unwind(payload);
            }
        }
    }

    /// All mains have returned: the process ends in good order.
    fn finish(&mut self, node: NodeId) {
        self.drop_process(node);
        let mut state = self.state.borrow_mut();
        state.hosts[node.0].boot += 1;
        state.node_gone(node.0);
        let now = state.now;
        state.net.node_gone(now, node.0, false);
        state.disk(node.0).process_end();
        self.nodes[node.0].status = Status::Finished;
    }

    /// A task was unwound: its node called `fatal`, or was to die at a blocking call.
    fn end_within_poll(&mut self, node: NodeId) {
        let fatal = self.state.borrow_mut().fatal.take();
        if let Some((reason, status)) = fatal {
            self.crash(node, Crash::Process);
            self.nodes[node.0].status = Status::Fatal(reason, status);
        } else {
            let crashed = self.crash_due();
            assert!(crashed, "a node dies within a poll only where it was asked to");
        }
    }

    fn drop_process(&mut self, node: NodeId) {
        let cores = std::mem::take(&mut self.nodes[node.0].cores);
        for SimCore { core, .. } in &cores {
            core.enter(|| core.drop_tasks());
        }
        // Operations in flight, with their buffers and handles, go with their cores.
        drop(cores);
    }

    /// When something can happen next.
    fn next_time(&self) -> Option<u64> {
        let now = self.state.borrow().now;
        let cores = self.awake().flat_map(|(_, _, SimCore { core, free_at, .. })| {
            let deadline = core.next_deadline().map(Instant::as_nanos);
            let runnable = (core.runnable() > 0).then_some(*free_at);
            deadline.into_iter().chain(runnable)
        });
        let crash_due = self.find_crash_due().is_some();
        let events = self.state.borrow().next_event();
        let next = cores.chain(events).chain(crash_due.then_some(now)).min()?;
        Some(next.max(now))
    }

    /// Where the simulation stands, for messages.
    fn place(&self, node: NodeId) -> String {
        let state = self.state.borrow();
        format!(
            "seed {}, node {} ({}), boot {}, step {} of it, {} µs",
            state.seed,
            node.0,
            self.nodes[node.0].name,
            state.hosts[node.0].boot,
            state.hosts[node.0].steps,
            state.now / 1000,
        )
    }

    /// Says how to replay a failure and what led to it.
    #[expect(clippy::print_stderr, reason = "a failing test has to say how to replay it")]
    fn say(&self, node: NodeId, what: &str) {
        eprintln!("simulation: {what} in {}; last:", self.place(node));
        eprint!("{}", self.state.borrow().log);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if std::thread::panicking() {
                // A second panic in some task's destructor would hide the first.
                std::mem::forget(std::mem::take(&mut self.nodes[node].cores));
            } else {
                self.drop_process(NodeId(node));
            }
        }
    }
}

/// Reaches a node's disk from inside the simulation.
#[derive(Clone)]
pub struct Probe {
    state: Weak<RefCell<State>>,
    node: usize,
}

impl Probe {
    /// Notes a value in the disk's recording ([`SimDisk::note`]).
    pub fn note(&self, value: u64) {
        self.with_disk(|disk| disk.note(value));
    }

    /// Calls `f` with the disk.
    pub fn with_disk<R>(&self, f: impl FnOnce(&mut SimDisk) -> R) -> R {
        let state = self.state.upgrade().expect("a probe is used while its world exists");
        let mut state = state.borrow_mut();
        f(state.disk(self.node))
    }
}

#[cfg(test)]
mod tests;
