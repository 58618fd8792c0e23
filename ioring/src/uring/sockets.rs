//! Sockets of one core: standing requests and what they have brought.
//!
//! A connection that somebody reads has one multishot receive armed; a listener, one multishot
//! accept.
//!
//! ```text
//!            poll, queue empty               queue full, paused, closed
//!  idle ────────────────────────► armed ───────────────────────────────► cancelling
//!   ▲                               │                                        │
//!   └── last completion (no more) ──┴────────────────────────────────────────┘
//! ```
//!
//! 1. Polling an empty queue arms the request if it is idle.
//! 2. Each completion appends to the queue and wakes the reader.
//! 3. A queue that has reached its limit cancels the request; what the reader left in the queue
//!    then moves out of the core's shared buffers, so that readers who do not read starve nobody
//!    else.
//! 4. A receive that finds no buffer ends; if somebody waits for it, its socket stands in line
//!    (`starved`) for one to come back. If none does in a whole turn, those that still lie unread
//!    are emptied into memory of their own, which is bounded by the limit of 3.
//! 5. Closing cancels the request, and the descriptor is closed after the last completion, so that
//!    no completion ever meets the next socket in the slot.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Poll, Waker};

use io_uring::{cqueue, opcode, squeue, types};

use super::provided::{GROUP, Provided};
use super::socket_calls;
use crate::net::RecvBuffer;
use std::rc::Rc;

/// Buffers that one connection may have waiting for its reader.
const RECEIVED_MAX: usize = 8;

/// Connections that may wait to be taken by `accept`.
const ACCEPTED_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Idle,
    Armed,
    Cancelling,
}

/// What is left when the queue is empty.
enum End {
    /// The stream goes on.
    Open,
    /// The peer sends no more.
    Eof,
    /// To be reported once; then it is as at the end of the stream.
    Failed(i32),
}

enum Kind {
    Listener { accepted: VecDeque<i32> },
    Stream { received: VecDeque<RecvBuffer> },
}

struct Socket {
    descriptor: i32,
    generation: u32,
    arm: Arm,
    end: End,
    waker: Option<Waker>,
    closing: bool,
    kind: Kind,
}

/// What a request is for; in its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// All sockets of one core.
pub(super) struct Sockets {
    /// Whether one receive serves many arrivals (Linux 6.0); else each is asked for again.
    multishot_receive: bool,
    slots: Vec<Option<Socket>>,
    free: Vec<u32>,
    generation_last: u32,
    starved: VecDeque<SocketKey>,
    pub(super) starved_count: u64,
    pub(super) paused_count: u64,
}

/// Generations have 28 bits in user data.
const GENERATION_MASK: u32 = (1 << 28) - 1;

/// A request that a change of state asks for.
pub(super) enum Ask {
    Nothing,
    Arm(squeue::Entry, SocketKey),
    Cancel(SocketKey),
}

impl Sockets {
    pub(super) fn new(multishot_receive: bool) -> Sockets {
        Sockets {
            multishot_receive,
            slots: Vec::new(),
            free: Vec::new(),
            generation_last: 0,
            starved: VecDeque::new(),
            starved_count: 0,
            paused_count: 0,
        }
    }

