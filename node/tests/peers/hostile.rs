//! Strangers, impostors and rubbish: each gets a named error and the end of its connection, soon.
//!
//! The cases are the same on the simulator and on real sockets. A replica is at the mercy of a
//! program that writes bytes to its listener, or that listens where a peer should be.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Config, NetConfig, World};
use ioring::uring::{self, Runtime};
use ioring::{Side, Stream, sleep, timeout};
use node::peers::{CONTROL_BODY_MAX, Class, Member, State};
use wire::message::{Error, Headers, Hello, Ping, Tail};
use wire::{
    CheckpointId, Checksum, ClusterId, Draft, ErrorCode, HEADER_SIZE, Header, Incarnation, Op,
    PROTOCOL, Release, ReplicaId, checksum,
};

use crate::support::{PORT, Replica, listen, member, ping};

const PEER: ReplicaId = ReplicaId(1);

/// Waits ten seconds in small steps: a machine that stood still meanwhile has not failed the test.
async fn soon<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    for _ in 0..1000 {
        if let Ok(output) = timeout(Duration::from_millis(10), &mut future).await {
            return output;
        }
    }
    panic!("it takes too long");
}

fn hello(member: Member, class: u8, change: impl FnOnce(&mut Hello)) -> Header {
    let mut hello = Hello {
        incarnation: member.incarnation,
        configuration: member.configuration,
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        release_max: Release::CURRENT,
        replica_count: member.replica_count,
        client: false,
        class,
    };
    change(&mut hello);
    draft(member.cluster, member.replica).seal(&hello, &[])
}

fn draft(cluster: ClusterId, replica: ReplicaId) -> Draft {
    Draft { cluster, replica, ..Draft::default() }
}

/// A peer's proper greeting.
fn proper(class: Class) -> Header {
    hello(member(PEER.0, 3), class as u8, |_| ())
}

/// What the other side says, message by message, until it ends the connection.
async fn answers(stream: &Stream) -> Vec<Header> {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            match stream.recv().await {
                Ok(more) if !more.is_empty() => bytes.extend_from_slice(&more),
                _ => break bytes,
            }
        }
    };
    let bytes = soon(read).await;
    let (mut rest, mut headers) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let header = Header::verify(rest).expect("answers are messages");
        header.verify_body(&rest[HEADER_SIZE..header.size()]).expect("whole ones");
        rest = &rest[header.size()..];
        headers.push(header);
    }
    headers
}

fn error(header: &Header) -> ErrorCode {
    header.tail::<Error>().expect("an error").code
}

/// Sends bytes and returns the errors that come back before the end; a greeting may come before.
async fn errors(to: SocketAddr, bytes: &[u8]) -> Vec<ErrorCode> {
    let stream = Stream::connect(to).await.unwrap();
    stream.send(bytes.to_vec()).await.0.unwrap();
    let answers = answers(&stream).await;
    let greeted = answers.first().is_some_and(|first| first.tail::<Hello>().is_some());
    answers.iter().skip(usize::from(greeted)).map(error).collect()
}

fn message(replica: ReplicaId, tail: &impl Tail, body: &[u8]) -> Vec<u8> {
    [&draft(crate::support::CLUSTER, replica).seal(tail, body).bytes()[..], body].concat()
}

/// A header with another protocol version, under a sum that is right.
fn of_protocol(header: &Header, protocol: u16) -> Vec<u8> {
    let mut bytes = header.bytes().to_vec();
    bytes[60..62].copy_from_slice(&protocol.to_le_bytes());
    let sum = checksum(&bytes[16..]).0.to_le_bytes();
    bytes[..16].copy_from_slice(&sum);
    bytes
}

