//! The simulator.

pub mod dice;
pub mod disk;
pub mod trace;

pub use dice::{Dice, TraceHash};
pub use disk::{DiskConfig, FaultCounts, FaultPlan, ReadFault, SimDisk, WriteFault};
