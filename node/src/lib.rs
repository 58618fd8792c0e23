//! The storage node: connections, replica, shards, protocols, control plane.

pub mod config;
