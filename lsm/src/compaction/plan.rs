//! What a bar's jobs are: a function of the manifest, the memtable and the configuration.
//!
//! Jobs are planned from the top of a tree to its bottom. A job claims its inputs; the next one
//! down chooses among what is left. A level that is wholly claimed gives nothing this bar and more
//! the next: level 0 is merged only every few bars, so no level starves.
//!
//! Inputs that overlap nothing below move by changing level, without a byte read, unless they hold
//! tombstones that a rewrite would drop.
//!
//! Tables of which every key belongs to a dead generation are dropped whole, whatever their level
//! and however much space there is: of a table without large values only the index block is read,
//! for the addresses of what it releases. They are claimed first, so a merge that would have had to
//! copy around them has less to do a bar later.
//!
//! *Short of space*, what could give blocks back is due whatever the size of its level: tables with
//! tombstones or keys of dead generations are merged into the level below, one window per level and
//! bar; in the deepest level tables with dead keys are rewritten where they are. Otherwise a full
//! grid that takes no writes would never grow any level, and stay full.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::block::BlockReference;
use crate::config::Config;
use crate::entry::Level as LevelNumber;
use crate::level::Level;
use crate::manifest::Manifest;
use crate::memtable::Memtable;
use crate::merge::{Below, Generations};
use crate::table::TableInfo;
use crate::tree::Tree;

/// Tables of a tree that a bar drops at most: each costs a read of its index block, and a record in
/// the manifest log.
const DROPPED_MAX: usize = 512;
/// Bytes an entry takes in a page beside key and payload, at most: lengths, version, deadline, its
/// share of restart points and of its page's header.
const ENTRY_FRAMING_MAX: u64 = 64;

/// What a job reads.
#[derive(Clone)]
pub(crate) enum Input {
    /// A memtable of the bar before.
    Memtable(Rc<Memtable>),
    /// A sorted run of tables of one level.
    Tables(LevelNumber, Vec<Rc<TableInfo>>),
}

/// One job of a bar.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) tree: Tree,
    /// Newest first: of equal keys the earlier input has the newer versions.
    pub(crate) inputs: Vec<Input>,
    /// Where the output goes.
    pub(crate) level: LevelNumber,
    pub(crate) kind: Kind,
    /// Whether it is only there to give space back: it may wait, others may not for its sake.
    pub(crate) reclaims: bool,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// Tables change level as they are.
    Move,
    /// Tables go, with all that is in them.
    Drop,
    /// Inputs are merged; tombstones that meet nothing in `below` are dropped.
    Merge { below: Below },
}

impl Job {
    /// Tables among the inputs, in order.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (LevelNumber, &Rc<TableInfo>)> {
        self.inputs.iter().flat_map(|input| match input {
            Input::Memtable(_) => [].iter().map(|table| (LevelNumber(0), table)).collect(),
            Input::Tables(level, tables) => {
                tables.iter().map(|table| (*level, table)).collect::<Vec<_>>()
            }
        })
    }

    /// Work in input blocks.
    pub(crate) fn work(&self, config: &Config) -> u64 {
        match self.kind {
            Kind::Move => return 0,
            Kind::Drop => return self.tables().map(|(_, table)| 1 + drop_reads(table)).sum(),
            Kind::Merge { .. } => {}
        }
        let work = self.inputs.iter().map(|input| match input {
            Input::Memtable(memtable) => memtable_work(config, memtable),
            Input::Tables(_, tables) => {
                tables.iter().map(|table| u64::from(table.value_blocks)).sum()
            }
        });
        work.sum()
    }

    pub(crate) fn is_drop(&self) -> bool {
        matches!(self.kind, Kind::Drop)
    }

    pub(crate) fn is_flush(&self) -> bool {
        matches!(self.inputs[..], [Input::Memtable(_)])
    }

    /// Blocks that the output can take at most, with the blocks of a flush's large values.
    pub(crate) fn blocks_max(&self, config: &Config, overflow_blocks: u64) -> u64 {
        if !matches!(self.kind, Kind::Merge { .. }) {
            return 0;
        }
        let mut bytes = 0;
        let mut overflow = 0;
        for input in &self.inputs {
            match input {
                Input::Memtable(memtable) => {
                    bytes += memtable.bytes() as u64;
                    overflow += overflow_blocks;
                }
                Input::Tables(_, tables) => {
                    bytes += tables.iter().map(|table| table_bytes(table)).sum::<u64>();
                }
            }
        }
        values_blocks_max(config, bytes) + overflow
    }
}

