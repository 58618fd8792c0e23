//! A desk: what one turn of a connection works on.
//!
//! The run being gathered (encoded writes, or keys to read) and, in the order of the commands, what
//! is *due* when the run is complete: the shape of each reply and which outcomes it is made of, or
//! bytes that were ready at once and only wait for their turn.
//!
//! Desks are lent by the core for a turn and given back empty, so their vectors are allocated once
//! per connection that is in a turn at the same time, not once per connection.

use std::ops::Range;

use wire::{ErrorCode, Outcome, Requests, Slot, Value, slot_of_key};

use crate::native::answer::{Answer, Voice};
use crate::resp::plan::Form;
use crate::resp::{Arguments, Combine, KeyRead, Shape, Unknown, read, reply};

/// A run is handed over when it has this many bytes of writes or keys.
const RUN_BYTES: usize = 64 << 10;
/// A run is handed over when it has this many operations.
const RUN_OPERATIONS: u32 = 4096;

/// What kind of run is being gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// None.
    Idle,
    /// Writes.
    Writes,
    /// Reads that have to wait.
    Reads,
}

/// What is asked of a key in a run of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To be rendered.
    Render(KeyRead, Form),
    /// Whether it exists.
    Exists,
}

impl Asked {
    /// Whether an error is answered by its code alone.
    #[must_use]
    pub fn is_coded(self) -> bool {
        matches!(self, Asked::Exists | Asked::Render(KeyRead::Outcome, _))
    }
}

/// A look-up of a run of reads.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// What is asked.
    pub asked: Asked,
    /// The key's slot.
    pub slot: Slot,
    /// Where the key lies among [`Desk::keys`].
    pub key: Range<u32>,
    /// Whether all look-ups of its command have to be as of one version.
    pub together: bool,
}

/// How a reply is made when its turn comes.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// Of outcomes of operations.
    Shaped(Shape, Form),
    /// Of outcomes that are rendered already.
    Rendered(Form),
    /// The same, with the head of an array before them.
    Values(Form),
    /// By counting the keys that exist.
    Counted(Form),
    /// It is ready: so many bytes of the desk's replies.
    Ready(usize),
    /// A message of the native protocol: the answer at this place among the desk's.
    Answer(u32),
}

/// A reply that is due when the run is complete.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// The run's first operation that it is about.
    pub first: u32,
    /// How many operations it is about.
    pub count: u32,
    made: Made,
}

/// See the module's text.
#[derive(Debug)]
pub struct Desk {
    mode: Mode,
    operations: u32,
    flushes: u32,
    writes: Vec<u8>,
    keys: Vec<u8>,
    lookups: Vec<Lookup>,
    due: Vec<Due>,
    replies: Vec<u8>,
    replies_noted: usize,
    answers: Vec<Answer>,
}

impl Default for Desk {
    fn default() -> Desk {
        Desk {
            mode: Mode::Idle,
            operations: 0,
            flushes: 0,
            writes: Vec::new(),
            keys: Vec::new(),
            lookups: Vec::new(),
            due: Vec::new(),
            replies: Vec::new(),
            replies_noted: 0,
            answers: Vec::new(),
        }
    }
}

impl Desk {
    /// What is being gathered.
    #[inline]
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The place in its run that the next write gets: behind the writes before it, or first of a
    /// run of its own if reads have to be waited for.
    #[inline]
    #[must_use]
    pub fn next_write(&self) -> u32 {
        if self.mode == Mode::Reads { 0 } else { self.operations }
    }

    /// How many outcomes the run will have.
    #[must_use]
    pub fn outcomes(&self) -> usize {
        self.operations as usize
    }

    /// Operations of the run that concern all shards.
    #[must_use]
    pub fn flushes(&self) -> u32 {
        self.flushes
    }

    /// The encoded requests of the run.
    #[must_use]
    pub fn writes(&self) -> &[u8] {
        &self.writes
    }

