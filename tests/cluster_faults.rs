//! Three real processes, and everything that happens to processes and networks: what clients were
//! told stays linearizable, and nothing acknowledged is lost.
//!
//! Clients read, write, delete and count at all members all the time, a few keys with many hands,
//! and note what they asked and were told and when. Meanwhile each round does one thing, to members
//! and at moments chosen by a seed: kill, freeze, cut off (wholly, one way, or just one pair),
//! damage bytes on the way, slow down. Then all is healed, every member has to serve, and every
//! key is read at each of them. The history must have an order ([`sim::linearizability`]); counters
//! that only grow are added up besides. In the end all members are killed at once and what is there
//! afterwards belongs to the history too.
//!
//! The long form: `QUORATE_TEST_ROUNDS=200`. `QUORATE_SEED` chooses other moments.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, Reply};
use ioring::Random;
use sim::linearizability::{History, Input, Output};
use support::cluster::Cluster;
use support::link::Mood;
use support::rounds;

const FLAGS: &[&str] = &["--journal-size", "256MiB", "--shards", "2"];
/// Clients at each member.
const CLIENTS: usize = 2;
/// Keys of a round that are fought for.
const KEYS: u64 = 4;
/// A client that was not answered for so long does not know what happened.
const DEADLINE: Duration = Duration::from_secs(3);

/// What clients asked and were told.
struct Notes {
    started: Instant,
    history: Mutex<History<String>>,
    /// Increments of the round's counter: acknowledged, and not known to be refused.
    counted: AtomicU64,
    maybe: AtomicU64,
    stop: AtomicBool,
}

impl Notes {
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn history(&self) -> MutexGuard<'_, History<String>> {
        self.history.lock().unwrap()
    }
}

fn request(key: &str, input: Input) -> Vec<String> {
    let words: &[&str] = match input {
        Input::Get => &["GET", key],
        Input::Set(value) => &["SET", key, &value.to_string()],
        Input::SetIfAbsent(value) => &["SETNX", key, &value.to_string()],
        Input::Delete => &["DEL", key],
        Input::Add(by) => &["INCRBY", key, &by.to_string()],
        Input::Swap(value) => &["SET", key, &value.to_string(), "GET"],
        Input::SetIfEquals { .. } => unreachable!("there is no such command"),
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn output(input: Input, reply: &Reply) -> Output {
    match (input, reply) {
        (Input::Get | Input::Swap(_), Reply::Nil) => Output::Value(None),
        (Input::Get | Input::Swap(_), Reply::Bulk(text)) => {
            Output::Value(Some(std::str::from_utf8(text).unwrap().parse().unwrap()))
        }
        (Input::Set(_), Reply::Simple(_)) => Output::Done,
        (Input::Add(_), Reply::Integer(sum)) => Output::Sum(*sum),
        (_, Reply::Integer(count)) => Output::Applied(*count == 1),
        _ => panic!("{input:?} was answered {reply:?}"),
    }
}

/// One operation, noted; whether the connection is still good.
fn operate(notes: &Notes, connection: &mut Connection, key: &str, input: Input) -> bool {
    let call = notes.history().call(key.to_owned(), notes.now(), input);
    match connection.call(&request(key, input)) {
        // Each error that has a name says that nothing was done.
        Ok(Reply::Error(_)) => notes.history().did_not_happen(&call),
        Ok(reply) => {
            let now = notes.now();
            notes.history().answer(&call, now, output(input, &reply));
        }
        Err(_) => return false,
    }
    true
}

fn count(notes: &Notes, connection: &mut Connection, counter: &str) -> bool {
    match connection.call(&["INCR", counter]) {
        Ok(Reply::Integer(_)) => notes.counted.fetch_add(1, Ordering::Relaxed),
        Ok(_) => return true,
        Err(_) => notes.maybe.fetch_add(1, Ordering::Relaxed),
    };
    true
}

fn choose(random: &mut Random, unique: i64) -> Input {
    match random.below(20) {
        0..8 => Input::Get,
        8..12 => Input::Set(unique),
        12..14 => Input::Swap(unique),
        14..16 => Input::SetIfAbsent(unique),
        16 => Input::Delete,
        _ => Input::Add(1),
    }
}

/// A client of one member, until it is told to stop.
fn client(notes: &Notes, address: &str, round: u32, number: u64) {
    let mut random = random(u64::from(round) << 16 | number << 8);
    let mut connection = None;
    let mut unique = (i64::from(round) * 100 + number as i64) * 1_000_000;
    while !notes.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(500 + random.below(3000)));
        let Some(open) = &mut connection else {
            connection = Connection::connect(address, DEADLINE).ok();
            continue;
        };
        unique += 10;
        let good = match random.below(5) {
            0 => count(notes, open, &format!("counter-{round}")) && open.outstanding() == 0,
            _ => {
                let key = format!("key-{round}-{}", random.below(KEYS));
                operate(notes, open, &key, choose(&mut random, unique))
            }
        };
        if !good {
            connection = None;
        }
    }
}

fn random(number: u64) -> Random {
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    Random::from_seed(bytes)
}

