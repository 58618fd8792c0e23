//! The node as the simulator starts it: a directory made by `format`, and the server over it.
//!
//! [`node::server::serve`] is what a core runs in production. What surrounds it there, the control
//! plane's thread and signals, is replaced by a task that asks it to stop when a life is to end in
//! good order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Direct, Outbox, Queue, lane, spawn};
use node::config::{Config, Cores, Idle, LogFormat};
use node::connection::Limits;
use node::control::Question;
use node::server::{First, Options, Part, Shared, StartError};
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

/// The data directory.
pub const DIR: &str = "/data";
/// Where the node listens.
pub const PORT: u16 = 6400;
/// So short that scrubs read blocks all the time.
const SCRUB_CYCLE: Duration = Duration::from_millis(200);
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
    let options = FormatOptions::new(ClusterId(1), ReplicaId(0), configuration());
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

/// What a core is started with, what stops the node, and the way to tell the core.
pub type CorePart = (Part, Rc<Event>, Outbox<Question>);

/// The parts of a node that stops when `stop` is notified.
#[must_use]
pub fn parts(shape: Shape, stop: &Rc<Event>) -> Vec<CorePart> {
    let (asks, questions): (Vec<_>, Vec<_>) = (0..shape.cores).map(|_| lane(1)).unzip();
    let first = First { http: address(0), serving: Box::new(|_| {}) };
    let parts = node::server::parts(&Shared::new(options(shape)), questions, first);
    parts.into_iter().zip(asks).map(|(part, ask)| (part, stop.clone(), ask)).collect()
}

/// Serves until told to stop.
///
/// # Errors
/// Why it did not start.
pub async fn serve((part, stop, ask): CorePart) -> Result<(), StartError> {
    // Without the control plane nobody asks the others anything.
    if part.is_first() {
        let stopper = async move {
            stop.wait().await;
            // It fails when the node ends first.
            drop(ask.send(Question::Stop).await);
        };
        spawn(Queue::Background, "stopper", stopper).detach();
    }
    node::server::serve(part).await
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn options(shape: Shape) -> Options {
    let config = Config {
        resp: address(PORT),
        http: address(0),
        cores: Cores::Count(shape.cores),
        dedicated_replica_core: Some(shape.dedicated),
        cache_bytes: CACHE_BYTES,
        clients_max: 64,
        lock_memory: false,
        idle: Idle::Sleep,
        scrub_cycle: Some(SCRUB_CYCLE),
        log_level: tracing::Level::ERROR,
        log_format: LogFormat::Human,
    };
    Options { dir: DIR.into(), config, direct: Direct::Required, connections: Limits::default() }
}
