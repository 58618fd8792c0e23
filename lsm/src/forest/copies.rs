//! What a forest has to do with copies of its grid: it says where there are some, and gives some.

use std::cell::Cell;
use std::rc::Rc;

use super::Forest;
use crate::block::{Block, BlockAddress, Checksum};
use crate::grid::Copies;

impl Forest {
    /// Says who has copies of the grid's blocks: see [`Grid::set_copies`].
    pub fn set_copies(&self, copies: Rc<dyn Copies>) {
        self.grid.set_copies(copies);
    }

    /// A copy of a block for somebody else: see [`Grid::copy_of`].
    pub fn copy_of(
        &self,
        address: BlockAddress,
        checksum: Checksum,
    ) -> impl Future<Output = Option<Block>> + use<> {
        let grid = Rc::clone(&self.grid);
        async move { grid.copy_of(address, checksum).await }
    }

    /// Blocks written anew from copies since the open.
    #[must_use]
    pub fn blocks_repaired(&self) -> u64 {
        self.grid.stats().repaired
    }

    /// Rises with each bar's end.
    pub(crate) fn epoch(&self) -> &Rc<Cell<u64>> {
        &self.epoch
    }
}
