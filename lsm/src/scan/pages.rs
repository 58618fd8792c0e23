//! The page of a sorted run that a scan stands in, and those read ahead.
//!
//! A scan comes to the pages of a run one after the other, in either direction. A page is taken
//! from the cache; from the stretch read last; from the one being read; or it is a [`Need`] that
//! the scan gives out. How many pages a need covers adapts:
//!
//! 1. The first time, as many as the step is likely to come to: the entries it may look at, shared
//!    out over the runs by their size. A short scan reads what it needs and no more, all runs at
//!    the same time.
//! 2. Then as many as were passed already, up to a stretch: the longer a scan has been going on,
//!    the longer it is likely to go on. What is read for nothing is at most about what was used.
//! 3. From [`AHEAD_MIN`] pages on the next stretch is asked for when half of this one is done, so
//!    that the device works while the scan does.
//!
//! Up to [`KEEP_MAX`] pages of a run go into the cache; a scan that goes on is passing through.

use std::ops::Range;
use std::rc::Rc;

use ioring::{Queue, Task, spawn};

use super::read::{Need, Part};
use super::{Direction, Look};
use crate::entry::Position;
use crate::grid::{IndexHandle, PageHandle, Stretch};
use crate::index::Index;
use crate::page::Page;
use crate::table::TableInfo;

/// Pages of a run that a scan leaves in the cache.
const KEEP_MAX: usize = 16;
/// Pages of a run that were passed before the next ones are asked for early.
const AHEAD_MIN: usize = 8;
/// Pages that are asked for at once, at most.
const WINDOW_MAX: usize = 32;

/// Where a scan stands in a run; see the module.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Number of the table in the run, and what of it is held.
    table: usize,
    index: Option<IndexHandle>,
    page: Option<(usize, PageHandle)>,
    stretch: Option<Stretch>,
    coming: Option<Coming>,
    /// Pages entered so far.
    passed: usize,
    /// Whether a page of the stretch did not verify: it is read by itself.
    alone: bool,
}

/// Pages that a task is reading.
pub(super) struct Coming {
    pages: Range<usize>,
    pub(super) task: Task<Option<Stretch>>,
}

impl std::fmt::Debug for Coming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coming({:?})", self.pages)
    }
}

impl Pages {
    /// Number of the table.
    pub(super) fn table(&self) -> usize {
        self.table
    }

    /// Goes to another table of the run.
    pub(super) fn go_to(&mut self, table: usize) {
        if table != self.table {
            *self = Pages { table, passed: self.passed, ..Pages::default() };
        }
    }

    /// The index of the table, or the need for it and for the page that `next` leads to.
    pub(super) fn index(
        &mut self,
        look: &Look<'_>,
        tables: &[Rc<TableInfo>],
    ) -> Result<&IndexHandle, Need> {
        if self.index.is_none() {
            let table = &tables[self.table];
            let Some(index) = look.grid.try_index(table) else {
                return Err(self.need(look, Rc::clone(table), None));
            };
            self.index = Some(index);
        }
        Ok(self.index.as_ref().expect("just found"))
    }

