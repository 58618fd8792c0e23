//! The storage node: wires connections, the replica and the shards of a host together.
//!
//! Follow one write: [`connection`] parses it, [`core`] hands it over, [`replica`] gets it into the
//! log and commits it, [`shard`] applies it, [`gateway`] keeps its outcome until the connection
//! renders it. Follow one read: from [`connection`] to [`core::reads`] to [`shard`] and back.
//!
//! | module | what |
//! | --- | --- |
//! | [`config`] | settings, and where each came from |
//! | [`server`] | start and stop of a node; format |
//! | [`topology`] | slots, shards, cores |
//! | [`connection`] | sockets: turns, replies, limits |
//! | [`resp`] | the Redis protocol, pure |
//! | [`core`] | what a core has, and how its parts reach each other |
//! | [`mesh`] | lanes between cores |
//! | [`gateway`] | what connections wait for |
//! | [`native`] | the native protocol for clients |
//! | [`peers`] | the connections between replicas |
//! | [`replica`] | drives the replica and the journal |
//! | [`session`] | what makes a client's request happen once |
//! | [`shard`] | forests, and what applies the log to them |
//! | [`machine`] | what an operation does, pure |
//! | [`control`], [`status`], [`metrics`] | how the node is watched |

pub mod config;
pub mod connection;
pub mod control;
pub mod core;
pub mod gateway;
pub mod machine;
pub mod mesh;
pub mod metrics;
pub mod native;
pub mod peers;
pub mod repair;
pub mod replica;
pub mod resp;
pub mod server;
pub mod session;
pub mod shard;
pub mod status;
pub mod topology;
