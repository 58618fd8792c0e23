//! Pieces of a point read and of building a table, one by one.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ioring::Buffer;
use lsm::block::{Block, BlockAddress, BlockType, Identity};
use lsm::config::{Compression, Config};
use lsm::entry::{EntryRef, Level, Payload, TreeId};
use lsm::filter;
use lsm::index::Index;
use lsm::key::{self, Prefix};
use lsm::page::{self, Page, PageBuilder};
use lsm::table::{BlockCursor, BlockImage, Builder, Push};

const IDENTITY: Identity = Identity { cluster: 1, shard: 0 };
const VALUE: [u8; 100] = [7; 100];

fn user_key(number: u64) -> Vec<u8> {
    let prefix = Prefix { table: 0, generation: 0, kind: 0 };
    key::encode(prefix, format!("user{number:012}").as_bytes(), &[])
}

fn entry(key: &[u8]) -> EntryRef<'_> {
    EntryRef { key, version: 9, deadline: 0, payload: Payload::Inline(&VALUE) }
}

/// One table of the standard configuration, filled to its end.
fn build_table(config: &Config, keys: &[Vec<u8>]) -> (Vec<BlockImage>, BlockImage) {
    let mut addresses = (1u64..).filter_map(BlockAddress::new);
    let mut open = || {
        let address = addresses.next().expect("addresses do not end");
        (Buffer::zeroed(config.block_size as usize), address)
    };
    let mut builder = Builder::new(config, IDENTITY, TreeId(1), Level(0), 1);
    let mut values = Vec::new();
    let mut rest = keys.iter();
    let mut next = rest.next();
    while let Some(key) = next {
        match builder.push(&entry(key)) {
            Push::Accepted => next = rest.next(),
            Push::NeedsBlock => {
                let (buffer, address) = open();
                builder.open_block(buffer, address);
            }
            Push::BlockFull => values.extend(builder.close_block()),
            Push::TableFull => break,
        }
    }
    values.extend(builder.close_block());
    let (buffer, address) = open();
    let (index, _) = builder.finish(buffer, address);
    (values, index)
}

fn pages(c: &mut Criterion) {
    let keys: Vec<Vec<u8>> = (0..32).map(|i| user_key(i * 3)).collect();
    let missing = user_key(40);
    let mut builder = PageBuilder::new(16);
    for key in &keys {
        builder.push(&entry(key));
    }
    let stored = builder.finish(Compression::None).to_vec();
    let page = Page::parse(&stored).expect("just built");
    let mut at = 0;
    c.bench_function("page: seek, present", |b| {
        b.iter(|| {
            at = (at + 7) % keys.len();
            page.seek(black_box(&keys[at]), u64::MAX).expect("intact").is_some()
        });
    });
    c.bench_function("page: seek, absent", |b| {
        b.iter(|| page.seek(black_box(&missing), u64::MAX).expect("intact").is_some());
    });
    c.bench_function("page: verify 4 KiB", |b| {
        b.iter(|| page::verify_stored(black_box(&stored)).expect("intact").raw_len);
    });
    for compression in [Compression::None, Compression::Lz4] {
        c.bench_function(&format!("page: encode 32 entries, {compression:?}"), |b| {
            b.iter(|| {
                for key in &keys {
                    builder.push(&entry(key));
                }
                builder.finish(compression).len()
            });
        });
    }
}

/// What a search in a page costs by the distance of its restart points. With one at every entry
/// nothing is walked; a page of one entry is neither searched nor walked: the bound of any shorter
/// way to an entry.
fn seeks(c: &mut Criterion) {
    let keys: Vec<Vec<u8>> = (0..32).map(|i| user_key(i * 3)).collect();
    for (restart_interval, entries) in [(16, 32), (8, 32), (4, 32), (2, 32), (1, 32), (16, 1)] {
        let keys = &keys[..entries];
        let mut builder = PageBuilder::new(restart_interval);
        keys.iter().for_each(|key| builder.push(&entry(key)));
        let stored = builder.finish(Compression::None).to_vec();
        let page = Page::parse(&stored).expect("just built");
        let name =
            format!("page: seek, {entries} entries, restart points every {restart_interval}");
        let mut at = 0;
        c.bench_function(&format!("{name}, {} bytes", stored.len()), |b| {
            b.iter(|| {
                at = (at + 7) % keys.len();
                page.seek(black_box(&keys[at]), u64::MAX).expect("intact").is_some()
            });
        });
    }
}

fn tables(c: &mut Criterion) {
    let config = Config::standard();
    let keys: Vec<Vec<u8>> = (0..100_000).map(|i| user_key(i * 3)).collect();
    let (values, index) = build_table(&config, &keys);
    let index = Index::verify(&index.bytes[..index.reference.size as usize]).expect("just built");
    let held = index.entries() as usize;
    let mut at = 0;
    c.bench_function("index: find, present", |b| {
        b.iter(|| {
            at = (at + 7919) % held;
            let key = black_box(&keys[at]);
            index.find(key, filter::hash(key), u64::MAX).is_some()
        });
    });
    let missing: Vec<Vec<u8>> = (0..1000).map(|i| user_key(i * 200 + 1)).collect();
    c.bench_function("index: find, absent", |b| {
        b.iter(|| {
            at = (at + 7) % missing.len();
            let key = black_box(&missing[at]);
            index.find(key, filter::hash(key), u64::MAX).is_some()
        });
    });
    let image = &values[0];
    let block = Block::verify(image.bytes.clone(), IDENTITY, &image.reference, BlockType::Value);
    let block = block.expect("just built");
    c.bench_function("block: walk 256 KiB", |b| {
        b.iter(|| {
            let mut cursor = BlockCursor::new(block.clone()).expect("just built");
            let mut bytes = 0;
            while cursor.next().expect("just built") {
                bytes += cursor.entry().key.len();
            }
            bytes
        });
    });
    let one_block = Config { table_value_blocks_max: 1, ..config };
    c.bench_function("table: build one value block with filter and index", |b| {
        b.iter_batched(|| (), |()| build_table(&one_block, &keys), BatchSize::PerIteration);
    });
}

criterion_group!(benches, pages, seeks, tables);
criterion_main!(benches);
