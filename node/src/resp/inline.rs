//! Inline requests: a line of words, as a person types them.
//!
//! The splitting rules are those of Redis (`sdssplitargs`): words are separated by white space;
//! `"…"` understands `\n \r \t \b \a \xHH` and takes any other escaped byte as itself; `'…'`
//! understands only `\'`; a closing quote has to be followed by white space or the end of the line.
//! A quote may also open in the middle of a word. Whatever breaks these rules is an unbalanced
//! request, and the connection is closed.
//!
//! Unquoting changes bytes, so an inline request cannot borrow from the input as a multibulk one
//! does: its words are decoded one after the other into the parser's scratch space, which is never
//! longer than the line, itself bounded by [`super::Limits::line_max`].

use super::parser::Span;

/// A quote that is not closed, or closed in the middle of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits `line` into `words`, spans over the decoded bytes in `scratch`. Both are cleared first.
pub(super) fn split(
    line: &[u8],
    scratch: &mut Vec<u8>,
    words: &mut Vec<Span>,
) -> Result<(), Unbalanced> {
    scratch.clear();
    words.clear();
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|byte| is_space(**byte)).count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = scratch.len();
        rest = word(rest, scratch)?;
        words.push(Span::new(start, scratch.len() - start));
    }
}

/// Decodes one word onto `scratch` and returns what follows it.
fn word<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    while let [first, after @ ..] = rest {
        match first {
            b'"' => return double_quoted(after, scratch),
            b'\'' => return single_quoted(after, scratch),
            byte if is_space(*byte) => break,
            byte => scratch.push(*byte),
        }
        rest = after;
    }
    Ok(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                scratch.push(hexadecimal(*high) << 4 | hexadecimal(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                scratch.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                scratch.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                scratch.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                scratch.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        }
    }
}

/// A closing quote ends its word: white space or the end of the line has to follow.
fn closed(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest {
        [byte, ..] if !is_space(*byte) => Err(Unbalanced),
        _ => Ok(rest),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn hexadecimal(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, Unbalanced> {
        let (mut scratch, mut spans) = (Vec::new(), Vec::new());
        split(line.as_bytes(), &mut scratch, &mut spans)?;
        Ok(spans.iter().map(|span| span.of(&scratch).to_vec()).collect())
    }

    #[test]
    fn words_and_quotes() {
        for (line, expected) in [
            ("", vec![]),
            ("  \t ", vec![]),
            ("PING", vec!["PING"]),
            ("  set  a\tb ", vec!["set", "a", "b"]),
            (r#"set k "a b""#, vec!["set", "k", "a b"]),
            (r#"set k "a\n\x41\"\q""#, vec!["set", "k", "a\nA\"q"]),
            (r"set k 'a \n \' b'", vec!["set", "k", r"a \n ' b"]),
            (r#"a"b c" d"#, vec!["ab c", "d"]),
            (r#""" ''"#, vec!["", ""]),
            (r#""\xzz""#, vec!["xzz"]),
        ] {
            let expected: Vec<Vec<u8>> = expected.iter().map(|w| w.as_bytes().to_vec()).collect();
            assert_eq!(words(line), Ok(expected), "{line:?}");
        }
        for line in [r#"""#, r#""a"#, "'a", r#""a"b"#, "'a'b", r#""a\"#, r#""a\""#] {
            assert_eq!(words(line), Err(Unbalanced), "{line:?}");
        }
    }
}
