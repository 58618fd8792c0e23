//! A disk and its file system in memory, which can lose power and lie.
//!
//! ```text
//!   operations of the driver, faults drawn or injected
//!            |  each becomes one or more Events (trace.rs records them)
//!            v
//!   SimDisk::apply(Event)   ──  Tree: names, durable after sync_dir   (tree.rs)
//!                           ──  FileState per inode: what reads see,
//!                               what survives, changes between them   (file.rs)
//!   SimDisk::crash(keep)    ──  every pending sector, length and name survives or not
//! ```
//!
//! 1. Every mutation is an [`Event`]; applying the same events to the same disk gives the same
//!    disk. This is what lets a recorded workload be cut off at any point ([`crate::sim::trace`]).
//! 2. An operation in flight is between its start and its end; a crash between them leaves any
//!    subset of its sectors. What has ended and is not covered by a sync is in the same position.
//! 3. A crash asks one question per undecided atom ([`Atom`]): a sector of a write, a length, a
//!    name. Who answers decides what kind of crash it is: seeded ([`SimDisk::power_loss`]) or
//!    enumerated (`trace`).
//! 4. A process that is killed loses nothing that the kernel had accepted
//!    ([`SimDisk::process_end`]): only a loss of power loses the cache.
//!
//! The model promises nothing that a real file system does not: sectors are the only unit of
//! atomicity, names need a sync of their directory, a failed sync forgets what it was to cover.
//! Reads and lengths in bytes are allowed at any alignment; refusing unaligned direct I/O is the
//! driver's business.

mod control;
mod fault;
mod file;
mod image;
mod survival;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim::dice::Dice;
use crate::sim::trace::Trace;
use fault::Faults;
pub use fault::{FaultCounts, FaultPlan, ReadFault, WriteFault};
pub(crate) use file::Change;
use file::FileState;
use survival::Survival;
pub(crate) use tree::NameChange;
use tree::{Entry, Tree};

/// A file or directory, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode(pub(crate) u64);

/// A change of a file between its start and its becoming durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChangeId(pub(crate) u64);

/// A sync in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SyncId(pub(crate) u64);

/// What a crash keeps or loses as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atom {
    /// Sector `index` of the `count` of a write.
    Sector { change: ChangeId, index: u64, count: u64 },
    /// The length (or discard) that a change brought.
    Length { change: ChangeId },
    /// One change of names.
    Name { index: usize },
}

/// Everything that can happen to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An empty file or directory exists, still without a name.
    Exists {
        inode: Inode,
        directory: bool,
    },
    Names(NameChange),
    SyncNames(Inode),
    Start {
        file: Inode,
        id: ChangeId,
        change: Change,
    },
    End {
        file: Inode,
        id: ChangeId,
        durable: bool,
    },
    SyncStart {
        file: Inode,
        sync: SyncId,
    },
    SyncEnd {
        file: Inode,
        sync: SyncId,
        succeeded: bool,
    },
    /// Something the workload wants to remember about this moment.
    Note(u64),
}

/// How a disk is made.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Bytes that are written atomically: 512 or 4096.
    pub sector: u64,
    /// Sum of all files' lengths that fits.
    pub capacity: u64,
    /// Faults by rate.
    pub faults: FaultPlan,
}

impl Default for DiskConfig {
    fn default() -> DiskConfig {
        DiskConfig { sector: 512, capacity: u64::MAX, faults: FaultPlan::default() }
    }
}

/// A write or change that has started and not ended.
#[derive(Debug)]
pub(crate) struct Started {
    file: Inode,
    id: Option<ChangeId>,
    failed: bool,
}

/// A disk with its file system. Clones share unchanged data.
#[derive(Clone)]
pub struct SimDisk {
    config: DiskConfig,
    tree: Tree,
    files: BTreeMap<Inode, FileState>,
    /// The last name each file was given, for fault plans and messages.
    names: BTreeMap<Inode, String>,
    locks: BTreeMap<Inode, u64>,
    faults: Faults,
    dice: Dice,
    /// Decides what crashes leave; apart from faults, so that either can vary alone.
    crash_dice: Dice,
    next: u64,
    syncs_ignored: bool,
    trace: Option<Box<Trace>>,
}

