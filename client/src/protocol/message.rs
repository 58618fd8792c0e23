//! Messages: what is sent, and what of the bytes that arrive is whole.

use wire::message::{Error, Eviction, Hello, Reply, Request, Tail};
use wire::{
    Checksum, ClientId, ClusterId, Command, Draft, HEADER_SIZE, Header, HeaderError, Incarnation,
    Outcome, PROTOCOL, Release, RequestNumber,
};

use super::{Body, Nanoseconds};

/// A reply has at most so many bytes; a node sends no larger ones.
const REPLY_MAX: usize = 65 << 20;

/// Why what a node sent is no message to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No header or body that can be believed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A message that clients do not get.
    #[error("a {0:?} from a node to a client")]
    Command(Command),
    /// More than a node sends.
    #[error("a message of {0} bytes")]
    TooLarge(usize),
    /// Its outcomes are malformed, or not as many as it says.
    #[error("a reply whose outcomes are malformed")]
    Outcomes,
}

/// A message of a node.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Hello(ClusterId),
    Reply(Reply, &'a [u8]),
    Error(Error),
    Eviction(Eviction),
}

/// The message that the bytes begin with, and how many they are; none if it is not whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, MessageError> {
    if bytes.len() < HEADER_SIZE {
        return Ok(None);
    }
    let header = Header::verify(bytes)?;
    let size = header.size();
    if size > REPLY_MAX {
        return Err(MessageError::TooLarge(size));
    }
    let Some(body) = bytes.get(HEADER_SIZE..size) else { return Ok(None) };
    header.verify_body(body)?;
    let message = match header.command() {
        Command::Hello => Message::Hello(header.cluster()),
        Command::Reply => {
            let reply: Reply = tail(&header);
            if !are_outcomes(body, reply.outcome_count) {
                return Err(MessageError::Outcomes);
            }
            Message::Reply(reply, body)
        }
        Command::Error => Message::Error(tail(&header)),
        Command::Eviction => Message::Eviction(tail(&header)),
        other => return Err(MessageError::Command(other)),
    };
    Ok(Some((message, size)))
}

fn tail<T: Tail>(header: &Header) -> T {
    header.tail().expect("the command says so")
}

fn are_outcomes(mut bytes: &[u8], count: u32) -> bool {
    for _ in 0..count {
        let Some((_, size)) = Outcome::decode(bytes) else { return false };
        bytes = &bytes[size..];
    }
    bytes.is_empty() && count > 0
}

/// What a client writes into the headers of its messages.
fn draft(cluster: ClusterId) -> Draft {
    Draft { cluster, release: Release::CURRENT, ..Draft::default() }
}

/// Appends a client's greeting.
pub(super) fn append_hello(cluster: ClusterId, out: &mut Vec<u8>) {
    let hello = Hello {
        incarnation: Incarnation(0),
        configuration: Checksum(0),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        release_max: Release::CURRENT,
        replica_count: 0,
        client: true,
        class: 0,
    };
    out.extend_from_slice(draft(cluster).seal(&hello, &[]).bytes());
}

/// Who sends a request, and what it has been told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) cluster: ClusterId,
    pub(super) client: ClientId,
    pub(super) acknowledged: u64,
    pub(super) patience: Nanoseconds,
}

/// Appends a request.
pub(super) fn append_request(sender: &Sender, number: u64, body: &Body, out: &mut Vec<u8>) {
    let request = Request {
        client: sender.client,
        number: RequestNumber(number),
        acknowledged: RequestNumber(sender.acknowledged),
        patience: sender.patience,
        operation_count: body.count,
        read_level: 1,
        all_or_none: body.all_or_none,
    };
    out.extend_from_slice(draft(sender.cluster).seal(&request, &body.bytes).bytes());
    out.extend_from_slice(&body.bytes);
}
