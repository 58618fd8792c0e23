//! The ordered side of a memtable: an insert-only B+tree whose nodes live in the arena.
//!
//! A node holds up to 32 references to key records, in key order:
//!
//! ```text
//! leaf   count, prefix_len, level 0, next leaf | 32 hints | 32 key records
//! inner  count, prefix_len, level n, –         | 32 hints | 32 key records | 32 children
//! ```
//!
//! Reaching a key costs a cache miss, so nodes keep enough of each key to decide most comparisons
//! without it. Stored keys of one table share a long beginning (table, generation, kind, and
//! whatever the application's keys have in common); a hint is therefore the eight bytes *after*
//! the prefix that all keys of this node share, big-endian, zero-padded. A search
//!
//! 1. compares the wanted key with the node's prefix (one look at the node's first key); if it
//!    differs, the wanted key lies before or after everything in the node;
//! 2. otherwise searches among the hints, in the node's own cache lines;
//! 3. and looks at keys only where hints are equal.
//!
//! Inserting a key that does not share the prefix shortens the prefix and recomputes the node's
//! hints; splitting computes them anew and may lengthen it. Child `i` of an inner node holds keys
//! from `keys[i]` on and before `keys[i + 1]`. A key that comes before all others lowers the first
//! separator on its way down: were it left as it is, a later split of child 0 could give a
//! separator that is not above it.
//!
//! A full node splits in the middle, except at the right edge of the tree, where the new key alone
//! starts the new node: ascending loads leave full nodes behind. Nothing is ever removed: a bar's
//! end resets arena and tree together. Depth is bounded by the arena's size and asserted.
//!
//! Prefix truncation and key hints: Graefe, "Modern B-Tree Techniques" (2011), sections 3.5, 3.6.

use std::cmp::Ordering;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::arena::{Arena, NULL, Offset};
use super::record;

/// Keys in a node.
const FANOUT: usize = 32;
const HINT_LEN: usize = 8;
/// 32 levels of at least 16 children exceed any arena addressed by u32.
const DEPTH_MAX: usize = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Node {
    count: U16,
    prefix_len: U16,
    level: U16,
    reserved: U16,
    /// The next leaf in key order; null in inner nodes and in the last leaf.
    next: U32,
    reserved_2: U32,
    hints: [U64; FANOUT],
    keys: [U32; FANOUT],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Inner {
    node: Node,
    children: [U32; FANOUT],
}

const _: () = assert!(size_of::<Node>() == 400);
const _: () = assert!(size_of::<Inner>() == 528);
const _: () = assert!(FANOUT >= 4 && FANOUT.is_multiple_of(2));

/// Upper bound of tree bytes per key: a node splits into halves, so apart from the right edge it
/// is at least half full; inner nodes add one sixteenth of their own size per leaf.
pub(super) const BYTES_PER_KEY: usize =
    size_of::<Node>().div_ceil(FANOUT / 2) + size_of::<Inner>().div_ceil(FANOUT * FANOUT / 4);
/// Nodes at the right edge, which may be nearly empty.
pub(super) const BYTES_FIXED: usize = DEPTH_MAX * size_of::<Inner>();

/// A place in the leaves: before the key `index` of `leaf`. Null leaf: past the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    leaf: Offset,
    index: u32,
}

pub(super) struct Ordered {
    root: Offset,
    first_leaf: Offset,
}

/// The nodes passed on the way down and the child taken in each.
struct Path {
    steps: [(Offset, usize); DEPTH_MAX],
    len: usize,
}

impl Ordered {
    pub(super) fn new() -> Ordered {
        Ordered { root: NULL, first_leaf: NULL }
    }

