//! The world under its own rules: repeatable, and deadly where it should be.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;

use super::*;
use crate::sim::{CrashPoint, DiskConfig, FaultPlan, NetConfig, every_crash_point, trace};
use crate::{Buffer, File, Listener, OpenOptions, Stream, fs, sleep, spawn, timeout};
use crate::{ListenOptions, lane, now, random, wall_clock};

const BLOCK: usize = 1024;

fn open(name: &str) -> File {
    let options = OpenOptions { read: true, write: true, create: true, ..Default::default() };
    File::open(Path::new(name), &options).unwrap()
}

fn block(fill: u8) -> crate::Frozen {
    let mut buffer = Buffer::zeroed(BLOCK);
    buffer.fill(fill);
    buffer.freeze()
}

fn config() -> Config {
    Config { short_io: 200_000, ..Config::default() }
}

// ---- the same seed, the same run ----

/// Two nodes, two cores each: the first writes, reads and answers, the second asks.
fn mixed(seed: u64) -> (u64, u64) {
    let net = NetConfig { loss: 20_000, tail: 50_000, ..NetConfig::default() };
    let faults = FaultPlan { slow: 50_000, ..FaultPlan::default() };
    let disk = DiskConfig { faults, ..DiskConfig::default() };
    let mut world = World::new(seed, Config { net, disk, ..config() });
    let (to_writer, from_acceptor) = lane::<Vec<u8>>(2);
    let parts = vec![(Some(to_writer), None), (None, Some(from_acceptor))];
    let (server, _) = world.spawn_node("server", parts, |part| async move {
        match part {
            (Some(outbox), _) => accept_and_forward(outbox).await,
            (_, Some(inbox)) => write_what_comes(inbox).await,
            (None, None) => unreachable!(),
        }
    });
    let address = SocketAddr::new(world.address(server), 7000);
    let (client, _) = world.spawn_node("client", vec![1u8, 2], move |fill| async move {
        let mut pause = random("pause");
        let stream = loop {
            match Stream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        for _ in 0..5 {
            sleep(Duration::from_micros(pause.below(300))).await;
            stream.send(vec![fill; 3000]).await.0.unwrap();
            let mut answered = 0;
            while answered < 3000 {
                answered += stream.recv().await.unwrap().len();
            }
        }
    });
    assert!(world.run_until(|world| world.status(client) == &Status::Finished));
    world.run_for(Duration::from_millis(50));
    assert_eq!(
        world.disk(server).contents(Path::new("log")).unwrap().len(),
        30_000 / BLOCK * BLOCK
    );
    world.crash(server, Crash::Power);
    (world.trace_hash(), world.steps())
}

async fn accept_and_forward(outbox: crate::Outbox<Vec<u8>>) {
    let listener =
        Listener::bind("0.0.0.0:7000".parse().unwrap(), ListenOptions::default()).unwrap();
    let outbox = Rc::new(outbox);
    loop {
        let stream = listener.accept().await.unwrap();
        let outbox = outbox.clone();
        spawn(Queue::Foreground, "echo", async move {
            loop {
                let bytes = stream.recv().await.unwrap().to_vec();
                if bytes.is_empty() {
                    return;
                }
                outbox.send(bytes.clone()).await.unwrap();
                stream.send(bytes).await.0.unwrap();
            }
        })
        .detach();
    }
}

async fn write_what_comes(inbox: crate::Inbox<Vec<u8>>) {
    let file = open("log");
    let mut unwritten = Vec::new();
    let mut offset = 0;
    while let Some(bytes) = inbox.recv().await {
        unwritten.extend_from_slice(&bytes);
        while unwritten.len() >= BLOCK {
            let mut buffer = Buffer::zeroed(BLOCK);
            buffer.copy_from_slice(&unwritten[..BLOCK]);
            unwritten.drain(..BLOCK);
            file.write(buffer.freeze(), offset).await.unwrap();
            offset += BLOCK as u64;
        }
        file.sync().await.unwrap();
    }
}

#[test]
fn equal_seeds_give_equal_traces_and_other_seeds_others() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let first = mixed(seed);
        assert_eq!(first, mixed(seed), "seed {seed} is not repeatable");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 30);
}

