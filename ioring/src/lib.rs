//! The runtime: per-core executors, direct I/O, sockets, timers and mesh, on io_uring or simulated.
