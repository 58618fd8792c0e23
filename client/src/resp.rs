//! RESP2 and RESP3 from the client's side: requests out, replies in, no I/O.
//!
//! A reply is parsed from the front of a byte slice: either it is there whole and comes back with
//! the number of bytes it took, or more bytes are needed, or the bytes are no RESP. Nothing is
//! consumed before a reply is complete, so a caller can hand in the same bytes again with more
//! behind them. Depth and element counts are bounded: the peer is not trusted.
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::fmt;

/// Nesting that a reply may have: no command of Quorate answers with more than three levels.
const DEPTH_MAX: u32 = 16;

/// The largest bulk string that is believed, as in Redis (512 MiB).
const BULK_SIZE_MAX: i64 = 512 << 20;

/// The longest line that is believed: simple strings, errors and numbers.
const LINE_SIZE_MAX: usize = 64 << 10;

/// A reply, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`: the first word is the code.
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$…`: bytes of any kind.
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`.
    Nil,
    /// `*…`, `~…` (set) or `>…` (push).
    Array(Vec<Reply>),
    /// `%…`: pairs in the order they came.
    Map(Vec<(Reply, Reply)>),
    /// `,3.14`: kept as text, so that nothing is rounded.
    Double(String),
    /// `#t` or `#f`
    Boolean(bool),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Simple(text) | Reply::Double(text) => f.write_str(text),
            Reply::Error(text) => write!(f, "(error) {text}"),
            Reply::Integer(value) => write!(f, "{value}"),
            Reply::Bulk(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Reply::Nil => f.write_str("(nil)"),
            Reply::Boolean(value) => write!(f, "{value}"),
            Reply::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{item}")?;
                }
                Ok(())
            }
            Reply::Map(pairs) => {
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{key}: {value}")?;
                }
                Ok(())
            }
        }
    }
}

/// The bytes are not RESP: the connection can only be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a RESP reply: {what} (first bytes {bytes:?})")]
pub struct MalformedReply {
    what: &'static str,
    bytes: String,
}

impl MalformedReply {
    fn new(what: &'static str, bytes: &[u8]) -> MalformedReply {
        let shown = &bytes[..bytes.len().min(24)];
        MalformedReply { what, bytes: shown.escape_ascii().to_string() }
    }
}

/// Parses one reply from the front of `bytes`: the reply and its size, or `None` when more bytes
/// are needed.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, MalformedReply> {
    let mut cursor = Cursor { bytes, at: 0 };
    match cursor.reply(0) {
        Ok(reply) => Ok(Some((reply, cursor.at))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Malformed(error)) => Err(error),
    }
}

/// Appends one request, an array of bulk strings, to `out`.
pub fn push_request<A: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[A]) {
    push_header(out, b'*', arguments.len());
    for argument in arguments {
        push_bulk(out, argument.as_ref());
    }
}

/// Appends the header of a request with `count` arguments; [`push_bulk`] follows for each.
pub fn push_request_header(out: &mut Vec<u8>, count: usize) {
    push_header(out, b'*', count);
}

