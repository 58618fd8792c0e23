//! The table as a checkpoint keeps it; byte map: `docs/FORMAT.md`, "Session table".
//!
//! Sessions stand in the order of their last commits, so that the order itself says who is evicted
//! next. What is read back is believed in nothing: every length, count and sum is checked against
//! the bytes and the limits, because a table that is wrong would execute a request twice.

use std::collections::VecDeque;

use wire::{ClientId, Op, Outcome, Timestamp};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::table::{Answer, Executed, Kept, Limits, RESULT_CHARGE, RESULT_MAX, Session, Table};

/// The version of the layout.
const VERSION: u32 = 1;
/// The size of a result that was not kept.
const DROPPED: u32 = u32::MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    version: U32,
    sessions: U32,
    reserved: [u8; 8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SessionLayout {
    client: U128,
    acknowledged: U64,
    results: U32,
    reserved: [u8; 4],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ResultLayout {
    op: U64,
    timestamp: U64,
    charge: U32,
    size: U32,
}

const _: () = {
    assert!(size_of::<Head>() == 16);
    assert!(size_of::<SessionLayout>() == 32);
    assert!(size_of::<ResultLayout>() == 24);
    // What is stored of a result is never more than it is charged.
    assert!(size_of::<ResultLayout>() <= RESULT_CHARGE);
};

/// Bytes that are no session table of this cluster.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// They end early, or go on behind the table.
    #[error("the session table has {actual} bytes, which is not what it says it has")]
    Size {
        /// How many there are.
        actual: usize,
    },
    /// A layout that this release does not know.
    #[error("the session table has version {actual}, this release knows {VERSION}")]
    Version {
        /// The version found.
        actual: u32,
    },
    /// A field without a meaning, or one that contradicts another.
    #[error("session {index} of the table: {what}")]
    Session {
        /// Its place, from 0.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
}

/// Bytes that a table takes at most.
#[must_use]
pub fn size_max(limits: &Limits) -> u64 {
    let sessions = u64::from(limits.sessions_max) * size_of::<SessionLayout>() as u64;
    size_of::<Head>() as u64 + sessions + limits.bytes_max
}

impl Table {
    /// The table in bytes; nothing for one without sessions.
    ///
    /// # Panics
    /// If a result is not known yet: a checkpoint waits for it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let report = self.report();
        if report.sessions == 0 {
            return Vec::new();
        }
        let most = size_of::<Head>() as u64 + 32 * report.sessions + report.charged;
        let mut out = Vec::with_capacity(most as usize);
        let sessions = (report.sessions as u32).into();
        let head = Head { version: VERSION.into(), sessions, reserved: [0; 8] };
        out.extend_from_slice(head.as_bytes());
        for session in self.sessions() {
            let layout = SessionLayout {
                client: session.client.0.into(),
                acknowledged: session.acknowledged.into(),
                results: (session.executed.len() as u32).into(),
                reserved: [0; 4],
            };
            out.extend_from_slice(layout.as_bytes());
            session.executed.iter().for_each(|executed| encode_result(executed, &mut out));
        }
        assert!(out.len() as u64 <= most, "a result takes no more than it is charged");
        out
    }

    /// The table that these bytes are.
    ///
    /// # Errors
    /// [`StoredError`] naming what is wrong.
    pub fn decode(limits: Limits, bytes: &[u8]) -> Result<Table, StoredError> {
        let mut table = Table::new(limits);
        if bytes.is_empty() {
            return Ok(table);
        }
        let short = || StoredError::Size { actual: bytes.len() };
        let (head, mut rest) = Head::ref_from_prefix(bytes).map_err(|_| short())?;
        if head.version.get() != VERSION {
            return Err(StoredError::Version { actual: head.version.get() });
        }
        let wrong = |index, what| StoredError::Session { index, what };
        if head.reserved != [0; 8] || head.sessions.get() > limits.sessions_max {
            return Err(wrong(0, "more sessions than there may be"));
        }
        for index in 0..head.sessions.get() {
            let (layout, behind) = SessionLayout::ref_from_prefix(rest).map_err(|_| short())?;
            rest = behind;
            let client = ClientId(layout.client.get());
            if layout.reserved != [0; 4] || client.0 == 0 || table.has(client) {
                return Err(wrong(index, "its name is taken, or none"));
            }
            let results = layout.results.get();
            let acknowledged = layout.acknowledged.get();
            if u64::from(results) > limits.window || acknowledged > u64::MAX / 2 {
                return Err(wrong(index, "more results than its window has places"));
            }
            let mut executed = VecDeque::new();
            let mut charged = 0;
            for _ in 0..results {
                let (result, behind) = decode_result(rest).ok_or_else(short)?;
                let result = result.ok_or(wrong(index, "a result that is none"))?;
                rest = behind;
                charged += u64::from(result.charge);
                executed.push_back(result);
            }
            let fits = charged <= limits.session_bytes_max
                && table.report().charged + charged <= limits.bytes_max;
            if !fits {
                return Err(wrong(index, "more bytes of results than there may be"));
            }
            table.insert(Session::restored(client, acknowledged, executed, charged));
        }
        if rest.is_empty() { Ok(table) } else { Err(short()) }
    }
}

fn encode_result(executed: &Executed, out: &mut Vec<u8>) {
    let charge = executed.charge.into();
    let (layout, outcomes) = match &executed.answer {
        Answer::UnderWay => unreachable!("a checkpoint waits for every result"),
        Answer::Dropped => {
            let (op, timestamp) = (U64::ZERO, U64::ZERO);
            (ResultLayout { op, timestamp, charge, size: DROPPED.into() }, &[][..])
        }
        Answer::Kept(Kept { op, timestamp, outcomes }) => {
            let size = (outcomes.len() as u32).into();
            let (op, timestamp) = (op.0.into(), timestamp.0.into());
            (ResultLayout { op, timestamp, charge, size }, outcomes.as_slice())
        }
    };
    out.extend_from_slice(layout.as_bytes());
    out.extend_from_slice(outcomes);
}

/// The result that the bytes begin with, if it is one, and what follows; none if they end in it.
fn decode_result(bytes: &[u8]) -> Option<(Option<Executed>, &[u8])> {
    let (layout, rest) = ResultLayout::ref_from_prefix(bytes).ok()?;
    let (charge, size) = (layout.charge.get(), layout.size.get());
    if size == DROPPED {
        let is_one = layout.op == U64::ZERO && layout.timestamp == U64::ZERO;
        let dropped = is_one.then_some(Executed { charge, answer: Answer::Dropped });
        return Some((dropped, rest));
    }
    let size = size as usize;
    let (outcomes, rest) = rest.split_at_checked(size)?;
    let is_one = size <= RESULT_MAX
        && charge as usize >= RESULT_CHARGE + size
        && charge as usize <= RESULT_CHARGE + RESULT_MAX
        && are_outcomes(outcomes);
    let (op, timestamp) = (Op(layout.op.get()), Timestamp(layout.timestamp.get()));
    let kept = Kept { op, timestamp, outcomes: outcomes.to_vec() };
    Some((is_one.then_some(Executed { charge, answer: Answer::Kept(kept) }), rest))
}

fn are_outcomes(mut bytes: &[u8]) -> bool {
    let is_empty = bytes.is_empty();
    while !bytes.is_empty() {
        let Some((_, size)) = Outcome::decode(bytes) else { return false };
        bytes = &bytes[size..];
    }
    !is_empty
}
