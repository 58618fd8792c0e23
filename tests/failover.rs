//! How long writes pause when the primary goes, as a client of another member sees it.
//!
//! A client writes at a member that stays, one write after the other; the primary is killed, or
//! told to stop; the longest time between two acknowledgements around that moment is what the
//! client noticed. The long form, which also holds the times to what is wanted:
//! `QUORATE_TEST_ROUNDS=20`, on a machine that does nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, Reply};
use support::cluster::Cluster;
use support::link::Mood;
use support::rounds;

const FLAGS: &[&str] = &["--journal-size", "256MiB", "--shards", "2"];
/// Whatever the machine does meanwhile.
const WORST: Duration = Duration::from_secs(10);

/// Writes at a member until told to stop; the longest time without an acknowledgement.
fn longest_pause(address: &str, stop: &AtomicBool) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection = Connection::connect(address, Duration::from_secs(10)).ok();
            continue;
        };
        match open.call(&["INCR", "counter"]) {
            Ok(Reply::Integer(_)) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Ok(_) => thread::sleep(Duration::from_millis(1)),
            Err(_) => connection = None,
        }
    }
    longest.max(last.elapsed())
}

#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
fn pauses(signal: &str, rounds: u32) -> Vec<Duration> {
    let mut cluster = Cluster::format(FLAGS);
    cluster.start_all();
    let mut pauses = Vec::new();
    for round in 0..rounds {
        let primary = cluster.primary();
        let address = cluster.members[(primary + 1 + round as usize % 2) % 3].resp.clone();
        let stop = AtomicBool::new(false);
        let pause = thread::scope(|scope| {
            let client = scope.spawn(|| longest_pause(&address, &stop));
            thread::sleep(Duration::from_millis(300));
            cluster.signal(primary, signal);
            cluster.ended(primary);
            thread::sleep(Duration::from_millis(1500));
            stop.store(true, Ordering::Relaxed);
            client.join().unwrap()
        });
        assert!(pause < WORST, "{pause:?} after {signal} of {primary}\n{}", cluster.logs());
        pauses.push(pause);
        cluster.start(primary);
        cluster.wait_serving(primary);
    }
    pauses.sort_unstable();
    let (median, worst) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    println!(
        "{rounds} times SIG{signal} of the primary: writes paused {median:?} (median), \
         {worst:?} (worst)"
    );
    pauses
}

#[test]
fn writes_flow_again_soon_after_the_primary_is_killed() {
    let rounds = rounds(3);
    let pauses = pauses("KILL", rounds);
    if rounds >= 20 {
        assert!(pauses[pauses.len() / 2] < Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[pauses.len() - 1] < Duration::from_millis(1500), "{pauses:?}");
    }
}

#[test]
fn writes_flow_again_soon_after_the_primary_is_told_to_stop() {
    pauses("TERM", rounds(2));
}

#[test]
fn a_network_that_loses_packets_fails_few_writes() {
    let mut cluster = Cluster::format_linked(FLAGS);
    cluster.start_all();
    // What TCP makes of a lost packet: the piece comes late, and all behind it.
    let lossy = Mood { delay: Duration::from_millis(30), delay_one_in: 10, ..Mood::default() };
    (0..3).for_each(|member| cluster.set_links_of(member, lossy));
    let (mut failed, writes) = (0, 60 * rounds(5));
    for write in 0..writes {
        let since = Instant::now();
        let connection =
            Connection::connect(&cluster.members[write as usize % 3].resp, Duration::from_secs(2));
        let reply = connection.and_then(|mut open| open.call(&["SET", "key", "value"]));
        let done = matches!(reply, Ok(Reply::Simple(_)));
        failed += u32::from(!done || since.elapsed() > Duration::from_secs(2));
    }
    println!("{failed} of {writes} writes failed while one piece in ten was late by 30 ms");
    assert!(failed * 50 <= writes, "{failed} of {writes} failed\n{}", cluster.logs());
}
