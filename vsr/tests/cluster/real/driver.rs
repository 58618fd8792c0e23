//! A member as a node drives it: replica, journal, superblock, and a network that is a queue.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::{BufferPool, Frozen, Queue, spawn};
use vsr::format::{Configuration, DataDirectory, FormatOptions, OpenOptions, format};
use vsr::journal::recovery::RecoveredOp;
use vsr::journal::{Journal, Options, RecoveredMember, Summary};
use vsr::replica::{Append, Config, Moment, PrepareRead, Quorums, Replica, ViewRecord};
use vsr::superblock::{Checkpoint, State, ZONE_SIZE};
use wire::message::PrepareOk;
use wire::{
    CheckpointId, ClientTag, ClusterId, Command, Header, Op, Opcode, OperationView, ReplicaId,
    RequestBuilder, Requests, TableId, View,
};

use super::{MEMBERS, Packet, Shared};

const DIR: &str = "/replica";
pub(super) const JOURNAL: &str = "/replica/journal";

/// Five segments of 96 KiB: everything wraps.
fn configuration() -> Configuration {
    Configuration {
        replica_count: MEMBERS as u8,
        shard_count: 1,
        prepare_size_max: 8 << 10,
        value_size_max: 4 << 10,
        journal_segment_size: 96 << 10,
        journal_segment_count: 5,
        ..Configuration::test_min()
    }
}

/// Where the journal's sectors begin in its file, and how many there are.
pub(super) fn sectors() -> (u64, u64) {
    let first = ZONE_SIZE as u64;
    (first, (configuration().journal_file_size() - first) / 4096)
}

pub(super) async fn make(index: usize) {
    let replica = ReplicaId(index as u8);
    let mut options = FormatOptions::new(ClusterId(7), replica, configuration());
    options.shift_sectors_max = 1;
    format(Path::new(DIR), &options, async |_, _, _| Ok(()), |_, _| ()).await.expect("formatted");
}

fn moment() -> Moment {
    Moment { monotonic_ns: ioring::now().as_nanos(), wall_ns: ioring::wall_clock().0 }
}

/// What an operation of the disk came to.
enum Done {
    Written(Op, Frozen),
    Read(PrepareRead, Option<Frozen>),
    View(View, View),
    Checkpoint(Op),
}

struct Driver {
    index: usize,
    shared: Rc<RefCell<Shared>>,
    directory: DataDirectory,
    journal: Journal,
    replica: RefCell<Replica>,
    done: RefCell<VecDeque<Done>>,
    updating: Cell<bool>,
    taken: RefCell<Vec<u64>>,
}

/// One life of a member.
pub(super) async fn live(index: usize, shared: Rc<RefCell<Shared>>) {
    let options = OpenOptions::default();
    let directory = DataDirectory::open(Path::new(DIR), &options).await.expect("it opens");
    let state = directory.superblock.state();
    let recovered =
        Journal::recover_member(&directory.journal, &state, Options { recent_max: 4 }).await;
    let (journal, recovered) = recovered.expect("journal and superblock belong together");
    compare(index, &mut shared.borrow_mut(), &state, &recovered);
    let replica = rejoin(index, &shared, &state, &recovered);
    let driver = Rc::new(Driver {
        index,
        shared,
        directory,
        journal,
        replica: RefCell::new(replica),
        done: RefCell::default(),
        updating: Cell::new(false),
        taken: RefCell::default(),
    });
    while !driver.shared.borrow().stopping {
        driver.turn();
        let pause = 50 + driver.shared.borrow_mut().random.below(150);
        ioring::sleep(Duration::from_micros(pause)).await;
    }
    driver.stop().await;
}

/// What the member acknowledged in the log view of its superblock must be there.
fn compare(index: usize, shared: &mut Shared, state: &State, recovered: &RecoveredMember) {
    let log = &recovered.log;
    let mut found: Vec<Header> = log.strays.clone();
    let mut damaged = Vec::new();
    for (position, op) in (1..).zip(&log.ops) {
        match op {
            RecoveredOp::Present(header) => found.push(*header),
            RecoveredOp::Damaged(_) => damaged.push(Op(log.checkpoint_op.0 + position)),
            RecoveredOp::Absent(_) => {}
        }
    }
    let seen = &shared.seen[index];
    for (view, op, checksum) in &seen.acknowledged {
        let counts = *view == state.log_view.0 && *op > log.checkpoint_op;
        let there = found.iter().any(|header| header.checksum() == *checksum);
        let known = there || (seen.damaged && damaged.contains(op));
        assert!(!counts || known, "member {index} acknowledged op {op} in view {view}: {log:?}");
    }
    for header in &found {
        let version = (Summary::of(header).op, header.checksum().0);
        shared.durable.entry(version).or_default()[index] = true;
    }
}

