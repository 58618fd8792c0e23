//! Whether what clients were told could have happened one operation after the other.
//!
//! A *history* is, for each key, what was asked and answered and when. It is linearizable if every
//! operation can be given a moment between its call and its answer at which it happened as a whole,
//! such that all answers come out (Herlihy and Wing, 1990). An operation whose answer never came,
//! as its client timed out or died, may have happened at any moment after its call, or never.
//!
//! Keys are checked one by one: a history is linearizable if and only if that of every key is. Each
//! holds a number or nothing, a register and a counter at once.
//!
//! # The search
//!
//! That of Wing and Gong (1993) with the improvements of Lowe ("Testing for linearizability",
//! 2017):
//!
//! 1. Calls and answers stand in one list, in order of time; a call before an answer of the same
//!    moment, so that what touches counts as concurrent.
//! 2. From the front of the list on, a call is a candidate to be the next that happened, as long as
//!    no answer stands before it. If its answer comes out by the model it is taken, with its answer
//!    off the list, and the search goes on at the front.
//! 3. An answer that is met has to be of an operation that should have been taken before: the last
//!    one taken is put back, and the search goes on behind it. With none left to put back there is
//!    no order.
//! 4. Past the end of the list every operation that was answered is taken, and an order is found.
//!    Those without an answer have none in the list, so nothing forces them.
//! 5. Where the same operations were taken before, with the same value left behind, whatever their
//!    order, nothing new can come of it. This memory is what keeps the search from being
//!    exponential in the histories that clients make.
//!
//! What was taken is remembered as how many operations, in order of their calls, are taken without
//! a gap, and which beyond the first gap: as many as were concurrent, however long the history.
//! Operations without an answer are kept apart, or the first one would be such a gap for ever.
//!
//! The search ends as undecided after so many steps: a test with so much concurrency on one key
//! proves nothing in reasonable time and has to be made smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// What a key holds.
pub type Value = Option<i64>;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Reads the value.
    Get,
    /// Writes a value.
    Set(i64),
    /// Writes a value and reads the one before.
    Swap(i64),
    /// Writes a value if there is none.
    SetIfAbsent(i64),
    /// Writes a value in place of another one.
    SetIfEquals {
        /// What must be there.
        expected: i64,
        /// What is written.
        value: i64,
    },
    /// Deletes the value.
    Delete,
    /// Adds to the value, or to 0.
    Add(i64),
}

/// What it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// The value read.
    Value(Value),
    /// It was written.
    Done,
    /// Whether it was written, or there was anything to delete.
    Applied(bool),
    /// The sum.
    Sum(i64),
}

/// What an operation does: the value after it, and its answer.
#[must_use]
pub fn apply(value: Value, input: Input) -> (Value, Output) {
    match input {
        Input::Get => (value, Output::Value(value)),
        Input::Set(new) => (Some(new), Output::Done),
        Input::Swap(new) => (Some(new), Output::Value(value)),
        Input::SetIfAbsent(new) => (value.or(Some(new)), Output::Applied(value.is_none())),
        Input::SetIfEquals { expected, value: new } if value == Some(expected) => {
            (Some(new), Output::Applied(true))
        }
        Input::SetIfEquals { .. } => (value, Output::Applied(false)),
        Input::Delete => (None, Output::Applied(value.is_some())),
        Input::Add(by) => {
            let sum = value.unwrap_or(0).wrapping_add(by);
            (Some(sum), Output::Sum(sum))
        }
    }
}

/// An operation of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What was asked for.
    pub input: Input,
    /// When.
    pub called: u64,
    /// What was answered and when; nothing if that is unknown.
    pub answer: Option<(u64, Output)>,
}

/// Names an operation of a history.
#[derive(Clone, Debug)]
pub struct Call<K> {
    key: K,
    index: usize,
}

/// What clients asked and were told.
#[derive(Clone, Debug)]
pub struct History<K> {
    keys: BTreeMap<K, Vec<Operation>>,
}

impl<K: Ord + Clone> Default for History<K> {
    fn default() -> History<K> {
        History { keys: BTreeMap::new() }
    }
}

