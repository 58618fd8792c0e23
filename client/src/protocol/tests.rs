//! The protocol against a node that keeps sessions as it should and everything else as badly as it
//! can: it cuts connections anywhere, refuses, forgets sessions, and says nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::message::{Error, Eviction, Hello, Reply, Request, Tail};
use wire::{
    Checksum, ClientId, ClusterId, Draft, HEADER_SIZE, Header, Incarnation, Op, Operations,
    Outcome, PROTOCOL, Release, ReplicaId, RequestNumber, Timestamp, Value, Version,
};

use super::*;

const WINDOW: u64 = 5;
const MILLISECOND: u64 = 1_000_000;

/// What a node keeps of a session.
#[derive(Default)]
struct Session {
    acknowledged: u64,
    results: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

/// A node, of which there is one behind all addresses.
#[derive(Default)]
struct Node {
    sessions: BTreeMap<u128, Session>,
    opened: u128,
    /// How often each value was executed, by what the requests carry.
    executed: BTreeMap<Vec<u8>, u32>,
    op: u64,
    /// On the connection that there is.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Writes that are refused as overloaded from now on.
    overloads: u32,
}

fn seal<T: Tail>(tail: &T, body: &[u8], out: &mut Vec<u8>) {
    let draft = Draft { cluster: ClusterId(3), ..Draft::default() };
    out.extend_from_slice(draft.seal(tail, body).bytes());
    out.extend_from_slice(body);
}

fn outcome(value: Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Outcome::done(value, Version(1)).encode(&mut bytes).unwrap();
    bytes
}

impl Node {
    fn disconnect(&mut self) {
        self.input.clear();
        self.output.clear();
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.input.len() >= HEADER_SIZE {
            let header = Header::verify(&self.input).unwrap();
            if self.input.len() < header.size() {
                return;
            }
            let rest = self.input.split_off(header.size());
            let message = std::mem::replace(&mut self.input, rest);
            let body = &message[HEADER_SIZE..];
            header.verify_body(body).unwrap();
            match header.tail::<Request>() {
                Some(request) => self.answer(&request, body),
                None => self.greet(&header),
            }
        }
    }

    fn greet(&mut self, header: &Header) {
        let hello: Hello = header.tail().expect("clients greet");
        assert!(hello.client);
        let hello = Hello {
            incarnation: Incarnation(0),
            configuration: Checksum(0),
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            release_max: Release::CURRENT,
            replica_count: 1,
            client: false,
            class: 0,
        };
        seal(&hello, &[], &mut self.output);
    }

    fn error(&mut self, request: &Request, code: ErrorCode) {
        let error = Error {
            client: request.client,
            number: request.number,
            code,
            retry_after_ms: 1,
            primary: ReplicaId(0),
            primary_known: false,
        };
        seal(&error, &[], &mut self.output);
    }

    fn reply(&mut self, request: &Request, credits: u64, body: &[u8]) {
        let reply = Reply {
            client: request.client,
            number: request.number,
            op: Op(self.op),
            timestamp: Timestamp(self.op),
            credits: credits as u32,
            outcome_count: 1,
        };
        seal(&reply, body, &mut self.output);
    }

