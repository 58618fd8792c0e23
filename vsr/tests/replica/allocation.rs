//! The path of a request through the replica allocates nothing once everything has its size.

use ioring::{BufferPool, Frozen};
use vsr::replica::{Config, LogHead, Moment, RecoveredLog, Replica};
use wire::message::Prepare;
use wire::{CheckpointId, Op, Requests, View};

use crate::counting;
use crate::harness::request;

struct Driver {
    replica: Replica,
    moment: Moment,
    writing: [Option<(Op, Frozen)>; 8],
    applied: u64,
}

impl Driver {
    fn start() -> Driver {
        let config = Config { log_budget: 1 << 20, ..Config::test_min() };
        let pool = BufferPool::new("prepares", config.frame_size_max(), config.pipeline_max + 2);
        let log = RecoveredLog::at_checkpoint(LogHead::root(config.cluster));
        let moment = Moment { monotonic_ns: 0, wall_ns: 1 << 50 };
        let id = CheckpointId(0);
        let mut replica =
            Replica::recovered(config, pool, &log, id, View(0), Op(0), moment).expect("empty");
        replica.on_view_durable(View(1), View(1));
        Driver { replica, moment, writing: Default::default(), applied: 0 }
    }

    /// A turn: requests, a close, writes that complete in reverse order, commits, a checkpoint.
    fn turn(&mut self, requests: &[u8]) {
        for request in Requests::of_body(requests) {
            self.replica.on_request(&request).expect("the turn before has made room");
        }
        self.moment.monotonic_ns += 1000;
        self.moment.wall_ns += 1000;
        self.replica.advance(self.moment);
        for slot in &mut self.writing {
            *slot = self.replica.next_append().map(|append| {
                let op = append.header.tail::<Prepare>().expect("a prepare").op;
                (op, append.buffer.freeze())
            });
        }
        for slot in self.writing.iter_mut().rev() {
            if let Some((op, frame)) = slot.take() {
                self.replica.on_journal_written(op, frame);
            }
        }
        while let Some(commit) = self.replica.next_commit() {
            self.applied += Requests::of_body(commit.body()).count() as u64;
        }
        let commit = self.replica.commit();
        self.replica.on_checkpoint(commit, CheckpointId(1));
    }
}

#[test]
fn requests_pass_without_an_allocation() {
    let requests: Vec<u8> = (0..50).flat_map(|tag| request(tag, 160)).collect();
    let mut driver = Driver::start();
    driver.turn(&requests);
    let before = counting::on_this_thread();
    for _ in 0..1000 {
        driver.turn(&requests);
    }
    assert_eq!(counting::on_this_thread() - before, 0);
    assert_eq!(driver.applied, 1001 * 50);
    let counted = counting::on_this_thread();
    drop(vec![1u8]);
    assert_eq!(counting::on_this_thread() - counted, 1, "the counter counts");
}
