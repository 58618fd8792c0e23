//! The state machine. The module above says how it works.

use std::collections::VecDeque;

use wire::message::{Error, Reply};
use wire::{ClientId, ClusterId, ErrorCode, HEADER_SIZE, Outcome, Value};

use super::message::{self, Message, Sender};
use super::{Answer, Body, Failure, MessageError, Nanoseconds, Options, SENT_MAX, Ticket};

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Connect to the address of this number, and say [`Protocol::on_connected`], or
    /// [`Protocol::on_disconnected`] if that fails.
    Connect(usize),
    /// Close the connection; it counts as gone already.
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// To be made, from this moment on.
    Down(Nanoseconds),
    /// Being made.
    Connecting,
    /// The greeting is not answered yet.
    Greeting,
    /// The registration is not answered yet.
    Opening,
    /// Requests go.
    Up,
}

#[derive(Debug)]
struct Request {
    ticket: Ticket,
    body: Body,
    deadline: Nanoseconds,
    /// Its number in the session, of a write that was ever sent.
    number: Option<u64>,
    /// The caller has a result already.
    told: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Protocol {
    options: Options,
    link: Link,
    address: usize,
    backoff: Nanoseconds,
    /// The cluster of the node that greeted last.
    cluster: ClusterId,
    session: Option<ClientId>,
    sessions_opened: u64,
    window: u64,
    /// The last number given to a write, and the last one that is answered.
    numbered: u64,
    acknowledged: u64,
    queue: VecDeque<Request>,
    /// Of the queue's front: sent on this connection, and not answered.
    outstanding: usize,
    outstanding_bytes: usize,
    /// Answers that are to be passed over before anything is sent again, and until when to wait.
    passed_over: usize,
    resume_at: Nanoseconds,
    /// When the node last said something, or had nothing to say.
    heard_at: Nanoseconds,
    now: Nanoseconds,
    tickets: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    actions: VecDeque<Action>,
    results: VecDeque<(Ticket, Result<Answer, Failure>)>,
}

impl Protocol {
    /// A client that has not connected.
    ///
    /// # Panics
    /// Without an address.
    #[must_use]
    pub fn new(options: Options, now: Nanoseconds) -> Protocol {
        assert!(options.addresses > 0, "a client has an address to connect to");
        Protocol {
            link: Link::Down(now),
            address: 0,
            backoff: options.backoff_min,
            cluster: ClusterId(options.cluster.unwrap_or(0)),
            options,
            session: None,
            sessions_opened: 0,
            window: 0,
            numbered: 0,
            acknowledged: 0,
            queue: VecDeque::new(),
            outstanding: 0,
            outstanding_bytes: 0,
            passed_over: 0,
            resume_at: 0,
            heard_at: now,
            now,
            tickets: 0,
            input: Vec::new(),
            output: Vec::new(),
            actions: VecDeque::new(),
            results: VecDeque::new(),
        }
    }

    /// Submits a request; its result comes by [`Protocol::next_result`], at the deadline at the
    /// latest.
    pub fn submit(&mut self, body: Body, deadline: Nanoseconds) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.queue.push_back(Request { ticket, body, deadline, number: None, told: false });
        self.advance();
        ticket
    }

    /// What to do next; `None`: wait for something to happen, or for [`Protocol::timer`].
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next result.
    pub fn next_result(&mut self) -> Option<(Ticket, Result<Answer, Failure>)> {
        self.results.pop_front()
    }

    /// Whether there is a result to take.
    #[must_use]
    pub fn has_results(&self) -> bool {
        !self.results.is_empty()
    }

    /// Bytes to send on the connection; the driver takes what it has sent off the front.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Requests that were submitted and have no result yet, or whose writes are to be answered yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// The session, if one is open.
    #[must_use]
    pub fn session(&self) -> Option<ClientId> {
        self.session
    }

    /// When [`Protocol::on_time`] is to be called, if nothing happens before.
    #[must_use]
    pub fn timer(&self) -> Option<Nanoseconds> {
        let deadline = self.queue.iter().filter(|request| !request.told).map(|r| r.deadline).min();
        let link = match self.link {
            Link::Down(at) => (!self.queue.is_empty()).then_some(at),
            Link::Connecting | Link::Greeting | Link::Opening => Some(self.silent_at()),
            Link::Up if self.outstanding + self.passed_over > 0 => Some(self.silent_at()),
            Link::Up => (!self.queue.is_empty()).then_some(self.resume_at),
        };
        deadline.into_iter().chain(link).min()
    }

    /// The connection that was asked for is there.
    pub fn on_connected(&mut self, now: Nanoseconds) {
        self.now = now;
        if self.link != Link::Connecting {
            return;
        }
        (self.link, self.heard_at) = (Link::Greeting, now);
        message::append_hello(self.cluster, &mut self.output);
    }

    /// The connection is gone, or could not be made.
    pub fn on_disconnected(&mut self, now: Nanoseconds) {
        self.now = now;
        if !matches!(self.link, Link::Down(_)) {
            self.go_down(self.address + 1);
        }
        self.advance();
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Nanoseconds) {
        self.now = now;
        self.expire();
        let waits = match self.link {
            Link::Down(_) => false,
            Link::Connecting | Link::Greeting | Link::Opening => true,
            Link::Up => self.outstanding + self.passed_over > 0,
        };
        if waits && now >= self.silent_at() {
            self.disconnect(self.address + 1);
        }
        self.advance();
    }

