//! A running node: from a data directory to listeners, and back to a clean stop.
//!
//! Start, in this order, so that whatever is wrong is said before anything is served:
//!
//! 1. The HTTP listener is bound and the control plane answers: alive, not ready.
//! 2. Every core gets its ring and thread. Core 0 opens the data directory (lock, superblock,
//!    journal), which is where a wrong, damaged or busy directory is refused.
//! 3. The listeners are bound, of RESP and, if told to, for other replicas ([`native`]), and every
//!    core opens its shards. Clients that connect from here
//!    on are told `LOADING`.
//! 4. The journal is replayed into the shards ([`recover`]).
//! 5. The replica's raised view is made durable; writes are taken; the node is ready and says so.
//!
//! Stop, on SIGTERM or SIGINT: no more commands are taken, what was accepted is written, applied
//! and answered on every core, the journal gets its last marker, and the process ends with status
//! 0. A node that is killed instead loses nothing; it only has more to replay.
//!
//! The cores end together: one that returns, for whatever reason, closes its lanes, and whoever is
//! at the other end of one returns too. The reason is what the one that was first returned.

mod cores;
mod format;
mod native;
mod recover;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ioring::sync::Event;
use ioring::uring::{self, Runtime};
use ioring::{Direct, Either, Inbox, ListenOptions, Listener, Queue, lane, spawn};

use crate::config::Config;
use crate::connection;
use crate::control::{Control, Parts, QUESTIONS_MAX, Question};
use crate::core::Core;
use crate::core::clients::OpenCount;
use crate::mesh::{self, Ends, Report};
use crate::status::{Phase, PhaseCell};

pub use format::{Error as FormatError, fit, format, format_here};
pub use native::ClusterError;
pub use recover::{Opening, RecoverError, Shared};

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
    /// The cluster's other replicas, if they are listened for.
    pub native: Option<SocketAddr>,
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
    /// There are not as many processors.
    #[error("{asked} cores, and this process may use {available} processors (its affinity mask)")]
    Processors {
        /// How many were asked for.
        asked: u16,
        /// How many there are.
        available: usize,
    },
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
    /// The settings do not fit the directory.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Another core ended, with an error of its own.
    #[error("a core of this node ended")]
    CoreEnded,
}

/// What a core is started with.
pub struct Part {
    shared: Shared,
    ends: Ends,
    /// What the control plane asks.
    questions: Inbox<Question>,
    /// What only the first core has.
    first: Option<First>,
}

/// What concerns the node as a whole.
pub struct First {
    /// Where the control plane answers.
    pub http: SocketAddr,
    /// Called once the node serves.
    pub serving: Box<dyn FnOnce(&Addresses) + Send>,
}

/// The parts of a node with a core for each lane of questions.
#[must_use]
pub fn parts(shared: &Shared, questions: Vec<Inbox<Question>>, first: First) -> Vec<Part> {
    let cores = u16::try_from(questions.len()).expect("cores are counted in 16 bits");
    let firsts = std::iter::once(Some(first)).chain(std::iter::repeat_with(|| None));
    let ends = mesh::connect(cores).into_iter().zip(questions).zip(firsts);
    let part = |((ends, questions), first)| Part { shared: shared.clone(), ends, questions, first };
    ends.map(part).collect()
}

impl Part {
    /// Whether it is the first core's.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.first.is_some()
    }
}

impl Shared {
    /// A node that has not started.
    #[must_use]
    pub fn new(options: Options) -> Shared {
        Shared {
            options,
            phase: PhaseCell::default(),
            identity: Arc::new(OnceLock::new()),
            open: OpenCount::default(),
        }
    }
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
    let runtime = Runtime::new(cores::runtime_config(&options)?)?;
    let shared = Shared::new(options);
    let (asks, questions) = (0..runtime.cores()).map(|_| lane(QUESTIONS_MAX)).unzip();
    let (identity, phase) = (shared.identity.clone(), shared.phase.clone());
    let control = Control::start(listener, Parts { identity, phase, cores: asks });
    let control = control.map_err(StartError::Control)?;
    let first = First { http: control.address(), serving: Box::new(serving) };
    let results = runtime.run(parts(&shared, questions, first), serve);
    shared.phase.advance(Phase::Stopping);
    drop(control);
    outcome(results)
}

