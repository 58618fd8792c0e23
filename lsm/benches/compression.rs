//! What packing pages is worth: `cargo bench -p lsm --bench compression`.
//!
//! Eight MiB of records of each kind, sorted as a table has them, are packed in pages of several
//! sizes, each page for itself or with a dictionary of its table's.
//!
//! ```text
//! half      values of 100 bytes: 50 random, and the same again
//! json      user records: names, an address, dates, flags, two random identifiers
//! counters  decimal numbers of up to ten digits
//! packages  fields of the Debian package index (`apt-cache dumpavail`), if this host has it
//! ```
//!
//! First part: `size` is packed pages with their headers over raw ones, pages that save less than
//! an eighth counted raw, and a dictionary counted with its table; `pack` and `unpack` are
//! microseconds for a page, the best of several rounds. Second part: tables of the builder with the
//! codecs that it has, so with what pages lose to the edges of slots: `size` is value blocks over
//! those without a codec, `read` the bytes that a cold point read of a page fetches. Sizes are a
//! function of the code; times are measured, on whatever else the host does.

#![expect(clippy::print_stdout, reason = "what was measured is printed")]

use std::process::Command;
use std::time::Instant;

use ioring::Buffer;
use lsm::block::{Block, BlockAddress, BlockType, Identity};
use lsm::config::{Compression, Config, LEVELS_MAX};
use lsm::entry::{EntryRef, Level, Payload, TreeId};
use lsm::key::{self, Prefix};
use lsm::page::{PAGE_HEADER_SIZE, PageBuilder};
use lsm::table::{self, BlockImage, Builder, Push};
use zstd_safe::{CCtx, CDict, DCtx, DDict};

const IDENTITY: Identity = Identity { cluster: 1, shard: 0 };
const BYTES_OF_A_KIND: usize = 8 << 20;
const DICTIONARY_SIZE: usize = 16 << 10;
const ROUNDS: usize = 5;

