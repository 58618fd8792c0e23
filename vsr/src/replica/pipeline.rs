//! Prepares that have an op and are not yet given out as committed.
//!
//! A prepare goes through three stages, each prepare at its own pace:
//!
//! ```text
//! closed (a buffer to be journaled) -> writing (the journal has it) -> durable (shared bytes)
//! ```
//!
//! Journal writes may complete in any order; an op is committed only when it and every op before it
//! are durable, and commits are given out in op order. So the commit number is the end of the
//! durable run at the front, and a crash loses at most ops that nobody was told of.
//!
//! The pipeline is short (8 by default) and fixed: it is what bounds the prepares that a crash can
//! leave half written, and so what recovery has to doubt.

use std::collections::VecDeque;

use ioring::{Buffer, Frozen};
use wire::{Header, Op};

#[derive(Debug)]
enum Stage {
    Closed(Buffer),
    Writing,
    Durable(Frozen),
}

#[derive(Debug)]
struct Entry {
    header: Header,
    stage: Stage,
    /// Whether it holds less than what alone would justify a write in parallel.
    partly_filled: bool,
    closed_at_ns: u64,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    entries: VecDeque<Entry>,
    capacity: usize,
    /// The op of the first entry, or that the next prepare gets.
    first: Op,
    /// How many entries at the front are durable.
    durable: usize,
    /// How many entries at the front are not closed any more: the journal has them.
    appended: usize,
}

impl Pipeline {
    pub(super) fn new(capacity: usize, head: Op) -> Pipeline {
        assert!(capacity > 0, "a pipeline has room for one prepare at least");
        let entries = VecDeque::with_capacity(capacity);
        Pipeline { entries, capacity, first: head.next(), durable: 0, appended: 0 }
    }

    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.capacity
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The highest op that is durable with all before it.
    pub(super) fn commit(&self) -> Op {
        Op(self.first.0 + self.durable as u64 - 1)
    }

    /// The header of the highest op that is durable with all before it, if it is still here.
    pub(super) fn commit_header(&self) -> Option<&Header> {
        self.entries.get(self.durable.checked_sub(1)?).map(|entry| &entry.header)
    }

    /// Whether a partly filled prepare is on its way to the disk.
    pub(super) fn has_partly_filled(&self) -> bool {
        self.undurable().any(|entry| entry.partly_filled)
    }

    /// When the oldest prepare that is not durable was closed.
    pub(super) fn oldest_closed_at_ns(&self) -> Option<u64> {
        self.undurable().next().map(|entry| entry.closed_at_ns)
    }

    fn undurable(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(self.durable).filter(|e| !matches!(e.stage, Stage::Durable(_)))
    }

    /// Takes a prepare in; its op is the one after the last.
    pub(super) fn push(
        &mut self,
        op: Op,
        header: Header,
        buffer: Buffer,
        partly_filled: bool,
        closed_at_ns: u64,
    ) {
        assert!(self.has_room(), "the pipeline is full at op {op}");
        assert_eq!(op.0, self.first.0 + self.entries.len() as u64, "ops have no gaps");
        let stage = Stage::Closed(buffer);
        self.entries.push_back(Entry { header, stage, partly_filled, closed_at_ns });
    }

    /// The next prepare to be journaled.
    pub(super) fn next_append(&mut self) -> Option<(Header, Buffer)> {
        let entry = self.entries.get_mut(self.appended)?;
        let Stage::Closed(buffer) = std::mem::replace(&mut entry.stage, Stage::Writing) else {
            unreachable!("what is behind the appended prepares is closed");
        };
        self.appended += 1;
        Some((entry.header, buffer))
    }

    /// The frame of `op` is durable.
    pub(super) fn on_durable(&mut self, op: Op, frame: Frozen) {
        let index = op.0.checked_sub(self.first.0).expect("an op is durable once") as usize;
        let entry = self.entries.get_mut(index).expect("the journal got this op from here");
        assert!(matches!(entry.stage, Stage::Writing), "op {op} was not being written");
        entry.stage = Stage::Durable(frame);
        while let Some(Entry { stage: Stage::Durable(_), .. }) = self.entries.get(self.durable) {
            self.durable += 1;
        }
    }

    /// The next committed prepare.
    pub(super) fn next_commit(&mut self) -> Option<(Header, Frozen)> {
        if self.durable == 0 {
            return None;
        }
        let entry = self.entries.pop_front().expect("durable prepares are in the pipeline");
        let Stage::Durable(frame) = entry.stage else {
            unreachable!("the front of the pipeline is durable");
        };
        self.first = self.first.next();
        self.durable -= 1;
        self.appended -= 1;
        Some((entry.header, frame))
    }
}
