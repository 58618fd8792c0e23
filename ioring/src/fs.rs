//! Operations on paths. They block, and are for start-up, growth and tools.
//!
//! A directory entry that was created, renamed or removed survives a loss of power only after
//! [`sync_dir`] on its directory; a simulated file system holds the code above to that. On a thread
//! without a runtime these act on the real file system.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::Core;
use crate::file::FileError;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes; 0 for directories.
    pub length: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Calls the installed driver, or the real file system where none is.
macro_rules! dispatch {
    ($method:ident($($argument:expr),*)) => {
        Core::try_with(|core| core.driver.$method($($argument),*))
            .unwrap_or_else(|| real::$method($($argument),*))
    };
}

/// Creates a directory, whose parent exists.
pub fn create_dir(path: &Path) -> io::Result<()> {
    named("create directory", path, dispatch!(create_dir(path)))
}

/// Renames; a file at the target is replaced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    named("rename", from, dispatch!(rename(from, to)))
}

/// Removes a file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    named("remove", path, dispatch!(remove_file(path)))
}

/// Removes a directory and all below it.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    named("remove directory", path, dispatch!(remove_dir_all(path)))
}

/// Full paths of a directory's entries, sorted.
pub fn read_dir(path: &Path) -> io::Result<Vec<PathBuf>> {
    named("list", path, dispatch!(read_dir(path)))
}

/// Whether there is anything at the path.
pub fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// Makes the entries of a directory durable: files created, renamed and removed in it.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    named("sync directory", path, dispatch!(sync_dir(path)))
}

/// What is known of a path.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    named("look up", path, dispatch!(metadata(path)))
}

/// Reads a whole file, for configuration and the like.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    named("read", path, dispatch!(read_small(path)))
}

/// Creates or replaces a whole file and syncs it; the directory is the caller's to sync.
pub fn write_small(path: &Path, bytes: &[u8]) -> io::Result<()> {
    named("write", path, dispatch!(write_small(path, bytes)))
}

fn named<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| FileError::new(operation, path, None, error).into())
}

/// The real file system.
pub(crate) mod real {
    use super::{Metadata, Path, PathBuf, io};
    use std::fs::{self, File};
    use std::io::Write;

    pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    pub(crate) fn read_dir(path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    }

    pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(crate) fn metadata(path: &Path) -> io::Result<Metadata> {
        let metadata = fs::metadata(path)?;
        let is_dir = metadata.is_dir();
        Ok(Metadata { length: if is_dir { 0 } else { metadata.len() }, is_dir })
    }

    pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    pub(crate) fn write_small(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}