impl SimDisk {
    /// An empty disk, synced; `seed` decides its faults and what crashes leave.
    pub fn new(config: DiskConfig, seed: u64) -> SimDisk {
        assert!(config.sector.is_power_of_two() && config.sector <= 4096, "sector size");
        let faults = Faults::new(config.faults.clone());
        SimDisk {
            config,
            tree: Tree::new(),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            locks: BTreeMap::new(),
            faults,
            dice: Dice::new(seed, "disk"),
            crash_dice: Dice::new(seed, "crash"),
            next: 1,
            syncs_ignored: false,
            trace: None,
        }
    }

    /// Records and applies.
    fn happen(&mut self, event: Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event.clone());
        }
        self.apply(event);
    }

    /// Applies an event, recorded before or happening now.
    pub(crate) fn apply(&mut self, event: Event) {
        let sector = self.config.sector;
        match event {
            Event::Exists { inode, directory: true } => self.tree.add_directory(inode),
            Event::Exists { inode, directory: false } => {
                self.files.insert(inode, FileState::default());
            }
            Event::Names(change) => {
                if let Some(entry) = &change.insert {
                    let name = entry.name.to_string_lossy().into_owned();
                    self.names.insert(entry.inode, name);
                }
                self.tree.change(change);
            }
            Event::SyncNames(directory) => self.tree.sync(directory),
            Event::Start { file, id, change } => self.file(file).start(id, change, sector),
            Event::End { file, id, durable } => self.file(file).end(id, durable, sector),
            Event::SyncStart { file, sync } => self.file(file).sync_start(sync),
            Event::SyncEnd { file, sync, succeeded } => {
                self.file(file).sync_end(sync, succeeded, sector);
            }
            Event::Note(_) => {}
        }
    }

    fn file(&mut self, file: Inode) -> &mut FileState {
        self.files.get_mut(&file).expect("an open file exists until a crash")
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- names ----

    /// Finds or creates a file.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        create: bool,
        create_new: bool,
    ) -> io::Result<Inode> {
        match self.tree.find(path) {
            Ok(_) if create_new => Err(io::ErrorKind::AlreadyExists.into()),
            Ok(inode) if self.tree.is_directory(inode) => Err(io::ErrorKind::IsADirectory.into()),
            Ok(inode) => Ok(inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound && (create || create_new) => {
                self.make(path, false)
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a directory.
    pub fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.tree.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.make(path, true).map(|_| ())
    }

    fn make(&mut self, path: &Path, directory: bool) -> io::Result<Inode> {
        let (parent, name) = self.tree.find_parent(path)?;
        let inode = Inode(self.fresh());
        self.happen(Event::Exists { inode, directory });
        let insert = Some(Entry { directory: parent, name: name.to_owned(), inode });
        self.happen(Event::Names(NameChange { remove: None, insert }));
        Ok(inode)
    }

    /// Renames, replacing a file (not a directory) at the target.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.tree.find(from)?;
        let (from_parent, from_name) = self.tree.find_parent(from)?;
        let (to_parent, to_name) = self.tree.find_parent(to)?;
        if let Some(target) = self.tree.get(to_parent, to_name) {
            if target == inode {
                return Ok(());
            }
            match (self.tree.is_directory(inode), self.tree.is_directory(target)) {
                (false, false) => {}
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, true) if self.tree.list(target).next().is_none() => {}
                (true, true) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        }
        let remove = Entry { directory: from_parent, name: from_name.to_owned(), inode };
        let insert = Entry { directory: to_parent, name: to_name.to_owned(), inode };
        self.happen(Event::Names(NameChange { remove: Some(remove), insert: Some(insert) }));
        Ok(())
    }

    /// Removes a file's name; what has it open keeps it.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.tree.find(path)?;
        if self.tree.is_directory(inode) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (directory, name) = self.tree.find_parent(path)?;
        self.unlink(directory, name, inode);
        Ok(())
    }

    /// Removes a directory and all below it, one name after the other.
    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.tree.find(path)?;
        if !self.tree.is_directory(inode) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (parent, name) = self.tree.find_parent(path)?;
        // Children are visited before their directory loses its name.
        let mut open = vec![inode];
        let mut names = vec![(parent, name.to_owned(), inode)];
        while let Some(directory) = open.pop() {
            for (name, child) in self.tree.list(directory) {
                names.push((directory, name.clone(), child));
                if self.tree.is_directory(child) {
                    open.push(child);
                }
            }
        }
        for (directory, name, inode) in names.into_iter().rev() {
            self.unlink(directory, &name, inode);
        }
        Ok(())
    }

    fn unlink(&mut self, directory: Inode, name: &OsStr, inode: Inode) {
        let remove = Some(Entry { directory, name: name.to_owned(), inode });
        self.happen(Event::Names(NameChange { remove, insert: None }));
    }

    /// Full paths of a directory's entries, sorted.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let inode = self.tree.find(path)?;
        if !self.tree.is_directory(inode) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(self.tree.list(inode).map(|(name, _)| path.join(name)).collect())
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.tree.find(path)?;
        if !self.tree.is_directory(inode) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !self.syncs_ignored {
            self.happen(Event::SyncNames(inode));
        }
        Ok(())
    }

    /// Whether `path` is a directory, and its length.
    pub fn metadata(&self, path: &Path) -> io::Result<(bool, u64)> {
        let inode = self.tree.find(path)?;
        let length = self.files.get(&inode).map_or(0, |file| file.length);
        Ok((self.tree.is_directory(inode), length))
    }

    /// Takes a file's lock for `holder`; `false` if another has it.
    pub(crate) fn try_lock(&mut self, file: Inode, holder: u64) -> bool {
        *self.locks.entry(file).or_insert(holder) == holder
    }

    /// Releases what `holder` has locked.
    pub(crate) fn unlock(&mut self, holder: u64) {
        self.locks.retain(|_, by| *by != holder);
    }

    // ---- bytes ----

    /// A file's length in bytes.
    pub(crate) fn length(&self, file: Inode) -> u64 {
        self.files[&file].length
    }

    /// Reads into `out`; returns how many bytes there were.
    pub(crate) fn read(&mut self, file: Inode, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let sector = self.config.sector;
        let count = self.length(file).saturating_sub(offset).min(out.len() as u64);
        let out = &mut out[..count as usize];
        if count == 0 {
            return Ok(0);
        }
        let name = self.names.get(&file).map_or("", String::as_str);
        let mut from = offset;
        match self.faults.on_read(file, name, &mut self.dice) {
            None => {}
            Some(ReadFault::Error) => {
                let at = offset + self.dice.below(count);
                self.file(file).unreadable.insert(at / sector);
            }
            Some(ReadFault::Misdirected) => from = self.elsewhere(file, offset, count),
            Some(ReadFault::Rot) => {
                let at = offset + self.dice.below(count);
                let mask = 1 << self.dice.below(8);
                self.rot_inode(file, at, mask);
            }
        }
        let state = self.file(file);
        let sectors = from / sector..(from + count).div_ceil(sector);
        if state.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        state.current.read(from, out);
        Ok(count as usize)
    }

    /// Starts a write. Its end must be reported with [`SimDisk::write_end`].
    pub(crate) fn write_start(
        &mut self,
        file: Inode,
        offset: u64,
        data: &[u8],
    ) -> io::Result<Started> {
        let end = offset + data.len() as u64;
        self.reserve(file, end)?;
        let name = self.names.get(&file).map_or("", String::as_str);
        let fault = self.faults.on_write(file, name, &mut self.dice);
        let failed = fault == Some(WriteFault::Error);
        let mut id = None;
        match fault {
            None => id = Some(self.start_sectors(file, offset, data)),
            Some(WriteFault::Lost) => {}
            Some(WriteFault::Misdirected) => {
                let target = self.elsewhere(file, offset, data.len() as u64);
                id = Some(self.start_sectors(file, target, data));
            }
            Some(WriteFault::Error | WriteFault::Torn) => {
                let sector = self.config.sector as usize;
                for (index, piece) in data.chunks(sector).enumerate() {
                    if self.dice.coin() {
                        let at = offset + (index * sector) as u64;
                        let part = self.start_sectors(file, at, piece);
                        self.happen(Event::End { file, id: part, durable: !failed });
                    }
                }
            }
        }
        Ok(Started { file, id, failed })
    }

    /// Starts a write of the sectors that `data` touches, as a page cache would fill them.
    fn start_sectors(&mut self, file: Inode, offset: u64, data: &[u8]) -> ChangeId {
        let sector = self.config.sector;
        let end = offset + data.len() as u64;
        let from = offset / sector * sector;
        let mut sectors = vec![0; (end.next_multiple_of(sector) - from) as usize];
        if sectors.len() != data.len() {
            self.files[&file].current.read(from, &mut sectors);
        }
        let within = (offset - from) as usize;
        sectors[within..within + data.len()].copy_from_slice(data);
        let id = ChangeId(self.fresh());
        let change = Change::Write { offset: from, data: Arc::from(sectors), end };
        self.happen(Event::Start { file, id, change });
        id
    }

    /// Ends a write or another change; `durable` asks for what a write with `RWF_DSYNC` promises.
    pub(crate) fn write_end(&mut self, started: &Started, durable: bool) -> io::Result<()> {
        let Started { file, id, failed } = *started;
        if !self.files.contains_key(&file) {
            return Ok(());
        }
        if let Some(id) = id {
            self.happen(Event::End { file, id, durable: durable && !self.syncs_ignored });
        }
        if failed { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    /// Starts a change of length or a discard.
    pub(crate) fn change_start(&mut self, file: Inode, change: Change) -> io::Result<Started> {
        if let Change::SetLength(length) = change {
            self.reserve(file, length)?;
        }
        let id = ChangeId(self.fresh());
        self.happen(Event::Start { file, id, change });
        Ok(Started { file, id: Some(id), failed: false })
    }

    /// Starts a sync: it covers what has ended by now.
    pub(crate) fn sync_start(&mut self, file: Inode) -> SyncId {
        let sync = SyncId(self.fresh());
        self.happen(Event::SyncStart { file, sync });
        sync
    }

    /// Ends a sync.
    pub(crate) fn sync_end(&mut self, file: Inode, sync: SyncId) -> io::Result<()> {
        if self.syncs_ignored || !self.files.contains_key(&file) {
            return Ok(());
        }
        let name = self.names.get(&file).map_or("", String::as_str);
        let failed = self.faults.on_sync(file, name, &mut self.dice);
        self.happen(Event::SyncEnd { file, sync, succeeded: !failed });
        if failed { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    /// Another aligned offset within the file, for misdirection.
    fn elsewhere(&mut self, file: Inode, offset: u64, length: u64) -> u64 {
        let step = length.next_multiple_of(self.config.sector).max(1);
        let places = self.length(file) / step;
        if places < 2 {
            return offset + step;
        }
        let away = 1 + self.dice.below(places - 1);
        (offset / step + away) % places * step
    }

    fn reserve(&self, file: Inode, end: u64) -> io::Result<()> {
        let grown = end.saturating_sub(self.length(file));
        // A disk without a limit need not add up its files.
        if grown > 0
            && self.config.capacity < u64::MAX
            && self.used().saturating_add(grown) > self.config.capacity
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    // ---- ends ----

    /// Loses power: what no sync covers is kept, lost, torn or reordered as the disk's dice say.
    pub fn power_loss(&mut self) {
        let mut dice = self.crash_dice.clone();
        let mut survival = Survival::draw(&mut dice);
        self.crash(&mut |atom| survival.keeps(atom, &mut dice));
        self.crash_dice = dice;
    }

    /// Draws what crashes leave from another seed from now on.
    pub fn reseed_crashes(&mut self, seed: u64) {
        self.crash_dice = Dice::new(seed, "crash");
    }

    /// Loses power with every question answered by `keep`.
    pub(crate) fn crash(&mut self, keep: &mut dyn FnMut(Atom) -> bool) {
        let sector = self.config.sector;
        let reached = self.tree.crash(keep);
        // Files about to be dropped are asked too: questions must not depend on answers.
        for file in self.files.values_mut() {
            file.crash(sector, keep);
        }
        self.files.retain(|inode, _| reached.contains(inode));
        self.names.retain(|inode, _| reached.contains(inode));
        self.locks.clear();
        self.trace = None;
    }

    /// The process is gone and the host goes on: the kernel finishes what it had accepted.
    pub fn process_end(&mut self) {
        self.files.values_mut().for_each(FileState::end_all);
        self.locks.clear();
    }

    /// Makes everything durable, as a clean end of the host would.
    pub fn settle(&mut self) {
        self.tree.settle();
        self.files.values_mut().for_each(FileState::settle);
    }

    /// Whether a loss of power now would change anything.
    pub fn is_settled(&self) -> bool {
        self.tree.pending_count() == 0 && self.files.values().all(|file| file.pending_count() == 0)
    }

    pub(crate) fn is_slow(&mut self) -> bool {
        self.faults.is_slow(&mut self.dice)
    }
}

#[cfg(test)]
mod tests;
