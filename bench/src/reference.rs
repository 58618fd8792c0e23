//! The same measurements on glommio, the runtime that `ioring` has to stay ahead of.
//!
//! Each function mirrors its counterpart operation for operation: same file, same offsets, same
//! depth, same clock. A durable write is one on a file opened with `O_DSYNC`, the closest that
//! glommio offers to a durable write as such.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::io::{DmaFile, OpenOptions};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use rand::RngExt;

use crate::device::{Access, Case, Options, Sample};
use crate::report::Latencies;
use crate::thread_time::ThreadTime;
use crate::workload::random_stream;

type Result<T> = std::result::Result<T, GlommioError<()>>;

/// `O_DSYNC` of Linux on x86-64 and arm64.
const O_DSYNC: i32 = 0o10000;

pub(crate) fn device(path: &Path, options: &Options, case: &Case) -> Result<Sample> {
    let (path, file_size, case, duration) =
        (path.to_owned(), options.file_size, *case, options.duration);
    LocalExecutorBuilder::new(Placement::Fixed(options.cpu))
        .spawn(move || measure(path, file_size, case, duration))?
        .join()?
}

async fn measure(path: PathBuf, file_size: u64, case: Case, duration: Duration) -> Result<Sample> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if case.access == Access::DurableWrite {
        options.custom_flags(O_DSYNC);
    }
    let file = Rc::new(options.dma_open(&path).await?);
    let cpu = ThreadTime::start();
    let started = Instant::now();
    let end = started + duration;
    let tasks: Vec<_> = (0..case.depth as u64)
        .map(|stream| glommio::spawn_local(repeat(Rc::clone(&file), file_size, case, stream, end)))
        .collect();
    let mut latencies = Latencies::default();
    for task in tasks {
        latencies.add(&task.await?);
    }
    Ok(Sample { elapsed: started.elapsed(), cpu: cpu.elapsed(), latencies })
}

async fn repeat(
    file: Rc<DmaFile>,
    file_size: u64,
    case: Case,
    stream: u64,
    end: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut random = random_stream(7, stream);
    let places = file_size / case.size as u64;
    loop {
        let offset = random.random_range(0..places) * case.size as u64;
        let before = Instant::now();
        if before >= end {
            return Ok(latencies);
        }
        match case.access {
            Access::Read => {
                file.read_at_aligned(offset, case.size).await?;
            }
            Access::Write | Access::DurableWrite => {
                let buffer = file.alloc_dma_buffer(case.size);
                file.write_at(buffer, offset).await?;
            }
        }
        latencies.record(before.elapsed());
    }
}

/// An echo server on glommio; returns the processor time it used.
pub(crate) fn echo_server(
    cpu: usize,
    ready: mpsc::Sender<SocketAddr>,
    stop: Arc<AtomicBool>,
    stop_interval: Duration,
) -> Result<Duration> {
    LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .spawn(move || async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let started = ThreadTime::start();
            // The other side waits for it or is gone.
            let _ = ready.send(listener.local_addr()?);
            let accept = glommio::spawn_local(async move {
                while let Ok(stream) = listener.accept().await {
                    glommio::spawn_local(echo(stream)).detach();
                }
            });
            while !stop.load(Ordering::Relaxed) {
                glommio::timer::sleep(stop_interval).await;
            }
            accept.cancel().await;
            Ok(started.elapsed())
        })?
        .join()?
}

async fn echo(mut stream: TcpStream) {
    // Without it small replies wait for acknowledgements; ioring sets it by itself.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(size) if size > 0 && stream.write_all(&buffer[..size]).await.is_ok() => {}
            _ => return,
        }
    }
}
