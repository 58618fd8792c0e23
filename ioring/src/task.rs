//! Tasks of one core: a slab of futures and three run queues with shares.
//!
//! A task sits in a slot as long as it lives; its number is the slot, its generation tells it from
//! those that sat there before. A task that was woken is on the run queue of its class, once.
//!
//! # Shares
//!
//! Each class is charged for the time its tasks hold the core, divided by its share; the class that
//! was charged least runs next. A class that had nothing to run does not save up: when it becomes
//! runnable its account is raised to that of the class that ran last. Shares order what is runnable
//! and bound nothing: a task that does not yield is not interrupted.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

/// What class of work a task belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Requests and commits.
    Foreground,
    /// Journal, peers, repair.
    Replication,
    /// Compaction, scrubbing, sync.
    Background,
}

impl Queue {
    /// Name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Queue::Foreground => "foreground",
            Queue::Replication => "replication",
            Queue::Background => "background",
        }
    }
}

/// Number of classes.
const QUEUES: usize = 3;

/// Relative shares of the three classes: each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of [`Queue::Foreground`].
    pub foreground: u32,
    /// Of [`Queue::Replication`].
    pub replication: u32,
    /// Of [`Queue::Background`].
    pub background: u32,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { foreground: 1000, replication: 1000, background: 200 }
    }
}

pub(crate) type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Waits for a wake-up.
    Idle,
    /// On its run queue.
    Queued,
    /// Being polled; its future is with the executor.
    Running,
    /// Being polled, and woken meanwhile.
    RunningWoken,
    /// Being polled, and to be dropped after that.
    RunningCancelled,
}

struct Slot {
    generation: u32,
    state: State,
    queue: Queue,
    name: &'static str,
    future: Option<BoxedFuture>,
}

/// All tasks of one core.
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u16>,
    runnable: [VecDeque<u16>; QUEUES],
    /// Charged so far: nanoseconds divided by share, scaled by [`SCALE`].
    charged: [u64; QUEUES],
    shares: [u64; QUEUES],
    /// The account of the class that ran last, before it was charged for that.
    floor: u64,
    live: usize,
}

/// Keeps the division of short polls by large shares from rounding to nothing.
const SCALE: u64 = 1 << 10;

/// What is needed to poll a task.
pub(crate) struct Taken {
    pub(crate) id: TaskId,
    pub(crate) future: BoxedFuture,
    pub(crate) queue: Queue,
    pub(crate) name: &'static str,
}

impl Tasks {
    pub(crate) fn new(shares: Shares) -> Tasks {
        let shares = [shares.foreground, shares.replication, shares.background];
        assert!(shares.iter().all(|share| *share > 0), "a share of nothing starves its class");
        Tasks {
            slots: Vec::with_capacity(256),
            free: Vec::with_capacity(256),
            runnable: std::array::from_fn(|_| VecDeque::with_capacity(256)),
            charged: [0; QUEUES],
            shares: shares.map(u64::from),
            floor: 0,
            live: 0,
        }
    }

    /// Tasks that exist.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Tasks on run queues.
    pub(crate) fn runnable(&self) -> usize {
        self.runnable.iter().map(VecDeque::len).sum()
    }

