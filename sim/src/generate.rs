//! What a client does next: random, from what its keys are.
//!
//! Few keys, so that every one is overwritten, deleted and made again many times; values from
//! nothing to several kilobytes, so that some are inline and some go to blocks of their own, and so
//! that the journal is filled and wraps quickly.

use ioring::Random;

use crate::ledger::{COUNTERS, Ledger, PAIRS, own_key, stamp};
use crate::model::{Command, Deadline, Key};

/// One command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// On its own keys.
    Own(Command),
    /// GET of another client's key.
    Peek(Key),
    /// MGET of a pair of all.
    PeekPair(usize),
    /// INCR of a counter of all.
    Increment(usize),
    /// MSETNX or DEL of a pair of all.
    Pair {
        /// Which.
        pair: usize,
        /// The value to set, or `None` to delete.
        value: Option<Vec<u8>>,
    },
}

/// Keys of each kind.
const PLAIN: u64 = 6;
const GROUPED: u64 = 3;
const FLEETING: u64 = 3;
const COUNTED: u64 = 2;
/// A value is not made longer than this by appending.
const APPEND_MAX: usize = 3000;

/// Draws a client's next command.
pub fn step(random: &mut Random, ledger: &Ledger, owner: usize) -> Step {
    match random.below(100) {
        0..6 => Step::Increment(random.below(COUNTERS as u64) as usize),
        6..11 => {
            let pair = random.below(PAIRS as u64) as usize;
            let number = ledger.owner(owner).next() * 1000 + random.below(1000);
            let value = (!random.chance(3)).then(|| stamp(owner, number, size(random)));
            Step::Pair { pair, value }
        }
        11..14 => Step::PeekPair(random.below(PAIRS as u64) as usize),
        14..20 => {
            let other = random.below(ledger.owners() as u64) as usize;
            let kind = if random.chance(2) { "plain" } else { "group" };
            Step::Peek(own_key(other, kind, random.below(GROUPED)))
        }
        _ => Step::Own(command(random, ledger, owner)),
    }
}

/// How much comes before a stamp.
fn size(random: &mut Random) -> usize {
    match random.below(20) {
        0 => random.below(2500) as usize,
        1..5 => random.below(500) as usize,
        _ => random.below(30) as usize,
    }
}

fn command(random: &mut Random, ledger: &Ledger, owner: usize) -> Command {
    let state = ledger.owner(owner);
    let number = state.next();
    let plain = own_key(owner, "plain", random.below(PLAIN));
    let fleeting = own_key(owner, "fleeting", random.below(FLEETING));
    let counter = own_key(owner, "count", random.below(COUNTED));
    let value = stamp(owner, number, size(random));
    match random.below(100) {
        0..13 => Command::Get(plain),
        13..18 => Command::MultiGet(lasting_keys(random, owner)),
        18..24 => Command::Get(fleeting),
        24..50 => Command::Set(plain, value),
        50..56 => Command::SetFor(fleeting, value, 1 + random.below(25)),
        56..63 => Command::Increment(counter, random.below(9) as i64 - 3),
        63..70 => {
            let long = state.keys().get(&plain).is_some_and(|v| v.bytes.len() > APPEND_MAX);
            if long { Command::Set(plain, value) } else { Command::Append(plain, value) }
        }
        70..76 => Command::MultiSetIfNone(group(random, owner, &value)),
        76..82 => Command::MultiSet(group(random, owner, &value)),
        82..90 => Command::Delete(some_keys(random, owner)),
        90..96 => Command::Expire(plain),
        96..98 => Command::Persist(plain),
        _ => {
            // A deadline that is replaced by none, and by the next value.
            let lasting = state.keys().get(&plain).is_some_and(|v| v.deadline == Deadline::None);
            if lasting { Command::Expire(plain) } else { Command::Persist(plain) }
        }
    }
}

/// Two or three keys that get values of the same command.
fn group(random: &mut Random, owner: usize, value: &[u8]) -> Vec<(Key, Vec<u8>)> {
    let count = 2 + random.below(GROUPED - 1);
    (0..count).map(|index| (own_key(owner, "group", index), value.to_vec())).collect()
}

/// Keys of values that do not vanish by themselves.
fn lasting_keys(random: &mut Random, owner: usize) -> Vec<Key> {
    let groups = (0..GROUPED).map(|index| own_key(owner, "group", index));
    let first = random.below(PLAIN - 2);
    groups.chain((first..first + 3).map(|index| own_key(owner, "plain", index))).collect()
}

fn some_keys(random: &mut Random, owner: usize) -> Vec<Key> {
    match random.below(4) {
        0 => (0..GROUPED).map(|index| own_key(owner, "group", index)).collect(),
        1 => vec![own_key(owner, "fleeting", random.below(FLEETING))],
        2 => vec![own_key(owner, "count", random.below(COUNTED))],
        _ => {
            let first = random.below(PLAIN - 1);
            (first..first + 2).map(|index| own_key(owner, "plain", index)).collect()
        }
    }
}
