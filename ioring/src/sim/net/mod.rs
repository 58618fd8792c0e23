//! A network in memory: listeners, connections, and what can happen to them.
//!
//! ```text
//!   send ──► waiting (no window) ──► in transit ──► arrived ──► receive
//!            on the sender            a queue per direction,    on the receiver
//!                                     first in, first out
//! ```
//!
//! 1. Each node is a host with one address, `10.0.0.(n + 1)`; `127.0.0.1` is the node itself.
//! 2. Bytes taken by a send are cut into segments of drawn sizes, each with a drawn delay, so that
//!    receives are short and arbitrary. A direction holds at most a window of bytes in transit and
//!    unread: a reader that does not read stops its sender, and memory stays bounded.
//! 3. At its time the first segment of a direction arrives, unless the link is blocked: then it is
//!    tried again a retransmission later, and everything behind it waits. After `give_up` the
//!    sender's connection fails.
//! 4. The end of a stream (`Fin`) and a reset travel in the same queue; a reset overtakes nothing.
//! 5. The connections of a process that dies are closed by its kernel: in order, or with a reset if
//!    it left bytes unread. A host without power is silent; once it is up again it answers unknown
//!    connections with a reset.
//!
//! Nothing here knows of tasks: operations are named by an [`OpKey`], their results are collected
//! in a list, and receivers leave a waker. Times are nanoseconds since the world began.

mod control;
mod end;
mod link;
#[cfg(test)]
mod tests;
mod weather;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Poll, Waker};

use crate::sim::dice::Dice;
use crate::sim::state::OpKey;
use end::{End, Packet, Waiting};
use link::Links;
pub use link::NetConfig;
pub use weather::{Disturbance, Weather};

/// Questions to a silent host within the silence that a program bears.
const PROBES: u64 = 4;

/// A listener or a connection's end.
pub(crate) type Socket = i32;

struct Listener {
    node: usize,
    address: SocketAddr,
    reuse_port: bool,
    backlog: usize,
    queue: VecDeque<(Socket, SocketAddr)>,
    waker: Option<Waker>,
}

struct Attempt {
    key: OpKey,
    target: SocketAddr,
    since: u64,
    retries: u32,
}

enum Due {
    /// The head of an end's transit queue may arrive.
    Deliver(Socket),
    /// A connection request reaches its target.
    Connect(Socket),
    /// The answer to a connection request is back.
    Connected(Socket, OpKey, i32),
    /// The weather changes.
    Weather,
    /// An end asks whether the other host is still there.
    Probe(Socket),
}

/// The network of a world.
pub struct SimNet {
    seed: u64,
    /// When it was last advanced.
    now: u64,
    links: Links,
    dice: Dice,
    listeners: BTreeMap<Socket, Listener>,
    ends: BTreeMap<Socket, End>,
    attempts: BTreeMap<Socket, Attempt>,
    due: BTreeMap<(u64, u64), Due>,
    sequence: u64,
    next_socket: Socket,
    next_port: u16,
    hosts_down: BTreeSet<usize>,
    done: Vec<(OpKey, i32)>,
}

impl SimNet {
    pub(crate) fn new(config: NetConfig, seed: u64) -> SimNet {
        SimNet {
            seed,
            now: 0,
            links: Links::new(config),
            dice: Dice::new(seed, "net"),
            listeners: BTreeMap::new(),
            ends: BTreeMap::new(),
            attempts: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            next_socket: 1,
            next_port: 32_768,
            hosts_down: BTreeSet::new(),
            done: Vec::new(),
        }
    }

