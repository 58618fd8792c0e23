//! What a bar's jobs are: a function of the manifest, the memtable and the configuration.
//!
//! **Shape.** A flush makes a run of level 0. Runs of a level that has as many as it may have
//! become one run of the next level; the last level is one run. So a byte is written once per
//! level, and not again and again as it would be if every level were one run (lazy levelling: Dayan
//! and Idreos, "Dostoevsky", 2018). What this costs a reader are more runs to ask, each of which a
//! filter answers for but the one that has the key.
//!
//! What lies dead in older runs is not given back that way. The [`crate::sample::Census`] says how
//! much there is: above [`DEAD_PERCENT_DUE`] all runs go into the last level, whatever their
//! number, and take as many bars as it takes for [`DEAD_PERCENT`] to come together above them. So a
//! tree that is overwritten is bounded in space, and its last level is rewritten all the time, in
//! equal parts. One that only grows is never rewritten for it. A bar without writes tidies up more
//! thoroughly ([`DEAD_PERCENT_IDLE`]).
//!
//! **Steps of a plan**, for one tree:
//!
//! 1. The flush of the immutable memtable into a new run. One that is small takes the newest run
//!    with it, as long as that is small too ([`flush`]), so that idle times do not leave many tiny
//!    runs behind.
//! 2. A slice of each group on its way ([`crate::manifest`]): the lowest stretch of the keys that
//!    its runs still hold, as long as [`pace`] says.
//! 3. The first slice of each group that is due now.
//! 4. Short of space: tables of the last level whose keys are dead are rewritten where they are.
//!
//! **Slices.** A slice takes all tables of the group that begin before a key, and, if it goes to
//! the last level, what they overlap there. The key is chosen so that no table of the last level is
//! cut. Tables of the group that are cut keep their upper part: it becomes a table of the same run
//! whose value blocks are those of the old table, by reference. Tables that overlap nothing move as
//! they are, without a byte read, unless they hold tombstones that a merge would drop.
//!
//! Every bar is to merge about the same, since writers wait in one that merges more. Tables are too
//! coarse a measure for it: a plan takes more of them than it needs, and says how many blocks are
//! to be merged ([`Job::pace`]); where the slice ends is decided once the index blocks are read
//! ([`super::blocks`]).
//!
//! Tables of which every key belongs to a dead generation are dropped whole, whatever their level
//! and however much space there is: of a table without large values only the index block is read,
//! for the addresses of what it releases. Nothing else of the bar may take them, so a merge that
//! wants one waits a bar.
//!
//! *Short of space*, what could give blocks back is due whatever the census says. Otherwise a full
//! grid that takes no writes would never merge anything, and stay full.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use crate::block::BlockReference;
use crate::config::Config;
use crate::entry::Level as LevelNumber;
use crate::level::Level;
use crate::manifest::{Group, Manifest, Run};
use crate::memtable::Memtable;
use crate::merge::{Below, Generations};
use crate::overflow::BLOCK_REFERENCE_SIZE;
use crate::table::TableInfo;
use crate::tree::{Large, Tree};

/// Bytes an entry takes in a page beside key and payload, at most: lengths, version, deadline, its
/// share of restart points and of its page's header.
const ENTRY_FRAMING_MAX: u64 = 64;
/// Dead entries of a hundred that there should be at most.
pub(crate) const DEAD_PERCENT: u64 = 33;
/// Dead entries of a hundred above which all runs go into the last level: while they do so, in one
/// slice after the other, more comes in.
const DEAD_PERCENT_DUE: u64 = 22;
/// The same in a bar without writes.
pub(crate) const DEAD_PERCENT_IDLE: u64 = 10;
/// The same when space is short.
const DEAD_PERCENT_SHORT: u64 = 2;
/// Tables of a tree that a bar drops at most: each costs a read of its index block, and a record in
/// the manifest log.
const DROPPED_MAX: usize = 512;
/// Runs that one job merges at most: it holds two blocks of each.
pub(crate) const GROUP_RUNS_MAX: usize = 16;
/// Value blocks of a slice for each of its runs at least: what is cut is read and written for it.
const SLICE_BLOCKS_PER_RUN: u64 = 4;
/// Blocks that the upper part of a cut table takes beside those it keeps: the rest of a value
/// block, and an index block; twice, should the index block have been full.
const CUT_BLOCKS_MAX: u64 = 4;