async fn strangers(to: SocketAddr, replica: &Replica) {
    let us = member(PEER.0, 3);
    let of = |member: Member| hello(member, 1, |_| ());
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("garbage", vec![0xa5; 5000], ErrorCode::BadChecksum),
        ("redis", b"*1\r\n$4\r\nPING\r\n".repeat(30), ErrorCode::BadChecksum),
        ("zeros", vec![0; HEADER_SIZE], ErrorCode::BadChecksum),
        ("no greeting", ping(PEER).bytes().to_vec(), ErrorCode::BadRequest),
        ("other protocol", of_protocol(&of(us), 9), ErrorCode::WrongProtocol),
        (
            "newer protocols only",
            hello(us, 1, |hello| {
                (hello.protocol_min, hello.protocol_max) = (PROTOCOL + 1, PROTOCOL + 2);
            })
            .bytes()
            .to_vec(),
            ErrorCode::WrongProtocol,
        ),
        (
            "a client",
            hello(us, 0, |hello| hello.client = true).bytes().to_vec(),
            ErrorCode::Unsupported,
        ),
        (
            "other cluster",
            of(Member { cluster: ClusterId(1), ..us }).bytes().to_vec(),
            ErrorCode::WrongCluster,
        ),
        (
            "other configuration",
            of(Member { configuration: Checksum(6), ..us }).bytes().to_vec(),
            ErrorCode::WrongConfiguration,
        ),
        ("other count", of(member(1, 5)).bytes().to_vec(), ErrorCode::WrongConfiguration),
        ("no member", of(member(3, 3)).bytes().to_vec(), ErrorCode::WrongReplica),
        (
            "ourselves",
            of(Member { incarnation: Incarnation(9), ..member(0, 3) }).bytes().to_vec(),
            ErrorCode::WrongReplica,
        ),
        (
            "a copy of us",
            of(Member { incarnation: member(0, 3).incarnation, ..us }).bytes().to_vec(),
            ErrorCode::WrongReplica,
        ),
        (
            "another disk",
            of(Member { incarnation: Incarnation(55), ..member(2, 3) }).bytes().to_vec(),
            ErrorCode::UnknownIncarnation,
        ),
        ("no class", hello(us, 5, |_| ()).bytes().to_vec(), ErrorCode::BadRequest),
        (
            "a damaged greeting",
            [&hello(us, 1, |_| ()).bytes()[..240], &[0xff; 16]].concat(),
            ErrorCode::BadChecksum,
        ),
    ];
    replica.peers.learn(ReplicaId(2), member(2, 3).incarnation);
    let before = replica.peers.report().strangers_refused;
    let count = cases.len() as u64;
    for (case, bytes, code) in cases {
        assert_eq!(errors(to, &bytes).await, [code], "{case}");
    }
    let silent = Stream::connect(to).await.unwrap();
    let codes: Vec<ErrorCode> = answers(&silent).await.iter().map(error).collect();
    assert_eq!(codes, [ErrorCode::Timeout], "nothing at all");
    assert_eq!(replica.peers.report().strangers_refused - before, count + 1);
}

/// More connections that say nothing than there is room for keep no peer out.
async fn a_crowd(to: SocketAddr) {
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Stream::connect(to).await.unwrap());
    }
    let peer = Stream::connect(to).await.unwrap();
    peer.send(proper(Class::Transfers).bytes().to_vec()).await.0.unwrap();
    let greeting = async {
        let mut bytes = Vec::new();
        while bytes.len() < HEADER_SIZE {
            bytes.extend_from_slice(&peer.recv().await.expect("it is heard"));
        }
        bytes
    };
    let answer = timeout(Duration::from_secs(1), greeting).await.expect("before anyone is late");
    let header = Header::verify(&answer).expect("it is greeted");
    assert!(header.tail::<Hello>().is_some());
    // Those whose places were taken are closed without a word.
    assert_eq!(answers(&crowd[0]).await, []);
}

