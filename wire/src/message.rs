//! The messages of the protocol: what each command's half of the header says.
//!
//! The protocol is Viewstamped Replication Revisited (Liskov and Cowling, 2012) with pre-vote,
//! present and nack bits (Alagappan et al., FAST '18) and repair by checksum. In one paragraph:
//! clients send *requests* to the primary of the view; it orders them into *prepares*; backups
//! answer *prepare-ok* when a prepare is durable; on a quorum the op commits, the primary *replies*
//! and tells the backups by *commit* (its heartbeat). When the primary is silent the others agree
//! by *pre-vote* and *start-view-change* to leave the view, send *do-view-change* to the next
//! primary, and it opens the view with *start-view*. The rest fetches what one has lost.
//!
//! A tail is a plain struct here, read from and written to 128 bytes in the order of its fields;
//! what remains is zero. A list that does not fit is the body: headers in do-view-change,
//! start-view and headers; block references in get-blocks; root references in a checkpoint.
//!
//! Every struct's fields, in their order and with the sizes of their types, are its byte map.

use crate::field::Field;
use crate::header::TAIL_SIZE;
use crate::{
    CheckpointId, Checksum, ClientId, ClientTag, ErrorCode, Incarnation, Op, Release, ReplicaId,
    RequestNumber, ShardId, Timestamp, View,
};

/// The half of a header that belongs to one command.
pub trait Tail: Copy {
    /// The command.
    const COMMAND: Command;
    /// Writes the fields; the bytes after them are left as they are (zero).
    fn write(&self, tail: &mut [u8; TAIL_SIZE]);
    /// Reads the fields; `None` when one has no meaning or a byte after them is not zero.
    fn read(tail: &[u8; TAIL_SIZE]) -> Option<Self>;
}