/// What a job reads.
#[derive(Clone)]
pub(crate) enum Input {
    /// A memtable of the bar before.
    Memtable(Rc<Memtable>),
    /// Tables of one run.
    Tables(LevelNumber, Vec<Rc<TableInfo>>),
}

/// One job of a bar.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) tree: Tree,
    /// What is merged, newest first: of equal keys the earlier input has the newer versions.
    pub(crate) inputs: Vec<Input>,
    /// Tables that change level as they are.
    pub(crate) moves: Vec<(LevelNumber, Rc<TableInfo>)>,
    /// Where the output goes: the level, and the run that it becomes part of.
    pub(crate) level: LevelNumber,
    pub(crate) run: u64,
    /// Keys from here on stay in their runs.
    pub(crate) behind: Option<Box<[u8]>>,
    /// Value blocks to merge, about: the slice ends earlier than `behind` if there are more.
    pub(crate) pace: Option<u64>,
    /// Where the output must begin a new table, in order: tables that the job leaves alone, or that
    /// move, will stand between.
    pub(crate) splits: Vec<Box<[u8]>>,
    /// Tombstones that meet nothing here are dropped.
    pub(crate) below: Below,
    /// Whether the tables go with all that is in them, instead of being merged.
    pub(crate) drops: bool,
}

impl Job {
    /// Tables that are merged, in order.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (LevelNumber, &Rc<TableInfo>)> {
        self.inputs.iter().flat_map(|input| {
            let (level, tables) = match input {
                Input::Memtable(_) => (LevelNumber(0), &[][..]),
                Input::Tables(level, tables) => (*level, &tables[..]),
            };
            tables.iter().map(move |table| (level, table))
        })
    }

    /// The inputs that are tables of a run, with their level.
    pub(crate) fn table_inputs(&self) -> impl Iterator<Item = (LevelNumber, &[Rc<TableInfo>])> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Memtable(_) => None,
            Input::Tables(level, tables) => Some((*level, &tables[..])),
        })
    }

    /// Ends the slice earlier: tables that begin behind its end have no part in it.
    pub(crate) fn narrow(&mut self, behind: Box<[u8]>) {
        for input in &mut self.inputs {
            if let Input::Tables(_, tables) = input {
                tables.retain(|table| table.key_min < behind);
            }
        }
        self.inputs.retain(|input| !matches!(input, Input::Tables(_, tables) if tables.is_empty()));
        self.moves.retain(|(_, table)| table.key_min < behind);
        self.behind = Some(behind);
    }

    /// Work in input blocks, at most.
    pub(crate) fn work(&self, config: &Config) -> u64 {
        if self.drops {
            return self.tables().map(|(_, table)| 1 + drop_reads(table)).sum();
        }
        self.value_blocks() + self.memtable().map_or(0, |memtable| memtable_work(config, memtable))
    }

    /// Value blocks of its tables.
    pub(crate) fn value_blocks(&self) -> u64 {
        self.tables().map(|(_, table)| u64::from(table.value_blocks)).sum()
    }

    pub(crate) fn memtable(&self) -> Option<&Rc<Memtable>> {
        match self.inputs.first() {
            Some(Input::Memtable(memtable)) => Some(memtable),
            _ => None,
        }
    }

    /// Only the memtable: the run that was to be flushed with it stays, and is older.
    pub(crate) fn alone(mut self) -> Job {
        let tables = self.inputs.split_off(1).into_iter().filter_map(|input| match input {
            Input::Memtable(_) => None,
            Input::Tables(_, tables) => Some(tables),
        });
        for tables in tables {
            let mut run = Level::default();
            tables.into_iter().for_each(|table| run.insert(table));
            self.below.push(run);
        }
        self
    }

    /// Blocks that a merge must have left when it ends before its inputs do; none for what has to
    /// be done in full.
    pub(crate) fn ends_early(&self) -> Option<u64> {
        let is_merge = self.memtable().is_none() && !self.drops;
        is_merge.then_some(CUT_BLOCKS_MAX * self.inputs.len() as u64)
    }

    /// Blocks to reserve: as many as it must have, and as many as it will probably take. A flush
    /// must have all that it can take; `large` is its memtable's.
    pub(crate) fn room(&self, config: &Config, large: Large) -> Room {
        let bytes: u64 = self.tables().map(|(_, table)| table_bytes(table)).sum();
        if let Some(memtable) = self.memtable() {
            let flush = flush_blocks(config, memtable.bytes() as u64, large);
            if bytes == 0 {
                return Room { least: flush, likely: flush };
            }
            // A run that cannot be read is left alone, and the memtable flushed once more.
            let flush = 2 * flush + values_blocks_max(config, bytes);
            return Room { least: flush, likely: flush };
        }
        let Some(end) = self.ends_early().filter(|_| !self.inputs.is_empty()) else {
            return Room { least: 0, likely: 0 };
        };
        let least = end + table_blocks_max(config, self.level);
        let inline: u64 = self.tables().map(|(_, table)| inline_bytes(config, table)).sum();
        let blocks = inline.div_ceil(config.block_body_size() as u64);
        // A slice ends where its pace says, or at the next place where it can.
        let table = table_blocks_max(config, self.level);
        let blocks = self.pace.map_or(blocks, |pace| blocks.min(pace + table));
        Room { least, likely: least + blocks + blocks / 8 + self.splits.len() as u64 }
    }
}