/// What a peer may not do once it has greeted.
async fn peers(to: SocketAddr, replica: &Replica) {
    let after_hello = |class: Class, bytes: Vec<u8>| [&proper(class).bytes()[..], &bytes].concat();
    let headers = Headers { count: 1 };
    let mut flipped = message(PEER, &headers, &[3; 600]);
    flipped[700] ^= 4;
    let huge = draft(crate::support::CLUSTER, PEER);
    let huge = huge.seal_summed(&headers, CONTROL_BODY_MAX + 1, Checksum(0)).bytes().to_vec();
    let ping = Ping {
        monotonic: 0,
        checkpoint: CheckpointId(0),
        checkpoint_op: Op(0),
        op: Op(1),
        commit: Op(0),
    };
    let elsewhere = draft(ClusterId(1), PEER).seal(&ping, &[]).bytes().to_vec();
    let cases: Vec<(&str, Class, Vec<u8>, ErrorCode)> = vec![
        ("garbage", Class::Control, vec![7; 700], ErrorCode::BadChecksum),
        ("a flipped body", Class::Control, flipped, ErrorCode::BadChecksum),
        (
            "another's name",
            Class::Control,
            message(ReplicaId(2), &ping, &[]),
            ErrorCode::WrongReplica,
        ),
        ("another cluster's", Class::Control, elsewhere, ErrorCode::WrongCluster),
        ("another class", Class::Prepares, message(PEER, &ping, &[]), ErrorCode::BadRequest),
        ("too large", Class::Control, huge, ErrorCode::TooLarge),
        (
            "a second greeting",
            Class::Control,
            proper(Class::Control).bytes().to_vec(),
            ErrorCode::BadRequest,
        ),
    ];
    for (case, class, bytes, code) in cases {
        let pings = replica.heard.count(PEER.0, Class::Control);
        assert_eq!(errors(to, &after_hello(class, bytes)).await, [code], "{case}");
        assert_eq!(replica.heard.count(PEER.0, Class::Control), pings, "{case}: nothing of it");
    }
    // Half a message and the end.
    let stream = Stream::connect(to).await.unwrap();
    let half = after_hello(Class::Control, vec![0; 100]);
    stream.send(half).await.0.unwrap();
    stream.shutdown(Side::Write).unwrap();
    let answers = answers(&stream).await;
    assert_eq!(error(answers.last().unwrap()), ErrorCode::BadRequest);
}

