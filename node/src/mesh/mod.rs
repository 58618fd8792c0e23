//! What goes between the cores of a node, and why no core ever waits for another in a circle.
//!
//! Cores share nothing: each has its shards, its connections and its tasks, and everything else
//! goes by lanes ([`ioring::lane`]: bounded, first in first out, one sender and one receiver).
//! There is a lane per pair of cores and class, so that a full lane of one class holds up no other:
//!
//! | class | from → to | carries | capacity | when it is full |
//! | --- | --- | --- | --- | --- |
//! | writes | i → 0 | encoded requests | [`BATCHES`] | connections wait to hand over more |
//! | commits | 0 → i | prepares by reference, "checkpoint durable" | [`COMMITS`] | never |
//! | reports | i → 0 | groups, checkpoint roots, what is applied | [`BATCHES`] | they gather |
//! | asks | i → j | look-ups, read indexes, log time, steps of walks | [`BATCHES`] | they gather |
//! | replies | i → j | outcomes, votes, answers | [`BATCHES`] | they gather |
//! | connections | 0 → i | accepted sockets | [`CONNECTIONS`] | accepting waits |
//!
//! All but commits and connections travel in *batches* ([`batch`], [`post`]): whoever has something
//! for another core appends it to that core's pending batch and goes on; a task per lane, the
//! flusher, sends what has gathered by the time it runs, which is behind everything that is
//! runnable now. So a turn of the scheduler costs one message per destination, and at most one
//! wake-up, however much it brings. Empty batches go back to their sender on a lane of their own:
//! nothing is allocated.
//!
//! # Why nothing deadlocks
//!
//! 1. *Whoever receives reports, asks, replies or commits never waits.* Reports move the schedule
//!    on, replies complete runs and count votes, asks are answered out of memory or stand in line
//!    for the readers, commits are applied as far as they can be at once. So these lanes always
//!    drain, and flushers always get on.
//! 2. *Whoever produces them never waits either*: it appends to a batch. What may gather is bounded
//!    by what is outstanding: the look-ups and outcomes of runs (one per connection), the votes of
//!    one request per core, the groups of [`lsm::bar`]. The one part of it that is large, values
//!    read for another core, waits in the readers ([`GATHER_MAX`]).
//! 3. *Commits always fit.* A committed prepare in a lane is a reference to its frame. A live one
//!    is of the pool of prepares ([`PREPARES`]), which has fewer frames than the lane has places; a
//!    replay gives out no more than [`REPLAY_AHEAD`] ops beyond what every core has applied, a
//!    member of a cluster no more than [`COMMITS_AHEAD`]. Of "durable" there are two at most: a
//!    checkpoint needs roots of every core, which come after the bar end that waited for the
//!    checkpoint before. So the replica's core gives commits out without waiting, and asserts that
//!    it could.
//! 4. *Writes wait for room in the log*, and room comes from the journal, from what cores have
//!    applied and from checkpoints: from commits, reports and votes, never from writes.
//!
//! # The end
//!
//! A core that ends drops its lanes. Whoever receives from it then sees the lane closed and ends
//! too ([`Mesh::ended`]): no thread is left behind, whichever core was first and why.

pub mod batch;
pub mod post;
mod receive;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use ioring::sync::{Event, oneshot};
use ioring::{Accepted, Inbox, Outbox, lane};
use wire::{Op, Outcome, RootReference, ShardId, Timestamp, Version};

use self::batch::{Answer, Ask, Ballot, Packed, Query, Reply};
use self::post::{Incoming, Post, pipe};
use crate::core::{Admission, Core};
use crate::gateway::runs::Tag;
use crate::replica::pulse::Work;
use crate::server::Opening;
use crate::shard::apply::Committed;
use crate::topology::CoreIndex;

