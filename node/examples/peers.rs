//! What the connections between two replicas carry: over loopback, a core for each replica.
//!
//! `cargo run --release -p node --example peers [SECONDS]` prints, for each kind of message, how
//! many a second went from one replica to the other, how many sends and calls into the kernel that
//! took, and how long a ping took there and back: alone, and beside the prepares.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;
use ioring::uring::{self, Idle, Runtime};
use ioring::{BufferPool, Frozen, ListenOptions, Listener, Queue, now, sleep, spawn};
use node::peers::{Body, Class, Deliver, Peers};
use vsr::journal::frame_size;
use wire::message::{CommitOk, Ping, Pong};
use wire::{CheckpointId, Checksum, Command, Header, Op, ReplicaId, Timestamp};

#[path = "../tests/support/peers.rs"]
mod support;

use support::{connect, draft, member, prepare};

const PREPARE_MAX: usize = 1 << 20;
const FRAMES_MAX: usize = 8;

/// What a replica hears, and what it answers.
#[derive(Default)]
struct Ears {
    peers: RefCell<Weak<Peers>>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    round_trips: RefCell<Option<Histogram<u64>>>,
}

impl Deliver for Ears {
    fn on_message(&self, from: ReplicaId, header: &Header, _body: Body<'_>) {
        self.messages.set(self.messages.get() + 1);
        self.bytes.set(self.bytes.get() + header.size() as u64);
        match header.command() {
            Command::Ping => {
                let ping: Ping = header.tail().expect("the command says so");
                let pong = Pong { monotonic: ping.monotonic, wall: Timestamp(0) };
                let peers = self.peers.borrow().upgrade().expect("they live");
                let me = ReplicaId(1 - from.0);
                peers.send(from, &draft(me).seal(&pong, &[]), &[]);
            }
            Command::Pong => {
                let pong: Pong = header.tail().expect("the command says so");
                let took = now().as_nanos() - pong.monotonic;
                if let Some(round_trips) = &mut *self.round_trips.borrow_mut() {
                    round_trips.saturating_record(took);
                }
            }
            _ => {}
        }
    }
}

fn start(number: u8, addresses: [SocketAddr; 2], listener: Listener) -> (Rc<Peers>, Rc<Ears>) {
    let addresses = addresses.map(|address| address.to_string());
    let pool = BufferPool::new("prepares", frame_size(PREPARE_MAX), 16);
    let ears = Rc::new(Ears::default());
    let sizes = (PREPARE_MAX, FRAMES_MAX);
    let peers = connect(member(number, 2), &addresses, listener, sizes, (pool, ears.clone()));
    *ears.peers.borrow_mut() = Rc::downgrade(&peers);
    (peers, ears)
}

fn prepare_of(size: usize) -> Frozen {
    let frame = ioring::Buffer::zeroed(frame_size(size));
    prepare(frame, ReplicaId(0), (Op(1), Checksum(0)), size, |_| ())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that it accepts")
}

/// Sends pings, one at a time, for so long; the round trips.
async fn ping(peers: &Peers, ears: &Ears, duration: Duration) -> Histogram<u64> {
    *ears.round_trips.borrow_mut() = Some(histogram());
    let (end, before) = (now() + duration, ears.messages.get());
    let mut sent = 0;
    while now() < end {
        let (checkpoint, checkpoint_op) = (CheckpointId(0), Op(0));
        let monotonic = now().as_nanos();
        let ping = Ping { monotonic, checkpoint, checkpoint_op, op: Op(0), commit: Op(0) };
        peers.send(ReplicaId(1), &draft(ReplicaId(0)).seal(&ping, &[]), &[]);
        sent += 1;
        while ears.messages.get() - before < sent && now() < end {
            ioring::yield_now().await;
        }
    }
    ears.round_trips.borrow_mut().take().expect("put there above")
}

