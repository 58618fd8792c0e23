//! The forest: all trees of a shard, behind one face.
//!
//! The shard's loop owns the forest and is the only one to change it: `put`, `delete` and the ends
//! of beats and bars are plain calls on `&mut Forest`. What has to wait for the disk leaves the
//! forest first, as a value that owns everything it needs ([`Read`], [`crate::scan::ScanRead`],
//! [`Checkpoint`], the jobs of a bar), and waits on its own. No borrow of the forest lives across
//! an await.
//!
//! **Reading.** A lookup is tried in memory first ([`Forest::get_cached`]) and hands the entry to a
//! closure where it lies: nothing is copied or allocated. A key's hash is computed once and serves
//! memtables, row cache and filters. See [`crate::rows`], [`crate::lookup`], [`crate::scan`].
//! Every write carries a version, strictly increasing over the shard; a reader names the newest it
//! wants to see. Below [`Forest::snapshot_min`] superseded versions may be gone.
//!
//! **Beats and bars.** The owner drives them as [`crate::bar::Schedule`] says:
//!
//! 1. after applying an op: [`Forest::beat`] with the bar's progress, then await [`Forest::paced`];
//! 2. at a bar's end: await [`Forest::bar_done`], and, where blocks of a checkpoint become free,
//!    that this checkpoint is durable; then [`Forest::bar_end`]. It makes the bar's changes, swaps
//!    the memtables, takes a checkpoint if one is due, and starts the next bar's jobs, in this
//!    order: so a checkpoint's addresses are drawn before those of the bar that runs beside it, on
//!    every replica and in every replay;
//! 3. a [`Checkpoint`] is awaited beside everything else; the root it gives goes into the
//!    superblock, whose durability is what makes it a checkpoint.
//!
//! **Replay.** A checkpoint taken at the end of bar k holds the tables after bar k's jobs, which
//! flushed bar k−1; its op is the last of bar k−1. A forest opened from it therefore starts with
//! bar k's ops and empty memtables, and has no jobs until bar k ends: their effect is there
//! already.
//!
//! **Faults.** A job that meets a corrupt block changes nothing, and its table is quarantined
//! ([`Forest::faults`]); reads that need the block fail by name. A block that an operation of the
//! log could not be done without is condemned ([`Forest::condemn`]): it is not believed again. A
//! quarantined table may keep all of level 0 from being merged: before its runs become too many to
//! read, [`Forest::is_stuck`] says that nothing more should be written.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use thiserror::Error;

pub use self::space::Space;
use crate::bar::{BarEnd, Progress};
use crate::block::{BlockAddress, BlockFault, BlockReference, BlockType};
use crate::cache::CacheStats;
use crate::checkpoint::{Checkpoint, OpenError, Root, RootState};
use crate::compaction::budget::Budget;
use crate::compaction::job::{self, Context, Corrupt, Done, Outcome};
use crate::compaction::plan::{self, Setting};
use crate::config::Config;
use crate::entry::{DEADLINE_NONE, EntryRef, Level, Payload};
use crate::expiry::{self, Due, DueScan, DueStep};
use crate::filter;
use crate::grid::Grid;
use crate::lookup;
pub use crate::lookup::{CorruptRead, Lookup, LookupError, OwnedEntry, Read, Want};
use crate::manifest::{Change, Manifest};
use crate::manifest_log::ManifestLog;
use crate::merge::Generations;
use crate::rows::RowCache;
use crate::sample::Census;
use crate::scan::{self, Scan, ScanStep, View};
use crate::scrub::Reported;
use crate::table::TableInfo;
use crate::tree::{Memtables, Tree};

/// Settings of a forest that are not the grid's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What each memtable can hold, in accounted bytes; format-time, see
    /// [`crate::bar::Limits::memtable_bytes_needed`].
    pub memtable_bytes_max: u64,
    /// What may have been admitted and not be in the memtable of objects yet, in accounted bytes:
    /// see [`Forest::space`].
    pub unapplied_bytes_max: u64,
    /// The same for the expiry tree's memtable.
    pub unapplied_expiry_bytes_max: u64,
    /// The same for that of indexes: nothing where no request makes entries of indexes.
    pub unapplied_index_bytes_max: u64,
    /// What the owner may give a checkpoint to keep beside the trees, beyond a few blocks that
    /// there is always room for.
    pub extra_bytes_max: u64,
}