/// Value blocks that are read when a table is dropped: those that name blocks of large values.
fn drop_reads(table: &TableInfo) -> u64 {
    if table.overflow_blocks > 0 { u64::from(table.value_blocks) } else { 0 }
}

/// A memtable's work in blocks.
pub(crate) fn memtable_work(config: &Config, memtable: &Memtable) -> u64 {
    (memtable.bytes() as u64).div_ceil(u64::from(config.block_size))
}

/// Bytes that a full value block holds at least: an entry that does not fit any more is at most a
/// longest key and a longest inline value, with their framing.
fn block_fill_min(config: &Config) -> u64 {
    let entry_max = config.inline_value_size_max() + config.key_size_max as usize + 64;
    let fill = config.block_body_size().saturating_sub(entry_max);
    fill.max(config.block_body_size() / 2) as u64
}

/// Upper bound of the bytes a table's entries take in any encoding: keys in full, framing included.
fn table_bytes(table: &TableInfo) -> u64 {
    table.value_bytes + table.entries * ENTRY_FRAMING_MAX
}

/// A level's size in blocks, index blocks included; level 0 has none of its own.
pub(crate) fn level_blocks_max(config: &Config, level: LevelNumber) -> u64 {
    assert!(level.0 > 0);
    let memtable = config.memtable_bytes.div_ceil(u64::from(config.block_size)).max(1);
    let growth = u64::from(config.growth_factor).pow(u32::from(level.0));
    memtable.saturating_mul(growth)
}

/// What the plan of a bar looks at beside the tree itself.
pub(crate) struct Setting<'a> {
    pub(crate) config: &'a Config,
    /// Runs of level 0 that make its merge due.
    pub(crate) level0_runs_max: usize,
    /// Tables with a corrupt block.
    pub(crate) quarantined: &'a BTreeSet<u64>,
    /// The generations that are dead as of the horizon.
    pub(crate) dead: &'a Generations,
    /// Whether space is short.
    pub(crate) short: bool,
}

impl Setting<'_> {
    /// Whether merging a table would give space back, and space is short. Keys are ordered by
    /// table and generation, so the dead ones of a user's table are at one of its ends.
    fn gives_back(&self, tree: Tree, table: &TableInfo) -> bool {
        self.short && (table.tombstones > 0 || self.has_dead(tree, table))
    }

    fn has_dead(&self, tree: Tree, table: &TableInfo) -> bool {
        let is_dead = |key| self.dead.is_dead(tree, key);
        self.short && (is_dead(&table.key_min) || is_dead(&table.key_max))
    }
}

/// The jobs of one tree for the bar that starts now.
pub(crate) fn bar(
    setting: &Setting<'_>,
    tree: Tree,
    memtable: &Rc<Memtable>,
    manifest: &Manifest,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut claimed = setting.quarantined.clone();
    if !memtable.is_empty() {
        let inputs = vec![Input::Memtable(Rc::clone(memtable))];
        let kind = Kind::Merge { below: below(manifest, None) };
        jobs.push(Job { tree, inputs, level: LevelNumber(0), kind, reclaims: false });
    }
    let dropped = drop_dead(setting, tree, manifest, &claimed);
    claimed.extend(dropped.iter().flat_map(Job::tables).map(|(_, table)| key(table.index)));
    jobs.extend(dropped);
    let upper = merge_level_0(setting, tree, manifest, &claimed);
    let lower = (1..manifest.last().0).map(LevelNumber);
    let mut push = |job: Option<Job>, claimed: &mut BTreeSet<u64>| {
        let Some(job) = job else { return };
        claimed.extend(job.tables().map(|(_, table)| key(table.index)));
        jobs.push(job);
    };
    push(upper, &mut claimed);
    for level in lower {
        let job = merge_level(setting, tree, manifest, level, &claimed)
            .or_else(|| reclaim(setting, tree, manifest, level, &claimed));
        push(job, &mut claimed);
    }
    push(reclaim(setting, tree, manifest, manifest.last(), &claimed), &mut claimed);
    jobs
}

/// Value and index blocks for entries of so many bytes, at most. Every value block but a table's
/// last is filled up to one longest entry; placing pages wastes at most a quarter of it; a table
/// has at least one value block for its index block.
fn values_blocks_max(config: &Config, bytes: u64) -> u64 {
    3 * (bytes.div_ceil(block_fill_min(config)) + 1)
}