/// Batches in a lane.
pub const BATCHES: usize = 32;
/// Prepares that shards may still hold while they are applied.
pub const APPLYING: usize = 8;
/// Prepares that the journal keeps in memory for whoever asks for them again.
pub const RECENT: usize = 8;
/// Prepares in flight that a format admits.
const PIPELINE_MAX: usize = vsr::superblock::VIEW_HEADERS_MAX - 1;
/// Frames of prepares that a node has at most: the open one, the pipeline, and the above.
pub const PREPARES: usize = 1 + PIPELINE_MAX + RECENT + APPLYING;
/// Ops that a replay gives out beyond what every core has applied.
pub const REPLAY_AHEAD: u64 = 8;
/// The same of commits, in a cluster: a member that catches up reads them from its journal.
pub const COMMITS_AHEAD: u64 = 32;
/// Commits in a lane.
pub const COMMITS: usize = 64;
/// Accepted connections in a lane.
pub const CONNECTIONS: usize = 64;
/// Bytes of writes, or of values read for another core, that gather before more waits.
pub const GATHER_MAX: usize = 256 << 10;

const _: () = assert!(COMMITS >= PREPARES + 2 + 2, "prepares, durables, opening and closing");
const _: () = assert!(COMMITS as u64 >= REPLAY_AHEAD + 1 + 2 + 2, "the same in a replay");
const _: () = assert!(COMMITS as u64 >= COMMITS_AHEAD + 1 + 2 + 2, "the same in a cluster");

/// What the replica's core tells the others.
pub enum Commit {
    /// Open your shards.
    Open(Box<Opening>),
    /// A prepare is committed: apply what is yours.
    Prepare(Committed),
    /// A checkpoint is durable.
    Durable(Op),
    /// The node stops: take no more connections, and say when nobody waits any more.
    Stop,
}

/// What a core tells the replica's.
#[derive(Debug)]
pub enum Report {
    /// Its shards are open; with the sessions, if one of them keeps them.
    Opened(Vec<u8>),
    /// The outcome of an operation of a session's request: the prepare, the request's first
    /// operation in it, the operation in the request, and where in the batch the outcome lies.
    Outcome(Op, u32, u32, Range<usize>),
    /// A group's end, and its fullest memtable.
    Group(u64, u64),
    /// The root that a shard's checkpoint came to.
    Root(Op, ShardId, RootReference),
    /// How far it is; the newest one counts.
    Summary(Summary),
    /// The node stops, and nobody waits here.
    Quiet,
}

/// How far a core is, for the replica's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// The last op applied in full.
    pub applied: Op,
    /// What its grids have space for.
    pub admission: Admission,
    /// Whether one of them has a block that cannot be read.
    pub damaged: bool,
    /// What of its work waits for ops.
    pub work: Work,
}

/// What a read of several keys is as of: an op that is committed, and its newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadIndex {
    /// The op; a core applies up to it first.
    pub op: Op,
    /// The version.
    pub version: Version,
}

/// A core's ends of all lanes, before it runs.
pub struct Ends {
    core: CoreIndex,
    peers: Vec<Option<PeerEnds>>,
    role: RoleEnds,
}

struct PeerEnds {
    asks: Post<Ask>,
    replies: Post<Reply>,
    asks_in: Incoming<Ask>,
    replies_in: Incoming<Reply>,
}

#[expect(clippy::large_enum_variant, reason = "there is one for each core")]
enum RoleEnds {
    First(Vec<Option<FirstEnds>>),
    Other {
        writes: Post<()>,
        reports: Post<Report>,
        commits: Inbox<Commit>,
        connections: Inbox<Accepted>,
    },
}

struct FirstEnds {
    commits: Outbox<Commit>,
    connections: Outbox<Accepted>,
    writes: Incoming<()>,
    reports: Incoming<Report>,
}

/// What the replica's core sends to another by lanes of its own, and what it receives.
type FirstOut = (Outbox<Commit>, Outbox<Accepted>);
type FirstIn = (Incoming<()>, Incoming<Report>);