    /// Bytes have arrived.
    ///
    /// # Errors
    /// [`MessageError`]: they are no messages of a node. The connection is given up, like one that
    /// was lost.
    pub fn on_received(&mut self, bytes: &[u8], now: Nanoseconds) -> Result<(), MessageError> {
        (self.now, self.heard_at) = (now, now);
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut used = 0;
        let result = loop {
            match message::parse(&input[used..]) {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                Ok(Some((message, size))) => {
                    used += size;
                    self.on_message(message);
                    if matches!(self.link, Link::Down(_)) {
                        break Ok(());
                    }
                }
            }
        };
        input.drain(..used);
        if matches!(self.link, Link::Down(_)) {
            input.clear();
        }
        self.input = input;
        if result.is_err() {
            self.disconnect(self.address + 1);
        }
        self.advance();
        result
    }

    fn silent_at(&self) -> Nanoseconds {
        // The node's own patience ends first: what it says then is better than silence.
        self.heard_at.saturating_add(self.options.patience.saturating_mul(2))
    }

    fn on_message(&mut self, message: Message<'_>) {
        match (self.link, message) {
            (Link::Greeting, Message::Hello(cluster)) => self.on_hello(cluster),
            (_, Message::Error(error)) if error.number.0 == 0 && error.client.0 == 0 => {
                self.on_connection_error(&error);
            }
            (Link::Opening, Message::Reply(reply, outcomes)) => self.on_opened(&reply, outcomes),
            (Link::Up, _) if self.passed_over > 0 => self.passed_over -= 1,
            (Link::Up, Message::Reply(reply, outcomes)) => self.on_reply(&reply, outcomes),
            (Link::Up, Message::Error(error)) => self.on_error(&error),
            (Link::Up, Message::Eviction(eviction)) => {
                if Some(eviction.client) == self.session {
                    self.lose_session();
                }
            }
            // A node that says something else does not speak this protocol.
            _ => self.disconnect(self.address + 1),
        }
    }

    fn on_hello(&mut self, cluster: ClusterId) {
        if self.options.cluster.is_some_and(|expected| ClusterId(expected) != cluster) {
            return self.fail_all(ErrorCode::WrongCluster);
        }
        if self.cluster != cluster {
            // Another cluster knows nothing of a session of the one before.
            self.cluster = cluster;
            self.end_session();
        }
        match self.session {
            Some(_) => self.link = Link::Up,
            None => self.open_session(),
        }
    }

    fn open_session(&mut self) {
        self.sessions_opened += 1;
        let drawn = u128::from(self.options.seed) | u128::from(self.sessions_opened) << 64;
        let body = Body::register(drawn);
        let sender = Sender { client: ClientId(0), acknowledged: 0, ..self.sender() };
        message::append_request(&sender, 0, &body, &mut self.output);
        self.link = Link::Opening;
    }

    fn sender(&self) -> Sender {
        Sender {
            cluster: self.cluster,
            client: self.session.unwrap_or(ClientId(0)),
            acknowledged: self.acknowledged,
            patience: self.options.patience,
        }
    }

    fn on_opened(&mut self, reply: &Reply, outcomes: &[u8]) {
        let opened = Outcome::decode(outcomes).and_then(|(outcome, _)| match outcome.result {
            Ok(Value::Bytes(name)) => name.try_into().ok().map(u128::from_le_bytes),
            _ => None,
        });
        let Some(name) = opened else { return self.disconnect(self.address + 1) };
        self.session = Some(ClientId(name));
        (self.numbered, self.acknowledged) = (0, 0);
        self.window = u64::from(reply.credits).max(1);
        self.link = Link::Up;
    }

    fn on_reply(&mut self, reply: &Reply, outcomes: &[u8]) {
        let Some(request) = self.answered(reply.number.0) else {
            return self.disconnect(self.address + 1);
        };
        self.backoff = self.options.backoff_min;
        let (op, timestamp) = (reply.op, reply.timestamp);
        self.tell(&request, Ok(Answer { op, timestamp, outcomes: outcomes.to_vec() }));
    }

    fn on_error(&mut self, error: &Error) {
        let primary = error.primary_known.then_some(usize::from(error.primary.0));
        match error.code {
            ErrorCode::Overloaded => self.send_again(u64::from(error.retry_after_ms)),
            ErrorCode::NotPrimary => self.disconnect(primary.unwrap_or(self.address + 1)),
            ErrorCode::NotReady | ErrorCode::Stopping => self.disconnect(self.address + 1),
            ErrorCode::BadRequest => self.lose_session(),
            code => match self.answered(error.number.0) {
                Some(request) => {
                    let may_have_happened = code.may_have_happened();
                    self.tell(&request, Err(Failure { code, may_have_happened }));
                }
                None => self.disconnect(self.address + 1),
            },
        }
    }

