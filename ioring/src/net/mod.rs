//! TCP sockets.
//!
//! Receiving is ahead of the caller: the driver keeps a standing request for a socket, bytes land
//! in buffers that belong to the core, and [`Stream::recv`] hands them out in order. Sending takes
//! a vector and gives it back, so that a connection reuses one. All sends of a core's turn go to
//! the kernel in one call.
//!
//! A [`Stream`] is a handle: clones let a reading and a writing task share the socket, which is
//! closed when the last one, and the last operation in flight, is gone.
//!
//! # Bounded memory
//!
//! When a caller does not come back for more, the driver stops receiving after a fixed number of
//! buffers, and the sender's window closes: a connection that is not read costs bounded memory.

mod address;
mod receive;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use address::RawAddress;
pub use receive::RecvBuffer;

use crate::buffer::Frozen;
use crate::clock::sleep;
use crate::core::Core;
use crate::driver::{Driver, Operation, Released, SocketId};
use crate::operation::InFlight;

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

/// A socket as operations in flight hold it; closed when the last of them and the last [`Stream`]
/// or [`Listener`] are gone.
pub(crate) struct SocketHandle {
    pub(crate) id: SocketId,
    driver: Rc<dyn Driver>,
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.driver.close_socket(self.id);
    }
}

/// How long accepting rests after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Accepts connections on an address.
pub struct Listener {
    handle: Rc<SocketHandle>,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens; port 0 means any. Blocks while the address is still held by a process
    /// that has just died, for up to five seconds: for start-up.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<Listener> {
        let driver = Core::with(|core| core.driver.clone());
        let (id, bound) = driver.listen(address, &options).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Listener { handle: Rc::new(SocketHandle { id, driver }), address: bound })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. One task at a time waits.
    ///
    /// # Errors
    /// Mostly that descriptors or memory ran out. The listener goes on: try again. The error comes
    /// after a pause, so that trying again does not keep the core busy.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (id, peer) = self.next().await?;
        Ok(Stream::new(id, self.handle.driver.clone(), peer))
    }

    /// The next connection, for whichever core of this process adopts it.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub async fn accept_for_any(&self) -> io::Result<Accepted> {
        let (id, peer) = self.next().await?;
        Ok(Accepted { socket: self.handle.driver.release_socket(id), peer })
    }

    async fn next(&self) -> io::Result<(SocketId, SocketAddr)> {
        let handle = &self.handle;
        let accepted = poll_fn(|context| handle.driver.poll_accept(handle.id, context.waker()));
        let accepted = accepted.await;
        if accepted.is_err() {
            sleep(ACCEPT_PAUSE).await;
        }
        accepted
    }
}

/// A connection on its way from the core that accepted it to the core that will serve it. Dropped
/// on the way, it is closed.
pub struct Accepted {
    socket: Released,
    peer: SocketAddr,
}

impl Accepted {
    /// Makes it a connection of this core.
    ///
    /// # Panics
    /// On a thread without a runtime, or of another runtime than the one that accepted it.
    pub fn adopt(self) -> Stream {
        let driver = Core::with(|core| core.driver.clone());
        let id = driver.adopt_socket(self.socket);
        Stream::new(id, driver, self.peer)
    }
}

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Stream {
    handle: Rc<SocketHandle>,
    peer: SocketAddr,
}

impl Stream {
    fn new(id: SocketId, driver: Rc<dyn Driver>, peer: SocketAddr) -> Stream {
        Stream { handle: Rc::new(SocketHandle { id, driver }), peer }
    }

    /// Connects. Small writes are sent at once (no Nagle).
    pub async fn connect(address: SocketAddr) -> io::Result<Stream> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
        };
        let driver = Core::with(|core| core.driver.clone());
        let id = driver.open_socket(address).map_err(named)?;
        let stream = Stream::new(id, driver, address);
        let (socket, address) = (stream.handle.clone(), Box::new(RawAddress::new(address)));
        let (result, _) = InFlight::submit(Operation::Connect { socket, address }).await;
        if result < 0 {
            return Err(named(io::Error::from_raw_os_error(-result)));
        }
        Ok(stream)
    }

    /// The next bytes; empty at the end of the stream. Dropping the future loses nothing. One task
    /// at a time waits.
    pub async fn recv(&self) -> io::Result<RecvBuffer> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// As [`Stream::recv`], for hand-written futures.
    pub fn poll_recv(&self, context: &mut Context<'_>) -> Poll<io::Result<RecvBuffer>> {
        self.handle.driver.poll_receive(self.handle.id, context.waker())
    }

    /// Stops receiving ahead of the caller: what has arrived is kept, the peer's window closes.
    /// The next [`Stream::recv`] starts it again.
    pub fn pause_recv(&self) {
        self.handle.driver.pause_receive(self.handle.id);
    }

    /// Sends everything and gives the vector back as it was. If the future is dropped, how much was
    /// sent is unknown. One task at a time sends.
    pub async fn send(&self, data: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let (mut data, mut sent) = (data, 0);
        while sent < data.len() {
            let socket = self.handle.clone();
            let request = Operation::Send { socket, data, sent };
            let (result, operation) = InFlight::submit(request).await;
            let Operation::Send { data: returned, .. } = operation else {
                unreachable!("a send comes back as a send");
            };
            data = returned;
            match send_result(result) {
                Ok(count) => sent += count,
                Err(error) => return (Err(error), data),
            }
        }
        (Ok(()), data)
    }

    /// Sends shared bytes, without a copy on this side, in order; gives the emptied vector back.
    /// One task at a time sends.
    pub async fn send_frozen(&self, parts: Vec<Frozen>) -> (io::Result<()>, Vec<Frozen>) {
        let (mut parts, mut first, mut sent) = (parts, 0, 0);
        loop {
            while first < parts.len() && sent >= parts[first].len() {
                sent -= parts[first].len();
                first += 1;
            }
            if first == parts.len() {
                parts.clear();
                return (Ok(()), parts);
            }
            let socket = self.handle.clone();
            let request = Operation::SendFrozen { socket, parts, first, sent };
            let (result, operation) = InFlight::submit(request).await;
            let Operation::SendFrozen { parts: returned, .. } = operation else {
                unreachable!("a send comes back as a send");
            };
            parts = returned;
            match send_result(result) {
                Ok(count) => sent += count,
                Err(error) => {
                    parts.clear();
                    return (Err(error), parts);
                }
            }
        }
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, side: Side) -> io::Result<()> {
        self.handle.driver.shutdown(self.handle.id, side)
    }

    /// Gives the connection up, with an error to whoever sends or receives, once for about this
    /// long the other end has not taken what was sent, or, on a connection without traffic, its
    /// kernel has not answered the question whether it is still there. At least a second.
    pub fn set_silence_max(&self, limit: Duration) -> io::Result<()> {
        self.handle.driver.set_silence_max(self.handle.id, limit)
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

/// Bytes taken; interruptions count as none.
fn send_result(result: i32) -> io::Result<usize> {
    if result >= 0 {
        return Ok(result as usize);
    }
    if result == -libc::EINTR || result == -libc::EAGAIN {
        return Ok(0);
    }
    Err(io::Error::from_raw_os_error(-result))
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.peer)
    }
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accepted({})", self.peer)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}
