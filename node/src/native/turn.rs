//! A turn of a native connection: what has arrived becomes messages back, in order.
//!
//! Requests are gathered on a desk as commands of RESP are (see `connection/turn.rs`, which hands
//! the desk's runs over and has them rendered): writes encoded behind one another, reads answered
//! in place where memory tells. A request of a session that cannot be given to the log as it is (a
//! value that is too long, an operation that this release does not offer) goes there as a refusal
//! in its place, because its number has to be taken: see [`crate::session`].

use std::rc::Rc;
use std::time::Duration;

use ioring::timeout;
use wire::message::Request;
use wire::read::Reads;
use wire::{ClientTag, ErrorCode, Operations, RequestBuilder, Session};

use super::answer::{Answer, begin};
use super::error;
use super::message::{Asked, Limits, Progress, parse};
use crate::connection::listen::{Consume, Consumed, Verdict};
use crate::connection::turn::flush;
use crate::core::Core;
use crate::core::desk::{Desk, Mode};
use crate::core::reads::InPlace;
use crate::gateway::runs::{RunId, Tag};
use crate::metrics::Counter;
use crate::resp::{Form, KeyRead};
use crate::session;
use crate::status::Phase;

/// What a connection of the native protocol does with what it has received.
pub(super) struct Requests {
    core: Rc<Core>,
    run: RunId,
    limits: Limits,
}

impl Requests {
    pub(super) fn new(core: Rc<Core>, run: RunId) -> Requests {
        let state = core.log().checkpoints.directory().superblock.state();
        let prepare_size_max = state.configuration.prepare_size_max as usize;
        let limits = Limits::new(state.identity.cluster, prepare_size_max, core.value_max);
        Requests { core, run, limits }
    }
}

impl Consume for Requests {
    async fn consume(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Consumed {
        let core = self.core.clone();
        let mut gathering = Gathering { core: &core, run: self.run, patience: None };
        let mut desk = core.desks.take();
        // Reads are judged by the moment of their turn.
        let _ = core.host();
        let replies_max = core.connection_limits.unsent_max;
        let (mut used, mut wanted, mut paused) = (0, 0, false);
        let mut late = false;
        let verdict = loop {
            if out.len() >= replies_max {
                paused = true;
                break Verdict::Continue;
            }
            let (request, asked, size) = match parse(&bytes[used..], &self.limits) {
                Ok(Progress::Request(request, asked, size)) => (request, asked, size),
                Ok(Progress::Incomplete(size)) => {
                    wanted = size;
                    break Verdict::Continue;
                }
                Err(fault) => {
                    error(&core, fault.code(), &fault.to_string(), desk.replies(out));
                    desk.note_replied();
                    break Verdict::Invalid;
                }
            };
            used += size;
            core.metrics.count(Counter::Commands);
            late = gathering.take(&request, asked, &mut desk, out).await.is_err();
            if late {
                break Verdict::Close;
            }
        };
        // What is late is not waited for, and its run is the connection's last.
        late = late || gathering.flush(&mut desk, out).await.is_err();
        core.desks.give_back(desk);
        let verdict = if late { Verdict::Close } else { verdict };
        Consumed { used, wanted, verdict, paused }
    }
}

/// Somebody's patience is over, and the connection is told so.
struct Late;

/// A turn under way.
struct Gathering<'c> {
    core: &'c Core,
    run: RunId,
    /// The least of those on the desk.
    patience: Option<Duration>,
}

