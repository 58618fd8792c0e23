//! The one enumeration of errors: in both protocols, in logs and in metrics.
//!
//! A code is what a program decides by; the sentence that goes with it is for people. Codes are
//! stored (in the results that sessions keep) and spoken to clients of other releases, so a number
//! is never given a second meaning. `docs/ERRORS.md` is the users' table; a test compares the two.

use std::fmt;

macro_rules! errors {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a request or a peer was refused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $variant = $number,)* }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code with this number, if there is one.
            #[must_use]
            pub fn from_u16(number: u16) -> Option<ErrorCode> {
                match number {
                    $($number => Some(ErrorCode::$variant),)*
                    _ => None,
                }
            }

            /// The name that protocols, logs and metrics use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }
        }
    };
}

errors! {
    /// The request, key or value is over a limit.
    TooLarge = 1, "too_large";
    /// The bytes are no request of this protocol.
    BadRequest = 2, "bad_request";
    /// The node has no space for what the request would add.
    NoSpace = 3, "no_space";
    /// More is outstanding than the node bounds; nothing was done, retry after a moment.
    Overloaded = 4, "overloaded";
    /// This replica is not the primary; the answer names the one that is.
    NotPrimary = 5, "not_primary";
    /// The session was dropped in favour of newer ones; its requests may have been executed.
    SessionEvicted = 6, "session_evicted";
    /// No answer within the deadline; the operation may have happened.
    Timeout = 7, "timeout";
    /// A stored block fails its checksum and no replica could repair it.
    CorruptBlock = 8, "corrupt_block";
    /// The versions a read asks for were already dropped.
    SnapshotTooOld = 9, "snapshot_too_old";
    /// The listener wants credentials first.
    Unauthenticated = 10, "unauthenticated";
    /// The credentials do not permit this.
    Forbidden = 11, "forbidden";
    /// The peer or client belongs to another cluster.
    WrongCluster = 12, "wrong_cluster";
    /// Known by name and not offered by this release.
    Unsupported = 13, "unsupported";
    /// The node is starting and does not serve yet.
    NotReady = 14, "not_ready";
    /// The node is stopping; nothing was done.
    Stopping = 15, "stopping";
    /// The key holds a value of another type.
    WrongType = 16, "wrong_type";
    /// The value or argument is no 64-bit integer.
    NotAnInteger = 17, "not_an_integer";
    /// The increment would leave the range of 64-bit integers.
    OutOfRange = 18, "out_of_range";
    /// The value, the argument or their sum is no finite floating-point number.
    NotAFloat = 19, "not_a_float";
    /// The peer speaks no protocol version that this node speaks.
    WrongProtocol = 20, "wrong_protocol";
    /// The peer was formatted with other cluster-wide settings.
    WrongConfiguration = 21, "wrong_configuration";
    /// The peer says it is a member that it is not, or that this node is.
    WrongReplica = 22, "wrong_replica";
    /// The member's incarnation is not the recorded one: its disk was replaced, use `recover`.
    UnknownIncarnation = 23, "unknown_incarnation";
    /// A checksum in a message does not match its bytes.
    BadChecksum = 24, "bad_checksum";
    /// A resumed scan's cursor is not known to this node.
    UnknownCursor = 25, "unknown_cursor";
    /// The result was over the size that sessions keep, and is gone; the request was executed.
    ResultDropped = 26, "result_dropped";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ErrorCode {
    /// Whether the operation may have been executed although this is its answer. After any other
    /// error it was not.
    #[must_use]
    pub fn may_have_happened(self) -> bool {
        matches!(self, ErrorCode::Timeout | ErrorCode::SessionEvicted | ErrorCode::ResultDropped)
    }

    /// Whether the same request may succeed later or elsewhere without a change.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            ErrorCode::Overloaded
                | ErrorCode::NotPrimary
                | ErrorCode::Timeout
                | ErrorCode::NotReady
                | ErrorCode::Stopping
                | ErrorCode::NoSpace
        )
    }
}
