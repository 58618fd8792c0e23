//! Whether a segment may go before anything new is vouched for.
//!
//! A restart needs a segment to write to, and until its first marker is durable nothing says again
//! what that segment said. While the process ran the ring knew which segments had nothing to say
//! that the newest marker did not; a restart finds it out by working the log out once more, without
//! the segment: nothing that is here may be missing then, and nothing that may have been
//! acknowledged may look torn.

use super::{Evidence, Log, LogView, OpState, SegmentId, decide};

impl Log {
    /// Whether a restart would know as much without this segment.
    pub(crate) fn stands_without(
        &self,
        view: &LogView,
        evidence: &Evidence,
        segment: SegmentId,
    ) -> bool {
        let Ok(rest) = decide(view, &evidence.without(segment)) else { return false };
        self.ops.iter().enumerate().all(|(index, state)| {
            let after = rest.ops.get(index).unwrap_or(&OpState::Torn);
            match state {
                OpState::Present(_) => matches!(after, OpState::Present(_)),
                OpState::Damaged { .. } | OpState::Unresolved => *after != OpState::Torn,
                OpState::Torn => true,
            }
        })
    }
}