    /// Inserts a key record whose key is not in the tree yet.
    pub(super) fn insert(&mut self, arena: &mut Arena, record: Offset) {
        if self.root == NULL {
            self.root = new_node(arena, 0);
            self.first_leaf = self.root;
            set_entries(arena, self.root, &[(record, NULL)]);
            return;
        }
        let (path, leaf) = self.descend(arena, record::key(arena, record));
        for &(node, child) in &path.steps[..path.len] {
            if child == 0 {
                lower_first(arena, node, record);
            }
        }
        let index = match lower_bound(arena, leaf, record::key(arena, record)) {
            (index, false) => index,
            (_, true) => panic!("the key is in the tree already"),
        };
        self.insert_at(arena, &path, leaf, index, (record, NULL));
    }

    /// The first position whose key is not less than `key`.
    pub(super) fn seek(&self, arena: &Arena, key: &[u8]) -> Position {
        if self.root == NULL {
            return Position { leaf: NULL, index: 0 };
        }
        let (_, leaf) = self.descend(arena, key);
        let (index, _) = lower_bound(arena, leaf, key);
        settle(arena, Position { leaf, index: index as u32 })
    }

    /// The last position whose key is less than `key`; none: the last of all.
    pub(super) fn last_before(&self, arena: &Arena, key: Option<&[u8]>) -> Position {
        let none = Position { leaf: NULL, index: 0 };
        if self.root == NULL {
            return none;
        }
        let mut node = self.root;
        loop {
            let count = arena.get::<Node>(node).count.get() as usize;
            let before = key.map_or(count, |key| lower_bound(arena, node, key).0);
            // A separator is the first key of its child: one that is less has what is wanted.
            let Some(index) = before.checked_sub(1) else {
                assert!(node == self.root, "the first key of a child is its separator");
                return none;
            };
            if arena.get::<Node>(node).level.get() == 0 {
                return Position { leaf: node, index: index as u32 };
            }
            node = arena.get::<Inner>(node).children[index].get();
        }
    }

    /// The position before this one; past the end if there is none.
    pub(super) fn previous(&self, arena: &Arena, position: Position) -> Position {
        match position.index {
            0 => {
                let first = arena.get::<Node>(position.leaf).keys[0].get();
                self.last_before(arena, Some(record::key(arena, first)))
            }
            index => Position { index: index - 1, ..position },
        }
    }

    pub(super) fn first(&self) -> Position {
        Position { leaf: self.first_leaf, index: 0 }
    }

    fn descend(&self, arena: &Arena, key: &[u8]) -> (Path, Offset) {
        let mut path = Path { steps: [(NULL, 0); DEPTH_MAX], len: 0 };
        let mut node = self.root;
        while arena.get::<Node>(node).level.get() > 0 {
            let (bound, exact) = lower_bound(arena, node, key);
            let child = if exact { bound } else { bound.saturating_sub(1) };
            assert!(path.len < DEPTH_MAX, "the tree is deeper than an arena can make it");
            path.steps[path.len] = (node, child);
            path.len += 1;
            node = arena.get::<Inner>(node).children[child].get();
        }
        (path, node)
    }

    /// Puts an entry into a node, splitting full nodes on the way up.
    fn insert_at(
        &mut self,
        arena: &mut Arena,
        path: &Path,
        node: Offset,
        index: usize,
        entry: (Offset, Offset),
    ) {
        let (mut node, mut index, mut entry) = (node, index, entry);
        // The last leaf has no next one, and then every node on its path is the last of its level.
        let edge = arena.get::<Node>(node).next.get() == NULL;
        for depth in (0..=path.len).rev() {
            if (arena.get::<Node>(node).count.get() as usize) < FANOUT {
                place(arena, node, index, entry);
                return;
            }
            let right = split(arena, node, index, entry, edge);
            let separator = arena.get::<Node>(right).keys[0].get();
            entry = (separator, right);
            if depth == 0 {
                break;
            }
            let (parent, child) = path.steps[depth - 1];
            (node, index) = (parent, child + 1);
        }
        let old = arena.get::<Node>(self.root);
        let (level, first) = (old.level.get() + 1, old.keys[0].get());
        assert!((level as usize) < DEPTH_MAX, "the tree is deeper than an arena can make it");
        let root = new_node(arena, level);
        set_entries(arena, root, &[(first, self.root), entry]);
        self.root = root;
    }
}

