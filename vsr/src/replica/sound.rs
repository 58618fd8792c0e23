//! What a peer's message may say: the first look at every field, before anything follows from it.
//!
//! A message that arrives is whole, of this cluster and of who it says it is from. That leaves the
//! numbers in it, which are a claim. Members do not lie, but one whose memory or disk is corrupt
//! may say anything under a right checksum, and it must not take the others down with it. So:
//!
//! 1. *No sense.* A number that no member of this release can have come to (an op above its own
//!    head, a commit number above it, a view sixteen million views away, a list with a wrong order
//!    or parent) makes the message worthless: it is refused, counted, and nothing of it is used.
//!    Sums of what has passed stay far from the ends of their types.
//! 2. *Contradiction.* A prepare of the view that is not what the log of the view has at that op or
//!    beside it is refused likewise. One of the two is wrong, and which one cannot be told; the op
//!    will not commit here along a broken chain.
//! 3. *Divergence.* Where the log of a view, in the words of its own primary, does not continue
//!    what is committed here, the histories of two members differ, and one of them has answered
//!    clients with what never was. The replica stops for good and names the op and both versions
//!    ([`Replica::diverged`]); who drives it ends the process. Nothing less proves a divergence:
//!    third parties, old views and single prepares among many do not.
//!
//! What is left is a member that lies and makes sense. Viewstamped Replication does not defend
//! against that, and neither does this.

use wire::message::{DoViewChange, Prepare, Purpose};
use wire::{Checksum, Header, Op, ReplicaId, Requests, View};

use super::{LogHead, Replica, Status, outbox};
use crate::journal::recovery::Summary;

/// Views that a member may have missed. At one every 120 ms it is away for three weeks of nothing
/// but changes of views.
const VIEWS_AHEAD: u32 = 1 << 24;
/// Ops and nanoseconds beyond which there are none: in the year 2116, or after 146 years of an op
/// each nanosecond.
const NUMBER_MAX: u64 = 1 << 62;

/// The histories of two members differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "op {op} is committed here as {ours}, and the log of view {view}, whose primary is replica \
     {primary}, has {theirs} there (0 is nothing): one of the two has lost or changed what was \
     committed"
)]
pub struct Divergence {
    /// A committed op.
    pub op: Op,
    /// What this replica has there.
    pub ours: Checksum,
    /// What the other log has there.
    pub theirs: Checksum,
    /// The view whose log that is.
    pub view: View,
    /// Its primary.
    pub primary: ReplicaId,
}

impl Replica {
    /// That this replica has stopped because its history is not that of the cluster, and why. It
    /// says and takes nothing any more; the process should end.
    #[must_use]
    pub fn diverged(&self) -> Option<Divergence> {
        self.diverged
    }

    /// Stops for good. The log of the view has something else at a committed op.
    pub(super) fn diverge(&mut self, op: Op, ours: Checksum, theirs: Checksum) {
        let (primary, view) = (self.primary(), self.view);
        self.retire();
        self.status = Status::Diverged;
        self.diverged.get_or_insert(Divergence { op, ours, theirs, view, primary });
        self.timers.stop_all();
        self.appends.clear();
        self.outbox.clear();
    }

    /// A message that makes no sense.
    pub(super) fn refuse(&mut self) {
        self.counters.messages_refused += 1;
    }

    /// Whether a member can be in this view.
    pub(super) fn is_view_sound(&self, view: View) -> bool {
        view <= View(self.view.0.saturating_add(VIEWS_AHEAD)) && view.0 < u32::MAX - VIEWS_AHEAD
    }

    /// Whether these can be the checkpoint, commit number and head of one member.
    pub(super) fn are_ops_sound(&self, checkpoint: Op, commit: Op, head: Op) -> bool {
        checkpoint <= commit && commit <= head && head.0 <= NUMBER_MAX
    }

