//! Scripts of steps whose printed trace is the expected result: `vsr/tests/scenarios/*.txt`. Those
//! of clusters are in the folder below, and played by the test `cluster`.
//!
//! The form is that of `traces`. The replica has the smallest configuration: 4 prepares in the
//! pipeline, prepares of 4 KiB, 1 KiB for a write in parallel, writes overdue after 1 us, a log of
//! 16 sectors of which 2 are kept for pulses. Times are relative to the start.

use std::collections::HashMap;
use std::fmt::Write;

use vsr::replica::{Config, Expiry, Moment};
use wire::message::Prepare;
use wire::{Checksum, Header, Op, Timestamp};

use crate::harness::{Disk, Harness, tags};
use crate::traces;

/// Where time begins, so that a clock can be set back.
const START_NS: u64 = 1 << 50;

/// A step's words: a name and `key=value` arguments.
struct Step<'a> {
    name: &'a str,
    arguments: HashMap<&'a str, &'a str>,
}

impl<'a> Step<'a> {
    fn parse(line: &'a str) -> Step<'a> {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a step has a name");
        let pair = |word: &'a str| word.split_once('=').expect("arguments are key=value");
        Step { name, arguments: words.map(pair).collect() }
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.arguments.get(key).map_or(default, |text| text.parse().expect("a number"))
    }

    fn range(&self, key: &str) -> std::ops::RangeInclusive<u64> {
        let text = self.arguments[key];
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        low.parse().expect("a number")..=high.parse().expect("a number")
    }

    fn keeps(&self, op: Op) -> bool {
        self.arguments.contains_key("keep") && self.range("keep").contains(&op.0)
    }

    fn signed(&self, key: &str) -> i64 {
        self.arguments.get(key).map_or(0, |text| text.parse().expect("a signed number"))
    }
}

/// The node as it runs, or what is left of it.
enum Node {
    Up(Box<Harness>),
    Down(Disk),
}

struct Script {
    node: Node,
    moment: Moment,
    /// Which op has which checksum, to print parents by op.
    ops: HashMap<Checksum, Op>,
    trace: String,
}

impl Script {
    fn new() -> Script {
        Script {
            node: Node::Down(Disk::default()),
            moment: Moment { monotonic_ns: 0, wall_ns: START_NS },
            ops: HashMap::new(),
            trace: String::new(),
        }
    }

    fn say(&mut self, text: impl AsRef<str>) {
        writeln!(self.trace, "{}", text.as_ref()).expect("strings grow");
    }

    fn harness(&mut self) -> &mut Harness {
        match &mut self.node {
            Node::Up(harness) => harness,
            Node::Down(_) => panic!("the node is down"),
        }
    }

    fn play(&mut self, step: &Step<'_>) {
        match step.name {
            "start" => self.start(),
            "crash" => self.crash(step),
            "lose" => self.lose(step),
            "view-durable" => self.harness().persist_view(),
            "request" => self.request(step),
            "advance" => self.advance(step),
            "written" => self.harness().complete(Op(step.number("op", 0))),
            "commits" => self.commits(),
            "pulse" => self.harness().replica.request_pulse(),
            "checkpoint" => self.harness().checkpoint(Op(step.number("op", 0))),
            "read" => self.read(step),
            "deadline" => self.deadline(),
            "report" => self.report(),
            other => panic!("there is no step {other}"),
        }
    }

    fn start(&mut self) {
        let Node::Down(disk) = &mut self.node else { panic!("the node is up") };
        let disk = std::mem::take(disk);
        match Harness::start(Config::test_min(), disk, self.moment) {
            Ok(harness) => {
                let (report, view) = (harness.replica.report(), harness.replica.view_to_persist());
                self.node = Node::Up(Box::new(harness));
                let view = view.expect("a replica begins with a view to persist").view;
                let (op, commit) = (report.op, report.commit);
                self.say(format!("recovered op={op} commit={commit}, view {view} to be persisted"));
            }
            Err(error) => self.say(format!("refused: {error}")),
        }
    }

    /// Ends the process: of the writes in flight, `keep` survive.
    fn crash(&mut self, step: &Step<'_>) {
        let harness = self.harness();
        let mut disk = std::mem::take(&mut harness.disk);
        for (_, frame) in harness.writing.iter().filter(|(op, _)| step.keeps(**op)) {
            disk.write(frame);
        }
        self.moment.monotonic_ns = 0;
        self.moment.wall_ns = self.moment.wall_ns.strict_add_signed(step.signed("wall"));
        self.node = Node::Down(disk);
    }

