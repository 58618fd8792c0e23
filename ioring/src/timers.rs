//! Timers: a binary heap that knows where each of its entries is.
//!
//! Most timers are time limits that are taken back long before they are due, so removal has to be
//! as cheap as insertion: the heap holds slots of a slab, and each slab entry knows its place in
//! the heap. Equal deadlines fire in order of insertion, so that a simulation's order is defined.

use std::task::Waker;

use crate::time::Instant;

/// Names a timer; of no use once it fired or was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    slot: u32,
    sequence: u64,
}

struct Entry {
    deadline: Instant,
    /// Number of insertion; 0 for a free slot.
    sequence: u64,
    /// Place in the heap; for a free slot, unused.
    place: usize,
    waker: Option<Waker>,
}

/// The timers of one core.
#[derive(Default)]
pub(crate) struct Timers {
    entries: Vec<Entry>,
    free: Vec<u32>,
    heap: Vec<u32>,
    sequence_last: u64,
}

impl Timers {
    /// Adds a timer that wakes `waker` at `deadline`.
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerId {
        self.sequence_last += 1;
        let (sequence, place) = (self.sequence_last, self.heap.len());
        let entry = Entry { deadline, sequence, place, waker: Some(waker) };
        let slot = if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = entry;
            slot
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 timers")
        };
        self.heap.push(slot);
        self.sift_up(place);
        TimerId { slot, sequence }
    }

    /// Whether the timer has not fired yet; if so, it wakes `waker` from now on.
    pub(crate) fn renew(&mut self, id: TimerId, waker: &Waker) -> bool {
        let entry = &mut self.entries[id.slot as usize];
        if entry.sequence != id.sequence {
            return false;
        }
        entry.waker.as_mut().expect("a pending timer has a waker").clone_from(waker);
        true
    }

    /// Takes a timer back; nothing happens if it fired already.
    pub(crate) fn remove(&mut self, id: TimerId) {
        let entry = &self.entries[id.slot as usize];
        if entry.sequence == id.sequence {
            self.remove_place(entry.place);
        }
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|slot| self.entries[*slot as usize].deadline)
    }

    /// Removes the first timer that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        (self.next_deadline()? <= now).then(|| self.remove_place(0))
    }

    fn remove_place(&mut self, place: usize) -> Waker {
        let slot = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.entries[self.heap[place] as usize].place = place;
            self.sift_down(place);
            self.sift_up(place);
        }
        self.free.push(slot);
        let entry = &mut self.entries[slot as usize];
        entry.sequence = 0;
        entry.waker.take().expect("a pending timer has a waker")
    }

    fn is_before(&self, left: usize, right: usize) -> bool {
        let key = |place: usize| {
            let entry = &self.entries[self.heap[place] as usize];
            (entry.deadline, entry.sequence)
        };
        key(left) < key(right)
    }

    fn swap(&mut self, left: usize, right: usize) {
        self.heap.swap(left, right);
        self.entries[self.heap[left] as usize].place = left;
        self.entries[self.heap[right] as usize].place = right;
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 && self.is_before(place, (place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut first = place;
            for child in [left, right] {
                if child < self.heap.len() && self.is_before(child, first) {
                    first = child;
                }
            }
            if first == place {
                return;
            }
            self.swap(place, first);
            place = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(usize),
        Fire(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..100).prop_map(Step::Insert),
            any::<usize>().prop_map(Step::Remove),
            (0u64..100).prop_map(Step::Fire),
        ]
    }

    proptest! {
        #[test]
        fn the_heap_is_an_ordered_map(steps in prop::collection::vec(step(), 0..200)) {
            let mut timers = Timers::default();
            let mut model: BTreeMap<(u64, u64), TimerId> = BTreeMap::new();
            let mut gone = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(at) => {
                        let id = timers.insert(Instant::from_nanos(at), Waker::noop().clone());
                        model.insert((at, number as u64), id);
                    }
                    Step::Remove(index) if !model.is_empty() => {
                        let key = *model.keys().nth(index % model.len()).unwrap();
                        let id = model.remove(&key).unwrap();
                        prop_assert!(timers.renew(id, Waker::noop()));
                        timers.remove(id);
                        gone.push(id);
                    }
                    Step::Remove(_) => {}
                    Step::Fire(now) => {
                        while timers.pop_due(Instant::from_nanos(now)).is_some() {
                            let (key, id) = model.pop_first().unwrap();
                            prop_assert!(key.0 <= now);
                            gone.push(id);
                        }
                    }
                }
                let next = model.keys().next().map(|key| Instant::from_nanos(key.0));
                prop_assert_eq!(timers.next_deadline(), next);
                for id in &gone {
                    prop_assert!(!timers.renew(*id, Waker::noop()));
                    timers.remove(*id);
                }
                prop_assert_eq!(timers.heap.len(), model.len());
            }
        }
    }

    #[test]
    fn equal_deadlines_fire_in_order_of_insertion() {
        let mut timers = Timers::default();
        let ids: Vec<_> =
            (0..20).map(|_| timers.insert(Instant::from_nanos(5), Waker::noop().clone())).collect();
        for id in ids {
            assert!(timers.renew(id, Waker::noop()));
            assert!(timers.pop_due(Instant::from_nanos(5)).is_some());
            assert!(!timers.renew(id, Waker::noop()));
        }
    }
}
