//! The settings of a running node as flags, shared by `dev` and `start`.
//!
//! A flag here only carries text: which values there are, their defaults and what they mean stand
//! in one table, `node::config::layers::KEYS`, and a test compares the two.

use std::path::Path;

use anyhow::anyhow;
use node::config::{Config, ConfigError, Layers, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::outcome::Failure;

/// Settings; each may also stand in the environment (`QUORATE_RESP`) or in quorate.toml (`resp`)
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Settings {
    /// Address that Redis clients connect to; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) resp: Option<String>,
    /// Address of metrics, health and status over HTTP
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    /// Address that the cluster's other replicas connect to; without one nobody can
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// host:port of every replica in order, this one's included; one alone needs no list
    #[arg(long, value_name = "HOST:PORT,...")]
    peers: Option<String>,
    /// Allow listening beyond loopback, where anybody who can connect can read and write
    #[arg(long)]
    insecure: bool,
    /// Cores to run on: a number, processors to be bound to as in 0,2-3, or auto
    #[arg(long, value_name = "WHICH")]
    cores: Option<String>,
    /// Keep shards off the core that has the log: yes, no or auto (from 4 cores on)
    #[arg(long, value_name = "WHETHER")]
    dedicated_replica_core: Option<String>,
    /// Memory for cached pages of the grid, divided over the shards
    #[arg(long, value_name = "SIZE")]
    cache: Option<String>,
    /// Connections served at once; one more is told so and closed
    #[arg(long, value_name = "COUNT")]
    clients_max: Option<String>,
    /// Keep the node's memory out of swap: yes or no
    #[arg(long, value_name = "WHETHER")]
    lock_memory: Option<String>,
    /// What an idle core does: adaptive (sleeps, but looks for a durable write that is about to
    /// complete), sleep, or spin:200us (looks for work that long, then sleeps)
    #[arg(long, value_name = "HOW")]
    idle: Option<String>,
    /// Time in which every block on disk is read and checked once; off reads when asked
    #[arg(long, value_name = "DURATION")]
    scrub_cycle: Option<String>,
    /// Least level logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines are written: human or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Show each setting's value and where it comes from, and do nothing else
    #[arg(long)]
    pub(crate) print_config: bool,
}

impl Settings {
    /// All layers: these flags, the environment, the directory's file, the defaults given.
    pub(crate) fn layers(
        &self,
        dir: &Path,
        defaults: &[(&str, &str)],
    ) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        for (name, text) in defaults {
            layers.set_default(name, *text);
        }
        layers.read_file(&dir.join("quorate.toml"))?;
        layers.read_environment(|name| std::env::var(name).ok());
        for (name, value) in self.flags() {
            if let Some(text) = value {
                layers.set_flag(name, text);
            }
        }
        Ok(layers)
    }

    fn flags(&self) -> [(&'static str, Option<String>); 14] {
        [
            ("resp", self.resp.clone()),
            ("http", self.http.clone()),
            ("listen", self.listen.clone()),
            ("peers", self.peers.clone()),
            ("insecure", self.insecure.then(|| "yes".to_owned())),
            ("cores", self.cores.clone()),
            ("dedicated_replica_core", self.dedicated_replica_core.clone()),
            ("cache", self.cache.clone()),
            ("clients_max", self.clients_max.clone()),
            ("lock_memory", self.lock_memory.clone()),
            ("idle", self.idle.clone()),
            ("scrub_cycle", self.scrub_cycle.clone()),
            ("log", self.log.clone()),
            ("log_format", self.log_format.clone()),
        ]
    }
}

/// Settings that cannot be used are wrong usage.
pub(crate) fn config(layers: &Layers) -> Result<Config, Failure> {
    Config::new(layers).map_err(|error| Failure::Usage(anyhow!(error)))
}

/// Sends log lines to standard error as configured.
pub(crate) fn start_logging(config: &Config) {
    use std::io::IsTerminal;
    let filter = EnvFilter::new(config.log_level.to_string());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match config.log_format {
        LogFormat::Human => builder.with_ansi(colours).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::config::layers::KEYS;

    #[test]
    fn every_setting_is_a_flag() {
        let flags = Settings::default().flags();
        assert_eq!(
            flags.map(|(name, _)| name).to_vec(),
            KEYS.iter().map(|key| key.name).collect::<Vec<_>>()
        );
    }

    #[test]
    fn flags_are_explained_as_in_the_table() {
        use clap::Args;
        let command = Settings::augment_args(clap::Command::new("test"));
        for key in KEYS {
            let argument = command.get_arguments().find(|argument| argument.get_id() == key.name);
            let help = argument.expect(key.name).get_help().expect(key.name).to_string();
            assert_eq!(help.to_lowercase(), key.help.to_lowercase(), "{}", key.name);
        }
    }
}
