//! A turn: everything that has arrived becomes replies, in the order of the commands.
//!
//! Commands of one turn are gathered in *runs*: consecutive writes go to the log together,
//! consecutive reads that memory cannot answer wait together. What a run still has to be told is
//! noted in order on the *desk* and rendered when the run is complete:
//!
//! 1. A write is encoded behind the writes before it. A read that memory answers is rendered at
//!    once; one that has to wait (for the grid, for another core, for a pulse) joins a run.
//! 2. A read behind writes waits for them, a write behind waiting reads waits for these: so a read
//!    sees its connection's earlier writes and none of its later ones, and everything that may go
//!    together does.
//! 3. What needs no run (PING, errors) is rendered at once: into the replies if nothing is being
//!    waited for, else onto the desk, in its place.
//! 4. When the input is used up, or a run is large, the run is *flushed*: handed over, awaited,
//!    rendered.
//!
//! With one core and everything in memory a batch of sixteen GETs is sixteen look-ups rendered
//! into the vector that is sent, and a batch of sixteen SETs sixteen encodings into one run that
//! the open prepare takes with one copy. Desks are lent by the core: nothing is allocated.

use std::rc::Rc;

use super::listen::{Consume, Consumed, Verdict};
use crate::core::Core;
use crate::core::clients::{Client, Place};
use crate::core::desk::{Desk, Due, Mode};
use crate::core::reads::InPlace;
use crate::gateway::runs::{RunId, Tag};
use crate::metrics::{Counter, Stage};
use crate::resp::plan::{self, Form, Host, Plan, Work};
use crate::resp::{Arguments, Parser, Progress, Read, Session, reply};
use crate::status::Phase;

/// What to do next for a command, beyond what could be done at once.
enum Next<'a> {
    Done,
    Flush,
    FlushThen(Plan<'a>),
    Slow(Plan<'a>),
    Close,
}

/// What a connection of the Redis protocol does with what it has received.
pub(super) struct Turn {
    core: Rc<Core>,
    run: RunId,
    client: Place,
    parser: Parser,
}

impl Turn {
    pub(super) fn new(core: Rc<Core>, run: RunId, client: Place) -> Turn {
        let parser = Parser::new(core.request_limits);
        Turn { core, run, client, parser }
    }
}

impl Consume for Turn {
    async fn consume(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Consumed {
        let core = self.core.clone();
        let mut desk = core.desks.take();
        let mut host = core.host();
        self.client.active.set(core.turn_at.get());
        let (mut at, mut wanted, mut verdict) = (0, 0, Verdict::Continue);
        let replies_max = core.connection_limits.unsent_max;
        let mut paused = false;
        while verdict == Verdict::Continue {
            if out.len() >= replies_max {
                paused = true;
                break;
            }
            let arguments = match self.parser.parse(&bytes[at..]) {
                Ok(Progress::Request { arguments, consumed }) => {
                    at += consumed;
                    arguments
                }
                Ok(Progress::Blank { consumed }) => {
                    at += consumed;
                    continue;
                }
                Ok(Progress::Incomplete { wanted: length }) => {
                    wanted = length;
                    break;
                }
                Err(error) => {
                    error.append(desk.replies(out));
                    desk.note_replied();
                    verdict = Verdict::Invalid;
                    break;
                }
            };
            let mut step = Step { core: &core, run: self.run, desk: &mut desk, host: &host };
            let next = step.take(arguments, &mut self.client.session.borrow_mut(), out);
            if !matches!(next, Next::Done) {
                verdict = follow(&core, self.run, &mut desk, next, &self.client, out).await;
                host = core.host();
            }
        }
        if flush(&core, self.run, &mut desk, out).await.is_err() {
            verdict = Verdict::Close;
        }
        core.desks.give_back(desk);
        Consumed { used: at, wanted, verdict, paused }
    }
}

/// One command, as far as it goes without waiting.
struct Step<'s> {
    core: &'s Core,
    run: RunId,
    desk: &'s mut Desk,
    host: &'s Host,
}

impl Step<'_> {
    #[inline]
    fn take<'a>(
        &mut self,
        arguments: Arguments<'a>,
        session: &mut Session,
        out: &mut Vec<u8>,
    ) -> Next<'a> {
        self.core.metrics.count(Counter::Commands);
        let tag = Tag { core: self.core.index, run: self.run, first: self.desk.next_write() };
        let (writes, target) = self.desk.targets(out);
        let (written, replied) = (writes.len(), target.len());
        let plan = plan::plan(arguments, session, self.host, writes, tag.pack(), target);
        match plan.work {
            Work::Replied => {
                // Whoever asks whether the node is there wants to know whether it serves.
                if self.core.phase.get() == Phase::Loading && is_ping(arguments) {
                    self.desk.replies(out).truncate(replied);
                    return self.refuse(plan.form, None, out).unwrap_or(Next::Done);
                }
                self.desk.note_replied();
                Next::Done
            }
            Work::Close => {
                self.desk.note_replied();
                Next::Close
            }
            Work::Write(shape) => {
                if let Some(refused) = self.refuse(plan.form, Some(written), out) {
                    return refused;
                }
                if self.desk.mode() == Mode::Reads {
                    return Next::FlushThen(plan);
                }
                self.note_write(written, shape, plan.form)
            }
            Work::Read(read) => {
                if let Some(refused) = self.refuse(plan.form, None, out) {
                    return refused;
                }
                match self.desk.mode() {
                    Mode::Writes => Next::FlushThen(plan),
                    Mode::Reads | Mode::Idle => self.read(&read, plan, out),
                }
            }
            Work::Ask(_) => Next::FlushThen(plan),
        }
    }

    /// The answer of a node that does not serve.
    fn refuse<'a>(
        &mut self,
        form: Form,
        written: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Option<Next<'a>> {
        let code = match self.core.phase.get() {
            Phase::Serving => return None,
            Phase::Loading => wire::ErrorCode::NotReady,
            Phase::Stopping => wire::ErrorCode::Stopping,
        };
        if let Some(written) = written {
            self.desk.truncate_writes(written);
        }
        let appended = reply::append_error(code, form, self.desk.replies(out));
        assert!(appended.is_ok(), "nothing was done, and the client can be told so");
        self.desk.note_replied();
        Some(Next::Done)
    }

    fn note_write<'a>(&mut self, written: usize, shape: reply::Shape, form: Form) -> Next<'a> {
        self.desk.note_write(written, shape, form);
        if self.desk.is_full() { Next::Flush } else { Next::Done }
    }

    /// A read: at once if memory has the answer, else with the run of waiting reads.
    #[inline]
    fn read<'a>(&mut self, read: &Read<'a>, plan: Plan<'a>, out: &mut Vec<u8>) -> Next<'a> {
        let form = plan.form;
        match read {
            Read::Key { what, key } => {
                let target = self.desk.replies(out);
                match self.core.reads.key_in_place(self.core, *what, key, form, target) {
                    InPlace::Rendered => self.desk.note_replied(),
                    InPlace::Wait => self.desk.note_read(*what, key, form),
                }
            }
            Read::Many { combine, keys } => {
                let target = self.desk.replies(out);
                match self.core.reads.many_in_place(self.core, *combine, *keys, form, target) {
                    InPlace::Rendered => self.desk.note_replied(),
                    InPlace::Wait => self.desk.note_reads(*combine, *keys, form),
                }
            }
            Read::Scan(_) | Read::Keys { .. } | Read::Size | Read::RandomKey => {
                return Next::Slow(plan);
            }
        }
        if self.desk.is_full() { Next::Flush } else { Next::Done }
    }
}

