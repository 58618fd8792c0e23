//! Whole clusters over the real journal and superblock, on simulated disks: what the replica
//! believes of its disk and what its disk does are compared by running both.
//!
//! The ledger checks what may never happen, as in [`crate::lives`]. In addition, after each restart
//! everything that the member acknowledged in the log view of its superblock has to be there. At
//! the end all members are stopped, one sector of one journal rots, and all start again: they must
//! come to have the whole history, and go on.

mod driver;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use ioring::Random;
use ioring::sim::{Config, Crash, NodeId, Outcome, Status, World};
use vsr::replica::Report;
use wire::{Checksum, Header, Op};

use crate::ledger::Ledger;
use driver::{JOURNAL, live, make, sectors};

const SEEDS: u64 = 12;
const MEMBERS: usize = 3;
const FAULTS: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(20);

struct Packet {
    at_ns: u64,
    from: usize,
    header: Header,
    body: Vec<u8>,
}

/// What is known of a member from outside.
#[derive(Default)]
struct Seen {
    inbox: VecDeque<Packet>,
    /// Requests for it: tag and size.
    requests: VecDeque<(u64, usize)>,
    given: Op,
    report: Option<Report>,
    /// The op at which it is to take a checkpoint.
    checkpoint: Op,
    /// The op up to which its disk has the whole history.
    solid: Op,
    /// What it acknowledged, and in which view.
    acknowledged: Vec<(u32, Op, Checksum)>,
    /// Whether its disk was damaged.
    damaged: bool,
}

/// Everything that the members share.
struct Shared {
    ledger: Ledger,
    random: Random,
    seen: Vec<Seen>,
    cut: [[bool; MEMBERS]; MEMBERS],
    /// Of a hundred messages, so many are lost.
    lost: u64,
    /// Who had a prepare durable.
    durable: HashMap<(Op, u128), [bool; MEMBERS]>,
    stopping: bool,
    next_tag: u64,
}

struct Cluster {
    world: World,
    nodes: Vec<NodeId>,
    outcomes: Vec<Option<Outcome<()>>>,
    shared: Rc<RefCell<Shared>>,
    restarts: u64,
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let mut world = World::new(seed, Config { steps_max: 200_000_000, ..Config::default() });
        let nodes: Vec<NodeId> = (0..MEMBERS).map(|_| world.add_node("member")).collect();
        for (index, node) in nodes.iter().enumerate() {
            world.run(*node, move || make(index)).expect("formatting works");
            world.disk(*node).settle();
        }
        let mut bytes = [3; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let shared = Shared {
            ledger: Ledger::default(),
            random: Random::from_seed(bytes),
            seen: (0..MEMBERS).map(|_| Seen::default()).collect(),
            cut: Default::default(),
            lost: if seed.is_multiple_of(2) { 3 } else { 0 },
            durable: HashMap::new(),
            stopping: false,
            next_tag: 1,
        };
        let outcomes = (0..MEMBERS).map(|_| None).collect();
        let shared = Rc::new(RefCell::new(shared));
        Cluster { world, nodes, outcomes, shared, restarts: 0 }
    }

    fn below(&self, bound: u64) -> u64 {
        self.shared.borrow_mut().random.below(bound)
    }

    fn is_up(&self, index: usize) -> bool {
        *self.world.status(self.nodes[index]) == Status::Running
    }

    fn start(&mut self, index: usize) {
        let shared = self.shared.clone();
        let main = move |()| live(index, shared.clone());
        self.outcomes[index] = Some(self.world.start(self.nodes[index], vec![()], main));
        self.restarts += 1;
    }

    fn crash(&mut self, index: usize) {
        let crash = if self.below(2) == 0 { Crash::Power } else { Crash::Process };
        self.world.crash(self.nodes[index], crash);
        let mut shared = self.shared.borrow_mut();
        let seen = &mut shared.seen[index];
        (seen.report, seen.given) = (None, Op(0));
        seen.inbox.clear();
        seen.requests.clear();
    }

    fn run_for(&mut self, time: Duration) {
        self.world.run_for(time);
        for node in &self.nodes {
            let status = self.world.status(*node);
            assert!(!matches!(status, Status::Fatal(..)), "a member ended: {status:?}");
        }
    }

    fn disturb(&mut self) {
        let index = self.below(MEMBERS as u64) as usize;
        match self.below(16) {
            0 | 1 if self.is_up(index) => self.crash(index),
            2 => (0..MEMBERS).for_each(|index| {
                if self.is_up(index) {
                    self.crash(index);
                }
            }),
            3..=7 if !self.is_up(index) => self.start(index),
            8 => {
                let mut shared = self.shared.borrow_mut();
                for other in 0..MEMBERS {
                    (shared.cut[index][other], shared.cut[other][index]) = (true, true);
                }
            }
            9..=11 => self.shared.borrow_mut().cut = Default::default(),
            _ => {}
        }
    }

