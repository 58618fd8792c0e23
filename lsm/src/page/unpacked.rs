//! A page taken apart: every entry at hand by its number, for walks that go backward.
//!
//! Keys are stored as differences from the key before, so a step backward would walk again from a
//! restart point. Taking the whole page apart costs one walk, and its memory is used again for the
//! next page.

use super::{Page, PageFault, Place};
use crate::entry::EntryRef;

/// The keys of a page one after the other, and where in it the rest of each entry stands.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    keys: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    key_start: u32,
    key_end: u32,
    place: Place,
}

impl Unpacked {
    /// Takes a page apart in place of the one before.
    pub(crate) fn load(&mut self, page: &Page<'_>) -> Result<(), PageFault> {
        self.keys.clear();
        self.items.clear();
        let (mut offset, mut start) = (page.restart(0), 0);
        while offset < page.entries.len() {
            let fields = page.entry_at(offset)?;
            if fields.shared > self.keys.len() - start {
                return Err(PageFault::Entry(offset));
            }
            let key_start = self.keys.len();
            self.keys.extend_from_within(start..start + fields.shared);
            self.keys.extend_from_slice(fields.suffix);
            let (key_end, place) = (self.keys.len() as u32, Place::of(&fields));
            self.items.push(Item { key_start: key_start as u32, key_end, place });
            (offset, start) = (fields.next, key_start);
        }
        Ok(())
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The key of an entry.
    #[inline]
    pub(crate) fn key(&self, number: usize) -> &[u8] {
        let item = &self.items[number];
        &self.keys[item.key_start as usize..item.key_end as usize]
    }

    /// The version of an entry.
    #[inline]
    pub(crate) fn version(&self, number: usize) -> u64 {
        self.items[number].place.version
    }

    /// An entry, of the page that was taken apart.
    #[inline]
    pub(crate) fn entry<'a>(&'a self, number: usize, page: &Page<'a>) -> EntryRef<'a> {
        self.items[number].place.entry(self.key(number), page)
    }

    /// The number of entries whose key is before this one.
    pub(crate) fn before(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.items.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
