//! Writing a corrupt block anew from a copy that somebody else has.
//!
//! Replicas have byte-identical grids, so a block that one of them cannot read is fetched from
//! another by address and checksum. Where from is the owner's business ([`Copies`]); without an
//! owner that knows, nothing here happens and a read that fails stays failed.
//!
//! 1. Whoever meets the block first fetches a copy; others that meet it meanwhile wait for that.
//! 2. The copy is verified against the very reference that the read was verified against, so
//!    whoever sent it, the right block is written or none.
//! 3. It is written in place, where a block is otherwise written once. That is safe, because what
//!    stands there is of no use to anybody: torn by a crash it is as corrupt as it was, and is
//!    repaired again; and readers verify what they get. The next checkpoint's sync makes it
//!    durable.
//! 4. What was written is read back. A device that does not keep it cannot be helped.
//!
//! **Never over something newer.** A read may have been overtaken: its block was released, freed
//! and written anew, and *therefore* is not what the read expected. A copy that is fetched then is
//! of the past. So whoever asks says whether the block is still in use, and is asked again right
//! before the write; and a block that is written for the first time waits for a repair of its
//! address. A block that is in use when the write begins can be released meanwhile, but not freed
//! and handed out again without a checkpoint, and then the new content is written after the old.
//!
//! **How long to wait.** A request waits for [`REPAIR_PATIENCE`] and fails by name. What decides
//! what the grid will consist of (merges, [`Class::Background`]) waits for ever: with another input
//! it would have another result than on the other replicas. The log waits for it in the end, and
//! the other replicas do not wait for this one.

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Buffer, Fatal};

use super::{Class, Grid, ReadError};
use crate::block::{self, Block, BlockAddress, BlockFault, BlockReference, BlockType, Checksum};
use crate::config::SECTOR_SIZE;
use crate::index::Index;

/// How long a request waits for a block to be repaired.
pub(crate) const REPAIR_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a block is asked for again that nobody had.
const AGAIN: Duration = Duration::from_millis(500);

/// What comes of asking for a copy: header and body of the block, not verified.
pub type Fetch = Pin<Box<dyn Future<Output = Option<Vec<u8>>>>>;

/// Who has copies of a grid's blocks.
pub trait Copies {
    /// Asks for a copy of a block of a shard; none when nobody had one within `patience`. Without
    /// a patience that takes until somebody has.
    fn fetch(&self, shard: u16, block: BlockReference, patience: Option<Duration>) -> Fetch;
}

/// A block as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Original {
    pub(crate) reference: BlockReference,
    pub(crate) block_type: BlockType,
}

/// What a repair came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// What is wanted stands there.
    Done,
    /// The block is not in use any more.
    Moved,
    /// Nobody has a copy, or took too long.
    NoCopy,
}

/// Whether a copy helps against a fault: not if the block is what was written, and wrong.
pub(crate) fn copy_helps(fault: BlockFault) -> bool {
    !matches!(fault, BlockFault::Malformed { .. })
}

/// Repairs under way.
#[derive(Default)]
pub(super) struct Repairs {
    copies: OnceCell<Rc<dyn Copies>>,
    under_way: RefCell<Vec<(BlockAddress, Rc<Cell<Repair>>)>>,
    ended: Event,
}

/// Takes a repair off the list, however it ends.
struct UnderWay<'g> {
    grid: &'g Grid,
    address: BlockAddress,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let repairs = &self.grid.repairs;
        repairs.under_way.borrow_mut().retain(|(address, _)| *address != self.address);
        repairs.ended.notify();
    }
}

impl Grid {
    /// Says who has copies of this grid's blocks.
    ///
    /// # Panics
    /// If that was said before.
    pub fn set_copies(&self, copies: Rc<dyn Copies>) {
        assert!(self.repairs.copies.set(copies).is_ok(), "copies are looked for in one place");
    }

    /// Whether a corrupt block can be repaired.
    pub(crate) fn has_copies(&self) -> bool {
        self.repairs.copies.get().is_some()
    }

    /// A copy of a block for somebody else: header and body, if what stands at the address is
    /// intact and has this checksum. That it is not is no fault of this grid: it may have been
    /// freed, or not been written yet.
    pub async fn copy_of(&self, address: BlockAddress, checksum: Checksum) -> Option<Block> {
        if address.get() >= self.blocks_allocated() || self.is_condemned_in(address) {
            return None;
        }
        let slot = self.slot(Class::Background).await;
        let mut buffer = self.blocks.take().await;
        buffer.set_len(self.config.block_size as usize);
        let (fault, buffer) = self.fill(&slot, buffer, address, 0).await;
        let header = block::verify_any(&buffer, self.owner.identity, address.get());
        let header = header.ok().filter(|header| fault.is_none() && header.checksum == checksum)?;
        Some(Block::verified(header, buffer.freeze()))
    }

