//! The Redis protocol, versions 2 and 3: bytes to commands, commands to work, results to bytes.
//!
//! Pure: no sockets, no clock, no storage. The connection task of the node drives it:
//!
//! ```text
//!   bytes ─parser─▶ arguments ─plan─┬▶ Write: operations for the log ─▶ outcomes ─reply─▶ bytes
//!                     (table)       ├▶ Read: keys to look up ─────────▶ entries ──read──▶ bytes
//!                                   ├▶ Ask: INFO, CLIENT LIST ────────▶ snapshot ─info──▶ bytes
//!                                   └▶ Replied ─────────────────────────────────────────▶ bytes
//! ```
//!
//! 1. [`parser`] finds whole requests in what was received, without copying; `inline` is its part
//!    for requests typed by hand.
//! 2. [`plan()`] looks the name up in the [`table`] and checks the arguments; `strings`,
//!    `expiry`, `keyspace`, [`connection`], `describe` and `configuration` know one family
//!    of commands each. Errors before anything is done are a `refusal`.
//! 3. Writes come back as outcomes that a [`reply::Shape`] renders, reads as entries that a
//!    [`read::KeyRead`] renders.
//! 4. [`session`] is what a connection remembers, [`cursor`] what a node remembers of scans.
//!
//! Parsing a pipelined GET, planning it and rendering its reply takes no allocation and well under
//! a microsecond; a test counts the allocations. What differs from Redis stands in
//! `docs/COMMANDS.md`, and a test compares everything else with a Redis server, byte for byte.

mod configuration;
pub mod connection;
pub mod cursor;
mod describe;
pub mod encode;
mod expiry;
pub mod glob;
pub mod info;
mod inline;
mod keyspace;
pub(crate) mod number;
pub mod parser;
pub mod plan;
pub mod read;
mod refusal;
pub mod reply;
pub mod session;
mod strings;
pub mod table;

pub use encode::{Encoder, Protocol};
pub use parser::{Arguments, Limits, Parser, Progress, ProtocolError};
pub use plan::{Ask, Form, Host, Plan, Work, plan};
pub use read::{Combine, KeyRead, Read, ScanRequest};
pub use reply::{Shape, Unknown, append_error};
pub use session::{Peer, Session};
