//! Operations on paths. They block, and are for start-up, growth and tools.
//!
//! A directory entry that was created, renamed or removed survives a loss of power only after
//! [`sync_dir`] on its directory; a simulated file system holds the code above to that. On a thread
//! without a runtime these act on the real file system.

use std::io;
use std::path::{Path, PathBuf};

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes; 0 for directories.
    pub length: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}
