//! A job at work: merges its inputs into new tables and says what has to change.
//!
//! 1. The index blocks of its tables say which value blocks are to be read at all:
//!    [`super::blocks`].
//! 2. The merge takes the first of what its streams stand at (key ascending, version descending;
//!    [`super::tournament`] finds it) and [`Filter`] says whether it is kept. Kept entries go to
//!    the builder, whose blocks are written as they fill, a bounded number at a time; their
//!    addresses come from the job's own reservation in the order in which blocks are opened, so
//!    they depend on the entries only and not on when a read or write is done. Whole blocks go in
//!    by reference.
//! 3. Tables that reach beyond the slice leave a table with what stays of them to their run.
//!
//! **Short of room.** A merge is rarely given as many blocks as it could need ([`super::plan`] says
//! how many). Before it begins another table it looks whether what is left of its reservation is
//! enough for one that is full, and for what the tables being walked leave behind then. If not it
//! ends there, as if its slice had been planned to: at a key, with whole tables written, and with
//! the tables it has not come to untouched, those that were to move included. What it did counts,
//! and the next bar goes on from that key.
//!
//! Large values of a memtable go into overflow blocks first; a merge of tables copies the
//! reference, and whoever drops an entry releases its blocks.
//!
//! All writes are awaited before the bar's jobs are over, and not before the next job begins: a
//! table named in an outcome can be read once the outcomes are there. A flush that was to take a
//! small run with it and cannot read that run is done without it.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use ioring::Task;

use super::blocks::{self, Layout};
use super::budget::{Budget, Meter};
use super::plan::{self, Job};
use super::stream::{MemtableStream, Rest, Step, Stream, TableStream, Whole};
use super::tournament::Tournament;
use crate::block::{BlockAddress, BlockFault};
use crate::config::{Config, SECTOR_SIZE};
use crate::entry::{EntryRef, Level, Payload};
use crate::free_set::Reservation;
use crate::grid::{Class, Grid, ReadError};
use crate::manifest::Change;
use crate::merge::{Dropped, Filter, Generations};
use crate::overflow::{self, ListBuilder, OverflowReference, Piece};
use crate::table::{BlockImage, Builder, Push, TableInfo};
use crate::tree::Tree;

/// Why a job has no effect: an input cannot be read.
#[derive(Debug)]
pub(crate) struct Corrupt {
    pub(crate) table: Rc<TableInfo>,
    pub(crate) block: BlockAddress,
    pub(crate) fault: BlockFault,
}

impl Corrupt {
    pub(crate) fn new(table: Rc<TableInfo>, error: ReadError) -> Corrupt {
        let ReadError::Corrupt(corrupt) = error;
        Corrupt { table, block: corrupt.address, fault: corrupt.fault }
    }
}

/// What all jobs of a bar have in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) grid: Rc<Grid>,
    pub(crate) budget: Rc<Budget>,
    pub(crate) config: Rc<Config>,
    /// The op at which the bar began: the op in the blocks it creates.
    pub(crate) op: u64,
    pub(crate) horizon: u64,
    pub(crate) generations: Generations,
}

/// What a job did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tree: Tree,
    pub(crate) changes: Vec<Change>,
    /// Blocks that nothing refers to any more once the changes are made.
    pub(crate) released: Vec<BlockAddress>,
    pub(crate) reservation: Reservation,
    pub(crate) corrupt: Option<Corrupt>,
    pub(crate) done: Done,
}

/// How much that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Value blocks read.
    pub(crate) blocks_read: u64,
    /// Blocks written, index blocks and those of large values included.
    pub(crate) blocks_written: u64,
    /// Tables and value blocks that changed place as they are.
    pub(crate) tables_moved: u64,
    pub(crate) blocks_moved: u64,
    /// Tables that a slice cut.
    pub(crate) tables_cut: u64,
    /// Whether it ended before its inputs did, for want of room.
    pub(crate) ended_early: bool,
    /// Entries merged.
    pub(crate) entries: u64,
    pub(crate) dropped: Dropped,
    /// Whether it was a flush, and whether it took a small run with it.
    pub(crate) flush: bool,
    pub(crate) coalesced: bool,
}