fn is_ping(arguments: Arguments<'_>) -> bool {
    arguments.iter().next().is_some_and(|name| name.eq_ignore_ascii_case(b"ping"))
}

/// What a command needs that waits.
async fn follow(
    core: &Core,
    run: RunId,
    desk: &mut Desk,
    next: Next<'_>,
    client: &Client,
    out: &mut Vec<u8>,
) -> Verdict {
    let plan = match next {
        Next::Done => return Verdict::Continue,
        Next::Close => return Verdict::Close,
        Next::Flush => {
            return match flush(core, run, desk, out).await {
                Ok(()) => Verdict::Continue,
                Err(_) => Verdict::Close,
            };
        }
        Next::FlushThen(plan) | Next::Slow(plan) => plan,
    };
    if flush(core, run, desk, out).await.is_err() {
        return Verdict::Close;
    }
    match plan.work {
        Work::Replied | Work::Close => unreachable!("what is replied needs nothing more"),
        Work::Write(shape) => desk.note_write(0, shape, plan.form),
        Work::Read(ref read) => {
            let host = core.host();
            let mut step = Step { core, run, desk, host: &host };
            let read = *read;
            if let Next::Slow(plan) = step.read(&read, plan, out)
                && core.walks.answer(core, &read, plan.form, out).await.is_err()
            {
                return Verdict::Close;
            }
        }
        Work::Ask(ask) => core.answer(&ask, client, plan.form, out).await,
    }
    Verdict::Continue
}

/// The connection cannot be told what happened, so it is closed.
pub(crate) struct CannotSay;

/// Hands the run on the desk over, waits for it and renders what was noted. Writes that were
/// encoded and not noted stay on the desk: they are the next run's first.
pub(crate) async fn flush(
    core: &Core,
    run: RunId,
    desk: &mut Desk,
    out: &mut Vec<u8>,
) -> Result<(), CannotSay> {
    if desk.mode() == Mode::Idle {
        return Ok(());
    }
    let started = ioring::now();
    let stage = if desk.mode() == Mode::Writes {
        // An operation that concerns all shards has an outcome from every core that has some.
        let parts = desk.flushes() * (core.topology.shard_cores() - 1);
        core.runs.begin(run, desk.outcomes(), parts);
        core.submit(desk.writes()).await;
        Stage::Write
    } else {
        core.reads.answer_run(core, run, desk).await;
        Stage::Read
    };
    core.runs.wait(run).await;
    let voice = core.voice();
    let said = core.runs.outcomes(run, |outcomes| {
        let results = |due: &Due| {
            (due.first..due.first + due.count).map(|index| outcomes.outcome(index as usize))
        };
        desk.render(results, &voice, out)
    });
    core.runs.end(run);
    desk.end_run();
    core.metrics.record(stage, ioring::now() - started);
    said.map_err(|reply::Unknown| CannotSay)
}
