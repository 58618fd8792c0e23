//! The command table: what is served, under which name, with how many arguments and where its keys
//! stand; and the look-up that every request goes through.
//!
//! The rows say what `COMMAND INFO` and `COMMAND DOCS` report, in the words of Redis 7, so that
//! clients that ask find what they know. Categories and key specifications of that report follow
//! from the flags (see `describe`).
//!
//! **Look-up.** A name is at most eleven letters, so a request's name, zero-padded, is one 128-bit
//! number, and setting bit 5 of every byte makes it lower case: exactly the letters map to lower
//! case letters, so nothing else can be mistaken for a name. A multiplicative hash, whose
//! multiplier the compiler finds so that no two names collide, points to the only row that can be
//! meant; one comparison decides. No allocation, no loop, a few nanoseconds.

/// Which command a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the command of its name")]
#[rustfmt::skip]
pub enum Id {
    Get, Set, SetEx, PSetEx, SetNx, GetSet, GetDel, GetEx, Del, Unlink, Exists, Touch, MGet, MSet,
    MSetNx, Incr, Decr, IncrBy, DecrBy, IncrByFloat, Append, StrLen, GetRange, SubStr, SetRange,
    Expire, PExpire, ExpireAt, PExpireAt, ExpireTime, PExpireTime, Ttl, PTtl, Persist, Type,
    RandomKey, Scan, Keys, DbSize, FlushAll, FlushDb, Ping, Echo, Hello, Select, Client, Command,
    Config, Info, Time, Quit, Reset,
}

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    /// Which command.
    pub id: Id,
    /// Its name in lower case, as error texts give it.
    pub name: &'static str,
    /// The number of arguments, the name included; negative: at least that many.
    pub arity: i8,
    /// Redis's command flags, a set of bits of [`flag`].
    pub flags: u16,
    /// Redis's command categories beyond those that follow from the flags, bits of [`category`].
    pub categories: u16,
    /// How the keys are used, in Redis's words; empty for a command without keys.
    pub key_flags: &'static [&'static str],
    /// The last key's position, negative from the end; the first key's is always 1.
    pub last_key: i8,
    /// Arguments from one key to the next.
    pub key_step: u8,
    /// Hints for clients that spread requests over nodes.
    pub tips: &'static [&'static str],
    /// The Redis release that introduced it.
    pub since: &'static str,
    /// The chapter of the documentation.
    pub group: &'static str,
    /// One sentence.
    pub summary: &'static str,
}

/// Command flags, in the order in which they are reported.
pub mod flag {
    #![expect(missing_docs, reason = "each is the flag of its name, as Redis documents it")]
    #[rustfmt::skip]
    pub const NAMES: [&str; 9] = [
        "write", "readonly", "denyoom", "noscript", "loading", "stale", "fast", "no_auth",
        "allow_busy",
    ];
    pub const WRITE: u16 = 1;
    pub const READONLY: u16 = 1 << 1;
    pub const DENYOOM: u16 = 1 << 2;
    pub const NOSCRIPT: u16 = 1 << 3;
    pub const LOADING: u16 = 1 << 4;
    pub const STALE: u16 = 1 << 5;
    pub const FAST: u16 = 1 << 6;
    pub const NO_AUTH: u16 = 1 << 7;
    pub const ALLOW_BUSY: u16 = 1 << 8;
}

/// Command categories that do not follow from flags.
pub mod category {
    #![expect(missing_docs, reason = "each is the category of its name, as Redis documents it")]
    pub const KEYSPACE: u16 = 1;
    pub const STRING: u16 = 1 << 1;
    pub const DANGEROUS: u16 = 1 << 2;
    pub const CONNECTION: u16 = 1 << 3;
}

use category::{CONNECTION, DANGEROUS, KEYSPACE, STRING};
use flag::{ALLOW_BUSY, DENYOOM, FAST, LOADING, NO_AUTH, NOSCRIPT, READONLY, STALE, WRITE};

impl Spec {
    const fn new(id: Id, name: &'static str, arity: i8, flags: u16, categories: u16) -> Spec {
        Spec {
            id,
            name,
            arity,
            flags,
            categories,
            key_flags: &[],
            last_key: 0,
            key_step: 0,
            tips: &[],
            since: "",
            group: "",
            summary: "",
        }
    }

    const fn keys(self, last_key: i8, key_step: u8, key_flags: &'static [&'static str]) -> Spec {
        Spec { last_key, key_step, key_flags, ..self }
    }

    const fn key(self, key_flags: &'static [&'static str]) -> Spec {
        self.keys(1, 1, key_flags)
    }

    const fn tips(self, tips: &'static [&'static str]) -> Spec {
        Spec { tips, ..self }
    }

    const fn doc(self, since: &'static str, group: &'static str, text: &'static str) -> Spec {
        Spec { since, group, summary: text, ..self }
    }

    /// Whether it may have this many arguments, the name included.
    #[must_use]
    #[inline]
    pub fn accepts(&self, count: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// The first key's position; 0 for a command without keys.
    #[must_use]
    pub fn first_key(&self) -> i8 {
        i8::from(self.key_step > 0)
    }
}

