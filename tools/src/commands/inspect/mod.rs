//! `quorate inspect`: what lies on disk, read-only, of a stopped or damaged directory too.
//!
//! Nothing is locked or changed. Of a directory that a node has open the answer may mix two
//! moments; superblock copies that differ are then an update on its way.

mod constants;
mod journal;
mod superblock;

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use vsr::format::inspect::DirectoryReport;

use crate::outcome::{Failure, Outcome};
use crate::runtime;

/// Show what lies on disk; works on stopped and on damaged directories
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The data directory
    #[arg(long, global = true, value_name = "FOLDER", default_value = "./quorate-dev")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The eight copies of the superblock, and which of them counts
    #[command(after_help = "Example:\n  quorate inspect superblock --dir /var/lib/quorate/0")]
    Superblock,
    /// Segments, frames and what a restart would make of them
    #[command(after_help = "Example:\n  quorate inspect journal --frames")]
    Journal {
        /// List every frame, not only counts
        #[arg(long)]
        frames: bool,
    },
    /// All frames of one op, with the operations in it
    #[command(after_help = "Example:\n  quorate inspect op 42")]
    Op {
        /// The op's number
        op: u64,
    },
    /// What is fixed in this release, and what this directory was formatted with
    #[command(after_help = "Example:\n  quorate inspect constants")]
    Constants,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let (dir, json) = (&arguments.dir, arguments.json);
    match arguments.what {
        What::Superblock => superblock::show(&read(dir, false)?, json),
        What::Journal { frames } => journal::show(&read(dir, true)?, frames, json),
        What::Op { op } => journal::show_op(dir, &read(dir, true)?, wire::Op(op), json),
        What::Constants => constants::show(read(dir, false).ok().as_ref(), json),
    }
}

/// Reads superblock and, when asked for, journal.
pub(crate) fn read(dir: &Path, journal: bool) -> Result<DirectoryReport, Failure> {
    let path = dir.to_owned();
    let report = runtime::run(move || {
        let path = path.clone();
        async move { vsr::format::inspect::inspect(&path, journal).await }
    })?;
    report.map_err(|error| {
        let text = format!("{}: no data directory can be read there: {error}", dir.display());
        Failure::Failed(anyhow!(text))
    })
}
