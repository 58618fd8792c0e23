//! One end of a connection: what arrived, what waits, what travels to the other end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::Waker;

use super::Socket;
use crate::sim::state::OpKey;

pub(super) enum Packet {
    Data(Vec<u8>),
    Fin,
    Reset,
}

/// A send that waits for room.
pub(super) struct Waiting {
    pub(super) key: OpKey,
    pub(super) data: Vec<u8>,
}

/// One end of a connection.
pub(super) struct End {
    pub(super) node: usize,
    pub(super) local: SocketAddr,
    /// The other end; gone when that was closed or its node died.
    pub(super) peer: Option<Socket>,
    pub(super) peer_node: usize,
    pub(super) connected: bool,
    /// An error that every further use meets.
    pub(super) broken: Option<i32>,
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) arrived_bytes: usize,
    pub(super) end_of_stream: bool,
    pub(super) read_closed: bool,
    pub(super) write_closed: bool,
    /// The program closed it; it lives on until what it sent is delivered.
    pub(super) closed: bool,
    pub(super) receiver: Option<Waker>,
    pub(super) waiting: VecDeque<Waiting>,
    /// What travels from here to the peer.
    pub(super) transit: VecDeque<(u64, Packet)>,
    pub(super) transit_bytes: usize,
    pub(super) retries: u32,
    pub(super) blocked_since: Option<u64>,
    /// Silence of the other host that the program bears; none: as the network says.
    pub(super) silence_max: Option<u64>,
    /// Since when the other host has not answered the question whether it is there.
    pub(super) silent_since: Option<u64>,
}

impl End {
    pub(super) fn new(node: usize, local: SocketAddr) -> End {
        End {
            node,
            local,
            peer: None,
            peer_node: node,
            connected: false,
            broken: None,
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            end_of_stream: false,
            read_closed: false,
            write_closed: false,
            closed: false,
            receiver: None,
            waiting: VecDeque::new(),
            transit: VecDeque::new(),
            transit_bytes: 0,
            retries: 0,
            blocked_since: None,
            silence_max: None,
            silent_since: None,
        }
    }

    pub(super) fn unread(&self) -> usize {
        self.arrived_bytes
    }
}
