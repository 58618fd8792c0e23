//! Stored keys: bytes whose order is the order of what they stand for.
//!
//! ```text
//! offset  size  field
//! 0       4     table, big-endian
//! 4       4     generation, big-endian
//! 8       1     kind
//! 9       n     user key, escaped: 00 becomes 00 FF
//! 9+n     2     terminator 00 01
//! 11+n    m     sub-key, raw; may be empty
//! ```
//!
//! Comparing two encoded keys with `memcmp` compares (table, generation, kind, user key, sub-key).
//! The escape makes it so whatever follows a user key: where one user key is a prefix of another,
//! the terminator 00 01 meets either 00 FF (a zero byte of the longer key) or a byte of 01 and up,
//! and is smaller than both. So all sub-keys of a user key stand together, before the next key.
//! (The encoding is that of CockroachDB's and FoundationDB's tuple layers.)
//!
//! A generation is what makes FLUSHALL cheap: keys of an older generation are dead, and compaction
//! drops them. The version is not encoded here: see [`crate::entry`].
//!
//! Bounds of ranges are half-open, `lower..upper`, and an upper bound of a prefix is the prefix's
//! [`successor`].

use thiserror::Error;

/// Bytes in front of the user key.
pub const PREFIX_SIZE: usize = 9;
const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xFF;
const TERMINATOR: u8 = 0x01;

/// What stands in front of a user key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Table (namespace).
    pub table: u32,
    /// The table's generation; FLUSHALL increments it.
    pub generation: u32,
    /// What kind of record this is; the state machine gives the meaning.
    pub kind: u8,
}

impl Prefix {
    /// The encoded prefix.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PREFIX_SIZE] {
        let mut bytes = [0; PREFIX_SIZE];
        bytes[0..4].copy_from_slice(&self.table.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8] = self.kind;
        bytes
    }

    /// Reads the prefix of an encoded key.
    #[must_use]
    pub fn of(encoded: &[u8]) -> Option<Prefix> {
        let bytes = encoded.first_chunk::<PREFIX_SIZE>()?;
        let [t0, t1, t2, t3, g0, g1, g2, g3, kind] = *bytes;
        Some(Prefix {
            table: u32::from_be_bytes([t0, t1, t2, t3]),
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
            kind,
        })
    }
}

/// Largest encoded key for user keys and sub-keys of at most these lengths.
#[must_use]
pub const fn encoded_len_max(user_key_len: usize, sub_key_len: usize) -> usize {
    PREFIX_SIZE + 2 * user_key_len + 2 + sub_key_len
}

/// Appends the encoded key to `out`.
pub fn encode_into(out: &mut Vec<u8>, prefix: Prefix, user_key: &[u8], sub_key: &[u8]) {
    out.extend_from_slice(&prefix.to_bytes());
    escape_into(out, user_key);
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
    out.extend_from_slice(sub_key);
}

/// The encoded key, in a vector of its own.
#[must_use]
pub fn encode(prefix: Prefix, user_key: &[u8], sub_key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_SIZE + user_key.len() + 2 + sub_key.len());
    encode_into(&mut out, prefix, user_key, sub_key);
    out
}

fn escape_into(out: &mut Vec<u8>, user_key: &[u8]) {
    let mut rest = user_key;
    while let Some(zero) = rest.iter().position(|&byte| byte == ESCAPE) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&[ESCAPE, ESCAPED_ZERO]);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
}

/// Why bytes are not an encoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Shorter than a prefix.
    #[error("key of {0} bytes is shorter than its {PREFIX_SIZE}-byte prefix")]
    Short(usize),
    /// The user key has no terminator.
    #[error("user key is not terminated")]
    Unterminated,
    /// A zero byte is followed by neither FF nor 01.
    #[error("escape at offset {offset} is followed by {actual:#04x}")]
    Escape {
        /// Where the escape stands.
        offset: usize,
        /// The byte behind it.
        actual: u8,
    },
}

/// An encoded key taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Table, generation, kind.
    pub prefix: Prefix,
    /// The user key, still escaped, without its terminator.
    pub user_key_escaped: &'a [u8],
    /// The sub-key; empty where there is none.
    pub sub_key: &'a [u8],
}

impl Decoded<'_> {
    /// Appends the user key to `out`.
    pub fn user_key_into(&self, out: &mut Vec<u8>) {
        let mut rest = self.user_key_escaped;
        while let Some(zero) = rest.iter().position(|&byte| byte == ESCAPE) {
            out.extend_from_slice(&rest[..=zero]);
            rest = rest.get(zero + 2..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }

    /// The user key, in a vector of its own.
    #[must_use]
    pub fn user_key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.user_key_escaped.len());
        self.user_key_into(&mut out);
        out
    }
}

/// Takes an encoded key apart.
pub fn decode(encoded: &[u8]) -> Result<Decoded<'_>, KeyError> {
    let prefix = Prefix::of(encoded).ok_or(KeyError::Short(encoded.len()))?;
    let body = &encoded[PREFIX_SIZE..];
    let mut offset = 0;
    while let Some(zero) = body[offset..].iter().position(|&byte| byte == ESCAPE) {
        let zero = offset + zero;
        match body.get(zero + 1) {
            Some(&TERMINATOR) => {
                let (user_key_escaped, rest) = body.split_at(zero);
                return Ok(Decoded { prefix, user_key_escaped, sub_key: &rest[2..] });
            }
            Some(&ESCAPED_ZERO) => offset = zero + 2,
            Some(&actual) => {
                return Err(KeyError::Escape { offset: PREFIX_SIZE + zero, actual });
            }
            None => return Err(KeyError::Unterminated),
        }
    }
    Err(KeyError::Unterminated)
}

