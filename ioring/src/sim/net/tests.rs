//! The network through the streams of two nodes, and what is done to it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::sim::{Config, NodeId, Status, World};
use crate::{ListenOptions, Side, Stream, sleep, timeout};

const PORT: u16 = 7000;

fn world(seed: u64, net: NetConfig) -> World {
    World::new(seed, Config { net, ..Config::default() })
}

/// A node that accepts one connection and collects what comes, up to the end of the stream.
fn collector(world: &mut World) -> (NodeId, Rc<RefCell<Vec<Vec<u8>>>>) {
    let received = Rc::new(RefCell::new(Vec::new()));
    let inside = received.clone();
    let (node, _) = world.spawn_node("collector", vec![inside], |received| async move {
        let stream = listen().accept().await.unwrap();
        loop {
            let bytes = stream.recv().await.unwrap().to_vec();
            if bytes.is_empty() {
                return;
            }
            received.borrow_mut().push(bytes);
        }
    });
    (node, received)
}

fn listen() -> crate::Listener {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    crate::Listener::bind(any, ListenOptions::default()).unwrap()
}

async fn connect(to: SocketAddr) -> Stream {
    loop {
        match Stream::connect(to).await {
            Ok(stream) => return stream,
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 / 7) as u8).collect()
}

fn is_finished(node: NodeId) -> impl Fn(&World) -> bool {
    move |world| world.status(node) == &Status::Finished
}

/// Sends 40,000 bytes, one piece after the other; `disturb` is called once it is under way.
fn transfer(seed: u64, net: NetConfig, disturb: impl FnOnce(&mut World)) -> (Vec<Vec<u8>>, World) {
    let mut world = world(seed, net);
    let (collector, received) = collector(&mut world);
    let to = SocketAddr::new(world.address(collector), PORT);
    let (sender, _) = world.spawn_node("sender", vec![()], move |()| async move {
        let stream = connect(to).await;
        for piece in bytes(40_000).chunks(5_000) {
            stream.send(piece.to_vec()).await.0.unwrap();
            sleep(Duration::from_micros(300)).await;
        }
        stream.shutdown(Side::Write).unwrap();
        while !stream.recv().await.unwrap().is_empty() {}
    });
    world.run_for(Duration::from_millis(2));
    disturb(&mut world);
    assert!(world.run_until(is_finished(collector)), "seed {seed}: it never arrived");
    assert!(world.run_until(is_finished(sender)));
    let received = received.borrow().clone();
    (received, world)
}

#[test]
fn bytes_arrive_in_order_in_pieces_of_any_size() {
    let mut sizes = BTreeSet::new();
    for seed in 0..20 {
        let net =
            NetConfig { loss: 100_000, tail: 100_000, segment_max: 1500, ..NetConfig::default() };
        let (received, _) = transfer(seed, net, |_| {});
        assert!(received.concat() == bytes(40_000), "seed {seed}");
        sizes.extend(received.iter().map(Vec::len));
    }
    assert!(sizes.len() > 20, "receives are too alike: {sizes:?}");
}

#[test]
fn a_partition_delays_and_loses_nothing() {
    for one_sided in [true, false] {
        let (received, world) = transfer(1, NetConfig::default(), |world| {
            world.net().set_blocked(1, 0, true);
            world.net().set_blocked(0, 1, !one_sided);
            world.run_for(Duration::from_secs(1));
            assert!(world.net().bytes_held() > 0, "nothing was held up");
            world.net().heal();
        });
        assert!(received.concat() == bytes(40_000));
        assert!(world.now() > Duration::from_secs(1) && world.now() < Duration::from_secs(4));
    }
}

