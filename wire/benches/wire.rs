//! What each byte and each request costs on its way into the log and out of it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::message::{Prepare, Purpose};
use wire::{
    CheckpointId, Checksum, ClientTag, Draft, Header, Op, Opcode, OperationView, RequestBuilder,
    RequestView, Requests, SliceSink, TableId, Timestamp, checksum, slot_of_key,
};

const KEY: &[u8] = b"key:000000001234";
const VALUE: &[u8] = &[b'v'; 100];

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in [240usize, 4096, 64 << 10, 1 << 20] {
        let bytes = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |b| b.iter(|| checksum(black_box(&bytes))));
    }
    group.finish();
}

fn headers(c: &mut Criterion) {
    let prepare = Prepare {
        parent: Checksum(1),
        checkpoint: CheckpointId(2),
        op: Op(3),
        commit: Op(2),
        timestamp: Timestamp(4),
        version_count: 5,
        request_count: 5,
        purpose: Purpose::Requests,
    };
    let header = Draft::default().seal(&prepare, b"");
    let mut group = c.benchmark_group("header");
    let sum = checksum(b"");
    group.bench_function("seal", |b| {
        b.iter(|| Draft::default().seal_summed(black_box(&prepare), 0, sum));
    });
    group.bench_function("verify", |b| b.iter(|| Header::verify(black_box(header.bytes()))));
    group.finish();
}

fn write_request(space: &mut [u8]) -> usize {
    let mut sink = SliceSink::new(space);
    let mut builder = RequestBuilder::new(&mut sink, ClientTag(1)).expect("it fits");
    let put = OperationView::on_key(Opcode::Put, TableId(0), black_box(KEY)).with_value(VALUE);
    builder.push(&put).expect("it fits");
    builder.finish()
}

fn requests(c: &mut Criterion) {
    let mut space = [0; 256];
    let size = write_request(&mut space);
    let body = space[..size].repeat(64);
    let mut group = c.benchmark_group("request");
    group.bench_function("build a put", |b| b.iter(|| write_request(&mut space)));
    let one = &body[..size];
    group
        .bench_function("verify a put", |b| b.iter(|| RequestView::verify(black_box(one)).is_ok()));
    group.throughput(Throughput::Elements(64));
    group.bench_function("walk 64 puts", |b| {
        b.iter(|| {
            let requests = Requests::of_body(black_box(&body));
            requests.flat_map(|r| r.operations()).map(|o| o.key.len()).sum::<usize>()
        });
    });
    group.finish();
    c.bench_function("slot of a key of 16 bytes", |b| b.iter(|| slot_of_key(black_box(KEY))));
}

criterion_group!(benches, checksums, headers, requests);
criterion_main!(benches);
