//! Asking peers for a block.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ioring::sync::{Slots, oneshot};
use wire::message::{Block, BlockReference, GetBlocks};
use wire::{Header, ReplicaId};
use zerocopy::IntoBytes;

use super::Repairs;
use crate::core::Core;

/// How long a peer may take before the next one is asked.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long to rest when all were asked in vain: from, to.
const REST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A question that is out.
struct Asked {
    peer: ReplicaId,
    wanted: BlockReference,
    answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// Questions that are out.
pub(super) struct Fetches {
    slots: Slots,
    asked: RefCell<Vec<Asked>>,
    /// How many blocks were fetched: decides who is asked first.
    count: Cell<usize>,
}

impl Fetches {
    pub(super) fn new(slots: Slots) -> Fetches {
        Fetches { slots, asked: RefCell::default(), count: Cell::default() }
    }
}

impl Repairs {
    /// Asks peers for a block until one has it; not longer than `patience`, if there is any.
    pub async fn fetch(
        &self,
        core: &Core,
        wanted: BlockReference,
        patience: Option<Duration>,
    ) -> Option<Vec<u8>> {
        let deadline = patience.map(|patience| ioring::now() + patience);
        let is_late = || deadline.is_some_and(|deadline| deadline <= ioring::now());
        let mut rest = REST.0;
        loop {
            let peers: Vec<ReplicaId> = core.peers.get()?.others().collect();
            let first = self.fetches.count.replace(self.fetches.count.get() + 1);
            for number in 0..peers.len() {
                if is_late() {
                    return None;
                }
                let peer = peers[(first + number) % peers.len()];
                if let Some(copy) = self.ask(core, peer, wanted).await {
                    return Some(copy);
                }
            }
            if is_late() {
                return None;
            }
            ioring::sleep(rest).await;
            rest = (2 * rest).min(REST.1);
        }
    }

    /// Asks one peer; none if it has no copy or does not answer.
    async fn ask(&self, core: &Core, peer: ReplicaId, wanted: BlockReference) -> Option<Vec<u8>> {
        let _slot = self.fetches.slots.acquire().await;
        let (answer, answered) = oneshot::channel();
        let draft = core.replica.get()?.draft();
        let header = draft.seal(&GetBlocks { count: 1 }, wanted.as_bytes());
        if !core.peers.get()?.send(peer, &header, wanted.as_bytes()) {
            return None;
        }
        self.fetches.asked.borrow_mut().push(Asked { peer, wanted, answer });
        let came = ioring::timeout(ANSWER_LIMIT, answered).await;
        // Whoever asked for the same may have had this answer.
        self.fetches.asked.borrow_mut().retain(|asked| !asked.answer.is_closed());
        came.ok().flatten().flatten()
    }

    /// A peer has answered.
    pub fn on_block(&self, from: ReplicaId, header: &Header, copy: &[u8]) {
        let Block { block, address, shard } = header.tail().expect("the command says so");
        let answered = BlockReference::new(block, address, shard);
        let mut asked = self.fetches.asked.borrow_mut();
        let is_answered = |asked: &Asked| asked.peer == from && asked.wanted == answered;
        let Some(place) = asked.iter().position(is_answered) else { return };
        let Asked { answer, .. } = asked.swap_remove(place);
        // Whoever asked may have stopped waiting.
        drop(answer.send((!copy.is_empty()).then(|| copy.to_vec())));
    }
}