/// Why a history is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Violation<K: Debug> {
    /// There is no order.
    #[error("{key:?} is not linearizable: nothing explains {culprit:?}, with {before} before it")]
    NoOrder {
        /// The key.
        key: K,
        /// The operation that no order came beyond: the first to answer of those that are left.
        culprit: Operation,
        /// How many answered operations the longest order had.
        before: usize,
    },
    /// The search was given up.
    #[error("{key:?} has too many concurrent operations: undecided after {steps} steps")]
    Undecided {
        /// The key.
        key: K,
        /// Steps made.
        steps: u64,
    },
}

/// Steps of a search until it is given up.
const STEPS_MAX: u64 = 20_000_000;

impl<K: Ord + Clone + Debug> History<K> {
    /// A client asks for something.
    pub fn call(&mut self, key: K, now: u64, input: Input) -> Call<K> {
        let operations = self.keys.entry(key.clone()).or_default();
        operations.push(Operation { input, called: now, answer: None });
        Call { key, index: operations.len() - 1 }
    }

    /// It is told something. A call that never comes here has an unknown outcome.
    ///
    /// # Panics
    /// If it was told before, or before it asked.
    pub fn answer(&mut self, call: &Call<K>, now: u64, output: Output) {
        let operations = self.keys.get_mut(&call.key).expect("a call is of this history");
        let operation = &mut operations[call.index];
        assert!(operation.called <= now && operation.answer.is_none(), "one answer, afterwards");
        operation.answer = Some((now, output));
    }

    /// It certainly did not happen, as an error said.
    ///
    /// # Panics
    /// If it was told something else before.
    pub fn did_not_happen(&mut self, call: &Call<K>) {
        let operations = self.keys.get_mut(&call.key).expect("a call is of this history");
        let operation = &mut operations[call.index];
        assert!(operation.answer.is_none(), "one answer");
        // Like a read whose answer nobody knows.
        operation.input = Input::Get;
    }

    /// Every key that was asked about.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.keys()
    }

    /// Checks every key.
    ///
    /// # Errors
    /// [`Violation`] of the first key that has one.
    pub fn check(&self) -> Result<(), Violation<K>> {
        for (key, operations) in &self.keys {
            check(operations).map_err(|stuck| match stuck {
                Stuck::NoOrder { culprit, before } => {
                    Violation::NoOrder { key: key.clone(), culprit, before }
                }
                Stuck::Undecided { steps } => Violation::Undecided { key: key.clone(), steps },
            })?;
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Stuck {
    NoOrder { culprit: Operation, before: usize },
    Undecided { steps: u64 },
}

/// A place in the list of calls and answers; place 0 is before its front.
#[derive(Clone, Copy)]
struct Node {
    before: usize,
    behind: usize,
    operation: usize,
    is_call: bool,
    /// Where the answer to this call is.
    answer: Option<usize>,
}

/// The list, from which what is taken is unlinked and put back in the opposite order.
struct List {
    nodes: Vec<Node>,
}

impl List {
    fn new(operations: &[Operation]) -> List {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
        for (index, operation) in operations.iter().enumerate() {
            events.push((operation.called, false, index));
            if let Some((at, _)) = operation.answer {
                events.push((at, true, index));
            }
        }
        events.sort_unstable();
        let end = events.len() + 1;
        let front = Node { before: 0, behind: 1, operation: 0, is_call: false, answer: None };
        let mut nodes = vec![front];
        let mut calls = vec![0; operations.len()];
        for (place, (_, is_answer, operation)) in (1..).zip(events) {
            let (before, behind, is_call, answer) = (place - 1, place + 1, !is_answer, None);
            nodes.push(Node { before, behind, operation, is_call, answer });
            match is_call {
                true => calls[operation] = place,
                false => nodes[calls[operation]].answer = Some(place),
            }
        }
        // Behind the end there is nothing to go to.
        let (before, behind) = (end - 1, end);
        nodes.push(Node { before, behind, operation: 0, is_call: true, answer: None });
        List { nodes }
    }

    fn end(&self) -> usize {
        self.nodes.len() - 1
    }

    fn unlink(&mut self, place: usize) {
        let Node { before, behind, .. } = self.nodes[place];
        self.nodes[before].behind = behind;
        self.nodes[behind].before = before;
    }

    fn link(&mut self, place: usize) {
        let Node { before, behind, .. } = self.nodes[place];
        self.nodes[before].behind = place;
        self.nodes[behind].before = place;
    }

    fn take(&mut self, call: usize) {
        self.unlink(call);
        if let Some(answer) = self.nodes[call].answer {
            self.unlink(answer);
        }
    }

    fn put_back(&mut self, call: usize) {
        if let Some(answer) = self.nodes[call].answer {
            self.link(answer);
        }
        self.link(call);
    }
}

/// Which operations are taken: of those with an answer, in the order of their calls, all below
/// `all_below`, and those in `beyond`; of those without one, those in `unknown`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Taken {
    all_below: usize,
    beyond: BTreeSet<usize>,
    unknown: BTreeSet<usize>,
}

impl Taken {
    fn insert(&mut self, rank: Rank) {
        match rank {
            Rank::Unknown(rank) => drop(self.unknown.insert(rank)),
            Rank::Answered(rank) => {
                self.beyond.insert(rank);
                while self.beyond.remove(&self.all_below) {
                    self.all_below += 1;
                }
            }
        }
    }

    fn remove(&mut self, rank: Rank) {
        match rank {
            Rank::Unknown(rank) => drop(self.unknown.remove(&rank)),
            Rank::Answered(rank) if rank < self.all_below => {
                self.beyond.extend(rank + 1..self.all_below);
                self.all_below = rank;
            }
            Rank::Answered(rank) => drop(self.beyond.remove(&rank)),
        }
    }

    fn answered(&self) -> usize {
        self.all_below + self.beyond.len()
    }
}

/// An operation's number among those of its kind, in the order of calls.
#[derive(Clone, Copy)]
enum Rank {
    Answered(usize),
    Unknown(usize),
}

fn ranks(operations: &[Operation]) -> Vec<Rank> {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|index| operations[*index].called);
    let mut ranks = vec![Rank::Unknown(0); operations.len()];
    let (mut answered, mut unknown) = (0, 0);
    for index in order {
        let (rank, next): (fn(usize) -> Rank, _) = match operations[index].answer {
            Some(_) => (Rank::Answered, &mut answered),
            None => (Rank::Unknown, &mut unknown),
        };
        ranks[index] = rank(*next);
        *next += 1;
    }
    ranks
}

