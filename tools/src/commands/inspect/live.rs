//! What a checkpoint says is live in a grid, found from its root with whatever can be read.
//!
//! A node refuses to open a checkpoint of which a block is damaged. Here everything that can still
//! be reached is taken, and what cannot is listed:
//!
//! 1. the root block; without it nothing is known but the file;
//! 2. the free set, all of its chunks or none;
//! 3. the manifest log from its newest block back. The first record met about a table is the newest
//!    and decides. A block names several before it, so one that is damaged loses its own records
//!    only; tables that they removed, or had moved to another level, may then be listed as older
//!    blocks have them, and `complete` is false.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use lsm::block::{BlockReference, BlockType};
use lsm::checkpoint::RootView;
use lsm::entry::Level;
use lsm::free_set::FreeSet;
use lsm::manifest_log::{self, Record};
use lsm::table::TableInfo;
use vsr::format::Configuration;

use super::fault::Fault;
use super::grid_file::GridFile;

/// The content of a checkpoint.
pub(crate) struct Live {
    pub(crate) reference: Option<BlockReference>,
    pub(crate) root: Option<RootView>,
    pub(crate) free_set: Option<FreeSet>,
    /// Blocks of the manifest log that were read, newest first.
    pub(crate) manifest: Vec<BlockReference>,
    /// By tree, level and smallest key.
    pub(crate) tables: Vec<(Level, Rc<TableInfo>)>,
    /// Whether all of it could be read.
    pub(crate) complete: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Live {
    /// Reads what the root refers to; nothing is live without a root.
    pub(crate) fn read(
        grid: &GridFile,
        reference: Option<BlockReference>,
        configuration: Option<&Configuration>,
    ) -> Live {
        let mut live = Live {
            reference,
            root: None,
            free_set: None,
            manifest: Vec::new(),
            tables: Vec::new(),
            complete: true,
            faults: Vec::new(),
        };
        let Some(reference) = reference else { return live };
        let what = "root of the checkpoint";
        let Some(block) = live.block(grid, what, &reference, BlockType::Checkpoint) else {
            return live;
        };
        let Some(root) = RootView::parse(&block) else {
            live.fault(grid.block_fault(reference.address, "the root block is malformed"));
            return live;
        };
        if let Some(configuration) = configuration {
            live.read_free_set(grid, &root, configuration);
        }
        for reference in &root.extra {
            live.block(grid, "generations of the checkpoint", reference, BlockType::Extra);
        }
        live.read_manifest(grid, &root);
        live.root = Some(root);
        live
    }

    /// Notes that something cannot be read.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.complete = false;
        self.faults.push(fault);
    }

    fn block(
        &mut self,
        grid: &GridFile,
        what: &str,
        reference: &BlockReference,
        block_type: BlockType,
    ) -> Option<lsm::block::Block> {
        let read = grid.block(reference, block_type);
        read.map_err(|fault| {
            self.fault(grid.block_fault(reference.address, format!("{what}: {fault}")));
        })
        .ok()
    }

    fn read_free_set(&mut self, grid: &GridFile, root: &RootView, configuration: &Configuration) {
        let config = node::shard::open::config(configuration, 0);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for reference in &root.free_set {
            let what = "free set of the checkpoint";
            let block = self.block(grid, what, reference, BlockType::FreeSet);
            let Some(block) = block else { return };
            chunks.extend(root.chunks(&block).map(<[u8]>::to_vec));
        }
        let stored = chunks.iter().map(Vec::as_slice);
        let (blocks_max, chunk_blocks) = (config.grid_blocks_max, config.free_set_chunk_blocks);
        match FreeSet::restore(blocks_max, chunk_blocks, stored) {
            Ok(free_set) => self.free_set = Some(free_set),
            Err(fault) => self.fault(grid.fault(format!("free set of the checkpoint: {fault}"))),
        }
        let Some(free_set) = &self.free_set else { return };
        let (last, blocks) = (free_set.address_max(), grid.blocks());
        if last >= blocks {
            let length = grid.length;
            self.faults.push(grid.fault(format!(
                "the file ends at offset {length}, and blocks up to {last} are in use: it was cut"
            )));
        }
    }

    fn read_manifest(&mut self, grid: &GridFile, root: &RootView) {
        let mut seen = BTreeSet::new();
        let mut ahead: VecDeque<BlockReference> = root.manifest.newest.into_iter().collect();
        let mut left = root.manifest.block_count;
        while let Some(reference) = ahead.pop_front() {
            if left == 0 {
                break;
            }
            left -= 1;
            let block = self.block(grid, "manifest log", &reference, BlockType::Manifest);
            let Some(block) = block else { continue };
            let taken = manifest_log::records(&block)
                .and_then(|records| Ok((records, manifest_log::predecessors(&block)?)));
            match taken {
                Ok((records, predecessors)) => {
                    self.manifest.push(reference);
                    self.take(records, &mut seen);
                    // It names the same blocks as the one before it, and further ones.
                    ahead = predecessors;
                }
                Err(fault) => self.fault(grid.block_fault(reference.address, fault.to_string())),
            }
        }
        if left > 0 {
            let what = format!("{left} blocks of the manifest log cannot be reached");
            self.fault(grid.fault(what));
        }
        self.tables.sort_by(|(a_level, a), (b_level, b)| {
            (a.tree, a_level, &a.key_min).cmp(&(b.tree, b_level, &b.key_min))
        });
    }

    /// Takes a block's records, of which the last is the newest.
    fn take(&mut self, records: Vec<Record>, seen: &mut BTreeSet<u64>) {
        for record in records.into_iter().rev() {
            match record {
                Record::Remove { address, .. } => {
                    seen.insert(address.get());
                }
                Record::Insert { level, table } => {
                    if seen.insert(table.index.address.get()) {
                        self.tables.push((level, table));
                    }
                }
            }
        }
    }
}
