//! The runtime: per-core executors, direct I/O, sockets, timers and mesh, on io_uring or simulated.
//!
//! Code above this crate is ordinary async Rust against the free functions and types here, written
//! once. What it runs on is decided by the driver of the core that is installed on the thread:
//! [`uring`] (one ring of the kernel per core) or a seeded simulation.
//!
//! ```text
//! spawn sleep File Stream lane …    the API: free functions and futures
//!            │
//!          core                     tasks, run queues, timers, operations in flight
//!            │
//!      driver::Driver               the contract
//!        ┌───┴────┐
//!      uring     sim
//! ```
//!
//! Futures here are not `Send` and stay on the core that polls them. What goes between cores goes
//! through a [`lane`]; what is shared between them is [`Frozen`] bytes.
//!
//! In the steady state nothing is allocated per operation, timer, wake-up or message.

pub mod buffer;
mod clock;
mod combine;
mod core;
mod driver;
mod fatal;
mod file;
pub mod fs;
mod mesh;
mod net;
mod operation;
mod prefetch;
mod random;
pub mod sim;
mod spawn;
mod stats;
pub mod sync;
mod system;
mod task;
mod time;
mod timers;
pub mod uring;
mod waker;

pub use buffer::{Buffer, BufferPool, ExtentPool, Frozen};
pub use clock::{Elapsed, Sleep, now, sleep, sleep_until, timeout, wall_clock};
pub use combine::{Either, join, join_all, select};
pub use core::CoreId;
pub use fatal::{Fatal, fatal};
pub use file::{Direct, File, FileError, OpenOptions};
pub use mesh::{Inbox, Outbox, lane};
pub use net::{Accepted, ListenOptions, Listener, RecvBuffer, Side, Stream};
pub use prefetch::prefetch;
pub use random::{Random, random};
pub use spawn::{Task, spawn, yield_now};
pub use stats::Stats;
pub use system::{available_cpus, lock_memory};
pub use task::{Queue, Shares};
pub use time::{Instant, WallClock};
pub use uring::probe;

/// Number of the core that this runs on, from 0 within its node.
///
/// # Panics
/// On a thread without a runtime.
pub fn core_id() -> CoreId {
    core::Core::with(|core| core.config.id)
}

/// What the core that this runs on has counted since it started.
///
/// # Panics
/// On a thread without a runtime.
pub fn stats() -> Stats {
    core::Core::with(core::Core::stats)
}