/// Appends one argument of a request.
pub fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn push_header(out: &mut Vec<u8>, kind: u8, number: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

enum Stop {
    Incomplete,
    Malformed(MalformedReply),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn malformed<T>(&self, what: &'static str) -> Result<T, Stop> {
        Err(Stop::Malformed(MalformedReply::new(
            what,
            &self.bytes[self.at.min(self.bytes.len())..],
        )))
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let searched = &rest[..rest.len().min(LINE_SIZE_MAX)];
        match searched.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            None if rest.len() >= LINE_SIZE_MAX => self.malformed("a line without an end"),
            None => Err(Stop::Incomplete),
        }
    }

    fn number(&mut self) -> Result<i64, Stop> {
        let line = self.line()?;
        match std::str::from_utf8(line).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(number) => Ok(number),
            None => self.malformed("a number expected"),
        }
    }

    fn text(&mut self) -> Result<String, Stop> {
        Ok(String::from_utf8_lossy(self.line()?).into_owned())
    }

    /// `None` stands for the null forms `$-1` and `*-1`.
    fn count(&mut self) -> Result<Option<usize>, Stop> {
        match self.number()? {
            -1 => Ok(None),
            count if (0..=BULK_SIZE_MAX).contains(&count) => Ok(Some(count as usize)),
            _ => self.malformed("a count out of range"),
        }
    }

    fn bulk(&mut self) -> Result<Reply, Stop> {
        let Some(size) = self.count()? else { return Ok(Reply::Nil) };
        if self.bytes.len() - self.at < size + 2 {
            return Err(Stop::Incomplete);
        }
        let body = &self.bytes[self.at..self.at + size];
        if &self.bytes[self.at + size..self.at + size + 2] != b"\r\n" {
            return self.malformed("a bulk string that does not end where it said");
        }
        self.at += size + 2;
        Ok(Reply::Bulk(body.to_vec()))
    }

    fn items(&mut self, count: usize, depth: u32) -> Result<Vec<Reply>, Stop> {
        let rest = self.bytes.len() - self.at;
        // An element takes at least three bytes: a count beyond that is not here yet, and no
        // memory is set aside on the peer's word alone.
        let mut items = Vec::with_capacity(count.min(rest / 3 + 1));
        for _ in 0..count {
            items.push(self.reply(depth + 1)?);
        }
        Ok(items)
    }

    fn reply(&mut self, depth: u32) -> Result<Reply, Stop> {
        if depth > DEPTH_MAX {
            return self.malformed("nested too deeply");
        }
        let Some(&kind) = self.bytes.get(self.at) else { return Err(Stop::Incomplete) };
        self.at += 1;
        match kind {
            b'+' => Ok(Reply::Simple(self.text()?)),
            b'-' => Ok(Reply::Error(self.text()?)),
            b':' => Ok(Reply::Integer(self.number()?)),
            b'$' | b'=' => self.bulk(),
            b',' | b'(' => Ok(Reply::Double(self.text()?)),
            b'_' => self.line().map(|_| Reply::Nil),
            b'#' => Ok(Reply::Boolean(self.line()? == b"t")),
            b'*' | b'~' | b'>' => match self.count()? {
                None => Ok(Reply::Nil),
                Some(count) => Ok(Reply::Array(self.items(count, depth)?)),
            },
            b'%' => match self.count()? {
                None => Ok(Reply::Nil),
                Some(count) => {
                    let mut flat = self.items(count * 2, depth)?.into_iter();
                    let mut pairs = Vec::with_capacity(count.min(flat.len()));
                    while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
                        pairs.push((key, value));
                    }
                    Ok(Reply::Map(pairs))
                }
            },
            _ => {
                self.at -= 1;
                self.malformed("an unknown type")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static [u8], fn() -> Reply);

    const REPLIES: &[Row] = &[
        (b"+OK\r\n", || Reply::Simple("OK".into())),
        (b"-ERR no\r\n", || Reply::Error("ERR no".into())),
        (b":-42\r\n", || Reply::Integer(-42)),
        (b"$5\r\na\r\nbc\r\n", || Reply::Bulk(b"a\r\nbc".to_vec())),
        (b"$0\r\n\r\n", || Reply::Bulk(Vec::new())),
        (b"$-1\r\n", || Reply::Nil),
        (b"*-1\r\n", || Reply::Nil),
        (b"_\r\n", || Reply::Nil),
        (b"#t\r\n", || Reply::Boolean(true)),
        (b",1.5\r\n", || Reply::Double("1.5".into())),
        (b"*2\r\n:1\r\n*0\r\n", || Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![])])),
        (b"%1\r\n+a\r\n:1\r\n", || {
            Reply::Map(vec![(Reply::Simple("a".into()), Reply::Integer(1))])
        }),
    ];

    #[test]
    fn every_type_is_parsed_whole_and_asks_for_more_when_cut() {
        for (bytes, expected) in REPLIES {
            let parsed = parse_reply(bytes).unwrap();
            assert_eq!(parsed, Some((expected(), bytes.len())), "{}", bytes.escape_ascii());
            for cut in 0..bytes.len() {
                let parsed = parse_reply(&bytes[..cut]);
                assert_eq!(parsed, Ok(None), "{} cut at {cut}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_by_name() {
        let deep = b"*1\r\n".repeat(64);
        let cases: [&[u8]; 6] =
            [b"hello\r\n", b":abc\r\n", b"$-2\r\n", b"$1\r\nabc\r\n", b"*99999999999\r\n", &deep];
        for bytes in cases {
            assert!(parse_reply(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_request_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        push_request(&mut out, &[&b"SET"[..], b"k", b"0123456789"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n");
    }
}
