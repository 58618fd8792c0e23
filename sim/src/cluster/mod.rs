//! Whole clusters of the real node, with faults of all kinds, under a checker.
//!
//! ```text
//!   hosts 0..n: members          hosts n..: clients               hosts ..: probes
//!   node::server::serve   ◀────▶ [`work`]: hot keys, pipelines    [`calm`]: progress, survey
//!        ▲        ▲                   │ asked, answered, when           │
//!        │        └ [`storm`]         ▼                                 ▼
//!     disks ───▶ [`agreement`]    [`record`]: linearizability, counters, what expires
//! ```
//!
//! A seed is played like this:
//!
//! 1. [`plan`] draws from the seed what is played: one, three or five members, clients, and which
//!    kinds of faults are on and how bad they are.
//! 2. Members are formatted and started, clients begin to work, and the [`storm`] rages.
//! 3. The faults stop, and in the [`calm`] all members, or all but a minority that stays dead, must
//!    serve again within a bounded time and have the same contents.
//!
//! # What is checked
//!
//! | promise | by |
//! | --- | --- |
//! | what clients saw could have happened one command after the other | `record` |
//! | what was acknowledged is there at the end, on every member, in the dark too | `calm` |
//! | counters are exact, pairs whole, a connection's commands in order | `record`, `work` |
//! | what was seen expired stays expired | `record` |
//! | one prepare at each op, one checkpoint at each op, on all disks at all times | `agreement` |
//! | no member ends by itself | `members` |
//! | everything goes on when the faults are over | `calm` |
//!
//! Checks draw nothing from the dice of the world, so a run is the same with and without them.
//! [`play`] returns the first promise that was broken; a panic of a member unwinds through it.

pub mod agreement;
pub mod calm;
pub mod damage;
pub mod members;
pub mod plan;
pub mod record;
pub mod steps;
pub mod storm;
pub mod trace;
pub mod work;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::Dice;

use crate::Violation;
use agreement::Agreement;
use calm::{Calm, Ending};
use members::Cluster;
use plan::Plan;
use record::{Counts, Record};
use storm::{Faults, Storm};
use work::{Mood, Task};

/// What a seed was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// What clients did.
    pub counts: Counts,
    /// What happened to the cluster.
    pub faults: Faults,
    /// What came after the faults.
    pub calm: Calm,
    /// Committed ops that were seen on disks.
    pub ops: u64,
    /// Checkpoints that were.
    pub checkpoints: u64,
    /// Virtual time.
    pub time: Duration,
    /// Decisions of the world.
    pub steps: u64,
    /// Equal for equal seeds.
    pub trace: u64,
}

/// Plays a seed.
///
/// # Errors
/// The promise that was broken, with what the members say of themselves.
///
/// # Panics
/// When a member does.
pub fn play(seed: u64) -> Result<Played, Violation> {
    play_plan(seed, &Plan::of(seed))
}

/// Plays a seed by another plan than its own.
///
/// # Errors
/// Those of [`play`].
///
/// # Panics
/// When a member does.
pub fn play_plan(seed: u64, plan: &Plan) -> Result<Played, Violation> {
    let mut cluster = Cluster::new(seed, plan)?;
    cluster.say(|| format!("{plan:?}"));
    let played = play_cluster(seed, plan, &mut cluster);
    played.map_err(|Violation(text)| {
        let now = cluster.world.now();
        Violation(format!("{text}\nat {now:?}\n{}  {plan:?}", cluster.describe()))
    })
}

fn play_cluster(seed: u64, plan: &Plan, cluster: &mut Cluster) -> Result<Played, Violation> {
    let record = Rc::new(RefCell::new(Record::new(!plan.clocks)));
    let (mood, mut agreement) = (Rc::<Mood>::default(), Agreement::default());
    (0..plan.members()).for_each(|member| cluster.start(member));
    let members = cluster.addresses();
    for (number, host) in (0..).zip(cluster.clients.clone()) {
        let task = Task {
            number,
            members: members.clone(),
            pause_max: plan.pause_max,
            large: plan.large,
            record: record.clone(),
            mood: mood.clone(),
        };
        drop(cluster.world.start(host, vec![task], work::work));
    }
    let mut storm = Storm::new(seed, plan, &record, &mood);
    storm.rage(cluster, &mut agreement)?;
    let faults = storm.faults;
    let dice = Dice::new(seed, "end");
    let ending =
        Ending { plan, cluster, record: &record, mood: &mood, agreement: &mut agreement, dice };
    let calm = ending.play()?;
    let (ops, checkpoints) = agreement.counts();
    let counts = record.borrow().counts;
    Ok(Played {
        counts,
        faults,
        calm,
        ops: ops as u64,
        checkpoints: checkpoints as u64,
        time: cluster.world.now(),
        steps: cluster.world.steps(),
        trace: cluster.world.trace_hash(),
    })
}
