//! Counters that are raised exactly as often as clients were told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use client::protocol::{Body, Options, Protocol};
use ioring::sim::config::Config as SimConfig;
use ioring::sim::dice::Dice;
use ioring::sim::world::{Crash, NodeId, Status, World};
use node::server;
use vsr::format::Configuration;
use wire::Value;

use crate::client::Driver;
use crate::support::{PORT, configuration, format_as, parts_with};

const KEYS: u64 = 10;
const CLIENTS: u64 = 3;
/// Where the node listens for clients of the native protocol.
const NATIVE: u16 = 7400;
/// Increments of one client.
const RAISES: usize = 600;
/// Of which so many are outstanding.
const OUTSTANDING: usize = 3;

/// What clients were told: for each key the counter after each increment.
type Told = Rc<RefCell<BTreeMap<u64, Vec<i64>>>>;

fn key(number: u64) -> Vec<u8> {
    format!("counter{number}").into_bytes()
}

/// Raises counters until all that were asked for have come to something.
async fn raise(address: SocketAddr, told: Told, done: Rc<Cell<u64>>, cuts: u32, seed: u64) {
    let protocol = Protocol::new(Options::new(1, seed), ioring::now().as_nanos());
    let mut driver = Driver::new(protocol, address, cuts, seed);
    let mut dice = Dice::new(seed, "keys");
    let mut keys = BTreeMap::new();
    let mut submitted = 0;
    while submitted < RAISES || !keys.is_empty() {
        while submitted < RAISES && keys.len() < OUTSTANDING {
            let number = dice.below(KEYS);
            let ticket = driver.protocol.submit(Body::increment(&key(number), 1), u64::MAX);
            keys.insert(ticket, number);
            submitted += 1;
        }
        let (ticket, result) = driver.next().await;
        let number = keys.remove(&ticket).expect("each request has one result");
        let answer = result.expect("without a deadline everything is done in the end");
        let Ok(Value::Integer(counter)) = answer.first().result else {
            panic!("an increment answers a number, not {:?}", answer.first());
        };
        told.borrow_mut().entry(number).or_default().push(counter);
    }
    done.set(done.get() + 1);
}

/// Reads all counters.
async fn read(address: SocketAddr) -> Vec<i64> {
    let protocol = Protocol::new(Options::new(1, 99), ioring::now().as_nanos());
    let mut driver = Driver::new(protocol, address, 0, 99);
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    driver.protocol.submit(Body::get(&keys), u64::MAX);
    let (_, result) = driver.next().await;
    let answer = result.expect("without a deadline everything is done in the end");
    let counter = |outcome: wire::Outcome<'_>| match outcome.result {
        Ok(Value::Bytes(text)) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("a number")
        }
        Ok(Value::Nil) => 0,
        other => panic!("a get answers a value, not {other:?}"),
    };
    answer.outcomes().map(counter).collect()
}

struct Lives {
    world: World,
    server: NodeId,
    clients: Vec<NodeId>,
    address: SocketAddr,
    cores: u16,
}

impl Lives {
    fn new(seed: u64, cores: u16) -> Lives {
        let mut world = World::new(seed, SimConfig::default());
        let server = world.add_node("server");
        let clients = (0..=CLIENTS).map(|_| world.add_node("client")).collect();
        // Registrations whose answers are lost leave sessions that nobody uses: more than there are
        // places for would evict clients that are at work.
        let configuration = Configuration { sessions_max: 64, ..configuration() };
        world.run(server, || format_as(configuration)).expect("formatting ends");
        let address = SocketAddr::new(world.address(server), NATIVE);
        Lives { world, server, clients, address, cores }
    }

    fn start_server(&mut self) {
        let listen = self.address.to_string();
        let resp = SocketAddr::new(self.address.ip(), PORT);
        let (parts, _ask) = parts_with(resp, self.cores, &[("listen", listen.leak())]);
        self.world.start(self.server, parts, |part| async move {
            server::serve(part).await.expect("the node starts");
        });
    }
}

/// Clients raise counters while the node dies again and again; how often it did.
fn one_history(seed: u64, cores: u16, cuts: u32) -> u32 {
    let mut lives = Lives::new(seed, cores);
    let mut dice = Dice::new(seed, "crashes");
    let (told, done) = (Told::default(), Rc::<Cell<u64>>::default());
    let address = lives.address;
    for number in 0..CLIENTS {
        let part = (told.clone(), done.clone());
        lives.world.start(lives.clients[number as usize], vec![part], move |(told, done)| {
            raise(address, told, done, cuts, seed * 100 + number)
        });
    }
    let server = lives.server;
    let mut deaths = 0;
    while done.get() < CLIENTS {
        lives.start_server();
        let crash = if dice.coin() { Crash::Power } else { Crash::Process };
        lives.world.crash_at(server, 300 + dice.below(4000), crash);
        let ended =
            |world: &World| *world.status(server) != Status::Running || done.get() == CLIENTS;
        assert!(lives.world.run_until(ended), "the world ran out of steps");
        match lives.world.status(server) {
            Status::Running => lives.world.crash(server, Crash::Process),
            Status::Crashed(_) => deaths += 1,
            other => panic!("{other:?}"),
        }
    }
    lives.world.crash_never(server);
    lives.start_server();
    let counters = lives.world.run(lives.clients[CLIENTS as usize], move || read(address));
    let counters = counters.expect("it reads all");
    for (number, counter) in (0..KEYS).zip(counters) {
        let mut told = told.borrow_mut().remove(&number).unwrap_or_default();
        told.sort_unstable();
        let each: Vec<i64> = (1..=counter).collect();
        assert_eq!(told, each, "counter{number} is {counter}; seed {seed}, {cores} cores");
    }
    deaths
}

#[test]
fn each_increment_happens_once_though_the_node_dies_again_and_again() {
    let seeds = std::env::var("QUORATE_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    let mut deaths = 0;
    for seed in 0..seeds.unwrap_or(9) {
        deaths += one_history(seed, 1 + seed as u16 % 3, 20_000);
    }
    assert!(deaths > 10, "{deaths} deaths");
}