const MULTI_SUM: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];
const ALL_OK: &[&str] = &["request_policy:all_shards", "response_policy:all_succeeded"];
const HANDSHAKE: u16 = NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY;
const UPDATE: u16 = WRITE | DENYOOM | FAST;
const READ: u16 = READONLY | FAST;

/// Every command, in the order of [`Id`].
#[rustfmt::skip]
pub const COMMANDS: &[Spec] = {
    use Id::*;
    type S = Spec;
    &[
    S::new(Get, "get", 2, READ, STRING).key(&["RO", "access"])
        .doc("1.0.0", "string", "Get the value of a key"),
    S::new(Set, "set", -3, WRITE | DENYOOM, STRING)
        .key(&["RW", "access", "update", "variable_flags"])
        .doc("1.0.0", "string", "Set the string value of a key"),
    S::new(SetEx, "setex", 4, WRITE | DENYOOM, STRING).key(&["OW", "update"])
        .doc("2.0.0", "string", "Set the value and expiration of a key"),
    S::new(PSetEx, "psetex", 4, WRITE | DENYOOM, STRING).key(&["OW", "update"])
        .doc("2.6.0", "string", "Set the value and expiration in milliseconds of a key"),
    S::new(SetNx, "setnx", 3, UPDATE, STRING).key(&["OW", "insert"])
        .doc("1.0.0", "string", "Set the value of a key, only if the key does not exist"),
    S::new(GetSet, "getset", 3, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("1.0.0", "string", "Set the string value of a key and return its old value"),
    S::new(GetDel, "getdel", 2, WRITE | FAST, STRING).key(&["RW", "access", "delete"])
        .doc("6.2.0", "string", "Get the value of a key and delete the key"),
    S::new(GetEx, "getex", -2, WRITE | FAST, STRING).key(&["RW", "access", "update"])
        .doc("6.2.0", "string", "Get the value of a key and optionally set its expiration"),
    S::new(Del, "del", -2, WRITE, KEYSPACE).keys(-1, 1, &["RM", "delete"]).tips(MULTI_SUM)
        .doc("1.0.0", "generic", "Delete a key"),
    S::new(Unlink, "unlink", -2, WRITE | FAST, KEYSPACE).keys(-1, 1, &["RM", "delete"])
        .tips(MULTI_SUM).doc("4.0.0", "generic", "Delete a key; the same as DEL"),
    S::new(Exists, "exists", -2, READ, KEYSPACE).keys(-1, 1, &["RO"]).tips(MULTI_SUM)
        .doc("1.0.0", "generic", "Determine if a key exists"),
    S::new(Touch, "touch", -2, READ, KEYSPACE).keys(-1, 1, &["RO"]).tips(MULTI_SUM)
        .doc("3.2.1", "generic", "Return the number of existing keys specified"),
    S::new(MGet, "mget", -2, READ, STRING).keys(-1, 1, &["RO", "access"])
        .tips(&["request_policy:multi_shard"])
        .doc("1.0.0", "string", "Get the values of all the given keys"),
    S::new(MSet, "mset", -3, WRITE | DENYOOM, STRING).keys(-1, 2, &["OW", "update"])
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .doc("1.0.1", "string", "Set multiple keys to multiple values"),
    S::new(MSetNx, "msetnx", -3, WRITE | DENYOOM, STRING).keys(-1, 2, &["OW", "insert"])
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
        .doc("1.0.1", "string",
            "Set multiple keys to multiple values, only if none of the keys exist"),
    S::new(Incr, "incr", 2, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("1.0.0", "string", "Increment the integer value of a key by one"),
    S::new(Decr, "decr", 2, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("1.0.0", "string", "Decrement the integer value of a key by one"),
    S::new(IncrBy, "incrby", 3, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("1.0.0", "string", "Increment the integer value of a key by the given amount"),
    S::new(DecrBy, "decrby", 3, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("1.0.0", "string", "Decrement the integer value of a key by the given number"),
    S::new(IncrByFloat, "incrbyfloat", 3, UPDATE, STRING).key(&["RW", "access", "update"])
        .doc("2.6.0", "string", "Increment the float value of a key by the given amount"),
    S::new(Append, "append", 3, UPDATE, STRING).key(&["RW", "insert"])
        .doc("2.0.0", "string", "Append a value to a key"),
    S::new(StrLen, "strlen", 2, READ, STRING).key(&["RO"])
        .doc("2.2.0", "string", "Get the length of the value stored in a key"),
    S::new(GetRange, "getrange", 4, READONLY, STRING).key(&["RO", "access"])
        .doc("2.4.0", "string", "Get a substring of the string stored at a key"),
    S::new(SubStr, "substr", 4, READONLY, STRING).key(&["RO", "access"])
        .doc("1.0.0", "string", "Get a substring of the string stored at a key"),
    S::new(SetRange, "setrange", 4, WRITE | DENYOOM, STRING).key(&["RW", "update"])
        .doc("2.2.0", "string",
            "Overwrite part of a string at key starting at the specified offset"),
    S::new(Expire, "expire", -3, WRITE | FAST, KEYSPACE).key(&["RW", "update"])
        .doc("1.0.0", "generic", "Set a key's time to live in seconds"),
    S::new(PExpire, "pexpire", -3, WRITE | FAST, KEYSPACE).key(&["RW", "update"])
        .doc("2.6.0", "generic", "Set a key's time to live in milliseconds"),
    S::new(ExpireAt, "expireat", -3, WRITE | FAST, KEYSPACE).key(&["RW", "update"])
        .doc("1.2.0", "generic", "Set the expiration for a key as a UNIX timestamp"),
    S::new(PExpireAt, "pexpireat", -3, WRITE | FAST, KEYSPACE).key(&["RW", "update"])
        .doc("2.6.0", "generic",
            "Set the expiration for a key as a UNIX timestamp specified in milliseconds"),
    S::new(ExpireTime, "expiretime", 2, READ, KEYSPACE).key(&["RO", "access"])
        .doc("7.0.0", "generic", "Get the expiration Unix timestamp for a key"),
    S::new(PExpireTime, "pexpiretime", 2, READ, KEYSPACE).key(&["RO", "access"])
        .doc("7.0.0", "generic", "Get the expiration Unix timestamp for a key in milliseconds"),
    S::new(Ttl, "ttl", 2, READ, KEYSPACE).key(&["RO", "access"])
        .tips(&["nondeterministic_output"])
        .doc("1.0.0", "generic", "Get the time to live for a key in seconds"),
    S::new(PTtl, "pttl", 2, READ, KEYSPACE).key(&["RO", "access"])
        .tips(&["nondeterministic_output"])
        .doc("2.6.0", "generic", "Get the time to live for a key in milliseconds"),
    S::new(Persist, "persist", 2, WRITE | FAST, KEYSPACE).key(&["RW", "update"])
        .doc("2.2.0", "generic", "Remove the expiration from a key"),
    S::new(Type, "type", 2, READ, KEYSPACE).key(&["RO"])
        .doc("1.0.0", "generic", "Determine the type stored at key"),
    S::new(RandomKey, "randomkey", 1, READONLY, KEYSPACE)
        .tips(&["request_policy:all_shards", "nondeterministic_output"])
        .doc("1.0.0", "generic", "Return a random key from the keyspace"),
    S::new(Scan, "scan", -2, READONLY, KEYSPACE)
        .tips(&["nondeterministic_output", "request_policy:special"])
        .doc("2.8.0", "generic", "Incrementally iterate the keys space"),
    S::new(Keys, "keys", 2, READONLY, KEYSPACE | DANGEROUS)
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .doc("1.0.0", "generic", "Find all keys matching the given pattern"),
    S::new(DbSize, "dbsize", 1, READ, KEYSPACE)
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .doc("1.0.0", "server", "Return the number of keys in the selected database"),
    S::new(FlushAll, "flushall", -1, WRITE, KEYSPACE | DANGEROUS).tips(ALL_OK)
        .doc("1.0.0", "server", "Remove all keys from all databases"),
    S::new(FlushDb, "flushdb", -1, WRITE, KEYSPACE | DANGEROUS).tips(ALL_OK)
        .doc("1.0.0", "server", "Remove all keys from the current database"),
    S::new(Ping, "ping", -1, FAST, CONNECTION).tips(ALL_OK)
        .doc("1.0.0", "connection", "Ping the server"),
    S::new(Echo, "echo", 2, LOADING | STALE | FAST, CONNECTION)
        .doc("1.0.0", "connection", "Echo the given string"),
    S::new(Hello, "hello", -1, HANDSHAKE, CONNECTION)
        .doc("6.0.0", "connection", "Handshake with Redis"),
    S::new(Select, "select", 2, LOADING | STALE | FAST, CONNECTION)
        .doc("1.0.0", "connection", "Change the selected database for the current connection"),
    S::new(Client, "client", -2, 0, 0)
        .doc("2.4.0", "connection", "A container for client connection commands"),
    S::new(Command, "command", -1, LOADING | STALE, CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .doc("2.8.13", "server", "Get array of Redis command details"),
    S::new(Config, "config", -2, 0, 0)
        .doc("2.0.0", "server", "A container for server configuration commands"),
    S::new(Info, "info", -1, LOADING | STALE, DANGEROUS)
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .doc("1.0.0", "server", "Get information and statistics about the server"),
    S::new(Time, "time", 1, LOADING | STALE | FAST, 0).tips(&["nondeterministic_output"])
        .doc("2.6.0", "server", "Return the current server time"),
    S::new(Quit, "quit", -1, HANDSHAKE, CONNECTION)
        .doc("1.0.0", "connection", "Close the connection"),
    S::new(Reset, "reset", 1, HANDSHAKE, CONNECTION)
        .doc("6.2.0", "connection", "Reset the connection"),
    ]
};

/// The row of a command, or none: an unknown name.
#[must_use]
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let key = fold(name)?;
    let index = INDEX.rows[bucket(key, INDEX.multiplier)];
    let index = usize::from(index);
    (KEYS.get(index) == Some(&key)).then(|| &COMMANDS[index])
}

/// A name as a number, lower case; none for what is too short or too long to be one.
#[inline]
fn fold(name: &[u8]) -> Option<u128> {
    let mut bytes = [0u8; 16];
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    bytes[..name.len()].copy_from_slice(name);
    let used = u128::MAX >> (128 - 8 * name.len());
    Some(u128::from_le_bytes(bytes) | (CASE_BITS & used))
}

const NAME_MAX: usize = 11;
const CASE_BITS: u128 = u128::from_le_bytes([0x20; 16]);
const BUCKET_BITS: u32 = 10;
const NO_ROW: u8 = u8::MAX;

const fn bucket(key: u128, multiplier: u64) -> usize {
    let mixed = (key as u64) ^ ((key >> 64) as u64).rotate_left(29);
    (mixed.wrapping_mul(multiplier) >> (64 - BUCKET_BITS)) as usize
}

struct Index {
    multiplier: u64,
    rows: [u8; 1 << BUCKET_BITS],
}

static KEYS: [u128; COMMANDS.len()] = const {
    let mut keys = [0; COMMANDS.len()];
    let mut row = 0;
    while row < COMMANDS.len() {
        keys[row] = packed(COMMANDS[row].name);
        row += 1;
    }
    keys
};

static INDEX: Index = const { find_index() };

/// Tries multipliers until every name has a bucket of its own.
const fn find_index() -> Index {
    let mut multiplier: u64 = 0x9e37_79b9_7f4a_7c15;
    loop {
        if let Some(rows) = fill(multiplier) {
            return Index { multiplier, rows };
        }
        multiplier = multiplier.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(2);
    }
}

const fn fill(multiplier: u64) -> Option<[u8; 1 << BUCKET_BITS]> {
    let mut rows = [NO_ROW; 1 << BUCKET_BITS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let bucket = bucket(packed(COMMANDS[row].name), multiplier);
        if rows[bucket] != NO_ROW {
            return None;
        }
        rows[bucket] = row as u8;
        row += 1;
    }
    Some(rows)
}

const fn packed(name: &str) -> u128 {
    let (name, mut key, mut at) = (name.as_bytes(), 0, 0);
    assert!(name.len() <= NAME_MAX);
    while at < name.len() {
        assert!(name[at].is_ascii_lowercase(), "folding maps upper case letters to these alone");
        key |= (name[at] as u128) << (8 * at);
        at += 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else_is() {
        for (row, spec) in COMMANDS.iter().enumerate() {
            assert_eq!(spec.id as usize, row, "rows stand in the order of their identifiers");
            let upper = spec.name.to_ascii_uppercase();
            for name in [spec.name, &upper] {
                assert_eq!(lookup(name.as_bytes()).map(|found| found.id), Some(spec.id));
            }
            // No byte but a letter's other case may pass for a letter.
            for (at, byte) in (0..spec.name.len()).flat_map(|at| (0..=255).map(move |b| (at, b))) {
                let mut name = spec.name.as_bytes().to_vec();
                name[at] = byte;
                let same = name.eq_ignore_ascii_case(spec.name.as_bytes());
                assert_eq!(lookup(&name).is_some_and(|found| found.id == spec.id), same);
            }
            assert!(lookup(format!("{upper}\0").as_bytes()).is_none());
            assert!(lookup(format!(" {upper}").as_bytes()).is_none());
        }
        for name in ["", "g", "gett", "incrbyfloatx", "pexpiretimepexpiretime", "\0", "get\0\0\0"] {
            assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
        }
    }

    #[test]
    fn every_command_stands_in_the_documentation() {
        let text = include_str!("../../../docs/COMMANDS.md");
        for spec in COMMANDS {
            let name = spec.name.to_ascii_uppercase();
            let named = |mark: char| text.contains(&format!("`{name}{mark}"));
            assert!(named('`') || named(' '), "{name} is not in docs/COMMANDS.md");
        }
    }
}
