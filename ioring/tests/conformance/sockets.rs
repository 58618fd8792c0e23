//! Sockets: bytes in order, ends that stay ends, memory that stays bounded.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ioring::{
    Buffer, Either, ListenOptions, Listener, Queue, Side, Stream, join, select, sleep, spawn,
    timeout, yield_now,
};

use crate::host::Host;

const LONG: Duration = Duration::from_secs(20);

fn listen() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap()
}

/// Runs both ends of one connection on one core.
async fn connected<C, S>(client: impl FnOnce(Stream) -> C, server: impl FnOnce(Stream) -> S)
where
    C: Future<Output = ()>,
    S: Future<Output = ()>,
{
    let listener = listen();
    let address = listener.local_addr();
    let (to, from) = join(Stream::connect(address), listener.accept()).await;
    let both = join(client(to.unwrap()), server(from.unwrap()));
    timeout(LONG, both).await.expect("both ends come to their end");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

async fn read_to_end(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let bytes = stream.recv().await?;
        if bytes.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&bytes);
    }
}

async fn read_exactly(stream: &Stream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let bytes = stream.recv().await.unwrap();
        assert!(!bytes.is_empty(), "the stream ended after {} of {count} bytes", all.len());
        all.extend_from_slice(&bytes);
    }
    all
}

async fn send(stream: &Stream, bytes: Vec<u8>) {
    stream.send(bytes).await.0.unwrap();
}

pub(crate) fn bytes_go_both_ways_in_order(host: &impl Host) {
    host.run_one(|_| async {
        let talk = |stream: Stream| async move {
            let reader = stream.clone();
            let sending = async {
                for piece in pattern(300_000).chunks(70_001) {
                    let (result, returned) = stream.send(piece.to_vec()).await;
                    result.unwrap();
                    assert_eq!(returned, piece, "the vector comes back as it was");
                }
                stream.shutdown(Side::Write).unwrap();
            };
            let ((), received) = join(sending, read_to_end(&reader)).await;
            assert!(received.unwrap() == pattern(300_000));
        };
        connected(talk, talk).await;
    });
}

pub(crate) fn half_a_connection_can_be_closed(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move {
                send(&client, pattern(1000)).await;
                client.shutdown(Side::Write).unwrap();
                assert!(client.send(vec![1]).await.0.is_err(), "sending after the end");
                assert!(read_to_end(&client).await.unwrap() == pattern(2000));
            },
            |server| async move {
                assert!(read_to_end(&server).await.unwrap() == pattern(1000));
                send(&server, pattern(2000)).await;
            },
        )
        .await;
    });
}

pub(crate) fn the_end_of_a_stream_stays_the_end(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move { send(&client, vec![9; 10]).await },
            |server| async move {
                assert_eq!(read_to_end(&server).await.unwrap(), [9; 10]);
                for _ in 0..3 {
                    assert!(server.recv().await.unwrap().is_empty());
                }
            },
        )
        .await;
    });
}