    /// An error about the connection: some will be the same at every node.
    fn on_connection_error(&mut self, error: &Error) {
        match error.code {
            ErrorCode::WrongCluster | ErrorCode::WrongProtocol | ErrorCode::Unsupported => {
                self.fail_all(error.code);
            }
            ErrorCode::TooLarge | ErrorCode::BadRequest if self.outstanding > 0 => {
                // The request at fault would be sent again and again. Which one it is nobody said.
                self.fail_all(error.code);
            }
            _ => self.disconnect(self.address + 1),
        }
    }

    /// Takes the first request outstanding, which was answered, off the queue.
    fn answered(&mut self, number: u64) -> Option<Request> {
        let front = self.queue.front().filter(|_| self.outstanding > 0)?;
        if number != front.number.unwrap_or(front.ticket.0) {
            return None;
        }
        let request = self.queue.pop_front()?;
        self.outstanding -= 1;
        self.outstanding_bytes -= size(&request.body);
        self.acknowledged = request.number.unwrap_or(self.acknowledged);
        Some(request)
    }

    fn tell(&mut self, request: &Request, result: Result<Answer, Failure>) {
        if !request.told {
            self.results.push_back((request.ticket, result));
        }
    }

    /// Everything outstanding is sent again, once what is still to come for it has come.
    fn send_again(&mut self, after_ms: u64) {
        self.passed_over = self.outstanding.saturating_sub(1);
        (self.outstanding, self.outstanding_bytes) = (0, 0);
        self.resume_at = self.now + after_ms.max(1) * 1_000_000;
    }

    /// The session is gone, on a connection that is not: another is opened on it.
    fn lose_session(&mut self) {
        self.end_session();
        self.disconnect(self.address);
    }

    /// What was sent in the session may have happened.
    fn end_session(&mut self) {
        self.session = None;
        let (code, may_have_happened) = (ErrorCode::SessionEvicted, true);
        for request in std::mem::take(&mut self.queue) {
            match request.number {
                Some(_) => self.tell(&request, Err(Failure { code, may_have_happened })),
                None => self.queue.push_back(request),
            }
        }
        (self.outstanding, self.outstanding_bytes, self.passed_over) = (0, 0, 0);
    }

    fn fail_all(&mut self, code: ErrorCode) {
        for request in std::mem::take(&mut self.queue) {
            let may_have_happened = request.number.is_some();
            self.tell(&request, Err(Failure { code, may_have_happened }));
        }
        self.session = None;
        self.disconnect(self.address);
    }

    fn disconnect(&mut self, next: usize) {
        self.actions.push_back(Action::Disconnect);
        self.go_down(next);
    }

    fn go_down(&mut self, next: usize) {
        self.address = next % self.options.addresses;
        self.link = Link::Down(self.now + self.backoff);
        self.backoff = (self.backoff * 2).min(self.options.backoff_max);
        (self.outstanding, self.outstanding_bytes, self.passed_over) = (0, 0, 0);
        self.resume_at = 0;
        self.input.clear();
        self.output.clear();
    }

    /// Tells callers whose deadline has passed. What was not sent is taken back.
    fn expire(&mut self) {
        let now = self.now;
        let (mut index, code) = (0, ErrorCode::Timeout);
        while index < self.queue.len() {
            let request = &mut self.queue[index];
            let is_late = request.deadline <= now && !request.told;
            if is_late {
                request.told = true;
                let may_have_happened = request.number.is_some();
                let failure = Failure { code, may_have_happened };
                self.results.push_back((request.ticket, Err(failure)));
            }
            let request = &self.queue[index];
            if request.told && request.number.is_none() && index >= self.outstanding {
                self.queue.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Does what can be done now.
    fn advance(&mut self) {
        match self.link {
            Link::Down(at) if self.now >= at && !self.queue.is_empty() => {
                (self.link, self.heard_at) = (Link::Connecting, self.now);
                self.actions.push_back(Action::Connect(self.address));
            }
            Link::Up => self.send(),
            _ => {}
        }
    }

    fn send(&mut self) {
        if self.passed_over > 0 || self.now < self.resume_at {
            return;
        }
        if self.outstanding == 0 {
            self.heard_at = self.now;
        }
        while let Some(request) = self.queue.get(self.outstanding) {
            let size = size(&request.body);
            if self.outstanding > 0 && self.outstanding_bytes + size > SENT_MAX {
                return;
            }
            let next = match (request.body.is_read, request.number) {
                (true, _) => request.ticket.0,
                (false, Some(number)) => number,
                (false, None) if self.numbered >= self.acknowledged + self.window => return,
                (false, None) => {
                    self.numbered += 1;
                    self.numbered
                }
            };
            let sender = self.sender();
            let request = &mut self.queue[self.outstanding];
            let sender = match request.body.is_read {
                true => Sender { acknowledged: 0, ..sender },
                false => {
                    request.number = Some(next);
                    sender
                }
            };
            message::append_request(&sender, next, &request.body, &mut self.output);
            self.outstanding += 1;
            self.outstanding_bytes += size;
        }
    }
}

fn size(body: &Body) -> usize {
    HEADER_SIZE + body.bytes.len()
}
