//! What a merge keeps: the rule for superseded versions, tombstones and dead generations.
//!
//! A merge sees the entries of some tables (or of a memtable) in order: key ascending, version
//! descending. The *horizon* H is a version: no reader asks for a snapshot below it once the
//! merge's result is in place, so among the versions at or below H only the newest of each key can
//! be seen. With the key's entries in order the rule needs one bit of state:
//!
//! 1. of a key whose generation is dead as of H, nothing is kept;
//! 2. versions above H are kept;
//! 3. the newest version at or below H is kept, unless it is a tombstone that hides nothing: no
//!    table below the merge's output may hold the key;
//! 4. all other versions at or below H are dropped.
//!
//! Why a dropped tombstone cannot resurrect what it hid: a key's versions are ordered by age from
//! the newest run of the tree to its oldest, a merge takes all tables of its runs that overlap its
//! range, and all older versions in them are dropped with the tombstone by rule 4. So an older
//! version can only be in an older run, whatever its level, and there the key ranges of the tables
//! are checked: by [`Below`], as of the bar's start. Another job of the same bar can move an older
//! run's keys, but only among runs that are older too, and all of these are in [`Below`]: what it
//! writes lies within the ranges of what it read. Flushed keys are newer and arrive above.
//!
//! Which generations are dead is part of the plan, like H: a function of the log.

use std::collections::BTreeMap;

use crate::entry::EntryRef;
use crate::expiry;
use crate::key::Prefix;
use crate::level::Level;
use crate::tree::Tree;

/// The live generation of tables whose older ones are dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    /// Table → its live generation, and the version from which on it is.
    live: BTreeMap<u32, (u32, u64)>,
}

impl Generations {
    /// From `version` on, only this generation of a table is alive.
    pub(crate) fn set(&mut self, table: u32, generation: u32, version: u64) {
        let previous = self.live.insert(table, (generation, version));
        let grows = previous.is_none_or(|(older, at)| older <= generation && at <= version);
        assert!(grows, "generation {generation} of table {table} follows {previous:?}");
    }

    /// Only what holds as of the horizon: a reader there sees no dead generation.
    pub(crate) fn as_of(&self, horizon: u64) -> Generations {
        let live = self.live.iter().filter(|(_, (_, version))| *version <= horizon);
        Generations { live: live.map(|(table, live)| (*table, *live)).collect() }
    }

    /// Whether nothing between two keys belongs to a dead generation, as far as these show: bounds
    /// may be cut short.
    pub(crate) fn all_live(&self, tree: Tree, first: &[u8], last: &[u8]) -> bool {
        self.live.is_empty()
            || (tree != Tree::Expiry
                && Prefix::of(first).is_some_and(|prefix| {
                    Prefix::of(last).is_some_and(|other| other == prefix)
                        && !self.is_dead(tree, first)
                }))
    }

    /// Whether a stored key belongs to a dead generation.
    pub(crate) fn is_dead(&self, tree: Tree, key: &[u8]) -> bool {
        if self.live.is_empty() {
            return false;
        }
        let object_key = match tree {
            Tree::Objects | Tree::Indexes => Some(key),
            Tree::Expiry => expiry::decode(key).map(|(_, object_key)| object_key),
        };
        let Some(prefix) = object_key.and_then(Prefix::of) else { return false };
        self.live.get(&prefix.table).is_some_and(|(live, _)| prefix.generation < *live)
    }

    /// The stretches of keys that are dead in the trees of objects and of indexes, ascending: each
    /// from a key, and before another.
    pub(crate) fn dead_stretches(&self) -> impl Iterator<Item = ([u8; 9], [u8; 9])> {
        self.live.iter().map(|(&table, &(live, _))| {
            let bound = |generation| Prefix { table, generation, kind: 0 }.to_bytes();
            (bound(0), bound(live))
        })
    }

    /// Whether every key from the first to the last belongs to dead generations: keys are ordered
    /// by table, then generation.
    pub(crate) fn are_all_dead(&self, tree: Tree, first: &[u8], last: &[u8]) -> bool {
        if tree == Tree::Expiry {
            return false;
        }
        let (Some(first), Some(last)) = (Prefix::of(first), Prefix::of(last)) else { return false };
        let live = self.live.get(&last.table);
        first.table == last.table && live.is_some_and(|(live, _)| last.generation < *live)
    }
}

/// The tables below a merge's output, asked for keys in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Below {
    /// Per run: its tables in order, and the first that may hold the next key.
    runs: Vec<(Level, usize)>,
}

impl Below {
    pub(crate) fn new(runs: impl Iterator<Item = Level>) -> Below {
        Below { runs: runs.map(|run| (run, 0)).collect() }
    }

    /// The same, with another run.
    pub(crate) fn push(&mut self, run: Level) {
        self.runs.push((run, 0));
    }

    /// Whether any table's range holds the key. Keys must not descend.
    pub(crate) fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter_mut().any(|(run, next)| {
            let tables = run.tables();
            // A job may begin anywhere in a long run, and then goes on from table to table.
            if tables.get(*next).is_some_and(|table| &table.key_max[..] < key) {
                *next += tables[*next..].partition_point(|table| &table.key_max[..] < key);
            }
            tables.get(*next).is_some_and(|table| &table.key_min[..] <= key)
        })
    }
}

/// The rule above, fed with the entries of a merge in order.
pub(crate) struct Filter {
    tree: Tree,
    horizon: u64,
    generations: Generations,
    below: Below,
    key: Vec<u8>,
    /// Whether there is a key at all; whether it is dead; whether a version at or below the horizon
    /// was met.
    started: bool,
    dead: bool,
    covered: bool,
    dropped: Dropped,
}

/// What a merge dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Versions that no reader can see any more.
    pub(crate) versions: u64,
    /// Tombstones that hid nothing.
    pub(crate) tombstones: u64,
    /// Entries of dead generations.
    pub(crate) dead: u64,
}

impl Filter {
    /// The rule for one merge. `generations` is already as of the horizon.
    pub(crate) fn new(tree: Tree, horizon: u64, generations: Generations, below: Below) -> Filter {
        Filter {
            tree,
            horizon,
            generations,
            below,
            key: Vec::new(),
            started: false,
            dead: false,
            covered: false,
            dropped: Dropped::default(),
        }
    }

    /// What was not kept so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Whether the next entry is kept.
    pub(crate) fn keep(&mut self, entry: &EntryRef<'_>) -> bool {
        if !self.started || self.key != entry.key {
            assert!(!self.started || &self.key[..] < entry.key, "a merge's keys ascend");
            self.started = true;
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            self.dead = self.generations.is_dead(self.tree, entry.key);
            self.covered = false;
        }
        if self.dead {
            self.dropped.dead += 1;
            return false;
        }
        if entry.version > self.horizon {
            assert!(!self.covered, "a key's versions descend");
            return true;
        }
        if self.covered {
            self.dropped.versions += 1;
            return false;
        }
        self.covered = true;
        let kept = !entry.payload.is_tombstone() || self.below.may_hold(entry.key);
        self.dropped.tombstones += u64::from(!kept);
        kept
    }
}

#[cfg(test)]
mod tests;
