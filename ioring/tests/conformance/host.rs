//! Where a case runs: a node of a world, or cores on real rings.

use std::future::Future;
use std::path::PathBuf;

use ioring::sim::{Config, NetConfig, Status, World};
use ioring::uring;

/// Seeds that every case runs with under `sim`.
pub(crate) const SEEDS: u64 = 12;

/// Something that starts cores.
pub(crate) trait Host {
    /// An empty directory.
    fn directory(&self) -> PathBuf;

    /// Runs `main` on a core for each part and returns what the mains return.
    fn run<T, R, F, M>(&self, parts: Vec<T>, main: M) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + 'static,
        M: Fn(T) -> F + Clone + Send + 'static;

    /// Runs a case on one core.
    fn run_one<F>(&self, main: impl Fn(PathBuf) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        self.run(vec![self.directory()], main);
    }
}

pub(crate) struct Simulated {
    pub(crate) seed: u64,
}

impl Host for Simulated {
    fn directory(&self) -> PathBuf {
        PathBuf::from("/")
    }

    fn run<T, R, F, M>(&self, parts: Vec<T>, main: M) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + 'static,
        M: Fn(T) -> F + Clone + Send + 'static,
    {
        let net = NetConfig { segment_max: 4096, tail: 50_000, ..NetConfig::default() };
        let config = Config { net, short_io: 200_000, ..Config::default() };
        let mut world = World::new(self.seed, config);
        let (node, outcome) = world.spawn_node("case", parts, main);
        let finished = world.run_until(|world| world.status(node) != &Status::Running);
        assert!(finished, "seed {}: it waits for something that never happens", self.seed);
        outcome.take().expect("all mains returned")
    }
}

pub(crate) struct Real {
    directory: tempfile::TempDir,
}

impl Real {
    /// `None`, loudly, where there is no io_uring.
    pub(crate) fn new(case: &str) -> Option<Real> {
        if let Err(error) = uring::Runtime::new(uring::Config::test_min(1)) {
            skip(case, &format!("no io_uring: {error}"));
            return None;
        }
        // Beside the build: direct I/O wants a real file system, which /tmp may not be.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Some(Real { directory })
    }
}

impl Host for Real {
    fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn run<T, R, F, M>(&self, parts: Vec<T>, main: M) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + 'static,
        M: Fn(T) -> F + Clone + Send + 'static,
    {
        let runtime = uring::Runtime::new(uring::Config::test_min(parts.len())).unwrap();
        runtime.run(parts, main)
    }
}

/// Says that a case, or a part of it, cannot run here.
pub(crate) fn skip(case: &str, reason: &str) {
    assert!(std::env::var_os("QUORATE_NO_SKIPS").is_none(), "{case} was skipped: {reason}");
    eprintln!("SKIPPED {case}: {reason}");
}