    /// The address of a node's host.
    pub fn host(node: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, (node / 250) as u8, (node % 250 + 1) as u8))
    }

    fn node_of(from: usize, address: SocketAddr) -> Option<usize> {
        match address.ip() {
            ip if ip.is_loopback() || ip.is_unspecified() => Some(from),
            IpAddr::V4(ip) => match ip.octets() {
                [10, 0, high, low] if low > 0 => {
                    Some(usize::from(high) * 250 + usize::from(low) - 1)
                }
                _ => None,
            },
            IpAddr::V6(_) => None,
        }
    }

    fn socket(&mut self) -> Socket {
        self.next_socket += 1;
        self.next_socket
    }

    fn port(&mut self) -> u16 {
        self.next_port = if self.next_port == u16::MAX { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    fn at(&mut self, time: u64, due: Due) {
        self.sequence += 1;
        self.due.insert((time, self.sequence), due);
    }

    // ---- a node's life ----

    /// A node's process is gone. Without power its host is silent, otherwise its kernel closes.
    pub(crate) fn node_gone(&mut self, now: u64, node: usize, host_down: bool) {
        let listening: Vec<Socket> =
            self.listeners.iter().filter(|(_, l)| l.node == node).map(|(s, _)| *s).collect();
        for listener in listening {
            self.close(now, listener);
        }
        self.attempts.retain(|_, attempt| attempt.key.node != node);
        if host_down {
            self.hosts_down.insert(node);
        }
        let own: Vec<Socket> =
            self.ends.iter().filter(|(_, e)| e.node == node).map(|(s, _)| *s).collect();
        for socket in own {
            if let Some(end) = self.ends.get_mut(&socket) {
                end.receiver = None;
                end.waiting.clear();
            }
            if host_down {
                self.forget(socket);
            } else {
                self.close(now, socket);
            }
        }
        self.done.retain(|(key, _)| key.node != node);
    }

    /// A node's host is up (again).
    pub(crate) fn host_up(&mut self, node: usize) {
        self.hosts_down.remove(&node);
    }

    // ---- sockets ----

    pub(crate) fn listen(
        &mut self,
        node: usize,
        address: SocketAddr,
        reuse_port: bool,
        backlog: u32,
    ) -> io::Result<(Socket, SocketAddr)> {
        if SimNet::node_of(node, address) != Some(node) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut address = address;
        if address.port() == 0 {
            address.set_port(self.port());
        }
        let same = |l: &&Listener| l.node == node && l.address.port() == address.port();
        if self.listeners.values().filter(same).any(|l| !(l.reuse_port && reuse_port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = self.socket();
        let backlog = backlog.max(1) as usize;
        let queue = VecDeque::new();
        let listener = Listener { node, address, reuse_port, backlog, queue, waker: None };
        self.listeners.insert(socket, listener);
        Ok((socket, address))
    }

    pub(crate) fn poll_accept(
        &mut self,
        listener: Socket,
        waker: &Waker,
    ) -> Poll<io::Result<(Socket, SocketAddr)>> {
        let Some(listener) = self.listeners.get_mut(&listener) else {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EBADF)));
        };
        match listener.queue.pop_front() {
            Some(accepted) => Poll::Ready(Ok(accepted)),
            None => {
                listener.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    pub(crate) fn open_socket(&mut self, node: usize) -> Socket {
        let socket = self.socket();
        let local = SocketAddr::new(SimNet::host(node), self.port());
        self.ends.insert(socket, End::new(node, local));
        socket
    }

    pub(crate) fn connect(&mut self, now: u64, socket: Socket, target: SocketAddr, key: OpKey) {
        let attempt = Attempt { key, target, since: now, retries: 0 };
        self.attempts.insert(socket, attempt);
        let from = self.ends[&socket].node;
        let to = SimNet::node_of(from, target).unwrap_or(from);
        let arrival = self.links.arrival(now, from, to, 0, &mut self.dice);
        self.at(arrival, Due::Connect(socket));
    }

    fn connect_arrives(&mut self, now: u64, socket: Socket) {
        let Some(attempt) = self.attempts.get_mut(&socket) else { return };
        let from = self.ends[&socket].node;
        let Some(to) = SimNet::node_of(from, attempt.target) else {
            let key = attempt.key;
            self.at(now, Due::Connected(socket, key, -libc::ENETUNREACH));
            return;
        };
        let cut = self.links.is_blocked(from, to) || self.links.is_blocked(to, from);
        let port = attempt.target.port();
        let listening: Vec<Socket> = self
            .listeners
            .iter()
            .filter(|(_, l)| l.node == to && l.address.port() == port)
            .map(|(socket, _)| *socket)
            .collect();
        let chosen = self.dice.below(listening.len() as u64) as usize;
        let listener = listening.get(chosen).and_then(|socket| self.listeners.get(socket));
        let full = listener.is_some_and(|l| l.queue.len() >= l.backlog);
        if cut || full || self.hosts_down.contains(&to) {
            attempt.retries += 1;
            let (key, since) = (attempt.key, attempt.since);
            let retry = self.links.config.retransmit << attempt.retries.min(6);
            if now - since > self.links.config.give_up {
                self.at(now, Due::Connected(socket, key, -libc::ETIMEDOUT));
            } else {
                self.at(now + retry, Due::Connect(socket));
            }
            return;
        }
        let key = attempt.key;
        let answer = self.links.arrival(now, to, from, 0, &mut self.dice);
        if listener.is_none() {
            self.at(answer, Due::Connected(socket, key, -libc::ECONNREFUSED));
            return;
        }
        let listener = listening[chosen];
        let accepted = self.socket();
        let client = self.ends.get_mut(&socket).expect("an attempt's socket exists");
        (client.peer, client.peer_node) = (Some(accepted), to);
        let client_address = client.local;
        let listener = self.listeners.get_mut(&listener).expect("found above");
        let mut end = End::new(to, listener.address);
        (end.peer, end.peer_node, end.connected) = (Some(socket), from, true);
        listener.queue.push_back((accepted, client_address));
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        self.ends.insert(accepted, end);
        self.at(answer, Due::Connected(socket, key, 0));
    }

    /// Takes an operation's bytes; its result comes when some of them found room.
    pub(crate) fn send(&mut self, now: u64, socket: Socket, data: Vec<u8>, key: OpKey) {
        match self.ends.get_mut(&socket) {
            Some(end) => end.waiting.push_back(Waiting { key, data }),
            None => self.done.push((key, -libc::EBADF)),
        }
        self.push_waiting(now, socket);
    }

    /// Moves waiting bytes into transit as far as the window allows.
    fn push_waiting(&mut self, now: u64, socket: Socket) {
        loop {
            let Some(end) = self.ends.get(&socket) else { return };
            let Some(first) = end.waiting.front() else { return };
            let unusable =
                end.broken.or((end.write_closed || !end.connected).then_some(libc::EPIPE));
            if let Some(error) = unusable {
                self.done.push((first.key, -error));
                self.ends.get_mut(&socket).expect("seen above").waiting.pop_front();
                continue;
            }
            let unread = end.peer.and_then(|peer| self.ends.get(&peer)).map_or(0, End::unread);
            let room = self.links.config.window.saturating_sub(end.transit_bytes + unread);
            if room == 0 {
                return;
            }
            let end = self.ends.get_mut(&socket).expect("seen above");
            let Waiting { key, mut data } = end.waiting.pop_front().expect("seen above");
            data.truncate(room);
            self.done.push((key, data.len() as i32));
            self.transmit(now, socket, &data);
        }
    }

    /// Cuts bytes into segments and puts them in transit.
    fn transmit(&mut self, now: u64, socket: Socket, data: &[u8]) {
        let Some(end) = self.ends.get(&socket) else { return };
        let corruption = self.links.corruption(end.node, end.peer_node);
        let mut rest = data;
        while !rest.is_empty() {
            let most = self.links.config.segment_max.max(1) as u64;
            // Full segments mostly, cut ones often enough that every boundary is met.
            let size = if self.dice.chance(250_000) { self.dice.between(1, most) } else { most };
            let (segment, after) = rest.split_at((size as usize).min(rest.len()));
            let mut segment = segment.to_vec();
            if self.dice.chance(corruption) {
                let at = self.dice.below(segment.len() as u64) as usize;
                segment[at] ^= 1 << self.dice.below(8);
            }
            self.put(now, socket, Packet::Data(segment));
            rest = after;
        }
    }

    fn put(&mut self, now: u64, socket: Socket, packet: Packet) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        let size = if let Packet::Data(data) = &packet { data.len() } else { 0 };
        let (from, to) = (end.node, end.peer_node);
        let arrival = self.links.arrival(now, from, to, size, &mut self.dice);
        let arrival = end.transit.back().map_or(arrival, |(last, _)| arrival.max(*last));
        end.transit_bytes += size;
        end.transit.push_back((arrival, packet));
        self.at(arrival, Due::Deliver(socket));
    }

    /// Delivers what is due from this end to its peer.
    fn deliver(&mut self, now: u64, socket: Socket) {
        while let Some(end) = self.ends.get_mut(&socket) {
            let Some((arrival, _)) = end.transit.front() else { break };
            if *arrival > now {
                break;
            }
            let (from, to) = (end.node, end.peer_node);
            if self.links.is_blocked(from, to) || self.hosts_down.contains(&to) {
                return self.try_again(now, socket);
            }
            (end.retries, end.blocked_since) = (0, None);
            let (_, packet) = end.transit.pop_front().expect("looked at above");
            let peer = end.peer;
            if let Packet::Data(data) = &packet {
                end.transit_bytes -= data.len();
            }
            let Some(target) = peer.filter(|peer| self.ends.contains_key(peer)) else {
                // Nobody there knows this connection.
                if !matches!(packet, Packet::Reset) {
                    self.break_end(socket, libc::ECONNRESET);
                }
                break;
            };
            self.arrive(now, target, packet);
            self.push_waiting(now, socket);
        }
        self.reap(socket);
    }

    /// The link is blocked: the head of the queue is sent again later.
    fn try_again(&mut self, now: u64, socket: Socket) {
        let config = &self.links.config;
        let end = self.ends.get_mut(&socket).expect("looked at by the caller");
        let since = *end.blocked_since.get_or_insert(now);
        if now - since > end.silence_max.unwrap_or(config.give_up) {
            return self.break_end(socket, libc::ETIMEDOUT);
        }
        end.retries += 1;
        // Who bears little silence does not wait longer than that for the way to be open again.
        let longest = end.silence_max.map_or(u64::MAX, |limit| limit / PROBES);
        let again = now + (config.retransmit << (end.retries - 1).min(6)).min(longest);
        for (arrival, _) in &mut end.transit {
            *arrival = (*arrival).max(again);
        }
        self.at(again, Due::Deliver(socket));
    }

    fn arrive(&mut self, now: u64, target: Socket, packet: Packet) {
        let end = self.ends.get_mut(&target).expect("checked by the caller");
        match packet {
            Packet::Data(data) if end.closed => {
                // Data for a program that has closed: the sender is told.
                drop(data);
                self.close_hard(now, target);
                return;
            }
            Packet::Data(_) if end.read_closed => {}
            Packet::Data(data) => {
                end.arrived_bytes += data.len();
                end.arrived.push_back(data);
            }
            Packet::Fin => end.end_of_stream = true,
            Packet::Reset => return self.break_end(target, libc::ECONNRESET),
        }
        if let Some(waker) = end.receiver.take() {
            waker.wake();
        }
        self.reap(target);
    }

    pub(crate) fn poll_receive(
        &mut self,
        now: u64,
        socket: Socket,
        waker: &Waker,
    ) -> Poll<io::Result<Vec<u8>>> {
        let Some(end) = self.ends.get_mut(&socket) else {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EBADF)));
        };
        if let Some(mut data) = end.arrived.pop_front() {
            // What arrived together is sometimes received together.
            while !end.arrived.is_empty() && self.dice.coin() {
                data.extend(end.arrived.pop_front().into_iter().flatten());
            }
            end.arrived_bytes -= data.len();
            if let Some(peer) = end.peer {
                self.push_waiting(now, peer);
            }
            return Poll::Ready(Ok(data));
        }
        if let Some(error) = end.broken {
            return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
        }
        if end.end_of_stream || end.read_closed {
            return Poll::Ready(Ok(Vec::new()));
        }
        if !end.connected {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ENOTCONN)));
        }
        end.receiver = Some(waker.clone());
        Poll::Pending
    }

    pub(crate) fn shutdown(
        &mut self,
        now: u64,
        socket: Socket,
        read: bool,
        write: bool,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(&socket).filter(|end| end.connected) else {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        };
        if read && !end.read_closed {
            end.read_closed = true;
            end.arrived.clear();
            end.arrived_bytes = 0;
            if let Some(waker) = end.receiver.take() {
                waker.wake();
            }
        }
        if write && !end.write_closed {
            end.write_closed = true;
            self.put(now, socket, Packet::Fin);
            self.push_waiting(now, socket);
        }
        Ok(())
    }

    /// The program bears no longer silence of the other host than this.
    pub(crate) fn set_silence_max(
        &mut self,
        now: u64,
        socket: Socket,
        limit: u64,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(&socket) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        end.silence_max = Some(limit);
        self.at(now + limit / PROBES, Due::Probe(socket));
        Ok(())
    }

    /// Asks whether the other host is there, as a kernel does on a connection without traffic.
    fn probe(&mut self, now: u64, socket: Socket) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        let (from, to) = (end.node, end.peer_node);
        let Some(limit) = end.silence_max.filter(|_| end.broken.is_none() && !end.closed) else {
            return;
        };
        let cut = self.links.is_blocked(from, to) || self.links.is_blocked(to, from);
        let answers = !cut && !self.hosts_down.contains(&to);
        let since = end.silent_since.filter(|_| !answers).unwrap_or(now);
        end.silent_since = (!answers).then_some(since);
        let peer = end.peer;
        let over = end.end_of_stream;
        if answers && !over && peer.is_none_or(|peer| !self.ends.contains_key(&peer)) {
            // The host is up again and knows nothing of this connection.
            return self.break_end(socket, libc::ECONNRESET);
        }
        if now - since >= limit / PROBES * (PROBES - 1) {
            return self.break_end(socket, libc::ETIMEDOUT);
        }
        self.at(now + limit / PROBES, Due::Probe(socket));
    }

    /// The program closes a listener or an end: orderly if it has read all, with a reset if not.
    pub(crate) fn close(&mut self, now: u64, socket: Socket) {
        if let Some(listener) = self.listeners.remove(&socket) {
            for (accepted, _) in listener.queue {
                self.close_hard(now, accepted);
            }
            return;
        }
        self.attempts.remove(&socket);
        let Some(end) = self.ends.get_mut(&socket).filter(|end| !end.closed) else { return };
        end.closed = true;
        end.receiver = None;
        if !end.connected || end.broken.is_some() || end.peer.is_none() {
            return self.forget(socket);
        }
        if !end.arrived.is_empty() {
            return self.close_hard(now, socket);
        }
        if !end.write_closed {
            end.write_closed = true;
            self.put(now, socket, Packet::Fin);
        }
        self.reap(socket);
    }

    /// Ends with a reset: what is unsent or unread is dropped.
    fn close_hard(&mut self, now: u64, socket: Socket) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        (end.closed, end.write_closed, end.read_closed) = (true, true, true);
        end.arrived.clear();
        end.arrived_bytes = 0;
        end.transit.clear();
        end.transit_bytes = 0;
        end.broken = Some(libc::ECONNRESET);
        self.put(now, socket, Packet::Reset);
    }

    /// An end learns that its connection is no more.
    fn break_end(&mut self, socket: Socket, error: i32) {
        let Some(end) = self.ends.get_mut(&socket) else { return };
        end.broken.get_or_insert(error);
        end.arrived.clear();
        end.arrived_bytes = 0;
        end.transit.clear();
        end.transit_bytes = 0;
        let error = end.broken.unwrap_or(error);
        for waiting in std::mem::take(&mut end.waiting) {
            self.done.push((waiting.key, -error));
        }
        if let Some(waker) = end.receiver.take() {
            waker.wake();
        }
        if end.closed {
            self.forget(socket);
        }
    }

    fn forget(&mut self, socket: Socket) {
        self.attempts.remove(&socket);
        self.ends.remove(&socket);
    }

    /// Forgets an end that the program closed once all it sent has arrived.
    fn reap(&mut self, socket: Socket) {
        let Some(end) = self.ends.get(&socket) else { return };
        let peer_gone = end.peer.is_none_or(|peer| !self.ends.contains_key(&peer));
        let over = end.end_of_stream || peer_gone || end.broken.is_some();
        if end.closed && end.transit.is_empty() && over {
            self.forget(socket);
        }
    }

    /// Gives up an operation; true if it was still waiting.
    pub(crate) fn cancel(&mut self, key: OpKey) -> bool {
        let attempts = self.attempts.len();
        self.attempts.retain(|_, attempt| attempt.key != key);
        let mut found = attempts != self.attempts.len();
        for end in self.ends.values_mut() {
            let before = end.waiting.len();
            end.waiting.retain(|waiting| waiting.key != key);
            found |= before != end.waiting.len();
        }
        found
    }

    // ---- time ----

    /// When something happens next.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let done = (!self.done.is_empty()).then_some(self.now);
        done.or_else(|| self.due.keys().next().map(|(time, _)| *time))
    }

    /// Lets everything happen that is due.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = now;
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Due::Deliver(socket) => self.deliver(now, socket),
                Due::Connect(socket) => self.connect_arrives(now, socket),
                Due::Connected(socket, key, result) => {
                    if self.attempts.remove(&socket).is_some() {
                        if let Some(end) = self.ends.get_mut(&socket) {
                            end.connected = result == 0;
                        }
                        self.done.push((key, result));
                    }
                }
                Due::Probe(socket) => self.probe(now, socket),
                Due::Weather => self.weather_changes(now),
            }
        }
    }

    /// Operations that have a result by now.
    pub(crate) fn take_done(&mut self) -> Vec<(OpKey, i32)> {
        std::mem::take(&mut self.done)
    }
}
