//! Floating point for INCRBYFLOAT, in integers: the same bytes on every machine.
//!
//! What INCRBYFLOAT stores is part of the replicated state, so it may not depend on a processor, a
//! compiler or a C library. Redis computes in `long double`, which is the x87 extended format on
//! x86-64 and something else elsewhere. Here that extended format is *the* definition, computed
//! in software: a sign, a significand of 64 bits and a binary exponent, rounded half to even. The
//! results are then byte for byte those of Redis on x86-64, and tests pin golden values.
//!
//! 1. [`Extended::parse`] reads decimal text (sign, digits, point, exponent) and rounds the exact
//!    value once: numerator and denominator as big integers, 64 bits of quotient, and whether
//!    anything was left over.
//! 2. [`Extended::plus`] adds with 62 guard bits and a sticky bit, and rounds once (IEEE 754,
//!    4.3.1).
//! 3. [`Extended::append`] writes the value with 17 digits behind the point, rounded half to even
//!    from the exact value, then drops trailing zeros, and the point if nothing follows it
//!    (`%.17Lf` and Redis's `LD_STR_HUMAN`). Minus zero is written as `0`.
//!
//! Magnitudes below the smallest normal number (3.4e-4932) keep all their bits here, where the
//! hardware has denormals; no result with 17 decimals shows it. One thing differs from Redis:
//! hexadecimal floats are not read. The big integers live in a [`Workspace`] that the caller
//! keeps, so nothing allocates.

use std::cmp::Ordering;

/// The binary exponent of the largest finite number: value = significand × 2^exponent, with the
/// significand's highest bit set.
const EXPONENT_MAX: i32 = 16_383 - 63;
/// What is read and is not above 2^(this + 63), half of the smallest denormal, is zero to the
/// hardware, and no number to Redis.
const EXPONENT_TINY: i32 = -16_446 - 63;
/// The longest text that is read, as in Redis.
pub const TEXT_MAX: usize = 5 * 1024 - 1;
/// Decimal exponents (of the first digit) beyond these are out of range for certain.
const DECIMAL_MAX: i64 = 4_933;
const DECIMAL_MIN: i64 = -4_952;
/// Digits behind the point that are written.
const DECIMALS: u32 = 17;
/// Enough for a quotient of 2^64 over 10^(5,119 + 4,952) and some bits.
const LIMBS: usize = 640;

/// A finite number of the x87 extended format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    negative: bool,
    /// Zero, or with its highest bit set.
    significand: u64,
    exponent: i32,
}

/// What a text is as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A finite number.
    Finite(Extended),
    /// `inf` or `infinity`, with either sign: a number that cannot be added to.
    Infinite,
}

/// Memory for big integers, reused from call to call.
#[derive(Debug)]
pub struct Workspace {
    numerator: Natural,
    denominator: Natural,
}

impl Default for Workspace {
    fn default() -> Workspace {
        Workspace { numerator: Natural::new(), denominator: Natural::new() }
    }
}

impl Extended {
    const ZERO: Extended = Extended { negative: false, significand: 0, exponent: 0 };