/// Looks for an order of the operations of one key.
fn check(operations: &[Operation]) -> Result<(), Stuck> {
    // A read without an answer is in nobody's way.
    let matters = |of: &&Operation| of.answer.is_some() || of.input != Input::Get;
    let operations: Vec<Operation> = operations.iter().filter(matters).copied().collect();
    let (mut list, ranks) = (List::new(&operations), ranks(&operations));
    let (mut value, mut taken) = (None, Taken::default());
    let mut stack: Vec<(usize, Value)> = Vec::new();
    let mut seen: BTreeSet<(Taken, Value)> = BTreeSet::new();
    let mut furthest: Option<(usize, usize)> = None;
    let mut place = list.nodes[0].behind;
    for steps in 0.. {
        if steps == STEPS_MAX {
            return Err(Stuck::Undecided { steps });
        }
        if place == list.end() {
            return Ok(());
        }
        let node = list.nodes[place];
        if node.is_call {
            let operation = &operations[node.operation];
            let (after, output) = apply(value, operation.input);
            let call = place;
            place = node.behind;
            if operation.answer.is_some_and(|(_, answer)| answer != output) {
                continue;
            }
            taken.insert(ranks[node.operation]);
            if !seen.insert((taken.clone(), after)) {
                taken.remove(ranks[node.operation]);
                continue;
            }
            list.take(call);
            stack.push((call, value));
            value = after;
            place = list.nodes[0].behind;
            continue;
        }
        if furthest.is_none_or(|(before, _)| taken.answered() >= before) {
            furthest = Some((taken.answered(), node.operation));
        }
        let Some((call, before)) = stack.pop() else {
            let (before, culprit) = furthest.expect("an answer was met");
            return Err(Stuck::NoOrder { culprit: operations[culprit], before });
        };
        list.put_back(call);
        taken.remove(ranks[list.nodes[call].operation]);
        value = before;
        place = list.nodes[call].behind;
    }
    unreachable!("the steps have a limit")
}

#[cfg(test)]
mod tests;
