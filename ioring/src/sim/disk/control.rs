//! What a test does to a disk from outside, and how it looks at it: faults injected, bytes
//! replaced, recordings, contents. Apart from notes none of it is an event, so a recording shows
//! none of it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::tree::ROOT;
use super::{Event, FaultCounts, FaultPlan, Inode, ReadFault, SimDisk, WriteFault};
use crate::sim::dice::TraceHash;
use crate::sim::trace::Trace;

impl SimDisk {
    /// Replaces the rates of faults, and starts to count them anew for their bound.
    pub fn set_faults(&mut self, plan: FaultPlan) {
        self.faults.set_plan(plan);
    }

    /// Faults shown so far.
    pub fn fault_counts(&self) -> FaultCounts {
        self.faults.counts()
    }

    /// The next write to the file at `path` goes wrong. Several queue up.
    pub fn inject_write(&mut self, path: &Path, fault: WriteFault) -> io::Result<()> {
        let file = self.find_file(path)?;
        self.faults.inject_write(file, fault);
        Ok(())
    }

    /// The next read of the file at `path` goes wrong. Several queue up.
    pub fn inject_read(&mut self, path: &Path, fault: ReadFault) -> io::Result<()> {
        let file = self.find_file(path)?;
        self.faults.inject_read(file, fault);
        Ok(())
    }

    /// The next sync of the file at `path` fails.
    pub fn inject_sync_error(&mut self, path: &Path) -> io::Result<()> {
        let file = self.find_file(path)?;
        self.faults.inject_sync_error(file);
        Ok(())
    }

    /// Reads that touch these bytes fail with EIO until they are written again.
    pub fn make_unreadable(&mut self, path: &Path, offset: u64, length: u64) -> io::Result<()> {
        let (file, sector) = (self.find_file(path)?, self.config.sector);
        let sectors = offset / sector..(offset + length).div_ceil(sector);
        self.file(file).unreadable.extend(sectors);
        Ok(())
    }

    /// Flips the bits of `mask` in one byte, for good.
    pub fn rot(&mut self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let file = self.find_file(path)?;
        self.rot_inode(file, offset, mask);
        Ok(())
    }

    pub(super) fn rot_inode(&mut self, file: Inode, offset: u64, mask: u8) {
        let state = self.file(file);
        let mut byte = [0];
        state.current.read(offset, &mut byte);
        state.tamper(offset, &[byte[0] ^ mask]);
    }

    /// Replaces bytes within a file, for good and unseen by faults and traces.
    pub fn overwrite(&mut self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = self.find_file(path)?;
        self.file(file).tamper(offset, data);
        Ok(())
    }

    /// From now on syncs and durable writes are acknowledged and not done.
    pub fn ignore_syncs(&mut self, ignored: bool) {
        self.syncs_ignored = ignored;
    }

    /// Changes how much fits.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.config.capacity = capacity;
    }

    /// Sum of the lengths of all files that have a name.
    pub fn used(&self) -> u64 {
        let named = self.tree.inodes();
        self.files.iter().filter(|(inode, _)| named.contains(inode)).map(|(_, f)| f.length).sum()
    }

    /// A file's bytes as a reader sees them.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.find_file(path)?;
        let state = &self.files[&file];
        let mut bytes = vec![0; state.length as usize];
        state.current.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Hash of a file's bytes and length as a reader sees them.
    pub fn content_hash(&self, path: &Path) -> io::Result<u64> {
        let state = &self.files[&self.find_file(path)?];
        let mut hash = TraceHash::new();
        state.current.hash(state.length, &mut hash);
        Ok(hash.value())
    }

    /// Hash of all names and contents as a reader sees them.
    pub fn hash(&self) -> u64 {
        let mut hash = TraceHash::new();
        let mut open = vec![ROOT];
        let mut seen = BTreeSet::new();
        while let Some(directory) = open.pop() {
            for (name, inode) in self.tree.list(directory) {
                hash.add_bytes(name.as_encoded_bytes());
                match self.files.get(&inode) {
                    Some(file) => file.current.hash(file.length, &mut hash),
                    None if seen.insert(inode) => open.push(inode),
                    None => {}
                }
            }
        }
        hash.value()
    }

    /// Copies all files and directories, as a reader sees them, below a real directory: a crash
    /// state becomes something that a real process can open.
    ///
    /// # Errors
    /// Those of the real file system.
    pub fn export(&self, to: &Path) -> io::Result<()> {
        let mut open = vec![(ROOT, to.to_owned())];
        while let Some((directory, path)) = open.pop() {
            for (name, inode) in self.tree.list(directory) {
                let path = path.join(name);
                if let Some(file) = self.files.get(&inode) {
                    let mut bytes = vec![0; file.length as usize];
                    file.current.read(0, &mut bytes);
                    std::fs::write(&path, bytes)?;
                } else {
                    std::fs::create_dir(&path)?;
                    open.push((inode, path));
                }
            }
        }
        Ok(())
    }

    /// Starts to record; the disk as it is now is where every replay starts.
    pub fn record(&mut self) {
        self.trace = None;
        self.trace = Some(Box::new(Trace::new(self.clone())));
    }

    /// Marks this moment in the recording, e.g. "operation 7 was acknowledged".
    pub fn note(&mut self, value: u64) {
        self.happen(Event::Note(value));
    }

    /// Ends the recording and returns it.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.trace.take().map(|trace| *trace)
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.tree.find(path)?;
        if self.files.contains_key(&inode) {
            Ok(inode)
        } else {
            Err(io::ErrorKind::IsADirectory.into())
        }
    }
}
