//! Integers as text, both ways, without allocation.
//!
//! Redis accepts an integer only in its one canonical spelling: an optional minus, no plus, no
//! leading zero, no white space, within `i64`. `0` is the only number that starts with a zero and
//! `-0` is not a number. That rule decides what INCR, EXPIRE and every count argument accept, what
//! a length in the protocol may look like, and so also which stored values are numbers. It is kept
//! exactly (`string2ll` in Redis).
//!
//! Writing goes through a stack array of twenty digits, two digits a step, and is what an integer
//! reply or a bulk header costs.

/// Parses the canonical spelling of an `i64`; anything else is `None`.
#[must_use]
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [] => return None,
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits stay below 10^19 < 2^64.
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Parses an unsigned decimal (a cursor): at most twenty digits, within `u64`.
#[must_use]
pub(crate) fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut value: u64 = 0;
    for &digit in text {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some(value)
}

const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// The decimal digits of a number, on the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digits {
    bytes: [u8; 20],
    start: u8,
}

impl Digits {
    /// The digits of an unsigned number.
    #[must_use]
    pub(crate) fn of_u64(mut value: u64) -> Digits {
        let mut bytes = [0u8; 20];
        let mut start = bytes.len();
        while value >= 100 {
            let pair = (value % 100) as usize * 2;
            value /= 100;
            start -= 2;
            bytes[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        }
        if value >= 10 {
            let pair = value as usize * 2;
            start -= 2;
            bytes[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        } else {
            start -= 1;
            bytes[start] = b'0' + value as u8;
        }
        Digits { bytes, start: start as u8 }
    }

    /// The digits of a signed number, its minus included: `i64::MIN` has nineteen digits.
    #[must_use]
    pub(crate) fn of_i64(value: i64) -> Digits {
        let mut digits = Digits::of_u64(value.unsigned_abs());
        if value < 0 {
            digits.start -= 1;
            digits.bytes[usize::from(digits.start)] = b'-';
        }
        digits
    }

    /// The text.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_integers_are_integers() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("10", Some(10)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            ("", None),
            ("-", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn digits_agree_with_the_standard_library(value: i64, unsigned: u64, small in 0u64..1000) {
            let (digits, text) = (Digits::of_i64(value), value.to_string());
            prop_assert_eq!(digits.as_bytes(), text.as_bytes());
            prop_assert_eq!(parse_i64(text.as_bytes()), Some(value));
            for number in [unsigned, small] {
                let (digits, text) = (Digits::of_u64(number), number.to_string());
                prop_assert_eq!(digits.as_bytes(), text.as_bytes());
                prop_assert_eq!(parse_u64(text.as_bytes()), Some(number));
            }
        }
    }
}
