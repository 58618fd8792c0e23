//! The request parser: bytes of a connection in, arguments out.
//!
//! A request is a *multibulk* (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or an *inline* line. The parser
//! works on a slice that starts at the first byte of a request and holds whatever has arrived:
//!
//! 1. `parse(input)` answers [`Progress::Request`] with the arguments and the number of bytes used,
//!    [`Progress::Blank`] for an empty line (skip it), or [`Progress::Incomplete`].
//! 2. After `Incomplete` the caller shows the same bytes again with more behind them. They may have
//!    moved in memory: the parser remembers positions relative to the start of the request, so
//!    nothing is scanned twice, however small the pieces are. `wanted` is a length of input below
//!    which another call cannot succeed, so a caller that receives a large value in pieces need
//!    not call, and can size its buffer once.
//! 3. An error is for the whole connection: append its text as a reply, flush, close. The parser
//!    must not be used again.
//!
//! Arguments are spans into the input (inline ones: into decoded scratch), so a value is never
//! copied here. The array of spans is reused and allocates only while it grows to the largest
//! request seen; a request of unusual size gives its memory back when it is done.
//!
//! Everything is bounded by [`Limits`]: what an attacker can make a connection hold is
//! `request_max` bytes of input plus eight bytes an argument, and a length is refused when it is
//! announced, not when it has arrived. The texts are those of Redis 7 (`networking.c`), which
//! clients and their tests know; only a request that is too large as a whole has a text of its
//! own, since Redis closes without one.

use super::inline;
use super::number::parse_i64;

/// A range of bytes, in half the size of a `Range<usize>`: requests are far below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    pub(super) fn new(start: usize, len: usize) -> Span {
        let fit = |n: usize| u32::try_from(n).expect("limits keep a request below 4 GiB");
        Span { start: fit(start), len: fit(len) }
    }

    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest argument in bytes: the node's value limit.
    pub bulk_max: usize,
    /// The most arguments, the command's name included.
    pub arguments_max: usize,
    /// The longest line in bytes: an inline request, or a count or length with its line end.
    pub line_max: usize,
    /// The most bytes of one request, everything included.
    pub request_max: usize,
}

impl Limits {
    /// The limits that go with a prepare of `prepare_size` bytes: a value may be 4 KiB less, and a
    /// request (MGET may be longer than any write) four times as much.
    #[must_use]
    pub fn for_prepare(prepare_size: usize) -> Limits {
        assert!(prepare_size > 8 << 10 && prepare_size <= 64 << 20);
        Limits {
            bulk_max: prepare_size - (4 << 10),
            arguments_max: 64 << 10,
            line_max: 64 << 10,
            request_max: prepare_size * 4,
        }
    }
}

/// Why a connection has to be closed. The text is the reply, `-ERR ` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An inline request without an end.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// Quotes of an inline request do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    Unbalanced,
    /// A `*` line without an end.
    #[error("Protocol error: too big mbulk count string")]
    CountTooBig,
    /// A `$` line without an end.
    #[error("Protocol error: too big bulk count string")]
    LengthTooBig,
    /// The number of arguments is no number, or too large.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The length of an argument is no number, negative or too large.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// An argument that does not start with `$`.
    #[error("Protocol error: expected '$', got '{}'", *.0 as char)]
    Expected(u8),
    /// The arguments together exceed the limit.
    #[error("Protocol error: request exceeds {0} bytes")]
    RequestTooBig(usize),
}

