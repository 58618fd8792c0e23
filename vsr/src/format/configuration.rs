//! What `format` decides once for all of a cluster's replicas, recorded in every superblock.
//!
//! Each value is a 64-bit word with a fixed number in a record of 64 words, so that a value can be
//! added where a zero was, inspected without knowing its type, and named when it differs. The
//! *fingerprint* is the record's checksum: replicas compare it when they meet. A value here changes
//! what is stored or what is computed from the log; what only one host cares about (addresses,
//! cache sizes, cores) is in `quorate.toml` and never here.
//!
//! The relations between values that the storage engine and the journal rely on are checked when a
//! directory is formatted ([`Configuration::validate`]), and again when it is opened, because a
//! release may have learnt a new one.

use wire::{Checksum, checksum};

use crate::journal::Geometry;
use crate::journal::layout::{SECTOR, frame_size};
use crate::superblock::{SHARDS_MAX, VIEW_HEADERS_MAX};

/// Words in the record.
pub const WORDS: usize = 64;
/// Bytes of the record.
pub const RECORD_SIZE: usize = WORDS * 8;
/// Bytes of results that a session must be able to keep: those of the largest, and its charge.
const SESSION_RESULTS_MIN: u32 = 8 << 10;
/// Levels that have a compression entry.
pub const LEVELS_MAX: usize = 8;

macro_rules! configuration {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $word:literal, $default:expr;)*) => {
        /// Every format-time value. See the module's documentation.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct Configuration { $($(#[doc = $doc])+ pub $name: $type,)* }

        impl Default for Configuration {
            fn default() -> Configuration { Configuration { $($name: $default,)* } }
        }

        impl Configuration {
            /// The names of all values, with the number of their word.
            pub const FIELDS: &'static [(&'static str, usize)] = &[$((stringify!($name), $word),)*];

            fn words(&self) -> [u64; WORDS] {
                let mut words = [0; WORDS];
                $(words[$word] = Word::to_word(self.$name);)*
                words
            }

            fn from_words(words: &[u64; WORDS]) -> Option<Configuration> {
                Some(Configuration { $($name: Word::from_word(words[$word])?,)* })
            }
        }

        const _: () = {
            let numbers = [$($word as usize,)*];
            let mut index = 0;
            while index < numbers.len() {
                assert!(numbers[index] == index && index < WORDS);
                index += 1;
            }
        };
    };
}

configuration! {
    /// Voting replicas: 1, 3 or 5.
    replica_count: u8 = 0, 1;
    /// Shards of each replica.
    shard_count: u16 = 1, 8;
    /// Largest prepare, its header included, in bytes.
    prepare_size_max: u32 = 2, 1 << 20;
    /// Largest key in bytes.
    key_size_max: u16 = 3, 1024;
    /// Largest value in bytes.
    value_size_max: u32 = 4, (1 << 20) - 4096;
    /// Bytes of one journal segment.
    journal_segment_size: u32 = 5, 64 << 20;
    /// Segments of the journal.
    journal_segment_count: u32 = 6, 16;
    /// Prepares in flight at most.
    pipeline_max: u8 = 7, 8;
    /// Bytes of a grid block.
    block_size: u32 = 8, 256 << 10;
    /// Bytes of a page within a block.
    page_size: u32 = 9, 4096;
    /// Bytes a shard's grid file may grow to.
    grid_size_max: u64 = 10, 1 << 40;
    /// Bytes of entries after which a shard's memtable is due.
    memtable_size: u64 = 11, 16 << 20;
    /// Levels of each tree.
    levels: u8 = 12, 7;
    /// Runs of a level below 0 that become one run of the next level.
    growth_factor: u8 = 13, 8;
    /// Compression by level, one byte each from level 0 on: 0 none, 1 lz4, 2 zstd.
    compression: [u8; LEVELS_MAX] = 14, [0; LEVELS_MAX];
    /// Bits of a fingerprint in a table's filter.
    filter_bits: u8 = 15, 8;
    /// Ops in a group at most; bars end at the end of a group.
    group_ops_max: u32 = 16, 16;
    /// A group closes at this fraction of a memtable's bytes: 1 / divisor.
    group_bytes_divisor: u32 = 17, 16;
    /// Bytes by which one prepare's effects on a shard may exceed its requests.
    effects_size_max: u32 = 18, 8 << 20;
    /// Ops of the log between checkpoints at most; 0 leaves it to the log's bytes.
    checkpoint_ops_max: u64 = 19, 0;
    /// Client sessions at most.
    sessions_max: u32 = 20, 4096;
    /// Requests outstanding in one session.
    session_window: u32 = 21, 1024;
    /// Bytes of retained results of one session.
    session_results_size_max: u32 = 22, 64 << 10;
    /// Bytes of retained results of all sessions.
    sessions_results_size_max: u64 = 23, 16 << 20;
    /// Nanoseconds of superseded versions kept; 0 is the current and the previous bar.
    history_window_ns: u64 = 24, 0;
}

