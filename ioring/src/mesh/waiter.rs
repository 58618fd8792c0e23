//! A place for one waker, shared by two threads.
//!
//! The side that waits registers its waker and then looks once more at what it waits for; the other
//! side changes that and then notifies. A sequentially consistent fence between the two steps on
//! both sides makes sure that one of them sees the other. Wakers of this crate are plain numbers
//! and live in one atomic word; those of other executors (the control plane's) take a mutex, which
//! is then contended only by the two sides of one lane.

use std::task::Waker;

use super::shim::{AtomicU64, Mutex, Ordering, fence};
use crate::waker::TaskName;

const NOBODY: u64 = 0;
/// The waker is in `foreign`. Not the number of any task: those have their highest bit set.
const FOREIGN: u64 = 1;

pub(crate) struct Waiter {
    name: AtomicU64,
    foreign: Mutex<Option<Waker>>,
}

impl Waiter {
    pub(crate) fn new() -> Waiter {
        Waiter { name: AtomicU64::new(NOBODY), foreign: Mutex::new(None) }
    }

    /// Registers a waker in place of the one before. The caller looks again after this.
    pub(crate) fn register(&self, waker: &Waker) {
        match TaskName::of(waker) {
            Some(name) => self.name.store(name.to_word(), Ordering::Release),
            None => {
                *self.foreign.lock().expect("no panic while it is held") = Some(waker.clone());
                self.name.store(FOREIGN, Ordering::Release);
            }
        }
        fence(Ordering::SeqCst);
    }

    /// Wakes whoever is registered. The caller changed what is waited for before this.
    #[inline]
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.name.load(Ordering::Relaxed) != NOBODY {
            self.notify_registered();
        }
    }

    #[cold]
    fn notify_registered(&self) {
        match self.name.swap(NOBODY, Ordering::AcqRel) {
            NOBODY => {}
            FOREIGN => {
                let waker = self.foreign.lock().expect("no panic while it is held").take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            word => TaskName::from_word(word).wake(),
        }
    }
}
