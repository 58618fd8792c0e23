//! Formatting a data directory: `vsr`'s part (journal and superblock) and each shard's grid file.
//!
//! Relations between format-time values that only the storage engine knows are checked first, so
//! that a directory that could not be started is never made.

use std::path::Path;

use ioring::uring::{self, Runtime};
use lsm::forest::{Forest, Space};
use vsr::format::Configuration;
use vsr::superblock::State;

use crate::config::units::format_size;
use crate::shard;

use vsr::format::{FormatError, FormatOptions};

/// Memtables are not made smaller than this.
const MEMTABLE_MIN: u64 = 1 << 20;
/// The least size of a grid is given in steps of this.
const GRID_STEP: u64 = 64 << 20;

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
    /// The grid could not hold anything beside what its own work needs.
    #[error(
        "a grid of {given} is too small: every write would be refused for want of space; give \
         --grid-size-max {least} or more"
    )]
    GridTooSmall {
        /// The limit given.
        given: String,
        /// The least that works.
        least: String,
    },
    /// Bars cannot be scheduled with these values.
    #[error("configuration: {0}")]
    Bars(#[from] lsm::bar::LimitsError),
}

/// Makes memtables, what one prepare may cause beyond its requests, and what sessions keep smaller
/// where the grid is small: flushes, merges and checkpoints then need less of it, and data gets
/// most of it.
#[must_use]
pub fn fit(mut configuration: Configuration) -> Configuration {
    let one = u64::from(configuration.session_results_size_max);
    let blocks = 64 * u64::from(configuration.block_size);
    let sessions = (configuration.grid_size_max / 64).clamp(one.max(1 << 20), blocks.max(1 << 20));
    configuration.sessions_results_size_max =
        configuration.sessions_results_size_max.min(sessions).min(blocks);
    while configuration.memtable_size > MEMTABLE_MIN && !fits(&configuration) {
        configuration.memtable_size /= 2;
        let effects = (configuration.effects_size_max / 2).max(configuration.prepare_size_max);
        configuration.effects_size_max = configuration.effects_size_max.min(effects);
    }
    configuration
}

/// Whether a quarter of an empty grid is for data.
fn fits(configuration: &Configuration) -> bool {
    let space = space_empty(configuration);
    space.reserve_puts() <= (space.free + 1) / 4 * 3
}

fn space_empty(configuration: &Configuration) -> Space {
    let config = shard::open::config(configuration, 0);
    Forest::space_empty(&config, shard::open::options(configuration))
}

/// Refuses a grid that would refuse its first write.
fn check_space(configuration: &Configuration) -> Result<(), Error> {
    if space_empty(configuration).allows_puts() {
        return Ok(());
    }
    let with = |grid_size_max| fit(Configuration { grid_size_max, ..configuration.clone() });
    let sizes = (0..).map(|step| configuration.grid_size_max + step * GRID_STEP);
    let least = sizes.map(with).find(|larger| space_empty(larger).allows_puts());
    let least = least.expect("a grid is large enough at some size").grid_size_max;
    let given = format_size(configuration.grid_size_max);
    Err(Error::GridTooSmall { given, least: format_size(least.next_multiple_of(GRID_STEP)) })
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
    check_space(&options.configuration)?;
    let direct = options.direct;
    let grid = async |shard, path: &Path, state: &State| {
        shard::open::format(path, state, shard, direct).await
    };
    vsr::format::format(dir, options, grid, progress).await?;
    Ok(())
}
