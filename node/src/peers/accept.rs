//! The connections that others make: strangers until they have greeted.
//!
//! 1. A stranger has a moment to send a `Hello`. There is room for so many strangers; one more
//!    takes the place of the one that has been there longest. A peer greets within a round trip, so
//!    those who come and say nothing cannot keep it out. Until it has greeted, a stranger costs its
//!    task and the buffer of a header.
//! 2. Its greeting is judged. Who does not fit is told why, and closed. A client is handed to
//!    whoever serves clients ([`Peers::serve_clients`]), or told that nobody does.
//! 3. A peer takes its place. If its number has a connection of that class already the newer one
//!    wins: nearly always the peer has lost the older one and this node has not noticed. That is
//!    told `wrong_replica`, which a process that still lives at its other end logs; so two nodes
//!    with one number are found out.
//! 4. Its messages are delivered in their order, each one whole, verified and in its own name.
//!
//! Bytes that are no message end the connection: behind one wrong length nothing can be believed.
//! The peer is told what was wrong, and dials again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Either, Listener, Queue, Side, Stream, select, spawn, timeout};
use wire::message::{Hello, Pong};
use wire::{Command, ErrorCode, Header, ReplicaId};

use super::assemble::{Assembler, Body, Expected};
use super::class::Class;
use super::fault::{Ended, Refusal};
use super::reader::{Reader, count};
use super::{GREETING_LIMIT, Peers, SILENCE_MAX};
use crate::native::Newcomer;

/// Connections that have not greeted yet.
const STRANGERS_MAX: usize = 64;
/// How long a connection that was turned away is kept, so that its owner can read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Those who have not greeted yet, the oldest first; each is told when its place is taken.
#[derive(Default)]
struct Strangers(RefCell<VecDeque<Rc<Event>>>);

impl Strangers {
    /// Makes room for one more; returns its entry, and whether another one has to go.
    fn enter(&self) -> (Rc<Event>, bool) {
        let mut waiting = self.0.borrow_mut();
        let oldest = if waiting.len() == STRANGERS_MAX { waiting.pop_front() } else { None };
        let entry = Rc::new(Event::new());
        waiting.push_back(entry.clone());
        if let Some(oldest) = &oldest {
            oldest.notify();
        }
        (entry, oldest.is_some())
    }

    fn leave(&self, entry: &Rc<Event>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, entry));
    }
}

/// Accepts connections, for as long as the node runs.
pub(super) async fn accept(peers: Rc<Peers>, listener: Listener) {
    let strangers = Rc::new(Strangers::default());
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection of a peer could not be accepted");
                continue;
            }
        };
        let (entry, full) = strangers.enter();
        if full {
            count(&peers.strangers_refused, 1);
        }
        let (peers, strangers) = (peers.clone(), strangers.clone());
        let serve = async move {
            let judged = async {
                match greet(&peers, &stream).await {
                    Ok(greeted) => Some(greeted),
                    Err(ended) => {
                        turn_stranger_away(&peers, &stream, &ended).await;
                        None
                    }
                }
            };
            let judged = select(entry.wait(), judged).await;
            strangers.leave(&entry);
            match judged {
                Either::Second(Some(Greeted::Peer(reader, from, class))) => {
                    serve(&peers, stream, *reader, from, class).await;
                }
                Either::Second(Some(Greeted::Client(header, early))) => {
                    let clients = peers.clients.get().expect("clients are greeted if served");
                    clients(Newcomer { stream, early, header: *header });
                }
                Either::First(()) | Either::Second(None) => {}
            }
        };
        spawn(Queue::Replication, "peer", serve).detach();
    }
}

/// Who is there.
enum Greeted {
    Peer(Box<Reader>, ReplicaId, Class),
    /// A client: its greeting, and what arrived behind it.
    Client(Box<Header>, Vec<u8>),
}

