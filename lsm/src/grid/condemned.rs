//! Places of a grid that are not to be read again, although they are in use.
//!
//! With one replica nothing can repair a corrupt block. When an operation of the log needs an entry
//! that stands in one, its owner lets the operation change nothing, and *condemns* the place. The
//! reason is the replay. A place that could not be read at one moment may be readable at another (a
//! device that was busy failing, a cable), and an operation that was done before a crash may meet
//! the fault only when it is replayed. If the place were believed again later, a reader would get
//! the entry from before an operation that was acknowledged, and nobody would be told. So:
//!
//! 1. A condemned place fails every later read that needs it, by name, whatever the device gives.
//! 2. The list goes into the checkpoints that follow (the owner keeps it with what it remembers
//!    beside the trees), and comes back with the open: a checkpoint never covers an operation that
//!    could not be done without also covering the place that was at fault. A crash before that
//!    checkpoint replays the operation, which then meets the place or does not: in either case what
//!    it does agrees with what can be read.
//! 3. When the block is released nothing refers to it any more, and its places are forgotten.
//!
//! A place is an offset in the file: of the sector where a page begins, or of a block. That keeps
//! the other pages of a block readable. The list is bounded ([`CONDEMNED_MAX`]).

use super::Grid;
use crate::block::BlockAddress;

/// Places that can be condemned at the same time.
pub const CONDEMNED_MAX: usize = 512;

impl Grid {
    /// Fails all further reads of a place: see the module. `false` if there are too many already.
    #[must_use]
    pub(crate) fn condemn(&self, offset: u64) -> bool {
        let mut condemned = self.condemned.borrow_mut();
        if condemned.len() == CONDEMNED_MAX && !condemned.contains(&offset) {
            return false;
        }
        condemned.insert(offset);
        true
    }

    /// The places that are condemned, in order.
    pub(crate) fn condemned(&self) -> Vec<u64> {
        self.condemned.borrow().iter().copied().collect()
    }

    /// Whether a read failed for good since the open, or is known to fail.
    pub(crate) fn is_damaged(&self) -> bool {
        self.stats.get().corrupt > 0 || !self.condemned.borrow().is_empty()
    }

    pub(super) fn is_condemned(&self, offset: u64) -> bool {
        self.condemned.borrow().contains(&offset)
    }

    /// Whether any place in a block is.
    pub(super) fn is_condemned_in(&self, address: BlockAddress) -> bool {
        let block_size = self.config.block_size;
        let start = address.offset(block_size);
        let condemned = self.condemned.borrow();
        condemned.range(start..start.saturating_add(block_size.into())).next().is_some()
    }

    /// Nothing refers to a block any more.
    pub(super) fn forget_condemned(&self, address: BlockAddress) {
        let mut condemned = self.condemned.borrow_mut();
        if !condemned.is_empty() {
            let start = address.offset(self.config.block_size);
            let end = start + u64::from(self.config.block_size);
            condemned.retain(|offset| !(start..end).contains(offset));
        }
    }
}
