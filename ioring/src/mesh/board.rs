//! The board on which other threads post wake-ups for the tasks of one core, and the announcement
//! that this core sleeps.
//!
//! One bit per task slot, and a summary bit per word of those. Posting sets the task's bit and its
//! summary bit; the core takes all bits at the start of a turn. Posting twice is posting once, so
//! the board is bounded, and nothing is allocated. A bit names a slot and not a task: whoever has
//! moved in since is polled once for nothing.
//!
//! # Sleeping
//!
//! ```text
//! core:   sleeping := true ─ fence ─ any summary bit? ── yes: sleeping := false, go on
//!                                                     └─ no:  sleep in the ring
//! poster: set bits         ─ fence ─ sleeping?        ── yes: sleeping := false, ring the bell
//!                                                     └─ no:  done
//! ```
//!
//! The two sequentially consistent fences order store before load on both sides, so it cannot
//! happen that the core misses the bits *and* the poster misses the announcement. Clearing the
//! announcement by swap makes sure that one sleep costs one bell, whoever is first. Modelled with
//! `loom` below.

use super::shim::{AtomicBool, AtomicU64, Ordering, fence};

/// Wake-ups posted to one core.
pub(crate) struct Board {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    sleeping: AtomicBool,
}

impl Board {
    /// A board for task slots `0..slots`.
    pub(crate) fn new(slots: usize) -> Board {
        let words = slots.div_ceil(64);
        Board {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            summary: (0..words.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            sleeping: AtomicBool::new(false),
        }
    }

    /// Posts a wake-up. If this returns true the core sleeps and the caller has to ring its bell.
    #[must_use]
    pub(crate) fn post(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        if self.words[slot / 64].fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            // Whoever set the bit looks after the rest.
            return false;
        }
        let word = slot / 64;
        self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::Release);
        self.claim_bell()
    }

    /// After something was made visible for the core: whether the caller has to ring its bell.
    #[must_use]
    pub(crate) fn claim_bell(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Takes all wake-ups posted.
    pub(crate) fn take(&self, mut woken: impl FnMut(usize)) {
        for (group, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Acquire: what a poster did before posting is visible to the task that it woke.
            for bit in bits(summary.swap(0, Ordering::Acquire)) {
                let word = group * 64 + bit;
                for bit in bits(self.words[word].swap(0, Ordering::Acquire)) {
                    woken(word * 64 + bit);
                }
            }
        }
    }

    /// Whether wake-ups are posted that were not taken.
    pub(crate) fn has_posts(&self) -> bool {
        self.summary.iter().any(|summary| summary.load(Ordering::Relaxed) != 0)
    }

    /// Announces that the core is about to sleep. False: it must not, there is something to do.
    #[must_use]
    pub(crate) fn announce_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.has_posts() {
            return true;
        }
        self.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// Takes the announcement back after waking up for whatever reason.
    pub(crate) fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Forgets what was posted, when the board changes hands.
    pub(crate) fn clear(&self) {
        self.announce_awake();
        self.take(|_| {});
    }
}

/// Positions of the bits that are set, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_taken_once_in_order_of_slots() {
        let board = Board::new(70 * 64);
        let slots = [0, 63, 64, 4095, 4096, 70 * 64 - 1];
        for slot in slots.iter().rev() {
            assert!(!board.post(*slot));
            assert!(!board.post(*slot));
        }
        let mut taken = Vec::new();
        board.take(|slot| taken.push(slot));
        assert_eq!(taken, slots);
        board.take(|_| panic!("nothing is left"));
    }

    #[test]
    fn the_bell_is_rung_once_per_sleep() {
        let board = Board::new(64);
        assert!(board.announce_sleep());
        assert!(board.post(3));
        assert!(!board.post(4));
        assert!(!board.announce_sleep(), "there is something to do");
        board.clear();
        assert!(board.announce_sleep());
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p ioring --lib --release mesh`
#[cfg(all(test, loom))]
pub(super) mod model {
    use super::super::shim::{Arc, Mutex};
    use super::*;

    /// What a thread of the model sleeps on: a ring is remembered until it is waited for.
    pub(in super::super) struct Bell {
        rung: Mutex<bool>,
        changed: loom::sync::Condvar,
    }

    impl Bell {
        pub(in super::super) fn new() -> Bell {
            Bell { rung: Mutex::new(false), changed: loom::sync::Condvar::new() }
        }

        pub(in super::super) fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.changed.notify_one();
        }

        pub(in super::super) fn wait(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.changed.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    /// Every interleaving in which threads are interrupted at most twice each; more would take
    /// hours.
    pub(in super::super) fn explore(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(model);
    }

    /// A core that sleeps is told of every wake-up posted to it, whatever the interleaving. If one
    /// got lost, nobody would be left to run, which loom reports as a deadlock.
    #[test]
    fn no_wake_up_is_lost() {
        explore(|| {
            let board = Arc::new(Board::new(64));
            let bell = Arc::new(Bell::new());
            let posters: Vec<_> = (0..2)
                .map(|slot| {
                    let (board, bell) = (board.clone(), bell.clone());
                    loom::thread::spawn(move || {
                        if board.post(slot) {
                            bell.ring();
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            while seen < 2 {
                board.take(|_| seen += 1);
                if seen < 2 && board.announce_sleep() {
                    bell.wait();
                    board.announce_awake();
                }
            }
            for poster in posters {
                poster.join().unwrap();
            }
        });
    }
}