struct Record {
    key: Vec<u8>,
    version: u64,
    value: Vec<u8>,
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

fn half(random: &mut Random, _: u64) -> Vec<u8> {
    let noise: Vec<u8> = (0..50).map(|_| random.next() as u8).collect();
    [&noise[..], &noise].concat()
}

fn json(random: &mut Random, number: u64) -> Vec<u8> {
    let first = ["Anna", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hanna", "Ivo", "Jana"];
    let last =
        ["Novak", "Smith", "Garcia", "Kim", "Okafor", "Ivanova", "Haddad", "Larsen", "Rossi"];
    let city = ["Vienna", "Lagos", "Porto", "Osaka", "Quito", "Tampere", "Leeds", "Pune", "Lima"];
    let plan = ["free", "basic", "team", "enterprise"];
    let (first, last) = (random.one_of(&first), random.one_of(&last));
    format!(
        "{{\"id\":{number},\"uuid\":\"{:016x}{:016x}\",\"name\":\"{first} {last}\",\
         \"email\":\"{}.{}{}@example.com\",\"city\":\"{}\",\"plan\":\"{}\",\"active\":{},\
         \"created_at\":\"2025-{:02}-{:02}T{:02}:{:02}:{:02}Z\",\
         \"logins\":{},\"balance\":{}.{:02}}}",
        random.next(),
        random.next(),
        first.to_lowercase(),
        last.to_lowercase(),
        random.below(1000),
        random.one_of(&city),
        random.one_of(&plan),
        random.below(4) > 0,
        1 + random.below(12),
        1 + random.below(28),
        random.below(24),
        random.below(60),
        random.below(60),
        random.below(5000),
        random.below(100_000),
        random.below(100),
    )
    .into_bytes()
}

fn counter(random: &mut Random, _: u64) -> Vec<u8> {
    let digits = 1 + random.below(10) as u32;
    random.below(10u64.pow(digits)).to_string().into_bytes()
}

fn stored_key(user_key: &[u8]) -> Vec<u8> {
    key::encode(Prefix { table: 1, generation: 0, kind: 1 }, user_key, b"")
}

/// Versions are nanoseconds of log time: those of neighbours have nothing in common below the day.
fn version(random: &mut Random) -> u64 {
    1_750_000_000_000_000_000 + random.below(86_400_000_000_000)
}

fn generated(name: &str, value: impl Fn(&mut Random, u64) -> Vec<u8>) -> Vec<Record> {
    let mut random = Random(1);
    let mut records = Vec::new();
    let (mut bytes, mut number) = (0, 10_000_000);
    while bytes < BYTES_OF_A_KIND {
        number += 1 + random.below(9);
        let key = stored_key(format!("{name}:{number}").as_bytes());
        let value = value(&mut random, number);
        bytes += key.len() + value.len();
        records.push(Record { key, version: version(&mut random), value });
    }
    records
}

/// A stretch of the package index: each field of each package is a record.
fn packages() -> Option<Vec<Record>> {
    let output = Command::new("apt-cache").arg("dumpavail").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut random = Random(1);
    let mut records = Vec::new();
    for stanza in text.split("\n\n") {
        let name = stanza.lines().find_map(|line| line.strip_prefix("Package: "));
        let (Some(name), folded) = (name, stanza.replace("\n ", "\0 ")) else { continue };
        for (field, value) in folded.lines().filter_map(|line| line.split_once(": ")) {
            let key = stored_key(format!("{name}:{field}").as_bytes());
            let value = value.replace('\0', "\n").into_bytes();
            if value.len() > Config::standard().inline_value_size_max() {
                continue;
            }
            records.push(Record { key, version: version(&mut random), value });
        }
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    records.dedup_by(|a, b| a.key == b.key);
    let mut bytes = 0;
    let middle = records.len() / 2;
    let stretch = records.into_iter().skip(middle).take_while(|record| {
        bytes += record.key.len() + record.value.len();
        bytes < BYTES_OF_A_KIND
    });
    let stretch: Vec<Record> = stretch.collect();
    (stretch.len() > 1000).then_some(stretch)
}

fn entry(record: &Record) -> EntryRef<'_> {
    let Record { key, version, value } = record;
    EntryRef { key, version: *version, deadline: 0, payload: Payload::Inline(value) }
}

/// Bodies of pages of this raw length.
fn bodies(records: &[Record], raw_len: usize) -> Vec<Vec<u8>> {
    let mut builder = PageBuilder::new(16);
    let mut bodies = Vec::new();
    for record in records {
        if !builder.is_empty() && builder.raw_len_with(&entry(record)) > raw_len {
            bodies.push(builder.finish(Compression::None)[PAGE_HEADER_SIZE..].to_vec());
        }
        builder.push(&entry(record));
    }
    bodies.push(builder.finish(Compression::None)[PAGE_HEADER_SIZE..].to_vec());
    bodies
}

/// A way to pack: from the first slice into the second, and back; each gives a length.
type Step<'a> = Box<dyn FnMut(&[u8], &mut [u8]) -> usize + 'a>;

fn lz4<'a>() -> (Step<'a>, Step<'a>) {
    let mut table = lz4_flex::block::CompressTable::small();
    let pack = move |from: &[u8], to: &mut [u8]| {
        lz4_flex::block::compress_into_with_table(from, to, &mut table).expect("room")
    };
    let unpack = |from: &[u8], to: &mut [u8]| {
        lz4_flex::block::decompress_into(from, to).expect("what was packed")
    };
    (Box::new(pack), Box::new(unpack))
}

fn zstd<'a>(level: i32) -> (Step<'a>, Step<'a>) {
    let (mut packer, mut unpacker) = (CCtx::create(), DCtx::create());
    let pack = move |from: &[u8], to: &mut [u8]| packer.compress(to, from, level).expect("room");
    let unpack =
        move |from: &[u8], to: &mut [u8]| unpacker.decompress(to, from).expect("what was packed");
    (Box::new(pack), Box::new(unpack))
}

