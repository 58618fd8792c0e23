//! From a request's arguments to work: what a command means.
//!
//! [`plan`] looks the command up, checks its arguments, and decides one of:
//!
//! - [`Work::Replied`]: the answer needs nothing but the connection (PING, HELLO, an error, …) and
//!   is already appended;
//! - [`Work::Write`]: one request with one or more operations was appended to the sink that the
//!   replica's batcher will read; its outcomes are rendered by the [`Shape`] that came with it;
//! - [`Work::Read`]: keys or a range to be read, as a [`Read`] that renders what was found;
//! - [`Work::Ask`]: something only the node knows (INFO, CLIENT LIST);
//! - [`Work::Close`]: the answer is appended, and the connection ends when it is sent.
//!
//! Nothing here waits, reads a clock or knows of shards: log time comes in with [`Host`]. Relative
//! times to live become absolute deadlines here, once, in whole milliseconds as Redis counts them,
//! so that TTL answers what was asked for and everyone who replays the log sees one instant.
//!
//! Replies have to leave in the order of the commands while writes and reads take their time. So
//! a plan carries what its reply needs ([`Form`]: version and whether it is muted) by value: a
//! later HELLO cannot change how an earlier command is answered. A caller with replies outstanding
//! gives `plan` another vector than the connection's output, and appends it when its turn comes.
//!
//! Refused commands leave no trace: the sink is rolled back, and nothing but the error is appended.

use wire::{ClientTag, Full, OperationView, RequestBuilder, Sink, TableId, Timestamp};

use super::encode::{Encoder, Protocol};
use super::parser::Arguments;
use super::read::Read;
use super::refusal::{self, Refusal};
use super::reply::Shape;
use super::session::Session;
use super::table::{self, Id, Spec};
use super::{configuration, connection, describe, expiry, keyspace, strings};

/// The table that RESP clients see.
pub const TABLE: TableId = TableId(0);

/// What planning needs to know about the node at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Log time as the node sees it: what times to live are counted from.
    pub now: Timestamp,
    /// Nanoseconds since 1970 by the wall clock, for TIME alone.
    pub wall_clock_ns: u64,
    /// The longest value in bytes.
    pub value_max: usize,
}

/// How a reply is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The protocol version.
    pub protocol: Protocol,
    /// Whether it is dropped (CLIENT REPLY).
    pub muted: bool,
}

/// What is to be done for a command, and how its reply looks.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What is to be done.
    pub work: Work<'a>,
    /// How the reply looks.
    pub form: Form,
}

/// See the module's text.
#[derive(Debug)]
pub enum Work<'a> {
    /// The reply is appended.
    Replied,
    /// The reply is appended, and is the connection's last.
    Close,
    /// A request was appended to the sink.
    Write(Shape),
    /// Something is to be read.
    Read(Read<'a>),
    /// The node has to say something about itself.
    Ask(Ask<'a>),
}

/// What only the node knows.
#[derive(Debug)]
pub enum Ask<'a> {
    /// INFO of these sections: [`super::info::append`].
    Info(super::info::Sections),
    /// CLIENT INFO: this connection's line, [`Session::describe`], as a verbatim text.
    ClientInfo,
    /// CLIENT LIST: the lines of the connections that the filter admits, as a verbatim text.
    ClientList(connection::ClientFilter<'a>),
}

/// Decides what a request means: see the module's text.
pub fn plan<'a, S: Sink>(
    arguments: Arguments<'a>,
    session: &mut Session,
    host: &Host,
    sink: &mut S,
    tag: ClientTag,
    out: &mut Vec<u8>,
) -> Plan<'a> {
    assert!(!arguments.is_empty(), "the parser gives no request without a name");
    let start = out.len();
    let mut form = Form { muted: session.begin(), protocol: session.protocol };
    let work = match table::lookup(arguments.at(0)) {
        Some(spec) => {
            session.last_command = spec.name;
            let mut planner = Planner { arguments, spec, host, sink, tag };
            let accepted = spec.accepts(arguments.len()).then_some(()).ok_or(Refusal::Arity);
            accepted.and_then(|()| planner.dispatch(session, out)).unwrap_or_else(|refusal| {
                out.truncate(start);
                refusal.append(spec.name, &mut Encoder::new(out, form.protocol));
                Work::Replied
            })
        }
        None => {
            let mut encoder = Encoder::new(out, form.protocol);
            refusal::append_unknown(arguments.at(0), arguments.from(1).iter(), &mut encoder);
            Work::Replied
        }
    };
    form.muted &= !session.answered;
    if form.muted {
        out.truncate(start);
    }
    Plan { work, form }
}

