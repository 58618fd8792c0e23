//! A job at work: merges its inputs into new tables and says what has to change.
//!
//! The merge asks each of its few streams for the entry it stands at and takes the first in order
//! (key ascending, version descending); [`Filter`] says whether it is kept. Kept entries go to the
//! builder, whose blocks are written as they fill, a bounded number at a time; their addresses come
//! from the job's own reservation in the order in which blocks are opened, so they depend on the
//! entries only and not on when a read or write is done. Large values of a memtable go into
//! overflow blocks first; a merge of tables copies the reference, and whoever drops an entry
//! releases its blocks.
//!
//! All writes are awaited before the job is over: a table named in an outcome can be read.

use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Task;

use super::budget::Budget;
use super::plan::{Input, Job, Kind};
use super::stream::{MemtableStream, Stream, TableStream};
use crate::block::{BlockAddress, BlockFault};
use crate::config::{Config, SECTOR_SIZE};
use crate::entry::{EntryRef, Level, Payload};
use crate::free_set::Reservation;
use crate::grid::{Class, Grid, ReadError};
use crate::manifest::Change;
use crate::merge::{Below, Filter, Generations};
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
    pub(crate) blocks_written: u64,
}

/// Runs the jobs of a bar, one after the other.
pub(crate) async fn run_all(context: Context, jobs: Vec<(Job, Reservation)>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut planned = 0;
    for (job, reservation) in jobs {
        planned += job.work(&context.config);
        outcomes.push(run(&context, job, reservation).await);
        // A job that gave up leaves work behind that nobody will do.
        context.budget.skip_to(planned);
    }
    context.budget.finish();
    outcomes
}

async fn run(context: &Context, job: Job, reservation: Reservation) -> Outcome {
    let below = match &job.kind {
        Kind::Merge { below } => below,
        Kind::Move => return move_tables(&job, reservation),
        Kind::Drop => return drop_tables(context, &job, reservation).await,
    };
    let mut output = Output::new(context, &job, reservation);
    let merged = merge(context, &job, below.clone(), &mut output).await;
    output.settle().await;
    let mut outcome = Outcome {
        tree: job.tree,
        changes: Vec::new(),
        released: Vec::new(),
        reservation: output.reservation,
        corrupt: None,
        blocks_written: output.acquired.len() as u64,
    };
    match merged {
        Ok(released) => {
            for (level, table) in job.tables() {
                outcome.changes.push(Change::Remove(level, Rc::clone(table)));
            }
            for table in output.tables {
                outcome.changes.push(Change::Insert(job.level, table));
            }
            outcome.released = released;
        }
        Err(corrupt) => {
            outcome.released = output.acquired;
            outcome.corrupt = Some(corrupt);
        }
    }
    outcome
}

fn move_tables(job: &Job, reservation: Reservation) -> Outcome {
    let moved =
        |(from, table): (Level, &Rc<TableInfo>)| Change::Move(from, job.level, Rc::clone(table));
    let changes = job.tables().map(moved).collect();
    let (released, corrupt, blocks_written) = (Vec::new(), None, 0);
    Outcome { tree: job.tree, changes, released, reservation, corrupt, blocks_written }
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
        blocks_written: 0,
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
    if table.overflow_blocks == 0 {
        let read = context.grid.read_index(table, Class::Background).await;
        let handle = read.map_err(|error| Corrupt::new(Rc::clone(table), error))?;
        let index = handle.index();
        let values = (0..index.block_count()).map(|number| index.block(number).reference.address);
        return Ok(values.chain([table.index.address]).collect());
    }
    let mut blocks = Vec::new();
    let tables = TableStream::new(Rc::clone(&context.grid), std::slice::from_ref(table));
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
    blocks.extend(stream.into_blocks());
    Ok(blocks)
}

/// Merges the inputs into the output; gives the blocks that become garbage.
async fn merge(
    context: &Context,
    job: &Job,
    below: Below,
    output: &mut Output<'_>,
) -> Result<Vec<BlockAddress>, Corrupt> {
    let mut streams: Vec<Stream> = job.inputs.iter().map(|input| open(context, input)).collect();
    for stream in &mut streams {
        stream.advance(&context.budget).await?;
    }
    let generations = context.generations.clone();
    let mut filter = Filter::new(job.tree, context.horizon, generations, below);
    let mut released = Vec::new();
    let mut slice = Slice::default();
    while let Some(first) = first_of(&streams) {
        let entry = streams[first].entry().expect("the first stream stands at an entry");
        slice.take(&entry).await;
        if filter.keep(&entry) {
            output.push(&entry).await;
        } else if let Payload::Overflow(reference) = &entry.payload {
            released.extend(reference.blocks().map(|(address, _)| address));
        }
        streams[first].advance(&context.budget).await?;
    }
    output.finish_table().await;
    for stream in streams {
        released.extend(stream.into_blocks());
    }
    Ok(released)
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

fn open(context: &Context, input: &Input) -> Stream {
    match input {
        Input::Memtable(memtable) => {
            Stream::Memtable(MemtableStream::new(&context.config, memtable, context.horizon))
        }
        Input::Tables(_, tables) => {
            Stream::Tables(Box::new(TableStream::new(Rc::clone(&context.grid), tables)))
        }
    }
}

/// The stream whose entry comes first. No two streams hold the same version of a key.
fn first_of(streams: &[Stream]) -> Option<usize> {
    let mut first: Option<(usize, EntryRef<'_>)> = None;
    for (number, stream) in streams.iter().enumerate() {
        let Some(entry) = stream.entry() else { continue };
        if first.is_none_or(|(_, best)| entry.position() < best.position()) {
            first = Some((number, entry));
        }
    }
    first.map(|(number, _)| number)
}

/// Builds and writes a job's tables.
struct Output<'a> {
    context: &'a Context,
    tree: Tree,
    level: Level,
    reservation: Reservation,
    builder: Option<Builder>,
    tables: Vec<Rc<TableInfo>>,
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
            reservation,
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

    async fn push_stored(&mut self, entry: &EntryRef<'_>) {
        loop {
            let context = self.context;
            let builder = self.builder.get_or_insert_with(|| {
                let tree = self.tree.id();
                let identity = context.grid.identity();
                Builder::new(&context.config, identity, tree, self.level, context.op)
            });
            match builder.push(entry) {
                Push::Accepted => return,
                Push::NeedsBlock => {
                    let buffer = context.grid.buffer().await;
                    let address = acquire(context, &mut self.reservation, &mut self.acquired);
                    builder.open_block(buffer, address);
                }
                Push::BlockFull => {
                    let image = builder.close_block().expect("a full block is open");
                    self.write(image).await;
                }
                Push::TableFull => self.finish_table().await,
            }
        }
    }

    async fn finish_table(&mut self) {
        let Some(mut builder) = self.builder.take() else { return };
        if let Some(image) = builder.close_block() {
            self.write(image).await;
        }
        let buffer = self.context.grid.buffer().await;
        let address = acquire(self.context, &mut self.reservation, &mut self.acquired);
        let (image, table) = builder.finish(buffer, address);
        self.context.grid.keep_index(&table, &image.bytes);
        self.tables.push(Rc::new(table));
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
