//! A blocking connection with deadlines: one address, one socket, replies in request order.
//!
//! 1. [`Connection::connect`] resolves the address and tries each result until the deadline.
//! 2. [`Connection::send`] queues a request; [`Connection::receive`] writes what is queued and
//!    waits for the next reply. Several requests may be outstanding: that is pipelining.
//! 3. After an I/O or protocol error the connection is of no more use: whether the requests that
//!    were outstanding took effect is unknown, and the error says so.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::resp::{MalformedReply, Reply, parse_reply, push_request};

/// How much is read from the socket at once.
const READ_SIZE: usize = 64 << 10;

/// What can go wrong between a client and a node.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answered at the address before the deadline.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// As given by the caller.
        address: String,
        /// Of the last attempt.
        source: io::Error,
    },
    /// The connection broke or the deadline passed; outstanding writes may have happened.
    #[error(
        "connection to {address} lost with {outstanding} requests outstanding, \
         which may or may not have happened: {source}"
    )]
    Lost {
        /// As given by the caller.
        address: String,
        /// Requests sent and not answered.
        outstanding: usize,
        /// What the socket said.
        source: io::Error,
    },
    /// The peer does not speak RESP.
    #[error("{address} answered with something else: {source}")]
    Malformed {
        /// As given by the caller.
        address: String,
        /// What was wrong.
        source: MalformedReply,
    },
}

/// A connection to one node.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    input_start: usize,
    outstanding: usize,
}

impl Connection {
    /// Connects to `host:port`; `timeout` bounds the attempt and, later, each wait for a reply.
    pub fn connect(address: &str, timeout: Duration) -> Result<Connection, ClientError> {
        let failed = |source| ClientError::Connect { address: address.to_owned(), source };
        let deadline = Instant::now() + timeout;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(failed)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                last = io::Error::from(io::ErrorKind::TimedOut);
                break;
            }
            match TcpStream::connect_timeout(&candidate, left) {
                Ok(stream) => return Connection::over(stream, address, timeout).map_err(failed),
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    fn over(stream: TcpStream, address: &str, timeout: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection {
            address: address.to_owned(),
            stream,
            output: Vec::new(),
            input: Vec::new(),
            input_start: 0,
            outstanding: 0,
        })
    }

    /// Queues one request; it leaves with the next [`flush`](Self::flush) or
    /// [`receive`](Self::receive).
    pub fn send<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        push_request(&mut self.output, arguments);
        self.outstanding += 1;
    }

    /// Requests sent or queued that have no reply yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Writes what is queued.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let written = self.stream.write_all(&self.output);
        self.output.clear();
        written.map_err(|source| self.lost(source))
    }

    /// Waits for the reply to the oldest outstanding request.
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        if !self.output.is_empty() {
            self.flush()?;
        }
        loop {
            match parse_reply(&self.input[self.input_start..]) {
                Ok(Some((reply, size))) => {
                    self.input_start += size;
                    self.outstanding = self.outstanding.saturating_sub(1);
                    return Ok(reply);
                }
                Ok(None) => self.fill()?,
                Err(source) => {
                    return Err(ClientError::Malformed { address: self.address.clone(), source });
                }
            }
        }
    }

    /// One request, one reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Reply, ClientError> {
        self.send(arguments);
        self.receive()
    }

    fn fill(&mut self) -> Result<(), ClientError> {
        self.input.drain(..self.input_start);
        self.input_start = 0;
        let filled = self.input.len();
        self.input.resize(filled + READ_SIZE, 0);
        let read = self.stream.read(&mut self.input[filled..]);
        self.input.truncate(filled + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Err(self.lost(io::Error::from(io::ErrorKind::UnexpectedEof))),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, source: io::Error) -> ClientError {
        let outstanding = self.outstanding;
        ClientError::Lost { address: self.address.clone(), outstanding, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn replies_come_in_order_however_they_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0u8; 64];
            assert!(socket.read(&mut request).unwrap() > 0);
            for byte in b"+OK\r\n$3\r\nabc\r\n" {
                socket.write_all(&[*byte]).unwrap();
            }
        });
        let mut connection = Connection::connect(&address, SECOND).unwrap();
        connection.send(&["SET", "k", "abc"]);
        connection.send(&["GET", "k"]);
        assert_eq!(connection.receive().unwrap(), Reply::Simple("OK".into()));
        assert_eq!(connection.receive().unwrap(), Reply::Bulk(b"abc".to_vec()));
        server.join().unwrap();
        connection.send(&["PING"]);
        match connection.receive() {
            Err(ClientError::Lost { outstanding, .. }) => assert_eq!(outstanding, 1),
            other => panic!("a closed connection must be named: {other:?}"),
        }
    }

    #[test]
    fn an_address_without_a_listener_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Connection::connect(&address, SECOND).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }
}
