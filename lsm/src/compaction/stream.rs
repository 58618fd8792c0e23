//! One sorted input of a merge: a memtable, or tables of one run, read block by block.
//!
//! A stream owns its place and what it reads; at any time it holds at most the block it walks and
//! the next one, which is being read meanwhile. Before it reads a block it takes a unit of the
//! budget, so paying stops and resumes between blocks. Entries are handed out as slices of the
//! block or of the memtable.
//!
//! Which blocks are read at all is known beforehand ([`super::blocks`]): a stream may also stand at
//! a whole block that goes into the output as it is, and it ends before the blocks that stay in
//! their run. A merge may also end before its streams do; what they still hold stays as well
//! ([`TableStream::into_rest`]).

use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Task;

use super::budget::Budget;
use super::job::Corrupt;
use super::plan::memtable_work;
use crate::block::{Block, BlockAddress, BlockReference, BlockType};
use crate::config::Config;
use crate::entry::{EntryRef, Position};
use crate::grid::{Class, Grid, ReadError};
use crate::memtable::{Cursor, Memtable};
use crate::table::{BlockCursor, TableInfo};

pub(crate) enum Stream {
    Memtable(MemtableStream),
    Tables(Box<TableStream>),
}

impl Stream {
    /// The entry the stream stands at; none at its end, or at a whole block.
    #[inline]
    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Stream::Memtable(stream) => stream.memtable.entry(stream.cursor),
            Stream::Tables(stream) => stream.standing()?.cursor.as_ref().map(BlockCursor::entry),
        }
    }

    /// Where the stream stands: before what it gives next; none at its end.
    #[inline]
    pub(crate) fn position(&self) -> Option<Position<'_>> {
        match self {
            Stream::Memtable(stream) => {
                let entry = stream.memtable.entry(stream.cursor)?;
                Some(Position { key: entry.key, version: entry.version })
            }
            Stream::Tables(stream) => stream.position(),
        }
    }

    /// The whole block the stream stands at.
    pub(crate) fn whole(&self) -> Option<&Whole> {
        match self {
            Stream::Memtable(_) => None,
            Stream::Tables(stream) => stream.whole.as_ref(),
        }
    }

    /// Asks for the first block, before the stream is at its first entry.
    pub(crate) async fn ask(&mut self, budget: &Budget) {
        if let Stream::Tables(stream) = self {
            stream.read_ahead(budget).await;
        }
    }

    /// Goes to the next entry or whole block; the first call goes to the first.
    #[inline]
    pub(crate) async fn advance(&mut self, budget: &Budget) -> Result<(), Corrupt> {
        match self {
            Stream::Memtable(stream) => {
                stream.advance(budget).await;
                Ok(())
            }
            Stream::Tables(stream) => {
                // Nearly always: no block ends, and nothing is waited for.
                if stream.step()? { Ok(()) } else { stream.advance(budget).await }
            }
        }
    }
}

/// Walks a memtable, paying for it as if it were blocks. Superseded versions that the merge would
/// drop at once are passed over: each would be a wait for memory.
pub(crate) struct MemtableStream {
    memtable: Rc<Memtable>,
    horizon: u64,
    cursor: Cursor,
    started: bool,
    /// What is accounted for a key, on average.
    key_bytes: usize,
    block_size: usize,
    bytes: usize,
    work_left: u64,
}

impl MemtableStream {
    pub(crate) fn new(config: &Config, memtable: &Rc<Memtable>, horizon: u64) -> MemtableStream {
        MemtableStream {
            cursor: memtable.start(),
            horizon,
            started: false,
            key_bytes: memtable.bytes() / memtable.keys().max(1),
            block_size: config.block_size as usize,
            bytes: 0,
            work_left: memtable_work(config, memtable),
            memtable: Rc::clone(memtable),
        }
    }

    async fn advance(&mut self, budget: &Budget) {
        if self.started {
            let above = |entry: EntryRef<'_>| entry.version > self.horizon;
            self.cursor = if self.memtable.entry(self.cursor).is_some_and(above) {
                // An older version may be seen as well.
                self.memtable.next(self.cursor)
            } else {
                self.memtable.next_key(self.cursor)
            };
        } else {
            self.started = true;
            self.pay(budget).await;
        }
        self.memtable.prefetch_walk(self.cursor);
        if self.memtable.entry(self.cursor).is_none() {
            while self.work_left > 0 {
                self.pay(budget).await;
            }
            return;
        }
        self.bytes += self.key_bytes;
        while self.bytes >= self.block_size && self.work_left > 0 {
            self.bytes -= self.block_size;
            self.pay(budget).await;
        }
    }

    async fn pay(&mut self, budget: &Budget) {
        self.work_left -= 1;
        budget.take().await;
        ioring::yield_now().await;
    }
}

/// What a stream does with a block of its tables.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) block: Whole,
    pub(crate) reference: BlockReference,
    /// Whether it is not read but goes into the output as it is.
    pub(crate) moves: bool,
}

/// A block that goes into the output as it is.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) table: Rc<TableInfo>,
    /// Its number in the table.
    pub(crate) number: usize,
    /// The separator before it, and the one behind; none behind the table's last block.
    pub(crate) first: Box<[u8]>,
    pub(crate) behind: Option<Box<[u8]>>,
}

