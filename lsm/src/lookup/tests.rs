//! What point reads cost the disk, counted; and what index blocks take of the cache.

use std::rc::Rc;

use ioring::Buffer;
use ioring::sim::{Config as SimConfig, World};

use crate::block::{BlockAddress, Identity};
use crate::config::Config;
use crate::entry::{EntryRef, Level, Payload, TreeId};
use crate::forest::harness::{self, Action, Driver};
use crate::key::{self, Prefix};
use crate::lookup::Want;
use crate::table::{Builder, Push};
use crate::tree::Tree;

const KEYS: u32 = 20_000;

/// Pages of 4 KiB, a cache that holds the indexes and a small part of the pages.
fn config() -> Config {
    Config {
        block_size: 64 << 10,
        page_size: 4 << 10,
        cache_bytes: 1 << 20,
        reads_foreground_max: 16,
        memtable_bytes: 256 << 10,
        table_value_blocks_max: 60,
        compression: Config::standard().compression,
        ..harness::config()
    }
}

/// Even keys are there, odd ones between them are not. Several runs, all in tables.
async fn cold(config: &Config, keys: u32) -> Driver {
    let put = |n: u32| Action::Put { key: n * 7919 % keys * 2, len: 100, deadline: 0 };
    let log: Vec<Vec<Action>> =
        (0..keys / 4).map(|op| (0..4).map(|i| put(4 * op + i)).collect()).collect();
    let mut driver = Driver::open(config, Rc::default()).await;
    driver.run(&log, log.len() as u64).await;
    driver.settle().await;
    drop(driver);
    Driver::open(config, Rc::default()).await
}

/// Data of more than ten times the cache, in many tables whose index blocks are half full: the
/// indexes stay in memory nevertheless.
#[test]
fn a_cold_read_costs_one_page_at_ten_times_the_cache() {
    const KEYS: u32 = 54_000;
    let config = Config {
        block_size: 32 << 10,
        page_size: 4 << 10,
        cache_bytes: 512 << 10,
        reads_foreground_max: 16,
        memtable_bytes: 512 << 10,
        table_value_blocks_max: 40,
        compression: Config::standard().compression,
        ..harness::config()
    };
    let mut world = World::new(73, SimConfig::default());
    let node = world.add_node("store");
    let main = move || {
        let config = config.clone();
        async move {
            let driver = cold(&config, KEYS).await;
            let manifest = &driver.forest.trees[Tree::Objects.index()].manifest;
            let tables = manifest.tables().map(|(_, table)| table).collect::<Vec<_>>();
            let blocks: u64 = tables.iter().map(|table| u64::from(table.value_blocks)).sum();
            let indexes: u64 = tables.iter().map(|table| u64::from(table.index.size)).sum();
            let (data, cache) = (blocks * u64::from(config.block_size), config.cache_bytes);
            let frames = tables.len() as u64 * u64::from(config.block_size);
            println!("{} tables, {data} bytes, indexes {indexes}, frames {frames}", tables.len());
            assert!(data >= 10 * cache, "{data} bytes for {cache} of cache");
            assert!(frames > cache / 2 && indexes < cache * 9 / 20, "{indexes} in {frames}");
            read(&driver, (0..2000).map(|n| n * 199 % KEYS * 2 + 1)).await;
            let (found, reads) = read(&driver, (0..4000).map(|n| n * 7919 % KEYS * 2)).await;
            assert_eq!(found, 4000);
            assert!(reads <= found * 105 / 100, "{reads} reads for {found} keys");
            assert!(reads > found * 8 / 10, "{reads} reads for {found} keys: they were not cold");
            let (found, reads) = read(&driver, (0..4000).map(|n| n * 7919 % KEYS * 2 + 1)).await;
            assert_eq!(found, 0);
            assert!(reads <= 4000 / 20, "{reads} reads for nothing");
        }
    };
    world.run(node, main).unwrap();
}

/// Looks keys up; gives how many were found, and reads of the disk.
async fn read(driver: &Driver, keys: impl Iterator<Item = u32>) -> (u64, u64) {
    let before = driver.forest.grid().stats().reads;
    let mut found = 0;
    for key in keys {
        found += u64::from(driver.get(&harness::key_of(key), u64::MAX).await.unwrap().is_some());
    }
    (found, driver.forest.grid().stats().reads - before)
}

/// Once indexes are in memory a key that is there costs one page at most, in however many runs it
/// is looked for, and one that is not there costs nothing: filters are wrong once in 256 times.
#[test]
fn a_cold_read_costs_one_page_and_a_miss_none() {
    let mut world = World::new(71, SimConfig::default());
    let node = world.add_node("store");
    let main = || async {
        let driver = cold(&config(), KEYS).await;
        let runs = driver.forest.trees[Tree::Objects.index()].manifest.sorted_runs().count();
        assert!(runs >= 3, "{runs} runs");
        read(&driver, (0..200).map(|n| n * 199 + 1)).await;
        let (found, reads) = read(&driver, (0..4000).map(|n| n * 7919 % KEYS * 2)).await;
        assert!(found > 3600, "{found} found");
        assert!(reads <= found * 105 / 100, "{reads} reads for {found} keys");
        assert!(reads > found / 2, "{reads} reads for {found} keys: they were not cold");
        let (found, reads) = read(&driver, (0..4000).map(|n| n * 7919 % KEYS * 2 + 1)).await;
        assert_eq!(found, 0);
        assert!(reads <= 4000 * runs as u64 * 2 / 256, "{reads} reads for nothing");
    };
    world.run(node, main).unwrap();
}

