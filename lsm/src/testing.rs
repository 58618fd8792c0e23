//! What tests of this crate share: numbers of cases, a simulated core, a formatted grid, tables
//! that no grid holds.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use ioring::Direct;
use ioring::sim::{self, World};
use proptest::prelude::ProptestConfig;

use crate::block::{BlockAddress, BlockReference, Checksum, HEADER_SIZE, Identity};
use crate::config::Config;
use crate::entry::TreeId;
use crate::grid::{Grid, Owner};
use crate::table::TableInfo;

pub(crate) const OWNER: Owner =
    Owner { identity: Identity { cluster: 5, shard: 1 }, replica: 0, incarnation: 99 };

pub(crate) const PATH: &str = "/shard-0001.grid";

/// A property of so many cases, or of as many as `PROPTEST_CASES` says.
pub(crate) fn cases(short: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(short),
    }
}

/// Runs a test on one simulated core with a disk of its own.
pub(crate) fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + 'static) {
    let mut world = World::new(1, sim::Config::default());
    let node = world.add_node("test");
    let done = Rc::new(Cell::new(false));
    let ended = Rc::clone(&done);
    let main = || async move {
        main().await;
        ended.set(true);
    };
    world.run(node, main).unwrap();
    assert!(done.get());
}

/// A freshly formatted grid.
pub(crate) async fn grid(config: &Config) -> Rc<Grid> {
    grid_at(Path::new(PATH), config).await
}

/// A freshly formatted grid in another file.
pub(crate) async fn grid_at(path: &Path, config: &Config) -> Rc<Grid> {
    Grid::format(path, OWNER, config, Direct::Required).await.unwrap();
    ioring::fs::sync_dir("/".as_ref()).unwrap();
    Grid::open(path, OWNER, config, Direct::Required).await.unwrap()
}

/// An intact block as a release with another format writes it.
pub(crate) fn of_version(block: &[u8], version: u16) -> Vec<u8> {
    let mut block = block.to_vec();
    block[70..72].copy_from_slice(&version.to_le_bytes());
    let checksum = Checksum::of(&block[16..HEADER_SIZE]);
    block[..16].copy_from_slice(&checksum.0.to_le_bytes());
    block
}

/// A table of one block over `min..=max` whose index stands at `address`.
pub(crate) fn table(address: u64, min: &[u8], max: &[u8]) -> TableInfo {
    let address = BlockAddress::new(address).unwrap();
    TableInfo {
        tree: TreeId(1),
        index: BlockReference { address, size: 4096, checksum: Checksum(0) },
        key_min: min.into(),
        key_max: max.into(),
        version_min: 1,
        version_max: 1000 - address.get(),
        op: 1,
        run: 1,
        entries: 1,
        tombstones: 0,
        value_bytes: 1,
        value_blocks: 1,
        overflow_blocks: 0,
        sample: Box::default(),
    }
}