    /// Adds a task, runnable.
    pub(crate) fn insert(
        &mut self,
        queue: Queue,
        name: &'static str,
        future: impl FnOnce(TaskId) -> BoxedFuture,
    ) -> TaskId {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u16::try_from(self.slots.len()).expect("a core has at most 65,536 tasks");
            let state = State::Free;
            self.slots.push(Slot { generation: 0, state, queue, name, future: None });
            slot
        });
        let entry = &mut self.slots[usize::from(slot)];
        assert!(entry.state == State::Free && entry.future.is_none());
        let id = TaskId { slot, generation: entry.generation };
        (entry.state, entry.queue, entry.name) = (State::Idle, queue, name);
        entry.future = Some(future(id));
        self.live += 1;
        self.wake_slot(slot);
        id
    }

    /// Makes a task runnable if it still exists.
    pub(crate) fn wake(&mut self, id: TaskId) {
        if self.slots.get(usize::from(id.slot)).is_some_and(|s| s.generation == id.generation) {
            self.wake_slot(id.slot);
        }
    }

    /// Makes whichever task is in the slot runnable.
    pub(crate) fn wake_slot(&mut self, slot: u16) {
        let Some(entry) = self.slots.get_mut(usize::from(slot)) else { return };
        match entry.state {
            State::Idle => {
                entry.state = State::Queued;
                let queue = entry.queue as usize;
                if self.runnable[queue].is_empty() {
                    self.charged[queue] = self.charged[queue].max(self.floor);
                }
                self.runnable[queue].push_back(slot);
            }
            State::Running => entry.state = State::RunningWoken,
            State::Free | State::Queued | State::RunningWoken | State::RunningCancelled => {}
        }
    }

    /// Takes the next task to poll, as the shares say.
    pub(crate) fn take_next(&mut self) -> Option<Taken> {
        let runnable = (0..QUEUES).filter(|queue| !self.runnable[*queue].is_empty());
        let queue = runnable.min_by_key(|queue| self.charged[*queue])?;
        self.floor = self.charged[queue];
        let slot = self.runnable[queue].pop_front()?;
        Some(self.start(slot))
    }

    /// Takes the `position`-th runnable task, counting through the classes.
    pub(crate) fn take_at(&mut self, mut position: usize) -> Option<Taken> {
        for queue in 0..QUEUES {
            let length = self.runnable[queue].len();
            if position < length {
                let slot = self.runnable[queue].remove(position)?;
                return Some(self.start(slot));
            }
            position -= length;
        }
        None
    }

    fn start(&mut self, slot: u16) -> Taken {
        let entry = &mut self.slots[usize::from(slot)];
        assert!(entry.state == State::Queued, "task {} is on a run queue unasked", entry.name);
        entry.state = State::Running;
        let future = entry.future.take().expect("a queued task has its future");
        let id = TaskId { slot, generation: entry.generation };
        Taken { id, future, queue: entry.queue, name: entry.name }
    }

    /// Puts a task back that is not finished. Gives the future back if it is to be dropped.
    pub(crate) fn put_back(&mut self, id: TaskId, future: BoxedFuture) -> Option<BoxedFuture> {
        let entry = &mut self.slots[usize::from(id.slot)];
        assert_eq!(entry.generation, id.generation);
        let state = std::mem::replace(&mut entry.state, State::Idle);
        if state == State::RunningCancelled {
            self.free(id.slot);
            return Some(future);
        }
        entry.future = Some(future);
        if state == State::RunningWoken {
            self.wake_slot(id.slot);
        }
        None
    }

    /// Forgets a task that finished.
    pub(crate) fn finish(&mut self, id: TaskId) {
        assert_eq!(self.slots[usize::from(id.slot)].generation, id.generation);
        self.free(id.slot);
    }

    /// Ends a task early. Gives its future, for the caller to drop.
    pub(crate) fn cancel(&mut self, id: TaskId) -> Option<BoxedFuture> {
        let entry = self.slots.get_mut(usize::from(id.slot))?;
        if entry.generation != id.generation {
            return None;
        }
        match entry.state {
            State::Running | State::RunningWoken | State::RunningCancelled => {
                entry.state = State::RunningCancelled;
                return None;
            }
            State::Queued => self.runnable[entry.queue as usize].retain(|slot| *slot != id.slot),
            State::Idle | State::Free => {}
        }
        let future = self.slots[usize::from(id.slot)].future.take();
        self.free(id.slot);
        future
    }

    /// Ends any one task; `None` when there are none left.
    pub(crate) fn cancel_any(&mut self) -> Option<BoxedFuture> {
        let slot = self.slots.iter().position(|slot| slot.future.is_some())?;
        let generation = self.slots[slot].generation;
        self.cancel(TaskId { slot: u16::try_from(slot).ok()?, generation })
    }

    fn free(&mut self, slot: u16) {
        let entry = &mut self.slots[usize::from(slot)];
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free;
        self.free.push(slot);
        self.live -= 1;
    }

    /// Charges a class for the time that one of its tasks held the core.
    pub(crate) fn charge(&mut self, queue: Queue, nanoseconds: u64) {
        let share = self.shares[queue as usize];
        // At least one unit, so that classes take turns even where time stands still.
        self.charged[queue as usize] += nanoseconds.max(1) * SCALE / share + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: TaskId) -> BoxedFuture {
        Box::pin(std::future::pending())
    }

    #[test]
    fn a_name_does_not_reach_the_next_task_in_the_slot() {
        let mut tasks = Tasks::new(Shares::default());
        let first = tasks.insert(Queue::Foreground, "first", nothing);
        assert!(tasks.cancel(first).is_some());
        assert_eq!(tasks.runnable(), 0, "a cancelled task leaves its run queue");
        let second = tasks.insert(Queue::Foreground, "second", nothing);
        assert_eq!(first.slot, second.slot);
        let taken = tasks.take_next().unwrap();
        assert!(tasks.put_back(taken.id, taken.future).is_none());
        tasks.wake(first);
        assert_eq!(tasks.runnable(), 0);
        assert!(tasks.cancel(first).is_none());
        tasks.wake(second);
        tasks.wake(second);
        assert_eq!(tasks.runnable(), 1, "woken twice is queued once");
    }

    #[test]
    fn a_wake_up_during_the_poll_is_not_lost() {
        let mut tasks = Tasks::new(Shares::default());
        let id = tasks.insert(Queue::Foreground, "task", nothing);
        let taken = tasks.take_next().unwrap();
        tasks.wake(id);
        assert_eq!(tasks.runnable(), 0);
        assert!(tasks.put_back(id, taken.future).is_none());
        assert_eq!(tasks.runnable(), 1);
        let taken = tasks.take_next().unwrap();
        assert!(tasks.cancel(id).is_none(), "the future is being polled");
        assert!(tasks.put_back(id, taken.future).is_some());
        assert_eq!(tasks.live(), 0);
    }

    #[test]
    fn time_is_divided_as_the_shares_say() {
        let shares = Shares { foreground: 400, replication: 100, background: 100 };
        let mut tasks = Tasks::new(shares);
        for queue in [Queue::Foreground, Queue::Replication, Queue::Background] {
            tasks.insert(queue, queue.name(), nothing);
        }
        let mut polls = [0; QUEUES];
        for _ in 0..600 {
            let taken = tasks.take_next().unwrap();
            polls[taken.queue as usize] += 1;
            tasks.charge(taken.queue, 1000);
            tasks.wake(taken.id);
            tasks.put_back(taken.id, taken.future);
        }
        assert!((390..=410).contains(&polls[0]), "{polls:?}");
        assert!((95..=105).contains(&polls[1]), "{polls:?}");
    }

    #[test]
    fn a_class_without_work_saves_nothing_up() {
        let mut tasks = Tasks::new(Shares { foreground: 1, replication: 1, background: 1 });
        tasks.insert(Queue::Foreground, "busy", nothing);
        for _ in 0..1000 {
            let taken = tasks.take_next().unwrap();
            tasks.charge(taken.queue, 1000);
            tasks.wake(taken.id);
            tasks.put_back(taken.id, taken.future);
        }
        tasks.insert(Queue::Background, "late", nothing);
        let mut background = 0;
        for _ in 0..10 {
            let taken = tasks.take_next().unwrap();
            background += usize::from(taken.queue == Queue::Background);
            tasks.charge(taken.queue, 1000);
            tasks.wake(taken.id);
            tasks.put_back(taken.id, taken.future);
        }
        assert!((4..=6).contains(&background), "{background} of 10");
    }
}
