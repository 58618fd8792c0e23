//! The conversation: turns and sends, overlapping, until one side ends it.
//!
//! There are two vectors of replies. One is being filled by turns; the other, if there is one, is
//! on its way to the socket:
//!
//! 1. Nothing to send: wait for input, take a turn. A turn whose replies are too many pauses; it is
//!    resumed when what it has said is on its way.
//! 2. Replies are there: start sending them. Until that is done, take turns on what arrives, as
//!    long as the replies that pile up stay below the limit; then only wait for the send.
//! 3. The send is done: its vector is the next one to fill. Back to 1.
//!
//! Both waits are one future that is polled in a fixed order, send first. What a turn does while a
//! send is in flight does not delay it: the kernel has it already.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use ioring::{RecvBuffer, Stream, timeout};

use super::listen::{Consume, Listening, Verdict};
use crate::core::Core;
use crate::metrics::Counter;

/// Why a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// One side closed it, or the network did.
    Closed,
    /// The client did not take its replies.
    Stalled,
    /// The client sent bytes that are no request.
    Invalid,
}

/// What the wait for a send and for input brought.
enum Event {
    Sent(io::Result<()>, Vec<u8>),
    Received(io::Result<RecvBuffer>),
}

/// Talks until the end, beginning with what is in `filling`.
pub(crate) async fn converse<C: Consume>(
    core: &Core,
    stream: &Stream,
    mut turn: Listening<C>,
    mut filling: Vec<u8>,
) -> Ended {
    loop {
        if turn.is_paused() && filling.len() < core.connection_limits.unsent_max {
            match turn.resume(&mut filling).await {
                Verdict::Continue => {}
                verdict => return finish(core, stream, filling, verdict).await,
            }
        } else if filling.is_empty() {
            core.vectors.give_back(std::mem::take(&mut filling));
            match turn.receive(stream.recv().await, &mut filling).await {
                Verdict::Continue => {}
                verdict => return finish(core, stream, filling, verdict).await,
            }
        }
        if filling.is_empty() {
            continue;
        }
        let sending = std::mem::take(&mut filling);
        let ended = send_and_listen(core, stream, sending, &mut filling, &mut turn).await;
        match ended {
            Ok(Verdict::Continue) => {}
            Ok(verdict) => return finish(core, stream, filling, verdict).await,
            Err(ended) => return ended,
        }
    }
}

/// Sends `sending` and takes turns meanwhile.
async fn send_and_listen<C: Consume>(
    core: &Core,
    stream: &Stream,
    sending: Vec<u8>,
    filling: &mut Vec<u8>,
    turn: &mut Listening<C>,
) -> Result<Verdict, Ended> {
    let limits = core.connection_limits;
    let mut verdict = Verdict::Continue;
    let mut send = pin!(send_pieces(core, stream, sending));
    loop {
        let full = filling.len() >= limits.unsent_max || turn.is_paused();
        let listens = verdict == Verdict::Continue && !full;
        match next_event(stream, send.as_mut(), listens).await {
            Event::Sent(Ok(()), vector) => {
                core.vectors.give_back(vector);
                return Ok(verdict);
            }
            Event::Sent(Err(error), _) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Ended::Stalled);
            }
            Event::Sent(Err(_), _) => return Err(Ended::Closed),
            Event::Received(input) => verdict = turn.receive(input, filling).await,
        }
    }
}

/// The end of the send or, if the connection listens, the next input.
async fn next_event(
    stream: &Stream,
    mut send: Pin<&mut impl Future<Output = (io::Result<()>, Vec<u8>)>>,
    listens: bool,
) -> Event {
    poll_fn(|context| {
        if let Poll::Ready((result, vector)) = send.as_mut().poll(context) {
            return Poll::Ready(Event::Sent(result, vector));
        }
        if listens && let Poll::Ready(input) = stream.poll_recv(context) {
            return Poll::Ready(Event::Received(input));
        }
        Poll::Pending
    })
    .await
}

/// Sends a vector, in one piece if it is of ordinary size. Each piece has its own time to make
/// progress in.
async fn send_pieces(core: &Core, stream: &Stream, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
    let limits = core.connection_limits;
    core.metrics.add(Counter::BytesSent, bytes.len() as u64);
    if bytes.len() <= limits.send_max {
        return match timeout(limits.stall_max, stream.send(bytes)).await {
            Ok(sent) => sent,
            Err(_) => (Err(io::ErrorKind::TimedOut.into()), Vec::new()),
        };
    }
    let mut piece = Vec::with_capacity(limits.send_max);
    for part in bytes.chunks(limits.send_max) {
        piece.clear();
        piece.extend_from_slice(part);
        match timeout(limits.stall_max, stream.send(piece)).await {
            Ok((Ok(()), returned)) => piece = returned,
            Ok((Err(error), _)) => return (Err(error), bytes),
            Err(_) => return (Err(io::ErrorKind::TimedOut.into()), bytes),
        }
    }
    (Ok(()), bytes)
}

/// Sends what is left to say and says why it ended.
async fn finish(core: &Core, stream: &Stream, rest: Vec<u8>, verdict: Verdict) -> Ended {
    if !rest.is_empty() {
        // The connection is closed either way.
        let _ = send_pieces(core, stream, rest).await;
    }
    if verdict == Verdict::Invalid { Ended::Invalid } else { Ended::Closed }
}
