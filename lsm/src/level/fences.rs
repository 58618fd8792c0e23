//! Where a key falls among the tables of a run, without touching the tables.
//!
//! Every look-up asks every run which of its tables may hold the key. The bounds of tables are
//! boxed keys behind counted pointers: a binary search over them is two cache misses a step, and
//! with some ten runs it was more than half of the cost of a look-up that memory answers. So a run
//! keeps, side by side, eight bytes of each bound:
//!
//! ```text
//! prefix   what all bounds of the run begin with
//! mins     for each table, the eight bytes of its smallest key behind the prefix, as a number
//! maxs     the same of its largest key
//! ```
//!
//! Numbers are ordered as keys are, except that different keys may have one number; then the bounds
//! themselves are compared. As in an index block ([`crate::index`]) that is rare.
//!
//! *The prefix* is one that all bounds share, not always the longest: it gets shorter when a table
//! comes that does not begin with it, and the numbers are made anew. A table that goes changes
//! nothing else. Keys between two bounds that share a prefix share it too, so a key without it is
//! in no table.

use std::ops::Range;
use std::rc::Rc;

use crate::index::head;
use crate::page::common_prefix_len;
use crate::table::TableInfo;

/// See the module. Parallel to the run's list of tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Fences {
    prefix: Vec<u8>,
    mins: Vec<u64>,
    maxs: Vec<u64>,
}

impl Fences {
    /// Notes the table that was put at this place of the list.
    pub(super) fn insert(&mut self, tables: &[Rc<TableInfo>], at: usize) {
        let table = &tables[at];
        if tables.len() == 1 {
            self.prefix.clear();
            self.prefix.extend_from_slice(&table.key_min);
        }
        let shared = |key: &[u8]| common_prefix_len(&self.prefix, key);
        let prefix_len = shared(&table.key_min).min(shared(&table.key_max));
        self.mins.insert(at, 0);
        self.maxs.insert(at, 0);
        let renew = if prefix_len < self.prefix.len() { 0..tables.len() } else { at..at + 1 };
        self.prefix.truncate(prefix_len);
        for place in renew {
            self.mins[place] = head(&tables[place].key_min[prefix_len..]);
            self.maxs[place] = head(&tables[place].key_max[prefix_len..]);
        }
        assert!(self.mins.len() == tables.len() && self.maxs.len() == tables.len());
    }

    /// Forgets the table that was at this place.
    pub(super) fn remove(&mut self, at: usize) {
        self.mins.remove(at);
        self.maxs.remove(at);
    }

    /// The tables that may hold a key.
    #[inline]
    pub(super) fn find(&self, tables: &[Rc<TableInfo>], key: &[u8]) -> Range<usize> {
        let Some(rest) = key.strip_prefix(&self.prefix[..]) else { return 0..0 };
        let head = head(rest);
        let mut end = self.mins.partition_point(|&min| min < head);
        while self.mins.get(end) == Some(&head) && tables[end].key_min[..] <= *key {
            end += 1;
        }
        let reaches = |at: usize| {
            self.maxs[at] > head || self.maxs[at] == head && tables[at].key_max[..] >= *key
        };
        let mut start = end;
        while start > 0 && reaches(start - 1) {
            start -= 1;
        }
        start..end
    }
}