    fn insert(&mut self, descriptor: i32, kind: Kind) -> u32 {
        self.generation_last = (self.generation_last + 1) & GENERATION_MASK;
        let generation = self.generation_last;
        let (arm, end, waker, closing) = (Arm::Idle, End::Open, None, false);
        let socket = Socket { descriptor, generation, arm, end, waker, closing, kind };
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(socket);
            return slot;
        }
        self.slots.push(Some(socket));
        u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 sockets")
    }

    pub(super) fn insert_listener(&mut self, descriptor: i32) -> u32 {
        self.insert(descriptor, Kind::Listener { accepted: VecDeque::new() })
    }

    pub(super) fn insert_stream(&mut self, descriptor: i32) -> u32 {
        self.insert(descriptor, Kind::Stream { received: VecDeque::new() })
    }

    fn get(&mut self, slot: u32) -> &mut Socket {
        self.slots[slot as usize].as_mut().expect("a handle keeps its socket")
    }

    pub(super) fn descriptor(&self, slot: u32) -> i32 {
        self.slots[slot as usize].as_ref().expect("a handle keeps its socket").descriptor
    }

    /// Sockets that exist, those that are being closed included.
    pub(super) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The next bytes of a stream, or what has to be asked of the kernel for them.
    pub(super) fn poll_receive(
        &mut self,
        slot: u32,
        waker: &Waker,
    ) -> (Poll<io::Result<RecvBuffer>>, Ask) {
        let socket = self.get(slot);
        let Kind::Stream { received } = &mut socket.kind else {
            unreachable!("receiving from a listener");
        };
        if let Some(bytes) = received.pop_front() {
            return (Poll::Ready(Ok(bytes)), Ask::Nothing);
        }
        match socket.end {
            End::Eof => return (Poll::Ready(Ok(RecvBuffer::owned(Vec::new()))), Ask::Nothing),
            End::Failed(code) => {
                socket.end = End::Eof;
                return (Poll::Ready(Err(io::Error::from_raw_os_error(code))), Ask::Nothing);
            }
            End::Open => {}
        }
        remember(&mut socket.waker, waker);
        (Poll::Pending, self.arm(slot))
    }

    /// The descriptor of the next connection, or what has to be asked of the kernel for it.
    pub(super) fn poll_accept(&mut self, slot: u32, waker: &Waker) -> (Poll<io::Result<i32>>, Ask) {
        let socket = self.get(slot);
        let Kind::Listener { accepted } = &mut socket.kind else {
            unreachable!("accepting on a stream");
        };
        if let Some(descriptor) = accepted.pop_front() {
            return (Poll::Ready(Ok(descriptor)), Ask::Nothing);
        }
        if let End::Failed(code) = socket.end {
            // A listener lives on: descriptors may have run out for the moment.
            socket.end = End::Open;
            return (Poll::Ready(Err(io::Error::from_raw_os_error(code))), Ask::Nothing);
        }
        remember(&mut socket.waker, waker);
        (Poll::Pending, self.arm(slot))
    }

    /// Arms the standing request if it is idle and nobody is in line for buffers with it.
    fn arm(&mut self, slot: u32) -> Ask {
        let multishot = self.multishot_receive;
        let socket = self.get(slot);
        if socket.arm != Arm::Idle || socket.closing {
            return Ask::Nothing;
        }
        let key = SocketKey { slot, generation: socket.generation };
        let descriptor = types::Fd(socket.descriptor);
        let entry = match socket.kind {
            Kind::Listener { .. } => {
                opcode::AcceptMulti::new(descriptor).flags(libc::SOCK_CLOEXEC).build()
            }
            Kind::Stream { .. } if multishot => opcode::RecvMulti::new(descriptor, GROUP).build(),
            Kind::Stream { .. } => opcode::Recv::new(descriptor, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        socket.arm = Arm::Armed;
        Ask::Arm(entry, key)
    }

    fn cancel(&mut self, slot: u32) -> Ask {
        let socket = self.get(slot);
        if socket.arm != Arm::Armed {
            return Ask::Nothing;
        }
        socket.arm = Arm::Cancelling;
        Ask::Cancel(SocketKey { slot, generation: socket.generation })
    }

    /// Stops asking for more until the next poll.
    pub(super) fn pause(&mut self, slot: u32) -> Ask {
        let ask = self.cancel(slot);
        let socket = self.get(slot);
        socket.waker = None;
        if socket.arm == Arm::Idle {
            detach(socket);
        }
        ask
    }

    /// Takes a completion of a standing request. Gives the waker of whoever waits for it.
    pub(super) fn complete(
        &mut self,
        key: SocketKey,
        completion: &cqueue::Entry,
        provided: &Rc<Provided>,
    ) -> (Option<Waker>, Ask) {
        let (result, flags) = (completion.result(), completion.flags());
        let socket = self.get(key.slot);
        assert_eq!(socket.generation, key.generation, "a completion of a socket of the past");
        let bytes = cqueue::buffer_select(flags)
            .map(|id| provided.take(id, usize::try_from(result).unwrap_or(0)));
        if !cqueue::more(flags) {
            socket.arm = Arm::Idle;
        }
        match &mut socket.kind {
            Kind::Listener { accepted } if result >= 0 => accepted.push_back(result),
            Kind::Stream { received } if result > 0 => {
                let bytes = bytes.expect("bytes arrive in a provided buffer");
                received.push_back(RecvBuffer::provided(bytes));
            }
            Kind::Stream { .. } if result == 0 => socket.end = End::Eof,
            _ if result == -libc::ECANCELED => {}
            Kind::Stream { .. } if result == -libc::ENOBUFS && socket.waker.is_none() => {}
            Kind::Stream { .. } if result == -libc::ENOBUFS => {
                self.starved_count += 1;
                // In line, it counts as armed: polling it does not ask again.
                self.get(key.slot).arm = Arm::Armed;
                self.starved.push_back(key);
                return (None, Ask::Nothing);
            }
            _ => socket.end = End::Failed(-result),
        }
        self.after_completion(key.slot)
    }

    fn after_completion(&mut self, slot: u32) -> (Option<Waker>, Ask) {
        let socket = self.get(slot);
        if socket.closing {
            if socket.arm == Arm::Idle {
                self.remove(slot);
            }
            return (None, Ask::Nothing);
        }
        let (waiting, limit) = match &socket.kind {
            Kind::Listener { accepted } => (accepted.len(), ACCEPTED_MAX),
            Kind::Stream { received } => (received.len(), RECEIVED_MAX),
        };
        let has_news = waiting > 0 || !matches!(socket.end, End::Open);
        if !has_news && socket.waker.is_some() {
            // It ended for no reason of the stream's, and somebody waits.
            return (None, self.arm(slot));
        }
        let waker = socket.waker.take();
        if waiting < limit {
            return (waker, Ask::Nothing);
        }
        if socket.arm == Arm::Idle && waker.is_none() {
            detach(socket);
        }
        let ask = self.cancel(slot);
        if matches!(ask, Ask::Cancel(_)) {
            self.paused_count += 1;
        }
        (waker, ask)
    }

    /// Arms the receives that ended for want of buffers, now that some are back.
    pub(super) fn feed_starved(&mut self) -> Option<Ask> {
        let key = self.starved.pop_front()?;
        let socket = self.slots[key.slot as usize].as_mut();
        let Some(socket) = socket.filter(|socket| socket.generation == key.generation) else {
            return Some(Ask::Nothing);
        };
        socket.arm = Arm::Idle;
        if socket.closing {
            self.remove(key.slot);
            return Some(Ask::Nothing);
        }
        Some(self.arm(key.slot))
    }

    /// Takes the core's buffers back from readers who do not read.
    pub(super) fn detach_unread(&mut self) {
        self.slots.iter_mut().flatten().for_each(detach);
    }

    /// Whether sockets are in line for buffers.
    pub(super) fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// Closes a socket, now or after the last completion of its request.
    pub(super) fn close(&mut self, slot: u32) -> Ask {
        let socket = self.get(slot);
        let generation = socket.generation;
        socket.closing = true;
        socket.waker = None;
        if let Kind::Stream { received } = &mut socket.kind {
            received.clear();
        }
        let in_line = self.starved.iter().position(|key| key.generation == generation);
        if let Some(place) = in_line {
            self.starved.remove(place);
            self.get(slot).arm = Arm::Idle;
        }
        if self.get(slot).arm == Arm::Idle {
            self.remove(slot);
            return Ask::Nothing;
        }
        self.cancel(slot)
    }

    /// Gives up a connection that was never received from.
    pub(super) fn release(&mut self, slot: u32) -> OwnedFd {
        let socket = self.slots[slot as usize].take().expect("a handle keeps its socket");
        assert!(socket.arm == Arm::Idle && matches!(socket.kind, Kind::Stream { .. }));
        self.free.push(slot);
        socket_calls::owned(socket.descriptor)
    }

    fn remove(&mut self, slot: u32) {
        let socket = self.slots[slot as usize].take().expect("removed once");
        if let Kind::Listener { accepted } = &socket.kind {
            accepted.iter().for_each(|descriptor| socket_calls::close(*descriptor));
        }
        socket_calls::close(socket.descriptor);
        self.free.push(slot);
    }

    pub(super) fn peer(&self, slot: u32) -> io::Result<SocketAddr> {
        socket_calls::peer_address(self.descriptor(slot))
    }
}

/// Moves what waits for a reader that does not come out of the shared buffers.
fn detach(socket: &mut Socket) {
    if let Kind::Stream { received } = &mut socket.kind {
        received.iter_mut().for_each(RecvBuffer::detach);
    }
}

fn remember(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