/// Runs the jobs of a bar, one after the other. All are laid out first: then it is known what the
/// bar has to pay for, and every beat pays its share of that.
pub(crate) async fn run_all(context: Context, jobs: Vec<(Job, Reservation)>) -> Vec<Outcome> {
    let mut laid_out = VecDeque::with_capacity(jobs.len());
    for (mut job, reservation) in jobs {
        let (work, planned) = (job.work(&context.config), job.value_blocks());
        if job.drops {
            let tables = job.tables().count() as u64;
            laid_out.push_back((job, reservation, work, tables, Ok(Layout::default())));
            continue;
        }
        let layout = blocks::layout(&context, &mut job).await;
        let held = |layout: &Layout| (layout.reads, layout.entries);
        let (reads, entries) = layout.as_ref().map_or((planned, 0), held);
        let spared = planned - reads;
        context.budget.reduce(spared);
        let entries = entries + job.memtable().map_or(0, |memtable| memtable.keys() as u64);
        laid_out.push_back((job, reservation, work - spared, entries, layout));
    }
    let mut outcomes = Vec::with_capacity(laid_out.len());
    let (mut before, mut writes) = (0, Writes::default());
    while let Some((job, reservation, work, entries, layout)) = laid_out.pop_front() {
        let meter = Meter::new(&context.budget, before, work, entries);
        let next = laid_out.front_mut().and_then(|(.., layout)| layout.as_mut().ok());
        let mut course = Course { meter, margin: job.inputs.len() as u64 + 4, next };
        outcomes.push(match job.drops {
            true => drop_tables(&context, &job, reservation, &course.meter).await,
            false => run(&context, job, reservation, layout, &mut writes, &mut course).await,
        });
        course.meter.ended();
        before += work;
    }
    writes.settle().await;
    context.budget.finish();
    outcomes
}

/// How far a job has got, and what is to be ready when it is done.
struct Course<'a> {
    meter: Meter,
    /// Blocks before its end at which the next one asks for its first: as many as may be cut, so
    /// that they are not merged to their ends, and a few that take as long as a read.
    margin: u64,
    next: Option<&'a mut Layout>,
}

impl Course<'_> {
    /// So many entries are merged.
    async fn at(&mut self, context: &Context, entries: u64) {
        self.meter.merged(entries);
        if self.next.is_some() && self.meter.nears_end(entries, self.margin) {
            let Some(next) = self.next.take() else { return };
            // What the job still needs itself stays free: another block of each of its inputs, and
            // those of the tables being built.
            let kept = plan::GROUP_RUNS_MAX + 1 + BUILDER_BUFFERS;
            let spare = context.grid.buffers_free().saturating_sub(kept);
            for stream in next.streams.iter_mut().take(spare) {
                stream.read_ahead(&context.budget).await;
            }
        }
    }
}

/// Buffers that tables being built hold: a value block, an index block, one being closed, and some
/// for whoever else reads in the background.
const BUILDER_BUFFERS: usize = 8;

/// Why a merge gave up; none if it has no room for its first table, or not for one key's versions.
type GaveUp = Option<Corrupt>;

/// Runs a job that was laid out.
async fn run(
    context: &Context,
    mut job: Job,
    reservation: Reservation,
    layout: Result<Layout, Corrupt>,
    writes: &mut Writes,
    course: &mut Course<'_>,
) -> Outcome {
    let mut output = Output::new(context, &job, reservation, writes);
    let mut merged = match layout {
        Ok(layout) => merge(context, &job, layout, &mut output, course).await,
        Err(corrupt) => Err(Some(corrupt)),
    };
    let (mut lost, mut corrupt) = (Vec::new(), None);
    if job.memtable().is_some() && merged.is_err() {
        corrupt = merged.err().flatten();
        lost = output.restart();
        job = job.alone();
        // What the beats pay for was the other attempt.
        let context = Context { budget: Budget::paid(), ..context.clone() };
        merged = merge(&context, &job, Layout::default(), &mut output, course).await;
    }
    let blocks_written = output.acquired.len() as u64;
    let mut outcome = Outcome {
        tree: job.tree,
        changes: Vec::new(),
        released: lost,
        reservation: output.reservation,
        corrupt,
        done: Done { blocks_written, ..Done::default() },
    };
    match merged {
        Ok(Merged { released, untouched, done, ended_at }) => {
            let met = |table: &&(Level, Rc<TableInfo>)| {
                ended_at.as_ref().is_none_or(|end| table.1.key_min < *end)
            };
            for (from, table) in job.moves.iter().filter(met) {
                let (from, to, run, table) = (*from, job.level, job.run, Rc::clone(table));
                outcome.changes.push(Change::Move { from, to, run, table });
            }
            let tables_moved = outcome.changes.len() as u64;
            let is_gone = |table: &TableInfo| !untouched.contains(&plan::key(table.index));
            for (level, table) in job.tables().filter(|(_, table)| is_gone(table)) {
                outcome.changes.push(Change::Remove(level, Rc::clone(table)));
            }
            for (level, table) in output.tables {
                outcome.changes.push(Change::Insert(level, table));
            }
            outcome.released.extend(released);
            let ended_early = ended_at.is_some();
            outcome.done = Done { blocks_written, tables_moved, ended_early, ..done };
        }
        Err(gave_up) => {
            outcome.released.extend(output.acquired);
            outcome.corrupt = gave_up;
        }
    }
    outcome
}