/// Does what a round is about, and undoes it.
fn disturb(cluster: &mut Cluster, round: u32, random: &mut Random) -> String {
    const STALLED: Mood =
        Mood { stalled: true, cut: false, delay: Duration::ZERO, delay_one_in: 0 };
    const CUT: Mood = Mood { stalled: false, cut: true, delay: Duration::ZERO, delay_one_in: 0 };
    // The primary is the more interesting one.
    let victim = match random.chance(2) {
        true => cluster.primary(),
        false => random.below(3) as usize,
    };
    let other = (victim + 1 + random.below(2) as usize) % 3;
    let hold = Duration::from_millis(300 + random.below(700));
    let what = match round % 8 {
        0 | 4 => {
            cluster.kill(victim);
            thread::sleep(hold);
            cluster.start(victim);
            format!("{victim} killed, started after {hold:?}")
        }
        1 => {
            cluster.set_links_of(victim, if random.chance(2) { CUT } else { STALLED });
            thread::sleep(hold);
            format!("{victim} cut off for {hold:?}")
        }
        2 => {
            cluster.signal(victim, "STOP");
            thread::sleep(hold);
            cluster.signal(victim, "CONT");
            format!("{victim} frozen for {hold:?}")
        }
        3 => {
            (0..3).filter(|to| *to != victim).for_each(|to| cluster.link(victim, to).set(STALLED));
            thread::sleep(hold);
            format!("{victim} not heard for {hold:?}")
        }
        5 => {
            cluster.link(victim, other).set(STALLED);
            cluster.link(other, victim).set(STALLED);
            thread::sleep(hold);
            format!("{victim} and {other} without contact for {hold:?}")
        }
        6 => {
            for from in 0..3 {
                (0..3).filter(|to| *to != from).for_each(|to| cluster.link(from, to).corrupt(3));
            }
            thread::sleep(hold);
            format!("bytes damaged on all links within {hold:?}")
        }
        _ => {
            let delay = Duration::from_millis(5 + random.below(20));
            cluster.set_links_of(victim, Mood { delay, ..Mood::default() });
            cluster.kill(other);
            thread::sleep(hold);
            cluster.start(other);
            format!("{victim} slow by {delay:?}, {other} killed, started after {hold:?}")
        }
    };
    cluster.heal();
    what
}

/// Reads what a round has left, at every member.
fn read_all(notes: &Notes, cluster: &Cluster, round: u32) {
    for member in 0..3 {
        for key in 0..KEYS {
            cluster.wait_for("a key is read", || {
                let Some(mut connection) = cluster.connect(member) else { return false };
                let key = format!("key-{round}-{key}");
                let (call, reply) = {
                    let call = notes.history().call(key.clone(), notes.now(), Input::Get);
                    (call, connection.call(&request(&key, Input::Get)))
                };
                let Ok(reply @ (Reply::Bulk(_) | Reply::Nil)) = reply else { return false };
                let now = notes.now();
                notes.history().answer(&call, now, output(Input::Get, &reply));
                true
            });
        }
    }
}

/// The counter is at least what was acknowledged and at most what was asked for.
fn check_counter(notes: &Notes, cluster: &Cluster, round: u32) {
    let (counted, maybe) =
        (notes.counted.load(Ordering::Relaxed), notes.maybe.load(Ordering::Relaxed));
    for member in 0..3 {
        let value = match cluster.call(member, &["GET", &format!("counter-{round}")]) {
            Reply::Bulk(text) => String::from_utf8(text).unwrap().parse().unwrap(),
            _ => 0,
        };
        assert!(
            (counted..=counted + maybe).contains(&value),
            "round {round}, member {member}: {counted} were acknowledged, {maybe} may have \
             happened, {value} are there\n{}",
            cluster.logs()
        );
    }
}

#[test]
fn what_clients_were_told_has_an_order_whatever_happens() {
    let mut cluster = Cluster::format_linked(FLAGS);
    cluster.start_all();
    let rounds = rounds(6);
    for round in 0..rounds {
        let notes = Notes {
            started: Instant::now(),
            history: Mutex::default(),
            counted: AtomicU64::new(0),
            maybe: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let mut random = random(u64::from(round) << 32 | 1);
        let addresses: Vec<String> = cluster.members.iter().map(|m| m.resp.clone()).collect();
        let what = thread::scope(|scope| {
            for (number, address) in (0..).zip(addresses.iter().cycle().take(3 * CLIENTS)) {
                let notes = &notes;
                scope.spawn(move || client(notes, address, round, number));
            }
            thread::sleep(Duration::from_millis(200 + random.below(200)));
            let what = disturb(&mut cluster, round, &mut random);
            (0..3).for_each(|member| cluster.wait_serving(member));
            thread::sleep(Duration::from_millis(100));
            notes.stop.store(true, Ordering::Relaxed);
            what
        });
        if round + 1 == rounds {
            (0..3).for_each(|member| cluster.kill(member));
            cluster.start_all();
        }
        read_all(&notes, &cluster, round);
        check_counter(&notes, &cluster, round);
        let result = notes.history().check();
        if let Err(violation) = result {
            panic!("round {round}, {what}: {violation}\n{}", cluster.logs());
        }
        let counted = notes.counted.load(Ordering::Relaxed);
        let maybe = notes.maybe.load(Ordering::Relaxed);
        let took = notes.started.elapsed().as_secs_f32();
        println!("round {round}: {what}; counted {counted}, unknown {maybe}; {took:.1} s");
    }
}
