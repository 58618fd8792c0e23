//! The connections between the replicas of a cluster.
//!
//! ```text
//!   this node                               a peer
//!   send ──► outbox ──► dialed connection ──► accepted connection ──► on_message
//!            (a connection for each class)    (newest of each class)
//! ```
//!
//! Each of a pair dials the other and sends on what it dialed; on what it accepted it only
//! receives. So nobody has to agree on which of two connections counts, and a connection has one
//! owner who makes it anew.
//!
//! # A connection for each class
//!
//! Heartbeats and votes must not wait behind prepares, nor prepares behind a repair. Within one TCP
//! stream they would, and cutting the large ones into pieces does not help: what the kernel has
//! taken can no longer be overtaken, which with its buffers is megabytes, and a receiver without a
//! buffer for a prepare closes the window for everything behind it, so that a slow disk would look
//! like a dead primary. So each [`Class`] has a connection of its own. Between classes there is no
//! order: a commit may overtake the prepare it commits. Within a class messages arrive in the order
//! of sending, as long as the connection lasts.
//!
//! # What is promised
//!
//! 1. A message that is delivered is whole, its header and body verified, of this cluster, and of
//!    the replica that greeted on the connection: prepares alone bear the name
//!    of the primary that made them.
//! 2. Nothing else is promised: a message may be lost with its connection, or dropped because the
//!    peer does not take them as fast as they come. The protocol repeats what
//!    matters, and is told what became of a push.
//! 3. Memory is bounded, whoever connects: by the outboxes, by one buffer of the pool for each
//!    connection that receives into it, by as many strangers as there is room for.
//! 4. Nothing blocks the core, and every wait has a limit or an end that another event brings. A
//!    peer whose host is silent loses its connection after [`SILENCE_MAX`]; one that is alive and
//!    says nothing is the protocol's to notice.
//! 5. Messages are sent and received without an allocation for each.
//!
//! | file | what |
//! | --- | --- |
//! | `class` | which connection a message takes |
//! | `greeting`, `fault` | who is let in, and what others are told |
//! | `assemble`, `reader` | from bytes to messages |
//! | `outbox`, `link`, `report` | what waits to be sent, and what was counted |
//! | `dial`, `backoff`, `resolve` | connections that are made |
//! | `accept` | connections that are taken |

mod accept;
mod assemble;
mod backoff;
mod class;
mod dial;
mod fault;
mod greeting;
mod link;
mod outbox;
mod reader;
mod report;
mod resolve;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ioring::{Buffer, BufferPool, Frozen, Instant, Listener, Queue, spawn};
use vsr::journal::frame_size;
use wire::{Command, ErrorCode, Header, Incarnation, ReplicaId};

use crate::native::Newcomer;
use fault::Ended;
use greeting::Known;
use link::Pair;

pub use assemble::{Body, CONTROL_BODY_MAX};
pub use class::{CLASSES, Class};
pub use fault::{Fault, Refusal};
pub use greeting::Member;
pub use report::{PairReport, PeerReport, PeersReport, Receiving, Sending, State, gauges};

/// How long the other host may be silent before a connection is given up: shorter than a stalled
/// TCP connection needs to come back after a partition of some seconds, longer than a lost packet.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// How long each step of greeting may take.
const GREETING_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a forward that is sent from a copy in the outbox; a larger one has a buffer of its own.
const FORWARD_COPIED_MAX: usize = 72 << 10;
/// How many strangers are remembered, and for how long, so that each is logged once.
const STRANGERS_LOGGED: usize = 16;
const STRANGER_AGE: Duration = Duration::from_secs(60);

/// What the connections are made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub member: Member,
    /// `host:port` of every member in order, this node's included.
    pub addresses: Vec<String>,
    /// Bytes of the largest prepare, header included.
    pub prepare_size_max: usize,
    /// Frames that wait for one peer at most, prepares and transfers each: what a peer that does
    /// not take them keeps from the pool, apart from as many that are being sent.
    pub frames_max: usize,
}

