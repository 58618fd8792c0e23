//! Opening a data directory. What is checked in which order stands in [`super`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ioring::{Direct, File, fs};
use wire::{ClusterId, ReplicaId, ShardId};

use super::configuration::ConfigurationError;
use super::{Configuration, JOURNAL, LOCK, at, grid_path};
use crate::superblock::{OpenReport, QuorumError, State, SuperBlock};

/// How long a lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// What the caller believes the directory to be; `None` and empty believe anything.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The member.
    pub replica: Option<ReplicaId>,
    /// Format-time values by name, as in [`Configuration::FIELDS`].
    pub values: Vec<(&'static str, u64)>,
}

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Whether the file system must have direct I/O.
    pub direct: Direct,
    /// What the directory must be.
    pub expected: Expected,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { direct: Direct::Required, expected: Expected::default() }
    }
}

/// Why a directory was not opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no formatted replica.
    #[error("{} is no data directory: `quorate format` makes one", .0.display())]
    NotFormatted(PathBuf),
    /// Another process has it open.
    #[error(
        "{} is open in another process: stop that one first; two on one directory would destroy it",
        .0.display()
    )]
    InUse(PathBuf),
    /// The superblock cannot be opened.
    #[error("{path}: {source}", path = path.display())]
    SuperBlock {
        /// The journal file.
        path: PathBuf,
        /// Why.
        source: QuorumError,
    },
    /// The journal is shorter or longer than it was formatted.
    #[error(
        "{path} has {actual} bytes and was formatted with {expected}: it was cut or replaced; \
         restore the directory as a whole", path = path.display()
    )]
    Length {
        /// The journal file.
        path: PathBuf,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// It is something else than the caller believes.
    #[error(
        "{dir} was formatted with {field} = {recorded}, and {expected} is asked for: leave the \
         setting out or correct it; what `format` decided cannot be changed later",
        dir = dir.display()
    )]
    Differs {
        /// The directory.
        dir: PathBuf,
        /// The field.
        field: &'static str,
        /// What the superblock says.
        recorded: u128,
        /// What was asked for.
        expected: u128,
    },
    /// Recorded values that this release cannot work with.
    #[error("{dir} was formatted with {source}", dir = dir.display())]
    Unsupported {
        /// The directory.
        dir: PathBuf,
        /// Which.
        source: ConfigurationError,
    },
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// An open data directory; the lock is held until it is dropped.
pub struct DataDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// The journal file: superblock zone and segments.
    pub journal: File,
    /// The superblock, opened and repaired.
    pub superblock: SuperBlock,
    /// What opening the superblock found.
    pub report: OpenReport,
    _lock: File,
}

/// An error before the directory's path is known to it.
enum Refusal {
    Quorum(QuorumError),
    Open(OpenError),
}

impl From<QuorumError> for Refusal {
    fn from(error: QuorumError) -> Refusal {
        Refusal::Quorum(error)
    }
}

impl DataDirectory {
    /// Opens the directory for this process alone.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written then.
    pub async fn open(dir: &Path, options: &OpenOptions) -> Result<DataDirectory, OpenError> {
        let path = dir.join(JOURNAL);
        if !fs::exists(&path) {
            return Err(OpenError::NotFormatted(dir.to_owned()));
        }
        let lock = lock(dir).await?;
        let direct = options.direct;
        let read_write =
            ioring::OpenOptions { read: true, write: true, direct, ..Default::default() };
        let journal = File::open(&path, &read_write).map_err(io::Error::from)?;
        let length = journal.len()?;
        let check = |state: &State| check(dir, &path, state, length, options);
        let opened = SuperBlock::open(&journal, |state| check(state).map_err(Refusal::Open)).await;
        let (superblock, report) = opened.map_err(|refusal| match refusal {
            Refusal::Quorum(source) => OpenError::SuperBlock { path: path.clone(), source },
            Refusal::Open(error) => error,
        })?;
        Ok(DataDirectory { path: dir.to_owned(), journal, superblock, report, _lock: lock })
    }

    /// The grid file of a shard.
    #[must_use]
    pub fn grid_path(&self, shard: ShardId) -> PathBuf {
        grid_path(&self.path, shard)
    }
}

async fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let create =
        ioring::OpenOptions { read: true, write: true, create: true, ..Default::default() };
    let file = File::open(&path, &create).map_err(io::Error::from)?;
    let deadline = ioring::now() + LOCK_PATIENCE;
    while !file.try_lock().map_err(|error| at(&path, error))? {
        if ioring::now() >= deadline {
            return Err(OpenError::InUse(dir.to_owned()));
        }
        ioring::sleep(LOCK_INTERVAL).await;
    }
    Ok(file)
}

fn check(
    dir: &Path,
    path: &Path,
    state: &State,
    actual: u64,
    options: &OpenOptions,
) -> Result<(), OpenError> {
    let expected = &options.expected;
    let identity = state.identity;
    let differs = |field, recorded: u128, wanted: u128| {
        if recorded == wanted {
            return Ok(());
        }
        Err(OpenError::Differs { dir: dir.to_owned(), field, recorded, expected: wanted })
    };
    if let Some(cluster) = expected.cluster {
        differs("cluster", identity.cluster.0, cluster.0)?;
    }
    if let Some(replica) = expected.replica {
        differs("replica", identity.replica.0.into(), replica.0.into())?;
    }
    for (field, recorded) in state.configuration.values() {
        for (_, wanted) in expected.values.iter().filter(|(name, _)| *name == field) {
            differs(field, recorded.into(), (*wanted).into())?;
        }
    }
    unsupported(dir, &state.configuration)?;
    let length = state.configuration.journal_file_size();
    if actual != length {
        let path = path.to_owned();
        return Err(OpenError::Length { path, expected: length, actual });
    }
    Ok(())
}

fn unsupported(dir: &Path, configuration: &Configuration) -> Result<(), OpenError> {
    let dir = dir.to_owned();
    configuration.validate().map_err(|source| OpenError::Unsupported { dir, source })
}
