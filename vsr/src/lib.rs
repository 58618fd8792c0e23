//! Viewstamped Replication as a pure state machine, with the journal and superblock it needs.

pub mod replica;