impl Options {
    /// A memtable that must hold this much, and may be full before anyone is refused.
    #[must_use]
    pub fn standard(memtable_bytes_max: u64) -> Options {
        Options {
            memtable_bytes_max,
            unapplied_bytes_max: memtable_bytes_max,
            unapplied_expiry_bytes_max: memtable_bytes_max,
            unapplied_index_bytes_max: 0,
            extra_bytes_max: 0,
        }
    }
}

/// Why a bar could not end.
#[derive(Debug, Error)]
pub enum BarError {
    /// The grid has no room for what has to be written. Admission by [`Forest::space`] keeps this
    /// from happening.
    #[error("the grid is full: {needed} blocks needed for {what}, {free} are free")]
    Full {
        /// What has to be written.
        what: &'static str,
        /// Blocks it needs.
        needed: u64,
        /// Blocks there are.
        free: u64,
    },
}

/// More of a grid is unreadable than can be kept in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more than {} places of the grid are unreadable", crate::grid::CONDEMNED_MAX)]
pub struct TooManyCondemned;

/// What a forest has done since it was opened, and what it owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bars ended.
    pub bars: u64,
    /// Jobs whose effects were applied.
    pub jobs: u64,
    /// Of these, flushes of a memtable, and those that took a small run with them.
    pub flushes: u64,
    /// Flushes that took a small run with them.
    pub coalesced: u64,
    /// Value blocks that jobs read.
    pub blocks_read: u64,
    /// Blocks that jobs wrote.
    pub blocks_written: u64,
    /// Tables that changed their level as they are.
    pub tables_moved: u64,
    /// Value blocks that changed their table as they are.
    pub blocks_moved: u64,
    /// Tables of which a part was left where it was.
    pub tables_cut: u64,
    /// Merges that ended before their slice did, for want of room.
    pub ended_early: u64,
    /// Entries that jobs merged.
    pub entries_merged: u64,
    /// Versions dropped that no reader could see any more.
    pub versions_dropped: u64,
    /// Tombstones dropped that hid nothing any more.
    pub tombstones_dropped: u64,
    /// Entries of dead generations dropped.
    pub dead_dropped: u64,
    /// Beats.
    pub beats: u64,
    /// Beats after which the jobs were further behind than they may be.
    pub beats_overdue: u64,
    /// Input blocks that beats have paid for.
    pub blocks_paid: u64,
    /// Input blocks that one beat has paid for at most.
    pub beat_blocks_max: u64,
    /// Work of the bar under way, in input blocks.
    pub work: u64,
    /// Part of that work that is paid for and not done.
    pub debt: u64,
    /// Sorted runs of all trees: what a reader asks at most.
    pub runs: u64,
    /// Entries of a hundred that are dead, in the tree of objects; estimated.
    pub dead_percent: u64,
    /// Entries in the tables of each tree, in the order of [`Tree::ALL`]; every version counts.
    pub tree_entries: [u64; Tree::ALL.len()],
    /// Bytes of keys and values in them.
    pub tree_bytes: [u64; Tree::ALL.len()],
}

/// A key that something will soon be done with; see [`Forest::prefetch_slot`].
#[derive(Clone, Copy, Debug)]
pub struct Foreseen {
    hash: u64,
    key_len: usize,
}

/// A table that compaction leaves alone because a block of it is corrupt.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// The table.
    pub table: Rc<TableInfo>,
    /// The block.
    pub block: BlockAddress,
    /// What is wrong with it.
    pub fault: BlockFault,
}

/// Work that is waiting, for the owner to decide whether an idle log needs a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The bar's jobs are not all paid for, or the next bars have tables to drop.
    pub jobs: bool,
    /// No deadline before this one is in the expiry tree; none if it is empty. May be too early.
    pub deadline: Option<u64>,
    /// If space is short: further bars may bring some back. Not for ever: once there is nothing
    /// left to merge, and what was released has come free, they would change nothing.
    pub space: bool,
    /// Runs could become fewer, which readers would feel. It is worth the writing once the log has
    /// been idle for a while, not in every pause between two requests.
    pub tidy: bool,
}

/// One tree: memtables above, tables below.
pub(crate) struct TreeState {
    pub(crate) memtables: Memtables,
    pub(crate) manifest: Manifest,
}

