//! The schedule of groups, bars and checkpoints: a pure function of the log.
//!
//! Ops are dispatched to the shards in *groups*; a run of groups is a *bar*, after which all shards
//! swap their memtables. Every replica, and every replay, must end groups, bars and checkpoints at
//! the same ops, so what decides is known from the log alone:
//!
//! 1. A group closes at [`GROUP_OPS`] ops, or when its requests and their capped effects reach a
//!    sixteenth of a bar's bytes.
//! 2. At a group's end the shards report the bytes in their mutable memtables; that number is a
//!    function of the ops applied. Whether the bar ends with group n is decided from the report of
//!    group n−1, never from a later one that happens to be there: so an op that closes a group
//!    waits for the report of the group before ([`Schedule::ready`]), and at most one group runs
//!    ahead.
//! 3. The bar ends with a group once any memtable is due, once the bar's share of the log is
//!    used up, or with the pulse that makes its progress whole.
//! 4. At a bar's end a checkpoint is due when the log could not hold two more bars, and after
//!    four bars without one, so that released blocks come free. Its op is the last op of the bar
//!    before (the newest that is flushed in full), so it must be above the last checkpoint's. What
//!    it releases becomes free at F(C): the end of the bar after.
//!
//! *Progress* is the share of the bar that is over, in parts of [`Progress::WHOLE`]: each shard
//! keeps the share it has paid of its jobs at or above it. It is the larger of memtable fill (the
//! report two groups back and all requests since, as if they went to one shard; what effects really
//! add shows in the next report) and log use, plus a fixed step per pulse; it never falls.
//!
//! Why the memtable cannot overflow: it is due at `memtable_bytes` in the report of group n−1, the
//! bar ends with group n at the latest, and a group overshoots by one prepare at most. Why the log
//! cannot: a checkpoint triggered at a bar's end is durable one bar later. [`Limits::validate`]
//! checks both at format.
//!
//! Replaying from a checkpoint starts at a bar's first op with this state empty, as it was then.

use thiserror::Error;

/// Ops in a group at most.
pub const GROUP_OPS: u32 = 16;
/// A group's bytes are this part of a bar's.
const GROUPS_PER_BAR: u64 = 16;
const _: () = assert!((1_u32 << 16).is_multiple_of(PULSES_PER_BAR));
/// Bars after which a checkpoint is due whatever the log holds.
const CHECKPOINT_BARS_MAX: u32 = 4;
/// Bars that may pass between the release of a block and its being free, at most: until a
/// checkpoint is triggered, and one more.
pub const BARS_UNTIL_FREE: u32 = CHECKPOINT_BARS_MAX + 2;
/// Pulses that end a bar on their own.
pub const PULSES_PER_BAR: u32 = 32;

/// Format-time numbers that the schedule is computed from, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A memtable with this many bytes is due.
    pub memtable_bytes: u64,
    /// What a memtable can hold.
    pub memtable_bytes_max: u64,
    /// What the log may hold beyond the last durable checkpoint.
    pub log_bytes_max: u64,
    /// A prepare's share of the log at most, frame and padding included.
    pub prepare_bytes_max: u64,
    /// Memtable bytes that one prepare can cause on one shard at most.
    pub effects_bytes_max: u64,
    /// Prepares in flight at most.
    pub pipeline: u64,
}

/// A relation of [`Limits`] that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// The log between checkpoints is too small.
    #[error("the log keeps {actual} bytes between checkpoints; three bars need {needed}")]
    Log {
        /// Bytes needed.
        needed: u64,
        /// Bytes configured.
        actual: u64,
    },
    /// The memtable's arena is too small.
    #[error("the memtable holds {actual} bytes; a bar with its last groups needs {needed}")]
    Memtable {
        /// Bytes needed.
        needed: u64,
        /// Bytes configured.
        actual: u64,
    },
}

impl Limits {
    /// What a group holds before it closes; its last prepare may go beyond.
    #[must_use]
    pub fn group_bytes(&self) -> u64 {
        (self.memtable_bytes / GROUPS_PER_BAR).max(1)
    }

    /// What a memtable must be able to hold: it fills up, two groups follow, and the last prepare
    /// overshoots.
    #[must_use]
    pub fn memtable_bytes_needed(&self) -> u64 {
        self.memtable_bytes + 2 * self.group_bytes() + 3 * self.effects_bytes_max
    }

    /// Log bytes after which a bar ends whatever its memtables hold.
    #[must_use]
    pub fn bar_log_bytes(&self) -> u64 {
        self.log_bytes_max.saturating_sub(self.slack()) / 3
    }

