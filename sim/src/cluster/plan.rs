//! What a seed plays: the cluster, its clients, and which faults happen how often.
//!
//! Swarm testing (Groce et al., ISSTA 2012): each seed has only some kinds of faults, each drawn on
//! or off by itself. A run that has everything at once never comes to the states that a cluster
//! reaches when one kind of trouble is left alone for a while.

use std::time::Duration;

use ioring::sim::{Dice, Disturbance};

use crate::server::Shape;

/// What happens in one seed's world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cores of each member; there are as many members as shapes.
    pub shapes: Vec<Shape>,
    /// Clients that work at the same time.
    pub clients: u64,
    /// The longest pause of a client between two pipelines.
    pub pause_max: Duration,
    /// Of a hundred writes to registers so many are large.
    pub large: u64,
    /// Virtual time in which faults happen.
    pub storm: Duration,
    /// The longest time between two faults of those that are injected one by one.
    pub calm_max: Duration,
    /// Members are killed at any moment and started again.
    pub crashes: bool,
    /// Members are killed at a drawn step of their life, also within their start.
    pub step_crashes: bool,
    /// All members lose their power at once.
    pub blackouts: bool,
    /// Members stop for a while and go on.
    pub pauses: bool,
    /// How much slower than usual each member's disk is all the time.
    pub disks: Vec<u64>,
    /// Disks are slow for a while.
    pub slow_disks: bool,
    /// Clocks are wrong, drift, jump and stop.
    pub clocks: bool,
    /// Frames of journals and copies of superblocks are damaged while their member is down.
    pub damage: bool,
    /// Clients are cut off from members.
    pub client_cuts: bool,
    /// What disturbs the network between members.
    pub weather: Vec<Disturbance>,
    /// Segments per million that are lost and sent again, everywhere.
    pub loss: u32,
    /// Segments per million that take 2 to 256 times as long, everywhere.
    pub tail: u32,
    /// Milliseconds until a lost segment is sent again.
    pub retransmit_ms: u64,
    /// Bytes that a disk writes atomically.
    pub sector: u64,
    /// Operations of disks, per million, that take a hundred times as long.
    pub slow_io: u32,
    /// Clients do not wait with writes for a member that is far behind: it may then need what its
    /// peers' journals no longer have.
    pub leaves_behind: bool,
    /// Members that stay dead when the faults end.
    pub dead: usize,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        let mut dice = Dice::new(seed, "plan");
        let members = [1, 3, 3, 3, 3, 3, 3, 3, 5, 5][dice.below(10) as usize];
        let mut on = |percent: u32| dice.chance(percent * 10_000);
        let crashes = on(60);
        let damage = crashes && members > 1 && on(40);
        let kinds = Disturbance::ALL.into_iter().filter(|_| on(45)).collect();
        let weather = if members > 1 { kinds } else { Vec::new() };
        let (step_crashes, blackouts, pauses) = (on(50), on(30), on(40));
        let (slow_disks, clocks, client_cuts) = (on(40), on(40), on(30));
        let (leaves_behind, lossy, slow_io, whole_sectors) = (on(10), on(40), on(25), on(50));
        // Nor those that may need what only a peer's checkpoint has.
        let some_stay_dead = !damage && !leaves_behind && members > 1 && on(40);
        let uneven_disks = on(30);
        let mut between = |low, high| dice.between(low, high);
        Plan {
            shapes: (0..members)
                .map(|_| if between(0, 2) == 0 { Shape::TWO } else { Shape::ONE })
                .collect(),
            disks: (0..members).map(|_| if uneven_disks { between(1, 30) } else { 1 }).collect(),
            clients: between(3, 6),
            pause_max: Duration::from_millis(between(10, 60)),
            large: between(0, 20),
            storm: Duration::from_millis(between(1000, 5000)),
            calm_max: Duration::from_millis(between(20, 500)),
            crashes,
            step_crashes,
            blackouts,
            pauses,
            slow_disks,
            clocks,
            damage,
            client_cuts,
            weather,
            loss: if lossy { between(100, 20_000) as u32 } else { 0 },
            tail: between(0, 20_000) as u32,
            retransmit_ms: between(5, 200),
            sector: if whole_sectors { 4096 } else { 512 },
            slow_io: if slow_io { 10_000 } else { 200 },
            leaves_behind,
            dead: if some_stay_dead { between(1, (members - 1) / 2) as usize } else { 0 },
        }
    }

    /// How many members there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.shapes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_in_what_they_play() {
        let plans: Vec<Plan> = (0..200).map(Plan::of).collect();
        for members in [1, 3, 5] {
            assert!(plans.iter().any(|plan| plan.members() == members));
        }
        let kinds: [fn(&Plan) -> bool; 8] = [
            |plan| plan.crashes,
            |plan| plan.step_crashes,
            |plan| plan.blackouts,
            |plan| plan.clocks,
            |plan| plan.damage,
            |plan| !plan.weather.is_empty(),
            |plan| plan.dead > 0,
            |plan| plan.leaves_behind,
        ];
        for kind in kinds {
            let on = plans.iter().filter(|plan| kind(plan)).count();
            assert!((5..195).contains(&on), "{on} of {}", plans.len());
        }
        // What is damaged on one member needs all others to be mended for certain.
        assert!(plans.iter().all(|plan| plan.dead == 0 || !plan.damage));
        assert!(plans.iter().all(|plan| 2 * plan.dead < plan.members()));
    }
}
