//! Range reads: the live entries of a key range at a snapshot, in key order, step by step.
//!
//! A scan merges the two memtables and one table of every sorted run. It goes in bounded steps
//! ([`crate::forest::Forest::scan_step`]): a step borrows the forest, walks what is in memory, and
//! ends when it has looked at enough entries, when the range is done, or when a run's next page is
//! not in memory. Then it gives out a [`ScanRead`] to await, and is given back what that read.
//!
//! Between steps a scan owns its place: the key it goes on from, and for every run the index and
//! page it stands in. When bars have ended meanwhile, the runs are others; it finds its place in
//! them again by key. Memtables are sought anew in every step. So a step sees writes made since the
//! one before, but none of them is at or below the snapshot: the scan as a whole is one snapshot,
//! as long as that is not below [`crate::forest::Forest::snapshot_min`].
//!
//! The page a step waits for is held by the scan itself, so a small cache cannot starve it.

use std::ops::ControlFlow;
use std::rc::Rc;

use crate::entry::{EntryRef, Level as LevelNumber, Position};
use crate::grid::{Class, Grid, IndexHandle, PageHandle};
use crate::index::PageReference;
use crate::key;
use crate::lookup::{self, LookupError, Reader};
use crate::manifest::Manifest;
use crate::page::Cursor;
use crate::table::TableInfo;
use crate::tree::{Memtables, Tree};

/// Why a step ended.
#[derive(Debug)]
pub enum ScanStep {
    /// The range is done.
    Done,
    /// The limit was reached, or the caller asked to stop; there may be more.
    More,
    /// Await this, give the result to [`Scan::supply`], and step again.
    NeedsRead(ScanRead),
}

/// A range read under way; see the module.
#[derive(Debug)]
pub struct Scan {
    pub(crate) tree: Tree,
    range: key::Range,
    version_max: u64,
    /// Every key before this one is dealt with.
    next: Vec<u8>,
    /// The bar in which `sources` were set up.
    epoch: Option<u64>,
    sources: Vec<Source>,
    key: Vec<u8>,
}

/// A scan's place in one sorted run.
#[derive(Debug, Default)]
struct Source {
    /// Number of the table in the run, and what of it is held.
    table: usize,
    index: Option<IndexHandle>,
    page: Option<(usize, PageHandle)>,
    cursor: Cursor,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The place has to be found by key.
    #[default]
    Unplaced,
    /// The cursor belongs at the first entry of this page of the table.
    Before(usize),
    /// The cursor stands at an entry.
    At,
    /// The run has no more keys.
    End,
}

/// The block or page that a source lacks.
type Missing = (usize, Option<(usize, PageReference)>);

impl Source {
    fn is_placed(&self, next: &[u8]) -> bool {
        match self.state {
            State::At => self.cursor.position().key >= next,
            State::End => true,
            State::Unplaced | State::Before(_) => false,
        }
    }

    /// Takes one step towards the first entry at or behind `next`; says what is missing for it.
    fn settle(&mut self, grid: &Grid, tables: &[Rc<TableInfo>], next: &[u8]) -> Option<Missing> {
        match self.state {
            State::End => return None,
            State::At => {
                self.advance();
                return None;
            }
            State::Unplaced if self.index.is_none() => {
                self.table = tables.partition_point(|table| &table.key_max[..] < next);
            }
            State::Unplaced | State::Before(_) => {}
        }
        let Some(table) = tables.get(self.table) else {
            self.state = State::End;
            return None;
        };
        if self.index.is_none() {
            self.index = grid.try_index(table);
        }
        let Some(handle) = &self.index else { return Some((self.table, None)) };
        let index = handle.index();
        let target = Position { key: next, version: u64::MAX };
        let number = match self.state {
            State::Before(number) => number,
            _ => index.page_of(&target),
        };
        if number == index.page_count() {
            *self = Source { table: self.table + 1, state: State::Before(0), ..Source::default() };
            return None;
        }
        if self.page.as_ref().is_none_or(|(held, _)| *held != number) {
            let reference = index.page(number);
            match grid.try_page(&reference) {
                Some(handle) => self.page = Some((number, handle)),
                None => return Some((self.table, Some((number, reference)))),
            }
        }
        let (_, page) = self.page.as_ref().expect("just placed");
        let found = match self.state {
            State::Before(_) => self.cursor.first(&page.page()),
            _ => self.cursor.seek(&page.page(), &target),
        };
        let found = found.expect("a page that passed its checksum can be walked");
        self.state = if found { State::At } else { State::Before(number + 1) };
        None
    }

    /// Goes to the next entry of the page, or asks for the next page.
    fn advance(&mut self) {
        let (number, page) = self.page.as_ref().expect("a placed source stands in a page");
        let found = self.cursor.next(&page.page());
        if !found.expect("a page that passed its checksum can be walked") {
            self.state = State::Before(number + 1);
        }
    }
}

/// What a step has to wait for.
#[derive(Debug)]
pub struct ScanRead {
    reader: Reader,
    source: usize,
    level: LevelNumber,
    table: Rc<TableInfo>,
    page: Option<(usize, PageReference)>,
}

/// What a [`ScanRead`] has read.
#[derive(Debug)]
pub struct Loaded {
    source: usize,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Index(IndexHandle),
    Page(usize, PageHandle),
}

impl ScanRead {
    /// Reads the index block or page.
    pub async fn run(self) -> Result<Loaded, LookupError> {
        let grid = &self.reader.grid;
        let part = match self.page {
            None => grid.read_index(&self.table, Class::Foreground).await.map(Part::Index),
            Some((number, reference)) => {
                let read = grid.read_page(&reference, Class::Foreground).await;
                read.map(|handle| Part::Page(number, handle))
            }
        };
        match part {
            Ok(part) => Ok(Loaded { source: self.source, part }),
            Err(error) => Err(self.reader.error(self.level, &self.table, lookup::failed(error))),
        }
    }
}