    fn answer(&mut self, request: &Request, body: &[u8]) {
        self.op += 1;
        if wire::read::Reads::are_in(body) {
            let newest = self.executed.len() as i64;
            return self.reply(request, WINDOW, &outcome(Value::Integer(newest)));
        }
        if request.number.0 == 0 {
            self.opened += 1;
            self.sessions.insert(self.opened, Session::default());
            let name = outcome(Value::Bytes(&self.opened.to_le_bytes()));
            return self.reply(request, WINDOW, &name);
        }
        let Some(session) = self.sessions.get_mut(&request.client.0) else {
            let eviction = Eviction { client: request.client, op: Op(0) };
            return seal(&eviction, &[], &mut self.output);
        };
        let (number, acknowledged) = (request.number.0, request.acknowledged.0);
        assert!(acknowledged < number && acknowledged <= session.last, "{request:?}");
        session.acknowledged = session.acknowledged.max(acknowledged);
        assert!(number > session.acknowledged, "{request:?} was acknowledged");
        if let Some(result) = session.results.get(&number) {
            let result = result.clone();
            return self.reply(request, 0, &result);
        }
        assert!(number <= session.acknowledged + WINDOW, "{request:?} is out of its window");
        if number != session.last + 1 || self.overloads > 0 {
            self.overloads = self.overloads.saturating_sub(1);
            return self.error(request, ErrorCode::Overloaded);
        }
        let operation = Operations::verify(body, 1).unwrap().next().unwrap();
        *self.executed.entry(operation.value.to_vec()).or_default() += 1;
        let result = outcome(Value::Integer(self.op as i64));
        session.last = number;
        session.results.insert(number, result.clone());
        self.reply(request, 0, &result);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write,
    Read,
    /// With a deadline that is soon.
    Hurry,
    /// The client's bytes arrive, of so many of 8 parts; then the node's, of so many.
    Exchange(usize, usize),
    Cut,
    /// So many milliseconds pass.
    Wait(u64),
    Overload(u32),
    Evict,
    NotReady,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Write),
        2 => Just(Step::Read),
        1 => Just(Step::Hurry),
        10 => (1..9usize, 1..9usize).prop_map(|(sent, got)| Step::Exchange(sent, got)),
        2 => Just(Step::Cut),
        4 => (1..40u64).prop_map(Step::Wait),
        1 => (1..4u32).prop_map(Step::Overload),
        1 => Just(Step::Evict),
        1 => Just(Step::NotReady),
    ]
}

struct Run {
    protocol: Protocol,
    node: Node,
    now: u64,
    connected: bool,
    /// What each write carried, and each result.
    writes: BTreeMap<Ticket, Vec<u8>>,
    results: BTreeMap<Ticket, Result<Answer, Failure>>,
}

impl Run {
    fn new() -> Run {
        Run {
            protocol: Protocol::new(Options::new(3, 1), 0),
            node: Node::default(),
            now: 0,
            connected: false,
            writes: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.protocol.next_action() {
            self.node.disconnect();
            self.connected = matches!(action, Action::Connect(_));
            if let Action::Connect(address) = action {
                assert!(address < 3);
                self.protocol.on_connected(self.now);
            }
        }
        while let Some((ticket, result)) = self.protocol.next_result() {
            assert!(self.results.insert(ticket, result).is_none(), "{ticket:?} has two results");
        }
    }

    fn submit(&mut self, body: Body, deadline: u64) -> Ticket {
        let ticket = self.protocol.submit(body, deadline);
        self.act();
        ticket
    }

    fn write(&mut self, deadline: u64) {
        let value = self.writes.len().to_string().into_bytes();
        let ticket = self.submit(Body::put(b"key", &value), deadline);
        self.writes.insert(ticket, value);
    }

    fn exchange(&mut self, sent: usize, got: usize) {
        if !self.connected {
            return;
        }
        let output = std::mem::take(self.protocol.output());
        let some = output.len() * sent / 8;
        self.node.receive(&output[..some]);
        *self.protocol.output() = output[some..].to_vec();
        let some = self.node.output.len() * got / 8;
        let rest = self.node.output.split_off(some);
        let bytes = std::mem::replace(&mut self.node.output, rest);
        if !bytes.is_empty() {
            self.protocol.on_received(&bytes, self.now).unwrap();
        }
        self.act();
    }

    fn cut(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.node.disconnect();
            self.protocol.on_disconnected(self.now);
            self.act();
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += milliseconds * MILLISECOND;
        self.protocol.on_time(self.now);
        self.act();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write => self.write(u64::MAX),
            Step::Read => drop(self.submit(Body::get(&[b"key"]), u64::MAX)),
            Step::Hurry => self.write(self.now + 5 * MILLISECOND),
            Step::Exchange(sent, got) => self.exchange(sent, got),
            Step::Cut => self.cut(),
            Step::Wait(milliseconds) => self.wait(milliseconds),
            Step::Overload(writes) => self.node.overloads = writes,
            Step::Evict => self.node.sessions.clear(),
            Step::NotReady if self.connected => {
                let request = Request {
                    client: ClientId(1),
                    number: RequestNumber(1),
                    acknowledged: RequestNumber(0),
                    patience: 0,
                    operation_count: 1,
                    read_level: 1,
                    all_or_none: false,
                };
                self.exchange(0, 8);
                self.node.error(&request, ErrorCode::NotReady);
                self.exchange(0, 8);
                self.cut();
            }
            Step::NotReady => {}
        }
    }

