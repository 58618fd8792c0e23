//! The settings of a running node, typed and checked.
//!
//! [`Layers`] finds each setting's text and where it came from; [`Config::new`] turns all of them
//! into types at once and refuses the first that is wrong, naming setting, value and origin. What
//! `format` fixes for good (shards, journal size, limits …) is not here: it is read from the
//! superblock, and a node cannot be started with other values.
//!
//! Rules that span settings are checked here too, so that a node either starts as configured or
//! says why not before it has opened anything: a listener beyond loopback needs `insecure`, as
//! long as clients cannot prove who they are.

pub mod compression;
pub mod layers;
pub mod peers;
pub mod units;

pub use layers::{Layers, Origin, Resolved};

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// What a core does when nothing is runnable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Look for what is about to complete where that is cheaper than sleeping: a durable write of a
    /// quick device.
    Adaptive,
    /// Sleep in the ring at once.
    Sleep,
    /// Poll for this long first: quicker wake-ups for a busy processor.
    Spin(Duration),
}

/// Which cores a node runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// One for each processor that the process may use, as far as there are shards for them.
    Auto,
    /// So many of these.
    Count(u16),
    /// One on each of these processors.
    List(Vec<usize>),
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// Settings as types.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Redis clients connect.
    pub resp: SocketAddr,
    /// Where metrics, health and status are served.
    pub http: SocketAddr,
    /// Where other replicas connect, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Where every replica of the cluster is, in order; empty if that was not said.
    pub peers: Vec<String>,
    /// The cores to run on.
    pub cores: Cores,
    /// Whether the replica has a core to itself; `None`: from four cores on.
    pub dedicated_replica_core: Option<bool>,
    /// Bytes of page cache, all shards together.
    pub cache_bytes: u64,
    /// Connections served at once.
    pub clients_max: u32,
    /// Keep memory out of swap.
    pub lock_memory: bool,
    /// What an idle core does.
    pub idle: Idle,
    /// Time in which every block on disk is read once; none: only when asked.
    pub scrub_cycle: Option<Duration>,
    /// Least level logged.
    pub log_level: tracing::Level,
    /// How log lines are written.
    pub log_format: LogFormat,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A layer cannot be used at all.
    #[error(transparent)]
    Layer(#[from] layers::LayerError),
    /// A value is not of its setting's type.
    #[error("`{key}` = `{text}` (from {origin}): {problem}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Its value.
        text: String,
        /// Where the value came from.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
    },
    /// There are other replicas, and they cannot connect.
    #[error(
        "`peers` names {replicas} replicas, and `listen` no address for them to connect to: give \
         --listen this replica's own"
    )]
    Deaf {
        /// How many there are.
        replicas: usize,
    },
    /// A listener is open to the network and nobody has said that this is meant.
    #[error(
        "`{key}` = {address} listens beyond loopback, and clients are not authenticated: anybody \
         who can connect can read and write everything. Listen on 127.0.0.1, or give --insecure"
    )]
    Exposed {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

impl Config {
    /// Types and checks every setting.
    pub fn new(layers: &Layers) -> Result<Config, ConfigError> {
        let config = Config {
            resp: typed(layers, "resp", address)?,
            http: typed(layers, "http", address)?,
            listen: typed(layers, "listen", |text| match text {
                "" => Ok(None),
                text => address(text).map(Some),
            })?,
            peers: typed(layers, "peers", peers::parse_peers)?,
            cores: typed(layers, "cores", cores)?,
            dedicated_replica_core: typed(layers, "dedicated_replica_core", |text| match text {
                "auto" => Ok(None),
                text => yes_or_no(text).map(Some).map_err(|error| format!("{error}, or auto")),
            })?,
            cache_bytes: typed(layers, "cache", |text| {
                units::parse_size(text).map_err(|error| error.to_string())
            })?,
            clients_max: typed(layers, "clients_max", |text| match text.parse() {
                Ok(0) | Err(_) => Err("must be a whole number from 1".to_owned()),
                Ok(clients) => Ok(clients),
            })?,
            lock_memory: typed(layers, "lock_memory", yes_or_no)?,
            idle: typed(layers, "idle", idle)?,
            scrub_cycle: typed(layers, "scrub_cycle", scrub_cycle)?,
            log_level: typed(layers, "log", |text| {
                text.parse().map_err(|_| "must be error, warn, info, debug or trace".to_owned())
            })?,
            log_format: typed(layers, "log_format", |text| match text {
                "human" => Ok(LogFormat::Human),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be human or json".to_owned()),
            })?,
        };
        if !typed(layers, "insecure", yes_or_no)? {
            let listen = config.listen.map(|address| ("listen", address));
            let clients = [("resp", config.resp), ("http", config.http)];
            for (key, address) in clients.into_iter().chain(listen) {
                if !address.ip().is_loopback() {
                    return Err(ConfigError::Exposed { key, address });
                }
            }
        }
        if config.peers.len() > 1 && config.listen.is_none() {
            return Err(ConfigError::Deaf { replicas: config.peers.len() });
        }
        Ok(config)
    }
}

/// One setting through its parser; a problem gets the setting's name, text and origin.
fn typed<T>(
    layers: &Layers,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    let Resolved { text, origin } = layers.resolve(name);
    parse(text.trim()).map_err(|problem| ConfigError::Value { key: name, text, origin, problem })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("must be host:port, as in 127.0.0.1:6400 ({error})"))?;
    found.next().ok_or_else(|| "resolves to no address".to_owned())
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("must be yes or no".to_owned()),
    }
}

