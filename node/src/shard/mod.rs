//! Shards: what a core stores, and how operations of the log and reads of clients reach it.
//!
//! A shard is a forest, the generations of its tables, and nothing else: what decides its content
//! is the log. The shards of a core are one value, [`Shards`], owned by the core's applier
//! ([`apply`]), which is the only one to change it; reads borrow it for the time of one look-up.
//!
//! A key on its way to the forest: slot → shard ([`crate::topology`]), then table, the table's
//! generation and the escaped key → encoded key ([`lsm::key`]). FLUSHALL raises the generation, so
//! every key written before is unreachable at once, and compaction drops it when it gets there.
//!
//! What is not in trees (generations, places that are not read again) goes into each checkpoint as
//! a few opaque bytes and comes back when the shard is opened ([`extra`]), to the forest too: after
//! a restart compaction drops what it would have dropped without.

mod ahead;
pub mod apply;
pub mod extra;
pub mod keeper;
pub mod open;
pub mod scrubber;

use lsm::bar::BarEnd;
use lsm::checkpoint::Checkpoint;
use lsm::forest::{BarError, Forest, TooManyCondemned};
use lsm::key::{self, Prefix};
use lsm::lookup::{Lookup, OwnedEntry, Read, Want};
use lsm::tree::Tree;
use wire::{ShardId, Slot, TableId, Version};

use crate::machine::{Effect, Entry};
use crate::topology::{CoreIndex, Topology};

/// The kind of record that strings are, in encoded keys.
pub const KIND_STRING: u8 = 1;

/// The shard whose checkpoints keep the node's sessions.
pub const SESSIONS_SHARD: ShardId = ShardId(0);

/// The newest version there is: what a read of one key asks for.
pub const LATEST: Version = Version(u64::MAX);

/// How often each table was flushed, and the version of the last time. Tables that never were are
/// not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generations(Vec<Flushed>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flushed {
    table: TableId,
    generation: u32,
    version: Version,
}

impl Generations {
    /// The table's generation.
    #[inline]
    #[must_use]
    pub fn get(&self, table: TableId) -> u32 {
        self.0.iter().find(|last| last.table == table).map_or(0, |last| last.generation)
    }

    /// The version of the table's last flush; 0 if it never was.
    #[must_use]
    pub fn flushed_at(&self, table: TableId) -> Version {
        self.0.iter().find(|last| last.table == table).map_or(Version(0), |last| last.version)
    }

    /// Makes all keys of a table unreachable from a version on.
    pub fn raise(&mut self, table: TableId, version: Version) {
        match self.0.iter_mut().find(|last| last.table == table) {
            Some(last) => (last.generation, last.version) = (last.generation + 1, version),
            None => self.0.push(Flushed { table, generation: 1, version }),
        }
    }
}

/// One shard.
pub struct Shard {
    id: ShardId,
    forest: Forest,
    generations: Generations,
    /// The generations at the end of the bar before this one: what a checkpoint keeps.
    generations_bar: Generations,
}

/// What a look-up in memory came to.
pub enum Looked<R> {
    /// The answer.
    Known(R),
    /// Memory does not tell: await this, then look again.
    NeedsRead(Read),
}

