//! Reading what a scrub asks for: from the device, past the cache, and without counting a failure.
//! Whether one is a fault is not known before it is clear that the block was in use all the time;
//! see [`crate::scrub`].

use ioring::{Buffer, Fatal};

use super::{Class, Grid, file};
use crate::block::{self, Block, BlockFault, BlockReference, BlockType};
use crate::config::SECTOR_SIZE;

/// Attempts at a read, as for everyone else.
const ATTEMPTS: usize = 2;

impl Grid {
    /// Reads a block and checks it against its reference.
    pub(crate) async fn scrub_block(
        &self,
        reference: &BlockReference,
        block_type: BlockType,
    ) -> Result<Block, BlockFault> {
        if self.is_condemned_in(reference.address) {
            return Err(BlockFault::Condemned);
        }
        let slot = self.slot(Class::Background).await;
        let mut buffer = self.blocks.take().await;
        let size = (reference.size as usize).next_multiple_of(SECTOR_SIZE);
        let size = size.min(self.config.block_size as usize);
        let mut fault = None;
        for _ in 0..ATTEMPTS {
            buffer.set_len(size);
            (fault, buffer) = self.fill(&slot, buffer, reference.address, 0).await;
            if fault.is_some() {
                continue;
            }
            match block::verify(&buffer, self.owner.identity, reference, block_type) {
                Ok(header) => return Ok(Block::verified(header, buffer.freeze())),
                Err(found) => fault = Some(found),
            }
        }
        Err(fault.expect("an attempt that finds no fault returns"))
    }

    /// Checks the file's header; one that is damaged is written anew, since all of it is known.
    pub(crate) async fn scrub_header(&self) -> Result<(), BlockFault> {
        let (result, header) = self.file.read(Buffer::zeroed(SECTOR_SIZE), 0).await;
        let read = result.map_err(|error| BlockFault::Device(error.kind()));
        let Err(fault) = read.and_then(|()| block::verify_grid_header(&header)) else {
            return Ok(());
        };
        let image = file::header(self.owner, &self.config);
        if let Err(error) = self.file.write(image, 0).await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset: 0, error });
        }
        self.sync().await;
        Err(fault)
    }

    /// A block was found corrupt while it was in use.
    pub(crate) fn note_corrupt(&self) {
        self.count(|stats| stats.corrupt += 1);
    }
}