macro_rules! messages {
    ($(
        $(#[$doc:meta])* $name:ident = $number:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {
        /// What a message is.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Command { $($(#[$doc])* $name = $number,)* }

        impl Command {
            /// Every command.
            pub const ALL: &'static [Command] = &[$(Command::$name,)*];

            /// The command with this number, if there is one.
            #[must_use]
            pub fn from_u8(number: u8) -> Option<Command> {
                match number {
                    $($number => Some(Command::$name),)*
                    _ => None,
                }
            }
        }

        /// Name, number, and name and size of each field of every command, for the check of the
        /// documents.
        #[cfg(test)]
        type CommandLayout = (&'static str, u8, &'static [(&'static str, usize)]);

        #[cfg(test)]
        const LAYOUTS: &[CommandLayout] = &[$((
            stringify!($name),
            $number,
            &[$((stringify!($field), <$type as Field>::SIZE),)*],
        ),)*];

        pub(crate) fn tail_is_valid(command: Command, tail: &[u8; TAIL_SIZE]) -> bool {
            match command { $(Command::$name => $name::read(tail).is_some(),)* }
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            const _: () = assert!(0 $(+ <$type as Field>::SIZE)* <= TAIL_SIZE);

            impl Tail for $name {
                const COMMAND: Command = Command::$name;

                fn write(&self, tail: &mut [u8; TAIL_SIZE]) {
                    let mut fields = Fields { offset: 0 };
                    $(self.$field.write(&mut tail[fields.next(<$type as Field>::SIZE)]);)*
                }

                fn read(tail: &[u8; TAIL_SIZE]) -> Option<Self> {
                    let mut fields = Fields { offset: 0 };
                    let message = $name {
                        $($field: <$type>::read(&tail[fields.next(<$type as Field>::SIZE)])?,)*
                    };
                    tail[fields.offset..].iter().all(|&byte| byte == 0).then_some(message)
                }
            }
        )*
    };
}

/// Walks a tail: the fields lie one after another without gaps.
struct Fields {
    offset: usize,
}

impl Fields {
    fn next(&mut self, size: usize) -> std::ops::Range<usize> {
        let start = self.offset;
        self.offset += size;
        start..self.offset
    }
}

/// Why a prepare exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// It carries requests.
    Requests = 1,
    /// It carries none: it moves log time and pays for due work while nobody asks for anything.
    Pulse = 2,
    /// The cluster's first op: its body is the incarnation of each member.
    Genesis = 3,
    /// A change of members; its body is the new configuration.
    Reconfigure = 4,
    /// From here on the log is executed by the release in the header.
    Upgrade = 5,
}

impl Field for Purpose {
    const SIZE: usize = 1;
    fn write(self, bytes: &mut [u8]) {
        (self as u8).write(bytes);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            1 => Some(Purpose::Requests),
            2 => Some(Purpose::Pulse),
            3 => Some(Purpose::Genesis),
            4 => Some(Purpose::Reconfigure),
            5 => Some(Purpose::Upgrade),
            _ => None,
        }
    }
}

messages! {
    /// First message on a connection, in both directions: who is there and what it speaks. What
    /// does not fit is refused by an [`Error`] that names it.
    Hello = 1 {
        /// The sender's incarnation; 0 from a client.
        incarnation: Incarnation,
        /// A hash of every cluster-wide format-time setting; 0 from a client.
        configuration: Checksum,
        /// The oldest protocol version the sender speaks.
        protocol_min: u16,
        /// The newest protocol version the sender speaks.
        protocol_max: u16,
        /// The newest release the sender can execute.
        release_max: Release,
        /// Members of the cluster as the sender was formatted; 0 from a client.
        replica_count: u8,
        /// Whether the sender is a client and not a replica.
        client: bool,
        /// What a replica will send on this connection: 1 control, 2 prepares, 3 transfers, 4
        /// forwards; the answer repeats it. 0 from a client.
        class: u8,
    }
    /// A clock sample is asked for; also the sign of life between any two replicas.
    Ping = 2 {
        /// The sender's monotonic clock in nanoseconds, to be sent back.
        monotonic: u64,
        /// The sender's last checkpoint.
        checkpoint: CheckpointId,
        /// The op of that checkpoint.
        checkpoint_op: Op,
        /// The sender's highest op.
        op: Op,
        /// The sender's commit number.
        commit: Op,
    }
    /// The answer to a ping.
    Pong = 3 {
        /// The ping's monotonic clock.
        monotonic: u64,
        /// The answering replica's wall clock.
        wall: Timestamp,
    }
    /// A client's request; its body is operations as in a prepare, without the request header.
    Request = 4 {
        /// The session; 0 in the request that opens one.
        client: ClientId,
        /// Its number in the session.
        number: RequestNumber,
        /// Every request of the session up to this one has been answered and need not be kept.
        acknowledged: RequestNumber,
        /// How long the client waits, in nanoseconds; 0 is for ever.
        patience: u64,
        /// How many operations the body holds.
        operation_count: u32,
        /// 0: `one`, 1: `quorum`, 2: `all`; for reads.
        read_level: u8,
        /// Whether its operations happen only if the conditions of all of them hold.
        all_or_none: bool,
    }
    /// An entry of the log: its body is requests. The checksum of the header names the entry, and
    /// the parent's, so every entry names all history before it.
    Prepare = 5 {
        /// The checksum of the prepare before this one.
        parent: Checksum,
        /// The checkpoint that the primary's state has, so that divergence is seen at once.
        checkpoint: CheckpointId,
        /// The position in the log.
        op: Op,
        /// The primary's commit number when it made this.
        commit: Op,
        /// Log time; every operation's version is this plus its index.
        timestamp: Timestamp,
        /// How many versions from the timestamp on belong to this prepare.
        version_count: u32,
        /// How many requests the body holds.
        request_count: u32,
        /// What it is for.
        purpose: Purpose,
    }
    /// A backup has the prepare durable, in the view in which it says so.
    PrepareOk = 6 {
        /// The prepare.
        prepare: Checksum,
        /// Its op.
        op: Op,
        /// The sender's commit number.
        commit: Op,
        /// The sender's last checkpoint.
        checkpoint: CheckpointId,
        /// The sender's incarnation.
        incarnation: Incarnation,
    }
    /// The answer to a request; its body is outcomes.
    Reply = 7 {
        /// The session.
        client: ClientId,
        /// The request answered.
        number: RequestNumber,
        /// The op that the answer reflects.
        op: Op,
        /// The log time that the answer reflects.
        timestamp: Timestamp,
        /// How many more requests the client may have outstanding.
        credits: u32,
        /// How many outcomes the body holds.
        outcome_count: u32,
    }
    /// The primary's heartbeat: how far the log is committed, and a round for waiting reads.
    Commit = 8 {
        /// The checksum of the prepare at the commit number.
        prepare: Checksum,
        /// The commit number.
        commit: Op,
        /// The primary's last checkpoint.
        checkpoint: CheckpointId,
        /// The op of that checkpoint.
        checkpoint_op: Op,
        /// Rises with each round; a backup's answer confirms the primary for all reads before it.
        round: u64,
        /// The primary's log time.
        timestamp: Timestamp,
    }
    /// A backup has heard the heartbeat of its view.
    CommitOk = 9 {
        /// The heartbeat's round.
        round: u64,
        /// The sender's commit number.
        commit: Op,
    }
    /// The sender would leave the view; nobody does before a view-change quorum would.
    PreVote = 10 {
        /// The view it would change to.
        candidate: View,
        /// The last view it was normal in.
        log_view: View,
        /// Its highest op.
        op: Op,
    }
    /// The sender has left its view for the one in the header.
    StartViewChange = 11 {
        /// The last view it was normal in.
        log_view: View,
    }
    /// What the sender has, for the primary of the new view; its body is prepare headers, from the
    /// highest op down, as far as it knows them. Bit i of the sets is the op i below the highest.
    DoViewChange = 12 {
        /// Prepares that the sender has whole.
        present: u128,
        /// Prepares that it certainly never acknowledged.
        nack: u128,
        /// The last view it was normal in.
        log_view: View,
        /// Its highest op.
        op: Op,
        /// Its commit number.
        commit: Op,
        /// Its last checkpoint's op.
        checkpoint_op: Op,
        /// Its incarnation.
        incarnation: Incarnation,
    }
    /// The new view is open; its body is prepare headers, from the highest op down.
    StartView = 13 {
        /// The log's head in this view.
        op: Op,
        /// The commit number.
        commit: Op,
        /// The new primary's checkpoint.
        checkpoint: CheckpointId,
        /// That checkpoint's op.
        checkpoint_op: Op,
        /// Echo of the [`GetView`] that asked for this; 0 when nobody did.
        nonce: u128,
    }
    /// A replica that does not know the view asks for it.
    GetView = 14 {
        /// Comes back in the answer, so that an old answer is not taken for it.
        nonce: u128,
        /// The sender's incarnation.
        incarnation: Incarnation,
    }
    /// The headers from one op to another are asked for.
    GetHeaders = 15 {
        /// The lowest op wanted.
        op_min: Op,
        /// The highest op wanted.
        op_max: Op,
    }
    /// The answer: its body is prepare headers, from the highest op down.
    Headers = 16 {
        /// How many.
        count: u32,
    }
    /// A prepare is asked for by its checksum; the answer is the prepare.
    GetPrepare = 17 {
        /// The prepare.
        prepare: Checksum,
        /// Its op.
        op: Op,
    }
    /// Grid blocks are asked for; the body is [`BlockReference`]s.
    GetBlocks = 18 {
        /// How many.
        count: u32,
    }
    /// A grid block, as it is stored; without a body when the sender has no such block.
    Block = 19 {
        /// The block's own checksum.
        block: Checksum,
        /// Where it lies in its grid.
        address: u64,
        /// Whose grid.
        shard: ShardId,
    }
    /// A replica that has fallen behind asks for the newest checkpoint.
    GetCheckpoint = 20 {
        /// The op of its own.
        checkpoint_op: Op,
    }
    /// A checkpoint to adopt; its body is one root reference per shard, then the sessions'.
    Checkpoint = 21 {
        /// Its identity.
        checkpoint: CheckpointId,
        /// Its parent's identity.
        parent: CheckpointId,
        /// The checksum of the prepare it was taken after.
        prepare: Checksum,
        /// That prepare's op.
        op: Op,
        /// That prepare's log time.
        timestamp: Timestamp,
        /// How many root references the body holds.
        root_count: u32,
    }
    /// The session is gone; its client must open another.
    Eviction = 22 {
        /// The session.
        client: ClientId,
        /// The op that ended it; 0 when it is not known at all.
        op: Op,
    }
    /// A request or a connection is refused; the body is a sentence for people in UTF-8.
    Error = 23 {
        /// The session; 0 when the connection is meant.
        client: ClientId,
        /// The request; 0 when the connection is meant.
        number: RequestNumber,
        /// Why.
        code: ErrorCode,
        /// When to try again, in milliseconds; 0 when that does not help.
        retry_after_ms: u32,
        /// Who is primary, when the sender is not and knows.
        primary: ReplicaId,
        /// Whether `primary` says anything.
        primary_known: bool,
    }
    /// A backup asks the primary how far it must have applied the log to answer reads.
    GetReadIndex = 24 {
        /// Comes back in the answer.
        tag: ClientTag,
    }
    /// The answer to [`GetReadIndex`], after a round of heartbeats confirmed the primary.
    ReadIndex = 25 {
        /// The question's tag.
        tag: ClientTag,
        /// The commit number to wait for.
        commit: Op,
        /// The log time to answer as of.
        timestamp: Timestamp,
    }
    /// A backup passes writes of its clients on to the primary; its body is requests as in a
    /// prepare.
    Forward = 26 {
        /// Comes back in the answer; each is sent once.
        number: u64,
    }
    /// The answer to [`Forward`]: its body is the outcomes of all operations in their order.
    Forwarded = 27 {
        /// The forward's number.
        number: u64,
        /// How many outcomes the body holds.
        outcome_count: u32,
    }
}

/// A grid block by what it is and where it lies: the body of [`GetBlocks`] is a list of these.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
    zerocopy::Unaligned,
)]
#[repr(C)]
pub struct BlockReference {
    checksum: zerocopy::little_endian::U128,
    address: zerocopy::little_endian::U64,
    shard: zerocopy::little_endian::U16,
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<BlockReference>() == 32);

impl BlockReference {
    /// The block with this checksum at this address of this shard's grid.
    #[must_use]
    pub fn new(checksum: Checksum, address: u64, shard: ShardId) -> BlockReference {
        BlockReference {
            checksum: checksum.0.into(),
            address: address.into(),
            shard: shard.0.into(),
            reserved: [0; 6],
        }
    }

    /// The block's checksum.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum(self.checksum.get())
    }

    /// The block's address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address.get()
    }

    /// The shard whose grid is meant.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        ShardId(self.shard.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The byte maps of all tails in `docs/FORMAT.md` are those of the code.
    #[test]
    fn the_documented_tails_are_those_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/FORMAT.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = text.split("### Tails").nth(1).unwrap().split("\n## ").next().unwrap();
        let documented: Vec<&str> =
            section.lines().filter(|line| line.starts_with("| `")).collect();
        let actual: Vec<String> = LAYOUTS
            .iter()
            .map(|(name, number, fields)| {
                let mut offset = 0;
                let fields = fields.iter().map(|(field, size)| {
                    offset += size;
                    format!("{}: {field} {size}", offset - size)
                });
                format!("| `{name}` | {number} | {} |", fields.collect::<Vec<_>>().join(", "))
            })
            .collect();
        assert_eq!(documented, actual, "\n{}", actual.join("\n"));
    }
}
