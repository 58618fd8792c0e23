//! Trouble that has no answer: the process ends, at once, with a status of its own.
//!
//! Three kinds of trouble have three ways out. A bug asserts. An operating error is a `Result`.
//! What is left are environments in which going on would break a promise: a durable write that
//! failed (the kernel may have dropped the pages, so no retry can make it true), a state that
//! differs from the quorum's. These end the whole process: one core never dies alone.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::core::Core;

/// Why the process (in a simulation: the node) cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A write or sync that was to be durable failed; what the disk holds now is unknown.
    #[error("durable write to {path} at offset {offset} failed: {error}", path = path.display())]
    DurableWrite {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What the kernel said.
        error: io::Error,
    },
    /// This replica's state differs from what the others agreed on.
    #[error("state diverged: {0}")]
    Diverged(String),
    /// What is on disk cannot be trusted and nothing here can repair it.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// A resource of the host that was there at start is gone, or a fixed limit was passed.
    #[error("environment: {0}")]
    Environment(String),
}

impl Fatal {
    /// The status the process exits with; documented for operators, stable.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Fatal::DurableWrite { .. } => 70,
            Fatal::Diverged(_) => 72,
            Fatal::Corrupt(_) => 73,
            Fatal::Environment(_) => 74,
        }
    }
}

/// Ends the process with the status of `reason`, at once: nothing is flushed, nothing else runs, so
/// nothing can be acknowledged that is not true. In a simulation it ends the node.
pub fn fatal(reason: Fatal) -> ! {
    match Core::try_with(|core| core.driver.clone()) {
        Some(driver) => driver.fatal(&reason),
        None => exit(&reason),
    }
}

/// Says why, and ends the process.
pub(crate) fn exit(reason: &Fatal) -> ! {
    tracing::error!(status = reason.exit_status(), "fatal: {reason}");
    // Standard error too: a log may be off. If even this fails there is nobody left to tell.
    let _ = writeln!(io::stderr(), "fatal: {reason}");
    crate::system::exit_now(reason.exit_status())
}