/// Hears who is there.
async fn greet(peers: &Peers, stream: &Stream) -> Result<Greeted, Ended> {
    stream.set_silence_max(SILENCE_MAX)?;
    let mut reader = Reader::new(stream.clone(), Assembler::new(Expected::Greeting));
    let header = reader.next_within(GREETING_LIMIT, "greeting", &peers.pool).await;
    let header = header.map_err(|ended| match ended {
        Ended::Fault(fault) => Refusal::NoHello(fault).into(),
        ended => ended,
    })?;
    if peers.clients.get().is_some() && is_client(&header) {
        return Ok(Greeted::Client(Box::new(header), reader.into_rest()));
    }
    let Body::Bytes(body) = reader.assembler.take_body(&header) else {
        unreachable!("greetings have small bodies");
    };
    let member = &peers.config.member;
    let greeting = member.judge(&peers.known, &header, body)?;
    reader.assembler.expect(Expected::Messages {
        cluster: member.cluster,
        from: greeting.replica,
        replica_count: member.replica_count,
        class: greeting.class,
        prepare_size_max: peers.config.prepare_size_max,
    });
    let answer = stream.send(member.hello(greeting.class).bytes().to_vec());
    timeout(GREETING_LIMIT, answer).await.map_err(|_| Ended::Late("greeting"))?.0?;
    Ok(Greeted::Peer(Box::new(reader), greeting.replica, greeting.class))
}

fn is_client(header: &Header) -> bool {
    header.tail::<Hello>().is_some_and(|hello| hello.client)
}

/// Tells a stranger why not.
async fn turn_stranger_away(peers: &Peers, stream: &Stream, ended: &Ended) {
    count(&peers.strangers_refused, 1);
    let code = match ended {
        Ended::Refused(Refusal::Theirs { .. }) | Ended::Closed | Ended::Io(_) => None,
        Ended::Refused(refusal) => Some(refusal.code()),
        Ended::Fault(fault) => Some(fault.code()),
        Ended::Late(_) => Some(ErrorCode::Timeout),
    };
    let Some(code) = code else {
        let peer = stream.peer_addr();
        return tracing::debug!(%peer, %ended, "a connection without a greeting");
    };
    peers.on_stranger(stream.peer_addr(), code, ended);
    peers.turn_away(stream, code, &ended.to_string()).await;
}

/// Receives from a peer until its connection is over.
async fn serve(
    peers: &Rc<Peers>,
    stream: Stream,
    mut reader: Reader,
    from: ReplicaId,
    class: Class,
) {
    let entrance = &peers.pair(from, class).entrance;
    count(&entrance.accepted, 1);
    let superseded = Rc::new(Event::new());
    if let Some(older) = entrance.present.replace(Some(superseded.clone())) {
        older.notify();
    }
    let receive = async {
        loop {
            let header = match reader.next(&peers.pool, &entrance.received).await {
                Ok(header) => header,
                Err(ended) => return ended,
            };
            peers.on_header(from, &header);
            let body = reader.assembler.take_body(&header);
            peers.deliver.on_message(from, &header, body);
        }
    };
    let ended = match select(superseded.wait(), receive).await {
        Either::First(()) => Ended::Refused(Refusal::Superseded(from)),
        Either::Second(ended) => {
            *entrance.present.borrow_mut() = None;
            ended
        }
    };
    tracing::debug!(replica = %from, class = class.name(), %ended, "a peer's connection is over");
    match &ended {
        Ended::Fault(fault) => {
            count(&entrance.faults, 1);
            let class = class.name();
            tracing::warn!(replica = %from, class, %fault, "a peer's connection is closed");
            peers.turn_away(&stream, fault.code(), &fault.to_string()).await;
        }
        Ended::Refused(refusal) => {
            peers.turn_away(&stream, refusal.code(), &refusal.to_string()).await;
        }
        Ended::Closed | Ended::Io(_) | Ended::Late(_) => {}
    }
}

impl Peers {
    /// Tells the other side why its connection ends, and gives it a moment to read that.
    pub(super) async fn turn_away(&self, stream: &Stream, code: ErrorCode, sentence: &str) {
        let error = self.config.member.error(code, sentence);
        let farewell = async {
            if stream.send(error).await.0.is_err() || stream.shutdown(Side::Write).is_err() {
                return;
            }
            // Closed with bytes unread, the error could be lost on the way.
            while stream.recv().await.is_ok_and(|bytes| !bytes.is_empty()) {}
        };
        // Whoever is still there after that has had its time.
        let _ = timeout(FAREWELL, farewell).await;
    }

    /// Looks at what passes for what concerns the connections.
    fn on_header(&self, from: ReplicaId, header: &Header) {
        if header.command() == Command::Pong {
            let pong: Pong = header.tail().expect("the command says so");
            self.on_round_trip(from, ioring::now().as_nanos().saturating_sub(pong.monotonic));
        }
    }
}
