//! Walking a page in either direction.
//!
//! A cursor owns its place and the key it stands on, not the page: it is given the page each time,
//! so it can live in a structure that holds the page's memory. Forward steps rebuild the key from
//! the one before; a backward step walks again from the restart point before. Who goes backward far
//! takes the page apart first: [`super::Unpacked`].

use super::{Page, PageFault, Place};
use crate::entry::{EntryRef, Position};

/// A place in a page. Using it with another page than the one it was placed in gives wrong
/// entries or faults, never a panic.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    key: Vec<u8>,
    place: Place,
    offset: usize,
    next: usize,
    repeats: bool,
}

impl Cursor {
    /// A cursor that stands nowhere yet.
    #[must_use]
    pub fn new() -> Cursor {
        Cursor::default()
    }

    /// Goes to the first entry. A page has at least one.
    pub fn first(&mut self, page: &Page<'_>) -> Result<bool, PageFault> {
        self.jump(page, page.restart(0))
    }

    /// Goes to the last entry.
    pub fn last(&mut self, page: &Page<'_>) -> Result<bool, PageFault> {
        self.jump(page, page.restart(page.restarts.len() - 1))?;
        while self.next < page.entries.len() {
            self.step(page)?;
        }
        Ok(true)
    }

    /// Goes to the first entry at or behind a position; false if all entries come before it.
    pub fn seek(&mut self, page: &Page<'_>, target: &Position<'_>) -> Result<bool, PageFault> {
        let mut present = self.jump(page, page.restart_before(target)?)?;
        while present && self.position() < *target {
            present = self.next(page)?;
        }
        Ok(present)
    }

    /// Goes to the last entry before a position; false if there is none.
    pub fn seek_before(
        &mut self,
        page: &Page<'_>,
        target: &Position<'_>,
    ) -> Result<bool, PageFault> {
        if self.seek(page, target)? { self.previous(page) } else { self.last(page) }
    }

    /// Goes one entry forward; false at the end, and the cursor stays.
    pub fn next(&mut self, page: &Page<'_>) -> Result<bool, PageFault> {
        if self.next >= page.entries.len() {
            return Ok(false);
        }
        self.step(page)?;
        Ok(true)
    }

    /// Goes one entry back; false at the beginning, and the cursor stays.
    pub fn previous(&mut self, page: &Page<'_>) -> Result<bool, PageFault> {
        let here = self.offset;
        let before =
            page.restarts.partition_point(|restart| (u32::from_le_bytes(*restart) as usize) < here);
        if before == 0 {
            return Ok(false);
        }
        self.jump(page, page.restart(before - 1))?;
        while self.next < here {
            self.step(page)?;
        }
        Ok(true)
    }

    /// The entry the cursor stands on.
    #[inline]
    #[must_use]
    pub fn entry<'a>(&'a self, page: &Page<'a>) -> EntryRef<'a> {
        self.place.entry(&self.key, page)
    }

    /// The key of that entry.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its version.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.place.version
    }

    /// Whether the last step forward led to another version of the same key.
    #[inline]
    pub(crate) fn repeats(&self) -> bool {
        self.repeats
    }

    /// The position the cursor stands on.
    #[must_use]
    pub fn position(&self) -> Position<'_> {
        Position { key: &self.key, version: self.place.version }
    }

    /// Offset of the entry behind the page's header: for messages.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn jump(&mut self, page: &Page<'_>, restart: usize) -> Result<bool, PageFault> {
        self.key.clear();
        self.next = restart;
        self.step(page)?;
        self.repeats = false;
        Ok(true)
    }

    #[inline]
    fn step(&mut self, page: &Page<'_>) -> Result<(), PageFault> {
        let raw = page.entry_at(self.next)?;
        if raw.shared > self.key.len() {
            return Err(PageFault::Entry(self.next));
        }
        let same_len = raw.shared + raw.suffix.len() == self.key.len();
        self.repeats = same_len && self.key[raw.shared..] == *raw.suffix;
        if !self.repeats {
            self.key.truncate(raw.shared);
            self.key.extend_from_slice(raw.suffix);
        }
        self.place = Place::of(&raw);
        self.offset = self.next;
        self.next = raw.next;
        Ok(())
    }
}
