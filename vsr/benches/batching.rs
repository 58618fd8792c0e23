//! What a request costs in the replica: copied into a prepare, ordered, committed.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ioring::BufferPool;
use vsr::replica::{Config, LogHead, Moment, RecoveredLog, Replica};
use wire::message::Prepare;
use wire::{
    CheckpointId, ClientTag, ClusterId, Op, Opcode, OperationView, ReplicaId, RequestBuilder,
    Requests, TableId, View,
};

fn replica() -> Replica {
    let config = Config::new(ClusterId(1), ReplicaId(0), 64 << 20);
    let pool = BufferPool::new("prepares", config.frame_size_max(), config.pipeline_max + 2);
    let log = RecoveredLog::at_checkpoint(LogHead::root(config.cluster));
    let moment = Moment { monotonic_ns: 0, wall_ns: 1 << 60 };
    let id = CheckpointId(0);
    let mut replica =
        Replica::recovered(config, pool, &log, id, View(0), Op(0), moment).expect("empty");
    replica.on_view_durable(View(1), View(1));
    replica
}

/// Puts of 100 bytes under keys of 16.
fn puts(count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for tag in 0..count {
        let key = format!("key:{tag:012}");
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(tag)).expect("vectors grow");
        let put = OperationView::on_key(Opcode::Put, TableId(0), key.as_bytes());
        builder.push(&put.with_value(&[b'v'; 100])).expect("vectors grow");
        builder.finish();
    }
    bytes
}

/// All requests into one prepare, through the log, and out as a commit.
fn round(replica: &mut Replica, requests: &[u8], moment: &mut Moment) {
    for request in Requests::of_body(requests) {
        replica.on_request(&request).expect("the round before has made room");
    }
    moment.monotonic_ns += 1000;
    moment.wall_ns += 1000;
    replica.advance(*moment);
    while let Some(append) = replica.next_append() {
        let op = append.header.tail::<Prepare>().expect("a prepare").op;
        replica.on_journal_written(op, append.buffer.freeze());
    }
    while replica.next_commit().is_some() {}
    replica.on_checkpoint(replica.commit(), CheckpointId(0));
}

fn batching(c: &mut Criterion) {
    let mut group = c.benchmark_group("replica");
    for count in [1u64, 50, 800] {
        let requests = puts(count);
        let mut moment = Moment { monotonic_ns: 0, wall_ns: 1 << 60 };
        let mut replica = replica();
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} puts in a prepare"), |b| {
            b.iter(|| round(&mut replica, &requests, &mut moment));
        });
    }
    group.finish();
}

criterion_group!(benches, batching);
criterion_main!(benches);
