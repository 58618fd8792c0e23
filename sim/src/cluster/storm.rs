//! The time in which faults happen.
//!
//! The storm drives the world in slices of drawn lengths. Between two of them
//!
//! 1. members that have died are looked at, some are damaged, and those whose time has come are
//!    started again;
//! 2. one fault of those that the plan has on may be drawn: a death, a death at a chosen step, a
//!    blackout, a pause, a slow disk, a wrong clock, a client that is cut off, or the loss of all
//!    but one copy of what was written last;
//! 3. clients are told to only read while a member is so far behind that its peers might drop what
//!    it still needs.
//!
//! Disturbances between members come and go by themselves ([`Weather`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use ioring::sim::{Clock, Crash, Dice, Status, Weather};

use super::agreement::{Agreement, read};
use super::damage::damage;
use super::members::Cluster;
use super::plan::Plan;
use super::record::Record;
use super::work::Mood;
use crate::Violation;

/// A slow disk becomes at most so many times as slow: what is begun then has to end within the time
/// that a calm cluster is given to serve again.
const SLOWER_MAX: u64 = 100;
/// Ops that a member may lack before clients wait for it with their writes: fewer than a bar has,
/// so that no checkpoint passes it.
const LAG_MAX: u64 = 40;
/// The longest slice, in microseconds.
const SLICE_US: u64 = 20_000;

/// What happened, to see that the faults do something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Members that died.
    pub deaths: u64,
    /// Of these at a chosen step.
    pub at_steps: u64,
    /// Blackouts of the whole cluster.
    pub blackouts: u64,
    /// Members that stopped for a while.
    pub pauses: u64,
    /// Disks that were slow for a while.
    pub slow_disks: u64,
    /// Clocks that were changed.
    pub clocks: u64,
    /// Ways between clients and members that were cut.
    pub client_cuts: u64,
    /// Frames that were damaged.
    pub damaged: u64,
    /// Disturbances between members.
    pub disturbances: u64,
}

/// See the module's text.
pub struct Storm<'a> {
    plan: &'a Plan,
    record: &'a RefCell<Record>,
    mood: &'a Mood,
    dice: Dice,
    /// When a member goes on, or its disk is as usual again.
    resumes: BTreeMap<usize, Duration>,
    quickens: BTreeMap<usize, Duration>,
    /// Ways that are cut, and until when.
    cuts: Vec<(usize, usize, Duration)>,
    next_fault: Duration,
    /// Who takes longer than the others to come back from a blackout, so that they begin without
    /// the one that may know best.
    stays_away: Option<usize>,
    /// Who dies when.
    dies: Vec<(usize, Duration)>,
    /// Whose newest frames are damaged when it has died.
    doomed: Option<usize>,
    /// What happened.
    pub faults: Faults,
}

