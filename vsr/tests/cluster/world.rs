//! The world that a cluster lives in: virtual time, messages and writes under way, faults.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use ioring::{Buffer, BufferPool, Frozen, Random};
use vsr::journal::Summary;
use vsr::replica::{
    Body, Config, Dropped, MEMBERS_MAX, Moment, PrepareRead, Quorums, Replica, Report, Send,
    Status, ViewRecord,
};
use wire::message::PrepareOk;
use wire::{
    CheckpointId, Checksum, ClientTag, Command, Header, Op, Opcode, OperationView, ReplicaId,
    RequestBuilder, Requests, TableId,
};

use crate::disk::Disk;
use crate::forge::{Forger, alter};
use crate::ledger::Ledger;
use crate::script::message;

pub(crate) const MS: u64 = 1_000_000;
const US: u64 = 1000;
const WALL_NS: u64 = 1 << 50;

/// What will happen, and in which life of its member.
enum Event {
    Deliver {
        from: ReplicaId,
        header: Box<Header>,
        body: Vec<u8>,
    },
    /// The journal has given a prepare its place.
    Placed {
        op: Op,
        frame: Frozen,
    },
    Written {
        op: Op,
        frame: Frozen,
    },
    Super(Super),
    Read(PrepareRead),
}

/// An update of the superblock.
#[derive(Clone)]
enum Super {
    View(ViewRecord),
    Checkpoint(Box<Header>),
}

/// A member.
pub(crate) struct Node {
    pub(crate) replica: Option<Replica>,
    pub(crate) disk: Disk,
    life: u64,
    writing: Vec<(Op, Frozen)>,
    updating: Option<Super>,
    checkpoint_wanted: Option<Header>,
    /// Requests taken in this life and not answered.
    pub(crate) taken: HashSet<u64>,
    /// The last op given out in this life.
    pub(crate) given: Op,
    /// Its header.
    pub(crate) given_header: Option<Header>,
    /// Everything on its disk takes so many times as long.
    pub(crate) slowness: u64,
    written_at: u64,
}

/// How bad the network is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Of a thousand messages, so many are lost, sent twice, damaged, late.
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    pub(crate) damaged: u64,
    pub(crate) late: u64,
}

/// How a test breaks what surrounds the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sabotage {
    #[default]
    None,
    /// Messages are sent that no member would send: then nothing holds any more, but that no member
    /// panics, and that what it keeps is bounded.
    Lies,
}