/// Who is told what arrives.
pub trait Deliver {
    /// A message of a peer: see the module for what that means. Prepares are in buffers of the pool
    /// that the connections were given.
    fn on_message(&self, from: ReplicaId, header: &Header, body: Body<'_>);
}

struct Remote {
    pairs: [Pair; CLASSES],
    /// What was logged last of a refusal.
    refused: RefCell<Option<String>>,
    round_trip_ns: Cell<u64>,
}

/// The connections of a node.
pub struct Peers {
    config: Config,
    /// Where prepares are received.
    pool: BufferPool,
    deliver: Rc<dyn Deliver>,
    /// Of every member; this node's own is not used.
    remotes: Vec<Remote>,
    known: Known,
    strangers: RefCell<VecDeque<(IpAddr, ErrorCode, Instant)>>,
    strangers_refused: Cell<u64>,
    clients: OnceCell<Box<dyn Fn(Newcomer)>>,
}

impl Peers {
    /// Takes connections on `listener` and makes those to the other members, from now on, on this
    /// core. Bodies that belong to the log are received into buffers of `pool`.
    ///
    /// # Panics
    /// If there is not an address for each member, or a prepare does not fit a buffer.
    pub fn start(
        config: Config,
        pool: BufferPool,
        listener: Listener,
        deliver: Rc<dyn Deliver>,
    ) -> Rc<Peers> {
        let Config { member, addresses, prepare_size_max, frames_max } = &config;
        assert_eq!(addresses.len(), usize::from(member.replica_count), "an address for each");
        assert!(member.replica.0 < member.replica_count, "this node is a member");
        assert!(pool.buffer_size() >= frame_size(*prepare_size_max), "a prepare fits a buffer");
        let remote = |_: &String| Remote {
            pairs: Class::ALL.map(|class| Pair::new(class, *frames_max)),
            refused: RefCell::default(),
            round_trip_ns: Cell::default(),
        };
        let peers = Rc::new(Peers {
            remotes: addresses.iter().map(remote).collect(),
            known: Known::new(member.replica_count),
            config,
            pool,
            deliver,
            strangers: RefCell::default(),
            strangers_refused: Cell::default(),
            clients: OnceCell::new(),
        });
        spawn(Queue::Replication, "accept peers", accept::accept(peers.clone(), listener)).detach();
        for to in peers.others() {
            for class in Class::ALL {
                spawn(Queue::Replication, "dial", dial::keep(peers.clone(), to, class)).detach();
            }
        }
        peers
    }

    /// Hands connections of clients to `serve` from now on.
    ///
    /// # Panics
    /// If somebody serves them already.
    pub fn serve_clients(&self, serve: impl Fn(Newcomer) + 'static) {
        let set = self.clients.set(Box::new(serve));
        assert!(set.is_ok(), "clients are served by one");
    }

    /// The other members.
    pub fn others(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let Member { replica, replica_count, .. } = self.config.member;
        (0..replica_count).map(ReplicaId).filter(move |other| *other != replica)
    }

    /// Sends a message of the class control; `false` if it was dropped.
    ///
    /// # Panics
    /// If the command is of another class, or `to` is this node.
    pub fn send(&self, to: ReplicaId, header: &Header, body: &[u8]) -> bool {
        assert!(Class::Control.carries(header.command()), "{header:?} is not for control");
        assert_eq!(body.len(), header.body_size(), "a message is whole");
        let link = &self.pair(to, Class::Control).link;
        let pushed = link.outbox.borrow_mut().push(header.bytes(), body);
        link.pushed(pushed)
    }

    /// Sends a prepare, header and body as they lie in its frame; `false` if it was dropped. The
    /// class is [`Class::Prepares`] for the pipeline and [`Class::Transfers`] for a repair.
    ///
    /// # Panics
    /// If the class does not carry prepares, or `to` is this node.
    pub fn send_prepare(&self, to: ReplicaId, class: Class, message: &Frozen) -> bool {
        assert!(class.carries(Command::Prepare), "prepares do not go by {class:?}");
        let link = &self.pair(to, class).link;
        let pushed = link.outbox.borrow_mut().push_frame(message);
        link.pushed(pushed)
    }

    /// Bytes of the largest body of a forward or its answer.
    #[must_use]
    pub fn forward_size_max(&self) -> usize {
        self.config.prepare_size_max
    }