/// Finds what the tables consist of, to release it. Each stands for itself: one that cannot be read
/// stays, and the others go.
async fn drop_tables(
    context: &Context,
    job: &Job,
    reservation: Reservation,
    meter: &Meter,
) -> Outcome {
    let mut outcome = Outcome {
        tree: job.tree,
        changes: Vec::new(),
        released: Vec::new(),
        reservation,
        corrupt: None,
        done: Done::default(),
    };
    for ((level, table), number) in job.tables().zip(0..) {
        meter.merged(number);
        context.budget.take().await;
        ioring::yield_now().await;
        match blocks_of(context, table).await {
            Ok(blocks) => {
                outcome.released.extend(blocks);
                outcome.changes.push(Change::Remove(level, Rc::clone(table)));
            }
            Err(corrupt) => outcome.corrupt = Some(corrupt),
        }
    }
    outcome
}

/// Every block of a table, those of large values included.
async fn blocks_of(context: &Context, table: &Rc<TableInfo>) -> Result<Vec<BlockAddress>, Corrupt> {
    let read = context.grid.read_index(table, Class::Background).await;
    let handle = read.map_err(|error| Corrupt::new(Rc::clone(table), error))?;
    let index = handle.index();
    let references = (0..index.block_count()).map(|number| (number, index.block(number).reference));
    let mut blocks: Vec<BlockAddress> =
        references.clone().map(|(_, reference)| reference.address).collect();
    blocks.push(table.index.address);
    if table.overflow_blocks == 0 {
        return Ok(blocks);
    }
    let step = |(number, reference)| {
        let (table, first, behind) = (Rc::clone(table), Box::default(), None);
        Step { block: Whole { table, number, first, behind }, reference, moves: false }
    };
    let steps = references.map(step).collect();
    let tables = TableStream::new(Rc::clone(&context.grid), steps, None, Vec::new());
    let mut stream = Stream::Tables(Box::new(tables));
    let mut slice = Slice::default();
    loop {
        stream.advance(&context.budget).await?;
        let Some(entry) = stream.entry() else { break };
        if slice.take(&entry) {
            ioring::yield_now().await;
        }
        if let Payload::Overflow(reference) = &entry.payload {
            blocks.extend(reference.blocks().map(|(address, _)| address));
        }
    }
    Ok(blocks)
}

/// What a merge comes to.
struct Merged {
    /// Blocks that become garbage.
    released: Vec<BlockAddress>,
    /// Index addresses of input tables that stay as they are.
    untouched: BTreeSet<u64>,
    done: Done,
    /// Keys from here on were not merged for want of room.
    ended_at: Option<Box<[u8]>>,
}

