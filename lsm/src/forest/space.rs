//! What of a grid's free space is kept for what, and why it is enough.
//!
//! Blocks that flushes and merges release are free again only once the checkpoint that no longer
//! names them is durable: up to [`BARS_UNTIL_FREE`](crate::bar::BARS_UNTIL_FREE) bars later. Until
//! then new ones have to come from what is free. So the owner asks before it gives a write its
//! place in the log, where nothing can be refused any more. Free blocks are divided so, from the
//! last to be touched to the first:
//!
//! ```text
//! │ must: a checkpoint, the flush of what was │ mutable: the flush │ merges │ deletes │ puts
//! │ admitted and is not applied yet           │ of what is applied │        │         │
//! ```
//!
//! `F(x)` is what the flush of x takes at most ([`plan::flush_blocks`]).
//!
//! **A flush of admitted ops always has blocks.** Let *U* bound what may be admitted after the
//! state of a bar was looked at and before a refusal takes effect ([`Options`]), and C be what a
//! checkpoint takes. To be shown is free ≥ C + F(U) whenever a bar has begun; then the next bar's
//! end finds C for its checkpoint and F for its memtable.
//!
//! 1. A write is admitted while free > C + F(U) + F(mutable). What comes in between looking and
//!    refusing is at most U, so at the bar's end free ≥ C + F(all of the memtable). F is
//!    sub-additive but for rounding, which `must` counts for both parts.
//! 2. A bar's start reserves the flushes of all trees first, then the merges, and these only of
//!    what is free beyond `must` ([`Forest::reserve`]). A checkpoint is taken before that, from C.
//!    It gives back, one bar later, what the one before it took: at most one C is missing at a
//!    time.
//! 3. A reservation holds all that its job can take: a flush's by F; a merge's because it ends when
//!    its room does ([`crate::compaction::job`]).
//!
//! **A merge can go on, on a full grid too.** It needs [`plan::merge_blocks_least`]: one table, and
//! what a cut of each of its runs may take. Nothing but merges takes this part: puts and deletes
//! stop above it, and where deletes do nothing expires: pulses are not refused, but delete nothing
//! in a bar that began so. (A replay's first bar does not know that of itself. It may expire then
//! what it did not before, which no reader can tell.) So a merge that was planned has room, unless
//! merges of the bars before still have it; and these give it back:
//!
//! 1. A merge that ends early writes full tables only, so it writes no more blocks than it read,
//!    but for entries that happen to pack worse, and the rests of tables that it cut. There is one
//!    of these for each of its runs at most, and the next slice begins with them.
//! 2. What was read is released at the bar's end and free after the next checkpoint. A checkpoint
//!    needs no merge: one is due after a number of bars, and bars end by pulses
//!    ([`Forest::pending`]) where nothing else ends them.
//! 3. Each slice goes on at the key where the one before ended. So all of a group is merged after
//!    finitely many bars, and what is dead in it is gone: deleted, superseded or expired. Tables of
//!    a dead generation are dropped whole, for which no block is needed.
//!
//! While puts are admitted a merge takes what it needs of that, and more only of what a full bar
//! of writes would leave: its room counts as taken until the bar's end, and nobody should be
//! refused for the sake of it. Once puts are refused, merges may have all that is not `must`.
//!
//! **A host that is full** makes a grid as large as its file ([`crate::grid`]), which is kept long
//! enough ahead of need: all of the above holds with the free blocks within the file, but that less
//! is kept for what is admitted between two looks (`Forest::unapplied`). What the host has is no
//! function of the log, so neither are the addresses that merges then get; what is stored under a
//! key is.
//!
//! **What waits does no harm.** A merge without room is planned again at the next bar. Meanwhile
//! runs gather, but puts are refused by then ([`Space::allows_puts`] fails as soon as merges may be
//! short), deletes soon after; so the runs that are added hold at most what is kept for deletes,
//! and pulses. When space is short, what gives space back is planned first and reaches into the
//! last level ([`plan`]).

use std::cmp::Reverse;

use super::{BarError, Forest, Options};
use crate::checkpoint;
use crate::compaction::plan::{self, Job};
use crate::config::Config;
use crate::free_set::Reservation;
use crate::manifest_log::ManifestLog;
use crate::memtable::Memtable;
use crate::tree::{Large, Tree};

