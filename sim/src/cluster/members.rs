//! The cluster itself: a world with its members, clients' hosts, and what is known of each member.
//!
//! A member is a host with a disk and a clock of its own, and [`node::server::serve`] on it. It is
//! started on whatever its last life left. A member that ends without having been killed or stopped
//! has failed: a panic unwinds through the world and ends the run, everything else is noticed by
//! [`Cluster::look`].
//!
//! What members report of themselves ([`ReplicaReport`]) steers the run and describes a failure;
//! the verdicts come from clients' answers and from the disks.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{
    Config, Crash, DiskConfig, DiskTiming, FaultPlan, NetConfig, NodeId, Outcome, Status, World,
};
use node::server::StartError;
use node::status::ReplicaReport;
use vsr::format::Configuration;

use super::plan::Plan;
use super::trace::tell;
use crate::Violation;
use crate::server::{self, PEERS_PORT, PORT, Shape, Watch};

/// The file of journal and superblock.
pub const JOURNAL: &str = "/data/journal";
/// How often members are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Steps of a world after which it is taken for a livelock.
const STEPS_MAX: u64 = 400_000_000;

/// So small that bars end and checkpoints are taken within seconds, and with a journal so large
/// that a member which was away for a while still finds in its peers' what it missed.
#[must_use]
pub fn configuration(members: usize) -> Configuration {
    Configuration {
        replica_count: u8::try_from(members).expect("a cluster has few members"),
        journal_segment_size: 256 << 10,
        journal_segment_count: 16,
        grid_size_max: 256 << 20,
        compression: [0, 1, 2, 2, 2, 2, 2, 2],
        ..Configuration::test_min()
    }
}

/// A member.
pub struct Member {
    /// Its host.
    pub host: NodeId,
    shape: Shape,
    watch: Rc<Watch>,
    outcome: Option<Outcome<Result<(), StartError>>>,
    /// The highest op that it has reported as committed, in all its lives.
    pub commit: u64,
    /// When it is to be started again.
    pub starts_at: Option<Duration>,
    /// How often it was started.
    pub starts: u64,
}

/// See the module's text.
pub struct Cluster {
    /// The world.
    pub world: World,
    /// Its members, in the order of their numbers.
    pub members: Vec<Member>,
    /// Hosts of clients.
    pub clients: Vec<NodeId>,
    /// Hosts that look at one member each, when the faults are over.
    pub probes: Vec<NodeId>,
}

/// The network while faults last.
fn rough(plan: &Plan) -> NetConfig {
    NetConfig {
        loss: plan.loss,
        tail: plan.tail,
        retransmit: plan.retransmit_ms * 1_000_000,
        ..NetConfig::default()
    }
}

fn config(plan: &Plan) -> Config {
    let faults = FaultPlan { slow: plan.slow_io, ..FaultPlan::default() };
    Config {
        disk: DiskConfig { sector: plan.sector, faults, ..DiskConfig::default() },
        disk_timing: DiskTiming::default(),
        net: rough(plan),
        steps_max: STEPS_MAX,
        ..Config::default()
    }
}

