//! The numbers of the protocol, each a type of its own, so that an op is never taken for a view.
//!
//! All are plain integers in memory and little-endian on the wire ([`crate::field`]).

use std::fmt;

macro_rules! number {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

number! {
    /// A position in the replicated log. Op 0 is the root, which no message carries: the first
    /// prepare is op 1.
    Op(u64);
    /// The number of a view: which replica is primary, and since when.
    View(u32);
    /// A member of the cluster, counted from 0.
    ReplicaId(u8);
    /// The cluster a message or file belongs to.
    ClusterId(u128);
    /// A random number drawn when a replica's directory was formatted: a replica that lost its
    /// disk comes back as another incarnation and is not taken for the one that acknowledged.
    Incarnation(u128);
    /// Nanoseconds since the Unix epoch in log time: given by the primary, strictly increasing.
    Timestamp(u64);
    /// When a value was written: its prepare's timestamp plus the operation's index in the prepare.
    Version(u64);
    /// A client's session. 0 is no session (RESP connections have none).
    ClientId(u128);
    /// The number a client gave to a request, counted from 1 in its session.
    RequestNumber(u64);
    /// Where the answer to a request goes, in terms of the node that accepted it; opaque here.
    ClientTag(u64);
    /// A named namespace of keys. 0 is the default table.
    TableId(u32);
    /// A shard of a replica, counted from 0.
    ShardId(u16);
    /// The software release that a log entry is executed by: major, minor, patch in 8, 8, 16 bits.
    Release(u32);
    /// The number of a membership configuration, raised by each change of members.
    Epoch(u32);
    /// The version of the map of slots to clusters that a message was routed by. 0 is no map.
    MapVersion(u64);
    /// The identity of a checkpoint: a hash of its roots and of its parent's identity.
    CheckpointId(u128);
}

impl Op {
    /// The op after this one.
    #[must_use]
    pub fn next(self) -> Op {
        Op(self.0 + 1)
    }
}

impl View {
    /// The view after this one.
    #[must_use]
    pub fn next(self) -> View {
        View(self.0 + 1)
    }
}

impl Timestamp {
    /// The version of the operation at `index` of a prepare with this timestamp.
    #[must_use]
    pub fn version(self, index: u32) -> Version {
        Version(self.0 + u64::from(index))
    }
}

impl Release {
    /// The release this code is: the package's version.
    pub const CURRENT: Release = Release::new(0, 1, 0);

    /// The release with these parts.
    #[must_use]
    pub const fn new(major: u8, minor: u8, patch: u16) -> Release {
        Release((major as u32) << 24 | (minor as u32) << 16 | patch as u32)
    }
}
