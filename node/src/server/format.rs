//! Formatting a data directory: `vsr`'s part (journal and superblock) and each shard's grid file,
//! on a runtime of its own.

use std::path::Path;

use ioring::uring::{self, Runtime};
use vsr::format::{FormatError, FormatOptions};

/// Why a directory was not formatted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ring cannot be set up.
    #[error(transparent)]
    Runtime(#[from] uring::StartError),
    /// The directory cannot be made.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Makes a data directory. `progress` is told bytes written and bytes in all.
///
/// # Errors
/// [`Error`]; then nothing is at `dir` that was not there before.
pub fn format(
    dir: &Path,
    options: &FormatOptions,
    progress: impl FnMut(u64, u64) + Send + 'static,
) -> Result<(), Error> {
    let cpus = uring::Config::default().cpus[..1].to_vec();
    let runtime = Runtime::new(uring::Config { cpus, pin: false, ..uring::Config::default() })?;
    let part = (dir.to_owned(), options.clone(), progress);
    let results = runtime.run(vec![part], |(dir, options, progress)| async move {
        let grid = async |_, _: &Path, _: &_| Ok(());
        vsr::format::format(&dir, &options, grid, progress).await.map(|_| ())
    });
    Ok(results.into_iter().collect::<Result<(), FormatError>>()?)
}