    /// Reads a number; `None` for what is none.
    #[must_use]
    pub fn parse(text: &[u8], work: &mut Workspace) -> Option<Parsed> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Parsed::Infinite);
        }
        let decimal = Decimal::parse(rest)?;
        let magnitude = decimal.round(work)?;
        Some(Parsed::Finite(Extended { negative, ..magnitude }))
    }

    /// The sum, rounded half to even; `None` when it is beyond the largest finite number.
    #[must_use]
    pub fn plus(self, other: Extended) -> Option<Extended> {
        let (large, small) = match self.magnitude_order(other) {
            Ordering::Less => (other, self),
            _ => (self, other),
        };
        if small.significand == 0 {
            let negative = large.negative && (large.significand != 0 || small.negative);
            return Some(Extended { negative, ..large });
        }
        // Two bits of head room above, 62 guard bits below.
        let high = u128::from(large.significand) << 62;
        let aligned = u128::from(small.significand) << 62;
        let shift = (large.exponent - small.exponent) as u32;
        let low = aligned.checked_shr(shift).unwrap_or(0);
        let lost = shift >= 128 || (low << shift) != aligned;
        let sum = if large.negative == small.negative {
            high + low
        } else {
            // What was shifted out has to be subtracted too: one unit less, and sticky.
            high - low - u128::from(lost)
        };
        if sum == 0 && !lost {
            return Some(Extended::ZERO);
        }
        let rounded = Extended::round(sum, large.exponent - 62, lost)?;
        Some(Extended { negative: large.negative, ..rounded })
    }

    fn magnitude_order(self, other: Extended) -> Ordering {
        let key = |number: Extended| (number.significand != 0, number.exponent, number.significand);
        if self.significand == 0 || other.significand == 0 {
            return self.significand.cmp(&other.significand);
        }
        key(self).cmp(&key(other))
    }

    /// `bits` × 2^`exponent`, and a little more if `sticky`, to 64 bits. `None` if infinite.
    fn round(bits: u128, exponent: i32, sticky: bool) -> Option<Extended> {
        assert!(bits != 0, "a value without bits has no exponent");
        let zeros = bits.leading_zeros();
        let bits = bits << zeros;
        let mut exponent = exponent - zeros as i32 + 64;
        let mut significand = (bits >> 64) as u64;
        let rest = bits as u64;
        const HALF: u64 = 1 << 63;
        let up = rest > HALF || (rest == HALF && (sticky || significand & 1 == 1));
        if up {
            (significand, exponent) = match significand.checked_add(1) {
                Some(sum) => (sum, exponent),
                None => (HALF, exponent + 1),
            };
        }
        (exponent <= EXPONENT_MAX).then_some(Extended { negative: false, significand, exponent })
    }

    /// Appends the text of the number.
    pub fn append(self, out: &mut Vec<u8>, work: &mut Workspace) {
        if self.exponent >= 0 && self.significand != 0 {
            if self.negative {
                out.push(b'-');
            }
            let number = &mut work.numerator;
            number.set(u128::from(self.significand));
            number.shift_left(self.exponent as u32);
            number.append_decimal(out);
            return;
        }
        let places = self.exponent.unsigned_abs();
        // Below 2^121; with 128 places or more all of it is less than half a unit.
        let (whole, fraction) = if places < 64 {
            let whole = self.significand >> places;
            (whole, self.significand - (whole << places))
        } else {
            (0, self.significand)
        };
        let scaled = u128::from(fraction) * 10u128.pow(DECIMALS);
        let mut units = scaled.checked_shr(places).unwrap_or(0) as u64;
        if (1..128).contains(&places) {
            let rest = scaled - (u128::from(units) << places);
            let half = 1u128 << (places - 1);
            units += u64::from(rest > half || (rest == half && units & 1 == 1));
        }
        let unit = 10u64.pow(DECIMALS);
        let (whole, units) = (u128::from(whole) + u128::from(units / unit), units % unit);
        if self.negative && (whole != 0 || units != 0) {
            out.push(b'-');
        }
        append_decimal(whole, 1, out);
        if units != 0 {
            out.push(b'.');
            append_decimal(u128::from(units), DECIMALS as usize, out);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
    }
}

/// Appends at least `width` digits.
fn append_decimal(mut value: u128, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 40];
    let mut start = digits.len();
    while value != 0 || digits.len() - start < width {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[start..]);
}

/// A decimal text taken apart: digits (leading and trailing zeros dropped), × 10^`exponent`.
struct Decimal<'a> {
    /// Digits, and at most one point, which has no meaning any more.
    digits: &'a [u8],
    exponent: i64,
    /// How many digits there are.
    count: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Option<Decimal<'a>> {
        let end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
        let (digits, exponent) = text.split_at(end);
        let exponent = match exponent {
            [] => 0,
            [_, exponent @ ..] => Decimal::parse_exponent(exponent)?,
        };
        let well_formed = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
            && digits.iter().filter(|byte| **byte == b'.').count() <= 1
            && digits.iter().any(u8::is_ascii_digit);
        if !well_formed {
            return None;
        }
        let significant = |byte: &u8| !matches!(byte, b'0' | b'.');
        let Some(first) = digits.iter().position(significant) else {
            return Some(Decimal { digits: &[], exponent: 0, count: 0 });
        };
        let last = digits.iter().rposition(significant).expect("there is a first");
        let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        // The power of ten of the last significant digit.
        let scale = if last < point { (point - last - 1) as i64 } else { -((last - point) as i64) };
        let digits = &digits[first..=last];
        let count = digits.iter().filter(|byte| **byte != b'.').count() as i64;
        Some(Decimal { digits, exponent: exponent.saturating_add(scale), count })
    }

    fn parse_exponent(text: &[u8]) -> Option<i64> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // Saturates far outside the range, so that more digits cannot overflow.
        let value = digits
            .iter()
            .fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1_000_000_000));
        Some(if negative { -value } else { value })
    }

    /// The nearest extended number; `None` if that is infinite, or zero for a text that is not.
    fn round(&self, work: &mut Workspace) -> Option<Extended> {
        if self.count == 0 {
            return Some(Extended::ZERO);
        }
        let leading = self.exponent + self.count - 1;
        if !(DECIMAL_MIN..=DECIMAL_MAX).contains(&leading) {
            return None;
        }
        let Workspace { numerator, denominator } = work;
        numerator.set(0);
        denominator.set(1);
        for digit in self.digits.iter().filter(|byte| **byte != b'.') {
            numerator.multiply_add(10, u64::from(digit - b'0'));
        }
        let power = self.exponent.unsigned_abs() as u32;
        let scaled = if self.exponent >= 0 { &mut *numerator } else { &mut *denominator };
        scaled.multiply_power_of_ten(power);
        // Scale so that the quotient has 65 or 66 bits.
        let shift = 65 - (numerator.bits() as i32 - denominator.bits() as i32);
        let shifted = if shift >= 0 { &mut *numerator } else { &mut *denominator };
        shifted.shift_left(shift.unsigned_abs());
        let quotient = numerator.divide_small_quotient(denominator, 66);
        let number = Extended::round(quotient, -shift, !numerator.is_zero())?;
        let tiny = (EXPONENT_TINY, 1 << 63);
        ((number.exponent, number.significand) > tiny).then_some(number)
    }
}

