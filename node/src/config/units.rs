//! Sizes and durations as people write them: `64MiB`, `250ms`.
//!
//! A size is a whole number of bytes with an optional unit: `B`, `KiB`, `MiB`, `GiB`, `TiB` are
//! powers of 1,024, `KB`, `MB`, `GB`, `TB` powers of 1,000. A duration is a whole number with one
//! of `ns`, `us`, `ms`, `s`, `m`, `h`, `d`; there is no default unit, because a bare `5` has been
//! read as seconds by some people and as milliseconds by the others. Fractions are refused:
//! `1.5GiB` is `1536MiB`, and nobody has to ask how it was rounded.
//!
//! Printing gives the largest unit that divides the value, so that a value printed is a value
//! that parses back to itself; a test holds that for both.

use std::time::Duration;

/// Why a size or duration was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// The text does not start with a whole number.
    #[error("`{text}` does not start with a whole number")]
    NoNumber {
        /// What was given.
        text: String,
    },
    /// The unit is not one of those known.
    #[error("`{text}` has an unknown unit; use one of {units}")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// What could have been given.
        units: &'static str,
    },
    /// The number does not fit.
    #[error("`{text}` is too large")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses a size in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, SIZE_UNITS, "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB")
}

/// Parses a duration.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, DURATION_UNITS, "ns, us, ms, s, m, h, d").map(Duration::from_nanos)
}

/// Prints a size so that it parses back to itself.
pub fn format_size(bytes: u64) -> String {
    let powers = SIZE_UNITS.iter().filter(|(unit, _)| unit.ends_with("iB"));
    for (unit, factor) in powers {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Prints a duration so that it parses back to itself.
pub fn format_duration(duration: Duration) -> String {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    for (unit, factor) in DURATION_UNITS {
        if ns >= *factor && ns.is_multiple_of(*factor) {
            return format!("{}{unit}", ns / factor);
        }
    }
    format!("{ns}ns")
}

fn parse(text: &str, table: &[(&str, u64)], units: &'static str) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return Err(UnitError::NoNumber { text: text.to_owned() });
    }
    let too_large = || UnitError::TooLarge { text: text.to_owned() };
    let number: u64 = number.parse().map_err(|_| too_large())?;
    let unit = unit.trim_start();
    let Some((_, factor)) = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(UnitError::UnknownUnit { text: text.to_owned(), units });
    };
    number.checked_mul(*factor).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4KiB", 4096),
            ("4 kib", 4096),
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("16TiB", 16 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert!(matches!(parse_size("MiB"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_size("-1"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_size("1.5GiB"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_size("99999999TiB"), Err(UnitError::TooLarge { .. })));
        assert!(matches!(parse_size("99999999999999999999"), Err(UnitError::TooLarge { .. })));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert!(matches!(parse_duration("5"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_duration("5 weeks"), Err(UnitError::UnknownUnit { .. })));
    }

    proptest! {
        #[test]
        fn printed_values_parse_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            let duration = Duration::from_nanos(bytes);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}
