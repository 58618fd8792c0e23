//! Writes on a damaged grid: refused before they are given an op, where they would not be done.
//!
//! An operation that needs what stands in a corrupt block changes nothing when its op is applied,
//! and answers `corrupt_block`. That answer is not the last word: until the next checkpoint a crash
//! replays the op, and should the block be readable then (a device may recover), it is done after
//! all. So once a core knows of any damage, it looks before it gives a write to the log: what an
//! operation will need is read first, and if that fails the whole request is refused: nothing was
//! done, and nothing will be. Only the first operations to meet a block get the weaker answer.
//!
//! The replica's core looks for all: it knows from the others' reports which of them have damage,
//! and asks those.
//!
//! A core without damage pays one comparison for a run of writes. On a damaged one a write whose
//! entry is not in memory waits for the grid here instead of at its turn in the log.

use lsm::lookup::LookupError;
use wire::RequestView;

use super::Core;
use crate::mesh::batch::{Answer, CoreSet, Query};
use crate::metrics::Counter;
use crate::shard::apply;
use crate::shard::{LATEST, Looked};

/// Whether all that the operations of a request need can be read now. Cores whose grids are damaged
/// look themselves.
pub(super) async fn is_readable(core: &Core, request: &RequestView<'_>) -> bool {
    let mut cores = CoreSet::default();
    for operation in request.operations().filter(|operation| operation.opcode.has_key()) {
        cores.add(core.core_of(operation.slot));
    }
    for other in cores.iter().filter(|other| *other != core.index) {
        if !core.mesh.is_damaged(other) {
            continue;
        }
        let query = Query::Readable(request.bytes().to_vec());
        if let Some(Answer::Readable(false)) = core.mesh.query(other, query).await {
            return false;
        }
    }
    is_readable_here(core, request).await
}

/// The same of this core's shards.
pub async fn is_readable_here(core: &Core, request: &RequestView<'_>) -> bool {
    let mut encoded = Vec::new();
    for operation in request.operations() {
        let Some(want) = apply::wanted(&operation) else { continue };
        loop {
            let looked = core.applier.with_shards(|shards| {
                let shard = shards.of_slot(operation.slot)?;
                shard.encode_key(operation.table, operation.key, &mut encoded);
                Some(shard.look(&encoded, LATEST, want, |_| ()))
            });
            let Some(Looked::NeedsRead(read)) = looked else { break };
            match read.run().await {
                Ok(_) => break,
                Err(LookupError::Moved) => {}
                Err(LookupError::Corrupt(fault)) => {
                    core.metrics.count(Counter::Corrupt);
                    tracing::error!(%fault, "a write that needs a corrupt block is refused");
                    return false;
                }
            }
        }
    }
    true
}