/// A table's name in sets: the address of its index block.
pub(crate) fn key(index: BlockReference) -> u64 {
    index.address.get()
}

/// Drops tables that hold nothing but keys of dead generations.
fn drop_dead(
    setting: &Setting<'_>,
    tree: Tree,
    manifest: &Manifest,
    claimed: &BTreeSet<u64>,
) -> Option<Job> {
    let dead = |(_, table): &(LevelNumber, &Rc<TableInfo>)| {
        setting.dead.are_all_dead(tree, &table.key_min, &table.key_max)
            && !claimed.contains(&key(table.index))
    };
    let tables = manifest.tables().filter(dead).take(DROPPED_MAX);
    let inputs: Vec<Input> =
        tables.map(|(level, table)| Input::Tables(level, vec![Rc::clone(table)])).collect();
    let (level, kind) = (LevelNumber(0), Kind::Drop);
    (!inputs.is_empty()).then_some(Job { tree, inputs, level, kind, reclaims: false })
}

/// Merges all of level 0 into level 1, once it has enough runs, or gives back space that is short.
fn merge_level_0(
    setting: &Setting<'_>,
    tree: Tree,
    manifest: &Manifest,
    claimed: &BTreeSet<u64>,
) -> Option<Job> {
    let reclaims = manifest.runs().len() < setting.level0_runs_max;
    let mut tables = manifest.runs().iter().flat_map(Level::tables);
    if reclaims && !tables.any(|table| setting.gives_back(tree, table)) {
        return None;
    }
    // The oldest ones: a merge holds two blocks of each.
    let newer = manifest.runs().len().saturating_sub(setting.level0_runs_max);
    let runs: Vec<&[Rc<TableInfo>]> =
        manifest.runs().iter().skip(newer).map(Level::tables).collect();
    let key_min = runs.iter().map(|run| &run[0].key_min).min()?;
    let key_max = runs.iter().map(|run| &run[run.len() - 1].key_max).max()?;
    let target = manifest.level(LevelNumber(1));
    let overlapped = &target.tables()[target.overlap_whole(key_min, key_max)];
    let mut inputs: Vec<Input> =
        runs.iter().map(|run| Input::Tables(LevelNumber(0), run.to_vec())).collect();
    if !overlapped.is_empty() {
        inputs.push(Input::Tables(LevelNumber(1), overlapped.to_vec()));
    }
    let job = job(tree, manifest, LevelNumber(1), inputs, claimed)?;
    Some(Job { reclaims, ..job })
}

/// Merges the first table of a level that gives back space into the next level; in the deepest one
/// it is rewritten where it is.
fn reclaim(
    setting: &Setting<'_>,
    tree: Tree,
    manifest: &Manifest,
    number: LevelNumber,
    claimed: &BTreeSet<u64>,
) -> Option<Job> {
    let is_last = number == manifest.last();
    let level = manifest.level(number);
    let gives_back = |table: &&Rc<TableInfo>| match is_last {
        true => setting.has_dead(tree, table),
        false => setting.gives_back(tree, table),
    };
    level.tables().iter().filter(gives_back).find_map(|table| {
        let window = &level.tables()[level.overlap_whole(&table.key_min, &table.key_max)];
        let mut inputs = vec![Input::Tables(number, window.to_vec())];
        let mut output = number;
        if !is_last {
            output = LevelNumber(number.0 + 1);
            let target = manifest.level(output);
            let (first, last) = (&window[0], &window[window.len() - 1]);
            let overlapped = target.overlap_whole(&first.key_min, &last.key_max);
            if !overlapped.is_empty() {
                inputs.push(Input::Tables(output, target.tables()[overlapped].to_vec()));
            }
        }
        let job = job(tree, manifest, output, inputs, claimed)?;
        Some(Job { reclaims: true, ..job })
    })
}

/// Merges the best window of a level into the next one, if the level is over its size.
fn merge_level(
    setting: &Setting<'_>,
    tree: Tree,
    manifest: &Manifest,
    number: LevelNumber,
    claimed: &BTreeSet<u64>,
) -> Option<Job> {
    let level = manifest.level(number);
    let excess = level.blocks().checked_sub(level_blocks_max(setting.config, number))?;
    if excess == 0 {
        return None;
    }
    let next = LevelNumber(number.0 + 1);
    let target = manifest.level(next);
    let free = |table: &TableInfo| !claimed.contains(&key(table.index));
    let window = &level.tables()[level.choose(target, excess, free)?];
    let (first, last) = (&window[0], &window[window.len() - 1]);
    let overlapped = &target.tables()[target.overlap_whole(&first.key_min, &last.key_max)];
    let mut inputs = vec![Input::Tables(number, window.to_vec())];
    if !overlapped.is_empty() {
        inputs.push(Input::Tables(next, overlapped.to_vec()));
    }
    job(tree, manifest, next, inputs, claimed)
}

