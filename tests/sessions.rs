//! Each request of a native client happens once: through `kill -9` of the node, and over
//! connections that break at any byte.
//!
//! Clients raise counters by many increments at a time, through a relay that cuts each connection
//! after some kilobytes. Meanwhile the node is killed and started again. In the end every counter
//! stands at the number of its increments, and their answers are all numbers up to that, each
//! given once. The long form: `QUORATE_TEST_ROUNDS=100`.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use client::native::Client;
use client::protocol::Body;
use support::{Folder, Node, PATIENCE};
use wire::Value;

const CLIENTS: u64 = 3;
const KEYS: u64 = 7;
/// Increments under way.
const DEPTH: usize = 16;

/// A port that nobody listens on.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Hands bytes on until so many have gone by or one side ends.
fn pump(mut from: TcpStream, mut to: TcpStream, mut left: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while left > 0 {
        let most = left.min(buffer.len());
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read])?;
        left -= read;
    }
    // Both ways end together.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    Ok(())
}

/// A relay to `node` that cuts each connection after some kilobytes, at another byte each time.
fn relay(node: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut length = 5003;
        for client in listener.incoming() {
            let client = client.unwrap();
            // While the node is down nobody is connected.
            let Ok(node) = TcpStream::connect(&node) else { continue };
            length = 2000 + length * 7919 % 60_013;
            let (here, there) = (client.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || pump(client, node, length));
            thread::spawn(move || pump(there, here, length * 2 / 3));
        }
    });
    address
}

/// Raises counters until told to stop: what each increment answered, by counter.
fn raise(address: String, seed: u64, stop: &AtomicBool) -> BTreeMap<u64, Vec<i64>> {
    let mut client = Client::new(vec![address], seed);
    let (mut answers, mut under_way) = (BTreeMap::<u64, Vec<i64>>::new(), Vec::new());
    let mut number = seed;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..DEPTH {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = (number >> 33) % KEYS;
            let body = Body::increment(format!("counter{key}").as_bytes(), 1);
            under_way.push((key, client.submit(body, PATIENCE)));
        }
        for (key, ticket) in under_way.drain(..) {
            let answer = client.wait(ticket).unwrap();
            let Ok(Value::Integer(counter)) = answer.first().result else { panic!("{answer:?}") };
            answers.entry(key).or_default().push(counter);
        }
    }
    answers
}

#[test]
fn increments_happen_once_through_kills_and_cuts() {
    let (folder, listen) = (Folder::new(), free_port());
    let stop = Arc::new(AtomicBool::new(false));
    let start = |round: u32| {
        let cores = support::cores();
        let cores = cores[round as usize % cores.len()];
        Node::start(&folder.data(), &["--listen", &listen, "--cores", cores])
    };
    let mut node = start(0);
    let relay = relay(listen.clone());
    let raisers: Vec<_> = (1..=CLIENTS)
        .map(|seed| {
            let (address, stop) = (relay.clone(), stop.clone());
            thread::spawn(move || raise(address, seed, &stop))
        })
        .collect();
    for round in 1..=support::rounds(4) {
        thread::sleep(Duration::from_millis(200 + u64::from(round) * 677 % 700));
        node.kill();
        node = start(round);
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = BTreeMap::<u64, Vec<i64>>::new();
    for raiser in raisers {
        for (key, counters) in raiser.join().unwrap() {
            answers.entry(key).or_default().extend(counters);
        }
    }
    let mut client = Client::new(vec![listen], 99);
    let mut sum = 0;
    for (key, mut counters) in answers {
        let answer = client.call(Body::get(&[format!("counter{key}")]), PATIENCE).unwrap();
        let Ok(Value::Bytes(text)) = answer.first().result else { panic!("{answer:?}") };
        let counter: i64 = std::str::from_utf8(text).unwrap().parse().unwrap();
        counters.sort_unstable();
        assert!(counters.iter().copied().eq(1..=counter), "counter{key} is {counter}");
        sum += counter;
    }
    println!("{sum} increments, each once");
    assert!(sum > 100, "{sum} increments");
}
