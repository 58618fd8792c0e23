//! The native protocol of a node, message by message.

use std::net::SocketAddr;
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::World;
use ioring::{Stream, timeout};
use node::server;
use vsr::format::Configuration;
use wire::message::{Error, Eviction, Hello, Reply, Request};
use wire::operation::Flags;
use wire::read::GetView;
use wire::request::REQUEST_HEADER_SIZE;
use wire::{
    Checksum, ClientId, ClientTag, ClusterId, Draft, ErrorCode, HEADER_SIZE, Header, Incarnation,
    Opcode, OperationView, Outcome, PROTOCOL, Release, RequestBuilder, RequestNumber, TableId,
    Value,
};

use crate::support::{PORT, configuration, format_as, parts_with};

const NATIVE: u16 = 7400;
const CLUSTER: ClusterId = ClusterId(7);
const TABLE: TableId = TableId(0);

/// A connection that says what a test wants it to say.
struct Raw {
    stream: Stream,
    received: Vec<u8>,
}

/// A message of the node.
#[derive(Debug)]
struct Message {
    header: Header,
    body: Vec<u8>,
}

impl Message {
    fn error(&self) -> ErrorCode {
        let error = self.header.tail::<Error>();
        error.unwrap_or_else(|| panic!("{:?} is no error", self.header.command())).code
    }

    fn reply(&self) -> Reply {
        let reply = self.header.tail::<Reply>();
        reply.unwrap_or_else(|| panic!("{self:?} is no reply"))
    }

    fn values(&self) -> Vec<Result<Value<'_>, ErrorCode>> {
        let (mut rest, mut values) = (self.body.as_slice(), Vec::new());
        for _ in 0..self.reply().outcome_count {
            let (outcome, size) = Outcome::decode(rest).expect("an outcome");
            values.push(outcome.result);
            rest = &rest[size..];
        }
        assert!(rest.is_empty());
        values
    }
}

fn hello(cluster: ClusterId, protocol: u16) -> Vec<u8> {
    let hello = Hello {
        incarnation: Incarnation(0),
        configuration: Checksum(0),
        protocol_min: protocol,
        protocol_max: protocol,
        release_max: Release::CURRENT,
        replica_count: 0,
        client: true,
        class: 0,
    };
    Draft { cluster, ..Draft::default() }.seal(&hello, &[]).bytes().to_vec()
}

fn operations(operations: &[OperationView<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::new(&mut bytes, ClientTag(0)).expect("vectors grow");
    operations.iter().for_each(|operation| builder.push(operation).expect("vectors grow"));
    builder.finish();
    bytes.split_off(REQUEST_HEADER_SIZE)
}

fn on_key<'a>(opcode: Opcode, key: &'a str) -> OperationView<'a> {
    OperationView::on_key(opcode, TABLE, key.as_bytes())
}

fn increment() -> Vec<u8> {
    operations(&[on_key(Opcode::Increment, "counter").with_argument(1)])
}

fn put(key: &str, value: &[u8]) -> Vec<u8> {
    operations(&[on_key(Opcode::Put, key).with_value(value)])
}

fn get(keys: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for key in keys {
        GetView::new(TABLE, key.as_bytes()).encode(&mut bytes).expect("vectors grow");
    }
    bytes
}

fn request(client: ClientId, number: u64, acknowledged: u64) -> Request {
    Request {
        client,
        number: RequestNumber(number),
        acknowledged: RequestNumber(acknowledged),
        patience: 0,
        operation_count: 1,
        read_level: 1,
        all_or_none: false,
    }
}

fn sealed(request: &Request, body: &[u8]) -> Vec<u8> {
    let header = Draft { cluster: CLUSTER, ..Draft::default() }.seal(request, body);
    [&header.bytes()[..], body].concat()
}

impl Raw {
    async fn connect(address: SocketAddr) -> Raw {
        let stream = Stream::connect(address).await.expect("the node listens");
        Raw { stream, received: Vec::new() }
    }

    /// As a client that has greeted.
    async fn greeted(address: SocketAddr) -> Raw {
        let mut raw = Raw::connect(address).await;
        raw.send(hello(ClusterId(0), PROTOCOL)).await;
        let hello: Hello = raw.receive().await.header.tail().expect("the node greets");
        assert!(!hello.client);
        raw
    }

    /// As a client with a session.
    async fn opened(address: SocketAddr) -> (Raw, ClientId) {
        let mut raw = Raw::greeted(address).await;
        let client = raw.open().await;
        (raw, client)
    }

