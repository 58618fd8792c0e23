//! What a member of a cluster begins with: its log as far as it can be told, and what is doubtful.
//!
//! Unlike a replica that is alone, a member neither refuses damage nor forgets what lies behind a
//! hole: it acknowledged each op by itself, so any of them may count, and what it lost others have.
//!
//! | state of the op | here | may have been acknowledged |
//! | --- | --- | --- |
//! | present | [`RecoveredOp::Present`] | yes, and it can be shown |
//! | damaged, or below a break in the chain | [`RecoveredOp::Damaged`] | yes: not denied |
//! | torn | [`RecoveredOp::Absent`] | no: denied |
//!
//! What the view began with stays part of its log, here or not: the view's headers name it, and
//! whoever began the view with it may have it from one who committed it. Above that, torn ops at
//! the end are forgotten: the log ends before them.
//!
//! # When the head is unknown
//!
//! A commit number may name an op that nothing here is seen of. Either this member never had it
//! (others committed it, and what told of that was written here first), or its frame is lost. What
//! was written after it may then be lost as well, and a member that took the op for its head would
//! deny what it acknowledged. So the *head is unknown*, and the member asks before it says
//! anything.
//!
//! Not so if a torn frame of a newer op is seen: that is what was being written when the process
//! died, so the end of the journal is here, and nothing beyond what is seen was acknowledged. The
//! ops below that are not here stay damaged, known to be committed or not, and none of them is
//! denied. Without this rule a member that lags, and dies while it writes the newest prepare, would
//! be silent after its restart; with another member dead nobody could answer it, though no disk was
//! damaged.
//!
//! What the rule takes for granted is what is taken for granted of every frame at the end that is
//! not whole ([`super`]): that it was cut off, and did not rot before anything vouched for it.
//!
//! Frames below a break in the chain are kept as *strays*: when a peer's header mends the break,
//! the parents tell which version is meant, and the frame of that version is as good as any.
//!
//! Nothing of this is committed because it is here. Only what a commit number covers is.

use wire::{Checksum, Header, Op};

use super::{Log, OpState};

/// An op of a recovered log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoveredOp {
    /// It is in the journal, whole.
    Present(Header),
    /// It may have been acknowledged and cannot be read; its header may be known.
    Damaged(Option<Header>),
    /// It was never acknowledged; its header may be known.
    Absent(Option<Header>),
}

/// The log of a member after a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberLog {
    /// The op of the checkpoint.
    pub checkpoint_op: Op,
    /// The ops after it.
    pub ops: Vec<RecoveredOp>,
    /// Good frames of ops of which it is not known which version is meant.
    pub strays: Vec<Header>,
    /// Whether the log certainly ends there.
    pub head_known: bool,
    /// The highest commit number that was found.
    pub commit_max: Op,
}

impl Log {
    /// The newest op that a member keeps.
    pub(crate) fn kept(&self) -> Op {
        let began_with = (self.view_head.0 - self.checkpoint_op.0) as usize;
        let torn = self.ops.iter().skip(began_with).rev();
        let torn = torn.take_while(|state| **state == OpState::Torn).count();
        Op(self.checkpoint_op.0 + (self.ops.len() - torn) as u64)
    }

    /// The log of a member; `header_of` finds the header of a checksum among all that was read.
    ///
    /// # Panics
    /// When there is no header for a frame that was found.
    #[must_use]
    pub fn member(&self, header_of: impl Fn(Checksum) -> Option<Header>) -> MemberLog {
        let recovered = |(index, state): (usize, &OpState)| match state {
            OpState::Present(frame) => {
                let header = header_of(frame.summary.checksum);
                RecoveredOp::Present(header.expect("a frame was read with its header"))
            }
            OpState::Damaged { expected, .. } => {
                RecoveredOp::Damaged(expected.and_then(&header_of))
            }
            OpState::Unresolved => RecoveredOp::Damaged(None),
            OpState::Torn => {
                let op = Op(self.checkpoint_op.0 + 1 + index as u64);
                RecoveredOp::Absent(self.torn.get(&op).copied().and_then(&header_of))
            }
        };
        let mut ops: Vec<RecoveredOp> = self.ops.iter().enumerate().map(recovered).collect();
        let (kept, seen) = ((self.kept().0 - self.checkpoint_op.0) as usize, ops.len());
        ops.truncate(kept);
        let torn_end = kept < seen;
        let head_known = torn_end || ops.last() != Some(&RecoveredOp::Damaged(None));
        let (checkpoint_op, commit_max) = (self.checkpoint_op, self.commit_max);
        let strays = self.unresolved.iter();
        let strays = strays.filter_map(|frame| header_of(frame.summary.checksum)).collect();
        MemberLog { checkpoint_op, ops, strays, head_known, commit_max }
    }
}
