//! The runtime: per-core executors, direct I/O, sockets, timers and mesh, on io_uring or simulated.

pub mod buffer;
mod driver;
mod fatal;
mod file;
pub mod fs;
mod net;
pub mod sim;
mod time;

pub use buffer::{Buffer, BufferPool, Frozen};
pub use fatal::Fatal;
pub use file::{Direct, OpenOptions};
pub use net::{ListenOptions, RecvBuffer, Side};
pub use time::{Instant, WallClock};
