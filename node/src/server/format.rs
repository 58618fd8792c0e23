//! Formatting a data directory: `vsr`'s part (journal and superblock) and each shard's grid file.
//!
//! Relations between format-time values that only the storage engine knows are checked first, so
//! that a directory that could not be started is never made.

use std::path::Path;

use ioring::uring::{self, Runtime};
use vsr::superblock::State;

use crate::shard;

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
    /// The storage engine cannot work with these values.
    #[error("configuration: {0}")]
    Storage(#[from] lsm::config::ConfigError),
    /// Bars cannot be scheduled with these values.
    #[error("configuration: {0}")]
    Bars(#[from] lsm::bar::LimitsError),
}

/// Makes a data directory, on a runtime of its own. `progress` is told bytes written and bytes in
/// all.
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
        format_here(&dir, &options, progress).await
    });
    results.into_iter().collect()
}

/// As [`format`], on the runtime that this is called on.
///
/// # Errors
/// As [`format`].
pub async fn format_here(
    dir: &Path,
    options: &FormatOptions,
    progress: impl FnMut(u64, u64),
) -> Result<(), Error> {
    options.configuration.validate().map_err(FormatError::from)?;
    shard::open::config(&options.configuration, 0).validate()?;
    shard::open::bar_limits(&options.configuration).validate()?;
    let direct = options.direct;
    let grid = async |shard, path: &Path, state: &State| {
        shard::open::format(path, state, shard, direct).await
    };
    vsr::format::format(dir, options, grid, progress).await?;
    Ok(())
}