fn zstd_with<'a>(packing: &'a CDict<'a>, unpacking: &'a DDict<'a>) -> (Step<'a>, Step<'a>) {
    let (mut packer, mut unpacker) = (CCtx::create(), DCtx::create());
    let pack = move |from: &[u8], to: &mut [u8]| {
        packer.compress_using_cdict(to, from, packing).expect("room")
    };
    let unpack = move |from: &[u8], to: &mut [u8]| {
        unpacker.decompress_using_ddict(to, from, unpacking).expect("what was packed")
    };
    (Box::new(pack), Box::new(unpack))
}

/// A dictionary trained on a sixteenth of the pages, or a hundred times its size.
fn train(bodies: &[Vec<u8>]) -> Vec<u8> {
    let total: usize = bodies.iter().map(Vec::len).sum();
    let every = (total / (100 * DICTIONARY_SIZE)).max(1);
    let samples: Vec<&Vec<u8>> = bodies.iter().step_by(every).collect();
    let lens: Vec<usize> = samples.iter().map(|body| body.len()).collect();
    let joined: Vec<u8> = samples.into_iter().flatten().copied().collect();
    let mut dictionary = vec![0; DICTIONARY_SIZE];
    let len = zstd_safe::train_from_buffer(&mut dictionary[..], &joined, &lens);
    dictionary.truncate(len.expect("enough samples"));
    dictionary
}

fn row(name: &str, bodies: &[Vec<u8>], dictionary: usize, steps: (Step<'_>, Step<'_>)) {
    let (mut pack, mut unpack) = steps;
    let mut room = vec![0; 2 * bodies.iter().map(Vec::len).max().unwrap_or(0) + 1024];
    let packed: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let len = pack(body, &mut room);
            room[..len].to_vec()
        })
        .collect();
    let (mut raw, mut stored) = (0, dictionary);
    for (body, packed) in bodies.iter().zip(&packed) {
        let is_packed = packed.len() <= body.len() - body.len() / 8;
        raw += PAGE_HEADER_SIZE + body.len();
        stored += PAGE_HEADER_SIZE + if is_packed { packed.len() } else { body.len() };
    }
    let mut time = |from: &[Vec<u8>], step: &mut Step<'_>| {
        let round = |_| {
            let start = Instant::now();
            from.iter().for_each(|bytes| {
                step(bytes, &mut room);
            });
            start.elapsed()
        };
        let best = (0..ROUNDS).map(round).min().unwrap_or_default();
        best.as_secs_f64() * 1e6 / from.len() as f64
    };
    let (packing, unpacking) = (time(bodies, &mut pack), time(&packed, &mut unpack));
    let percent = 100.0 * stored as f64 / raw as f64;
    println!("  {name:<34}{percent:>7.1} %{packing:>10.2}{unpacking:>10.2}");
}

fn pages(kind: &str, records: &[Record]) {
    for kib in [4, 8, 16, 32] {
        let bodies = bodies(records, kib << 10);
        println!("\n{kind}, raw pages of {kib} KiB: {} pages", bodies.len());
        println!("  {:<34}{:>9}{:>10}{:>10}", "", "size", "pack", "unpack");
        row("lz4", &bodies, 0, lz4());
        for level in [-1, 1, 3] {
            row(&format!("zstd {level}"), &bodies, 0, zstd(level));
        }
        let start = Instant::now();
        let trained = train(&bodies);
        let millis = start.elapsed().as_millis();
        let first: Vec<u8> = bodies.iter().flatten().take(DICTIONARY_SIZE).copied().collect();
        let trained_name = format!("trained in {millis} ms");
        for (name, dictionary) in [(&trained_name[..], &trained), ("the first pages", &first)] {
            for level in [1, 3] {
                let start = Instant::now();
                let unpacking = DDict::create(dictionary);
                let load = start.elapsed().as_micros();
                let packing = CDict::create(dictionary, level);
                let name = format!("zstd {level}, {name}, load {load} us");
                row(&name, &bodies, dictionary.len(), zstd_with(&packing, &unpacking));
            }
        }
    }
}

