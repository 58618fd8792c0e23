//! What all clients asked and were told, and what is wrong with it.
//!
//! * Everything goes into one [`History`], which is checked for linearizability at the end. Final
//!   reads of all keys on every member are part of it: so what was acknowledged is there, and what
//!   was refused is not.
//! * A counter is, besides, between what was acknowledged and that plus what may have happened.
//! * A *fleeting* key is written once, with a time to live. It may be gone or not, but once anybody
//!   has seen it gone it stays gone, on all members and through fail-overs; and where all clocks
//!   are right it is not gone before its time.
//!
//! Keys are few and hot, and worn: after so many operations, or so few of unknown outcome (which
//! may happen at any later moment, and so are what makes the search for an order expensive), a new
//! key takes the place of the old one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use client::Reply;

use super::steps::{Key, Step, value_of};
use super::trace::tell;
use crate::Violation;
use crate::linearizability::{Call, History, Output};

/// Operations on a key until it is worn.
const CALLS_MAX: u32 = 250;
/// Operations of unknown outcome on a key until it is worn.
const UNKNOWN_MAX: u32 = 4;
/// How much earlier than by true time log time may have passed a deadline, in nanoseconds.
const SLACK_NS: u64 = 20_000_000;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Read, written, exchanged, deleted.
    Register,
    /// Read and incremented by one.
    Counter,
    /// Two keys that are written together.
    Pair,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that were answered.
    pub answered: u64,
    /// Of these, writes.
    pub writes: u64,
    /// Commands that were refused: they certainly did not happen.
    pub refused: u64,
    /// Commands of unknown outcome.
    pub unknown: u64,
}

/// A command on its way.
pub struct Issued {
    step: Step,
    calls: Vec<Call<Key>>,
    worn: Option<Key>,
    called: u64,
}

impl Issued {
    /// What was asked.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }
}

impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, asked at {:.3} ms,", self.step, self.called as f64 / 1e6)
    }
}

/// A reply without what fills it.
fn short(reply: &Reply) -> String {
    let mut text = match value_of(reply) {
        Some(value) => format!("{value:?}"),
        None => format!("{reply:?}"),
    };
    text.truncate(120);
    text
}

#[derive(Default)]
struct Wear {
    calls: u32,
    unknown: u32,
}

#[derive(Default)]
struct Counter {
    acknowledged: i64,
    unknown: i64,
}

/// A key that is written once and vanishes. Times are those of the world.
struct Fleeting {
    called: u64,
    lives_ns: u64,
    /// When it was known to be written first: by its acknowledgement or by a read.
    known: Option<u64>,
    /// When it was known to be gone first.
    gone: Option<u64>,
}

/// See the module's text.
pub struct Record {
    history: History<Key>,
    generations: BTreeMap<(Kind, u64), u32>,
    wear: BTreeMap<Key, Wear>,
    counters: BTreeMap<Key, Counter>,
    fleeting: BTreeMap<Key, Fleeting>,
    /// The fleeting keys in the order of their writes.
    vanishing: Vec<Key>,
    next: i64,
    clocks_are_right: bool,
    /// The first thing that was seen to be wrong.
    pub violation: Option<Violation>,
    /// What was played.
    pub counts: Counts,
}

impl Record {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(clocks_are_right: bool) -> Record {
        Record {
            history: History::default(),
            generations: BTreeMap::new(),
            wear: BTreeMap::new(),
            counters: BTreeMap::new(),
            fleeting: BTreeMap::new(),
            vanishing: Vec::new(),
            next: 0,
            clocks_are_right,
            violation: None,
            counts: Counts::default(),
        }
    }

    /// The key that is used now in a place.
    pub fn key(&mut self, kind: Kind, place: u64) -> Key {
        let generation = self.generations.entry((kind, place)).or_default();
        let name = |generation| format!("{kind:?}{place}.{generation}").to_lowercase();
        let worn = |wear: &Wear| wear.calls >= CALLS_MAX || wear.unknown >= UNKNOWN_MAX;
        if self.wear.get(&name(*generation)).is_some_and(worn) {
            *generation += 1;
        }
        name(*generation)
    }

