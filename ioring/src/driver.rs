//! The contract between the common executor and what stands below it.
//!
//! Everything above this line is common: tasks, run queues, wakers, timers, the slab of operations
//! in flight, buffers, lanes. Below it stands a *driver*: `uring` (a ring of the kernel) or `sim`
//! (a seeded model of disks, networks and time). A driver does two things only:
//!
//! 1. It answers the calls of [`Driver`], made by the free functions and futures of this crate on
//!    the core that is installed on the thread (`Core::enter`).
//! 2. Its own loop runs the cores. One turn of a core is:
//!    `core.absorb_wakes()` (wakes from other threads), `core.fire_timers(now)`, some polls
//!    (`core.poll_next()`, or `core.poll_at(n)` when a seed decides), then waiting for completions
//!    no longer than `core.next_deadline()`, delivering each with `core.complete(token, result)`.
//!
//! # Operations
//!
//! An [`Operation`] owns all memory that it names and lives in the core's slab from `submit` until
//! `complete`, also when the future that waits for it is dropped: no memory is freed under the
//! kernel. The driver sees it by reference at submission, and may look at it again with
//! `core.with_operation(token, |operation| …)`; a model of a disk fills the buffer of a
//! [`Operation::Read`] there, immediately before it completes it. Results are those of the kernel:
//! a count, or an error number negated. A short count is legal for reads, writes and sends; the
//! futures above continue where it stopped.
//!
//! # Invariants
//!
//! * `submit` never completes an operation before it returns; `complete` is only called by the
//!   driver's loop, with no task being polled.
//! * Every token submitted is completed exactly once, cancelled or not (cancelled: `-ECANCELED`,
//!   or its ordinary result when the cancellation came too late).
//! * Operations in flight hold their file or socket, so `close` comes after the last of them.
//! * A driver wakes tasks only through the wakers it was handed; a wake-up without a reason is
//!   legal.
//! * Nothing here blocks, except for the calls on paths, `open` and `set_length`, which are for
//!   start-up and growth.
//!
//! # Receiving and accepting
//!
//! These are polled and not operations: the driver decides when to ask the kernel for more (a
//! multishot request, bounded), and dropping the future of a receive loses no bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::buffer::{Buffer, Frozen};
use crate::fatal::Fatal;
use crate::file::{FileHandle, OpenOptions};
use crate::fs::Metadata;
use crate::net::{ListenOptions, RecvBuffer, Side, SocketHandle};
use crate::time::{Instant, WallClock};

/// Names one operation in flight on one core: slot of the slab and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A driver's name for an open file (a descriptor; an index in a model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId(pub(crate) i32);

/// A driver's name for a listening or connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SocketId(pub(crate) i32);

/// What `open` found out about a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenedFile {
    pub(crate) id: FileId,
    /// Whether the page cache is bypassed: direct I/O was asked for and works.
    pub(crate) direct: bool,
}

/// A request to the driver, with the memory it works on.
pub(crate) enum Operation {
    /// Fill `buffer[filled..]` from `offset + filled`. Result: bytes read, 0 at the end of the
    /// file.
    Read { file: Rc<FileHandle>, buffer: Buffer, filled: usize, offset: u64 },
    /// Write `data[written..]` at `offset + written`; with `durable` the bytes written, and what is
    /// needed to find them, survive a loss of power once this completes. Result: bytes written.
    Write { file: Rc<FileHandle>, data: Frozen, written: usize, offset: u64, durable: bool },
    /// Make all completed writes durable (`fdatasync`: length and extents too, not times).
    Sync { file: Rc<FileHandle> },
    /// Reserve space and extend the length if the range ends behind it. Reads as zeros.
    Allocate { file: Rc<FileHandle>, offset: u64, length: u64 },
    /// Give the space of the range back; it reads as zeros; the length stays.
    Discard { file: Rc<FileHandle>, offset: u64, length: u64 },
    /// Connect a socket made by [`Driver::open_socket`].
    Connect { socket: Rc<SocketHandle>, address: Box<crate::net::RawAddress> },
    /// Send `data[sent..]`. Result: bytes taken.
    Send { socket: Rc<SocketHandle>, data: Vec<u8>, sent: usize },
    /// Send `parts[first][sent..]` and all parts after it. Result: bytes taken.
    SendFrozen { socket: Rc<SocketHandle>, parts: Vec<Frozen>, first: usize, sent: usize },
}

/// A connection that belongs to no core.
pub(crate) enum Released {
    Descriptor(OwnedFd),
    Simulated(SocketId),
}

/// What a driver answers. Methods take `&self`: drivers keep their state in cells.
pub(crate) trait Driver {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Time of day.
    fn wall_clock(&self) -> WallClock;
    /// A seed for the random stream of `purpose`: entropy, or derived from the simulation's seed.
    fn random_seed(&self, purpose: &str) -> [u8; 32];
    /// Ends the process (a simulated node) for a reason that has no answer.
    fn fatal(&self, reason: &Fatal) -> !;

    /// Takes an operation. It stays in the core's slab, unmoved in what its buffers point to.
    fn submit(&self, token: Token, operation: &Operation);
    /// Asks for an early end of an operation; it is completed all the same.
    fn cancel(&self, token: Token);

    /// Opens a file (blocking).
    fn open(&self, path: &Path, options: &OpenOptions) -> io::Result<OpenedFile>;
    /// Closes a file; no operation on it is in flight.
    fn close(&self, file: FileId);
    /// Length in bytes.
    fn length(&self, file: FileId) -> io::Result<u64>;
    /// Cuts or extends (with zeros) a file.
    fn set_length(&self, file: FileId, length: u64) -> io::Result<()>;
    /// Takes the exclusive lock of a file if nobody holds it; `false` if somebody does.
    fn try_lock(&self, file: FileId) -> io::Result<bool>;

    /// Operations on paths; see the functions of [`crate::fs`].
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or directory, replacing a file at the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all below it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Entries of a directory, full paths, sorted.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Kind and length.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Reads a whole small file.
    fn read_small(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Creates or replaces a whole small file and syncs it (not the directory).
    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Binds and listens; returns the address bound. Retries an address in use for some seconds.
    fn listen(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(SocketId, SocketAddr)>;
    /// The next connection, or registers `waker` (replacing the one registered before).
    fn poll_accept(
        &self,
        listener: SocketId,
        waker: &Waker,
    ) -> Poll<io::Result<(SocketId, SocketAddr)>>;
    /// Takes a connection that was accepted, and nothing more, out of this core's hands.
    fn release_socket(&self, socket: SocketId) -> Released;
    /// Takes it into another core's of the same process.
    fn adopt_socket(&self, released: Released) -> SocketId;
    /// A socket to connect to `address` with [`Operation::Connect`].
    fn open_socket(&self, address: SocketAddr) -> io::Result<SocketId>;
    /// The next bytes received, in order; empty at the end of the stream, and again after that.
    /// Otherwise registers `waker`, replacing the one registered before.
    fn poll_receive(&self, socket: SocketId, waker: &Waker) -> Poll<io::Result<RecvBuffer>>;
    /// Stops receiving ahead; the next `poll_receive` starts it again.
    fn pause_receive(&self, socket: SocketId);
    /// Ends one or both directions; bytes accepted before are still sent.
    fn shutdown(&self, socket: SocketId, side: Side) -> io::Result<()>;
    /// Fails a connection whose other end's kernel is silent for so long.
    fn set_silence_max(&self, socket: SocketId, limit: Duration) -> io::Result<()>;
    /// Closes a socket; no operation on it is in flight.
    fn close_socket(&self, socket: SocketId);
}
