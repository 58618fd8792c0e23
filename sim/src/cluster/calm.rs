//! When the faults are over everything must go on, and everything must be there.
//!
//! 1. *Healing.* The network is whole, disks are quick, whoever was paused goes on, whoever is dead
//!    is started, for good; in some seeds a minority stays dead instead, drawn at random. Clocks
//!    stay as wrong as they are.
//! 2. *Progress.* Within a bounded virtual time every member that lives serves a read and has had a
//!    write acknowledged, which it may have had to take elsewhere.
//! 3. *Survey.* Every key that was ever written is read on every living member. These reads are
//!    operations of the history like all others, and all members must give the same answers.
//! 4. *Darkness*, in some seeds: all members lose their power at once, are started again, and are
//!    surveyed once more. What only memory knew is gone now.
//! 5. *Disks.* The members stop; what their disks say must agree.
//!
//! A member that needs what no peer's journal has any more cannot go on before it can take over a
//! peer's checkpoint. It is left out, and counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::Reply;
use client::resp::push_request;
use ioring::sim::{Crash, Dice, NetConfig, Outcome, Status};
use ioring::timeout;

use super::agreement::{Agreement, read};
use super::members::Cluster;
use super::plan::Plan;
use super::record::Record;
use super::steps::{Key, Step, value_of};
use super::work::Mood;
use crate::Violation;
use crate::clients::Connection;

/// Virtual time within which everything must go on.
pub const PROGRESS_MAX: Duration = Duration::from_secs(40);
/// How long clients go on after the faults.
const CLIENTS_GO_ON: Duration = Duration::from_millis(300);
/// How long one answer may take before it is asked for again.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(5);
/// How long a member that is to go on may have to catch up before it counts as behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a survey found: each key's value.
type Found = BTreeMap<Key, Reply>;

/// What it was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calm {
    /// Virtual time until all members served.
    pub until_served: Duration,
    /// Members that needed a peer's checkpoint.
    pub behind: u64,
    /// Keys that were read on every member.
    pub keys: u64,
}

/// See the module's text.
pub struct Ending<'a> {
    /// What is played.
    pub plan: &'a Plan,
    /// The cluster after the storm.
    pub cluster: &'a mut Cluster,
    /// What clients know.
    pub record: &'a Rc<RefCell<Record>>,
    /// What clients are told.
    pub mood: &'a Mood,
    /// What disks have said.
    pub agreement: &'a mut Agreement,
    /// What is left to chance.
    pub dice: Dice,
}

