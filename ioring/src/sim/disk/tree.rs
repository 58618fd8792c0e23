//! Directories: names that survive a crash only after their directory was synced.
//!
//! The model is stricter than any one file system and laxer than none in use: every change of a
//! name (create, rename, remove) is atomic by itself, and until its directory is synced a crash
//! keeps or loses each one independently of all others. Code that is right here does not lean on
//! the ordering that, say, a journalling file system happens to give.
//!
//! 1. A change is *self-contained*: it names the entries it takes away and the one it puts there,
//!    with their inodes, so any subset of changes can be applied in order and gives some tree.
//! 2. `sync_dir(D)` makes durable every pending change that touches D, and every older one that
//!    touches a name which such a change touches: otherwise a lost or late older change could
//!    bring a file back under the name it was moved away from.
//! 3. A file's own sync does *not* make its name durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::{Atom, Inode};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) directory: Inode,
    pub(crate) name: OsString,
    pub(crate) inode: Inode,
}

/// One atomic change of names.
#[derive(Clone, Debug)]
pub(crate) struct NameChange {
    /// Taken away, where the name still means that inode.
    pub(crate) remove: Option<Entry>,
    /// Put there, replacing what had the name.
    pub(crate) insert: Option<Entry>,
}

type Names = BTreeMap<OsString, Inode>;

#[derive(Clone)]
pub(super) struct Tree {
    current: BTreeMap<Inode, Names>,
    durable: BTreeMap<Inode, Names>,
    pending: Vec<NameChange>,
}

pub(super) const ROOT: Inode = Inode(0);

impl Tree {
    pub(super) fn new() -> Tree {
        let root = BTreeMap::from([(ROOT, Names::new())]);
        Tree { current: root.clone(), durable: root, pending: Vec::new() }
    }

    pub(super) fn is_directory(&self, inode: Inode) -> bool {
        self.current.contains_key(&inode)
    }

    /// The inode at `path`; relative paths start at the root.
    pub(super) fn find(&self, path: &Path) -> io::Result<Inode> {
        let mut at = ROOT;
        for name in names(path)? {
            let directory = self.current.get(&at).ok_or(io::ErrorKind::NotADirectory)?;
            at = *directory.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory that holds the last name of `path`, and that name.
    pub(super) fn find_parent<'a>(&self, path: &'a Path) -> io::Result<(Inode, &'a OsStr)> {
        let mut names = names(path)?;
        let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for name in names {
            let directory = self.current.get(&at).ok_or(io::ErrorKind::NotADirectory)?;
            at = *directory.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        if !self.is_directory(at) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((at, last))
    }

    pub(super) fn get(&self, directory: Inode, name: &OsStr) -> Option<Inode> {
        self.current.get(&directory)?.get(name).copied()
    }

    pub(super) fn list(&self, directory: Inode) -> impl Iterator<Item = (&OsString, Inode)> {
        self.current.get(&directory).into_iter().flatten().map(|(name, inode)| (name, *inode))
    }

    /// Everything that has a name, whether or not the name can be reached.
    pub(super) fn inodes(&self) -> BTreeSet<Inode> {
        self.current.values().flat_map(Names::values).copied().collect()
    }

    /// An empty directory exists from now on under this inode (its name is a change of its own).
    pub(super) fn add_directory(&mut self, inode: Inode) {
        self.current.entry(inode).or_default();
        self.durable.entry(inode).or_default();
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// Makes the names of `directory` durable.
    pub(super) fn sync(&mut self, directory: Inode) {
        let mut names: BTreeSet<(Inode, OsString)> = BTreeSet::new();
        let mut covered = vec![false; self.pending.len()];
        for (change, covered) in self.pending.iter().zip(&mut covered).rev() {
            *covered = change.entries().any(|e| {
                e.directory == directory || names.contains(&(e.directory, e.name.clone()))
            });
            if *covered {
                names.extend(change.entries().map(|e| (e.directory, e.name.clone())));
            }
        }
        let mut covered = covered.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let covered = covered.next().expect("one flag per change");
            if covered {
                change.apply(durable);
            }
            !covered
        });
    }

    /// Loses power. Returns what can still be reached; the caller drops the rest.
    pub(super) fn crash(&mut self, keep: &mut dyn FnMut(Atom) -> bool) -> BTreeSet<Inode> {
        for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if keep(Atom::Name { index }) {
                change.apply(&mut self.durable);
            }
        }
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(directory) = open.pop() {
            for inode in self.durable.get(&directory).into_iter().flatten().map(|(_, i)| *i) {
                if reached.insert(inode) {
                    open.push(inode);
                }
            }
        }
        self.durable.retain(|inode, _| reached.contains(inode));
        self.current = self.durable.clone();
        reached
    }

    /// Makes every name durable at once.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        self.durable = self.current.clone();
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }
}

impl NameChange {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.remove.iter().chain(&self.insert)
    }

    fn apply(&self, tree: &mut BTreeMap<Inode, Names>) {
        if let Some(Entry { directory, name, inode }) = &self.remove {
            let names = tree.entry(*directory).or_default();
            if names.get(name) == Some(inode) {
                names.remove(name);
            }
        }
        if let Some(Entry { directory, name, inode }) = &self.insert {
            tree.entry(*directory).or_default().insert(name.clone(), *inode);
        }
    }
}

/// A path's names; `..` is refused rather than guessed at.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}
