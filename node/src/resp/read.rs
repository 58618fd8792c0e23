//! Reads: what a command wants to know of keys, and how what was found becomes a reply.
//!
//! A [`Read`] says which keys, a [`KeyRead`] what of each. Whoever owns a key looks its entry up
//! and lets the key read render it: the same bytes whether that happens on the connection's core or
//! is sent there from another. A `KeyRead` owns nothing and fits into a message.
//!
//! - one key: look up, [`KeyRead::append`];
//! - several ([`Read::Many`]): [`Combine::Values`] is the array's head and then each key's value,
//!   [`Combine::Count`] the number of keys that exist, a key that is named twice counting twice;
//! - [`Read::Scan`] and [`Read::Keys`] gather names in a [`KeyList`], bounded by count and bytes.
//!
//! An entry whose deadline is not after log time does not exist, for every read alike. Reads that
//! want no value ([`KeyRead::needs_value`]) are answered from an entry's metadata, so that asking
//! for the type or time to live of a large value reads none of it.

use wire::{Outcome, Timestamp, Version};

use crate::machine::Entry;

use super::encode::Encoder;
use super::expiry;
use super::glob;
use super::parser::Arguments;
use super::plan::Form;

/// What a command reads.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// Something of one key.
    Key {
        /// What of it.
        what: KeyRead,
        /// The key.
        key: &'a [u8],
    },
    /// Something of several keys.
    Many {
        /// How the parts become the reply.
        combine: Combine,
        /// The keys.
        keys: Arguments<'a>,
    },
    /// A step of an iteration over all keys.
    Scan(ScanRequest<'a>),
    /// All keys that match, at most [`KEYS_MAX`] in the table.
    Keys {
        /// The glob.
        pattern: &'a [u8],
    },
    /// The number of keys.
    Size,
    /// Some key.
    RandomKey,
}

impl<'a> Read<'a> {
    /// A read of one key.
    #[must_use]
    #[inline]
    pub fn one(what: KeyRead, key: &'a [u8]) -> Read<'a> {
        Read::Key { what, key }
    }
}

/// What is asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRead {
    /// The value, or null.
    Value,
    /// The value's length, 0 without one.
    Length,
    /// A part of the value, by first and last byte; negative positions count from the end.
    Range {
        /// The first byte.
        start: i64,
        /// The last byte.
        end: i64,
    },
    /// The time to live: -2 without the key, -1 without a deadline.
    TimeToLive {
        /// The deadline itself and not what is left until then.
        absolute: bool,
        /// In milliseconds and not in seconds, rounded to the nearest.
        milliseconds: bool,
    },
    /// The name of the value's type.
    Type,
    /// The value and its version, as the native protocol has them.
    Outcome,
}

impl KeyRead {
    /// Whether the entry has to come with its value.
    #[must_use]
    pub fn needs_value(self) -> bool {
        matches!(self, KeyRead::Value | KeyRead::Range { .. } | KeyRead::Outcome)
    }

    /// Appends the reply.
    #[inline]
    pub fn append(self, entry: Option<Entry<'_>>, now: Timestamp, form: Form, out: &mut Vec<u8>) {
        if form.muted {
            return;
        }
        let entry = entry.filter(|entry| entry.lives_at(now));
        if self == KeyRead::Outcome {
            let outcome = match &entry {
                Some(entry) => Outcome::done(wire::Value::Bytes(entry.value), entry.version),
                None => Outcome::done(wire::Value::Nil, Version(0)),
            };
            outcome.encode(out).expect("vectors grow");
            return;
        }
        let encoder = &mut Encoder::new(out, form.protocol);
        match (self, entry) {
            (KeyRead::Value, Some(entry)) => encoder.bulk(entry.value),
            (KeyRead::Value, None) => encoder.null(),
            (KeyRead::Length, entry) => {
                encoder.integer(entry.map_or(0, |entry| i64::from(entry.value_size)));
            }
            (KeyRead::Range { start, end }, entry) => {
                let value = entry.map_or(&[][..], |entry| entry.value);
                encoder.bulk(range(value, start, end));
            }
            (KeyRead::TimeToLive { absolute, milliseconds }, entry) => {
                encoder.integer(time_to_live(entry, now, absolute, milliseconds));
            }
            (KeyRead::Outcome, _) => unreachable!("it has its own form"),
            (KeyRead::Type, entry) => encoder.simple(entry.map_or("none", |_| "string")),
        }
    }
}

/// The bytes from `start` to `end`, both included (GETRANGE's rules).
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let size = value.len() as i64;
    let from_end = |at: i64| if at < 0 { at.saturating_add(size).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(size - 1));
    if start > end { &[] } else { &value[start as usize..=end as usize] }
}

