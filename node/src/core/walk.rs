//! Reads that walk the key space: SCAN, KEYS, DBSIZE, RANDOMKEY.
//!
//! A walk goes over the shards in order of their numbers, which is the order of slots, and within a
//! shard in order of keys. It takes bounded steps ([`lsm::scan`]), and lets other tasks run between
//! them: however large the table, nobody waits for longer than a step.
//!
//! In a cluster a walk begins when its core has applied everything acknowledged before; other cores
//! may be a few ops behind that.
//!
//! Expired keys are left out by log time or now, whichever is later: a walk is no proof that a key
//! has expired, so it needs no pulse.
//!
//! A shard of another core is walked by that core, a bounded number of keys at a time ([`step`]);
//! what is done with the keys is decided here.
//!
//! *SCAN* keeps the position where an iteration goes on in the table of cursors of the connection's
//! core: the shard and the encoded key. A cursor names its core, so that an iteration can go on
//! over any connection: the position is asked of that core. A key that exists from the iteration's
//! start to its end is returned once.
//! *DBSIZE* counts up to a million keys exactly, and beyond that says what the part it has counted
//! comes to for all slots. *RANDOMKEY* takes the first key behind a random point of a random shard:
//! not uniform, and documented so.

use std::cell::RefCell;
use std::ops::ControlFlow;

use lsm::key::{Prefix, Range};
use lsm::lookup::LookupError;
use lsm::scan::{Direction, Scan, ScanStep};
use lsm::tree::Tree;
use wire::{ErrorCode, ShardId};

use super::Core;
use crate::mesh::batch::{Answer, Query};
use crate::resp::cursor::{self, CursorTable, Resumed};
use crate::resp::plan::{Form, TABLE};
use crate::resp::read::{self, KEYS_MAX, KeyList};
use crate::resp::{Read, ScanRequest, Unknown, reply};
use crate::shard::{KIND_STRING, LATEST};
use crate::topology::CoreIndex;

/// Entries that a step looks at, at most and at least.
const STEP: usize = 256;
const STEP_MIN: usize = 16;
/// Keys that a step of SCAN looks at beyond what was asked for, at most.
const SCAN_MAX: usize = 10_000;

/// Where a walk goes on: the shard, and the encoded key.
#[derive(Debug, Clone, Default)]
struct Position {
    shard: u16,
    key: Vec<u8>,
}