/// How a value is kept in one word.
trait Word: Copy {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Option<Self>;
}

macro_rules! words {
    ($($int:ty),*) => {$(
        impl Word for $int {
            fn to_word(self) -> u64 { u64::from(self) }
            fn from_word(word: u64) -> Option<Self> { word.try_into().ok() }
        }
    )*};
}

words!(u8, u16, u32, u64);

impl Word for [u8; LEVELS_MAX] {
    fn to_word(self) -> u64 {
        u64::from_le_bytes(self)
    }
    fn from_word(word: u64) -> Option<Self> {
        Some(word.to_le_bytes())
    }
}

/// A value that is not what was expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The value's name.
    pub field: &'static str,
    /// What `format` recorded.
    pub recorded: u64,
    /// What was expected.
    pub expected: u64,
}

/// Values that cannot go together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} = {value}: {requirement}")]
pub struct ConfigurationError {
    /// The value's name.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// What it must be.
    pub requirement: String,
}

impl Configuration {
    /// A configuration that makes everything small, so that tests reach every edge.
    #[must_use]
    pub fn test_min() -> Configuration {
        Configuration {
            shard_count: 2,
            prepare_size_max: 16 << 10,
            key_size_max: 64,
            value_size_max: 8 << 10,
            journal_segment_size: 128 << 10,
            journal_segment_count: 6,
            pipeline_max: 4,
            block_size: 4096,
            page_size: 512,
            grid_size_max: 16 << 20,
            memtable_size: 16 << 10,
            levels: 3,
            growth_factor: 2,
            group_ops_max: 4,
            group_bytes_divisor: 4,
            effects_size_max: 16 << 10,
            sessions_max: 4,
            session_window: 4,
            session_results_size_max: 8 << 10,
            sessions_results_size_max: 16 << 10,
            ..Configuration::default()
        }
    }

    /// The configuration with a journal of `bytes` in 16 segments.
    #[must_use]
    pub fn with_journal_size(mut self, bytes: u64) -> Configuration {
        self.journal_segment_count = 16;
        let segment = (bytes / 16).next_multiple_of(SECTOR as u64);
        self.journal_segment_size = u32::try_from(segment).unwrap_or(!0xfff);
        self
    }

