//! Replicas that talk nonsense to each other, and check that they hear it right.
//!
//! Every message says in its op when it was sent and by whom, and its body follows from that.
//! Moments of sending only grow, also through a restart, so a receiver can tell whether what comes
//! is whole, from who it says, and behind what came before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ioring::{BufferPool, Frozen, ListenOptions, Listener, Queue, sleep, spawn};
use node::peers::{Body, Class, Deliver, Member, Peers};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE, frame_size};
use wire::message::{Forward, Headers, Ping, Prepare};
use wire::{CheckpointId, Checksum, HEADER_SIZE, Header, Op, ReplicaId};

#[path = "../support/peers.rs"]
mod common;

pub(crate) use common::{CLUSTER, draft, member};

pub(crate) const PREPARE_MAX: usize = 64 << 10;
pub(crate) const FRAMES_MAX: usize = 4;
pub(crate) const PORT: u16 = 7400;

pub(crate) fn listen(address: SocketAddr) -> Listener {
    Listener::bind(address, ListenOptions::default()).unwrap()
}

/// What a replica has heard: messages by sender and class, and when.
#[derive(Default)]
pub(crate) struct Heard {
    last: RefCell<BTreeMap<(u8, Class), u64>>,
    counts: RefCell<BTreeMap<(u8, Class), u64>>,
    /// Keeps prepares, so that the pool runs empty.
    pub(crate) hoard: Cell<bool>,
    hoarded: RefCell<Vec<ioring::Buffer>>,
    /// What it hears through, in its present life.
    pub(crate) peers: RefCell<Weak<Peers>>,
}

impl Heard {
    pub(crate) fn count(&self, from: u8, class: Class) -> u64 {
        self.counts.borrow().get(&(from, class)).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.borrow().values().sum()
    }

    pub(crate) fn release(&self) {
        self.hoard.set(false);
        self.hoarded.borrow_mut().clear();
    }
}

/// Checks what arrives at one replica.
pub(crate) struct Checker(pub(crate) Rc<Heard>);

impl Deliver for Checker {
    fn on_message(&self, from: ReplicaId, header: &Header, body: Body<'_>) {
        let (op, class, bytes) = if let Some(prepare) = header.tail::<Prepare>() {
            let Body::Frame(frame) = body else { panic!("a prepare is in a frame") };
            assert_eq!(&frame[FRAME_HEADER_SIZE..BODY_OFFSET], header.bytes());
            assert_eq!(frame.len(), frame_size(header.size()));
            let bytes = frame[BODY_OFFSET..][..header.body_size()].to_vec();
            if self.0.hoard.get() {
                self.0.hoarded.borrow_mut().push(frame);
            }
            // The class is in the parent, as the test has no other place for it.
            (prepare.op, Class::from_u8(prepare.parent.0 as u8).unwrap(), bytes)
        } else {
            let Body::Bytes(bytes) = body else { panic!("what is no prepare is small") };
            let op = match header.tail::<Ping>() {
                Some(ping) => ping.op,
                None => Op(u64::from_le_bytes(bytes[..8].try_into().unwrap())),
            };
            let forward = header.tail::<Forward>().is_some();
            (op, if forward { Class::Forwards } else { Class::Control }, bytes.to_vec())
        };
        assert_eq!(header.replica(), from, "in its own name");
        assert_eq!(bytes, content(from, op, bytes.len()), "as it was sent");
        let key = (from.0, class);
        let before = self.0.last.borrow_mut().insert(key, op.0);
        assert!(before.is_none_or(|before| before < op.0), "{from} {class:?}: in order");
        *self.0.counts.borrow_mut().entry(key).or_default() += 1;
    }
}

/// The body of a message of so many bytes.
fn content(from: ReplicaId, op: Op, size: usize) -> Vec<u8> {
    let mut bytes = op.0.to_le_bytes().to_vec();
    bytes.extend((8..size).map(|index| (index as u64 * 7 + op.0 + u64::from(from.0)) as u8));
    bytes.truncate(size);
    bytes
}