/// Lanes between so many cores: each core's ends.
#[must_use]
pub fn connect(cores: u16) -> Vec<Ends> {
    let count = usize::from(cores);
    let none = || (0..count).map(|_| None).collect::<Vec<Option<_>>>();
    let mut peers: Vec<Vec<Option<PeerEnds>>> = (0..count).map(|_| none()).collect();
    let pairs = (0..count).flat_map(|low| (low + 1..count).map(move |high| (low, high)));
    for (low, high) in pairs {
        let (low_asks, at_high_asks) = pipe(BATCHES);
        let (low_replies, at_high_replies) = pipe(BATCHES);
        let (high_asks, at_low_asks) = pipe(BATCHES);
        let (high_replies, at_low_replies) = pipe(BATCHES);
        peers[low][high] = Some(PeerEnds {
            asks: low_asks,
            replies: low_replies,
            asks_in: at_low_asks,
            replies_in: at_low_replies,
        });
        peers[high][low] = Some(PeerEnds {
            asks: high_asks,
            replies: high_replies,
            asks_in: at_high_asks,
            replies_in: at_high_replies,
        });
    }
    let mut first = vec![None];
    let mut others = Vec::new();
    for _ in 1..count {
        let (commits_out, commits) = lane(COMMITS);
        let (connections_out, connections) = lane(CONNECTIONS);
        let (writes, writes_in) = pipe(BATCHES);
        let (reports, reports_in) = pipe(BATCHES);
        first.push(Some(FirstEnds {
            commits: commits_out,
            connections: connections_out,
            writes: writes_in,
            reports: reports_in,
        }));
        others.push(RoleEnds::Other { writes, reports, commits, connections });
    }
    let roles = std::iter::once(RoleEnds::First(first)).chain(others);
    let ends = (0..cores).map(CoreIndex).zip(peers).zip(roles);
    ends.map(|((core, peers), role)| Ends { core, peers, role }).collect()
}

