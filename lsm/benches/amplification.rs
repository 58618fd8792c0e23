//! What compaction costs and keeps: `cargo bench -p lsm --bench amplification`.
//!
//! A forest at a sixteenth of the standard sizes (blocks, memtable; so tables have as many blocks
//! and data as many memtables as a standard one) on a simulated disk. Everything it prints but the
//! time is a function of the code: it is counted, not measured, and the same on every machine.
//!
//! ```text
//! fill      every key once, scattered       write  blocks written / bytes of keys and values
//! settle    bars without writes             space  blocks in use / bytes that exist
//! overwrite random keys, twice as many      runs   sorted runs a reader asks, at the end
//! delete    half of the keys                peak   the most work of a bar, over a memtable's
//! ```
//!
//! `AMPLIFICATION_KEYS` sets the number of keys: 312,500 stand for five million of 116 bytes.

#![expect(clippy::print_stdout, reason = "what was counted is printed")]

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use ioring::Direct;
use ioring::sim::{Config as SimConfig, World};
use lsm::bar::{BarEnd, Progress};
use lsm::block::Identity;
use lsm::config::Config;
use lsm::forest::{Forest, Options, Stats};
use lsm::grid::{Grid, Owner};
use lsm::key::{self, Prefix};

const VALUE: [u8; 100] = [7; 100];
const KEY_BYTES: u64 = 16;
/// Writes between two beats.
const BEAT: u64 = 32;

struct Store {
    forest: Forest,
    grid: Rc<Grid>,
    config: Config,
    version: u64,
    bar: u64,
    bar_first: u64,
    work_peak: u64,
}

fn key_of(number: u64) -> Vec<u8> {
    let prefix = Prefix { table: 1, generation: 0, kind: 0 };
    key::encode(prefix, &number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(), b"")
}

fn config() -> Config {
    let standard = Config::standard();
    Config {
        block_size: standard.block_size / 16,
        memtable_bytes: standard.memtable_bytes / 16,
        grid_blocks_max: 1 << 20,
        key_size_max: 512,
        value_size_max: 64 << 10,
        ..standard
    }
}

impl Store {
    async fn new() -> Store {
        let config = config();
        let identity = Identity { cluster: 1, shard: 0 };
        let owner = Owner { identity, replica: 0, incarnation: 1 };
        let path = Path::new("/grid");
        Grid::format(path, owner, &config, Direct::Preferred).await.expect("an empty disk");
        let grid = Grid::open(path, owner, &config, Direct::Preferred).await.expect("formatted");
        let options = Options::standard(2 * config.memtable_bytes);
        let opened = Forest::open(Rc::clone(&grid), None, options).await;
        let (forest, _) = opened.expect("nothing to read");
        let (version, bar, bar_first, work_peak) = (0, 0, 0, 0);
        Store { forest, grid, config, version, bar, bar_first, work_peak }
    }

    async fn write(&mut self, number: u64, value: Option<&[u8]>) {
        self.version += 1;
        match value {
            Some(value) => self.forest.put(&key_of(number), self.version, value, 0),
            None => self.forest.delete(&key_of(number), self.version),
        }
        let bytes = self.forest.memtable_bytes();
        if self.version.is_multiple_of(BEAT) {
            self.forest.beat(Progress::of(bytes, self.config.memtable_bytes));
            self.forest.paced().await;
        }
        if bytes >= self.config.memtable_bytes {
            self.end_bar().await;
        }
    }

    async fn end_bar(&mut self) {
        self.forest.bar_done().await;
        self.bar += 1;
        // Every fourth bar a checkpoint, whose blocks come free with the bar after the next.
        let op = self.bar * 1000;
        let checkpoint = self.bar.is_multiple_of(4).then_some(self.bar_first);
        let free = (self.bar > 4 && self.bar % 4 == 1).then_some(self.bar_first);
        let end = BarEnd { op, checkpoint, free };
        self.bar_first = op;
        let checkpoint = self.forest.bar_end(&end, &[]).expect("the grid has room");
        if let Some(checkpoint) = checkpoint {
            checkpoint.write().await;
        }
        self.work_peak = self.work_peak.max(self.forest.stats().work);
    }

    /// Bars without writes until nothing is left to do and all that was released is free.
    async fn settle(&mut self) {
        self.end_bar().await;
        loop {
            self.end_bar().await;
            if !self.forest.pending().jobs {
                break;
            }
        }
        for _ in 0..9 {
            self.end_bar().await;
        }
    }

    fn row(&mut self, name: &str, given: u64, existing: u64, before: &Stats, at: Instant) {
        let (block, now) = (u64::from(self.config.block_size), self.forest.stats());
        let written = (now.blocks_written - before.blocks_written) * block;
        let used = self.grid.space().acquired * block;
        let memtable = self.config.memtable_bytes / block;
        let over = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        println!(
            "{name:<12}{:>8.2}{:>8.2}{:>7}{:>8.1}{:>8}{:>9}{:>9}{:>10}{:>8}{:>9.2}",
            over(written, given),
            over(used, existing),
            now.runs,
            over(self.work_peak, memtable),
            now.dead_percent,
            now.tables_moved - before.tables_moved,
            now.blocks_moved - before.blocks_moved,
            now.versions_dropped - before.versions_dropped,
            now.tables_cut - before.tables_cut,
            at.elapsed().as_secs_f64(),
        );
        self.work_peak = 0;
    }
}

async fn run(keys: u64) {
    let bytes = |entries: u64| entries * (KEY_BYTES + VALUE.len() as u64);
    println!(
        "{:<12}{:>8}{:>8}{:>7}{:>8}{:>8}{:>9}{:>9}{:>10}{:>8}{:>9}",
        "", "write", "space", "runs", "peak", "dead %", "tables", "blocks", "versions", "cut", "s"
    );
    let mut store = Store::new().await;
    let (mut before, mut at) = (store.forest.stats(), Instant::now());
    for number in 0..keys {
        store.write(number, Some(&VALUE)).await;
    }
    store.row("fill", bytes(keys), bytes(keys), &before, at);
    store.settle().await;
    store.row("  settled", bytes(keys), bytes(keys), &before, at);
    (before, at) = (store.forest.stats(), Instant::now());
    let mut state = 1_u64;
    for _ in 0..2 * keys {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        store.write((state >> 33) % keys, Some(&VALUE)).await;
    }
    store.row("overwrite", bytes(2 * keys), bytes(keys), &before, at);
    store.settle().await;
    store.row("  settled", bytes(2 * keys), bytes(keys), &before, at);
    (before, at) = (store.forest.stats(), Instant::now());
    for number in 0..keys / 2 {
        store.write(number, None).await;
    }
    store.row("delete", KEY_BYTES * keys / 2, bytes(keys - keys / 2), &before, at);
    store.settle().await;
    store.row("  settled", KEY_BYTES * keys / 2, bytes(keys - keys / 2), &before, at);
}

fn main() {
    let keys = std::env::var("AMPLIFICATION_KEYS").ok().and_then(|keys| keys.parse().ok());
    let keys = keys.unwrap_or(312_500);
    println!("{keys} keys of {KEY_BYTES} bytes, values of {} bytes", VALUE.len());
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("bench");
    world.run(node, move || run(keys)).expect("it ends");
}
