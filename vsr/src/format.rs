//! The data directory: made whole or not at all, opened by one process, refused by name.
//!
//! ```text
//! DIR/
//!   journal           superblock zone (128 KiB), then segments; every byte written by `format`
//!   shard-0000.grid   one grid file per shard; what is in them is the storage engine's
//!   LOCK              held with flock while a process has the directory open
//!   quorate.toml      host-local settings; optional, not read here
//! ```
//!
//! # Formatting
//!
//! 1. Make `DIR.formatting` beside the final place. One left by a format that was interrupted is
//!    removed first, unless a running process holds its lock.
//! 2. Write and erase a random number of sectors, so that replicas on one model of device do not
//!    lay their files out alike and meet the same fault of its firmware at the same place.
//! 3. Allocate the journal and write all of it, so that later durable writes change no metadata of
//!    the file system. Write the superblock. Let the storage engine make its grids.
//! 4. Sync every file, then the folder; rename it to its final name; sync the parent.
//!
//! Before the rename is durable there is no `DIR`, after it there is a complete one: a crash at any
//! instant leaves a formatted replica or none. A target that is not empty is refused.
//!
//! # Opening
//!
//! Lock first, then the superblock's quorum, then identity and configuration against what the
//! caller expects, and only then is anything written (damaged superblock copies). A lock held by a
//! process that was just killed may stay for a moment while the kernel tears its rings down:
//! locking is tried for 5 s before it is reported.

pub mod configuration;
mod create;
pub mod inspect;
mod open;

pub use configuration::{Configuration, ConfigurationError, Difference, LEVELS_MAX};
pub use create::{FormatError, FormatOptions, format};
pub use open::{DataDirectory, Expected, OpenError, OpenOptions};

use std::path::{Path, PathBuf};

/// The file with superblock and log.
pub const JOURNAL: &str = "journal";
/// The file that is locked.
pub const LOCK: &str = "LOCK";

/// The grid file of a shard.
#[must_use]
pub fn grid_path(dir: &Path, shard: wire::ShardId) -> PathBuf {
    dir.join(format!("shard-{:04}.grid", shard.0))
}

/// `error` with the path it is about, once.
fn at(path: &Path, error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let path = path.display().to_string();
    if text.contains(&path) {
        return error;
    }
    std::io::Error::new(error.kind(), format!("{path}: {text}"))
}

#[cfg(test)]
mod tests;
