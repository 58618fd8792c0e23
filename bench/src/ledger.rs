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

/// Eight bytes for every key.
#[derive(Debug, Clone)]
pub struct Ledger {
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
    /// A ledger of `keys` keys, none of them written.
    pub fn new(keys: u64) -> Ledger {
        let keys = usize::try_from(keys).expect("keys are counted in memory");
        Ledger { sent: vec![0; keys], acknowledged: vec![0; keys] }
    }

    /// Number of keys.
    pub fn keys(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Numbers the next write of `key`, which is about to be sent.
    pub fn send(&mut self, key: u64) -> u32 {
        let sent = &mut self.sent[key as usize];
        *sent += 1;
        *sent
    }

    /// Notes that write `sequence` of `key` was acknowledged.
    pub fn acknowledge(&mut self, key: u64, sequence: u32) {
        let acknowledged = &mut self.acknowledged[key as usize];
        assert!(sequence <= self.sent[key as usize]);
        *acknowledged = (*acknowledged).max(sequence);
    }

    /// The newest acknowledged write of `key`, 0 for none.
    pub fn acknowledged(&self, key: u64) -> u32 {
        self.acknowledged[key as usize]
    }

    /// Judges what a read of `key` returned: the key and sequence number found in the value.
    ///
    /// `floor` is the newest write that was acknowledged before the read was sent.
    pub fn judge(&self, key: u64, floor: u32, found: Option<Option<(u64, u32)>>) -> Finding {
        match found {
            None if floor == 0 => Finding::Good,
            None => Finding::Lost,
            Some(Some((owner, sequence)))
                if owner == key && (1..=self.sent[key as usize]).contains(&sequence) =>
            {
                if sequence >= floor { Finding::Good } else { Finding::Lost }
            }
            Some(_) => Finding::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_between_acknowledged_and_sent_is_all_the_room_there_is() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.judge(0, 0, None), Finding::Good);
        assert_eq!(ledger.judge(0, 0, Some(Some((0, 1)))), Finding::Wrong, "never sent");
        let writes: Vec<u32> = (0..4).map(|_| ledger.send(0)).collect();
        assert_eq!(writes, [1, 2, 3, 4]);
        ledger.acknowledge(0, 2);
        let floor = ledger.acknowledged(0);
        let expected = [
            (None, Finding::Lost),
            (Some(Some((0, 1))), Finding::Lost),
            (Some(Some((0, 2))), Finding::Good),
            (Some(Some((0, 4))), Finding::Good),
            (Some(Some((0, 5))), Finding::Wrong),
            (Some(Some((1, 2))), Finding::Wrong),
            (Some(None), Finding::Wrong),
        ];
        for (found, finding) in expected {
            assert_eq!(ledger.judge(0, floor, found), finding, "{found:?}");
        }
    }

    #[test]
    #[should_panic(expected = "sequence <= self.sent")]
    fn an_acknowledgement_of_what_was_never_sent_is_a_bug_of_the_generator() {
        Ledger::new(1).acknowledge(0, 1);
    }
}