/// With more runs than are looked at together, each key is found in whichever it is; and where all
/// is in memory, memory says so, of keys that are there and of those that are not.
#[test]
fn a_key_is_found_in_any_of_many_runs() {
    let config = Config {
        cache_bytes: 16 << 20,
        level0_runs_max: 16,
        growth_factor: 16,
        memtable_bytes: 128 << 10,
        ..config()
    };
    let mut world = World::new(74, SimConfig::default());
    let node = world.add_node("store");
    let main = move || {
        let config = config.clone();
        async move {
            let driver = cold(&config, KEYS).await;
            let runs = driver.forest.trees[Tree::Objects.index()].manifest.sorted_runs().count();
            assert!(runs > super::TOGETHER + 1, "{runs} runs");
            // In the order in which they were written: what came behind the last checkpoint is
            // not there.
            let keys = || (0..KEYS).map(|n| n * 7919 % KEYS * 2);
            let (found, _) = read(&driver, keys()).await;
            assert!(found > u64::from(KEYS) * 9 / 10, "{found} found in {runs} runs");
            read(&driver, keys().map(|key| key + 1)).await;
            for (number, key) in keys().chain(keys().map(|key| key + 1)).enumerate() {
                let key = harness::key_of(key);
                let forest = &driver.forest;
                let looked = forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, |_| ());
                let is_right = match looked {
                    crate::lookup::Lookup::Found(()) => (number as u64) < found,
                    crate::lookup::Lookup::Absent => number as u64 >= found,
                    crate::lookup::Lookup::NeedsRead(_) => false,
                };
                assert!(is_right, "key {number} in {runs} runs: {looked:?}");
            }
        }
    };
    world.run(node, main).unwrap();
}

/// Rows, pages and indexes are counted where they are asked for.
#[test]
fn caches_count_what_they_answer() {
    let mut world = World::new(72, SimConfig::default());
    let node = world.add_node("store");
    let main = || async {
        let driver = cold(&config(), KEYS).await;
        let key = harness::key_of(2 * 777);
        let get = || driver.forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, |_| ());
        let crate::lookup::Lookup::NeedsRead(first) = get() else { panic!("it is cold") };
        let cold = driver.forest.cache_stats();
        assert!(cold.row_hits == 0 && cold.row_misses == 1 && cold.index_misses == 1, "{cold:?}");
        first.run().await.unwrap();
        let _ = get();
        let page = driver.forest.cache_stats();
        assert!(page.row_misses == 2 && page.page_hits == 1 && page.index_hits >= 1, "{page:?}");
        let _ = get();
        let row = driver.forest.cache_stats();
        assert!(row.row_hits == 1 && row.page_hits == 1, "{row:?}");
    };
    world.run(node, main).unwrap();
}

/// A full table of the standard configuration with entries of this size: bytes of its index block,
/// and of all its blocks.
fn table_of(value_len: usize) -> (u64, u64) {
    let config = Config::standard();
    let block_size = config.block_size as usize;
    let identity = Identity { cluster: 1, shard: 0 };
    let mut builder = Builder::new(&config, identity, TreeId(1), Level(1), 1);
    let mut addresses = (1u64..).filter_map(BlockAddress::new);
    let value = vec![7; value_len];
    let prefix = Prefix { table: 0, generation: 0, kind: 1 };
    let (mut number, mut blocks) = (0u64, 1);
    loop {
        let key = key::encode(prefix, format!("{number:016}").as_bytes(), &[]);
        let payload = Payload::Inline(&value);
        match builder.push(&EntryRef { key: &key, version: 9, deadline: 0, payload }) {
            Push::Accepted => number += 1,
            Push::NeedsBlock => {
                builder.open_block(Buffer::zeroed(block_size), addresses.next().unwrap());
            }
            Push::BlockFull => blocks += u64::from(builder.close_block().is_some()),
            Push::TableFull => break,
        }
    }
    blocks += u64::from(builder.close_block().is_some());
    let (index, _) = builder.finish(Buffer::zeroed(block_size), addresses.next().unwrap());
    (u64::from(index.reference.size), blocks * block_size as u64)
}

/// The share of index blocks is enough for those of data of sixteen times the cache with small
/// entries, with a tenth to spare for holes between them. A table of half as many value blocks,
/// as upper levels have them, takes half as much.
#[test]
fn index_blocks_of_much_more_than_the_cache_fit_their_share() {
    let config = Config::standard();
    let (index, table) = table_of(100);
    let needed = 16 * config.cache_bytes * index / table;
    let share = config.cache_shares().extents as u64;
    assert!(needed <= share * 9 / 10, "{needed} bytes of indexes, {share} for them");
    assert!(index <= u64::from(config.block_size), "an index of {index} bytes");
}