/// What the grid's free space still allows; see [`Forest::space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Blocks that can be acquired.
    pub free: u64,
    /// Kept for the next checkpoint, and for flushes of what is admitted and not applied.
    pub must: u64,
    /// Kept for the flushes of what is applied.
    pub mutable: u64,
    /// Kept for merges, so that one of each tree can go on.
    pub merges: u64,
    /// Kept for deletes.
    pub deletes: u64,
}

impl Space {
    /// Whether writes that add data are to be accepted.
    #[must_use]
    pub fn allows_puts(&self) -> bool {
        self.free > self.reserve_puts()
    }

    /// What is kept from writes that add data.
    #[must_use]
    pub fn reserve_puts(&self) -> u64 {
        self.must + self.mutable + self.merges + self.deletes
    }

    /// Whether deletes are to be accepted.
    #[must_use]
    pub fn allows_deletes(&self) -> bool {
        self.free > self.must + self.mutable + self.merges
    }
}

impl Forest {
    /// The grid's free space, and what of it is spoken for.
    #[must_use]
    pub fn space(&self) -> Space {
        let flush = |tree: &Tree| {
            let memtables = &self.trees[tree.index()].memtables;
            flush_of(&self.config, memtables.mutable(), memtables.mutable_large())
        };
        let mutable = Tree::ALL.iter().map(flush).sum();
        let (free, must) = self.free_and_must(self.grid.is_host_full());
        space(&self.config, free, must, mutable, self.merging_trees())
    }

    /// Sees to it that the file has the blocks that a look at the space counts on, and that deletes
    /// and merges go on with. What holds nothing needs none.
    pub fn look_ahead(&self) {
        if self.table_count() == 0 && self.memtable_bytes() == 0 {
            return;
        }
        let (_, must) = self.free_and_must(true);
        let Space { mutable, merges, .. } = self.space();
        self.grid.look_ahead(must + mutable + merges);
    }

    /// What is free, and what of it cannot wait.
    fn free_and_must(&self, host_full: bool) -> (u64, u64) {
        let must = must(&self.config, self.unapplied(host_full), &self.manifest_log, &self.options);
        let free = self.grid.space().free();
        match host_full {
            true => (free.min(self.grid.free_in_file()), must),
            false => (free, must),
        }
    }

    /// Bytes that may be admitted and not be in memtables yet. Where the host is full puts are
    /// about to be refused, or are: what is in flight are deletes, and few.
    fn unapplied(&self, host_full: bool) -> [u64; Tree::ALL.len()] {
        let few = 2 * self.config.memtable_bytes / 16;
        let all = unapplied_max(&self.options);
        match host_full {
            true => [few, few, few.min(all[Tree::Indexes.index()])],
            false => all,
        }
    }

    /// The space of a forest that holds nothing but full memtables: whether a grid of this size can
    /// be used.
    #[must_use]
    pub fn space_empty(config: &Config, options: Options) -> Space {
        let must = must(config, unapplied_max(&options), &ManifestLog::new(config), &options);
        let mutable = plan::flush_blocks_max(config, config.memtable_bytes);
        // The header block is none of them.
        space(config, config.grid_blocks_max - 1, must, mutable, MERGING_ALWAYS)
    }

    /// Trees that a merge is kept room for: one that has no table has nothing to merge. Objects and
    /// deadlines count always, so that what a grid takes does not shrink with its first tables.
    fn merging_trees(&self) -> u64 {
        let indexes = &self.trees[Tree::Indexes.index()].manifest;
        MERGING_ALWAYS + u64::from(indexes.tables().next().is_some())
    }

    /// The space at a bar's start, before the flushes are reserved, as if they were.
    pub(super) fn space_beyond_flushes(&self) -> Space {
        let flush = |tree: &Tree| {
            let memtables = &self.trees[tree.index()].memtables;
            flush_of(&self.config, memtables.immutable(), memtables.immutable_large())
        };
        let flushes: u64 = Tree::ALL.iter().map(flush).sum();
        let space = self.space();
        let free = space.free.saturating_sub(flushes);
        Space { free, ..space }
    }

