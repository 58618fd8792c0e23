//! The grid on a simulated disk that rots, loses, tears and misdirects.

use std::collections::BTreeMap;
use std::time::Duration;

use ioring::Direct;
use ioring::sim::disk::{ReadFault, WriteFault};
use ioring::sim::{self, NodeId, World};

use super::*;
use crate::block::{BlockType, HEADER_SIZE};
use crate::entry::{EntryRef, Level, Payload, TreeId};
use crate::filter;
use crate::overflow::{self, ListBuilder, OverflowReference, Piece};
use crate::table::{BlockCursor, Builder, Push};
use crate::testing::{self, OWNER, PATH};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn entries(count: u32) -> Entries {
    (0..count)
        .map(|i| {
            let len = if i % 9 == 0 { 700 } else { i as usize % 60 };
            (format!("key{i:05}").into_bytes(), vec![i as u8; len])
        })
        .collect()
}

/// Writes entries as tables of a level.
async fn write(grid: &Grid, entries: &Entries, level: Level) -> Vec<TableInfo> {
    let mut reservation = grid.reserve(1000).unwrap();
    let new = || Builder::new(grid.config(), grid.identity(), TreeId(1), level, 9);
    let mut builder = new();
    let mut tables = Vec::new();
    let mut pending: Vec<_> = entries.iter().rev().collect();
    while let Some((key, value)) = pending.last() {
        let payload = Payload::Inline(value);
        match builder.push(&EntryRef { key, version: 5, deadline: 0, payload }) {
            Push::Accepted => {
                pending.pop();
            }
            Push::NeedsBlock => {
                builder.open_block(grid.buffer().await, grid.acquire(&mut reservation));
            }
            Push::BlockFull => grid.write_block(builder.close_block().unwrap()).await,
            Push::TableFull => {
                let full = std::mem::replace(&mut builder, new());
                tables.push(finish(grid, full, &mut reservation).await);
            }
        }
    }
    tables.push(finish(grid, builder, &mut reservation).await);
    grid.forfeit(reservation);
    grid.sync().await;
    tables
}

async fn finish(grid: &Grid, mut builder: Builder, reservation: &mut Reservation) -> TableInfo {
    if let Some(image) = builder.close_block() {
        grid.write_block(image).await;
    }
    let (image, info) = builder.finish(grid.buffer().await, grid.acquire(reservation));
    grid.write_block(image).await;
    info
}

async fn get(grid: &Grid, tables: &[TableInfo], key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(table) = tables.iter().find(|table| table.covers(key)) else { return Ok(None) };
    let index = grid.read_index(table, Class::Foreground).await?;
    let Some(reference) = index.index().find(key, filter::hash(key), u64::MAX) else {
        return Ok(None);
    };
    let page = grid.read_page(&reference, Class::Foreground).await?;
    let found = page.page().seek(key, u64::MAX).unwrap();
    Ok(found.map(|entry| match entry.payload {
        Payload::Inline(value) => value.to_vec(),
        other => panic!("{other:?}"),
    }))
}

fn corrupt(result: Result<Option<Vec<u8>>, ReadError>) -> CorruptBlock {
    match result {
        Err(ReadError::Corrupt(corrupt)) => *corrupt,
        Ok(found) => panic!("found {found:?}"),
    }
}

#[test]
fn reads_back_what_was_written_cold_and_cached() {
    testing::run(|| async {
        for level in [Level(0), Level(2)] {
            let entries = entries(400);
            let grid = testing::grid(&Config::test_min()).await;
            let tables = write(&grid, &entries, level).await;
            let mut reads_max = 0;
            for (key, value) in &entries {
                let before = grid.stats().reads;
                assert_eq!(get(&grid, &tables, key).await.unwrap().as_ref(), Some(value));
                reads_max = reads_max.max(grid.stats().reads - before);
                let warm = grid.stats().reads;
                assert_eq!(get(&grid, &tables, key).await.unwrap().as_ref(), Some(value));
                assert_eq!(grid.stats().reads, warm, "the second read is in memory");
            }
            assert!(reads_max <= 2, "one read for the index, one for the page");
            assert_eq!(get(&grid, &tables, b"key00000x").await.unwrap(), None);
            let mut walked = Entries::new();
            for table in &tables {
                let index = grid.read_index(table, Class::Background).await.unwrap();
                for number in 0..index.index().block_count() {
                    let block = index.index().block(number).reference;
                    let read = grid.read_block(&block, BlockType::Value, Class::Background).await;
                    let mut cursor = BlockCursor::new(read.unwrap()).unwrap();
                    while cursor.next().unwrap() {
                        let entry = cursor.entry();
                        let Payload::Inline(value) = entry.payload else { panic!("{entry:?}") };
                        walked.insert(entry.key.to_vec(), value.to_vec());
                    }
                }
            }
            assert_eq!(walked, entries);
            ioring::fs::remove_file(PATH.as_ref()).unwrap();
        }
    });
}

