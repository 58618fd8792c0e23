//! The replica from outside: driven step by step, with a journal that the tests control.

mod allocation;
mod cluster_allocation;
#[path = "../../../tests/support/counting.rs"]
mod counting;
mod harness;
mod model;
mod scenarios;
#[path = "../support/traces.rs"]
mod traces;
