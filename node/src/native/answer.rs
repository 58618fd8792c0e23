//! Answers: from outcomes to the messages that go back to a client.

use wire::message::{Error, Eviction, Reply, Request};
use wire::{
    ClientId, Draft, ErrorCode, HEADER_SIZE, Op, Outcome, ReplicaId, RequestNumber, Timestamp,
    Value,
};

use crate::session::ANSWER_HEAD_SIZE;

/// When to try again what was refused for the moment.
const RETRY_AFTER_MS: u32 = 20;

/// What this node says of itself, and what reads reflect.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// The headers' common part.
    pub draft: Draft,
    /// The newest op that is applied.
    pub op: Op,
    /// Its log time.
    pub timestamp: Timestamp,
    /// Requests outstanding in one session.
    pub window: u64,
    /// Who is primary, if that is another replica.
    pub primary: Option<ReplicaId>,
}

/// What an answer has to say of its request.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    client: ClientId,
    number: RequestNumber,
    acknowledged: RequestNumber,
    /// Operations or reads.
    count: u32,
    is_read: bool,
}

impl Answer {
    /// To this request.
    #[must_use]
    pub fn to(request: &Request, is_read: bool) -> Answer {
        let Request { client, number, acknowledged, operation_count: count, .. } = *request;
        Answer { client, number, acknowledged, count, is_read }
    }

    /// Appends the message. Of a write the one outcome is the session's answer, of reads each is
    /// the outcome as it is to be sent.
    pub fn append<'o>(
        &self,
        mut outcomes: impl Iterator<Item = Outcome<'o>>,
        voice: &Voice,
        out: &mut Vec<u8>,
    ) {
        if self.is_read {
            return self.append_reads(outcomes, voice, out);
        }
        let outcome = outcomes.next().expect("a write has an outcome");
        match outcome.result {
            Ok(Value::Bytes(answer)) => {
                let (head, outcomes) = answer.split_at(ANSWER_HEAD_SIZE);
                let number = |at: usize| {
                    let bytes = head[at..at + 8].first_chunk().expect("eight bytes");
                    u64::from_le_bytes(*bytes)
                };
                let start = begin(out);
                out.extend_from_slice(outcomes);
                self.finish(start, Op(number(0)), Timestamp(number(8)), voice, out);
            }
            Ok(other) => unreachable!("the answer of a session is bytes, not {other:?}"),
            Err(ErrorCode::SessionEvicted) => {
                let eviction = Eviction { client: self.client, op: Op(0) };
                out.extend_from_slice(voice.draft.seal(&eviction, &[]).bytes());
            }
            Err(code) => self.append_error(code, explain(code), voice, out),
        }
    }

    fn append_reads<'o>(
        &self,
        outcomes: impl Iterator<Item = Outcome<'o>>,
        voice: &Voice,
        out: &mut Vec<u8>,
    ) {
        let start = begin(out);
        for outcome in outcomes {
            match outcome.result {
                Ok(Value::Bytes(encoded)) => out.extend_from_slice(encoded),
                _ => outcome.encode(out).expect("vectors grow"),
            }
        }
        self.finish(start, voice.op, voice.timestamp, voice, out);
    }

    /// Completes a reply whose outcomes stand behind the room for its header.
    pub fn finish(
        &self,
        start: usize,
        op: Op,
        timestamp: Timestamp,
        voice: &Voice,
        out: &mut [u8],
    ) {
        let last = self.acknowledged.0.saturating_add(voice.window);
        let credits = if self.is_read { voice.window } else { last.saturating_sub(self.number.0) };
        let reply = Reply {
            client: self.client,
            number: self.number,
            op,
            timestamp,
            credits: u32::try_from(credits).unwrap_or(u32::MAX),
            outcome_count: self.count,
        };
        let (head, body) = out[start..].split_at_mut(HEADER_SIZE);
        head.copy_from_slice(voice.draft.seal(&reply, body).bytes());
    }

    /// Appends that the request was not done, or that it is unknown whether it was.
    pub fn append_error(&self, code: ErrorCode, why: &str, voice: &Voice, out: &mut Vec<u8>) {
        let error = Error {
            client: self.client,
            number: self.number,
            code,
            retry_after_ms: if code.is_transient() { RETRY_AFTER_MS } else { 0 },
            primary: voice.primary.unwrap_or(ReplicaId(0)),
            primary_known: voice.primary.is_some(),
        };
        out.extend_from_slice(voice.draft.seal(&error, why.as_bytes()).bytes());
        out.extend_from_slice(why.as_bytes());
    }
}

/// Makes room for a header; where it is.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + HEADER_SIZE, 0);
    start
}

fn explain(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Overloaded => {
            "nothing was done: the session has too much outstanding, or a request before is missing"
        }
        ErrorCode::ResultDropped => "the request was executed, and its result is not kept",
        ErrorCode::NotPrimary => "another replica is primary, or none for now; nothing was done",
        ErrorCode::NotReady => "the node is starting; nothing was done",
        ErrorCode::Stopping => "the node is stopping; nothing was done",
        ErrorCode::BadRequest => "the session never executed what this acknowledges",
        _ => "",
    }
}
