//! Clients while faults last: what they send, to whom, and what they make of silence.
//!
//! 1. A client visits one member: it connects, and sends small pipelines of commands on few hot
//!    keys, one pipeline after the other.
//! 2. A refusal says that nothing was done, and sends it to the next member after a pause.
//! 3. A connection that breaks, or an answer that does not come in time, leaves whatever is not
//!    answered yet unknown: it may have happened, or happen later. The client goes on elsewhere.
//! 4. Now and then it leaves for no reason, also with answers outstanding.
//! 5. One client only reads. The others mix reads and writes.
//! 6. Some pipelines read what they have just written: what one connection asks for happens in the
//!    order of its asking ([`in_order`]).
//!
//! [`Mood`] is how clients are told what is wanted of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::Reply;
use client::resp::push_request;
use ioring::{Random, timeout};

use super::record::{Issued, Kind, Record};
use super::steps::{Key, Step, value_of};
use crate::clients::Connection;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_millis(400);
/// A client's patience with one answer, at least and at most, in milliseconds.
const PATIENCE_MS: (u64, u64) = (100, 4000);
/// Places for keys of each kind.
const REGISTERS: u64 = 3;
const COUNTERS: u64 = 2;
const PAIRS: u64 = 2;

/// What is wanted of all clients.
#[derive(Default)]
pub struct Mood {
    /// They read only.
    pub reads_only: Cell<bool>,
    /// They come to an end.
    pub ends: Cell<bool>,
}

/// What a client is told at its start.
#[derive(Clone)]
pub struct Task {
    /// Which it is, from 0.
    pub number: u64,
    /// Where the members serve clients.
    pub members: Vec<SocketAddr>,
    /// The longest pause between two pipelines.
    pub pause_max: Duration,
    /// How often, of a hundred registers that are written, one is large.
    pub large: u64,
    /// What all clients have done.
    pub record: Rc<RefCell<Record>>,
    /// What is wanted of them.
    pub mood: Rc<Mood>,
}

impl Task {
    /// One of the clients reads only, and much: whatever a member answers that has not noticed yet
    /// that it was left behind is seen by a reader that no write of its own holds up.
    fn is_reader(&self) -> bool {
        self.number == 0
    }

    fn reads_only(&self) -> bool {
        self.is_reader() || self.mood.reads_only.get()
    }
}

fn now() -> u64 {
    ioring::now().as_nanos()
}

/// A time up to the longest, mostly much shorter.
fn pause(random: &mut Random, longest: Duration) -> Duration {
    let most = longest.as_micros() as u64;
    let most = if random.chance(4) { most } else { most / 4 };
    Duration::from_micros(random.below(most.max(1)))
}

/// Visits members until it is told to end.
pub async fn work(task: Task) {
    let mut random = ioring::random("commands");
    let members = task.members.len() as u64;
    let mut member = task.number % members;
    while !task.mood.ends.get() {
        // An error has been noted; what comes next does not depend on it.
        let _ = visit(&task, &mut random, task.members[member as usize]).await;
        member = match random.below(4) {
            0 => random.below(members),
            _ => (member + 1) % members,
        };
        ioring::sleep(pause(&mut random, Duration::from_millis(20))).await;
    }
}

/// One connection, until it breaks, is refused or has had enough.
async fn visit(task: &Task, random: &mut Random, member: SocketAddr) -> io::Result<()> {
    let connected = timeout(CONNECT_MAX, Connection::connect(member)).await;
    let mut connection = connected.map_err(io::Error::other)??;
    while !task.mood.ends.get() && !random.chance(80) {
        let steps = match random.below(12) {
            0 if !task.reads_only() => in_order(task, random),
            _ => hot(task, random),
        };
        let leaves = random.chance(150);
        if exchange(task, random, &mut connection, steps, leaves).await? {
            return Ok(());
        }
        let longest = if task.is_reader() { task.pause_max / 10 } else { task.pause_max };
        ioring::sleep(pause(random, longest)).await;
    }
    Ok(())
}

/// Sends a pipeline and takes its answers; whether one was a refusal. What is not answered is
/// unknown afterwards.
async fn exchange(
    task: &Task,
    random: &mut Random,
    connection: &mut Connection,
    steps: Vec<(Step, Option<Key>)>,
    leaves: bool,
) -> io::Result<bool> {
    let patience = random.below(PATIENCE_MS.1 - PATIENCE_MS.0) + PATIENCE_MS.0;
    let patience = Duration::from_millis(patience);
    let (mut waiting, mut bytes, mut replies) = (VecDeque::new(), Vec::new(), Vec::new());
    for (step, worn) in steps {
        push_request(&mut bytes, &step.arguments());
        waiting.push_back(task.record.borrow_mut().call(step, worn, now()));
    }
    let sent = timeout(patience, connection.send(bytes)).await;
    let mut result = sent.map_err(io::Error::other).and_then(|sent| sent);
    let mut refused = false;
    while result.is_ok()
        && !leaves
        && let Some(issued) = waiting.front()
    {
        let reply = timeout(patience, connection.receive()).await.map_err(io::Error::other);
        match reply.and_then(|reply| reply) {
            Ok(reply) => {
                refused |= task.record.borrow_mut().answer(issued, &reply, now());
                replies.push((waiting.pop_front().expect("it was looked at"), reply));
            }
            Err(error) => result = Err(error),
        }
    }
    waiting.iter().for_each(|issued| task.record.borrow_mut().give_up(issued));
    if result.is_ok() && !refused && !leaves {
        check_order(task, &replies);
    }
    result.map(|()| refused || leaves)
}