/// The value blocks of a table of the last level; the index's bytes.
fn build(config: &Config, records: &[Record]) -> (Vec<BlockImage>, usize) {
    let mut addresses = (1u64..).filter_map(BlockAddress::new);
    let mut open = || {
        let address = addresses.next().expect("addresses do not end");
        (Buffer::zeroed(config.block_size as usize), address)
    };
    let last = Level(config.levels - 1);
    let (mut values, mut index) = (Vec::new(), 0);
    let mut builder = Builder::new(config, IDENTITY, TreeId(1), last, 1);
    let mut rest = records.iter().peekable();
    while let Some(record) = rest.peek() {
        match builder.push(&entry(record)) {
            Push::Accepted => {
                rest.next();
            }
            Push::NeedsBlock => {
                let (buffer, address) = open();
                builder.open_block(buffer, address);
            }
            Push::BlockFull => values.extend(builder.close_block()),
            Push::TableFull => {
                values.extend(builder.close_block());
                let (buffer, address) = open();
                index += builder.finish(buffer, address).0.reference.size as usize;
                builder = Builder::new(config, IDENTITY, TreeId(1), last, 1);
            }
        }
    }
    values.extend(builder.close_block());
    let (buffer, address) = open();
    index += builder.finish(buffer, address).0.reference.size as usize;
    (values, index)
}

fn tables(kind: &str, records: &[Record]) {
    println!("\n{kind}, tables\n  {:<34}{:>9}{:>10}{:>10}", "", "size", "read", "index");
    for page_size in [4 << 10, 8 << 10] {
        let mut plain = 0;
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let compression_all = [compression; LEVELS_MAX];
            let config = Config { page_size, compression: compression_all, ..Config::standard() };
            let (values, index) = build(&config, records);
            let used: usize = values.iter().map(|image| image.reference.size as usize).sum();
            plain = if compression == Compression::None { used } else { plain };
            let (mut read, mut count) = (0, 0);
            for image in &values {
                let (bytes, reference) = (image.bytes.clone(), &image.reference);
                let block = Block::verify(bytes, IDENTITY, reference, BlockType::Value);
                let block = block.expect("just built");
                for page in table::pages(&block).expect("just built") {
                    let start = block.bytes().len() - page.len();
                    let stored = lsm::page::verify_stored(page).expect("just built");
                    let end = (start + stored.stored_len).next_multiple_of(4096);
                    read += end - start / 4096 * 4096;
                    count += 1;
                }
            }
            let name = format!("slots of {} KiB, {compression:?}", page_size >> 10);
            let percent = 100.0 * used as f64 / plain as f64;
            let of_index = 100.0 * index as f64 / plain as f64;
            println!("  {name:<34}{percent:>7.1} %{:>10}{of_index:>8.1} %", read / count);
        }
    }
}

/// Makes records, if this host can.
type Kind = fn() -> Option<Vec<Record>>;

fn main() {
    // Asked for by `cargo bench`, and by `cargo test --benches` to see that it runs at all.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let only = std::env::var("COMPRESSION_KIND").ok();
    let kinds: [(&str, Kind); 4] = [
        ("half", || Some(generated("half", half))),
        ("json", || Some(generated("user", json))),
        ("counters", || Some(generated("counter", counter))),
        ("packages", packages),
    ];
    for (kind, make) in kinds {
        if only.as_ref().is_some_and(|only| only != kind) {
            continue;
        }
        match make() {
            Some(records) => {
                pages(kind, &records);
                tables(kind, &records);
            }
            None => println!("\n{kind}: this host has no package index"),
        }
    }
}