fn rejoin(
    index: usize,
    shared: &Rc<RefCell<Shared>>,
    state: &State,
    recovered: &RecoveredMember,
) -> Replica {
    let configuration = &state.configuration;
    let config = Config {
        replica_count: MEMBERS as u8,
        prepare_size_max: configuration.prepare_size_max as usize,
        pipeline_max: usize::from(configuration.pipeline_max),
        parallel_size: 2048,
        seed: shared.borrow_mut().random.next_u64(),
        ..Config::new(ClusterId(7), ReplicaId(index as u8), configuration.log_budget())
    };
    let record = ViewRecord {
        view: state.view,
        log_view: state.log_view,
        headers: state.view_headers.clone(),
        commit_max: state.commit_max,
    };
    let pool = BufferPool::new("prepares", config.frame_size_max(), 32);
    let checkpoint = (state.checkpoint.header, state.checkpoint.id);
    let mut shared = shared.borrow_mut();
    let seen = &mut shared.seen[index];
    seen.given = state.checkpoint.op;
    seen.solid = state.checkpoint.op.max(seen.solid);
    Replica::rejoined(config, pool, &recovered.log, &record, checkpoint, moment())
}

impl Driver {
    /// Everything that can be done now.
    fn turn(self: &Rc<Driver>) {
        self.replica.borrow_mut().advance(moment());
        self.receive();
        while let Some(done) = { self.done.borrow_mut().pop_front() } {
            self.finish(done);
        }
        while let Some(append) = { self.replica.borrow_mut().next_append() } {
            let this = self.clone();
            spawn(Queue::Replication, "write", async move { this.write(append).await }).detach();
        }
        while let Some(read) = { self.replica.borrow_mut().next_read() } {
            let this = self.clone();
            let task = async move {
                let frame = this.journal.read(read.op, read.checksum).await.ok();
                this.done.borrow_mut().push_back(Done::Read(read, frame));
            };
            spawn(Queue::Replication, "read", task).detach();
        }
        self.commit();
        self.update();
        self.transmit();
        if self.journal.is_full() {
            self.give_up();
        }
        let report = self.replica.borrow().report();
        self.shared.borrow_mut().seen[self.index].report = Some(report);
    }

    fn receive(&self) {
        let now = ioring::now().as_nanos();
        let mut replica = self.replica.borrow_mut();
        let mut later = VecDeque::new();
        let inbox = std::mem::take(&mut self.shared.borrow_mut().seen[self.index].inbox);
        for packet in inbox {
            if packet.at_ns > now {
                later.push_back(packet);
                continue;
            }
            let from = ReplicaId(packet.from as u8);
            replica.on_message(from, &packet.header, &packet.body, moment());
        }
        let mut shared = self.shared.borrow_mut();
        shared.seen[self.index].inbox = later;
        let requests = std::mem::take(&mut shared.seen[self.index].requests);
        for (tag, size) in requests {
            if offer(&mut replica, tag, size) {
                self.taken.borrow_mut().push(tag);
            }
        }
    }

    fn finish(&self, done: Done) {
        match done {
            Done::Written(op, frame) => {
                let header = Header::verify(&frame[vsr::journal::FRAME_HEADER_SIZE..]);
                let checksum = header.expect("a frame has a header").checksum();
                let mut shared = self.shared.borrow_mut();
                shared.durable.entry((op, checksum.0)).or_default()[self.index] = true;
                drop(shared);
                self.replica.borrow_mut().on_journal_written(op, frame);
                self.journal.note_commit(self.replica.borrow().commit());
            }
            Done::Read(read, frame) => self.replica.borrow_mut().on_prepare_read(read, frame),
            Done::View(view, log_view) => {
                self.updating.set(false);
                self.replica.borrow_mut().on_view_durable(view, log_view);
                self.give_up();
            }
            Done::Checkpoint(op) => {
                self.updating.set(false);
                self.journal.release(op);
                let id = CheckpointId(u128::from(op.0));
                self.replica.borrow_mut().on_checkpoint(op, id);
                self.give_up();
            }
        }
    }

    fn give_up(&self) {
        let replica = self.replica.borrow();
        self.journal.give_up(|op, checksum| replica.has_given_up(op, checksum));
    }

    async fn write(&self, append: Append) {
        let frame = self.journal.frame(append.buffer).await;
        let bytes = frame.bytes().clone();
        self.replica.borrow_mut().on_frame(&bytes);
        let op = self.journal.append(frame).await;
        self.done.borrow_mut().push_back(Done::Written(op, bytes));
    }

