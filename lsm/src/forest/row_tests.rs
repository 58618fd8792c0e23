//! Reads with the row cache in front of the tables, against a map of versions: writes, reads of the
//! newest and of older snapshots, reads that wait for the disk while others write, bars that end,
//! and flushes of the whole table, in random order.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use ioring::Direct;
use ioring::sim::{Config as SimConfig, Dice, World};

use super::harness::{self, owned};
use crate::bar::BarEnd;
use crate::block::Identity;
use crate::config::Config;
use crate::entry::{DEADLINE_NONE, EntryRef};
use crate::filter;
use crate::forest::{Forest, Options};
use crate::grid::{Grid, Owner};
use crate::key::{self, Prefix};
use crate::lookup::{self, Lookup, LookupError, OwnedEntry, Read, Want};
use crate::tree::Tree;

const TABLE: u32 = 3;
const KEYS: u64 = 90;

/// What a look-up gives that has read all it has to.
type Answer = Option<OwnedEntry>;

struct Store {
    forest: Forest,
    dice: Dice,
    /// Every version ever written; no entry for a tombstone.
    model: BTreeMap<(Vec<u8>, Reverse<u64>), Answer>,
    generation: u32,
    version: u64,
    /// Snapshots below this one were taken before the newest flush of the table.
    flushed: u64,
    op: u64,
    /// A read that waits for the disk while other things happen, and what it has to give.
    waiting: Option<(Read, Answer)>,
    /// Look-ups whose key was in the row cache, and reads whose row was put there.
    from_rows: u64,
    kept: u64,
}

impl Store {
    async fn open(seed: u64) -> Store {
        // With a window tables hold superseded versions that snapshots still ask for.
        let history_window = seed % 2 * 300;
        let config = Config { history_window, ..harness::config() };
        let identity = Identity { cluster: 7, shard: 3 };
        let owner = Owner { identity, replica: 0, incarnation: 99 };
        let path = Path::new("/grid");
        Grid::format(path, owner, &config, Direct::Preferred).await.unwrap();
        let grid = Grid::open(path, owner, &config, Direct::Preferred).await.unwrap();
        let (forest, _) = Forest::open(grid, None, Options::standard(256 << 10)).await.unwrap();
        Store {
            forest,
            dice: Dice::new(seed, "rows"),
            model: BTreeMap::new(),
            generation: 0,
            version: 0,
            flushed: 0,
            op: 0,
            waiting: None,
            from_rows: 0,
            kept: 0,
        }
    }

    /// A key; some are asked for and written much more often than others.
    fn key(&mut self) -> Vec<u8> {
        let number = self.dice.below(KEYS).min(self.dice.below(KEYS));
        let prefix = Prefix { table: TABLE, generation: self.generation, kind: 1 };
        key::encode(prefix, format!("user{number:05}").as_bytes(), &[])
    }

    fn expected(&self, key: &[u8], version_max: u64) -> Answer {
        let mut from = self.model.range((key.to_vec(), Reverse(version_max))..);
        let ((found, _), answer) = from.next()?;
        if found == key { answer.clone() } else { None }
    }

    fn put(&mut self) {
        let key = self.key();
        self.version += 1 + self.dice.below(3);
        let len = self.dice.below(120) as usize;
        // A few are too large for the row cache, and some stand in overflow blocks.
        let len = if self.dice.below(20) == 0 { len * 40 } else { len };
        let value = harness::value_of(len as u32, self.version, len);
        let deadline = if self.dice.below(4) == 0 { self.version + 1000 } else { DEADLINE_NONE };
        self.forest.put(&key, self.version, &value, deadline);
        let entry = OwnedEntry { version: self.version, deadline, value_len: len as u64, value };
        self.model.insert((key, Reverse(self.version)), Some(entry));
    }

    fn delete(&mut self) {
        let key = self.key();
        self.version += 1;
        self.forest.delete(&key, self.version);
        self.model.insert((key, Reverse(self.version)), None);
    }

    /// FLUSHALL: every key gets another name.
    fn flush(&mut self) {
        self.version += 1;
        self.generation += 1;
        self.forest.set_generation(TABLE, self.generation, self.version);
        self.flushed = self.version;
    }

    async fn get(&mut self) {
        let key = self.key();
        let oldest = self.forest.snapshot_min().max(self.flushed);
        let snapshot = match self.dice.below(4) {
            0 => oldest + self.dice.below(self.version + 1 - oldest),
            1 => self.version,
            _ => u64::MAX,
        };
        self.from_rows +=
            u64::from(self.forest.rows.borrow().rows().any(|row| row.key == &key[..]));
        let expected = self.expected(&key, snapshot);
        let looked = self.forest.get_cached(Tree::Objects, &key, snapshot, Want::Value, owned);
        match looked {
            Lookup::Found(entry) => assert_eq!(Some(entry), expected, "at {snapshot}"),
            Lookup::Absent => assert_eq!(None, expected, "at {snapshot}"),
            Lookup::NeedsRead(read) => {
                self.finish_read().await;
                self.waiting = Some((read, expected));
                if self.dice.below(2) == 0 {
                    self.finish_read().await;
                }
            }
        }
    }

