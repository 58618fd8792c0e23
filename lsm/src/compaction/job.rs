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
//! Large values of a memtable go into overflow blocks first; a merge of tables copies the
//! reference, and whoever drops an entry releases its blocks.
//!
//! All writes are awaited before the job is over: a table named in an outcome can be read. A flush
//! that was to take a small run with it and cannot read that run is done without it.

use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Task;

use super::blocks::{self, Layout};
use super::budget::Budget;
use super::plan::Job;
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
    /// Entries merged.
    pub(crate) entries: u64,
    pub(crate) dropped: Dropped,
    /// Whether it was a flush, and whether it took a small run with it.
    pub(crate) flush: bool,
    pub(crate) coalesced: bool,
}

/// Runs the jobs of a bar, one after the other.
pub(crate) async fn run_all(context: Context, jobs: Vec<(Job, Reservation)>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut planned = 0;
    for (job, reservation) in jobs {
        let (outcome, work) = run(&context, job, reservation).await;
        outcomes.push(outcome);
        planned += work;
        // A job that gave up leaves work behind that nobody will do.
        context.budget.skip_to(planned);
    }
    context.budget.finish();
    outcomes
}

/// Runs a job; gives its outcome and the work it was worth in the end.
async fn run(context: &Context, mut job: Job, reservation: Reservation) -> (Outcome, u64) {
    let mut work = job.work(&context.config);
    if job.drops {
        return (drop_tables(context, &job, reservation).await, work);
    }
    let mut output = Output::new(context, &job, reservation);
    let mut merged = merge(context, &job, &mut work, &mut output).await;
    let (mut lost, mut corrupt) = (Vec::new(), None);
    if job.memtable().is_some() && merged.is_err() {
        corrupt = merged.err();
        lost = output.restart();
        job.inputs.truncate(1);
        // What the beats pay for was the other attempt.
        let budget = Budget::new(u64::MAX);
        budget.raise(u64::MAX);
        let context = Context { budget, ..context.clone() };
        merged = merge(&context, &job, &mut 0, &mut output).await;
    }
    output.settle().await;
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
        Ok(Merged { released, done }) => {
            for (from, table) in &job.moves {
                let (from, to, run, table) = (*from, job.level, job.run, Rc::clone(table));
                outcome.changes.push(Change::Move { from, to, run, table });
            }
            for (level, table) in job.tables() {
                outcome.changes.push(Change::Remove(level, Rc::clone(table)));
            }
            for (level, table) in output.tables {
                outcome.changes.push(Change::Insert(level, table));
            }
            outcome.released.extend(released);
            let tables_moved = job.moves.len() as u64;
            outcome.done = Done { blocks_written, tables_moved, ..done };
        }
        Err(corrupt) => {
            outcome.released.extend(output.acquired);
            outcome.corrupt = Some(corrupt);
        }
    }
    (outcome, work)
}