/// Of two connections in one name the newer one counts.
async fn the_newer_wins(to: SocketAddr, replica: &Replica) {
    let hello = proper(Class::Control).bytes().to_vec();
    let older = Stream::connect(to).await.unwrap();
    older.send(hello.clone()).await.0.unwrap();
    older.send(ping(PEER).bytes().to_vec()).await.0.unwrap();
    let heard = || replica.heard.count(PEER.0, Class::Control);
    wait_for("the older one is heard", || heard() == 1).await;
    let newer = Stream::connect(to).await.unwrap();
    newer.send(hello).await.0.unwrap();
    let last = *answers(&older).await.last().unwrap();
    assert_eq!(error(&last), ErrorCode::WrongReplica);
    newer.send(ping(PEER).bytes().to_vec()).await.0.unwrap();
    wait_for("the newer one is heard", || heard() == 2).await;
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

/// The replica that all this is done to, with nobody at its peers' addresses.
fn victim(at: SocketAddr) -> (SocketAddr, Rc<Replica>) {
    let listener = listen(at);
    let address = listener.local_addr();
    let nobody = SocketAddr::new(address.ip(), 1).to_string();
    let addresses = [address.to_string(), nobody.clone(), nobody];
    (address, Rc::new(Replica::start(member(0, 3), &addresses, listener)))
}

async fn on_the_listener(at: SocketAddr) {
    let (address, replica) = victim(at);
    strangers(address, &replica).await;
    a_crowd(address).await;
    the_newer_wins(address, &replica).await;
    peers(address, &replica).await;
    assert_eq!(replica.pool.available(), replica.pool.count(), "no buffer is left behind");
}

/// What can answer at a peer's address: the replica says in its report what is wrong, and goes on
/// trying.
async fn at_the_address(at: SocketAddr) {
    let other = Member { cluster: ClusterId(1), ..member(1, 3) };
    let error = |code| move |_: &Stream| member(1, 3).refuse(code);
    let greeting = |member| move |_: &Stream| hello(member, 1, |_| ()).bytes().to_vec();
    type Answer = Box<dyn Fn(&Stream) -> Vec<u8>>;
    let cases: Vec<(Answer, bool, &str)> = vec![
        (Box::new(greeting(other)), true, "of cluster"),
        (Box::new(greeting(member(2, 3))), true, "replica 2 answers at the address of replica 1"),
        (Box::new(error(ErrorCode::WrongConfiguration)), true, "wrong_configuration: because"),
        (Box::new(error(ErrorCode::BadChecksum)), false, "bad_checksum: because"),
        (Box::new(|_| vec![1; 300]), false, "header checksum"),
        (
            Box::new(|stream| {
                stream.shutdown(Side::Both).unwrap();
                Vec::new()
            }),
            false,
            "",
        ),
        (Box::new(|_| Vec::new()), false, "no greeting in time"),
    ];
    for (answer, refused, text) in cases {
        let listener = listen(SocketAddr::new(at.ip(), 0));
        let peer = listener.local_addr().to_string();
        let (own, nobody) = (listen(SocketAddr::new(at.ip(), 0)), SocketAddr::new(at.ip(), 1));
        let addresses = [own.local_addr().to_string(), peer, nobody.to_string()];
        let replica = Replica::start(member(0, 3), &addresses, own);
        let serve = async {
            let mut streams = Vec::new();
            loop {
                let stream = listener.accept().await.unwrap();
                let bytes = answer(&stream);
                let _ = stream.send(bytes).await;
                streams.push(stream);
            }
        };
        let seen = wait_for(text, || {
            let report = replica.peers.report().peers.remove(0);
            report.classes.iter().any(|class| match &class.sending.state {
                State::Refused(why) => refused && why.contains(text),
                State::Connecting(Some(why)) => !refused && why.contains(text),
                _ => false,
            })
        });
        ioring::select(serve, seen).await;
        assert!(!replica.peers.send(PEER, &ping(ReplicaId(0)), &[]), "not connected");
    }
}

trait Refuse {
    fn refuse(&self, code: ErrorCode) -> Vec<u8>;
}

impl Refuse for Member {
    fn refuse(&self, code: ErrorCode) -> Vec<u8> {
        let error = Error {
            client: wire::ClientId(0),
            number: wire::RequestNumber(0),
            code,
            retry_after_ms: 0,
            primary: ReplicaId(0),
            primary_known: false,
        };
        message(self.replica, &error, b"because")
    }
}

fn simulated<F: Future<Output = ()> + 'static>(case: impl Fn(SocketAddr) -> F + Copy + 'static) {
    for seed in 0..6 {
        let net = NetConfig { segment_max: 700, tail: 10_000, ..NetConfig::default() };
        let mut world = World::new(seed, Config { net, ..Config::default() });
        let node = world.add_node("victim");
        let at = SocketAddr::new(world.address(node), PORT);
        world.run(node, move || case(at)).unwrap();
    }
}

fn real<F: Future<Output = ()> + 'static>(case: impl Fn(SocketAddr) -> F + Copy + Send + 'static) {
    let runtime = Runtime::new(uring::Config::test_min(1)).unwrap();
    runtime.run(vec![()], move |()| case(SocketAddr::from(([127, 0, 0, 1], 0))));
}

#[test]
fn strangers_and_rubbish_are_turned_away_by_name() {
    simulated(on_the_listener);
}

#[test]
fn strangers_and_rubbish_are_turned_away_by_name_on_real_sockets() {
    real(on_the_listener);
}

#[test]
fn what_answers_at_a_peers_address_is_reported() {
    simulated(at_the_address);
}

#[test]
fn what_answers_at_a_peers_address_is_reported_on_real_sockets() {
    real(at_the_address);
}