// ---- crash points ----

/// Appends blocks and counts those it was promised.
async fn append(count: u8, acknowledged: Rc<Cell<u8>>, syncs: bool, syncs_directory: bool) {
    let file = open("log");
    if syncs_directory {
        fs::sync_dir(Path::new("/")).unwrap();
    }
    for number in 1..=count {
        file.write(block(number), u64::from(number - 1) * BLOCK as u64).await.unwrap();
        if syncs {
            file.sync().await.unwrap();
        }
        acknowledged.set(number);
    }
}

/// Blocks that are there, wholly, from the first on.
async fn count_blocks() -> u8 {
    let file = open("log");
    let mut count = 0;
    loop {
        let (result, block) =
            file.read(Buffer::zeroed(BLOCK), u64::from(count) * BLOCK as u64).await;
        if result.is_err() || block.iter().any(|byte| *byte != count + 1) {
            return count;
        }
        count += 1;
    }
}

/// Crashes a run of [`append`] everywhere. Returns the points checked and those where something
/// acknowledged was lost.
fn crash_everywhere(syncs: bool, syncs_directory: bool) -> (u64, u64) {
    let lost = Cell::new(0);
    let mut points = 0;
    for seed in 0..4 {
        points += every_crash_point(
            seed,
            &config(),
            u64::MAX,
            |world, node| {
                let acknowledged = Rc::new(Cell::new(0));
                let inside = acknowledged.clone();
                let end = world.run(node, move || append(6, inside, syncs, syncs_directory));
                assert!(end.is_ok() || matches!(world.status(node), Status::Crashed(_)));
                acknowledged.get()
            },
            |world, node, _: CrashPoint, acknowledged| {
                let found = world.run(node, count_blocks).unwrap();
                assert!(found <= 6);
                lost.set(lost.get() + u64::from(found < acknowledged));
            },
        );
    }
    (points, lost.get())
}

#[test]
fn nothing_acknowledged_is_lost_at_any_crash_point() {
    let (points, lost) = crash_everywhere(true, true);
    assert!(points > 80, "only {points} points");
    assert_eq!(lost, 0);
}

#[test]
fn a_missing_sync_is_found_at_some_crash_point() {
    assert!(crash_everywhere(false, true).1 > 0);
    assert!(crash_everywhere(true, false).1 > 0);
}

/// Makes a directory with a file in it, appear under its final name at once and for good.
fn format(syncs_file_name: bool) {
    let (new, done) = (Path::new("dir.new"), Path::new("dir"));
    if fs::exists(new) {
        fs::remove_dir_all(new).unwrap();
    }
    fs::create_dir(new).unwrap();
    fs::write_small(&new.join("settings"), b"complete").unwrap();
    if syncs_file_name {
        fs::sync_dir(new).unwrap();
    }
    fs::rename(new, done).unwrap();
    fs::sync_dir(Path::new("/")).unwrap();
}

/// Crashes [`format`] between all of its calls. Returns points checked and half-made directories.
fn crash_format(syncs_file_name: bool) -> (u64, u64) {
    let (mut points, broken) = (0, Cell::new(0));
    for seed in 0..20 {
        points += every_crash_point(
            seed,
            &config(),
            u64::MAX,
            |world, node| world.run(node, move || async move { format(syncs_file_name) }).is_ok(),
            |world, node, point, finished| {
                let disk = world.disk(node).clone();
                let exists = disk.metadata(Path::new("dir")).is_ok();
                assert!(exists || !finished, "{point:?}");
                let settings = disk.contents(Path::new("dir/settings"));
                let whole = settings.is_ok_and(|bytes| bytes == b"complete");
                broken.set(broken.get() + u64::from(exists && !whole));
                if !exists {
                    world.run(node, || async { format(true) }).unwrap();
                }
            },
        );
    }
    (points, broken.get())
}

#[test]
fn a_node_can_die_between_blocking_calls() {
    let (points, broken) = crash_format(true);
    assert!(points >= 20 * 10, "only {points} points");
    assert_eq!(broken, 0);
    assert!(crash_format(false).1 > 0, "a name that was not synced is lost at some point");
}

/// Calls the file system when it is dropped, whoever drops it.
struct Untidy;

