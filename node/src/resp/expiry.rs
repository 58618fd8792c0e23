//! Times to live: the commands that set, show and remove them, and how a time becomes a deadline.
//!
//! Redis counts in milliseconds, the log in nanoseconds. A deadline is always a whole millisecond:
//! "in 100 ms" is counted from the millisecond that log time is in, and what is left is counted
//! from there too, so that PTTL right after `PX 100` says 100, as in Redis.
//!
//! A deadline is a `u64` of nanoseconds, which ends in the year 2554. A later time is refused as an
//! invalid expire time, where Redis would take it up to the year 292 million. A time in the past
//! is valid for EXPIRE and its like (the key is deleted) and, when absolute, for SET and GETEX.

use wire::operation::{Flags, Opcode, OperationView};
use wire::{Sink, Timestamp};

use super::plan::{Planned, Planner, TABLE, Work};
use super::read::{KeyRead, Read};
use super::refusal::Refusal;
use super::reply::Shape;
use super::table::Id;

const NS_PER_MS: u64 = 1_000_000;
/// The last millisecond that a deadline can express.
const MILLISECONDS_MAX: i64 = (u64::MAX / NS_PER_MS) as i64;
/// A deadline that has passed, whatever the time: 0 would mean that there is none.
const LONG_AGO: u64 = 1;

/// The four ways to say when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    Seconds,
    Milliseconds,
    SecondsAt,
    MillisecondsAt,
}

/// Log time in the milliseconds that deadlines are counted in.
pub(super) fn milliseconds(now: Timestamp) -> i64 {
    (now.0 / NS_PER_MS) as i64
}

/// A deadline in milliseconds since 1970.
pub(super) fn deadline_milliseconds(deadline: u64) -> i64 {
    (deadline / NS_PER_MS) as i64
}

fn deadline_at(milliseconds: i64) -> u64 {
    u64::try_from(milliseconds).map_or(LONG_AGO, |ms| (ms * NS_PER_MS).max(LONG_AGO))
}

impl Expiry {
    /// The way that an option of SET or GETEX names.
    pub(super) fn named(option: &[u8]) -> Option<Expiry> {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        match option.len() {
            2 if is("EX") => Some(Expiry::Seconds),
            2 if is("PX") => Some(Expiry::Milliseconds),
            4 if is("EXAT") => Some(Expiry::SecondsAt),
            4 if is("PXAT") => Some(Expiry::MillisecondsAt),
            _ => None,
        }
    }

    /// The deadline that the argument at `index` gives to SET and its like: a positive time.
    pub(super) fn deadline<'a, S: Sink>(
        self,
        planner: &Planner<'_, 'a, S>,
        index: usize,
    ) -> Result<u64, Refusal<'a>> {
        let time = planner.integer(index)?;
        if time <= 0 {
            return Err(Refusal::ExpireTime);
        }
        self.milliseconds_of(time, planner.host.now).map(deadline_at).ok_or(Refusal::ExpireTime)
    }

    /// The time in milliseconds since 1970; none if it is out of range.
    fn milliseconds_of(self, time: i64, now: Timestamp) -> Option<i64> {
        let milliseconds = match self {
            Expiry::Seconds | Expiry::SecondsAt => time.checked_mul(1000)?,
            Expiry::Milliseconds | Expiry::MillisecondsAt => time,
        };
        let since = match self {
            Expiry::Seconds | Expiry::Milliseconds => self::milliseconds(now),
            Expiry::SecondsAt | Expiry::MillisecondsAt => 0,
        };
        milliseconds.checked_add(since).filter(|at| *at <= MILLISECONDS_MAX)
    }
}

pub(super) fn plan<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    let read = |what| Ok(Work::Read(Read::one(what, planner.key(1)?)));
    match planner.spec.id {
        Id::Expire => expire(planner, Expiry::Seconds),
        Id::PExpire => expire(planner, Expiry::Milliseconds),
        Id::ExpireAt => expire(planner, Expiry::SecondsAt),
        Id::PExpireAt => expire(planner, Expiry::MillisecondsAt),
        Id::Ttl => read(KeyRead::TimeToLive { absolute: false, milliseconds: false }),
        Id::PTtl => read(KeyRead::TimeToLive { absolute: false, milliseconds: true }),
        Id::ExpireTime => read(KeyRead::TimeToLive { absolute: true, milliseconds: false }),
        Id::PExpireTime => read(KeyRead::TimeToLive { absolute: true, milliseconds: true }),
        Id::Persist => {
            let operation = OperationView::on_key(Opcode::Persist, TABLE, planner.key(1)?);
            planner.write(&operation, Shape::Flag)
        }
        other => unreachable!("{other:?} is no command on times to live"),
    }
}

fn expire<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>, kind: Expiry) -> Planned<'a> {
    let flags = conditions(planner)?;
    let time = planner.integer(2)?;
    let at = kind.milliseconds_of(time, planner.host.now).ok_or(Refusal::ExpireTime)?;
    let operation = OperationView::on_key(Opcode::Expire, TABLE, planner.key(1)?)
        .with_flags(flags)
        .with_deadline(deadline_at(at));
    planner.write(&operation, Shape::Flag)
}

/// NX, XX, GT and LT: which may stand together is Redis's rule.
fn conditions<'a, S>(planner: &Planner<'_, 'a, S>) -> Result<Flags, Refusal<'a>> {
    let mut flags = Flags::NONE;
    for option in planner.arguments.from(3).iter() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        flags = flags.or(match () {
            () if is("NX") => Flags::IF_NONE,
            () if is("XX") => Flags::IF_SOME,
            () if is("GT") => Flags::IF_GREATER,
            () if is("LT") => Flags::IF_LESS,
            () => return Err(Refusal::Option(option)),
        });
    }
    let has = |flag| flags.contains(flag);
    let moved = has(Flags::IF_GREATER) || has(Flags::IF_LESS);
    if has(Flags::IF_NONE) && (has(Flags::IF_SOME) || moved) {
        return Err(Refusal::Text(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if has(Flags::IF_GREATER) && has(Flags::IF_LESS) {
        return Err(Refusal::Text("ERR GT and LT options at the same time are not compatible"));
    }
    Ok(flags)
}