    /// A number that no other write has.
    pub fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// One of the fleeting keys that were written last.
    #[must_use]
    pub fn fleeting_key(&self, back: usize) -> Option<Key> {
        self.vanishing.iter().rev().nth(back).cloned()
    }

    /// Reads of everything that was ever written and does not vanish.
    #[must_use]
    pub fn survey(&self) -> Vec<Key> {
        self.history.keys().cloned().collect()
    }

    /// A command is sent; it is of this key's wear.
    pub fn call(&mut self, step: Step, worn: Option<Key>, now: u64) -> Issued {
        if let Some(key) = &worn {
            self.wear.entry(key.clone()).or_default().calls += 1;
        }
        if let Step::SetFleeting(key, _, ms) = &step {
            let fleeting =
                Fleeting { called: now, lives_ns: ms * 1_000_000, known: None, gone: None };
            self.fleeting.insert(key.clone(), fleeting);
            self.vanishing.push(key.clone());
        }
        let calls = step.inputs().into_iter();
        let calls = calls.map(|(key, input)| self.history.call(key, now, input)).collect();
        Issued { step, calls, worn, called: now }
    }

    /// It was answered; returns whether with a refusal, which says that it did not happen.
    pub fn answer(&mut self, issued: &Issued, reply: &Reply, now: u64) -> bool {
        tell(Duration::from_nanos(now), || format!("{issued} is answered {}", short(reply)));
        if let Reply::Error(text) = reply
            && is_refusal(text)
        {
            self.counts.refused += 1;
            issued.calls.iter().for_each(|call| self.history.did_not_happen(call));
            return true;
        }
        let Some(outputs) = issued.step.outputs(reply) else {
            self.wrong(format!("{:?} was answered {reply:?}", issued.step));
            return false;
        };
        self.counts.answered += 1;
        self.counts.writes += u64::from(issued.step.is_write());
        for (call, output) in issued.calls.iter().zip(outputs) {
            self.history.answer(call, now, output);
            if let Output::Sum(_) = output
                && let Step::Increment(key) = &issued.step
            {
                self.counters.entry(key.clone()).or_default().acknowledged += 1;
            }
        }
        self.answer_fleeting(issued, reply, now);
        false
    }

    /// No answer will come: it may have happened.
    pub fn give_up(&mut self, issued: &Issued) {
        tell(Duration::from_nanos(issued.called), || format!("{issued} is never answered"));
        self.counts.unknown += 1;
        if let Step::Increment(key) = &issued.step {
            self.counters.entry(key.clone()).or_default().unknown += 1;
        }
        if let Some(key) = issued.worn.as_ref().filter(|_| issued.step.is_write()) {
            self.wear.entry(key.clone()).or_default().unknown += 1;
        }
    }

    /// Something is wrong.
    pub fn wrong(&mut self, text: String) {
        self.violation.get_or_insert(Violation(text));
    }

    fn answer_fleeting(&mut self, issued: &Issued, reply: &Reply, now: u64) {
        let (key, value) = match &issued.step {
            Step::SetFleeting(key, ..) => (key, None),
            Step::GetFleeting(key) => (key, value_of(reply)),
            _ => return,
        };
        let fleeting = self.fleeting.get_mut(key).expect("it is written before it is read");
        let wrong = match value {
            None | Some(Some(_)) => {
                let first = fleeting.known.map_or(now, |known| known.min(now));
                fleeting.known = Some(first);
                let back = value.is_some() && fleeting.gone.is_some_and(|at| at < issued.called);
                back.then_some("is back")
            }
            Some(None) if fleeting.known.is_none_or(|at| at > issued.called) => None,
            Some(None) => {
                let first = fleeting.gone.map_or(now, |gone| gone.min(now));
                fleeting.gone = Some(first);
                let early = now + SLACK_NS < fleeting.called + fleeting.lives_ns;
                (early && self.clocks_are_right).then_some("is gone before its time")
            }
        };
        if let Some(wrong) = wrong {
            let text = format!("{key} {wrong}: read from {} to {now} ns", issued.called);
            self.wrong(text);
        }
    }

