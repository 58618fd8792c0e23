//! Pulses: ops without requests, for work that is due while nobody asks for anything.
//!
//! Compaction is paid for by ops. When the log is idle and there is still work that only ops pay
//! for (the bar's jobs, deadlines that have passed, the checkpoint that requests wait for when the
//! log has no room for them; while writes are refused for want of space, bars that bring some
//! back), the replica is asked for a pulse, and for the next one when that is applied. Once the log
//! has been idle for [`QUIET`], runs that could become fewer are reason enough. An idle node
//! without such work sleeps: there is a timer only while there is something to wait for. A node
//! that stops asks for no more than its accepted requests need.
//!
//! In a cluster only the primary proposes pulses: the others have the same work, and it is the same
//! ops that pay for it.
//!
//! What waits for ops is known to the core that has it: the others send theirs ([`Work`]) with what
//! they have applied, and a pulse is asked for only when all of them have applied the last one.

use std::rc::Rc;
use std::time::Duration;

use ioring::{Instant, Queue, spawn};

use crate::core::{Admission, Core};
use crate::metrics::Counter;
use crate::status::Phase;

/// The log counts as idle when nothing was committed for this long.
const IDLE: Duration = Duration::from_millis(20);
/// And so long ago that the next request is not expected at once: what is not urgent is done.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_LOOKS: u32 = (QUIET.as_millis() / IDLE.as_millis()) as u32;
/// The longest sleep before a deadline is looked at again: clocks are slewed.
const DEADLINE_SLEEP_MAX: Duration = Duration::from_secs(60);

/// Starts the task on the replica's core.
pub fn start(core: &Rc<Core>) {
    let core = core.clone();
    spawn(Queue::Background, "pulse", async move { run(&core).await }).detach();
}

async fn run(core: &Core) {
    // How often the log was looked at since it moved last, but for pulses; where it stood, and
    // where the last pulse takes it.
    let (mut looks, mut stood, mut pulse) = (0, core.applier.applied(), None);
    loop {
        let seen = core.applier.applied();
        if seen != stood && Some(seen) != pulse {
            looks = 0;
        }
        stood = seen;
        if !core.replica().proposes() {
            core.activity.wait().await;
            continue;
        }
        match due(core) {
            Due::Now | Due::WhenQuiet => {
                ioring::sleep(IDLE).await;
                let replica = core.replica();
                let idle = replica.is_idle() || replica.waits_for_log();
                let applied = core.applier.applied() == seen && core.have_all_applied(seen);
                if !(idle && applied) {
                    continue;
                }
                looks += 1;
                let is_due = match due(core) {
                    Due::Now => true,
                    Due::WhenQuiet => looks >= QUIET_LOOKS,
                    Due::In(_) | Due::Never => false,
                };
                if is_due {
                    core.metrics.count(Counter::Pulses);
                    core.replica().request_pulse();
                    pulse = Some(seen.next());
                    core.activity.wait().await;
                }
            }
            Due::In(duration) => {
                let wait = duration.min(DEADLINE_SLEEP_MAX);
                ioring::select(core.activity.wait(), ioring::sleep(wait)).await;
            }
            Due::Never => core.activity.wait().await,
        }
    }
}

/// What of a core's work waits for ops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Jobs of the bar are not paid for.
    jobs: bool,
    /// Bars would bring space back.
    space: bool,
    /// Bars would make runs fewer.
    tidy: bool,
    /// The first deadline.
    deadline: Option<u64>,
    /// Until when deadlines alone are no reason for a pulse.
    paused_until: Option<Instant>,
}

impl Work {
    /// That of this core.
    #[must_use]
    pub fn of(core: &Core) -> Work {
        let (mut work, now) = (Work::default(), ioring::now());
        work.paused_until = core.keeper.expiry_pause().map(|pause| now + pause);
        core.applier.with_shards(|shards| {
            for pending in shards.iter().map(|shard| shard.forest().pending()) {
                work.jobs |= pending.jobs;
                work.space |= pending.space;
                work.tidy |= pending.tidy;
                work.deadline = match (work.deadline, pending.deadline) {
                    (Some(a), Some(b)) => Some(u64::min(a, b)),
                    (a, b) => a.or(b),
                };
            }
        });
        work
    }

    fn due(&self, core: &Core, now: u64) -> Due {
        let short = matches!(core.space.get(), Admission::Deletes | Admission::None);
        let pause = || {
            let left = self.paused_until?.since(ioring::now());
            (!left.is_zero()).then_some(left)
        };
        match self.deadline {
            _ if self.jobs || short && self.space => Due::Now,
            Some(deadline) if deadline <= now && pause().is_none() => Due::Now,
            _ if self.tidy => Due::WhenQuiet,
            Some(deadline) if deadline <= now => pause().map_or(Due::Now, Due::In),
            Some(deadline) => Due::In(Duration::from_nanos(deadline - now)),
            None => Due::Never,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Now,
    /// Once the log has been idle for [`QUIET`].
    WhenQuiet,
    In(Duration),
    Never,
}

/// When there is work that a pulse would pay for.
fn due(core: &Core) -> Due {
    // A node that stops finishes what it has, and proposes nothing that can be done later.
    if core.replica().waits_for_log() {
        return Due::Now;
    }
    if core.phase.get() == Phase::Stopping {
        return Due::Never;
    }
    let now = core.host().now.0;
    let here = Work::of(core).due(core, now);
    core.mesh.summaries(|others| {
        others.iter().map(|other| other.work.due(core, now)).fold(here, Due::min)
    })
}
