//! Reads that walk the key space: SCAN, KEYS, DBSIZE, RANDOMKEY.
//!
//! A walk goes over the shards in order of their numbers, which is the order of slots, and within a
//! shard in order of keys. It takes bounded steps ([`lsm::scan`]), and lets other tasks run between
//! them: however large the table, nobody waits for longer than a step.
//!
//! Expired keys are left out by log time or now, whichever is later: a walk is no proof that a key
//! has expired, so it needs no pulse.
//!
//! *SCAN* keeps the position where an iteration goes on in the core's cursor table: the shard and
//! the encoded key. A key that exists from the iteration's start to its end is returned once.
//! *DBSIZE* counts up to a million keys exactly, and beyond that says what the part it has counted
//! comes to for all slots. *RANDOMKEY* takes the first key behind a random point of a random shard:
//! not uniform, and documented so.

use std::cell::RefCell;
use std::ops::ControlFlow;

use lsm::key::{Prefix, Range};
use lsm::lookup::LookupError;
use lsm::scan::{Scan, ScanStep};
use lsm::tree::Tree;
use wire::ErrorCode;

use super::Core;
use crate::resp::cursor::CursorTable;
use crate::resp::plan::{Form, TABLE};
use crate::resp::read::{self, KEYS_MAX, KeyList};
use crate::resp::{Read, ScanRequest, Unknown, reply};
use crate::shard::{KIND_STRING, LATEST, Shards};

/// Entries that a step looks at.
const STEP: usize = 256;
/// Keys that a step of SCAN looks at beyond what was asked for, at most.
const SCAN_MAX: usize = 10_000;

/// Where a walk goes on: the shard's index on this core, and the encoded key.
#[derive(Debug, Clone, Default)]
struct Position {
    shard: usize,
    key: Vec<u8>,
}

impl Position {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.shard as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.key);
        bytes
    }

    fn decode(bytes: &[u8]) -> Position {
        let (shard, key) = bytes.split_first_chunk().expect("positions have a shard");
        Position { shard: usize::from(u16::from_le_bytes(*shard)), key: key.to_vec() }
    }
}

/// The walks of a core.
pub struct Walks {
    cursors: RefCell<CursorTable>,
}

impl Walks {
    /// Walks of a core with a table of cursors.
    #[must_use]
    pub fn new(cursors: CursorTable) -> Walks {
        Walks { cursors: RefCell::new(cursors) }
    }

