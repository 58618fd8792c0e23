//! Whole messages from a socket.
//!
//! What has arrived is looked at in the core's shared receive buffers and given back before waiting
//! for more. The one wait in between, for a buffer of the pool, first moves the rest out of them
//! and stops receiving ahead, so that a peer whose prepares find no room holds up nobody else.

use std::cell::Cell;
use std::time::Duration;

use ioring::{BufferPool, RecvBuffer, Stream, timeout};
use wire::Header;

use super::assemble::{Assembler, Step};
use super::fault::{Ended, Fault};

/// What came in, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) messages: Cell<u64>,
    pub(super) bytes: Cell<u64>,
    /// Times that a body waited for a buffer.
    pub(super) waits: Cell<u64>,
}

/// The receiving half of a connection.
pub(super) struct Reader {
    stream: Stream,
    arrived: Option<RecvBuffer>,
    /// Bytes of it that are taken.
    taken: usize,
    pub(super) assembler: Assembler,
}

pub(super) fn count(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get() + amount);
}

impl Reader {
    pub(super) fn new(stream: Stream, assembler: Assembler) -> Reader {
        Reader { stream, arrived: None, taken: 0, assembler }
    }

    /// The header of the next whole message; its body is the assembler's.
    pub(super) async fn next(
        &mut self,
        pool: &BufferPool,
        received: &Received,
    ) -> Result<Header, Ended> {
        loop {
            let Some(arrived) = &mut self.arrived else {
                let arrived = self.stream.recv().await?;
                if arrived.is_empty() {
                    return Err(self.end());
                }
                count(&received.bytes, arrived.len() as u64);
                (self.arrived, self.taken) = (Some(arrived), 0);
                continue;
            };
            let mut rest = &arrived[self.taken..];
            let step = self.assembler.push(&mut rest, pool)?;
            self.taken = arrived.len() - rest.len();
            if self.taken == arrived.len() {
                self.arrived = None;
            }
            match step {
                Step::Whole(header) => {
                    count(&received.messages, 1);
                    return Ok(header);
                }
                Step::More => assert!(self.arrived.is_none(), "everything was taken"),
                Step::NeedsFrame => {
                    count(&received.waits, 1);
                    if let Some(arrived) = &mut self.arrived {
                        arrived.detach();
                    }
                    self.stream.pause_recv();
                    self.assembler.give(pool.take().await);
                }
            }
        }
    }

    /// What has arrived behind the last message. What it has taken of the next one is none of it:
    /// so this is for a connection whose first message was its greeting.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.arrived.map_or_else(Vec::new, |arrived| arrived[self.taken..].to_vec())
    }

    /// As [`Reader::next`], no longer than `limit`.
    pub(super) async fn next_within(
        &mut self,
        limit: Duration,
        what: &'static str,
        pool: &BufferPool,
    ) -> Result<Header, Ended> {
        let received = Received::default();
        timeout(limit, self.next(pool, &received)).await.map_err(|_| Ended::Late(what))?
    }

    /// The stream is at its end.
    fn end(&self) -> Ended {
        match self.assembler.missing() {
            0 => Ended::Closed,
            missing => Fault::Truncated { missing }.into(),
        }
    }
}
