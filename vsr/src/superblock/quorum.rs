//! Which version of the superblock is in effect, decided from what eight reads found. Pure.
//!
//! An update writes the first half of the copies, waits until they are durable, then the second.
//! So at any instant one half is complete and at rest:
//!
//! | instant | first half | second half |
//! | --- | --- | --- |
//! | between updates | all n | all n |
//! | first half in flight | each n, n+1 or torn | all n |
//! | second half in flight | all n+1 | each n, n+1 or torn |
//!
//! # The rules
//!
//! 1. Copies of another history (cluster, replica, incarnation) than most are foreign: damaged.
//! 2. The newest version of which one good copy is found is the one that is opened. It is never
//!    wrong to finish an update: what it refers to was durable before it began. It would be
//!    wrong to go back once it was in effect; then all eight copies held it, and eight faults would
//!    be needed to hide it.
//! 3. Good copies of one sequence number with two checksums, or a predecessor that is not the
//!    newest one's parent, are a fork of history: refused, as no rule could say which is meant.
//! 4. Copies older than the predecessor are lost writes: damaged.
//! 5. With up to three damaged copies it opens. With four it opens only if they are exactly one
//!    half (an interrupted update can do that, the other half is then complete). With more, or
//!    four otherwise, nothing is certain enough: refused.
//!
//! Whoever opens then rewrites every copy that is not the chosen version, half by half, before it
//! does anything else; good copies of the chosen version are never touched by that, so a crash
//! during the repair leaves at least what was there before.

use wire::{Checksum, ClusterId, Incarnation, ReplicaId};

use super::layout::{COPIES, CopyFault, FORMAT};

/// Whose superblock a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub replica: ReplicaId,
    /// Drawn at format.
    pub incarnation: Incarnation,
}

/// What a good copy says about its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Counts updates; 1 at format.
    pub sequence: u64,
    /// The version's checksum.
    pub checksum: Checksum,
    /// The checksum of the version before.
    pub parent: Checksum,
    /// Whose it is.
    pub identity: Identity,
}

/// What reading one copy found.
pub type CopyReading = Result<Version, CopyFault>;

/// What to do with what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// A slot that holds the version to open.
    pub slot: usize,
    /// The version to open.
    pub version: Version,
    /// The slots that must be rewritten with it first.
    pub rewrite: [bool; COPIES],
    /// Copies that are damaged, foreign or too old. The others are this version or its parent.
    pub damaged: usize,
}

impl Decision {
    /// Whether copies of the parent show that an update had not finished (or a write was lost).
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.rewrite.iter().filter(|&&rewrite| rewrite).count() > self.damaged
    }
}

/// Why no version can be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuorumError {
    /// Too many copies are damaged.
    #[error("{damaged} of {COPIES} superblock copies are damaged, at most 3 can be survived")]
    NoQuorum {
        /// How many.
        damaged: usize,
    },
    /// Two histories.
    #[error(
        "superblock copies {slot_a} and {slot_b} belong to two histories at sequence {sequence}: \
         the directory was written by two processes or restored in part"
    )]
    Fork {
        /// One of the copies.
        slot_a: usize,
        /// The other.
        slot_b: usize,
        /// The sequence number at which they part.
        sequence: u64,
    },
    /// The directory is of another format.
    #[error(
        "the directory has format {found}, this release reads {FORMAT}: use the release that \
         wrote it, export, and import here"
    )]
    OtherFormat {
        /// Its format.
        found: u32,
    },
    /// Nothing was ever written here.
    #[error("there is no superblock: this is no formatted journal")]
    Blank,
}

/// Decides what to open. See the module's documentation for the rules.
///
/// # Errors
/// [`QuorumError`] when no version can be opened.
pub fn decide(copies: &[CopyReading; COPIES]) -> Result<Decision, QuorumError> {
    let Some(identity) = prevailing(copies) else { return Err(no_good_copy(copies)) };
    let own = |slot: usize| -> Option<&Version> {
        copies[slot].as_ref().ok().filter(|version| version.identity == identity)
    };
    let slot = (0..COPIES)
        .filter(|&slot| own(slot).is_some())
        .max_by_key(|&slot| (own(slot).map(|version| version.sequence), COPIES - slot))
        .expect("the prevailing identity has a copy");
    let newest = *own(slot).expect("the slot was just found");

    let mut rewrite = [true; COPIES];
    let mut damaged = [true; COPIES];
    for other in 0..COPIES {
        let Some(version) = own(other) else { continue };
        let fork = QuorumError::Fork { slot_a: slot, slot_b: other, sequence: version.sequence };
        if version.sequence == newest.sequence {
            if version.checksum != newest.checksum {
                return Err(fork);
            }
            rewrite[other] = false;
            damaged[other] = false;
        } else if version.sequence + 1 == newest.sequence {
            if version.checksum != newest.parent {
                return Err(fork);
            }
            damaged[other] = false;
        }
    }
    let count = damaged.iter().filter(|&&damaged| damaged).count();
    let one_half = |half: &[bool]| half.iter().all(|&damaged| damaged);
    let half = COPIES / 2;
    let torn_half = count == half && (one_half(&damaged[..half]) || one_half(&damaged[half..]));
    if count < half || torn_half {
        return Ok(Decision { slot, version: newest, rewrite, damaged: count });
    }
    match other_format(copies) {
        Some(found) => Err(QuorumError::OtherFormat { found }),
        None => Err(QuorumError::NoQuorum { damaged: count }),
    }
}

/// The identity that most good copies have; the lowest slot's among equals.
fn prevailing(copies: &[CopyReading; COPIES]) -> Option<Identity> {
    let identities = || copies.iter().flatten().map(|version| version.identity);
    let votes = |identity: Identity| identities().filter(|&other| other == identity).count();
    let most = identities().map(votes).max()?;
    identities().find(|&identity| votes(identity) == most)
}

fn no_good_copy(copies: &[CopyReading; COPIES]) -> QuorumError {
    if copies.iter().all(|copy| *copy == Err(CopyFault::Blank)) {
        return QuorumError::Blank;
    }
    match other_format(copies) {
        Some(found) => QuorumError::OtherFormat { found },
        None => QuorumError::NoQuorum { damaged: COPIES },
    }
}

/// The other format that more than half of the copies have.
fn other_format(copies: &[CopyReading; COPIES]) -> Option<u32> {
    let formats = || {
        copies.iter().filter_map(|copy| match copy {
            Err(CopyFault::OtherFormat { found }) => Some(*found),
            _ => None,
        })
    };
    formats().find(|&format| formats().filter(|&other| other == format).count() > COPIES / 2)
}

#[cfg(test)]
mod tests;
