//! Compression of the levels as people write it: `none`, `zstd`, or `none,lz4,zstd`.
//!
//! The text names a codec for each level from level 0 on, and the last one named counts for all
//! deeper levels. Level 0 is what flushes write and holds little; what lives long ends in the last
//! level. So `none,zstd` packs nearly everything and leaves flushes alone. Printing gives the
//! shortest text that parses back to the same.

use lsm::config::{Compression, LEVELS_MAX};
use vsr::format;

/// A codec for each level, as a directory records them.
pub type Levels = [u8; format::LEVELS_MAX];

/// Why a text names no codecs of levels.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompressionError {
    /// A codec that does not exist.
    #[error("`{0}` is no codec; there are none, lz4, zstd")]
    Unknown(String),
    /// More codecs than levels.
    #[error("{0} codecs for {LEVELS_MAX} levels")]
    TooMany(usize),
}

/// Parses the codecs of the levels.
///
/// # Errors
/// [`CompressionError`].
pub fn parse_compression(text: &str) -> Result<Levels, CompressionError> {
    let codec = |name: &str| {
        let named = Compression::ALL.into_iter().find(|codec| codec.name() == name);
        named.ok_or_else(|| CompressionError::Unknown(name.to_owned()))
    };
    let named: Vec<Compression> = text.split(',').map(codec).collect::<Result<_, _>>()?;
    if named.len() > LEVELS_MAX {
        return Err(CompressionError::TooMany(named.len()));
    }
    Ok(std::array::from_fn(|level| named[level.min(named.len() - 1)] as u8))
}

/// Prints codecs of levels so that they parse back to the same.
#[must_use]
pub fn format_compression(levels: &Levels) -> String {
    let last = levels[LEVELS_MAX - 1];
    let rest = levels[..LEVELS_MAX].iter().rposition(|&codec| codec != last);
    let named = &levels[..rest.map_or(1, |before| before + 2)];
    let name = |&number| Compression::of_number(number).map_or("unknown", Compression::name);
    named.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_back_to_itself() {
        for text in ["none", "lz4", "zstd", "none,lz4", "none,lz4,zstd", "lz4,none,none,zstd"] {
            assert_eq!(format_compression(&parse_compression(text).unwrap()), text);
        }
        assert_eq!(parse_compression("none,lz4,zstd").unwrap(), [0, 1, 2, 2, 2, 2, 2, 2]);
        let spelt_out = parse_compression("none,zstd,zstd,zstd").unwrap();
        assert_eq!(format_compression(&spelt_out), "none,zstd");
        let each = "lz4,zstd,lz4,zstd,lz4,zstd,none";
        assert_eq!(format_compression(&parse_compression(each).unwrap()), each);
    }

    #[test]
    fn what_names_no_codecs_is_refused() {
        for text in ["", "zip", "lz4,", "LZ4", "lz4 zstd", "2"] {
            let error = parse_compression(text).unwrap_err();
            assert!(matches!(error, CompressionError::Unknown(_)), "{text}: {error}");
        }
        let error = parse_compression("none,none,none,none,none,none,none,lz4").unwrap_err();
        assert_eq!(error.to_string(), "8 codecs for 7 levels");
    }
}