/// The key record at a position, or none past the end.
#[inline]
pub(super) fn record_at(arena: &Arena, position: Position) -> Option<Offset> {
    if position.leaf == NULL {
        return None;
    }
    Some(arena.get::<Node>(position.leaf).keys[position.index as usize].get())
}

/// The key record `distance` places behind a position, at most a leaf away; null past the end.
#[inline]
pub(super) fn record_ahead(arena: &Arena, position: Position, distance: u32) -> Offset {
    if position.leaf == NULL {
        return NULL;
    }
    let (mut node, mut index) = (arena.get::<Node>(position.leaf), position.index + distance);
    let count = u32::from(node.count.get());
    if index >= count {
        if node.next.get() == NULL {
            return NULL;
        }
        (node, index) = (arena.get::<Node>(node.next.get()), index - count);
        if index >= u32::from(node.count.get()) {
            return NULL;
        }
    }
    node.keys[index as usize].get()
}

/// The position after this one.
#[inline]
pub(super) fn next(arena: &Arena, position: Position) -> Position {
    settle(arena, Position { leaf: position.leaf, index: position.index + 1 })
}

/// Moves a position past a leaf's last key to the next leaf's first.
fn settle(arena: &Arena, position: Position) -> Position {
    let node = arena.get::<Node>(position.leaf);
    if position.index < u32::from(node.count.get()) {
        return position;
    }
    Position { leaf: node.next.get(), index: 0 }
}

fn new_node(arena: &mut Arena, level: u16) -> Offset {
    let size = if level == 0 { size_of::<Node>() } else { size_of::<Inner>() };
    let offset = arena.allocate(size);
    let node = arena.get_mut::<Node>(offset);
    node.count = U16::new(0);
    node.prefix_len = U16::new(0);
    node.level = U16::new(level);
    node.next = U32::new(NULL);
    offset
}

/// The first index whose key is not less than `key`, and whether it is equal.
fn lower_bound(arena: &Arena, offset: Offset, key: &[u8]) -> (usize, bool) {
    let node = arena.get::<Node>(offset);
    let count = node.count.get() as usize;
    let prefix_len = node.prefix_len.get() as usize;
    if prefix_len > 0 {
        let prefix = &record::key(arena, node.keys[0].get())[..prefix_len];
        match key[..key.len().min(prefix_len)].cmp(prefix) {
            Ordering::Less => return (0, false),
            Ordering::Greater => return (count, false),
            Ordering::Equal => {}
        }
    }
    let wanted = hint(key, prefix_len);
    let mut low = node.hints[..count].partition_point(|hint| hint.get() < wanted);
    let mut high = low + node.hints[low..count].partition_point(|hint| hint.get() == wanted);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = record::key(arena, node.keys[middle].get());
        match found[prefix_len..].cmp(&key[prefix_len..]) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return (middle, true),
            Ordering::Greater => high = middle,
        }
    }
    (low, false)
}

/// Makes the key the first separator of an inner node if it comes before that.
fn lower_first(arena: &mut Arena, offset: Offset, record: Offset) {
    let first = arena.get::<Node>(offset).keys[0].get();
    let (first, key) = (record::key(arena, first), record::key(arena, record));
    if key >= first {
        return;
    }
    let shared = common_prefix(key, first);
    let node = arena.get_mut::<Node>(offset);
    node.keys[0] = U32::new(record);
    let shared = shared.min(node.prefix_len.get() as usize);
    set_prefix(arena, offset, shared);
}

