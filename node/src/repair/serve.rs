//! Answering peers that ask for blocks.

use lsm::block::{BlockAddress, Checksum};
use wire::ReplicaId;
use wire::message::{Block, BlockReference};
use zerocopy::FromBytes;

use super::Repairs;
use crate::core::Core;
use crate::mesh::batch::{Answer, Query};
use crate::metrics::Counter;

impl Repairs {
    /// A peer asks for blocks; what there is no place for is dropped, and asked again.
    pub fn on_ask(&self, from: ReplicaId, body: &[u8]) {
        let Ok(wanted) = <[BlockReference]>::ref_from_bytes(body) else { return };
        for wanted in wanted {
            if self.line.try_push((from, *wanted)).is_err() {
                return;
            }
        }
    }
}

/// Answers one question after the other.
pub(super) async fn run(core: &Core) {
    while let Some((peer, wanted)) = core.repairs.line.pop().await {
        let copy = copy(core, wanted).await.unwrap_or_default();
        let (Some(peers), Some(replica)) = (core.peers.get(), core.replica.get()) else { continue };
        if !copy.is_empty() {
            core.metrics.count(Counter::BlocksServed);
        }
        let (block, address, shard) = (wanted.checksum(), wanted.address(), wanted.shard());
        let header = replica.draft().seal(&Block { block, address, shard }, &copy);
        peers.send_block(peer, &header, &copy);
    }
}

/// The block, from the core that has its shard.
async fn copy(core: &Core, wanted: BlockReference) -> Option<Vec<u8>> {
    if wanted.shard().0 >= core.topology.shards() {
        return None;
    }
    let owner = core.topology.core_of(wanted.shard());
    if owner == core.index {
        return copy_here(core, wanted).await;
    }
    match core.mesh.query(owner, Query::Copy(wanted)).await {
        Some(Answer::Block(copy)) => copy,
        _ => None,
    }
}

/// A block of this core's grids, if it is intact and the one that is meant.
pub async fn copy_here(core: &Core, wanted: BlockReference) -> Option<Vec<u8>> {
    let address = BlockAddress::new(wanted.address())?;
    let read = core.applier.with_shards(|shards| {
        let index = shards.index_of(wanted.shard())?;
        Some(shards.at(index).forest().copy_of(address, Checksum(wanted.checksum().0)))
    });
    Some(read?.await?.bytes().to_vec())
}
