//! The control plane: health, metrics and status over HTTP, on one ordinary thread.
//!
//! The thread runs a current-thread tokio runtime with axum and touches nothing of the data path:
//! it asks every core by lane ([`Question`]) and gets copies back ([`CoreReport`]). A core answers
//! between two of its tasks, so a question costs it a few microseconds; a core that does not
//! answer within [`ANSWER_MAX`] is reported as such, and the HTTP request never hangs with it.
//!
//! | path | answer |
//! | --- | --- |
//! | `/health/live` | 200 while every core answers, 503 naming those that do not |
//! | `/health/ready` | 200 exactly while the node serves, 503 and the phase otherwise |
//! | `/metrics` | Prometheus text |
//! | `/status` | one JSON object (`status::Status`) |
//! | `POST /scrub` | 202: a scrub of every shard has begun; `/status` has how far it is |
//!
//! Signals arrive on this thread too: SIGTERM and SIGINT ask the replica's core to stop, once;
//! SIGHUP is a word in the log, because there is nothing to reopen yet.
//!
//! The listener is bound by the caller, before anything is served, so that an address in use is
//! an error at start and not a log line later. Stopping: when the [`Control`] is asked to stop,
//! open requests are answered, the thread ends and is joined.

mod server;

use crate::status::{CoreReport, Identity, PhaseCell};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a core may take to answer before it is reported as stuck.
pub const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Questions that may wait for one core. The control plane asks one at a time.
pub const QUESTIONS_MAX: usize = 8;

/// What the control plane wants of a core.
#[derive(Debug)]
pub enum Question {
    /// How are you? The answer goes here.
    Report(oneshot::Sender<CoreReport>),
    /// Read every block of your grids now.
    Scrub,
    /// Stop: asked of the replica's core when the process is told to end.
    Stop,
}

/// What the control plane is given.
#[derive(Debug)]
pub struct Parts {
    /// Who the node is, once it has opened its directory.
    pub identity: Arc<OnceLock<Identity>>,
    /// What it does.
    pub phase: PhaseCell,
    /// A lane to every core, in order.
    pub cores: Vec<ioring::Outbox<Question>>,
}

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Serves on a bound listener.
    pub fn start(listener: std::net::TcpListener, parts: Parts) -> std::io::Result<Control> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || server::run(listener, parts, stopped))?;
        Ok(Control { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself; there is nobody to tell then.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic ends the process, not a thread");
        }
    }
}
