//! The client's protocol over a simulated socket.

use std::net::SocketAddr;
use std::time::Duration;

use client::protocol::{Action, Answer, Failure, Protocol, Ticket};
use ioring::sim::dice::Dice;
use ioring::{Stream, timeout};

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A client, and the connection that it has.
pub(crate) struct Driver {
    pub(crate) protocol: Protocol,
    address: SocketAddr,
    stream: Option<Stream>,
    /// Cuts the connection in so many of a million turns.
    cuts: u32,
    dice: Dice,
}

impl Driver {
    pub(crate) fn new(protocol: Protocol, address: SocketAddr, cuts: u32, seed: u64) -> Driver {
        Driver { protocol, address, stream: None, cuts, dice: Dice::new(seed, "cuts") }
    }

    /// Waits for the next result.
    pub(crate) async fn next(&mut self) -> (Ticket, Result<Answer, Failure>) {
        loop {
            if let Some(result) = self.protocol.next_result() {
                return result;
            }
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        self.protocol.on_time(now());
        while let Some(action) = self.protocol.next_action() {
            match action {
                Action::Disconnect => self.stream = None,
                Action::Connect(_) => self.connect().await,
            }
        }
        if self.protocol.has_results() {
            return;
        }
        if self.stream.is_some() && self.dice.chance(self.cuts) {
            return self.lose();
        }
        let wait = self.protocol.timer().map_or(1_000_000_000, |at| at.saturating_sub(now()));
        let wait = Duration::from_nanos(wait.max(1000));
        let Some(stream) = &self.stream else { return ioring::sleep(wait).await };
        let output = std::mem::take(self.protocol.output());
        if !output.is_empty() && stream.send(output).await.0.is_err() {
            return self.lose();
        }
        match timeout(wait, stream.recv()).await {
            Err(_) => {}
            Ok(Ok(bytes)) if !bytes.is_empty() => {
                self.protocol.on_received(&bytes, now()).expect("the node speaks the protocol");
            }
            Ok(_) => self.lose(),
        }
    }

    async fn connect(&mut self) {
        match timeout(CONNECT_MAX, Stream::connect(self.address)).await {
            Ok(Ok(stream)) => {
                self.stream = Some(stream);
                self.protocol.on_connected(now());
            }
            _ => self.protocol.on_disconnected(now()),
        }
    }

    fn lose(&mut self) {
        self.stream = None;
        self.protocol.on_disconnected(now());
    }
}

fn now() -> u64 {
    ioring::now().as_nanos()
}