/// Inserts into a node that has room.
fn place(arena: &mut Arena, offset: Offset, index: usize, (record, child): (Offset, Offset)) {
    let node = arena.get::<Node>(offset);
    let (count, level) = (node.count.get() as usize, node.level.get());
    assert!(count < FANOUT && index <= count);
    let prefix_len = node.prefix_len.get() as usize;
    let shared = common_prefix(
        &record::key(arena, node.keys[0].get())[..prefix_len],
        record::key(arena, record),
    );
    let own = hint(record::key(arena, record), prefix_len.min(shared));
    let node = arena.get_mut::<Node>(offset);
    node.hints.copy_within(index..count, index + 1);
    node.keys.copy_within(index..count, index + 1);
    node.hints[index] = U64::new(own);
    node.keys[index] = U32::new(record);
    node.count = U16::new(count as u16 + 1);
    if level > 0 {
        let inner = arena.get_mut::<Inner>(offset);
        inner.children.copy_within(index..count, index + 1);
        inner.children[index] = U32::new(child);
    }
    if shared < prefix_len {
        set_prefix(arena, offset, shared);
    }
}

/// Splits a full node around the entry to be inserted and returns the new right node.
fn split(
    arena: &mut Arena,
    left: Offset,
    index: usize,
    entry: (Offset, Offset),
    edge: bool,
) -> Offset {
    let node = arena.get::<Node>(left);
    let (level, next) = (node.level.get(), node.next.get());
    assert_eq!(node.count.get() as usize, FANOUT, "only a full node splits");
    let mut entries = [(NULL, NULL); FANOUT + 1];
    for (slot, key) in node.keys.iter().enumerate() {
        entries[slot + usize::from(slot >= index)].0 = key.get();
    }
    if level > 0 {
        for (slot, child) in arena.get::<Inner>(left).children.iter().enumerate() {
            entries[slot + usize::from(slot >= index)].1 = child.get();
        }
    }
    entries[index] = entry;
    // At the right edge an ascending load continues: leave the left node full.
    let middle = if edge && index == FANOUT { FANOUT } else { FANOUT.div_ceil(2) };
    let right = new_node(arena, level);
    set_entries(arena, left, &entries[..middle]);
    set_entries(arena, right, &entries[middle..]);
    if level == 0 {
        arena.get_mut::<Node>(right).next = U32::new(next);
        arena.get_mut::<Node>(left).next = U32::new(right);
    }
    right
}

/// Replaces a node's entries and computes its prefix and hints.
fn set_entries(arena: &mut Arena, offset: Offset, entries: &[(Offset, Offset)]) {
    assert!(!entries.is_empty() && entries.len() <= FANOUT);
    let node = arena.get_mut::<Node>(offset);
    let level = node.level.get();
    node.count = U16::new(entries.len() as u16);
    for (slot, (record, _)) in node.keys.iter_mut().zip(entries) {
        *slot = U32::new(*record);
    }
    if level > 0 {
        for (slot, (_, child)) in arena.get_mut::<Inner>(offset).children.iter_mut().zip(entries) {
            *slot = U32::new(*child);
        }
    }
    // Keys are in order, so what the first and the last share, all share.
    let first = record::key(arena, entries[0].0);
    let last = record::key(arena, entries[entries.len() - 1].0);
    let shared = common_prefix(first, last);
    set_prefix(arena, offset, shared);
}

fn set_prefix(arena: &mut Arena, offset: Offset, prefix_len: usize) {
    let node = arena.get::<Node>(offset);
    let count = node.count.get() as usize;
    let mut hints = [U64::ZERO; FANOUT];
    for (slot, record) in hints.iter_mut().zip(&node.keys[..count]) {
        *slot = U64::new(hint(record::key(arena, record.get()), prefix_len));
    }
    let node = arena.get_mut::<Node>(offset);
    node.hints = hints;
    node.prefix_len = U16::new(prefix_len as u16);
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The eight bytes after the prefix, as a number that orders as they do.
#[inline]
fn hint(key: &[u8], prefix_len: usize) -> u64 {
    let rest = &key[prefix_len..];
    if let Some(bytes) = rest.first_chunk::<HINT_LEN>() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; HINT_LEN];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}
