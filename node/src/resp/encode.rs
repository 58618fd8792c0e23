//! The reply encoder: typed values appended to a connection's output as RESP2 or RESP3.
//!
//! One set of methods serves both versions: a caller says what a value *is* (a map, a null, a set
//! of flags) and the version decides how it looks. In RESP2 a map is an array of twice the length,
//! a set an array, a verbatim text a bulk string, and null the null bulk string.
//!
//! Nothing here allocates but the growth of the output vector. Texts of errors and simple strings
//! end at a line end, so whatever a client sent that is echoed in one goes through
//! [`Encoder::error_with`], which replaces line ends by spaces as Redis does.

use super::number::Digits;

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The version every connection starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// Appends replies to `out`.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Encoder<'a> {
    /// An encoder behind whatever `out` holds.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Encoder<'a> {
        Encoder { out, protocol }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, count: usize) {
        self.line(kind, Digits::of_u64(count as u64).as_bytes());
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A short text without line ends.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.line(b'+', text.as_bytes());
    }

    /// An error: code, a space, sentence; without line ends.
    pub fn error(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.line(b'-', text.as_bytes());
    }

    /// An error that echoes bytes of the client: line ends in them become spaces, and a part ends
    /// at a zero byte, as Redis's C strings do.
    pub fn error_with(&mut self, parts: &[&[u8]]) {
        self.out.push(b'-');
        for part in parts {
            let text = part.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let printable = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
            self.out.extend(text.iter().map(printable));
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.out.extend_from_slice(b":0\r\n"),
            1 => self.out.extend_from_slice(b":1\r\n"),
            _ => self.line(b':', Digits::of_i64(value).as_bytes()),
        }
    }

    /// A bulk string: any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer in the form of a bulk string.
    pub fn bulk_integer(&mut self, value: u64) {
        self.bulk(Digits::of_u64(value).as_bytes());
    }

    /// The absence of a value.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array of `count` values, which follow.
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count);
    }

    /// The head of a set of `count` values, which follow.
    pub fn set(&mut self, count: usize) {
        let kind = if self.protocol == Protocol::Resp3 { b'~' } else { b'*' };
        self.header(kind, count);
    }

    /// The head of a map of `count` keys with their values, which follow in turn.
    pub fn map(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', count * 2),
            Protocol::Resp3 => self.header(b'%', count),
        }
    }

    /// A text for people: in RESP3 marked as plain text.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.header(b'=', text.len() + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Bytes that are in the protocol's form already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Encoder<'_>)) -> (String, String) {
        let of = |protocol| {
            let mut out = Vec::new();
            write(&mut Encoder::new(&mut out, protocol));
            String::from_utf8(out).unwrap()
        };
        (of(Protocol::Resp2), of(Protocol::Resp3))
    }

    #[test]
    fn each_type_in_both_versions() {
        let same = |text: &str| (text.to_string(), text.to_string());
        assert_eq!(both(|e| e.ok()), same("+OK\r\n"));
        assert_eq!(both(|e| e.simple("PONG")), same("+PONG\r\n"));
        assert_eq!(both(|e| e.error("ERR no")), same("-ERR no\r\n"));
        assert_eq!(both(|e| e.error_with(&[b"ERR ", b"a\r\nb\0c"])), same("-ERR a  b\r\n"));
        assert_eq!(both(|e| e.integer(i64::MIN)), same(":-9223372036854775808\r\n"));
        assert_eq!(both(|e| e.integer(1)), same(":1\r\n"));
        assert_eq!(both(|e| e.bulk(b"")), same("$0\r\n\r\n"));
        assert_eq!(both(|e| e.bulk(b"a\r\n")), same("$3\r\na\r\n\r\n"));
        assert_eq!(both(|e| e.array(3)), same("*3\r\n"));
        assert_eq!(both(|e| e.null()), ("$-1\r\n".into(), "_\r\n".into()));
        assert_eq!(both(|e| e.map(2)), ("*4\r\n".into(), "%2\r\n".into()));
        assert_eq!(both(|e| e.set(2)), ("*2\r\n".into(), "~2\r\n".into()));
        let verbatim = ("$2\r\nhi\r\n".into(), "=6\r\ntxt:hi\r\n".into());
        assert_eq!(both(|e| e.verbatim(b"hi")), verbatim);
    }
}