    fn lose(&mut self, step: &Step<'_>) {
        let Node::Down(disk) = &mut self.node else { panic!("only what is down rots here") };
        disk.frames.remove(&Op(step.number("op", 0))).expect("there is such a frame");
    }

    fn request(&mut self, step: &Step<'_>) {
        let size = step.number("size", 64) as usize;
        for tag in step.range("tag") {
            if let Err(refused) = self.harness().request(tag, size) {
                return self.say(format!("tag {tag} refused: {refused}"));
            }
        }
    }

    /// Lets the host's clocks go on by `ns`, and the wall clock jump by `wall`.
    fn pass(&mut self, step: &Step<'_>) -> Moment {
        let passed = step.number("ns", 100);
        self.moment.monotonic_ns += passed;
        self.moment.wall_ns = (self.moment.wall_ns + passed).strict_add_signed(step.signed("wall"));
        self.moment
    }

    fn advance(&mut self, step: &Step<'_>) {
        let moment = self.pass(step);
        self.harness().replica.advance(moment);
        for header in self.harness().take_appends() {
            let line = self.describe(&header);
            self.say(format!("append {line}"));
        }
    }

    fn describe(&mut self, header: &Header) -> String {
        let prepare = header.tail::<Prepare>().expect("a prepare");
        self.ops.insert(header.checksum(), prepare.op);
        let parent = self.ops.get(&prepare.parent).copied().unwrap_or_default();
        let time = relative(prepare.timestamp);
        format!(
            "op={} view={} parent={parent} commit={} time={time} {:?} requests={} body={}",
            prepare.op,
            header.view(),
            prepare.commit,
            prepare.purpose,
            prepare.request_count,
            header.body_size(),
        )
    }

    fn commits(&mut self) {
        let commits = self.harness().take_commits();
        for commit in &commits {
            let op = commit.header.tail::<Prepare>().expect("a prepare").op;
            let text = format!("commit op={op} tags={:?}", tags(commit));
            self.say(text);
        }
    }

    /// A read now, of a key with a deadline if one is given.
    fn read(&mut self, step: &Step<'_>) {
        let moment = self.pass(step);
        let point = self.harness().replica.read_point(moment);
        let (now, log_time) = (relative(point.now), relative(point.log_time));
        self.say(format!("as of op={} log time={log_time} now={now}", point.commit));
        if step.arguments.contains_key("deadline") {
            let deadline = START_NS.strict_add_signed(step.signed("deadline"));
            let expiry = Expiry::at(deadline, point.log_time, point.now);
            let asked = (expiry == Expiry::Due)
                .then(|| self.harness().replica.request_time(Timestamp(deadline), moment));
            let answer = match (expiry, asked) {
                (Expiry::Live, _) => "live",
                (Expiry::Passed, _) => "expired",
                (Expiry::Due, Some(true)) => "due: answered after the next op",
                (Expiry::Due, _) => "due elsewhere, live here",
            };
            self.say(answer);
        }
    }

    fn deadline(&mut self) {
        let answer = match self.harness().replica.deadline_ns() {
            Some(at) => format!("at {at} ns"),
            None => "none".to_owned(),
        };
        self.say(answer);
    }

    fn report(&mut self) {
        let report = self.harness().replica.report();
        let idle = self.harness().replica.is_idle();
        let waits = if self.harness().replica.waits_for_log() { " waits for the log" } else { "" };
        self.say(format!(
            "{:?} view={} op={} commit={} checkpoint={} in flight={} waiting={} log={}/{} \
             idle={idle}{waits}",
            report.status,
            report.view,
            report.op,
            report.commit,
            report.checkpoint,
            report.in_flight,
            report.batch_size,
            report.log_used,
            report.log_budget,
        ));
    }
}

fn relative(time: Timestamp) -> String {
    if time.0 == 0 {
        return "none".to_owned();
    }
    format!("{:+}", i128::from(time.0) - i128::from(START_NS))
}

impl traces::Play for Script {
    fn run(&mut self, step: &str) {
        self.play(&Step::parse(step));
    }

    fn trace(&mut self) -> &mut String {
        &mut self.trace
    }
}

#[test]
fn scripts_give_the_traces_that_they_document() {
    traces::assert_replayed("scenarios", 6, Script::new);
}