    /// Checks everything; `last` has what final reads found in counters.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&mut self, last: &BTreeMap<Key, Option<i64>>) -> Result<(), Violation> {
        if let Some(violation) = self.violation.take() {
            return Err(violation);
        }
        for (key, counter) in &self.counters {
            // Those of a client's own are set as well.
            let Some(found) = last.get(key).filter(|_| key.starts_with("counter")) else {
                continue;
            };
            let (least, found) = (counter.acknowledged, found.unwrap_or(0));
            let most = least + counter.unknown;
            if !(least..=most).contains(&found) {
                let text = format!("{key} is {found}, and must be from {least} to {most}");
                return Err(Violation(text));
            }
        }
        self.history.check().map_err(|violation| Violation(violation.to_string()))
    }
}

/// Whether an error says that nothing was done and that the same may be tried again.
fn is_refusal(text: &str) -> bool {
    text.starts_with("TRYAGAIN") || text.starts_with("LOADING")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn read(record: &mut Record, at: u64, value: Option<i64>) {
        let issued = record.call(Step::GetFleeting("f".to_owned()), None, at);
        let reply = value.map_or(Reply::Nil, |value| Reply::Bulk(value.to_string().into()));
        record.answer(&issued, &reply, at + 1);
    }

    fn fleeting(clocks_are_right: bool) -> Record {
        let mut record = Record::new(clocks_are_right);
        let set = record.call(Step::SetFleeting("f".to_owned(), 7, 50), None, 10);
        read(&mut record, 11, None);
        assert!(!record.answer(&set, &Reply::Simple("OK".to_owned()), 20));
        record
    }

    #[test]
    fn what_was_seen_gone_does_not_come_back() {
        let mut record = fleeting(true);
        read(&mut record, 30 * MS, Some(7));
        read(&mut record, 60 * MS, None);
        assert_eq!(record.violation, None);
        read(&mut record, 70 * MS, Some(7));
        assert!(record.violation.unwrap().0.contains("is back"));
    }

    #[test]
    fn nothing_is_gone_before_its_time_where_clocks_are_right() {
        for right in [true, false] {
            let mut record = fleeting(right);
            read(&mut record, 25 * MS, None);
            assert_eq!(record.violation.is_some(), right);
        }
    }

    #[test]
    fn counters_are_bounded_by_what_was_acknowledged_and_what_may_have_happened() {
        let key = || "counter0.0".to_owned();
        let check = |found| {
            let mut record = Record::new(true);
            let done = record.call(Step::Increment(key()), None, 1);
            record.answer(&done, &Reply::Integer(1), 2);
            let unknown = record.call(Step::Increment(key()), None, 3);
            record.give_up(&unknown);
            let refused = record.call(Step::Increment(key()), None, 4);
            assert!(record.answer(&refused, &Reply::Error("TRYAGAIN no".to_owned()), 5));
            record.check(&BTreeMap::from([(key(), Some(found))]))
        };
        assert!(check(1).is_ok() && check(2).is_ok());
        assert!(check(0).is_err() && check(3).is_err());
    }

    #[test]
    fn keys_wear_out() {
        let mut record = Record::new(true);
        let first = record.key(Kind::Register, 1);
        for _ in 0..UNKNOWN_MAX {
            assert_eq!(record.key(Kind::Register, 1), first);
            let step = Step::Set(first.clone(), record.number(), 0);
            let issued = record.call(step, Some(first.clone()), 1);
            record.give_up(&issued);
        }
        assert_ne!(record.key(Kind::Register, 1), first);
        assert_eq!(record.survey(), [first]);
    }
}