impl Position {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.shard.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.key);
        bytes
    }

    fn decode(bytes: &[u8]) -> Position {
        let (shard, key) = bytes.split_first_chunk().expect("positions have a shard");
        Position { shard: u16::from_le_bytes(*shard), key: key.to_vec() }
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
        if let Err(code) = core.reads.catch_up(core).await {
            return reply::append_error(code, form, out);
        }
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
        let (resumed, from) = self.resume(core, request.cursor).await?;
        let (mut list, mut looked, mut full) = (KeyList::default(), 0, false);
        let count = request.count.min(SCAN_MAX);
        let end = walk(core, from, count.min(STEP), |key| {
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

    /// Where an iteration goes on, and its place in the table if that is this core's.
    async fn resume(
        &self,
        core: &Core,
        cursor: u64,
    ) -> Result<(Option<Resumed>, Position), ErrorCode> {
        let owner = CoreIndex(u16::from(cursor::table_of(cursor)));
        if cursor == 0 {
            return Ok((None, Position::default()));
        }
        if owner == core.index {
            let cursors = &mut *self.cursors.borrow_mut();
            let (resumed, position) =
                cursors.resume(cursor).map_err(|_| ErrorCode::UnknownCursor)?;
            return Ok((Some(resumed), Position::decode(position)));
        }
        if owner.0 >= core.topology.cores() {
            return Err(ErrorCode::UnknownCursor);
        }
        match core.mesh.query(owner, Query::Cursor(cursor)).await {
            Some(Answer::Cursor(Some(position))) => Ok((None, Position::decode(&position))),
            _ => Err(ErrorCode::UnknownCursor),
        }
    }

    /// The position of a cursor of this core, for another.
    #[must_use]
    pub fn position(&self, cursor: u64) -> Option<Vec<u8>> {
        let cursors = &mut *self.cursors.borrow_mut();
        cursors.resume(cursor).ok().map(|(_, position)| position.to_vec())
    }
}

async fn keys(core: &Core, pattern: &[u8], form: Form, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
    let (mut list, mut looked, mut full) = (KeyList::default(), 0, false);
    walk(core, Position::default(), STEP, |key| {
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
    let end = walk(core, Position::default(), STEP, |_| {
        count += 1;
        if count >= KEYS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    let shards = u64::from(core.topology.shards());
    Ok(match end {
        // Slots are even: what the shards before this one hold, times all shards.
        Some(position) if position.shard > 0 => count * shards / u64::from(position.shard),
        Some(_) => count * shards,
        None => count,
    })
}

async fn random_key(core: &Core) -> Result<Option<Vec<u8>>, ErrorCode> {
    let shards = core.topology.shards();
    let random = core.random.borrow_mut().next_u64();
    let start = Position { shard: random as u16 % shards, key: Vec::new() };
    let skip = (random >> 32) as usize % STEP;
    for from in [start, Position::default()] {
        let (mut found, mut looked) = (None, 0);
        walk(core, from, skip + 1, |key| {
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
/// visited, or none at the end. About `wanted` keys are likely to be enough.
async fn walk(
    core: &Core,
    from: Position,
    wanted: usize,
    mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<Position>, ErrorCode> {
    let Position { mut shard, mut key } = from;
    let mut user_key = Vec::new();
    let mut visit = |encoded: &[u8]| {
        let decoded = lsm::key::decode(encoded).expect("objects have encoded keys");
        user_key.clear();
        decoded.user_key_into(&mut user_key);
        visit(&user_key)
    };
    while shard < core.topology.shards() {
        let here = core.applier.with_shards(|shards| shards.index_of(ShardId(shard)));
        let next = match here {
            Some(index) => walk_shard(core, index, key, wanted, &mut visit).await?,
            None => walk_far(core, ShardId(shard), key, wanted, &mut visit).await?,
        };
        if let Some(key) = next {
            return Ok(Some(Position { shard, key }));
        }
        (shard, key) = (shard + 1, Vec::new());
    }
    Ok(None)
}

/// The same within a shard of another core.
async fn walk_far(
    core: &Core,
    shard: ShardId,
    mut from: Vec<u8>,
    wanted: usize,
    visit: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<Vec<u8>>, ErrorCode> {
    let owner = core.topology.core_of(shard);
    loop {
        let query = Query::Walk { shard, from, limit: wanted };
        let Some(Answer::Walked(walked)) = core.mesh.query(owner, query).await else {
            return Err(ErrorCode::Stopping);
        };
        let Walked { keys, next } = walked?;
        for key in &keys {
            if visit(key).is_break() {
                return Ok(Some(behind(key)));
            }
        }
        match next {
            Some(next) => from = next,
            None => return Ok(None),
        }
    }
}

/// Encoded keys of live entries, and where to go on unless the shard ends.
#[derive(Debug)]
pub struct Walked {
    keys: Vec<Vec<u8>>,
    next: Option<Vec<u8>>,
}

/// The next keys of a shard of this core, for another.
///
/// # Errors
/// When a block on the way is corrupt.
pub async fn step(
    core: &Core,
    shard: ShardId,
    from: Vec<u8>,
    limit: usize,
) -> Result<Walked, ErrorCode> {
    let here = core.applier.with_shards(|shards| shards.index_of(shard));
    let index = here.expect("a walk goes to the core of the shard");
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let next = walk_shard(core, index, from, limit, &mut |key| {
        keys.push(key.to_vec());
        if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .await?;
    Ok(Walked { keys, next })
}

/// The smallest encoded key behind this one.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Walks over the encoded live keys of a shard of this core. A step looks at about as many as are
/// wanted: what a scan reads at first is measured by that.
async fn walk_shard(
    core: &Core,
    shard: usize,
    from: Vec<u8>,
    wanted: usize,
    visit: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<Vec<u8>>, ErrorCode> {
    let mut range = core.applier.with_shards(|shards| {
        let generation = shards.at(shard).generations().get(TABLE);
        Range::of_kind(Prefix { table: TABLE.0, generation, kind: KIND_STRING })
    });
    if from > range.lower {
        range.lower = from;
    }
    let mut scan = Scan::new(Tree::Objects, range, Direction::Ascending, LATEST.0);
    loop {
        let now = core.now().0.max(core.applier.log_time().0);
        let mut last = None;
        let step = core.applier.with_shards(|shards| {
            shards.at(shard).forest().scan_step(&mut scan, wanted.clamp(STEP_MIN, STEP), |entry| {
                if entry.deadline != 0 && entry.deadline <= now {
                    return ControlFlow::Continue(());
                }
                let flow = visit(entry.key);
                if flow.is_break() {
                    last = Some(behind(entry.key));
                }
                flow
            })
        });
        match step {
            _ if last.is_some() => return Ok(last),
            ScanStep::Done => return Ok(None),
            ScanStep::More => ioring::yield_now().await,
            ScanStep::TooOld => return Err(ErrorCode::SnapshotTooOld),
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
