//! Writing to a memtable and reading what is in memory allocates nothing.
//!
//! A counting allocator is the global one of this test; it counts per thread, so that what the test
//! harness does beside it does not show.

use std::path::Path;

use ioring::Direct;
use ioring::sim::{Config as SimConfig, World};
use lsm::bar::BarEnd;
use lsm::block::Identity;
use lsm::config::{Compression, Config};
use lsm::entry::{EntryRef, Payload};
use lsm::forest::{Forest, Lookup, Options, Want};
use lsm::grid::{Grid, Owner};
use lsm::memtable::Memtable;
use lsm::page::{self, PageBuilder};
use lsm::tree::Tree;

#[path = "../../tests/support/counting.rs"]
mod counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = counting::on_this_thread();
    work();
    counting::on_this_thread() - before
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    key[8..].copy_from_slice(&(number * 7919 % 1000).to_be_bytes());
    key
}

#[test]
fn a_memtable_allocates_nothing_after_start() {
    let mut memtable = Memtable::new(4 << 20);
    let count = allocations_of(|| {
        for bar in 0..3 {
            for number in 0..5000 {
                let (key, value) = (key_of(number), [1; 100]);
                let payload = Payload::Inline(&value);
                let version = bar * 10_000 + number + 1;
                memtable.put(&EntryRef { key: &key, version, deadline: 0, payload });
                assert!(memtable.get(&key, u64::MAX).is_some());
                assert!(memtable.get(&key, version - 1).is_none_or(|e| e.version < version));
            }
            let mut cursor = memtable.start();
            while memtable.entry(cursor).is_some() {
                cursor = memtable.next(cursor);
            }
            memtable.reset();
        }
    });
    assert_eq!(count, 0);
}

/// Contexts and tables of the codecs are made once; they and the builder grow to their size.
#[test]
fn packing_and_unpacking_pages_allocates_nothing_in_steady_state() {
    let mut builder = PageBuilder::new(16);
    let mut raw = vec![0; 64 << 10];
    let mut round = |lens: &mut dyn Iterator<Item = usize>| {
        for value_len in lens {
            for compression in Compression::ALL {
                for entry in 0..30 {
                    let mut key = [entry as u8; 13];
                    key[1..].copy_from_slice(&key_of(entry)[..12]);
                    let mut value = [7; 1000];
                    value[..16].copy_from_slice(&key_of(entry));
                    let payload = Payload::Inline(&value[..value_len]);
                    builder.push(&EntryRef { key: &key, version: entry, deadline: 0, payload });
                }
                let bytes = builder.finish(compression);
                let stored = page::verify_stored(bytes).unwrap();
                assert_eq!(stored.compression, compression);
                page::unpack(bytes, &stored, &mut raw[..stored.raw_len]).unwrap();
            }
        }
    };
    let mixed = || (0..600).map(|number| 20 + number * 7919 % 980);
    round(&mut mixed());
    assert_eq!(allocations_of(|| round(&mut mixed())), 0);
}

/// Puts, deletes, and reads of what is in a memtable or in cached pages, found or not.
#[test]
fn a_forest_allocates_nothing_per_put_and_cached_get() {
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("store");
    let count = world.run(node, || async {
        let config = Config::standard();
        let identity = Identity { cluster: 1, shard: 0 };
        let owner = Owner { identity, replica: 0, incarnation: 1 };
        let path = Path::new("/grid");
        Grid::format(path, owner, &config, Direct::Preferred).await.unwrap();
        let grid = Grid::open(path, owner, &config, Direct::Preferred).await.unwrap();
        let (mut forest, _) = Forest::open(grid, None, Options::standard(1 << 20)).await.unwrap();
        for number in 0..1000 {
            forest.put(&key_of(number), number + 1, &[9; 100], 0);
        }
        for op in 1..=2 {
            forest.bar_done().await;
            forest.bar_end(&BarEnd { op, checkpoint: None, free: None }, &[]).unwrap();
        }
        forest.bar_done().await;
        forest.bar_end(&BarEnd { op: 3, checkpoint: None, free: None }, &[]).unwrap();
        // Everything is in tables now; the first reads bring the pages into the cache.
        for number in 0..1000 {
            match forest.get_cached(Tree::Objects, &key_of(number), u64::MAX, Want::Value, |_| ()) {
                Lookup::NeedsRead(read) => assert!(read.run().await.unwrap().is_some()),
                Lookup::Found(()) => {}
                Lookup::Absent => panic!("key {number} is lost"),
            }
        }
        let from_tables = allocations_of(|| {
            for number in 0..1000 {
                let key = key_of(number);
                let len = |entry: &EntryRef<'_>| entry.payload.value_len();
                let found = forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, len);
                assert!(matches!(found, Lookup::Found(100)));
            }
        });
        let in_memtable = allocations_of(|| {
            for number in 0..1000 {
                let (key, version) = (key_of(number), 10_000 + 2 * number);
                forest.put(&key, version, &[8; 100], version + 1_000_000);
                let found = forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, |_| ());
                assert!(matches!(found, Lookup::Found(())));
                forest.delete(&key, version + 1);
                let found = forest.get_cached(Tree::Objects, &key, u64::MAX, Want::Value, |_| ());
                assert!(matches!(found, Lookup::Absent));
            }
        });
        (from_tables, in_memtable)
    });
    let (from_tables, in_memtable) = count.unwrap();
    // The scratch for expiry keys grows to its size once.
    assert!(in_memtable <= 2, "{in_memtable} allocations in 1000 puts and deletes");
    assert_eq!(from_tables, 0);
}
