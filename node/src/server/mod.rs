//! A running node: from a data directory to listeners, and back to a clean stop.
//!
//! Start, in this order, so that whatever is wrong is said before anything is served:
//!
//! 1. The HTTP listener is bound and the control plane answers: alive, not ready.
//! 2. Every core gets its ring and thread. Core 0 opens the data directory (lock, superblock,
//!    journal), which is where a wrong, damaged or busy directory is refused.
//! 3. The RESP listener is bound. Clients that connect from here on are told `LOADING`.
//! 4. The journal is replayed into the shards ([`recover`]).
//! 5. The replica's raised view is made durable; writes are taken; the node is ready and says so.
//!
//! Stop, on SIGTERM or SIGINT: no more commands are taken, what was accepted is written, applied
//! and answered, the journal gets its last marker, and the process ends with status 0. A node that
//! is killed instead loses nothing; it only has more to replay.

mod format;
mod recover;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ioring::sync::Event;
use ioring::uring::{self, Runtime};
use ioring::{Direct, Inbox, ListenOptions, Listener, Queue, lane, spawn};

use crate::config::{Config, Idle};
use crate::connection;
use crate::control::{Control, Parts, QUESTIONS_MAX, Question};
use crate::core::Core;
use crate::core::clients::OpenCount;
use crate::status::{Identity, Phase, PhaseCell};

pub use format::{Error as FormatError, fit, format, format_here};
pub use recover::RecoverError;

/// How long an address in use is tried for: a killed process's sockets may outlive it for a moment.
const BIND_PATIENCE: Duration = Duration::from_secs(5);
const BIND_INTERVAL: Duration = Duration::from_millis(50);
/// How long a stop waits for clients to take their last replies.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const STOP_INTERVAL: Duration = Duration::from_millis(1);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// Settings.
    pub config: Config,
    /// Whether the file system must have direct I/O.
    pub direct: Direct,
    /// What a connection may cost.
    pub connections: connection::Limits,
}

/// Where the node serves.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Redis clients.
    pub resp: SocketAddr,
    /// Metrics, health and status.
    pub http: SocketAddr,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The rings cannot be set up.
    #[error(transparent)]
    Runtime(#[from] uring::StartError),
    /// Memory cannot be kept out of swap.
    #[error(
        "cannot lock memory ({0}): raise the limit (`ulimit -l unlimited`, `LimitMEMLOCK=infinity` \
         in a unit, `--ulimit memlock=-1` for a container), or give --lock-memory no"
    )]
    LockMemory(std::io::Error),
    /// A thread cannot be started.
    #[error("cannot start the control plane: {0}")]
    Control(std::io::Error),
    /// The directory cannot be opened or its journal not recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// What a core is started with.
pub struct Part {
    /// What to run.
    pub options: Options,
    /// Where the control plane answers.
    pub http: SocketAddr,
    /// What the control plane asks.
    pub questions: Inbox<Question>,
    /// What the node does, for all threads.
    pub phase: PhaseCell,
    /// Who the node is, for all threads.
    pub identity: Arc<OnceLock<Identity>>,
    /// How many connections the node has open.
    pub open: OpenCount,
    /// Called once the node serves.
    pub serving: Box<dyn FnOnce(&Addresses) + Send>,
}

/// Runs a node until it is told to stop. `serving` is called once it serves.
///
/// # Errors
/// [`StartError`]; a node that once served ends without one.
pub fn run(
    options: Options,
    serving: impl FnOnce(&Addresses) + Send + 'static,
) -> Result<(), StartError> {
    if options.config.lock_memory {
        ioring::lock_memory().map_err(StartError::LockMemory)?;
    }
    let listener = bind(options.config.http)?;
    let phase = PhaseCell::default();
    let identity = Arc::new(OnceLock::new());
    let runtime = Runtime::new(runtime_config(&options.config))?;
    let (ask, questions) = lane(QUESTIONS_MAX);
    let parts = Parts { identity: identity.clone(), phase: phase.clone(), cores: vec![ask] };
    let control = Control::start(listener, parts).map_err(StartError::Control)?;
    let part = Part {
        http: control.address(),
        options,
        questions,
        phase: phase.clone(),
        identity,
        open: OpenCount::default(),
        serving: Box::new(serving),
    };
    let results = runtime.run(vec![part], serve);
    phase.advance(Phase::Stopping);
    drop(control);
    results.into_iter().collect()
}

