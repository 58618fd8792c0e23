//! What replicas, nodes and clients share: headers, operations, results, errors, checksums.
//!
//! Everything that crosses a socket or is replicated is defined here once, so that `vsr`, `node`
//! and `client` agree by construction. The layers, from the outside in:
//!
//! 1. A *message* is a 256-byte [`Header`] and a body. The header carries a checksum of itself and
//!    one of the body, what every message has in common (cluster, view, size, command, release)
//!    and 128 bytes that belong to its command ([`message`]).
//! 2. The body of a *prepare* (an entry of the replicated log) is a sequence of *requests*; a
//!    request is a short header and a sequence of *operations* ([`request`], [`operation`]). What
//!    clients ask without changing anything are *reads* ([`read`]), which never get into the log.
//! 3. The answer to an operation is an *outcome* ([`outcome`]): a status out of the one
//!    enumeration of errors ([`ErrorCode`]) and a typed value.
//!
//! Invariants:
//!
//! - Little-endian always, and no structure needs alignment, so a view can be taken at any byte of
//!   a receive buffer.
//! - Bytes from outside have no type until they are parsed: a [`Header`], a [`RequestView`] or an
//!   [`OperationView`] exists only after every length, enumeration and flag in it was checked.
//!   From then on iteration cannot fail. Nothing here panics on any input, and nothing allocates.
//! - Whatever is written here can be stored for ever: each layout has a byte map in
//!   `docs/FORMAT.md` and a golden test. A change of layout is a change of [`PROTOCOL`].
//!
//! The size checks are what keeps a hostile length harmless: a size is compared with the bytes at
//! hand and with the configured limit before anything is sliced or reserved by it.

mod checksum;
mod error;
mod field;
mod header;
pub mod message;
mod number;
pub mod operation;
pub mod outcome;
pub mod read;
pub mod request;
mod root;
mod sink;
mod slot;

pub use checksum::{Checksum, checksum};
pub use error::ErrorCode;
pub use header::{Draft, HEADER_SIZE, Header, HeaderError, PROTOCOL, TAIL_SIZE};
pub use message::Command;
pub use number::{
    CheckpointId, ClientId, ClientTag, ClusterId, Epoch, Incarnation, MapVersion, Op, Release,
    ReplicaId, RequestNumber, ShardId, TableId, Timestamp, Version, View,
};
pub use operation::{Flags, Opcode, OperationView};
pub use outcome::{Outcome, Value};
pub use request::{Operations, RequestBuilder, RequestError, RequestView, Requests, Session};
pub use root::RootReference;
pub use sink::{Full, Sink, SliceSink};
pub use slot::{SLOT_COUNT, Slot, slot_of_key};