/// One command on its way to becoming work.
pub(super) struct Planner<'p, 'a, S> {
    pub(super) arguments: Arguments<'a>,
    pub(super) spec: &'static Spec,
    pub(super) host: &'p Host,
    sink: &'p mut S,
    tag: ClientTag,
}

/// Work, or why there is none.
pub(super) type Planned<'a> = Result<Work<'a>, Refusal<'a>>;

impl<'a, S: Sink> Planner<'_, 'a, S> {
    #[inline]
    fn dispatch(&mut self, session: &mut Session, out: &mut Vec<u8>) -> Planned<'a> {
        use Id::*;
        match self.spec.id {
            Get => Ok(Work::Read(Read::one(super::read::KeyRead::Value, self.key(1)?))),
            Set | SetEx | PSetEx | SetNx | GetSet | GetDel | GetEx | MSet | MSetNx | Incr
            | Decr | IncrBy | DecrBy | IncrByFloat | Append | SetRange | StrLen | GetRange
            | SubStr | MGet => strings::plan(self),
            Expire | PExpire | ExpireAt | PExpireAt | ExpireTime | PExpireTime | Ttl | PTtl
            | Persist => expiry::plan(self),
            Del | Unlink | Exists | Touch | Type | RandomKey | Scan | Keys | DbSize | FlushAll
            | FlushDb => keyspace::plan(self),
            Ping | Echo | Hello | Select | Client | Time | Quit | Reset => {
                connection::plan(self, session, out)
            }
            Command => describe::plan(self, &mut Encoder::new(out, session.protocol)),
            Config => configuration::plan(self, &mut Encoder::new(out, session.protocol)),
            Info => {
                let names = self.arguments.from(1).iter();
                Ok(Work::Ask(Ask::Info(super::info::Sections::named(names))))
            }
        }
    }

    /// The argument at `index`, as a key.
    #[inline]
    pub(super) fn key(&self, index: usize) -> Result<&'a [u8], Refusal<'a>> {
        let key = self.arguments.at(index);
        if key.is_empty() || key.len() > wire::operation::KEY_SIZE_MAX {
            return Err(Refusal::KeySize(key.len()));
        }
        Ok(key)
    }

    /// The argument at `index`, as a value to store.
    #[inline]
    pub(super) fn value(&self, index: usize) -> Result<&'a [u8], Refusal<'a>> {
        let value = self.arguments.at(index);
        if value.len() > self.host.value_max {
            return Err(Refusal::ValueSize(value.len(), self.host.value_max));
        }
        Ok(value)
    }

    /// The argument at `index`, as an integer.
    pub(super) fn integer(&self, index: usize) -> Result<i64, Refusal<'a>> {
        super::number::parse_i64(self.arguments.at(index)).ok_or(refusal::NOT_INTEGER)
    }

    /// The keys from `first` on, all of them of a possible size.
    pub(super) fn keys(&self, first: usize) -> Result<Arguments<'a>, Refusal<'a>> {
        for index in first..self.arguments.len() {
            self.key(index)?;
        }
        Ok(self.arguments.from(first))
    }

    /// Appends a request of one operation.
    #[inline]
    pub(super) fn write(&mut self, operation: &OperationView<'_>, shape: Shape) -> Planned<'a> {
        self.write_all(std::iter::once(*operation), shape, false)
    }

    /// Appends a request of several operations: atomic, and with `all_or_none` conditional as one.
    #[inline]
    pub(super) fn write_all<'o>(
        &mut self,
        operations: impl Iterator<Item = OperationView<'o>>,
        shape: Shape,
        all_or_none: bool,
    ) -> Planned<'a> {
        let append = || -> Result<(), Full> {
            let mut builder = RequestBuilder::new(self.sink, self.tag)?;
            if all_or_none {
                builder.all_or_none();
            }
            for operation in operations {
                builder.push(&operation)?;
            }
            builder.finish();
            Ok(())
        };
        append().map_err(|Full| refusal::REQUEST_TOO_LARGE)?;
        Ok(Work::Write(shape))
    }
}