impl Ends {
    /// Whose they are.
    #[must_use]
    pub fn core(&self) -> CoreIndex {
        self.core
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> u16 {
        self.peers.len() as u16
    }

    /// Has every other core open its shards.
    pub fn open(&self, opening: impl Fn(CoreIndex) -> Opening) {
        let RoleEnds::First(others) = &self.role else { unreachable!("the replica's core opens") };
        for (core, other) in (0..).map(CoreIndex).zip(others) {
            if let Some(other) = other {
                // A core that has ended is noticed when it is waited for.
                drop(other.commits.try_send(Commit::Open(Box::new(opening(core)))));
            }
        }
    }

    /// Waits until the replica's core says what to open; `None` if it ended first.
    pub async fn opening(&self) -> Option<Box<Opening>> {
        let RoleEnds::Other { commits, .. } = &self.role else {
            unreachable!("the replica's core is not told")
        };
        match commits.recv().await? {
            Commit::Open(opening) => Some(opening),
            _ => unreachable!("the first thing said is what to open"),
        }
    }
}

struct Peer {
    asks: Post<Ask>,
    replies: Post<Reply>,
}

#[expect(clippy::large_enum_variant, reason = "there is one for each core")]
enum Role {
    First {
        commits: Vec<Option<Outbox<Commit>>>,
        connections: Vec<Option<Outbox<Accepted>>>,
        seen: RefCell<Vec<Summary>>,
    },
    Other {
        writes: Post<()>,
        reports: Post<Report>,
        durable: Cell<Op>,
        became_durable: Event,
    },
}

/// A core's way to the others. With one core there are none, and nothing here is used.
pub struct Mesh {
    peers: Vec<Option<Peer>>,
    role: Role,
    /// A core ended.
    ended: Event,
    is_ended: Cell<bool>,
    /// Cores whose shards are open, and cores where nobody waits for anything any more.
    opened: Cell<usize>,
    quiet: Cell<usize>,
    progressed: Event,
    stop: Event,
    indexes: Indexes,
    queries: RefCell<BTreeMap<u64, oneshot::Sender<Answer>>>,
    query_next: Cell<u64>,
}

/// Read indexes that were asked for: one round at a time.
#[derive(Default)]
struct Indexes {
    /// The last round asked for, and the last one answered with its answer.
    asked: Cell<u64>,
    answered: Cell<u64>,
    index: Cell<ReadIndex>,
    came: Event,
}

/// What a core receives, until its tasks take it.
pub struct Inboxes {
    peers: Vec<Option<(Incoming<Ask>, Incoming<Reply>)>>,
    first: Vec<Option<(Incoming<()>, Incoming<Report>)>>,
    other: Option<(Inbox<Commit>, Inbox<Accepted>)>,
}

impl Mesh {
    /// The sending side and the receiving side of a core's ends. `checkpoint` is the op of the
    /// durable checkpoint.
    #[must_use]
    pub fn new(ends: Ends, checkpoint: Op) -> (Mesh, Inboxes) {
        let mut inboxes = Inboxes { peers: Vec::new(), first: Vec::new(), other: None };
        let mut peers = Vec::new();
        for peer in ends.peers {
            let (peer, inbox) = peer.map(PeerEnds::split).unzip();
            peers.push(peer);
            inboxes.peers.push(inbox);
        }
        let role = match ends.role {
            RoleEnds::First(others) => {
                let (mut commits, mut connections) = (Vec::new(), Vec::new());
                for other in others {
                    let (outboxes, inbox) = other.map(FirstEnds::split).unzip();
                    let (commit, connection) = outboxes.unzip();
                    commits.push(commit);
                    connections.push(connection);
                    inboxes.first.push(inbox);
                }
                let summary = Summary { applied: checkpoint, ..Summary::default() };
                let seen = RefCell::new(vec![summary; commits.len()]);
                Role::First { commits, connections, seen }
            }
            RoleEnds::Other { writes, reports, commits, connections } => {
                inboxes.other = Some((commits, connections));
                let (durable, became_durable) = (Cell::new(checkpoint), Event::new());
                Role::Other { writes, reports, durable, became_durable }
            }
        };
        let mesh = Mesh {
            peers,
            role,
            ended: Event::new(),
            is_ended: Cell::new(false),
            opened: Cell::new(0),
            quiet: Cell::new(0),
            progressed: Event::new(),
            stop: Event::new(),
            indexes: Indexes::default(),
            queries: RefCell::default(),
            query_next: Cell::new(0),
        };
        (mesh, inboxes)
    }

    /// Whether there is one core.
    #[inline]
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.peers.len() == 1
    }

    fn peer(&self, core: CoreIndex) -> &Peer {
        self.peers[core.index()].as_ref().expect("there are lanes to every other core")
    }

    fn others(&self) -> usize {
        self.peers.len() - 1
    }

    // ---- the replica's core ----

    /// Gives a committed prepare to all other cores.
    pub fn commit(&self, committed: &Committed) {
        self.tell(|| Commit::Prepare(committed.clone()));
    }

    /// Tells all other cores that a checkpoint is durable.
    pub fn durable(&self, op: Op) {
        self.tell(|| Commit::Durable(op));
    }

    /// Tells all other cores that the node stops.
    pub fn stop_all(&self) {
        self.tell(|| Commit::Stop);
    }

    /// Gives a connection to another core.
    pub async fn hand_over(&self, to: CoreIndex, accepted: Accepted) {
        let Role::First { connections, .. } = &self.role else {
            unreachable!("the replica's core accepts")
        };
        let lane = connections[to.index()].as_ref().expect("there are lanes to every other core");
        // Nobody serves it when that core has ended: it is closed.
        drop(lane.send(accepted).await);
    }

