//! What tools show of a directory's superblock and journal; nothing is locked, opened for writing
//! or changed, so it works on stopped and on damaged directories.

use std::io;
use std::path::Path;

use ioring::{Direct, File};

use super::JOURNAL;
use crate::journal::inspect::JournalReport;
use crate::journal::{self, layout};
use crate::superblock::{
    COPIES, COPY_SIZE, Decision, FORMAT, QuorumError, Readings, SHARDS_MAX, State,
    VIEW_HEADERS_MAX, ZONE_SIZE,
};

/// What the superblock zone and the journal hold.
pub struct DirectoryReport {
    /// Each superblock copy.
    pub readings: Readings,
    /// Which version a restart would open.
    pub decision: Result<Decision, QuorumError>,
    /// That version's state; if there is none, the newest good copy's, so that there is something
    /// to look at the journal with.
    pub state: Option<State>,
    /// The journal, when there is a state to read it with and it was asked for.
    pub journal: Option<JournalReport>,
    /// Bytes that the journal file has too few.
    pub missing: u64,
}

impl DirectoryReport {
    /// Whether anything that matters is damaged: a superblock copy, an op that was durable, the
    /// file's length.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let copies = self.decision.as_ref().map_or(COPIES, |decision| decision.damaged);
        let journal = self.journal.as_ref().is_some_and(JournalReport::is_damaged);
        copies > 0 || journal || self.missing > 0
    }
}

/// Reads the superblock, and with `journal` all of the journal.
///
/// # Errors
/// When there is no journal file or it cannot be opened.
pub async fn inspect(dir: &Path, journal: bool) -> io::Result<DirectoryReport> {
    let options =
        ioring::OpenOptions { read: true, direct: Direct::Preferred, ..Default::default() };
    let file = File::open(&dir.join(JOURNAL), &options).map_err(io::Error::from)?;
    let readings = Readings::read(&file).await;
    let decision = crate::superblock::quorum::decide(&readings.copies);
    let newest = (0..COPIES)
        .filter(|&slot| readings.copies[slot].is_ok())
        .max_by_key(|&slot| readings.copies[slot].as_ref().map_or(0, |copy| copy.sequence));
    let slot = decision.as_ref().ok().map(|decision| decision.slot).or(newest);
    let state = slot.and_then(|slot| readings.state(slot));
    let mut report = DirectoryReport { readings, decision, state, journal: None, missing: 0 };
    if let Some(state) =
        report.state.as_ref().filter(|state| state.configuration.validate().is_ok())
    {
        let expected = state.configuration.journal_file_size();
        report.missing = expected.saturating_sub(file.len()?);
        if journal {
            report.journal = Some(journal::inspect::inspect(&file, state).await);
        }
    }
    Ok(report)
}

/// What is fixed in this release, by name.
#[must_use]
pub fn constants() -> Vec<(&'static str, u64)> {
    vec![
        ("format", u64::from(FORMAT)),
        ("superblock_copies", COPIES as u64),
        ("superblock_copy_size", COPY_SIZE as u64),
        ("superblock_zone_size", ZONE_SIZE as u64),
        ("superblock_shards_max", SHARDS_MAX as u64),
        ("superblock_view_headers_max", VIEW_HEADERS_MAX as u64),
        ("journal_sector", layout::SECTOR as u64),
        ("journal_frame_header_size", layout::FRAME_HEADER_SIZE as u64),
        ("journal_index_entry_size", layout::INDEX_ENTRY_SIZE as u64),
        ("prepare_header_size", wire::HEADER_SIZE as u64),
        ("slots", u64::from(wire::SLOT_COUNT)),
        ("protocol", u64::from(wire::PROTOCOL)),
    ]
}
