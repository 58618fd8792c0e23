//! Where a setting's value comes from: flag, environment, file, default, in this order.
//!
//! Every setting is one row of [`KEYS`]: its name, its default and what it is for. A layer is a
//! map from names to text. Resolving a key takes the first layer that has it and remembers which
//! one that was, so that `--print-config` and every error can say where a value came from:
//!
//! 1. *flags*, as the command line gave them;
//! 2. the *environment*: `QUORATE_` and the key in capitals, so `resp` is `QUORATE_RESP`;
//! 3. `quorate.toml` in the data directory;
//! 4. the default in [`KEYS`].
//!
//! An unknown key in the file is an error: it is nearly always a typing mistake, and a setting
//! that silently does nothing costs an evening. An unknown `QUORATE_…` variable is not: container
//! platforms put variables of that form into the environment by themselves.
//!
//! Text becomes a typed value in `config::Config`, once; everything behind it works on types.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// One setting: its name, default and meaning.
#[derive(Debug)]
pub struct Key {
    /// As in the file and, with dashes, on the command line.
    pub name: &'static str,
    /// The value when no layer gives one. Empty: no value.
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
}

/// All settings of a running node. What `format` fixes for good is not among them.
pub const KEYS: &[Key] = &[
    Key {
        name: "resp",
        default: "127.0.0.1:6400",
        help: "address that Redis clients connect to; port 0 takes any free one",
    },
    Key {
        name: "http",
        default: "127.0.0.1:7480",
        help: "address of metrics, health and status over HTTP",
    },
    Key {
        name: "listen",
        default: "",
        help: "address that the cluster's other replicas connect to; without one nobody can",
    },
    Key {
        name: "peers",
        default: "",
        help: "host:port of every replica in order, this one's included; one alone needs no list",
    },
    Key {
        name: "insecure",
        default: "no",
        help: "allow listening beyond loopback, where anybody who can connect can read and write",
    },
    Key {
        name: "cores",
        default: "auto",
        help: "cores to run on: a number, processors to be bound to as in 0,2-3, or auto",
    },
    Key {
        name: "dedicated_replica_core",
        default: "auto",
        help: "keep shards off the core that has the log: yes, no or auto (from 4 cores on)",
    },
    Key {
        name: "cache",
        default: "256MiB",
        help: "memory for cached pages of the grid, divided over the shards",
    },
    Key {
        name: "clients_max",
        default: "10000",
        help: "connections served at once; one more is told so and closed",
    },
    Key {
        name: "lock_memory",
        default: "yes",
        help: "keep the node's memory out of swap: yes or no",
    },
    Key {
        name: "idle",
        default: "adaptive",
        help: "what an idle core does: adaptive (sleeps, but looks for a durable write that is \
               about to complete), sleep, or spin:200us (looks for work that long, then sleeps)",
    },
    Key {
        name: "scrub_cycle",
        default: "14d",
        help: "time in which every block on disk is read and checked once; off reads when asked",
    },
    Key {
        name: "log",
        default: "info",
        help: "least level logged: error, warn, info, debug, trace",
    },
    Key { name: "log_format", default: "human", help: "how log lines are written: human or json" },
];

/// The key of that name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Which layer a value was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// `quorate.toml`, at this path.
    File(PathBuf),
    /// The built-in default, or one that the subcommand sets instead.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => write!(f, "flag"),
            Origin::Environment => write!(f, "environment"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Default => write!(f, "default"),
        }
    }
}

/// A setting's text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// As written in that layer.
    pub text: String,
    /// The layer.
    pub origin: Origin,
}

/// What is wrong with a layer before any value is looked at.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file exists and cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        error: Box<toml::de::Error>,
    },
    /// The file has a key that is no setting.
    #[error("{}: unknown key `{key}`; known are {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// All that could have been meant.
        known: String,
    },
    /// The value is of a kind that no setting has.
    #[error(
        "{}: `{key}` is {found}; a setting is text, a number, yes/no or a list of texts",
        path.display()
    )]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The kind found.
        found: &'static str,
    },
}

/// The layers above the defaults, each a map from key to text.
#[derive(Debug, Default, Clone)]
pub struct Layers {
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<&'static str, String>,
    file: BTreeMap<&'static str, String>,
    file_path: PathBuf,
    defaults: BTreeMap<&'static str, String>,
}

impl Layers {
    /// Sets a flag.
    ///
    /// # Panics
    /// If no such key exists: the command line and [`KEYS`] are one program.
    pub fn set_flag(&mut self, name: &str, text: impl Into<String>) {
        let key = key(name).expect("a flag is named after a setting");
        self.flags.insert(key.name, text.into());
    }

    /// Replaces a default, as `dev` does for what differs on a laptop.
    ///
    /// # Panics
    /// If no such key exists.
    pub fn set_default(&mut self, name: &str, text: impl Into<String>) {
        let key = key(name).expect("a default is named after a setting");
        self.defaults.insert(key.name, text.into());
    }

