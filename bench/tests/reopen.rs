//! Opening a grid takes as long as its manifest asks for, whatever the data.
//!
//! An open reads the checkpoint's root, the free set and the manifest log; index blocks, pages and
//! values are read when something asks for them. Here grids of growing size are filled through the
//! engine, settled and opened again on the real ring, with direct I/O and an empty cache. What is
//! asserted is what was read, which no other work on the machine changes; the time is printed.
//!
//! The short form is a few dozen mebibytes. The long form is asked for by sizes, in mebibytes, on a
//! folder with room for twice the largest:
//!
//! ```text
//! QUORATE_REOPEN_MIB=512,2048 QUORATE_REOPEN_DIR=/mnt/nvme \
//!     cargo test --release -p bench --test reopen -- --nocapture
//! ```

#![expect(clippy::print_stdout, reason = "the output is the evidence")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::engine::store::{Store, Write};
use ioring::uring;
use lsm::config::Config;
use lsm::forest::Forest;
use lsm::grid::GridStats;
use lsm::key::{self, Prefix};
use lsm::lookup::{Lookup, Want};
use lsm::tree::Tree;

/// What a grid is filled with.
#[derive(Clone, Debug)]
struct Fill {
    name: &'static str,
    bytes: u64,
    value_size: usize,
    /// Value blocks of a table: with one, a gibibyte has as many tables as forty have by default.
    table_value_blocks_max: u32,
    folder: PathBuf,
}

/// What the open came to.
#[derive(Clone, Copy, Debug)]
struct Opened {
    keys: u64,
    used: u64,
    tables: usize,
    took: Duration,
    stats: GridStats,
    first_read: Duration,
}

fn key_of(number: u64) -> Vec<u8> {
    let prefix = Prefix { table: 1, generation: 0, kind: 1 };
    key::encode(prefix, format!("{number:016}").as_bytes(), b"")
}

/// A value that no compression makes smaller, and that says whose it is.
fn value_of(number: u64, size: usize) -> Vec<u8> {
    let mut state = number.wrapping_add(1);
    let mut value = Vec::with_capacity(size + 8);
    while value.len() < size {
        value.extend_from_slice(&state.to_le_bytes());
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        state ^= state >> 29;
    }
    value.truncate(size);
    value
}

async fn fill(store: &Store, what: &Fill) -> u64 {
    let count = what.bytes / (what.value_size as u64 + 16);
    let per_op = (64 << 10) / (what.value_size as u64 + 64);
    let mut number = 0;
    while number < count {
        let numbers = number..(number + per_op.max(1)).min(count);
        number = numbers.end;
        let entries: Vec<(Vec<u8>, Vec<u8>)> =
            numbers.map(|number| (key_of(number), value_of(number, what.value_size))).collect();
        let writes: Vec<Write<'_>> =
            entries.iter().map(|(key, value)| Write { key, value: Some(value) }).collect();
        store.apply(&writes).await.expect("the grid has room");
    }
    count
}

async fn get(store: &Store, number: u64) -> Option<Vec<u8>> {
    let key = key_of(number);
    let (latest, want) = (u64::MAX, Want::Value);
    let looked = store.with(|forest| forest.get_cached(Tree::Objects, &key, latest, want, |_| ()));
    match looked {
        Lookup::Found(()) | Lookup::Absent => panic!("the cache is empty"),
        Lookup::NeedsRead(read) => read.run().await.expect("intact").map(|entry| entry.value),
    }
}

async fn reopen(what: Fill) -> Opened {
    let path = what.folder.join("grid");
    let config = Config {
        // A tebibyte: the free set is that of a large grid.
        grid_blocks_max: (1 << 40) / u64::from(Config::standard().block_size),
        table_value_blocks_max: what.table_value_blocks_max,
        ..Config::standard()
    };
    let store = Store::create(&path, &config).await.expect("an empty folder");
    let keys = fill(&store, &what).await;
    store.settle().await.expect("the grid has room");
    let began = Instant::now();
    let store = store.reopen().await.expect("it was settled");
    let took = began.elapsed();
    let (stats, used) = (store.stats(), store.bytes_used());
    let tables = store.with(Forest::table_count);
    let began = Instant::now();
    for number in [0, keys / 2, keys - 1] {
        let found = get(&store, number).await;
        assert_eq!(found, Some(value_of(number, what.value_size)), "key {number}");
    }
    let first_read = began.elapsed() / 3;
    drop(store);
    std::fs::remove_file(&path).expect("it is there");
    Opened { keys, used, tables, took, stats, first_read }
}

/// Fills, opens, says what came of it.
fn measure(what: &Fill) -> Opened {
    let ring =
        uring::Config { cpus: vec![1], idle: uring::Idle::Sleep, ..uring::Config::default() };
    let runtime = uring::Runtime::new(ring).expect("the host has io_uring");
    let mut opened = runtime.run(vec![what.clone()], reopen);
    let opened = opened.pop().expect("one part was given");
    let Opened { keys, used, tables, took, stats, first_read } = opened;
    println!(
        "{:<16} {:>6} MiB in use, {keys:>9} keys, {tables:>5} tables: opened in {:>6.1} ms \
         with {:>3} reads of {:>5} KiB; then a first read takes {:.2} ms",
        what.name,
        used >> 20,
        took.as_secs_f64() * 1e3,
        stats.reads,
        stats.read_bytes >> 10,
        first_read.as_secs_f64() * 1e3,
    );
    opened
}

/// Sizes in mebibytes, and the folder to use.
fn asked_for() -> Option<(Vec<u64>, PathBuf)> {
    let sizes = std::env::var("QUORATE_REOPEN_MIB").ok()?;
    let sizes = sizes.split(',').map(|size| size.parse().expect("mebibytes")).collect();
    let folder = std::env::var("QUORATE_REOPEN_DIR").unwrap_or_else(|_| ".".to_owned());
    Some((sizes, folder.into()))
}

#[test]
fn an_open_reads_the_manifest_and_no_table() {
    // Where the build is: on a real file system, with direct I/O.
    let program = std::env::current_exe().unwrap();
    let (sizes, parent) = asked_for().unwrap_or((vec![8, 32], program.parent().unwrap().into()));
    let folder = tempfile::tempdir_in(parent).unwrap();
    let kinds = [
        ("values of 100 B", 100, 40),
        ("values of 8 KiB", 8 << 10, 40),
        ("many tables", 8 << 10, 1),
    ];
    for (name, value_size, table_value_blocks_max) in kinds {
        for size in &sizes {
            let folder = folder.path().to_owned();
            let what = Fill { name, bytes: size << 20, value_size, table_value_blocks_max, folder };
            let opened = measure(&what);
            // The root, a block for each 16 of the free set's chunks, and the manifest: a record
            // has 96 bytes and two keys, and the log holds a few times what is live.
            let manifest = 4 * (opened.tables as u64 * 160).div_ceil(128 << 10) + 6;
            assert!(opened.stats.reads <= 1 + 32 + manifest, "{opened:?}");
            assert!(opened.used >= what.bytes && opened.tables > 0, "{opened:?}");
        }
    }
}
