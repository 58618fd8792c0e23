//! What commands do to one client's keys, trivially.
//!
//! A client is the only writer of its keys, and its commands go through one connection, so a
//! [`Keys`] and the commands in the order they were sent decide every reply. The one thing a client
//! does not know is when exactly the node executes a command; it matters only for values that
//! expire soon, which is why those have keys of their own, are only set, read and deleted, and
//! carry the earliest and the latest time at which they may vanish.
//!
//! Times are nanoseconds since 1970 by the world's true clock, which all hosts show here.

use std::collections::BTreeMap;

use client::Reply;

/// A key's name.
pub type Key = String;

/// When a value vanishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Never.
    None,
    /// Long after the test.
    Far,
    /// Not before the first time, and not after the second, once that is known.
    Near(u64, Option<u64>),
}

/// A value with its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What GET returns.
    pub bytes: Vec<u8>,
    /// When it vanishes.
    pub deadline: Deadline,
}

impl Value {
    fn lasting(bytes: &[u8]) -> Value {
        Value { bytes: bytes.to_vec(), deadline: Deadline::None }
    }
}

/// The keys of one client.
pub type Keys = BTreeMap<Key, Value>;

/// A command on a client's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// GET
    Get(Key),
    /// MGET
    MultiGet(Vec<Key>),
    /// SET
    Set(Key, Vec<u8>),
    /// SET PX milliseconds
    SetFor(Key, Vec<u8>, u64),
    /// DEL of several
    Delete(Vec<Key>),
    /// INCRBY
    Increment(Key, i64),
    /// MSET
    MultiSet(Vec<(Key, Vec<u8>)>),
    /// MSETNX
    MultiSetIfNone(Vec<(Key, Vec<u8>)>),
    /// APPEND
    Append(Key, Vec<u8>),
    /// EXPIRE, long after the test
    Expire(Key),
    /// PERSIST
    Persist(Key),
}

/// What a reply must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// This one.
    Is(Reply),
    /// The value, or nil, for a value that expires soon.
    Expiring(Value),
    /// Any number: how many of the keys were still there depends on the time.
    Number,
}

/// Seconds of a deadline that is long after the test.
const FAR_SECONDS: &str = "100000";

/// How much earlier or later than true time the log's time may be.
pub const SLACK: u64 = 20_000_000;

