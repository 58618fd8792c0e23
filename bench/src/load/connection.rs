//! One connection of the load generator: a sender and a receiver.
//!
//! The sender fills the room that is left up to the depth with whatever is due, encodes all of it
//! into one buffer and sends that at once. The receiver pops one outstanding request for each reply
//! and gives the room back. They share the queue of outstanding requests; neither holds a borrow
//! across an await.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::resp::{push_bulk, push_request_header};
use client::{Reply, parse_reply};
use ioring::sync::Event;
use ioring::{Instant, Queue, RecvBuffer, Side, Stream};
use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::ledger::Finding;
use crate::workload::{Choice, KeyChooser, KeyShare, Origin, key_name};

use super::tally::Kind;
use super::{DRAIN_TIMEOUT, Shared};

/// Times to live of the expiring workload, in milliseconds.
const TTL_MS: std::ops::Range<u64> = 100..5_000;

/// A request that waits for its reply.
struct Outstanding {
    kind: Kind,
    key: u64,
    /// Of a write: which one. Of a read: the newest write acknowledged when it was sent.
    sequence: u32,
    /// Whether the reply of this read is followed by a write of the same key.
    then_write: bool,
    due: Instant,
}

/// How far a driver runs.
pub(super) enum Limit {
    /// Every key of the share once, with this many outstanding.
    Load { depth: usize },
    /// Until the time is over, from `started` on.
    Run { started: Instant },
}

/// One connection and its share of the keys.
pub(super) struct Driver {
    shared: Rc<Shared>,
    stream: Stream,
    share: KeyShare,
    chooser: KeyChooser,
    random: RefCell<Xoshiro256PlusPlus>,
    outstanding: RefCell<VecDeque<Outstanding>>,
    writes_due: RefCell<Vec<u64>>,
    input: RefCell<Vec<u8>>,
    output: Cell<Vec<u8>>,
    room: Event,
    lost: Cell<bool>,
}

impl Driver {
    pub(super) async fn connect(
        shared: Rc<Shared>,
        address: SocketAddr,
        share: KeyShare,
        chooser: KeyChooser,
        random: Xoshiro256PlusPlus,
    ) -> std::io::Result<Driver> {
        let stream = Stream::connect(address).await?;
        Ok(Driver {
            shared,
            stream,
            share,
            chooser,
            random: RefCell::new(random),
            outstanding: RefCell::new(VecDeque::new()),
            writes_due: RefCell::new(Vec::new()),
            input: RefCell::new(Vec::new()),
            output: Cell::new(Vec::new()),
            room: Event::new(),
            lost: Cell::new(false),
        })
    }

    pub(super) fn limit_to_load(&self, depth: usize) -> Limit {
        Limit::Load { depth }
    }

    pub(super) fn limit_to_run(&self, started: Instant) -> Limit {
        Limit::Run { started }
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        // A peer that is gone already is as good.
        let _ = self.stream.shutdown(Side::Both);
    }

    /// Sends to the limit and waits for the replies to all of it.
    pub(super) async fn run(self: Rc<Self>, limit: Limit) {
        if self.lost.get() {
            return;
        }
        let receiver = Rc::clone(&self);
        let receiver =
            ioring::spawn(Queue::Foreground, "receive", async move { receiver.receive().await });
        match limit {
            Limit::Load { depth } => self.load(depth).await,
            Limit::Run { started } => self.send_until_over(started).await,
        }
        let drained = ioring::timeout(DRAIN_TIMEOUT, async {
            while !self.lost.get() && !self.outstanding.borrow().is_empty() {
                self.room.wait().await;
            }
        });
        if drained.await.is_err() {
            self.lose("no reply in 30 s");
        }
        receiver.cancel();
    }

    fn lose(&self, why: &str) {
        if !self.lost.replace(true) {
            self.shared.tally.borrow_mut().connection_lost(why);
        }
        self.room.notify();
    }

    async fn load(&self, depth: usize) {
        let mut next = 0;
        while next < self.share.count() && !self.lost.get() {
            let room = depth.saturating_sub(self.outstanding.borrow().len());
            if room == 0 {
                self.room.wait().await;
                continue;
            }
            let until = self.share.count().min(next + room as u64);
            let mut output = self.output.take();
            for n in next..until {
                self.encode_write(&mut output, Kind::Set, self.share.key(n), ioring::now());
            }
            next = until;
            self.send(output).await;
        }
    }

    async fn send_until_over(&self, started: Instant) {
        let options = &self.shared.options;
        let end = started + options.duration;
        let interval = options.rate.map(|rate| {
            Duration::from_secs_f64(options.clients as f64 / rate).max(Duration::from_nanos(1))
        });
        // Connections start at different points of the interval, so the total is even.
        let offset = interval
            .map(|interval| interval.mul_f64(self.share.key(0) as f64 / options.clients as f64));
        let mut due = started + offset.unwrap_or_default();
        while !self.lost.get() {
            let now = ioring::now();
            if now >= end {
                break;
            }
            let room = options.depth.saturating_sub(self.outstanding.borrow().len());
            if room == 0 {
                // The wait ends by a reply or by the end of the run, whichever is first.
                let _ = ioring::timeout(end.since(now), self.room.wait()).await;
                continue;
            }
            if interval.is_some() && due > now {
                ioring::sleep_until(due.min(end)).await;
                continue;
            }
            let mut output = self.output.take();
            for _ in 0..room {
                let at = match interval {
                    None => now,
                    Some(_) if due > now => break,
                    Some(interval) => {
                        let this = due;
                        due = this + interval;
                        this
                    }
                };
                self.encode_next(&mut output, at);
            }
            self.send(output).await;
        }
    }

