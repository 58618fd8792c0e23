//! INFO: the node at a glance, in the sections and `name:value` lines that Redis tools read.
//!
//! The numbers come as a [`Snapshot`] that the node fills when it is asked; nothing here counts.
//! Fields have Redis's names where one means the same, and a `quorate_` prefix where it does not
//! exist there. Metrics for monitoring are on HTTP: this is for people and for clients that look
//! at a version.

use std::io::Write as _;

use super::connection::REDIS_VERSION;
use super::encode::Encoder;
use super::plan::Form;

/// Which sections are wanted, a set of bits in the order of `NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections(u8);

const NAMES: [&str; 7] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "keyspace"];

impl Sections {
    /// The sections with these names; all of them without a name. Unknown names are ignored.
    pub(super) fn named<'a>(names: impl ExactSizeIterator<Item = &'a [u8]>) -> Sections {
        const ALL: u8 = (1 << NAMES.len()) - 1;
        if names.len() == 0 {
            return Sections(ALL);
        }
        let bit = |name: &'a [u8]| {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("default") || is("all") || is("everything") {
                return ALL;
            }
            NAMES.iter().position(|known| is(known)).map_or(0, |index| 1 << index)
        };
        Sections(names.map(bit).fold(0, |set, bit| set | bit))
    }

    fn has(self, name: &str) -> bool {
        NAMES.iter().position(|known| *known == name).is_some_and(|at| self.0 & 1 << at != 0)
    }
}

/// What INFO reports.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The release of this software.
    pub version: String,
    /// The port that RESP clients connect to.
    pub port: u16,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// RESP connections that are open.
    pub clients: u64,
    /// Connections accepted since the start.
    pub connections: u64,
    /// Commands since the start.
    pub commands: u64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Whether the node still replays its log.
    pub loading: bool,
    /// The cluster's number.
    pub cluster: u128,
    /// This replica's number in the cluster.
    pub replica: u8,
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// The replica's view.
    pub view: u32,
    /// Whether it is the primary of its view.
    pub is_primary: bool,
    /// The last op in its log.
    pub op: u64,
    /// The last op committed.
    pub commit: u64,
    /// The last op of its newest checkpoint.
    pub checkpoint: u64,
    /// How many keys there are, as DBSIZE says.
    pub keys: u64,
    /// How many of them have a deadline.
    pub keys_expiring: u64,
}

/// Appends the reply.
pub fn append(snapshot: &Snapshot, sections: Sections, form: Form, out: &mut Vec<u8>) {
    if form.muted {
        return;
    }
    let mut text = Vec::with_capacity(1024);
    render(snapshot, sections, &mut text).expect("writing to a vector cannot fail");
    Encoder::new(out, form.protocol).verbatim(&text);
}

fn render(of: &Snapshot, sections: Sections, out: &mut Vec<u8>) -> std::io::Result<()> {
    let begin = |name: &str, out: &mut Vec<u8>| -> bool {
        let wanted = sections.has(name);
        if wanted {
            if !out.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"# ");
            out.push(name.as_bytes()[0].to_ascii_uppercase());
            out.extend_from_slice(&name.as_bytes()[1..]);
            out.extend_from_slice(b"\r\n");
        }
        wanted
    };
    if begin("server", out) {
        write!(out, "redis_version:{REDIS_VERSION}\r\nquorate_version:{}\r\n", of.version)?;
        write!(out, "redis_mode:standalone\r\nos:{}\r\n", std::env::consts::OS)?;
        write!(out, "arch_bits:{}\r\nprocess_id:{}\r\n", usize::BITS, std::process::id())?;
        write!(out, "tcp_port:{}\r\nuptime_in_seconds:{}\r\n", of.port, of.uptime_s)?;
        write!(out, "uptime_in_days:{}\r\n", of.uptime_s / 86_400)?;
    }
    if begin("clients", out) {
        write!(out, "connected_clients:{}\r\n", of.clients)?;
    }
    if begin("memory", out) {
        write!(out, "used_memory_rss:{}\r\nmaxmemory:0\r\n", of.memory_bytes)?;
        write!(out, "maxmemory_policy:noeviction\r\n")?;
    }
    if begin("persistence", out) {
        write!(out, "loading:{}\r\naof_enabled:1\r\n", u8::from(of.loading))?;
        write!(out, "quorate_checkpoint_op:{}\r\n", of.checkpoint)?;
    }
    if begin("stats", out) {
        write!(out, "total_connections_received:{}\r\n", of.connections)?;
        write!(out, "total_commands_processed:{}\r\n", of.commands)?;
    }
    if begin("replication", out) {
        // Every replica takes every command, so to a Redis client each is a master.
        write!(out, "role:master\r\nconnected_slaves:0\r\n")?;
        write!(out, "quorate_cluster:{}\r\nquorate_replica:{}\r\n", of.cluster, of.replica)?;
        write!(out, "quorate_replicas:{}\r\nquorate_view:{}\r\n", of.replicas, of.view)?;
        let role = if of.is_primary { "primary" } else { "backup" };
        write!(out, "quorate_role:{role}\r\n")?;
        write!(out, "quorate_op:{}\r\nquorate_commit:{}\r\n", of.op, of.commit)?;
    }
    if begin("keyspace", out) && of.keys > 0 {
        write!(out, "db0:keys={},expires={},avg_ttl=0\r\n", of.keys, of.keys_expiring)?;
    }
    Ok(())
}