fn time_to_live(
    entry: Option<Entry<'_>>,
    now: Timestamp,
    absolute: bool,
    milliseconds: bool,
) -> i64 {
    let Some(entry) = entry else { return -2 };
    if entry.deadline == 0 {
        return -1;
    }
    let deadline = expiry::deadline_milliseconds(entry.deadline);
    let since = if absolute { 0 } else { expiry::milliseconds(now) };
    let time = (deadline - since).max(0);
    if milliseconds { time } else { (time + 500) / 1000 }
}

/// How reads of several keys become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// An array of values and nulls.
    Values,
    /// The number of keys that exist.
    Count,
}

/// Appends the head of a reply with the values of `count` keys; [`KeyRead::Value`] renders each.
pub fn append_values_head(count: usize, form: Form, out: &mut Vec<u8>) {
    if !form.muted {
        Encoder::new(out, form.protocol).array(count);
    }
}

/// Appends a number: of keys that exist, or of all keys.
pub fn append_count(count: u64, form: Form, out: &mut Vec<u8>) {
    if !form.muted {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Encoder::new(out, form.protocol).integer(count);
    }
}

/// Appends a key, or null: the reply to RANDOMKEY.
pub fn append_key(key: Option<&[u8]>, form: Form, out: &mut Vec<u8>) {
    if !form.muted {
        let mut encoder = Encoder::new(out, form.protocol);
        match key {
            Some(key) => encoder.bulk(key),
            None => encoder.null(),
        }
    }
}

/// One step of SCAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRequest<'a> {
    /// Where to go on; 0 is the start. See [`super::cursor`].
    pub cursor: u64,
    /// Only keys that match this.
    pub pattern: Option<&'a [u8]>,
    /// How many keys to look at.
    pub count: usize,
    /// Whether strings are wanted: the only type there is. Otherwise nothing matches.
    pub strings: bool,
}

impl ScanRequest<'_> {
    /// Whether a key that was looked at belongs into the reply.
    #[must_use]
    pub fn admits(&self, key: &[u8]) -> bool {
        self.strings && self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
    }
}

/// More keys than this in the table, and KEYS is refused.
pub const KEYS_MAX: u64 = 1_000_000;
/// The most bytes of names in one reply.
pub const KEY_LIST_BYTES_MAX: usize = 64 << 20;

/// Appends KEYS's refusal.
pub fn append_too_many_keys(form: Form, out: &mut Vec<u8>) {
    if !form.muted {
        Encoder::new(out, form.protocol)
            .error("ERR too_large: KEYS lists at most a million keys and 64 MiB; use SCAN");
    }
}

/// Names of keys on their way into a reply, whose number is not known before.
#[derive(Debug, Default)]
pub struct KeyList {
    bulks: Vec<u8>,
    count: usize,
}

/// A reply would be larger than [`KEY_LIST_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyKeys;

impl KeyList {
    /// Adds a key.
    ///
    /// # Errors
    /// [`TooManyKeys`] when the reply would be too large; the key is then not added.
    pub fn push(&mut self, key: &[u8]) -> Result<(), TooManyKeys> {
        if self.bulks.len() + key.len() + 32 > KEY_LIST_BYTES_MAX {
            return Err(TooManyKeys);
        }
        // A bulk string looks alike in both versions.
        Encoder::new(&mut self.bulks, super::encode::Protocol::Resp2).bulk(key);
        self.count += 1;
        Ok(())
    }

    /// Takes over what another core found.
    ///
    /// # Errors
    /// [`TooManyKeys`] when the reply would be too large; nothing is then added.
    pub fn append(&mut self, other: &KeyList) -> Result<(), TooManyKeys> {
        if self.bulks.len() + other.bulks.len() > KEY_LIST_BYTES_MAX {
            return Err(TooManyKeys);
        }
        self.bulks.extend_from_slice(&other.bulks);
        self.count += other.count;
        Ok(())
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the reply to KEYS.
    pub fn append_keys(&self, form: Form, out: &mut Vec<u8>) {
        if !form.muted {
            let mut encoder = Encoder::new(out, form.protocol);
            encoder.array(self.count);
            encoder.raw(&self.bulks);
        }
    }

    /// Appends the reply to SCAN; `cursor` is where the next step goes on, 0 at the end.
    pub fn append_scan(&self, cursor: u64, form: Form, out: &mut Vec<u8>) {
        if !form.muted {
            let mut encoder = Encoder::new(out, form.protocol);
            encoder.array(2);
            encoder.bulk_integer(cursor);
            self.append_keys(form, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_from_either_end() {
        let value = b"This is a string";
        for (start, end, expected) in [
            (0, 3, "This"),
            (-3, -1, "ing"),
            (0, -1, "This is a string"),
            (10, 100, "string"),
            (5, 3, ""),
            (-1, -3, ""),
            (-100, -50, "T"),
            (-100, 3, "This"),
            (16, 20, ""),
            (i64::MIN, i64::MAX, "This is a string"),
            (i64::MAX, i64::MIN, ""),
        ] {
            assert_eq!(range(value, start, end), expected.as_bytes(), "{start} {end}");
        }
        assert_eq!(range(b"", 0, -1), b"");
    }
}