/// Writes a large value; gives its list of blocks as an entry holds it.
async fn write_overflow(grid: &Grid, value: &[u8]) -> Vec<u8> {
    let blocks = grid.config().overflow_blocks(value.len());
    let mut reservation = grid.reserve(blocks as u64).unwrap();
    let mut list = ListBuilder::new(value.len() as u32);
    for number in 0..blocks as u32 {
        let mut buffer = grid.buffer().await;
        let address = grid.acquire(&mut reservation);
        let (identity, tree) = (grid.identity(), TreeId(1));
        let piece = Piece { identity, tree, op: 1, address, number };
        let reference = overflow::encode_piece(&mut buffer, grid.config(), &piece, value);
        list.push(&reference);
        grid.write_block(BlockImage { reference, bytes: buffer.freeze() }).await;
    }
    list.finish()
}

/// One value alone has more blocks than there are buffers, and reads of it run side by side while
/// merges hold every buffer of theirs.
#[test]
fn reads_of_large_values_do_not_wait_for_each_other() {
    testing::run(|| async {
        let config = Config {
            block_size: 16 << 10,
            value_size_max: 1 << 20,
            reads_foreground_max: 64,
            ..Config::test_min()
        };
        let grid = testing::grid(&config).await;
        let value: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let stored = write_overflow(&grid, &value).await;
        let mut held = Vec::new();
        held.extend(std::iter::from_fn(|| grid.try_buffer()));
        let read = async || {
            let reference = OverflowReference::parse(&stored).unwrap();
            let mut read = Vec::new();
            grid.read_overflow(&reference, Class::Foreground, &mut read).await.unwrap();
            read
        };
        for read in ioring::join_all((0..8).map(|_| read())).await {
            assert!(read == value);
        }
    });
}

#[test]
fn large_values_are_read_from_their_blocks() {
    testing::run(|| async {
        let grid = testing::grid(&Config::test_min()).await;
        let value: Vec<u8> = (0..15_000u32).map(|i| (i % 251) as u8).collect();
        let stored = write_overflow(&grid, &value).await;
        let reference = OverflowReference::parse(&stored).unwrap();
        let mut read = Vec::new();
        grid.read_overflow(&reference, Class::Foreground, &mut read).await.unwrap();
        assert!(read == value);
    });
}

#[test]
fn readers_of_one_page_share_one_read() {
    testing::run(|| async {
        let entries = entries(50);
        let grid = testing::grid(&Config::test_min()).await;
        let tables = write(&grid, &entries, Level(0)).await;
        let key = entries.keys().next().unwrap();
        let reads = (0..10).map(|_| get(&grid, &tables, key));
        for found in ioring::join_all(reads).await {
            assert!(found.unwrap().is_some());
        }
        assert_eq!(grid.stats().reads, 2, "index and page, once each");
    });
}

/// A world with one node and tables on its disk.
struct Written {
    world: World,
    node: NodeId,
    entries: Entries,
    tables: Vec<TableInfo>,
}

fn written() -> Written {
    let mut world = World::new(7, sim::Config::default());
    let node = world.add_node("test");
    let entries = entries(200);
    let to_write = entries.clone();
    let tables = world
        .run(node, move || async move {
            let grid = testing::grid(&Config::test_min()).await;
            write(&grid, &to_write, Level(0)).await
        })
        .unwrap();
    Written { world, node, entries, tables }
}

