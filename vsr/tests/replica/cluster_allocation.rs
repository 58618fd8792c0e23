//! The path of a request through a cluster of three allocates nothing once everything has its size:
//! prepares are shared frames, acknowledgements and heartbeats are headers.

use ioring::BufferPool;
use vsr::journal::recovery::MemberLog;
use vsr::replica::{Config, Moment, Replica, ViewRecord};
use wire::message::Prepare;
use wire::{CheckpointId, Op, ReplicaId, Requests, View};

use crate::counting;
use crate::harness::request;

struct Cluster {
    members: Vec<Replica>,
    moment: Moment,
    applied: u64,
}

impl Cluster {
    fn start() -> Cluster {
        let moment = Moment { monotonic_ns: 0, wall_ns: 1 << 50 };
        let member = |index| {
            let replica = ReplicaId(index);
            let log_budget = 1 << 20;
            let config = Config { replica, replica_count: 3, log_budget, ..Config::test_min() };
            let pool = BufferPool::new("prepares", config.frame_size_max(), 32);
            let log = MemberLog {
                checkpoint_op: Op(0),
                ops: Vec::new(),
                strays: Vec::new(),
                head_known: true,
                commit_max: Op(0),
            };
            let record = ViewRecord {
                view: View(0),
                log_view: View(0),
                headers: Vec::new(),
                commit_max: Op(0),
            };
            let checkpoint = (None, CheckpointId(0));
            Replica::rejoined(config, pool, &log, &record, checkpoint, moment)
        };
        let members = (0..3).map(member).collect();
        let mut cluster = Cluster { members, moment, applied: 0 };
        while !cluster.members.iter().any(Replica::serves) {
            cluster.turn(&[]);
        }
        cluster
    }

    /// A turn of every member: writes and messages take no time.
    fn turn(&mut self, requests: &[u8]) {
        if let Some(primary) = self.members.iter_mut().find(|member| member.serves()) {
            for request in Requests::of_body(requests) {
                primary.on_request(&request).expect("the turn before has made room");
            }
        }
        self.moment.monotonic_ns += 1_000_000;
        self.moment.wall_ns += 1_000_000;
        for _ in 0..4 {
            (0..3).for_each(|member| self.step(member));
        }
        for member in &mut self.members {
            let commit = member.commit();
            member.on_checkpoint(commit, CheckpointId(0));
        }
    }

    fn step(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.advance(self.moment);
        if let Some(record) = member.view_to_persist() {
            member.on_view_durable(record.view, record.log_view);
        }
        while let Some(append) = member.next_append() {
            let op = append.header.tail::<Prepare>().expect("a prepare").op;
            let frame = append.buffer.freeze();
            member.on_frame(&frame);
            member.on_journal_written(op, frame);
        }
        while let Some(commit) = member.next_commit() {
            self.applied += Requests::of_body(commit.body()).count() as u64;
        }
        while let Some(send) = self.members[index].next_send() {
            let (from, to) = (ReplicaId(index as u8), &mut self.members[usize::from(send.to.0)]);
            to.on_message(from, &send.header, send.body(), self.moment);
        }
    }
}

#[test]
fn requests_pass_a_cluster_without_an_allocation() {
    let requests: Vec<u8> = (0..20).flat_map(|tag| request(tag, 160)).collect();
    let mut cluster = Cluster::start();
    (0..100).for_each(|_| cluster.turn(&requests));
    let before = counting::on_this_thread();
    (0..1000).for_each(|_| cluster.turn(&requests));
    assert_eq!(counting::on_this_thread() - before, 0);
    (0..100).for_each(|_| cluster.turn(&[]));
    assert_eq!(cluster.applied, 1100 * 20 * 3, "every member applied every request");
}
