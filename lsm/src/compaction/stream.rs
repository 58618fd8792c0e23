//! One sorted input of a merge: a memtable, or the tables of one run, read block by block.
//!
//! A stream owns its place and what it reads; at any time it holds at most the block it walks and
//! the next one, which is being read meanwhile. Before it reads a block it takes a unit of the
//! budget, so paying stops and resumes between blocks. Entries are handed out as slices of the
//! block or of the memtable.

use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Task;

use super::budget::Budget;
use super::job::Corrupt;
use super::plan::memtable_work;
use crate::block::{Block, BlockAddress, BlockReference, BlockType};
use crate::config::Config;
use crate::entry::EntryRef;
use crate::grid::{Class, Grid, ReadError};
use crate::memtable::{Cursor, Memtable};
use crate::table::{BlockCursor, TableInfo};

pub(crate) enum Stream {
    Memtable(MemtableStream),
    Tables(Box<TableStream>),
}

impl Stream {
    /// The entry the stream stands at; none at its end.
    #[inline]
    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Stream::Memtable(stream) => stream.memtable.entry(stream.cursor),
            Stream::Tables(stream) => stream.cursor.as_ref().map(BlockCursor::entry),
        }
    }

    /// Goes to the next entry; the first call goes to the first.
    pub(crate) async fn advance(&mut self, budget: &Budget) -> Result<(), Corrupt> {
        match self {
            Stream::Memtable(stream) => {
                stream.advance(budget).await;
                Ok(())
            }
            Stream::Tables(stream) => stream.advance(budget).await,
        }
    }

    /// The blocks of all input tables, index blocks last of each; complete at the stream's end.
    pub(crate) fn into_blocks(self) -> Vec<BlockAddress> {
        match self {
            Stream::Memtable(_) => Vec::new(),
            Stream::Tables(stream) => stream.blocks,
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

/// Walks the tables of one run.
pub(crate) struct TableStream {
    grid: Rc<Grid>,
    tables: VecDeque<Rc<TableInfo>>,
    /// The table being read: its value blocks that are not asked for yet.
    table: Option<Rc<TableInfo>>,
    ahead: VecDeque<BlockReference>,
    reading: Option<Reading>,
    cursor: Option<BlockCursor>,
    walked: Option<Rc<TableInfo>>,
    blocks: Vec<BlockAddress>,
}

struct Reading {
    table: Rc<TableInfo>,
    task: Task<Result<Block, ReadError>>,
}

impl TableStream {
    pub(crate) fn new(grid: Rc<Grid>, tables: &[Rc<TableInfo>]) -> TableStream {
        TableStream {
            grid,
            tables: tables.iter().cloned().collect(),
            table: None,
            ahead: VecDeque::new(),
            reading: None,
            cursor: None,
            walked: None,
            blocks: Vec::new(),
        }
    }

    async fn advance(&mut self, budget: &Budget) -> Result<(), Corrupt> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                match cursor.next() {
                    Ok(true) => return Ok(()),
                    Ok(false) => self.cursor = None,
                    Err(fault) => {
                        let block = cursor.block().header().address;
                        let table = self.walked.take().expect("a cursor walks a table");
                        return Err(Corrupt { table, block, fault });
                    }
                }
            }
            self.read_ahead(budget).await?;
            let Some(Reading { table, task }) = self.reading.take() else { return Ok(()) };
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
            self.read_ahead(budget).await?;
            ioring::yield_now().await;
        }
    }

    /// Starts reading the next block, unless one is being read or there is none.
    async fn read_ahead(&mut self, budget: &Budget) -> Result<(), Corrupt> {
        if self.reading.is_some() {
            return Ok(());
        }
        while self.ahead.is_empty() {
            let Some(table) = self.tables.pop_front() else { return Ok(()) };
            self.open(table).await?;
        }
        let Some(reference) = self.ahead.pop_front() else { return Ok(()) };
        let table = self.table.clone().expect("value blocks are those of a table");
        budget.take().await;
        let grid = Rc::clone(&self.grid);
        let task = ioring::spawn(ioring::Queue::Background, "compaction read", async move {
            grid.read_block(&reference, BlockType::Value, Class::Background).await
        });
        self.reading = Some(Reading { table, task });
        Ok(())
    }

    async fn open(&mut self, table: Rc<TableInfo>) -> Result<(), Corrupt> {
        let handle = match self.grid.read_index(&table, Class::Background).await {
            Ok(handle) => handle,
            Err(error) => return Err(Corrupt::new(table, error)),
        };
        let index = handle.index();
        for number in 0..index.block_count() {
            let reference = index.block(number).reference;
            self.blocks.push(reference.address);
            self.ahead.push_back(reference);
        }
        self.blocks.push(table.index.address);
        self.table = Some(table);
        Ok(())
    }
}