impl Gathering<'_> {
    async fn take(
        &mut self,
        request: &Request,
        asked: Asked<'_>,
        desk: &mut Desk,
        out: &mut Vec<u8>,
    ) -> Result<(), Late> {
        let refused = match self.core.phase.get() {
            Phase::Serving => None,
            Phase::Loading => Some((ErrorCode::NotReady, "the node is starting")),
            Phase::Stopping => Some((ErrorCode::Stopping, "the node is stopping")),
        };
        if let Some((code, why)) = refused {
            Self::refuse(self.core, request, code, why, desk, out);
            return Ok(());
        }
        let mode = match asked {
            Asked::Read(_) => Mode::Reads,
            Asked::Register(_) | Asked::Write(_) | Asked::RefusedWrite(_) => Mode::Writes,
            Asked::RefusedRead(code, why) => {
                Self::refuse(self.core, request, code, why, desk, out);
                return Ok(());
            }
        };
        let other = desk.mode() != Mode::Idle && desk.mode() != mode;
        if other || desk.is_full() {
            self.flush(desk, out).await?;
        }
        match asked {
            Asked::Read(reads) => self.read(request, reads, desk, out),
            Asked::Register(operations) | Asked::Write(operations) => {
                self.write(request, &operations, desk);
            }
            Asked::RefusedRead(..) => unreachable!("it was refused above"),
            Asked::RefusedWrite(code) => {
                let tag = self.tag(desk);
                session::encode_refuse(desk.writes_mut(), tag, session_of(request), code)
                    .expect("vectors grow");
                desk.note_request(Answer::to(request, false));
            }
        }
        if desk.mode() != Mode::Idle && request.patience > 0 {
            let patience = Duration::from_nanos(request.patience);
            self.patience = Some(self.patience.map_or(patience, |least| least.min(patience)));
        }
        Ok(())
    }

    fn tag(&self, desk: &Desk) -> ClientTag {
        let (core, first) = (self.core.index, desk.next_write());
        Tag { core, run: self.run, first }.pack()
    }

    fn write(&self, request: &Request, operations: &Operations<'_>, desk: &mut Desk) {
        let tag = self.tag(desk);
        let writes = desk.writes_mut();
        let mut builder =
            RequestBuilder::with_session(writes, tag, session_of(request)).expect("vectors grow");
        if request.all_or_none {
            builder.all_or_none();
        }
        builder.push_all(operations).expect("vectors grow");
        builder.finish();
        desk.note_request(Answer::to(request, false));
    }

    fn read(&self, request: &Request, reads: Reads<'_>, desk: &mut Desk, out: &mut Vec<u8>) {
        let answer = Answer::to(request, true);
        if request.operation_count == 1
            && let Some(get) = reads.clone().next()
        {
            let target = desk.replies(out);
            let (start, form) = (begin(target), Form::default());
            let reads = &self.core.reads;
            match reads.key_in_place(self.core, KeyRead::Outcome, get.key, form, target) {
                InPlace::Rendered => {
                    let voice = self.core.voice();
                    answer.finish(start, voice.op, voice.timestamp, &voice, target);
                    return desk.note_replied();
                }
                InPlace::Wait => target.truncate(start),
            }
        }
        desk.note_lookups(reads.map(|get| get.key), answer);
    }

    /// Refuses a request before it has anything to do with its session.
    fn refuse(
        core: &Core,
        request: &Request,
        code: ErrorCode,
        why: &str,
        desk: &mut Desk,
        out: &mut Vec<u8>,
    ) {
        let answer = Answer::to(request, false);
        answer.append_error(code, why, &core.voice(), desk.replies(out));
        desk.note_replied();
    }

    /// Hands the run on the desk over and waits for it, as long as the least patient wait.
    async fn flush(&mut self, desk: &mut Desk, out: &mut Vec<u8>) -> Result<(), Late> {
        let flushing = flush(self.core, self.run, desk, out);
        let done = match self.patience.take() {
            Some(patience) => timeout(patience, flushing).await.is_ok_and(|said| said.is_ok()),
            None => flushing.await.is_ok(),
        };
        if done {
            let _ = self.core.host();
            return Ok(());
        }
        let why = "no answer within the patience of a request; it may happen, ask again";
        error(self.core, ErrorCode::Timeout, why, out);
        Err(Late)
    }
}

fn session_of(request: &Request) -> Session {
    let Request { client, number, acknowledged, .. } = *request;
    Session { client, number, acknowledged }
}
