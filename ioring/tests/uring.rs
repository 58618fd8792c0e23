//! The driver on io_uring, through the public interface, on the real kernel.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::time::Duration;

use ioring::uring::{Config, Idle, Runtime};
use ioring::{
    Buffer, Direct, File, ListenOptions, Listener, OpenOptions, Queue, Stream, lane, now, sleep,
    spawn, timeout,
};

/// Runs one small core to its end.
fn run<F, R>(main: impl Fn() -> F + Clone + Send) -> R
where
    F: Future<Output = R> + 'static,
    R: Send + 'static,
{
    let runtime = Runtime::new(Config::test_min(1)).unwrap();
    runtime.run(vec![()], move |()| main()).pop().unwrap()
}

fn any_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn filled(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::zeroed(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer
}

#[test]
fn what_is_written_is_read_back_direct_and_buffered() {
    let directory = tempfile::tempdir().unwrap();
    for direct in [Direct::Preferred, Direct::Off] {
        let path = directory.path().join(format!("{direct:?}"));
        run(move || {
            let path = path.clone();
            async move {
                let options = OpenOptions {
                    read: true,
                    write: true,
                    create: true,
                    direct,
                    ..Default::default()
                };
                let file = File::open(&path, &options).unwrap();
                file.allocate(0, 1 << 20).await.unwrap();
                assert_eq!(file.len().unwrap(), 1 << 20);
                let bytes = pattern(1, 64 << 10);
                file.write(filled(&bytes).freeze(), 8192).await.unwrap();
                file.sync().await.unwrap();
                file.write_durable(filled(&bytes[..4096]).freeze(), 0).await.unwrap();
                let (result, buffer) = file.read(Buffer::zeroed(64 << 10), 8192).await;
                result.unwrap();
                assert!(buffer[..] == bytes[..]);
                file.discard(8192, 4096).await.unwrap();
                let (result, buffer) = file.read(Buffer::zeroed(8192), 8192).await;
                result.unwrap();
                assert!(buffer[..4096].iter().all(|byte| *byte == 0));
                assert!(buffer[4096..] == bytes[4096..8192]);
                let (result, _) = file.read(Buffer::zeroed(8192), (1 << 20) - 4096).await;
                let error = result.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
        });
    }
}

/// The kernel reads what is in its page cache when it gets the request, so what a read returns
/// tells whether it was handed over before or after the file changed.
#[test]
fn several_reads_are_handed_over_within_the_turn_and_few_at_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, pattern(1, 4096)).unwrap();
    run(move || {
        let path = path.clone();
        async move {
            let options = OpenOptions { read: true, direct: Direct::Off, ..Default::default() };
            let file = File::open(&path, &options).unwrap();
            for (count, within) in [(9, 8), (4, 4), (3, 2), (1, 0)] {
                std::fs::write(&path, pattern(1, 4096)).unwrap();
                file.read(Buffer::zeroed(4096), 0).await.0.unwrap();
                let reads = (0..count).map(|_| file.read(Buffer::zeroed(4096), 0));
                let mut reads = std::pin::pin!(ioring::join_all(reads));
                let waits = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(reads.as_mut().poll(context).is_pending())
                });
                assert!(waits.await, "nothing completes before the turn ends");
                std::fs::write(&path, pattern(2, 4096)).unwrap();
                let early = reads.await.into_iter().filter(|(result, bytes)| {
                    result.as_ref().unwrap();
                    bytes[..] == pattern(1, 4096)
                });
                assert_eq!(early.count(), within, "of {count} reads");
            }
        }
    });
}

#[test]
fn a_locked_file_is_locked_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("LOCK");
    run(move || {
        let path = path.clone();
        async move {
            let options = OpenOptions { write: true, create: true, ..Default::default() };
            let first = File::open(&path, &options).unwrap();
            let second = File::open(&path, &options).unwrap();
            assert!(first.try_lock().unwrap());
            assert!(!second.try_lock().unwrap());
            drop(first);
            assert!(second.try_lock().unwrap());
        }
    });
}

#[test]
fn a_dropped_read_keeps_its_buffer_until_the_kernel_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, pattern(3, 1 << 20)).unwrap();
    run(move || {
        let path = path.clone();
        async move {
            let options =
                OpenOptions { read: true, direct: Direct::Preferred, ..Default::default() };
            let file = File::open(&path, &options).unwrap();
            let pool = ioring::BufferPool::new("test", 64 << 10, 4);
            for _ in 0..50 {
                let buffer = pool.take().await;
                let read = file.read(buffer, 0);
                // Polled once, so that the request is with the kernel, then dropped.
                let elapsed = ioring::select(async {}, read).await;
                assert!(matches!(elapsed, ioring::Either::First(())));
                let buffer = pool.take().await;
                let read = std::pin::pin!(file.read(buffer, 4096));
                let _ = timeout(Duration::ZERO, read).await;
            }
            drop(file);
            while pool.available() < 4 {
                sleep(Duration::from_micros(100)).await;
            }
        }
    });
}

