//! What was asked for and what was acknowledged: the means to prove that nothing was lost.
//!
//! Each key has one writer (see [`crate::workload`]), so its writes have an order and are numbered
//! from 1. The ledger keeps, per key, the number of the newest write sent and of the newest write
//! acknowledged. A value read back later belongs to write number *s* of its key; the node kept its
//! promise if `acknowledged ≤ s ≤ sent`: at least what was acknowledged, at most what was asked
//! for. An absent key is right only if none of its writes was acknowledged.
//!
//! The argument holds through crashes and lost connections: a write whose reply never came may or
//! may not have happened, which is exactly the room between the two numbers.

use crate::workload::Origin;

/// Eight bytes for every key.
#[derive(Debug, Clone)]
pub struct Ledger {
    run: u32,
    sent: Vec<u32>,
    acknowledged: Vec<u32>,
}

/// What a read-back showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The value is one that may be there.
    Good,
    /// The key's newest acknowledged write is gone: an older value, or none, is there.
    Lost,
    /// The value was never written to this key.
    Wrong,
}

impl Ledger {
    /// A ledger of `keys` keys, none of them written, for the run numbered `run`.
    pub fn new(run: u32, keys: u64) -> Ledger {
        let keys = usize::try_from(keys).expect("keys are counted in memory");
        Ledger { run, sent: vec![0; keys], acknowledged: vec![0; keys] }
    }

    /// Number of keys.
    pub fn keys(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Numbers the next write of `key`, which is about to be sent.
    pub fn send(&mut self, key: u64) -> Origin {
        let sent = &mut self.sent[key as usize];
        *sent += 1;
        Origin { run: self.run, key, sequence: *sent }
    }

    /// Notes that write `sequence` of `key` was acknowledged.
    pub fn acknowledge(&mut self, key: u64, sequence: u32) {
        let acknowledged = &mut self.acknowledged[key as usize];
        assert!(sequence <= self.sent[key as usize]);
        *acknowledged = (*acknowledged).max(sequence);
    }

    /// Number of acknowledged writes.
    pub fn acknowledged_total(&self) -> u64 {
        self.acknowledged.iter().map(|&sequence| u64::from(sequence)).sum()
    }

    /// The newest acknowledged write of `key`, 0 for none.
    pub fn acknowledged(&self, key: u64) -> u32 {
        self.acknowledged[key as usize]
    }

    /// Judges what a read of `key` returned: the origin found in the value, `None` for no value.
    ///
    /// `floor` is the newest write that was acknowledged before the read was sent.
    pub fn judge(&self, key: u64, floor: u32, found: Option<Found>) -> Finding {
        let sent = self.sent[key as usize];
        match found {
            None | Some(Found::Foreign) if floor == 0 => Finding::Good,
            None | Some(Found::Foreign) => Finding::Lost,
            Some(Found::Ours(origin)) if origin.key != key || origin.sequence > sent => {
                Finding::Wrong
            }
            Some(Found::Ours(origin)) if origin.sequence < floor => Finding::Lost,
            Some(Found::Ours(_)) => Finding::Good,
            Some(Found::Damaged) => Finding::Wrong,
        }
    }

    /// Sorts a value that was read by where it came from; every byte of it is checked.
    pub fn find(&self, value: &[u8]) -> Found {
        self.sort(Origin::of_value(value))
    }

    /// As [`Ledger::find`], believing all but the first 16 bytes: for the hot path.
    pub fn find_header(&self, value: &[u8]) -> Found {
        self.sort(Origin::of_header(value))
    }

    fn sort(&self, origin: Option<Origin>) -> Found {
        match origin {
            None => Found::Damaged,
            Some(origin) if origin.run == self.run => Found::Ours(origin),
            Some(_) => Found::Foreign,
        }
    }
}

/// Where a value that was read came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A write of this run.
    Ours(Origin),
    /// Whole, but of another run: right only where nothing of this run was acknowledged.
    Foreign,
    /// Bytes that no run wrote.
    Damaged,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ValueSizes;

    #[test]
    fn the_room_between_acknowledged_and_sent_is_all_the_room_there_is() {
        let mut ledger = Ledger::new(9, 2);
        let ours = |key, sequence| Some(Found::Ours(Origin { run: 9, key, sequence }));
        assert_eq!(ledger.judge(0, 0, None), Finding::Good);
        assert_eq!(ledger.judge(0, 0, Some(Found::Foreign)), Finding::Good);
        assert_eq!(ledger.judge(0, 0, ours(0, 1)), Finding::Wrong, "never sent");
        let writes: Vec<u32> = (0..4).map(|_| ledger.send(0).sequence).collect();
        assert_eq!(writes, [1, 2, 3, 4]);
        ledger.acknowledge(0, 2);
        let floor = ledger.acknowledged(0);
        let expected = [
            (None, Finding::Lost),
            (Some(Found::Foreign), Finding::Lost),
            (ours(0, 1), Finding::Lost),
            (ours(0, 2), Finding::Good),
            (ours(0, 4), Finding::Good),
            (ours(0, 5), Finding::Wrong),
            (ours(1, 2), Finding::Wrong),
            (Some(Found::Damaged), Finding::Wrong),
        ];
        for (found, finding) in expected {
            assert_eq!(ledger.judge(0, floor, found), finding, "{found:?}");
        }
    }

    #[test]
    fn values_are_sorted_by_run() {
        let mut ledger = Ledger::new(1, 1);
        let origin = ledger.send(0);
        let mut value = Vec::new();
        ValueSizes { min: 40, max: 40 }.push_value(&mut value, origin);
        assert_eq!(ledger.find(&value), Found::Ours(origin));
        assert_eq!(Ledger::new(2, 1).find(&value), Found::Foreign);
        value[39] ^= 1;
        assert_eq!(ledger.find(&value), Found::Damaged);
        assert_eq!(ledger.find(b"short"), Found::Damaged);
    }

    #[test]
    #[should_panic(expected = "sequence <= self.sent")]
    fn an_acknowledgement_of_what_was_never_sent_is_a_bug_of_the_generator() {
        Ledger::new(0, 1).acknowledge(0, 1);
    }
}