    /// Sends a block of a grid; `false` if it was dropped.
    ///
    /// # Panics
    /// If the command is another, or `to` is this node.
    pub fn send_block(&self, to: ReplicaId, header: &Header, block: &[u8]) -> bool {
        assert_eq!(header.command(), Command::Block, "{header:?} is no block");
        let head = header.bytes();
        let mut message = Buffer::zeroed(head.len() + block.len());
        message[..head.len()].copy_from_slice(head);
        message[head.len()..].copy_from_slice(block);
        let link = &self.pair(to, Class::Transfers).link;
        let pushed = link.outbox.borrow_mut().push_frame(&message.freeze());
        link.pushed(pushed)
    }

    /// Sends writes that are passed on, or their outcomes; `false` if that was dropped.
    ///
    /// # Panics
    /// If it is neither, or `to` is this node.
    pub fn forward(&self, to: ReplicaId, header: &Header, body: &[u8]) -> bool {
        assert!(Class::Forwards.carries(header.command()), "{header:?} is not a forward");
        let link = &self.pair(to, Class::Forwards).link;
        let size = header.bytes().len() + body.len();
        let pushed = if size <= FORWARD_COPIED_MAX {
            link.outbox.borrow_mut().push(header.bytes(), body)
        } else {
            let mut message = Buffer::zeroed(size);
            message[..header.bytes().len()].copy_from_slice(header.bytes());
            message[header.bytes().len()..].copy_from_slice(body);
            link.outbox.borrow_mut().push_frame(&message.freeze())
        };
        link.pushed(pushed)
    }

    /// The log says which incarnation a member has: another one is refused from now on.
    pub fn learn(&self, replica: ReplicaId, incarnation: Incarnation) {
        self.known.learn(replica, incarnation);
    }

    /// How the connections stand and what they have carried.
    #[must_use]
    pub fn report(&self) -> PeersReport {
        let report = |replica: ReplicaId| {
            let index = usize::from(replica.0);
            let remote = &self.remotes[index];
            PeerReport {
                replica: replica.0,
                address: self.config.addresses[index].clone(),
                round_trip_ns: remote.round_trip_ns.get(),
                classes: remote.pairs.iter().map(Pair::report).collect(),
            }
        };
        let peers = self.others().map(report).collect();
        PeersReport { peers, strangers_refused: self.strangers_refused.get() }
    }

    fn pair(&self, to: ReplicaId, class: Class) -> &Pair {
        assert_ne!(to, self.config.member.replica, "a replica has no connection to itself");
        &self.remotes[usize::from(to.0)].pairs[class.index()]
    }

    /// A connection to a peer has lasted.
    fn on_fit(&self, to: ReplicaId) {
        *self.remotes[usize::from(to.0)].refused.borrow_mut() = None;
    }

    fn on_refused(&self, to: ReplicaId, refusal: &Refusal) {
        let text = refusal.to_string();
        let before = self.remotes[usize::from(to.0)].refused.replace(Some(text.clone()));
        if before.as_ref() != Some(&text) {
            let address = &self.config.addresses[usize::from(to.0)];
            tracing::error!(replica = %to, address, "a peer and this node do not fit: {text}");
        }
    }

    fn on_stranger(&self, from: SocketAddr, code: ErrorCode, why: &Ended) {
        let mut strangers = self.strangers.borrow_mut();
        let now = ioring::now();
        strangers.retain(|(_, _, at)| now - *at < STRANGER_AGE);
        if strangers.iter().any(|(ip, known, _)| (*ip, *known) == (from.ip(), code)) {
            return;
        }
        if strangers.len() == STRANGERS_LOGGED {
            strangers.pop_front();
        }
        strangers.push_back((from.ip(), code, now));
        tracing::warn!(%from, %code, "a connection was refused: {why}");
    }

    /// A moving average over about eight of them.
    fn on_round_trip(&self, from: ReplicaId, round_trip_ns: u64) {
        let average = &self.remotes[usize::from(from.0)].round_trip_ns;
        let before = average.get();
        let next =
            if before == 0 { round_trip_ns } else { before - before / 8 + round_trip_ns / 8 };
        average.set(next);
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers(of replica {})", self.config.member.replica)
    }
}