impl Cluster {
    /// Formats the members' directories; none is started.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(seed: u64, plan: &Plan) -> Result<Cluster, Violation> {
        let mut world = World::new(seed, config(plan));
        let mut hosts = |count: usize, name: &str| -> Vec<NodeId> {
            (0..count).map(|number| world.add_node(&format!("{name} {number}"))).collect()
        };
        let ids = hosts(plan.members(), "member");
        let clients = hosts(plan.clients as usize, "client");
        let probes = hosts(plan.members(), "probe");
        for (replica, host) in (0..).zip(&ids) {
            let configuration = configuration(plan.members());
            let format = move || server::format_member(replica, configuration);
            let made = world.run(*host, format);
            made.map_err(|status| Violation(format!("format: {status:?}")))?
                .map_err(|error| Violation(format!("format: {error}")))?;
        }
        let member = |(host, shape): (NodeId, &Shape)| Member {
            host,
            shape: *shape,
            watch: Rc::default(),
            outcome: None,
            commit: 0,
            starts_at: None,
            starts: 0,
        };
        let members = ids.into_iter().zip(&plan.shapes).map(member).collect();
        Ok(Cluster { world, members, clients, probes })
    }

    /// Tells what happens, if somebody wants to know.
    pub fn say(&self, text: impl FnOnce() -> String) {
        tell(self.world.now(), text);
    }

    /// Where members serve clients.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |member: &Member| SocketAddr::new(self.world.address(member.host), PORT);
        self.members.iter().map(address).collect()
    }

    /// Whether a member's process runs.
    #[must_use]
    pub fn is_up(&self, member: usize) -> bool {
        *self.world.status(self.members[member].host) == Status::Running
    }

    /// Numbers of the members whose processes run.
    #[must_use]
    pub fn up(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.is_up(*member)).collect()
    }

    /// Starts a member.
    pub fn start(&mut self, number: usize) {
        let peer = |member: &Member| {
            SocketAddr::new(self.world.address(member.host), PEERS_PORT).to_string()
        };
        let mut peers: Vec<String> = self.members.iter().map(peer).collect();
        if peers.len() == 1 {
            peers.clear();
        }
        let member = &mut self.members[number];
        member.watch = Rc::new(Watch::new(LOOK_EVERY));
        member.starts += 1;
        member.starts_at = None;
        let parts = server::member_parts(member.shape, &peers, &member.watch);
        member.outcome = Some(self.world.start(member.host, parts, server::serve));
        self.say(|| format!("member {number} starts"));
    }

    /// Kills a member that runs.
    pub fn crash(&mut self, number: usize, crash: Crash) {
        self.say(|| format!("member {number} dies: {crash:?}"));
        self.world.crash(self.members[number].host, crash);
    }

    /// Tells a member to stop in good order.
    pub fn stop(&self, number: usize) {
        self.members[number].watch.stop();
    }

    /// What a member that runs says of itself, if it was asked in this life.
    #[must_use]
    pub fn report(&self, number: usize) -> Option<ReplicaReport> {
        self.members[number].watch.replica().filter(|_| self.is_up(number))
    }

    /// Notes what members report.
    ///
    /// # Errors
    /// When one has ended by itself.
    pub fn look(&mut self) -> Result<(), Violation> {
        for number in 0..self.members.len() {
            if let Some(report) = self.report(number) {
                let member = &mut self.members[number];
                member.commit = member.commit.max(report.commit);
            }
            let member = &self.members[number];
            let ended = match self.world.status(member.host) {
                Status::New | Status::Running | Status::Crashed(_) => continue,
                Status::Fatal(reason, status) => format!("fatal, status {status}: {reason}"),
                Status::Finished => {
                    let outcome = member.outcome.as_ref().and_then(Outcome::take);
                    match outcome.map(node::server::outcome) {
                        Some(Err(error)) => error.to_string(),
                        other => format!("{other:?}"),
                    }
                }
            };
            return Err(Violation(format!("member {number} ended by itself: {ended}")));
        }
        Ok(())
    }

    /// How many ops the member that is furthest behind lacks of the newest that any has committed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let commits = || self.members.iter().map(|member| member.commit);
        commits().max().unwrap_or(0) - commits().min().unwrap_or(0)
    }

    /// A member's journal file, for damage.
    #[must_use]
    pub fn journal() -> &'static Path {
        Path::new(JOURNAL)
    }

    /// A line about each member.
    #[must_use]
    pub fn describe(&self) -> String {
        let line = |number: usize| {
            let member = &self.members[number];
            let status = self.world.status(member.host);
            let report = self.report(number);
            format!("  {number}: {status:?}, started {} times, {report:?}\n", member.starts)
        };
        (0..self.members.len()).map(line).collect()
    }
}