    fn commit(&self) {
        while let Some(commit) = { self.replica.borrow_mut().next_commit() } {
            let version = (Summary::of(&commit.header).op, commit.header.checksum().0);
            let mut shared = self.shared.borrow_mut();
            let copies = shared
                .durable
                .get(&version)
                .map_or(0, |members| members.iter().filter(|durable| **durable).count());
            let quorum = usize::from(Quorums::of(MEMBERS as u8).replication);
            let taken = self.taken.borrow();
            shared.ledger.commit(&commit, (copies, quorum), |tag| taken.contains(&tag));
            shared.seen[self.index].given = version.0;
        }
        while let Some(dropped) = { self.replica.borrow_mut().next_dropped() } {
            let ledger = &mut self.shared.borrow_mut().ledger;
            ledger.drop_request(dropped.tag.0, dropped.may_happen);
        }
        let mut shared = self.shared.borrow_mut();
        let mut solid = shared.seen[self.index].solid;
        while let Some(checksum) = shared.ledger.history.get(solid.0 as usize) {
            let durable = shared.durable.get(&(solid.next(), checksum.0));
            if durable.is_none_or(|members| !members[self.index]) {
                break;
            }
            solid = solid.next();
        }
        shared.seen[self.index].solid = solid;
    }

    /// One update of the superblock at a time: a view first.
    fn update(self: &Rc<Driver>) {
        if self.updating.get() {
            return;
        }
        let this = self.clone();
        if let Some(record) = self.replica.borrow().view_to_persist() {
            self.updating.set(true);
            let task = async move {
                let ViewRecord { view, log_view, headers, commit_max } = record;
                let raise = move |state: &mut State| {
                    (state.view, state.log_view) = (view, log_view);
                    state.view_headers = headers;
                    state.commit_max = state.commit_max.max(commit_max);
                };
                this.directory.superblock.update(raise).await;
                this.done.borrow_mut().push_back(Done::View(view, log_view));
            };
            return spawn(Queue::Replication, "view", task).detach();
        }
        let given = self.shared.borrow().seen[self.index].given;
        let wanted = self.shared.borrow().seen[self.index].checkpoint.min(given);
        if wanted <= self.directory.superblock.state().checkpoint.op {
            return;
        }
        self.updating.set(true);
        let header = self.shared.borrow().ledger.headers[wanted.0 as usize - 1];
        let task = async move {
            let id = CheckpointId(u128::from(wanted.0));
            let take = move |state: &mut State| {
                let before = state.checkpoint.clone();
                state.checkpoint = Checkpoint { op: wanted, header: Some(header), id, ..before };
                state.commit_max = state.commit_max.max(wanted);
            };
            this.directory.superblock.update(take).await;
            this.done.borrow_mut().push_back(Done::Checkpoint(wanted));
        };
        spawn(Queue::Replication, "checkpoint", task).detach();
    }

    fn transmit(&self) {
        let state = self.directory.superblock.state();
        let durable = ViewRecord {
            view: state.view,
            log_view: state.log_view,
            headers: Vec::new(),
            commit_max: state.commit_max,
        };
        while let Some(send) = { self.replica.borrow_mut().next_send() } {
            let mut shared = self.shared.borrow_mut();
            shared.ledger.hear(self.index, &send.header, &durable);
            if send.header.command() == Command::PrepareOk {
                let ok = send.header.tail::<PrepareOk>().expect("the command says so");
                let said = (send.header.view().0, ok.op, ok.prepare);
                shared.seen[self.index].acknowledged.push(said);
            }
            let to = usize::from(send.to.0);
            let lost = shared.random.below(100) < shared.lost;
            if !shared.cut[self.index][to] && !lost {
                let at_ns = ioring::now().as_nanos() + 1000 * shared.random.below(100);
                let (header, body) = (send.header, send.body().to_vec());
                let packet = Packet { at_ns, from: self.index, header, body };
                shared.seen[to].inbox.push_back(packet);
            }
        }
    }

    /// Waits for what is under way and closes the journal.
    async fn stop(self: Rc<Driver>) {
        let mut this = self;
        loop {
            match Rc::try_unwrap(this) {
                Ok(driver) => return driver.journal.close().await,
                Err(busy) => this = busy,
            }
            ioring::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Offers a request; returns whether it was taken.
fn offer(replica: &mut Replica, tag: u64, size: usize) -> bool {
    let mut bytes = Vec::new();
    let value = vec![tag as u8; size];
    let mut builder = RequestBuilder::new(&mut bytes, ClientTag(tag)).expect("vectors grow");
    let put = OperationView::on_key(Opcode::Put, TableId(0), b"k").with_value(&value);
    builder.push(&put).expect("vectors grow");
    builder.finish();
    let request = Requests::of_body(&bytes).next().expect("one request");
    replica.on_request(&request).is_ok()
}