/// Sends one message after the other for so long, waiting where the queue is full; prints what
/// came of it.
async fn flood(peers: &Rc<Peers>, what: &str, duration: Duration, send: impl Fn() -> bool) {
    let counted = |peers: &Peers| {
        let report = peers.report().peers.remove(0);
        let sum = |value: fn(&node::peers::Sending) -> u64| {
            report.classes.iter().map(|class| value(&class.sending)).sum::<u64>()
        };
        [sum(|sending| sending.messages), sum(|sending| sending.bytes), sum(|s| s.sends)]
    };
    let (from, before, enters) = (now(), counted(peers), ioring::stats().enters);
    let end = from + duration;
    while now() < end {
        while send() {}
        ioring::yield_now().await;
    }
    let (elapsed, after) = ((now() - from).as_secs_f64(), counted(peers));
    let [messages, bytes, sends] = std::array::from_fn(|i| (after[i] - before[i]) as f64);
    let enters = (ioring::stats().enters - enters) as f64;
    print_line(&format!(
        "{what:<28} {:>11.0} {:>9.2} {:>12.4} {:>12.4}",
        messages / elapsed,
        bytes / elapsed / 1e9,
        sends / messages,
        enters / messages,
    ));
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn print_line(line: &str) {
    println!("{line}");
}

fn print_round_trip(what: &str, round_trips: &Histogram<u64>) {
    let us = |quantile| round_trips.value_at_quantile(quantile) as f64 / 1e3;
    print_line(&format!(
        "{what:<28} {:>11} {:>9.1} {:>12.1} {:>12.1}",
        round_trips.len(),
        us(0.5),
        us(0.99),
        us(1.0),
    ));
}

async fn measure(peers: Rc<Peers>, ears: Rc<Ears>, duration: Duration) {
    while peers
        .report()
        .peers
        .iter()
        .any(|peer| peer.classes.iter().any(|class| class.sending.connects == 0))
    {
        sleep(Duration::from_millis(5)).await;
    }
    let to = ReplicaId(1);
    print_line(&format!(
        "{:<28} {:>11} {:>9} {:>12} {:>12}",
        "one way", "messages/s", "GB/s", "sends/msg", "enters/msg"
    ));
    let ok = draft(ReplicaId(0)).seal(&CommitOk { round: 1, commit: Op(1) }, &[]);
    flood(&peers, "control, 256 bytes", duration, || peers.send(to, &ok, &[])).await;
    for (name, size) in
        [("2 KiB", 2 << 10), ("16 KiB", 16 << 10), ("128 KiB", 128 << 10), ("1 MiB", 1 << 20)]
    {
        let frame = prepare_of(size);
        let send = || peers.send_prepare(to, Class::Prepares, &frame);
        flood(&peers, &format!("prepares, {name}"), duration, send).await;
    }
    print_line(&format!(
        "\n{:<28} {:>11} {:>9} {:>12} {:>12}",
        "there and back", "pings", "p50 µs", "p99 µs", "max µs"
    ));
    print_round_trip("alone", &ping(&peers, &ears, duration).await);
    for (name, size) in [("16 KiB", 16 << 10), ("1 MiB", 1 << 20)] {
        let (beside, frame) = (peers.clone(), prepare_of(size));
        let load = spawn(Queue::Replication, "load", async move {
            loop {
                while beside.send_prepare(to, Class::Prepares, &frame) {}
                ioring::yield_now().await;
            }
        });
        let round_trips = ping(&peers, &ears, duration).await;
        load.cancel();
        print_round_trip(&format!("beside prepares, {name}"), &round_trips);
    }
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse());
    let duration = Duration::from_secs(seconds.expect("a number of seconds"));
    let config = uring::Config { idle: Idle::Adaptive, ..uring::Config::default() };
    let cpus = config.cpus.iter().copied().cycle().take(2).collect();
    let runtime = Runtime::new(uring::Config { cpus, ..config }).expect("io_uring");
    let (to_first, from_second) = mpsc::channel();
    let (to_second, from_first) = mpsc::channel();
    let parts = vec![(0, to_second, from_second), (1, to_first, from_first)];
    runtime.run(parts, move |(number, tell, hear)| async move {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, ListenOptions::default()).expect("a free port");
        let own = listener.local_addr();
        // Blocks the core, which has nothing else to do yet.
        tell.send(own).expect("the other core starts too");
        let other = hear.recv().expect("the other core starts too");
        let addresses = if number == 0 { [own, other] } else { [other, own] };
        let (peers, ears) = start(number, addresses, listener);
        if number == 0 {
            measure(peers, ears, duration).await;
            std::process::exit(0);
        }
        loop {
            sleep(Duration::from_secs(1)).await;
        }
    });
}
