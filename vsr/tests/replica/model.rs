//! The replica against a model, through crashes.
//!
//! Random requests, completions in any order, checkpoints, clocks that jump, and crashes that keep
//! any subset of the frames in flight. The model is the list of requests accepted in each life and
//! the list of those given out as committed.

use proptest::prelude::*;
use vsr::replica::{Bottleneck, Config, LogHead, Moment, Refused};
use wire::message::Prepare;
use wire::{Checksum, Op, Version};

use crate::harness::{Disk, Harness, REQUEST_SIZE_MIN, tags};

#[derive(Clone, Debug)]
enum Step {
    Request { words: usize },
    Advance { passed_ns: u64, wall_ns: u64 },
    Complete { which: prop::sample::Index },
    Commit,
    Checkpoint { which: prop::sample::Index },
    Pulse,
    Crash { survivors: u8, wall_ns: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let wall = 0u64..20_000_000_000;
    prop_oneof![
        8 => (0usize..200).prop_map(|words| Step::Request { words }),
        1 => (400usize..480).prop_map(|words| Step::Request { words }),
        6 => (0u64..2000, wall.clone())
            .prop_map(|(passed_ns, wall_ns)| Step::Advance { passed_ns, wall_ns }),
        6 => any::<prop::sample::Index>().prop_map(|which| Step::Complete { which }),
        5 => Just(Step::Commit),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Checkpoint { which }),
        1 => Just(Step::Pulse),
        1 => (any::<u8>(), wall)
            .prop_map(|(survivors, wall_ns)| Step::Crash { survivors, wall_ns }),
    ]
}

/// What must be true of everything the replica ever did.
struct Model {
    harness: Harness,
    moment: Moment,
    next_tag: u64,
    /// Accepted in this life and not yet given out as committed, in order.
    waiting: Vec<u64>,
    /// The last prepare journaled in this life, or recovered.
    head: LogHead,
    /// The checksum of each op given out as committed, in any life.
    committed: Vec<Checksum>,
    /// How many of them are behind in this life: applied by a replay.
    applied: Op,
    /// The newest version ever given out, in any life.
    version_max: Version,
}

impl Model {
    fn new() -> Model {
        let config = Config::test_min();
        let moment = Moment { monotonic_ns: 5, wall_ns: 1_000_000_000 };
        let mut harness = Harness::start(config, Disk::default(), moment).expect("empty");
        harness.persist_view();
        Model {
            harness,
            moment,
            next_tag: 0,
            waiting: Vec::new(),
            head: LogHead::root(config.cluster),
            committed: Vec::new(),
            applied: Op(0),
            version_max: Version(0),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Request { words } => self.request(REQUEST_SIZE_MIN + words * 8),
            Step::Advance { passed_ns, wall_ns } => {
                self.moment.monotonic_ns += passed_ns;
                self.moment.wall_ns = *wall_ns;
                self.harness.replica.advance(self.moment);
                self.append();
            }
            Step::Complete { which } => {
                let ops: Vec<Op> = self.harness.writing.keys().copied().collect();
                if !ops.is_empty() {
                    self.harness.complete(ops[which.index(ops.len())]);
                }
            }
            Step::Commit => self.commit(),
            Step::Checkpoint { which } => self.checkpoint(|span| which.index(span)),
            Step::Pulse => self.harness.replica.request_pulse(),
            Step::Crash { survivors, wall_ns } => self.crash(*survivors, *wall_ns),
        }
        self.check_bounds();
    }

    fn request(&mut self, size: usize) {
        let foreseen = self.harness.replica.can_accept(size);
        let answer = self.harness.request(self.next_tag, size);
        assert_eq!(answer, foreseen);
        match answer {
            Ok(()) => {
                self.waiting.push(self.next_tag);
                self.next_tag += 1;
            }
            Err(Refused::TooLarge { limit, .. }) => assert!(size > limit),
            Err(Refused::Full(_)) => assert!(!self.harness.replica.is_idle()),
            Err(Refused::NotServing) => panic!("the view is durable"),
        }
    }

    fn append(&mut self) {
        for header in self.harness.take_appends() {
            let prepare = header.tail::<Prepare>().expect("a prepare");
            assert_eq!(prepare.op, self.head.op.next(), "ops have no gaps");
            assert_eq!(prepare.parent, self.head.checksum, "the chain holds");
            assert!(prepare.timestamp.0 > self.version_max.0, "time strictly increases");
            assert!(prepare.commit.0 <= self.head.op.0);
            assert_eq!(header.view(), self.harness.disk.view, "only in a durable view");
            self.head = LogHead::of(&header);
            self.version_max = self.head.version_max;
        }
    }

