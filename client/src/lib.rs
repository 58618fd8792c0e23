//! The Rust client library of Quorate.
//!
//! What is here speaks RESP, the Redis protocol, to one address: [`resp::parse_reply`] is the
//! protocol without I/O, [`connection::Connection`] drives it over a blocking socket with
//! deadlines. It serves the command line (`quorate ctl`), the load generator and the tests.
//! Sessions, pipelining with exactly-once retries and routing belong to the native protocol and
//! come with it.

pub mod connection;
pub mod resp;

pub use connection::{ClientError, Connection};
pub use resp::{Reply, parse_reply};
