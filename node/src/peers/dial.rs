//! The connections that this node makes, to send.
//!
//! Each class of each peer has a task that never ends:
//!
//! 1. The peer's name is looked up, a connection is made and greeted on. Every step but the first
//!    has a time limit, so that whatever is at the other end, the next attempt comes. A look-up
//!    cannot be given up, it holds a thread: that it takes long is shown, and it is waited for.
//! 2. From the greeting on the queue is open. The task sends what waits, all of it in one send, and
//!    looks at the other direction meanwhile, where nothing comes but an `Error` or the end: a peer
//!    that dies closes it, and is dialed again without waiting for a send to fail.
//! 3. When it is over, for whatever reason, the queue is closed and emptied, and after a pause
//!    ([`Backoff`]) it begins again.
//!
//! Who is refused at the greeting comes back slowly. Who loses a greeted connection to a newer one
//! does not: after a partition an old greeting may still arrive behind the one that counts.
//!
//! A refusal is logged once, until it is another one or a connection has lasted; with three
//! connections to a peer it would otherwise fill the log for nothing.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ioring::{Either, Stream, select, timeout};
use wire::ReplicaId;

use super::assemble::{Assembler, Body, Expected};
use super::backoff::{Backoff, STABLE_AFTER};
use super::class::Class;
use super::fault::{Ended, Refusal};
use super::link::Link;
use super::reader::{Reader, Received};
use super::report::State;
use super::resolve::resolve;
use super::{GREETING_LIMIT, Peers, SILENCE_MAX};

/// A connection that is not made by then is tried anew: an answer that was lost comes again only
/// after a second.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A look-up that takes longer is shown.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// Keeps a connection to a peer, for as long as the node runs.
pub(super) async fn keep(peers: Rc<Peers>, to: ReplicaId, class: Class) {
    let mut backoff = Backoff::new(ioring::random("peers"));
    let link = &peers.pair(to, class).link;
    for attempt in 0.. {
        let (ended, pause) = match connect(&peers, to, class, attempt).await {
            Ok((stream, mut reader)) => {
                let since = ioring::now();
                link.open();
                tracing::info!(replica = %to, class = class.name(), "connected to a peer");
                let ended = converse(&peers, link, &stream, &mut reader).await;
                link.close();
                if ioring::now() - since >= STABLE_AFTER {
                    backoff.reset();
                    peers.on_fit(to);
                }
                (ended, backoff.pause())
            }
            Err(Ended::Refused(refusal)) if refusal.is_lasting() => {
                (refusal.into(), backoff.pause_refused())
            }
            Err(ended) => (ended, backoff.pause()),
        };
        tracing::debug!(replica = %to, class = class.name(), %ended, ?pause, "no connection");
        *link.state.borrow_mut() = match &ended {
            Ended::Refused(refusal) if refusal.is_lasting() => {
                peers.on_refused(to, refusal);
                State::Refused(refusal.to_string())
            }
            _ => State::Connecting(Some(ended.to_string())),
        };
        ioring::sleep(pause).await;
    }
}

/// Makes a connection and greets on it.
async fn connect(
    peers: &Rc<Peers>,
    to: ReplicaId,
    class: Class,
    attempt: usize,
) -> Result<(Stream, Reader), Ended> {
    let name = &peers.config.addresses[usize::from(to.0)];
    let mut found = pin!(resolve(name, attempt));
    let address = loop {
        match timeout(RESOLVE_LIMIT, found.as_mut()).await {
            Ok(found) => break found?,
            Err(_) => {
                let late = Ended::Late("address").to_string();
                *peers.pair(to, class).link.state.borrow_mut() = State::Connecting(Some(late));
            }
        }
    };
    let connected = timeout(CONNECT_LIMIT, Stream::connect(address)).await;
    let stream = connected.map_err(|_| Ended::Late("connection"))??;
    stream.set_silence_max(SILENCE_MAX)?;
    let member = &peers.config.member;
    let hello = stream.send(member.hello(class).bytes().to_vec());
    timeout(GREETING_LIMIT, hello).await.map_err(|_| Ended::Late("greeting"))?.0?;
    let mut reader = Reader::new(stream.clone(), Assembler::new(Expected::Greeting));
    let header = reader.next_within(GREETING_LIMIT, "greeting", &peers.pool).await?;
    let Body::Bytes(body) = reader.assembler.take_body(&header) else {
        unreachable!("greetings have small bodies");
    };
    let greeting = member.judge(&peers.known, &header, body).and_then(|greeting| {
        let (expected, actual) = (to, greeting.replica);
        if actual == expected { Ok(()) } else { Err(Refusal::Address { expected, actual }) }
    });
    if let Err(refusal) = greeting {
        if !matches!(refusal, Refusal::Theirs { .. }) {
            peers.turn_away(&stream, refusal.code(), &refusal.to_string()).await;
        }
        return Err(refusal.into());
    }
    Ok((stream, reader))
}

/// Sends what is pushed until the connection is over, and says why it is.
async fn converse(peers: &Peers, link: &Link, stream: &Stream, reader: &mut Reader) -> Ended {
    let listen = async {
        let header = reader.next(&peers.pool, &Received::default()).await?;
        let Body::Bytes(body) = reader.assembler.take_body(&header) else {
            unreachable!("greetings have small bodies");
        };
        match peers.config.member.judge(&peers.known, &header, body) {
            Err(refusal) => Err(Ended::from(refusal)),
            Ok(_) => Err(Ended::Closed),
        }
    };
    let ended: Result<(), Ended> = match select(listen, send(link, stream)).await {
        Either::First(ended) => ended,
        Either::Second(ended) => ended.map_err(Ended::Io),
    };
    ended.err().unwrap_or(Ended::Closed)
}

/// Sends what is pushed, until that fails.
async fn send(link: &Link, stream: &Stream) -> std::io::Result<()> {
    let mut parts = Vec::new();
    loop {
        let batch = link.outbox.borrow_mut().take(&mut parts);
        let Some(batch) = batch else {
            link.work.wait().await;
            continue;
        };
        let (result, emptied) = stream.send_frozen(parts).await;
        parts = emptied;
        result?;
        link.sent(batch);
    }
}
