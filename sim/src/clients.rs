//! Clients: tasks on hosts of their own that speak RESP to the node.
//!
//! 1. [`Connection::open`] connects and waits until the node no longer says that it is loading. A
//!    node that is dead is waited for; whoever drives the simulation ends the client.
//! 2. [`work`] sends batches of commands in a pipeline, as several pieces, compares every reply
//!    with the model's, and tells the ledger what is sent before it is, and what was acknowledged
//!    after.
//! 3. [`survey`] reads everything, with the time to live, before anybody writes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::Reply;
use client::resp::{parse_reply, push_request};
use ioring::{Random, Stream};

use crate::Violation;
use crate::generate::{self, Step};
use crate::ledger::{Found, Ledger, Survey, counter_key, pair_keys};
use crate::model::{Expected, Key};

const RETRY: Duration = Duration::from_micros(300);

/// A connection that has to survive nothing: an error ends its client.
pub struct Connection {
    stream: Stream,
    input: Vec<u8>,
}

impl Connection {
    /// Connects to a node that serves, however long that takes.
    pub async fn open(address: SocketAddr) -> Connection {
        loop {
            if let Ok(mut connection) = Connection::connect(address).await
                && connection.wait_until_served().await.is_ok()
            {
                return connection;
            }
            ioring::sleep(RETRY).await;
        }
    }

    /// Connects, to whatever answers there.
    pub async fn connect(address: SocketAddr) -> io::Result<Connection> {
        let stream = Stream::connect(address).await?;
        Ok(Connection { stream, input: Vec::new() })
    }

    async fn wait_until_served(&mut self) -> io::Result<()> {
        loop {
            let mut request = Vec::new();
            push_request(&mut request, &["GET", "nothing"]);
            self.send(request).await?;
            match self.receive().await? {
                Reply::Error(text) if text.starts_with("LOADING") => ioring::sleep(RETRY).await,
                _ => return Ok(()),
            }
        }
    }

    /// Sends bytes.
    pub async fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.stream.send(bytes).await.0
    }

    /// The next reply.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let parsed = parse_reply(&self.input).map_err(io::Error::other)?;
            if let Some((reply, size)) = parsed {
                self.input.drain(..size);
                return Ok(reply);
            }
            let received = self.stream.recv().await?;
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&received);
        }
    }
}

/// What a client is to do.
#[derive(Clone)]
pub struct Plan {
    /// Whose keys it writes.
    pub owner: usize,
    /// Where the node is.
    pub address: SocketAddr,
    /// How many batches it sends.
    pub batches: u32,
    /// What all clients have done.
    pub ledger: Rc<RefCell<Ledger>>,
}

/// A command whose reply has not come.
struct Outstanding {
    step: Step,
    expected: Option<Expected>,
    sent_at: u64,
}

fn wall() -> u64 {
    ioring::wall_clock().0
}

/// Sends batches until they are done or the connection breaks.
pub async fn work(plan: Plan) {
    let mut random = ioring::random("commands");
    let mut connection = Connection::open(plan.address).await;
    let mut peeked = BTreeMap::new();
    for _ in 0..plan.batches {
        let ended = batch(&plan, &mut connection, &mut random, &mut peeked).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(violation)) => {
                plan.ledger.borrow_mut().violation.get_or_insert(violation);
                return;
            }
            Err(_) => return,
        }
        if random.chance(6) {
            ioring::sleep(Duration::from_micros(random.below(3000))).await;
        }
    }
}

/// One pipeline of commands, and its replies.
async fn batch(
    plan: &Plan,
    connection: &mut Connection,
    random: &mut Random,
    peeked: &mut BTreeMap<Key, u64>,
) -> io::Result<Result<(), Violation>> {
    let (mut outstanding, mut bytes) = (VecDeque::new(), Vec::new());
    for _ in 0..1 + random.below(12) {
        let item = issue(plan, random, &mut bytes);
        outstanding.push_back(item);
        if random.chance(5) {
            connection.send(std::mem::take(&mut bytes)).await?;
        }
    }
    connection.send(bytes).await?;
    while let Some(item) = outstanding.pop_front() {
        let reply = connection.receive().await?;
        if let Err(violation) = receive(plan, &item, &reply, peeked) {
            return Ok(Err(violation));
        }
    }
    Ok(Ok(()))
}

/// Draws a command, notes it as sent and appends it.
fn issue(plan: &Plan, random: &mut Random, bytes: &mut Vec<u8>) -> Outstanding {
    let mut ledger = plan.ledger.borrow_mut();
    let step = generate::step(random, &ledger, plan.owner);
    let sent_at = wall();
    let mut expected = None;
    match &step {
        Step::Own(command) => {
            expected = Some(ledger.send(plan.owner, command, sent_at));
            push_request(bytes, &command.arguments());
        }
        Step::Peek(key) => push_request(bytes, &["GET", key]),
        Step::PeekPair(pair) => {
            let [left, right] = pair_keys(*pair);
            push_request(bytes, &["MGET", &left, &right]);
        }
        Step::Increment(counter) => {
            ledger.send_increment(*counter);
            push_request(bytes, &["INCR", &counter_key(*counter)]);
        }
        Step::Pair { pair, value } => {
            let [left, right] = pair_keys(*pair);
            let (left, right) = (left.as_bytes(), right.as_bytes());
            match value {
                Some(value) => push_request(bytes, &[b"MSETNX", left, value, right, value]),
                None => push_request(bytes, &[b"DEL", left, right]),
            }
        }
    }
    Outstanding { step, expected, sent_at }
}