/// A half-open range of encoded keys; without an upper bound it reaches to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First key of the range.
    pub lower: Vec<u8>,
    /// First key behind the range.
    pub upper: Option<Vec<u8>>,
}

impl Range {
    /// All keys that begin with these encoded bytes.
    #[must_use]
    pub fn of_prefix(encoded: Vec<u8>) -> Range {
        let upper = successor(&encoded);
        Range { lower: encoded, upper }
    }

    /// All keys of a table's generation and kind.
    #[must_use]
    pub fn of_kind(prefix: Prefix) -> Range {
        Range::of_prefix(prefix.to_bytes().to_vec())
    }

    /// All keys whose user key begins with these bytes.
    #[must_use]
    pub fn of_user_prefix(prefix: Prefix, user_prefix: &[u8]) -> Range {
        let mut bytes = prefix.to_bytes().to_vec();
        escape_into(&mut bytes, user_prefix);
        Range::of_prefix(bytes)
    }

    /// All sub-keys of one user key.
    #[must_use]
    pub fn of_sub_keys(prefix: Prefix, user_key: &[u8]) -> Range {
        Range::of_prefix(encode(prefix, user_key, &[]))
    }

    /// Whether the range holds this key.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.lower[..] && self.upper.as_ref().is_none_or(|upper| key < &upper[..])
    }

    /// Whether the range meets the closed range `first..=last`.
    #[must_use]
    pub fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        last >= &self.lower[..] && self.upper.as_ref().is_none_or(|upper| first < &upper[..])
    }
}

/// The smallest byte string greater than everything that begins with `prefix`; none if the prefix
/// consists of FF bytes only.
#[must_use]
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut upper = prefix[..=last].to_vec();
    upper[last] += 1;
    Some(upper)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes in which zeros, FF and small values are frequent: where escapes go wrong.
    fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..len)
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (0u32..3, prop_oneof![Just(0u32), Just(255), Just(256)], 0u8..3)
            .prop_map(|(table, generation, kind)| Prefix { table, generation, kind })
    }

    #[test]
    fn golden_bytes() {
        let prefix = Prefix { table: 1, generation: 0x0203, kind: 7 };
        let encoded = encode(prefix, b"a\0b", b"s");
        assert_eq!(encoded, b"\0\0\0\x01\0\0\x02\x03\x07a\0\xFFb\0\x01s");
    }

    #[test]
    fn malformed_keys_are_named() {
        assert_eq!(decode(b"short"), Err(KeyError::Short(5)));
        assert_eq!(decode(b"123456789abc"), Err(KeyError::Unterminated));
        assert_eq!(decode(b"123456789abc\0"), Err(KeyError::Unterminated));
        assert_eq!(decode(b"123456789\0\x02"), Err(KeyError::Escape { offset: 9, actual: 2 }));
    }

    proptest! {
        #[test]
        fn order_is_preserved(
            a in (prefix(), bytes(6), bytes(4)),
            b in (prefix(), bytes(6), bytes(4)),
        ) {
            let encoded_a = encode(a.0, &a.1, &a.2);
            let encoded_b = encode(b.0, &b.1, &b.2);
            prop_assert_eq!(encoded_a.cmp(&encoded_b), a.cmp(&b));
        }

        #[test]
        fn decodes_what_was_encoded(p in prefix(), user in bytes(40), sub in bytes(20)) {
            let encoded = encode(p, &user, &sub);
            prop_assert!(encoded.len() <= encoded_len_max(user.len(), sub.len()));
            let decoded = decode(&encoded).unwrap();
            prop_assert_eq!(decoded.prefix, p);
            prop_assert_eq!(decoded.user_key(), user);
            prop_assert_eq!(decoded.sub_key, &sub[..]);
        }

        #[test]
        fn decoding_never_panics(garbage in bytes(40)) {
            if let Ok(decoded) = decode(&garbage) {
                let again = encode(decoded.prefix, &decoded.user_key(), decoded.sub_key);
                prop_assert_eq!(again, garbage);
            }
        }

        #[test]
        fn ranges_hold_exactly_their_keys(
            p in prefix(), q in prefix(), user in bytes(6), sub in bytes(4), bound in bytes(4),
        ) {
            let encoded = encode(p, &user, &sub);
            prop_assert_eq!(Range::of_kind(q).contains(&encoded), p == q);
            let by_user = Range::of_user_prefix(q, &bound);
            prop_assert_eq!(by_user.contains(&encoded), p == q && user.starts_with(&bound));
            let by_sub = Range::of_sub_keys(q, &bound);
            prop_assert_eq!(by_sub.contains(&encoded), p == q && user == bound);
            prop_assert_eq!(by_user.overlaps(&encoded, &encoded), by_user.contains(&encoded));
        }

        #[test]
        fn successor_is_the_least_upper_bound(prefix in bytes(5), tail in bytes(4)) {
            let extended = [&prefix[..], &tail].concat();
            match successor(&prefix) {
                Some(upper) => {
                    prop_assert!(extended < upper);
                    prop_assert!(!upper.starts_with(&prefix) || prefix.is_empty());
                }
                None => prop_assert!(prefix.iter().all(|&byte| byte == 0xFF)),
            }
        }
    }
}
