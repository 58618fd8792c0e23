//! GET and SET of 100 bytes, and numbered requests of a session, allocate nothing in the steady
//! state, from socket to socket, whichever of a node's cores have the connection, the key and the
//! log.
//!
//! A whole node runs in this process; a raw socket on the test's thread sends requests that were
//! encoded before and reads into a buffer that is there already, so whatever is allocated, the node
//! has allocated.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;

use ioring::Direct;
use node::config::{Config, Layers};
use node::connection;
use node::server::{self, Options};
use vsr::format::{Configuration, FormatOptions};
use wire::message::{Hello, Request};
use wire::operation::Opcode;
use wire::read::GetView;
use wire::request::REQUEST_HEADER_SIZE;
use wire::{
    Checksum, ClientId, ClientTag, ClusterId, Command, Draft, HEADER_SIZE, Header, Incarnation,
    OperationView, Outcome, PROTOCOL, Release, ReplicaId, RequestBuilder, RequestNumber, TableId,
    Value,
};

#[path = "../../tests/support/counting.rs"]
mod counting;

/// A node on so many cores, with a connection on each, and one of the native protocol.
fn start(dir: &Path, cores: usize) -> (Vec<TcpStream>, TcpStream) {
    let configuration =
        Configuration { shard_count: 2, ..Configuration::default() }.with_journal_size(64 << 20);
    let options = FormatOptions {
        direct: Direct::Preferred,
        ..FormatOptions::new(ClusterId(1), ReplicaId(0), configuration)
    };
    server::format(dir, &options, |_, _| ()).expect("an empty directory is formatted");
    let mut layers = Layers::default();
    for name in ["resp", "http", "listen"] {
        layers.set_flag(name, "127.0.0.1:0");
    }
    layers.set_flag("lock_memory", "no");
    layers.set_flag("cores", cores.to_string());
    let options = Options {
        dir: dir.to_owned(),
        config: Config::new(&layers).expect("the settings are valid"),
        direct: Direct::Preferred,
        connections: connection::Limits::default(),
    };
    let (serving, served) = mpsc::channel();
    // The node ends with the process.
    std::thread::spawn(move || {
        server::run(options, move |at| serving.send(*at).expect("the test waits"))
    });
    let at = served.recv().expect("the node serves");
    let connect = |address| {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("it is a socket");
        stream
    };
    let native = connect(at.native.expect("it was told to listen"));
    ((0..cores).map(|_| connect(at.resp)).collect(), native)
}

/// Sends the same bytes again and again, each time awaiting the whole answer; allocations per
/// round, in thousandths.
fn allocations(stream: &mut &TcpStream, request: &[u8], reply_len: usize, rounds: u64) -> u64 {
    let mut reply = vec![0; reply_len];
    let mut run = |rounds: u64| {
        for _ in 0..rounds {
            stream.write_all(request).expect("the node takes requests");
            stream.read_exact(&mut reply).expect("the node answers");
        }
    };
    run(500);
    let before = counting::in_all();
    run(rounds);
    (counting::in_all() - before) * 1000 / rounds
}

fn measure(cores: usize) {
    let folder = tempfile::tempdir().expect("there is a place for it");
    let (streams, native) = start(&folder.path().join("data"), cores);
    measure_session(native, cores);
    let value = "v".repeat(100);
    // Of different shards.
    for (mut stream, key) in streams.iter().flat_map(|stream| [(stream, "key"), (stream, "bar")]) {
        let set = format!("*3\r\n$3\r\nSET\r\n$3\r\n{key}\r\n$100\r\n{value}\r\n");
        let get = format!("*2\r\n$3\r\nGET\r\n$3\r\n{key}\r\n").into_bytes();
        let (ok, found) = (5, format!("$100\r\n{value}\r\n").len());
        for depth in [1, 16] {
            let set = set.repeat(depth).into_bytes();
            let sets = allocations(&mut stream, &set, depth * ok, 1000);
            let gets = allocations(&mut stream, &get.repeat(depth), depth * found, 1000);
            // Markers of an idle journal and bars may allocate now and then; requests may not.
            let what = format!("allocations in a thousand rounds; {cores} cores, depth {depth}");
            assert!(sets < 500, "SET {key}: {sets} {what}");
            assert!(gets < 500, "GET {key}: {gets} {what}");
        }
    }
}