    /// Whether this can be the header of a prepare of this cluster.
    pub(super) fn is_prepare_sound(&self, header: &Header) -> bool {
        let Some(prepare) = header.tail::<Prepare>() else { return false };
        let Prepare { op, commit, timestamp, request_count, purpose, .. } = prepare;
        // Those of other purposes are not made by this release, and would be taken for requests.
        let content = match purpose {
            Purpose::Requests => request_count > 0,
            Purpose::Pulse => request_count == 0 && header.body_size() == 0,
            Purpose::Genesis | Purpose::Reconfigure | Purpose::Upgrade => false,
        };
        header.cluster() == self.config.cluster
            && header.replica() == self.quorums.primary(header.view())
            && header.size() <= self.config.prepare_size_max
            && self.are_ops_sound(Op(0), commit, op)
            && commit < op
            && op.0 - commit.0 <= self.config.pipeline_max as u64
            && timestamp.0 <= NUMBER_MAX
            && content
    }

    /// The headers in a body that are a stretch of the log of a view, from the highest op down,
    /// `most` of them at most; there may be gaps. `None` if they are not that.
    pub(super) fn sound_list(&self, body: &[u8], view: View, most: usize) -> Option<Vec<Header>> {
        if body.len() > most * wire::HEADER_SIZE {
            return None;
        }
        let headers = outbox::decode(body)?;
        let sound = |header: &Header| header.view() <= view && self.is_prepare_sound(header);
        let sound = headers.iter().all(sound);
        let joined = || headers.windows(2).all(|pair| is_above(&pair[0], &pair[1]));
        (sound && joined()).then_some(headers)
    }

    /// The headers that a start-view has: the head's, and those below it without a gap.
    pub(super) fn start_list(&self, body: &[u8], view: View, head: Op) -> Option<Vec<Header>> {
        let headers = self.sound_list(body, view, self.list_max())?;
        let ops = headers.iter().map(|header| Summary::of(header).op.0);
        let whole = ops.eq((0..=head.0).rev().take(headers.len()));
        (whole && headers.is_empty() == (head == Op(0))).then_some(headers)
    }

    /// The headers of a vote, if all of it can be what a member has.
    pub(super) fn vote_list(
        &self,
        body: &[u8],
        view: View,
        vote: &DoViewChange,
    ) -> Option<Vec<Header>> {
        let &DoViewChange { log_view, op, commit, checkpoint_op, .. } = vote;
        let headers = self.sound_list(body, log_view, self.list_max())?;
        let lowest = op.0.saturating_sub(self.config.pipeline_max as u64);
        let listed = headers.iter().map(|header| Summary::of(header).op);
        let placed = listed.into_iter().all(|listed| (lowest..=op.0).contains(&listed.0));
        // It may know a commit number above its head, but of no op that it could not hold.
        let known = commit.0.saturating_sub(checkpoint_op.0) <= self.config.window() as u64;
        let sound = self.are_ops_sound(Op(0), checkpoint_op, op) && known;
        (log_view < view && placed && sound).then_some(headers)
    }

    /// As many headers as may be in doubt: a pipeline's, and the one before them.
    fn list_max(&self) -> usize {
        self.config.pipeline_max + 1
    }
}

/// Whether a header may be above another in a log: right above only if it continues it.
fn is_above(above: &Header, below: &Header) -> bool {
    let (upper, lower) = (Summary::of(above), Summary::of(below));
    upper.op > lower.op && (upper.op > lower.op.next() || continues(above, &LogHead::of(below)))
}

/// Whether a prepare is the next one after `before`: by its parent, its view and its time.
pub(super) fn continues(header: &Header, before: &LogHead) -> bool {
    let prepare = header.tail::<Prepare>().expect("the header of a prepare");
    prepare.parent == before.checksum
        && header.view() >= before.view
        && (before.op == Op(0) || prepare.timestamp.0 > before.version_max.0)
}

/// Whether a body is what its prepare's header says: well-formed requests, as many, with as many
/// operations as have a version.
pub(super) fn is_body_sound(header: &Header, body: &[u8]) -> bool {
    let prepare = header.tail::<Prepare>().expect("the header of a prepare");
    if prepare.purpose != Purpose::Requests {
        return true;
    }
    let Ok(requests) = Requests::verify(body) else { return false };
    let counts = requests.fold((0u64, 0u64), |(requests, operations), request| {
        (requests + 1, operations + u64::from(request.operation_count()))
    });
    counts == (u64::from(prepare.request_count), u64::from(prepare.version_count))
}