    fn commit(&mut self) {
        for commit in self.harness.take_commits() {
            let op = commit.header.tail::<Prepare>().expect("a prepare").op;
            assert_eq!(op, self.applied.next(), "commits come in op order");
            let durable = self.harness.disk.header(op).expect("only what is durable commits");
            assert_eq!(durable.checksum(), commit.header.checksum());
            self.applied = op;
            self.remember(op, commit.header.checksum());
            let answered = tags(&commit);
            let accepted: Vec<u64> = self.waiting.drain(..answered.len()).collect();
            assert_eq!(answered, accepted, "each request commits once, in its order");
        }
    }

    /// What was once committed at an op is what is committed there for ever.
    fn remember(&mut self, op: Op, checksum: Checksum) {
        match self.committed.get(op.0 as usize - 1) {
            Some(before) => assert_eq!(*before, checksum, "op {op} changed"),
            None => {
                assert_eq!(self.committed.len() as u64, op.0 - 1);
                self.committed.push(checksum);
            }
        }
    }

    /// Takes a checkpoint at one of the ops after the last, if there is any.
    fn checkpoint(&mut self, choose: impl FnOnce(usize) -> usize) {
        let low = self.harness.replica.report().checkpoint;
        let span = self.applied.0 - low.0;
        if span > 0 {
            self.harness.checkpoint(Op(low.0 + 1 + choose(span as usize) as u64));
        }
    }

    fn crash(&mut self, survivors: u8, wall_ns: u64) {
        let mut disk = std::mem::take(&mut self.harness.disk);
        let in_flight = std::mem::take(&mut self.harness.writing);
        for (index, frame) in in_flight.values().enumerate() {
            if survivors & (1 << (index % 8)) != 0 {
                disk.write(frame);
            }
        }
        // Another boot: the monotonic clock begins anywhere, the wall clock may have been set back.
        self.moment = Moment { monotonic_ns: u64::from(survivors), wall_ns };
        let view = disk.view;
        self.harness = Harness::start(Config::test_min(), disk, self.moment)
            .expect("what was committed is in the chain");
        self.harness.persist_view();
        let report = self.harness.replica.report();
        assert!(report.view > view, "what was dropped is of an older view");
        assert!(report.op.0 >= self.committed.len() as u64, "nothing committed is lost");
        assert_eq!(report.op, report.commit, "alone, what is durable is committed");
        // The replay, from the checkpoint on.
        for op in (report.checkpoint.0 + 1..=report.op.0).map(Op) {
            let header = self.harness.disk.header(op).expect("the recovered log is there");
            self.remember(op, header.checksum());
            self.head = LogHead::of(&header);
        }
        self.applied = report.op;
        if report.op == report.checkpoint {
            let root = LogHead::root(self.harness.config.cluster);
            self.head = self.harness.disk.checkpoint.unwrap_or(root);
        }
        // What was dropped has no successor: its versions may be given out again.
        self.version_max = self.head.version_max;
        self.waiting.clear();
    }

    fn check_bounds(&mut self) {
        let point = self.harness.replica.read_point(self.moment);
        assert!(point.now >= point.log_time, "now is not before what is known");
        let report = self.harness.replica.report();
        assert!(report.in_flight <= self.harness.config.pipeline_max);
        assert!(report.log_used <= report.log_budget);
        assert!(report.commit <= report.op && report.checkpoint <= report.commit);
        let held = self.harness.pool.count() - self.harness.pool.available();
        assert!(held <= self.harness.config.pipeline_max + 1, "{held} buffers");
    }

    /// With everything completing, everything accepted commits.
    fn drain(&mut self) {
        for _ in 0..200 {
            self.moment.monotonic_ns += 10_000;
            self.harness.replica.advance(self.moment);
            self.append();
            while let Some((&op, _)) = self.harness.writing.first_key_value() {
                self.harness.complete(op);
            }
            self.commit();
            let blocked = self.harness.replica.can_accept(4096 - 256);
            if blocked == Err(Refused::Full(Bottleneck::Log)) || self.applied.0 % 4 == 3 {
                self.checkpoint(|span| span - 1);
            }
            if self.harness.replica.is_idle() {
                break;
            }
        }
        assert!(self.harness.replica.is_idle() && self.waiting.is_empty());
        assert_eq!(self.harness.pool.available(), self.harness.pool.count(), "no buffer leaks");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_replica_is_as_its_model(steps in prop::collection::vec(any_step(), 1..200)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.drain();
    }
}
