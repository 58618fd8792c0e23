//! Rows that had to be waited for, on their way into the row cache ([`crate::rows`], rule 1).
//!
//! A row takes a thirtieth of its page's room, so it is still there when the page has left long
//! ago. Between the look-up that gave out the [`Read`] and its end anything may have happened:
//!
//! 1. A write of the key is in a memtable, and stays there until a bar ends: the memtables are
//!    asked.
//! 2. A bar may have ended and carried the write into the tables: then nothing is kept.
//! 3. Another read of the same key may have kept the row already.
//! 4. The place may have been condemned. Reads that fail are rare, and whoever has one reads from
//!    the disk from then on: in a damaged grid nothing is kept this way.

use crate::entry::{EntryRef, Payload};
use crate::filter;
use crate::forest::Forest;
use crate::lookup::{OwnedEntry, Read};
use crate::tree::Tree;

impl Forest {
    /// Keeps the row that a read has brought, so that the next look-up need not read again even if
    /// the page is gone by then; unless it may not be the newest any more, or is not worth it.
    pub fn keep_row(&self, read: &Read, entry: &OwnedEntry) {
        let (key, version_max) = read.asked();
        let whole = entry.value.len() as u64 == entry.value_len
            && entry.value.len() <= self.config.inline_value_size_max();
        // What the tables hold was written before this bar began: the snapshot has to see it all.
        let is_newest = read.is_of_this_bar() && version_max >= self.version_bar;
        if read.tree() != Tree::Objects || !whole || !is_newest || self.is_damaged() {
            return;
        }
        let (hash, memtables) = (filter::hash(key), &self.trees[Tree::Objects.index()].memtables);
        let mut rows = self.rows.borrow_mut();
        if memtables.get(hash, key, u64::MAX).is_none() && !rows.contains(hash, key) {
            let (version, deadline) = (entry.version, entry.deadline);
            let payload = Payload::Inline(&entry.value);
            rows.offer(hash, &EntryRef { key, version, deadline, payload });
        }
    }
}
