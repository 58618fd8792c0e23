//! TCP sockets.
//!
//! Receiving is ahead of the caller: the driver keeps a standing request for a socket, bytes land in
//! buffers that belong to the core, and [`Stream::recv`] hands them out in order. Sending takes a
//! vector and gives it back, so that a connection reuses one. All sends of a core's turn go to the
//! kernel in one call.
//!
//! A [`Stream`] is a handle: clones let a reading and a writing task share the socket, which is closed
//! when the last one, and the last operation in flight, is gone.
//!
//! # Bounded memory
//!
//! When a caller does not come back for more, the driver stops receiving after a fixed number of
//! buffers, and the sender's window closes: a connection that is not read costs bounded memory.

mod address;

use std::rc::Rc;

pub(crate) use address::RawAddress;

use crate::driver::{Driver, SocketId};

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Let several cores listen on one address; the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { reuse_port: false, backlog: 1024 }
    }
}

/// Which direction of a connection to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// No more receiving.
    Read,
    /// No more sending: the peer sees the end of the stream.
    Write,
    /// Neither.
    Both,
}

/// A socket as operations in flight hold it; closed when the last of them and the last [`Stream`] or
/// [`Listener`] are gone.
pub(crate) struct SocketHandle {
    pub(crate) id: SocketId,
    driver: Rc<dyn Driver>,
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.driver.close_socket(self.id);
    }
}

/// Bytes received, in a buffer of the core (or of their own), which dropping gives back.
pub struct RecvBuffer {
    bytes: RecvBytes,
}

enum RecvBytes {
    Owned(Vec<u8>),
}

impl RecvBuffer {
    /// Bytes with memory of their own; empty for the end of the stream.
    pub(crate) fn owned(bytes: Vec<u8>) -> RecvBuffer {
        RecvBuffer { bytes: RecvBytes::Owned(bytes) }
    }
}

impl std::ops::Deref for RecvBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            RecvBytes::Owned(bytes) => bytes,
        }
    }
}
