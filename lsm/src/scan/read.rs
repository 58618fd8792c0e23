//! What a step of a scan waits for: the missing pages of all its runs, read side by side.

use std::cell::RefCell;
use std::rc::Rc;

use super::pages::{Coming, Window, first_page, place_of};
use crate::entry::Level;
use crate::grid::{Class, Grid, IndexHandle, PageHandle, ReadError, Stretch};
use crate::lookup::{self, LookupError, Reader};
use crate::table::TableInfo;

/// What one run of a scan lacks.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) table: Rc<TableInfo>,
    pub(super) index: Option<IndexHandle>,
    /// Number of the page; where the index is missing it is found by key.
    pub(super) page: Option<usize>,
    pub(super) window: Window,
    /// The task that reads it already.
    pub(super) coming: Option<Coming>,
}

/// What a [`ScanRead`] has read for one run.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) index: IndexHandle,
    pub(super) page: Option<(usize, PageHandle)>,
    pub(super) stretch: Option<Stretch>,
}

/// What a step has to wait for.
#[derive(Debug)]
pub struct ScanRead {
    pub(super) reader: Reader,
    /// The place of the scan.
    pub(super) next: Option<Box<[u8]>>,
    /// The far end of its range.
    pub(super) bound: Option<Box<[u8]>>,
    /// Numbers of sources, the level of each, and what it lacks.
    pub(super) needs: Vec<(usize, Level, Need)>,
}

/// What a [`ScanRead`] has read.
#[derive(Debug)]
pub struct Loaded {
    pub(super) parts: Vec<(usize, Part)>,
}

impl ScanRead {
    /// Reads all that is missing.
    ///
    /// # Errors
    /// [`LookupError::Moved`] if bars ended meanwhile: step again without it.
    pub async fn run(self) -> Result<Loaded, LookupError> {
        let ScanRead { reader, next, bound, needs } = self;
        let (reader, next, bound) = (&reader, next.as_deref(), bound.as_deref());
        let reads = needs.into_iter().map(async |(source, level, need)| {
            let table = Rc::clone(&need.table);
            // What is being read by a task of its own is taken in the first attempt only.
            let need = RefCell::new(need);
            let read = async || {
                let need = need.borrow_mut().take();
                need.read(&reader.grid, next, bound).await.map_err(lookup::failed)
            };
            match reader.read(read).await {
                Ok(part) => Ok((source, part)),
                Err(failed) => Err(reader.error(level, &table, failed)),
            }
        });
        let parts = ioring::join_all(reads).await.into_iter().collect::<Result<_, _>>()?;
        Ok(Loaded { parts })
    }
}

impl Need {
    /// This need; the next one taken has nobody who reads it already.
    fn take(&mut self) -> Need {
        let (table, index, window) = (Rc::clone(&self.table), self.index.clone(), self.window);
        Need { table, index, page: self.page, window, coming: self.coming.take() }
    }

    async fn read(
        self,
        grid: &Grid,
        next: Option<&[u8]>,
        bound: Option<&[u8]>,
    ) -> Result<Part, ReadError> {
        let index = match self.index {
            Some(index) => index,
            None => grid.read_index(&self.table, Class::Foreground).await?,
        };
        if let Some(coming) = self.coming
            && let Some(stretch) = coming.task.await
        {
            return Ok(Part { index, page: None, stretch: Some(stretch) });
        }
        let number = self.page.unwrap_or_else(|| first_page(&index.index(), next));
        let pages = self.window.pages(grid, &index.index(), number, bound);
        if pages.len() > 1 {
            let place = place_of(&index.index(), &pages);
            if let Some(stretch) = grid.read_stretch(place, pages).await {
                return Ok(Part { index, page: None, stretch: Some(stretch) });
            }
        }
        let reference = index.index().page(number);
        let page = grid.read_page(&reference, Class::Foreground).await?;
        Ok(Part { index, page: Some((number, page)), stretch: None })
    }
}