/// What of a stream's tables stays in its run.
#[derive(Default)]
pub(crate) struct Rest {
    /// Stands at the first entry that stays, in the block that was cut, if one was.
    pub(crate) cursor: Option<BlockCursor>,
    /// Blocks that stay as they are.
    pub(crate) blocks: Vec<Whole>,
    /// Those of them that were to be read.
    pub(crate) unread: Vec<BlockAddress>,
    /// The table that was cut.
    pub(crate) cut: Option<Rc<TableInfo>>,
    /// Tables of which nothing was taken: they stay as they are.
    pub(crate) untouched: Vec<Rc<TableInfo>>,
}

/// Walks tables of one run.
pub(crate) struct TableStream {
    grid: Rc<Grid>,
    steps: VecDeque<Step>,
    /// Keys from here on stay where they are.
    behind: Option<Box<[u8]>>,
    rest: Vec<Whole>,
    reading: Option<Reading>,
    cursor: Option<BlockCursor>,
    walked: Option<Rc<TableInfo>>,
    whole: Option<Whole>,
    /// Whether the cursor stands at an entry that stays.
    ended: bool,
}

struct Reading {
    step: Step,
    task: Task<Result<Block, ReadError>>,
}

impl TableStream {
    pub(crate) fn new(
        grid: Rc<Grid>,
        steps: VecDeque<Step>,
        behind: Option<Box<[u8]>>,
        rest: Vec<Whole>,
    ) -> TableStream {
        TableStream {
            grid,
            steps,
            behind,
            rest,
            reading: None,
            cursor: None,
            walked: None,
            whole: None,
            ended: false,
        }
    }

    /// What stays, once the merge is over: the stream is at its end, or stands at the first entry
    /// or block that was not merged any more.
    pub(crate) async fn into_rest(self) -> Rest {
        let mut rest = Rest { cursor: self.cursor, ..Rest::default() };
        rest.cut = self.walked.filter(|_| rest.cursor.is_some());
        rest.blocks.extend(self.whole);
        let mut read = None;
        if let Some(Reading { step, task }) = self.reading {
            // Its buffer is the pool's.
            drop(task.await);
            read = Some(step);
        }
        for step in read.into_iter().chain(self.steps) {
            rest.unread.extend((!step.moves).then_some(step.reference.address));
            rest.blocks.push(step.block);
        }
        rest.blocks.extend(self.rest);
        let is_first = |block: &&Whole| block.number == 0;
        let untouched = rest.blocks.iter().filter(is_first).map(|block| Rc::clone(&block.table));
        rest.untouched = untouched.collect();
        let untouched = &rest.untouched;
        let stays = |block: &Whole| untouched.iter().any(|table| Rc::ptr_eq(table, &block.table));
        rest.blocks.retain(|block| !stays(block));
        rest.cut = rest.cut.or_else(|| Some(Rc::clone(&rest.blocks.first()?.table)));
        rest
    }

    fn standing(&self) -> Option<&TableStream> {
        (!self.ended && self.whole.is_none()).then_some(self)
    }

    fn position(&self) -> Option<Position<'_>> {
        match &self.whole {
            Some(whole) => Some(Position { key: &whole.first, version: u64::MAX }),
            None => self.standing()?.cursor.as_ref().map(BlockCursor::position),
        }
    }

    /// Goes to the next entry of the block; false if there is none.
    #[inline]
    fn step(&mut self) -> Result<bool, Corrupt> {
        let Some(cursor) = &mut self.cursor else { return Ok(false) };
        match cursor.next() {
            Ok(true) => {
                let behind = self.behind.as_deref();
                self.ended = behind.is_some_and(|behind| cursor.position().key >= behind);
                Ok(true)
            }
            Ok(false) => {
                self.cursor = None;
                Ok(false)
            }
            Err(fault) => {
                let block = cursor.block().header().address;
                let table = self.walked.take().expect("a cursor walks a table");
                Err(Corrupt { table, block, fault })
            }
        }
    }

    async fn advance(&mut self, budget: &Budget) -> Result<(), Corrupt> {
        self.whole = None;
        loop {
            if self.step()? {
                return Ok(());
            }
            if self.reading.is_none()
                && let Some(step) = self.steps.pop_front_if(|step| step.moves)
            {
                self.whole = Some(step.block);
                return Ok(());
            }
            self.read_ahead(budget).await;
            let Some(Reading { step, task }) = self.reading.take() else { return Ok(()) };
            let table = step.block.table;
            let block = match task.await {
                Ok(block) => block,
                Err(error) => return Err(Corrupt::new(table, error)),
            };
            let address = block.header().address;
            match BlockCursor::new(block) {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(fault) => return Err(Corrupt { table, block: address, fault }),
            }
            self.walked = Some(table);
            self.read_ahead(budget).await;
            ioring::yield_now().await;
        }
    }

    /// Starts reading the next block, unless one is being read or none is to be read next.
    pub(crate) async fn read_ahead(&mut self, budget: &Budget) {
        if self.reading.is_some() {
            return;
        }
        let Some(step) = self.steps.pop_front_if(|step| !step.moves) else { return };
        budget.take().await;
        let (grid, reference) = (Rc::clone(&self.grid), step.reference);
        let task = ioring::spawn(ioring::Queue::Background, "compaction read", async move {
            grid.read_block(&reference, BlockType::Value, Class::Background).await
        });
        self.reading = Some(Reading { step, task });
    }

    /// Value blocks that will not be needed any more.
    pub(crate) fn blocks(steps: &VecDeque<Step>) -> impl Iterator<Item = BlockAddress> + '_ {
        let read = steps.iter().filter(|step| !step.moves);
        read.map(|step| step.reference.address)
    }
}