    /// Lets the read that waits go on, whatever has happened since.
    async fn finish_read(&mut self) {
        if let Some((read, expected)) = self.waiting.take() {
            match read.run().await {
                Ok(found) => {
                    if let Some(entry) = &found {
                        let before = self.rows();
                        self.forest.keep_row(&read, entry);
                        self.kept += u64::from(self.rows() > before);
                        self.check_rows();
                    }
                    assert_eq!(found, expected);
                }
                Err(LookupError::Moved) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn rows(&self) -> usize {
        self.forest.rows.borrow().rows().count()
    }

    async fn end_bar(&mut self) {
        self.op += 1;
        self.forest.bar_done().await;
        let end = BarEnd { op: self.op, checkpoint: None, free: None };
        self.forest.bar_end(&end, &[]).unwrap();
        self.check_rows();
    }

    /// The invariant: a row's key is in no memtable, and the tables say of it what the row says.
    fn check_rows(&self) {
        let rows = self.forest.rows.borrow();
        let state = &self.forest.trees[Tree::Objects.index()];
        for row in rows.rows() {
            let hash = filter::hash(row.key);
            assert!(state.memtables.get(hash, row.key, u64::MAX).is_none());
            let reader = || self.forest.reader(Tree::Objects);
            let wanted = (hash, row.key, u64::MAX, Want::Value);
            let same = |found: &EntryRef<'_>| found == &row;
            match lookup::tables(reader, self.forest.grid(), &state.manifest, wanted, same) {
                Lookup::Found(true) | Lookup::NeedsRead(_) => {}
                // Of a dead key a merge may have dropped the newest version and not met the others.
                Lookup::Found(false) | Lookup::Absent => {
                    let prefix = Prefix::of(row.key).unwrap();
                    assert!(prefix.generation < self.generation, "{row:?} is not in the tables");
                }
            }
        }
    }

    async fn step(&mut self) {
        match self.dice.below(1000) {
            0..3 => self.flush(),
            3..30 => self.end_bar().await,
            30..90 => self.put(),
            90..110 => self.delete(),
            110..130 => self.finish_read().await,
            _ => self.get().await,
        }
    }
}

/// A row is not to be had from memory when the page it stands in is not to be read again.
#[test]
fn nothing_of_a_condemned_place_is_answered_by_rows() {
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("store");
    let main = || async {
        let mut store = Store::open(1).await;
        store.put();
        let key = store.model.keys().next().unwrap().0.clone();
        for _ in 0..3 {
            store.end_bar().await;
        }
        for _ in 0..2 {
            let latest = u64::MAX;
            let found = store.forest.get_cached(Tree::Objects, &key, latest, Want::Value, |_| ());
            if let Lookup::NeedsRead(read) = found {
                assert!(read.run().await.unwrap().is_some());
            }
        }
        assert_eq!(store.forest.rows.borrow().rows().count(), 1);
        // A read that began before.
        let reader = || store.forest.reader(Tree::Objects);
        let (grid, manifest) = (store.forest.grid(), &store.forest.trees[0].manifest);
        let wanted = (filter::hash(&key), &key[..], u64::MAX, Want::Value);
        // Without its index memory does not tell.
        manifest.tables().for_each(|(_, table)| grid.forget_index(table));
        let Lookup::NeedsRead(read) = lookup::tables(reader, grid, manifest, wanted, |_| ()) else {
            panic!("an index was forgotten");
        };
        let entry = read.run().await.unwrap().unwrap();
        store.forest.condemn(4096).unwrap();
        assert_eq!(store.rows(), 0);
        store.forest.keep_row(&read, &entry);
        assert_eq!(store.rows(), 0);
    };
    world.run(node, main).unwrap();
}

#[test]
fn equals_the_model_whatever_comes_between() {
    let (mut from_rows, mut kept) = (0, 0);
    for seed in 0..seeds() {
        let mut world = World::new(seed, SimConfig::default());
        let node = world.add_node("store");
        let main = move || async move {
            let mut store = Store::open(seed).await;
            for _ in 0..6000 {
                store.step().await;
            }
            store.finish_read().await;
            store.forest.bar_done().await;
            (store.from_rows, store.kept)
        };
        let (more, more_kept) = world.run(node, main).unwrap();
        (from_rows, kept) = (from_rows + more, kept + more_kept);
    }
    assert!(kept > 10 * seeds(), "{kept} rows kept of reads: too few to say much");
    assert!(from_rows > 200 * seeds(), "{from_rows} look-ups met a row: too few to say much");
}

/// How many random runs one run of the tests takes; more are asked for by name.
fn seeds() -> u64 {
    std::env::var("LSM_ROW_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}
