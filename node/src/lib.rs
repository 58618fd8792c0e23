//! The storage node: connections, replica, shards, protocols, control plane.

pub mod config;
pub mod gateway;
pub mod machine;
pub mod metrics;
pub mod resp;
pub mod status;
pub mod topology;