/// Genuine prepares that are kept for who forges.
const PREPARES_KEPT: usize = 64;

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) config: Config,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ledger: Ledger,
    pub(crate) weather: Weather,
    /// Whether messages from one to another are lost.
    pub(crate) cut: [[bool; MEMBERS_MAX]; MEMBERS_MAX],
    pub(crate) sabotage: Sabotage,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, (usize, u64, Event)>,
    next_event: u64,
    next_tag: u64,
    /// Prepares that were sent last, where lies are told.
    pub(crate) prepares: Vec<(Header, Vec<u8>)>,
    pub(crate) lies: u64,
    trace: bool,
    /// What happens, for a script; then everything takes the same time always.
    pub(crate) script: Option<RefCell<Vec<String>>>,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let disk = || Disk::new(config.cluster, config.pipeline_max);
        let node = || Node {
            replica: None,
            disk: disk(),
            life: 0,
            writing: Vec::new(),
            updating: None,
            checkpoint_wanted: None,
            taken: HashSet::new(),
            given: Op(0),
            given_header: None,
            slowness: 1,
            written_at: 0,
        };
        World {
            now: 0,
            random: Random::from_seed(bytes),
            nodes: (0..config.replica_count).map(|_| node()).collect(),
            config,
            ledger: Ledger::default(),
            weather: Weather::default(),
            cut: Default::default(),
            sabotage: Sabotage::None,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_tag: 1,
            prepares: Vec::new(),
            lies: 0,
            trace: std::env::var_os("VSR_TRACE").is_some(),
            script: None,
        }
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.3} ms  {}", self.now as f64 / MS as f64, text());
        } else if let Some(lines) = &self.script {
            lines.borrow_mut().push(text());
        }
    }

    pub(crate) fn members(&self) -> usize {
        self.nodes.len()
    }

    fn moment(&self) -> Moment {
        Moment { monotonic_ns: self.now, wall_ns: WALL_NS + self.now }
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some()
    }

    pub(crate) fn replica(&mut self, node: usize) -> &mut Replica {
        self.nodes[node].replica.as_mut().expect("the member is up")
    }

    /// The member that takes requests, in the newest view if several think so.
    pub(crate) fn primary(&self) -> Option<usize> {
        let serving = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let replica = node.replica.as_ref().filter(|replica| replica.serves())?;
            Some((replica.report().view, index))
        });
        serving.max().map(|(_, index)| index)
    }

    fn schedule(&mut self, node: usize, delay: u64, event: Event) {
        let life = self.nodes[node].life;
        self.queue.push(Reverse((self.now + delay, self.next_event)));
        self.events.insert(self.next_event, (node, life, event));
        self.next_event += 1;
    }

    pub(crate) fn start(&mut self, node: usize) {
        assert!(!self.is_up(node), "a member starts once");
        let mut config = self.config;
        config.replica = ReplicaId(node as u8);
        config.seed = self.random.next_u64();
        let buffers = 4 * config.pipeline_max + 4;
        let pool = BufferPool::new("prepares", config.frame_size_max(), buffers);
        let moment = self.moment();
        if self.sabotage == Sabotage::Lies && !self.nodes[node].disk.is_consistent() {
            // It was lied to until its disk made no sense: a new one.
            self.nodes[node].disk = Disk::new(self.config.cluster, self.config.pipeline_max);
        }
        let this = &mut self.nodes[node];
        this.life += 1;
        this.given_header = None;
        this.given = this.disk.checkpoint_op();
        let (log, record) = (this.disk.recover(), this.disk.record.clone());
        let id = CheckpointId(u128::from(this.given.0));
        let checkpoint = (this.disk.checkpoint, id);
        let replica = Replica::rejoined(config, pool, &log, &record, checkpoint, moment);
        let report = replica.report();
        this.replica = Some(replica);
        let Report { status, view, log_view, op, commit, .. } = report;
        self.say(|| {
            format!("{node} starts: {status:?} view={view}/{log_view} op={op} commit={commit}")
        });
        self.turn(node);
    }

    /// The process ends. Of what is being written, each frame survives, is torn, or vanishes.
    pub(crate) fn crash(&mut self, node: usize) {
        self.say(|| format!("{node} crashes"));
        let this = &mut self.nodes[node];
        this.replica = None;
        this.life += 1;
        for (_, frame) in std::mem::take(&mut this.writing) {
            match self.random.below(4) {
                0 => {}
                1 => drop(this.disk.write(&frame, false)),
                _ => drop(this.disk.write(&frame, true)),
            }
        }
        if let Some(update) = this.updating.take()
            && self.random.chance(2)
        {
            Self::apply(&mut this.disk, update);
        }
        this.checkpoint_wanted = None;
        this.taken.clear();
    }

    fn apply(disk: &mut Disk, update: Super) {
        match update {
            Super::View(mut record) => {
                assert!(record.headers.len() <= disk.headers_max(), "a superblock has their room");
                record.commit_max = record.commit_max.max(disk.record.commit_max);
                disk.record = record;
            }
            Super::Checkpoint(header) => {
                disk.record.commit_max = disk.record.commit_max.max(Summary::of(&header).op);
                disk.take_checkpoint(*header);
            }
        }
    }

    /// Runs until this time.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until something is true; returns whether it came to that before `end`.
    pub(crate) fn run_until_true(&mut self, end: u64, done: impl Fn(&World) -> bool) -> bool {
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// What happens next, unless it is after `end`.
    fn step(&mut self, end: u64) -> bool {
        let deadline =
            |(index, node): (usize, &Node)| Some((node.replica.as_ref()?.deadline_ns()?, index));
        let timer = self.nodes.iter().enumerate().filter_map(deadline).min();
        let event = self.queue.peek().map(|Reverse((at, _))| *at);
        let next = timer.map(|(at, _)| at).into_iter().chain(event).min();
        let Some(at) = next.filter(|at| *at <= end) else { return false };
        self.now = self.now.max(at);
        if event.is_some_and(|event| event <= at) {
            let Reverse((_, id)) = self.queue.pop().expect("looked at just now");
            let (node, life, event) = self.events.remove(&id).expect("scheduled once");
            if self.nodes[node].life == life {
                self.happen(node, event);
                self.turn(node);
            }
        } else if let Some((_, node)) = timer {
            self.turn(node);
        }
        true
    }

    fn happen(&mut self, node: usize, event: Event) {
        let moment = self.moment();
        let this = &mut self.nodes[node];
        let replica = this.replica.as_mut().expect("events of a life end with it");
        match event {
            Event::Deliver { from, header, body } => {
                replica.on_message(from, &header, &body, moment);
            }
            Event::Placed { op, frame } => self.write(node, op, frame),
            Event::Written { op, frame } => {
                let place = this.writing.iter().position(|(_, other)| other[..] == frame[..]);
                this.writing.swap_remove(place.expect("it was being written"));
                this.disk.write(&frame, true);
                this.written_at = self.now;
                replica.on_journal_written(op, frame);
                self.say(|| format!("{node} has op={op} durable"));
            }
            Event::Super(update) => {
                this.updating = None;
                Self::apply(&mut this.disk, update.clone());
                match update {
                    Super::View(record) => {
                        replica.on_view_durable(record.view, record.log_view);
                        let ViewRecord { view, log_view, .. } = record;
                        self.say(|| format!("{node} has view={view} log_view={log_view} durable"));
                    }
                    Super::Checkpoint(header) => {
                        let op = Summary::of(&header).op;
                        replica.on_checkpoint(op, CheckpointId(u128::from(op.0)));
                    }
                }
            }
            Event::Read(read) => {
                let stored = this.disk.get(read.op, read.checksum).filter(|stored| stored.good);
                let frame = stored.map(|stored| {
                    let mut buffer = Buffer::zeroed(stored.bytes.len());
                    buffer.copy_from_slice(&stored.bytes);
                    buffer.freeze()
                });
                replica.on_prepare_read(read, frame);
            }
        }
    }

    /// A turn of a member's driver: everything the replica wants done is begun.
    pub(crate) fn turn(&mut self, node: usize) {
        let moment = self.moment();
        if !self.is_up(node) {
            return;
        }
        self.replica(node).advance(moment);
        if let Some(divergence) = self.replica(node).diverged() {
            assert!(self.sabotage == Sabotage::Lies, "member {node}: {divergence}");
        }
        while let Some(append) = self.replica(node).next_append() {
            let op = Summary::of(&append.header).op;
            let frame = append.buffer.freeze();
            if self.script.is_none() && self.random.chance(4) {
                let delay = self.random.below(2 * MS);
                self.schedule(node, delay, Event::Placed { op, frame });
            } else {
                self.write(node, op, frame);
            }
        }
        while let Some(read) = self.replica(node).next_read() {
            let delay = self.disk_delay(node);
            self.schedule(node, delay, Event::Read(read));
        }
        self.give_out(node);
        while let Some(answer) = self.replica(node).next_read_index() {
            self.say(|| match answer.commit {
                Some(op) => format!("{node} reads as of op={op}"),
                None => format!("{node} must ask again"),
            });
            self.ledger.answer(answer.tag.0, answer.commit);
        }
        self.update(node);
        while let Some(send) = self.replica(node).next_send() {
            self.transmit(node, &send);
        }
    }

    /// Begins to write a frame.
    fn write(&mut self, node: usize, op: Op, frame: Frozen) {
        self.nodes[node].writing.push((op, frame.clone()));
        self.replica(node).on_frame(&frame);
        let delay = self.disk_delay(node);
        self.schedule(node, delay, Event::Written { op, frame });
    }

    fn give_out(&mut self, node: usize) {
        while let Some(commit) = self.replica(node).next_commit() {
            let (op, checksum) = (Summary::of(&commit.header).op, commit.header.checksum());
            let this = &mut self.nodes[node];
            assert_eq!(op, this.given.next(), "member {node} gives out each op once");
            this.given = op;
            this.given_header = Some(commit.header);
            if self.sabotage == Sabotage::Lies {
                Requests::verify(commit.body()).expect("what commits can be applied");
                continue;
            }
            let copies = self.copies(op, checksum);
            let quorum = usize::from(Quorums::of(self.config.replica_count).replication);
            self.say(|| format!("{node} commits op={op}"));
            let taken = &mut self.nodes[node].taken;
            self.ledger.commit(&commit, (copies, quorum), |tag| taken.remove(&tag));
        }
        while let Some(dropped) = self.replica(node).next_dropped() {
            let Dropped { tag, may_happen, .. } = dropped;
            self.say(|| format!("{node} drops a request, may_happen={may_happen}"));
            assert!(self.nodes[node].taken.remove(&tag.0), "a request is answered once");
            self.ledger.drop_request(tag.0, may_happen);
        }
    }

    /// How many members have a prepare on their disks.
    fn copies(&self, op: Op, checksum: Checksum) -> usize {
        self.nodes.iter().filter(|node| node.disk.had(op, checksum)).count()
    }

    /// Begins an update of the superblock, if one is wanted and none is under way.
    fn update(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.updating.is_some() {
            return;
        }
        let replica = this.replica.as_mut().expect("only members that are up take turns");
        let checkpoint =
            || this.checkpoint_wanted.take().map(|header| Super::Checkpoint(Box::new(header)));
        let Some(update) = replica.view_to_persist().map(Super::View).or_else(checkpoint) else {
            return;
        };
        this.updating = Some(update.clone());
        let delay = 2 * self.disk_delay(node);
        self.schedule(node, delay, Event::Super(update));
    }

    fn disk_delay(&mut self, node: usize) -> u64 {
        if self.script.is_some() {
            return 200 * US * self.nodes[node].slowness;
        }
        let usual = 50 * US + self.random.below(250 * US);
        let late = if self.random.chance(50) { self.random.below(8 * MS) } else { 0 };
        (usual + late) * self.nodes[node].slowness
    }

    fn transmit(&mut self, from: usize, send: &Send) {
        let (header, mut body) = (send.header, send.body().to_vec());
        let target = usize::from(send.to.0);
        if self.sabotage == Sabotage::Lies {
            self.lie(from, target, &header, &body);
        } else {
            let disk = &self.nodes[from].disk;
            self.ledger.hear(from, &header, &disk.record);
            if let Some(PrepareOk { op, prepare, .. }) = header.tail() {
                assert!(disk.had(op, prepare), "member {from} acknowledges op {op} too early");
            }
        }
        let happens = |random: &mut Random, of_thousand: u64| random.below(1000) < of_thousand;
        let lost = happens(&mut self.random, self.weather.lost);
        if self.cut[from][target] || lost || !self.is_up(target) {
            return;
        }
        let copies = 1 + u64::from(happens(&mut self.random, self.weather.twice));
        if happens(&mut self.random, self.weather.damaged) && !body.is_empty() {
            let place = self.random.below(body.len() as u64) as usize;
            body[place] ^= 1;
        }
        self.say(|| {
            let again = if matches!(send.body, Body::Repair(_)) { " again" } else { "" };
            format!("{from} -> {target} {}{again}", message(&header))
        });
        for _ in 0..copies {
            let late = happens(&mut self.random, self.weather.late);
            let tail = if late { self.random.below(400 * MS) } else { 0 };
            let usual = if self.script.is_some() { 0 } else { self.random.below(80 * US) };
            let delay = 20 * US + usual + tail;
            let from = ReplicaId(from as u8);
            let (header, body) = (Box::new(header), body.clone());
            self.schedule(target, delay, Event::Deliver { from, header, body });
        }
    }

    /// Sends a message once more, altered, now and then.
    fn lie(&mut self, from: usize, target: usize, header: &Header, body: &[u8]) {
        assert_ne!(from, target, "nobody sends to itself");
        if header.command() == Command::Prepare {
            let place = self.lies as usize % PREPARES_KEPT;
            if self.prepares.len() < PREPARES_KEPT {
                self.prepares.push((*header, body.to_vec()));
            } else {
                self.prepares[place] = (*header, body.to_vec());
            }
        }
        if self.is_up(target)
            && self.random.chance(3)
            && let Some((header, body)) = alter(&mut self.random, header, body)
        {
            self.lies += 1;
            let (from, header) = (ReplicaId(from as u8), Box::new(header));
            let delay = self.random.below(MS);
            self.schedule(target, delay, Event::Deliver { from, header, body });
        }
    }

    /// Brings a member a message.
    pub(crate) fn bring(&mut self, node: usize, from: ReplicaId, header: &Header, body: &[u8]) {
        let moment = self.moment();
        self.replica(node).on_message(from, header, body, moment);
    }

    /// Brings a member messages that nobody sent.
    pub(crate) fn forge(&mut self, node: usize, count: u64) {
        for _ in 0..count {
            let Some(replica) = self.nodes[node].replica.as_mut() else { return };
            let mut forger = Forger {
                random: &mut self.random,
                report: replica.report(),
                cluster: self.config.cluster,
                members: self.config.replica_count,
                window: self.config.log_budget / 4096,
                prepares: &self.prepares,
            };
            let (from, header, body) = forger.forge();
            self.lies += 1;
            self.bring(node, from, &header, &body);
            let Report { op, checkpoint, .. } = self.replica(node).report();
            assert!(op.0 <= checkpoint.0 + self.config.log_budget / 4096, "its log is bounded");
        }
        self.turn(node);
    }

    /// Offers a request to a member; returns its tag if it was taken.
    pub(crate) fn request(&mut self, node: usize, size: usize) -> Option<u64> {
        let tag = self.next_tag;
        let mut bytes = Vec::new();
        let value = vec![tag as u8; size];
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(tag)).expect("vectors grow");
        let put = OperationView::on_key(Opcode::Put, TableId(0), b"k").with_value(&value);
        builder.push(&put).expect("vectors grow");
        builder.finish();
        let request = Requests::of_body(&bytes).next().expect("one request");
        let taken = self.replica(node).on_request(&request).is_ok();
        if taken {
            self.next_tag += 1;
            self.nodes[node].taken.insert(tag);
            self.turn(node);
        }
        taken.then_some(tag)
    }

    /// Has a member ask for a read index.
    pub(crate) fn read(&mut self, node: usize) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.ledger.ask(tag);
        if self.replica(node).read_index(ClientTag(tag)).is_err() {
            self.ledger.answer(tag, None);
        }
        self.turn(node);
    }

    /// Has a member take a checkpoint that leaves all others what they may need.
    pub(crate) fn checkpoint(&mut self, node: usize) {
        let history = &self.ledger.history;
        let solid = self.nodes.iter().map(|node| node.disk.solid(history)).min();
        let op = solid.expect("a cluster has members").min(self.nodes[node].given);
        self.checkpoint_at(node, op);
    }

    pub(crate) fn checkpoint_at(&mut self, node: usize, op: Op) {
        let this = &mut self.nodes[node];
        if op > this.disk.checkpoint_op() && this.updating.is_none() && this.replica.is_some() {
            this.checkpoint_wanted = Some(self.ledger.headers[op.0 as usize - 1]);
            self.turn(node);
        }
    }

    /// Has a member take a checkpoint of all that it has given out, whatever others may need.
    pub(crate) fn checkpoint_given(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.updating.is_none() && this.replica.is_some() {
            this.checkpoint_wanted = this.given_header.take();
            self.turn(node);
        }
    }

    /// Damages a frame of a member that another one still has; each op on one member only.
    pub(crate) fn damage(&mut self, node: usize) {
        let released = self.nodes.iter().map(|node| {
            let wanted = match &node.updating {
                Some(Super::Checkpoint(header)) => Some(&**header),
                _ => node.checkpoint_wanted.as_ref(),
            };
            wanted.map_or(Op(0), |header| Summary::of(header).op).max(node.disk.checkpoint_op())
        });
        let released = released.max();
        let released = released.expect("a cluster has members");
        let members = self.members() as u64;
        let ops = self.nodes[node].disk.frames.keys().map(|(op, _)| *op);
        let ops: Vec<Op> =
            ops.filter(|op| *op > released && op.0 % members == node as u64).collect();
        if !ops.is_empty() {
            let op = ops[self.random.below(ops.len() as u64) as usize];
            self.damage_op(node, op, released);
        }
    }

    /// Damages the body of a frame, whatever that means.
    pub(crate) fn damage_body(&mut self, node: usize, op: Op) {
        let frames = self.nodes[node].disk.frames.range_mut((op, 0)..=(op, u128::MAX));
        frames.for_each(|(_, stored)| stored.good = false);
    }

    fn damage_op(&mut self, node: usize, op: Op, released: Op) -> bool {
        let lose = self.random.chance(2);
        let history = &self.ledger.history;
        let told = self.nodes[node].disk.damage(op, lose, released, history);
        self.say(|| format!("{node} op {op} damaged: {told}"));
        told
    }

    /// An op commits on two members of three, is damaged on one of them, and the other one dies:
    /// the two that are left cannot know whether it was committed, and must wait.
    pub(crate) fn lose_all_but_one_copy(&mut self) -> bool {
        let Some(primary) = self.primary().filter(|_| self.is_calm()) else { return false };
        let (damaged, away) = ((primary + 1) % 3, (primary + 2) % 3);
        self.cut = Default::default();
        for other in [primary, damaged] {
            (self.cut[other][away], self.cut[away][other]) = (true, true);
        }
        self.request(primary, 8);
        self.run_until(self.now + 10 * MS);
        self.mark(damaged);
        let op = self.nodes[damaged].disk.frames.keys().map(|(op, _)| *op).max();
        let released = self.nodes.iter().map(|node| node.disk.checkpoint_op()).max();
        let released = released.expect("a cluster has members");
        let op = op.filter(|op| op.0 % 3 == damaged as u64 && *op > released);
        let done = op.is_some_and(|op| self.damage_op(damaged, op, released));
        for node in [primary, damaged] {
            if self.is_up(node) {
                self.crash(node);
            }
        }
        self.cut = Default::default();
        self.start(damaged);
        self.run_until(self.now + 2000 * MS);
        done
    }

    /// Whether three members are up and nobody's disk is to be updated.
    fn is_calm(&self) -> bool {
        let calm = |node: &Node| {
            node.replica.is_some() && node.updating.is_none() && node.checkpoint_wanted.is_none()
        };
        self.members() == 3 && self.nodes.iter().all(calm)
    }

    /// Has a quiet member write a marker.
    pub(crate) fn mark(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let quiet = this.writing.is_empty() && self.now >= this.written_at + 5 * MS;
        if let Some(replica) = this.replica.as_ref().filter(|_| quiet) {
            this.disk.mark(replica.commit());
        }
    }

    /// Whether all members that are up are in one view, follow its primary, and have given out the
    /// whole history.
    pub(crate) fn is_converged(&self) -> bool {
        let head = self.ledger.head();
        let primary = self.primary().and_then(|index| self.nodes[index].replica.as_ref());
        let Some(view) = primary.map(|primary| primary.report().view) else { return false };
        self.nodes.iter().filter_map(|node| Some((node, node.replica.as_ref()?))).all(
            |(node, replica)| {
                let report = replica.report();
                let follows = report.status == Status::Normal && report.view == view;
                follows && node.given == head && report.op == head
            },
        )
    }

    /// One line about each member.
    pub(crate) fn describe(&self) -> String {
        let line = |(index, node): (usize, &Node)| {
            let replica = node.replica.as_ref().map(Replica::report);
            let updating = node.updating.is_some();
            format!("{index}: given {} updating {updating} {replica:?}\n", node.given)
        };
        self.nodes.iter().enumerate().map(line).collect()
    }
}