/// A job of tables: a move if they overlap neither each other nor anything in the target level.
fn job(
    tree: Tree,
    manifest: &Manifest,
    level: LevelNumber,
    inputs: Vec<Input>,
    claimed: &BTreeSet<u64>,
) -> Option<Job> {
    let below = below(manifest, Some(level));
    let mut job = Job { tree, inputs, level, kind: Kind::Merge { below }, reclaims: false };
    if job.tables().any(|(_, table)| claimed.contains(&key(table.index))) {
        return None;
    }
    if can_move(&job, manifest) {
        job.kind = Kind::Move;
    }
    Some(job)
}

fn can_move(job: &Job, manifest: &Manifest) -> bool {
    let mut tables: Vec<&Rc<TableInfo>> = Vec::new();
    for (level, table) in job.tables() {
        // A rewrite at the bottom of what there is drops tombstones; a move would keep them.
        let drops = table.tombstones > 0 && !covered_below(manifest, job.level, table);
        if level == job.level || drops {
            return false;
        }
        tables.push(table);
    }
    tables.sort_by(|a, b| a.key_min.cmp(&b.key_min));
    tables.windows(2).all(|pair| pair[0].key_max < pair[1].key_min || same_run(pair[0], pair[1]))
}

/// Neighbours of one run may share a bound; tables of different runs may not.
fn same_run(a: &TableInfo, b: &TableInfo) -> bool {
    a.op == b.op && a.key_max == b.key_min
}

fn covered_below(manifest: &Manifest, level: LevelNumber, table: &TableInfo) -> bool {
    (level.0 + 1..=manifest.last().0).any(|deeper| {
        !manifest.level(LevelNumber(deeper)).overlap(&table.key_min, &table.key_max).is_empty()
    })
}

/// Every sorted run that lies below an output: all of them for a flush.
fn below(manifest: &Manifest, output: Option<LevelNumber>) -> Below {
    let deeper = manifest.sorted_runs().filter(|(level, _)| output.is_none_or(|out| *level > out));
    Below::new(deeper.map(|(_, level)| level.tables().to_vec()).collect())
}

/// Blocks that the jobs of the next `bars` bars write at most, for a tree that looks like this one.
///
/// What arrives in a level in that time is what the bars flush, and what level 0 holds back. Level
/// 0 is merged with all of level 1 once in so many bars. A deeper level gives away what it has too
/// much, rewriting at most twice its fair share of the level below: the window with the least
/// overlap has no more than the average, bounds aside.
pub(crate) fn bars_blocks_max(config: &Config, bars: u64, manifest: &Manifest) -> u64 {
    let runs = u64::from(config.level0_runs_max);
    let flush = 2 * (config.memtable_bytes.div_ceil(block_fill_min(config)) + 1);
    let arriving = flush * (bars + runs) + manifest.blocks(LevelNumber(0));
    let merges = bars.div_ceil(runs) + 1;
    let mut blocks = flush * bars + arriving + merges * manifest.blocks(LevelNumber(1));
    for level in (1..manifest.last().0).map(LevelNumber) {
        let live = manifest.blocks(level);
        if live + arriving <= level_blocks_max(config, level) {
            continue;
        }
        let below = manifest.blocks(LevelNumber(level.0 + 1));
        let fair = arriving * (1 + 2 * u64::from(config.growth_factor));
        blocks += fair.min(bars * (arriving + live + below));
    }
    blocks
}

/// Blocks that the flush of a memtable of so many bytes can take at most. A byte stands in a value
/// block or in an overflow block, so what counts is the worse of the two; references to large
/// values are less than a sixty-fourth of them.
pub(crate) fn flush_blocks_max(config: &Config, bytes: u64) -> u64 {
    let values = values_blocks_max(config, bytes + bytes / 64);
    // A large value is longer than a quarter of a block and wastes at most most of its last one.
    let overflow = bytes.div_ceil(config.inline_value_size_max() as u64);
    values.max(overflow) + 4
}