    /// Where the next request is encoded.
    pub fn writes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.writes
    }

    /// The look-ups of the run, in order of their outcomes.
    #[must_use]
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// The keys of the look-ups.
    #[must_use]
    pub fn keys(&self) -> &[u8] {
        &self.keys
    }

    /// Whether the run should be handed over before it grows further.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let bytes = self.writes.len() + self.keys.len() + self.replies.len();
        bytes >= RUN_BYTES || self.operations >= RUN_OPERATIONS
    }

    /// Where replies that are ready go: to the connection, or behind what is due before them.
    #[inline]
    pub fn replies<'a>(&'a mut self, out: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        if self.mode == Mode::Idle { out } else { &mut self.replies }
    }

    /// Where a command's operations and its replies go.
    #[inline]
    pub fn targets<'a>(&'a mut self, out: &'a mut Vec<u8>) -> (&'a mut Vec<u8>, &'a mut Vec<u8>) {
        let replies = if self.mode == Mode::Idle { out } else { &mut self.replies };
        (&mut self.writes, replies)
    }

    /// Notes that a reply is ready.
    #[inline]
    pub fn note_replied(&mut self) {
        let ready = self.replies.len() - self.replies_noted;
        if ready > 0 {
            self.replies_noted = self.replies.len();
            self.due.push(Due { first: 0, count: 0, made: Made::Ready(ready) });
        }
    }

    /// Notes the request that was encoded from `written` on.
    #[inline]
    pub fn note_write(&mut self, written: usize, shape: Shape, form: Form) {
        assert!(self.mode != Mode::Reads, "a write behind reads that wait");
        let (count, flushes) = weigh(&self.writes, written);
        self.mode = Mode::Writes;
        self.flushes += u32::from(flushes);
        self.add_due(count, Made::Shaped(shape, form));
    }

    /// Notes the request of a session that was encoded last: it has one outcome, its answer.
    pub fn note_request(&mut self, answer: Answer) {
        assert!(self.mode != Mode::Reads, "a write behind reads that wait");
        self.mode = Mode::Writes;
        self.add_answer(1, answer);
    }

    /// Notes a request's reads of keys.
    pub fn note_lookups<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>, answer: Answer) {
        let before = self.lookups.len();
        for key in keys {
            self.add_lookup(Asked::Render(KeyRead::Outcome, Form::default()), key, true);
        }
        let count = self.lookups.len() - before;
        if let [.., only] = self.lookups.as_mut_slice()
            && count == 1
        {
            only.together = false;
        }
        self.add_answer(count as u32, answer);
    }

    fn add_answer(&mut self, count: u32, answer: Answer) {
        self.answers.push(answer);
        self.add_due(count, Made::Answer(self.answers.len() as u32 - 1));
    }

    /// Takes an encoded request back.
    pub fn truncate_writes(&mut self, written: usize) {
        self.writes.truncate(written);
    }

    /// Notes a read of one key.
    pub fn note_read(&mut self, what: KeyRead, key: &[u8], form: Form) {
        self.add_lookup(Asked::Render(what, form), key, false);
        self.add_due(1, Made::Rendered(form));
    }

    /// Notes a read of several keys.
    pub fn note_reads(&mut self, combine: Combine, keys: Arguments<'_>, form: Form) {
        let (asked, made) = match combine {
            Combine::Values => (Asked::Render(KeyRead::Value, form), Made::Values(form)),
            Combine::Count => (Asked::Exists, Made::Counted(form)),
        };
        for key in keys.iter() {
            self.add_lookup(asked, key, true);
        }
        self.add_due(keys.len() as u32, made);
    }

    fn add_lookup(&mut self, asked: Asked, key: &[u8], together: bool) {
        assert!(self.mode != Mode::Writes, "a read behind writes that wait");
        self.mode = Mode::Reads;
        let start = self.keys.len() as u32;
        self.keys.extend_from_slice(key);
        let key_range = start..self.keys.len() as u32;
        self.lookups.push(Lookup { asked, slot: slot_of_key(key), key: key_range, together });
    }

    fn add_due(&mut self, count: u32, made: Made) {
        self.due.push(Due { first: self.operations, count, made });
        self.operations += count;
    }

    /// Renders everything that is due, in order.
    ///
    /// # Errors
    /// [`Unknown`] when what happened cannot be said; the replies before it are rendered.
    pub fn render<'o, R>(
        &self,
        results: impl Fn(&Due) -> R,
        voice: &Voice,
        out: &mut Vec<u8>,
    ) -> Result<(), Unknown>
    where
        R: Iterator<Item = Outcome<'o>>,
    {
        let mut ready = self.replies.as_slice();
        for due in &self.due {
            match due.made {
                Made::Ready(bytes) => {
                    let (these, rest) = ready.split_at(bytes);
                    out.extend_from_slice(these);
                    ready = rest;
                }
                Made::Answer(answer) => {
                    self.answers[answer as usize].append(results(due), voice, out);
                }
                Made::Shaped(shape, form) => shape.append(results(due), form, out)?,
                Made::Rendered(form) => append_rendered(results(due), form, out)?,
                Made::Values(form) => {
                    let start = out.len();
                    read::append_values_head(due.count as usize, form, out);
                    if let Some(error) = results(due).find_map(|outcome| outcome.result.err()) {
                        out.truncate(start);
                        reply::append_error(error, form, out)?;
                    } else {
                        append_rendered(results(due), form, out)?;
                    }
                }
                Made::Counted(form) => match count(results(due)) {
                    Ok(count) => read::append_count(count, form, out),
                    Err(error) => reply::append_error(error, form, out)?,
                },
            }
        }
        Ok(())
    }

    /// Forgets the run. A write that was encoded behind a run of reads stays: it is the next run's.
    pub fn end_run(&mut self) {
        if self.mode == Mode::Writes {
            self.writes.clear();
        }
        self.mode = Mode::Idle;
        self.operations = 0;
        self.flushes = 0;
        self.keys.clear();
        self.lookups.clear();
        self.due.clear();
        self.replies.clear();
        self.replies_noted = 0;
        self.answers.clear();
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.end_run();
        self.writes.clear();
    }

    /// Whether nothing is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mode == Mode::Idle && self.writes.is_empty() && self.replies.is_empty()
    }

    /// Whether it is worth keeping.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.writes.capacity().max(self.replies.capacity()) <= 4 * RUN_BYTES
    }
}

fn append_rendered<'o>(
    results: impl Iterator<Item = Outcome<'o>>,
    form: Form,
    out: &mut Vec<u8>,
) -> Result<(), Unknown> {
    for outcome in results {
        match outcome.result {
            Ok(Value::Bytes(bytes)) => out.extend_from_slice(bytes),
            Ok(other) => unreachable!("a rendered read is bytes, not {other:?}"),
            Err(code) => reply::append_error(code, form, out)?,
        }
    }
    Ok(())
}

fn count<'o>(mut results: impl Iterator<Item = Outcome<'o>>) -> Result<u64, ErrorCode> {
    results
        .try_fold(0, |count, outcome| Ok(count + u64::from(outcome.result? == Value::Bool(true))))
}

/// How many operations the request at `from` has, and whether it concerns all shards.
#[inline]
fn weigh(writes: &[u8], from: usize) -> (u32, bool) {
    let request = Requests::of_body(&writes[from..]).next().expect("a request was appended");
    let mut operations = request.operations();
    let first = operations.next().expect("a request has an operation");
    (request.operation_count(), !first.opcode.has_key())
}
