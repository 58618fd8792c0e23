//! Every combination of {newest, parent, older, damaged} over eight slots, and the rows of the
//! table in `docs/FORMAT.md` one by one.

use super::*;

const OURS: Identity =
    Identity { cluster: ClusterId(7), replica: ReplicaId(0), incarnation: Incarnation(1234) };

fn version(sequence: u64) -> CopyReading {
    Ok(Version {
        sequence,
        checksum: Checksum(u128::from(sequence) * 1000),
        parent: Checksum(u128::from(sequence - 1) * 1000),
        identity: OURS,
    })
}

fn bad() -> CopyReading {
    Err(CopyFault::Magic)
}

fn all(sequence: u64) -> [CopyReading; COPIES] {
    std::array::from_fn(|_| version(sequence))
}

fn opened(copies: &[CopyReading; COPIES]) -> Option<u64> {
    decide(copies).ok().map(|decision| decision.version.sequence)
}

/// Each choice of a reading per slot, from the given ones.
fn combinations(
    choices: [Vec<CopyReading>; COPIES],
    mut check: impl FnMut(&[CopyReading; COPIES]),
) {
    let mut digits = [0; COPIES];
    loop {
        let copies = std::array::from_fn(|slot| choices[slot][digits[slot]].clone());
        check(&copies);
        let Some(slot) = (0..COPIES).find(|&slot| digits[slot] + 1 < choices[slot].len()) else {
            return;
        };
        digits[slot] += 1;
        digits[..slot].fill(0);
    }
}

#[test]
fn any_three_faults_between_updates_are_survived() {
    let choices = std::array::from_fn(|_| vec![version(9), bad(), version(8), version(5)]);
    combinations(choices, |copies| {
        let faults = copies.iter().filter(|copy| **copy != version(9)).count();
        if faults <= 3 {
            assert_eq!(opened(copies), Some(9), "{copies:?}");
        }
    });
}

#[test]
fn an_interrupted_update_opens_at_one_of_its_ends() {
    let flight = || vec![version(8), version(9), bad()];
    let first: [_; COPIES] =
        std::array::from_fn(|slot| if slot < 4 { flight() } else { vec![version(8)] });
    let second: [_; COPIES] =
        std::array::from_fn(|slot| if slot < 4 { vec![version(9)] } else { flight() });
    combinations(first, |copies| {
        assert!(matches!(opened(copies), Some(8 | 9)), "{copies:?}");
    });
    combinations(second, |copies| assert_eq!(opened(copies), Some(9), "{copies:?}"));
}

#[test]
fn whatever_opens_is_the_newest_and_rewrites_the_rest() {
    let choices = std::array::from_fn(|_| vec![version(9), bad(), version(8), version(5)]);
    let mut refused = 0;
    combinations(choices, |copies| match decide(copies) {
        Ok(decision) => {
            let newest = copies.iter().flatten().map(|copy| copy.sequence).max();
            assert_eq!(Some(decision.version.sequence), newest);
            assert!(decision.damaged <= 4);
            for (slot, copy) in copies.iter().enumerate() {
                assert_eq!(decision.rewrite[slot], *copy != Ok(decision.version));
            }
            let same = copies.iter().filter(|copy| **copy == Ok(decision.version)).count();
            assert!(same > 0 && copies[decision.slot] == Ok(decision.version));
        }
        Err(QuorumError::NoQuorum { damaged }) => {
            assert!(damaged >= 4);
            refused += 1;
        }
        Err(other) => panic!("{other}"),
    });
    assert!(refused > 0);
}

#[test]
fn four_damaged_copies_open_only_as_one_torn_half() {
    for mask in 0..256_u32 {
        if mask.count_ones() != 4 {
            continue;
        }
        let copies =
            std::array::from_fn(|slot| if mask >> slot & 1 == 1 { bad() } else { version(3) });
        let expected = (mask == 0x0f || mask == 0xf0).then_some(3);
        assert_eq!(opened(&copies), expected, "{mask:08b}");
    }
}

#[test]
fn forks_are_refused() {
    let mut copies = all(9);
    let Ok(other) = &mut copies[6] else { unreachable!() };
    other.checksum = Checksum(1);
    let fork = QuorumError::Fork { slot_a: 0, slot_b: 6, sequence: 9 };
    assert_eq!(decide(&copies), Err(fork));

    let mut copies = all(9);
    copies[7] = version(8);
    let Ok(other) = &mut copies[7] else { unreachable!() };
    other.checksum = Checksum(1);
    let fork = QuorumError::Fork { slot_a: 0, slot_b: 7, sequence: 8 };
    assert_eq!(decide(&copies), Err(fork));
}

#[test]
fn a_foreign_copy_is_damage_even_when_its_sequence_is_higher() {
    let mut copies = all(9);
    let Ok(other) = &mut copies[2] else { unreachable!() };
    other.sequence = 900;
    other.identity.cluster = ClusterId(8);
    let decision = decide(&copies).unwrap();
    assert_eq!((decision.version.sequence, decision.damaged), (9, 1));
    assert!(decision.rewrite[2]);
}

#[test]
fn blank_and_other_formats_are_named() {
    let blank = std::array::from_fn(|_| Err(CopyFault::Blank));
    assert_eq!(decide(&blank), Err(QuorumError::Blank));
    let newer = std::array::from_fn(|_| Err(CopyFault::OtherFormat { found: 2 }));
    assert_eq!(decide(&newer), Err(QuorumError::OtherFormat { found: 2 }));
    let mut rotten = all(9);
    rotten[5] = Err(CopyFault::OtherFormat { found: 2 });
    assert_eq!(opened(&rotten), Some(9), "one rotten format number is one damaged copy");
}
