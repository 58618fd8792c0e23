//! Replica, journal and superblock together, in the simulator, through crashes at any step.
//!
//! One simulated node formats a directory and then lives many lives. In each it recovers, replays,
//! raises its view and takes requests and checkpoints until it is killed or loses power at a step
//! that the seed chooses: in the middle of recovery, of a frame, of a superblock update. A ledger
//! outside of the node remembers which requests were given out as committed, at which op. Every
//! recovery must find all of them that are not below the checkpoint, at their op and unchanged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Clock, Config, Crash, World};
use ioring::{BufferPool, Queue, spawn};
use vsr::format::{Configuration, DataDirectory, FormatOptions, OpenOptions, format};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE, Journal, Options};
use vsr::replica::{Append, Config as ReplicaConfig, LogHead, Moment, RecoveredLog, Replica};
use wire::message::Prepare;
use wire::{
    CheckpointId, ClientTag, ClusterId, Header, Op, Opcode, OperationView, ReplicaId,
    RequestBuilder, Requests, TableId, Timestamp,
};

const DIR: &str = "/data";
const LIVES: u64 = 12;
/// Requests that a life takes before it ends by itself.
const REQUESTS: u64 = 60;

/// What the world outside of the node was told.
#[derive(Default)]
struct Ledger {
    committed: BTreeMap<Op, (Timestamp, Vec<u64>)>,
    next_tag: u64,
    checkpoints: u64,
    replayed: u64,
}

impl Ledger {
    /// An op is committed, again or for the first time.
    fn commit(&mut self, header: &Header, body: &[u8]) {
        let prepare = header.tail::<Prepare>().expect("a prepare");
        let tags: Vec<u64> = Requests::of_body(body).map(|request| request.tag().0).collect();
        let this = (prepare.timestamp, tags);
        match self.committed.get(&prepare.op) {
            Some(before) => assert_eq!(*before, this, "op {} changed", prepare.op),
            None => {
                let last = self.committed.last_key_value();
                let (op, time) = last.map_or_else(Default::default, |(op, (time, _))| (*op, *time));
                assert_eq!(prepare.op, op.next(), "no committed op is lost");
                assert!(prepare.timestamp > time, "time strictly increases");
                self.committed.insert(prepare.op, this);
            }
        }
    }
}

type Shared = Rc<RefCell<Ledger>>;

fn moment() -> Moment {
    Moment { monotonic_ns: ioring::now().as_nanos(), wall_ns: ioring::wall_clock().0 }
}

async fn make() {
    let configuration = Configuration::test_min();
    let mut options = FormatOptions::new(ClusterId(9), ReplicaId(0), configuration);
    options.shift_sectors_max = 1;
    format(Path::new(DIR), &options, async |_, _, _| Ok(()), |_, _| ()).await.expect("formatted");
}

/// A node that serves.
struct Node {
    directory: DataDirectory,
    journal: Journal,
    replica: RefCell<Replica>,
    ledger: Shared,
    newest: RefCell<Option<Header>>,
}

/// Opens, recovers and replays; checks the log against the ledger.
async fn recover(ledger: Shared) -> Node {
    let options = OpenOptions::default();
    let directory = DataDirectory::open(Path::new(DIR), &options).await.expect("it opens");
    let state = directory.superblock.state();
    let (journal, recovered) =
        Journal::recover_solo(&directory.journal, &state, Options::default())
            .await
            .expect("nothing that was durable is lost");
    let root = || LogHead::root(state.identity.cluster);
    let mut log = RecoveredLog::at_checkpoint(
        state.checkpoint.header.as_ref().map_or_else(root, LogHead::of),
    );
    let (mut newest, mut replayed) = (None, Vec::new());
    let mut frames = journal.replay(log.head().op.next(), recovered.head).expect("all are there");
    while let Some(frame) = frames.next().await.expect("all are good") {
        let header = Header::verify(&frame[FRAME_HEADER_SIZE..]).expect("a frame has a header");
        log.replay(&header).expect("the chain holds");
        newest = Some(header);
        replayed.push((header, frame[BODY_OFFSET..][..header.body_size()].to_vec()));
    }
    drop(frames);
    let known = ledger.borrow().committed.last_key_value().map_or(Op(0), |(op, _)| *op);
    assert!(log.head().op >= known, "op {} of {known} is the last", log.head().op);

    let configuration = &state.configuration;
    let config = ReplicaConfig {
        prepare_size_max: configuration.prepare_size_max as usize,
        pipeline_max: usize::from(configuration.pipeline_max),
        parallel_size: 2048,
        ..ReplicaConfig::new(ClusterId(9), ReplicaId(0), configuration.log_budget())
    };
    let pool = BufferPool::new("prepares", config.frame_size_max(), 32);
    let (id, view) = (state.checkpoint.id, state.view);
    let commit_max = recovered.commit_max;
    let mut replica = Replica::recovered(config, pool, &log, id, view, commit_max, moment())
        .expect("the log reaches the commit number");
    let raised = recovered.raise_view(&directory.superblock).await;
    replica.on_view_durable(raised.view, raised.log_view);
    // Alone, what was found is committed; but only from here on, a crash before may still lose it.
    for (header, body) in replayed {
        ledger.borrow_mut().commit(&header, &body);
        ledger.borrow_mut().replayed += 1;
    }
    let (replica, newest) = (RefCell::new(replica), RefCell::new(newest));
    Node { directory, journal, replica, ledger, newest }
}

