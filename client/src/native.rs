//! A blocking client of the native protocol: one thread, one connection at a time.
//!
//! The protocol itself is [`crate::protocol`]; what is here moves its bytes. A wait for a result
//! reads from the socket until the protocol has it, with the protocol's timer as the time limit;
//! broken connections and the next address are the protocol's to think of, so a caller sees results
//! and no connections.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use wire::ClientId;

use crate::protocol::{Action, Answer, Body, Failure, Nanoseconds, Options, Protocol, Ticket};

/// How much is read from the socket at once.
const READ_SIZE: usize = 64 << 10;
/// The shortest time limit that a socket takes for one.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A client of a cluster.
#[derive(Debug)]
pub struct Client {
    addresses: Vec<String>,
    protocol: Protocol,
    stream: Option<TcpStream>,
    started: Instant,
    patience: Duration,
    /// Results of requests that nobody has waited for yet.
    results: HashMap<Ticket, Result<Answer, Failure>>,
    buffer: Vec<u8>,
}

impl Client {
    /// A client of the cluster at these addresses (`host:port`). It connects with the first
    /// request.
    ///
    /// # Panics
    /// Without an address.
    #[must_use]
    pub fn new(addresses: Vec<String>, seed: u64) -> Client {
        let options = Options::new(addresses.len(), seed);
        Client::with_options(addresses, options)
    }

    /// The same with other options.
    ///
    /// # Panics
    /// If these are for another number of addresses.
    #[must_use]
    pub fn with_options(addresses: Vec<String>, options: Options) -> Client {
        assert_eq!(addresses.len(), options.addresses, "an address for each number");
        Client {
            patience: Duration::from_nanos(options.patience),
            addresses,
            protocol: Protocol::new(options, 0),
            stream: None,
            started: Instant::now(),
            results: HashMap::new(),
            buffer: vec![0; READ_SIZE],
        }
    }

    /// Submits a request whose result is to be there within `limit`; several may be.
    pub fn submit(&mut self, body: Body, limit: Duration) -> Ticket {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let deadline = self.now().saturating_add(limit);
        self.protocol.submit(body, deadline)
    }

    /// Waits for the result of a request. Each has one: it is to be waited for once.
    ///
    /// # Errors
    /// [`Failure`], saying whether it may have happened.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Answer, Failure> {
        loop {
            while let Some((done, result)) = self.protocol.next_result() {
                self.results.insert(done, result);
            }
            if let Some(result) = self.results.remove(&ticket) {
                return result;
            }
            self.step();
        }
    }

    /// Submits a request and waits for its result.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn call(&mut self, body: Body, limit: Duration) -> Result<Answer, Failure> {
        let ticket = self.submit(body, limit);
        self.wait(ticket)
    }

    /// The session, if one is open.
    #[must_use]
    pub fn session(&self) -> Option<ClientId> {
        self.protocol.session()
    }

    fn now(&self) -> Nanoseconds {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Does what is to be done, or waits until something happens.
    fn step(&mut self) {
        let now = self.now();
        self.protocol.on_time(now);
        while let Some(action) = self.protocol.next_action() {
            match action {
                Action::Disconnect => self.stream = None,
                Action::Connect(address) => {
                    self.stream = connect(&self.addresses[address], self.patience).ok();
                    let now = self.now();
                    match self.stream {
                        Some(_) => self.protocol.on_connected(now),
                        None => self.protocol.on_disconnected(now),
                    }
                }
            }
        }
        if self.protocol.has_results() {
            return;
        }
        let left = self.protocol.timer().map_or(self.patience, |timer| {
            Duration::from_nanos(timer.saturating_sub(self.now())).min(self.patience)
        });
        let left = left.max(WAIT_MIN);
        if self.stream.is_none() {
            return std::thread::sleep(left);
        }
        if let Err(error) = self.exchange(left)
            && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.stream = None;
            let now = self.now();
            self.protocol.on_disconnected(now);
        }
    }

    /// Writes what is to be written, and reads what has arrived.
    fn exchange(&mut self, left: Duration) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let output = self.protocol.output();
        if !output.is_empty() {
            // Half of it written is a connection that is of no more use.
            stream.write_all(output).map_err(|_| io::ErrorKind::BrokenPipe)?;
            output.clear();
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut self.buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = self.now();
        // What is wrong with it the protocol has drawn its conclusions from.
        let _ = self.protocol.on_received(&self.buffer[..read], now);
        Ok(())
    }
}

fn connect(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, limit.max(WAIT_MIN)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(limit.max(WAIT_MIN)))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