    /// The page that is held.
    #[inline]
    pub(super) fn page(&self) -> Page<'_> {
        let (_, page) = self.page.as_ref().expect("a placed source stands in a page");
        page.page()
    }

    /// Number of that page.
    pub(super) fn number(&self) -> usize {
        self.page.as_ref().expect("a placed source stands in a page").0
    }

    /// Whether versions of a key go on from the page in front of this one.
    pub(super) fn separator_has_version(&self, number: usize) -> bool {
        let index = self.index.as_ref().expect("an index comes before its pages");
        index.index().page_separator(number).version != u64::MAX
    }

    /// Whether a page is behind the far end of the scan's range.
    pub(super) fn is_beyond(&self, look: &Look<'_>, number: usize) -> bool {
        let Some((bound, index)) = look.bound.zip(self.index.as_ref()) else { return false };
        let far = first_page(&index.index(), Some(bound));
        match look.direction {
            Direction::Ascending => number > far,
            Direction::Descending => number < far,
        }
    }

    /// Goes to a page of the table, whose index is held.
    pub(super) fn enter(
        &mut self,
        look: &Look<'_>,
        tables: &[Rc<TableInfo>],
        number: usize,
    ) -> Result<(), Need> {
        if self.page.as_ref().is_some_and(|(held, _)| *held == number) {
            return Ok(());
        }
        let handle = self.index.clone().expect("an index comes before its pages");
        let index = handle.index();
        self.receive(number);
        let reference = index.page(number);
        let stretch = self.stretch.as_ref().filter(|stretch| stretch.pages.contains(&number));
        let page = look.grid.try_page(&reference).or_else(|| {
            let stretch = stretch?;
            let page = look.grid.page_of(stretch, &reference, self.passed < KEEP_MAX);
            self.alone = page.is_none();
            page
        });
        let Some(page) = page else {
            return Err(self.need(look, Rc::clone(&tables[self.table]), Some(number)));
        };
        self.page = Some((number, page));
        self.passed += 1;
        self.alone = false;
        self.ask_early(look, &index, number);
        Ok(())
    }

    /// Takes what was being read, if it has come and this page is in it.
    fn receive(&mut self, number: usize) {
        let wanted = self.coming.as_ref().filter(|coming| coming.pages.contains(&number));
        if let Some(stretch) = wanted.and_then(|coming| coming.task.try_take()) {
            self.coming = None;
            self.stretch = stretch;
        }
    }

    fn need(&mut self, look: &Look<'_>, table: Rc<TableInfo>, page: Option<usize>) -> Need {
        let coming = self.coming.take().filter(|coming| {
            page.is_some_and(|number| coming.pages.contains(&number)) && !self.alone
        });
        let window = if self.alone { Window::ALONE } else { self.window(look) };
        Need { table, index: self.index.clone(), page, window, coming }
    }

    fn window(&self, look: &Look<'_>) -> Window {
        Window { direction: look.direction, passed: self.passed, entries: look.entries() }
    }

    /// When half of the stretch is done, asks for the next one.
    fn ask_early(&mut self, look: &Look<'_>, index: &Index<'_>, number: usize) {
        let Some(stretch) = &self.stretch else { return };
        let far = match look.direction {
            Direction::Ascending => stretch.pages.end,
            Direction::Descending => stretch.pages.start.wrapping_sub(1),
        };
        let half = stretch.pages.len() / 2;
        let is_near = number.abs_diff(far) <= half + 1;
        if self.passed < AHEAD_MIN || self.coming.is_some() || !is_near {
            return;
        }
        if far >= index.page_count() {
            return;
        }
        let pages = self.window(look).pages(look.grid, index, far, look.bound);
        if pages.len() < 2 {
            return;
        }
        let (place, grid) = (place_of(index, &pages), look.reader().grid);
        let numbers = pages.clone();
        let read = async move { grid.read_stretch(place, numbers).await };
        let task = spawn(Queue::Foreground, "read-ahead", read);
        self.coming = Some(Coming { pages, task });
    }

    /// Takes what was read for a need.
    pub(super) fn supply(&mut self, part: Part) {
        self.index = Some(part.index);
        if part.page.is_some() {
            self.page = part.page;
            self.passed += 1;
            self.alone = false;
        }
        if part.stretch.is_some() {
            self.stretch = part.stretch;
        }
    }
}

/// How many pages to read at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    direction: Direction,
    passed: usize,
    /// Entries of the run that the step is likely to come to.
    entries: usize,
}

impl Window {
    const ALONE: Window = Window { direction: Direction::Ascending, passed: 0, entries: 0 };

    /// The pages to read where this one is wanted.
    pub(super) fn pages(
        &self,
        grid: &crate::grid::Grid,
        index: &Index<'_>,
        number: usize,
        bound: Option<&[u8]>,
    ) -> Range<usize> {
        // The walk begins in the middle of a page, so half a page more.
        let per_page = (index.entries() as usize / index.page_count()).max(1);
        let likely = (2 * self.entries + per_page).div_ceil(2 * per_page);
        let count = likely.max(self.passed).min(WINDOW_MAX);
        let block = index.block(index.block_of_page(number)).pages;
        let far = bound.map(|bound| first_page(index, Some(bound)));
        let range = match self.direction {
            Direction::Ascending => {
                let end = far.map_or(block.end, |far| block.end.min(far + 1));
                number..(number + count).min(end).max(number + 1)
            }
            Direction::Descending => {
                let start = far.map_or(block.start, |far| block.start.max(far));
                (number + 1).saturating_sub(count).max(start).min(number)..number + 1
            }
        };
        grid.stretch_of(index, range, number)
    }
}

/// Where pages of one value block stand.
pub(super) fn place_of(
    index: &Index<'_>,
    pages: &Range<usize>,
) -> (crate::block::BlockAddress, Range<usize>) {
    let (first, last) = (index.page(pages.start), index.page(pages.end - 1));
    (first.block.address, first.offset as usize..last.offset as usize + last.stored_len as usize)
}

/// The page from which a walk goes on, in either direction, that has dealt with everything on one
/// side of `next`; none: from the end.
pub(super) fn first_page(index: &Index<'_>, next: Option<&[u8]>) -> usize {
    let position = next.map(|key| Position { key, version: u64::MAX });
    position.map_or(index.page_count() - 1, |position| index.page_of(&position))
}
