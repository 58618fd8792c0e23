//! Pulses: ops without requests, for work that is due while nobody asks for anything.
//!
//! Compaction is paid for by ops. When the log is idle and there is still work that only ops pay
//! for (the bar's jobs, deadlines that have passed, the checkpoint that requests wait for when the
//! log has no room for them; while writes are refused for want of space, bars that bring some
//! back), the replica is asked for a pulse, and for the next one when that is applied. An idle node
//! without such work sleeps: there is a timer only while there is something to wait for. A node
//! that stops asks for no more than its accepted requests need.

use std::rc::Rc;
use std::time::Duration;

use ioring::{Queue, spawn};

use crate::core::{Admission, Core};
use crate::metrics::Counter;
use crate::status::Phase;

/// The log counts as idle when nothing was committed for this long.
const IDLE: Duration = Duration::from_millis(20);
/// The longest sleep before a deadline is looked at again: clocks are slewed.
const DEADLINE_SLEEP_MAX: Duration = Duration::from_secs(60);

/// Starts the task on the replica's core.
pub fn start(core: &Rc<Core>) {
    let core = core.clone();
    spawn(Queue::Background, "pulse", async move { run(&core).await }).detach();
}

async fn run(core: &Core) {
    loop {
        let seen = core.applier.applied();
        match due(core) {
            Due::Now => {
                ioring::sleep(IDLE).await;
                let replica = core.replica();
                let idle = replica.is_idle() || replica.waits_for_log();
                if idle && core.applier.applied() == seen && matches!(due(core), Due::Now) {
                    core.metrics.count(Counter::Pulses);
                    core.replica().request_pulse();
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

enum Due {
    Now,
    In(Duration),
    Never,
}

/// When there is work that a pulse would pay for.
fn due(core: &Core) -> Due {
    let short = matches!(core.space.get(), Admission::Deletes | Admission::None);
    let (jobs, deadline) = core.applier.with_shards(|shards| {
        let pending = shards.iter().map(|shard| shard.forest().pending());
        pending.fold((false, None), |(jobs, deadline), pending| {
            let first = match (deadline, pending.deadline) {
                (Some(a), Some(b)) => Some(u64::min(a, b)),
                (a, b) => a.or(b),
            };
            (jobs || pending.jobs || short && pending.space, first)
        })
    });
    let now = core.host().now.0;
    match deadline {
        _ if core.replica().waits_for_log() => Due::Now,
        // A node that stops finishes what it has, and proposes nothing that can be done later.
        _ if core.phase.get() == Phase::Stopping => Due::Never,
        _ if jobs => Due::Now,
        Some(deadline) if deadline <= now => core.keeper.expiry_pause().map_or(Due::Now, Due::In),
        Some(deadline) => Due::In(Duration::from_nanos(deadline - now)),
        None => Due::Never,
    }
}
