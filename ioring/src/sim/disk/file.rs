//! One file: what reads see, what would survive, and the changes between the two.
//!
//! ```text
//!   current  = durable + all pending changes, in order
//!   crash    = durable + a subset of the pending changes, chosen sector by sector
//! ```
//!
//! 1. A change (write, new length, discard) is visible at once and enters the list of pending ones.
//! 2. It has *ended* when its operation completed. Until then it is in flight.
//! 3. A sync covers exactly the changes that had ended when the sync was *issued*; when it
//!    completes, they are applied to the durable image and leave the list. A sync therefore says
//!    nothing about a write that was still in flight, as on real kernels.
//! 4. A durable write covers itself, and earlier changes of the length, which it depends on.
//! 5. At a crash every sector of every pending write is kept or lost on its own: that one rule
//!    gives lost, torn and reordered writes. The length a write extended the file to is metadata
//!    and is kept or lost on its own too, so that zeros or a short file can be left behind.
//!
//! Where a newer change has become durable before an older pending one that overlaps it, the older
//! one's sectors are *dead*: the disk cannot go back to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::image::Image;
use super::{Atom, ChangeId, SyncId};

/// What a pending change does.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Whole sectors at an offset; `end` is where the caller's bytes ended.
    Write { offset: u64, data: Arc<[u8]>, end: u64 },
    /// The file's length; what lies beyond it is gone.
    SetLength(u64),
    /// Zeros in whole sectors.
    Discard { offset: u64, length: u64 },
}

#[derive(Clone)]
struct Pending {
    id: ChangeId,
    change: Change,
    ended: bool,
    /// A failed sync forgot this change: no later one makes it durable.
    abandoned: bool,
    /// Sectors (relative to the write's first) overtaken by a newer durable change.
    dead: BTreeSet<u64>,
}

#[derive(Clone, Default)]
pub(super) struct FileState {
    pub(super) current: Image,
    pub(super) length: u64,
    durable: Image,
    durable_length: u64,
    pending: Vec<Pending>,
    syncs: BTreeMap<SyncId, Vec<ChangeId>>,
    /// Sectors that answer EIO until they are written again.
    pub(super) unreadable: BTreeSet<u64>,
}

impl FileState {
    /// Starts a change: visible from now on, durable only when covered.
    pub(super) fn start(&mut self, id: ChangeId, change: Change, sector: u64) {
        match &change {
            Change::Write { offset, data, end } => {
                self.current.write(*offset, data);
                self.length = self.length.max(*end);
                if !self.unreadable.is_empty() {
                    let written = offset / sector..(offset + data.len() as u64) / sector;
                    self.unreadable.retain(|number| !written.contains(number));
                }
            }
            Change::SetLength(length) => {
                if *length < self.length {
                    self.current.zero(*length, self.length - length);
                }
                self.length = *length;
            }
            Change::Discard { offset, length } => self.current.zero(*offset, *length),
        }
        let dead = BTreeSet::new();
        self.pending.push(Pending { id, change, ended: false, abandoned: false, dead });
    }

    /// A change's operation completed.
    pub(super) fn end(&mut self, id: ChangeId, durable: bool, sector: u64) {
        let Some(position) = self.pending.iter().position(|p| p.id == id) else { return };
        self.pending[position].ended = true;
        if durable {
            let lengths = self.pending[..position]
                .iter()
                .filter(|p| matches!(p.change, Change::SetLength(_)) && !p.abandoned)
                .map(|p| p.id);
            let covered: Vec<ChangeId> = lengths.chain([id]).collect();
            self.commit(&covered, sector);
        }
    }

    /// Ends every change that is in flight, as a kernel does for a process that died.
    pub(super) fn end_all(&mut self) {
        self.pending.iter_mut().for_each(|p| p.ended = true);
        self.syncs.clear();
    }

    /// A sync was issued: it covers what has ended by now.
    pub(super) fn sync_start(&mut self, sync: SyncId) {
        let covered = self.pending.iter().filter(|p| p.ended && !p.abandoned);
        let covered = covered.map(|p| p.id).collect();
        self.syncs.insert(sync, covered);
    }

