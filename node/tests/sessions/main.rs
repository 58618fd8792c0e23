//! Sessions of the native protocol, over a whole node in the simulator.
//!
//! `counters`: clients raise counters while the node dies at any step and comes back, connections
//! are cut at any moment and requests are sent again; each increment that a client was told of has
//! happened once, with the result that it was told. `protocol`: what the node answers, message by
//! message, to clients that mean well and to others.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod counters;
mod protocol;
