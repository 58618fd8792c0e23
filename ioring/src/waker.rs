//! Wakers that are names.
//!
//! A waker of this crate is one word: the core, the slot of the task on it, and the slot's
//! generation. Cloning and dropping it do nothing; nothing is allocated or counted, and one that
//! outlives its task wakes nobody. Waking a task of the core that is installed on the thread puts
//! it on its run queue; waking any other posts on that core's board (`mesh::board`) and, if the
//! core announced that it sleeps, rings its bell.
//!
//! ```text
//! bit 63      62 … 60   59 … 48   47 … 32   31 … 0
//! always 1    zero      seat      slot      generation
//! ```
//!
//! # Seats
//!
//! Running cores sit in a global table, so that a name found anywhere leads to a board. A seat's
//! board and bell are made once and are never freed, only handed to the next core that takes the
//! seat: a late wake-up always finds valid memory and an open descriptor, and wakes somebody for
//! nothing.

#![expect(unsafe_code, reason = "builds wakers from words; writes to event descriptors")]

use std::io;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::core::Core;
use crate::mesh::board::Board;

/// Tasks that one core can hold.
pub(crate) const TASKS_MAX: usize = 1 << 16;

/// Cores that one process can run at a time, simulated ones included.
const SEATS_MAX: usize = 1 << 12;

/// Position of a core in the process-wide table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatId(u16);

/// What other threads need to know of a core.
pub(crate) struct Seat {
    pub(crate) board: Board,
    /// An event descriptor that the sleeping core reads; −1 if it needs no bell.
    bell: AtomicI32,
    pub(crate) bells_rung: AtomicU64,
}

static SEATS: [AtomicPtr<Seat>; SEATS_MAX] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; SEATS_MAX];

/// Seats that were left, and the number of seats ever taken.
static FREE: Mutex<(Vec<u16>, u16)> = Mutex::new((Vec::new(), 0));

impl SeatId {
    /// Takes a seat for a new core; its board is empty.
    ///
    /// # Panics
    /// If more cores run at a time than there are seats.
    pub(crate) fn take() -> SeatId {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = free.0.pop() {
            let id = SeatId(id);
            id.seat().board.clear();
            return id;
        }
        let id = free.1;
        assert!(usize::from(id) < SEATS_MAX, "more than {SEATS_MAX} cores at a time");
        free.1 += 1;
        let (board, bell) = (Board::new(TASKS_MAX), AtomicI32::new(-1));
        let seat = Box::leak(Box::new(Seat { board, bell, bells_rung: AtomicU64::new(0) }));
        SEATS[usize::from(id)].store(seat, Ordering::Release);
        SeatId(id)
    }

    /// Leaves the seat to the next core.
    pub(crate) fn leave(self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).0.push(self.0);
    }

    pub(crate) fn seat(self) -> &'static Seat {
        let seat = SEATS[usize::from(self.0)].load(Ordering::Acquire);
        assert!(!seat.is_null(), "no core ever sat in seat {}", self.0);
        // SAFETY: set once, to memory that is never freed and only accessed through `&`.
        unsafe { &*seat }
    }
}

impl Seat {
    /// The event descriptor that wakes this core, made when first asked for.
    pub(crate) fn bell(&self) -> io::Result<i32> {
        let bell = self.bell.load(Ordering::Acquire);
        if bell >= 0 {
            return Ok(bell);
        }
        // SAFETY: makes a new descriptor, touches no memory.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        self.bell.store(bell, Ordering::Release);
        Ok(bell)
    }

    /// Wakes the core, which announced that it sleeps.
    pub(crate) fn ring_bell(&self) {
        let bell = self.bell.load(Ordering::Acquire);
        if bell < 0 {
            return;
        }
        self.bells_rung.fetch_add(1, Ordering::Relaxed);
        let one = 1u64;
        // SAFETY: eight bytes from a live variable; the descriptor is never closed. The write can
        // only fail if the counter is full, and then the core is being woken already.
        unsafe { libc::write(bell, (&raw const one).cast(), 8) };
    }
}

/// Names one task of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskName {
    pub(crate) seat: SeatId,
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

const TAG: u64 = 1 << 63;

impl TaskName {
    pub(crate) fn to_word(self) -> u64 {
        TAG | u64::from(self.seat.0) << 48 | u64::from(self.slot) << 32 | u64::from(self.generation)
    }

    pub(crate) fn from_word(word: u64) -> TaskName {
        debug_assert!(word & TAG != 0, "{word:#x} names no task");
        TaskName {
            seat: SeatId((word >> 48) as u16 & (SEATS_MAX as u16 - 1)),
            slot: (word >> 32) as u16,
            generation: word as u32,
        }
    }

    /// The task that a waker wakes; `None` if the waker is another executor's.
    pub(crate) fn of(waker: &Waker) -> Option<TaskName> {
        let ours = std::ptr::eq(waker.vtable(), &raw const VTABLE);
        ours.then(|| TaskName::from_word(waker.data() as u64))
    }

    pub(crate) fn waker(self) -> Waker {
        // SAFETY: the functions of the table treat the pointer as a number and never follow it.
        unsafe { Waker::from_raw(raw_waker(self.to_word() as *const ())) }
    }

    /// Makes the task runnable, from any thread.
    pub(crate) fn wake(self) {
        if Core::wake_if_installed(self) {
            return;
        }
        let seat = self.seat.seat();
        if seat.board.post(usize::from(self.slot)) {
            seat.ring_bell();
        }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(raw_waker, wake_word, wake_word, |_| {});

const fn raw_waker(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

fn wake_word(data: *const ()) {
    TaskName::from_word(data as u64).wake();
}

const _: () = assert!(size_of::<usize>() == 8, "a task's name has to fit into a pointer");
const _: () = assert!(TASKS_MAX == 1 << u16::BITS && SEATS_MAX == 1 << 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_being_words_and_wakers() {
        for (seat, slot, generation) in [(0, 0, 0), (4095, 65535, u32::MAX), (7, 1, 99)] {
            let name = TaskName { seat: SeatId(seat), slot, generation };
            assert_eq!(TaskName::from_word(name.to_word()), name);
            assert_eq!(TaskName::of(&name.waker().clone()), Some(name));
        }
        assert_eq!(TaskName::of(Waker::noop()), None);
    }

    #[test]
    fn a_wake_up_from_elsewhere_is_posted_on_the_board() {
        let seat = SeatId::take();
        TaskName { seat, slot: 77, generation: 5 }.waker().wake();
        let mut woken = Vec::new();
        seat.seat().board.take(|slot| woken.push(slot));
        assert_eq!(woken, [77]);
        seat.leave();
    }
}
