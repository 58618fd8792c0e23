//! Viewstamped Replication as a pure state machine, with the journal and superblock it needs.

pub mod format;
pub mod journal;
pub mod replica;
pub mod superblock;
