//! The keeper: what has to be waited for between two ops.
//!
//! After an op is applied its beat is due, and mostly nothing more: that is done on the spot
//! ([`settle`]). When something has to wait, the keeper's task does the rest of the op, in this
//! order, while prepares behind it stand in line:
//!
//! 1. a *pulse* turns deadlines that log time has passed into deletes, a bounded number of them, in
//!    the order in which they pass: a function of the log, like any other op's effect;
//! 2. the *beat* pays for the bar's jobs; if they are too far behind, applying waits for them;
//! 3. at a *group's end* the fullest memtable is reported to the schedule;
//! 4. at a *bar's end* the jobs are awaited, and, where blocks come free, the checkpoint that
//!    released them; then the forests end their bars, one after the other with a turn for others
//!    in between, and checkpoints they take are written beside everything that follows. A reader
//!    in such a turn may find the bar over on one shard and not on the next: what it sees is the
//!    same, as a bar's end moves entries and changes none. A crash there is like one before the
//!    bar's end: no checkpoint is in effect before every shard's root is there.
//!
//! A failure to write here ends the process: what the grid then holds is unknown. A corrupt block
//! on the way to what is due costs only what needs it: the walk over deadlines ends before it, and
//! an object that cannot be read stays, with its deadline. Another pulse would meet the same block,
//! so none is asked for deadlines for a while ([`Keeper::expiry_pause`]).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Fatal, Instant, Queue, spawn};
use lsm::bar::{BarEnd, Step};
use lsm::checkpoint::Root;
use lsm::expiry::{Due, DueStep};
use lsm::forest::BarError;
use lsm::lookup::{LookupError, Want};
use wire::{Checksum, Op, RootReference, Timestamp};

use super::{LATEST, Looked, SESSIONS_SHARD, Shard, Shards};
use crate::core::Core;
use crate::repair::waits_for_copy;
use crate::session::Encoded;

/// Deadlines that a pulse turns into deletes, on each shard. A function of nothing: fixed.
pub const DUE_PER_PULSE: usize = 512;

/// After a pulse that met a corrupt block, deadlines alone are no reason for another for this long.
const FAULT_PAUSE: Duration = Duration::from_secs(60);

/// What is left to do for an op after its operations are applied.
#[derive(Debug, Clone)]
pub struct Rest {
    /// The op.
    pub op: Op,
    /// What the schedule says comes with it.
    pub step: Step,
    /// Log time, if it is a pulse.
    pub pulse: Option<Timestamp>,
    /// The sessions that a checkpoint taken now is to keep.
    pub sessions: Option<Encoded>,
}

/// The keeper of one core.
#[derive(Default)]
pub struct Keeper {
    rest: RefCell<Option<Rest>>,
    given: Event,
    /// When the last pulse met a corrupt block, if it did.
    fault: Cell<Option<Instant>>,
}

/// Does what is left of an op if nothing of it has to wait. `Some` is the fullest memtable, if it
/// was asked for.
///
/// # Errors
/// The rest, for the keeper.
pub fn settle(shards: &mut Shards, rest: Rest) -> Result<Option<(u64, u64)>, Rest> {
    if rest.pulse.is_some() {
        return Err(rest);
    }
    let mut in_time = true;
    for shard in shards.iter_mut() {
        shard.forest.beat(rest.step.progress);
        in_time &= is_ready(shard.forest.paced());
    }
    if !in_time || rest.step.bar_end.is_some() {
        return Err(rest);
    }
    Ok(rest.step.group_end.map(|group| (group, fullest(shards))))
}

