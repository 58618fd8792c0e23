//! Making a data directory. The steps and why they are safe stand in [`super`].

use std::io;
use std::path::{Path, PathBuf};

use ioring::{Buffer, Direct, File, OpenOptions, fs};
use wire::{ClusterId, Incarnation, ReplicaId, ShardId};

use super::configuration::{Configuration, ConfigurationError};
use super::{JOURNAL, LOCK, at, grid_path};
use crate::superblock::{self, Identity, State};

const CHUNK: usize = 1 << 20;

/// What to make.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// The cluster that the replica belongs to.
    pub cluster: ClusterId,
    /// Which member it is, counted from 0.
    pub replica: ReplicaId,
    /// The format-time values, alike on all replicas.
    pub configuration: Configuration,
    /// Whether the file system must have direct I/O.
    pub direct: Direct,
    /// Sectors written and erased first, at most.
    pub shift_sectors_max: u32,
}

impl FormatOptions {
    /// Options for a real disk.
    #[must_use]
    pub fn new(cluster: ClusterId, replica: ReplicaId, configuration: Configuration) -> Self {
        let direct = Direct::Required;
        FormatOptions { cluster, replica, configuration, direct, shift_sectors_max: 1024 }
    }
}

/// Why a directory was not made. Nothing is left at the target then.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The target exists and has something in it.
    #[error("{} is not empty: format another directory, or remove this one first", .0.display())]
    NotEmpty(PathBuf),
    /// Another format of this target is running.
    #[error("{} is being formatted by another process", .0.display())]
    Busy(PathBuf),
    /// Values that cannot go together.
    #[error("configuration: {0}")]
    Configuration(#[from] ConfigurationError),
    /// The member's number is not below the number of members.
    #[error("replica {replica} does not exist among {replica_count}: they are counted from 0")]
    Replica {
        /// The number given.
        replica: u8,
        /// How many there are.
        replica_count: u8,
    },
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes a data directory at `dir`. `grid` makes each shard's grid file at the path it is given and
/// syncs it; `progress` is told bytes written and bytes in all.
///
/// # Errors
/// [`FormatError`]; then there is nothing at `dir` that was not there before.
pub async fn format(
    dir: &Path,
    options: &FormatOptions,
    mut grid: impl AsyncFnMut(ShardId, &Path, &State) -> io::Result<()>,
    mut progress: impl FnMut(u64, u64),
) -> Result<State, FormatError> {
    options.configuration.validate()?;
    let replica_count = options.configuration.replica_count;
    if options.replica.0 >= replica_count {
        return Err(FormatError::Replica { replica: options.replica.0, replica_count });
    }
    refuse_occupied(dir)?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_parents(parent)?;
    let (work, lock) = work_directory(dir)?;
    let made = make(dir, parent, &work, options, &mut grid, &mut progress).await;
    if made.is_err() {
        drop(lock);
        // What cannot be removed is removed by the next attempt; the first error is what counts.
        let _ = fs::remove_dir_all(&work);
    }
    made
}

/// Fills the directory beside the final place and puts it there.
async fn make(
    dir: &Path,
    parent: &Path,
    work: &Path,
    options: &FormatOptions,
    grid: &mut impl AsyncFnMut(ShardId, &Path, &State) -> io::Result<()>,
    progress: &mut impl FnMut(u64, u64),
) -> Result<State, FormatError> {
    let state = State::formatted(identity(options), options.configuration.clone());
    shift(work, options).await?;
    let journal = work.join(JOURNAL);
    let written = write_journal(&journal, options, &state, progress).await;
    written.map_err(|error| at(&journal, error))?;
    for shard in (0..options.configuration.shard_count).map(ShardId) {
        let path = grid_path(work, shard);
        grid(shard, &path, &state).await.map_err(|error| at(&path, error))?;
    }
    fs::sync_dir(work).map_err(|error| at(work, error))?;
    // An empty directory at the target is replaced.
    fs::rename(work, dir).map_err(|error| at(dir, error))?;
    fs::sync_dir(parent).map_err(|error| at(parent, error))?;
    Ok(state)
}

fn refuse_occupied(dir: &Path) -> Result<(), FormatError> {
    if !fs::exists(dir) {
        return Ok(());
    }
    let is_dir = fs::metadata(dir).map_err(|error| at(dir, error))?.is_dir;
    if !is_dir || !fs::read_dir(dir).map_err(|error| at(dir, error))?.is_empty() {
        return Err(FormatError::NotEmpty(dir.to_owned()));
    }
    Ok(())
}

fn create_parents(parent: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = parent
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !fs::exists(path))
        .collect();
    for path in missing.into_iter().rev() {
        fs::create_dir(path).map_err(|error| at(path, error))?;
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            fs::sync_dir(above).map_err(|error| at(above, error))?;
        }
    }
    Ok(())
}