fn idle(text: &str) -> Result<Idle, String> {
    match text.split_once(':') {
        None if text == "adaptive" => Ok(Idle::Adaptive),
        None if text == "sleep" => Ok(Idle::Sleep),
        Some(("spin", duration)) => {
            let duration = units::parse_duration(duration).map_err(|error| error.to_string())?;
            Ok(Idle::Spin(duration))
        }
        _ => Err("must be adaptive, sleep or spin:DURATION, as in spin:200us".to_owned()),
    }
}

fn scrub_cycle(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" | "0" => Ok(None),
        text => match units::parse_duration(text) {
            Ok(cycle) => Ok((!cycle.is_zero()).then_some(cycle)),
            Err(error) => Err(format!("{error}; must be a duration, as in 14d, or off")),
        },
    }
}

/// Highest processor number accepted.
const PROCESSOR_MAX: usize = 1023;
/// Most cores accepted: every shard its own, and one for the replica.
const CORES_MAX: u16 = 129;

/// `auto`, a number of cores, or a list of processors like `0,2-3`; `3-3` is one processor.
fn cores(text: &str) -> Result<Cores, String> {
    if text == "auto" {
        return Ok(Cores::Auto);
    }
    if let Ok(count) = text.parse() {
        return match count {
            1..=CORES_MAX => Ok(Cores::Count(count)),
            _ => Err(format!("must be 1 to {CORES_MAX} cores; one processor is given as 0-0")),
        };
    }
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |text: &str| text.parse::<usize>().ok().filter(|number| *number <= PROCESSOR_MAX);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err("must be auto, a number of cores, or processors like 0,2-3".into()),
        }
    }
    let given = cpus.len();
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.len() < given {
        return Err("names a processor twice".into());
    }
    if given > usize::from(CORES_MAX) {
        return Err(format!("names more than {CORES_MAX} processors"));
    }
    Ok(Cores::List(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut layers = Layers::default();
        for (name, text) in flags {
            layers.set_flag(name, *text);
        }
        Config::new(&layers)
    }

    #[test]
    fn defaults_are_a_working_configuration() {
        let config = config(&[]).unwrap();
        assert_eq!(config.resp.port(), 6400);
        assert_eq!(config.http.port(), 7480);
        assert_eq!(config.cores, Cores::Auto);
        assert_eq!(config.dedicated_replica_core, None);
        assert_eq!(config.idle, Idle::Adaptive);
        assert!(config.lock_memory);
    }

    #[test]
    fn cores_are_a_number_or_a_list() {
        let cores = |text| config(&[("cores", text)]).map(|config| config.cores);
        assert_eq!(cores("auto").unwrap(), Cores::Auto);
        assert_eq!(cores("3").unwrap(), Cores::Count(3));
        assert_eq!(cores("3-3").unwrap(), Cores::List(vec![3]));
        assert_eq!(cores("4,0,2-3").unwrap(), Cores::List(vec![0, 2, 3, 4]));
        for wrong in ["", "a", "0", "130", "1-0", "0,,1", "0,0", "0-2,1", "0-9999", "-1", "0-500"] {
            let error = cores(wrong).unwrap_err().to_string();
            assert!(error.contains("`cores`") && error.contains("flag"), "{error}");
        }
    }

    #[test]
    fn beyond_loopback_needs_a_word() {
        let error = config(&[("resp", "0.0.0.0:6400")]).unwrap_err();
        assert!(matches!(error, ConfigError::Exposed { key: "resp", .. }));
        assert!(error.to_string().contains("--insecure"));
        let error = config(&[("http", "[::]:7480")]).unwrap_err();
        assert!(matches!(error, ConfigError::Exposed { key: "http", .. }));
        let error = config(&[("listen", "0.0.0.0:7400")]).unwrap_err();
        assert!(matches!(error, ConfigError::Exposed { key: "listen", .. }));
        config(&[("resp", "0.0.0.0:6400"), ("insecure", "yes")]).unwrap();
        config(&[("resp", "localhost:0"), ("http", "[::1]:0")]).unwrap();
    }

    #[test]
    fn a_replica_with_peers_listens_for_them() {
        assert_eq!(config(&[]).unwrap().listen, None);
        let peers = ("peers", "a:7400, b:7400, c:7400");
        let error = config(&[peers]).unwrap_err();
        assert!(error.to_string().contains("--listen"), "{error}");
        let config = config(&[peers, ("listen", "127.0.0.1:7400")]).unwrap();
        assert_eq!(config.peers, ["a:7400", "b:7400", "c:7400"]);
        assert_eq!(config.listen.unwrap().port(), 7400);
    }

    #[test]
    fn wrong_values_name_setting_value_and_origin() {
        for (key, text) in [
            ("resp", "nowhere"),
            ("listen", "nowhere"),
            ("peers", "a:1,b:2"),
            ("cache", "lots"),
            ("clients_max", "0"),
            ("lock_memory", "maybe"),
            ("dedicated_replica_core", "perhaps"),
            ("idle", "spin"),
            ("idle", "spin:5"),
            ("log", "loud"),
            ("log_format", "xml"),
        ] {
            let error = config(&[(key, text)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn scrubs_have_a_cycle_or_are_off() {
        let cycle = |text| config(&[("scrub_cycle", text)]).map(|config| config.scrub_cycle);
        let day = Duration::from_secs(86_400);
        assert_eq!(config(&[]).unwrap().scrub_cycle, Some(14 * day));
        assert_eq!(cycle("36h").unwrap(), Some(3 * day / 2));
        for off in ["off", "0", "0s"] {
            assert_eq!(cycle(off).unwrap(), None);
        }
        assert!(cycle("5").unwrap_err().to_string().contains("14d"));
    }

    #[test]
    fn idle_may_spin() {
        let config = config(&[("idle", "spin:200us")]).unwrap();
        assert_eq!(config.idle, Idle::Spin(Duration::from_micros(200)));
    }
}