/// The bar's jobs at work.
struct Running {
    budget: Rc<Budget>,
    task: ioring::Task<Vec<Outcome>>,
    horizon: u64,
}

/// All trees of a shard; see the module.
pub struct Forest {
    grid: Rc<Grid>,
    pub(crate) config: Rc<Config>,
    options: Options,
    pub(crate) trees: Vec<TreeState>,
    pub(crate) manifest_log: ManifestLog,
    /// Of the tree of objects.
    rows: RefCell<RowCache>,
    running: Option<Running>,
    /// Bars ended since the open: what a reader began in one may be moved in a later one.
    epoch: Rc<Cell<u64>>,
    version: u64,
    /// The newest version when this bar began, and when the one before began.
    version_bar: u64,
    snapshot_min: u64,
    generations: Generations,
    /// Index addresses of tables with a corrupt block, and what was found.
    quarantined: BTreeSet<u64>,
    faults: Vec<Quarantined>,
    /// The blocks of the newest checkpoint beside tables and manifest: released by the next one.
    pub(crate) root_blocks: Vec<(BlockType, BlockReference)>,
    /// Whether they, and the manifest log's, are on the disk.
    pub(crate) checkpoint_written: Rc<Cell<bool>>,
    /// What a scrub has found and reported.
    pub(crate) reported: Reported,
    /// No deadline in the expiry tree is before this one; the same for those put since the walk
    /// over due deadlines that is under way began.
    deadline_min: u64,
    deadline_min_new: u64,
    stats: Stats,
    /// Bars in a row that began without jobs.
    bars_idle: u32,
    /// Bars that an idle log is woken for, so that tables of dead generations go.
    bars_to_drop: u32,
    /// Whether bars without writes would merge more than the one under way does.
    untidy: bool,
    /// Whether the bar began with so little space that deletes were refused: nothing expires in it.
    expiry_paused: bool,
    /// Scratch for the keys of the trees of deadlines and of indexes.
    expiry_key: Vec<u8>,
    index_key: Vec<u8>,
}

impl Forest {
    /// Opens a forest from a checkpoint's root, or an empty one, and gives back the `extra` bytes
    /// that the checkpoint was given.
    ///
    /// # Errors
    ///
    /// A block of the checkpoint is corrupt.
    pub async fn open(
        grid: Rc<Grid>,
        root: Option<&Root>,
        options: Options,
    ) -> Result<(Forest, Vec<u8>), OpenError> {
        let mut forest = Forest::empty(&grid, options);
        let Some(root) = root else { return Ok((forest, Vec::new())) };
        let state = RootState::read(&grid, root).await?;
        grid.install_free_set(state.free_set);
        let log = ManifestLog::open(&grid, &state.manifest).await;
        forest.manifest_log = log.map_err(OpenError::Manifest)?;
        for (level, table) in forest.manifest_log.tables() {
            let tree = Tree::from_id(table.tree).ok_or(OpenError::UnknownTree(table.tree))?;
            let manifest = &mut forest.trees[tree.index()].manifest;
            if !manifest.fits(level, table) {
                return Err(OpenError::Misplaced(table.index.address));
            }
            manifest.insert(level, Rc::clone(table));
        }
        forest.version = state.version;
        forest.version_bar = state.version;
        forest.snapshot_min = state.snapshot_min;
        forest.root_blocks = state.blocks;
        // Deadlines in the tables are not known before the first walk.
        forest.deadline_min = 0;
        Ok((forest, state.extra))
    }

    /// Bytes that the grid file has, and bytes up to the last block in use, if it is shorter than
    /// that: it was cut, and what stood behind its end is lost.
    #[must_use]
    pub fn cut(&self) -> Option<(u64, u64)> {
        let block_size = u64::from(self.config.block_size);
        let (have, needed) = (self.grid.blocks_allocated(), self.grid.blocks_needed());
        (have < needed).then_some((have * block_size, needed * block_size))
    }