    async fn open(&mut self) -> ClientId {
        let drawn = [9; 16];
        let register = OperationView::on_table(Opcode::Register, TABLE).with_value(&drawn);
        self.send(sealed(&request(ClientId(0), 0, 0), &operations(&[register]))).await;
        let message = self.receive().await;
        assert_eq!(message.reply().credits, 4, "the window of the test's configuration");
        let values = message.values();
        let Ok(Value::Bytes(name)) = values[0] else { panic!("{values:?}") };
        ClientId(u128::from_le_bytes(name.try_into().expect("16 bytes")))
    }

    async fn send(&mut self, bytes: Vec<u8>) {
        self.stream.send(bytes).await.0.expect("the node reads");
    }

    /// The next message; none if the node closed the connection.
    async fn try_receive(&mut self) -> Option<Message> {
        loop {
            if self.received.len() >= HEADER_SIZE {
                let header = Header::verify(&self.received).expect("a message of the node");
                if self.received.len() >= header.size() {
                    let rest = self.received.split_off(header.size());
                    let body = std::mem::replace(&mut self.received, rest).split_off(HEADER_SIZE);
                    header.verify_body(&body).expect("a message of the node");
                    assert_eq!(header.cluster(), CLUSTER);
                    return Some(Message { header, body });
                }
            }
            let received = timeout(Duration::from_secs(10), self.stream.recv()).await;
            let received = received.expect("the node says something").ok()?;
            if received.is_empty() {
                return None;
            }
            self.received.extend_from_slice(&received);
        }
    }

    async fn receive(&mut self) -> Message {
        self.try_receive().await.expect("the node answers")
    }

    async fn call(&mut self, request: &Request, body: &[u8]) -> Message {
        self.send(sealed(request, body)).await;
        self.receive().await
    }

    /// That the node says this last and closes.
    async fn is_turned_away(&mut self, code: ErrorCode) {
        assert_eq!(self.receive().await.error(), code);
        assert!(self.try_receive().await.is_none(), "the connection is closed");
    }
}

/// Runs a test's client against a node with so many cores.
fn with_node<F: Future<Output = ()> + 'static>(
    cores: u16,
    main: impl FnOnce(SocketAddr) -> F + 'static,
) {
    with_settings(cores, "100", configuration(), main);
}