/// Merges the inputs into the output.
async fn merge(
    context: &Context,
    job: &Job,
    layout: Layout,
    output: &mut Output<'_>,
    course: &mut Course<'_>,
) -> Result<Merged, GaveUp> {
    if !job.inputs.is_empty() && !output.may_begin_table().await {
        return Err(None);
    }
    let Layout { streams, homes, released, reads, whole, .. } = layout;
    let done = Done {
        blocks_read: reads,
        blocks_moved: whole,
        flush: job.memtable().is_some(),
        coalesced: job.memtable().is_some() && !streams.is_empty(),
        ..Done::default()
    };
    let memtable = job.memtable().map(|memtable| {
        Stream::Memtable(MemtableStream::new(&context.config, memtable, context.horizon))
    });
    let tables = streams.into_iter().map(|stream| Stream::Tables(Box::new(stream)));
    let mut streams: Vec<Stream> = memtable.into_iter().chain(tables).collect();
    // All of them ask for their first blocks before one is waited for.
    for stream in &mut streams {
        stream.ask(&context.budget).await;
    }
    for stream in &mut streams {
        stream.advance(&context.budget).await?;
    }
    let mut merged = Merged { released, untouched: BTreeSet::new(), done, ended_at: None };
    merge_streams(context, job, &mut streams, output, &mut merged, course).await?;
    output.finish_table().await;
    output.ends_early = None;
    let tables = streams.into_iter().filter_map(|stream| match stream {
        Stream::Memtable(_) => None,
        Stream::Tables(stream) => Some(stream),
    });
    for (stream, level) in tables.zip(homes) {
        let rest = stream.into_rest().await;
        merged.keep(&rest);
        output.leave(rest, level, &mut merged.done).await?;
    }
    Ok(merged)
}

impl Merged {
    /// What the merge did not come to is not released, and was not done.
    fn keep(&mut self, rest: &Rest) {
        let untouched = rest.untouched.iter().map(|table| plan::key(table.index));
        self.untouched.extend(untouched);
        let indexes = rest.untouched.iter().map(|table| table.index.address);
        let kept: BTreeSet<BlockAddress> = rest.unread.iter().copied().chain(indexes).collect();
        if !kept.is_empty() {
            self.released.retain(|address| !kept.contains(address));
            self.done.blocks_read -= rest.unread.len() as u64;
        }
    }
}

async fn merge_streams(
    context: &Context,
    job: &Job,
    streams: &mut [Stream],
    output: &mut Output<'_>,
    merged: &mut Merged,
    course: &mut Course<'_>,
) -> Result<(), GaveUp> {
    let Merged { released, done, ended_at, .. } = merged;
    let generations = context.generations.clone();
    let mut filter = Filter::new(job.tree, context.horizon, generations, job.below.clone());
    let bounds = match job.memtable() {
        None => job
            .tables()
            .map(|(_, table)| &table.key_min[..])
            .min()
            .zip(job.tables().map(|(_, table)| &table.key_max[..]).max()),
        Some(_) => None,
    };
    let mut tournament = Tournament::new(streams, bounds);
    let mut slice = Slice::default();
    while let Some(first) = tournament.first() {
        let mut taken = Taken::Yes;
        if let Some(whole) = streams[first].whole() {
            taken = output.adopt(whole).await?;
        } else {
            let entry = streams[first].entry().expect("the first stream stands at an entry");
            if slice.take(&entry) {
                course.at(context, done.entries).await;
                ioring::yield_now().await;
            }
            done.entries += 1;
            if filter.keep(&entry) {
                taken = output.push(&entry).await;
            } else if let Payload::Overflow(reference) = &entry.payload {
                released.extend(reference.blocks().map(|(address, _)| address));
            }
        }
        match taken {
            Taken::Yes => {}
            Taken::NoRoom => {
                *ended_at = streams[first].position().map(|at| at.key.into());
                break;
            }
            Taken::NoRoomWithinKey => return Err(None),
        }
        streams[first].advance(&context.budget).await?;
        tournament.advanced(streams);
    }
    done.dropped = filter.dropped();
    Ok(())
}

/// What is merged without letting others have a turn: a block of small entries takes longer than a
/// core may be held.
#[derive(Default)]
struct Slice {
    cost: usize,
}

/// Bytes of a slice, and what an entry counts beside its own bytes: comparing, hashing, framing.
const SLICE_BYTES: usize = 32 << 10;
const SLICE_ENTRY: usize = 128;

impl Slice {
    /// Whether it is the others' turn.
    fn take(&mut self, entry: &EntryRef<'_>) -> bool {
        self.cost += SLICE_ENTRY + entry.key.len() + entry.payload.stored_len();
        let over = self.cost >= SLICE_BYTES;
        if over {
            self.cost = 0;
        }
        over
    }
}

/// What became of an entry or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Taken {
    Yes,
    /// It would begin a table that there may be no room for.
    NoRoom,
    /// The same, and an earlier version of its key was taken: the merge cannot end here.
    NoRoomWithinKey,
}

