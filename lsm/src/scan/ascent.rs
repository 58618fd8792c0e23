//! A scan's place in one sorted run, in ascending order.
//!
//! It stands at the newest version of a key that the snapshot sees, or is on the way there. Steps
//! within a page rebuild each key from the one before, in place.

use std::rc::Rc;

use super::pages::Pages;
use super::read::Part;
use super::{Look, Settled};
use crate::entry::{EntryRef, Position};
use crate::page::Cursor;
use crate::table::TableInfo;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ascent {
    pages: Pages,
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

impl Ascent {
    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        self.cursor.key()
    }

    #[inline]
    pub(super) fn entry(&self) -> EntryRef<'_> {
        self.cursor.entry(&self.pages.page())
    }

    /// Leaves the key it stands at.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.step();
        while self.state == State::At && self.cursor.repeats() {
            self.step();
        }
    }

    fn step(&mut self) {
        let found = self.cursor.next(&self.pages.page());
        if !found.expect("a page that passed its checksum can be walked") {
            self.state = State::Before(self.pages.number() + 1);
        }
    }

    /// Goes on to the first entry from `next` on that the snapshot sees.
    #[inline]
    pub(super) fn settle(
        &mut self,
        look: &Look<'_>,
        tables: &[Rc<TableInfo>],
        next: &[u8],
        budget: &mut usize,
    ) -> Settled {
        loop {
            match self.state {
                State::At if self.cursor.version() <= look.version_max => return Settled::Placed,
                State::At if *budget == 0 => return Settled::Later,
                State::At => {
                    *budget -= 1;
                    self.step();
                }
                State::End => return Settled::End,
                State::Unplaced | State::Before(_) => {
                    if let Some(settled) = self.turn(look, tables, next) {
                        return settled;
                    }
                }
            }
        }
    }

    /// Goes into the page that the state names.
    fn turn(&mut self, look: &Look<'_>, tables: &[Rc<TableInfo>], next: &[u8]) -> Option<Settled> {
        if self.state == State::Unplaced {
            self.pages.go_to(tables.partition_point(|table| &table.key_max[..] < next));
        }
        let table = tables.get(self.pages.table());
        let is_beyond =
            |table: &Rc<TableInfo>| look.bound.is_some_and(|bound| &table.key_min[..] >= bound);
        if table.is_none_or(is_beyond) {
            self.state = State::End;
            return None;
        }
        let index = match self.pages.index(look, tables) {
            Ok(index) => index.index(),
            Err(need) => return Some(Settled::Missing(need)),
        };
        let target = Position { key: next, version: u64::MAX };
        let number = match self.state {
            State::Before(number) => number,
            _ => index.page_of(&target),
        };
        if number == index.page_count() {
            self.pages.go_to(self.pages.table() + 1);
            self.state = State::Before(0);
            return None;
        }
        if self.pages.is_beyond(look, number) {
            self.state = State::End;
            return None;
        }
        if let Err(need) = self.pages.enter(look, tables, number) {
            return Some(Settled::Missing(need));
        }
        let page = self.pages.page();
        let found = match self.state {
            State::Before(_) => self.cursor.first(&page),
            _ => self.cursor.seek(&page, &target),
        };
        let mut found = found.expect("a page that passed its checksum can be walked");
        if found && self.cursor.key() < next {
            // Versions of a key that is dealt with go on in this page.
            found = self.cursor.seek(&page, &target).expect("it was walked before");
        }
        self.state = if found { State::At } else { State::Before(number + 1) };
        None
    }

    pub(super) fn supply(&mut self, part: Part) {
        self.pages.supply(part);
    }
}
