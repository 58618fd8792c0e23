//! What the network stack can do: an echo server and a generator, on a core each, over loopback.
//!
//! The generator is the same on every row; the server is the runtime under test. Every connection
//! keeps `depth` messages in flight and sends the next batch when the whole of the last has come
//! back. Rows of different runtimes are interleaved round by round; a row's figure is the median of
//! its rounds. Processor time is that of the server's thread, as the scheduler counts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ioring::{ListenOptions, Listener, Queue, Side, Stream, uring};
use serde::Serialize;

use crate::device::{Runtime, median};
use crate::report::{Latencies, LatencySummary};
use crate::thread_time::ThreadTime;
use crate::turns::turns;

/// Bytes of a message: about a small request.
pub const MESSAGE_SIZE: usize = 64;

/// How often the server looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);

/// One line of the table to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Connections.
    pub connections: usize,
    /// Messages in flight on each.
    pub depth: usize,
}

/// The rows that are measured by default.
pub const CASES: [Case; 4] = [
    Case { connections: 1, depth: 1 },
    Case { connections: 50, depth: 1 },
    Case { connections: 50, depth: 16 },
    Case { connections: 50, depth: 64 },
];

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a row takes in one round.
    pub duration: Duration,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Runtimes of the server, side by side.
    pub runtimes: Vec<Runtime>,
    /// Core of the server.
    pub server_cpu: usize,
    /// Core of the generator.
    pub client_cpu: usize,
}

/// One measured line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was done.
    #[serde(flatten)]
    pub case: Case,
    /// By which server.
    pub runtime: Runtime,
    /// Messages a second, there and back.
    pub per_second: f64,
    /// The server's processor time for a message in microseconds.
    pub server_cpu_us: f64,
    /// From sending a batch to having all of it back.
    pub latency: LatencySummary,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[error("echo over loopback: {0}")]
pub struct NetError(String);

impl NetError {
    fn new(error: impl ToString) -> NetError {
        NetError(error.to_string())
    }
}

/// Measures `cases`.
pub fn run(options: &Options, cases: &[Case]) -> Result<Vec<Row>, NetError> {
    let mut rows = Vec::new();
    for case in cases {
        let mut rounds: Vec<Vec<Round>> = options.runtimes.iter().map(|_| Vec::new()).collect();
        for number in 0..options.rounds {
            for side in turns(options.runtimes.len(), number) {
                rounds[side].push(round(options, *case, options.runtimes[side])?);
            }
        }
        for (runtime, rounds) in options.runtimes.iter().zip(rounds) {
            rows.push(summarise(*case, *runtime, &rounds));
        }
    }
    Ok(rows)
}

struct Round {
    messages: u64,
    elapsed: Duration,
    server_cpu: Duration,
    latencies: Latencies,
}

fn summarise(case: Case, runtime: Runtime, rounds: &[Round]) -> Row {
    let mut latencies = Latencies::default();
    rounds.iter().for_each(|round| latencies.add(&round.latencies));
    let rate = |round: &Round| round.messages as f64 / round.elapsed.as_secs_f64();
    let cost =
        |round: &Round| round.server_cpu.as_secs_f64() * 1e6 / (round.messages as f64).max(1.0);
    Row {
        case,
        runtime,
        per_second: median(rounds.iter().map(rate).collect()),
        server_cpu_us: median(rounds.iter().map(cost).collect()),
        latency: latencies.summary(),
    }
}

fn round(options: &Options, case: Case, runtime: Runtime) -> Result<Round, NetError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, address) = mpsc::channel();
    let (cpu, stopped) = (options.server_cpu, Arc::clone(&stop));
    let server = thread::spawn(move || match runtime {
        Runtime::Ioring => serve_ioring(cpu, ready, stopped),
        Runtime::Glommio => serve_glommio(cpu, ready, stopped),
    });
    let measured = match address.recv() {
        Ok(address) => generate(options, case, address),
        // The server's own error says more.
        Err(_) => Err(NetError::new("the server did not start")),
    };
    stop.store(true, Ordering::Relaxed);
    let server_cpu = server.join().map_err(|_| NetError::new("the server panicked"))??;
    let (messages, elapsed, latencies) = measured?;
    Ok(Round { messages, elapsed, server_cpu, latencies })
}

fn core(cpu: usize) -> Result<uring::Runtime, NetError> {
    let idle = uring::Idle::Sleep;
    uring::Runtime::new(uring::Config { cpus: vec![cpu], idle, ..uring::Config::default() })
        .map_err(NetError::new)
}

