//! Viewstamped Replication as a pure state machine, with the journal and superblock it needs.
//!
//! ```text
//!             requests                                      commits
//!                │                                             ▲
//!                ▼                                             │
//!  ┌──────────────────────────── replica (pure) ────────────────────────────┐
//!  │  batch ─► op, log time, parent checksum ─► pipeline ─► commit in order │
//!  └──────────────────┬───────────────────────────────▲─────────────────────┘
//!             prepares│                               │durable
//!                     ▼                               │
//!                 journal: frames in a ring of segments, only appended to
//!                     ▲
//!                     │ which versions are meant, where replay begins
//!                superblock: identity, configuration, view, checkpoint
//! ```
//!
//! [`replica`] decides; [`journal`] and [`superblock`] remember; [`format`](mod@format) lays both
//! out. Only the latter do I/O, through `ioring`; a driver above (a node's replica core) carries
//! things between them and adds sockets and clocks.
//!
//! With peers, prepares and votes also go out as messages and come in as such; `docs/PROTOCOL.md`
//! has the whole of it. What they promise together, for a cluster of one:
//!
//! 1. What was acknowledged is in the log: an op commits when its frame and all before it are
//!    durable, and only commits are answered.
//! 2. The log is one chain: each prepare names the one before it, and a restart keeps what is
//!    connected to the checkpoint. What was durable once and is gone is refused by name.
//! 3. What a restart drops stays dropped: the view is raised durably before anything new gets an
//!    op, and a frame of an older view above the view's headers is void.
//! 4. The log is bounded: no op is given beyond the budget after the last checkpoint, and a segment
//!    is used again only when the checkpoint has passed it.

pub mod format;
pub mod journal;
pub mod replica;
pub mod superblock;
