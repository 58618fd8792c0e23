//! `quorate inspect`: what lies on disk, read-only, of a stopped or damaged directory too.
//!
//! Nothing is locked or changed. Of a directory that a node has open the answer may mix two
//! moments; superblock copies that differ are then an update on its way.

mod block;
mod constants;
pub(crate) mod fault;
mod grid;
pub(crate) mod grid_file;
mod journal;
mod keys;
pub(crate) mod live;
mod superblock;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use vsr::format::inspect::DirectoryReport;
use vsr::superblock::State;

use grid_file::GridFile;
use live::Live;

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
    /// Each shard's grid file: whose it is, what its blocks are used for, its last checkpoint
    #[command(after_help = "Example:\n  quorate inspect grid --dir /var/lib/quorate/0")]
    Grid {
        /// Only this shard
        #[arg(long, value_name = "S")]
        shard: Option<u16>,
    },
    /// One block of a grid: its header, what is wrong with it, and what it holds
    #[command(after_help = "Example:\n  quorate inspect block 17 --shard 3")]
    Block {
        /// The block's address: its offset in the file divided by the block size
        address: u64,
        /// The shard whose grid it is in
        #[arg(long, value_name = "S")]
        shard: u16,
    },
    /// How many tables, entries and bytes each level of each tree has
    #[command(after_help = "Example:\n  quorate inspect manifest --shard 3")]
    Manifest {
        /// Only this shard
        #[arg(long, value_name = "S")]
        shard: Option<u16>,
    },
    /// Every live table: its keys, versions, counts and blocks
    #[command(after_help = "Example:\n  quorate inspect tables --shard 3")]
    Tables {
        /// Only this shard
        #[arg(long, value_name = "S")]
        shard: Option<u16>,
    },
    /// Entries as they stand in tables, every version; what is in the journal only is not there
    #[command(after_help = "Example:\n  quorate inspect keys --shard 3 --limit 1000")]
    Keys {
        /// Only this shard
        #[arg(long, value_name = "S")]
        shard: Option<u16>,
        /// How many entries to show at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
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
        What::Grid { shard } => grid::show(&Shards::of(dir, shard)?, json),
        What::Block { address, shard } => {
            let shards = Shards::of(dir, Some(shard))?;
            block::show(&GridFile::open(dir, shard, shards.state.as_ref())?, address, json)
        }
        What::Manifest { shard } => tables::show_manifest(&Shards::of(dir, shard)?, json),
        What::Tables { shard } => tables::show(&Shards::of(dir, shard)?, json),
        What::Keys { shard, limit } => keys::show(&Shards::of(dir, shard)?, limit, json),
        What::Constants => constants::show(read(dir, false).ok().as_ref(), json),
    }
}

/// The shards of a directory that are looked at, and what the superblock says of them, if it can be
/// read.
struct Shards {
    dir: PathBuf,
    state: Option<State>,
    numbers: Vec<u16>,
}

impl Shards {
    /// All of them, or the one asked for.
    fn of(dir: &Path, asked: Option<u16>) -> Result<Shards, Failure> {
        // Without a journal file there may be grids all the same.
        let state = match read(dir, false) {
            Ok(report) => report.state,
            Err(_) if dir.is_dir() => None,
            Err(failure) => return Err(failure),
        };
        let numbers = grid_file::shards(dir, state.as_ref(), asked);
        if numbers.is_empty() {
            let error = anyhow!("{}: there is neither a superblock nor a grid", dir.display());
            return Err(Failure::Failed(error));
        }
        if let (Some(state), Some(shard)) = (&state, asked) {
            let count = state.configuration.shard_count;
            if shard >= count {
                let error = anyhow!("there is no shard {shard}: the directory has {count}");
                return Err(Failure::Usage(error));
            }
        }
        Ok(Shards { dir: dir.to_owned(), state, numbers })
    }

    fn numbers(&self) -> impl Iterator<Item = u16> {
        self.numbers.iter().copied()
    }

    /// A shard's grid file and what its last checkpoint says of it.
    fn open(&self, shard: u16) -> anyhow::Result<(GridFile, Live)> {
        let state = self.state.as_ref();
        let grid = GridFile::open(&self.dir, shard, state)?;
        let root = state.and_then(|state| grid_file::root(state, shard));
        let configuration = state.map(|state| &state.configuration);
        let configuration = configuration.filter(|values| values.validate().is_ok());
        let mut live = Live::read(&grid, root, configuration);
        if state.is_none() {
            let what = "no superblock copy can be read: what is live in the grid is not known";
            live.fault(grid.fault(what));
        }
        Ok((grid, live))
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