impl Drop for Untidy {
    fn drop(&mut self) {
        let _ = fs::create_dir(Path::new("left behind"));
    }
}

#[test]
fn destructors_may_call_a_kernel_that_is_dead_or_about_to_die() {
    for step in 0..12 {
        let mut world = World::new(1, config());
        let node = world.add_node("node");
        world.crash_at(node, step, Crash::Power);
        let end = world.run(node, || async {
            spawn(Queue::Foreground, "untidy", async {
                let _untidy = Untidy;
                std::future::pending::<()>().await;
            })
            .detach();
            let _untidy = Untidy;
            sleep(Duration::from_millis(1)).await;
            fs::create_dir(Path::new("wanted")).unwrap();
        });
        assert!(end.is_ok() || end == Err(Status::Crashed(Crash::Power)), "step {step}");
        assert!(step > 0 || end.is_err());
    }
}

#[test]
fn a_recorded_run_is_recovered_from_all_its_crash_states() {
    let mut world = World::new(3, config());
    let node = world.add_node("recorded");
    let probe = world.probe(node);
    world.disk(node).record();
    world
        .run(node, move || async move {
            let file = open("log");
            fs::sync_dir(Path::new("/")).unwrap();
            for number in 1..=3 {
                file.write_durable(block(number), u64::from(number - 1) * BLOCK as u64)
                    .await
                    .unwrap();
                probe.note(u64::from(number));
            }
        })
        .unwrap();
    let recorded = world.disk(node).take_trace().unwrap();
    let mut checked = 0;
    for state in trace::crash_states(&recorded, 300, 1) {
        let promised = state.notes.last().copied().unwrap_or(0);
        let mut world = World::new(1, config());
        let node = world.add_node("recovering");
        world.set_disk(node, state.disk);
        let found = world.run(node, count_blocks).unwrap();
        assert!(u64::from(found) >= promised, "{:?} at {}", state.kept, state.prefix);
        checked += 1;
    }
    assert!(checked > 20, "only {checked} states");
}

// ---- life and death of nodes ----

#[test]
fn fatal_ends_its_node_and_no_other() {
    let mut world = World::new(1, config());
    let (sick, _) = world.spawn_node("sick", vec![()], |()| async {
        sleep(Duration::from_millis(1)).await;
        crate::fatal(crate::Fatal::Diverged("block 7".into()));
    });
    let (healthy, outcome) = world.spawn_node("healthy", vec![()], |()| async {
        sleep(Duration::from_millis(5)).await;
        42
    });
    assert!(world.run_until(|world| world.status(healthy) == &Status::Finished));
    assert_eq!(outcome.take(), Some(vec![42]));
    let Status::Fatal(reason, status) = world.status(sick) else { panic!("it goes on") };
    assert!(reason.contains("block 7"));
    assert_eq!(*status, crate::Fatal::Diverged(String::new()).exit_status());
    assert_eq!(world.run(sick, || async { 1 }), Ok(1), "it can be started again");
}

#[test]
fn a_crash_drops_tasks_and_frees_locks_ports_and_buffers() {
    let mut world = World::new(1, config());
    let node = world.add_node("node");
    let pool = crate::BufferPool::new("test", 4096, 2);
    let inside = pool.clone();
    let main = move || async move {
        let file = open("f");
        assert!(file.try_lock().unwrap());
        let listening = "0.0.0.0:7000".parse().unwrap();
        let listener = Listener::bind(listening, ListenOptions::default()).unwrap();
        let buffer = inside.take().await;
        let _write = file.write(buffer.freeze(), 0).await;
        let _read = file.read(inside.take().await, 0).await;
        let _ = listener.accept().await;
    };
    world.crash_at(node, 2, Crash::Power);
    assert_eq!(world.run(node, main.clone()), Err(Status::Crashed(Crash::Power)));
    assert_eq!(pool.available(), 2, "buffers of operations in flight come back");
    world.crash_at(node, 4, Crash::Process);
    assert_eq!(world.run(node, main), Err(Status::Crashed(Crash::Process)));
    assert_eq!(pool.available(), 2);
}