/// What the node came to: the reason of the core that ended first, if there is one.
///
/// # Errors
/// That reason.
pub fn outcome(results: Vec<Result<(), StartError>>) -> Result<(), StartError> {
    let rank = |result: &Result<(), StartError>| match result {
        Ok(()) => 0,
        Err(StartError::CoreEnded) => 1,
        Err(_) => 2,
    };
    // Of several that failed by themselves the first.
    results.into_iter().rev().max_by_key(rank).unwrap_or(Ok(()))
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

/// The life of a core, on whatever runtime it was started: until the control plane asks the first
/// one to stop.
///
/// # Errors
/// [`StartError`], before it serves, or when another core ended.
pub async fn serve(part: Part) -> Result<(), StartError> {
    let Part { shared, ends, questions, first } = part;
    match first {
        Some(first) => serve_first(shared, ends, questions, first).await,
        None => serve_other(shared, ends, questions).await,
    }
}

async fn serve_first(
    shared: Shared,
    ends: Ends,
    questions: Inbox<Question>,
    First { http, serving }: First,
) -> Result<(), StartError> {
    let (options, cores) = (&shared.options, ends.cores());
    let directory = recover::open(options).await?;
    let state = directory.state();
    native::check(&options.config, &state)?;
    let native = native::listen(&options.config)?;
    let native_address = native.as_ref().map(Listener::local_addr);
    let address = options.config.resp;
    let listener = Listener::bind(address, ListenOptions::default())
        .map_err(|error| StartError::Listen { address, error })?;
    let resp = listener.local_addr();
    let opening = |core| directory.opening(core, cores, &options.config, resp);
    ends.open(opening);
    let opening = opening(ends.core());
    let (shards, sessions) = opening.shards(options).await?;
    let (log, unplayed) = directory.log(cores);
    log.sessions_at_open.replace(sessions);
    let core = opening.core(&shared, shards, Some(log), ends);
    let set = shared.identity.set(core.identity.clone());
    set.expect("a node learns once who it is");
    if let Some(listener) = native {
        native::serve(&core, &options.config, &state, listener);
    }
    let accepting = spawn(Queue::Foreground, "accept", connection::accept(core.clone(), listener));
    let stop = answer(&core, questions);
    if !core.mesh.wait_opened().await {
        return Err(StartError::CoreEnded);
    }
    // A member may wait for its cluster for as long as nobody stops it.
    match ioring::select(Box::pin(unplayed.serve(&core)), stop.wait()).await {
        Either::First(Ok(true)) => {}
        Either::First(Ok(false)) => return Err(StartError::CoreEnded),
        Either::First(Err(error)) => return Err(error.into()),
        Either::Second(()) => {
            tracing::info!("stopped before it served");
            return Ok(());
        }
    }
    shared.phase.advance(Phase::Serving);
    tracing::info!(%resp, %http, cores, "serving");
    serving(&Addresses { native: native_address, resp, http });
    let ended = ioring::select(stop.wait(), core.mesh.ended()).await;
    if let Either::Second(()) = ended {
        return Err(StartError::CoreEnded);
    }
    tracing::info!("stopping");
    shared.phase.advance(Phase::Stopping);
    core.mesh.stop_all();
    accepting.cancel();
    finish(&core).await;
    tracing::info!("stopped");
    Ok(())
}

async fn serve_other(
    shared: Shared,
    ends: Ends,
    questions: Inbox<Question>,
) -> Result<(), StartError> {
    let Some(opening) = ends.opening().await else { return Err(StartError::CoreEnded) };
    let (shards, sessions) = opening.shards(&shared.options).await?;
    let core = opening.core(&shared, shards, None, ends);
    let _stop = answer(&core, questions);
    core.mesh.report(Report::Opened(sessions));
    core.mesh.wait_stop().await;
    settle(&core).await;
    core.mesh.report(Report::Quiet);
    core.mesh.ended().await;
    Ok(())
}

/// Starts to answer the control plane; the event is notified when it asks for the end.
fn answer(core: &Rc<Core>, questions: Inbox<Question>) -> Rc<Event> {
    let stop = Rc::new(Event::new());
    let (core, asked) = (core.clone(), stop.clone());
    let answer = async move {
        while let Some(question) = questions.recv().await {
            match question {
                // Whoever asked may have stopped waiting.
                Question::Report(answer) => drop(answer.send(core.report())),
                Question::Scrub => core.scrubbers.ask(),
                Question::Stop => asked.notify(),
            }
        }
    };
    spawn(Queue::Foreground, "control", answer).detach();
    stop
}

/// Waits until nobody waits for an outcome on this core.
async fn settle(core: &Core) {
    let deadline = ioring::now() + STOP_PATIENCE;
    while core.runs.any_waiting() && ioring::now() < deadline {
        ioring::sleep(STOP_INTERVAL).await;
    }
    // Replies are handed to the kernel within the turn that rendered them.
    ioring::sleep(STOP_INTERVAL).await;
}

/// Finishes what was accepted: written, applied, answered; then the journal's last marker.
async fn finish(core: &Core) {
    let log = core.log();
    quiet(core).await;
    settle(core).await;
    core.mesh.wait_quiet().await;
    // A read may have asked for log time meanwhile. From here to the journal nothing waits: what is
    // quiet is still quiet when the journal is taken.
    quiet(core).await;
    core.replica().stop(STOP_PATIENCE, STOP_INTERVAL).await;
    let journal = log.checkpoints.take_journal().expect("a journal is closed once");
    if let Some(journal) = Rc::into_inner(journal) {
        journal.close().await;
    }
}

/// Waits until everything that was given an op is written and applied.
async fn quiet(core: &Core) {
    let (replica, log) = (core.replica(), core.log());
    let is_behind = || log.dispatch.is_behind() || !core.have_all_applied(core.applier.newest().op);
    while !replica.is_idle() || is_behind() {
        ioring::sleep(STOP_INTERVAL).await;
    }
}