impl Node {
    /// Offers a request of a random size; it may be refused.
    fn request(&self, random: &mut ioring::Random) {
        let tag = self.ledger.borrow().next_tag;
        let value = vec![tag as u8; (random.next_u64() % 3000) as usize];
        let mut bytes = Vec::new();
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(tag)).expect("vectors grow");
        let put = OperationView::on_key(Opcode::Put, TableId(0), b"k").with_value(&value);
        builder.push(&put).expect("vectors grow");
        builder.finish();
        let request = Requests::of_body(&bytes).next().expect("one request");
        if self.replica.borrow_mut().on_request(&request).is_ok() {
            self.ledger.borrow_mut().next_tag += 1;
        }
    }

    fn turn(self: &Rc<Self>) {
        self.replica.borrow_mut().advance(moment());
        loop {
            let next = self.replica.borrow_mut().next_append();
            let Some(append) = next else { return };
            let (node, delay) = (self.clone(), ioring::random("writers").next_u64() % 40);
            spawn(Queue::Replication, "writer", async move { node.write(append, delay).await })
                .detach();
        }
    }

    async fn write(self: &Rc<Self>, append: Append, delay_us: u64) {
        // Frames need not lie in the order of their ops.
        ioring::sleep(Duration::from_micros(delay_us)).await;
        let frame = self.journal.frame(append.buffer).await;
        let bytes = frame.bytes().clone();
        let op = self.journal.append(frame).await;
        self.replica.borrow_mut().on_journal_written(op, bytes);
        self.journal.note_commit(self.replica.borrow().commit());
        loop {
            let next = self.replica.borrow_mut().next_commit();
            let Some(commit) = next else { break };
            self.ledger.borrow_mut().commit(&commit.header, commit.body());
            self.newest.replace(Some(commit.header));
        }
        self.turn();
    }

    /// Makes all that is committed a checkpoint.
    async fn checkpoint(&self) {
        let Some(header) = self.newest.take() else { return };
        let op = header.tail::<Prepare>().expect("a prepare").op;
        let id = CheckpointId(u128::from(op.0));
        let state = self.directory.superblock.update(|state| {
            state.checkpoint.op = op;
            state.checkpoint.header = Some(header);
            state.checkpoint.id = id;
            state.commit_max = state.commit_max.max(op);
        });
        state.await;
        self.journal.release(op);
        self.replica.borrow_mut().on_checkpoint(op, id);
        self.ledger.borrow_mut().checkpoints += 1;
    }
}

async fn live(ledger: Shared) {
    let node = Rc::new(recover(ledger.clone()).await);
    let mut random = ioring::random("load");
    let last = ledger.borrow().next_tag + REQUESTS;
    while ledger.borrow().next_tag < last || !node.replica.borrow().is_idle() {
        for _ in 0..random.next_u64() % 6 {
            if ledger.borrow().next_tag < last {
                node.request(&mut random);
            }
        }
        node.turn();
        if random.next_u64().is_multiple_of(16) {
            node.checkpoint().await;
        }
        ioring::sleep(Duration::from_micros(random.next_u64() % 150)).await;
    }
}

/// Many lives of one directory; returns how many of them were cut off, and the ledger.
fn lives(seed: u64) -> (u64, Ledger) {
    let mut world = World::new(seed, Config::default());
    let node = world.add_node("solo");
    world.run(node, make).expect("format is not disturbed");
    let ledger = Shared::default();
    let mut cut_off = 0;
    for life in 0..LIVES {
        let noise = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(life * 7919);
        let crash = if noise.is_multiple_of(2) { Crash::Process } else { Crash::Power };
        world.disk(node).reseed_crashes(noise);
        world.set_clock(
            node,
            Clock { offset_ns: -((noise % 1_000_000_000) as i64), ..Clock::default() },
        );
        // Some die young, in recovery; some grow old, and their log long.
        let age_max = [1500, 150, 500][(life % 3) as usize];
        world.crash_at(node, (noise >> 20) % age_max, crash);
        let shared = ledger.clone();
        cut_off += u64::from(world.run(node, || live(shared)).is_err());
    }
    world.crash_never(node);
    let shared = ledger.clone();
    world.run(node, || live(shared)).expect("an undisturbed life ends by itself");
    let told: u64 = ledger.borrow().committed.values().map(|(_, tags)| tags.len() as u64).sum();
    assert!(told >= REQUESTS, "the last life's requests are answered");
    (cut_off, ledger.take())
}

#[test]
fn what_was_committed_survives_every_crash() {
    let (mut cut_off, mut checkpoints, mut replayed) = (0, 0, 0);
    for seed in 0..100 {
        let (crashes, ledger) = lives(seed);
        cut_off += crashes;
        checkpoints += ledger.checkpoints;
        replayed += ledger.replayed;
    }
    assert!(cut_off > 500, "only {cut_off} lives were cut off");
    assert!(checkpoints > 100, "only {checkpoints} checkpoints");
    assert!(replayed > 1000, "only {replayed} ops were replayed");
}