impl Ending<'_> {
    /// Plays the end.
    ///
    /// # Errors
    /// What is wrong.
    pub fn play(mut self) -> Result<Calm, Violation> {
        let mut calm = Calm::default();
        let began = self.cluster.world.now();
        self.heal();
        self.run(CLIENTS_GO_ON)?;
        self.mood.ends.set(true);
        let mut living = self.go_on(&mut calm)?;
        calm.until_served = self.cluster.world.now() - began;
        self.end_clients()?;
        let mut last = self.survey(&living, &mut calm)?;
        if self.dice.below(3) == 0 {
            self.cluster.say(|| "the power fails everywhere".to_owned());
            for member in self.cluster.up() {
                self.cluster.crash(member, Crash::Power);
                self.cluster.start(member);
            }
            living = self.go_on(&mut calm)?;
            last = self.survey(&living, &mut calm)?;
        }
        self.record.borrow_mut().check(&last)?;
        self.compare_disks()?;
        Ok(calm)
    }

    fn heal(&mut self) {
        let cluster = &mut *self.cluster;
        cluster.say(|| "the faults are over".to_owned());
        cluster.world.net().set_weather(None);
        cluster.world.net().heal();
        cluster.world.net().set_config(NetConfig {
            retransmit: self.plan.retransmit_ms * 1_000_000,
            ..NetConfig::default()
        });
        let members = cluster.members.len();
        let mut dead = BTreeSet::new();
        while dead.len() < self.plan.dead {
            dead.insert(self.dice.below(members as u64) as usize);
        }
        for number in 0..members {
            let host = cluster.members[number].host;
            cluster.world.resume(host);
            cluster.world.set_disk_slower(host, 1);
            cluster.world.crash_never(host);
            match (dead.contains(&number), cluster.is_up(number)) {
                (true, true) => cluster.crash(number, Crash::Process),
                (false, false) => cluster.start(number),
                _ => {}
            }
        }
        cluster.say(|| format!("dead for good: {dead:?}"));
        self.mood.reads_only.set(false);
    }

    fn run(&mut self, time: Duration) -> Result<(), Violation> {
        let end = self.cluster.world.now() + time;
        while self.cluster.world.now() < end {
            self.cluster.world.run_for(Duration::from_millis(20).min(time));
            self.cluster.look()?;
        }
        Ok(())
    }

    /// Waits until every living member has served; returns those that could.
    fn go_on(&mut self, calm: &mut Calm) -> Result<Vec<usize>, Violation> {
        let living = self.cluster.up();
        let addresses = self.cluster.addresses();
        let all: Vec<SocketAddr> = living.iter().map(|member| addresses[*member]).collect();
        for number in &living {
            let part = (addresses[*number], all.clone(), self.record.clone());
            let host = self.cluster.probes[*number];
            drop(self.cluster.world.start(host, vec![part], probe));
        }
        let began = self.cluster.world.now();
        loop {
            self.run(Duration::from_millis(20))?;
            let waiting = || living.iter().copied().filter(|number| self.is_busy(*number));
            let waited = self.cluster.world.now() - began;
            if waited.as_millis() % 1000 < 20 {
                self.cluster.say(|| format!("waiting for members\n{}", self.cluster.describe()));
            }
            let behind: Vec<usize> =
                waiting().filter(|number| self.is_behind(*number, waited)).collect();
            // Too few are left to go on without those that are behind.
            let stalled = 2 * (living.len() - behind.len()) <= self.cluster.members.len();
            if waiting().count() == behind.len() || (stalled && waited > PROGRESS_MAX) {
                calm.behind += behind.len() as u64;
                let left_out: Vec<usize> = waiting().collect();
                for number in &left_out {
                    let host = self.cluster.probes[*number];
                    self.cluster.world.crash(host, Crash::Process);
                }
                return Ok(living.into_iter().filter(|it| !left_out.contains(it)).collect());
            }
            let waiting: Vec<usize> = waiting().collect();
            if waited > PROGRESS_MAX {
                let text = format!("after {PROGRESS_MAX:?} members {waiting:?} do not serve");
                return Err(Violation(text));
            }
        }
    }

    fn is_busy(&self, number: usize) -> bool {
        *self.cluster.world.status(self.cluster.probes[number]) == Status::Running
    }

    /// Whether a member needs a peer's checkpoint: it says so, or it has waited for long, some
    /// checkpoint is newer than all that it has committed, and those that are not are of members
    /// which wait as well. Of a peer that is dead, or behind itself, it cannot know.
    fn is_behind(&self, number: usize, waited: Duration) -> bool {
        let Some(report) = self.cluster.report(number) else { return false };
        let others = || self.cluster.up().into_iter().filter(|other| *other != number);
        let is_newer = |other: usize| {
            self.cluster.report(other).is_some_and(|it| it.checkpoint > report.commit)
        };
        let passed = others().any(is_newer) && others().all(|it| is_newer(it) || self.is_busy(it));
        report.state == "syncing" || (passed && waited > PATIENCE)
    }

    fn end_clients(&mut self) -> Result<(), Violation> {
        let limit = self.cluster.world.now() + PROGRESS_MAX;
        for host in self.cluster.clients.clone() {
            while *self.cluster.world.status(host) == Status::Running {
                self.run(Duration::from_millis(20))?;
                if self.cluster.world.now() > limit {
                    return Err(Violation(format!("clients still wait after {PROGRESS_MAX:?}")));
                }
            }
        }
        Ok(())
    }

    /// Reads everything everywhere; returns what counters are.
    fn survey(
        &mut self,
        living: &[usize],
        calm: &mut Calm,
    ) -> Result<BTreeMap<Key, Option<i64>>, Violation> {
        let addresses = self.cluster.addresses();
        let keys = self.record.borrow().survey();
        calm.keys = keys.len() as u64;
        let mut surveys: Vec<(usize, Outcome<Found>)> = Vec::new();
        for number in living {
            let part = (addresses[*number], keys.clone(), self.record.clone());
            let host = self.cluster.probes[*number];
            surveys.push((*number, self.cluster.world.start(host, vec![part], read_all)));
        }
        let limit = self.cluster.world.now() + PROGRESS_MAX;
        while living.iter().any(|number| self.is_busy(*number)) {
            self.run(Duration::from_millis(20))?;
            if self.cluster.world.now() > limit {
                return Err(Violation(format!("a survey takes more than {PROGRESS_MAX:?}")));
            }
        }
        let mut first: Option<(usize, Found)> = None;
        for (number, survey) in surveys {
            let found = survey.take().and_then(|mut found| found.pop()).unwrap_or_default();
            let (whose, first) = first.get_or_insert_with(|| (number, found.clone()));
            let differs = first.iter().find(|(key, value)| found.get(*key) != Some(value));
            if let Some((key, value)) = differs {
                let other = found.get(key);
                let text = format!("{key} is {value:?} on {whose} and {other:?} on {number}");
                return Err(Violation(text));
            }
        }
        let found = first.map(|(_, found)| found).unwrap_or_default();
        Ok(found.into_iter().filter_map(|(key, value)| Some((key, value_of(&value)?))).collect())
    }

    /// Stops the members, each in its way, and compares their disks.
    fn compare_disks(&mut self) -> Result<(), Violation> {
        for number in self.cluster.up() {
            let crash = if self.dice.coin() { Crash::Power } else { Crash::Process };
            self.cluster.crash(number, crash);
        }
        for number in 0..self.cluster.members.len() {
            let host = self.cluster.members[number].host;
            let disk = self.cluster.world.disk(host).clone();
            self.agreement.compare(number, &read(disk)?)?;
        }
        Ok(())
    }
}

