//! The journal of a member of a cluster.
//!
//! Its frames are written in the order they arrive, its log changes with the view, and what it
//! loses others have. So a restart refuses nothing for damage: it says of each op what it is
//! ([`MemberLog`]), and the journal goes on.
//!
//! # Beginning
//!
//! 1. Everything is scanned and made durable; [`super::recovery`] says what counts.
//! 2. The frames that count get their place in memory by op and checksum, strays too.
//! 3. A segment is chosen to begin with whose loss would change nothing
//!    (`recovery/expendable.rs`): what it says others say too. Where there is none, the segment of
//!    copies that was being written when the process died is given back for their originals.
//! 4. A marker is written there, durable: it names the tail, present or damaged, and the highest
//!    commit number. From here on every other unused segment may go.
//!
//! A crash before 4 leaves what was there: if the marker was torn, minus a segment that says
//! nothing. After it, more is vouched for than before.
//!
//! # What is durable before what
//!
//! | first | then | otherwise |
//! | --- | --- | --- |
//! | the record of a view | its prepares are framed | of an unknown view: refused |
//! | the same | [`Journal::give_up`] of what it lacks | acknowledged, missing in the old view |
//! | a frame | its prepare-ok | acknowledged and lost |
//! | the checkpoint | [`Journal::release`] | the log begins with a hole |
//! | a marker begun after all else in a segment | it is begun anew | acknowledged, looks torn |
//! | the copy of a frame | its original is dead | the frame is lost |
//!
//! The first column is durable before the second happens; the third is what a crash would find.
//!
//! A frame that is still being written when its version is given up is dead on completion. One that
//! becomes durable between the choice of a new log and its record counts if the crash comes before
//! the record, as it should: that log is then still the one before.
//!
//! # Damage
//!
//! A damaged frame is left where it is and is not looked for again after a restart. What it was
//! is remembered by what vouches for it, however often the ring goes round: while it is of the
//! tail every marker names it, and after that the commit number of every marker covers it. So it
//! stays damaged, never torn, until it is written again, given up, or checkpointed.

use std::collections::HashMap;

use ioring::File;
use wire::{Checksum, Header, Op};

use super::recover::{self, Found};
use super::recovery::{DamagedOp, MemberLog, OpState, RecoveredOp, Sighting, Summary};
use super::ring::Ring;
use super::scan::Finding;
use super::{Journal, Options, RecoverError, Shared, maintain};
use crate::superblock::State;

/// What the recovery of a member found, for logs and for its replica.
#[derive(Debug)]
pub struct RecoveredMember {
    /// Its log.
    pub log: MemberLog,
    /// Ops that are damaged, with offsets.
    pub damaged: Vec<DamagedOp>,
    /// Frames of versions given up earlier.
    pub void: u64,
    /// Frame headers and payloads that could not be used: offset and why.
    pub bad: Vec<(u64, String)>,
}

/// Headers by their checksums.
type Headers = HashMap<u128, Header>;

impl Journal {
    /// Recovers the journal of a member and leaves it open. Damage is no error.
    ///
    /// # Errors
    /// [`RecoverError`] when journal and superblock contradict each other, or when there is nowhere
    /// to write; nothing is changed.
    ///
    /// # Panics
    /// When the superblock is of a replica that is alone.
    pub async fn recover_member(
        file: &File,
        superblock: &State,
        options: Options,
    ) -> Result<(Journal, RecoveredMember), RecoverError> {
        let mut headers = Headers::new();
        let mut keep = |header: &Header| {
            if Summary::of(header).op > superblock.checkpoint.op {
                headers.insert(header.checksum().0, *header);
            }
        };
        superblock.view_headers.iter().for_each(&mut keep);
        let observe = |_, _, finding: &Finding<'_>| match finding {
            Finding::Prepare { header, .. } => keep(header),
            Finding::Marker { entries, .. } | Finding::Index { entries, .. } => {
                entries.headers().for_each(|header| keep(&header));
            }
            Finding::Segment { .. } | Finding::Bad { .. } | Finding::Gap { .. } => {}
        };
        let found = recover::read(file, superblock, observe).await?;
        assert!(found.view.has_peers, "a replica that is alone recovers as such");
        let no_free = || RecoverError::NoFreeSegment { path: file.path().to_owned() };
        let ring = load(superblock, &found).ok_or_else(no_free)?;
        let Found { evidence, log, .. } = found;
        let member = log.member(|checksum| headers.get(&checksum.0).copied());
        let shared = Shared::new(file, ring, log.commit_max, options);
        name_tail(&shared, &member);
        maintain::first_marker(&shared).await;
        if !log.damaged().is_empty() {
            ioring::mark!("journal_member_damaged");
        }
        let (damaged, void, bad) = (log.damaged(), log.void, evidence.bad);
        let recovered = RecoveredMember { log: member, damaged, void, bad };
        Ok((Journal::start(shared), recovered))
    }

    /// Forgets the versions of which `is_void` says that they do not count any more, also those
    /// that are being written. What a view gave up may be given up here once the record of that
    /// view is durable. To be called then, and when [`Journal::is_full`]; `Replica::has_given_up`
    /// answers.
    pub fn give_up(&self, mut is_void: impl FnMut(Op, Checksum) -> bool) {
        let mut state = self.shared.state.borrow_mut();
        for flight in &mut state.in_flight {
            flight.void |= is_void(flight.op, flight.checksum);
        }
        state.strays.retain(|stray| !is_void(Summary::of(stray).op, stray.checksum()));
        state.ring.give_up(is_void);
        drop(state);
        self.shared.freed.notify();
        self.shared.work.notify();
    }
}

/// The ring as it was found, with the segment to begin with; `None` if there is no such segment.
fn load(superblock: &State, found: &Found) -> Option<Ring> {
    let Found { view, evidence, log } = found;
    let mut ring = Ring::recovered(superblock, &evidence.epochs);
    let present = log.ops.iter().filter_map(|state| match state {
        OpState::Present(frame) => Some(*frame),
        _ => None,
    });
    let present: Vec<Sighting> = present.collect();
    ring.load(&present, &log.unresolved);
    let says_nothing = |segment| log.stands_without(view, evidence, segment);
    let first = ring.unused().find(|segment| says_nothing(*segment));
    let first = first.or_else(|| ring.take_originals(&present, &log.copies, says_nothing))?;
    ring.begin_with(first);
    Some(ring)
}

/// Has the first marker name what was durable and may be beyond every commit number.
fn name_tail(shared: &Shared, log: &MemberLog) {
    let mut state = shared.state.borrow_mut();
    for (index, recovered) in log.ops.iter().enumerate() {
        let op = Op(log.checkpoint_op.0 + 1 + index as u64);
        if let RecoveredOp::Present(header) | RecoveredOp::Damaged(Some(header)) = recovered {
            state.name(op, *header);
        }
    }
    let commit = state.commit;
    let strays = log.strays.iter().filter(|stray| Summary::of(stray).op > commit);
    state.strays = strays.copied().collect();
    state.strays.sort_unstable_by_key(|stray| std::cmp::Reverse(stray.view()));
}