/// Builds and writes a job's tables.
struct Output<'a> {
    context: &'a Context,
    tree: Tree,
    /// Where the tables go: a level, and the run they are part of.
    level: Level,
    run: u64,
    reservation: Reservation,
    /// Set for a job that may end before its inputs: the blocks it must have left when it does.
    ends_early: Option<u64>,
    /// Where a new table begins, whatever the one before holds.
    splits: VecDeque<Box<[u8]>>,
    builder: Option<Builder>,
    tables: Vec<(Level, Rc<TableInfo>)>,
    /// Every block taken from the reservation.
    acquired: Vec<BlockAddress>,
    writes: &'a mut Writes,
}

impl<'a> Output<'a> {
    fn new(
        context: &'a Context,
        job: &Job,
        reservation: Reservation,
        writes: &'a mut Writes,
    ) -> Output<'a> {
        Output {
            context,
            tree: job.tree,
            level: job.level,
            run: job.run,
            reservation,
            ends_early: job.ends_early(),
            splits: job.splits.iter().cloned().collect(),
            builder: None,
            tables: Vec::new(),
            acquired: Vec::new(),
            writes,
        }
    }

    async fn push(&mut self, entry: &EntryRef<'_>) -> Taken {
        match entry.payload {
            Payload::Inline(value) if value.len() > self.context.config.inline_value_size_max() => {
                let list = self.write_overflow(value).await;
                let reference = OverflowReference::parse(&list).expect("just built");
                let payload = Payload::Overflow(reference);
                self.push_stored(&EntryRef { payload, ..*entry }).await
            }
            _ => self.push_stored(entry).await,
        }
    }

    /// Whether there is room for another table, and for what has to be done at the end.
    async fn may_begin_table(&self) -> bool {
        let Some(end) = self.ends_early else { return true };
        let needed = plan::table_blocks_max(&self.context.config, self.level) + end;
        self.reservation.remaining() >= needed
            && self.context.grid.has_place_for(&self.reservation, needed).await
    }

    /// Ends the table where other tables of the run stand between the entry and the one before.
    async fn split_before(&mut self, key: &[u8]) {
        while self.splits.pop_front_if(|split| **split <= *key).is_some() {
            self.finish_table().await;
        }
    }

    async fn push_stored(&mut self, entry: &EntryRef<'_>) -> Taken {
        if self.splits.front().is_some_and(|split| **split <= *entry.key) {
            self.split_before(entry.key).await;
        }
        if self.builder.is_none() && !self.may_begin_table().await {
            return Taken::NoRoom;
        }
        loop {
            let context = self.context;
            let builder = self.builder();
            match builder.push(entry) {
                Push::Accepted => return Taken::Yes,
                Push::NeedsBlock => {
                    let buffer = context.grid.buffer().await;
                    let address = acquire(context, &mut self.reservation, &mut self.acquired);
                    self.builder().open_block(buffer, address);
                }
                Push::BlockFull => {
                    // Its filter and its checksum are a step of their own.
                    ioring::yield_now().await;
                    let image = self.builder().close_block().expect("a full block is open");
                    self.write(image).await;
                    ioring::yield_now().await;
                }
                Push::TableFull => {
                    let within_key = builder.ends_with(entry.key);
                    self.finish_table().await;
                    if !self.may_begin_table().await {
                        return if within_key { Taken::NoRoomWithinKey } else { Taken::NoRoom };
                    }
                }
            }
        }
    }

    fn builder(&mut self) -> &mut Builder {
        let context = self.context;
        self.builder.get_or_insert_with(|| {
            let (tree, identity) = (self.tree.id(), context.grid.identity());
            Builder::new(&context.config, identity, tree, self.level, context.op)
        })
    }

    /// Takes a value block of an input as it is.
    async fn adopt(&mut self, whole: &Whole) -> Result<Taken, Corrupt> {
        let handle = match self.context.grid.read_index(&whole.table, Class::Background).await {
            Ok(handle) => handle,
            Err(error) => return Err(Corrupt::new(Rc::clone(&whole.table), error)),
        };
        if let Some(image) = self.builder.as_mut().and_then(Builder::close_block) {
            self.write(image).await;
        }
        self.split_before(&whole.first).await;
        let versions = (whole.table.version_min, whole.table.version_max);
        loop {
            if self.builder.is_none() && !self.may_begin_table().await {
                return Ok(Taken::NoRoom);
            }
            let (index, behind) = (handle.index(), whole.behind.as_deref());
            if self.builder().adopt(&index, whole.number, behind, versions) {
                return Ok(Taken::Yes);
            }
            self.finish_table().await;
        }
    }

    /// Makes a table of what is left of another, in that one's run.
    async fn leave(&mut self, rest: Rest, level: Level, done: &mut Done) -> Result<(), Corrupt> {
        let Some(cut) = rest.cut else { return Ok(()) };
        (self.level, self.run) = (level, cut.run);
        self.splits.clear();
        done.tables_cut += 1;
        if let Some(mut cursor) = rest.cursor {
            let mut slice = Slice::default();
            loop {
                let entry = cursor.entry();
                if slice.take(&entry) {
                    ioring::yield_now().await;
                }
                assert_eq!(self.push(&entry).await, Taken::Yes, "room was kept for it");
                // The block was walked up to here, so it is intact.
                if !cursor.next().expect("a verified block can be walked to its end") {
                    break;
                }
            }
        }
        for whole in &rest.blocks {
            assert_eq!(self.adopt(whole).await?, Taken::Yes, "room was kept for it");
        }
        self.finish_table().await;
        Ok(())
    }

    /// Forgets what was built; gives the blocks that were taken for it.
    fn restart(&mut self) -> Vec<BlockAddress> {
        self.builder = None;
        self.tables.clear();
        std::mem::take(&mut self.acquired)
    }

    async fn finish_table(&mut self) {
        // One that took nothing yet has no block either.
        let Some(mut builder) = self.builder.take().filter(|builder| !builder.is_empty()) else {
            return;
        };
        ioring::yield_now().await;
        if let Some(image) = builder.close_block() {
            self.write(image).await;
        }
        ioring::yield_now().await;
        let buffer = self.context.grid.buffer().await;
        let address = acquire(self.context, &mut self.reservation, &mut self.acquired);
        let (image, table) = builder.finish(buffer, address);
        self.context.grid.keep_index(&table, &image.bytes);
        self.tables.push((self.level, Rc::new(TableInfo { run: self.run, ..table })));
        self.write(image).await;
        ioring::yield_now().await;
    }

    /// Writes a large value into blocks of its own; gives the list that refers to them.
    async fn write_overflow(&mut self, value: &[u8]) -> Vec<u8> {
        let config = Rc::clone(&self.context.config);
        let mut list = ListBuilder::new(value.len() as u32);
        for number in 0..config.overflow_blocks(value.len()) as u32 {
            let mut buffer = self.context.grid.buffer().await;
            buffer.set_len(config.block_size as usize);
            let address = acquire(self.context, &mut self.reservation, &mut self.acquired);
            let (identity, op) = (self.context.grid.identity(), self.context.op);
            let piece = Piece { identity, tree: self.tree.id(), op, address, number };
            let reference = overflow::encode_piece(&mut buffer, &config, &piece, value);
            list.push(&reference);
            let size = reference.size as usize;
            let padded = size.next_multiple_of(SECTOR_SIZE);
            buffer[size..padded].fill(0);
            buffer.set_len(padded);
            self.write(BlockImage { reference, bytes: buffer.freeze() }).await;
        }
        list.finish()
    }

    /// Starts a write; waits for the oldest when too many are in flight.
    async fn write(&mut self, image: BlockImage) {
        let tasks = &mut self.writes.tasks;
        if tasks.len() >= self.context.config.writes_max as usize {
            let oldest = tasks.pop_front().expect("there are several");
            oldest.await;
        }
        let grid = Rc::clone(&self.context.grid);
        let write = async move { grid.write_block(image).await };
        tasks.push_back(ioring::spawn(ioring::Queue::Background, "compaction write", write));
    }
}

/// Writes of a bar's jobs that are in flight.
#[derive(Default)]
struct Writes {
    tasks: VecDeque<Task<()>>,
}

impl Writes {
    async fn settle(&mut self) {
        while let Some(write) = self.tasks.pop_front() {
            write.await;
        }
    }
}

fn acquire(
    context: &Context,
    reservation: &mut Reservation,
    acquired: &mut Vec<BlockAddress>,
) -> BlockAddress {
    let address = context.grid.acquire(reservation);
    acquired.push(address);
    address
}
