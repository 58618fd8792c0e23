//! The log in memory: for each op its header, whether its frame is durable here, and its bytes
//! while somebody may still need them.
//!
//! ```text
//!            base                       given       committed              head
//!  dropped │  applied, headers kept   │  to be     │  not known to be      │
//!          │  (for peers' repair)     │  given out │  committed            │
//! ```
//!
//! Alone the base follows what was given out as committed: nobody asks for old headers. With peers
//! it follows the checkpoint, so that any header after it can be given to whoever lacks it; the
//! header at the base itself is kept too.
//!
//! # What an entry says
//!
//! * *Header.* Known, or not: a hole that a lost message or damage left. It is *trusted* when it
//!   certainly belongs to the log of the view: made in it, named by its start, or named by the
//!   parent of a trusted one. What is not trusted is left from earlier views; it is never applied
//!   and never shown to others.
//! * *Disk.* Whether the journal has this version, durable.
//! * *Acknowledged.* Whether this replica may have acknowledged it. It is set when the frame
//!   becomes durable, and stays when the frame is found damaged; what is not, is denied in a view
//!   change. An op whose frame is lost, header and all, keeps it for whichever version comes.
//! * *Bytes.* A buffer to be journaled, or the shared frame.
//!
//! # Versions given up while they are written
//!
//! A view change may replace a version whose write is under way. The write is not stopped; it is
//! remembered as an *orphan*, and another version of the same op is written only after it: in the
//! journal the version written last is the one that counts.
//!
//! If this replica had given the version its op, somebody waits for what comes of it, and is told
//! that this is unknown (`dropped`).

use std::collections::{BTreeMap, VecDeque};

use ioring::{Buffer, Frozen};
use wire::{Checksum, Header, Op, Requests};

use super::dropped::Drops;
use super::quorum::Members;
use crate::journal::BODY_OFFSET;
use crate::journal::recovery::Summary;

/// What the journal has of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disk {
    /// Nothing, or nothing that can be read.
    Absent,
    /// It is being written.
    Writing,
    /// It is durable.
    Durable,
}

/// What memory has of an entry.
#[derive(Debug)]
pub(super) enum Bytes {
    /// Nothing.
    None,
    /// A frame without a place yet.
    Closed(Buffer),
    /// The frame as it is written.
    Shared(Frozen),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) header: Option<Header>,
    pub(super) trusted: bool,
    pub(super) disk: Disk,
    /// Whether this replica may have acknowledged it.
    pub(super) acknowledged: bool,
    pub(super) bytes: Bytes,
    /// Members that acknowledged it in this view, as this replica, its primary, knows.
    pub(super) oks: Members,
    /// Whether it holds less than what alone would justify a write in parallel.
    pub(super) partly_filled: bool,
    pub(super) closed_at_ns: u64,
    /// Whether this replica gave it its op, in this life.
    pub(super) ordered: bool,
}

impl Entry {
    /// An op of which nothing is known.
    fn hole() -> Entry {
        Entry {
            header: None,
            trusted: false,
            disk: Disk::Absent,
            acknowledged: false,
            bytes: Bytes::None,
            oks: Members::default(),
            partly_filled: false,
            closed_at_ns: 0,
            ordered: false,
        }
    }

    pub(super) fn checksum(&self) -> Option<Checksum> {
        self.header.as_ref().map(Header::checksum)
    }

    /// Whether its body can be had here, from memory or from the journal.
    pub(super) fn has_body(&self) -> bool {
        self.disk == Disk::Durable || matches!(self.bytes, Bytes::Shared(_))
    }

    /// Whether its body is here or on its way to the journal.
    pub(super) fn is_held(&self) -> bool {
        self.has_body() || self.disk == Disk::Writing || matches!(self.bytes, Bytes::Closed(_))
    }
}

/// A version that was given up while it was written.
#[derive(Debug)]
struct Orphan {
    op: Op,
    checksum: Checksum,
    /// Whether its requests are to be dropped when its frame comes back.
    ordered: bool,
}

#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    base: Op,
    base_header: Option<Header>,
    window: usize,
    orphans: Vec<Orphan>,
    /// Requests of versions that were given up.
    pub(super) drops: Drops,
    /// Frames that a restart found where it could not tell which version is meant.
    strays: BTreeMap<(Op, u128), Header>,
}

impl Log {
    /// An empty log after `base`, for at most `window` ops.
    pub(super) fn new(base: Op, base_header: Option<Header>, window: usize) -> Log {
        assert!(window > 0, "a log has room for one prepare at least");
        let entries = VecDeque::with_capacity(window);
        let (orphans, drops, strays) = (Vec::new(), Drops::default(), BTreeMap::new());
        Log { entries, base, base_header, window, orphans, drops, strays }
    }

    /// Keeps in mind which frames the journal has at ops without a header.
    pub(super) fn keep_strays(&mut self, strays: &[Header]) {
        let keyed = strays.iter().map(|h| ((Summary::of(h).op, h.checksum().0), *h));
        self.strays.extend(keyed);
    }

    /// The header of such a frame.
    pub(super) fn stray(&self, op: Op, checksum: Checksum) -> Option<Header> {
        self.strays.get(&(op, checksum.0)).copied()
    }

    pub(super) fn base(&self) -> Op {
        self.base
    }

    /// The newest op, known or not.
    pub(super) fn head(&self) -> Op {
        Op(self.base.0 + self.entries.len() as u64)
    }

    /// Whether there may be an entry for `op`, or it is behind.
    pub(super) fn holds(&self, op: Op) -> bool {
        op <= self.last_held()
    }

    /// The highest op that there may be an entry for.
    pub(super) fn last_held(&self) -> Op {
        Op(self.base.0 + self.window as u64)
    }

