//! Why a command is refused before anything is done, and how the errors of the rest of the system
//! sound in this protocol.
//!
//! Clients and their tests decide by these texts, so they are Redis's where Redis has one. The
//! first word is the code: `ERR`, or one that client libraries act on (`OOM`, `LOADING`,
//! `TRYAGAIN`, `WRONGTYPE`, `NOAUTH`). A text that is ours names the error of the common
//! enumeration ([`wire::ErrorCode`]), so that logs, metrics and both protocols agree.
//!
//! One kind of error has no text: when it is unknown whether a write happened. This protocol
//! cannot say so, and a client that got an error would take it for a no; the connection is closed
//! instead, which every client treats as unknown.

use wire::ErrorCode;

use super::encode::Encoder;
use super::number::Digits;

/// Why a command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    /// A text that needs nothing filled in.
    Text(&'static str),
    /// The wrong number of arguments; of which command or subcommand.
    Arity,
    /// The same for a subcommand, named as `client|reply`.
    ArityOf(&'static str),
    /// An option of HELLO that does not exist, or lacks its argument.
    HelloOption(&'a [u8]),
    /// A property that CLIENT SETINFO does not know.
    Unrecognized(&'a [u8]),
    /// A type of client that does not exist.
    ClientType(&'a [u8]),
    /// An option that does not exist, of EXPIRE and its like.
    Option(&'a [u8]),
    /// A time that is out of range.
    ExpireTime,
    /// A subcommand that does not exist.
    Subcommand(&'a [u8]),
    /// Something Redis has and this does not.
    Unsupported(&'static str),
    /// A key of zero bytes, or too many.
    KeySize(usize),
    /// A value of more bytes than one may have.
    ValueSize(usize, usize),
}

pub(super) const SYNTAX: Refusal<'static> = Refusal::Text("ERR syntax error");
pub(super) const NOT_INTEGER: Refusal<'static> =
    Refusal::Text("ERR value is not an integer or out of range");
pub(super) const NOT_FLOAT: Refusal<'static> = Refusal::Text("ERR value is not a valid float");
pub(super) const REQUEST_TOO_LARGE: Refusal<'static> = Refusal::Text(
    "ERR too_large: the command's keys and values exceed what one log entry can hold",
);

impl Refusal<'_> {
    /// Appends the error; `command` is the name of the command or, as `client|reply`, subcommand.
    pub(super) fn append(&self, command: &str, encoder: &mut Encoder<'_>) {
        let name = command.as_bytes();
        match *self {
            Refusal::Text(text) => encoder.error(text),
            Refusal::Arity => append_arity(command, encoder),
            Refusal::ArityOf(subcommand) => append_arity(subcommand, encoder),
            Refusal::HelloOption(option) => {
                encoder.error_with(&[b"ERR Syntax error in HELLO option '", option, b"'"]);
            }
            Refusal::Unrecognized(option) => {
                encoder.error_with(&[b"ERR Unrecognized option '", option, b"'"]);
            }
            Refusal::ClientType(kind) => {
                encoder.error_with(&[b"ERR Unknown client type '", kind, b"'"]);
            }
            Refusal::Option(option) => {
                encoder.error_with(&[b"ERR Unsupported option ", option]);
            }
            Refusal::ExpireTime => {
                encoder.error_with(&[b"ERR invalid expire time in '", name, b"' command"]);
            }
            Refusal::Subcommand(subcommand) => {
                let mut upper = [0u8; 16];
                let upper = &mut upper[..name.len()];
                upper.copy_from_slice(name);
                upper.make_ascii_uppercase();
                let subcommand = &subcommand[..subcommand.len().min(128)];
                encoder.error_with(&[
                    b"ERR unknown subcommand '",
                    subcommand,
                    b"'. Try ",
                    upper,
                    b" HELP.",
                ]);
            }
            Refusal::Unsupported(what) => encoder.error_with(&[
                b"ERR unsupported: ",
                what.as_bytes(),
                b" is not offered by Quorate",
            ]),
            Refusal::KeySize(0) => encoder.error("ERR bad_request: a key has at least one byte"),
            Refusal::KeySize(size) => encoder.error_with(&[
                b"ERR too_large: a key of ",
                Digits::of_u64(size as u64).as_bytes(),
                b" bytes, at most 1024 are possible",
            ]),
            Refusal::ValueSize(size, limit) => encoder.error_with(&[
                b"ERR too_large: a value of ",
                Digits::of_u64(size as u64).as_bytes(),
                b" bytes, at most ",
                Digits::of_u64(limit as u64).as_bytes(),
                b" are possible",
            ]),
        }
    }
}

impl<'a> Refusal<'a> {
    /// The refusal of a subcommand that is not served; `known` are those that Redis has.
    pub(super) fn of_subcommand(
        subcommand: &'a [u8],
        known: &[(&'static str, &'static str)],
    ) -> Refusal<'a> {
        known
            .iter()
            .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(subcommand))
            .map_or(Refusal::Subcommand(subcommand), |(_, full)| Refusal::Unsupported(full))
    }
}

fn append_arity(command: &str, encoder: &mut Encoder<'_>) {
    let name = command.as_bytes();
    encoder.error_with(&[b"ERR wrong number of arguments for '", name, b"' command"]);
}

/// Appends Redis's text for a name that is no command.
pub(super) fn append_unknown<'a>(
    name: &[u8],
    arguments: impl Iterator<Item = &'a [u8]>,
    encoder: &mut Encoder<'_>,
) {
    // As Redis cuts it: 128 bytes of the name, and arguments while they take less than 128.
    let mut quoted = [0u8; 160];
    let mut used = 0;
    for argument in arguments {
        if used >= 128 {
            break;
        }
        let argument = argument.split(|byte| *byte == 0).next().unwrap_or(&[]);
        let shown = &argument[..argument.len().min(128 - used)];
        quoted[used] = b'\'';
        quoted[used + 1..][..shown.len()].copy_from_slice(shown);
        quoted[used + 1 + shown.len()..][..2].copy_from_slice(b"' ");
        used += shown.len() + 3;
    }
    let shown = &name[..name.len().min(128)];
    let hint: &[u8] =
        if is_known_to_redis(name) { b"(Quorate does not offer this Redis command)" } else { b"" };
    encoder.error_with(&[
        b"ERR unknown command '",
        shown,
        b"', with args beginning with: ",
        &quoted[..used],
        hint,
    ]);
}

/// The commands of Redis 7 that this node does not serve, in order.
#[rustfmt::skip]
pub(super) const UNSUPPORTED: &[&str] = &[
    "acl", "asking", "auth", "bgrewriteaof", "bgsave", "bitcount", "bitfield", "bitfield_ro",
    "bitop", "bitpos", "blmove", "blmpop", "blpop", "brpop", "brpoplpush", "bzmpop", "bzpopmax",
    "bzpopmin", "cluster", "copy", "debug", "discard", "dump", "eval", "eval_ro", "evalsha",
    "evalsha_ro", "exec", "failover", "fcall", "fcall_ro", "function", "geoadd", "geodist",
    "geohash", "geopos", "georadius", "georadius_ro", "georadiusbymember", "georadiusbymember_ro",
    "geosearch", "geosearchstore", "getbit", "hdel", "hexists", "hget", "hgetall", "hincrby",
    "hincrbyfloat", "hkeys", "hlen", "hmget", "hmset", "hrandfield", "hscan", "hset", "hsetnx",
    "hstrlen", "hvals", "lastsave", "latency", "lcs", "lindex", "linsert", "llen", "lmove",
    "lmpop", "lolwut", "lpop", "lpos", "lpush", "lpushx", "lrange", "lrem", "lset", "ltrim",
    "memory", "migrate", "module", "monitor", "move", "multi", "object", "pfadd", "pfcount",
    "pfdebug", "pfmerge", "pfselftest", "psubscribe", "psync", "publish", "pubsub",
    "punsubscribe", "readonly", "readwrite", "rename", "renamenx", "replconf", "replicaof",
    "restore", "restore-asking", "role", "rpop", "rpoplpush", "rpush", "rpushx", "sadd", "save",
    "scard", "script", "sdiff", "sdiffstore", "setbit", "shutdown", "sinter", "sintercard",
    "sinterstore", "sismember", "slaveof", "slowlog", "smembers", "smismember", "smove", "sort",
    "sort_ro", "spop", "spublish", "srandmember", "srem", "sscan", "ssubscribe", "subscribe",
    "sunion", "sunionstore", "sunsubscribe", "swapdb", "sync", "unsubscribe", "unwatch", "wait",
    "watch", "xack", "xadd", "xautoclaim", "xclaim", "xdel", "xgroup", "xinfo", "xlen",
    "xpending", "xrange", "xread", "xreadgroup", "xrevrange", "xsetid", "xtrim", "zadd", "zcard",
    "zcount", "zdiff", "zdiffstore", "zincrby", "zinter", "zintercard", "zinterstore",
    "zlexcount", "zmpop", "zmscore", "zpopmax", "zpopmin", "zrandmember", "zrange",
    "zrangebylex", "zrangebyscore", "zrangestore", "zrank", "zrem", "zremrangebylex",
    "zremrangebyrank", "zremrangebyscore", "zrevrange", "zrevrangebylex", "zrevrangebyscore",
    "zrevrank", "zscan", "zscore", "zunion", "zunionstore",
];

fn is_known_to_redis(name: &[u8]) -> bool {
    UNSUPPORTED.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// The text of an error, or none when the connection has to be closed without an answer, because
/// the command may have been carried out.
#[must_use]
pub(super) fn text(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::Timeout | ErrorCode::SessionEvicted | ErrorCode::ResultDropped => return None,
        ErrorCode::TooLarge => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        ErrorCode::BadRequest => "ERR bad_request: the node refused the command as malformed",
        ErrorCode::NoSpace => {
            "OOM no_space: the node has no room for what the command adds; delete something, or \
             raise the grid's limit"
        }
        ErrorCode::Overloaded => {
            "TRYAGAIN overloaded: more is outstanding than the node bounds; nothing was done"
        }
        ErrorCode::NotPrimary => "TRYAGAIN not_primary: the cluster is choosing a primary",
        ErrorCode::CorruptBlock => {
            "ERR corrupt_block: stored data is damaged and could not be repaired; nothing was \
             changed; the log names shard, table and block"
        }
        ErrorCode::SnapshotTooOld => {
            "TRYAGAIN snapshot_too_old: the versions to be read were dropped meanwhile"
        }
        ErrorCode::Unauthenticated => "NOAUTH Authentication required.",
        ErrorCode::Forbidden => "NOPERM forbidden: this user has no permissions for the command",
        ErrorCode::WrongCluster => "ERR wrong_cluster: the node belongs to another cluster",
        ErrorCode::Unsupported => "ERR unsupported: not offered by this release",
        ErrorCode::NotReady => "LOADING not_ready: the node is starting and does not serve yet",
        ErrorCode::Stopping => "TRYAGAIN stopping: the node is going down; nothing was done",
        ErrorCode::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
        ErrorCode::NotAnInteger => "ERR value is not an integer or out of range",
        ErrorCode::OutOfRange => "ERR increment or decrement would overflow",
        ErrorCode::NotAFloat => "ERR value is not a valid float",
        ErrorCode::WrongProtocol => "ERR wrong_protocol: no protocol version in common",
        ErrorCode::WrongConfiguration => "ERR wrong_configuration: formatted with other settings",
        ErrorCode::WrongReplica => "ERR wrong_replica: not the replica it is taken for",
        ErrorCode::UnknownIncarnation => {
            "ERR unknown_incarnation: the replica's disk was replaced; use recover"
        }
        ErrorCode::BadChecksum => "ERR bad_checksum: a message was damaged on its way",
        ErrorCode::UnknownCursor => {
            "ERR unknown_cursor: the cursor was dropped or never given out; start again from 0"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_text_unless_the_outcome_is_unknown() {
        let codes = ["ERR ", "OOM ", "TRYAGAIN ", "LOADING ", "WRONGTYPE ", "NOAUTH ", "NOPERM "];
        for code in ErrorCode::ALL {
            match text(*code) {
                Some(text) => {
                    assert!(codes.iter().any(|known| text.starts_with(known)), "{text}");
                    assert!(!text.contains(['\r', '\n']));
                    assert!(!code.may_have_happened(), "{code}: a reply would be taken for a no");
                }
                None => assert!(code.may_have_happened(), "{code} has no reason to close"),
            }
        }
    }

    #[test]
    fn what_is_unsupported_is_sorted_and_not_served() {
        assert!(UNSUPPORTED.is_sorted());
        for name in UNSUPPORTED {
            assert!(super::super::table::lookup(name.as_bytes()).is_none(), "{name}");
        }
    }
}