#[test]
fn a_killed_process_closes_its_connections_and_a_host_without_power_is_silent() {
    for crash in [Crash::Process, Crash::Power] {
        let mut world = World::new(5, config());
        let listen = |()| async {
            let any = "0.0.0.0:7000".parse().unwrap();
            let listener = Listener::bind(any, ListenOptions::default()).unwrap();
            let stream = listener.accept().await.unwrap();
            while !stream.recv().await.unwrap().is_empty() {}
        };
        let (server, _) = world.spawn_node("server", vec![()], listen);
        let address = SocketAddr::new(world.address(server), 7000);
        let (client, outcome) = world.spawn_node("client", vec![()], move |()| async move {
            sleep(Duration::from_millis(1)).await;
            let stream = Stream::connect(address).await.unwrap();
            stream.send(vec![1; 10]).await.0.unwrap();
            timeout(Duration::from_secs(2), stream.recv()).await.map(|r| r.unwrap().len())
        });
        world.run_for(Duration::from_millis(20));
        world.crash(server, crash);
        assert!(world.run_until(|world| world.status(client) == &Status::Finished));
        let seen = outcome.take().unwrap().pop().unwrap();
        match crash {
            Crash::Process => assert_eq!(seen, Ok(0), "the end of the stream"),
            Crash::Power => assert!(seen.is_err(), "silence"),
        }
    }
}

#[test]
fn a_paused_node_stands_still_and_catches_up() {
    let mut world = World::new(1, config());
    let ticks = Rc::new(Cell::new(0));
    let inside = ticks.clone();
    let (node, _) = world.spawn_node("node", vec![()], move |()| {
        let ticks = inside.clone();
        async move {
            let file = open("f");
            loop {
                sleep(Duration::from_millis(1)).await;
                file.write(block(1), 0).await.unwrap();
                ticks.set(ticks.get() + 1);
            }
        }
    });
    world.run_for(Duration::from_millis(20));
    let before = ticks.get();
    assert!(before > 10);
    world.pause(node);
    world.run_for(Duration::from_secs(1));
    assert_eq!(ticks.get(), before);
    world.resume(node);
    world.run_for(Duration::from_millis(20));
    assert!(ticks.get() > before + 10);
}

#[test]
fn time_is_virtual_and_the_time_of_day_can_be_wrong() {
    let mut world = World::new(1, config());
    let node = world.add_node("node");
    world.set_clock(node, Clock { offset_ns: -1_000, ..Clock::default() });
    let slept = world.run(node, || async {
        let before = now();
        sleep(Duration::from_secs(3600)).await;
        (now().since(before), wall_clock().0 - now().as_nanos())
    });
    let (slept, difference) = slept.unwrap();
    assert!(slept >= Duration::from_secs(3600) && slept < Duration::from_secs(3601));
    assert_eq!(difference, crate::sim::WORLD_BEGINS - 1_000);
}

#[test]
#[should_panic(expected = "waits for something that never happens")]
fn a_deadlock_is_reported() {
    let mut world = World::new(1, config());
    let node = world.add_node("node");
    let _ = world.run(node, std::future::pending::<()>);
}

#[test]
#[should_panic(expected = "a livelock")]
fn a_livelock_is_reported() {
    let mut world = World::new(1, Config { steps_max: 10_000, ..config() });
    let node = world.add_node("node");
    let _ = world.run(node, || async {
        loop {
            crate::yield_now().await;
        }
    });
}

#[test]
fn disk_faults_reach_the_code_above() {
    let mut world = World::new(1, config());
    let node = world.add_node("node");
    world.run(node, || append(3, Rc::default(), true, true)).unwrap();
    world.disk(node).make_unreadable(Path::new("log"), BLOCK as u64, 1).unwrap();
    assert_eq!(world.run(node, count_blocks), Ok(1));
    world.disk(node).rot(Path::new("log"), 3, 0x80).unwrap();
    assert_eq!(world.run(node, count_blocks), Ok(0));
    world.disk(node).set_capacity(0);
    let refused = world.run(node, || async {
        let at = 1 << 20;
        open("log").write(block(1), at).await.unwrap_err().kind()
    });
    assert_eq!(refused, Ok(std::io::ErrorKind::StorageFull));
}