    /// The grid file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.grid.path()
    }

    /// The grid.
    pub(crate) fn grid(&self) -> &Rc<Grid> {
        &self.grid
    }

    fn empty(grid: &Rc<Grid>, options: Options) -> Forest {
        let config = Rc::new(grid.config().clone());
        let bytes_max = usize::try_from(options.memtable_bytes_max);
        let bytes_max = bytes_max.expect("a memtable fits memory");
        let trees = Tree::ALL.map(|_| TreeState {
            memtables: Memtables::new(bytes_max),
            manifest: Manifest::new(config.levels),
        });
        Forest {
            grid: Rc::clone(grid),
            manifest_log: ManifestLog::new(&config),
            rows: RefCell::new(RowCache::new(config.cache_shares().rows)),
            config,
            options,
            trees: trees.into(),
            running: None,
            epoch: Rc::new(Cell::new(0)),
            version: 0,
            version_bar: 0,
            snapshot_min: 0,
            generations: Generations::default(),
            quarantined: BTreeSet::new(),
            faults: Vec::new(),
            root_blocks: Vec::new(),
            checkpoint_written: Rc::new(Cell::new(true)),
            reported: Reported::default(),
            deadline_min: u64::MAX,
            deadline_min_new: u64::MAX,
            stats: Stats::default(),
            bars_idle: 0,
            bars_to_drop: 0,
            untidy: false,
            expiry_paused: false,
            expiry_key: Vec::new(),
            index_key: Vec::new(),
        }
    }

    // ---- writes ----

    /// Writes a value. A deadline other than [`DEADLINE_NONE`] is noted in the expiry tree too.
    ///
    /// `version` is above every version written before.
    pub fn put(&mut self, key: &[u8], version: u64, value: &[u8], deadline: u64) {
        assert!(key.len() <= self.config.key_size_max as usize, "key of {} bytes", key.len());
        assert!(value.len() <= self.config.value_size_max as usize, "value of {}", value.len());
        self.advance(version);
        let payload = Payload::Inline(value);
        self.write(Tree::Objects, &EntryRef { key, version, deadline, payload });
        if deadline != DEADLINE_NONE {
            self.deadline_min = self.deadline_min.min(deadline);
            self.deadline_min_new = self.deadline_min_new.min(deadline);
            self.write_expiry(deadline, key, version, Payload::Inline(&[]));
        }
    }

    /// Asks the processor for what a write of this object reads first, and gives what
    /// [`Forest::prefetch_key`] wants a few writes later.
    #[inline]
    #[must_use]
    pub fn prefetch_slot(&self, key: &[u8]) -> Foreseen {
        let foreseen = Foreseen { hash: filter::hash(key), key_len: key.len() };
        self.trees[Tree::Objects.index()].memtables.mutable().prefetch_slot(foreseen.hash);
        foreseen
    }

    /// Asks for the object's record, whose place is known by now.
    #[inline]
    pub fn prefetch_key(&self, foreseen: Foreseen) {
        let memtable = self.trees[Tree::Objects.index()].memtables.mutable();
        memtable.prefetch_key(foreseen.hash, foreseen.key_len);
    }

    /// Deletes an object. Its expiry entry, if any, is found and deleted when it is due.
    pub fn delete(&mut self, key: &[u8], version: u64) {
        self.advance(version);
        let (deadline, payload) = (DEADLINE_NONE, Payload::Tombstone);
        self.write(Tree::Objects, &EntryRef { key, version, deadline, payload });
    }

    /// Deletes an entry of the expiry tree that a pulse has dealt with.
    pub fn delete_due(&mut self, due: &Due, version: u64) {
        assert!(version >= self.version, "versions grow: {version} after {}", self.version);
        self.version = version;
        self.write_expiry(due.deadline, &due.key, version, Payload::Tombstone);
    }

    /// From `version` on, only this generation of a table is alive: compaction drops older ones.
    pub fn set_generation(&mut self, table: u32, generation: u32, version: u64) {
        self.generations.set(table, generation, version);
        // The horizon has to pass it even if nothing is written any more.
        self.version = self.version.max(version);
        let has_dead = |tree: &Tree| {
            let mut tables = self.trees[tree.index()].manifest.tables();
            let (dead, tree) = (&self.generations, *tree);
            tables.any(|(_, table)| dead.are_all_dead(tree, &table.key_min, &table.key_max))
        };
        if Tree::ALL.iter().any(has_dead) {
            self.bars_to_drop = BARS_UNTIL_DROPPED;
        }
    }

    fn write(&mut self, tree: Tree, entry: &EntryRef<'_>) {
        let hash = filter::hash(entry.key);
        let is_new = self.trees[tree.index()].memtables.put(&self.config, hash, entry);
        if is_new && tree == Tree::Objects {
            self.rows.get_mut().remove(hash, entry.key);
        }
    }

    fn write_expiry(&mut self, deadline: u64, key: &[u8], version: u64, payload: Payload<'_>) {
        let mut expiry_key = std::mem::take(&mut self.expiry_key);
        expiry::encode_into(&mut expiry_key, deadline, key);
        self.write(Tree::Expiry, &EntryRef { key: &expiry_key, version, deadline, payload });
        self.expiry_key = expiry_key;
    }

    fn advance(&mut self, version: u64) {
        assert!(version > self.version, "versions grow: {version} after {}", self.version);
        self.version = version;
    }

    // ---- reads ----

    /// Looks a key up in memory: the newest version not above `version_max`. `found` gets the entry
    /// where it lies; it is never a tombstone. Whether its deadline has passed is the caller's to
    /// decide. `found` must not look anything up itself.
    #[inline]
    pub fn get_cached<R>(
        &self,
        tree: Tree,
        key: &[u8],
        version_max: u64,
        want: Want,
        found: impl FnOnce(&EntryRef<'_>) -> R,
    ) -> Lookup<R> {
        let state = &self.trees[tree.index()];
        let hash = filter::hash(key);
        match state.memtables.get(hash, key, version_max) {
            Some(entry) if entry.payload.is_tombstone() => return Lookup::Absent,
            Some(entry) => return Lookup::Found(found(&entry)),
            None => {}
        }
        if tree == Tree::Objects
            && let Some(row) = self.rows.borrow_mut().get(hash, key)
            && row.version <= version_max
        {
            return Lookup::Found(found(&row));
        }
        self.get_in_tables(tree, (hash, key, version_max, want), found)
    }

    /// Looks a key up in the tables, as far as they are cached.
    fn get_in_tables<R>(
        &self,
        tree: Tree,
        wanted: lookup::Wanted<'_>,
        found: impl FnOnce(&EntryRef<'_>) -> R,
    ) -> Lookup<R> {
        let (hash, _, version_max, _) = wanted;
        let manifest = &self.trees[tree.index()].manifest;
        // As of an older snapshot memtables or tables may hold a newer version than the one found.
        let is_newest = tree == Tree::Objects && version_max >= self.version;
        let reader = || self.reader(tree);
        lookup::tables(reader, &self.grid, manifest, wanted, |entry| {
            if is_newest {
                self.rows.borrow_mut().offer(hash, entry);
            }
            found(entry)
        })
    }

    /// Does one bounded step of a scan: at most about `limit` entries are looked at. `emit` gets
    /// the newest version of each live key; a large value as a reference.
    pub fn scan_step(
        &self,
        scan: &mut Scan,
        limit: usize,
        emit: impl FnMut(&EntryRef<'_>) -> ControlFlow<()>,
    ) -> ScanStep {
        if scan.version_max() < self.snapshot_min {
            return ScanStep::TooOld;
        }
        let (tree, state) = (scan.tree, &self.trees[scan.tree.index()]);
        let view = View {
            grid: &self.grid,
            memtables: &state.memtables,
            manifest: &state.manifest,
            epoch: self.epoch.get(),
            reader: &|| self.reader(tree),
        };
        scan::step(scan, &view, limit, emit)
    }

    /// A walk over the objects whose deadline is at most `now`, in the order of deadlines. One at a
    /// time.
    #[must_use]
    pub fn due(&mut self, now: u64) -> DueScan {
        self.deadline_min_new = u64::MAX;
        DueScan::new(now)
    }

    /// Does one step of that walk: appends what it finds until `out` has `limit`.
    ///
    /// For each: if the object's current deadline is the one found, [`Forest::delete`] it; in any
    /// case [`Forest::delete_due`].
    /// Dead generations are passed over. How much of them compaction has dropped already depends on
    /// whether the log was replayed from a checkpoint; what a pulse does must not.
    pub fn due_step(&mut self, due: &mut DueScan, limit: usize, out: &mut Vec<Due>) -> DueStep {
        if self.expiry_paused {
            self.deadline_min = self.deadline_min.min(self.deadline_min_new);
            return DueStep::Finished;
        }
        let now = due.now;
        let mut next = None;
        let generations = &self.generations;
        let step = self.scan_step(&mut due.scan, 4 * limit, |entry| {
            if generations.is_dead(Tree::Expiry, entry.key) {
                return ControlFlow::Continue(());
            }
            let (deadline, key) = expiry::decode(entry.key).expect("expiry keys have a deadline");
            if deadline > now {
                next = Some(deadline);
                return ControlFlow::Break(());
            }
            out.push(Due { deadline, key: key.to_vec() });
            if out.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match (step, next) {
            (ScanStep::NeedsRead(read), _) => DueStep::NeedsRead(read),
            (ScanStep::More, None) => DueStep::More,
            (ScanStep::TooOld, _) => unreachable!("the newest version is never too old"),
            (ScanStep::Done, _) | (ScanStep::More, Some(_)) => {
                let first = out.first().map(|due| due.deadline).or(next).unwrap_or(u64::MAX);
                self.deadline_min = self.deadline_min_new.min(first);
                DueStep::Finished
            }
        }
    }

    /// The oldest snapshot that can be read.
    #[must_use]
    pub fn snapshot_min(&self) -> u64 {
        self.snapshot_min
    }

    /// The newest version written.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn reader(&self, tree: Tree) -> lookup::Reader {
        lookup::Reader::new(&self.grid, tree, &self.epoch)
    }

    // ---- beats and bars ----

    /// Accounted bytes in the fullest mutable memtable: what the bar's schedule wants reported.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        let bytes = self.trees.iter().map(|tree| tree.memtables.mutable().bytes());
        bytes.max().unwrap_or(0) as u64
    }

    /// Pays for the bar's jobs up to its progress.
    pub fn beat(&mut self, progress: Progress) {
        self.stats.beats += 1;
        if let Some(running) = &self.running {
            let budget = &running.budget;
            let paid = budget.pay(progress);
            self.stats.beat_blocks_max = self.stats.beat_blocks_max.max(paid);
            self.stats.beats_overdue += u64::from(budget.debt() > budget.debt_max());
        }
    }

    /// Waits until the jobs are not too far behind what the beats have paid for.
    pub fn paced(&self) -> impl Future<Output = ()> + use<> {
        let budget = self.running.as_ref().map(|running| Rc::clone(&running.budget));
        async move {
            if let Some(budget) = budget {
                budget.within().await;
            }
        }
    }

    /// Pays for all that is left of the bar's jobs and waits until they are done.
    pub fn bar_done(&self) -> impl Future<Output = ()> + use<> {
        let budget = self.running.as_ref().map(|running| Rc::clone(&running.budget));
        async move {
            if let Some(budget) = budget {
                budget.pay(Progress::WHOLE);
                budget.finished().await;
            }
        }
    }

    /// Ends the bar: see the module. If `end` says that a checkpoint is due it is taken, with
    /// `extra` kept in it: what the owner has to remember as of the checkpoint's op, which is the
    /// last op of the bar before this one.
    ///
    /// # Panics
    ///
    /// If the bar's jobs are not done ([`Forest::bar_done`]).
    ///
    /// # Errors
    ///
    /// The grid is full; the process cannot go on.
    pub fn bar_end(&mut self, end: &BarEnd, extra: &[u8]) -> Result<Option<Checkpoint>, BarError> {
        self.epoch.set(self.epoch.get() + 1);
        self.stats.bars += 1;
        if let Some(running) = self.running.take() {
            assert!(running.budget.is_finished(), "a bar ends when its jobs are done");
            self.stats.blocks_paid += running.budget.target();
            let outcomes = running.task.try_take().expect("the jobs' task ends with them");
            for outcome in outcomes {
                self.apply(outcome);
            }
            self.snapshot_min = running.horizon;
        }
        if end.free.is_some() {
            self.grid.checkpoint_free();
        }
        for tree in &mut self.trees {
            tree.memtables.swap();
        }
        let checkpoint = match end.checkpoint {
            Some(op) => Some(self.checkpoint(op, end.op, extra)?),
            None => None,
        };
        self.version_bar = self.version;
        self.start_bar(end.op)?;
        Ok(checkpoint)
    }

    fn apply(&mut self, outcome: Outcome) {
        self.stats.jobs += u64::from(outcome.corrupt.is_none());
        self.count(&outcome.done);
        for change in &outcome.changes {
            let live = self.trees[outcome.tree.index()].manifest.apply(change);
            match (live, change) {
                (Some((level, table)), _) => self.manifest_log.insert(level, table),
                (None, Change::Remove(_, table)) => {
                    self.manifest_log.remove(table);
                    self.unquarantine(table);
                    self.grid.forget_index(table);
                }
                (None, _) => unreachable!("only a removal leaves nothing behind"),
            }
        }
        for address in outcome.released {
            self.grid.release(address);
        }
        self.grid.forfeit(outcome.reservation);
        if let Some(Corrupt { table, block, fault }) = outcome.corrupt {
            self.quarantine(&table, block, fault);
        }
    }

    /// Keeps further jobs from a table with a corrupt block.
    pub(crate) fn quarantine(
        &mut self,
        table: &Rc<TableInfo>,
        block: BlockAddress,
        fault: BlockFault,
    ) {
        if self.quarantined.insert(plan::key(table.index)) {
            let address = table.index.address;
            tracing::error!(table = %address, %block, %fault, "quarantined a corrupt table");
            self.faults.push(Quarantined { table: Rc::clone(table), block, fault });
        }
    }

    /// A scrub may quarantine a table that a job has read in full already. When it is gone, its
    /// address will be another's.
    fn unquarantine(&mut self, table: &TableInfo) {
        if self.quarantined.remove(&plan::key(table.index)) {
            self.faults.retain(|fault| fault.table.index != table.index);
        }
    }

    fn count(&mut self, done: &Done) {
        let stats = &mut self.stats;
        stats.flushes += u64::from(done.flush);
        stats.coalesced += u64::from(done.coalesced);
        stats.blocks_read += done.blocks_read;
        stats.blocks_written += done.blocks_written;
        stats.tables_moved += done.tables_moved;
        stats.blocks_moved += done.blocks_moved;
        stats.tables_cut += done.tables_cut;
        stats.ended_early += u64::from(done.ended_early);
        stats.entries_merged += done.entries;
        stats.versions_dropped += done.dropped.versions;
        stats.tombstones_dropped += done.dropped.tombstones;
        stats.dead_dropped += done.dropped.dead;
    }

    fn start_bar(&mut self, op: u64) -> Result<(), BarError> {
        let horizon = self.horizon();
        let generations = self.generations.as_of(horizon);
        let setting = Setting {
            config: &self.config,
            op,
            quarantined: &self.quarantined,
            dead: &generations,
            short: !self.space_beyond_flushes().allows_puts(),
        };
        let planned = Tree::ALL.map(|tree| {
            let state = &self.trees[tree.index()];
            plan::bar(&setting, tree, state.memtables.immutable(), &state.manifest)
        });
        let untidy = Tree::ALL
            .iter()
            .any(|tree| plan::is_untidy(&setting, *tree, &self.trees[tree.index()].manifest));
        self.expiry_paused = !self.space_beyond_flushes().allows_deletes();
        let jobs = self.reserve(planned.into_iter().flatten().collect())?;
        let drops = jobs.iter().any(|(job, _)| job.drops);
        self.bars_to_drop = self.bars_to_drop.saturating_sub(1).max(u32::from(drops));
        // A bar that can do nothing about it, for want of room, leaves the next one no more to do.
        self.untidy = untidy && !jobs.is_empty();
        if jobs.is_empty() {
            self.bars_idle = self.bars_idle.saturating_add(1);
            return Ok(());
        }
        self.bars_idle = 0;
        let work = jobs.iter().map(|(job, _)| job.work(&self.config)).sum();
        let budget = Budget::new(work);
        let context = Context {
            grid: Rc::clone(&self.grid),
            budget: Rc::clone(&budget),
            config: Rc::clone(&self.config),
            op,
            horizon,
            generations,
        };
        let jobs = job::run_all(context, jobs);
        let task = ioring::spawn(ioring::Queue::Background, "compaction", jobs);
        self.running = Some(Running { budget, task, horizon });
        Ok(())
    }

    /// The version below which the jobs of the bar that starts now drop superseded versions.
    fn horizon(&self) -> u64 {
        let kept = self.version_bar.saturating_sub(self.config.history_window);
        kept.max(self.snapshot_min)
    }

    /// What an idle log should be woken for.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let unpaid = self.running.as_ref().is_some_and(|running| !running.budget.is_finished());
        let jobs = unpaid || self.bars_to_drop > 0;
        let waits = self.expiry_paused && !self.space().allows_deletes();
        let deadline = (self.deadline_min != u64::MAX && !waits).then_some(self.deadline_min);
        let to_flush = self.trees.iter().any(|tree| !tree.memtables.mutable().is_empty());
        let space = to_flush || self.bars_idle <= crate::bar::BARS_UNTIL_FREE;
        Pending { jobs, deadline, space, tidy: self.untidy }
    }

    // ---- faults, figures ----

    /// Whether a corrupt table has kept level 0 of a tree from being merged for so long that more
    /// writes would make every read slow: they are to be refused until the table is repaired.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let runs_max = self.config.level0_runs_max as usize * LEVEL0_STUCK;
        let too_many = |state: &TreeState| {
            let runs = state.manifest.runs_of(Level(0));
            runs.count() >= runs_max
        };
        !self.quarantined.is_empty() && self.trees.iter().any(too_many)
    }

    /// Live tables of all trees.
    #[must_use]
    pub fn table_count(&self) -> usize {
        self.manifest_log.tables().len()
    }

    /// What was done since the open, and what is owed.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let budget = self.running.as_ref().map(|running| &running.budget);
        let of = |budget: &Rc<Budget>| (budget.total(), budget.debt(), budget.target());
        let (work, debt, paid) = budget.map_or((0, 0, 0), of);
        let runs = self.trees.iter().map(|tree| tree.manifest.sorted_runs().count() as u64).sum();
        let objects = &self.trees[Tree::Objects.index()].manifest;
        let dead_percent = objects.census().dead_percent().unwrap_or(0);
        let blocks_paid = self.stats.blocks_paid + paid;
        let census = |of: fn(&Census) -> u64| {
            Tree::ALL.map(|tree| of(self.trees[tree.index()].manifest.census()))
        };
        let (tree_entries, tree_bytes) = (census(Census::entries), census(Census::value_bytes));
        Stats {
            work,
            debt,
            blocks_paid,
            runs,
            dead_percent,
            tree_entries,
            tree_bytes,
            ..self.stats
        }
    }

    /// What its caches have answered since the open.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        let (row_hits, row_misses) = self.rows.borrow().hits_and_misses();
        CacheStats { row_hits, row_misses, ..self.grid.stats().cache }
    }

    /// What jobs have found to be corrupt since the open.
    #[must_use]
    pub fn faults(&self) -> &[Quarantined] {
        &self.faults
    }

    /// Fails all further reads of what an operation of the log could not be done without: see
    /// [`crate::grid`]. The owner keeps [`Forest::condemned`] in its checkpoints.
    ///
    /// # Errors
    /// The list is full ([`crate::grid::CONDEMNED_MAX`]).
    pub fn condemn(&mut self, offset: u64) -> Result<(), TooManyCondemned> {
        // Rows that stand there are not to be had from memory either.
        self.rows.get_mut().clear();
        self.grid.condemn(offset).then_some(()).ok_or(TooManyCondemned)
    }

    /// Offsets in the grid file that fail every read.
    #[must_use]
    pub fn condemned(&self) -> Vec<u64> {
        self.grid.condemned()
    }

    /// Whether any read has failed for good since the open, or is known to fail.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.grid.is_damaged()
    }

    pub(crate) fn snapshot(&self) -> (u64, u64) {
        (self.version_bar, self.snapshot_min)
    }
}

/// Bars after the end of a generation in which its readers are gone, and its tables with them.
const BARS_UNTIL_DROPPED: u32 = 3;
/// Level 0 is stuck when it holds this many times the runs that make its merge due.
const LEVEL0_STUCK: usize = 8;

#[cfg(test)]
mod bound_tests;
#[cfg(test)]
mod compaction_tests;
mod copies;
#[cfg(test)]
pub(crate) mod harness;
mod keep;
#[cfg(test)]
mod proof;
mod reindex;
#[cfg(test)]
mod row_tests;
mod space;
#[cfg(test)]
mod tests;