/// The same with at most so many clients, and values of the format.
fn with_settings<F: Future<Output = ()> + 'static>(
    cores: u16,
    clients_max: &'static str,
    configuration: Configuration,
    main: impl FnOnce(SocketAddr) -> F + 'static,
) {
    let mut world = World::new(u64::from(cores), SimConfig::default());
    let (server, client) = (world.add_node("server"), world.add_node("client"));
    world.run(server, || format_as(configuration)).expect("formatting ends");
    let address = SocketAddr::new(world.address(server), NATIVE);
    let resp = SocketAddr::new(world.address(server), PORT);
    let settings = [("listen", &*address.to_string().leak()), ("clients_max", clients_max)];
    let (parts, _ask) = parts_with(resp, cores, &settings);
    world.start(server, parts, |part| async move {
        server::serve(part).await.expect("the node starts");
    });
    let main = move || async move {
        // Clients that come before the node serves are told to come again.
        loop {
            if Stream::connect(address).await.is_err() {
                ioring::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let mut raw = Raw::greeted(address).await;
            let answer = raw.call(&request(ClientId(0), 1, 0), &get(&["none"])).await;
            if answer.header.tail::<Reply>().is_some() {
                break;
            }
            assert_eq!(answer.error(), ErrorCode::NotReady);
            ioring::sleep(Duration::from_millis(5)).await;
        }
        main(address).await;
    };
    world.run(client, main).expect("the client comes to its end");
}

#[test]
fn requests_are_answered_in_order_with_what_they_reflect() {
    for cores in 1..=3 {
        with_node(cores, |address| async move {
            let (mut raw, client) = Raw::opened(address).await;
            let three = operations(&[
                on_key(Opcode::Put, "a").with_value(b"1"),
                on_key(Opcode::Put, "b").with_value(b"2"),
                on_key(Opcode::Increment, "a").with_argument(41),
            ]);
            let mut all = sealed(&request(client, 1, 0), &put("key", b"value"));
            all.extend(sealed(&request(client, 7, 0), &get(&["key"])));
            all.extend(sealed(&Request { operation_count: 3, ..request(client, 2, 1) }, &three));
            all.extend(sealed(
                &Request { operation_count: 4, ..request(ClientId(0), 8, 0) },
                &get(&["a", "b", "none", "key"]),
            ));
            raw.send(all).await;
            let first = raw.receive().await;
            assert_eq!(first.values(), [Ok(Value::Ok)]);
            let got = raw.receive().await;
            assert_eq!((got.reply().number.0, got.values()), (7, vec![Ok(Value::Bytes(b"value"))]));
            assert!(got.reply().op >= first.reply().op, "a read sees the write before it");
            let second = raw.receive().await;
            let expected = [Ok(Value::Ok), Ok(Value::Ok), Ok(Value::Integer(42))];
            assert_eq!(second.values(), expected);
            assert_eq!(second.reply().credits, 3, "one of four is not acknowledged");
            assert!(second.reply().op > first.reply().op);
            let many = raw.receive().await;
            let value = |bytes| Ok(Value::Bytes(bytes));
            let expected = [value(b"42"), value(b"2"), Ok(Value::Nil), value(b"value")];
            assert_eq!(many.values(), expected);
        });
    }
}

#[test]
fn a_number_is_executed_once_whoever_sends_it_again() {
    for cores in 1..=3 {
        with_node(cores, |address| async move {
            let (mut raw, client) = Raw::opened(address).await;
            let first = raw.call(&request(client, 1, 0), &increment()).await;
            assert_eq!(first.values(), [Ok(Value::Integer(1))]);
            let mut other = Raw::greeted(address).await;
            let again = other.call(&request(client, 1, 0), &increment()).await;
            assert_eq!((again.reply(), again.values()), (first.reply(), first.values()));
            // In one prepare: the second is answered by what the first comes to.
            let twice = sealed(&request(client, 2, 0), &increment()).repeat(2);
            raw.send(twice).await;
            let (one, two) = (raw.receive().await, raw.receive().await);
            assert_eq!(one.values(), [Ok(Value::Integer(2))]);
            assert_eq!(two.values(), one.values());
            let third = raw.call(&request(client, 3, 2), &increment()).await;
            assert_eq!(third.values(), [Ok(Value::Integer(3))]);
            let late = other.call(&request(client, 2, 0), &increment()).await;
            assert_eq!(late.error(), ErrorCode::ResultDropped, "it was acknowledged");
        });
    }
}

#[test]
fn what_is_over_the_limits_is_refused_and_can_be_sent_again() {
    with_node(1, |address| async move {
        let (mut raw, client) = Raw::opened(address).await;
        // A gap, and more than the window of four.
        let gap = raw.call(&request(client, 2, 0), &increment()).await;
        assert_eq!(gap.error(), ErrorCode::Overloaded);
        for number in 1..=4 {
            raw.call(&request(client, number, 0), &increment()).await.reply();
        }
        let fifth = raw.call(&request(client, 5, 0), &increment()).await;
        assert_eq!(fifth.error(), ErrorCode::Overloaded);
        assert!(fifth.header.tail::<Error>().expect("it is one").retry_after_ms > 0);
        let fifth = raw.call(&request(client, 5, 1), &increment()).await;
        assert_eq!(fifth.values(), [Ok(Value::Integer(5))]);
        assert_eq!(fifth.reply().credits, 0);
        let ahead = raw.call(&request(client, 9, 6), &increment()).await;
        assert_eq!(ahead.error(), ErrorCode::BadRequest, "number 6 was never executed");
        // What may be answered with a value is charged as one: of 8 KiB one fits.
        let swap = on_key(Opcode::Put, "swap").with_flags(Flags::RETURN_OLD);
        let swap = operations(&[swap.with_value(b"x")]);
        assert_eq!(raw.call(&request(client, 6, 5), &swap).await.values(), [Ok(Value::Nil)]);
        let second = raw.call(&request(client, 7, 5), &swap).await;
        assert_eq!(second.error(), ErrorCode::Overloaded);
        let second = raw.call(&request(client, 7, 6), &swap).await;
        assert_eq!(second.values(), [Ok(Value::Bytes(b"x"))]);
    });
}

#[test]
fn a_result_that_is_too_large_is_given_once() {
    with_node(2, |address| async move {
        let (mut raw, client) = Raw::opened(address).await;
        let value = vec![b'v'; 5000];
        raw.call(&request(client, 1, 0), &put("large", &value)).await.reply();
        let swap = on_key(Opcode::Put, "large").with_flags(Flags::RETURN_OLD).with_value(b"");
        let swap = operations(&[swap]);
        let first = raw.call(&request(client, 2, 1), &swap).await;
        assert_eq!(first.values(), [Ok(Value::Bytes(&value))]);
        let again = raw.call(&request(client, 2, 1), &swap).await;
        assert_eq!(again.error(), ErrorCode::ResultDropped);
        let next = raw.call(&request(client, 3, 2), &put("k", b"v")).await;
        assert_eq!(next.values(), [Ok(Value::Ok)]);
    });
}

#[test]
fn one_session_too_many_evicts_the_one_that_was_quiet_longest() {
    with_node(1, |address| async move {
        let (mut raw, first) = Raw::opened(address).await;
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(raw.open().await);
        }
        raw.call(&request(first, 1, 0), &increment()).await.reply();
        raw.open().await;
        let evicted = raw.call(&request(others[0], 1, 0), &increment()).await;
        let eviction: Eviction = evicted.header.tail().expect("the session is gone");
        assert_eq!(eviction.client, others[0]);
        let kept = raw.call(&request(first, 2, 1), &increment()).await;
        assert_eq!(kept.values(), [Ok(Value::Integer(2))]);
    });
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_takes_its_number() {
    with_node(3, |address| async move {
        let (mut raw, client) = Raw::opened(address).await;
        let mut number = 0;
        let hold = OperationView::on_table(Opcode::Hold, TABLE);
        let elsewhere = OperationView::on_key(Opcode::Put, TableId(1), b"k");
        let refused = [
            (put("k", &[0; 9000]), ErrorCode::TooLarge),
            (operations(&[hold]), ErrorCode::Unsupported),
            (operations(&[elsewhere]), ErrorCode::Unsupported),
        ];
        for (body, code) in refused {
            number += 1;
            let answer = raw.call(&request(client, number, number - 1), &body).await;
            assert_eq!(answer.values(), [Err(code)]);
            let again = raw.call(&request(client, number, number - 1), &increment()).await;
            assert_eq!(again.values(), [Err(code)], "the number is taken");
        }
        let next = raw.call(&request(client, number + 1, number), &increment()).await;
        assert_eq!(next.values(), [Ok(Value::Integer(1))]);
        let mut scan = get(&["k"]);
        scan[0] = 65;
        let answer = raw.call(&request(client, 77, 0), &scan).await;
        assert_eq!(answer.error(), ErrorCode::Unsupported);
        let flush = operations(&[OperationView::on_table(Opcode::Flush, TABLE)]);
        let answer = raw.call(&request(client, number + 2, number), &flush).await;
        assert_eq!(answer.values(), [Ok(Value::Ok)]);
        let answer = raw.call(&request(ClientId(0), 1, 0), &get(&["counter"])).await;
        assert_eq!(answer.values(), [Ok(Value::Nil)]);
        // All or none: of one condition that does not hold nothing happens.
        let create = on_key(Opcode::Put, "a").with_flags(Flags::IF_NONE).with_value(b"1");
        let replace = on_key(Opcode::Put, "b").with_flags(Flags::IF_SOME).with_value(b"1");
        let both = operations(&[create, replace]);
        let all = Request {
            all_or_none: true,
            operation_count: 2,
            ..request(client, number + 3, number)
        };
        assert_eq!(raw.call(&all, &both).await.values(), [Ok(Value::Nil), Ok(Value::Nil)]);
        let two = Request { operation_count: 2, ..request(ClientId(0), 1, 0) };
        let answer = raw.call(&two, &get(&["a", "b"])).await;
        assert_eq!(answer.values(), [Ok(Value::Nil), Ok(Value::Nil)]);
    });
}

#[test]
fn bytes_that_are_no_request_end_the_connection_by_name() {
    with_node(1, |address| async move {
        let good = sealed(&request(ClientId(0), 1, 0), &get(&["k"]));
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] ^= byte;
            bytes
        };
        let oversize = Draft { cluster: CLUSTER, ..Draft::default() };
        let oversize = oversize.seal_summed(&request(ClientId(1), 1, 0), 1 << 30, Checksum(0));
        let elsewhere = Draft { cluster: ClusterId(8), ..Draft::default() };
        let elsewhere = elsewhere.seal(&request(ClientId(1), 1, 0), &[]);
        let bad = [
            (vec![b'x'; 300], ErrorCode::BadChecksum),
            (with(40, 1), ErrorCode::BadChecksum),
            (with(HEADER_SIZE + 33, 1), ErrorCode::BadChecksum),
            (oversize.bytes().to_vec(), ErrorCode::TooLarge),
            (elsewhere.bytes().to_vec(), ErrorCode::WrongCluster),
            (hello(CLUSTER, PROTOCOL), ErrorCode::BadRequest),
            (sealed(&request(ClientId(1), 1, 0), &[]), ErrorCode::BadRequest),
            (sealed(&request(ClientId(1), 1, 0), &[1; 40]), ErrorCode::BadRequest),
            (sealed(&request(ClientId(1), 1, 1), &increment()), ErrorCode::BadRequest),
            (sealed(&request(ClientId(0), 1, 0), &increment()), ErrorCode::BadRequest),
            (sealed(&request(ClientId(0), 0, 0), &increment()), ErrorCode::BadRequest),
        ];
        for (bytes, code) in bad {
            let mut raw = Raw::greeted(address).await;
            // What came before is answered.
            raw.send([good.clone(), bytes].concat()).await;
            assert_eq!(raw.receive().await.values(), [Ok(Value::Nil)]);
            raw.is_turned_away(code).await;
        }
    });
}