/// A write to a key of its own, a read, another write, another read.
fn in_order(task: &Task, random: &mut Random) -> Vec<(Step, Option<Key>)> {
    let record = &mut *task.record.borrow_mut();
    let (first, second) = (record.number(), record.number());
    let key = format!("own{}.{first}", task.number);
    let last = match random.below(3) {
        0 => Step::Swap(key.clone(), second),
        1 => Step::Increment(key.clone()),
        _ => Step::Set(key.clone(), second, random.below(40) as usize),
    };
    let steps = [Step::Set(key.clone(), first, 0), Step::Get(key.clone()), last, Step::Get(key)];
    steps.into_iter().map(|step| (step, None)).collect()
}

/// Reads of keys that only this pipeline has written see what it wrote before, and nothing of what
/// it wrote after.
fn check_order(task: &Task, replies: &[(Issued, Reply)]) {
    let [(set, _), (_, first), (last, _), (_, second)] = replies else { return };
    let Step::Set(key, number, _) = set.step() else { return };
    let after = match last.step() {
        _ if !key.starts_with("own") => return,
        Step::Increment(_) => number + 1,
        Step::Set(_, number, _) | Step::Swap(_, number) => *number,
        _ => return,
    };
    if (value_of(first), value_of(second)) != (Some(Some(*number)), Some(Some(after))) {
        let text = format!("{key}: {number}, then {after}; read back as {first:?}, {second:?}");
        task.record.borrow_mut().wrong(text);
    }
}

/// Commands on what all clients share.
fn hot(task: &Task, random: &mut Random) -> Vec<(Step, Option<Key>)> {
    let record = &mut *task.record.borrow_mut();
    let reads_only = task.reads_only();
    let count = 1 + random.below(4);
    let step = |_| {
        let step = hot_step(record, random, task, reads_only);
        // A pair's wear is that of its name, not of its two keys.
        let worn = match &step {
            Step::SetFleeting(..) | Step::GetFleeting(_) | Step::GetAll(_) => None,
            Step::Get(key)
            | Step::Set(key, ..)
            | Step::Swap(key, _)
            | Step::SetIfAbsent(key, _)
            | Step::Delete(key)
            | Step::Increment(key)
            | Step::GetPair(key)
            | Step::SetPair(key, _)
            | Step::SetPairIfAbsent(key, _)
            | Step::DeletePair(key) => Some(key.clone()),
        };
        (step, worn)
    };
    (0..count).map(step).collect()
}

fn hot_step(record: &mut Record, random: &mut Random, task: &Task, reads_only: bool) -> Step {
    let register = record.key(Kind::Register, random.below(REGISTERS));
    let counter = record.key(Kind::Counter, random.below(COUNTERS));
    let pair = record.key(Kind::Pair, random.below(PAIRS));
    let reads = 40;
    let drawn = if reads_only { random.below(reads) } else { random.below(100) };
    match drawn {
        0..16 => Step::Get(register),
        16..21 => {
            Step::GetAll((0..REGISTERS).map(|place| record.key(Kind::Register, place)).collect())
        }
        21..27 => Step::Get(counter),
        27..35 => Step::GetPair(pair),
        35..40 => {
            let key = record.fleeting_key(random.below(4) as usize);
            key.map_or(Step::Get(register), Step::GetFleeting)
        }
        40..56 => {
            let large = random.below(100) < task.large;
            let padding = random.below(if large { 6000 } else { 60 }) as usize;
            Step::Set(register, record.number(), padding)
        }
        56..61 => Step::Swap(register, record.number()),
        61..66 => Step::SetIfAbsent(register, record.number()),
        66..71 => Step::Delete(register),
        71..83 => Step::Increment(counter),
        83..88 => Step::SetPair(pair, record.number()),
        88..92 => Step::SetPairIfAbsent(pair, record.number()),
        92..96 => Step::DeletePair(pair),
        _ => {
            let number = record.number();
            Step::SetFleeting(format!("fleeting{number}"), number, 1 + random.below(200))
        }
    }
}
