//! Batches: many small things for one core in one message.
//!
//! A batch is a vector of items and a vector of bytes that they point into. Both are allocated
//! once, travel to the receiver and come back empty.

use std::ops::Range;
use std::time::Duration;

use wire::message::BlockReference;
use wire::{ErrorCode, Op, Outcome, ShardId, Slot, Timestamp, Value, Version};

use super::ReadIndex;
use crate::core::desk::Asked;
use crate::core::walk::Walked;
use crate::gateway::runs::Tag;
use crate::machine::{Verdict, Vote};
use crate::status::CoreReport;
use crate::topology::CoreIndex;

/// A batch with more room than this is not kept.
const BYTES_KEPT: usize = super::GATHER_MAX;
const ITEMS_KEPT: usize = 8192;

/// See the module's text.
#[derive(Debug)]
pub struct Batch<I> {
    /// What it carries.
    pub items: Vec<I>,
    /// The bytes of all items, behind one another.
    pub bytes: Vec<u8>,
}

impl<I> Default for Batch<I> {
    fn default() -> Batch<I> {
        Batch { items: Vec::new(), bytes: Vec::new() }
    }
}

impl<I> Batch<I> {
    /// Whether it carries nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.bytes.is_empty()
    }

    /// Forgets everything, keeps the memory; `false` if that is not worth keeping.
    pub(super) fn clear(&mut self) -> bool {
        self.items.clear();
        self.bytes.clear();
        self.bytes.capacity() <= BYTES_KEPT
            && (size_of::<I>() == 0 || self.items.capacity() <= ITEMS_KEPT)
    }
}

/// What a core asks another.
#[derive(Debug)]
pub enum Ask {
    /// What is there under a key?
    Lookup(FarLookup),
    /// Which op contains everything acknowledged so far? The round is in the reply.
    Index(u64),
    /// Have an op committed that passes this, as soon as your clock has.
    Time(Timestamp),
    /// Something that is asked seldom; the number is in the reply.
    Query(u64, Query),
}

/// A look-up for a connection of another core.
#[derive(Debug)]
pub struct FarLookup {
    /// Where the outcome goes.
    pub tag: Tag,
    /// What is asked.
    pub asked: Asked,
    /// The key's slot.
    pub slot: Slot,
    /// The key, among the batch's bytes.
    pub key: Range<usize>,
    /// What it has to be as of, together with others; the newest otherwise.
    pub as_of: Option<ReadIndex>,
}

/// What is asked seldom.
#[derive(Debug)]
pub enum Query {
    /// The next keys of a shard, from an encoded key on.
    Walk {
        /// The shard.
        shard: ShardId,
        /// Where to begin.
        from: Vec<u8>,
        /// How many at most.
        limit: usize,
    },
    /// Can what a request needs of your shards be read?
    Readable(Vec<u8>),
    /// A block from a peer, within a time if there is one.
    Fetch(BlockReference, Option<Duration>),
    /// A block of your shards, for a peer.
    Copy(BlockReference),
    /// The position of a cursor.
    Cursor(u64),
    /// Who is connected.
    Clients,
    /// The core's numbers.
    Report,
}

/// The answer to a [`Query`].
#[derive(Debug)]
pub enum Answer {
    /// Keys.
    Walked(Result<Walked, ErrorCode>),
    /// Whether it can.
    Readable(bool),
    /// The block, if there is one.
    Block(Option<Vec<u8>>),
    /// The position, if the cursor is known.
    Cursor(Option<Vec<u8>>),
    /// A number and a line for each connection.
    Clients(Vec<(u64, Vec<u8>)>),
    /// Numbers.
    Report(Box<CoreReport>),
}

/// What a core answers another, or lets it know without being asked.
#[derive(Debug)]
pub enum Reply {
    /// The outcome of an operation or look-up.
    Outcome(Tag, u32, Packed),
    /// A look-up cannot be answered as of its version any more.
    Stale(Tag),
    /// A vote.
    Ballot(Ballot),
    /// A read index, for this round.
    Index(u64, ReadIndex),
    /// The answer to the query of this number.
    Answer(u64, Answer),
}

/// What one core's operations of an all-or-none request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    /// The prepare.
    pub op: Op,
    /// The request: its first operation's place in the prepare.
    pub request: u32,
    /// The core's verdict.
    pub verdict: Verdict,
    /// The place of the operation that decided it, if it fails.
    pub decided_by: u32,
}

impl Ballot {
    /// Counts the vote of an operation, in their order.
    pub(crate) fn decide(&mut self, operation: u32, vote: Vote) {
        let verdict = vote.count_into(self.verdict);
        if verdict != self.verdict {
            (self.verdict, self.decided_by) = (verdict, operation);
        }
    }

