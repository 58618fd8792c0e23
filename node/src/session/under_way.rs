//! Requests that were decided and whose outcomes have not all come.
//!
//! In the order of the log, which is also nearly the order in which they are done: so they stand in
//! a line, are found in it by their place in the log, and leave from its front. The outcomes of one
//! come in any order, from whichever cores have its keys.

use std::collections::VecDeque;
use std::ops::Range;

use wire::operation::OperationView;
use wire::{ClientId, ClientTag, Op, Outcome, RequestView};

use super::table::Place;

/// Outcomes and bytes that a request's memory may have and still be kept for another.
const OUTCOMES_KEPT: usize = 64;
const BYTES_KEPT: usize = 4096;
/// How many of these are kept.
const SPARE_MAX: usize = 1024;

/// The outcomes of one request, in the order in which they came.
#[derive(Debug, Default)]
struct Gathered {
    /// Where each operation's lies; empty if it has not come.
    places: Vec<Range<u32>>,
    bytes: Vec<u8>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) place: Place,
    /// Its first operation's place in the prepare.
    first: u32,
    pub(super) client: ClientId,
    pub(super) number: u64,
    /// Outcomes that are to come; those of an operation on all shards come once from every core.
    missing: u32,
    gathered: Gathered,
    /// Who waits for it on this node, if somebody does, and who has sent it again since.
    pub(super) tag: Option<ClientTag>,
    pub(super) again: Vec<ClientTag>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    line: VecDeque<Request>,
    spare: Vec<Gathered>,
}

impl UnderWay {
    /// Whether every outcome has come.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Adds a request of the newest prepare. `cores` have shards.
    pub(super) fn add(
        &mut self,
        place: Place,
        first: u32,
        request: &RequestView<'_>,
        tag: Option<ClientTag>,
        cores: u16,
    ) {
        let session = request.session().expect("requests of sessions are under way");
        let parts = |operation: OperationView<'_>| match operation.opcode.has_key() {
            true => 1,
            false => u32::from(cores),
        };
        let mut gathered = self.spare.pop().unwrap_or_default();
        gathered.places.resize(request.operation_count() as usize, 0..0);
        self.line.push_back(Request {
            place,
            first,
            client: session.client,
            number: session.number.0,
            missing: request.operations().map(parts).sum(),
            gathered,
            tag,
            again: Vec::new(),
        });
    }

    /// The same request was sent again, and its outcomes go there too.
    pub(super) fn add_again(&mut self, client: ClientId, number: u64, tag: ClientTag) {
        let same = |request: &&mut Request| (request.client, request.number) == (client, number);
        let request = self.line.iter_mut().find(same).expect("a request without a result is here");
        request.again.push(tag);
    }

    /// Takes an outcome. With the last one of its request, that.
    ///
    /// # Panics
    /// If the request is not under way: outcomes are made by this process, once each.
    pub(super) fn take(
        &mut self,
        op: Op,
        first: u32,
        index: u32,
        outcome: &Outcome<'_>,
    ) -> Option<&Request> {
        let before = |request: &Request| (request.place.op, request.first) < (op, first);
        let at = self.line.partition_point(before);
        let request = self.line.get_mut(at).filter(|request| request.first == first);
        let request = request.expect("an outcome belongs to a request under way");
        let Gathered { places, bytes } = &mut request.gathered;
        let place = &mut places[index as usize];
        // Of an operation on all shards the first core's outcome is kept: all say the same.
        if place.start == place.end {
            let start = bytes.len() as u32;
            outcome.encode(bytes).expect("vectors grow");
            *place = start..bytes.len() as u32;
        }
        request.missing -= 1;
        (request.missing == 0).then(|| &self.line[at])
    }

    /// Forgets the requests at the front that are done.
    pub(super) fn clear_done(&mut self) {
        while self.line.front().is_some_and(|request| request.missing == 0) {
            let done = self.line.pop_front().expect("there is one at the front");
            let Gathered { mut places, mut bytes } = done.gathered;
            let is_small = places.capacity() <= OUTCOMES_KEPT && bytes.capacity() <= BYTES_KEPT;
            if is_small && self.spare.len() < SPARE_MAX {
                places.clear();
                bytes.clear();
                self.spare.push(Gathered { places, bytes });
            }
        }
    }
}

impl Request {
    /// Appends its outcomes in the order of its operations.
    pub(super) fn append_outcomes(&self, out: &mut Vec<u8>) {
        let Gathered { places, bytes } = &self.gathered;
        for place in places {
            out.extend_from_slice(&bytes[place.start as usize..place.end as usize]);
        }
    }
}
