//! Commands about the connection itself: answered on the spot, or by the node's list of clients.
//!
//! HELLO negotiates the protocol version and may set the name; a HELLO that fails in any part
//! changes nothing. Names and library versions may hold only printable characters without spaces,
//! because CLIENT LIST separates by spaces and lines; they are kept for as long as the connection
//! lives, so their length is bounded, which Redis leaves open.

use wire::Sink;

use super::encode::{Encoder, Protocol};
use super::number::{Digits, parse_i64};
use super::parser::Arguments;
use super::plan::{Ask, Planned, Planner, Work};
use super::refusal::{NOT_INTEGER, Refusal, SYNTAX};
use super::session::{Replies, Session};
use super::table::Id;

/// The release of Redis whose behaviour clients can expect, as HELLO and INFO report it.
pub const REDIS_VERSION: &str = "7.0.15";

/// The longest name of a connection or library, in bytes.
const NAME_MAX: usize = 256;

/// Which connections CLIENT LIST shows.
#[derive(Clone, Copy, Debug)]
pub enum ClientFilter<'a> {
    /// All of them.
    All,
    /// None: of a type that connections of this protocol never have.
    None,
    /// Those with these numbers, in decimal.
    Ids(Arguments<'a>),
}

impl ClientFilter<'_> {
    /// Whether the connection with this number is shown.
    #[must_use]
    pub fn admits(&self, id: u64) -> bool {
        match self {
            ClientFilter::All => true,
            ClientFilter::None => false,
            ClientFilter::Ids(ids) => {
                let digits = Digits::of_u64(id);
                ids.iter().any(|wanted| wanted == digits.as_bytes())
            }
        }
    }
}

pub(super) fn plan<'a, S: Sink>(
    planner: &mut Planner<'_, 'a, S>,
    session: &mut Session,
    out: &mut Vec<u8>,
) -> Planned<'a> {
    let arguments = planner.arguments;
    let encoder = &mut Encoder::new(out, session.protocol);
    match planner.spec.id {
        Id::Ping => match arguments.len() {
            1 => encoder.simple("PONG"),
            2 => encoder.bulk(arguments.at(1)),
            _ => return Err(Refusal::Arity),
        },
        Id::Echo => encoder.bulk(arguments.at(1)),
        Id::Time => {
            let microseconds = planner.host.wall_clock_ns / 1000;
            encoder.array(2);
            encoder.bulk_integer(microseconds / 1_000_000);
            encoder.bulk_integer(microseconds % 1_000_000);
        }
        Id::Select => {
            let index = planner.integer(1)?;
            i32::try_from(index).map_err(|_| NOT_INTEGER)?;
            if index != 0 {
                return Err(Refusal::Text("ERR DB index is out of range"));
            }
            encoder.ok();
        }
        Id::Quit => {
            encoder.ok();
            return Ok(Work::Close);
        }
        Id::Reset => {
            session.reset();
            session.answered = true;
            Encoder::new(out, session.protocol).simple("RESET");
        }
        Id::Hello => hello(arguments, session, out)?,
        Id::Client => return client(planner, session, out),
        other => unreachable!("{other:?} is no command about connections"),
    }
    Ok(Work::Replied)
}

fn hello<'a>(
    arguments: Arguments<'a>,
    session: &mut Session,
    out: &mut Vec<u8>,
) -> Result<(), Refusal<'a>> {
    let mut protocol = session.protocol;
    if arguments.len() > 1 {
        protocol = match parse_i64(arguments.at(1)) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(Refusal::Text("NOPROTO unsupported protocol version")),
            None => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Refusal::Text(text));
            }
        };
    }
    let (mut name, mut index) = (None, 2);
    while index < arguments.len() {
        let (option, more) = (arguments.at(index), arguments.len() - index - 1);
        if option.eq_ignore_ascii_case(b"AUTH") && more >= 2 {
            // As in Redis without a password: the default user needs none, and is the only one.
            if arguments.at(index + 1) != b"default" {
                let text = "WRONGPASS invalid username-password pair or user is disabled.";
                return Err(Refusal::Text(text));
            }
            index += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && more >= 1 {
            name = Some(valid_name(arguments.at(index + 1), NAME_TEXT)?);
            index += 2;
        } else {
            return Err(Refusal::HelloOption(option));
        }
    }
    session.protocol = protocol;
    if let Some(name) = name {
        session.name = owned(name);
    }
    let encoder = &mut Encoder::new(out, protocol);
    encoder.map(7);
    encoder.bulk(b"server");
    encoder.bulk(b"redis");
    encoder.bulk(b"version");
    encoder.bulk(REDIS_VERSION.as_bytes());
    encoder.bulk(b"proto");
    encoder.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    encoder.bulk(b"id");
    encoder.integer(session.id.cast_signed());
    encoder.bulk(b"mode");
    encoder.bulk(b"standalone");
    encoder.bulk(b"role");
    encoder.bulk(b"master");
    encoder.bulk(b"modules");
    encoder.array(0);
    Ok(())
}

