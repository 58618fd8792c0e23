//! Three replicas in the simulator, and everything that a network and its hosts can do to them.
//!
//! `QUORATE_PEERS_SEEDS=200 cargo test -p node --test peers storm` plays more seeds,
//! `QUORATE_SEED=9` one of them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Config, Crash, Dice, Disturbance, NetConfig, NodeId, Status, Weather, World};
use ioring::sleep;
use node::peers::Class;
use wire::ReplicaId;

use crate::support::{Heard, PORT, Replica, listen, member, ping, prepare};

const REPLICAS: u8 = 3;

/// A world of replicas, with what each has heard in all its lives.
struct Storm {
    world: World,
    nodes: Vec<NodeId>,
    heard: Vec<Rc<Heard>>,
    /// Between what each says.
    pause: Duration,
}

impl Storm {
    fn new(seed: u64, net: NetConfig, pause: Duration) -> Storm {
        let mut world = World::new(seed, Config { net, ..Config::default() });
        let nodes: Vec<NodeId> = (0..REPLICAS).map(|_| world.add_node("replica")).collect();
        let heard = nodes.iter().map(|_| Rc::default()).collect();
        let mut storm = Storm { world, nodes, heard, pause };
        (0..REPLICAS).for_each(|replica| storm.start(replica));
        storm
    }

    fn start(&mut self, replica: u8) {
        let address = |node: &NodeId| SocketAddr::new(self.world.address(*node), PORT).to_string();
        let addresses: Vec<String> = self.nodes.iter().map(address).collect();
        let (index, pause) = (usize::from(replica), self.pause);
        let heard = self.heard[index].clone();
        self.world.start(
            self.nodes[index],
            vec![(addresses, heard)],
            move |(addresses, heard)| async move {
                let listener = listen(SocketAddr::from(([0, 0, 0, 0], PORT)));
                let replica = member(replica, REPLICAS);
                let node = Replica::start_hearing(replica, &addresses, listener, heard);
                node.chatter(replica.replica, pause).await;
            },
        );
    }

    /// What each has heard of each, by class.
    fn counts(&self) -> Vec<(u8, u8, Class, u64)> {
        let pairs = (0..REPLICAS).flat_map(|to| (0..REPLICAS).map(move |from| (from, to)));
        let pairs = pairs.filter(|(from, to)| from != to);
        let classes = pairs.flat_map(|(from, to)| Class::ALL.map(|class| (from, to, class)));
        let count =
            |(from, to, class)| (from, to, class, self.heard[usize::from(to)].count(from, class));
        classes.map(count).collect()
    }

    /// Everybody hears everybody, in every class, within this time.
    fn must_hear_all(&mut self, within: Duration, what: &str) {
        let before = self.counts();
        self.world.run_for(within);
        for (before, after) in before.into_iter().zip(self.counts()) {
            let [from, to] = [after.0, after.1].map(|replica| {
                let peers = self.heard[usize::from(replica)].peers.borrow().upgrade();
                peers.map(|peers| peers.report())
            });
            let (class, heard) = (after.2, after.3 > before.3);
            assert!(heard, "{what}: {class:?} hears nothing\nsender {from:#?}\nreceiver {to:#?}");
        }
    }

    /// A host stops for a while, is killed or loses its power.
    fn disturb(&mut self, dice: &mut Dice) {
        let index = dice.below(3) as usize;
        let long = Duration::from_millis(dice.between(1, 6_000));
        match dice.below(3) {
            0 => self.world.pause(self.nodes[index]),
            1 => self.restart(index, Crash::Process, long),
            _ => self.restart(index, Crash::Power, long),
        }
        self.world.run_for(long);
        self.world.resume(self.nodes[index]);
    }

    fn restart(&mut self, index: usize, crash: Crash, long: Duration) {
        self.world.crash(self.nodes[index], crash);
        self.world.run_for(long);
        assert_eq!(self.world.status(self.nodes[index]), &Status::Crashed(crash));
        self.start(index as u8);
    }
}

const PAUSE: Duration = Duration::from_millis(3);

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QUORATE_PEERS_SEEDS").unwrap_or(default),
    }
}

#[test]
fn in_a_quiet_network_everything_arrives() {
    let mut storm = Storm::new(1, NetConfig::default(), PAUSE);
    storm.must_hear_all(Duration::from_millis(200), "at first");
    storm.must_hear_all(Duration::from_millis(100), "and on");
    assert!(storm.heard.iter().all(|heard| heard.total() > 100));
}

