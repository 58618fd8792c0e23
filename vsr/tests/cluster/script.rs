//! Scripts of steps for a cluster of three whose printed trace is the expected result:
//! `vsr/tests/scenarios/cluster/*.txt`.
//!
//! The form is that of `traces`. A message takes 20 us, a write 200 us; timeouts are spread as
//! always, from one seed. Heartbeats and pings are left out, unless a step asks for them.

use std::cell::RefCell;
use std::fmt::Write;

use wire::message::{
    Commit, CommitOk, DoViewChange, GetHeaders, GetPrepare, Headers, PreVote, Prepare, PrepareOk,
    ReadIndex, StartView, StartViewChange,
};
use wire::{Command, Header, Op};

use crate::lives::config;
use crate::traces;
use crate::world::{MS, World};

/// What a message says, in a few words.
pub(crate) fn message(header: &Header) -> String {
    let view = header.view();
    let said = match header.command() {
        Command::Prepare => header.tail().map(|m: Prepare| format!("op={}", m.op)),
        Command::PrepareOk => header.tail().map(|m: PrepareOk| format!("op={}", m.op)),
        Command::Commit => {
            header.tail().map(|m: Commit| format!("commit={} round={}", m.commit, m.round))
        }
        Command::CommitOk => header.tail().map(|m: CommitOk| format!("round={}", m.round)),
        Command::PreVote => header.tail().map(|m: PreVote| format!("candidate={}", m.candidate)),
        Command::StartViewChange => {
            header.tail().map(|m: StartViewChange| format!("log_view={}", m.log_view))
        }
        Command::DoViewChange => header.tail().map(|m: DoViewChange| {
            let ops = |bits: u128| -> Vec<u64> {
                (0..m.op.0.min(128))
                    .rev()
                    .filter(|i| bits >> i & 1 == 1)
                    .map(|i| m.op.0 - i)
                    .collect()
            };
            let (log_view, op, commit) = (m.log_view, m.op, m.commit);
            let (present, nack) = (ops(m.present), ops(m.nack));
            format!("log_view={log_view} op={op} commit={commit} present={present:?} nack={nack:?}")
        }),
        Command::StartView => {
            header.tail().map(|m: StartView| format!("op={} commit={}", m.op, m.commit))
        }
        Command::GetHeaders => {
            header.tail().map(|m: GetHeaders| format!("ops={}..={}", m.op_min, m.op_max))
        }
        Command::Headers => header.tail().map(|m: Headers| format!("count={}", m.count)),
        Command::GetPrepare => header.tail().map(|m: GetPrepare| format!("op={}", m.op)),
        Command::ReadIndex => header.tail().map(|m: ReadIndex| format!("commit={}", m.commit)),
        _ => None,
    };
    format!("{:?} view={view} {}", header.command(), said.unwrap_or_default()).trim_end().to_owned()
}

const NOISE: [&str; 4] = [" Commit view", " CommitOk view", " Ping view", " Pong view"];

struct Script {
    world: World,
    heartbeats: bool,
    trace: String,
}

impl Script {
    fn new() -> Script {
        let mut world = World::new(7, config(3));
        world.script = Some(RefCell::default());
        Script { world, heartbeats: false, trace: String::new() }
    }

    fn say(&mut self, text: &str) {
        writeln!(self.trace, "{text}").expect("strings grow");
    }

    fn play(&mut self, step: &str) {
        let words: Vec<&str> = step.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        let node = |index: usize| number(index) as usize;
        let lines = words.last() != Some(&"silently");
        match words[0] {
            "start" => (1..words.len()).for_each(|index| self.world.start(node(index))),
            "crash" => self.world.crash(node(1)),
            "isolate" => (0..3).for_each(|other| {
                self.world.cut[node(1)][other] = true;
                self.world.cut[other][node(1)] = true;
            }),
            "cut" => self.world.cut[node(1)][node(2)] = true,
            "heal" => self.world.cut = Default::default(),
            "damage" => self.world.damage_body(node(1), Op(number(2))),
            "marker" => self.world.mark(node(1)),
            "heartbeats" => self.heartbeats = words[1] == "on",
            "request" => {
                self.world.request(node(1), 8).expect("it takes a request");
            }
            "read" => self.world.read(node(1)),
            "run" => self.world.run_until(self.world.now + number(1) * MS),
            "settle" => {
                let end = self.world.now + 5000 * MS;
                let settled = self.world.run_until_true(end, World::is_converged);
                assert!(settled, "{}\n{}", self.trace, self.world.describe());
            }
            "report" => self.report(),
            other => panic!("there is no step {other}"),
        }
        let happened = self.world.script.as_ref().expect("it is a script's").take();
        for line in happened.iter().filter(|_| lines) {
            if self.heartbeats || !NOISE.iter().any(|noise| line.contains(noise)) {
                self.say(line);
            }
        }
    }

    fn report(&mut self) {
        for node in 0..3 {
            let Some(replica) = &self.world.nodes[node].replica else {
                self.say(&format!("{node}: down"));
                continue;
            };
            let report = replica.report();
            let serves = if report.serves { " serves" } else { "" };
            let blocked = report.blocked_by.map(|op| format!(" waits for op={op}"));
            self.say(&format!(
                "{node}: {:?} view={}/{} op={} commit={}{serves}{}",
                report.status,
                report.view,
                report.log_view,
                report.op,
                report.commit,
                blocked.unwrap_or_default(),
            ));
        }
    }
}

impl traces::Play for Script {
    fn run(&mut self, step: &str) {
        self.play(step);
    }

    fn trace(&mut self) -> &mut String {
        &mut self.trace
    }
}

#[test]
fn scripts_of_clusters_give_the_traces_that_they_document() {
    traces::assert_replayed("scenarios/cluster", 6, Script::new);
}