/// How many blocks a job is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Without so many it waits for a later bar.
    pub(crate) least: u64,
    /// More than so many it has no use for, as far as can be seen.
    pub(crate) likely: u64,
}

/// Value and index block of one table of a level, at most.
pub(crate) fn table_blocks_max(config: &Config, level: LevelNumber) -> u64 {
    u64::from(config.table_value_blocks_max_of(level)) + 1
}

/// Blocks without which a merge may have to wait, at most: see [`Job::room`].
pub(crate) fn merge_blocks_least(config: &Config) -> u64 {
    // The runs of a group, and the last level.
    let end = CUT_BLOCKS_MAX * (GROUP_RUNS_MAX as u64 + 1);
    end + table_blocks_max(config, LevelNumber(config.levels - 1))
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

/// Bytes that a table's entries probably take in value blocks.
fn inline_bytes(config: &Config, table: &TableInfo) -> u64 {
    let overflow = u64::from(table.overflow_blocks) * config.block_body_size() as u64;
    let references = u64::from(table.overflow_blocks) * BLOCK_REFERENCE_SIZE as u64;
    table_bytes(table).saturating_sub(overflow) + references
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

/// Blocks of a full memtable.
fn memtable_blocks(config: &Config) -> u64 {
    config.memtable_bytes.div_ceil(u64::from(config.block_size)).max(1)
}

/// Runs of a level that make them due to become one run of the next.
fn runs_max(config: &Config, level: LevelNumber) -> u64 {
    u64::from(if level.0 == 0 { config.level0_runs_max } else { config.growth_factor })
}

/// What the plan of a bar looks at beside the tree itself.
pub(crate) struct Setting<'a> {
    pub(crate) config: &'a Config,
    /// The op at which the bar begins: the number of the run that is flushed.
    pub(crate) op: u64,
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

    fn is_quarantined(&self, table: &TableInfo) -> bool {
        self.quarantined.contains(&key(table.index))
    }
}

/// One tree at a bar's start.
struct Plan<'p> {
    setting: &'p Setting<'p>,
    tree: Tree,
    manifest: &'p Manifest,
    /// Nothing was written in the bar before.
    idle: bool,
}