pub(crate) fn nobody_listens(host: &impl Host) {
    host.run_one(|_| async {
        let listener = listen();
        let address: SocketAddr = listener.local_addr();
        drop(listener);
        // The port is free again once the driver is done with the listener.
        loop {
            match Stream::connect(address).await {
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                    assert!(error.to_string().contains(&address.to_string()), "{error}");
                    return;
                }
                Ok(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    });
}

pub(crate) fn many_connections_at_once(host: &impl Host) {
    host.run_one(|_| async {
        let listener = listen();
        let address = listener.local_addr();
        let clients: Vec<_> = (0..150u32)
            .map(|number| {
                spawn(Queue::Foreground, "client", async move {
                    let stream = Stream::connect(address).await.unwrap();
                    send(&stream, number.to_le_bytes().to_vec()).await;
                    let answer = read_exactly(&stream, 4).await;
                    assert_eq!(answer, (number + 1).to_le_bytes());
                })
            })
            .collect();
        for _ in 0..clients.len() {
            let stream = listener.accept().await.unwrap();
            spawn(Queue::Foreground, "server", async move {
                let asked = read_exactly(&stream, 4).await;
                let number = u32::from_le_bytes(asked.try_into().unwrap());
                send(&stream, (number + 1).to_le_bytes().to_vec()).await;
                let _ = stream.recv().await;
            })
            .detach();
        }
        for client in clients {
            timeout(LONG, client).await.unwrap();
        }
    });
}

pub(crate) fn a_slow_reader_bounds_memory_and_loses_nothing(host: &impl Host) {
    const PIECE: usize = 64 << 10;
    const PIECES_MAX: usize = 1000;
    host.run_one(|_| async {
        let listener = listen();
        let address = listener.local_addr();
        let (client, server) = join(Stream::connect(address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        let writer = spawn(Queue::Foreground, "writer", async move {
            let mut sent = 0;
            let mut stalled = false;
            while !stalled {
                assert!(sent < PIECES_MAX * PIECE, "{sent} bytes taken that nobody reads");
                let piece = vec![(sent / PIECE) as u8; PIECE];
                let send = spawn(Queue::Foreground, "send", {
                    let client = client.clone();
                    async move { client.send(piece).await.0.unwrap() }
                });
                // The send goes on when the wait for it ends.
                stalled = match select(send, sleep(Duration::from_millis(500))).await {
                    Either::First(()) => false,
                    Either::Second(()) => true,
                };
                sent += PIECE;
            }
            (client, sent)
        });
        let first = server.recv().await.unwrap().to_vec();
        let (client, sent) = writer.await;
        let mut received = first.len();
        assert!(first.iter().all(|byte| *byte == 0));
        while received < sent {
            let bytes = server.recv().await.unwrap();
            assert!(!bytes.is_empty());
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, ((received + index) / PIECE) as u8);
            }
            received += bytes.len();
        }
        drop(client);
        assert!(server.recv().await.unwrap().is_empty());
    });
}

pub(crate) fn shared_bytes_are_sent_in_order(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move {
                let mut buffer = Buffer::zeroed(100_000);
                buffer.copy_from_slice(&pattern(100_000));
                let whole = buffer.freeze();
                let parts = [0..1, 1..1, 1..60_000, 60_000..100_000];
                let parts = parts.map(|range| whole.slice(range)).to_vec();
                let (result, parts) = client.send_frozen(parts).await;
                result.unwrap();
                assert!(parts.is_empty());
                assert!(whole.try_thaw().is_ok(), "no handle is left behind");
            },
            |server| async move {
                assert!(read_to_end(&server).await.unwrap() == pattern(100_000));
            },
        )
        .await;
    });
}

pub(crate) fn a_dropped_receive_loses_nothing(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move {
                for piece in pattern(5000).chunks(100) {
                    sleep(Duration::from_micros(300)).await;
                    send(&client, piece.to_vec()).await;
                }
            },
            |server| async move {
                let mut all = Vec::new();
                let mut dropped = 0;
                loop {
                    match timeout(Duration::from_micros(200), server.recv()).await {
                        Err(_) => dropped += 1,
                        Ok(bytes) if bytes.as_ref().unwrap().is_empty() => break,
                        Ok(bytes) => all.extend_from_slice(&bytes.unwrap()),
                    }
                }
                assert!(dropped > 0, "no receive was dropped");
                assert!(all == pattern(5000));
            },
        )
        .await;
    });
}

pub(crate) fn a_dropped_accept_loses_no_connection(host: &impl Host) {
    host.run_one(|_| async {
        let listener = listen();
        for _ in 0..10 {
            let dropped = select(listener.accept(), yield_now()).await;
            assert!(matches!(dropped, Either::Second(())));
            let connecting = Stream::connect(listener.local_addr());
            let (client, server) = join(connecting, listener.accept()).await;
            let (client, server) = (client.unwrap(), server.unwrap());
            send(&client, vec![5]).await;
            assert_eq!(read_exactly(&server, 1).await, [5]);
        }
    });
}

pub(crate) fn a_paused_connection_goes_on(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move {
                for piece in pattern(200_000).chunks(10_000) {
                    send(&client, piece.to_vec()).await;
                }
            },
            |server| async move {
                let mut all = Vec::new();
                loop {
                    let bytes = server.recv().await.unwrap().to_vec();
                    if bytes.is_empty() {
                        break;
                    }
                    all.extend(bytes);
                    server.pause_recv();
                    sleep(Duration::from_micros(100)).await;
                }
                assert!(all == pattern(200_000));
            },
        )
        .await;
    });
}

pub(crate) fn two_tasks_share_a_connection(host: &impl Host) {
    host.run_one(|_| async {
        connected(
            |client| async move {
                let reader = client.clone();
                let reading = spawn(Queue::Foreground, "reader", async move {
                    read_exactly(&reader, 50_000).await
                });
                send(&client, pattern(50_000)).await;
                assert!(reading.await == pattern(50_000));
            },
            |server| async move {
                let mut echoed = 0;
                while echoed < 50_000 {
                    let bytes = server.recv().await.unwrap().to_vec();
                    echoed += bytes.len();
                    send(&server, bytes).await;
                }
            },
        )
        .await;
    });
}
