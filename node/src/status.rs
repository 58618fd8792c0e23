//! What a node says about itself: the model behind `/status`, `quorate status` and the gauges.
//!
//! Cores answer a question with a [`CoreReport`], a copy of their numbers at that moment; the
//! control plane puts the reports of all cores together into one [`Status`]. The reports are not
//! taken at one instant: a commit number may be ahead of a shard's applied op by what happened
//! between two answers, and no field is used to decide anything.
//!
//! The JSON form is an interface: `cluster`, `view`, `primary` and `replicas` with `replica`,
//! `address`, `state`, `role`, `op`, `commit`, `checkpoint` are fixed, because scripts rely on
//! them; other fields may be added, none may change its meaning. What is said of other members of a
//! cluster is what they said last (`members`).

mod members;

pub use members::{MemberStatus, OtherReport};

use crate::metrics::Snapshot;
use crate::metrics::text::Gauge;
use crate::peers::{PeersReport, gauges as of_peers};
use crate::session;
use lsm::cache::CacheStats;
use lsm::forest::Stats;
use lsm::tree::Tree;
use members::Cluster;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use vsr::replica::Counters;

/// What a node does as a whole. Shared by all threads; written by the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// Reads its superblock and replays its journal; clients are told `LOADING`.
    Loading = 0,
    /// Serves reads and writes.
    Serving = 1,
    /// Finishes what it has accepted; accepts nothing more.
    Stopping = 2,
}

/// The phase, readable from every thread.
#[derive(Debug, Clone, Default)]
pub struct PhaseCell(Arc<AtomicU8>);

impl PhaseCell {
    /// The phase now.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    /// Moves on to a later phase; never goes back.
    pub fn advance(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }
}

/// How often a shard's caches had what was asked for, since the start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct CacheReport {
    /// Rows: asked for when no memtable has a version of the key.
    pub row_hits: u64,
    /// The others.
    pub row_misses: u64,
    /// Pages of tables.
    pub page_hits: u64,
    /// The others: most of them are a read of the disk.
    pub page_misses: u64,
    /// Index blocks of tables.
    pub index_hits: u64,
    /// The others: each is a read of a whole block.
    pub index_misses: u64,
}

impl CacheReport {
    /// As the storage counts them.
    #[must_use]
    pub fn new(stats: &CacheStats) -> CacheReport {
        let CacheStats { row_hits, row_misses, page_hits, page_misses, index_hits, index_misses } =
            *stats;
        CacheReport { row_hits, row_misses, page_hits, page_misses, index_hits, index_misses }
    }
}

/// A shard's numbers.
#[derive(Debug, Clone, Serialize)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// The core it lives on.
    pub core: u16,
    /// The last op applied.
    pub applied: u64,
    /// Bytes in its memtables.
    pub memtable_bytes: u64,
    /// Grid blocks that can still be acquired within the format-time limit.
    pub grid_blocks_free: u64,
    /// Grid blocks that flushes, compaction and checkpoints may need before others come free.
    pub grid_blocks_reserved: u64,
    /// How far the scrub of its grid is.
    pub scrub: ScrubReport,
    /// Blocks that were written anew from a peer's copy since the node started.
    pub blocks_repaired: u64,
    /// What its compaction has done since the start, and what it owes: for metrics.
    #[serde(skip)]
    pub compaction: Stats,
    /// Its caches.
    pub cache: CacheReport,
}

/// How far a shard's scrub is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScrubReport {
    /// `reading`, `resting` until the next cycle, or `off`.
    pub state: &'static str,
    /// The share of the cycle that is over.
    pub percent: u64,
    /// When the cycle began, in seconds since the epoch; 0 before the first.
    pub started_s: u64,
    /// Blocks read in this cycle.
    pub blocks_read: u64,
    /// Blocks left to read in it.
    pub blocks_left: u64,
    /// Corrupt blocks found since the node started.
    pub faults: u64,
    /// Cycles that have come to their end since then.
    pub cycles: u64,
    /// Seconds until all of the cycle's blocks are read, as it goes now.
    pub eta_s: u64,
    /// Seconds until the next cycle begins, once this one has ended.
    pub next_s: Option<u64>,
}

