//! From requests to ops: the open prepare, group commit, the place in the log.
//!
//! Only a primary whose view is durable and known to a quorum does this, or a replica that is
//! alone.
//!
//! 1. A request (operations already encoded, with the tag its answer goes to) is copied into the
//!    open [`Batch`]. Requests wait nowhere else: when the batch is full and cannot be closed, the
//!    request is refused with the [`Bottleneck`] and stays with whoever has it.
//! 2. *Group commit* closes it: at once while no partly filled prepare waits for its quorum (alone:
//!    for the disk); otherwise what arrives goes into the next one, and that goes out in parallel
//!    only when it is worth a write of its own (64 KiB) or the oldest write is overdue. So a lone
//!    request waits for nobody, and a thousand share one write.
//! 3. A closed prepare gets the next op, a timestamp after every version before it, and the
//!    checksum of the prepare before it as its parent. It is summed once and never copied again.
//!
//! No op is given beyond the pipeline's length after what was given out as committed. That is what
//! lets a view change conclude that an op a pipeline's length behind the head is committed.
//!
//! Source of group commit: DeWitt et al., SIGMOD '84.

use wire::message::{Prepare, Purpose};
use wire::{Draft, Op, RequestView, Timestamp};

use super::batch::Batch;
use super::log::{Bytes, Entry};
use super::{Bottleneck, LogHead, Moment, PULSE_VERSION_COUNT, Refused, Replica};
use crate::journal::frame_size;

impl Replica {
    /// Takes a request into the open prepare.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the request was then taken.
    pub fn on_request(&mut self, request: &RequestView<'_>) -> Result<(), Refused> {
        let size = request.bytes().len();
        self.can_accept(size)?;
        if self.batch.as_ref().is_some_and(|batch| !batch.fits(size)) {
            self.close();
        }
        if self.batch.is_none() {
            let buffer = self.pool.try_take().ok_or(Refused::Full(Bottleneck::Buffers))?;
            self.batch = Some(Batch::new(buffer, self.config.frame_end_max()));
        }
        let batch = self.batch.as_mut().expect("there is an open batch now");
        batch.push(request);
        self.counters.requests += 1;
        self.counters.operations += u64::from(request.operation_count());
        Ok(())
    }

    /// Whether a request of `size` bytes would be taken now.
    ///
    /// # Errors
    /// [`Refused`] as [`Replica::on_request`] would say.
    pub fn can_accept(&self, size: usize) -> Result<(), Refused> {
        let limit = self.config.request_size_max();
        if !self.serves() {
            return Err(Refused::NotServing);
        }
        if size > limit {
            return Err(Refused::TooLarge { size, limit });
        }
        match &self.batch {
            Some(batch) if batch.fits(size) => Ok(()),
            Some(batch) => self.can_close(batch.body_size()).and_then(|()| self.can_open()),
            None => self.can_open(),
        }
    }

    fn can_open(&self) -> Result<(), Refused> {
        let free = self.pool.available() > 0;
        if free { Ok(()) } else { Err(Refused::Full(Bottleneck::Buffers)) }
    }

    /// Whether requests of `body_size` bytes, or with none a pulse, can be given an op.
    pub(super) fn can_close(&self, body_size: usize) -> Result<(), Refused> {
        if self.in_flight() >= self.config.pipeline_max || !self.log.holds(self.head.op.next()) {
            return Err(Refused::Full(Bottleneck::Pipeline));
        }
        if !self.budget.admits(frame_size(wire::HEADER_SIZE + body_size) as u64, body_size == 0) {
            return Err(Refused::Full(Bottleneck::Log));
        }
        Ok(())
    }

    /// Work is due that only ops pay for: unless requests do it first, a pulse is proposed. Asking
    /// again before one went out changes nothing.
    pub fn request_pulse(&mut self) {
        self.pulse_wanted = true;
    }

