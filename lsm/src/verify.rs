//! Verification: reads every live block of a shard and reports what is wrong, as data.
//!
//! Nothing is repaired and nothing stops at the first fault. For every live table:
//!
//! 1. its index block, against the manifest's reference and key range;
//! 2. every value block against the index: checksums, identity, structure;
//! 3. every entry: order within and across blocks, the table's key and version range, the counts;
//! 4. every overflow block of a large value.
//!
//! And across tables: every block that anything refers to is in use and not released, and referred
//! to once. The manifest log and the checkpoint's own blocks are read too.
//!
//! It works from the tables as they are when it begins and reads past the cache. Bars that end
//! while it runs move tables away under it; run it while nothing is applied.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::block::{BlockAddress, BlockFault, BlockReference, BlockType};
use crate::entry::{EntryRef, Level, Payload};
use crate::forest::Forest;
use crate::grid::Class;
use crate::lookup;
use crate::table::{BlockCursor, TableInfo};
use crate::tree::Tree;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The tree, where it belongs to one.
    pub tree: Option<Tree>,
    /// The level of the table.
    pub level: Option<Level>,
    /// The table: the address of its index block.
    pub table: Option<BlockAddress>,
    /// The block.
    pub block: Option<BlockAddress>,
    /// What is wrong.
    pub what: String,
}

impl Forest {
    /// Reads every live block; gives all faults found.
    pub async fn verify(&self) -> Vec<Fault> {
        let mut check = Verifier { forest: self, faults: Vec::new(), seen: BTreeSet::new() };
        for tree in Tree::ALL {
            let tables: Vec<(Level, Rc<TableInfo>)> = self.trees[tree.index()]
                .manifest
                .tables()
                .map(|(level, table)| (level, Rc::clone(table)))
                .collect();
            for (level, table) in tables {
                check.table(tree, level, &table).await;
            }
        }
        for (block_type, reference) in self.own_blocks() {
            check.block(None, &reference, block_type).await;
        }
        check.faults
    }
}

type Place<'t> = Option<(Tree, Level, &'t TableInfo)>;

struct Verifier<'f> {
    forest: &'f Forest,
    faults: Vec<Fault>,
    seen: BTreeSet<BlockAddress>,
}

impl Verifier<'_> {
    fn report(&mut self, place: Place<'_>, block: Option<BlockAddress>, what: String) {
        self.faults.push(Fault {
            tree: place.map(|(tree, ..)| tree),
            level: place.map(|(_, level, _)| level),
            table: place.map(|(.., table)| table.index.address),
            block,
            what,
        });
    }

    fn failed(&mut self, place: Place<'_>, error: crate::grid::ReadError) {
        let lookup::Failed { block, fault, .. } = lookup::failed(error);
        self.report(place, Some(block), fault.to_string());
    }

    /// Notes a reference to a block.
    fn refer(&mut self, place: Place<'_>, address: BlockAddress) {
        if !self.forest.grid().is_live(address) {
            self.report(place, Some(address), "referred to, and not in use".into());
        }
        if !self.seen.insert(address) {
            self.report(place, Some(address), "referred to twice".into());
        }
    }

    async fn block(
        &mut self,
        place: Place<'_>,
        reference: &BlockReference,
        block_type: BlockType,
    ) -> Option<crate::block::Block> {
        self.refer(place, reference.address);
        match self.forest.grid().read_block(reference, block_type, Class::Background).await {
            Ok(block) => Some(block),
            Err(error) => {
                self.failed(place, error);
                None
            }
        }
    }

    async fn table(&mut self, tree: Tree, level: Level, table: &TableInfo) {
        let place = Some((tree, level, table));
        self.refer(place, table.index.address);
        let handle = match self.forest.grid().read_index(table, Class::Background).await {
            Ok(handle) => handle,
            Err(error) => return self.failed(place, error),
        };
        let references: Vec<BlockReference> = {
            let index = handle.index();
            (0..index.block_count()).map(|number| index.block(number).reference).collect()
        };
        let mut walk = Walk::default();
        let mut complete = true;
        for reference in &references {
            let Some(block) = self.block(place, reference, BlockType::Value).await else {
                complete = false;
                continue;
            };
            if let Err(fault) = self.entries(place, table, block, &mut walk).await {
                complete = false;
                self.report(place, Some(reference.address), fault.to_string());
            }
        }
        let counts = (walk.entries, walk.tombstones);
        if complete && counts != (table.entries, table.tombstones) {
            let what = format!("{counts:?} entries and tombstones, not as the manifest says");
            self.report(place, None, what);
        }
    }

    /// Walks a value block.
    async fn entries(
        &mut self,
        place: Place<'_>,
        table: &TableInfo,
        block: crate::block::Block,
        walk: &mut Walk,
    ) -> Result<(), BlockFault> {
        let address = block.header().address;
        let mut cursor = BlockCursor::new(block)?;
        while cursor.next()? {
            let entry = cursor.entry();
            if let Some(what) = walk.step(&entry, table) {
                self.report(place, Some(address), what.into());
            }
            let Payload::Overflow(list) = entry.payload else { continue };
            let Some(pieces) = list.references(self.forest.grid().config()) else {
                self.report(place, Some(address), "a large value's list is malformed".into());
                continue;
            };
            for piece in pieces {
                self.block(place, &piece, BlockType::Overflow).await;
            }
        }
        Ok(())
    }
}

/// What the entries met so far say.
#[derive(Default)]
struct Walk {
    key: Vec<u8>,
    version: u64,
    entries: u64,
    tombstones: u64,
}

impl Walk {
    /// Takes the next entry; gives what is wrong with it.
    fn step(&mut self, entry: &EntryRef<'_>, table: &TableInfo) -> Option<&'static str> {
        let after = self.entries == 0
            || self.key.as_slice() < entry.key
            || (self.key == entry.key && self.version > entry.version);
        self.entries += 1;
        self.tombstones += u64::from(entry.payload.is_tombstone());
        self.key.clear();
        self.key.extend_from_slice(entry.key);
        self.version = entry.version;
        if !after {
            return Some("an entry is out of order");
        }
        let versions = table.version_min..=table.version_max;
        if !table.covers(entry.key) || !versions.contains(&entry.version) {
            return Some("an entry is outside its table's range");
        }
        None
    }
}
