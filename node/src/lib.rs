//! The storage node: connections, replica, shards, protocols, control plane.

pub mod config;
pub mod metrics;
pub mod status;
