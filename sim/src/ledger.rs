//! What clients sent, what was acknowledged, and whether what is found fits.
//!
//! An [`Owner`] is a client with its keys. `base` is what the keys were known to be when the life
//! began; `sent` are its writes since, in order. After a crash the truth is `base` after a prefix
//! of `sent`: [`Ledger::settle`] looks for the prefix that gives exactly what a survey of the keys
//! found. It must contain whatever was acknowledged to the owner, and whatever others have read.
//! The survey may itself be cut off by a crash; then nothing is settled, nothing new is sent, and
//! the next one decides.
//!
//! Shared [`Counter`]s have no owner: only numbers of increments are known, which bounds them.

use std::collections::{BTreeMap, BTreeSet};

use client::Reply;

use crate::Violation;
use crate::model::{Command, Deadline, Expected, Key, Keys};

/// Counters that all clients increment.
pub const COUNTERS: usize = 2;
/// Pairs of keys that all clients set together or not at all.
pub const PAIRS: usize = 2;

/// A write on its way, or behind us.
#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    command: Command,
    at: u64,
    acknowledged_at: Option<u64>,
}

impl Sent {
    /// Does it, knowing that it was done by `by` at the latest.
    fn apply(&self, keys: &mut Keys, by: u64) {
        self.command.apply(keys, self.at);
        if let Command::SetFor(key, _, time) = &self.command
            && let Some(value) = keys.get_mut(key)
            && let Deadline::Near(_, latest) = &mut value.deadline
        {
            *latest = Some(self.acknowledged_at.unwrap_or(by) + time * 1_000_000);
        }
    }
}

/// A client and its keys.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    base: Keys,
    now: Keys,
    sent: Vec<Sent>,
    acknowledged: usize,
    /// The greatest number that somebody has read of this owner's values.
    read: u64,
    next: u64,
}

/// A counter that all clients increment by one.
#[derive(Clone, Debug, Default)]
struct Counter {
    base: i64,
    sent: i64,
    acknowledged: i64,
    results: BTreeSet<i64>,
}

/// What a survey found under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub bytes: Option<Vec<u8>>,
    /// Whether it will vanish.
    pub expires: bool,
}

/// What a survey found, and when it was under way.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Every key that anybody may have written.
    pub keys: BTreeMap<Key, Found>,
    /// The op of the checkpoint that the node started from.
    pub checkpoint: u64,
    /// When the first read was sent.
    pub from: u64,
    /// When the last reply came.
    pub to: u64,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes that were not acknowledged when the node died, and found to be there.
    pub found: u64,
    /// Writes that were not acknowledged when the node died, and found not to be there.
    pub lost: u64,
    /// Reads checked.
    pub reads: u64,
    /// How often the node forgot everything.
    pub flushes: u64,
    /// The newest checkpoint that was seen.
    pub checkpoint: u64,
    /// How often it was a new one.
    pub checkpoints: u64,
}

/// All clients, their keys and what they share.
#[derive(Clone, Debug)]
pub struct Ledger {
    owners: Vec<Owner>,
    counters: Vec<Counter>,
    /// Whether the node was told to forget everything and has not said that it did.
    flushing: bool,
    /// The first promise that was seen broken.
    pub violation: Option<Violation>,
    /// What was played so far.
    pub counts: Counts,
}

/// The name of a shared counter.
#[must_use]
pub fn counter_key(counter: usize) -> Key {
    format!("shared{counter}")
}

/// The names of a shared pair: in slots, and so as a rule in shards, of their own.
#[must_use]
pub fn pair_keys(pair: usize) -> [Key; 2] {
    [format!("pair{pair}:left"), format!("pair{pair}:right")]
}

/// A value that says who wrote it and with which command.
#[must_use]
pub fn stamp(owner: usize, number: u64, padding: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; padding];
    bytes.extend_from_slice(format!("|{owner}:{number}").as_bytes());
    bytes
}

/// The last stamp in a value.
#[must_use]
pub fn read_stamp(bytes: &[u8]) -> Option<(usize, u64)> {
    let at = bytes.iter().rposition(|byte| *byte == b'|')?;
    let text = std::str::from_utf8(&bytes[at + 1..]).ok()?;
    let (owner, number) = text.split_once(':')?;
    Some((owner.parse().ok()?, number.parse().ok()?))
}

