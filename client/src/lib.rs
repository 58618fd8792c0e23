//! The Rust client library of Quorate.
//!
//! Two protocols, each without I/O and with a blocking driver over it:
//!
//! - RESP, the Redis protocol, to one address: [`resp::parse_reply`] and
//!   [`connection::Connection`]. It serves the command line (`quorate ctl`), the load generator and
//!   tests.
//! - The native protocol, to all addresses of a cluster: [`protocol::Protocol`] and
//!   [`native::Client`]. Requests are numbered in a session, so that each is executed once however
//!   often it has to be sent.

pub mod connection;
pub mod native;
pub mod protocol;
pub mod resp;

pub use connection::{ClientError, Connection};
pub use resp::{Reply, parse_reply};
