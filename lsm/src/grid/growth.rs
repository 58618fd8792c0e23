//! Growing the grid file ahead of need, on a host that may have no space left for it.
//!
//! Addresses are handed out from the lowest up, as a function of the log; how far the file reaches
//! is a matter of the host. What must not happen is that a block has an address and the host no
//! place for it. So the file is kept longer than what is in use:
//!
//! 1. Whoever looks at the space says how many free blocks the file is to have
//!    ([`Grid::look_ahead`]): what flushes and a checkpoint of admitted ops take, and what a merge
//!    needs. When there are fewer, and some to spare, the file is extended beside everything else.
//! 2. When the host refuses, the grid is as large as its file ([`Grid::is_host_full`]): the owner
//!    admits writes, and plans merges, by the free blocks within it. It is asked again every
//!    second, until there are as many free blocks as are wanted: because the host has space again,
//!    or because merges gave blocks back.
//! 3. A merge asks before each table ([`Grid::has_place_for`]) whether the file reaches that far,
//!    with the wanted number of free blocks to spare. If not it ends there, as if its room had
//!    ended. So what it leaves is enough for the next flush, even if it was planned before the host
//!    was full.
//!
//! What is left is a write that finds no place all the same, because more was admitted between two
//! looks than is kept to spare. It waits, and with it the log, until the host has space; nothing is
//! lost, and reads go on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ioring::Queue;
use ioring::sync::Slots;

use super::{Grid, file};
use crate::free_set::Reservation;

/// How often a host that is full is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The same for a write that waits.
const ASK_AGAIN_WRITE: Duration = Duration::from_millis(100);
/// Extents by which the file is longer than wanted at least; it grows when it is not.
const EXTENTS_SPARE: u64 = 1;

pub(super) struct Growth {
    turn: Slots,
    /// Free blocks that the file is to have.
    wanted: Cell<u64>,
    /// Whether the file is being extended ahead.
    ahead: Cell<bool>,
    host_full: Cell<bool>,
}

impl Default for Growth {
    fn default() -> Growth {
        Growth {
            turn: Slots::new(1),
            wanted: Cell::new(0),
            ahead: Cell::new(false),
            host_full: Cell::new(false),
        }
    }
}

impl Grid {
    /// Whether the host had no space for more of the file when it was asked last.
    #[must_use]
    pub fn is_host_full(&self) -> bool {
        self.growth.host_full.get()
    }

    /// Free blocks within the file as it is.
    #[must_use]
    pub fn free_in_file(&self) -> u64 {
        self.free_set.borrow().free_below(self.blocks_allocated.get())
    }

    /// Sees to it that the file has so many free blocks, as far as the limit and the host allow.
    pub fn look_ahead(self: &Rc<Self>, wanted: u64) {
        self.growth.wanted.set(wanted);
        let enough = self.missing(EXTENTS_SPARE) == 0 && !self.is_host_full();
        if enough || self.growth.ahead.replace(true) {
            return;
        }
        let grid = Rc::clone(self);
        let work = async move {
            // Twice what makes it begin, so that it is not begun all the time.
            while let missing @ 1.. = grid.missing(2 * EXTENTS_SPARE) {
                if !grid.try_grow(grid.blocks_allocated.get() + missing).await {
                    ioring::sleep(ASK_AGAIN).await;
                }
            }
            grid.set_host_full(false);
            grid.growth.ahead.set(false);
        };
        ioring::spawn(Queue::Background, "grid growth", work).detach();
    }

    /// Blocks that the file lacks, with so many extents to spare.
    fn missing(&self, extents: u64) -> u64 {
        let spare = extents * self.config.grid_extent_blocks;
        let most = self.config.grid_blocks_max - self.blocks_allocated.get();
        (self.growth.wanted.get() + spare).saturating_sub(self.free_in_file()).min(most)
    }

    /// Whether the next `count` blocks of a reservation have a place in the file, with the wanted
    /// number of free ones to spare; extends it if need be.
    pub(crate) async fn has_place_for(&self, reservation: &Reservation, count: u64) -> bool {
        let Some(last) = reservation.last_of(count) else { return true };
        let needed = (last + 1).max(self.blocks_allocated.get() + self.missing(0));
        self.try_grow(needed).await
    }

    /// Gives the file space for at least this many blocks; waits until the host has it.
    pub(super) async fn grow(&self, blocks: u64) {
        while !self.try_grow(blocks).await {
            ioring::sleep(ASK_AGAIN_WRITE).await;
        }
    }

    /// Gives the file space for at least this many blocks, if the host has it.
    async fn try_grow(&self, blocks: u64) -> bool {
        assert!(blocks <= self.config.grid_blocks_max, "{blocks} blocks are more than the limit");
        while blocks > self.blocks_allocated.get() {
            let _turn = self.growth.turn.acquire().await;
            let have = self.blocks_allocated.get();
            if blocks <= have {
                break;
            }
            let extent = self.config.grid_extent_blocks;
            let target = blocks.next_multiple_of(extent).min(self.config.grid_blocks_max);
            if !file::extend(&self.file, self.config.block_size, have, target).await {
                self.set_host_full(true);
                return false;
            }
            self.blocks_allocated.set(target);
            self.set_host_full(false);
        }
        true
    }

    fn set_host_full(&self, full: bool) {
        if self.growth.host_full.replace(full) == full {
            return;
        }
        let path = self.path().display();
        if full {
            tracing::warn!(%path, "the host has no space for more of the grid: no_space before it \
                is needed; make room on the device, or delete something");
        } else {
            tracing::info!(%path, "the grid has room within its file again");
        }
    }
}
