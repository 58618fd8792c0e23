//! Blocks of the grids, from one replica to another.
//!
//! ```text
//!   a read, merge or scrub meets                            a peer
//!   a corrupt block ─▶ (lane) ─▶ fetch ── GetBlocks ──▶ serve ─▶ (lane) ─▶ its own grid
//!   written, read again ◀─────── verified ◀── Block ──────┘
//! ```
//!
//! All replicas execute the same log and so have the same grids: a block is named by shard, address
//! and checksum, and whoever has it has the very bytes. What is done with a copy, and why that is
//! safe, stands with the grid (`lsm/src/grid/copies.rs`); here is how it gets there.
//!
//! 1. The core that misses a block asks the core with the connections, and that one asks one peer
//!    after the other, beginning with another one each time, so that no peer gets all questions.
//! 2. A peer reads the block from its own grid and compares checksum and address with what was
//!    asked. If that is not what stands there (it is damaged too, was freed, or is not written yet)
//!    it says so with an empty [`Block`](wire::message::Block), and the next one is asked at once.
//! 3. What comes is taken if that peer was asked for it and has not been given up. Whether the
//!    bytes are the block is for the grid to verify.
//!
//! **Bounds.** [`ASKED_MAX`] questions are out at the same time. A peer keeps [`LINE`] questions,
//! drops what is more, and reads for [`SERVERS`] of them at a time, with the slots and buffers of
//! background work; blocks go by the class transfers. So a peer with damage everywhere costs the
//! others two reads at a time, and delays neither clients nor the log. What is dropped or lost is
//! asked again: nothing here has to arrive.
//!
//! **Without copies** a member cannot do what the log says: answering "corrupt" where the others do
//! the operation would be divergence, and so would a merge without the damaged table. Work of the
//! log therefore waits for a copy ([`waits_for_copy`]), for ever if need be, and says so; reads of
//! clients fail after a while by name. A replica that is alone goes on without, as before.

mod fetch;
mod serve;

use std::rc::{Rc, Weak};
use std::time::Duration;

use ioring::sync::{self, Slots};
use ioring::{Queue, spawn};
use lsm::block::BlockReference;
use lsm::grid::{Copies, Fetch};
use lsm::lookup::CorruptRead;
use wire::{Checksum, ReplicaId, ShardId, message};

use crate::core::Core;
use crate::mesh::batch::{Answer, Query};
use crate::topology::CoreIndex;
use fetch::Fetches;

/// Questions that wait for an answer.
const ASKED_MAX: usize = 8;
/// Questions of peers that wait.
const LINE: usize = 64;
/// Questions of peers that are being answered.
const SERVERS: usize = 2;
/// How long work of the log rests that nobody could help.
const AGAIN: Duration = Duration::from_millis(200);

/// See the module's text.
pub struct Repairs {
    fetches: Fetches,
    line: sync::Queue<(ReplicaId, message::BlockReference)>,
}

impl Default for Repairs {
    fn default() -> Repairs {
        Repairs { fetches: Fetches::new(Slots::new(ASKED_MAX)), line: sync::Queue::new(LINE) }
    }
}

impl Repairs {
    /// Lets the core's grids be repaired; on the core that has the connections, answers peers.
    pub fn start(core: &Rc<Core>) {
        if !core.clustered {
            return;
        }
        core.applier.with_shards(|shards| {
            for shard in shards.iter() {
                shard.forest().set_copies(Rc::new(OfPeers(Rc::downgrade(core))));
            }
        });
        if core.index == CoreIndex::REPLICA {
            for _ in 0..SERVERS {
                let core = core.clone();
                let serve = async move { serve::run(&core).await };
                spawn(Queue::Replication, "blocks for peers", serve).detach();
            }
        }
    }
}

/// Copies that the peers have.
struct OfPeers(Weak<Core>);

impl Copies for OfPeers {
    fn fetch(&self, shard: u16, block: BlockReference, patience: Option<Duration>) -> Fetch {
        let core = self.0.clone();
        let (checksum, address) = (Checksum(block.checksum.0), block.address.get());
        let wanted = message::BlockReference::new(checksum, address, ShardId(shard));
        Box::pin(async move {
            let core = core.upgrade()?;
            if core.index == CoreIndex::REPLICA {
                return core.repairs.fetch(&core, wanted, patience).await;
            }
            match core.mesh.query(CoreIndex::REPLICA, Query::Fetch(wanted, patience)).await {
                Some(Answer::Block(copy)) => copy,
                _ => None,
            }
        })
    }
}

/// What becomes of work of the log that cannot be done without a corrupt block: a replica that is
/// alone does without (`false`), a member rests and tries again.
pub async fn waits_for_copy(core: &Core, fault: &CorruptRead) -> bool {
    if core.clustered {
        tracing::error!(%fault, "the log waits: no peer has a copy of this block now");
        ioring::sleep(AGAIN).await;
    }
    core.clustered
}

pub use serve::copy_here;
