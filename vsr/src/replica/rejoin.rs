//! How a member begins: with what its journal and superblock have, and with whom it has to speak
//! first.
//!
//! | found | begins as |
//! | --- | --- |
//! | the log's head is unknown | silent, until a start-view tells it |
//! | the view is above the log view | one that has left a view: it asks for the new one |
//! | they are the same, and it is its primary | one that would leave the view |
//! | they are the same, and it is a backup | a backup of that view |
//!
//! A primary does not know what it had sent and not yet written. A backup has all that it
//! acknowledged, or knows it to be damaged. `view_change` has the arguments.
//!
//! Only what is known to be committed is applied at the start: it is given out as commits like all
//! that follow, read from the journal. The rest is log, and what becomes of it the view decides.
//!
//! A new cluster's members all begin like this too, with empty logs in view 0.

use ioring::BufferPool;
use wire::{CheckpointId, Header, Op};

use super::log::{Disk, Log};
use super::timeouts::Timer;
use super::{Canary, Config, LogHead, Moment, Replica, Status, ViewRecord};
use crate::journal::frame_size;
use crate::journal::recovery::{MemberLog, RecoveredOp, Summary};

impl Replica {
    /// A member of a cluster of several, as its journal and superblock have it. `checkpoint` is the
    /// header of the checkpoint's prepare; there is none at op 0.
    ///
    /// # Panics
    /// When the configuration contradicts itself or the recovered log, or the pool's buffers are
    /// too small.
    #[must_use]
    pub fn rejoined(
        config: Config,
        pool: BufferPool,
        log: &MemberLog,
        record: &ViewRecord,
        checkpoint: (Option<Header>, CheckpointId),
        moment: Moment,
    ) -> Replica {
        assert!(!config.is_alone(), "a replica that is alone has nobody to rejoin");
        let (header, id) = checkpoint;
        let base = header.as_ref().map_or_else(|| LogHead::root(config.cluster), LogHead::of);
        assert_eq!(base.op, log.checkpoint_op, "the log follows the checkpoint");
        let entries = Log::new(base.op, header, config.window());
        let mut replica = Replica::new(config, pool, entries, base, (base.op, id), moment);
        replica.vouched = (record.view, record.log_view);
        (replica.view, replica.log_view) = replica.vouched;
        replica.view_headers.clone_from(&record.headers);
        let forgets = config.breaks(Canary::ForgetView);
        if forgets {
            replica.vouched.0 = record.log_view;
            replica.view = record.log_view;
        }
        replica.load(log);
        replica.commit_max = log.commit_max.max(record.commit_max).max(base.op);
        replica.begin(log.head_known || forgets);
        replica
    }

    /// Takes over what was recovered.
    fn load(&mut self, log: &MemberLog) {
        self.log.keep_strays(&log.strays);
        self.log.extend(Op(log.checkpoint_op.0 + log.ops.len() as u64));
        for (index, recovered) in log.ops.iter().enumerate() {
            let op = Op(log.checkpoint_op.0 + 1 + index as u64);
            let entry = self.log.get_mut(op).expect("the log was extended to it");
            let (disk, acknowledged, header) = match *recovered {
                RecoveredOp::Present(header) => (Disk::Durable, true, Some(header)),
                RecoveredOp::Damaged(header) => (Disk::Absent, true, header),
                RecoveredOp::Absent(header) => (Disk::Absent, false, header),
            };
            // What an op names as its parent may be another op, if its primary lied.
            let header = header.filter(|header| Summary::of(header).op == op);
            (entry.disk, entry.acknowledged) = (disk, acknowledged);
            (entry.header, entry.trusted) = (header, header.is_some());
            if let (Disk::Durable, Some(header)) = (disk, header) {
                self.budget.add(op, frame_size(header.size()) as u64);
            }
        }
    }

    fn begin(&mut self, head_known: bool) {
        let now_ns = self.monotonic_ns;
        self.timers.set(Timer::Ping, now_ns);
        self.timers.set(Timer::Again, now_ns);
        if !head_known {
            self.status = Status::RecoveringHead;
            return;
        }
        let silence_ns = self.silence_ns();
        self.timers.spread(Timer::Silence, now_ns, silence_ns);
        if self.log_view < self.view {
            self.status = Status::ViewChange;
            self.on_change_durable();
        } else if self.is_primary() && self.config.breaks(Canary::LeadAfterRestart) {
            self.leaving.chosen = true;
            self.status = Status::ViewChange;
            self.try_begin();
        } else if self.is_primary() {
            self.status = Status::ViewChange;
            self.suspect();
        } else {
            self.status = Status::Normal;
        }
        self.advance_commit();
        self.expect_repair();
    }
}
