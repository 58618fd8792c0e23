//! The whole node under the simulator: its real code, clients that speak to it, and a checker.
//!
//! ```text
//!   host 0: node::server::serve, disk and network of the world      hosts 1..: clients (RESP)
//!                        ▲                                                │ what was sent,
//!              crashes, restarts, slow disks                              ▼ what was answered
//!           [`simulation`]  ──── after each restart: survey ──────▶  [`ledger`] over [`model`]
//! ```
//!
//! Everything that runs in production runs here, except the control plane's thread and the kernel:
//! the server with its connections, replica, journal, superblock, shards and forests is the same
//! code, started through the same function ([`node::server::serve`]). The configuration is as small
//! as it may be, so that the journal wraps, bars end, checkpoints are taken and tables merge within
//! milliseconds of virtual time.
//!
//! What is promised and checked:
//!
//! 1. A client's own keys are, after any crash, what a prefix of its commands makes them, and the
//!    prefix contains every command that was acknowledged. So nothing acknowledged is lost, nothing
//!    is applied twice or out of order, a command on several keys is there wholly or not at all.
//! 2. What a client has read of another's keys was durable: the prefix contains that as well.
//! 3. Every reply is the one that the model gives, while the node lives.
//! 4. Counters that all clients share lie between what was acknowledged and what was sent, and no
//!    two increments were given the same result. Pairs that all clients share are
//!    equal, whenever they are read together. A flush is there wholly or not at all, on all cores.
//! 5. The node starts after every crash, from every state that the disk may be in.
//!
//! [`linearizability`] checks histories of many clients on the same keys, whatever they ran on.
//!
//! [`simulation::Simulation`] plays lives one after the other over one directory, and
//! [`points::every_step`] plays one life again and again, with a crash at each step of a window.
//! Everything follows from a seed; a failure is a [`Violation`] that says which.
//!
//! Clusters of several nodes, with faults of the network as well, are played by [`cluster`].

pub mod clients;
pub mod cluster;
pub mod generate;
pub mod ledger;
pub mod linearizability;
pub mod model;
pub mod points;
pub mod server;
pub mod simulation;

/// A promise that was not kept: what was seen and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);
