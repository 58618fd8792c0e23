//! The steady state allocates nothing: not per read, write, message, timer or wake-up.
//!
//! A counting allocator is the global one of this test; each case warms up, then counts what a long
//! run of operations allocates.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
use std::net::SocketAddr;
use std::time::Duration;

use ioring::uring::{Config, Runtime};
use ioring::{
    BufferPool, Direct, File, ListenOptions, Listener, OpenOptions, Queue, Stream, lane, sleep,
    spawn, timeout,
};

#[path = "../../tests/support/counting.rs"]
mod counting;

/// Allocations made while `work` runs for the second time.
async fn allocations_of<F: Future>(work: impl Fn() -> F) -> u64 {
    work().await;
    let before = counting::in_all();
    work().await;
    counting::in_all() - before
}

async fn echo(stream: Stream) {
    let mut reply = Vec::with_capacity(4096);
    loop {
        let bytes = stream.recv().await.unwrap();
        if bytes.is_empty() {
            return;
        }
        reply.clear();
        reply.extend_from_slice(&bytes);
        drop(bytes);
        let (result, returned) = stream.send(reply).await;
        result.unwrap();
        reply = returned;
    }
}

/// Sends `rounds` messages of `request` and waits for each reply.
async fn talk(stream: &Stream, rounds: u32, mut request: Vec<u8>) -> Vec<u8> {
    for _ in 0..rounds {
        let (result, returned) = stream.send(request).await;
        result.unwrap();
        request = returned;
        let mut received = 0;
        while received < request.len() {
            received += stream.recv().await.unwrap().len();
        }
    }
    request
}

async fn count_files(path: &std::path::Path) -> u64 {
    let direct = Direct::Preferred;
    let options =
        OpenOptions { read: true, write: true, create: true, direct, ..Default::default() };
    let file = File::open(path, &options).unwrap();
    file.allocate(0, 1 << 20).await.unwrap();
    let pool = BufferPool::new("test", 4096, 8);
    allocations_of(|| async {
        for round in 0..200u64 {
            let mut buffer = pool.take().await;
            buffer[0] = round as u8;
            let frozen = buffer.freeze();
            let (first, second) = (frozen.clone(), frozen.slice(..));
            drop(frozen);
            file.write(first, round * 4096).await.unwrap();
            file.write_durable(second, round * 4096).await.unwrap();
            let (result, buffer) = file.read(pool.take().await, round * 4096).await;
            result.unwrap();
            assert_eq!(buffer[0], round as u8);
        }
    })
    .await
}

async fn count_echo() -> u64 {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, ListenOptions::default()).unwrap();
    let client = Stream::connect(listener.local_addr()).await.unwrap();
    let server = listener.accept().await.unwrap();
    let serving = spawn(Queue::Foreground, "echo", echo(server));
    let mut request = talk(&client, 500, vec![7; 100]).await;
    let before = counting::in_all();
    request = talk(&client, 500, request).await;
    let allocations = counting::in_all() - before;
    assert_eq!(request.len(), 100);
    drop(client);
    serving.await;
    allocations
}

#[test]
fn the_steady_state_allocates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let (to_second, at_second) = lane::<u64>(4);
    let (to_first, at_first) = lane::<u64>(4);
    let parts = vec![(Some(path), to_second, at_first), (None, to_first, at_second)];
    let runtime = Runtime::new(Config::test_min(2)).unwrap();
    runtime.run(parts, |(path, outbox, inbox)| async move {
        let Some(path) = path else {
            while let Some(item) = inbox.recv().await {
                outbox.send(item).await.unwrap();
            }
            return;
        };
        assert_eq!(count_files(&path).await, 0, "files");
        assert_eq!(count_echo().await, 0, "sockets");
        let timers = allocations_of(|| async {
            for _ in 0..100 {
                sleep(Duration::from_micros(10)).await;
                timeout(Duration::from_secs(9), ioring::yield_now()).await.unwrap();
            }
        });
        assert_eq!(timers.await, 0, "timers");
        let lanes = allocations_of(|| async {
            for round in 0..1000 {
                outbox.send(round).await.unwrap();
                assert_eq!(inbox.recv().await, Some(round));
            }
        });
        assert_eq!(lanes.await, 0, "lanes");
    });
}
