//! The storage engine of a shard: grid, tables, trees, forest, compaction beats.
//!
//! Two halves. The lower one knows blocks and bytes:
//!
//! ```text
//! key, entry      what is stored: encoded key, version, deadline, payload
//! page            a sorted run of entries, the unit of a point read
//! index, filter   which page of a table may hold a key
//! overflow        values too large to stand in a page
//! table           builds the blocks of a table; walks the entries of a value block
//! block           the header and identity of every block
//! free_set        which blocks are free, reserved, acquired, released
//! cache, grid     the file: page reads through the cache, block reads and writes, growth
//! manifest_log    the durable history of which tables are live
//! ```
//!
//! The upper half decides what to write when:
//!
//! ```text
//! memtable        a bar's writes of one tree, in memory
//! bar             when groups, bars and checkpoints end: a function of the log
//! level, manifest which tables are live, and which to compact next
//! merge           what a merge keeps of versions, tombstones and dead generations
//! sample          how much of what a tree stores is dead, estimated from some of its keys
//! compaction      a bar's jobs: planned at its start, paid beat by beat, applied at its end
//! tree, forest    the trees of a shard behind one face: put, delete, get, beat, bar, checkpoint
//! lookup, scan    point and range reads, in memory or as plans that wait for the disk
//! rows            copies of rows found in tables: one probe when they are asked for again
//! expiry          the tree of deadlines
//! secondary       the tree of indexes: keys of its entries
//! checkpoint      the durable root of a shard, and opening from it
//! scrub           reads every live block in turn while the shard serves
//! verify          reads every live block and reports what is wrong
//! ```
//!
//! A point read that neither a memtable nor the row cache answers goes `TableInfo` →
//! `Grid::try_index` → `Index::find` → `Grid::try_page` → `Page::seek`, allocating nothing while it
//! hits the cache. A merge goes `Index::blocks` → `Grid::read_block` → `table::BlockCursor` →
//! `table::Builder` → `Grid::write_block`.
//!
//! # The lower half at a glance
//!
//! ```text
//! // page: borrowed views of one page; a cursor owns its position and key, not the page
//! Page::parse(&'a [u8]) -> Result<Page<'a>, PageFault>
//! Page::seek(key: &'a [u8], version_max) -> Result<Option<EntryRef<'a>>, PageFault>
//! Cursor::{first, last, seek(Position), next, previous}(&Page) -> Result<bool, PageFault>
//! Cursor::entry(&Page) -> EntryRef
//!
//! // index: a verified index block
//! Index::find(key, filter::hash(key), version_max) -> Option<PageReference>
//! Index::page_of(Position) -> usize; page(usize) -> PageReference; page_count()
//! Index::block_count(); block(usize) -> ValueBlock { reference, pages: Range<usize> }
//!
//! // table: building and walking
//! TableInfo { tree, index: BlockReference, key_min, key_max, version_min, version_max, op,
//!             entries, tombstones, value_bytes, value_blocks, overflow_blocks }
//! Builder::new(&Config, Identity, TreeId, Level, op)
//! Builder::open_block(Buffer, BlockAddress)
//! Builder::push(&EntryRef) -> Push::{Accepted, NeedsBlock, BlockFull, TableFull}
//! Builder::close_block() -> Option<BlockImage { reference, bytes: Frozen }>
//! Builder::finish(Buffer, BlockAddress) -> (BlockImage, TableInfo)
//! BlockCursor::new(Block) ; next() -> Result<bool, _>; entry() -> EntryRef
//!
//! // grid: one per shard, Rc<Grid>; reads are `&self`, nothing is borrowed across an await
//! Grid::format(path, Owner, &Config, Direct).await; open(..).await -> Result<Rc<Grid>, OpenError>
//! Grid::try_index(&TableInfo) -> Option<IndexHandle>; read_index(&TableInfo, Class).await
//! Grid::try_page(&PageReference) -> Option<PageHandle>; read_page(.., Class).await
//! Grid::read_block(&BlockReference, BlockType, Class).await -> Result<Block, ReadError>
//! Grid::read_overflow(&OverflowReference, Class, &mut Vec<u8>).await
//! Grid::write_block(BlockImage).await; sync().await        // failure ends the process
//! Grid::buffer().await -> Buffer                           // a whole block's, pooled
//! Grid::reserve(count) -> Option<Reservation>; acquire(&mut Reservation) -> BlockAddress;
//! Grid::forfeit(Reservation); release(BlockAddress)        // in an order given by the log
//! Grid::checkpoint_begin(); free_set_snapshot() -> Snapshot    // released so far: pending
//! Grid::checkpoint_free() -> u64                           // at F(C): pending become free
//! Grid::install_free_set(FreeSet::restore(..))
//! Grid::space() -> Space { blocks_max, acquired, reserved, staged, pending }.free()
//!
//! // manifest_log: durable history of live tables
//! ManifestLog::insert(Level, Rc<TableInfo>); remove(&TableInfo); blocks_needed() -> usize
//! ManifestLog::seal(Identity, op, acquire) -> Sealed { images, released, root: ManifestRoot }
//! ManifestLog::open(&Grid, &ManifestRoot).await; tables()
//! ```
//!
//! Everything stored is a function of the entries, the configuration and the addresses that the
//! free set handed out: the same log gives the same bytes on every replica.

pub mod bar;
pub mod block;
pub mod cache;
pub mod checkpoint;
mod compaction;
pub mod config;
pub mod entry;
pub mod expiry;
pub mod filter;
pub mod forest;
pub mod free_set;
pub mod grid;
pub mod index;
pub mod inspect;
pub mod key;
mod level;
pub mod lookup;
mod manifest;
pub mod manifest_log;
pub mod memtable;
mod merge;
pub mod overflow;
pub mod page;
mod rows;
mod sample;
pub mod scan;
pub mod scrub;
pub mod secondary;
pub mod table;
pub mod tree;
pub mod verify;

#[cfg(test)]
mod testing;