impl Written {
    /// Opens the grid again and reads a key, giving what the grid counted too.
    fn get(&mut self, key: &[u8]) -> (Result<Option<Vec<u8>>, ReadError>, GridStats) {
        let (tables, key) = (self.tables.clone(), key.to_vec());
        let read = move || async move {
            let path = Path::new(PATH);
            let config = Config::test_min();
            let grid = Grid::open(path, OWNER, &config, Direct::Required).await.unwrap();
            (get(&grid, &tables, &key).await, grid.stats())
        };
        self.world.run(self.node, read).unwrap()
    }

    /// The page that holds a key.
    fn page_of(&mut self, key: &[u8]) -> PageReference {
        let (tables, key) = (self.tables.clone(), key.to_vec());
        let find = move || async move {
            let path = Path::new(PATH);
            let config = Config::test_min();
            let grid = Grid::open(path, OWNER, &config, Direct::Required).await.unwrap();
            let table = tables.iter().find(|table| table.covers(&key)).unwrap();
            let index = grid.read_index(table, Class::Foreground).await.unwrap();
            index.index().find(&key, filter::hash(&key), u64::MAX).unwrap()
        };
        self.world.run(self.node, find).unwrap()
    }

    /// Offset in the file of a byte of a page.
    fn offset_of(page: &PageReference, at: u32) -> u64 {
        page.block.address.offset(Config::test_min().block_size) + u64::from(page.offset + at)
    }
}

#[test]
fn rot_in_a_page_is_reported_by_name_and_harms_no_other() {
    let mut written = written();
    let key = b"key00100".to_vec();
    let page = written.page_of(&key);
    let offset = Written::offset_of(&page, page.stored_len / 2);
    written.world.disk(written.node).rot(PATH.as_ref(), offset, 4).unwrap();
    let (result, stats) = written.get(&key);
    let corrupt = corrupt(result);
    assert!(matches!(corrupt.fault, BlockFault::PageChecksum { .. }), "{corrupt}");
    assert_eq!((corrupt.address, corrupt.shard), (page.block.address, 1));
    assert!(corrupt.to_string().contains("/shard-0001.grid, offset "), "{corrupt}");
    assert_eq!((stats.retries, stats.corrupt), (1, 1));
    let entries = written.entries.clone();
    for key in [b"key00000", b"key00199"] {
        assert_eq!(written.get(key).0.unwrap().as_ref(), entries.get(&key[..]));
    }
}

/// Every byte of a table's blocks: flipped, it is seen by those reads that need it, and no read
/// gives another value than the one written.
#[test]
fn no_flipped_byte_gives_a_wrong_answer() {
    let mut written = written();
    let key = b"key00050".to_vec();
    let value = written.entries[&key].clone();
    let page = written.page_of(&key);
    let table = written.tables.iter().find(|table| table.covers(&key)).unwrap().clone();
    let block_size = u64::from(Config::test_min().block_size);
    let mut seen = 0;
    let index_start = table.index.address.offset(block_size as u32);
    let places = (0..u64::from(table.index.size)).step_by(97).map(|at| index_start + at);
    let page_places = (0..page.stored_len).step_by(13).map(|at| Written::offset_of(&page, at));
    for offset in places.chain(page_places) {
        written.world.disk(written.node).rot(PATH.as_ref(), offset, 0x10).unwrap();
        match written.get(&key).0 {
            Ok(found) => assert_eq!(found.as_ref(), Some(&value)),
            Err(ReadError::Corrupt(_)) => seen += 1,
        }
        written.world.disk(written.node).rot(PATH.as_ref(), offset, 0x10).unwrap();
    }
    assert!(seen > 50, "{seen} flips were seen");
}

#[test]
fn a_misdirected_read_is_repeated() {
    let mut written = written();
    let key = b"key00042".to_vec();
    let value = written.entries[&key].clone();
    // The first read is the file's header, the second the index block.
    let mut seen = 0;
    for skipped in 1..3 {
        let tables = written.tables.clone();
        let probe = written.world.probe(written.node);
        let key = key.clone();
        let read = move || async move {
            let path = Path::new(PATH);
            let config = Config::test_min();
            let grid = Grid::open(path, OWNER, &config, Direct::Required).await.unwrap();
            if skipped == 2 {
                let table = tables.iter().find(|table| table.covers(&key)).unwrap();
                grid.read_index(table, Class::Foreground).await.unwrap();
            }
            probe.with_disk(|disk| disk.inject_read(path, ReadFault::Misdirected).unwrap());
            (get(&grid, &tables, &key).await, grid.stats())
        };
        let (result, stats) = written.world.run(written.node, read).unwrap();
        assert_eq!(result.unwrap(), Some(value.clone()));
        seen += stats.retries;
        assert_eq!(stats.corrupt, 0);
    }
    assert_eq!(seen, 2, "both misdirected reads were noticed");
}

