//! The node as the simulator starts it: a directory made by `format`, and the server over it, alone
//! or as a member of a cluster.
//!
//! [`node::server::serve`] is what a core runs in production. What surrounds it there, the control
//! plane's thread and signals, is replaced by a task on each core: it looks at what the core
//! reports now and then, and asks the node to stop when a life is to end in good order.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Direct, Outbox, Queue, lane, select, spawn};
use node::config::{Config, Cores, Idle, LogFormat};
use node::connection::Limits;
use node::control::Question;
use node::metrics::Counter;
use node::server::{First, Options, Part, Shared, StartError};
use node::status::ReplicaReport;
use tokio::sync::oneshot;
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

/// The data directory.
pub const DIR: &str = "/data";
/// Where the node listens.
pub const PORT: u16 = 6400;
/// Where a member of a cluster listens for the others.
pub const PEERS_PORT: u16 = 7400;
/// So short that scrubs read blocks all the time.
const SCRUB_CYCLE: Duration = Duration::from_millis(20);
/// Bytes of page cache: so few that reads go to the disk.
const CACHE_BYTES: u64 = 64 << 10;

/// Values that make everything happen often: a journal of which a few dozen prepares fill a
/// segment, bars every few ops, checkpoints every few bars. Three bars of the log are the least
/// that a node needs between checkpoints, which is where the number of segments comes from.
#[must_use]
pub fn configuration() -> Configuration {
    Configuration {
        journal_segment_count: 12,
        grid_size_max: 256 << 20,
        compression: [0, 1, 2, 2, 2, 2, 2, 2],
        ..Configuration::test_min()
    }
}

/// Makes the directory.
///
/// # Errors
/// What `format` says.
pub async fn format() -> Result<(), String> {
    format_member(0, configuration()).await
}

/// Makes the directory of a member of a cluster.
///
/// # Errors
/// What `format` says.
pub async fn format_member(replica: u8, configuration: Configuration) -> Result<(), String> {
    let options = FormatOptions::new(ClusterId(1), ReplicaId(replica), configuration);
    let made = node::server::format_here(Path::new(DIR), &options, |_, _| {}).await;
    made.map_err(|error| error.to_string())
}

/// The cores of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many.
    pub cores: u16,
    /// Whether the first is without shards.
    pub dedicated: bool,
}

impl Shape {
    /// One core.
    pub const ONE: Shape = Shape { cores: 1, dedicated: false };
    /// Two cores with shards.
    pub const TWO: Shape = Shape { cores: 2, dedicated: false };
    /// Two cores with shards, and one for the replica.
    pub const THREE: Shape = Shape { cores: 3, dedicated: true };
    /// Those that are tried.
    pub const ALL: [Shape; 3] = [Shape::ONE, Shape::TWO, Shape::THREE];

    /// Each in its turn.
    #[must_use]
    pub fn of(seed: u64) -> Shape {
        Shape::ALL[(seed % 3) as usize]
    }
}

/// What looks at a node from within, and stops it.
pub struct Watch {
    /// Time between two looks, and of a scrub's cycle.
    every: Duration,
    stop: Event,
    stops: Cell<bool>,
    replica: RefCell<Option<ReplicaReport>>,
    /// Looks at a core, and blocks that its scrubs had read at the last of them.
    looks: Cell<u64>,
    blocks: Cell<u64>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new(SCRUB_CYCLE)
    }
}

impl Watch {
    /// One that looks so often.
    #[must_use]
    pub fn new(every: Duration) -> Watch {
        Watch {
            every,
            stop: Event::new(),
            stops: Cell::default(),
            replica: RefCell::default(),
            looks: Cell::default(),
            blocks: Cell::default(),
        }
    }

    /// What the replica said of itself when it was looked at last.
    #[must_use]
    pub fn replica(&self) -> Option<ReplicaReport> {
        self.replica.borrow().clone()
    }

    /// Stops the node in good order.
    pub fn stop(&self) {
        self.stops.set(true);
        self.stop.notify();
    }

    /// How often a core was looked at, and how many blocks its scrubs had read at most.
    #[must_use]
    pub fn seen(&self) -> (u64, u64) {
        (self.looks.get(), self.blocks.get())
    }

    /// Nothing damages the disks of these worlds, so a scrub that finds something is wrong, or the
    /// node damaged it.
    async fn look(&self, ask: &Outbox<Question>) {
        let (answer, report) = oneshot::channel();
        // It fails when the node ends first.
        if ask.send(Question::Report(answer)).await.is_err() {
            return;
        }
        let Ok(report) = report.await else { return };
        let faults = report.metrics.get(Counter::ScrubFaults);
        assert_eq!(faults, 0, "a scrub finds faults where there are none");
        if report.replica.is_some() {
            *self.replica.borrow_mut() = report.replica;
        }
        self.looks.set(self.looks.get() + 1);
        self.blocks.set(self.blocks.get().max(report.metrics.get(Counter::ScrubBlocks)));
    }
}

/// What a core is started with, what watches the node, and the way to ask the core.
pub type CorePart = (Part, Rc<Watch>, Outbox<Question>);

/// The parts of a node that is watched, and stops when it is told to.
#[must_use]
pub fn parts(shape: Shape, watch: &Rc<Watch>) -> Vec<CorePart> {
    member_parts(shape, &[], watch)
}

/// The same for a member of a cluster whose replicas are at these addresses.
#[must_use]
pub fn member_parts(shape: Shape, peers: &[String], watch: &Rc<Watch>) -> Vec<CorePart> {
    let (asks, questions): (Vec<_>, Vec<_>) = (0..shape.cores).map(|_| lane(1)).unzip();
    let first = First { http: address(0), serving: Box::new(|_| {}) };
    let parts =
        node::server::parts(&Shared::new(options(shape, peers, watch.every)), questions, first);
    parts.into_iter().zip(asks).map(|(part, ask)| (part, watch.clone(), ask)).collect()
}

/// Serves until told to stop.
///
/// # Errors
/// Why it did not start.
pub async fn serve((part, watch, ask): CorePart) -> Result<(), StartError> {
    let is_first = part.is_first();
    let watcher = async move {
        loop {
            select(watch.stop.wait(), ioring::sleep(watch.every)).await;
            let stops = watch.stops.get();
            watch.look(&ask).await;
            if stops && is_first {
                // It fails when the node ends first.
                drop(ask.send(Question::Stop).await);
            }
            if stops {
                return;
            }
        }
    };
    spawn(Queue::Background, "watcher", watcher).detach();
    Box::pin(node::server::serve(part)).await
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn options(shape: Shape, peers: &[String], scrub_cycle: Duration) -> Options {
    let config = Config {
        resp: address(PORT),
        http: address(0),
        listen: (!peers.is_empty()).then(|| address(PEERS_PORT)),
        peers: peers.to_vec(),
        cores: Cores::Count(shape.cores),
        dedicated_replica_core: Some(shape.dedicated),
        cache_bytes: CACHE_BYTES,
        clients_max: 64,
        lock_memory: false,
        idle: Idle::Sleep,
        scrub_cycle: Some(scrub_cycle),
        log_level: tracing::Level::ERROR,
        log_format: LogFormat::Human,
    };
    Options { dir: DIR.into(), config, direct: Direct::Required, connections: Limits::default() }
}
