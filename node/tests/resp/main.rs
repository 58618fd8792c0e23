//! The Redis protocol from bytes to bytes, over a model of the storage.
//!
//! [`driver`] puts parser, planner, state machine and replies together as the node does, with a
//! `BTreeMap` where the node has log and shards. Three kinds of tests use it: [`golden`] replies
//! recorded once, [`differential`] sequences that a real Redis server answers too, and [`fuzz`] for
//! whatever bytes and however they are split.

#![expect(clippy::unwrap_used, reason = "a test's surprise is its failure")]
#![expect(clippy::print_stderr, reason = "what is skipped has to be said loudly")]

mod differential;
mod driver;
mod fuzz;
mod golden;