#[test]
fn a_client_that_does_not_fit_is_told_why() {
    with_node(1, |address| async move {
        for (greeting, code) in [
            (hello(ClusterId(8), PROTOCOL), ErrorCode::WrongCluster),
            (hello(CLUSTER, PROTOCOL + 1), ErrorCode::WrongProtocol),
        ] {
            let mut raw = Raw::connect(address).await;
            raw.send(greeting).await;
            raw.is_turned_away(code).await;
        }
        // Said at once, and answered all the same.
        let mut raw = Raw::connect(address).await;
        let early = sealed(&request(ClientId(0), 5, 0), &get(&["k"]));
        raw.send([hello(CLUSTER, PROTOCOL), early].concat()).await;
        assert!(raw.receive().await.header.tail::<Hello>().is_some());
        assert_eq!(raw.receive().await.reply().number.0, 5);
    });
}

#[test]
fn no_space_takes_the_number_of_what_it_refuses() {
    // So small that some thousand values fill it.
    let configuration = Configuration { grid_size_max: 16 << 20, ..configuration() };
    with_settings(2, "100", configuration, |address| async move {
        let (mut raw, client) = Raw::opened(address).await;
        let mut number = 0;
        let refused = loop {
            number += 1;
            let body = put(&format!("key{number}"), &[7; 8000]);
            let answer = raw.call(&request(client, number, number - 1), &body).await;
            if answer.values() != [Ok(Value::Ok)] {
                break answer;
            }
            assert!(number < 5000, "the grid is never full");
        };
        assert_eq!(refused.values(), [Err(ErrorCode::NoSpace)]);
        let again = raw.call(&request(client, number, number - 1), &increment()).await;
        assert_eq!(again.values(), [Err(ErrorCode::NoSpace)], "the refusal holds");
        let delete = operations(&[on_key(Opcode::Delete, "key1")]);
        let deleted = raw.call(&request(client, number + 1, number), &delete).await;
        assert_eq!(deleted.values(), [Ok(Value::Bool(true))], "what is behind it goes on");
    });
}