/// The directory beside the final place, empty but for its lock, which is held.
fn work_directory(dir: &Path) -> Result<(PathBuf, File), FormatError> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".formatting");
    let work = dir.with_file_name(name);
    let lock_path = work.join(LOCK);
    let options = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
    if fs::exists(&work) {
        let lock = File::open(&lock_path, &options).map_err(io::Error::from)?;
        if !lock.try_lock()? {
            return Err(FormatError::Busy(dir.to_owned()));
        }
        fs::remove_dir_all(&work).map_err(|error| at(&work, error))?;
    }
    fs::create_dir(&work).map_err(|error| at(&work, error))?;
    let lock = File::open(&lock_path, &options).map_err(io::Error::from)?;
    if !lock.try_lock()? {
        return Err(FormatError::Busy(dir.to_owned()));
    }
    Ok((work, lock))
}

fn identity(options: &FormatOptions) -> Identity {
    let mut random = ioring::random("incarnation");
    let drawn = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    // The time as well: a machine image may bring its entropy with it.
    let incarnation = Incarnation(drawn ^ u128::from(ioring::wall_clock().0));
    Identity { cluster: options.cluster, replica: options.replica, incarnation }
}

/// Step 2: moves where on the device everything that follows comes to lie.
async fn shift(work: &Path, options: &FormatOptions) -> io::Result<()> {
    let sectors = ioring::random("shift").below(u64::from(options.shift_sectors_max) + 1);
    if sectors == 0 {
        return Ok(());
    }
    let path = work.join("shift");
    let file = create(&path, options.direct)?;
    let mut buffer = Buffer::zeroed(crate::journal::SECTOR);
    // Not zeros: devices and file systems may keep those without writing.
    ioring::random("shift contents").fill(&mut buffer);
    let sector = buffer.freeze();
    for index in 0..sectors {
        file.write(sector.clone(), index * sector.len() as u64).await?;
    }
    file.sync().await?;
    drop(file);
    fs::remove_file(&path).map_err(|error| at(&path, error))
}

/// Step 3: a journal of zeros, then the superblock.
async fn write_journal(
    path: &Path,
    options: &FormatOptions,
    state: &State,
    progress: &mut impl FnMut(u64, u64),
) -> io::Result<()> {
    let size = options.configuration.journal_file_size();
    let file = create(path, options.direct)?;
    file.allocate(0, size).await?;
    let zeros = Buffer::zeroed(CHUNK).freeze();
    let mut offset = 0;
    while offset < size {
        let writes = (0..4).map_while(|index| {
            let start = offset + index * CHUNK as u64;
            let length = usize::try_from(size.checked_sub(start)?).ok()?.min(CHUNK);
            (length > 0).then(|| file.write(zeros.slice(..length), start))
        });
        for written in ioring::join_all(writes).await {
            written?;
        }
        offset = (offset + 4 * CHUNK as u64).min(size);
        progress(offset, size);
    }
    superblock::format(&file, state).await?;
    file.sync().await
}

fn create(path: &Path, direct: Direct) -> io::Result<File> {
    let options =
        OpenOptions { read: true, write: true, create_new: true, direct, ..OpenOptions::default() };
    File::open(path, &options).map_err(io::Error::from)
}
