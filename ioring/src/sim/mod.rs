//! The simulator: whole clusters on one thread, under one seed.
//!
//! The code above `ioring` runs unchanged; time, disks, the network and the choice of what runs
//! next are models. Everything that happens follows from the seed: a failure is replayed by running
//! the same seed again.
//!
//! # How to write a simulated test
//!
//! One node, files and timers, and a loss of power in the middle:
//!
//! ```
//! use ioring::sim::{Config, Crash, World};
//! use ioring::{Buffer, File, OpenOptions, fs};
//!
//! async fn open() -> File {
//!     let options = OpenOptions { read: true, write: true, create: true, ..Default::default() };
//!     let file = File::open("data".as_ref(), &options).unwrap();
//!     fs::sync_dir("/".as_ref()).unwrap(); // or the name is lost with the power
//!     file
//! }
//!
//! for seed in 0..20 {
//!     let mut world = World::new(seed, Config::default());
//!     let node = world.add_node("store");
//!     world
//!         .run(node, || async {
//!             let file = open().await;
//!             let mut buffer = Buffer::zeroed(4096);
//!             buffer.fill(7);
//!             file.write_durable(buffer.freeze(), 0).await.unwrap();
//!         })
//!         .unwrap();
//!     world.crash(node, Crash::Power);
//!     world
//!         .run(node, || async {
//!             let (result, buffer) = open().await.read(Buffer::zeroed(4096), 0).await;
//!             result.unwrap();
//!             assert!(buffer.iter().all(|byte| *byte == 7));
//!         })
//!         .unwrap();
//! }
//! ```
//!
//! **Every crash point.** [`every_crash_point`] runs a workload once to count its steps, then once
//! for each step with a crash there, and after each crash gives the world to a checker. The
//! workload tells the checker what it had acknowledged through anything shared, an `Rc<Cell<u64>>`
//! for one.
//!
//! **Every crash state of a disk.** `world.disk(node).record()` before a run,
//! `world.probe(node).note(n)` inside it at each acknowledgement, `world.disk(node).take_trace()`
//! after it, and [`trace::crash_states`] gives disks to put into a node with
//! [`World::set_disk`] and to recover from. Few states are built exhaustively, many are sampled.
//!
//! **Several nodes.** [`World::spawn_node`] starts a process with one core for each part; nodes
//! connect to [`World::address`]. [`World::run_until`] and [`World::run_for`] let time pass;
//! between steps a test crashes, pauses and restarts nodes, cuts links ([`World::net`]), sets
//! clocks, and injects faults into disks ([`World::disk`]).
//!
//! **Rules.** No hash map with random seeds, no `std::time`, no threads in simulated code. Checks
//! draw no randomness from the world. A test asserts at least once that what it injects happens:
//! fault counts, or [`mark!`](crate::mark)s in the code under test.
//!
//! # Inside
//!
//! [`World`] (scheduler, time, life of nodes) over the common executor; `driver` (one per core)
//! over `state` (disks, network, operations in flight); [`disk`], [`trace`] and [`net`] are pure
//! models with tests of their own.

pub mod config;
mod crash_points;
pub mod dice;
pub mod disk;
mod driver;
mod log;
pub mod marks;
pub mod net;
mod state;
pub mod trace;
pub mod world;

pub use config::{Clock, Config, DiskTiming, WORLD_BEGINS};
pub use crash_points::{CrashPoint, every_crash_point};
pub use dice::{Dice, TraceHash};
pub use disk::{DiskConfig, FaultCounts, FaultPlan, ReadFault, SimDisk, WriteFault};
pub use net::{Disturbance, NetConfig, SimNet, Weather};
pub use world::{Crash, NodeId, Outcome, Probe, Status, World};
