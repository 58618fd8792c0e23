//! From a request's bytes to its reply nothing is allocated once buffers have their size.

use node::machine::{self, Budget, Context, Effect, Entry, Scratch, Verdict};
use node::resp::{
    Form, Host, KeyRead, Limits, Parser, Progress, Read, Session, Shape, Work, plan, read,
};
use wire::{ClientTag, Outcome, RequestView, SliceSink, Timestamp, Version};

#[path = "../../tests/support/counting.rs"]
mod counting;

/// A connection whose every key holds the same value.
struct Connection {
    parser: Parser,
    session: Session,
    scratch: Scratch,
    out: Vec<u8>,
    requests: Vec<u8>,
    outcomes: Vec<u8>,
    value: Vec<u8>,
    changes: u64,
}

const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

impl Connection {
    fn new() -> Connection {
        Connection {
            parser: Parser::new(Limits::for_prepare(1 << 20)),
            session: Session::new(1),
            scratch: Scratch::default(),
            out: Vec::with_capacity(64 << 10),
            requests: vec![0; 64 << 10],
            outcomes: Vec::with_capacity(64 << 10),
            value: vec![b'7'; 18],
            changes: 0,
        }
    }

    /// Answers a pipeline and returns how many bytes of replies that made.
    fn answer(&mut self, mut input: &[u8]) -> usize {
        let host = Host { now: NOW, wall_clock_ns: NOW.0, value_max: 1 << 19 };
        self.out.clear();
        while let Progress::Request { arguments, consumed } =
            self.parser.parse(input).expect("requests are well-formed")
        {
            let mut sink = SliceSink::new(&mut self.requests);
            let plan =
                plan(arguments, &mut self.session, &host, &mut sink, ClientTag(1), &mut self.out);
            let entry = Entry::new(&self.value, 0, Version(1));
            let form = plan.form;
            match plan.work {
                Work::Read(Read::Key { what, .. }) => {
                    what.append(Some(entry), NOW, form, &mut self.out);
                }
                Work::Read(Read::Many { keys, .. }) => {
                    read::append_values_head(keys.len(), form, &mut self.out);
                    for _ in keys.iter() {
                        KeyRead::Value.append(Some(entry), NOW, form, &mut self.out);
                    }
                }
                Work::Write(shape) => self.write(shape, form),
                _ => {}
            }
            input = &input[consumed..];
        }
        self.out.len()
    }

    fn write(&mut self, shape: Shape, form: Form) {
        let request = RequestView::verify(&self.requests).expect("requests are well-formed");
        let context = Context {
            timestamp: NOW,
            version: Version(NOW.0),
            value_max: 1 << 19,
            verdict: Verdict::Own,
        };
        let mut budget = Budget::DEFAULT;
        self.outcomes.clear();
        for operation in request.operations() {
            let entry =
                machine::reads_current(&operation).then(|| Entry::new(&self.value, 0, Version(1)));
            let (effect, outcome) =
                machine::evaluate(&operation, entry, &context, &mut budget, &mut self.scratch);
            self.changes += u64::from(effect != Effect::None);
            outcome.encode(&mut self.outcomes).expect("a vector grows");
        }
        let mut rest = &self.outcomes[..];
        let outcomes = std::iter::from_fn(|| {
            let (outcome, size) = Outcome::decode(rest)?;
            rest = &rest[size..];
            Some(outcome)
        });
        shape.append(outcomes, form, &mut self.out).expect("nothing is unknown");
    }
}

fn pipeline() -> Vec<u8> {
    let value = "x".repeat(100);
    let commands: [&[&str]; 12] = [
        &["SET", "key:000000000001", &value],
        &["GET", "key:000000000001"],
        &["set", "key:000000000001", &value, "EX", "100", "NX"],
        &["SETEX", "key:000000000001", "100", &value],
        &["INCR", "counter"],
        &["INCRBYFLOAT", "counter", "0.125"],
        &["APPEND", "key:000000000001", &value],
        &["DEL", "a", "b", "c"],
        &["MGET", "a", "b", "c"],
        &["EXPIRE", "a", "100"],
        &["TTL", "a"],
        &["PING"],
    ];
    let mut bytes = Vec::new();
    for words in commands {
        bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
    }
    bytes
}

#[test]
fn a_request_allocates_nothing() {
    let (mut connection, pipeline) = (Connection::new(), pipeline());
    for _ in 0..10 {
        connection.answer(&pipeline);
    }
    let before = counting::on_this_thread();
    let mut replied = 0;
    for _ in 0..1000 {
        replied += connection.answer(&pipeline);
    }
    let allocated = counting::on_this_thread() - before;
    assert!(replied > 100_000 && connection.changes > 5000, "the pipeline was answered");
    assert_eq!(allocated, 0);
}
