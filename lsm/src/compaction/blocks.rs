//! Which value blocks of a job's tables are read, which move as they are, and which stay.
//!
//! The index blocks of all input tables are read first; the separators in them bound the keys of
//! every value block. With these alone, so before anything else is read, it is decided:
//!
//! 1. A block that lies behind the slice stays in its run, in a table of its own (`rest`).
//! 2. A block whose bounds meet no block of any other input, and of which the merge would drop
//!    nothing, goes into the output as it is: its record in the index is copied, the block keeps
//!    its address and is neither read nor written. It must hold one version of each key, no
//!    tombstone and no key of a dead generation, be at least half full and compressed as the
//!    output's level is. A few neighbours at least must move together ([`neighbours_min`]), as each
//!    time the block being filled has to end early.
//! 3. All others are read and merged.
//!
//! A job's slice is cut to measure here: the plan knows tables only, and says how many blocks are
//! to be merged; the job ends at the separator that comes nearest to it. What lies behind is left
//! out of the job altogether.
//!
//! The decisions depend on the index blocks only, so they are the same on every replica. Ownership
//! of a block follows from the bar's changes as for any other: it is live as long as the index of a
//! live table names it. A job releases the index blocks of its inputs and those value blocks that
//! it read; what moved or stayed is named by a new index block from the same moment on.

use std::collections::VecDeque;
use std::rc::Rc;

use super::job::{Context, Corrupt};
use super::plan::Job;
use super::stream::{Step, TableStream, Whole};
use crate::block::{BlockAddress, BlockReference};
use crate::config::Config;
use crate::entry::Level as LevelNumber;
use crate::grid::Class;
use crate::index::Index;
use crate::table::TableInfo;

/// A value block as its index shows it.
struct Span {
    table: Rc<TableInfo>,
    number: usize,
    reference: BlockReference,
    /// The separators around it; behind a table's last block its largest key, which it includes.
    first: Box<[u8]>,
    behind: Box<[u8]>,
    is_last: bool,
    entries: u64,
    /// Whether a merge that meets nothing else would keep all of it.
    clean: bool,
}

impl Span {
    fn meets(&self, other: &Span) -> bool {
        self.begins_within(other) && other.begins_within(self)
    }

    /// Whether it begins before the other one ends.
    fn begins_within(&self, other: &Span) -> bool {
        self.first < other.behind || (other.is_last && self.first == other.behind)
    }
}

/// A job's table inputs, laid out.
#[derive(Default)]
pub(crate) struct Layout {
    /// In the order of the job's inputs, memtables aside.
    pub(crate) streams: Vec<TableStream>,
    /// The level in which the rest of each stays.
    pub(crate) homes: Vec<LevelNumber>,
    /// Blocks that nothing refers to once the job's changes are made.
    pub(crate) released: Vec<BlockAddress>,
    /// Value blocks that will be read, and those that move as they are.
    pub(crate) reads: u64,
    pub(crate) whole: u64,
    /// Entries in those that will be read.
    pub(crate) entries: u64,
}

/// Neighbouring blocks that move together at least.
fn neighbours_min(config: &Config) -> usize {
    (config.table_value_blocks_max as usize / 8).clamp(1, 4)
}

/// Reads the index blocks of a job's tables and decides about every value block. The job's slice
/// becomes as long as it is meant to be.
pub(crate) async fn layout(context: &Context, job: &mut Job) -> Result<Layout, Corrupt> {
    let mut inputs = read(context, job).await?;
    let mut whole = choose(&context.config, &inputs, job.behind.as_deref());
    if let Some(behind) = slice_end(job, &inputs, &whole) {
        for spans in &mut inputs {
            spans.retain(|span| *span.table.key_min < *behind);
        }
        inputs.retain(|spans| !spans.is_empty());
        job.narrow(behind);
        ioring::yield_now().await;
        whole = choose(&context.config, &inputs, job.behind.as_deref());
    }
    let mut layout = Layout::default();
    for (level, tables) in job.table_inputs() {
        layout.homes.push(level);
        layout.released.extend(tables.iter().map(|table| table.index.address));
    }
    for (spans, whole) in inputs.into_iter().zip(whole) {
        let (mut steps, mut rest) = (VecDeque::new(), Vec::new());
        for (span, whole) in spans.into_iter().zip(whole) {
            let Span { table, number, reference, first, behind, is_last, entries, .. } = span;
            let stays = job.behind.as_ref().is_some_and(|from| first >= *from);
            let behind = (!is_last).then_some(behind);
            let block = Whole { table, number, first, behind };
            if stays {
                rest.push(block);
                continue;
            }
            layout.reads += u64::from(!whole);
            layout.entries += if whole { 0 } else { entries };
            layout.whole += u64::from(whole);
            steps.push_back(Step { block, reference, moves: whole });
        }
        layout.released.extend(TableStream::blocks(&steps));
        let grid = Rc::clone(&context.grid);
        layout.streams.push(TableStream::new(grid, steps, job.behind.clone(), rest));
        ioring::yield_now().await;
    }
    Ok(layout)
}

