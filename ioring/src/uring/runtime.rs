//! Starting and ending cores.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::driver::UringDriver;
use super::provided::Provided;
use super::ring::{Ring, RingError, RingFlags};
use super::run::Loop;
use crate::core::{Core, CoreConfig, CoreId};
use crate::fatal::{self, Fatal};
use crate::system;
use crate::task::{Queue, Shares};

/// What a core does when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps at once.
    Sleep,
    /// Looks for work for that long, then sleeps. Saves the time of falling asleep and waking up,
    /// for a whole processor.
    Spin(Duration),
    /// Looks for work for a moment if waits were short lately, and otherwise sleeps at once.
    #[default]
    Adaptive,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// A core is started for each entry; the number is the processor to bind it to.
    pub cpus: Vec<usize>,
    /// Whether to bind threads to processors at all.
    pub pin: bool,
    /// What to do with nothing to do.
    pub idle: Idle,
    /// Requests that a ring holds before they are handed over early. A power of two.
    pub ring_entries: u32,
    /// Receive buffers of a core, a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Bytes of a receive buffer.
    pub recv_buffer_size: usize,
    /// Let one receive serve many arrivals where the kernel can (Linux 6.0 and newer).
    pub multishot_receive: bool,
    /// Bytes of buffer pools that a core may register with its ring: their transfers cost less, and
    /// the pools are resident from their first use on. Larger pools, and the rest, work
    /// unregistered.
    pub registered_memory: usize,
    /// Shares of the classes of tasks.
    pub shares: Shares,
    /// A task that holds its core longer than this is reported and counted.
    pub stall_threshold: Duration,
}

impl Default for Config {
    /// All processors that the process may use.
    fn default() -> Config {
        Config {
            cpus: system::available_cpus(),
            pin: true,
            idle: Idle::default(),
            ring_entries: 512,
            recv_buffers: 256,
            recv_buffer_size: 16 << 10,
            multishot_receive: true,
            registered_memory: 16 << 20,
            shares: Shares::default(),
            stall_threshold: Duration::from_millis(1),
        }
    }
}

impl Config {
    /// `cores` threads that go where the scheduler puts them, with everything small.
    pub fn test_min(cores: usize) -> Config {
        Config {
            cpus: vec![0; cores],
            pin: false,
            idle: Idle::Sleep,
            ring_entries: 8,
            recv_buffers: 4,
            recv_buffer_size: 4096,
            multishot_receive: true,
            registered_memory: 64 << 10,
            shares: Shares::default(),
            stall_threshold: Duration::from_millis(50),
        }
    }
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No core was asked for.
    #[error("a runtime needs at least one core")]
    NoCores,
    /// A ring could not be set up.
    #[error("core {core}: {source}")]
    Ring {
        /// Number of the core.
        core: usize,
        /// Why, and what to do.
        source: RingError,
    },
}

/// Rings for all cores, ready to run.
pub struct Runtime {
    config: Config,
    rings: Vec<(Ring, Provided)>,
}

impl Runtime {
    /// Sets up a ring for each core. Nothing runs yet.
    pub fn new(config: Config) -> Result<Runtime, StartError> {
        if config.cpus.is_empty() {
            return Err(StartError::NoCores);
        }
        let mut rings = Vec::with_capacity(config.cpus.len());
        for core in 0..config.cpus.len() {
            let pair = ring(&config).map_err(|source| StartError::Ring { core, source })?;
            rings.push(pair);
        }
        Ok(Runtime { config, rings })
    }

    /// The flags that the kernel knew.
    pub fn ring_flags(&self) -> RingFlags {
        self.rings[0].0.flags()
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.rings.len()
    }

    /// Runs `main` on every core with its part, until all have returned; gives what they returned,
    /// in order of cores. When a core's `main` returns, its other tasks are dropped.
    ///
    /// # Panics
    /// If there are not as many parts as cores, or if a core panicked.
    pub fn run<T, R, F, M>(self, parts: Vec<T>, main: M) -> Vec<R>
    where
        T: Send,
        R: Send + 'static,
        F: Future<Output = R> + 'static,
        M: Fn(T) -> F + Clone + Send,
    {
        let Runtime { config, rings } = self;
        assert_eq!(parts.len(), rings.len(), "one part for each core");
        std::thread::scope(|scope| {
            let cores = rings.into_iter().zip(parts).enumerate();
            let threads: Vec<_> = cores
                .map(|(core, ((ring, provided), part))| {
                    let (config, main) = (&config, main.clone());
                    std::thread::Builder::new()
                        .name(format!("core-{core}"))
                        .spawn_scoped(scope, move || {
                            run_core(config, core, ring, provided, || main(part))
                        })
                        .unwrap_or_else(|error| cannot_start(core, "start a thread", &error))
                })
                .collect();
            let joined = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        })
    }
}

fn ring(config: &Config) -> Result<(Ring, Provided), RingError> {
    let ring = Ring::new(config.ring_entries)?;
    let entries = u32::from(config.recv_buffers);
    let provided = Provided::register(ring.ring(), config.recv_buffers, config.recv_buffer_size)
        .map_err(|error| RingError::new("receive buffers", entries, error))?;
    Ok((ring, provided))
}

fn run_core<F>(
    config: &Config,
    number: usize,
    mut ring: Ring,
    provided: Provided,
    main: impl FnOnce() -> F,
) -> F::Output
where
    F: Future + 'static,
{
    if config.pin
        && let Err(error) = system::pin_thread(config.cpus[number])
    {
        let cpu = config.cpus[number];
        tracing::warn!(core = number, cpu, %error, "cannot bind a core to its processor");
    }
    system::sharpen_timers();
    ring.enable().unwrap_or_else(|error| cannot_start(number, "enable the ring", &error));
    let driver = Rc::new(UringDriver::new(ring, provided, config));
    let id = CoreId(u16::try_from(number).expect("fewer than 65,536 cores"));
    let core_config =
        CoreConfig { id, shares: config.shares, stall_threshold: config.stall_threshold };
    let core = Core::new(core_config, driver.clone());
    driver
        .attach(core.seat)
        .unwrap_or_else(|error| cannot_start(number, "make an event descriptor", &error));
    let _guard = LeakOnPanic(core.clone(), driver.clone());
    core.enter(|| {
        let root = core.spawn(Queue::Foreground, "main", main());
        let output = std::cell::Cell::new(None);
        Loop::new(core.clone(), driver.clone(), config.idle).run(|| {
            output.set(root.try_take().or_else(|| output.take()));
            let done = output.take();
            let is_done = done.is_some();
            output.set(done);
            is_done
        });
        core.drop_tasks();
        driver.drain(&core);
        output.take().expect("the loop ends when main has returned")
    })
}

/// A core that unwinds (tests; otherwise a panic ends the process) cannot wait for the kernel,
/// which may still write to memory of operations in flight: that memory is never freed then.
struct LeakOnPanic(Rc<Core>, Rc<UringDriver>);

impl Drop for LeakOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget((self.0.clone(), self.1.clone()));
        }
    }
}

fn cannot_start(core: usize, what: &str, error: &std::io::Error) -> ! {
    fatal::exit(&Fatal::Environment(format!("core {core}: cannot {what}: {error}")))
}