#[test]
fn connections_break_on_demand_and_after_too_long_a_partition() {
    let net = NetConfig { give_up: 3_000_000_000, ..NetConfig::default() };
    for long_partition in [true, false] {
        let mut world = world(2, net.clone());
        let (server, server_end) = world.spawn_node("server", vec![()], |()| async {
            let stream = listen().accept().await.unwrap();
            loop {
                match stream.recv().await {
                    Ok(bytes) => assert!(!bytes.is_empty()),
                    Err(error) => return error.raw_os_error(),
                }
            }
        });
        let to = SocketAddr::new(world.address(server), PORT);
        let (client, client_end) = world.spawn_node("client", vec![()], move |()| async move {
            let stream = connect(to).await;
            loop {
                if let (Err(error), _) = stream.send(vec![1; 100]).await {
                    return error.raw_os_error();
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        world.run_for(Duration::from_millis(50));
        assert_eq!(world.net().connections(), 1);
        if long_partition {
            world.net().partition(&[server.0], &[client.0]);
        } else {
            world.net().reset_connections(server.0, client.0);
            assert!(world.run_until(is_finished(server)));
            assert_eq!(server_end.take(), Some(vec![Some(libc::ECONNRESET)]));
        }
        assert!(world.run_until(is_finished(client)));
        let expected = if long_partition { libc::ETIMEDOUT } else { libc::ECONNRESET };
        assert_eq!(client_end.take(), Some(vec![Some(expected)]));
    }
}

#[test]
fn connecting_is_refused_times_out_or_waits_for_the_backlog() {
    let net = NetConfig { give_up: 1_000_000_000, ..NetConfig::default() };
    let mut world = world(3, net);
    let server = world.add_node("server");
    let client = world.add_node("client");
    let to = SocketAddr::new(world.address(server), PORT);
    let attempt =
        move || async move { Stream::connect(to).await.map(|_| ()).map_err(|error| error.kind()) };
    assert_eq!(world.run(client, attempt), Ok(Err(io::ErrorKind::ConnectionRefused)));
    world.net().partition(&[0], &[1]);
    assert_eq!(world.run(client, attempt), Ok(Err(io::ErrorKind::TimedOut)));
    world.net().heal();
    let listening = world.start(server, vec![()], |()| async {
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
        let listener = crate::Listener::bind(any, options).unwrap();
        sleep(Duration::from_millis(500)).await;
        for _ in 0..3 {
            listener.accept().await.unwrap();
        }
    });
    let connecting = world.start(client, vec![(); 3], move |()| attempt());
    world.run_for(Duration::from_secs(3));
    assert_eq!(connecting.take(), Some(vec![Ok(()); 3]));
    assert!(listening.take().is_some());
}

#[test]
fn a_reader_that_does_not_read_stops_its_sender() {
    let window = 10_000;
    let mut world = world(4, NetConfig { window, ..NetConfig::default() });
    let (server, _) = world.spawn_node("server", vec![()], |()| async {
        let stream = listen().accept().await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let mut total = 0;
        while total < 1_000_000 {
            total += stream.recv().await.unwrap().len();
        }
    });
    let to = SocketAddr::new(world.address(server), PORT);
    let sent = Rc::new(Cell::new(0));
    let (client, _) = world.spawn_node("client", vec![sent.clone()], move |sent| async move {
        let stream = connect(to).await;
        for _ in 0..1000 {
            stream.send(vec![1; 1000]).await.0.unwrap();
            sent.set(sent.get() + 1000);
        }
    });
    world.run_for(Duration::from_secs(4));
    assert_eq!(sent.get(), window, "exactly a window was taken");
    assert!(world.net().bytes_held() <= window + 1000);
    assert!(world.run_until(is_finished(client)));
}

#[test]
fn bandwidth_and_slowness_take_their_time() {
    let time = |net: NetConfig, slower: u64| {
        let (_, world) = transfer(5, net, |world| world.net().set_slower(1, 0, slower));
        world.now()
    };
    let quiet = NetConfig { tail: 0, ..NetConfig::default() };
    let normal = time(quiet.clone(), 1);
    assert!(normal < Duration::from_millis(10));
    assert!(time(quiet.clone(), 100) > normal * 2);
    let narrow = NetConfig { bandwidth: 100_000, ..quiet };
    assert!(time(narrow, 1) > Duration::from_millis(350), "40,000 bytes at 100 kB/s");
}

#[test]
fn corruption_flips_bits_and_keeps_lengths() {
    let net = NetConfig { corruption: 300_000, ..NetConfig::default() };
    let (received, _) = transfer(6, net, |_| {});
    let received = received.concat();
    let flipped = received.iter().zip(bytes(40_000)).map(|(a, b)| (a ^ b).count_ones());
    let flipped: u32 = flipped.sum();
    assert!(received.len() == 40_000 && flipped > 0 && flipped < 100);
}

#[test]
fn half_a_connection_can_be_closed_and_closing_with_unread_bytes_resets() {
    for read_all in [true, false] {
        let mut world = world(7, NetConfig::default());
        let (server, _) = world.spawn_node("server", vec![()], move |()| async move {
            let stream = listen().accept().await.unwrap();
            if read_all {
                while !stream.recv().await.unwrap().is_empty() {}
                stream.send(vec![7; 3]).await.0.unwrap();
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let to = SocketAddr::new(world.address(server), PORT);
        let client = world.add_node("client");
        let answer = world.run(client, move || async move {
            let stream = connect(to).await;
            stream.send(vec![1; 1000]).await.0.unwrap();
            stream.shutdown(Side::Write).unwrap();
            assert!(stream.send(vec![1]).await.0.is_err(), "after the end of the stream");
            let answer = timeout(Duration::from_secs(1), stream.recv()).await.unwrap();
            answer.map(|bytes| bytes.len()).map_err(|error| error.kind())
        });
        let expected = if read_all { Ok(3) } else { Err(io::ErrorKind::ConnectionReset) };
        assert_eq!(answer, Ok(expected));
    }
}

#[test]
fn listeners_that_share_a_port_share_its_connections() {
    let mut world = world(8, NetConfig::default());
    let counts = Rc::new(RefCell::new([0; 2]));
    let parts = vec![(0, counts.clone()), (1, counts.clone())];
    let (server, _) = world.spawn_node("server", parts, |(core, counts)| async move {
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let listener = crate::Listener::bind(any, options).unwrap();
        let exclusive = crate::Listener::bind(any, ListenOptions::default());
        assert_eq!(exclusive.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        loop {
            listener.accept().await.unwrap();
            counts.borrow_mut()[core] += 1;
        }
    });
    let to = SocketAddr::new(world.address(server), PORT);
    let client = world.add_node("client");
    world
        .run(client, move || async move {
            for _ in 0..40 {
                connect(to).await;
            }
        })
        .unwrap();
    world.run_for(Duration::from_millis(10));
    let counts = *counts.borrow();
    assert_eq!(counts.iter().sum::<i32>(), 40);
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

/// Weather of one kind, without end.
fn storm(kind: Disturbance) -> Weather {
    Weather {
        nodes: vec![0, 1, 2],
        kinds: vec![kind],
        pause_min: 1_000_000,
        pause_max: 40_000_000,
        lasts_min: 1_000_000,
        lasts_max: 100_000_000,
    }
}

/// Two of three nodes exchange bytes under weather: longest time without any, resets seen, bits
/// flipped, and the trace.
fn under(kind: Option<Disturbance>, seed: u64) -> (Duration, u64, u64, u64) {
    let mut world =
        world(seed, NetConfig { retransmit: 5_000_000, tail: 0, ..NetConfig::default() });
    let (resets, flipped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0u64)));
    let longest = Rc::new(Cell::new(Duration::ZERO));
    let seen = (resets.clone(), flipped.clone(), longest.clone());
    let (server, _) =
        world.spawn_node("server", vec![seen], |(resets, flipped, longest)| async move {
            let listener = listen();
            let mut last = crate::now();
            loop {
                let stream = listener.accept().await.unwrap();
                loop {
                    let bytes = stream.recv().await;
                    longest.set(longest.get().max(crate::now() - last));
                    last = crate::now();
                    match bytes {
                        Ok(bytes) if bytes.is_empty() => break,
                        Ok(bytes) => {
                            let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
                            flipped.set(flipped.get() + u64::from(ones));
                        }
                        Err(_) => {
                            resets.set(resets.get() + 1);
                            break;
                        }
                    }
                }
            }
        });
    let to = SocketAddr::new(world.address(server), PORT);
    world.spawn_node("client", vec![()], move |()| async move {
        loop {
            let stream = connect(to).await;
            while stream.send(vec![0; 100]).await.0.is_ok() {
                sleep(Duration::from_micros(200)).await;
            }
        }
    });
    world.add_node("another");
    world.net().set_weather(kind.map(storm));
    world.run_for(Duration::from_secs(4));
    if let Some(kind) = kind {
        let counts = world.net().weather_counts();
        let struck = |(of, count): &(Disturbance, u64)| (*count > 20) == (*of == kind);
        assert!(counts.iter().all(struck), "{kind:?}: {counts:?}");
    }
    world.net().set_weather(None);
    world.run_for(Duration::from_secs(1));
    let before = resets.get();
    world.run_for(Duration::from_secs(1));
    assert_eq!(resets.get(), before, "the weather is over");
    (longest.get(), resets.get(), flipped.get(), world.trace_hash())
}

#[test]
fn every_kind_of_weather_does_what_its_name_says_and_nothing_else() {
    let silence = Duration::from_millis(20);
    for seed in 0..4 {
        let (quiet, resets, flipped, _) = under(None, seed);
        assert!(quiet < silence && resets == 0 && flipped == 0, "{quiet:?}");
        for kind in Disturbance::ALL {
            let (longest, resets, flipped, _) = under(Some(kind), seed);
            let stalls =
                matches!(kind, Disturbance::Split | Disturbance::Cut | Disturbance::OneWay);
            let may_stall = stalls || matches!(kind, Disturbance::Slow | Disturbance::Reset);
            assert!(longest > silence || !stalls, "{kind:?} {seed}: {longest:?}");
            assert!(longest < silence || may_stall, "{kind:?} {seed}: {longest:?}");
            assert_eq!(resets > 0, kind == Disturbance::Reset, "{kind:?} {seed}");
            assert_eq!(flipped > 0, kind == Disturbance::Corrupt, "{kind:?} {seed}");
        }
    }
}

#[test]
fn weather_follows_from_its_seed() {
    for kind in Disturbance::ALL {
        assert_eq!(under(Some(kind), 1), under(Some(kind), 1));
        assert_ne!(under(Some(kind), 1).3, under(Some(kind), 2).3);
    }
}

/// A host that loses its power, or a partition, is noticed within the silence that was agreed to,
/// with traffic and without, and by nobody who did not ask.
#[test]
fn silence_ends_a_connection_that_does_not_bear_it() {
    for (asked, talks, power) in [
        (true, true, true),
        (true, true, false),
        (true, false, true),
        (true, false, false),
        (false, false, true),
    ] {
        let mut world = world(4, NetConfig::default());
        let (server, _) = world.spawn_node("server", vec![()], |()| async {
            let stream = listen().accept().await.unwrap();
            while stream.recv().await.is_ok() {}
        });
        let to = SocketAddr::new(world.address(server), PORT);
        let ended = Rc::new(Cell::new(None));
        let inside = ended.clone();
        let (client, _) = world.spawn_node("client", vec![inside], move |ended| async move {
            let stream = connect(to).await;
            if asked {
                stream.set_silence_max(Duration::from_secs(4)).unwrap();
            }
            let error = match talks {
                true => loop {
                    if let Err(error) = stream.send(vec![0; 10]).await.0 {
                        break error;
                    }
                    sleep(Duration::from_millis(100)).await;
                },
                false => stream.recv().await.err().unwrap(),
            };
            ended.set(Some((error.raw_os_error(), crate::now())));
        });
        world.run_for(Duration::from_secs(10));
        assert_eq!(ended.get(), None, "nothing is wrong yet");
        let from = world.now();
        match power {
            true => world.crash(server, crate::sim::Crash::Power),
            false => world.net().partition(&[server.0], &[client.0]),
        }
        world.run_for(Duration::from_secs(15));
        assert_eq!(ended.get().is_some(), asked, "{asked} {talks} {power}");
        if let Some((error, at)) = ended.get() {
            assert_eq!(error, Some(libc::ETIMEDOUT));
            let after = Duration::from_nanos(at.as_nanos()) - from;
            assert!(after > Duration::from_secs(2) && after < Duration::from_secs(9), "{after:?}");
        }
    }
}