#[test]
fn an_unreadable_page_is_reported_after_one_retry() {
    let mut written = written();
    let key = b"key00007".to_vec();
    let page = written.page_of(&key);
    let offset = Written::offset_of(&page, 0);
    written.world.disk(written.node).make_unreadable(PATH.as_ref(), offset, 1).unwrap();
    let (result, stats) = written.get(&key);
    let corrupt = corrupt(result);
    assert!(matches!(corrupt.fault, BlockFault::Device(_)), "{corrupt}");
    assert_eq!((stats.retries, stats.corrupt), (1, 1));
}

/// A write that never happened, or happened elsewhere: reads see it, and name the damage.
#[test]
fn lost_and_misdirected_writes_are_seen() {
    for fault in [WriteFault::Lost, WriteFault::Misdirected, WriteFault::Torn] {
        let mut damaged = 0;
        for seed in 0..6 {
            let mut world = World::new(seed, sim::Config::default());
            let node = world.add_node("test");
            let probe = world.probe(node);
            let main = move || async move {
                let grid = testing::grid(&Config::test_min()).await;
                let path = Path::new(PATH);
                let inject = |disk: &mut sim::disk::SimDisk| disk.inject_write(path, fault);
                probe.with_disk(|disk| inject(disk).unwrap());
                let entries = entries(100);
                let tables = write(&grid, &entries, Level(0)).await;
                let mut damaged = 0;
                for (key, value) in &entries {
                    match get(&grid, &tables, key).await {
                        Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                        Err(ReadError::Corrupt(_)) => damaged += 1,
                    }
                }
                damaged
            };
            damaged += world.run(node, main).unwrap();
        }
        assert!(damaged > 0, "{fault:?} was never noticed");
    }
}

#[test]
fn a_write_or_sync_that_fails_ends_the_process() {
    for sync in [false, true] {
        let mut world = World::new(3, sim::Config::default());
        let node = world.add_node("test");
        let probe = world.probe(node);
        let main = move || async move {
            let grid = testing::grid(&Config::test_min()).await;
            let path = Path::new(PATH);
            probe.with_disk(|disk| match sync {
                true => disk.inject_sync_error(path).unwrap(),
                false => disk.inject_write(path, WriteFault::Error).unwrap(),
            });
            write(&grid, &entries(10), Level(0)).await;
        };
        let status = world.run(node, main).unwrap_err();
        let said = format!("{status:?}");
        assert!(said.contains(PATH), "{said}");
    }
}

#[test]
fn a_write_without_space_on_the_host_waits_for_it() {
    let mut world = World::new(3, sim::Config::default());
    let node = world.add_node("test");
    let probe = world.probe(node);
    let main = move || async move {
        let grid = testing::grid(&Config::test_min()).await;
        probe.with_disk(|disk| disk.set_capacity(disk.used() + 4096));
        let writes = {
            let grid = Rc::clone(&grid);
            let work = async move { write(&grid, &entries(2000), Level(0)).await };
            ioring::spawn(ioring::Queue::Background, "writes", work)
        };
        ioring::sleep(Duration::from_secs(10)).await;
        assert!(grid.is_host_full());
        let before = grid.stats().writes;
        ioring::sleep(Duration::from_secs(10)).await;
        assert_eq!(grid.stats().writes, before, "nothing is written where there is no room");
        probe.with_disk(|disk| disk.set_capacity(u64::MAX));
        writes.await;
        assert!(!grid.is_host_full());
    };
    world.run(node, main).unwrap();
}

