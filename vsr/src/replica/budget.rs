//! How much log there may be after the checkpoint.
//!
//! The journal is a ring; what lies after the checkpoint must not be overwritten. So the primary
//! gives an op only while the frames after the checkpoint, that op's included, stay within a budget
//! in bytes. The sum is a function of the log (sizes of prepares), never of where frames happen to
//! lie, so every replica computes the same.
//!
//! The last part of the budget is a *reserve* for pulses: the work that ends in the next checkpoint
//! is paid for by ops, so if requests could use up everything, nothing could free it again.
//!
//! The size of each op's frame is kept in a ring with room for as many ops as fit the budget at one
//! sector each. An op that is not there, a hole in a backup's log, counts nothing.

use wire::Op;

use crate::journal::SECTOR as SECTOR_SIZE;

/// The least that a frame takes.
const SECTOR: u64 = SECTOR_SIZE as u64;

#[derive(Debug)]
pub(super) struct LogBudget {
    limit: u64,
    reserve: u64,
    used: u64,
    /// Bytes of the frame of an op, at the op's number modulo the length; 0 without one.
    sizes: Box<[u32]>,
    checkpoint: Op,
}

impl LogBudget {
    /// The budget of a log that ends at its checkpoint.
    pub(super) fn new(limit: u64, reserve: u64, checkpoint: Op) -> LogBudget {
        assert!(reserve < limit, "a reserve of {reserve} of {limit} bytes leaves nothing");
        let ops_max = usize::try_from(limit / SECTOR).expect("a log's ops fit memory");
        let sizes = vec![0; ops_max + 1].into_boxed_slice();
        LogBudget { limit, reserve, used: 0, sizes, checkpoint }
    }

    fn place(&mut self, op: Op) -> &mut u32 {
        assert!(op > self.checkpoint, "op {op} is not after checkpoint {}", self.checkpoint);
        assert!(
            op.0 - self.checkpoint.0 < self.sizes.len() as u64,
            "the log after checkpoint {} exceeds {} bytes at op {op}",
            self.checkpoint,
            self.limit
        );
        let place = op.0 % self.sizes.len() as u64;
        &mut self.sizes[place as usize]
    }

    /// Bytes of frames after the checkpoint.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that there may be.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether a frame of `size` bytes may be added; a pulse's may use the reserve.
    pub(super) fn admits(&self, size: u64, pulse: bool) -> bool {
        let limit = if pulse { self.limit } else { self.limit - self.reserve };
        self.used + size <= limit
    }

    /// Counts the frame of an op, instead of what was counted for it before. What was recovered is
    /// added whatever the limit is; it is there.
    pub(super) fn add(&mut self, op: Op, size: u64) {
        assert!(size >= SECTOR, "a frame takes a sector at least");
        self.remove(op);
        *self.place(op) = u32::try_from(size).expect("a frame fits its segment");
        self.used += size;
    }

    /// The version of an op that was counted is given up.
    pub(super) fn remove(&mut self, op: Op) {
        let size = std::mem::take(self.place(op));
        self.used -= u64::from(size);
    }

    /// The checkpoint is at `op` now.
    pub(super) fn checkpoint(&mut self, op: Op) {
        assert!(self.checkpoint <= op, "a checkpoint at {op} of the log's ops");
        for passed in (self.checkpoint.0 + 1..=op.0).map(Op) {
            self.remove(passed);
        }
        self.checkpoint = op;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_leave_the_reserve_to_pulses() {
        let mut budget = LogBudget::new(4 * SECTOR, SECTOR, Op(10));
        budget.add(Op(11), SECTOR);
        assert!(budget.admits(2 * SECTOR, false));
        assert!(!budget.admits(2 * SECTOR + 1, false));
        assert!(budget.admits(3 * SECTOR, true));
        budget.add(Op(12), 2 * SECTOR);
        assert!(!budget.admits(SECTOR, false) && budget.admits(SECTOR, true));
        budget.checkpoint(Op(11));
        assert_eq!(budget.used(), 2 * SECTOR);
        assert!(budget.admits(SECTOR, false));
        budget.checkpoint(Op(12));
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn used_is_the_sum_of_frames_after_the_checkpoint(
            steps in prop::collection::vec((1u64..5, any::<prop::sample::Index>(), 0..4u8), 0..200),
        ) {
            let mut budget = LogBudget::new(16 * SECTOR, SECTOR, Op(3));
            let mut model: Vec<u64> = Vec::new();
            let mut checkpoint = 3;
            for (sectors, at, kind) in steps {
                let fits = model.iter().sum::<u64>() + sectors <= 15;
                prop_assert_eq!(budget.admits(sectors * SECTOR, false), fits);
                if fits {
                    model.push(sectors);
                    budget.add(Op(checkpoint + model.len() as u64), sectors * SECTOR);
                }
                if kind == 0 {
                    let dropped = at.index(model.len() + 1);
                    model.drain(..dropped);
                    checkpoint += dropped as u64;
                    budget.checkpoint(Op(checkpoint));
                }
                prop_assert_eq!(budget.used(), model.iter().sum::<u64>() * SECTOR);
            }
        }
    }
}