#[test]
fn whoever_is_out_of_patience_is_told_so_and_may_ask_again() {
    with_node(1, |address| async move {
        let (mut raw, client) = Raw::opened(address).await;
        let hurry = Request { patience: 1, ..request(client, 1, 0) };
        raw.send(sealed(&hurry, &increment())).await;
        raw.is_turned_away(ErrorCode::Timeout).await;
        let mut raw = Raw::greeted(address).await;
        let answer = raw.call(&request(client, 1, 0), &increment()).await;
        assert_eq!(answer.values(), [Ok(Value::Integer(1))]);
        let answer = raw.call(&request(ClientId(0), 1, 0), &get(&["counter"])).await;
        assert_eq!(answer.values(), [Ok(Value::Bytes(b"1"))], "it happened once");
    });
}

#[test]
fn one_client_too_many_is_told_so() {
    with_settings(1, "2", configuration(), |address| async move {
        let (mut first, client) = Raw::opened(address).await;
        let second = Raw::greeted(address).await;
        let mut third = Raw::connect(address).await;
        third.send(hello(CLUSTER, PROTOCOL)).await;
        third.is_turned_away(ErrorCode::Overloaded).await;
        drop(second);
        ioring::sleep(Duration::from_millis(100)).await;
        Raw::greeted(address).await;
        first.call(&request(client, 1, 0), &increment()).await.reply();
    });
}