#[test]
fn a_file_is_extended_ahead_of_what_is_wanted_of_it() {
    let mut world = World::new(3, sim::Config::default());
    let node = world.add_node("test");
    let probe = world.probe(node);
    let main = move || async move {
        let grid = testing::grid(&Config::test_min()).await;
        let first = grid.free_in_file();
        assert_eq!(first, grid.blocks_allocated() - 1, "all but the header");
        let mut reservation = grid.reserve(first + 100).unwrap();
        assert_eq!(grid.free_in_file(), 0);
        grid.look_ahead(50);
        ioring::sleep(Duration::from_secs(1)).await;
        let free = grid.free_in_file();
        assert!((50 + 16..50 + 64).contains(&free), "{free} blocks ahead");
        assert!(grid.has_place_for(&reservation, first + 100).await);
        probe.with_disk(|disk| disk.set_capacity(disk.used()));
        grid.look_ahead(free + 1);
        ioring::sleep(Duration::from_secs(3)).await;
        assert!(grid.is_host_full());
        assert!(!grid.has_place_for(&reservation, 1).await, "what is wanted is not there");
        for _ in 0..first {
            grid.release(grid.acquire(&mut reservation));
        }
        grid.forfeit(reservation);
        ioring::sleep(Duration::from_secs(3)).await;
        assert!(!grid.is_host_full(), "blocks came back within the file");
        // The task that looks ahead ends.
        let before = grid.stats();
        ioring::sleep(Duration::from_secs(3600)).await;
        assert_eq!(grid.stats(), before);
    };
    world.run(node, main).unwrap();
}

#[test]
fn another_owner_or_a_damaged_header_is_refused_by_name() {
    let mut written = written();
    let open = |written: &mut Written, owner: Owner| {
        let open = move || async move {
            let path = Path::new(PATH);
            let config = Config::test_min();
            Grid::open(path, owner, &config, Direct::Required).await.map(|_| ())
        };
        written.world.run(written.node, open).unwrap()
    };
    open(&mut written, OWNER).unwrap();
    let cluster = Identity { cluster: 6, ..OWNER.identity };
    let shard = Identity { shard: 2, ..OWNER.identity };
    let others = [
        (Owner { identity: cluster, ..OWNER }, "cluster is 5, expected 6"),
        (Owner { identity: shard, ..OWNER }, "shard is 1, expected 2"),
        (Owner { replica: 3, ..OWNER }, "replica is 0, expected 3"),
        (Owner { incarnation: 1, ..OWNER }, "incarnation is 99, expected 1"),
    ];
    for (owner, text) in others {
        let error = open(&mut written, owner).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(PATH), "{error}");
    }
    written.world.disk(written.node).rot(PATH.as_ref(), 60, 1).unwrap();
    let error = open(&mut written, OWNER).unwrap_err();
    assert!(matches!(error, OpenError::Header { .. }), "{error}");
}

/// A grid that another release wrote is not damaged, and nobody is told to mend it.
#[test]
fn another_format_is_refused_by_name() {
    let mut written = written();
    let contents = written.world.disk(written.node).contents(Path::new(PATH)).unwrap();
    let header = crate::testing::of_version(&contents[..HEADER_SIZE], 2);
    written.world.disk(written.node).overwrite(PATH.as_ref(), 0, &header).unwrap();
    let open = || async {
        let config = Config::test_min();
        Grid::open(Path::new(PATH), OWNER, &config, Direct::Required).await.map(|_| ())
    };
    let error = written.world.run(written.node, open).unwrap().unwrap_err();
    assert!(matches!(error, OpenError::Format { expected: 3, actual: 2, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("format 2, this release reads 3") && text.contains(PATH), "{text}");
}

/// An intact page of another block at the page's place, as a lost write or a reused block leaves
/// it: its own checksum is right, the index's is not.
#[test]
fn an_intact_page_of_another_block_is_not_taken() {
    let mut written = written();
    let key = b"key00100".to_vec();
    let page = written.page_of(&key);
    let mut others = written.entries.clone();
    for value in others.values_mut() {
        value.fill(99);
    }
    let rewrite = move || async move {
        let grid = testing::grid_at(Path::new("/other.grid"), &Config::test_min()).await;
        write(&grid, &others, Level(0)).await;
    };
    written.world.run(written.node, rewrite).unwrap();
    let other = written.world.disk(written.node).contents(Path::new("/other.grid")).unwrap();
    let start = page.block.address.offset(Config::test_min().block_size);
    let block = &other[start as usize..start as usize + Config::test_min().block_size as usize];
    written.world.disk(written.node).overwrite(PATH.as_ref(), start, block).unwrap();
    let corrupt = corrupt(written.get(&key).0);
    assert!(matches!(corrupt.fault, BlockFault::PageChecksum { .. }), "{corrupt}");
}