fn fullest(shards: &Shards) -> u64 {
    shards.iter().map(|shard| shard.forest.memtable_bytes()).max().unwrap_or(0)
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl Keeper {
    /// Starts the keeper's task.
    pub fn start(core: &Rc<Core>) {
        let core = core.clone();
        let keep = async move {
            loop {
                let rest = core.keeper.rest.borrow_mut().take();
                match rest {
                    None => core.keeper.given.wait().await,
                    Some(rest) => finish(&core, rest).await,
                }
            }
        };
        spawn(Queue::Foreground, "keeper", keep).detach();
    }

    /// How long deadlines that have passed are to be left alone.
    #[must_use]
    pub fn expiry_pause(&self) -> Option<Duration> {
        pause(self.fault.get()?, ioring::now())
    }

    /// Takes what is left of an op.
    pub fn give(&self, rest: Rest) {
        let before = self.rest.borrow_mut().replace(rest);
        assert!(before.is_none(), "one op at a time is being finished");
        self.given.notify();
    }
}

/// What is left at `now` of the pause after a fault.
fn pause(fault: Instant, now: Instant) -> Option<Duration> {
    FAULT_PAUSE.checked_sub(now.since(fault)).filter(|rest| !rest.is_zero())
}

/// Does the rest of an op and lets the applier go on.
async fn finish(core: &Core, rest: Rest) {
    let applier = &core.applier;
    if let Some(now) = rest.pulse {
        core.keeper.fault.set(None);
        for index in 0..applier.with_shards(Shards::len) {
            expire(core, index, now).await;
        }
    }
    let paced: Vec<_> = applier.with_shards_mut(|shards| {
        let paced = |shard: &mut Shard| {
            shard.forest.beat(rest.step.progress);
            shard.forest.paced()
        };
        shards.iter_mut().map(paced).collect()
    });
    ioring::join_all(paced).await;
    let report = rest.step.group_end.map(|group| (group, applier.with_shards(fullest)));
    if let Some(end) = rest.step.bar_end {
        end_bar(core, &end, rest.sessions.as_deref()).await;
    }
    applier.finished(report);
    core.advance();
}

/// Ends the bar on every shard of this core.
async fn end_bar(core: &Core, end: &BarEnd, sessions: Option<&[u8]>) {
    let done: Vec<_> = core
        .applier
        .with_shards(|shards| shards.iter().map(|shard| shard.forest.bar_done()).collect());
    ioring::join_all(done).await;
    if let Some(checkpoint) = end.free {
        core.wait_durable(Op(checkpoint)).await;
    }
    for index in 0..core.applier.with_shards(Shards::len) {
        // Whoever reads or parses need not wait for all of them; nothing is applied meanwhile.
        ioring::yield_now().await;
        let (shard, ended) = core.applier.with_shards_mut(|shards| {
            let shard = shards.at_mut(index);
            let sessions = sessions.filter(|_| shard.id() == SESSIONS_SHARD).unwrap_or_default();
            (shard.id(), shard.end_bar(end, sessions))
        });
        let Some(checkpoint) = ended.unwrap_or_else(|error| give_up(&error)) else { continue };
        let op = Op(checkpoint.op());
        let core = core.this();
        let write = async move {
            let root = checkpoint.write().await;
            core.on_root(op, shard, reference(&root));
        };
        spawn(Queue::Background, "checkpoint", write).detach();
    }
}

fn give_up(error: &BarError) -> ! {
    ioring::fatal(Fatal::Environment(error.to_string()))
}

/// A root as the superblock keeps it.
fn reference(root: &Root) -> RootReference {
    let block = root.0;
    RootReference::new(block.address.get(), u64::from(block.size), Checksum(block.checksum.0))
}

/// Deletes what has expired on a shard, as much as one pulse does.
async fn expire(core: &Core, index: usize, now: Timestamp) {
    let shard = |change: &mut dyn FnMut(&mut Shard)| {
        core.applier.with_shards_mut(|shards| change(shards.at_mut(index)));
    };
    let mut found: Vec<Due> = Vec::new();
    let mut walk = None;
    shard(&mut |shard| walk = Some(shard.forest.due(now.0)));
    let mut walk = walk.expect("the shard began a walk");
    loop {
        let mut step = None;
        shard(&mut |shard| {
            step = Some(shard.forest.due_step(&mut walk, DUE_PER_PULSE, &mut found));
        });
        match step.expect("the shard took a step") {
            DueStep::Finished => break,
            DueStep::More if found.len() >= DUE_PER_PULSE => break,
            DueStep::More => {}
            DueStep::NeedsRead(read) => match read.run().await {
                Ok(loaded) => walk.supply(loaded),
                Err(LookupError::Moved) => {}
                Err(LookupError::Corrupt(fault)) if waits_for_copy(core, &fault).await => {}
                Err(LookupError::Corrupt(fault)) => {
                    tracing::error!(%fault, "expiry ends before what cannot be read");
                    core.keeper.fault.set(Some(ioring::now()));
                    break;
                }
            },
        }
    }
    for (version, due) in (0..).zip(&found) {
        let Some(deadline) = deadline_of(core, index, &due.key).await else {
            core.keeper.fault.set(Some(ioring::now()));
            continue;
        };
        let version = now.version(version);
        shard(&mut |shard| {
            if deadline == Some(due.deadline) {
                shard.forest.delete(&due.key, version.0);
            }
            shard.forest.delete_due(due, version.0);
        });
    }
}

/// The deadline that an encoded key has now, if there is an entry; none if that cannot be read.
async fn deadline_of(core: &Core, index: usize, key: &[u8]) -> Option<Option<u64>> {
    loop {
        let looked = core.applier.with_shards(|shards| {
            let deadline = |entry: Option<crate::machine::Entry<'_>>| entry.map(|e| e.deadline);
            shards.at(index).look(key, LATEST, Want::Metadata, deadline)
        });
        let read = match looked {
            Looked::Known(deadline) => return Some(deadline),
            Looked::NeedsRead(read) => read,
        };
        match read.run().await {
            Ok(entry) => return Some(entry.map(|entry| entry.deadline)),
            Err(LookupError::Moved) => {}
            Err(LookupError::Corrupt(fault)) if waits_for_copy(core, &fault).await => {}
            Err(LookupError::Corrupt(fault)) => {
                tracing::error!(%fault, "an object that has expired cannot be read");
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_block_pauses_expiry_for_a_while() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert_eq!(pause(at(10), at(10)), Some(FAULT_PAUSE));
        assert_eq!(pause(at(10), at(30)), Some(FAULT_PAUSE - Duration::from_secs(20)));
        assert_eq!(pause(at(10), at(70)), None);
        assert_eq!(pause(at(10), at(1000)), None);
    }
}