    /// Answers a read that walks.
    ///
    /// # Errors
    /// [`Unknown`] if nothing can be said; a read changes nothing, so that does not happen.
    pub async fn answer(
        &self,
        core: &Core,
        read: &Read<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Result<(), Unknown> {
        let result = match read {
            Read::Scan(request) => self.scan(core, request, form, out).await,
            Read::Keys { pattern } => keys(core, pattern, form, out).await,
            Read::Size => size(core).await.map(|count| read::append_count(count, form, out)),
            Read::RandomKey => {
                random_key(core).await.map(|key| read::append_key(key.as_deref(), form, out))
            }
            Read::Key { .. } | Read::Many { .. } => unreachable!("these look keys up"),
        };
        result.or_else(|code| reply::append_error(code, form, out))
    }

    async fn scan(
        &self,
        core: &Core,
        request: &ScanRequest<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let mut from = Position::default();
        let mut resumed = None;
        if request.cursor != 0 {
            let cursors = &mut *self.cursors.borrow_mut();
            let found = cursors.resume(request.cursor).map_err(|_| ErrorCode::UnknownCursor)?;
            (resumed, from) = (Some(found.0), Position::decode(found.1));
        }
        let (mut list, mut looked, mut full) = (KeyList::default(), 0, false);
        let count = request.count.min(SCAN_MAX);
        let end = walk(core, from, |key| {
            looked += 1;
            if request.admits(key) {
                full = list.push(key).is_err();
            }
            if full || looked >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
        let cursors = &mut *self.cursors.borrow_mut();
        let cursor = match (end, resumed) {
            (Some(position), resumed) => cursors.park(resumed, &position.encode()),
            (None, Some(resumed)) => {
                cursors.finish(resumed);
                0
            }
            (None, None) => 0,
        };
        list.append_scan(cursor, form, out);
        Ok(())
    }
}

async fn keys(core: &Core, pattern: &[u8], form: Form, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
    let (mut list, mut looked, mut full) = (KeyList::default(), 0, false);
    walk(core, Position::default(), |key| {
        looked += 1;
        full = looked > KEYS_MAX;
        if !full && crate::resp::glob::matches(pattern, key) {
            full = list.push(key).is_err();
        }
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    match full {
        true => read::append_too_many_keys(form, out),
        false => list.append_keys(form, out),
    }
    Ok(())
}

/// The number of keys: exact up to a million, beyond that what the slots counted come to for all.
async fn size(core: &Core) -> Result<u64, ErrorCode> {
    let mut count = 0u64;
    let end = walk(core, Position::default(), |_| {
        count += 1;
        if count >= KEYS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    let shards = core.applier.with_shards(Shards::len) as u64;
    Ok(match end {
        // Slots are even: what the shards before this one hold, times all shards.
        Some(position) if position.shard > 0 => count * shards / (position.shard as u64),
        Some(_) => count * shards,
        None => count,
    })
}

async fn random_key(core: &Core) -> Result<Option<Vec<u8>>, ErrorCode> {
    let shards = core.applier.with_shards(Shards::len);
    let random = core.random.borrow_mut().next_u64();
    let start = Position { shard: random as usize % shards.max(1), key: Vec::new() };
    let skip = (random >> 32) as usize % STEP;
    for from in [start, Position::default()] {
        let (mut found, mut looked) = (None, 0);
        walk(core, from, |key| {
            found = Some(key.to_vec());
            looked += 1;
            if looked > skip { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Walks over live keys from a position on, until `visit` breaks: the position behind the last key
/// visited, or none at the end.
async fn walk(
    core: &Core,
    from: Position,
    mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<Position>, ErrorCode> {
    let Position { mut shard, mut key } = from;
    while shard < core.applier.with_shards(Shards::len) {
        if let Some(next) = walk_shard(core, shard, key, &mut visit).await? {
            return Ok(Some(Position { shard, key: next }));
        }
        (shard, key) = (shard + 1, Vec::new());
    }
    Ok(None)
}

/// The same within a shard.
async fn walk_shard(
    core: &Core,
    shard: usize,
    from: Vec<u8>,
    visit: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<Vec<u8>>, ErrorCode> {
    let mut range = core.applier.with_shards(|shards| {
        let generation = shards.at(shard).generations().get(TABLE);
        Range::of_kind(Prefix { table: TABLE.0, generation, kind: KIND_STRING })
    });
    if from > range.lower {
        range.lower = from;
    }
    let mut scan = Scan::new(Tree::Objects, range, LATEST.0);
    let mut user_key = Vec::new();
    loop {
        let now = core.now().0.max(core.applier.log_time().0);
        let mut last = None;
        let step = core.applier.with_shards(|shards| {
            shards.at(shard).forest().scan_step(&mut scan, STEP, |entry| {
                if entry.deadline != 0 && entry.deadline <= now {
                    return ControlFlow::Continue(());
                }
                let decoded = lsm::key::decode(entry.key).expect("objects have encoded keys");
                user_key.clear();
                decoded.user_key_into(&mut user_key);
                let flow = visit(&user_key);
                if flow.is_break() {
                    // The smallest key behind this one.
                    last = Some([entry.key, &[0]].concat());
                }
                flow
            })
        });
        match step {
            _ if last.is_some() => return Ok(last),
            ScanStep::Done => return Ok(None),
            ScanStep::More => ioring::yield_now().await,
            ScanStep::NeedsRead(read) => match read.run().await {
                Ok(loaded) => scan.supply(loaded),
                Err(LookupError::Moved) => {}
                Err(LookupError::Corrupt(fault)) => {
                    tracing::error!(%fault, "a walk met a corrupt block");
                    return Err(ErrorCode::CorruptBlock);
                }
            },
        }
    }
}