impl<'a> Storm<'a> {
    /// A storm that has not begun.
    #[must_use]
    pub fn new(
        seed: u64,
        plan: &'a Plan,
        record: &'a RefCell<Record>,
        mood: &'a Mood,
    ) -> Storm<'a> {
        Storm {
            plan,
            record,
            mood,
            dice: Dice::new(seed, "storm"),
            resumes: BTreeMap::new(),
            quickens: BTreeMap::new(),
            cuts: Vec::new(),
            next_fault: Duration::ZERO,
            stays_away: None,
            dies: Vec::new(),
            doomed: None,
            faults: Faults::default(),
        }
    }

    /// Lets faults happen for as long as the plan says.
    ///
    /// # Errors
    /// What went wrong.
    pub fn rage(
        &mut self,
        cluster: &mut Cluster,
        agreement: &mut Agreement,
    ) -> Result<(), Violation> {
        self.gather_weather(cluster);
        for (member, slower) in cluster.members.iter().zip(&self.plan.disks) {
            cluster.world.set_disk_slower(member.host, *slower);
        }
        let end = cluster.world.now() + self.plan.storm;
        while cluster.world.now() < end {
            let slice = Duration::from_micros(self.dice.between(1, SLICE_US));
            cluster.world.run_for(slice);
            cluster.look()?;
            if let Some(violation) = self.record.borrow_mut().violation.take() {
                return Err(violation);
            }
            self.attend(cluster, agreement)?;
            if cluster.world.now() >= self.next_fault {
                let pause = self.dice.below(self.plan.calm_max.as_micros() as u64);
                self.next_fault = cluster.world.now() + Duration::from_micros(pause);
                self.strike(cluster);
            }
            self.mood.reads_only.set(!self.plan.leaves_behind && cluster.lag() > LAG_MAX);
        }
        let counts = cluster.world.net().weather_counts();
        self.faults.disturbances = counts.iter().map(|(_, count)| count).sum();
        Ok(())
    }

    fn gather_weather(&mut self, cluster: &mut Cluster) {
        if self.plan.weather.is_empty() {
            return;
        }
        let calm = self.plan.calm_max.as_nanos() as u64;
        let weather = Weather {
            nodes: cluster.members.iter().map(|member| member.host.0).collect(),
            kinds: self.plan.weather.clone(),
            pause_min: 1_000_000,
            pause_max: 2 * calm,
            lasts_min: 1_000_000,
            lasts_max: self.dice.between(20, 1500) * 1_000_000,
        };
        cluster.world.net().set_weather(Some(weather));
    }

    /// Ends what is over, and sees to the dead.
    fn attend(
        &mut self,
        cluster: &mut Cluster,
        agreement: &mut Agreement,
    ) -> Result<(), Violation> {
        let now = cluster.world.now();
        for (number, _) in self.dies.extract_if(.., |(_, at)| *at <= now) {
            if cluster.is_up(number) {
                cluster.crash(number, Crash::Process);
            }
        }
        for number in 0..cluster.members.len() {
            let host = cluster.members[number].host;
            if self.resumes.get(&number).is_some_and(|at| *at <= now) {
                self.resumes.remove(&number);
                cluster.world.resume(host);
            }
            if self.quickens.get(&number).is_some_and(|at| *at <= now) {
                self.quickens.remove(&number);
                cluster.world.set_disk_slower(host, self.plan.disks[number]);
            }
            if !matches!(cluster.world.status(host), Status::Crashed(_)) {
                continue;
            }
            match cluster.members[number].starts_at {
                None => self.bury(cluster, agreement, number)?,
                Some(at) if at <= now => cluster.start(number),
                Some(_) => {}
            }
        }
        for (from, to, until) in std::mem::take(&mut self.cuts) {
            if until > now {
                self.cuts.push((from, to, until));
            } else {
                cluster.world.net().set_blocked(from, to, false);
                cluster.world.net().set_blocked(to, from, false);
            }
        }
        Ok(())
    }

    /// A member was found dead: its disk is looked at, perhaps damaged, and its next life planned.
    fn bury(
        &mut self,
        cluster: &mut Cluster,
        agreement: &mut Agreement,
        number: usize,
    ) -> Result<(), Violation> {
        self.faults.deaths += 1;
        self.resumes.remove(&number);
        let host = cluster.members[number].host;
        agreement.compare(number, &read(cluster.world.disk(host).clone())?)?;
        let doomed = self.doomed.take_if(|doomed| *doomed == number).is_some();
        if self.plan.damage && (doomed || self.dice.coin()) {
            let newest = doomed || self.dice.coin();
            self.faults.damaged += damage(cluster, number, newest, &mut self.dice)?;
        }
        let rest = match self.dice.below(8) {
            _ if self.stays_away == Some(number) => {
                self.stays_away = None;
                self.dice.between(300_000, 1_500_000)
            }
            0 => self.dice.below(2_000_000),
            1..4 => self.dice.below(400_000),
            _ => self.dice.below(30_000),
        };
        cluster.members[number].starts_at = Some(cluster.world.now() + Duration::from_micros(rest));
        Ok(())
    }

    fn crash_kind(&mut self) -> Crash {
        if self.dice.coin() { Crash::Power } else { Crash::Process }
    }

    fn strike(&mut self, cluster: &mut Cluster) {
        let number = self.dice.below(cluster.members.len() as u64) as usize;
        let host = cluster.members[number].host;
        let crash = self.crash_kind();
        let long = Duration::from_micros(self.dice.between(1, 800_000));
        let until = cluster.world.now() + long;
        match self.dice.below(9) {
            0 | 1 if self.plan.crashes && cluster.is_up(number) => cluster.crash(number, crash),
            2 if self.plan.step_crashes => {
                self.faults.at_steps += 1;
                // Of its next life, if it does not run: then its start is likely to be hit.
                let runs = cluster.is_up(number);
                let steps = if runs { cluster.world.node_steps(host) } else { 0 };
                cluster.world.crash_at(host, steps + self.dice.below(4000), crash);
            }
            3 if self.plan.blackouts && self.dice.coin() => {
                self.faults.blackouts += 1;
                self.stays_away = Some(number);
                for member in cluster.up() {
                    cluster.crash(member, Crash::Power);
                }
            }
            4 if self.plan.pauses => {
                self.faults.pauses += 1;
                cluster.say(|| format!("member {number} pauses for {long:?}"));
                cluster.world.pause(host);
                self.resumes.insert(number, until);
            }
            5 if self.plan.slow_disks => {
                self.faults.slow_disks += 1;
                let factor = self.plan.disks[number] * self.dice.between(2, 60);
                let factor = factor.min(SLOWER_MAX);
                cluster.say(|| format!("the disk of member {number} is {factor} times as slow"));
                cluster.world.set_disk_slower(host, factor);
                self.quickens.insert(number, until);
            }
            6 if self.plan.clocks => self.change_clock(cluster, number),
            8 if self.plan.damage && self.dies.is_empty() => self.leave_one_copy(cluster, number),
            7 if self.plan.client_cuts => {
                self.faults.client_cuts += 1;
                let client = self.dice.below(cluster.clients.len() as u64) as usize;
                let client = cluster.clients[client].0;
                cluster.say(|| format!("host {client} is cut off from member {number}"));
                cluster.world.net().set_blocked(client, host.0, true);
                if self.dice.coin() {
                    cluster.world.net().set_blocked(host.0, client, true);
                }
                self.cuts.push((client, host.0, until));
            }
            _ => {}
        }
    }

    /// Ops commit on a bare quorum while the others are cut off; then it dies, one of it is damaged
    /// and comes back to those that were cut off, and the rest of it stays away: whoever is there
    /// cannot know whether the newest ops were committed.
    fn leave_one_copy(&mut self, cluster: &mut Cluster, doomed: usize) {
        let members = cluster.members.len();
        let away = (doomed + 1) % members;
        let until = cluster.world.now() + Duration::from_micros(self.dice.between(5_000, 80_000));
        let quorum: Vec<usize> =
            (0..=members / 2).map(|number| (doomed + number) % members).collect();
        let others = (0..members).filter(|number| !quorum.contains(number));
        cluster.say(|| format!("only {quorum:?} hear each other, then they die"));
        for (number, other) in others.flat_map(|it| quorum.iter().map(move |other| (*other, it))) {
            let [a, b] = [number, other].map(|member| cluster.members[member].host.0);
            cluster.world.net().partition(&[a], &[b]);
            self.cuts.push((a, b, until));
        }
        self.dies.extend(quorum.into_iter().map(|number| (number, until)));
        (self.doomed, self.stays_away) = (Some(doomed), Some(away));
    }

    fn change_clock(&mut self, cluster: &mut Cluster, number: usize) {
        self.faults.clocks += 1;
        let far = [1_000_000, 100_000_000, 10_000_000_000, 3_600_000_000_000];
        let most = far[self.dice.below(4) as usize];
        let offset_ns = self.dice.below(2 * most) as i64 - most as i64;
        let drift_ppm = self.dice.below(20_000) as i64 - 10_000;
        let stops = self.dice.chance(150_000);
        let frozen_at = stops.then(|| cluster.world.now());
        let clock = Clock { offset_ns, drift_ppm, frozen_at };
        cluster.say(|| format!("the clock of member {number} is {clock:?}"));
        cluster.world.set_clock(cluster.members[number].host, clock);
    }
}
