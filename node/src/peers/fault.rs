//! What can be wrong with a peer's bytes, and what it is told.
//!
//! Two kinds: a *fault* is in the bytes after the greeting and ends the connection, which is then
//! made anew; a *refusal* is about who is there and what it was formatted with, and stays until a
//! person changes something. Both go to the other side as an `Error` with a code of the common
//! enumeration and a sentence, so that both sides' logs say the same.

use wire::{Checksum, ClusterId, Command, ErrorCode, HeaderError, Incarnation, ReplicaId};

/// Why bytes on a connection are no message of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No header or body that can be believed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A message of another cluster.
    #[error("a message of cluster {theirs:?}, this one is {ours:?}")]
    Cluster {
        /// This node's.
        ours: ClusterId,
        /// The message's.
        theirs: ClusterId,
    },
    /// A message in another replica's name.
    #[error("a message of replica {actual} on the connection of replica {expected}")]
    Sender {
        /// Who greeted.
        expected: ReplicaId,
        /// Who the header says.
        actual: ReplicaId,
    },
    /// A command that does not belong on the connection.
    #[error("a {command:?} on a connection for {place}")]
    Unexpected {
        /// What came.
        command: Command,
        /// What the connection is for.
        place: &'static str,
    },
    /// More than a message of its kind may have.
    #[error("a {command:?} of {size} bytes, at most {most} are taken")]
    TooLarge {
        /// What came.
        command: Command,
        /// Bytes of header and body.
        size: usize,
        /// The limit.
        most: usize,
    },
    /// The stream ended within a message.
    #[error("the stream ended {missing} bytes before the end of a message")]
    Truncated {
        /// What of the header or of the body is missing.
        missing: usize,
    },
}

impl Fault {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Fault::Header(HeaderError::Protocol { .. }) => ErrorCode::WrongProtocol,
            Fault::Header(HeaderError::Checksum { .. } | HeaderError::BodyChecksum { .. }) => {
                ErrorCode::BadChecksum
            }
            Fault::Header(_) | Fault::Unexpected { .. } | Fault::Truncated { .. } => {
                ErrorCode::BadRequest
            }
            Fault::Cluster { .. } => ErrorCode::WrongCluster,
            Fault::Sender { .. } => ErrorCode::WrongReplica,
            Fault::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

/// Why a connection is not accepted, or not gone on with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// What came first is no greeting.
    #[error("no Hello: {0}")]
    NoHello(#[from] Fault),
    /// It belongs to another cluster.
    #[error("it is of cluster {theirs:?}, this node of {ours:?}")]
    Cluster {
        /// This node's.
        ours: ClusterId,
        /// Its.
        theirs: ClusterId,
    },
    /// It speaks other versions of the protocol.
    #[error("it speaks protocols {min} to {max}, this node {}", wire::PROTOCOL)]
    Protocol {
        /// The oldest it speaks.
        min: u16,
        /// The newest it speaks.
        max: u16,
    },
    /// It was formatted with other values.
    #[error(
        "it was formatted with other cluster-wide settings ({theirs}, this node {ours}): \
         `quorate inspect` on both shows which"
    )]
    Configuration {
        /// This node's fingerprint.
        ours: Checksum,
        /// Its.
        theirs: Checksum,
    },
    /// It says it is a member that cannot be.
    #[error("it says it is replica {theirs}, {problem}")]
    Replica {
        /// Who it says it is.
        theirs: ReplicaId,
        /// Why that cannot be.
        problem: &'static str,
    },
    /// Another replica answers at a peer's address.
    #[error("replica {actual} answers at the address of replica {expected}: check --peers")]
    Address {
        /// Who was called.
        expected: ReplicaId,
        /// Who answered.
        actual: ReplicaId,
    },
    /// Its disk is not the one that is known of it.
    #[error("replica {replica} has incarnation {theirs:?} and not {known:?}: it has to recover")]
    Incarnation {
        /// Who it says it is.
        replica: ReplicaId,
        /// The recorded one.
        known: Incarnation,
        /// The one it has.
        theirs: Incarnation,
    },
    /// It does not say what it wants to send.
    #[error("class {0} is unknown")]
    Class(u8),
    /// A newer connection says it is the same replica's.
    #[error("a newer connection of replica {0} took the place of this one")]
    Superseded(ReplicaId),
    /// Clients are not served here.
    #[error("clients of the native protocol are not served by this release; use RESP")]
    Client,
    /// The other side refused, and says why.
    #[error("refused with {code}: {sentence}")]
    Theirs {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        sentence: String,
    },
}

impl Refusal {
    /// What the other side is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Refusal::NoHello(fault) => fault.code(),
            Refusal::Cluster { .. } => ErrorCode::WrongCluster,
            Refusal::Protocol { .. } => ErrorCode::WrongProtocol,
            Refusal::Configuration { .. } => ErrorCode::WrongConfiguration,
            Refusal::Replica { .. } | Refusal::Address { .. } | Refusal::Superseded(_) => {
                ErrorCode::WrongReplica
            }
            Refusal::Incarnation { .. } => ErrorCode::UnknownIncarnation,
            Refusal::Class(_) => ErrorCode::BadRequest,
            Refusal::Client => ErrorCode::Unsupported,
            Refusal::Theirs { code, .. } => *code,
        }
    }
}

impl Refusal {
    /// Whether only a person can change it, so that there is no hurry to try again.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(
            self.code(),
            ErrorCode::WrongCluster
                | ErrorCode::WrongProtocol
                | ErrorCode::WrongConfiguration
                | ErrorCode::WrongReplica
                | ErrorCode::UnknownIncarnation
                | ErrorCode::Unsupported
        )
    }
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The other side closed it between two messages.
    #[error("closed by the other side")]
    Closed,
    /// The system says so.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Nothing came in time.
    #[error("no {0} in time")]
    Late(&'static str),
    /// What came was no message of it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// One of the two does not want the other.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
