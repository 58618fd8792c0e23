//! What is to be sent to peers: a bounded line of messages, each to one of them.
//!
//! A message is a header alone, a header with a list of prepare headers, or a prepare, whose bytes
//! are shared with the journal. A prepare goes out once to each backup as the log grows, and again
//! to whoever missed it; the two are told apart, so that a driver can keep what is missed, which
//! may be much, from standing in the way of what is new. When the line is full, what is added is
//! dropped: a network may lose any message, and everything that must arrive is sent again until it
//! is answered.

use std::collections::VecDeque;
use std::rc::Rc;

use ioring::Frozen;
use wire::message::Prepare;
use wire::{HEADER_SIZE, Header, Op, ReplicaId};

use crate::journal::{BODY_OFFSET, FRAME_HEADER_SIZE};

/// Messages that may wait to be sent.
const OUTBOX_MAX: usize = 256;

/// A message for a peer.
#[derive(Clone, Debug)]
pub struct Send {
    /// Whom it is for.
    pub to: ReplicaId,
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Body,
}

/// The body of a message.
#[derive(Clone, Debug)]
pub enum Body {
    /// There is none.
    None,
    /// The frame of a prepare of the pipeline, sent for the first time; header and body lie in it
    /// as they are sent.
    Prepare(Frozen),
    /// The frame of a prepare that is sent again: to who asked for it, or has not acknowledged it.
    Repair(Frozen),
    /// Prepare headers, from the highest op down.
    Headers(Rc<[u8]>),
}

impl Send {
    /// The body's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Body::None => &[],
            Body::Prepare(frame) | Body::Repair(frame) => {
                &frame[BODY_OFFSET..BODY_OFFSET + self.header.body_size()]
            }
            Body::Headers(bytes) => bytes,
        }
    }
}

/// The line of messages.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    line: VecDeque<Send>,
    pub(super) dropped: u64,
}

impl Outbox {
    /// A line with room for all that may wait; without peers there is none.
    pub(super) fn new(members: u8) -> Outbox {
        let room = if members > 1 { OUTBOX_MAX } else { 0 };
        Outbox { line: VecDeque::with_capacity(room), dropped: 0 }
    }

    pub(super) fn push(&mut self, to: ReplicaId, header: Header, body: Body) {
        if self.line.len() >= OUTBOX_MAX {
            self.dropped += 1;
            return;
        }
        self.line.push_back(Send { to, header, body });
    }

    pub(super) fn clear(&mut self) {
        self.line.clear();
    }

    pub(super) fn pop(&mut self) -> Option<Send> {
        self.line.pop_front()
    }
}

/// The bytes of a list of prepare headers.
pub(super) fn encode<'a>(headers: impl Iterator<Item = &'a Header>) -> Rc<[u8]> {
    let bytes: Vec<u8> = headers.flat_map(|header| header.bytes()).copied().collect();
    bytes.into()
}

/// The prepare headers in a body, from the highest op down; `None` if they are not that.
pub(super) fn decode(body: &[u8]) -> Option<Vec<Header>> {
    if !body.len().is_multiple_of(HEADER_SIZE) {
        return None;
    }
    let headers = body.chunks_exact(HEADER_SIZE).map(|bytes| Header::verify(bytes).ok());
    let headers = headers.collect::<Option<Vec<_>>>()?;
    let op = |header: &Header| header.tail::<Prepare>().map(|prepare| prepare.op);
    let ops = headers.iter().map(op).collect::<Option<Vec<Op>>>()?;
    ops.is_sorted_by(|a, b| a > b).then_some(headers)
}

/// The prepare's header in a frame.
pub(super) fn frame_header(frame: &[u8]) -> Header {
    Header::verify(&frame[FRAME_HEADER_SIZE..]).expect("a frame was verified when it was made")
}