    /// The record as it is stored.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_SIZE] {
        let mut bytes = [0; RECORD_SIZE];
        for (target, word) in bytes.chunks_exact_mut(8).zip(self.words()) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The configuration in a record; `None` when a word is out of its value's range or a word
    /// without a meaning is set.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_SIZE]) -> Option<Configuration> {
        let mut words = [0; WORDS];
        for (word, source) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(source.try_into().ok()?);
        }
        let unused_zero = words[Configuration::FIELDS.len()..].iter().all(|&word| word == 0);
        if unused_zero { Configuration::from_words(&words) } else { None }
    }

    /// The checksum of the record.
    #[must_use]
    pub fn fingerprint(&self) -> Checksum {
        checksum(&self.encode())
    }

    /// Each value with its name, as recorded.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = self.words();
        Configuration::FIELDS.iter().map(move |&(name, word)| (name, words[word]))
    }

    /// The values in which `expected` is another configuration.
    #[must_use]
    pub fn differences(&self, expected: &Configuration) -> Vec<Difference> {
        self.values()
            .zip(expected.values())
            .filter(|((_, recorded), (_, expected))| recorded != expected)
            .map(|((field, recorded), (_, expected))| Difference { field, recorded, expected })
            .collect()
    }

    /// Bytes of a journal file with its superblock zone.
    #[must_use]
    pub fn journal_file_size(&self) -> u64 {
        crate::superblock::ZONE_SIZE as u64
            + u64::from(self.journal_segment_size) * u64::from(self.journal_segment_count)
    }

    /// Bytes of frames that may be live (after the checkpoint) at a time: what the log may grow to
    /// between checkpoints. Half of the journal, or less where segments are so few or so short that
    /// two free ones and the unusable ends of the others leave less than that.
    ///
    /// An op counts with the size of its frame ([`frame_size`]).
    #[must_use]
    pub fn log_budget(&self) -> u64 {
        Geometry::of(self).log_budget
    }

    /// Checks every relation that the rest of the code relies on.
    ///
    /// # Errors
    /// [`ConfigurationError`] names the first value that is out of range.
    pub fn validate(&self) -> Result<(), ConfigurationError> {
        let words = self.words();
        let check = |field: &'static str, fine: bool, requirement: String| {
            let word = Configuration::FIELDS.iter().find(|(name, _)| *name == field);
            let value = words[word.expect("a field of the configuration").1];
            if fine { Ok(()) } else { Err(ConfigurationError { field, value, requirement }) }
        };
        let replicas = matches!(self.replica_count, 1 | 3 | 5);
        check("replica_count", replicas, "must be 1, 3 or 5".into())?;
        let shards = (1..=SHARDS_MAX).contains(&usize::from(self.shard_count));
        check("shard_count", shards, format!("must be 1 to {SHARDS_MAX}"))?;
        let prepare = self.prepare_size_max;
        let fits = (8 << 10..=4 << 20).contains(&prepare) && prepare.is_multiple_of(4096);
        check("prepare_size_max", fits, "must be 8 KiB to 4 MiB in steps of 4 KiB".into())?;
        let key = (1..=1024).contains(&self.key_size_max);
        check("key_size_max", key, "must be 1 to 1024".into())?;
        let value = self.value_size_max <= prepare - 4096;
        check("value_size_max", value, format!("must be at most {}", prepare - 4096))?;
        let pipeline = (1..VIEW_HEADERS_MAX).contains(&usize::from(self.pipeline_max));
        check("pipeline_max", pipeline, format!("must be 1 to {}", VIEW_HEADERS_MAX - 1))?;
        self.validate_journal(&check)?;
        let block =
            self.block_size.is_power_of_two() && (4096..=1 << 20).contains(&self.block_size);
        check("block_size", block, "must be a power of two from 4 KiB to 1 MiB".into())?;
        let page = self.page_size.is_power_of_two()
            && (512..=64 << 10).contains(&self.page_size)
            && self.page_size <= self.block_size / 4;
        let range = "must be a power of two from 512 to 64 KiB, at most a quarter of a block";
        check("page_size", page, range.into())?;
        let levels = (1..=LEVELS_MAX).contains(&usize::from(self.levels));
        check("levels", levels, format!("must be 1 to {LEVELS_MAX}"))?;
        check("growth_factor", self.growth_factor >= 2, "must be at least 2".into())?;
        let codecs = self.compression.iter().all(|&codec| codec <= 2);
        check("compression", codecs, "each byte must be 0, 1 or 2".into())?;
        check("group_ops_max", self.group_ops_max > 0, "must be at least 1".into())?;
        check("group_bytes_divisor", self.group_bytes_divisor > 0, "must be at least 1".into())?;
        self.validate_sessions(&check)
    }

    fn validate_sessions(
        &self,
        check: &impl Fn(&'static str, bool, String) -> Result<(), ConfigurationError>,
    ) -> Result<(), ConfigurationError> {
        // A checkpoint's root refers to all blocks of the session table.
        let sessions = (1..=(self.block_size / 4)).contains(&self.sessions_max);
        check("sessions_max", sessions, "must be 1 to a quarter of the bytes of a block".into())?;
        let window = (1..=1 << 16).contains(&self.session_window);
        check("session_window", window, "must be 1 to 65536".into())?;
        let one = self.session_results_size_max >= SESSION_RESULTS_MIN;
        let text =
            format!("must be at least {SESSION_RESULTS_MIN}: the largest result that is kept");
        check("session_results_size_max", one, text)?;
        let most = 64 * u64::from(self.block_size);
        let all = (u64::from(self.session_results_size_max)..=most)
            .contains(&self.sessions_results_size_max);
        let text = format!("must hold one session's, and be at most {most}: 64 blocks");
        check("sessions_results_size_max", all, text)
    }

    fn validate_journal(
        &self,
        check: &impl Fn(&'static str, bool, String) -> Result<(), ConfigurationError>,
    ) -> Result<(), ConfigurationError> {
        let frame = frame_size(self.prepare_size_max as usize);
        let segment = self.journal_segment_size as usize;
        let count = self.journal_segment_count;
        check("journal_segment_count", (5..=4096).contains(&count), "must be 5 to 4096".into())?;
        let least = (2 * frame + 16 * SECTOR).max(frame * 3);
        let fits = segment.is_multiple_of(SECTOR) && segment >= least;
        let text =
            format!("must be at least {least}, in steps of {SECTOR}: three largest prepares");
        check("journal_segment_size", fits, text)?;
        let pipeline = frame as u64 * u64::from(self.pipeline_max);
        let budget = self.log_budget() >= 2 * pipeline;
        let text = "too small: the log budget must hold two pipelines of largest prepares";
        check("journal_segment_size", budget, text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_a_round_trip() {
        let dev = Configuration::default().with_journal_size(64 << 20);
        for configuration in [Configuration::default(), Configuration::test_min(), dev] {
            configuration.validate().unwrap();
            let again = Configuration::decode(&configuration.encode()).unwrap();
            assert_eq!(again, configuration);
            assert_eq!(again.fingerprint(), configuration.fingerprint());
            assert!(configuration.differences(&again).is_empty());
        }
    }

    #[test]
    fn each_word_decides_the_fingerprint_and_is_named_when_it_differs() {
        let one = Configuration::default();
        for (name, word) in Configuration::FIELDS {
            let mut record = one.encode();
            record[word * 8] ^= 1;
            let other = Configuration::decode(&record).unwrap();
            assert_ne!(one.fingerprint(), other.fingerprint());
            let differences = one.differences(&other);
            assert_eq!(differences.len(), 1);
            assert_eq!(differences[0].field, *name);
        }
    }

    #[test]
    fn records_from_the_future_are_refused() {
        let mut record = Configuration::default().encode();
        record[RECORD_SIZE - 1] = 1;
        assert_eq!(Configuration::decode(&record), None);
        let mut record = Configuration::default().encode();
        record[1] = 1;
        assert_eq!(Configuration::decode(&record), None, "256 replicas do not fit");
    }

    #[test]
    fn each_bad_value_is_refused_by_name() {
        let bad = |change: fn(&mut Configuration)| {
            let mut configuration = Configuration::default();
            change(&mut configuration);
            configuration.validate().unwrap_err().field
        };
        assert_eq!(bad(|c| c.replica_count = 2), "replica_count");
        assert_eq!(bad(|c| c.shard_count = 0), "shard_count");
        assert_eq!(bad(|c| c.shard_count = 129), "shard_count");
        assert_eq!(bad(|c| c.prepare_size_max = 5 << 20), "prepare_size_max");
        assert_eq!(bad(|c| c.value_size_max = 1 << 20), "value_size_max");
        assert_eq!(bad(|c| c.pipeline_max = 16), "pipeline_max");
        assert_eq!(bad(|c| c.journal_segment_size = 2 << 20), "journal_segment_size");
        assert_eq!(bad(|c| c.journal_segment_count = 4), "journal_segment_count");
        assert_eq!(bad(|c| c.block_size = 100_000), "block_size");
        assert_eq!(bad(|c| c.page_size = 128 << 10), "page_size");
        assert_eq!(bad(|c| c.sessions_max = 0), "sessions_max");
        assert_eq!(bad(|c| c.session_window = 0), "session_window");
        assert_eq!(bad(|c| c.session_results_size_max = 4096), "session_results_size_max");
        assert_eq!(bad(|c| c.sessions_results_size_max = 1 << 30), "sessions_results_size_max");
        assert_eq!(bad(|c| c.levels = 9), "levels");
        assert_eq!(bad(|c| c.growth_factor = 1), "growth_factor");
        assert_eq!(bad(|c| c.compression = [3; LEVELS_MAX]), "compression");
    }
}