/// The replica's numbers.
#[derive(Debug, Clone, Serialize)]
pub struct ReplicaReport {
    /// This replica's number.
    pub replica: u8,
    /// How many the cluster has.
    pub replicas: u8,
    /// What it is doing: `normal`, `view_change`, `recovering` or `syncing`.
    pub state: &'static str,
    /// The primary of its view, as far as it is in touch with one.
    pub primary: Option<u8>,
    /// What it knows of the other members.
    pub others: Vec<OtherReport>,
    /// What becomes of writes: 0 taken here, 1 held back until there is a primary, 2 passed on.
    pub writes: u8,
    /// Messages of writes that were passed on to a primary, since the start.
    pub forwarded: u64,
    /// Read indexes asked for, each by all reads that waited, since the start.
    pub read_rounds: u64,
    /// What else happened since the start.
    #[serde(skip)]
    pub counters: Counters,
    /// The op that is waited for: whoever has it is away.
    pub blocked_by: Option<u64>,
    /// Its view.
    pub view: u32,
    /// The highest op in its log.
    pub op: u64,
    /// The highest op committed.
    pub commit: u64,
    /// The op of its last durable checkpoint.
    pub checkpoint: u64,
    /// Log time: the timestamp of the last committed op, nanoseconds since the epoch.
    pub log_time_ns: u64,
}

/// One core's answer.
#[derive(Debug, Clone)]
pub struct CoreReport {
    /// Which core.
    pub core: u16,
    /// Its counters and latencies.
    pub metrics: Snapshot,
    /// Its shards.
    pub shards: Vec<ShardReport>,
    /// The replica, on the core that has it.
    pub replica: Option<ReplicaReport>,
    /// The sessions of clients, on that core.
    pub sessions: Option<session::Report>,
    /// The connections to other replicas, on that core, if it listens for them.
    pub peers: Option<PeersReport>,
    /// Tasks that held the core longer than the stall threshold.
    pub stalls: u64,
}

/// What stays the same while a node runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster's number.
    pub cluster: u128,
    /// This replica's number.
    pub replica: u8,
    /// Where Redis clients connect.
    pub resp: SocketAddr,
    /// How pages are stored, by level, as `format` was told.
    pub compression: String,
}

#[derive(Debug, Serialize)]
struct CoreStatus {
    core: u16,
    connections: u64,
    commands: u64,
    stalls: u64,
}

/// The node at a glance.
#[derive(Debug, Serialize)]
pub struct Status {
    cluster: u128,
    /// Whose answer this is.
    replica: u8,
    view: u32,
    primary: Option<u8>,
    faults_tolerated: u8,
    phase: Phase,
    version: &'static str,
    compression: String,
    replicas: Vec<MemberStatus>,
    peers: Option<PeersReport>,
    cores: Vec<CoreStatus>,
    shards: Vec<ShardReport>,
}

impl Status {
    /// Puts the cores' reports together.
    pub fn new(identity: &Identity, phase: Phase, reports: &[CoreReport]) -> Status {
        let replica = reports.iter().find_map(|report| report.replica.as_ref());
        let peers = reports.iter().find_map(|report| report.peers.clone());
        let Cluster { primary, faults_tolerated, members } = match replica {
            Some(replica) => Cluster::new(identity, replica, peers.as_ref()),
            None => Cluster::unknown(identity),
        };
        let mut shards: Vec<_> = reports.iter().flat_map(|report| report.shards.clone()).collect();
        shards.sort_by_key(|shard| shard.shard);
        Status {
            cluster: identity.cluster,
            replica: identity.replica,
            view: replica.map_or(0, |replica| replica.view),
            primary,
            faults_tolerated,
            phase,
            version: env!("CARGO_PKG_VERSION"),
            compression: identity.compression.clone(),
            replicas: members,
            peers,
            cores: reports.iter().map(CoreStatus::new).collect(),
            shards,
        }
    }

    /// As JSON, one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are always representable")
    }
}

impl CoreStatus {
    fn new(report: &CoreReport) -> CoreStatus {
        use crate::metrics::Counter;
        CoreStatus {
            core: report.core,
            connections: report.metrics.get(Counter::ConnectionsOpen),
            commands: report.metrics.get(Counter::Commands),
            stalls: report.stalls,
        }
    }
}

