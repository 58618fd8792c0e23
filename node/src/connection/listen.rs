//! The receiving half of a conversation: input in, turns out.
//!
//! What a protocol does with bytes is its [`Consume`]; that they are parsed where they were
//! received if they can be, kept if they are not complete, and left alone while replies are too
//! many, is the same for all.

use std::io;
use std::rc::Rc;

use ioring::RecvBuffer;

use super::input::Input;
use crate::core::Core;
use crate::metrics::Counter;

/// How a connection goes on after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With the next turn.
    Continue,
    /// Not at all: the client or a command ended it.
    Close,
    /// Not at all: what was received is no request.
    Invalid,
}

/// What became of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consumed {
    /// How many of them were used.
    pub(crate) used: usize,
    /// How many of the rest have to be there before the next request can be understood.
    pub(crate) wanted: usize,
    /// How the connection goes on.
    pub(crate) verdict: Verdict,
    /// The rest is not looked at yet: the replies so far have to be sent first.
    pub(crate) paused: bool,
}

/// What a protocol does with what was received.
pub(crate) trait Consume {
    /// Executes the requests in `bytes`; replies go behind what `out` has.
    async fn consume(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Consumed;
}

/// A connection between its turns.
pub(crate) struct Listening<C> {
    core: Rc<Core>,
    input: Input,
    paused: bool,
    consumer: C,
}

impl<C: Consume> Listening<C> {
    /// Nothing has been received.
    pub(crate) fn new(core: Rc<Core>, consumer: C) -> Listening<C> {
        Listening { core, input: Input::default(), paused: false, consumer }
    }

    /// Takes what was received before there was a conversation; its turn comes first.
    pub(crate) fn receive_early(&mut self, early: &[u8]) {
        self.input.keep(early, 0, &self.core.vectors);
        self.paused = !early.is_empty();
    }

    /// Takes a turn on what was received; replies go behind what `out` has.
    pub(super) async fn receive(
        &mut self,
        received: io::Result<RecvBuffer>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let Ok(received) = received else { return Verdict::Close };
        if received.is_empty() {
            return Verdict::Close;
        }
        self.core.metrics.add(Counter::BytesReceived, received.len() as u64);
        if out.capacity() == 0 {
            *out = self.core.vectors.take();
        }
        if self.input.is_empty() {
            let consumed = self.consumer.consume(&received, out).await;
            self.paused = consumed.paused;
            self.input.keep(&received[consumed.used..], consumed.wanted, &self.core.vectors);
            return consumed.verdict;
        }
        let Some(joined) = self.input.join(&received) else { return Verdict::Continue };
        drop(received);
        self.consume_kept(joined, out).await
    }

    /// Whether there is input whose turn has not come because its replies would be too many.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Goes on with the input that a pause has left.
    pub(super) async fn resume(&mut self, out: &mut Vec<u8>) -> Verdict {
        assert!(self.paused, "only what was paused is resumed");
        if out.capacity() == 0 {
            *out = self.core.vectors.take();
        }
        let kept = self.input.take();
        self.consume_kept(kept, out).await
    }

    async fn consume_kept(&mut self, kept: Vec<u8>, out: &mut Vec<u8>) -> Verdict {
        let consumed = self.consumer.consume(&kept, out).await;
        self.paused = consumed.paused;
        self.input.put_back(kept, consumed.used, consumed.wanted, &self.core.vectors);
        consumed.verdict
    }
}