/// A client of the native protocol that allocates nothing itself.
struct Session {
    stream: TcpStream,
    client: ClientId,
    number: u64,
    message: Vec<u8>,
    answer: Vec<u8>,
}

impl Session {
    fn send(&mut self, numbered: bool, body: &[u8]) {
        let number = if numbered { self.number } else { u64::from(self.client.0 > 0) };
        let request = Request {
            client: self.client,
            number: RequestNumber(number),
            acknowledged: RequestNumber(number.saturating_sub(1)),
            patience: 0,
            operation_count: 1,
            read_level: 1,
            all_or_none: false,
        };
        let draft = Draft { cluster: ClusterId(1), ..Draft::default() };
        self.message.extend_from_slice(draft.seal(&request, body).bytes());
        self.message.extend_from_slice(body);
    }

    /// Sends what was gathered; so many answers, of which the last is kept.
    fn exchange(&mut self, answers: usize) {
        self.stream.write_all(&self.message).expect("the node takes requests");
        self.message.clear();
        for _ in 0..answers {
            self.answer.resize(HEADER_SIZE, 0);
            self.stream.read_exact(&mut self.answer).expect("the node answers");
            let size = Header::verify(&self.answer).expect("a message").size();
            self.answer.resize(size, 0);
            self.stream.read_exact(&mut self.answer[HEADER_SIZE..]).expect("the node answers");
            let header = Header::verify(&self.answer).expect("a message");
            assert_ne!(header.command(), Command::Error, "{:?}", self.answer);
        }
    }

    /// Allocations in a thousand rounds of `depth` increments, or of as many reads.
    fn allocations(&mut self, numbered: bool, depth: usize, body: &[u8]) -> u64 {
        let mut run = |rounds: usize| {
            for _ in 0..rounds {
                for _ in 0..depth {
                    self.number += u64::from(numbered);
                    self.send(numbered, body);
                }
                self.exchange(depth);
            }
        };
        run(500);
        let before = counting::in_all();
        run(1000);
        counting::in_all() - before
    }
}

fn body(operation: &OperationView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::new(&mut bytes, ClientTag(0)).expect("vectors grow");
    builder.push(operation).expect("vectors grow");
    builder.finish();
    bytes.split_off(REQUEST_HEADER_SIZE)
}

/// The same for requests of a session, each of which leaves a result until the next one.
fn measure_session(stream: TcpStream, cores: usize) {
    let (message, answer) = (Vec::with_capacity(64 << 10), Vec::with_capacity(4096));
    let mut session = Session { stream, client: ClientId(0), number: 0, message, answer };
    let hello = Hello {
        incarnation: Incarnation(0),
        configuration: Checksum(0),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        release_max: Release::CURRENT,
        replica_count: 0,
        client: true,
        class: 0,
    };
    session.message.extend_from_slice(Draft::default().seal(&hello, &[]).bytes());
    let register = OperationView::on_table(Opcode::Register, TableId(0)).with_value(&[5; 16]);
    session.send(false, &body(&register));
    session.exchange(2);
    let (outcome, _) = Outcome::decode(&session.answer[HEADER_SIZE..]).expect("an outcome");
    let Ok(Value::Bytes(name)) = outcome.result else { panic!("{outcome:?}") };
    session.client = ClientId(u128::from_le_bytes(name.try_into().expect("16 bytes")));
    for key in ["key", "bar"] {
        let increment = OperationView::on_key(Opcode::Increment, TableId(0), key.as_bytes());
        let increment = body(&increment.with_argument(1));
        let mut get = Vec::new();
        GetView::new(TableId(0), key.as_bytes()).encode(&mut get).expect("vectors grow");
        for depth in [1, 16] {
            let what = format!("allocations in a thousand rounds; {cores} cores, depth {depth}");
            let writes = session.allocations(true, depth, &increment);
            assert!(writes < 500, "increment {key}: {writes} {what}");
            let reads = session.allocations(false, depth, &get);
            assert!(reads < 500, "get {key}: {reads} {what}");
        }
    }
}

#[test]
fn get_and_set_allocate_nothing_in_the_steady_state() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    assert_ne!(shard("key"), shard("bar"));
    for cores in 1..=processors.min(2) {
        measure(cores);
    }
}

/// Which of two shards has a key.
fn shard(key: &str) -> u16 {
    wire::slot_of_key(key.as_bytes()).0 / (wire::SLOT_COUNT / 2)
}