/// A prepare as a primary has it: in its frame, of which a message is the slice given.
pub(crate) fn prepare(
    pool: &BufferPool,
    from: ReplicaId,
    class: Class,
    size: usize,
) -> Option<Frozen> {
    let op = Op(ioring::now().as_nanos());
    let place = (op, Checksum(class as u128));
    let fill = |body: &mut [u8]| body.copy_from_slice(&content(from, op, size));
    Some(common::prepare(pool.try_take()?, from, place, HEADER_SIZE + size, fill))
}

pub(crate) fn ping(from: ReplicaId) -> Header {
    let (checkpoint, checkpoint_op) = (CheckpointId(0), Op(0));
    let op = Op(ioring::now().as_nanos());
    let ping = Ping { monotonic: op.0, checkpoint, checkpoint_op, op, commit: Op(0) };
    draft(from).seal(&ping, &[])
}

/// Headers with a body of the control class.
pub(crate) fn headers(from: ReplicaId, size: usize) -> (Header, Vec<u8>) {
    let body = content(from, Op(ioring::now().as_nanos()), size);
    let tail = Headers { count: 0 };
    (draft(from).seal(&tail, &body), body)
}

/// Writes that are passed on.
pub(crate) fn forward(from: ReplicaId, size: usize) -> (Header, Vec<u8>) {
    let body = content(from, Op(ioring::now().as_nanos()), size);
    let tail = Forward { number: 0 };
    (draft(from).seal(&tail, &body), body)
}

/// A replica: its connections, what it has heard, and where it takes frames from.
pub(crate) struct Replica {
    pub(crate) peers: Rc<Peers>,
    pub(crate) heard: Rc<Heard>,
    /// Of prepares that it makes.
    pub(crate) own: BufferPool,
    /// Of prepares that it receives.
    pub(crate) pool: BufferPool,
}

impl Replica {
    pub(crate) fn start(member: Member, addresses: &[String], listener: Listener) -> Replica {
        Replica::start_hearing(member, addresses, listener, Rc::default())
    }

    pub(crate) fn start_hearing(
        member: Member,
        addresses: &[String],
        listener: Listener,
        heard: Rc<Heard>,
    ) -> Replica {
        let own = BufferPool::new("own", frame_size(PREPARE_MAX), 16 * FRAMES_MAX);
        let pool = BufferPool::new("received", frame_size(PREPARE_MAX), 8);
        // A restarted replica is told nothing of what it was before, but moments go on.
        let ends: (_, Rc<dyn Deliver>) = (pool.clone(), Rc::new(Checker(heard.clone())));
        let peers = common::connect(member, addresses, listener, (PREPARE_MAX, FRAMES_MAX), ends);
        *heard.peers.borrow_mut() = Rc::downgrade(&peers);
        Replica { peers, heard, own, pool }
    }

    /// Says something of everything to everybody, as often as `pause` allows.
    pub(crate) async fn chatter(&self, from: ReplicaId, pause: Duration) {
        let mut random = ioring::random("chatter");
        loop {
            for to in self.peers.others() {
                self.peers.send(to, &ping(from), &[]);
                sleep(Duration::from_nanos(1)).await;
                if random.chance(3) {
                    let (header, body) = headers(from, 8 + random.below(9000) as usize);
                    self.peers.send(to, &header, &body);
                    sleep(Duration::from_nanos(1)).await;
                }
                if random.chance(2) {
                    let (header, body) = forward(from, 8 + random.below(60_000) as usize);
                    self.peers.forward(to, &header, &body);
                    sleep(Duration::from_nanos(1)).await;
                }
                for class in [Class::Prepares, Class::Transfers] {
                    let size = match random.below(3) {
                        0 => random.below(3000),
                        _ => random.below((PREPARE_MAX - HEADER_SIZE) as u64 + 1),
                    };
                    if random.chance(2)
                        && let Some(prepare) = prepare(&self.own, from, class, size as usize)
                    {
                        self.peers.send_prepare(to, class, &prepare);
                        sleep(Duration::from_nanos(1)).await;
                    }
                }
            }
            sleep(pause).await;
        }
    }

    pub(crate) fn chatter_for_ever(self: &Rc<Replica>, from: ReplicaId, pause: Duration) {
        let replica = self.clone();
        let talk = async move { replica.chatter(from, pause).await };
        spawn(Queue::Replication, "chatter", talk).detach();
    }
}