impl ProtocolError {
    /// Appends the reply, the last one of the connection.
    pub fn append(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR ");
        match self {
            // Byte for byte, where `Display` would have to write text.
            ProtocolError::Expected(byte) => {
                out.extend_from_slice(b"Protocol error: expected '$', got '");
                out.push(if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
                out.push(b'\'');
            }
            other => out.extend_from_slice(other.to_string().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The arguments of one request. The first is the command's name.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    /// How many there are, the command's name included; never zero in a parsed request.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`, which has to exist.
    #[must_use]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.spans[index].of(self.bytes)
    }

    /// All arguments from `index` on; none if there are fewer.
    #[must_use]
    pub fn from(&self, index: usize) -> Arguments<'a> {
        Arguments { bytes: self.bytes, spans: self.spans.get(index..).unwrap_or(&[]) }
    }

    /// The arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| span.of(bytes))
    }
}

/// What a call of [`Parser::parse`] found.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A whole request.
    Request {
        /// Its arguments.
        arguments: Arguments<'a>,
        /// How many bytes of the input it took.
        consumed: usize,
    },
    /// An empty line or `*0`: nothing to answer.
    Blank {
        /// How many bytes of the input it took.
        consumed: usize,
    },
    /// The request goes on behind the input.
    Incomplete {
        /// The least length of input with which a further call can get on.
        wanted: usize,
    },
}

/// Where in a multibulk request the parser stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing of the request has been understood yet.
    Start,
    /// The `$` line of an argument comes next.
    Length,
    /// The bytes of an argument come next, and its line end.
    Body { len: usize },
}

/// See the module's text.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    step: Step,
    /// Everything before it has been understood; relative to the start of the request.
    position: usize,
    /// No line end between `position` and here.
    scanned: usize,
    /// Arguments still to come.
    missing: usize,
    spans: Vec<Span>,
    scratch: Vec<u8>,
}

/// A number of up to three digits, one byte before it and a line end behind it, and the size of it
/// all: nearly every line of nearly every request, without a search for the line's end.
#[inline]
fn short_number(bytes: &[u8]) -> Option<(usize, usize)> {
    let digit = |byte: u8| usize::from(byte - b'0');
    match *bytes {
        [_, a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((digit(a), 4)),
        [_, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((digit(a) * 10 + digit(b), 5))
        }
        [_, a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((digit(a) * 100 + digit(b) * 10 + digit(c), 6))
        }
        _ => None,
    }
}

/// Spans kept between requests; a request with more gives the memory back.
const SPANS_KEPT: usize = 1024;
/// Scratch bytes kept between inline requests.
const SCRATCH_KEPT: usize = 4 << 10;
const LINE_END: &[u8] = b"\r\n";

impl Parser {
    /// A parser for one connection.
    #[must_use]
    pub fn new(limits: Limits) -> Parser {
        assert!(limits.bulk_max <= limits.request_max && limits.request_max < u32::MAX as usize);
        assert!(limits.arguments_max > 0 && limits.line_max > 0);
        Parser {
            limits,
            step: Step::Start,
            position: 0,
            scanned: 0,
            missing: 0,
            spans: Vec::with_capacity(16),
            scratch: Vec::new(),
        }
    }

    /// Looks for one request at the start of `input`: see the module's text for the contract.
    #[inline]
    pub fn parse<'a>(&'a mut self, input: &'a [u8]) -> Result<Progress<'a>, ProtocolError> {
        if self.step == Step::Start {
            if let Some(consumed) = self.parse_plain(input) {
                // What was scanned of an earlier, shorter look at this request means nothing for
                // the next one.
                self.restart();
                let arguments = Arguments { bytes: &input[..consumed], spans: &self.spans };
                return Ok(Progress::Request { arguments, consumed });
            }
            match input.first() {
                Some(b'*') => {}
                None => return Ok(Progress::Incomplete { wanted: 1 }),
                Some(_) => return self.parse_inline(input),
            }
            let Some((line, next)) = self.line(input, ProtocolError::CountTooBig)? else {
                return Ok(Progress::Incomplete { wanted: input.len() + 1 });
            };
            let count = parse_i64(&line[1..]).ok_or(ProtocolError::Count)?;
            if count <= 0 {
                self.restart();
                return Ok(Progress::Blank { consumed: next });
            }
            if count > self.limits.arguments_max as i64 {
                return Err(ProtocolError::Count);
            }
            self.missing = count as usize;
            self.step_to(Step::Length, next);
            self.forget();
        }
        while self.missing > 0 {
            if let Some(wanted) = self.parse_argument(input)? {
                return Ok(Progress::Incomplete { wanted });
            }
        }
        let consumed = self.position;
        self.restart();
        let arguments = Arguments { bytes: &input[..consumed], spans: &self.spans };
        Ok(Progress::Request { arguments, consumed })
    }

    /// The whole of a request that is there completely and has nothing unusual about it, which
    /// nearly all are: no argument over 999 bytes, all in place. Anything else is for the steps
    /// below, which start over and decide alone what is an error.
    #[inline]
    fn parse_plain(&mut self, input: &[u8]) -> Option<usize> {
        if input.first() != Some(&b'*') {
            return None;
        }
        let (count, mut at) = short_number(input)?;
        if count == 0 || count > self.limits.arguments_max {
            return None;
        }
        self.forget();
        for _ in 0..count {
            let rest = &input[at..];
            let (len, size) = short_number(rest)?;
            let next = size + len + LINE_END.len();
            let is_plain = rest[0] == b'$' && len <= self.limits.bulk_max && next <= rest.len();
            if !is_plain || at + next > self.limits.request_max {
                return None;
            }
            // Both fit: a request's size is bounded far below 4 GiB.
            self.spans.push(Span { start: (at + size) as u32, len: len as u32 });
            at += next;
        }
        Some(at)
    }

    /// Takes one argument, or says how long the input has to be.
    fn parse_argument(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let len = match self.step {
            Step::Body { len } => len,
            Step::Start | Step::Length => {
                let Some((line, next)) = self.line(input, ProtocolError::LengthTooBig)? else {
                    return Ok(Some(input.len() + 1));
                };
                // An empty line is known by the byte that ends it.
                match input[self.position] {
                    b'$' => {}
                    other => return Err(ProtocolError::Expected(other)),
                }
                let len = parse_i64(&line[1..]).and_then(|len| usize::try_from(len).ok());
                let len =
                    len.filter(|len| *len <= self.limits.bulk_max).ok_or(ProtocolError::Length)?;
                if next + len + LINE_END.len() > self.limits.request_max {
                    return Err(ProtocolError::RequestTooBig(self.limits.request_max));
                }
                self.step_to(Step::Body { len }, next);
                len
            }
        };
        // Like Redis, the two bytes behind an argument are skipped without a look.
        let end = self.position + len + LINE_END.len();
        if input.len() < end {
            return Ok(Some(end));
        }
        // Both fit: a request's size is bounded far below 4 GiB.
        self.spans.push(Span { start: self.position as u32, len: len as u32 });
        self.missing -= 1;
        self.step_to(Step::Length, end);
        Ok(None)
    }

    /// The line at `position`, without its end, and the position behind it.
    fn line<'a>(
        &mut self,
        input: &'a [u8],
        too_big: ProtocolError,
    ) -> Result<Option<(&'a [u8], usize)>, ProtocolError> {
        let from = self.scanned.max(self.position);
        let Some(found) = input[from..].iter().position(|byte| *byte == b'\r') else {
            self.scanned = input.len();
            let open = input.len() - self.position;
            return if open > self.limits.line_max { Err(too_big) } else { Ok(None) };
        };
        let end = from + found;
        self.scanned = end;
        if input.len() < end + LINE_END.len() {
            return Ok(None);
        }
        Ok(Some((&input[self.position..end], end + LINE_END.len())))
    }

    fn parse_inline<'a>(&'a mut self, input: &'a [u8]) -> Result<Progress<'a>, ProtocolError> {
        let Some(found) = input[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = input.len();
            if input.len() > self.limits.line_max {
                return Err(ProtocolError::InlineTooBig);
            }
            return Ok(Progress::Incomplete { wanted: input.len() + 1 });
        };
        let end = self.scanned + found;
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        if line.len() > self.limits.line_max {
            return Err(ProtocolError::InlineTooBig);
        }
        self.restart();
        self.forget();
        inline::split(line, &mut self.scratch, &mut self.spans)
            .map_err(|_| ProtocolError::Unbalanced)?;
        if self.spans.is_empty() {
            return Ok(Progress::Blank { consumed: end + 1 });
        }
        if self.spans.len() > self.limits.arguments_max {
            return Err(ProtocolError::Count);
        }
        let arguments = Arguments { bytes: &self.scratch, spans: &self.spans };
        Ok(Progress::Request { arguments, consumed: end + 1 })
    }

    fn step_to(&mut self, step: Step, position: usize) {
        self.step = step;
        self.position = position;
    }

    fn restart(&mut self) {
        self.step_to(Step::Start, 0);
        self.scanned = 0;
        self.missing = 0;
    }

    /// Drops the arguments of the request before, and memory that only it needed.
    fn forget(&mut self) {
        self.spans.clear();
        self.scratch.clear();
        if self.spans.capacity() > SPANS_KEPT {
            self.spans.shrink_to(SPANS_KEPT);
        }
        if self.scratch.capacity() > SCRATCH_KEPT {
            self.scratch.shrink_to(SCRATCH_KEPT);
        }
    }
}