impl Command {
    /// The command as it is sent.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
        let pairs = |name: &str, pairs: &[(Key, Vec<u8>)]| {
            let mut all = vec![name.as_bytes().to_vec()];
            for (key, value) in pairs {
                all.extend([key.clone().into_bytes(), value.clone()]);
            }
            all
        };
        match self {
            Command::Get(key) => words(&[b"GET", key.as_bytes()]),
            Command::MultiGet(keys) => {
                let keys = keys.iter().map(|key| key.clone().into_bytes());
                std::iter::once(b"MGET".to_vec()).chain(keys).collect()
            }
            Command::Set(key, value) => words(&[b"SET", key.as_bytes(), value]),
            Command::SetFor(key, value, time) => {
                words(&[b"SET", key.as_bytes(), value, b"PX", time.to_string().as_bytes()])
            }
            Command::Delete(keys) => {
                let keys = keys.iter().map(|key| key.clone().into_bytes());
                std::iter::once(b"DEL".to_vec()).chain(keys).collect()
            }
            Command::Increment(key, by) => {
                words(&[b"INCRBY", key.as_bytes(), by.to_string().as_bytes()])
            }
            Command::MultiSet(all) => pairs("MSET", all),
            Command::MultiSetIfNone(all) => pairs("MSETNX", all),
            Command::Append(key, value) => words(&[b"APPEND", key.as_bytes(), value]),
            Command::Expire(key) => words(&[b"EXPIRE", key.as_bytes(), FAR_SECONDS.as_bytes()]),
            Command::Persist(key) => words(&[b"PERSIST", key.as_bytes()]),
        }
    }

    /// Whether it can change anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Command::Get(_) | Command::MultiGet(_))
    }

    /// Does it to the keys, sent at `now`; returns what the reply must be.
    pub fn apply(&self, keys: &mut Keys, now: u64) -> Expected {
        let ok = || Expected::Is(Reply::Simple("OK".to_owned()));
        match self {
            Command::Get(key) => read(keys.get(key)),
            Command::MultiGet(all) => {
                let value = |key| match keys.get(key) {
                    None => Reply::Nil,
                    Some(value) => Reply::Bulk(value.bytes.clone()),
                };
                Expected::Is(Reply::Array(all.iter().map(value).collect()))
            }
            Command::Set(key, value) => {
                keys.insert(key.clone(), Value::lasting(value));
                ok()
            }
            Command::SetFor(key, value, time) => {
                let deadline = Deadline::Near(now + time * 1_000_000, None);
                keys.insert(key.clone(), Value { bytes: value.clone(), deadline });
                ok()
            }
            Command::Delete(all) => delete(keys, all),
            Command::Increment(key, by) => {
                let zero = || Value::lasting(b"0");
                let value = keys.entry(key.clone()).or_insert_with(zero);
                let text = std::str::from_utf8(&value.bytes).expect("counters hold digits");
                let sum = text.parse::<i64>().expect("counters hold numbers") + by;
                value.bytes = sum.to_string().into_bytes();
                Expected::Is(Reply::Integer(sum))
            }
            Command::MultiSet(pairs) => {
                set_all(keys, pairs);
                ok()
            }
            Command::MultiSetIfNone(pairs) => {
                let free = pairs.iter().all(|(key, _)| !keys.contains_key(key));
                if free {
                    set_all(keys, pairs);
                }
                Expected::Is(Reply::Integer(i64::from(free)))
            }
            Command::Append(key, tail) => {
                let value = keys.entry(key.clone()).or_insert_with(|| Value::lasting(b""));
                value.bytes.extend_from_slice(tail);
                Expected::Is(Reply::Integer(value.bytes.len() as i64))
            }
            Command::Expire(key) => {
                let value = keys.get_mut(key);
                let found = value.map(|value| value.deadline = Deadline::Far).is_some();
                Expected::Is(Reply::Integer(i64::from(found)))
            }
            Command::Persist(key) => {
                let value = keys.get_mut(key).filter(|value| value.deadline == Deadline::Far);
                let found = value.map(|value| value.deadline = Deadline::None).is_some();
                Expected::Is(Reply::Integer(i64::from(found)))
            }
        }
    }
}

fn read(value: Option<&Value>) -> Expected {
    match value {
        None => Expected::Is(Reply::Nil),
        Some(value) if matches!(value.deadline, Deadline::Near(..)) => {
            Expected::Expiring(value.clone())
        }
        Some(value) => Expected::Is(Reply::Bulk(value.bytes.clone())),
    }
}

fn set_all(keys: &mut Keys, pairs: &[(Key, Vec<u8>)]) {
    for (key, value) in pairs {
        keys.insert(key.clone(), Value::lasting(value));
    }
}

fn delete(keys: &mut Keys, all: &[Key]) -> Expected {
    let removed: Vec<Value> = all.iter().filter_map(|key| keys.remove(key)).collect();
    if removed.iter().any(|value| matches!(value.deadline, Deadline::Near(..))) {
        return Expected::Number;
    }
    Expected::Is(Reply::Integer(removed.len() as i64))
}

impl Value {
    /// Whether a read that was under way from `from` to `to` may see it, and may not see it.
    #[must_use]
    pub fn seen(&self, from: u64, to: u64) -> (bool, bool) {
        match self.deadline {
            Deadline::None | Deadline::Far => (true, false),
            Deadline::Near(earliest, latest) => {
                let may_live = latest.is_none_or(|latest| from <= latest + SLACK);
                (may_live, to + SLACK >= earliest)
            }
        }
    }
}

impl Expected {
    /// Whether `reply`, to a command under way from `from` to `to`, is right.
    #[must_use]
    pub fn admits(&self, reply: &Reply, from: u64, to: u64) -> bool {
        match self {
            Expected::Is(expected) => expected == reply,
            Expected::Number => matches!(reply, Reply::Integer(0..=8)),
            Expected::Expiring(value) => {
                let (may_live, may_be_gone) = value.seen(from, to);
                match reply {
                    Reply::Nil => may_be_gone,
                    Reply::Bulk(bytes) => may_live && *bytes == value.bytes,
                    _ => false,
                }
            }
        }
    }
}
