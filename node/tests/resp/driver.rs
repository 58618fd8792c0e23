//! A node in miniature: one connection, one table, a map for storage, time that the test sets.

use std::collections::BTreeMap;

use node::machine::{self, Budget, Context, Effect, Entry, Needs, Scratch, Verdict};
use node::resp::cursor::{Capacity, CursorTable};
use node::resp::read::{self, KeyList};
use node::resp::{
    Ask, Combine, Encoder, Form, Host, KeyRead, Limits, Parser, Peer, Progress, Read, ScanRequest,
    Session, Shape, Work, append_error, info, plan,
};
use wire::{ClientTag, ErrorCode, OperationView, Outcome, RequestView, Timestamp, Version};

/// What the map holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Vec<u8>,
    pub(crate) deadline: u64,
    pub(crate) version: Version,
}

pub(crate) struct Driver {
    pub(crate) now: u64,
    pub(crate) budget: Budget,
    pub(crate) keys: BTreeMap<Vec<u8>, Stored>,
    pub(crate) session: Session,
    pub(crate) limits: Limits,
    parser: Parser,
    input: Vec<u8>,
    cursors: CursorTable,
    scratch: Scratch,
    pub(crate) closed: bool,
}

/// A moment in 2023, on a whole second.
pub(crate) const START: u64 = 1_700_000_000_000_000_000;

impl Driver {
    pub(crate) fn new(id: u64) -> Driver {
        let limits = Limits::for_prepare(1 << 20);
        Driver {
            now: START,
            budget: Budget::DEFAULT,
            keys: BTreeMap::new(),
            session: Session::new(id),
            limits,
            parser: Parser::new(limits),
            input: Vec::new(),
            cursors: CursorTable::new(0, Capacity(16), 7),
            scratch: Scratch::default(),
            closed: false,
        }
    }

