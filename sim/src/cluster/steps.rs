//! The commands that clients send: how each is spelled, what it asks of which key, and what its
//! reply says of them.
//!
//! Three views of one [`Step`], all pure:
//!
//! 1. [`Step::arguments`] is what is sent.
//! 2. [`Step::inputs`] is what the checker's model is asked for, key by key. A command on several
//!    keys asks for something of each: if it happens at one moment, so does each part.
//! 3. [`Step::outputs`] is what a reply says of each of these, or what is wrong with it by itself:
//!    half of a pair, a count that cannot be.
//!
//! Values are numbers, so that the checker can tell them apart; in registers they are padded, so
//! that the log fills.

use client::Reply;

use crate::linearizability::{Input, Output};

/// A key's name.
pub type Key = String;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// GET
    Get(Key),
    /// MGET of registers.
    GetAll(Vec<Key>),
    /// SET of a number with so many bytes of padding.
    Set(Key, i64, usize),
    /// GETSET
    Swap(Key, i64),
    /// SETNX
    SetIfAbsent(Key, i64),
    /// DEL
    Delete(Key),
    /// INCR
    Increment(Key),
    /// MGET of a pair, whose keys are only ever written together.
    GetPair(Key),
    /// MSET of a pair.
    SetPair(Key, i64),
    /// MSETNX of a pair.
    SetPairIfAbsent(Key, i64),
    /// DEL of a pair.
    DeletePair(Key),
    /// SET PX of a key that is written once, with milliseconds.
    SetFleeting(Key, i64, u64),
    /// GET of such a key.
    GetFleeting(Key),
}

/// The keys of a pair: in slots, and so as a rule in shards, of their own.
#[must_use]
pub fn pair_keys(pair: &str) -> [Key; 2] {
    [format!("{pair}.left"), format!("{pair}.right")]
}

fn padded(number: i64, padding: usize) -> String {
    format!("{number}{}", "x".repeat(padding))
}

/// The number in a value.
#[must_use]
pub fn number_of(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.trim_end_matches('x').parse().ok()
}

impl Step {
    /// What is sent.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let pair = |name: &str, pair: &Key, number: i64| {
            let ([left, right], number) = (pair_keys(pair), number.to_string());
            vec![name.to_owned(), left, number.clone(), right, number]
        };
        match self {
            Step::Get(key) | Step::GetFleeting(key) => words(&["GET", key]),
            Step::GetAll(keys) => {
                std::iter::once("MGET".to_owned()).chain(keys.iter().cloned()).collect()
            }
            Step::Set(key, number, padding) => words(&["SET", key, &padded(*number, *padding)]),
            Step::Swap(key, number) => words(&["GETSET", key, &number.to_string()]),
            Step::SetIfAbsent(key, number) => words(&["SETNX", key, &number.to_string()]),
            Step::Delete(key) => words(&["DEL", key]),
            Step::Increment(key) => words(&["INCR", key]),
            Step::GetPair(key) => {
                let [left, right] = pair_keys(key);
                vec!["MGET".to_owned(), left, right]
            }
            Step::SetPair(key, number) => pair("MSET", key, *number),
            Step::SetPairIfAbsent(key, number) => pair("MSETNX", key, *number),
            Step::DeletePair(key) => {
                let [left, right] = pair_keys(key);
                vec!["DEL".to_owned(), left, right]
            }
            Step::SetFleeting(key, number, ms) => {
                words(&["SET", key, &number.to_string(), "PX", &ms.to_string()])
            }
        }
    }

    /// Whether it can change anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Step::Get(_) | Step::GetAll(_) | Step::GetPair(_) | Step::GetFleeting(_))
    }

    /// What is asked of the model. Fleeting keys have rules of their own.
    #[must_use]
    pub fn inputs(&self) -> Vec<(Key, Input)> {
        let both = |pair: &Key, input| pair_keys(pair).map(|key| (key, input)).to_vec();
        match self {
            Step::Get(key) => vec![(key.clone(), Input::Get)],
            Step::GetAll(keys) => keys.iter().map(|key| (key.clone(), Input::Get)).collect(),
            Step::Set(key, number, _) => vec![(key.clone(), Input::Set(*number))],
            Step::Swap(key, number) => vec![(key.clone(), Input::Swap(*number))],
            Step::SetIfAbsent(key, number) => vec![(key.clone(), Input::SetIfAbsent(*number))],
            Step::Delete(key) => vec![(key.clone(), Input::Delete)],
            Step::Increment(key) => vec![(key.clone(), Input::Add(1))],
            Step::GetPair(pair) => both(pair, Input::Get),
            Step::SetPair(pair, number) => both(pair, Input::Set(*number)),
            Step::SetPairIfAbsent(pair, number) => both(pair, Input::SetIfAbsent(*number)),
            Step::DeletePair(pair) => both(pair, Input::Delete),
            Step::SetFleeting(..) | Step::GetFleeting(_) => Vec::new(),
        }
    }

    /// What a reply that is no error says, in the order of the inputs; `None` if it can be the
    /// reply to nothing like this.
    #[must_use]
    pub fn outputs(&self, reply: &Reply) -> Option<Vec<Output>> {
        match (self, reply) {
            (Step::Get(_) | Step::Swap(..), value) => Some(vec![Output::Value(value_of(value)?)]),
            (Step::GetAll(keys), Reply::Array(values)) if values.len() == keys.len() => {
                values.iter().map(|value| Some(Output::Value(value_of(value)?))).collect()
            }
            (Step::GetPair(_), Reply::Array(values)) => match &values[..] {
                [left, right] if left == right => Some(vec![Output::Value(value_of(left)?); 2]),
                _ => None,
            },
            (Step::Set(..), reply) if is_ok(reply) => Some(vec![Output::Done]),
            (Step::SetPair(..), reply) if is_ok(reply) => Some(vec![Output::Done; 2]),
            (Step::SetFleeting(..), reply) if is_ok(reply) => Some(Vec::new()),
            (Step::GetFleeting(_), reply) => value_of(reply).map(|_| Vec::new()),
            (Step::SetIfAbsent(..) | Step::Delete(_), Reply::Integer(count @ 0..=1)) => {
                Some(vec![Output::Applied(*count == 1)])
            }
            (Step::SetPairIfAbsent(..), Reply::Integer(count @ 0..=1)) => {
                Some(vec![Output::Applied(*count == 1); 2])
            }
            (Step::DeletePair(_), Reply::Integer(count @ (0 | 2))) => {
                Some(vec![Output::Applied(*count == 2); 2])
            }
            (Step::Increment(_), Reply::Integer(sum)) => Some(vec![Output::Sum(*sum)]),
            _ => None,
        }
    }
}