fn serve_ioring(
    cpu: usize,
    ready: mpsc::Sender<SocketAddr>,
    stop: Arc<AtomicBool>,
) -> Result<Duration, NetError> {
    let mut used = core(cpu)?.run(vec![(ready, stop)], |(ready, stop)| async move {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any, ListenOptions::default())?;
        let started = ThreadTime::start();
        // The other side waits for it or is gone.
        let _ = ready.send(listener.local_addr());
        let accept = ioring::spawn(Queue::Foreground, "accept", async move {
            while let Ok(stream) = listener.accept().await {
                ioring::spawn(Queue::Foreground, "echo", echo(stream)).detach();
            }
        });
        while !stop.load(Ordering::Relaxed) {
            ioring::sleep(STOP_INTERVAL).await;
        }
        accept.cancel();
        Ok::<Duration, std::io::Error>(started.elapsed())
    });
    used.pop().expect("one part was given").map_err(NetError::new)
}

async fn echo(stream: Stream) {
    let mut output = Vec::new();
    loop {
        match stream.recv().await {
            Ok(bytes) if !bytes.is_empty() => output.extend_from_slice(&bytes),
            _ => return,
        }
        let (result, returned) = stream.send(output).await;
        output = returned;
        output.clear();
        if result.is_err() {
            return;
        }
    }
}

#[cfg(feature = "glommio")]
fn serve_glommio(
    cpu: usize,
    ready: mpsc::Sender<SocketAddr>,
    stop: Arc<AtomicBool>,
) -> Result<Duration, NetError> {
    crate::reference::echo_server(cpu, ready, stop, STOP_INTERVAL).map_err(NetError::new)
}

#[cfg(not(feature = "glommio"))]
fn serve_glommio(
    _: usize,
    _: mpsc::Sender<SocketAddr>,
    _: Arc<AtomicBool>,
) -> Result<Duration, NetError> {
    Err(NetError::new("glommio is not built in: build with --features glommio"))
}

type Generated = (u64, Duration, Latencies);

fn generate(options: &Options, case: Case, address: SocketAddr) -> Result<Generated, NetError> {
    let duration = options.duration;
    let mut results = core(options.client_cpu)?
        .run(vec![()], move |()| generate_on_core(case, address, duration));
    results.pop().expect("one part was given").map_err(NetError::new)
}

async fn generate_on_core(
    case: Case,
    address: SocketAddr,
    duration: Duration,
) -> std::io::Result<Generated> {
    let mut streams = Vec::with_capacity(case.connections);
    for _ in 0..case.connections {
        streams.push(Stream::connect(address).await?);
    }
    let started = ioring::now();
    let end = started + duration;
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| ioring::spawn(Queue::Foreground, "generate", ping(stream, case.depth, end)))
        .collect();
    let mut messages = 0;
    let mut latencies = Latencies::default();
    for task in tasks {
        let (count, more) = task.await?;
        messages += count;
        latencies.add(&more);
    }
    Ok((messages, ioring::now().since(started), latencies))
}

async fn ping(
    stream: Stream,
    depth: usize,
    end: ioring::Instant,
) -> std::io::Result<(u64, Latencies)> {
    let mut latencies = Latencies::default();
    let mut messages = 0;
    let mut batch = vec![b'.'; MESSAGE_SIZE * depth];
    loop {
        let before = ioring::now();
        if before >= end {
            stream.shutdown(Side::Both)?;
            return Ok((messages, latencies));
        }
        let (result, returned) = stream.send(batch).await;
        batch = returned;
        result?;
        let mut missing = batch.len();
        while missing > 0 {
            let bytes = stream.recv().await?;
            if bytes.is_empty() || bytes.len() > missing {
                return Err(std::io::Error::other("the server sent back something else"));
            }
            missing -= bytes.len();
        }
        messages += depth as u64;
        latencies.record(ioring::now().since(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_measured() {
        let options = Options {
            duration: Duration::from_millis(50),
            rounds: 1,
            runtimes: vec![Runtime::Ioring],
            server_cpu: 0,
            client_cpu: 0,
        };
        let rows = run(&options, &[Case { connections: 3, depth: 2 }]).unwrap();
        assert_eq!(rows.len(), 1);
        assert!(rows[0].per_second > 0.0 && rows[0].latency.count > 0);
        assert!(rows[0].server_cpu_us > 0.0);
    }
}
