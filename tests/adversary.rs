//! Bad input on the wire: bounded memory, named errors, other clients unharmed.
//!
//! Every case does its worst to a running node while a well-behaved client of the same node keeps
//! asking, and checks what the offender was told, what the node's memory did, and that the good
//! client never noticed.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use client::Reply;
use support::{Folder, Node, PATIENCE, call};

const MIB: u64 = 1 << 20;

struct Case {
    node: Node,
    _folder: Folder,
}

impl Case {
    fn new() -> Case {
        Case::with(&[])
    }

    fn with(flags: &[&str]) -> Case {
        let folder = Folder::new();
        let node = Node::start(&folder.data(), flags);
        let mut good = node.connect();
        assert_eq!(call(&mut good, &["SET", "good", "value"]), Reply::Simple("OK".into()));
        Case { node, _folder: folder }
    }

    fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.node.resp).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Another client is served, and soon.
    fn others_are_unharmed(&self) {
        let started = Instant::now();
        let mut good = self.node.connect();
        assert_eq!(call(&mut good, &["GET", "good"]), Reply::Bulk(b"value".to_vec()));
        assert_eq!(call(&mut good, &["SET", "good", "value"]), Reply::Simple("OK".into()));
        assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    }
}

/// Sends bytes and returns all that comes back until the node closes.
fn answer_to(socket: &mut TcpStream, bytes: &[u8]) -> String {
    // The node may close in the middle of it.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => break,
            Ok(size) => answer.extend_from_slice(&chunk[..size]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no end: {error}; so far {}", answer.escape_ascii()),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_is_no_request_gets_a_named_error_and_a_close() {
    let case = Case::new();
    let rows: [(&[u8], &str); 6] = [
        (b"*1\r\n$abc\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*99999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n+PING\r\n", "-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"SET \"unbalanced\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ];
    for (bytes, expected) in rows {
        let answer = answer_to(&mut case.socket(), bytes);
        assert_eq!(answer, expected, "{}", bytes.escape_ascii());
    }
    case.others_are_unharmed();
}

#[test]
fn garbage_without_an_end_is_cut_off() {
    let case = Case::new();
    let before = case.node.resident_bytes();
    let garbage = vec![b'x'; 4 * MIB as usize];
    let answer = answer_to(&mut case.socket(), &garbage);
    assert!(answer.is_empty() || answer.starts_with("-ERR Protocol error: too big"), "{answer}");
    assert!(case.node.resident_bytes() < before + 16 * MIB);
    case.others_are_unharmed();
}

#[test]
fn half_requests_wait_without_costing_more_than_their_bytes() {
    let case = Case::new();
    let before = case.node.resident_bytes();
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket = case.socket();
        // The value is announced and never comes.
        socket.write_all(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$900000\r\nabc").unwrap();
        sockets.push(socket);
    }
    case.others_are_unharmed();
    let grown = case.node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "200 halves of a request cost {} MiB", grown / MIB);
    let mut last = sockets.pop().unwrap();
    drop(sockets);
    last.write_all(&vec![b'v'; 900_000 - 3]).unwrap();
    last.write_all(b"\r\n").unwrap();
    let mut reply = [0; 5];
    last.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+OK\r\n", "a request may come in as many pieces as it likes");
}

#[test]
fn two_thousand_idle_connections_cost_little_and_harm_nobody() {
    let case = Case::new();
    let before = case.node.resident_bytes();
    let sockets: Vec<TcpStream> = (0..2_000).map(|_| case.socket()).collect();
    case.others_are_unharmed();
    let grown = case.node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "2,000 idle connections cost {} MiB", grown / MIB);
    // Each of them still works.
    for mut socket in sockets.into_iter().step_by(97) {
        socket.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
    }
}

#[test]
fn a_hundred_thousand_commands_without_reading_are_bounded_and_then_answered() {
    const COMMANDS: usize = 100_000;
    let case = Case::new();
    let mut good = case.node.connect();
    let value = "v".repeat(1_000);
    assert_eq!(call(&mut good, &["SET", "large", &value]), Reply::Simple("OK".into()));
    let before = case.node.resident_bytes();
    let mut socket = case.socket();
    let mut sender = socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let commands = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(100);
        for _ in 0..COMMANDS / 100 {
            sender.write_all(&commands).unwrap();
        }
    });
    // 100 MB of replies are due. The node fills what it may hold and then reads no further; the
    // good client is served all the while.
    for _ in 0..20 {
        case.others_are_unharmed();
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = case.node.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "unread replies cost {} MiB", grown / MIB);
    let reply = format!("$1000\r\n{value}\r\n");
    let mut expected = vec![0; reply.len()];
    for index in 0..COMMANDS {
        socket.read_exact(&mut expected).unwrap();
        assert_eq!(expected, reply.as_bytes(), "reply {index}");
    }
    sending.join().unwrap();
}

#[test]
fn values_and_keys_over_the_limit_are_refused_and_change_nothing() {
    let case = Case::new();
    let mut connection = case.node.connect();
    let key = "k".repeat(2_000);
    let reply = call(&mut connection, &["SET", &key, "v"]);
    assert!(matches!(&reply, Reply::Error(text) if text.contains("key")), "{reply:?}");
    assert_eq!(call(&mut connection, &["DBSIZE"]), Reply::Integer(1));
    // Over the value limit the announced length is refused before the bytes are read.
    let answer = answer_to(&mut case.socket(), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$600000000\r\n");
    assert!(answer.starts_with("-ERR Protocol error: invalid bulk length"), "{answer}");
    case.others_are_unharmed();
}

#[test]
fn a_client_that_hangs_up_in_the_middle_harms_nobody() {
    let case = Case::new();
    for round in 0..200u32 {
        let mut socket = case.socket();
        let request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n".repeat(20);
        socket.write_all(&request[..request.len() - round as usize % 30]).unwrap();
        // Dropped with replies unread: the node sees a reset.
    }
    case.others_are_unharmed();
}

#[test]
fn whoever_connects_as_a_replica_and_is_none_is_told_why() {
    let case = Case::with(&["--listen", "127.0.0.1:0"]);
    for (bytes, why) in [
        (vec![0xa5; 100_000], "header checksum"),
        (b"*1\r\n$4\r\nPING\r\n".repeat(1000), "header checksum"),
        (Vec::new(), "no greeting in time"),
    ] {
        let mut socket = TcpStream::connect(&case.node.native).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let answer = answer_to(&mut socket, &bytes);
        assert!(answer.contains(why), "{answer:?}");
        case.others_are_unharmed();
    }
}