/// Checks a reply and notes it.
fn receive(
    plan: &Plan,
    item: &Outstanding,
    reply: &Reply,
    peeked: &mut BTreeMap<Key, u64>,
) -> Result<(), Violation> {
    let ledger = &mut *plan.ledger.borrow_mut();
    let now = wall();
    let wrong = |what: &str| {
        Violation(format!("client {}: {:?} was answered {reply:?}: {what}", plan.owner, item.step))
    };
    match &item.step {
        Step::Own(command) => {
            let expected = item.expected.as_ref().expect("own commands have an expected reply");
            if !expected.admits(reply, item.sent_at, now) {
                return Err(wrong(&format!(
                    "expected {expected:?}, from {} to {now}",
                    item.sent_at
                )));
            }
            ledger.acknowledge(plan.owner, command, now);
            Ok(())
        }
        Step::Peek(key) => {
            let Reply::Bulk(bytes) = reply else {
                return if *reply == Reply::Nil { Ok(()) } else { Err(wrong("no value")) };
            };
            let number = ledger.read(key, bytes)?;
            let before = peeked.insert(key.clone(), number).unwrap_or(0);
            if number < before { Err(wrong("an older value than before")) } else { Ok(()) }
        }
        Step::PeekPair(_) => {
            ledger.counts.reads += 1;
            match reply {
                Reply::Array(pair) if pair.len() == 2 && pair[0] == pair[1] => Ok(()),
                _ => Err(wrong("half of what was written together")),
            }
        }
        Step::Increment(counter) => ledger.acknowledge_increment(*counter, reply),
        Step::Pair { value, .. } => match (value, reply) {
            (Some(_), Reply::Integer(0 | 1)) | (None, Reply::Integer(0 | 2)) => Ok(()),
            _ => Err(wrong("both or none")),
        },
    }
}

/// The op of the newest checkpoint, out of what INFO says.
fn checkpoint(info: &Reply) -> u64 {
    let Reply::Bulk(text) = info else { return 0 };
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find_map(|line| line.strip_prefix("quorate_checkpoint_op:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Empties the node while nobody else uses it, and looks from other connections, so from other
/// cores, whether it is.
pub async fn flush(plan: Plan) -> Option<()> {
    let mut connection = Connection::open(plan.address).await;
    plan.ledger.borrow_mut().send_flush();
    let mut bytes = Vec::new();
    push_request(&mut bytes, &["FLUSHALL"]);
    connection.send(bytes).await.ok()?;
    let mut replies = vec![(connection.receive().await.ok()?, Reply::Simple("OK".to_owned()))];
    plan.ledger.borrow_mut().acknowledge_flush();
    for _ in 0..3 {
        let mut connection = Connection::open(plan.address).await;
        let mut bytes = Vec::new();
        push_request(&mut bytes, &["DBSIZE"]);
        push_request(&mut bytes, &["KEYS", "*"]);
        connection.send(bytes).await.ok()?;
        replies.push((connection.receive().await.ok()?, Reply::Integer(0)));
        replies.push((connection.receive().await.ok()?, Reply::Array(Vec::new())));
    }
    if let Some((reply, expected)) = replies.iter().find(|(reply, expected)| reply != expected) {
        let text = format!("flush: was answered {reply:?}, expected {expected:?}");
        plan.ledger.borrow_mut().violation.get_or_insert(Violation(text));
    }
    Some(())
}

/// Reads everything that anybody may have written.
pub async fn survey(plan: Plan) -> Option<Survey> {
    let mut connection = Connection::open(plan.address).await;
    let keys = plan.ledger.borrow().all_keys();
    let mut survey = Survey { from: wall(), ..Survey::default() };
    let mut bytes = Vec::new();
    push_request(&mut bytes, &["INFO"]);
    for key in &keys {
        push_request(&mut bytes, &["GET", key]);
        push_request(&mut bytes, &["PTTL", key]);
    }
    connection.send(bytes).await.ok()?;
    survey.checkpoint = checkpoint(&connection.receive().await.ok()?);
    for key in keys {
        let (value, left) = (connection.receive().await.ok()?, connection.receive().await.ok()?);
        let found = match (value, left) {
            (Reply::Nil, Reply::Integer(_)) => Found { bytes: None, expires: false },
            (Reply::Bulk(bytes), Reply::Integer(left)) => {
                Found { bytes: Some(bytes), expires: left >= 0 }
            }
            (value, left) => {
                let text = format!("survey: {key} was answered {value:?} and {left:?}");
                plan.ledger.borrow_mut().violation.get_or_insert(Violation(text));
                return None;
            }
        };
        survey.keys.insert(key, found);
    }
    survey.to = wall();
    Some(survey)
}