impl Shard {
    /// A shard over an open forest, which is told what flushes it has been through.
    #[must_use]
    pub fn new(id: ShardId, mut forest: Forest, generations: Generations) -> Shard {
        for last in &generations.0 {
            forest.set_generation(last.table.0, last.generation, last.version.0);
        }
        let generations_bar = generations.clone();
        Shard { id, forest, generations, generations_bar }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Its forest.
    #[must_use]
    pub fn forest(&self) -> &Forest {
        &self.forest
    }

    /// Its tables' generations.
    #[must_use]
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Fails all further reads of a place in the grid: an operation of the log could not be done
    /// without what stands there.
    ///
    /// # Errors
    /// Too much is unreadable.
    pub fn condemn(&mut self, offset: u64) -> Result<(), TooManyCondemned> {
        self.forest.condemn(offset)
    }

    /// Empties a table.
    pub fn flush(&mut self, table: TableId, version: Version) {
        self.generations.raise(table, version);
        self.forest.set_generation(table.0, self.generations.get(table), version.0);
    }

    /// Ends the bar; what a checkpoint keeps beside the trees is as of the end of the bar before,
    /// like the trees; so are `sessions`, the node's, of which one shard keeps them for all.
    fn end_bar(&mut self, end: &BarEnd, sessions: &[u8]) -> Result<Option<Checkpoint>, BarError> {
        let extra = match end.checkpoint {
            Some(_) => extra::encode(&self.generations_bar, &self.forest.condemned(), sessions),
            None => Vec::new(),
        };
        let checkpoint = self.forest.bar_end(end, &extra)?;
        self.generations_bar.clone_from(&self.generations);
        Ok(checkpoint)
    }

    /// Writes a key's encoded form into `out`.
    #[inline]
    pub fn encode_key(&self, table: TableId, user_key: &[u8], out: &mut Vec<u8>) {
        let generation = self.generations.get(table);
        let prefix = Prefix { table: table.0, generation, kind: KIND_STRING };
        out.clear();
        key::encode_into(out, prefix, user_key, &[]);
    }

    /// Looks for the newest entry of an encoded key up to a version. Whether it has expired is the
    /// caller's to decide.
    #[inline]
    pub fn look<R>(
        &self,
        encoded: &[u8],
        version_max: Version,
        want: Want,
        found: impl FnOnce(Option<Entry<'_>>) -> R,
    ) -> Looked<R> {
        // The closure is called in one of two places; a cell says which had it.
        let mut found = Some(found);
        let mut take = || found.take().expect("one of the two outcomes calls it");
        let result = self.forest.get_cached(Tree::Objects, encoded, version_max.0, want, |entry| {
            let value = match entry.payload {
                lsm::entry::Payload::Inline(value) => value,
                _ => &[],
            };
            take()(Some(Entry {
                value,
                value_size: entry.payload.value_len() as u32,
                deadline: entry.deadline,
                version: Version(entry.version),
            }))
        });
        match result {
            Lookup::Found(answer) => Looked::Known(answer),
            Lookup::Absent => Looked::Known(take()(None)),
            Lookup::NeedsRead(read) => Looked::NeedsRead(read),
        }
    }

    /// Keeps what a read of this shard has brought, for the next one who asks.
    pub fn keep(&self, read: &Read, entry: &OwnedEntry) {
        self.forest.keep_row(read, entry);
    }

    /// Does to an encoded key what evaluation decided. `current` is the value that a change of
    /// deadline keeps.
    #[inline]
    pub fn apply(&mut self, encoded: &[u8], version: Version, effect: Effect<'_>, current: &[u8]) {
        match effect {
            Effect::None => {}
            Effect::Put { value, deadline } => {
                self.forest.put(encoded, version.0, value, deadline);
            }
            Effect::SetDeadline(deadline) => {
                self.forest.put(encoded, version.0, current, deadline);
            }
            Effect::Delete => self.forest.delete(encoded, version.0),
            Effect::Flush => unreachable!("a flush has no key"),
        }
    }
}

/// The shards of a core, in order of their numbers.
pub struct Shards {
    topology: Topology,
    core: CoreIndex,
    first: u16,
    shards: Vec<Shard>,
}

impl Shards {
    /// The shards of one core.
    ///
    /// # Panics
    /// If they are not contiguous.
    #[must_use]
    pub fn new(topology: Topology, core: CoreIndex, shards: Vec<Shard>) -> Shards {
        let first = shards.first().map_or(0, |shard| shard.id.0);
        for (index, shard) in shards.iter().enumerate() {
            assert_eq!(usize::from(shard.id.0 - first), index, "a core's shards are contiguous");
        }
        Shards { topology, core, first, shards }
    }

    /// Whose they are.
    #[must_use]
    pub fn core(&self) -> CoreIndex {
        self.core
    }

    /// Who has which.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The shard of a slot, if it is on this core.
    #[inline]
    #[must_use]
    pub fn of_slot(&self, slot: Slot) -> Option<&Shard> {
        self.index(slot).map(|index| &self.shards[index])
    }

    /// The one at `index` among this core's.
    #[must_use]
    pub fn at(&self, index: usize) -> &Shard {
        &self.shards[index]
    }

    /// The same, to change it.
    pub fn at_mut(&mut self, index: usize) -> &mut Shard {
        &mut self.shards[index]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// All of them, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.shards.iter_mut()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether the core has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    #[inline]
    fn index(&self, slot: Slot) -> Option<usize> {
        self.index_of(self.topology.shard_of(slot))
    }

    /// A shard's place among this core's, if it is one of them.
    #[inline]
    #[must_use]
    pub fn index_of(&self, shard: ShardId) -> Option<usize> {
        let index = usize::from(shard.0.checked_sub(self.first)?);
        (index < self.shards.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests;