/// The jobs of one tree for the bar that starts now.
pub(crate) fn bar(
    setting: &Setting<'_>,
    tree: Tree,
    memtable: &Rc<Memtable>,
    manifest: &Manifest,
) -> Vec<Job> {
    let plan = Plan { setting, tree, manifest, idle: memtable.is_empty() };
    let mut jobs = Vec::new();
    let groups = manifest.groups();
    let all = plan.all_due(&groups);
    let mut taken = None;
    if !memtable.is_empty() {
        taken = plan.small_run(memtable, &groups).filter(|_| all.is_none());
        jobs.push(plan.flush(memtable, taken));
    }
    if let Some(group) = all {
        jobs.extend(plan.slice(&group));
    } else {
        let due = plan.due(&groups, taken.map(|run| run.number));
        jobs.extend(groups.iter().chain(&due).filter_map(|group| plan.slice(group)));
    }
    let dropped = plan.drop_dead();
    let gone: BTreeSet<u64> =
        dropped.iter().flat_map(Job::tables).map(|(_, table)| key(table.index)).collect();
    // What goes is not merged; a merge that wanted it has less to do a bar later.
    let merges = |job: &Job| {
        let moves = job.moves.iter().map(|(level, table)| (*level, table));
        job.tables().chain(moves).any(|(_, table)| gone.contains(&key(table.index)))
    };
    jobs.retain(|job| job.memtable().is_some() || !merges(job));
    jobs.extend(dropped);
    let busy = !gone.is_empty() || jobs.iter().any(|job| job.level == manifest.last_number());
    if !busy {
        jobs.extend(plan.reclaim_last());
    }
    jobs
}

/// Whether a bar without writes would merge runs of a tree.
pub(crate) fn is_untidy(setting: &Setting<'_>, tree: Tree, manifest: &Manifest) -> bool {
    let plan = Plan { setting, tree, manifest, idle: true };
    let groups = manifest.groups();
    let due = plan.due(&groups, None);
    groups.iter().chain(&due).any(|group| plan.slice(group).is_some())
}

