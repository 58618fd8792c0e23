//! A scan's place in one sorted run, in descending order.
//!
//! Going backward, the versions of a key are met from the oldest to the newest; the one wanted is
//! the last that the snapshot sees. Within a page, taken apart, that is a matter of numbers. Where
//! a key's versions go on in the page before, which is rare, the one found so far is carried there
//! as a copy, because only one page is held.

use std::rc::Rc;

use super::pages::{Pages, first_page};
use super::read::{Need, Part};
use super::{Look, Settled};
use crate::entry::{EntryRef, Payload};
use crate::overflow::OverflowReference;
use crate::page::Unpacked;
use crate::table::TableInfo;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Descent {
    pages: Pages,
    items: Unpacked,
    state: State,
    /// The entries of the page in front of this number are still to come.
    rest: usize,
    carried: Carried,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The place has to be found by key.
    #[default]
    Unplaced,
    /// On the way into this page of the table; none: into the one where the scan's place is.
    Enter(Option<usize>),
    /// Among the rest of the page.
    Within,
    /// At the entry of this number.
    At(usize),
    /// At the entry carried.
    AtCarried,
    /// The run has no more keys.
    End,
}

/// The copy of an entry.
#[derive(Debug, Default)]
struct Carried {
    is_some: bool,
    key: Vec<u8>,
    version: u64,
    deadline: u64,
    kind: Kind,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    #[default]
    Tombstone,
    Inline,
    Overflow,
}

impl Carried {
    fn set(&mut self, entry: &EntryRef<'_>) {
        let (kind, payload): (_, &[u8]) = match &entry.payload {
            Payload::Tombstone => (Kind::Tombstone, &[]),
            Payload::Inline(value) => (Kind::Inline, value),
            Payload::Overflow(reference) => (Kind::Overflow, reference.as_bytes()),
        };
        self.key.clear();
        self.key.extend_from_slice(entry.key);
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        (self.is_some, self.kind) = (true, kind);
        (self.version, self.deadline) = (entry.version, entry.deadline);
    }

    fn entry(&self) -> EntryRef<'_> {
        let payload = match self.kind {
            Kind::Tombstone => Payload::Tombstone,
            Kind::Inline => Payload::Inline(&self.payload),
            Kind::Overflow => {
                let reference = OverflowReference::parse(&self.payload);
                Payload::Overflow(reference.expect("copied from a reference that was parsed"))
            }
        };
        let Carried { version, deadline, .. } = *self;
        EntryRef { key: &self.key, version, deadline, payload }
    }
}

impl Descent {
    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        match self.state {
            State::At(number) => self.items.key(number),
            _ => &self.carried.key,
        }
    }

    #[inline]
    pub(super) fn entry(&self) -> EntryRef<'_> {
        match self.state {
            State::At(number) => self.items.entry(number, &self.pages.page()),
            _ => self.carried.entry(),
        }
    }

    /// Leaves the key it stands at. What is left of it is too new for the snapshot.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.carried.is_some = false;
        self.state = State::Within;
    }

    /// Goes back to the last key in front of `next` (none: the end) that the snapshot sees.
    pub(super) fn settle(
        &mut self,
        look: &Look<'_>,
        tables: &[Rc<TableInfo>],
        next: Option<&[u8]>,
        budget: &mut usize,
    ) -> Settled {
        loop {
            match self.state {
                State::At(_) | State::AtCarried => return Settled::Placed,
                State::End => return Settled::End,
                State::Within if *budget == 0 => return Settled::Later,
                State::Within => self.within(look, tables, budget),
                State::Unplaced => {
                    let behind = next.map_or(tables.len(), |next| {
                        tables.partition_point(|table| &table.key_min[..] < next)
                    });
                    self.go_in_front_of(behind);
                }
                State::Enter(number) => {
                    if let Err(need) = self.enter(look, tables, number, next) {
                        return Settled::Missing(need);
                    }
                }
            }
        }
    }

    /// Finds the entry to stand at among the rest of the page.
    fn within(&mut self, look: &Look<'_>, tables: &[Rc<TableInfo>], budget: &mut usize) {
        let mut found: Option<usize> = None;
        while let Some(number) = self.rest.checked_sub(1) {
            let sees = self.items.version(number) <= look.version_max;
            let standing = match found {
                Some(found) => Some(self.items.key(found)),
                None => self.carried.is_some.then_some(&self.carried.key[..]),
            };
            match standing {
                Some(key) if !sees || key != self.items.key(number) => {
                    return self.stand(found);
                }
                None if !sees && *budget == 0 => return,
                None if !sees => *budget -= 1,
                _ => (found, self.carried.is_some) = (Some(number), false),
            }
            self.rest = number;
        }
        let number = self.pages.number();
        let key = match found {
            Some(found) => Some(self.items.key(found)),
            None => self.carried.is_some.then_some(&self.carried.key[..]),
        };
        if key.is_some_and(|key| !self.goes_on_in_front(tables, key)) {
            return self.stand(found);
        }
        if let Some(found) = found {
            self.carried.set(&self.items.entry(found, &self.pages.page()));
        }
        match number {
            0 => self.go_in_front_of(self.pages.table()),
            number => self.state = State::Enter(Some(number - 1)),
        }
    }

    fn stand(&mut self, found: Option<usize>) {
        self.state = found.map_or(State::AtCarried, State::At);
    }

    /// Whether newer versions of the key with which the page begins may be in front of it.
    fn goes_on_in_front(&self, tables: &[Rc<TableInfo>], key: &[u8]) -> bool {
        match self.pages.number() {
            0 => {
                let table = self.pages.table();
                table > 0 && tables[table - 1].key_max[..] == *key
            }
            number => self.pages.separator_has_version(number),
        }
    }

    fn go_in_front_of(&mut self, table: usize) {
        self.state = match table.checked_sub(1) {
            None => State::End,
            Some(table) => {
                self.pages.go_to(table);
                State::Enter(None)
            }
        };
    }

    fn enter(
        &mut self,
        look: &Look<'_>,
        tables: &[Rc<TableInfo>],
        mut number: Option<usize>,
        next: Option<&[u8]>,
    ) -> Result<(), Need> {
        let bound = look.bound.expect("a range has a lower end");
        let mut is_beyond = tables[self.pages.table()].key_max[..] < *bound;
        if !is_beyond {
            let handle = self.pages.index(look, tables)?;
            number = number.or_else(|| Some(first_page(&handle.index(), next)));
            is_beyond = number.is_some_and(|number| self.pages.is_beyond(look, number));
        }
        let Some(number) = number.filter(|_| !is_beyond) else {
            self.state = if self.carried.is_some { State::AtCarried } else { State::End };
            return Ok(());
        };
        self.pages.enter(look, tables, number)?;
        let loaded = self.items.load(&self.pages.page());
        loaded.expect("a page that passed its checksum can be walked");
        self.rest = next.map_or(self.items.len(), |next| self.items.before(next));
        self.state = State::Within;
        Ok(())
    }

    pub(super) fn supply(&mut self, part: Part) {
        self.pages.supply(part);
    }
}