/// A natural number of bounded size, little end first.
#[derive(Debug)]
struct Natural {
    limbs: Box<[u64; LIMBS]>,
    len: usize,
}

impl Natural {
    fn new() -> Natural {
        Natural { limbs: Box::new([0; LIMBS]), len: 0 }
    }

    fn is_zero(&self) -> bool {
        self.len == 0
    }

    fn set(&mut self, value: u128) {
        (self.limbs[0], self.limbs[1]) = (value as u64, (value >> 64) as u64);
        self.len = if self.limbs[1] != 0 { 2 } else { usize::from(self.limbs[0] != 0) };
    }

    fn bits(&self) -> u32 {
        match self.len {
            0 => 0,
            len => len as u32 * 64 - self.limbs[len - 1].leading_zeros(),
        }
    }

    fn push(&mut self, limb: u64) {
        if limb != 0 {
            self.limbs[self.len] = limb;
            self.len += 1;
        }
    }

    fn multiply_add(&mut self, factor: u64, addend: u64) {
        let mut carry = u128::from(addend);
        for limb in &mut self.limbs[..self.len] {
            let product = u128::from(*limb) * u128::from(factor) + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
        self.push(carry as u64);
    }

    fn multiply_power_of_ten(&mut self, power: u32) {
        const STEP: u32 = 19;
        for _ in 0..power / STEP {
            self.multiply_add(10u64.pow(STEP), 0);
        }
        self.multiply_add(10u64.pow(power % STEP), 0);
    }

    fn shift_left(&mut self, bits: u32) {
        let (limbs, bits) = ((bits / 64) as usize, bits % 64);
        if self.is_zero() {
            return;
        }
        self.limbs.copy_within(..self.len, limbs);
        self.limbs[..limbs].fill(0);
        self.len += limbs;
        if bits > 0 {
            let mut carry = 0;
            for limb in &mut self.limbs[limbs..self.len] {
                (*limb, carry) = (*limb << bits | carry, *limb >> (64 - bits));
            }
            self.push(carry);
        }
    }

    fn order(&self, other: &Natural) -> Ordering {
        let (left, right) = (&self.limbs[..self.len], &other.limbs[..other.len]);
        left.len().cmp(&right.len()).then_with(|| left.iter().rev().cmp(right.iter().rev()))
    }

    /// Subtracts `other`, which is not larger.
    fn subtract(&mut self, other: &Natural) {
        let mut borrow = false;
        for index in 0..self.len {
            let take = if index < other.len { other.limbs[index] } else { 0 };
            let (part, first) = self.limbs[index].overflowing_sub(take);
            let (part, second) = part.overflowing_sub(u64::from(borrow));
            self.limbs[index] = part;
            borrow = first || second;
        }
        assert!(!borrow, "the larger is subtracted from");
        while self.len > 0 && self.limbs[self.len - 1] == 0 {
            self.len -= 1;
        }
    }

    /// Divides by `divisor`; the quotient has at most `bits` bits, and the remainder stays in self.
    ///
    /// Bit by bit: with a quotient this short that is cheaper than it looks, and obviously right.
    fn divide_small_quotient(&mut self, divisor: &mut Natural, bits: u32) -> u128 {
        divisor.shift_left(bits);
        let mut quotient = 0;
        for _ in 0..=bits {
            quotient <<= 1;
            if self.order(divisor) != Ordering::Less {
                self.subtract(divisor);
                quotient |= 1;
            }
            divisor.halve();
        }
        quotient
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.limbs[..self.len].iter_mut().rev() {
            (*limb, carry) = (*limb >> 1 | carry, *limb << 63);
        }
        while self.len > 0 && self.limbs[self.len - 1] == 0 {
            self.len -= 1;
        }
    }

    /// Appends the number in decimal and leaves zero.
    fn append_decimal(&mut self, out: &mut Vec<u8>) {
        const CHUNK: u64 = 10u64.pow(19);
        let start = out.len();
        while !self.is_zero() {
            let mut rest: u128 = 0;
            for limb in self.limbs[..self.len].iter_mut().rev() {
                let value = rest << 64 | u128::from(*limb);
                *limb = (value / u128::from(CHUNK)) as u64;
                rest = value % u128::from(CHUNK);
            }
            while self.len > 0 && self.limbs[self.len - 1] == 0 {
                self.len -= 1;
            }
            // Chunks come out low end first: write each backwards, and turn all round at the end.
            let chunk_start = out.len();
            append_decimal(rest, if self.is_zero() { 1 } else { 19 }, out);
            out[chunk_start..].reverse();
        }
        out[start..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(left: &str, right: &str) -> Option<String> {
        let mut work = Workspace::default();
        let mut number = |text: &str| match Extended::parse(text.as_bytes(), &mut work) {
            Some(Parsed::Finite(number)) => Some(number),
            _ => None,
        };
        let sum = number(left)?.plus(number(right)?)?;
        let mut text = Vec::new();
        sum.append(&mut text, &mut work);
        Some(String::from_utf8(text).unwrap())
    }

    /// One half plus 2^-64.
    const MORE_THAN_HALF: &str =
        "0.500000000000000000054210108624275221700372640043497085571289062500";

    /// Recorded from Redis 7.0.15 on x86-64.
    #[test]
    fn golden_sums() {
        for (left, right, expected) in [
            ("0", "0", "0"),
            ("-0.0", "-0.0", "0"),
            ("10.50", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("3.0e3", "200", "3200"),
            ("1", "1e-17", "1.00000000000000001"),
            ("1", "1e-18", "1"),
            ("1", "-1", "0"),
            ("-1e-19", "0", "0"),
            ("1e-17", "0", "0.00000000000000001"),
            ("17179869184", "1.5", "17179869185.5"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("123456789012345678901234567890", "1", "123456789012345678899921813504"),
            (".5", "5.", "5.5"),
            ("1E2", "-1e-2", "99.99"),
            ("9007199254740993", "0.5", "9007199254740993.5"),
            // Half a unit and the least bit more: what is shifted out decides.
            ("9223372036854775809", MORE_THAN_HALF, "9223372036854775810"),
            ("9223372036854775808", MORE_THAN_HALF, "9223372036854775809"),
            ("-9223372036854775809", MORE_THAN_HALF, "-9223372036854775808"),
            ("-9223372036854775810", MORE_THAN_HALF, "-9223372036854775809"),
            ("9223372036854775808", "0.5", "9223372036854775808"),
        ] {
            assert_eq!(sum(left, right).as_deref(), Some(expected), "{left} + {right}");
            assert_eq!(sum(right, left).as_deref(), Some(expected), "{right} + {left}");
        }
        // The largest number, all 4,933 digits of it, and one step too far.
        let largest = "1.18973149535723176502e4932";
        let text = sum(largest, "0").unwrap();
        assert!(text.len() == 4933 && text.starts_with("1189731495357231765021263853030970205"));
        assert!(text.ends_with("1989770240"), "{}", &text[4900..]);
        assert_eq!(sum(largest, largest), None);
        assert_eq!(sum("1.2e4932", "0"), None);
        assert_eq!(sum("2e-4951", "0").as_deref(), Some("0"));
        assert_eq!(sum("1e-4951", "0"), None, "zero to the format, but not to its reader");
    }

    #[test]
    fn what_is_a_number() {
        let mut work = Workspace::default();
        for text in ["inf", "-INF", "+infinity", "Infinity"] {
            assert_eq!(Extended::parse(text.as_bytes(), &mut work), Some(Parsed::Infinite));
        }
        let long = ["1".repeat(5000), "0".repeat(5000), ".".to_string() + &"3".repeat(5000)];
        assert!(Extended::parse(long[0].as_bytes(), &mut work).is_none(), "over the range");
        for text in
            ["1", "-1.", "+.5", "1e5", "1E+05", "0e99999999999999999999", &long[1], &long[2]]
        {
            let parsed = Extended::parse(text.as_bytes(), &mut work);
            assert!(matches!(parsed, Some(Parsed::Finite(_))), "{text}");
        }
        for text in [
            "",
            "-",
            "+",
            ".",
            "e5",
            "1e",
            "1e+",
            "1e5.",
            "1.2.3",
            " 1",
            "1 ",
            "0x10",
            "nan",
            "1f",
            "--1",
            "1e99999999999999999999",
            "infinit",
            "i",
        ] {
            assert_eq!(Extended::parse(text.as_bytes(), &mut work), None, "{text:?}");
        }
    }
}