    /// Checks the relations that the schedule relies on.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let needed = self.memtable_bytes_needed();
        if self.memtable_bytes_max < needed {
            return Err(LimitsError::Memtable { needed, actual: self.memtable_bytes_max });
        }
        // A bar must be able to hold at least a few prepares.
        let needed = 3 * 4 * self.prepare_bytes_max + self.slack();
        if self.log_bytes_max < needed {
            return Err(LimitsError::Log { needed, actual: self.log_bytes_max });
        }
        Ok(())
    }

    /// Log bytes that may follow the op at which a bar was due: two groups and the pipeline.
    fn slack(&self) -> u64 {
        2 * u64::from(GROUP_OPS).saturating_mul(self.prepare_bytes_max).min(self.group_log_bytes())
            + self.pipeline * self.prepare_bytes_max
    }

    /// A group's share of the log: sixteen prepares, small ones or few large ones.
    fn group_log_bytes(&self) -> u64 {
        let padding = u64::from(GROUP_OPS) * 8192;
        self.group_bytes() + self.prepare_bytes_max + padding
    }
}

/// The share of a bar that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress(u32);

impl Progress {
    /// A bar that is over.
    pub const WHOLE: Progress = Progress(1 << 16);
    /// What a pulse adds.
    const PULSE: Progress = Progress((1 << 16) / PULSES_PER_BAR);

    /// The share `part / whole`, rounded up, at most all.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Progress {
        assert!(whole > 0, "a share of nothing");
        if part >= whole {
            return Progress::WHOLE;
        }
        let share = (u128::from(part) << 16).div_ceil(u128::from(whole));
        Progress(share as u32)
    }

    /// This share of an amount of work, rounded up.
    #[must_use]
    pub fn share_of(self, work: u64) -> u64 {
        let share = (u128::from(work) * u128::from(self.0)).div_ceil(1 << 16);
        share as u64
    }

    fn plus(self, other: Progress) -> Progress {
        Progress((self.0 + other.0).min(Progress::WHOLE.0))
    }
}

/// What an op weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of its frame in the log.
    pub log_bytes: u64,
    /// Bytes that its requests add to one memtable at most, as they stand in the log.
    pub memtable_bytes: u64,
    /// Bytes that their effects, capped, can add beyond that; of a pulse, what it can delete.
    pub effects_bytes: u64,
    /// Whether it carries no requests.
    pub pulse: bool,
}

impl Weight {
    fn bytes_max(&self) -> u64 {
        self.memtable_bytes + self.effects_bytes
    }
}

/// What comes with an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The progress for the beat of this op.
    pub progress: Progress,
    /// The group that ends with this op: shards report their memtable bytes under this number.
    pub group_end: Option<u64>,
    /// The bar that ends with this op.
    pub bar_end: Option<BarEnd>,
}

/// The end of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarEnd {
    /// Its last op.
    pub op: u64,
    /// A checkpoint of this op is triggered now.
    pub checkpoint: Option<u64>,
    /// F(C): what the checkpoint of this op released becomes free now. It must be durable.
    pub free: Option<u64>,
}

/// The schedule; see the module.
#[derive(Clone, Debug)]
pub struct Schedule {
    limits: Limits,
    op: u64,
    /// Log bytes since the newest checkpoint's op.
    log_bytes: u64,
    /// Op of the newest checkpoint, triggered or durable.
    checkpoint_op: u64,
    /// Bars ended beyond the newest checkpoint's op.
    checkpoint_bars: u32,
    pending: Option<Pending>,
    /// Last op of the bar before: the newest op that is flushed in full when this bar ends.
    previous_bar_end: u64,
    bar: Bar,
    group: Group,
}