async fn echo(stream: Stream) {
    loop {
        let bytes = match stream.recv().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => return,
        };
        let reply = bytes.to_vec();
        drop(bytes);
        if stream.send(reply).await.0.is_err() {
            return;
        }
    }
}

#[test]
fn connections_echo_more_than_the_receive_buffers_hold() {
    let spin = Idle::Spin(Duration::from_micros(50));
    for (idle, multishot_receive) in
        [(Idle::Sleep, true), (Idle::Sleep, false), (spin, true), (Idle::Adaptive, true)]
    {
        let config = Config { idle, multishot_receive, ..Config::test_min(1) };
        Runtime::new(config).unwrap().run(vec![()], |()| echo_much());
    }
}

async fn echo_much() {
    let listener = Listener::bind(any_address(), ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    let server = spawn(Queue::Foreground, "server", async move {
        loop {
            let stream = listener.accept().await.unwrap();
            spawn(Queue::Foreground, "echo", echo(stream)).detach();
        }
    });
    let clients = (0..10).map(|number| async move {
        let stream = Stream::connect(address).await.unwrap();
        let bytes = pattern(number, 200_000);
        let sender = stream.clone();
        let sent = bytes.clone();
        let sending = spawn(Queue::Foreground, "sender", async move {
            sender.send(sent).await.0.unwrap();
        });
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            let part = stream.recv().await.unwrap();
            assert!(!part.is_empty());
            received.extend_from_slice(&part);
        }
        sending.await;
        assert!(received == bytes);
    });
    ioring::join_all(clients).await;
    server.cancel();
    assert!(ioring::stats().receive_starved > 0, "16 KiB of buffers cannot have sufficed");
}

#[test]
fn giving_up_a_send_closes_the_connection() {
    run(|| async {
        let listener = Listener::bind(any_address(), ListenOptions::default()).unwrap();
        let client = Stream::connect(listener.local_addr()).await.unwrap();
        let server = listener.accept().await.unwrap();
        // Nobody reads: this can never be done.
        let send = server.send(vec![1; 64 << 20]);
        assert!(timeout(Duration::from_millis(20), send).await.is_err());
        drop(server);
        let mut received = 0;
        loop {
            match timeout(Duration::from_secs(5), client.recv()).await.unwrap() {
                Ok(bytes) if !bytes.is_empty() => received += bytes.len(),
                _ => break,
            }
        }
        assert!(received < 64 << 20);
    });
}

#[test]
fn a_connection_that_is_not_read_does_not_starve_the_others() {
    run(|| async {
        let listener = Listener::bind(any_address(), ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        let silent = Stream::connect(address).await.unwrap();
        let unread = listener.accept().await.unwrap();
        let first = unread.recv();
        let flood = spawn(Queue::Background, "flood", async move {
            let _ = silent.send(vec![7; 64 << 20]).await;
        });
        assert!(!first.await.unwrap().is_empty());
        let talker = Stream::connect(address).await.unwrap();
        let served = listener.accept().await.unwrap();
        spawn(Queue::Foreground, "echo", echo(served)).detach();
        for _ in 0..100 {
            talker.send(vec![1; 100]).await.0.unwrap();
            let reply = timeout(Duration::from_secs(5), talker.recv()).await.unwrap().unwrap();
            assert_eq!(reply[0], 1);
        }
        let mut total = 0;
        while total < 1 << 20 {
            total += unread.recv().await.unwrap().len();
        }
        flood.cancel();
    });
}

#[test]
fn the_end_of_a_stream_is_seen_and_errors_are_named() {
    run(|| async {
        let listener = Listener::bind(any_address(), ListenOptions::default()).unwrap();
        let client = Stream::connect(listener.local_addr()).await.unwrap();
        let server = listener.accept().await.unwrap();
        client.send(b"last words".to_vec()).await.0.unwrap();
        client.shutdown(ioring::Side::Write).unwrap();
        assert_eq!(&server.recv().await.unwrap()[..], b"last words");
        assert!(server.recv().await.unwrap().is_empty());
        assert!(server.recv().await.unwrap().is_empty());
        let address = listener.local_addr();
        drop(listener);
        sleep(Duration::from_millis(20)).await;
        let error = Stream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    });
}

#[test]
fn shared_parts_are_sent_in_order() {
    run(|| async {
        let listener = Listener::bind(any_address(), ListenOptions::default()).unwrap();
        let client = Stream::connect(listener.local_addr()).await.unwrap();
        let server = listener.accept().await.unwrap();
        let bytes = pattern(9, 300_000);
        let frozen = filled(&bytes).freeze();
        let parts: Vec<_> =
            (0..100).map(|index| frozen.slice(index * 3000..(index + 1) * 3000)).collect();
        let sending = spawn(Queue::Foreground, "sender", async move {
            client.send_frozen(parts).await.0.unwrap();
        });
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            received.extend_from_slice(&server.recv().await.unwrap());
        }
        sending.await;
        assert!(received == bytes);
    });
}

