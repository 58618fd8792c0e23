//! Tasks in line.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Waiting tasks in order of arrival.
#[derive(Default)]
pub(super) struct Waiters {
    next: u64,
    line: VecDeque<(Ticket, Waker)>,
}

impl Waiters {
    /// Joins the line, or keeps the place in it with a new waker.
    pub(super) fn join(&mut self, ticket: Option<Ticket>, waker: &Waker) -> Ticket {
        if let Some(entry) = self.line.iter_mut().find(|entry| Some(entry.0) == ticket) {
            entry.1.clone_from(waker);
            return entry.0;
        }
        self.next += 1;
        let ticket = Ticket(self.next);
        self.line.push_back((ticket, waker.clone()));
        ticket
    }

    /// Leaves the line; false if the task was called up already.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let before = self.line.len();
        self.line.retain(|entry| entry.0 != ticket);
        self.line.len() < before
    }

    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        self.line.iter().any(|entry| entry.0 == ticket)
    }

    /// Takes the first in line out.
    pub(super) fn call_up(&mut self) -> Option<Waker> {
        self.line.pop_front().map(|entry| entry.1)
    }
}