    /// Takes what the environment has of `QUORATE_…`.
    pub fn read_environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        for key in KEYS {
            let name = format!("QUORATE_{}", key.name.to_ascii_uppercase());
            if let Some(text) = variable(&name) {
                self.environment.insert(key.name, text);
            }
        }
    }

    /// Reads `quorate.toml`; one that does not exist is an empty layer.
    pub fn read_file(&mut self, path: &Path) -> Result<(), LayerError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LayerError::Unreadable { path: path.to_owned(), error }),
        };
        self.file_text(path, &text)
    }

    fn file_text(&mut self, path: &Path, text: &str) -> Result<(), LayerError> {
        let table: toml::Table = text.parse().map_err(|error| LayerError::Syntax {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        for (name, value) in &table {
            let Some(key) = key(name) else {
                let known = KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                return Err(LayerError::UnknownKey {
                    path: path.to_owned(),
                    key: name.clone(),
                    known,
                });
            };
            let text = text_of(value).ok_or_else(|| LayerError::WrongKind {
                path: path.to_owned(),
                key: name.clone(),
                found: value.type_str(),
            })?;
            self.file.insert(key.name, text);
        }
        self.file_path = path.to_owned();
        Ok(())
    }

    /// The value of a key and where it came from.
    ///
    /// # Panics
    /// If no such key exists.
    pub fn resolve(&self, name: &str) -> Resolved {
        let key = key(name).expect("a setting is asked for by its name");
        let found = |text: &String, origin| Resolved { text: text.clone(), origin };
        if let Some(text) = self.flags.get(key.name) {
            return found(text, Origin::Flag);
        }
        if let Some(text) = self.environment.get(key.name) {
            return found(text, Origin::Environment);
        }
        if let Some(text) = self.file.get(key.name) {
            return found(text, Origin::File(self.file_path.clone()));
        }
        match self.defaults.get(key.name) {
            Some(text) => found(text, Origin::Default),
            None => Resolved { text: key.default.to_owned(), origin: Origin::Default },
        }
    }

    /// Every setting with its value and origin, a line each: what `--print-config` shows.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for key in KEYS {
            let Resolved { text, origin } = self.resolve(key.name);
            out.push_str(&format!("{:<24} {text:<20} # {origin}; {}\n", key.name, key.help));
        }
        out
    }
}

/// The text of a TOML value, or none if no setting can be of that kind.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(true) => Some("yes".to_owned()),
        toml::Value::Boolean(false) => Some("no".to_owned()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<_>> = list.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> Result<Layers, LayerError> {
        let mut layers = Layers::default();
        layers.file_text(Path::new("/data/quorate.toml"), text)?;
        Ok(layers)
    }

    #[test]
    fn the_first_layer_that_has_a_key_decides() {
        let mut layers = Layers::default();
        assert_eq!(layers.resolve("resp").origin, Origin::Default);
        layers.set_default("resp", "127.0.0.1:1");
        assert_eq!(layers.resolve("resp").text, "127.0.0.1:1");
        layers.file_text(Path::new("f.toml"), "resp = '127.0.0.1:2'").unwrap();
        assert_eq!(layers.resolve("resp").text, "127.0.0.1:2");
        assert_eq!(layers.resolve("resp").origin, Origin::File("f.toml".into()));
        layers.read_environment(|name| (name == "QUORATE_RESP").then(|| "127.0.0.1:3".to_owned()));
        assert_eq!(layers.resolve("resp").text, "127.0.0.1:3");
        layers.set_flag("resp", "127.0.0.1:4");
        assert_eq!(layers.resolve("resp").text, "127.0.0.1:4");
        assert_eq!(layers.resolve("resp").origin, Origin::Flag);
        assert_eq!(layers.resolve("http").origin, Origin::Default);
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused_by_name() {
        let error = with_file("rsep = '127.0.0.1:1'").unwrap_err().to_string();
        assert!(error.contains("/data/quorate.toml") && error.contains("`rsep`"), "{error}");
        assert!(error.contains("resp"), "the message lists what is known: {error}");
        let error = with_file("cache = 1.5").unwrap_err().to_string();
        assert!(error.contains("`cache`") && error.contains("float"), "{error}");
        let error = with_file("cache = ").unwrap_err().to_string();
        assert!(error.contains("/data/quorate.toml"), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_empty_layer() {
        let mut layers = Layers::default();
        layers.read_file(Path::new("/nonexistent/quorate.toml")).unwrap();
        assert_eq!(layers.resolve("cache").origin, Origin::Default);
    }

    #[test]
    fn printing_names_every_key_and_origin() {
        let layers = with_file("clients_max = 5\ninsecure = true").unwrap();
        let text = layers.print();
        for key in KEYS {
            assert!(text.contains(key.name));
        }
        let line = text.lines().find(|line| line.starts_with("clients_max")).unwrap();
        assert!(line.contains(" 5 ") && line.contains("/data/quorate.toml"), "{line}");
        assert!(text.lines().any(|line| line.starts_with("insecure") && line.contains("yes")));
    }
}