/// A checkpoint whose released blocks are not free yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    op: u64,
    bar_ends_left: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bar {
    log_bytes: u64,
    progress: Progress,
    pulses: Progress,
    /// The group before the open one, if this bar has one.
    closed: Option<Group>,
    /// The largest memtable when the group before `closed` ended.
    memtable_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Group {
    number: u64,
    ops: u32,
    memtable_bytes: u64,
    /// The same with effects.
    bytes_max: u64,
    /// Largest memtable of any shard at the group's end, once reported.
    report: Option<u64>,
}

impl Schedule {
    /// The schedule right after the checkpoint of `checkpoint_op`; 0 for an empty log.
    #[must_use]
    pub fn new(limits: Limits, checkpoint_op: u64) -> Schedule {
        assert_eq!(limits.validate(), Ok(()), "format checks the limits");
        // The checkpoint was triggered at the end of the bar that is replayed first.
        let pending =
            (checkpoint_op > 0).then_some(Pending { op: checkpoint_op, bar_ends_left: 2 });
        Schedule {
            limits,
            op: checkpoint_op,
            log_bytes: 0,
            checkpoint_op,
            checkpoint_bars: 0,
            pending,
            previous_bar_end: checkpoint_op,
            bar: Bar::default(),
            group: Group::default(),
        }
    }

    /// Whether an op of this weight can be dispatched now: one that closes a group waits for the
    /// report of the group before.
    #[must_use]
    pub fn ready(&self, weight: &Weight) -> bool {
        let reported = self.bar.closed.is_none_or(|group| group.report.is_some());
        reported || !self.closes_group(weight)
    }

    /// Takes the next op of the log.
    pub fn dispatch(&mut self, op: u64, weight: &Weight) -> Step {
        assert_eq!(op, self.op + 1, "ops are dispatched in order");
        assert!(self.ready(weight), "op {op} closes a group before the last one is reported");
        let closes = self.closes_group(weight);
        self.op = op;
        self.log_bytes += weight.log_bytes;
        self.bar.log_bytes += weight.log_bytes;
        self.bar.progress = self.progress_with(weight);
        self.group.ops += 1;
        self.group.memtable_bytes += weight.memtable_bytes;
        self.group.bytes_max += weight.bytes_max();
        if weight.pulse {
            self.bar.pulses = self.bar.pulses.plus(Progress::PULSE);
        }
        let progress = self.bar.progress;
        if !closes {
            return Step { progress, group_end: None, bar_end: None };
        }
        let number = self.group.number;
        let reported = self.bar.closed.and_then(|group| group.report).unwrap_or(0);
        let bar_end = self.bar_due(reported, weight).then(|| self.end_bar());
        if bar_end.is_none() {
            self.bar.memtable_bytes = reported;
            self.bar.closed = Some(self.group);
        }
        self.group = Group { number: number + 1, ..Group::default() };
        Step { progress, group_end: Some(number), bar_end }
    }

    /// Takes the largest memtable of any shard at the end of a group.
    pub fn report(&mut self, group: u64, memtable_bytes: u64) {
        assert!(memtable_bytes <= self.limits.memtable_bytes_max, "a memtable overflowed");
        // The report of a bar's last group is about memtables that are immutable by now.
        if let Some(closed) = self.bar.closed.as_mut().filter(|closed| closed.number == group) {
            closed.report = Some(memtable_bytes);
        }
    }

    /// Op of the newest checkpoint that was triggered.
    #[must_use]
    pub fn checkpoint_op(&self) -> u64 {
        self.checkpoint_op
    }

    fn closes_group(&self, weight: &Weight) -> bool {
        self.group.ops + 1 >= GROUP_OPS
            || self.group.bytes_max + weight.bytes_max() >= self.limits.group_bytes()
            || (weight.pulse && self.progress_with(weight) == Progress::WHOLE)
    }

    /// The progress once an op of this weight is dispatched. Only reports whose group is two before
    /// the open one count, so it does not matter when the newer one arrives.
    fn progress_with(&self, weight: &Weight) -> Progress {
        let closed = self.bar.closed.map_or(0, |group| group.memtable_bytes);
        let since = closed + self.group.memtable_bytes + weight.memtable_bytes;
        let memtable = Progress::of(self.bar.memtable_bytes + since, self.limits.memtable_bytes);
        let log_bytes = self.bar.log_bytes + weight.log_bytes;
        let log = Progress::of(log_bytes, self.limits.bar_log_bytes());
        let pulse = if weight.pulse { Progress::PULSE } else { Progress::default() };
        self.bar.progress.max(memtable.max(log).plus(self.bar.pulses).plus(pulse))
    }

    fn bar_due(&self, reported: u64, weight: &Weight) -> bool {
        reported >= self.limits.memtable_bytes
            || self.bar.log_bytes >= self.limits.bar_log_bytes()
            || (weight.pulse && self.bar.progress == Progress::WHOLE)
    }

    fn end_bar(&mut self) -> BarEnd {
        let op = self.op;
        let free = self.pending.take_if(|pending| pending.bar_ends_left == 1);
        if let Some(pending) = &mut self.pending {
            pending.bar_ends_left -= 1;
        }
        // Two more bars may pass before a checkpoint triggered at the next bar's end is durable.
        let ahead = 2 * self.limits.bar_log_bytes() + self.limits.slack();
        self.checkpoint_bars += 1;
        let due = self.log_bytes + ahead > self.limits.log_bytes_max
            || self.checkpoint_bars > CHECKPOINT_BARS_MAX;
        let newer = self.previous_bar_end > self.checkpoint_op;
        let checkpoint = (due && newer).then_some(self.previous_bar_end);
        if let Some(checkpoint_op) = checkpoint {
            self.checkpoint_bars = 1;
            assert!(self.pending.is_none(), "one checkpoint at a time");
            self.checkpoint_op = checkpoint_op;
            self.log_bytes = self.bar.log_bytes;
            self.pending = Some(Pending { op: checkpoint_op, bar_ends_left: 1 });
        }
        self.previous_bar_end = op;
        self.bar = Bar::default();
        BarEnd { op, checkpoint, free: free.map(|pending| pending.op) }
    }
}

#[cfg(test)]
mod tests;