/// The value blocks of each input.
async fn read(context: &Context, job: &Job) -> Result<Vec<Vec<Span>>, Corrupt> {
    let mut inputs = Vec::new();
    for (level, tables) in job.table_inputs() {
        let mut spans = Vec::new();
        for table in tables {
            let handle = match context.grid.read_index(table, Class::Background).await {
                Ok(handle) => handle,
                Err(error) => return Err(Corrupt::new(Rc::clone(table), error)),
            };
            let same_codec =
                context.config.compression_of(level) == context.config.compression_of(job.level);
            let mut movable = same_codec && job.memtable().is_none();
            // A key whose versions go on in the next table is merged with them.
            movable &= tables.iter().all(|other| {
                Rc::ptr_eq(other, table)
                    || (other.key_min != table.key_max && other.key_max != table.key_min)
            });
            take(context, job, &handle.index(), table, movable, &mut spans);
            drop(handle);
            ioring::yield_now().await;
        }
        inputs.push(spans);
    }
    Ok(inputs)
}

/// Where the slice ends for it to merge as many blocks as the job's pace says, as nearly as the
/// bounds of blocks allow; none if it is to end where it does. No table of the level that the job
/// writes to is cut: the key lies between two of them.
fn slice_end(job: &Job, inputs: &[Vec<Span>], whole: &[Vec<bool>]) -> Option<Box<[u8]>> {
    let pace = job.pace?;
    let target = job.table_inputs().filter(|(level, _)| *level == job.level);
    let target: Vec<&Rc<TableInfo>> = target.flat_map(|(_, tables)| tables).collect();
    let cuts = |key: &[u8]| {
        let at = target.partition_point(|table| *table.key_max < *key);
        target.get(at).is_some_and(|table| *table.key_min < *key)
    };
    let spans = inputs.iter().zip(whole).flat_map(|(spans, whole)| spans.iter().zip(whole));
    let mut spans: Vec<(&[u8], bool)> =
        spans.map(|(span, whole)| (&span.first[..], *whole)).collect();
    spans.sort_unstable();
    let within = |key: &[u8]| job.behind.as_ref().is_none_or(|behind| *key < **behind);
    // A separator may stand before the first key of its table: a slice must hold one key at least.
    let first = job.tables().map(|(_, table)| &table.key_min[..]).min()?;
    let (mut merged, mut before) = (0_u64, None);
    for (number, (key, whole)) in spans.iter().copied().enumerate() {
        let ends = number > 0 && spans[number - 1].0 < key && first < key && within(key);
        if ends && !cuts(key) {
            if merged < pace {
                before = Some((key, merged));
            } else {
                let nearer = before.filter(|(_, less)| *less > 0 && pace - less < merged - pace);
                return Some(nearer.map_or(key, |(key, _)| key).into());
            }
        }
        merged += u64::from(!whole);
    }
    None
}

/// Appends the value blocks of a table.
fn take(
    context: &Context,
    job: &Job,
    index: &Index<'_>,
    table: &Rc<TableInfo>,
    movable: bool,
    spans: &mut Vec<Span>,
) {
    let count = index.block_count();
    for number in 0..count {
        let block = index.block(number);
        let first = index.page_separator(block.pages.start);
        let next = (number + 1 < count).then(|| index.page_separator(block.pages.end));
        let behind = next.map_or(index.key_max(), |separator| separator.key);
        // Versions of one key in two blocks.
        let shared = first.version != u64::MAX || next.is_some_and(|at| at.version != u64::MAX);
        let full = block.reference.size >= context.config.block_size / 2;
        let clean = movable
            && full
            && !shared
            && block.keys == block.entries
            && block.tombstones == 0
            && context.generations.all_live(job.tree, first.key, behind);
        spans.push(Span {
            table: Rc::clone(table),
            number,
            reference: block.reference,
            first: first.key.into(),
            behind: behind.into(),
            is_last: next.is_none(),
            entries: u64::from(block.entries),
            clean,
        });
    }
}

/// Which blocks move as they are, per input.
fn choose(config: &Config, inputs: &[Vec<Span>], from: Option<&[u8]>) -> Vec<Vec<bool>> {
    let least = neighbours_min(config);
    let mut all = Vec::new();
    for (number, spans) in inputs.iter().enumerate() {
        let mut whole: Vec<bool> = spans
            .iter()
            .map(|span| {
                let within = from.is_none_or(|from| {
                    &span.behind[..] < from || (&span.behind[..] == from && !span.is_last)
                });
                let meets = |others: &Vec<Span>| {
                    let at = others.partition_point(|other| !span.begins_within(other));
                    others.get(at).is_some_and(|other| span.meets(other))
                };
                let mut others = inputs.iter().enumerate().filter(|(other, _)| *other != number);
                within && span.clean && !others.any(|(_, others)| meets(others))
            })
            .collect();
        let mut start = 0;
        for end in 0..=whole.len() {
            if end < whole.len() && whole[end] {
                continue;
            }
            if end - start < least {
                whole[start..end].fill(false);
            }
            start = end + 1;
        }
        all.push(whole);
    }
    all
}