    /// Reserves a bar's jobs their blocks: flushes first, whatever tree they are of. Leaves out
    /// what has to wait.
    pub(super) fn reserve(&self, jobs: Vec<Job>) -> Result<Vec<(Job, Reservation)>, BarError> {
        let (free, must) = self.free_and_must(self.grid.is_host_full());
        let (flushes, others): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.memtable().is_some());
        let alone: u64 = flushes.iter().map(|job| self.flush_alone(job)).sum();
        let mut beyond = free.saturating_sub(must + alone);
        let mut reserved = Vec::new();
        for job in flushes {
            let (together, least) = (self.room(&job).least, self.flush_alone(&job));
            let (job, needed) = match together - least <= beyond {
                true => (job, together),
                // The small run it was to take with it waits.
                false => (job.alone(), least),
            };
            beyond -= needed - least;
            let Some(reservation) = self.grid.reserve(needed) else {
                let free = self.grid.space().free();
                return Err(BarError::Full { what: "a memtable's flush", needed, free });
            };
            reserved.push((job, reservation));
        }
        self.reserve_merges(others, &mut reserved);
        Ok(reserved)
    }

    /// Merges into the deepest levels come first, whatever tree they are of: these give space back.
    /// Each gets what it needs, as long as there is some, and then what it will probably take.
    fn reserve_merges(&self, mut jobs: Vec<Job>, reserved: &mut Vec<(Job, Reservation)>) {
        let (free, must) = self.free_and_must(self.grid.is_host_full());
        let mut beyond = free.saturating_sub(must);
        jobs.sort_by_key(|job| Reverse(job.level));
        jobs.retain(|job| {
            let least = self.room(job).least;
            let fits = least <= beyond;
            beyond -= if fits { least } else { 0 };
            fits
        });
        let space = space(&self.config, free, must, 0, self.merging_trees());
        if space.allows_puts() {
            let bar = plan::flush_blocks_max(&self.config, self.config.memtable_bytes);
            beyond = beyond.min(free.saturating_sub(space.reserve_puts() + bar));
        }
        for job in jobs {
            let room = self.room(&job);
            let more = (room.likely - room.least).min(beyond);
            beyond -= more;
            let reservation = self.grid.reserve(room.least + more);
            reserved.push((job, reservation.expect("no more than is free")));
        }
    }

    fn room(&self, job: &Job) -> plan::Room {
        job.room(&self.config, self.trees[job.tree.index()].memtables.immutable_large())
    }

    fn flush_alone(&self, job: &Job) -> u64 {
        let large = self.trees[job.tree.index()].memtables.immutable_large();
        job.memtable().map_or(0, |memtable| flush_of(&self.config, memtable, large))
    }
}

/// The trees of objects and of deadlines.
const MERGING_ALWAYS: u64 = 2;

fn flush_of(config: &Config, memtable: &Memtable, large: Large) -> u64 {
    plan::flush_blocks(config, memtable.bytes() as u64, large)
}

/// Bytes that may be admitted and not be in the memtable of each tree.
fn unapplied_max(options: &Options) -> [u64; Tree::ALL.len()] {
    let Options { unapplied_bytes_max, unapplied_expiry_bytes_max, .. } = *options;
    [unapplied_bytes_max, unapplied_expiry_bytes_max, options.unapplied_index_bytes_max]
}

/// What cannot wait and is not in a memtable yet.
fn must(
    config: &Config,
    unapplied: [u64; Tree::ALL.len()],
    manifest_log: &ManifestLog,
    options: &Options,
) -> u64 {
    let flushes: u64 = unapplied.iter().map(|&bytes| plan::flush_blocks_max(config, bytes)).sum();
    flushes + checkpoint::blocks_max(config, manifest_log, options.extra_bytes_max)
}

fn space(config: &Config, free: u64, must: u64, mutable: u64, trees: u64) -> Space {
    let merges = trees * plan::merge_blocks_least(config);
    // A bar of them, before space has to come back.
    let deletes = plan::flush_blocks_max(config, config.memtable_bytes);
    Space { free, must, mutable, merges, deletes }
}
