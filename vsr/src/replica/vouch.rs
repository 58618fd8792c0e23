//! What must be durable before what is said: view, log view, and the headers that its log began
//! with.
//!
//! A message is a promise that a restart must keep. So the superblock has
//!
//! 1. the view, before start-view-change or do-view-change of it is sent: from then on nothing of
//!    an older view is acknowledged, also after a restart;
//! 2. the log view and its headers, before start-view or a prepare-ok of it is sent, and before
//!    anything of it is journaled: a restart finds which frames belong to the log of the view, and
//!    a do-view-change that follows says so.
//!
//! The headers are those that the log had when the view began. A restart takes everything of the
//! view above them, and below them only what they name, through the parents.
//!
//! A crash before the record is durable leaves the record before it, in which none of this was
//! said.
//!
//! One record is written at a time. If the view changes meanwhile, the next one follows.

use wire::message::PrepareOk;
use wire::{Checksum, Header, Op, View};

use super::log::{Disk, Entry};
use super::{Canary, Replica, Status};

/// What the superblock must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewRecord {
    /// The newest view that this replica acts in.
    pub view: View,
    /// The view whose log it has.
    pub log_view: View,
    /// The newest headers of that log when the view began, in op order, without gaps. In the
    /// journal what is above the last of them and not of the log view is given up.
    pub headers: Vec<Header>,
    /// The highest committed op that is in the journal.
    pub commit_max: Op,
}

impl Replica {
    /// What is to be made durable in the superblock; `None` when it is. Only one record may be on
    /// its way.
    #[must_use]
    pub fn view_to_persist(&self) -> Option<ViewRecord> {
        if self.vouched == (self.view, self.log_view) || self.diverged.is_some() {
            return None;
        }
        let is_here =
            |op: &Op| self.log.get(*op).is_none_or(|entry| matches!(entry.disk, Disk::Durable));
        let committed = (self.log.base().0..=self.committed.op.0).rev().map(Op).find(is_here);
        Some(ViewRecord {
            view: self.view,
            log_view: self.log_view,
            headers: self.view_headers.clone(),
            commit_max: committed.expect("the base is here"),
        })
    }

    /// The superblock with this view and log view is durable.
    ///
    /// # Panics
    /// When they were never to be persisted.
    pub fn on_view_durable(&mut self, view: View, log_view: View) {
        let (before_view, before_log_view) = self.vouched;
        assert!(view >= before_view && log_view >= before_log_view, "views only rise");
        assert!(view <= self.view && log_view <= self.log_view, "view {view} was not asked for");
        self.vouched = (view, log_view);
        if self.config.is_alone() {
            assert_eq!((view, log_view), (self.view, self.log_view), "alone, views rise at start");
            self.status = Status::Normal;
            return;
        }
        match self.status {
            Status::ViewChange => self.on_change_durable(),
            Status::Normal => self.acknowledge_all(),
            Status::Recovering | Status::RecoveringHead | Status::Behind | Status::Diverged => {}
        }
    }

    /// Whether the log of the durable view certainly has no use for this prepare: the journal may
    /// forget it. What is not known to be given up is not.
    #[must_use]
    pub fn has_given_up(&self, op: Op, checksum: Checksum) -> bool {
        if self.vouched.1 != self.log_view || self.status == Status::RecoveringHead {
            return false;
        }
        let named = self.log.get(op).filter(|entry| entry.trusted).and_then(Entry::checksum);
        op > self.log.head() || named.is_some_and(|named| named != checksum)
    }

    /// Whether what this replica says as a member of the view is covered by the superblock.
    pub(super) fn vouches(&self) -> bool {
        let durable = self.vouched == (self.view, self.log_view);
        let broken = self.config.breaks(Canary::AcknowledgeUnvouched);
        self.status == Status::Normal && (durable || broken)
    }

    /// Acknowledges all that is durable and not known to be committed, in the view that has become
    /// durable.
    pub(super) fn acknowledge_all(&mut self) {
        if self.is_primary() || !self.vouches() {
            return;
        }
        for op in (self.commit_max.0 + 1..=self.log.head().0).map(Op) {
            self.acknowledge(op);
        }
    }

    /// Tells the primary that the prepare at `op` is durable here, if it is and may be vouched for.
    pub(super) fn acknowledge(&mut self, op: Op) {
        if !self.vouches() || self.is_primary() {
            return;
        }
        let Some(entry) = self.log.get(op).filter(|entry| entry.trusted) else { return };
        let (Disk::Durable, Some(prepare)) = (entry.disk, entry.checksum()) else { return };
        let ok = PrepareOk {
            prepare,
            op,
            commit: self.committed.op,
            checkpoint: self.checkpoint_id,
            incarnation: self.config.incarnation,
        };
        self.send(self.primary(), &ok);
    }
}
