//! The grids' part of `quorate verify`.
//!
//! For every shard, from the root in the superblock:
//!
//! 1. the file: that it is there, whose it is, how long it is;
//! 2. the checkpoint: root, free set, generations, every block of the manifest log;
//! 3. every block of every live table, as [`lsm::verify`] does it: checksums, order of entries,
//!    counts, references, large values.
//!
//! A step that finds a fault does not end the work: the next shard is read all the same. Only where
//! the second step fails the third has nothing to go by, and says so. Files are opened for reading.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ioring::{Direct, Queue};
use lsm::block::BlockReference;
use lsm::checkpoint::Root;
use lsm::config::Config;
use lsm::entry::Level;
use lsm::forest::{Forest, Options};
use lsm::grid::{Grid, Owner};
use lsm::tree::Tree;
use vsr::superblock::State;

use crate::commands::inspect::fault::{Fault, tree_name};
use crate::commands::inspect::grid_file::{self, GridFile};
use crate::commands::inspect::live::Live;
use crate::commands::status;
use crate::progress::Bytes;
use crate::runtime;

/// Nothing is written, so nothing has to be held.
const MEMTABLE_BYTES: u64 = 1 << 20;
/// Index blocks are read through the cache, once each.
const CACHE_BYTES: u64 = 8 << 20;
/// How often progress is shown.
const INTERVAL: Duration = Duration::from_secs(2);

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) shards: usize,
    pub(super) tables: usize,
    pub(super) bytes: u64,
    pub(super) faults: Vec<Fault>,
}

/// A shard whose checkpoint is sound and whose tables are to be read.
#[derive(Clone)]
struct Work {
    path: PathBuf,
    owner: Owner,
    root: BlockReference,
    config: Config,
}

/// Reads all grids of a directory.
///
/// # Errors
/// When nothing can be read at all.
pub(super) fn verify(dir: &Path, state: &State) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut works = Vec::new();
    let mut total = 0;
    for shard in 0..state.configuration.shard_count {
        report.shards += 1;
        let grid = match GridFile::open(dir, shard, Some(state)) {
            Ok(grid) => grid,
            Err(error) => {
                let path = vsr::format::grid_path(dir, wire::ShardId(shard));
                report.faults.push(Fault::of_grid(&path, shard, format!("{error:#}")));
                continue;
            }
        };
        let (work, used) = checkpoint(&grid, state, &mut report);
        total += used * u64::from(grid.block_size);
        works.extend(work);
    }
    let meter = Meter::new(total);
    let shown = meter.clone();
    let (bytes, faults) = runtime::run(move || tables(works.clone(), shown.clone()))?;
    meter.bar.finish();
    report.bytes = bytes;
    report.faults.extend(faults);
    Ok(report)
}

/// Checks file and checkpoint; gives what is left to do, and how many blocks are in use.
fn checkpoint(grid: &GridFile, state: &State, report: &mut Report) -> (Option<Work>, u64) {
    let faults = grid.header_faults();
    if !faults.is_empty() {
        report.faults.extend(faults);
        report
            .faults
            .push(grid.fault("nothing in it was read: it is not known to be this shard's"));
        return (None, 0);
    }
    let root = grid_file::root(state, grid.shard);
    let live = Live::read(grid, root, Some(&state.configuration));
    report.faults.extend(live.faults);
    let Some(root) = root else { return (None, 0) };
    if !live.complete {
        let what = "its tables were not read: which of them are live is not known";
        report.faults.push(grid.fault(what));
        return (None, 0);
    }
    report.tables += live.tables.len();
    let work = Work {
        path: grid.path.clone(),
        owner: grid_file::owner(state, grid.shard),
        root,
        config: node::shard::open::config(&state.configuration, CACHE_BYTES),
    };
    (Some(work), live.free_set.as_ref().map_or(0, |free_set| free_set.space().acquired))
}

/// Reads the tables of all shards, one after the other; gives bytes read and faults.
async fn tables(works: Vec<Work>, meter: Meter) -> (u64, Vec<Fault>) {
    let (mut bytes, mut faults) = (0, Vec::new());
    for work in works {
        let (path, shard) = (work.path.as_path(), work.owner.identity.shard);
        let grid = Grid::open_read_only(path, work.owner, &work.config, Direct::Preferred).await;
        let grid = match grid {
            Ok(grid) => grid,
            Err(error) => {
                faults.push(Fault::of_grid(path, shard, error.to_string()));
                continue;
            }
        };
        let ticking = tick(meter.clone(), bytes, Rc::clone(&grid));
        let ticker = ioring::spawn(Queue::Background, "progress", ticking);
        let options = Options::standard(MEMTABLE_BYTES);
        match Forest::open(Rc::clone(&grid), Some(&Root(work.root)), options).await {
            Ok((forest, _)) => {
                let found = forest.verify().await.into_iter();
                faults.extend(found.map(|fault| place(path, &work, fault)));
            }
            Err(error) => faults.push(Fault::of_grid(path, shard, error.to_string())),
        }
        ticker.cancel();
        bytes += grid.stats().read_bytes;
        meter.bar.show(bytes);
    }
    (bytes, faults)
}

/// A fault that the storage engine found, with its place in the file.
fn place(path: &Path, work: &Work, fault: lsm::verify::Fault) -> Fault {
    let placed = Fault::of_grid(path, work.owner.identity.shard, fault.what);
    let placed = match fault.block {
        Some(block) => placed.at_block(block, work.config.block_size),
        None => placed,
    };
    Fault {
        tree: fault.tree.map(Tree::id).map(tree_name),
        level: fault.level.map(|Level(level)| level),
        table: fault.table.map(|table| table.get()),
        ..placed
    }
}

async fn tick(meter: Meter, before: u64, grid: Rc<Grid>) {
    loop {
        ioring::sleep(INTERVAL).await;
        meter.show(before + grid.stats().read_bytes);
    }
}

/// How far the work is: a bar on a terminal, lines otherwise.
#[derive(Clone)]
struct Meter {
    bar: Bytes,
    total: u64,
    started: Instant,
}

impl Meter {
    fn new(total: u64) -> Meter {
        Meter { bar: Bytes::new("grids", total), total, started: Instant::now() }
    }

    fn show(&self, done: u64) {
        self.bar.show(done.min(self.total));
        if !std::io::stderr().is_terminal() {
            let left = self.total.saturating_sub(done) as f64 / done.max(1) as f64;
            let eta = status::rough(self.started.elapsed().mul_f64(left).as_secs());
            let (done, total) = (done >> 20, self.total >> 20);
            // A reader of standard error that has gone away must not end the work.
            drop(writeln!(
                std::io::stderr(),
                "grids: {done} of at most {total} MiB read, {eta} to go"
            ));
        }
    }
}