impl<'p> Plan<'p> {
    /// The newest run, if it is so small beside the memtable that it is flushed with it.
    fn small_run(&self, memtable: &Memtable, groups: &[Group<'_>]) -> Option<&'p Run> {
        let run = self.manifest.runs().first().filter(|run| run.level == LevelNumber(0))?;
        let work = memtable_work(self.setting.config, memtable);
        let blocks = run.tables.blocks();
        // Index blocks and blocks that are not full count here, and do not in a memtable.
        let most = memtable_blocks(self.setting.config) + 2;
        let small = blocks <= 2 * work + 2 && blocks + work <= most;
        let grouped = groups.iter().any(|group| run.number <= group.number);
        let readable = !run.tables.tables().iter().any(|table| self.setting.is_quarantined(table));
        let dead = run.tables.tables().iter().any(|table| self.is_all_dead(table));
        (small && !grouped && readable && !dead).then_some(run)
    }

    /// The flush of the memtable, with a small run of before.
    fn flush(&self, memtable: &Rc<Memtable>, taken: Option<&Run>) -> Job {
        let mut inputs = vec![Input::Memtable(Rc::clone(memtable))];
        let older = taken.map_or(self.setting.op, |run| run.number);
        if let Some(run) = taken {
            inputs.push(Input::Tables(run.level, run.tables.tables().to_vec()));
        }
        Job {
            tree: self.tree,
            inputs,
            moves: Vec::new(),
            level: LevelNumber(0),
            run: self.setting.op,
            behind: None,
            pace: None,
            splits: Vec::new(),
            below: self.below(older),
            drops: false,
        }
    }

    /// Everything older than a run.
    fn below(&self, number: u64) -> Below {
        let older = self.manifest.runs().iter().filter(|run| run.number < number);
        let older = older.map(|run| run.tables.clone());
        Below::new(older.chain([self.manifest.last().clone()]))
    }

    /// All runs on their way into the last level, if that is due for what it gives back.
    fn all_due(&self, groups: &[Group<'_>]) -> Option<Group<'p>> {
        let (manifest, last) = (self.manifest, self.manifest.last_number());
        if manifest.runs().is_empty() || groups.iter().any(|group| group.level == last) {
            return None;
        }
        let dead = self.dead_percent();
        let regular = if self.idle { DEAD_PERCENT_IDLE } else { DEAD_PERCENT_DUE };
        let tables = || manifest.runs().iter().flat_map(|run| run.tables.tables());
        let for_space = || {
            self.setting.short
                && (dead >= DEAD_PERCENT_SHORT
                    || tables().any(|table| self.setting.gives_back(self.tree, table)))
        };
        if dead < regular && !for_space() {
            return None;
        }
        // The oldest ones: a merge holds two blocks of each.
        let newer = manifest.runs().len().saturating_sub(GROUP_RUNS_MAX);
        let runs: Vec<&Run> = manifest.runs()[newer..].iter().collect();
        Some(Group { number: runs[0].number, runs, level: last })
    }

    /// The share of entries that are dead. Without a sample large enough to say, all that the runs
    /// hold beside the last level may be.
    fn dead_percent(&self) -> u64 {
        self.manifest.census().dead_percent().unwrap_or_else(|| {
            let (upper, last) = (self.manifest.upper_blocks(), self.manifest.last().blocks());
            // Without a last level there is nothing to be superseded there.
            if last == 0 { 0 } else { upper * 100 / (upper + last) }
        })
    }

    /// The runs of a level that are whole and not on their way; a run that is flushed again is not
    /// one of them.
    fn whole<'a>(
        &self,
        level: LevelNumber,
        groups: &'a [Group<'_>],
        taken: Option<u64>,
    ) -> impl Iterator<Item = &'p Run> + use<'a, 'p> {
        let grouped = move |run: &&Run| {
            groups.iter().any(|group| {
                let becomes = group.level == run.level && group.number == run.number;
                let is_of = |other: &&Run| (other.number, other.level) == (run.number, run.level);
                becomes || group.runs.iter().any(is_of)
            })
        };
        let manifest = self.manifest;
        let runs = manifest.runs_of(level).filter(move |run| Some(run.number) != taken);
        runs.filter(move |run| !grouped(run))
    }

    /// Runs of a level that become one of the next: as many as it may have, or, in a bar without
    /// writes, as are worth a merge.
    fn runs_due(&self, level: LevelNumber) -> u64 {
        let most = runs_max(self.setting.config, level);
        match (self.idle, level.0) {
            (false, _) => most,
            (true, 0) => 2,
            (true, _) => (most - most / 4).max(2),
        }
    }

    /// Groups that begin now: levels that have as many runs as they may have.
    fn due(&self, groups: &[Group<'_>], taken: Option<u64>) -> Vec<Group<'p>> {
        let last = self.manifest.last_number();
        let mut due = Vec::new();
        for level in (0..last.0).map(LevelNumber) {
            let leaving = groups.iter().filter(|group| group.level < last);
            let leaving = leaving.flat_map(|group| &group.runs).any(|run| run.level == level);
            let runs: Vec<&Run> = self.whole(level, groups, taken).collect();
            if leaving || (runs.len() as u64) < self.runs_due(level) {
                continue;
            }
            // The oldest ones: a merge holds two blocks of each.
            let runs = runs[runs.len().saturating_sub(GROUP_RUNS_MAX)..].to_vec();
            let (next, number) = (LevelNumber(level.0 + 1), runs[0].number);
            let mut group = Group { runs, level: next, number };
            let between = self.manifest.runs().iter().any(|run| run.level > level);
            if !between && 2 * self.manifest.last().blocks() <= group.blocks() {
                group.level = last;
            }
            let full = groups.iter().any(|group| group.level == last);
            if group.level < last || !full {
                due.push(group);
            }
        }
        due
    }

    /// The next slice of a group; none if a corrupt table is in its way.
    fn slice(&self, group: &Group<'_>) -> Option<Job> {
        let (manifest, last) = (self.manifest, self.manifest.last_number());
        let nothing = Level::default();
        let target = if group.level == last { manifest.last() } else { &nothing };
        let window = self.window(group, target)?;
        let mut inputs = Vec::new();
        let mut moves = Vec::new();
        let mut met = BTreeSet::new();
        for (run, tables) in group.runs.iter().zip(&window.tables) {
            let mut merged = Vec::new();
            for table in &run.tables.tables()[tables.clone()] {
                if self.moves(group, &window, target, table) {
                    moves.push((run.level, Rc::clone(table)));
                    continue;
                }
                met.extend(window.below(target, table));
                merged.push(Rc::clone(table));
            }
            if !merged.is_empty() {
                inputs.push(Input::Tables(run.level, merged));
            }
        }
        let mut splits: Vec<Box<[u8]>> =
            moves.iter().map(|(_, table)| table.key_min.clone()).collect();
        splits.extend(gaps(target, &met, &inputs));
        splits.sort_unstable();
        let met: Vec<Rc<TableInfo>> =
            met.into_iter().map(|number| Rc::clone(&target.tables()[number])).collect();
        if met.iter().any(|table| self.setting.is_quarantined(table)) {
            return None;
        }
        if !met.is_empty() {
            inputs.push(Input::Tables(last, met));
        }
        let oldest = group.runs.last().map_or(group.number, |run| run.number);
        let below = match group.level == last {
            true => Below::default(),
            false => self.below(oldest),
        };
        let behind = window.behind.filter(|_| !inputs.is_empty());
        let (tree, level, run) = (self.tree, group.level, group.number);
        let pace = Some(self.pace(group));
        Some(Job { tree, inputs, moves, level, run, behind, pace, splits, below, drops: false })
    }

    /// The tables of the next slice.
    fn window(&self, group: &Group<'_>, target: &Level) -> Option<Window> {
        let runs: Vec<&[Rc<TableInfo>]> =
            group.runs.iter().map(|run| run.tables.tables()).collect();
        let first = runs.iter().map(|tables| &tables[0].key_min).min()?;
        let mut ends = vec![0; runs.len()];
        let mut below = target.tables().partition_point(|table| table.key_max < *first);
        // Blocks of tables that are not cut: a group's tables count once the next of their run is
        // taken.
        let (mut work, pace) = (0, self.pace(group));
        // The largest keys of what is in the window.
        let (mut key_max, mut below_max): (Option<&[u8]>, Option<&[u8]>) = (None, None);
        let behind = loop {
            let heads = runs.iter().zip(&ends).enumerate();
            let next = heads
                .filter_map(|(run, (tables, end))| Some((&tables.get(*end)?.key_min[..], run)))
                .min();
            let Some((key, run)) = next else { break None };
            let begun = target.tables().get(below).filter(|table| table.key_min[..] <= *key);
            if let Some(table) = begun {
                if key_max.is_some_and(|max| max >= &table.key_min[..]) {
                    let can_end = below_max.is_none_or(|max| max < &table.key_min[..]);
                    let bad = self.setting.is_quarantined(table);
                    if can_end && (work >= pace || bad) {
                        break Some(table.key_min.clone());
                    }
                    if bad {
                        return None;
                    }
                    work += u64::from(table.value_blocks);
                    below_max = Some(&table.key_max);
                    below += 1;
                    continue;
                }
                // Before all that is left of the group, or first met by what comes next.
                if table.key_max[..] < *key {
                    below += 1;
                    continue;
                }
            }
            let table = &runs[run][ends[run]];
            let can_end = key_max.is_some() && below_max.is_none_or(|max| max < key);
            if self.setting.is_quarantined(table) && !can_end {
                return None;
            }
            if can_end && (work >= pace || self.setting.is_quarantined(table)) {
                break Some(Box::from(key));
            }
            work +=
                ends[run].checked_sub(1).map_or(0, |last| u64::from(runs[run][last].value_blocks));
            ends[run] += 1;
            key_max = key_max.max(Some(&table.key_max));
        };
        let tables = ends.into_iter().map(|end| 0..end).collect();
        Some(Window { tables, behind })
    }

    /// Whether a table changes level as it is: nothing of its group or of the target meets it, and
    /// a merge would drop nothing of it.
    fn moves(&self, group: &Group<'_>, window: &Window, target: &Level, table: &TableInfo) -> bool {
        if window.cuts(table) || self.setting.gives_back(self.tree, table) {
            return false;
        }
        let (min, max) = (&table.key_min[..], &table.key_max[..]);
        // Of its own run it meets itself.
        let met: usize = group.runs.iter().map(|run| run.tables.overlap(min, max).len()).sum();
        if met > 1 || !target.overlap(min, max).is_empty() {
            return false;
        }
        let below = || {
            let runs = self.manifest.runs().iter().filter(|run| run.number < group.number);
            let mut older = runs.map(|run| &run.tables).chain([self.manifest.last()]);
            older.any(|run| {
                run.tables()[run.overlap(min, max)].iter().any(|other| other.index != table.index)
            })
        };
        table.tombstones == 0 || below()
    }

    /// Input blocks of a group's next slice: what makes it be there before the next one is due, in
    /// equal parts, with as much time to spare.
    fn pace(&self, group: &Group<'_>) -> u64 {
        let (config, manifest) = (self.setting.config, self.manifest);
        let from = group.runs.iter().map(|run| run.level).max().unwrap_or(LevelNumber(0));
        let newer = manifest.runs_of(from).filter(|run| run.number > group.number).count() as u64;
        let period: u64 = (0..from.0).map(|level| runs_max(config, LevelNumber(level))).product();
        let mut bars = runs_max(config, from).saturating_sub(newer) * period;
        let mut remaining = group.blocks();
        if group.level == manifest.last_number() {
            let last = manifest.last();
            let firsts = group.runs.iter().filter_map(|run| run.tables.tables().first());
            let lasts = group.runs.iter().filter_map(|run| run.tables.tables().last());
            let first = firsts.map(|table| &table.key_min).min();
            let key_max = lasts.map(|table| &table.key_max).max();
            if let (Some(first), Some(key_max)) = (first, key_max) {
                let met = last.overlap(first, key_max).len() as u64;
                remaining += last.blocks() * met / (last.tables().len() as u64).max(1);
            }
            if self.dead_percent() * 2 > DEAD_PERCENT {
                // Garbage comes in with every bar: before its share is the largest there may be.
                let runs = manifest.runs().iter().filter(|run| run.number > group.number);
                let newer: u64 = runs.map(|run| run.tables.blocks()).sum();
                // Before there is a last level, what lives is in the runs.
                let stored = group.blocks() + last.blocks();
                let live = last.blocks().max(stored * (100 - DEAD_PERCENT) / 100);
                let garbage = live * DEAD_PERCENT / (100 - DEAD_PERCENT);
                bars = bars.min((garbage - garbage / 8).saturating_sub(newer) / self.inflow());
            }
        }
        let least = SLICE_BLOCKS_PER_RUN * group.runs.len() as u64;
        let least = least.max(if self.idle { 4 * memtable_blocks(config) } else { 0 });
        remaining.div_ceil(bars.max(1)).max(least)
    }

    /// Blocks that a bar adds to the runs: as many as the largest that was flushed of late has. A
    /// memtable takes more memory than its run takes blocks; taking the one for the other would
    /// have a group begin in a hurry, and end with little to do.
    fn inflow(&self) -> u64 {
        let flushed = self.manifest.runs_of(LevelNumber(0)).map(|run| run.tables.blocks()).max();
        let memtable = memtable_blocks(self.setting.config);
        flushed.map_or(memtable, |blocks| blocks.clamp(1, memtable))
    }

    fn is_all_dead(&self, table: &TableInfo) -> bool {
        self.setting.dead.are_all_dead(self.tree, &table.key_min, &table.key_max)
    }

    /// Drops tables that hold nothing but keys of dead generations. Each run is in the order of
    /// keys and so of generations: its dead tables stand together, and are found without a look at
    /// the others.
    fn drop_dead(&self) -> Option<Job> {
        if self.tree == Tree::Expiry {
            return None;
        }
        let mut inputs = Vec::new();
        for (level, run) in self.manifest.sorted_runs() {
            for (from, before) in self.setting.dead.dead_stretches() {
                let dead = run.within(&from, &before).iter();
                let dead = dead.filter(|table| !self.setting.is_quarantined(table));
                let dead = dead.take(DROPPED_MAX - inputs.len());
                inputs.extend(dead.map(|table| Input::Tables(level, vec![Rc::clone(table)])));
            }
        }
        (!inputs.is_empty()).then_some(Job {
            tree: self.tree,
            inputs,
            moves: Vec::new(),
            level: LevelNumber(0),
            run: 0,
            behind: None,
            pace: None,
            splits: Vec::new(),
            below: Below::default(),
            drops: true,
        })
    }

    /// Short of space: rewrites the first table of the last level that holds dead keys where it is.
    fn reclaim_last(&self) -> Option<Job> {
        if !self.setting.short {
            return None;
        }
        let (last, level) = (self.manifest.last(), self.manifest.last_number());
        let has_dead = |table: &&Rc<TableInfo>| self.setting.has_dead(self.tree, table);
        last.tables().iter().filter(has_dead).find_map(|table| {
            let window = last.overlap_whole(&table.key_min, &table.key_max);
            let window = last.tables()[window].to_vec();
            if window.iter().any(|table| self.setting.is_quarantined(table)) {
                return None;
            }
            Some(Job {
                tree: self.tree,
                inputs: vec![Input::Tables(level, window)],
                moves: Vec::new(),
                level,
                run: self.manifest.last_run(),
                behind: None,
                pace: None,
                splits: Vec::new(),
                below: Below::default(),
                drops: false,
            })
        })
    }
}

/// The first key of each stretch of tables that no input meets and that outputs could span.
fn gaps(target: &Level, met: &BTreeSet<usize>, inputs: &[Input]) -> Vec<Box<[u8]>> {
    let tables = inputs.iter().flat_map(|input| match input {
        Input::Memtable(_) => &[][..],
        Input::Tables(_, tables) => &tables[..],
    });
    let Some(first) = tables.map(|table| &table.key_min).min() else { return Vec::new() };
    let start = target.tables().partition_point(|table| table.key_max < *first);
    let begins = std::iter::once(start).chain(met.iter().map(|number| number + 1));
    let begins = begins.filter(|number| !met.contains(number));
    begins.filter_map(|number| Some(target.tables().get(number)?.key_min.clone())).collect()
}

/// A stretch of the key space: per run of a group the tables that begin in it.
struct Window {
    tables: Vec<Range<usize>>,
    behind: Option<Box<[u8]>>,
}

impl Window {
    fn cuts(&self, table: &TableInfo) -> bool {
        self.behind.as_ref().is_some_and(|behind| table.key_max >= *behind)
    }

    /// The tables of the target that a table of the group meets within the window, and those that
    /// continue their bounds' versions.
    fn below(&self, target: &Level, table: &TableInfo) -> Range<usize> {
        let mut range = target.overlap_whole(&table.key_min, &table.key_max);
        let ends = |number: usize| {
            let begins = &target.tables()[number].key_min;
            self.behind.as_ref().is_some_and(|behind| begins >= behind)
        };
        while !range.is_empty() && ends(range.end - 1) {
            range.end -= 1;
        }
        range
    }
}

/// Blocks that the flush of a memtable takes at most, if it holds so many bytes and these large
/// values.
pub(crate) fn flush_blocks(config: &Config, bytes: u64, large: Large) -> u64 {
    if bytes == 0 {
        return 0;
    }
    // References to a large value are less than a sixty-fourth of it.
    let inline = bytes - large.bytes + large.bytes / 64;
    values_blocks_max(config, inline) + large.blocks
}

/// The same of bytes that are not there yet: of values of the worst size. A byte stands in a value
/// block or in an overflow block, so what counts is the worse of the two.
pub(crate) fn flush_blocks_max(config: &Config, bytes: u64) -> u64 {
    let values = values_blocks_max(config, bytes + bytes / 64);
    // A large value is longer than a quarter of a block and wastes at most most of its last one.
    let overflow = bytes.div_ceil(config.inline_value_size_max() as u64);
    values.max(overflow) + 4
}
