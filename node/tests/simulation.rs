//! A node in the simulator: clients write, the node dies at any step, and what was acknowledged is
//! there when it comes back.
//!
//! Every key holds a counter that its client only raises. After each crash a client reads all keys
//! back: each has to be at least what was acknowledged and at most what was sent. The
//! configuration is so small that bars end, checkpoints are taken and segments wrap all the time.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::Stream;
use ioring::sim::config::Config as SimConfig;
use ioring::sim::dice::Dice;
use ioring::sim::world::{Crash, NodeId, Status, World};
use node::server;
use support::{PORT, format, parts, request};

const KEYS: u64 = 40;

/// What clients know: per key what was sent and what was acknowledged.
#[derive(Default)]
struct Ledger {
    sent: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, u64>,
}

type Known = Rc<RefCell<Ledger>>;

/// Receives `lines` lines; none if the connection ended first.
async fn receive(stream: &Stream, lines: usize) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    while bytes.iter().filter(|byte| **byte == b'\n').count() < lines {
        let received = stream.recv().await.ok()?;
        if received.is_empty() {
            return None;
        }
        bytes.extend_from_slice(&received);
    }
    let text = String::from_utf8(bytes).expect("replies are text");
    Some(text.lines().map(str::to_owned).collect())
}

/// Connects to a node that serves, however long it takes to come up.
async fn connect(address: SocketAddr) -> Stream {
    loop {
        let attempt = ioring::timeout(Duration::from_secs(1), async {
            let stream = Stream::connect(address).await.ok()?;
            let (sent, _) = stream.send(request(&["GET", "none"])).await;
            sent.ok()?;
            let reply = receive(&stream, 1).await?;
            (reply == ["$-1"]).then_some(stream)
        });
        if let Ok(Some(stream)) = attempt.await {
            return stream;
        }
        ioring::sleep(Duration::from_millis(5)).await;
    }
}

/// Raises counters, several at a time, until the connection ends.
async fn load(address: SocketAddr, ledger: Known, seed: u64) {
    let stream = connect(address).await;
    let mut dice = Dice::new(seed, "load");
    loop {
        let mut batch = Vec::new();
        let mut raised = Vec::new();
        for _ in 0..=dice.below(6) {
            let key = dice.below(KEYS);
            let mut ledger = ledger.borrow_mut();
            let value = ledger.sent.entry(key).or_default();
            *value += 1;
            raised.push((key, *value));
            let padding = "x".repeat(dice.below(600) as usize);
            batch.extend(request(&["SET", &format!("key{key}"), &format!("{value} {padding}")]));
        }
        let (sent, _) = stream.send(batch).await;
        if sent.is_err() {
            return;
        }
        let Some(replies) = receive(&stream, raised.len()).await else { return };
        for ((key, value), reply) in raised.into_iter().zip(replies) {
            assert_eq!(reply, "+OK");
            ledger.borrow_mut().acknowledged.insert(key, value);
        }
    }
}

/// Reads every key and compares.
async fn verify(address: SocketAddr, ledger: Known) -> u64 {
    let stream = connect(address).await;
    let mut found = 0;
    for key in 0..KEYS {
        let (sent, _) = stream.send(request(&["GET", &format!("key{key}")])).await;
        sent.expect("the node takes requests");
        let first = receive_value(&stream).await;
        let value: u64 = first.map_or(0, |text| number(text.split(' ').next()));
        let ledger = ledger.borrow();
        let acknowledged = ledger.acknowledged.get(&key).copied().unwrap_or(0);
        let sent = ledger.sent.get(&key).copied().unwrap_or(0);
        assert!(
            (acknowledged..=sent).contains(&value),
            "key{key} is {value}; {acknowledged} was acknowledged, {sent} sent"
        );
        found += u64::from(value > 0);
    }
    // What was in doubt is decided: later writes continue from what is there.
    found
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> T {
    text.and_then(|text| text.parse().ok()).expect("the reply has a number here")
}

async fn receive_value(stream: &Stream) -> Option<String> {
    let mut text = String::new();
    loop {
        let received = stream.recv().await.expect("the node answers");
        assert!(!received.is_empty(), "the node serves");
        text += std::str::from_utf8(&received).expect("replies are text");
        let Some((head, rest)) = text.split_once("\r\n") else { continue };
        let length: i64 = number(head.strip_prefix('$'));
        match usize::try_from(length) {
            Err(_) => return None,
            Ok(length) if rest.len() >= length + 2 => return Some(rest[..length].to_owned()),
            Ok(_) => {}
        }
    }
}

struct Lives {
    world: World,
    server: NodeId,
    client: NodeId,
    address: SocketAddr,
    ledger: Known,
    cores: u16,
}

impl Lives {
    fn new(seed: u64, cores: u16) -> Lives {
        let mut world = World::new(seed, SimConfig::default());
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        world.run(server, format).expect("formatting ends");
        let address = SocketAddr::new(world.address(server), PORT);
        Lives { world, server, client, address, ledger: Known::default(), cores }
    }

    fn start_server(&mut self) {
        let (parts, _ask) = parts(self.address, self.cores);
        self.world.start(self.server, parts, |part| async move {
            server::serve(part).await.expect("the node starts");
        });
    }

    /// Loads the node until it dies after so many steps.
    fn live_and_die(&mut self, steps: u64, crash: Crash, seed: u64) {
        self.start_server();
        let (address, ledger) = (self.address, self.ledger.clone());
        self.world.start(self.client, vec![ledger], move |ledger| load(address, ledger, seed));
        self.world.crash_at(self.server, steps, crash);
        let server = self.server;
        let died = self.world.run_until(|world| *world.status(server) != Status::Running);
        assert!(died, "the node ran out of steps");
        assert_eq!(*self.world.status(server), Status::Crashed(crash));
        if *self.world.status(self.client) == Status::Running {
            self.world.crash(self.client, Crash::Process);
        }
    }

    /// Starts the node, reads everything back, stops it.
    fn check(&mut self) -> u64 {
        self.world.crash_never(self.server);
        self.start_server();
        let (address, ledger) = (self.address, self.ledger.clone());
        let found =
            self.world.run(self.client, move || verify(address, ledger)).expect("it reads all");
        self.world.crash(self.server, Crash::Process);
        found
    }
}

fn one_history(seed: u64, cores: u16) -> (u64, u64) {
    let mut lives = Lives::new(seed, cores);
    let mut dice = Dice::new(seed, "crashes");
    let mut found = 0;
    for life in 0..3 {
        let crash = if dice.coin() { Crash::Power } else { Crash::Process };
        lives.live_and_die(200 + dice.below(12_000), crash, seed * 10 + life);
        found = lives.check();
    }
    (lives.world.trace_hash(), found)
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_step() {
    let seeds = std::env::var("QUORATE_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    let mut found = 0;
    for seed in 0..seeds.unwrap_or(12) {
        found += one_history(seed, 1 + seed as u16 % 3).1;
    }
    assert!(found > 0, "no history got as far as a write");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for cores in [1, 2, 3] {
        assert_eq!(one_history(3, cores), one_history(3, cores));
        assert_ne!(one_history(3, cores).0, one_history(4, cores).0);
    }
}