    /// The verdict of both: the first operation that fails decides, whichever core it is on.
    pub(crate) fn count(&mut self, other: &Ballot) {
        assert_eq!((self.op, self.request), (other.op, other.request), "votes on one request");
        if other.decided_by < self.decided_by {
            *self = *other;
        }
    }
}

/// A set of cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreSet([u64; 4]);

impl CoreSet {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, core: CoreIndex) {
        self.0[core.index() / 64] |= 1 << (core.0 % 64);
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, core: CoreIndex) -> bool {
        self.0[core.index() / 64] & 1 << (core.0 % 64) != 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = CoreIndex> + use<> {
        let set = *self;
        (0..256).map(CoreIndex).filter(move |core| set.has(*core))
    }
}

/// An outcome, with its bytes in the batch.
#[derive(Debug, Clone, Copy)]
pub enum Packed {
    /// It failed.
    Failed(ErrorCode),
    /// [`Value::Nil`]
    Nil,
    /// [`Value::Ok`]
    Ok,
    /// [`Value::Bool`]
    Bool(bool),
    /// [`Value::Integer`]
    Integer(i64),
    /// [`Value::Bytes`]: where they begin, and how many.
    Bytes(usize, u32),
}

impl Packed {
    /// Puts an outcome's bytes behind those that are there. Its version is not kept.
    #[inline]
    #[must_use]
    pub fn pack(outcome: &Outcome<'_>, bytes: &mut Vec<u8>) -> Packed {
        match outcome.result {
            Err(code) => Packed::Failed(code),
            Ok(Value::Nil) => Packed::Nil,
            Ok(Value::Ok) => Packed::Ok,
            Ok(Value::Bool(yes)) => Packed::Bool(yes),
            Ok(Value::Integer(integer)) => Packed::Integer(integer),
            Ok(Value::Bytes(value)) => {
                let start = bytes.len();
                bytes.extend_from_slice(value);
                let length = u32::try_from(value.len()).expect("values are far below 4 GiB");
                Packed::Bytes(start, length)
            }
        }
    }

    /// The outcome again.
    #[inline]
    #[must_use]
    pub fn outcome<'a>(&self, bytes: &'a [u8]) -> Outcome<'a> {
        let result = match *self {
            Packed::Failed(code) => Err(code),
            Packed::Nil => Ok(Value::Nil),
            Packed::Ok => Ok(Value::Ok),
            Packed::Bool(yes) => Ok(Value::Bool(yes)),
            Packed::Integer(integer) => Ok(Value::Integer(integer)),
            Packed::Bytes(start, length) => {
                Ok(Value::Bytes(&bytes[start..start + length as usize]))
            }
        };
        Outcome { result, version: Version(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_out_as_they_went_in() {
        let outcomes = [
            Outcome::failed(ErrorCode::WrongType),
            Outcome::done(Value::Nil, Version(0)),
            Outcome::done(Value::Ok, Version(0)),
            Outcome::done(Value::Bool(true), Version(0)),
            Outcome::done(Value::Integer(-3), Version(0)),
            Outcome::done(Value::Bytes(b"one"), Version(0)),
            Outcome::done(Value::Bytes(b""), Version(0)),
            Outcome::done(Value::Bytes(b"other"), Version(0)),
        ];
        let mut bytes = Vec::new();
        let packed: Vec<_> = outcomes.iter().map(|o| Packed::pack(o, &mut bytes)).collect();
        for (packed, outcome) in packed.iter().zip(&outcomes) {
            assert_eq!(packed.outcome(&bytes).result, outcome.result);
        }
    }

    #[test]
    fn the_first_operation_that_fails_decides_in_whatever_order_votes_come() {
        let ballot = |verdict, decided_by| Ballot { op: Op(1), request: 4, verdict, decided_by };
        let votes = [
            ballot(Verdict::Holds, u32::MAX),
            ballot(Verdict::Fails(None), 7),
            ballot(Verdict::Fails(Some(ErrorCode::Overloaded)), 5),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut all = votes[order[0]];
            all.count(&votes[order[1]]);
            all.count(&votes[order[2]]);
            assert_eq!(all, votes[2]);
        }
    }

    #[test]
    fn sets_of_cores() {
        let mut set = CoreSet::default();
        assert!(set.is_empty());
        for core in [200, 0, 63, 64] {
            set.add(CoreIndex(core));
        }
        let cores: Vec<u16> = set.iter().map(|core| core.0).collect();
        assert_eq!((cores, set.len()), (vec![0, 63, 64, 200], 4));
    }
}