impl Owner {
    /// What the keys are once everything sent is done.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.now
    }

    /// The number of the next write.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The shortest prefix that must be there.
    fn least(&self) -> usize {
        let read = self.sent.iter().take_while(|sent| sent.number <= self.read).count();
        self.acknowledged.max(if self.read == 0 { 0 } else { read })
    }

    fn settle(&mut self, name: usize, survey: &Survey, died: u64) -> Result<usize, Violation> {
        let mut keys = self.base.clone();
        let (mut early, mut closest) = (None, (usize::MAX, String::new()));
        for length in 0..=self.sent.len() {
            if let Some(last) = length.checked_sub(1) {
                self.sent[last].apply(&mut keys, died);
            }
            let differences = differences(name, &keys, survey);
            if differences.is_empty() && length >= self.least() {
                self.adopt(keys, survey);
                return Ok(length);
            }
            if differences.is_empty() {
                early = Some(length);
            } else if differences.len() < closest.0 {
                closest = (differences.len(), format!("{length}: {}", differences.join("; ")));
            }
        }
        let (sent, acknowledged, least) = (self.sent.len(), self.acknowledged, self.least());
        let what = match early {
            Some(length) => format!("it is as after {length}"),
            None => format!("it is as after none of them; closest is {}", closest.1),
        };
        Err(Violation(format!(
            "client {name}: of {sent} writes {acknowledged} were acknowledged, {least} must be \
             there: {what}"
        )))
    }

    /// Takes what was found as the truth from here on.
    fn adopt(&mut self, mut keys: Keys, survey: &Survey) {
        keys.retain(|key, _| survey.keys.get(key).is_some_and(|found| found.bytes.is_some()));
        (self.base, self.now) = (keys.clone(), keys);
        self.sent.clear();
        (self.acknowledged, self.read) = (0, 0);
    }
}

/// Whose key it is.
#[must_use]
pub fn own_key(owner: usize, kind: &str, index: u64) -> Key {
    format!("{kind}{index}.{owner}")
}

fn is_own(key: &str, owner: usize) -> bool {
    key.rsplit_once('.').is_some_and(|(_, text)| text.parse() == Ok(owner))
}

/// Where one owner's keys are not what was found.
fn differences(owner: usize, keys: &Keys, survey: &Survey) -> Vec<String> {
    let mut all = Vec::new();
    for (key, found) in survey.keys.iter().filter(|(key, _)| is_own(key, owner)) {
        let fits = match keys.get(key) {
            None => found.bytes.is_none(),
            Some(value) => {
                let (may_live, may_be_gone) = value.seen(survey.from, survey.to);
                let near = matches!(value.deadline, Deadline::Near(..));
                let expires = near || (value.deadline == Deadline::Far) == found.expires;
                match &found.bytes {
                    None => may_be_gone,
                    Some(bytes) => may_live && *bytes == value.bytes && expires,
                }
            }
        };
        if !fits {
            let text = |bytes: &Option<Vec<u8>>| match bytes {
                None => "nothing".to_owned(),
                Some(bytes) => {
                    let tail = &bytes[bytes.len().saturating_sub(24)..];
                    format!("{} bytes, …{}", bytes.len(), tail.escape_ascii())
                }
            };
            let model = keys.get(key).map(|value| value.bytes.clone());
            let deadline = keys.get(key).map(|value| value.deadline);
            all.push(format!(
                "{key}: found {} (expires: {}), expected {} ({deadline:?}, survey {}..{})",
                text(&found.bytes),
                found.expires,
                text(&model),
                survey.from,
                survey.to,
            ));
        }
    }
    all
}

impl Ledger {
    /// So many clients with nothing written.
    #[must_use]
    pub fn new(owners: usize) -> Ledger {
        Ledger {
            owners: vec![Owner { next: 1, ..Owner::default() }; owners],
            counters: vec![Counter::default(); COUNTERS],
            flushing: false,
            violation: None,
            counts: Counts::default(),
        }
    }

    /// How many clients there are.
    #[must_use]
    pub fn owners(&self) -> usize {
        self.owners.len()
    }

    /// A client's side of it.
    #[must_use]
    pub fn owner(&self, owner: usize) -> &Owner {
        &self.owners[owner]
    }

    /// A command leaves its client; returns what the reply must be.
    pub fn send(&mut self, owner: usize, command: &Command, at: u64) -> Expected {
        let entry = &mut self.owners[owner];
        let expected = command.apply(&mut entry.now, at);
        if command.is_write() {
            let (number, command) = (entry.next, command.clone());
            entry.next += 1;
            entry.sent.push(Sent { number, command, at, acknowledged_at: None });
        }
        expected
    }

    /// The reply to the oldest outstanding command of a client has come and was right.
    pub fn acknowledge(&mut self, owner: usize, command: &Command, at: u64) {
        if !command.is_write() {
            self.counts.reads += 1;
            return;
        }
        self.counts.acknowledged += 1;
        let entry = &mut self.owners[owner];
        let sent = &mut entry.sent[entry.acknowledged];
        assert_eq!(sent.command, *command, "replies come in order");
        sent.acknowledged_at = Some(at);
        entry.acknowledged += 1;
        if let Command::SetFor(key, bytes, time) = command
            && let Some(value) = entry.now.get_mut(key).filter(|value| value.bytes == *bytes)
            && let Deadline::Near(_, latest) = &mut value.deadline
        {
            *latest = Some(at + time * 1_000_000);
        }
    }

