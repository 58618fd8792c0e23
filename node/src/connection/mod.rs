//! Connections: from bytes of a socket to replies, in order.
//!
//! The replica's core accepts connections and gives them to the cores with shards in turn. A
//! connection is one task on its core for as long as it lives. It alternates between two halves
//! that overlap:
//!
//! - a *turn* ([`turn`]): everything that has arrived is parsed, planned, handed over and answered,
//!   and the replies are in one vector, in the order of the commands;
//! - *sending*: the vector goes to the socket in one send. While it is on its way the next turn
//!   fills another vector, so a slow send costs no time until it is a slow reader.
//!
//! Backpressure is what is not done: a connection whose unsent replies exceed
//! [`Limits::unsent_max`] is not read further, so its client's window closes; a connection that
//! waits for the log is in its turn and is not read either. A client that does not take any of its
//! replies for [`Limits::stall_max`] is closed: the time runs per piece of at most
//! [`Limits::send_max`], so a slow reader that keeps reading is left alone.
//!
//! Memory: an idle connection holds its task, a parser and a slot. Vectors for input, replies and
//! runs are lent by the core for as long as there is something in them, so ten thousand idle
//! connections cost a few kilobytes each, whatever they did before.

mod input;
pub(crate) mod listen;
pub(crate) mod output;
pub(crate) mod turn;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::{Accepted, Listener, Queue, Stream, spawn};

use crate::core::Core;
use crate::metrics::Counter;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// More unsent bytes than this, and the connection is not read further.
    pub unsent_max: usize,
    /// Without progress of a send for this long the connection is closed.
    pub stall_max: Duration,
    /// The largest piece that is sent at once.
    pub send_max: usize,
    /// The largest reply.
    pub reply_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unsent_max: 1 << 20,
            stall_max: Duration::from_secs(60),
            send_max: 256 << 10,
            reply_max: 64 << 20,
        }
    }
}

/// Accepts connections for as long as the node takes any, and gives each core with shards one after
/// the other.
pub async fn accept(core: Rc<Core>, listener: Listener) {
    let serving = core.topology.all_cores().filter(|index| core.topology.has_shards(*index));
    let mut turns = serving.collect::<Vec<_>>().into_iter().cycle();
    loop {
        match listener.accept_for_any().await {
            Ok(accepted) => {
                let next = turns.next().expect("some core has shards");
                if next == core.index {
                    adopt(&core, accepted);
                } else {
                    core.mesh.hand_over(next, accepted).await;
                }
            }
            Err(error) => {
                // The client may be gone already, or descriptors have run out: the next may do.
                tracing::warn!(%error, "a connection could not be accepted");
                ioring::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Serves a connection on this core.
pub fn adopt(core: &Rc<Core>, accepted: Accepted) {
    let task = serve(core.clone(), accepted.adopt(), core.identity.resp);
    spawn(Queue::Foreground, "connection", task).detach();
}

/// One connection, from its first byte to its last.
async fn serve(core: Rc<Core>, stream: Stream, local: SocketAddr) {
    core.metrics.count(Counter::ConnectionsAccepted);
    let admitted = core.clients.admit(stream.peer_addr(), local, ioring::now());
    let Some(client) = admitted else {
        core.metrics.count(Counter::ConnectionsRefused);
        let refusal = b"-ERR max number of clients reached\r\n".to_vec();
        // The client is closed either way.
        let _ = stream.send(refusal).await;
        return;
    };
    core.metrics.add(Counter::ConnectionsOpen, 1);
    let run = core.runs.open();
    let turn = turn::Turn::new(core.clone(), run, client);
    let listening = listen::Listening::new(core.clone(), turn);
    let ended = output::converse(&core, &stream, listening, Vec::new()).await;
    core.runs.close(run);
    core.metrics.subtract(Counter::ConnectionsOpen, 1);
    count_end(&core, ended);
}

/// Counts how a conversation ended.
pub(crate) fn count_end(core: &Core, ended: output::Ended) {
    match ended {
        output::Ended::Stalled => core.metrics.count(Counter::ConnectionsStalled),
        output::Ended::Invalid => core.metrics.count(Counter::ConnectionsInvalid),
        output::Ended::Closed => {}
    }
}