    fn tell(&self, commit: impl Fn() -> Commit) {
        let Role::First { commits, .. } = &self.role else { return };
        for outbox in commits.iter().flatten() {
            let sent = outbox.try_send(commit());
            assert!(sent.is_ok() || outbox.is_closed(), "what may be outstanding fits the lane");
        }
    }

    /// What the other cores last said; empty with one core.
    pub fn summaries<R>(&self, look: impl FnOnce(&[Summary]) -> R) -> R {
        match &self.role {
            // The first is this core's own place, which is not used.
            Role::First { seen, .. } => look(&seen.borrow()[1..]),
            Role::Other { .. } => unreachable!("summaries come to the replica's core"),
        }
    }

    /// Whether another core has said that a block of its grids cannot be read.
    #[must_use]
    pub fn is_damaged(&self, core: CoreIndex) -> bool {
        match &self.role {
            Role::First { seen, .. } => seen.borrow()[core.index()].damaged,
            Role::Other { .. } => unreachable!("summaries come to the replica's core"),
        }
    }

    /// The last op that every other core has applied, if there are any.
    #[must_use]
    pub fn applied(&self) -> Option<Op> {
        self.summaries(|summaries| summaries.iter().map(|summary| summary.applied).min())
    }

    /// Waits until every other core has opened its shards. `false` if one ended first.
    pub async fn wait_opened(&self) -> bool {
        self.wait_until(|| self.opened.get() == self.others()).await
    }

    /// Waits until every other core has applied an op. `false` if one ended first.
    pub async fn wait_applied(&self, op: Op) -> bool {
        self.wait_until(|| self.applied().is_none_or(|applied| applied >= op)).await
    }

    /// Waits until nobody waits on any other core, after [`Mesh::stop_all`].
    pub async fn wait_quiet(&self) {
        self.wait_until(|| self.quiet.get() == self.others()).await;
    }

