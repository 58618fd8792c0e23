//! The driver on io_uring: a pinned thread per core, a ring per thread.
//!
//! A core's thread does this, over and over:
//!
//! 1. make runnable what other threads woke, and what timers are due for;
//! 2. poll tasks as the shares say, until none is runnable or the turn was long enough;
//! 3. hand all requests that came up to the kernel in one call: the sends of a turn go out
//!    together. If nothing is runnable, that same call sleeps until a completion, a timer or the
//!    bell;
//! 4. deliver completions.
//!
//! While a durable write is in flight, whose completion clients wait for, a core hands over and
//! waits a little differently (`durable`).
//!
//! A core without work sleeps in its ring, without ticks: it uses no processor time. Whether it
//! looks for completions for a while before it sleeps is configuration ([`Idle`]).

mod disk;
mod driver;
mod durable;
mod message;
mod probe;
mod provided;
mod registered;
mod ring;
mod run;
mod runtime;
mod socket_calls;
mod sockets;

pub use probe::{Feature, Probe, probe};
pub(crate) use provided::ProvidedBytes;
pub use ring::{RingError, RingFlags};
pub use runtime::{Config, Idle, Runtime, StartError};
