//! Sending and receiving between replicas allocates nothing for a message in the steady state.
//!
//! Two replicas are on one core of real sockets: all that both sides do is counted.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::uring::{self, Runtime};
use ioring::{BufferPool, Frozen, ListenOptions, Listener, sleep};
use node::peers::{Body, Class, Deliver, Peers};
use vsr::journal::frame_size;
use wire::message::CommitOk;
use wire::{Checksum, Header, Op, ReplicaId};

#[path = "../../tests/support/counting.rs"]
mod counting;
#[path = "support/peers.rs"]
mod support;

use support::{connect, draft, member, prepare};

const PREPARE_MAX: usize = 64 << 10;

struct Count(Rc<Cell<u64>>);

impl Deliver for Count {
    fn on_message(&self, _from: ReplicaId, _header: &Header, _body: Body<'_>) {
        self.0.set(self.0.get() + 1);
    }
}

fn prepare_of(pool: &BufferPool, size: usize) -> Frozen {
    let frame = pool.try_take().expect("the pool has buffers");
    prepare(frame, ReplicaId(0), (Op(1), Checksum(0)), size, |_| ())
}

fn start() -> (Rc<Peers>, Rc<Cell<u64>>, BufferPool) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = || Listener::bind(any, ListenOptions::default()).expect("a free port");
    let listeners = [listen(), listen(), listen()];
    let addresses: Vec<String> =
        listeners.iter().map(|listener| listener.local_addr().to_string()).collect();
    let heard = Rc::new(Cell::new(0));
    let pool = BufferPool::new("prepares", frame_size(PREPARE_MAX), 32);
    let replicas: Vec<Rc<Peers>> = listeners
        .into_iter()
        .zip(0..)
        .map(|(listener, number)| {
            let ends: (_, Rc<dyn Deliver>) = (pool.clone(), Rc::new(Count(heard.clone())));
            connect(member(number, 3), &addresses, listener, (PREPARE_MAX, 8), ends)
        })
        .collect();
    (replicas[0].clone(), heard, pool)
}

#[test]
fn messages_between_replicas_allocate_nothing_in_the_steady_state() {
    // With the receive buffers of a node: where they run out, what is unread moves out of them.
    let config = uring::Config { cpus: vec![0], pin: false, ..uring::Config::default() };
    let runtime = Runtime::new(config).expect("io_uring");
    runtime.run(vec![()], |()| async {
        let (peers, heard, pool) = start();
        sleep(Duration::from_millis(300)).await;
        let (small, large) = (prepare_of(&pool, 2000), prepare_of(&pool, 60_000));
        let ok = CommitOk { round: 1, commit: Op(1) };
        let ok = draft(ReplicaId(0)).seal(&ok, &[]);
        let round = async |expected: u64| {
            for to in [ReplicaId(1), ReplicaId(2)] {
                for _ in 0..5 {
                    assert!(peers.send(to, &ok, &[]));
                }
                assert!(peers.send_prepare(to, Class::Prepares, &small));
                assert!(peers.send_prepare(to, Class::Prepares, &large));
                assert!(peers.send_prepare(to, Class::Transfers, &large));
            }
            while heard.get() < expected {
                ioring::yield_now().await;
            }
        };
        for number in 1..=500 {
            round(number * 16).await;
        }
        let before = counting::on_this_thread();
        for number in 501..=1500 {
            round(number * 16).await;
        }
        let allocated = counting::on_this_thread() - before;
        assert_eq!(allocated, 0, "allocations for 16,000 messages");
        assert_eq!(heard.get(), 24_000);
        let sends: u64 = peers
            .report()
            .peers
            .iter()
            .flat_map(|report| &report.classes)
            .map(|class| class.sending.sends)
            .sum();
        assert!(sends < 24_000 / 2, "messages that wait share a send: {sends}");
    });
}