    /// Everything works from here on.
    fn finish(&mut self) {
        self.node.overloads = 0;
        for _ in 0..2000 {
            if self.protocol.pending() == 0 {
                return;
            }
            self.exchange(8, 8);
            self.wait(10);
        }
        panic!("{} requests never come to anything: {:?}", self.protocol.pending(), self.protocol);
    }
}

proptest! {
    #[test]
    fn each_request_has_one_result_and_that_is_true(
        steps in prop::collection::vec(any_step(), 1..300),
    ) {
        let mut run = Run::new();
        let mut submitted = 0;
        for step in steps {
            submitted += u64::from(matches!(step, Step::Write | Step::Read | Step::Hurry));
            run.step(step);
        }
        run.finish();
        prop_assert_eq!(run.results.len() as u64, submitted);
        for (ticket, value) in &run.writes {
            let times = run.node.executed.get(value).copied().unwrap_or(0);
            match &run.results[ticket] {
                Ok(_) => prop_assert_eq!(times, 1, "{:?}", ticket),
                Err(failure) if failure.may_have_happened => prop_assert!(times <= 1),
                Err(failure) => prop_assert_eq!(times, 0, "{:?}: {}", ticket, failure),
            }
        }
    }

    #[test]
    fn random_bytes_of_a_node_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut run = Run::new();
        run.write(u64::MAX);
        if run.protocol.on_received(&bytes, 1).is_err() {
            prop_assert_eq!(run.protocol.next_action(), Some(Action::Disconnect));
        }
    }
}

/// A client whose session is open and which has sent these writes.
fn at_work(writes: usize) -> Run {
    let mut run = Run::new();
    run.submit(Body::get(&[b"key"]), u64::MAX);
    run.exchange(8, 8);
    run.exchange(8, 8);
    run.exchange(8, 8);
    (0..writes).for_each(|_| run.write(u64::MAX));
    run
}

#[test]
fn what_was_not_sent_is_taken_back_at_its_deadline() {
    let mut run = Run::new();
    run.write(5 * MILLISECOND);
    assert_eq!(run.protocol.timer(), Some(5 * MILLISECOND));
    run.wait(5);
    let expected = Failure { code: ErrorCode::Timeout, may_have_happened: false };
    assert_eq!(run.results[&Ticket(1)], Err(expected));
    assert_eq!(run.protocol.pending(), 0);
}

#[test]
fn what_was_sent_may_have_happened_and_keeps_its_number() {
    let mut run = at_work(0);
    run.write(5 * MILLISECOND);
    run.exchange(8, 0);
    run.wait(5);
    let failure = run.results[&Ticket(2)].clone().unwrap_err();
    assert!(failure.may_have_happened);
    assert_eq!(run.protocol.pending(), 1, "the numbers behind it need it");
    run.write(u64::MAX);
    run.exchange(8, 8);
    assert!(run.results[&Ticket(3)].is_ok());
    assert_eq!(run.protocol.pending(), 0);
}

#[test]
fn a_node_that_says_nothing_is_left_for_the_next() {
    let mut run = at_work(1);
    run.exchange(8, 0);
    let patience = 2 * 2_000_000_000;
    assert_eq!(run.protocol.timer(), Some(patience));
    run.now = patience;
    run.protocol.on_time(run.now);
    assert_eq!(run.protocol.next_action(), Some(Action::Disconnect));
    assert_eq!(run.protocol.timer(), Some(patience + 10 * MILLISECOND), "after a moment");
    run.protocol.on_time(patience + 10 * MILLISECOND);
    assert_eq!(run.protocol.next_action(), Some(Action::Connect(1)));
}

#[test]
fn no_more_is_sent_than_fits_the_window_and_the_buffers() {
    let mut run = at_work(20);
    run.exchange(8, 0);
    assert_eq!(run.node.executed.len() as u64, WINDOW);
    run.exchange(8, 8);
    run.exchange(8, 8);
    assert_eq!(run.node.executed.len() as u64, 2 * WINDOW);
    let mut run = at_work(0);
    for _ in 0..4 {
        run.submit(Body::put(b"key", &[7; 40_000]), u64::MAX);
    }
    assert!((40_000..SENT_MAX).contains(&run.protocol.output().len()));
}