/// The gauges that are computed from reports.
pub fn gauges(phase: Phase, reports: &[CoreReport]) -> Vec<Gauge> {
    let replica = reports.iter().find_map(|report| report.replica.as_ref());
    let of_shards = |name, help, value: fn(&ShardReport) -> u64| Gauge {
        name,
        help,
        values: reports
            .iter()
            .flat_map(|report| &report.shards)
            .map(|shard| (format!("shard=\"{}\"", shard.shard), value(shard)))
            .collect(),
    };
    let ready = u64::from(phase == Phase::Serving);
    let stalls = reports.iter().map(|r| (format!("core=\"{}\"", r.core), r.stalls)).collect();
    let plain = |name, help, values| Gauge { name, help, values };
    let mut gauges = vec![
        plain("ready", "1 while the node serves.", vec![(String::new(), ready)]),
        plain("stalls", "Tasks that held a core longer than the stall threshold.", stalls),
        of_shards("applied", "The last op applied.", |shard| shard.applied),
        of_shards("memtable_bytes", "Bytes in memtables.", |shard| shard.memtable_bytes),
        of_shards("grid_blocks_free", "Grid blocks still to be had.", |s| s.grid_blocks_free),
        of_shards(
            "grid_blocks_reserved",
            "Grid blocks kept for compaction and checkpoints.",
            |s| s.grid_blocks_reserved,
        ),
        of_shards("blocks_repaired_total", "Blocks repaired from peers.", |s| s.blocks_repaired),
        of_shards("scrub_progress_percent", "The share of the scrub's cycle that is over.", |s| {
            s.scrub.percent
        }),
        of_shards(
            "scrub_cycle_start_seconds",
            "When the scrub's cycle began, since the epoch; 0 before the first.",
            |s| s.scrub.started_s,
        ),
        of_shards("scrub_eta_seconds", "Time until the scrub's cycle has read all blocks.", |s| {
            s.scrub.eta_s
        }),
        of_caches("cache_hits_total", "What was asked of a cache and was there.", reports, |c| {
            [c.row_hits, c.page_hits, c.index_hits]
        }),
        of_caches(
            "cache_misses_total",
            "What was asked of a cache and was not there.",
            reports,
            |c| [c.row_misses, c.page_misses, c.index_misses],
        ),
    ];
    gauges.extend(replica.into_iter().flat_map(members::gauges));
    gauges.extend(reports.iter().find_map(|r| r.sessions).into_iter().flat_map(of_sessions));
    gauges.extend(of_compaction(reports));
    gauges.extend(reports.iter().find_map(|r| r.peers.as_ref()).into_iter().flat_map(of_peers));
    gauges.extend([
        of_trees(
            "tree_entries",
            "Entries in the tables of a tree, superseded versions and tombstones included.",
            reports,
            |stats| stats.tree_entries,
        ),
        of_trees("tree_bytes", "Bytes of keys and values in them.", reports, |s| s.tree_bytes),
    ]);
    gauges
}

fn of_sessions(report: session::Report) -> impl Iterator<Item = Gauge> {
    SESSIONS.iter().map(move |&(name, help, value)| {
        let values = vec![(String::new(), value(&report))];
        Gauge { name, help, values }
    })
}

type OfSessions = (&'static str, &'static str, fn(&session::Report) -> u64);

/// What is shown of sessions: name, help, value.
const SESSIONS: &[OfSessions] = &[
    ("sessions_open", "Sessions of clients that are open.", |s| s.sessions),
    ("sessions_results_bytes", "What the results that sessions keep are charged.", |s| s.charged),
    ("sessions_evicted_total", "Sessions that made room for newer ones.", |s| s.evicted),
];

/// What the shards' compaction has done and owes.
fn of_compaction(reports: &[CoreReport]) -> impl Iterator<Item = Gauge> {
    COMPACTION.iter().map(|&(name, help, value)| Gauge {
        name,
        help,
        values: reports
            .iter()
            .flat_map(|report| &report.shards)
            .map(|shard| (format!("shard=\"{}\"", shard.shard), value(&shard.compaction)))
            .collect(),
    })
}

type OfCompaction = (&'static str, &'static str, fn(&Stats) -> u64);