    /// A read met a deadline that now has passed and log time has not ([`Expiry::Due`]): makes sure
    /// that an op commits that passes it. Returns whether one will; if not, the deadline is still
    /// to come by the replica's own clock, and the entry is live.
    pub fn request_time(&mut self, deadline: Timestamp, moment: Moment) -> bool {
        self.look_at_clocks(moment);
        if self.head.timestamp >= deadline {
            return true;
        }
        let due = deadline <= self.clock.now();
        self.pulse_wanted |= due;
        due
    }

    /// What could be given an op now: the open prepare, or a pulse that is wanted when there is
    /// none or when it waits for the checkpoint that pulses pay for.
    pub(super) fn next_close(&self) -> Option<Purpose> {
        if !self.serves() {
            return None;
        }
        let batch = self.batch.as_ref().map(|batch| self.can_close(batch.body_size()));
        if batch == Some(Ok(())) {
            return Some(Purpose::Requests);
        }
        let pulse = self.pulse_wanted && self.can_close(0).and_then(|()| self.can_open()).is_ok();
        pulse.then_some(Purpose::Pulse)
    }

    /// Group commit.
    pub(super) fn is_time_to_close(&self, purpose: Purpose) -> bool {
        let size = self.batch.as_ref().map_or(0, Batch::body_size);
        !self.waiting().any(|entry| entry.partly_filled)
            || (purpose == Purpose::Requests && size >= self.config.parallel_size)
            || self.overdue_at_ns().is_some_and(|at| at <= self.monotonic_ns)
    }

    pub(super) fn overdue_at_ns(&self) -> Option<u64> {
        Some(self.waiting().next()?.closed_at_ns + self.config.overdue_ns)
    }

    /// Ops without a quorum.
    fn waiting(&self) -> impl Iterator<Item = &Entry> {
        let quorum = self.quorums.replication;
        let uncommitted = self.log.range(self.committed.op.next(), self.log.head());
        uncommitted.map(|(_, entry)| entry).filter(move |entry| entry.oks.count() < quorum)
    }

    pub(super) fn close(&mut self) {
        let batch = self.batch.take().expect("only an open prepare is closed");
        self.order(batch);
    }

    pub(super) fn close_pulse(&mut self) {
        // Whoever shares the pool may just have taken the last buffer: the pulse stays wanted.
        if let Some(buffer) = self.pool.try_take() {
            self.order(Batch::new(buffer, self.config.frame_end_max()));
        }
    }

    /// Gives a prepare its place in the log; one without requests is a pulse.
    fn order(&mut self, batch: Batch) {
        let pulse = batch.request_count() == 0;
        let now = self.clock.now().0;
        let timestamp = Timestamp(now.max(self.head.version_max.0 + 1));
        let prepare = Prepare {
            parent: self.head.checksum,
            checkpoint: self.checkpoint_id,
            op: self.head.op.next(),
            commit: self.commit(),
            timestamp,
            version_count: if pulse { PULSE_VERSION_COUNT } else { batch.operation_count() },
            request_count: batch.request_count(),
            purpose: if pulse { Purpose::Pulse } else { Purpose::Requests },
        };
        let draft: Draft = self.draft();
        let partly_filled = batch.body_size() < self.config.parallel_size;
        let (header, buffer) =
            batch.close(|body_size, sum| draft.seal_summed(&prepare, body_size, sum));
        let head = LogHead::of(&header);
        assert!(head.timestamp.0 > self.head.version_max.0 || self.head.op == Op(0));
        assert!(prepare.commit < prepare.op, "an op is not committed before it exists");
        self.clock.raise(timestamp);
        self.budget.add(head.op, frame_size(header.size()) as u64);
        let entry = self.log.push(header);
        (entry.bytes, entry.ordered) = (Bytes::Closed(buffer), true);
        (entry.partly_filled, entry.closed_at_ns) = (partly_filled, self.monotonic_ns);
        self.appends.push_back(head.op);
        self.head = head;
        self.pulse_wanted = false;
        self.counters.closed(pulse, header.body_size());
    }
}
