//! The node as the simulator starts it: a directory made by `format`, and the server over it.
//!
//! [`node::server::serve`] is what a core runs in production. What surrounds it there, the control
//! plane's thread and signals, is replaced by a task that asks it to stop when a life is to end in
//! good order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use ioring::sync::Event;
use ioring::{Direct, Inbox, Queue, lane, spawn};
use node::config::{Config, Idle, LogFormat};
use node::connection::Limits;
use node::control::Question;
use node::core::clients::OpenCount;
use node::server::{Options, Part, StartError};
use node::status::PhaseCell;
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

/// The data directory.
pub const DIR: &str = "/data";
/// Where the node listens.
pub const PORT: u16 = 6400;
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

/// Serves until `stop` is notified.
///
/// # Errors
/// Why it did not start.
pub async fn serve(stop: Rc<Event>) -> Result<(), StartError> {
    let (ask, questions) = lane(1);
    let stopper = async move {
        stop.wait().await;
        // It fails when the node ends first.
        drop(ask.send(Question::Stop).await);
    };
    spawn(Queue::Background, "stopper", stopper).detach();
    node::server::serve(part(questions)).await
}

fn part(questions: Inbox<Question>) -> Part {
    let address = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let config = Config {
        resp: address(PORT),
        http: address(0),
        cores: None,
        cache_bytes: CACHE_BYTES,
        clients_max: 64,
        lock_memory: false,
        idle: Idle::Sleep,
        log_level: tracing::Level::ERROR,
        log_format: LogFormat::Human,
    };
    let options = Options {
        dir: DIR.into(),
        config,
        direct: Direct::Required,
        connections: Limits::default(),
    };
    Part {
        options,
        http: address(0),
        questions,
        phase: PhaseCell::default(),
        identity: Arc::new(OnceLock::new()),
        open: OpenCount::default(),
        serving: Box::new(|_| {}),
    }
}