    async fn send(&self, output: Vec<u8>) {
        let (result, mut output) = self.stream.send(output).await;
        output.clear();
        self.output.set(output);
        if let Err(error) = result {
            self.lose(&error.to_string());
        }
    }

    fn encode_next(&self, output: &mut Vec<u8>, due: Instant) {
        let follow_up = self.writes_due.borrow_mut().pop();
        if let Some(key) = follow_up {
            return self.encode_write(output, Kind::Set, key, due);
        }
        let mut random = self.random.borrow_mut();
        let choice = self.shared.options.mix.choose(&mut random);
        let key = self.chooser.choose(&mut random);
        drop(random);
        match choice {
            Choice::Read => self.encode_read(output, key, false, due),
            Choice::ReadModifyWrite => self.encode_read(output, key, true, due),
            Choice::Write => self.encode_write(output, Kind::Set, key, due),
            Choice::Expiring => self.encode_write(output, Kind::SetExpiring, key, due),
        }
    }

    fn encode_read(&self, output: &mut Vec<u8>, key: u64, then_write: bool, due: Instant) {
        push_request_header(output, 2);
        push_bulk(output, b"GET");
        push_bulk(output, &key_name(key));
        let sequence = self.shared.ledger.borrow().acknowledged(key);
        let request = Outstanding { kind: Kind::Get, key, sequence, then_write, due };
        self.outstanding.borrow_mut().push_back(request);
    }

    fn encode_write(&self, output: &mut Vec<u8>, kind: Kind, key: u64, due: Instant) {
        let expiring = kind == Kind::SetExpiring;
        let origin = self.shared.ledger.borrow_mut().send(key);
        push_request_header(output, if expiring { 5 } else { 3 });
        push_bulk(output, b"SET");
        push_bulk(output, &key_name(key));
        self.push_value(output, origin);
        if expiring {
            let ttl_ms = self.random.borrow_mut().random_range(TTL_MS);
            push_bulk(output, b"PX");
            push_bulk(output, ttl_ms.to_string().as_bytes());
        }
        let sequence = origin.sequence;
        let request = Outstanding { kind, key, sequence, then_write: false, due };
        self.outstanding.borrow_mut().push_back(request);
    }

    fn push_value(&self, output: &mut Vec<u8>, origin: Origin) {
        let values = self.shared.options.values;
        output.extend_from_slice(format!("${}\r\n", values.value_size(origin)).as_bytes());
        values.push_value(output, origin);
        output.extend_from_slice(b"\r\n");
    }

    async fn receive(&self) {
        while !self.lost.get() {
            match self.stream.recv().await {
                Ok(bytes) if bytes.is_empty() => self.lose("closed by the server"),
                Ok(bytes) => self.consume(&bytes),
                Err(error) => self.lose(&error.to_string()),
            }
            self.room.notify();
        }
    }

    fn consume(&self, bytes: &RecvBuffer) {
        let mut input = self.input.borrow_mut();
        // Replies mostly arrive whole: only what is cut is kept and joined.
        let joined = !input.is_empty();
        if joined {
            input.extend_from_slice(bytes);
        }
        let available: &[u8] = if joined { &input } else { bytes };
        let mut at = 0;
        let now = ioring::now();
        loop {
            match parse_reply(&available[at..]) {
                Ok(Some((reply, size))) => {
                    at += size;
                    self.settle(&reply, now);
                }
                Ok(None) => break,
                Err(error) => return self.lose(&error.to_string()),
            }
        }
        if joined {
            input.drain(..at);
        } else {
            input.extend_from_slice(&bytes[at..]);
        }
    }

    fn settle(&self, reply: &Reply, now: Instant) {
        let request = self.outstanding.borrow_mut().pop_front();
        let Some(request) = request else { return self.lose("a reply without a request") };
        let mut tally = self.shared.tally.borrow_mut();
        let mut ledger = self.shared.ledger.borrow_mut();
        match (request.kind, reply) {
            (_, Reply::Error(text)) => return tally.error(text),
            (Kind::Set, Reply::Simple(_)) => ledger.acknowledge(request.key, request.sequence),
            // What may expire at any time cannot be held against the node later.
            (Kind::SetExpiring, Reply::Simple(_)) => {}
            (Kind::Get, Reply::Bulk(_) | Reply::Nil) => {
                let found = match reply {
                    Reply::Bulk(value) => Some(ledger.find_header(value)),
                    _ => None,
                };
                // An entry that a later write lets expire may be gone: only bytes that were never
                // written are wrong then.
                let expiring = self.shared.options.mix.expiring > 0;
                match ledger.judge(request.key, request.sequence, found) {
                    Finding::Good => {}
                    Finding::Lost if expiring => {}
                    _ => tally.wrong_read(),
                }
                if request.then_write {
                    self.writes_due.borrow_mut().push(request.key);
                }
            }
            _ => return tally.error("a reply of another type than the request's"),
        }
        tally.record(request.kind, now.since(request.due));
    }
}