/// Rings as configured.
fn runtime_config(config: &Config) -> uring::Config {
    let pin = config.cores.is_some();
    let cpus = vec![config.cores.unwrap_or(0)];
    let idle = match config.idle {
        Idle::Adaptive => uring::Idle::Adaptive,
        Idle::Sleep => uring::Idle::Sleep,
        Idle::Spin(duration) => uring::Idle::Spin(duration),
    };
    uring::Config { cpus, pin, idle, ..uring::Config::default() }
}

/// Binds the control plane's listener.
fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let deadline = std::time::Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(BIND_INTERVAL);
            }
            Err(error) => return Err(StartError::Listen { address, error }),
        }
    }
}

/// The life of a core, on whatever runtime it was started: until the control plane asks it to stop.
///
/// # Errors
/// [`StartError`], before it serves.
pub async fn serve(part: Part) -> Result<(), StartError> {
    let Part { options, http, questions, phase, identity, open, serving } = part;
    let address = options.config.resp;
    let directory = recover::open(&options).await?;
    let listener = Listener::bind(address, ListenOptions::default())
        .map_err(|error| StartError::Listen { address, error })?;
    let resp = listener.local_addr();
    let (core, unplayed) = directory.core(&options, resp, phase.clone(), open);
    identity.set(core.identity.clone()).expect("a node learns once who it is");
    let accepting = spawn(Queue::Foreground, "accept", connection::accept(core.clone(), listener));
    let stop = Rc::new(Event::new());
    let answering = answer(core.clone(), questions, stop.clone());
    spawn(Queue::Foreground, "control", answering).detach();
    unplayed.replay(&core).await?;
    phase.advance(Phase::Serving);
    tracing::info!(%resp, %http, "serving");
    serving(&Addresses { resp, http });
    stop.wait().await;
    tracing::info!("stopping");
    phase.advance(Phase::Stopping);
    accepting.cancel();
    finish(&core).await;
    tracing::info!("stopped");
    Ok(())
}

/// Answers the control plane until it asks for the end.
async fn answer(core: Rc<Core>, questions: Inbox<Question>, stop: Rc<Event>) {
    while let Some(question) = questions.recv().await {
        match question {
            // Whoever asked may have stopped waiting.
            Question::Report(answer) => drop(answer.send(core.report())),
            Question::Stop => stop.notify(),
        }
    }
}

/// Finishes what was accepted: written, applied, answered; then the journal's last marker.
async fn finish(core: &Core) {
    let log = core.log();
    quiet(core).await;
    let deadline = ioring::now() + STOP_PATIENCE;
    while core.runs.any_waiting() && ioring::now() < deadline {
        ioring::sleep(STOP_INTERVAL).await;
    }
    // Replies are handed to the kernel within the turn that rendered them.
    ioring::sleep(STOP_INTERVAL).await;
    // A read may have asked for log time meanwhile. From here to the journal nothing waits: what is
    // quiet is still quiet when the journal is taken.
    quiet(core).await;
    let journal = log.checkpoints.take_journal().expect("a journal is closed once");
    let journal = Rc::into_inner(journal).expect("whoever writes holds the journal, and is done");
    journal.close().await;
}

/// Waits until everything that was given an op is written and applied.
async fn quiet(core: &Core) {
    let (replica, log) = (core.replica(), core.log());
    while !replica.is_idle() || log.dispatch.is_behind() || core.applier.is_behind() {
        ioring::sleep(STOP_INTERVAL).await;
    }
}