/// Finds what the tables consist of, to release it. Each stands for itself: one that cannot be read
/// stays, and the others go.
async fn drop_tables(context: &Context, job: &Job, reservation: Reservation) -> Outcome {
    let mut outcome = Outcome {
        tree: job.tree,
        changes: Vec::new(),
        released: Vec::new(),
        reservation,
        corrupt: None,
        done: Done::default(),
    };
    for (level, table) in job.tables() {
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
    let references = (0..index.block_count()).map(|number| index.block(number).reference);
    let mut blocks: Vec<BlockAddress> =
        references.clone().map(|reference| reference.address).collect();
    blocks.push(table.index.address);
    if table.overflow_blocks == 0 {
        return Ok(blocks);
    }
    let step = |reference| Step { table: Rc::clone(table), reference, whole: None };
    let steps = references.map(step).collect();
    let tables = TableStream::new(Rc::clone(&context.grid), steps, None, Vec::new());
    let mut stream = Stream::Tables(Box::new(tables));
    let mut slice = Slice::default();
    loop {
        stream.advance(&context.budget).await?;
        let Some(entry) = stream.entry() else { break };
        slice.take(&entry).await;
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
    done: Done,
}

/// Merges the inputs into the output. `work` is what was planned, and becomes what it really is.
async fn merge(
    context: &Context,
    job: &Job,
    work: &mut u64,
    output: &mut Output<'_>,
) -> Result<Merged, Corrupt> {
    let Layout { streams, homes, released, reads, whole } = blocks::layout(context, job).await?;
    let mut done = Done {
        blocks_read: reads,
        blocks_moved: whole,
        flush: job.memtable().is_some(),
        coalesced: job.memtable().is_some() && !streams.is_empty(),
        ..Done::default()
    };
    let planned: u64 = job.tables().map(|(_, table)| u64::from(table.value_blocks)).sum();
    *work = work.saturating_sub(planned - reads);
    context.budget.reduce(planned - reads);
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
    let mut released = released;
    merge_streams(context, job, &mut streams, output, &mut done, &mut released).await?;
    output.finish_table().await;
    let rests = streams.into_iter().filter_map(|stream| match stream {
        Stream::Memtable(_) => None,
        Stream::Tables(stream) => Some(stream.into_rest()),
    });
    for (rest, (level, run)) in rests.zip(homes) {
        output.leave(rest, level, run, &mut done).await?;
    }
    Ok(Merged { released, done })
}

async fn merge_streams(
    context: &Context,
    job: &Job,
    streams: &mut [Stream],
    output: &mut Output<'_>,
    done: &mut Done,
    released: &mut Vec<BlockAddress>,
) -> Result<(), Corrupt> {
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
        if let Some(whole) = streams[first].whole() {
            output.adopt(whole).await?;
        } else {
            let entry = streams[first].entry().expect("the first stream stands at an entry");
            slice.take(&entry).await;
            done.entries += 1;
            if filter.keep(&entry) {
                output.push(&entry).await;
            } else if let Payload::Overflow(reference) = &entry.payload {
                released.extend(reference.blocks().map(|(address, _)| address));
            }
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
const SLICE_BYTES: usize = 64 << 10;
const SLICE_ENTRY: usize = 128;

impl Slice {
    async fn take(&mut self, entry: &EntryRef<'_>) {
        self.cost += SLICE_ENTRY + entry.key.len() + entry.payload.stored_len();
        if self.cost >= SLICE_BYTES {
            self.cost = 0;
            ioring::yield_now().await;
        }
    }
}

/// Builds and writes a job's tables.
struct Output<'a> {
    context: &'a Context,
    tree: Tree,
    /// Where the tables go: a level, and the run they are part of.
    level: Level,
    run: u64,
    reservation: Reservation,
    /// Where a new table begins, whatever the one before holds.
    splits: VecDeque<Box<[u8]>>,
    builder: Option<Builder>,
    tables: Vec<(Level, Rc<TableInfo>)>,
    /// Every block taken from the reservation.
    acquired: Vec<BlockAddress>,
    writes: VecDeque<Task<()>>,
}

impl<'a> Output<'a> {
    fn new(context: &'a Context, job: &Job, reservation: Reservation) -> Output<'a> {
        Output {
            context,
            tree: job.tree,
            level: job.level,
            run: job.run,
            reservation,
            splits: job.splits.iter().cloned().collect(),
            builder: None,
            tables: Vec::new(),
            acquired: Vec::new(),
            writes: VecDeque::new(),
        }
    }

    async fn push(&mut self, entry: &EntryRef<'_>) {
        match entry.payload {
            Payload::Inline(value) if value.len() > self.context.config.inline_value_size_max() => {
                let list = self.write_overflow(value).await;
                let reference = OverflowReference::parse(&list).expect("just built");
                let payload = Payload::Overflow(reference);
                self.push_stored(&EntryRef { payload, ..*entry }).await;
            }
            _ => self.push_stored(entry).await,
        }
    }

    /// Ends the table where other tables of the run stand between the entry and the one before.
    async fn split_before(&mut self, key: &[u8]) {
        while self.splits.pop_front_if(|split| **split <= *key).is_some() {
            self.finish_table().await;
        }
    }

    async fn push_stored(&mut self, entry: &EntryRef<'_>) {
        if self.splits.front().is_some_and(|split| **split <= *entry.key) {
            self.split_before(entry.key).await;
        }
        loop {
            let context = self.context;
            let builder = self.builder();
            match builder.push(entry) {
                Push::Accepted => return,
                Push::NeedsBlock => {
                    let buffer = context.grid.buffer().await;
                    let address = acquire(context, &mut self.reservation, &mut self.acquired);
                    self.builder().open_block(buffer, address);
                }
                Push::BlockFull => {
                    let image = builder.close_block().expect("a full block is open");
                    self.write(image).await;
                }
                Push::TableFull => self.finish_table().await,
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
    async fn adopt(&mut self, whole: &Whole) -> Result<(), Corrupt> {
        let handle = match self.context.grid.read_index(&whole.table, Class::Background).await {
            Ok(handle) => handle,
            Err(error) => return Err(Corrupt::new(Rc::clone(&whole.table), error)),
        };
        if let Some(image) = self.builder().close_block() {
            self.write(image).await;
        }
        self.split_before(&whole.first).await;
        let versions = (whole.table.version_min, whole.table.version_max);
        loop {
            let (index, behind) = (handle.index(), whole.behind.as_deref());
            if self.builder().adopt(&index, whole.number, behind, versions) {
                return Ok(());
            }
            self.finish_table().await;
        }
    }

    /// Makes a table of what a slice leaves of another, in that one's run.
    async fn leave(
        &mut self,
        rest: Rest,
        level: Level,
        run: u64,
        done: &mut Done,
    ) -> Result<(), Corrupt> {
        (self.level, self.run) = (level, run);
        self.splits.clear();
        done.tables_cut += u64::from(rest.cursor.is_some() || !rest.blocks.is_empty());
        if let Some(mut cursor) = rest.cursor {
            let mut slice = Slice::default();
            loop {
                let entry = cursor.entry();
                slice.take(&entry).await;
                self.push(&entry).await;
                // The block was walked up to here, so it is intact.
                if !cursor.next().expect("a verified block can be walked to its end") {
                    break;
                }
            }
        }
        for whole in &rest.blocks {
            self.adopt(whole).await?;
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
        if let Some(image) = builder.close_block() {
            self.write(image).await;
        }
        let buffer = self.context.grid.buffer().await;
        let address = acquire(self.context, &mut self.reservation, &mut self.acquired);
        let (image, table) = builder.finish(buffer, address);
        self.context.grid.keep_index(&table, &image.bytes);
        self.tables.push((self.level, Rc::new(TableInfo { run: self.run, ..table })));
        self.write(image).await;
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
        if self.writes.len() >= self.context.config.writes_max as usize {
            let oldest = self.writes.pop_front().expect("there are several");
            oldest.await;
        }
        let grid = Rc::clone(&self.context.grid);
        self.writes.push_back(ioring::spawn(
            ioring::Queue::Background,
            "compaction write",
            async move { grid.write_block(image).await },
        ));
    }

    /// Waits for all writes.
    async fn settle(&mut self) {
        while let Some(write) = self.writes.pop_front() {
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
