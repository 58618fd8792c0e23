//! Who is connected: the limit over all cores, and this core's list.
//!
//! The number of open connections is one counter for the node, because the limit is the node's; it
//! is touched when a connection opens and closes, never in between. The list is the core's own, for
//! CLIENT LIST: what it shows of a connection is its session, borrowed for the time of a line.
//!
//! Numbers of connections are never given twice by a node: each core counts in steps of the number
//! of cores, from its own number on.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ioring::Instant;

use crate::resp::{Peer, Session};
use crate::topology::CoreIndex;

/// How many connections the node has open, on all cores.
#[derive(Debug, Clone, Default)]
pub struct OpenCount(Arc<AtomicU32>);

impl OpenCount {
    /// How many are open.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection as the list knows it.
#[derive(Debug)]
pub struct Client {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    accepted: Instant,
    /// When its last command began.
    pub active: Cell<Instant>,
    /// What it knows about itself.
    pub session: RefCell<Session>,
}

/// A connection's place among the clients, given up when dropped.
#[derive(Debug)]
pub struct Place {
    client: Rc<Client>,
    list: Rc<List>,
    _seat: Seat,
}

/// One of the connections that the node may have open, given up when dropped.
#[derive(Debug)]
pub struct Seat(OpenCount);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type List = RefCell<Vec<Rc<Client>>>;

/// The clients of one core.
#[derive(Debug)]
pub struct Clients {
    list: Rc<List>,
    open: OpenCount,
    max: u32,
    next: Cell<u64>,
    step: u64,
}

impl Clients {
    /// No clients yet; at most `max` on all cores together.
    #[must_use]
    pub fn new(core: CoreIndex, cores: u16, max: u32, open: OpenCount) -> Clients {
        let next = Cell::new(u64::from(core.0) + 1);
        Clients { list: Rc::default(), open, max, next, step: u64::from(cores) }
    }

    /// Gives a connection its place, unless the node is full.
    #[must_use]
    pub fn admit(&self, peer: SocketAddr, local: SocketAddr, now: Instant) -> Option<Place> {
        let seat = self.take_seat()?;
        let id = self.next.replace(self.next.get() + self.step);
        let session = RefCell::new(Session::new(id));
        let active = Cell::new(now);
        let client = Rc::new(Client { id, peer, local, accepted: now, active, session });
        self.list.borrow_mut().push(client.clone());
        Some(Place { client, list: self.list.clone(), _seat: seat })
    }

    /// A place for a connection that is not listed, unless the node is full.
    #[must_use]
    pub fn take_seat(&self) -> Option<Seat> {
        let admitted = |open: u32| (open < self.max).then_some(open + 1);
        let count = &self.open.0;
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admitted).ok()?;
        Some(Seat(self.open.clone()))
    }

    /// A number and a line for each client.
    #[must_use]
    pub fn lines(&self, now: Instant) -> Vec<(u64, Vec<u8>)> {
        let line = |client: &Rc<Client>| {
            let mut line = Vec::new();
            client.describe(now, &mut line);
            (client.id, line)
        };
        self.list.borrow().iter().map(line).collect()
    }

    /// Appends a line for each client that `admits` lets through, as CLIENT LIST shows them.
    pub fn describe(&self, now: Instant, admits: impl Fn(u64) -> bool, out: &mut Vec<u8>) {
        for client in self.list.borrow().iter().filter(|client| admits(client.id)) {
            client.describe(now, out);
        }
    }
}

impl Client {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    fn describe(&self, now: Instant, out: &mut Vec<u8>) {
        let (address, local_address) = (self.peer.to_string(), self.local.to_string());
        let peer = Peer {
            address: &address,
            local_address: &local_address,
            age_s: now.since(self.accepted).as_secs(),
            idle_s: now.since(self.active.get()).as_secs(),
            input_bytes: 0,
            output_bytes: 0,
        };
        self.session.borrow().describe(&peer, out);
        out.push(b'\n');
    }
}

impl std::ops::Deref for Place {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.list.borrow_mut().retain(|client| !Rc::ptr_eq(client, &self.client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_nodes_and_numbers_are_never_given_twice() {
        let open = OpenCount::default();
        let cores = [0, 1].map(|core| Clients::new(CoreIndex(core), 2, 3, open.clone()));
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let now = Instant::from_nanos(0);
        let admit = |core: usize| cores[core].admit(address, address, now);
        let (a, b, c) = (admit(0).unwrap(), admit(1).unwrap(), admit(0).unwrap());
        assert_eq!([a.id(), b.id(), c.id()], [1, 2, 3]);
        assert!(admit(1).is_none() && admit(0).is_none());
        drop(b);
        assert_eq!(open.get(), 2);
        assert_eq!(admit(1).unwrap().id(), 4);
        let mut out = Vec::new();
        cores[0].describe(now, |id| id == 3, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("id=3 ") && text.ends_with('\n'), "{text}");
    }
}