    /// A sync completed; a failed one forgets what it should have made durable, as kernels do.
    pub(super) fn sync_end(&mut self, sync: SyncId, succeeded: bool, sector: u64) {
        let covered = self.syncs.remove(&sync).unwrap_or_default();
        if succeeded {
            self.commit(&covered, sector);
        } else {
            let forgotten = self.pending.iter_mut().filter(|p| covered.contains(&p.id));
            forgotten.for_each(|p| p.abandoned = true);
        }
    }

    /// Makes the covered changes durable, in their order.
    fn commit(&mut self, covered: &[ChangeId], sector: u64) {
        for position in 0..self.pending.len() {
            if !covered.contains(&self.pending[position].id) {
                continue;
            }
            let (older, rest) = self.pending.split_at_mut(position);
            let this = &rest[0];
            let range = match &this.change {
                Change::Write { offset, data, end } => {
                    if this.dead.is_empty() {
                        self.durable.write(*offset, data);
                    } else {
                        let sectors = (0..).zip(data.chunks(sector as usize));
                        for (index, piece) in sectors.filter(|(i, _)| !this.dead.contains(i)) {
                            self.durable.write(offset + index * sector, piece);
                        }
                    }
                    self.durable_length = self.durable_length.max(*end);
                    *offset..offset + data.len() as u64
                }
                Change::SetLength(length) => {
                    let beyond = self.durable_length.saturating_sub(*length);
                    self.durable.zero(*length, beyond);
                    self.durable_length = *length;
                    length.next_multiple_of(sector)..u64::MAX
                }
                Change::Discard { offset, length } => {
                    self.durable.zero(*offset, *length);
                    *offset..offset + length
                }
            };
            for left in older.iter_mut().filter(|p| !covered.contains(&p.id)) {
                left.overtake(&range, sector);
            }
        }
        self.pending.retain(|p| !covered.contains(&p.id));
    }

    /// Loses power: what is pending survives where `keep` says so. The questions asked do not
    /// depend on the answers, so that all combinations can be enumerated.
    pub(super) fn crash(&mut self, sector: u64, keep: &mut dyn FnMut(Atom) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        let durable_length = self.durable_length;
        let mut image = std::mem::take(&mut self.durable);
        let mut length_left = durable_length;
        for Pending { id, change, dead, .. } in &pending {
            match change {
                Change::Write { offset, data, end } => {
                    let count = data.len() as u64 / sector;
                    for (index, piece) in (0..count).zip(data.chunks(sector as usize)) {
                        let asked = Atom::Sector { change: *id, index, count };
                        if !dead.contains(&index) && keep(asked) {
                            image.write(offset + index * sector, piece);
                        }
                    }
                    if *end > durable_length && keep(Atom::Length { change: *id }) {
                        length_left = length_left.max(*end);
                    }
                }
                Change::SetLength(length) => {
                    if keep(Atom::Length { change: *id }) {
                        image.zero(*length, length_left.saturating_sub(*length));
                        length_left = *length;
                    }
                }
                Change::Discard { offset, length } => {
                    if keep(Atom::Length { change: *id }) {
                        image.zero(*offset, *length);
                    }
                }
            }
        }
        image.zero(length_left, u64::MAX - length_left);
        self.durable = image.clone();
        self.current = image;
        (self.length, self.durable_length) = (length_left, length_left);
        self.syncs.clear();
    }

    /// Stores bytes behind everyone's back: in what reads see and in what survives.
    pub(super) fn tamper(&mut self, offset: u64, data: &[u8]) {
        self.current.write(offset, data);
        self.durable.write(offset, data);
    }

    /// Makes everything durable at once.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        self.durable = self.current.clone();
        self.durable_length = self.length;
    }

    /// Changes that would be lost or kept by chance if power failed now.
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }
}

impl Pending {
    fn overtake(&mut self, range: &std::ops::Range<u64>, sector: u64) {
        if let Change::Write { offset, data, .. } = &self.change {
            let sectors = (0..data.len() as u64 / sector).map(|i| (i, offset + i * sector));
            let dead = sectors.filter(|(_, at)| range.contains(at)).map(|(i, _)| i);
            self.dead.extend(dead);
        }
    }
}