#[test]
fn timers_fire_in_order_and_not_early() {
    run(|| async {
        let started = now();
        let mut tasks = Vec::new();
        for delay in [30u64, 10, 20] {
            tasks.push(spawn(Queue::Foreground, "sleeper", async move {
                sleep(Duration::from_millis(delay)).await;
                now().since(started)
            }));
        }
        let elapsed = ioring::join_all(tasks).await;
        assert!(elapsed[0] >= Duration::from_millis(30));
        assert!(elapsed[1] >= Duration::from_millis(10) && elapsed[1] < elapsed[2]);
        assert!(timeout(Duration::from_millis(5), std::future::pending::<()>()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(60), async { 7 }).await, Ok(7));
    });
}

#[test]
fn cores_exchange_items_and_sleep_meanwhile() {
    const ROUNDS: u64 = 2_000;
    let (to_second, at_second) = lane::<u64>(4);
    let (to_first, at_first) = lane::<u64>(4);
    let parts = vec![(0, to_second, at_first), (1, to_first, at_second)];
    let runtime = Runtime::new(Config::test_min(2)).unwrap();
    let sums = runtime.run(parts, |(core, outbox, inbox)| async move {
        assert_eq!(ioring::core_id().0, core);
        let mut sum = 0;
        if core == 0 {
            for round in 0..ROUNDS {
                outbox.send(round).await.unwrap();
                sum += inbox.recv().await.unwrap();
            }
        } else {
            while let Some(item) = inbox.recv().await {
                sum += item;
                outbox.send(item + 1).await.unwrap();
            }
        }
        sum
    });
    assert_eq!(sums, [ROUNDS * (ROUNDS + 1) / 2, ROUNDS * (ROUNDS - 1) / 2]);
}

#[test]
fn a_thread_without_a_runtime_can_send_to_a_core() {
    // As much as is sent: a thread without a runtime cannot wait for space.
    let (outbox, inbox) = lane::<u32>(100);
    let sender = std::thread::spawn(move || {
        for number in 0..100 {
            std::thread::sleep(Duration::from_micros(200));
            outbox.try_send(number).unwrap();
        }
    });
    let runtime = Runtime::new(Config::test_min(1)).unwrap();
    let received = runtime.run(vec![inbox], |inbox| async move {
        let mut received = Vec::new();
        while inbox.recv_many(&mut received, 8).await > 0 {}
        received
    });
    assert_eq!(received[0], (0..100).collect::<Vec<_>>());
    sender.join().unwrap();
}

#[test]
fn an_idle_core_does_not_run() {
    run(|| async {
        sleep(Duration::from_millis(10)).await;
        let before = ioring::stats();
        sleep(Duration::from_millis(300)).await;
        let enters = ioring::stats().enters - before.enters;
        assert!(enters <= 3, "{enters} system calls while idle");
    });
}

#[test]
fn a_task_that_holds_its_core_is_counted() {
    let mut config = Config::test_min(1);
    config.stall_threshold = Duration::from_millis(2);
    let runtime = Runtime::new(config).unwrap();
    runtime.run(vec![()], |()| async {
        let before = ioring::stats().stalls;
        spawn(Queue::Background, "hog", async {
            let started = now();
            while now().since(started) < Duration::from_millis(5) {}
        })
        .await;
        let stats = ioring::stats();
        assert!(stats.stalls > before && stats.stall_longest_ns >= 5_000_000);
    });
}

#[test]
fn a_refused_configuration_is_an_error() {
    let mut config = Config::test_min(1);
    config.cpus.clear();
    assert!(Runtime::new(config).is_err());
}