fn client<'a, S: Sink>(
    planner: &mut Planner<'_, 'a, S>,
    session: &mut Session,
    out: &mut Vec<u8>,
) -> Planned<'a> {
    let arguments = planner.arguments;
    let subcommand = arguments.at(1);
    let is = |name: &str| subcommand.eq_ignore_ascii_case(name.as_bytes());
    let exactly = |count: usize, name: &'static str| {
        if arguments.len() == count { Ok(()) } else { Err(Refusal::ArityOf(name)) }
    };
    let encoder = &mut Encoder::new(out, session.protocol);
    if is("ID") {
        exactly(2, "client|id")?;
        encoder.integer(session.id.cast_signed());
    } else if is("SETNAME") {
        exactly(3, "client|setname")?;
        session.name = owned(valid_name(arguments.at(2), NAME_TEXT)?);
        encoder.ok();
    } else if is("GETNAME") {
        exactly(2, "client|getname")?;
        match &session.name {
            Some(name) => encoder.bulk(name.as_bytes()),
            None => encoder.null(),
        }
    } else if is("SETINFO") {
        exactly(4, "client|setinfo")?;
        set_info(arguments, session)?;
        encoder.ok();
    } else if is("INFO") {
        exactly(2, "client|info")?;
        return Ok(Work::Ask(Ask::ClientInfo));
    } else if is("LIST") {
        return Ok(Work::Ask(Ask::ClientList(list_filter(arguments)?)));
    } else if is("NO-EVICT") {
        exactly(3, "client|no-evict")?;
        session.no_evict = match arguments.at(2) {
            on if on.eq_ignore_ascii_case(b"ON") => true,
            off if off.eq_ignore_ascii_case(b"OFF") => false,
            _ => return Err(SYNTAX),
        };
        encoder.ok();
    } else if is("REPLY") {
        exactly(3, "client|reply")?;
        return replies(arguments.at(2), session, encoder);
    } else {
        return Err(Refusal::of_subcommand(subcommand, UNSUPPORTED));
    }
    Ok(Work::Replied)
}

/// Subcommands of CLIENT that Redis has and this node does not.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("caching", "CLIENT CACHING"),
    ("getredir", "CLIENT GETREDIR"),
    ("help", "CLIENT HELP"),
    ("kill", "CLIENT KILL"),
    ("no-touch", "CLIENT NO-TOUCH"),
    ("pause", "CLIENT PAUSE"),
    ("tracking", "CLIENT TRACKING"),
    ("trackinginfo", "CLIENT TRACKINGINFO"),
    ("unblock", "CLIENT UNBLOCK"),
    ("unpause", "CLIENT UNPAUSE"),
];

fn replies<'a>(mode: &[u8], session: &mut Session, encoder: &mut Encoder<'_>) -> Planned<'a> {
    if mode.eq_ignore_ascii_case(b"ON") {
        session.replies = Replies::On;
        session.answered = true;
        encoder.ok();
    } else if mode.eq_ignore_ascii_case(b"OFF") {
        session.replies = Replies::Off;
    } else if mode.eq_ignore_ascii_case(b"SKIP") {
        if session.replies == Replies::On {
            session.replies = Replies::SkipNext;
        }
    } else {
        return Err(SYNTAX);
    }
    Ok(Work::Replied)
}

fn set_info<'a>(arguments: Arguments<'a>, session: &mut Session) -> Result<(), Refusal<'a>> {
    let (option, value) = (arguments.at(2), arguments.at(3));
    if option.eq_ignore_ascii_case(b"LIB-NAME") {
        let text = "ERR lib-name cannot contain spaces, newlines or special characters.";
        session.library_name = owned(valid_name(value, text)?);
    } else if option.eq_ignore_ascii_case(b"LIB-VER") {
        let text = "ERR lib-ver cannot contain spaces, newlines or special characters.";
        session.library_version = owned(valid_name(value, text)?);
    } else {
        return Err(Refusal::Unrecognized(option));
    }
    Ok(())
}

fn list_filter(arguments: Arguments<'_>) -> Result<ClientFilter<'_>, Refusal<'_>> {
    if arguments.len() == 2 {
        return Ok(ClientFilter::All);
    }
    let option = arguments.at(2);
    if option.eq_ignore_ascii_case(b"TYPE") && arguments.len() == 4 {
        let kind = arguments.at(3);
        let is = |name: &str| kind.eq_ignore_ascii_case(name.as_bytes());
        return match () {
            () if is("normal") => Ok(ClientFilter::All),
            () if is("master") || is("replica") || is("slave") || is("pubsub") => {
                Ok(ClientFilter::None)
            }
            () => Err(Refusal::ClientType(kind)),
        };
    }
    if option.eq_ignore_ascii_case(b"ID") && arguments.len() > 3 {
        let ids = arguments.from(3);
        if ids.iter().any(|id| parse_i64(id).is_none_or(|id| id <= 0)) {
            return Err(Refusal::Text("ERR Invalid client ID"));
        }
        return Ok(ClientFilter::Ids(ids));
    }
    Err(SYNTAX)
}

const NAME_TEXT: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn valid_name<'a>(name: &'a [u8], text: &'static str) -> Result<&'a str, Refusal<'a>> {
    if name.len() > NAME_MAX {
        return Err(Refusal::Text("ERR too_large: a name has at most 256 bytes"));
    }
    let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let name = std::str::from_utf8(name).ok().filter(|_| printable);
    name.ok_or(Refusal::Text(text))
}

/// An empty name takes a name away.
fn owned(name: &str) -> Option<Box<str>> {
    (!name.is_empty()).then(|| name.into())
}