    fn index(&self, op: Op) -> Option<usize> {
        usize::try_from(op.0.checked_sub(self.base.0 + 1)?).ok()
    }

    pub(super) fn get(&self, op: Op) -> Option<&Entry> {
        self.entries.get(self.index(op)?)
    }

    pub(super) fn get_mut(&mut self, op: Op) -> Option<&mut Entry> {
        let index = self.index(op)?;
        self.entries.get_mut(index)
    }

    /// The entries of `first..=last`, those that there are.
    pub(super) fn range(&self, first: Op, last: Op) -> impl Iterator<Item = (Op, &Entry)> {
        let first = first.max(self.base.next());
        (first.0..=last.0.min(self.head().0))
            .map(Op)
            .map(|op| (op, self.get(op).expect("ops between base and head have entries")))
    }

    /// The trusted header at `op`, that of the base included.
    pub(super) fn header(&self, op: Op) -> Option<&Header> {
        if op == self.base {
            return self.base_header.as_ref();
        }
        self.get(op).filter(|entry| entry.trusted)?.header.as_ref()
    }

    /// Adds the op after the head; returns its entry.
    pub(super) fn push(&mut self, header: Header) -> &mut Entry {
        assert!(self.entries.len() < self.window, "the log's window is full");
        assert_eq!(Summary::of(&header).op, self.head().next(), "ops have no gaps");
        self.entries.push_back(Entry { header: Some(header), trusted: true, ..Entry::hole() });
        self.entries.back_mut().expect("it was just added")
    }

    /// Makes `op` the head at least; ops in between are holes.
    pub(super) fn extend(&mut self, op: Op) {
        assert!(self.holds(op), "op {op} is beyond the log's window");
        while self.head() < op {
            self.entries.push_back(Entry::hole());
        }
    }

    /// Makes `head` the head at most.
    pub(super) fn truncate(&mut self, head: Op) {
        assert!(head >= self.base, "what is before the log cannot be taken back");
        while self.head() > head {
            let op = self.head();
            let entry = self.entries.pop_back().expect("the head is behind the base");
            self.abandon(op, &entry);
        }
    }

    fn abandon(&mut self, op: Op, entry: &Entry) {
        let Some(header) = &entry.header else { return };
        let frame: Option<&[u8]> = match &entry.bytes {
            Bytes::None => None,
            Bytes::Closed(buffer) => Some(buffer),
            Bytes::Shared(frame) => Some(frame),
        };
        if let (true, Some(frame)) = (entry.ordered, frame) {
            self.drop_requests(header, frame);
        }
        if entry.disk == Disk::Writing {
            let (checksum, ordered) = (header.checksum(), entry.ordered && frame.is_none());
            self.orphans.push(Orphan { op, checksum, ordered });
        }
    }

    fn drop_requests(&mut self, header: &Header, frame: &[u8]) {
        let body = &frame[BODY_OFFSET..BODY_OFFSET + header.body_size()];
        self.drops.add(Requests::of_body(body), true);
    }

    /// Makes this the trusted header of its op. What was there of another version is given up.
    pub(super) fn name(&mut self, op: Op, header: Header) {
        let entry = self.get(op).expect("only entries are named");
        if entry.checksum() != Some(header.checksum()) {
            self.clear(op);
        }
        let found = self.strays.remove(&(op, header.checksum().0)).is_some();
        let entry = self.get_mut(op).expect("looked at just now");
        (entry.header, entry.trusted) = (Some(header), true);
        if found && entry.disk == Disk::Absent {
            (entry.disk, entry.acknowledged) = (Disk::Durable, true);
        }
    }

    /// Gives up the version at `op`. A hole that damage left stays one: what was acknowledged there
    /// is not known, so it may be the version that comes.
    pub(super) fn clear(&mut self, op: Op) {
        let entry = self.get_mut(op).expect("only entries are cleared");
        let acknowledged = entry.header.is_none() && entry.acknowledged;
        let old = std::mem::replace(entry, Entry { acknowledged, ..Entry::hole() });
        self.abandon(op, &old);
    }

    /// Whether a version that was given up is still being written at `op`.
    pub(super) fn has_orphan(&self, op: Op) -> bool {
        self.orphans.iter().any(|orphan| orphan.op == op)
    }

    /// A write ended; returns whether it was an orphan's.
    pub(super) fn end_orphan(&mut self, header: &Header, frame: &[u8]) -> bool {
        let (op, checksum) = (Summary::of(header).op, header.checksum());
        let same = |orphan: &Orphan| (orphan.op, orphan.checksum) == (op, checksum);
        let Some(index) = self.orphans.iter().position(same) else { return false };
        if self.orphans.swap_remove(index).ordered {
            self.drop_requests(header, frame);
        }
        true
    }

    /// Drops entries up to `op`, which becomes the base.
    pub(super) fn release(&mut self, op: Op) {
        while self.base < op {
            let entry = self.entries.pop_front().expect("only what is in the log is released");
            self.base = self.base.next();
            self.base_header = entry.header;
        }
    }

    /// Takes what is missing after `op` for something that may have been acknowledged.
    pub(super) fn doubt(&mut self, op: Op) {
        let from = op.0.saturating_sub(self.base.0) as usize;
        self.entries.iter_mut().skip(from).for_each(|entry| entry.acknowledged = true);
    }

    /// Forgets which entries after `op` belong to the log of the view.
    pub(super) fn distrust(&mut self, op: Op) {
        let from = op.0.saturating_sub(self.base.0) as usize;
        for entry in self.entries.iter_mut().skip(from) {
            entry.trusted = false;
            entry.oks = Members::default();
        }
    }
}