/// What is shown of a shard's compaction: name, help, value.
const COMPACTION: &[OfCompaction] = &[
    ("compaction_bars_total", "Bars ended.", |stats| stats.bars),
    ("compaction_jobs_total", "Flushes and merges done.", |stats| stats.jobs),
    ("compaction_flushes_total", "Memtables flushed.", |stats| stats.flushes),
    (
        "compaction_flushes_coalesced_total",
        "Flushes that took a small run of before with them.",
        |stats| stats.coalesced,
    ),
    ("compaction_blocks_read_total", "Value blocks read to merge.", |stats| stats.blocks_read),
    ("compaction_blocks_written_total", "Blocks written by flushes and merges.", |stats| {
        stats.blocks_written
    }),
    (
        "compaction_tables_moved_total",
        "Tables moved to a deeper level without a byte read.",
        |stats| stats.tables_moved,
    ),
    (
        "compaction_blocks_moved_total",
        "Value blocks moved to another table without a byte read.",
        |stats| stats.blocks_moved,
    ),
    (
        "compaction_tables_cut_total",
        "Tables of which a slice left the upper part in its run.",
        |stats| stats.tables_cut,
    ),
    ("compaction_entries_total", "Entries merged.", |stats| stats.entries_merged),
    ("compaction_versions_dropped_total", "Superseded versions dropped.", |stats| {
        stats.versions_dropped
    }),
    (
        "compaction_tombstones_dropped_total",
        "Tombstones dropped that hid nothing any more.",
        |stats| stats.tombstones_dropped,
    ),
    ("compaction_dead_dropped_total", "Entries dropped that a FLUSHALL had deleted.", |stats| {
        stats.dead_dropped
    }),
    ("compaction_beats_total", "Beats done.", |stats| stats.beats),
    (
        "compaction_beats_overdue_total",
        "Beats after which writes had to wait for merges.",
        |stats| stats.beats_overdue,
    ),
    ("compaction_blocks_paid_total", "Input blocks that beats have paid for.", |stats| {
        stats.blocks_paid
    }),
    ("compaction_beat_blocks_max", "The most input blocks that one beat has paid for.", |stats| {
        stats.beat_blocks_max
    }),
    ("compaction_work_blocks", "Input blocks that this bar owes.", |stats| stats.work),
    ("compaction_debt_blocks", "Input blocks that are paid for and not merged yet.", |stats| {
        stats.debt
    }),
    ("compaction_runs", "Sorted runs of all trees.", |stats| stats.runs),
    (
        "compaction_dead_percent",
        "Share of the objects' entries that are dead, estimated.",
        |stats| stats.dead_percent,
    ),
];

/// A number of each kind of cache of each shard.
fn of_caches(
    name: &'static str,
    help: &'static str,
    reports: &[CoreReport],
    values: fn(&CacheReport) -> [u64; 3],
) -> Gauge {
    let shards = reports.iter().flat_map(|report| &report.shards);
    let values = shards.flat_map(|shard| {
        let label = |kind| format!("shard=\"{}\",kind=\"{kind}\"", shard.shard);
        ["row", "page", "index"].map(label).into_iter().zip(values(&shard.cache))
    });
    Gauge { name, help, values: values.collect() }
}