    /// Has a block written anew from a copy, if `is_in_use` still says so when the copy is there.
    pub(crate) async fn repair(
        &self,
        wanted: &Original,
        patience: Option<Duration>,
        is_in_use: impl Fn() -> bool,
    ) -> Repair {
        let Some(copies) = self.repairs.copies.get() else { return Repair::NoCopy };
        let address = wanted.reference.address;
        if let Some(outcome) = self.repair_of(address) {
            let waiting = self.wait_for_repair(address);
            let waited = match patience {
                Some(patience) => ioring::timeout(patience, waiting).await.is_ok(),
                None => {
                    waiting.await;
                    true
                }
            };
            return if waited { outcome.get() } else { Repair::NoCopy };
        }
        let outcome = Rc::new(Cell::new(Repair::NoCopy));
        self.repairs.under_way.borrow_mut().push((address, Rc::clone(&outcome)));
        let _under_way = UnderWay { grid: self, address };
        let fetched = copies.fetch(self.owner.identity.shard, wanted.reference, patience).await;
        let Some(image) = fetched.and_then(|bytes| self.image(wanted, &bytes)) else {
            return Repair::NoCopy;
        };
        outcome.set(self.write_anew(wanted, image, is_in_use).await);
        outcome.get()
    }

    /// What becomes of a read that met a corrupt block: one of the background goes on when the
    /// block is repaired, which may take for ever; another fails.
    pub(super) async fn mend(&self, error: ReadError, class: Class) -> Result<(), ReadError> {
        let ReadError::Corrupt(corrupt) = &error;
        let Some(wanted) = corrupt.wanted.filter(|_| self.has_copies()) else { return Err(error) };
        if class != Class::Background {
            return Err(error);
        }
        // The blocks that a merge reads are in use until its bar has ended, and so until it has.
        while self.repair(&wanted, None, || true).await != Repair::Done {
            tracing::error!(%error, "a merge waits for a copy of this block");
            ioring::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Waits until nobody repairs a block.
    pub(super) async fn wait_for_repair(&self, address: BlockAddress) {
        while self.repair_of(address).is_some() {
            self.repairs.ended.wait().await;
        }
    }

    fn repair_of(&self, address: BlockAddress) -> Option<Rc<Cell<Repair>>> {
        let under_way = self.repairs.under_way.borrow();
        let repair = under_way.iter().find(|(other, _)| *other == address)?;
        Some(Rc::clone(&repair.1))
    }

    /// What a copy is written as, if it is what is wanted.
    fn image(&self, wanted: &Original, copy: &[u8]) -> Option<Buffer> {
        let Original { reference, block_type } = wanted;
        let size = reference.size as usize;
        if copy.len() != size || size > self.config.block_size as usize {
            return None;
        }
        let verified = block::verify(copy, self.owner.identity, reference, *block_type);
        let verified = verified.and_then(|_| match block_type {
            BlockType::Index => Index::verify(copy).map(|_| ()),
            _ => Ok(()),
        });
        if let Err(fault) = verified {
            tracing::error!(block = %reference, %fault, "a copy of a block is not that block");
            return None;
        }
        let mut image = Buffer::zeroed(size.next_multiple_of(SECTOR_SIZE));
        image[..size].copy_from_slice(copy);
        Some(image)
    }

    async fn write_anew(
        &self,
        wanted: &Original,
        image: Buffer,
        is_in_use: impl Fn() -> bool,
    ) -> Repair {
        let Original { reference, block_type } = wanted;
        let address = reference.address;
        self.grow(address.get() + 1).await;
        let (slot, len) = (self.slots_write.acquire().await, image.len());
        // From here to the write nothing waits.
        if !is_in_use() {
            return Repair::Moved;
        }
        let offset = address.offset(self.config.block_size);
        if let Err(error) = self.file.write(image.freeze(), offset).await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset, error });
        }
        let buffer = Buffer::zeroed(len);
        let (fault, buffer) = self.fill(&slot, buffer, address, 0).await;
        let kept = fault.is_none()
            && block::verify(&buffer, self.owner.identity, reference, *block_type).is_ok();
        let path = self.file.path();
        if !kept {
            let what = format!("{}: offset {offset} does not keep what is written", path.display());
            ioring::fatal(Fatal::Corrupt(what));
        }
        self.count(|stats| {
            stats.repaired += 1;
            stats.writes += 1;
            stats.write_bytes += len as u64;
        });
        tracing::warn!(path = %path.display(), offset, block = %reference, "a block was repaired");
        Repair::Done
    }
}
