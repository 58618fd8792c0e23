//! Whole clusters in one process: replicas with model journals and superblocks, virtual time, a
//! network and disks with faults, all from one seed; and checkers of what may never happen. `real`
//! has the same with the real journal and superblock on simulated disks. And clusters whose members
//! are told lies.
//!
//! `VSR_SEEDS=N` runs N seeds instead of a few hundred; a seed that fails prints the command that
//! runs it alone, and `VSR_TRACE=1` prints what happens in it.

#![expect(clippy::print_stdout, reason = "a long run says what it has done")]

mod canaries;
mod disk;
mod failover;
mod forge;
mod hostile;
mod ledger;
mod lives;
mod real;
mod script;
#[path = "../support/traces.rs"]
mod traces;
mod world;