    async fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        while !done() {
            if self.is_ended.get() {
                return false;
            }
            self.progressed.wait().await;
        }
        true
    }

    // ---- other cores ----

    fn reports(&self) -> &Post<Report> {
        match &self.role {
            Role::Other { reports, .. } => reports,
            Role::First { .. } => unreachable!("the replica's core reports to itself"),
        }
    }

    /// Hands encoded requests over to the log; waits while too many gather.
    pub async fn submit(&self, writes: &[u8]) {
        let Role::Other { writes: post, .. } = &self.role else {
            unreachable!("the replica's core submits by itself")
        };
        post.wait_for_room(GATHER_MAX).await;
        post.put(|batch| batch.bytes.extend_from_slice(writes));
    }

    /// Tells the replica's core something.
    pub fn report(&self, report: Report) {
        self.reports().put(|batch| match (batch.items.last_mut(), report) {
            (Some(Report::Summary(last)), Report::Summary(newer)) => *last = newer,
            (_, report) => batch.items.push(report),
        });
    }

    /// Sends the outcome of an operation of a session's request.
    pub fn session_outcome(&self, op: Op, first: u32, index: u32, outcome: &Outcome<'_>) {
        self.reports().put(|batch| {
            let start = batch.bytes.len();
            outcome.encode(&mut batch.bytes).expect("vectors grow");
            batch.items.push(Report::Outcome(op, first, index, start..batch.bytes.len()));
        });
    }

    /// Waits until a checkpoint of `op`, or a newer one, is durable.
    pub async fn wait_durable(&self, op: Op) {
        let Role::Other { durable, became_durable, .. } = &self.role else {
            unreachable!("the replica's core makes checkpoints durable")
        };
        while durable.get() < op {
            became_durable.wait().await;
        }
    }

    /// Waits until the node stops, or a core has ended.
    pub async fn wait_stop(&self) {
        self.stop.wait().await;
    }

    /// The version of an op that contains everything acknowledged before this was called. All that
    /// wait for one get it in one round.
    pub async fn read_index(&self) -> ReadIndex {
        let indexes = &self.indexes;
        // An answer on its way may be older than this call.
        let wanted = indexes.asked.get() + 1;
        while indexes.answered.get() < wanted {
            if indexes.asked.get() == indexes.answered.get() {
                indexes.asked.set(indexes.asked.get() + 1);
                let round = indexes.asked.get();
                self.ask(CoreIndex::REPLICA, |batch| batch.items.push(Ask::Index(round)));
            }
            indexes.came.wait().await;
        }
        indexes.index.get()
    }

    /// Has the replica's core make sure that an op commits that passes the deadline, as soon as its
    /// clock has.
    pub fn request_time(&self, deadline: Timestamp) {
        self.ask(CoreIndex::REPLICA, |batch| batch.items.push(Ask::Time(deadline)));
    }

    // ---- any core ----

    /// Appends to what another core is asked.
    pub fn ask(&self, core: CoreIndex, put: impl FnOnce(&mut batch::Batch<Ask>)) {
        self.peer(core).asks.put(put);
    }

    /// Appends to what another core is answered.
    pub fn reply(&self, core: CoreIndex, put: impl FnOnce(&mut batch::Batch<Reply>)) {
        self.peer(core).replies.put(put);
    }

    /// Sends an outcome to the core of its connection.
    #[inline]
    pub fn outcome(&self, tag: Tag, index: u32, outcome: &Outcome<'_>) {
        self.reply(tag.core, |batch| {
            let packed = Packed::pack(outcome, &mut batch.bytes);
            batch.items.push(Reply::Outcome(tag, index, packed));
        });
    }

    /// Sends a vote.
    pub fn vote(&self, to: CoreIndex, ballot: Ballot) {
        self.reply(to, |batch| batch.items.push(Reply::Ballot(ballot)));
    }

    /// Whether few enough bytes wait for the way to a core that more may be added at once.
    #[must_use]
    pub fn has_room(&self, core: CoreIndex) -> bool {
        self.peer(core).replies.pending_bytes() < GATHER_MAX
    }

    /// Waits until that is so.
    pub async fn wait_for_room(&self, core: CoreIndex) {
        self.peer(core).replies.wait_for_room(GATHER_MAX).await;
    }

    /// Asks another core something and waits for the answer; `None` when that core ends.
    pub async fn query(&self, core: CoreIndex, query: Query) -> Option<Answer> {
        let number = self.query_next.replace(self.query_next.get() + 1);
        let (sender, receiver) = oneshot::channel();
        self.queries.borrow_mut().insert(number, sender);
        self.ask(core, |batch| batch.items.push(Ask::Query(number, query)));
        receiver.await
    }

    /// The same of all other cores, in order.
    pub async fn query_all(&self, query: impl Fn() -> Query) -> Vec<Answer> {
        let cores = (0..).map(CoreIndex).zip(&self.peers);
        let others = cores.filter(|(_, peer)| peer.is_some()).map(|(core, _)| core);
        let answers = ioring::join_all(others.map(|core| self.query(core, query()))).await;
        answers.into_iter().flatten().collect()
    }

    /// Waits until a core has ended.
    pub async fn ended(&self) {
        while !self.is_ended.get() {
            self.ended.wait().await;
        }
    }

    fn end(&self) {
        self.is_ended.set(true);
        self.ended.notify();
        self.progressed.notify();
        self.stop.notify();
    }
}

impl PeerEnds {
    fn split(self) -> (Peer, (Incoming<Ask>, Incoming<Reply>)) {
        (Peer { asks: self.asks, replies: self.replies }, (self.asks_in, self.replies_in))
    }
}

impl FirstEnds {
    fn split(self) -> (FirstOut, FirstIn) {
        ((self.commits, self.connections), (self.writes, self.reports))
    }
}

impl Core {
    /// Starts the tasks that send and receive.
    pub fn start_mesh(&self, inboxes: Inboxes) {
        receive::start(&self.this(), inboxes);
    }
}