#[test]
fn what_arrives_through_any_storm_is_whole_and_in_order_and_it_goes_on_after_it() {
    for seed in seeds(8) {
        let mut dice = Dice::new(seed, "storm");
        let rough = NetConfig {
            tail: 20_000,
            loss: dice.between(0, 20_000) as u32,
            corruption: dice.between(0, 2_000) as u32,
            bandwidth: [0, 200_000_000, 1_000_000_000][dice.below(3) as usize],
            window: dice.between(8 << 10, 256 << 10) as usize,
            segment_max: dice.between(300, 16 << 10) as usize,
            ..NetConfig::default()
        };
        let mut storm = Storm::new(seed, rough, 10 * PAUSE);
        storm.world.net().set_weather(Some(Weather {
            nodes: storm.nodes.iter().map(|node| node.0).collect(),
            kinds: Disturbance::ALL.to_vec(),
            pause_min: 20_000_000,
            pause_max: 1_500_000_000,
            lasts_min: 1_000_000,
            lasts_max: 6_000_000_000,
        }));
        for _ in 0..4 {
            storm.world.run_for(Duration::from_millis(dice.between(1, 800)));
            storm.disturb(&mut dice);
        }
        storm.world.net().set_weather(None);
        // Also what a slow link still has in line.
        storm.world.net().heal();
        storm.world.net().set_config(NetConfig::default());
        // What was sent on a link two hundred times as slow is still on its way for a while.
        storm.world.run_for(Duration::from_secs(20));
        storm.must_hear_all(Duration::from_secs(2), &format!("seed {seed}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let rough = NetConfig { loss: 10_000, corruption: 1_000, ..NetConfig::default() };
        let mut storm = Storm::new(seed, rough, 10 * PAUSE);
        let mut dice = Dice::new(seed, "storm");
        storm.disturb(&mut dice);
        storm.world.run_for(Duration::from_secs(1));
        (storm.world.trace_hash(), storm.counts())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

/// Kill -9 and start again at once: the others have their connections again within a tenth of a
/// second, because a fail-over and a rolling restart wait for that.
#[test]
fn a_restarted_peer_is_heard_again_soon() {
    for seed in 0..8 {
        let mut storm = Storm::new(seed, NetConfig::default(), PAUSE);
        storm.world.run_for(Duration::from_secs(2));
        storm.restart(1, Crash::Process, Duration::from_millis(20));
        storm.world.run_for(Duration::from_millis(60));
        storm.must_hear_all(Duration::from_millis(60), &format!("seed {seed}"));
    }
}

/// A replica whose pool is empty takes no prepares, and every heartbeat all the same.
#[test]
fn prepares_that_find_no_buffer_hold_up_no_heartbeat() {
    let mut storm = Storm::new(5, NetConfig::default(), PAUSE);
    storm.heard[2].hoard.set(true);
    storm.world.run_for(Duration::from_millis(500));
    let prepares = |storm: &Storm| {
        let of = |from| storm.heard[2].count(from, Class::Prepares);
        of(0) + of(1) + storm.heard[2].count(0, Class::Transfers)
    };
    let before = (prepares(&storm), storm.heard[2].count(0, Class::Control));
    storm.world.run_for(Duration::from_millis(500));
    assert_eq!(prepares(&storm), before.0, "the pool is empty");
    assert!(storm.heard[2].count(0, Class::Control) > before.1 + 100, "heartbeats go on");
    let window = 3 * 4 * NetConfig::default().window;
    let held = storm.world.net().bytes_held();
    assert!(held < window + 4 * 2 * crate::support::FRAMES_MAX * (64 << 10), "{held} bytes");
    storm.heard[2].release();
    storm.must_hear_all(Duration::from_millis(500), "after that");
}

/// What one side counts the other has seen, and what was dropped is counted.
#[test]
fn reports_say_what_happened() {
    let mut world = World::new(9, Config::default());
    let nodes: Vec<NodeId> = (0..2).map(|_| world.add_node("replica")).collect();
    let addresses: Vec<String> =
        nodes.iter().map(|node| SocketAddr::new(world.address(*node), PORT).to_string()).collect();
    let start = |addresses: &[String], replica| {
        let listener = listen(SocketAddr::from(([0, 0, 0, 0], PORT)));
        Replica::start(member(replica, 3), addresses, listener)
    };
    // The third member's host has nobody on it.
    let addresses = [&addresses[..], &["10.0.0.9:7400".to_owned()]].concat();
    let quiet = addresses.clone();
    world.start(nodes[1], vec![quiet], move |addresses| async move {
        let replica = start(&addresses, 1);
        loop {
            sleep(Duration::from_millis(1)).await;
            let header = ping(ReplicaId(1));
            replica.peers.send(ReplicaId(0), &header, &[]);
        }
    });
    let outcome = world.start(nodes[0], vec![addresses], move |addresses| async move {
        let replica = start(&addresses, 0);
        let (to, nobody) = (ReplicaId(1), ReplicaId(2));
        sleep(Duration::from_millis(50)).await;
        for _ in 0..10 {
            assert!(replica.peers.send(to, &ping(ReplicaId(0)), &[]));
            assert!(!replica.peers.send(nobody, &ping(ReplicaId(0)), &[]), "not connected");
            sleep(Duration::from_nanos(1)).await;
        }
        let large = |class| prepare(&replica.own, ReplicaId(0), class, 50_000).expect("a frame");
        let frame = large(Class::Transfers);
        let taken = (0..100).filter(|_| replica.peers.send_prepare(to, Class::Transfers, &frame));
        assert_eq!(taken.count(), crate::support::FRAMES_MAX);
        replica.peers.report().peers
    });
    world.run_for(Duration::from_millis(200));
    let reports = outcome.take().expect("it returned").remove(0);
    let [control, _, transfers, _] = &reports[0].classes[..] else { panic!("four classes") };
    assert_eq!((control.class, control.sending.connects), ("control", 1));
    assert!(control.sending.messages <= 10 && control.receiving.messages > 10);
    assert_eq!(transfers.sending.dropped_full, 96);
    assert_eq!(transfers.sending.queued_messages, 4);
    assert!(control.receiving.connected && transfers.receiving.connected);
    assert_eq!(reports[1].classes[0].sending.dropped_unconnected, 10);
}