    /// Receives bytes and returns the replies to whatever they complete.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        while !self.closed {
            let input = std::mem::take(&mut self.input);
            let mut parser = std::mem::replace(&mut self.parser, Parser::new(self.limits));
            let used = match parser.parse(&input) {
                Ok(Progress::Request { arguments, consumed }) => {
                    self.execute(arguments, &mut out);
                    Some(consumed)
                }
                Ok(Progress::Blank { consumed }) => Some(consumed),
                Ok(Progress::Incomplete { wanted }) => {
                    assert!(wanted > input.len(), "it would not be incomplete");
                    None
                }
                Err(error) => {
                    error.append(&mut out);
                    self.closed = true;
                    None
                }
            };
            self.parser = parser;
            self.input = input;
            match used {
                Some(consumed) => drop(self.input.drain(..consumed)),
                None => break,
            }
        }
        out
    }

    /// One command out of words, and its reply.
    pub(crate) fn command(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.receive(&encode(words))
    }

    fn execute(&mut self, arguments: node::resp::Arguments<'_>, out: &mut Vec<u8>) {
        let host = Host {
            now: Timestamp(self.now),
            wall_clock_ns: self.now,
            value_max: self.limits.bulk_max,
        };
        let mut sink = Vec::new();
        let start = out.len();
        let plan = plan(arguments, &mut self.session, &host, &mut sink, ClientTag(9), out);
        let form = plan.form;
        match plan.work {
            Work::Replied => assert!(sink.is_empty()),
            Work::Close => self.closed = true,
            Work::Write(shape) => self.write(&sink, shape, form, out),
            Work::Read(read) => self.read(read, form, out),
            Work::Ask(ask) => self.ask(&ask, form, out),
        }
        assert!(!form.muted || out.len() == start, "a muted command has no reply");
    }

    fn ask(&mut self, ask: &Ask<'_>, form: Form, out: &mut Vec<u8>) {
        let peer = Peer {
            address: "127.0.0.1:1",
            local_address: "127.0.0.1:2",
            age_s: 0,
            idle_s: 0,
            input_bytes: 0,
            output_bytes: 0,
        };
        let mut text = Vec::new();
        match ask {
            Ask::Info(sections) => {
                let snapshot = info::Snapshot { keys: 3, ..info::Snapshot::default() };
                return info::append(&snapshot, *sections, form, out);
            }
            Ask::ClientInfo => self.session.describe(&peer, &mut text),
            Ask::ClientList(filter) if filter.admits(self.session.id()) => {
                self.session.describe(&peer, &mut text);
            }
            Ask::ClientList(_) => return Encoder::new(out, form.protocol).verbatim(b""),
        }
        text.push(b'\n');
        if !form.muted {
            Encoder::new(out, form.protocol).verbatim(&text);
        }
    }

    fn live(&self, key: &[u8]) -> Option<Entry<'_>> {
        let stored = self.keys.get(key)?;
        Some(Entry::new(&stored.value, stored.deadline, stored.version))
    }

    fn write(&mut self, request: &[u8], shape: Shape, form: Form, out: &mut Vec<u8>) {
        let request = RequestView::verify(request).expect("a planned request is well-formed");
        assert_eq!(request.tag(), ClientTag(9));
        self.now += 1000;
        let mut context = Context {
            timestamp: Timestamp(self.now),
            version: Version(self.now),
            value_max: self.limits.bulk_max as u32,
            verdict: Verdict::Own,
        };
        let mut budget = self.budget;
        if request.is_all_or_none() {
            let mut trial = budget;
            context.verdict = request.operations().fold(Verdict::Holds, |verdict, operation| {
                let current = self
                    .keys
                    .get(operation.key)
                    .map(|stored| Entry::new(&stored.value, stored.deadline, stored.version));
                machine::vote(&operation, current, &context, &mut trial, &mut self.scratch)
                    .count_into(verdict)
            });
        }
        let mut outcomes = Vec::new();
        for (index, operation) in request.operations().enumerate() {
            context.version = context.timestamp.version(index as u32);
            self.apply(&operation, &context, &mut budget, &mut outcomes);
        }
        let mut rest = &outcomes[..];
        let outcomes = std::iter::from_fn(|| {
            let (outcome, size) = Outcome::decode(rest)?;
            rest = &rest[size..];
            Some(outcome)
        });
        if shape.append(outcomes, form, out).is_err() {
            self.closed = true;
        }
    }

    fn apply(
        &mut self,
        operation: &OperationView<'_>,
        context: &Context,
        budget: &mut Budget,
        outcomes: &mut Vec<u8>,
    ) {
        let before = self.keys.get(operation.key).cloned();
        let current = before.as_ref().and_then(|stored| {
            let full = Entry::new(&stored.value, stored.deadline, stored.version);
            match machine::needs(operation) {
                Needs::Nothing => None,
                Needs::Metadata => Some(Entry { value: &[], ..full }),
                Needs::Value => Some(full),
            }
        });
        let (effect, outcome) =
            machine::evaluate(operation, current, context, budget, &mut self.scratch);
        outcome.encode(outcomes).expect("a vector grows");
        match effect {
            Effect::None => {}
            Effect::Put { value, deadline } => {
                let stored = Stored { value: value.to_vec(), deadline, version: context.version };
                self.keys.insert(operation.key.to_vec(), stored);
            }
            Effect::SetDeadline(deadline) => {
                let stored = self.keys.get_mut(operation.key).expect("only a key that is there");
                stored.deadline = deadline;
                stored.version = context.version;
            }
            Effect::Delete => drop(self.keys.remove(operation.key)),
            Effect::Flush => self.keys.clear(),
        }
    }

    fn read(&mut self, read: Read<'_>, form: Form, out: &mut Vec<u8>) {
        let now = Timestamp(self.now);
        match read {
            Read::Key { what, key } => what.append(self.live(key), now, form, out),
            Read::Many { combine: Combine::Values, keys } => {
                read::append_values_head(keys.len(), form, out);
                keys.iter().for_each(|key| KeyRead::Value.append(self.live(key), now, form, out));
            }
            Read::Many { combine: Combine::Count, keys } => {
                let lives = |key: &&[u8]| self.live(key).is_some_and(|e| e.lives_at(now));
                read::append_count(keys.iter().filter(lives).count() as u64, form, out);
            }
            Read::Size => read::append_count(self.live_keys().count() as u64, form, out),
            Read::RandomKey => read::append_key(self.live_keys().next(), form, out),
            Read::Keys { pattern } => {
                let mut list = KeyList::default();
                self.live_keys()
                    .filter(|key| node::resp::glob::matches(pattern, key))
                    .for_each(|key| list.push(key).expect("tests are small"));
                list.append_keys(form, out);
            }
            Read::Scan(request) => self.scan(request, form, out),
        }
    }

    fn live_keys(&self) -> impl Iterator<Item = &[u8]> {
        let now = Timestamp(self.now);
        let keys = self.keys.keys().map(Vec::as_slice);
        keys.filter(move |key| self.live(key).is_some_and(|entry| entry.lives_at(now)))
    }

    fn scan(&mut self, request: ScanRequest<'_>, form: Form, out: &mut Vec<u8>) {
        let (resumed, after) = if request.cursor == 0 {
            (None, None)
        } else {
            match self.cursors.resume(request.cursor) {
                Ok((resumed, position)) => (Some(resumed), Some(position.to_vec())),
                Err(_) => {
                    append_error(ErrorCode::UnknownCursor, form, out).expect("has a text");
                    return;
                }
            }
        };
        let behind = |key: &&[u8]| after.as_deref().is_none_or(|after| *key > after);
        let keys: Vec<Vec<u8>> =
            self.live_keys().filter(behind).take(request.count + 1).map(<[u8]>::to_vec).collect();
        let mut list = KeyList::default();
        for key in keys.iter().take(request.count).filter(|key| request.admits(key)) {
            list.push(key).expect("tests are small");
        }
        let cursor = if keys.len() > request.count {
            self.cursors.park(resumed, &keys[request.count - 1])
        } else {
            resumed.into_iter().for_each(|resumed| self.cursors.finish(resumed));
            0
        };
        list.append_scan(cursor, form, out);
    }
}

/// A multibulk request.
pub(crate) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Bytes of the reply that `bytes` start with; none when it is not complete.
pub(crate) fn reply_size(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || -> i64 { std::str::from_utf8(&bytes[1..end - 2]).unwrap().parse().unwrap() };
    let parts = match bytes[0] {
        b'$' | b'=' => {
            let size = count();
            let total = if size < 0 { end } else { end + size as usize + 2 };
            return (bytes.len() >= total).then_some(total);
        }
        b'*' | b'~' => count().max(0),
        b'%' => count() * 2,
        _ => 0,
    };
    (0..parts).try_fold(end, |at, _| Some(at + reply_size(bytes.get(at..)?)?))
}

impl Driver {
    /// Whether the next command would be answered.
    pub(crate) fn session_is_answered(&mut self) -> bool {
        self.closed || !self.receive(b"PING\r\n").is_empty()
    }
}