/// A connection that is made anew until there is an answer.
struct Asker {
    members: Vec<SocketAddr>,
    turn: usize,
    connection: Option<Connection>,
    record: Rc<RefCell<Record>>,
}

impl Asker {
    fn new(members: Vec<SocketAddr>, record: Rc<RefCell<Record>>) -> Asker {
        Asker { members, turn: 0, connection: None, record }
    }

    /// Asks until it is answered; a write may be done several times then.
    async fn ask(&mut self, step: Step) -> Reply {
        loop {
            let issued =
                self.record.borrow_mut().call(step.clone(), None, ioring::now().as_nanos());
            match timeout(ANSWER_MAX, self.ask_once(&step)).await {
                Ok(Ok(reply)) => {
                    let now = ioring::now().as_nanos();
                    if !self.record.borrow_mut().answer(&issued, &reply, now) {
                        return reply;
                    }
                }
                _ => self.record.borrow_mut().give_up(&issued),
            }
            self.connection = None;
            self.turn += 1;
            ioring::sleep(RETRY).await;
        }
    }

    async fn ask_once(&mut self, step: &Step) -> io::Result<Reply> {
        if self.connection.is_none() {
            let member = self.members[self.turn % self.members.len()];
            self.connection = Some(Connection::connect(member).await?);
        }
        let connection = self.connection.as_mut().expect("it was just made");
        let mut bytes = Vec::new();
        push_request(&mut bytes, &step.arguments());
        connection.send(bytes).await?;
        connection.receive().await
    }
}

/// Sees a member serve a read, and a write acknowledged by whoever takes it.
async fn probe((own, all, record): (SocketAddr, Vec<SocketAddr>, Rc<RefCell<Record>>)) {
    let key = format!("probe{own}");
    let mut reader = Asker::new(vec![own], record.clone());
    reader.ask(Step::Get(key.clone())).await;
    let first = all.iter().position(|address| *address == own).unwrap_or(0);
    let mut writer = Asker::new(all, record.clone());
    writer.turn = first;
    let number = record.borrow_mut().number();
    writer.ask(Step::Set(key.clone(), number, 0)).await;
    reader.ask(Step::Get(key)).await;
}

/// Reads all keys on one member.
async fn read_all((own, keys, record): (SocketAddr, Vec<Key>, Rc<RefCell<Record>>)) -> Found {
    let mut reader = Asker::new(vec![own], record);
    let mut found = Found::new();
    for key in keys {
        let reply = reader.ask(Step::Get(key.clone())).await;
        found.insert(key, reply);
    }
    found
}
