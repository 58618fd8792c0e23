//! Running one piece of asynchronous work to its end, for commands that read files as a node does.

use std::future::Future;

use anyhow::Context;
use ioring::uring;

/// Runs `main` on a core of its own, wherever the scheduler puts it.
///
/// # Errors
/// When no ring can be set up; the message has the remedy.
pub(crate) fn run<R, F>(main: impl Fn() -> F + Clone + Send) -> anyhow::Result<R>
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    let config = uring::Config { cpus: vec![0], pin: false, ..uring::Config::default() };
    let runtime = uring::Runtime::new(config).context("cannot read files as a node does")?;
    let mut results = runtime.run(vec![()], move |()| main());
    Ok(results.pop().expect("one part was given, one result comes back"))
}