    /// Somebody read this value of another's key: it has to last.
    pub fn read(&mut self, key: &str, bytes: &[u8]) -> Result<u64, Violation> {
        let stamp = read_stamp(bytes).filter(|(owner, number)| {
            is_own(key, *owner) && self.owners.get(*owner).is_some_and(|owner| *number < owner.next)
        });
        let Some((owner, number)) = stamp else {
            return Err(Violation(format!("{key} holds what nobody wrote")));
        };
        self.counts.reads += 1;
        let read = &mut self.owners[owner].read;
        *read = (*read).max(number);
        Ok(number)
    }

    /// An increment of a shared counter leaves its client.
    pub fn send_increment(&mut self, counter: usize) {
        self.counters[counter].sent += 1;
    }

    /// The result of an increment has come.
    pub fn acknowledge_increment(
        &mut self,
        counter: usize,
        reply: &Reply,
    ) -> Result<(), Violation> {
        self.counts.acknowledged += 1;
        let entry = &mut self.counters[counter];
        entry.acknowledged += 1;
        let possible = entry.base + 1..=entry.base + entry.sent;
        match reply {
            Reply::Integer(result) if possible.contains(result) => {
                let first = entry.results.insert(*result);
                let twice = || Violation(format!("two increments were both given {result}"));
                first.then_some(()).ok_or_else(twice)
            }
            other => Err(Violation(format!(
                "shared counter {counter}: {other:?}, possible are {possible:?}"
            ))),
        }
    }

    /// The node is told to forget everything, while no write is outstanding.
    pub fn send_flush(&mut self) {
        assert!(self.owners.iter().all(|owner| owner.sent.is_empty()), "writes are under way");
        self.flushing = true;
    }

    /// It has.
    pub fn acknowledge_flush(&mut self) {
        self.flushing = false;
        self.counts.flushes += 1;
        for owner in &mut self.owners {
            (owner.base, owner.now) = Default::default();
        }
        for counter in &mut self.counters {
            *counter = Counter::default();
        }
    }

    /// Every key that anybody may have written.
    #[must_use]
    pub fn all_keys(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for owner in &self.owners {
            keys.extend(owner.base.keys().chain(owner.now.keys()).cloned());
            for sent in &owner.sent {
                match &sent.command {
                    Command::Delete(_) => {}
                    Command::MultiSet(pairs) | Command::MultiSetIfNone(pairs) => {
                        keys.extend(pairs.iter().map(|(key, _)| key.clone()));
                    }
                    Command::MultiGet(_) => {}
                    Command::Get(key)
                    | Command::Set(key, _)
                    | Command::SetFor(key, ..)
                    | Command::Increment(key, _)
                    | Command::Append(key, _)
                    | Command::Expire(key)
                    | Command::Persist(key) => drop(keys.insert(key.clone())),
                }
            }
        }
        keys.extend((0..COUNTERS).map(counter_key));
        keys.extend((0..PAIRS).flat_map(pair_keys));
        keys
    }

    /// Compares a survey after a restart with everything that is known; `died` is when the node
    /// ended. What was found is the truth from here on.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn settle(&mut self, survey: &Survey, died: u64) -> Result<(), Violation> {
        if std::mem::take(&mut self.flushing)
            && survey.keys.values().all(|found| found.bytes.is_none())
        {
            // It was not acknowledged, and done all the same: wholly.
            self.acknowledge_flush();
        }
        for (name, owner) in self.owners.iter_mut().enumerate() {
            let (sent, acknowledged) = (owner.sent.len(), owner.acknowledged);
            let length = owner.settle(name, survey, died)?;
            self.counts.found += (length - acknowledged) as u64;
            self.counts.lost += (sent - length) as u64;
        }
        for (counter, entry) in self.counters.iter_mut().enumerate() {
            entry.settle(counter, &survey.keys[&counter_key(counter)])?;
        }
        if survey.checkpoint < self.counts.checkpoint {
            let (found, before) = (survey.checkpoint, self.counts.checkpoint);
            return Err(Violation(format!("checkpoint {found} after checkpoint {before}")));
        }
        self.counts.checkpoints += u64::from(survey.checkpoint > self.counts.checkpoint);
        self.counts.checkpoint = survey.checkpoint;
        for [left, right] in (0..PAIRS).map(pair_keys) {
            if survey.keys[&left].bytes != survey.keys[&right].bytes {
                return Err(Violation(format!("{left} and {right} were set together and differ")));
            }
        }
        Ok(())
    }
}

impl Counter {
    fn settle(&mut self, name: usize, found: &Found) -> Result<(), Violation> {
        let text = found.bytes.as_deref().unwrap_or(b"0");
        let value = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
        let highest = self.results.last().copied().unwrap_or(self.base);
        let least = highest.max(self.base + self.acknowledged);
        let possible = least..=self.base + self.sent;
        match value {
            Some(value) if possible.contains(&value) => {
                *self = Counter { base: value, ..Counter::default() };
                Ok(())
            }
            _ => Err(Violation(format!(
                "shared counter {name} is {:?}, possible are {possible:?}",
                String::from_utf8_lossy(text)
            ))),
        }
    }
}