    /// Has all take a checkpoint that leaves everybody what they need.
    fn checkpoint(&mut self) {
        let mut shared = self.shared.borrow_mut();
        let damaged = shared.seen.iter().any(|seen| seen.damaged);
        let has = |seen: &Seen| if damaged { seen.given } else { seen.solid };
        let solid = shared.seen.iter().map(has).min().expect("there are members");
        shared.seen.iter_mut().for_each(|seen| seen.checkpoint = solid.max(seen.checkpoint));
    }

    fn offer(&mut self) {
        let mut shared = self.shared.borrow_mut();
        for _ in 0..shared.random.below(6) {
            let size = 8 * shared.random.below(800) as usize;
            let tag = shared.next_tag;
            shared.next_tag += 1;
            let serves = |seen: &&mut Seen| seen.report.is_some_and(|report| report.serves);
            if let Some(seen) = shared.seen.iter_mut().find(serves) {
                seen.requests.push_back((tag, size));
            }
        }
    }

    fn is_converged(&self) -> bool {
        let shared = self.shared.borrow();
        let head = shared.ledger.head();
        let follows =
            |seen: &Seen| seen.given == head && seen.report.is_some_and(|report| report.op == head);
        let serves = |seen: &Seen| seen.report.is_some_and(|report| report.serves);
        shared.seen.iter().all(follows) && shared.seen.iter().any(serves)
    }

    /// Without faults all members come to have the same history, and a request is committed.
    fn settle(&mut self) {
        self.shared.borrow_mut().cut = Default::default();
        self.shared.borrow_mut().lost = 0;
        for index in 0..MEMBERS {
            if !self.is_up(index) {
                self.start(index);
            }
        }
        let before = self.shared.borrow().ledger.head();
        let end = self.world.now() + CALM;
        while !(self.is_converged() && self.shared.borrow().ledger.head() > before) {
            self.run_for(Duration::from_millis(50));
            self.checkpoint();
            if self.is_converged() {
                self.offer();
            }
            let shared = self.shared.borrow();
            let reports: Vec<_> =
                shared.seen.iter().map(|seen| (seen.given, seen.solid, seen.report)).collect();
            let head = shared.ledger.head();
            assert!(self.world.now() < end, "not converged at {head}: {reports:?}");
        }
    }

    /// Stops all members cleanly.
    fn stop(&mut self) {
        self.shared.borrow_mut().stopping = true;
        let nodes = self.nodes.clone();
        let stopped =
            |world: &World| nodes.iter().all(|node| *world.status(*node) == Status::Finished);
        assert!(self.world.run_until(stopped), "members stop");
        let mut shared = self.shared.borrow_mut();
        shared.stopping = false;
        shared.seen.iter_mut().for_each(|seen| (seen.given, seen.checkpoint) = Default::default());
    }

    /// One sector of a journal rots, of a member that needs nothing that the others have passed.
    fn rot(&mut self) {
        let checkpoint = |seen: &Seen| seen.report.map(|report| report.checkpoint);
        let seen: Vec<Option<Op>> = self.shared.borrow().seen.iter().map(checkpoint).collect();
        let index = (0..MEMBERS).max_by_key(|index| seen[*index]).expect("there are members");
        let (first, count) = sectors();
        let offset = first + 4096 * self.below(count) + [20, 300, 700][self.below(3) as usize];
        let node = self.nodes[index];
        self.world.disk(node).rot(JOURNAL.as_ref(), offset, 4).expect("the journal is there");
        self.shared.borrow_mut().seen[index].damaged = true;
    }
}

fn life(seed: u64) -> (Op, u64) {
    let mut cluster = Cluster::new(seed);
    (0..MEMBERS).for_each(|index| cluster.start(index));
    while cluster.world.now() < FAULTS {
        let passed = cluster.below(10_000);
        cluster.run_for(Duration::from_micros(passed));
        cluster.offer();
        if cluster.below(4) == 0 {
            cluster.checkpoint();
        }
        if cluster.below(8) == 0 {
            cluster.disturb();
        }
    }
    cluster.settle();
    cluster.stop();
    cluster.rot();
    cluster.settle();
    let head = cluster.shared.borrow().ledger.head();
    (head, cluster.restarts)
}

#[test]
fn clusters_live_on_their_own_journals() {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let one = number("VSR_SEED");
    let seeds = one.map_or(0..number("VSR_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (mut ops, mut restarts) = (0, 0);
    ioring::sim::marks::reset();
    for seed in seeds {
        println!("VSR_SEED={seed} cargo test -p vsr --test cluster journals -- --nocapture");
        let (head, starts) = life(seed);
        (ops, restarts) = (ops + head.0, restarts + starts);
    }
    let reached = ioring::sim::marks::hits();
    println!("{ops} ops, {restarts} starts, {reached:?}");
    assert!(one.is_some() || (ops > 300 && restarts > 60), "{ops} ops, {restarts} starts");
}
