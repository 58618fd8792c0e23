//! The native protocol for clients: messages with the replicas' header, requests of sessions.
//!
//! A client connects to the listener of the replicas, says in its `Hello` that it is a client, and
//! gets one back. From then on it sends `Request`s, pipelined, and is answered in their order:
//!
//! | answer | to |
//! | --- | --- |
//! | `Reply` | a request that was done: its outcomes, and the op and log time that they reflect |
//! | `Error` | one that was not, or maybe was: a code says which, and a sentence why |
//! | `Eviction` | one of a session that is not there (any more) |
//!
//! A request's body is operations or reads. Operations need a session ([`crate::session`]): the
//! first request of a client is the registration that opens one, with session and number 0. Reads
//! need none and change none; their number only comes back.
//!
//! 1. [`message`] finds whole messages in what was received and verifies every byte, without
//!    copying. Bytes that are no request end the connection, with an error that names them: behind
//!    a wrong length nothing can be believed. What a connection keeps is at most one message.
//! 2. [`turn`] gathers them on a desk, as commands of RESP connections are, which share everything
//!    from there on ([`crate::connection`]): consecutive writes go to the log together, a read sees
//!    its connection's earlier writes and none of its later ones, and a connection whose replies
//!    are not read is not read either.
//! 3. [`answer`] makes the messages that go back.
//!
//! Credits tell a client how many requests it may number beyond the one that is answered: as many
//! as the session's window has left. A request's patience bounds how long the node works on it:
//! after that the connection is told `timeout` and closed, and what was under way may happen. The
//! session makes it safe to ask again.
//!
//! Connections of clients live on the replica's core, which has the listener.

pub mod answer;
pub mod message;
pub mod turn;

use std::rc::Rc;
use std::time::Duration;

use ioring::{Queue, Side, Stream, spawn, timeout};
use wire::message::{Error, Hello};
use wire::{
    Checksum, ClientId, ClusterId, Draft, ErrorCode, Header, Incarnation, PROTOCOL, Release,
    ReplicaId, RequestNumber,
};

use crate::connection::listen::Listening;
use crate::connection::{self, output};
use crate::core::Core;
use crate::metrics::Counter;

/// How long a client that was turned away has to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client's host may be silent before its connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A connection whose first message said that it is a client.
pub struct Newcomer {
    /// The connection.
    pub stream: Stream,
    /// What arrived behind the greeting.
    pub early: Vec<u8>,
    /// The greeting's header.
    pub header: Header,
}

/// What this node writes into the headers of its messages.
#[must_use]
pub fn draft(core: &Core) -> Draft {
    let (cluster, replica) = (ClusterId(core.identity.cluster), ReplicaId(core.identity.replica));
    Draft { cluster, replica, release: Release::CURRENT, ..Draft::default() }
}

/// Serves a client on this core.
pub fn adopt(core: &Rc<Core>, newcomer: Newcomer) {
    let core = core.clone();
    spawn(Queue::Foreground, "client", async move { serve(core, newcomer).await }).detach();
}

async fn serve(core: Rc<Core>, newcomer: Newcomer) {
    let Newcomer { stream, early, header } = newcomer;
    core.metrics.count(Counter::ConnectionsAccepted);
    let seat = core.clients.take_seat();
    let refused = match (&seat, refusal(&core, &header)) {
        (None, _) => Some((ErrorCode::Overloaded, "as many clients as there may be are connected")),
        (Some(_), refused) => refused,
    };
    if let Some((code, why)) = refused {
        core.metrics.count(Counter::ConnectionsRefused);
        return turn_away(&core, &stream, code, why).await;
    }
    if stream.set_silence_max(SILENCE_MAX).is_err() {
        return;
    }
    core.metrics.add(Counter::ConnectionsOpen, 1);
    let run = core.runs.open();
    let mut hello = core.vectors.take();
    hello.extend_from_slice(greeting(&core).bytes());
    let mut listening = Listening::new(core.clone(), turn::Requests::new(core.clone(), run));
    listening.receive_early(&early);
    let ended = output::converse(&core, &stream, listening, hello).await;
    core.runs.close(run);
    core.metrics.subtract(Counter::ConnectionsOpen, 1);
    connection::count_end(&core, ended);
    drop(seat);
}

/// Why a client is not served, if it is not.
fn refusal(core: &Core, header: &Header) -> Option<(ErrorCode, &'static str)> {
    let hello: Hello = header.tail()?;
    if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
        return Some((ErrorCode::WrongProtocol, "this node speaks none of the client's protocols"));
    }
    // A client need not know the cluster; one that does is not to write into another.
    let cluster = header.cluster();
    let fits = cluster == ClusterId(0) || cluster == ClusterId(core.identity.cluster);
    (!fits).then_some((ErrorCode::WrongCluster, "the client is of another cluster"))
}

fn greeting(core: &Core) -> Header {
    let hello = Hello {
        incarnation: Incarnation(0),
        configuration: Checksum(0),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        release_max: Release::CURRENT,
        replica_count: core
            .log()
            .checkpoints
            .directory()
            .superblock
            .state()
            .configuration
            .replica_count,
        client: false,
        class: 0,
    };
    draft(core).seal(&hello, &[])
}

/// An error about the connection as a whole.
fn error(core: &Core, code: ErrorCode, why: &str, out: &mut Vec<u8>) {
    let error = Error {
        client: ClientId(0),
        number: RequestNumber(0),
        code,
        retry_after_ms: 0,
        primary: ReplicaId(0),
        primary_known: false,
    };
    out.extend_from_slice(draft(core).seal(&error, why.as_bytes()).bytes());
    out.extend_from_slice(why.as_bytes());
}

async fn turn_away(core: &Core, stream: &Stream, code: ErrorCode, why: &str) {
    let mut message = Vec::new();
    error(core, code, why, &mut message);
    let farewell = async {
        if stream.send(message).await.0.is_err() || stream.shutdown(Side::Write).is_err() {
            return;
        }
        // Closed with bytes unread, the error could be lost on the way.
        while stream.recv().await.is_ok_and(|bytes| !bytes.is_empty()) {}
    };
    // Whoever is still there after that has had its time.
    let _ = timeout(FAREWELL, farewell).await;
}