/// A number of each tree of each shard.
fn of_trees(
    name: &'static str,
    help: &'static str,
    reports: &[CoreReport],
    values: fn(&Stats) -> [u64; Tree::ALL.len()],
) -> Gauge {
    let shards = reports.iter().flat_map(|report| &report.shards);
    let values = shards.flat_map(|shard| {
        let label = |tree: Tree| format!("shard=\"{}\",tree=\"{}\"", shard.shard, tree.name());
        Tree::ALL.map(label).into_iter().zip(values(&shard.compaction))
    });
    Gauge { name, help, values: values.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        "127.0.0.1:6400".parse().unwrap()
    }

    fn report() -> CoreReport {
        CoreReport {
            core: 0,
            metrics: Snapshot::default(),
            shards: vec![ShardReport {
                shard: 0,
                core: 0,
                applied: 9,
                memtable_bytes: 100,
                grid_blocks_free: 1000,
                grid_blocks_reserved: 3,
                scrub: ScrubReport::default(),
                blocks_repaired: 0,
                compaction: Stats {
                    blocks_moved: 5,
                    tree_entries: [4, 3, 2],
                    ..Default::default()
                },
                cache: CacheReport { page_hits: 8, index_misses: 2, ..CacheReport::default() },
            }],
            replica: Some(ReplicaReport {
                replica: 0,
                replicas: 1,
                state: "normal",
                primary: Some(0),
                others: Vec::new(),
                writes: 0,
                forwarded: 0,
                read_rounds: 0,
                counters: Counters::default(),
                blocked_by: None,
                view: 2,
                op: 10,
                commit: 9,
                checkpoint: 4,
                log_time_ns: 7,
            }),
            sessions: Some(session::Report { sessions: 3, ..session::Report::default() }),
            peers: Some(PeersReport::default()),
            stalls: 0,
        }
    }

    fn identity(cluster: u128) -> Identity {
        Identity { cluster, replica: 0, resp: address(), compression: "none,zstd".to_owned() }
    }

    #[test]
    fn the_fields_scripts_rely_on() {
        let identity = identity(u128::MAX);
        let status = Status::new(&identity, Phase::Serving, &[report()]);
        let text = status.to_json();
        assert!(text.contains(&format!("\"cluster\":{}", u128::MAX)), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&text.replace(&u128::MAX.to_string(), "7")).unwrap();
        assert_eq!(json["view"], 2);
        assert_eq!(json["primary"], 0);
        assert_eq!(json["compression"], "none,zstd");
        let replica = &json["replicas"][0];
        assert_eq!(replica["replica"], 0);
        assert_eq!(replica["address"], "127.0.0.1:6400");
        assert_eq!(replica["state"], "normal");
        assert_eq!(replica["role"], "primary");
        assert_eq!(replica["op"], 10);
        assert_eq!(replica["commit"], 9);
        assert_eq!(replica["checkpoint"], 4);
        assert_eq!(json["peers"]["strangers_refused"], 0);
    }

    /// An operator who looks for a name of the handbook finds it.
    #[test]
    fn every_metric_that_the_documents_name_is_there() {
        let gauges = gauges(Phase::Serving, &[report()]);
        let text = crate::metrics::text::write(&Snapshot::default(), &gauges);
        let documents = include_str!("../../docs/OPERATING.md");
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let mut named = 0;
        for piece in documents.split("`quorate_").skip(1) {
            let name = piece.split(|c| !is_name(c)).next().unwrap();
            let help = format!("# HELP quorate_{name} ");
            assert!(text.contains(&help), "quorate_{name} is named, and not exported");
            named += 1;
        }
        assert!(named > 20, "only {named} names were found");
    }

    #[test]
    fn compaction_is_shown_by_shard() {
        let gauges = gauges(Phase::Serving, &[report()]);
        let text = crate::metrics::text::write(&Snapshot::default(), &gauges);
        let line = "\nquorate_compaction_blocks_moved_total{shard=\"0\"} 5\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("# TYPE quorate_compaction_blocks_moved_total counter"), "{text}");
        assert!(text.contains("# TYPE quorate_compaction_debt_blocks gauge"), "{text}");
    }

    #[test]
    fn caches_and_trees_are_counted_by_kind() {
        let text =
            crate::metrics::text::write(&Snapshot::default(), &gauges(Phase::Serving, &[report()]));
        for line in [
            "# TYPE quorate_cache_hits_total counter",
            "quorate_cache_hits_total{shard=\"0\",kind=\"page\"} 8",
            "quorate_cache_misses_total{shard=\"0\",kind=\"index\"} 2",
            "quorate_cache_misses_total{shard=\"0\",kind=\"row\"} 0",
            "# TYPE quorate_memtable_bytes gauge",
            "quorate_tree_entries{shard=\"0\",tree=\"objects\"} 4",
            "quorate_tree_entries{shard=\"0\",tree=\"indexes\"} 2",
            "# TYPE quorate_tree_bytes gauge",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn a_node_that_does_not_serve_claims_nothing() {
        let identity = identity(1);
        for phase in [Phase::Loading, Phase::Stopping] {
            let json = Status::new(&identity, phase, &[]).to_json();
            assert!(json.contains("\"primary\":null"), "{json}");
            assert!(json.contains("\"state\":\"recovering\""), "{json}");
        }
    }

    #[test]
    fn phases_only_advance() {
        let phase = PhaseCell::default();
        assert_eq!(phase.get(), Phase::Loading);
        phase.advance(Phase::Stopping);
        phase.advance(Phase::Serving);
        assert_eq!(phase.get(), Phase::Stopping);
    }
}
