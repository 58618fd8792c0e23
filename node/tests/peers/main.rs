//! The connections between replicas: in the simulator under faults, and on real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod hostile;
mod real;
mod storm;
mod support;
