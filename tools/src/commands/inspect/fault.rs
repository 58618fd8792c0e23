//! One thing that is not as it was written, and where.

use std::fmt;
use std::path::Path;

use lsm::block::BlockAddress;
use lsm::entry::{Level, TreeId};
use lsm::table::TableInfo;
use lsm::tree::Tree;
use serde::Serialize;

/// A fault, as precisely as it could be placed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Fault {
    /// The file, as it is called in the directory.
    pub(crate) file: String,
    /// Where in the file, in bytes.
    pub(crate) offset: Option<u64>,
    /// The shard, for a grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<u16>,
    /// The tree, for a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<&'static str>,
    /// The table's level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<u8>,
    /// The table: the address of its index block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u64>,
    /// The block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<u64>,
    /// What is wrong.
    pub(crate) what: String,
}

impl Fault {
    /// A fault of a grid file.
    pub(crate) fn of_grid(path: &Path, shard: u16, what: String) -> Fault {
        let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        Fault { file, shard: Some(shard), what, ..Fault::default() }
    }

    /// The same, at a block.
    pub(crate) fn at_block(mut self, address: BlockAddress, block_size: u32) -> Fault {
        self.block = Some(address.get());
        self.offset = Some(address.offset(block_size));
        self
    }

    /// The same, in a table.
    pub(crate) fn in_table(mut self, level: Level, table: &TableInfo) -> Fault {
        self.tree = Some(tree_name(table.tree));
        self.level = Some(level.0);
        self.table = Some(table.index.address.get());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        f.write_str(": ")?;
        if let Some(shard) = self.shard {
            write!(f, "shard {shard}")?;
            if let Some(tree) = self.tree {
                write!(f, ", tree {tree}")?;
            }
            let numbers = [("level", self.level.map(u64::from)), ("table", self.table)];
            for (name, number) in numbers.into_iter().chain([("block", self.block)]) {
                if let Some(number) = number {
                    write!(f, ", {name} {number}")?;
                }
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}

/// What a tree is called on the command line.
pub(crate) fn tree_name(tree: TreeId) -> &'static str {
    Tree::from_id(tree).map_or("unknown", Tree::name)
}