impl Scan {
    /// A scan of `range` as of `version_max`.
    #[must_use]
    pub fn new(tree: Tree, range: key::Range, version_max: u64) -> Scan {
        let next = range.lower.clone();
        let (epoch, sources, key) = (None, Vec::new(), Vec::new());
        Scan { tree, range, version_max, next, epoch, sources, key }
    }

    /// The key from which a new scan would go on where this one stands.
    #[must_use]
    pub fn next_key(&self) -> &[u8] {
        &self.next
    }

    /// Takes what a read that this scan asked for has brought.
    pub fn supply(&mut self, loaded: Loaded) {
        // If bars ended meanwhile, the next step sets the sources up anew.
        let Some(source) = self.sources.get_mut(loaded.source) else { return };
        match loaded.part {
            Part::Index(handle) => source.index = Some(handle),
            Part::Page(number, handle) => source.page = Some((number, handle)),
        }
    }

    fn in_range(&self, key: &[u8]) -> bool {
        self.range.upper.as_ref().is_none_or(|upper| key < &upper[..])
    }
}

/// What a step borrows of the forest.
pub(crate) struct View<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) memtables: &'a Memtables,
    pub(crate) manifest: &'a Manifest,
    pub(crate) epoch: u64,
}

/// Does one step; see the module.
pub(crate) fn step(
    scan: &mut Scan,
    view: &View<'_>,
    reader: &dyn Fn() -> Reader,
    limit: usize,
    mut emit: impl FnMut(&EntryRef<'_>) -> ControlFlow<()>,
) -> ScanStep {
    if scan.epoch != Some(view.epoch) {
        scan.epoch = Some(view.epoch);
        let runs = view.manifest.sorted_runs().count();
        scan.sources = (0..runs).map(|_| Source::default()).collect();
    }
    let memtables = [view.memtables.mutable(), view.memtables.immutable()];
    let mut cursors = memtables.map(|memtable| memtable.range_from(&scan.next));
    let mut sources = std::mem::take(&mut scan.sources);
    let mut key = std::mem::take(&mut scan.key);
    key.clear();
    // Whether `key` is a key at all, and whether its version at the snapshot was met.
    let (mut started, mut resolved) = (false, false);
    let mut looked_at = 0;
    let outcome = loop {
        if let Some(read) = place(&mut sources, view, scan, reader) {
            break ScanStep::NeedsRead(read);
        }
        let Some((place, entry)) = first(&memtables, &cursors, &sources) else {
            break ScanStep::Done;
        };
        if !scan.in_range(entry.key) {
            break ScanStep::Done;
        }
        if !started || key != entry.key {
            (started, resolved) = (true, false);
            key.clear();
            key.extend_from_slice(entry.key);
            scan.next.clear();
            scan.next.extend_from_slice(entry.key);
            if looked_at >= limit {
                break ScanStep::More;
            }
        }
        looked_at += 1;
        let mut flow = ControlFlow::Continue(());
        if !resolved && entry.version <= scan.version_max {
            resolved = true;
            if !entry.payload.is_tombstone() {
                flow = emit(&entry);
            }
            scan.next.push(0);
        }
        match place {
            Place::Memtable(number) => cursors[number] = memtables[number].next(cursors[number]),
            Place::Run(number) => sources[number].advance(),
        }
        if flow.is_break() {
            break ScanStep::More;
        }
    };
    scan.sources = sources;
    scan.key = key;
    outcome
}

enum Place {
    Memtable(usize),
    Run(usize),
}

/// Where the first entry in order stands.
fn first<'a>(
    memtables: &[&'a crate::memtable::Memtable; 2],
    cursors: &[crate::memtable::Cursor; 2],
    sources: &'a [Source],
) -> Option<(Place, EntryRef<'a>)> {
    let mut first: Option<(Place, EntryRef<'a>)> = None;
    let mut offer = |place: Place, entry: EntryRef<'a>| {
        if first.as_ref().is_none_or(|(_, best)| entry.position() < best.position()) {
            first = Some((place, entry));
        }
    };
    for (number, (memtable, cursor)) in memtables.iter().zip(cursors).enumerate() {
        if let Some(entry) = memtable.entry(*cursor) {
            offer(Place::Memtable(number), entry);
        }
    }
    for (number, source) in sources.iter().enumerate() {
        if source.state == State::At {
            let (_, page) = source.page.as_ref().expect("a placed source stands in a page");
            offer(Place::Run(number), source.cursor.entry(&page.page()));
        }
    }
    first
}

/// Places every source at its first entry at or behind the scan's next key; gives the read that is
/// missing, if one is.
fn place(
    sources: &mut [Source],
    view: &View<'_>,
    scan: &Scan,
    reader: &dyn Fn() -> Reader,
) -> Option<ScanRead> {
    // Nearly every call finds all sources placed.
    if sources.iter().all(|source| source.is_placed(&scan.next)) {
        return None;
    }
    let runs = view.manifest.sorted_runs();
    for (number, (source, (level, run))) in sources.iter_mut().zip(runs).enumerate() {
        while !source.is_placed(&scan.next) {
            if let Some((table, page)) = source.settle(view.grid, run.tables(), &scan.next) {
                let table = Rc::clone(&run.tables()[table]);
                return Some(ScanRead { reader: reader(), source: number, level, table, page });
            }
        }
    }
    None
}