fn is_ok(reply: &Reply) -> bool {
    *reply == Reply::Simple("OK".to_owned())
}

/// The number in a value, or nothing if there is no value; `None` if it is neither.
#[must_use]
pub fn value_of(reply: &Reply) -> Option<Option<i64>> {
    match reply {
        Reply::Nil => Some(None),
        Reply::Bulk(bytes) => number_of(bytes).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn numbers_survive_their_padding() {
        for (number, padding) in [(0, 0), (17, 3), (i64::MAX, 900)] {
            assert_eq!(number_of(padded(number, padding).as_bytes()), Some(number));
        }
        assert_eq!(number_of(b"17x4"), None);
    }

    #[test]
    fn half_a_pair_is_no_reply() {
        let pair = || "p".to_owned();
        let get = Step::GetPair(pair());
        let seen = |left: Reply, right: Reply| get.outputs(&Reply::Array(vec![left, right]));
        assert_eq!(seen(bulk("4"), bulk("4")), Some(vec![Output::Value(Some(4)); 2]));
        assert_eq!(seen(Reply::Nil, Reply::Nil), Some(vec![Output::Value(None); 2]));
        assert_eq!(seen(bulk("4"), bulk("5")), None);
        assert_eq!(seen(bulk("4"), Reply::Nil), None);
        assert_eq!(Step::DeletePair(pair()).outputs(&Reply::Integer(1)), None);
        assert_eq!(Step::DeletePair(pair()).inputs().len(), 2);
    }

    #[test]
    fn every_input_has_an_output() {
        let key = || "k".to_owned();
        let ok = || Reply::Simple("OK".to_owned());
        for (step, reply) in [
            (Step::Get(key()), bulk("1xx")),
            (Step::GetAll(vec![key(), key()]), Reply::Array(vec![Reply::Nil, bulk("2")])),
            (Step::Set(key(), 1, 9), ok()),
            (Step::Swap(key(), 1), Reply::Nil),
            (Step::SetIfAbsent(key(), 1), Reply::Integer(0)),
            (Step::Delete(key()), Reply::Integer(1)),
            (Step::Increment(key()), Reply::Integer(7)),
            (Step::SetPair(key(), 1), ok()),
            (Step::SetPairIfAbsent(key(), 1), Reply::Integer(1)),
            (Step::SetFleeting(key(), 1, 5), ok()),
        ] {
            let outputs = step.outputs(&reply).map(|outputs| outputs.len());
            assert_eq!(outputs, Some(step.inputs().len()), "{step:?}");
            assert_eq!(step.outputs(&Reply::Error("ERR".to_owned())), None);
        }
    }
}
