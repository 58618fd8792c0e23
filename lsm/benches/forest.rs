//! What a memtable and a bar's merge cost on the processor: `cargo bench -p lsm`.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ioring::Direct;
use ioring::sim::{Config as SimConfig, World};
use lsm::bar::BarEnd;
use lsm::block::Identity;
use lsm::config::Config;
use lsm::entry::{EntryRef, Payload};
use lsm::forest::{Forest, Options};
use lsm::grid::{Grid, Owner};
use lsm::key::{self, Prefix};
use lsm::memtable::Memtable;

const ENTRIES: u64 = 50_000;

fn key_of(number: u64) -> Vec<u8> {
    let prefix = Prefix { table: 1, generation: 0, kind: 0 };
    key::encode(prefix, format!("user:{number:012}").as_bytes(), b"")
}

/// A permutation without a table.
fn scatter(number: u64) -> u64 {
    number * 2_654_435_761 % ENTRIES
}

fn filled(keys: &[Vec<u8>], value: &[u8]) -> Memtable {
    let mut memtable = Memtable::new(2 * keys.len() * Memtable::entry_bytes(64, value.len()));
    for (key, version) in keys.iter().zip(1..) {
        let payload = Payload::Inline(value);
        memtable.put(&EntryRef { key, version, deadline: 0, payload });
    }
    memtable
}

fn memtable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memtable");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(20);
    let value = [7; 100];
    let ascending: Vec<Vec<u8>> = (0..ENTRIES).map(key_of).collect();
    let scattered: Vec<Vec<u8>> = (0..ENTRIES).map(|n| key_of(scatter(n))).collect();
    for (name, keys) in [("insert ascending", &ascending), ("insert scattered", &scattered)] {
        group.bench_function(name, |bencher| {
            let mut memtable = filled(keys, &value);
            bencher.iter(|| {
                memtable.reset();
                for (key, version) in keys.iter().zip(1..) {
                    let payload = Payload::Inline(&value);
                    memtable.put(&EntryRef { key, version, deadline: 0, payload });
                }
            });
        });
    }
    let memtable = filled(&scattered, &value);
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            for key in &ascending {
                black_box(memtable.get(key, u64::MAX));
            }
        });
    });
    group.bench_function("walk", |bencher| {
        bencher.iter(|| {
            let mut cursor = memtable.start();
            while let Some(entry) = memtable.entry(cursor) {
                black_box(entry);
                cursor = memtable.next(cursor);
            }
        });
    });
}

/// Flushes a memtable and merges the runs of level 0, on a simulated disk: what is measured is the
/// processor's part.
async fn bars(bars: u64) {
    let config = Config { level0_runs_max: 2, memtable_bytes: 8 << 20, ..Config::standard() };
    let identity = Identity { cluster: 1, shard: 0 };
    let owner = Owner { identity, replica: 0, incarnation: 1 };
    let path = Path::new("/grid");
    Grid::format(path, owner, &config, Direct::Preferred).await.expect("an empty disk");
    let grid = Grid::open(path, owner, &config, Direct::Preferred).await.expect("just formatted");
    let options = Options::standard(16 << 20);
    let opened = Forest::open(grid, None, options).await;
    let (mut forest, _) = opened.expect("nothing to read");
    let mut version = 0;
    for bar in 0..bars {
        for number in 0..ENTRIES / 2 {
            version += 1;
            forest.put(&key_of(scatter(number + bar)), version, &[7; 100], 0);
        }
        forest.bar_done().await;
        let end = BarEnd { op: bar + 1, checkpoint: None, free: None };
        forest.bar_end(&end, &[]).expect("the grid has room");
    }
    forest.bar_done().await;
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(4 * ENTRIES / 2)).sample_size(10);
    group.bench_function("four bars", |bencher| {
        let world = || {
            let mut world = World::new(1, SimConfig::default());
            let node = world.add_node("bench");
            (world, node)
        };
        let run = |(mut world, node): (World, _)| world.run(node, || bars(4)).expect("it ends");
        bencher.iter_batched(world, run, BatchSize::PerIteration);
    });
}

criterion_group!(benches, memtable, merge);
criterion_main!(benches);
