//! `quorate ctl`: a small client for hands and scripts, over RESP.
//!
//! Values go out as they are stored, with one end of line behind each when standard output is a
//! terminal, so that `ctl get` into a file is exact. `--json` gives one object a key; bytes that
//! are no UTF-8 stand in it as an array of numbers.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use anyhow::{Context, anyhow};
use client::{Connection, Reply};
use node::config::units::parse_duration;
use serde_json::{Value, json};

use crate::outcome::{Failure, Outcome, print, print_line};

/// Read and write single keys of a running node
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// RESP address of the node
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:6400")]
    addr: String,
    /// How long to wait for the connection and for each reply
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the value of a key; exit code 1 when there is none
    #[command(after_help = "Example:\n  quorate ctl get hello")]
    Get {
        /// The key
        key: String,
    },
    /// Store a value
    #[command(after_help = "Example:\n  quorate ctl set hello world --ttl 10m\n  \
                            quorate ctl set blob - < picture.png")]
    Set {
        /// The key
        key: String,
        /// The value, or - to read it from standard input
        value: String,
        /// Time to live
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
        /// Only if the key does not exist
        #[arg(long)]
        if_absent: bool,
    },
    /// Delete keys, printing how many there were
    #[command(after_help = "Example:\n  quorate ctl del hello other")]
    Del {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Print the keys that match a pattern, in no particular order
    #[command(after_help = "Example:\n  quorate ctl scan --match 'user:*' --limit 20")]
    Scan {
        /// A glob pattern: * ? [a-z] and \ to escape
        #[arg(long = "match", value_name = "PATTERN", default_value = "*")]
        pattern: String,
        /// Stop after this many keys
        #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
        limit: u64,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut connection = Connection::connect(&arguments.addr, arguments.timeout)
        .context("is a node running there? `quorate dev` starts one")?;
    match &arguments.action {
        Action::Get { key } => get(&mut connection, key, arguments.json),
        Action::Set { key, value, ttl, if_absent } => {
            set(&mut connection, key, value, *ttl, *if_absent, arguments.json)
        }
        Action::Del { keys } => del(&mut connection, keys, arguments.json),
        Action::Scan { pattern, limit } => scan(&mut connection, pattern, *limit, arguments.json),
    }
}

fn call(connection: &mut Connection, request: &[&[u8]]) -> Result<Reply, Failure> {
    match connection.call(request)? {
        Reply::Error(text) => Err(Failure::Failed(anyhow!("the node answered: {text}"))),
        reply => Ok(reply),
    }
}

fn text_or_bytes(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text))
}

fn get(connection: &mut Connection, key: &str, json: bool) -> Outcome {
    let reply = call(connection, &[b"GET", key.as_bytes()])?;
    let value = match &reply {
        Reply::Bulk(bytes) => Some(bytes),
        Reply::Nil => None,
        other => return Err(Failure::Failed(anyhow!("unexpected reply: {other}"))),
    };
    if json {
        let value = value.map(|bytes| text_or_bytes(bytes));
        print_line(json!({ "key": key, "value": value }));
        return Ok(());
    }
    let Some(bytes) = value else {
        return Err(Failure::Failed(anyhow!("there is no key {key:?}")));
    };
    write_value(bytes)
}

fn write_value(bytes: &[u8]) -> Outcome {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    if std::io::stdout().is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

fn set(
    connection: &mut Connection,
    key: &str,
    value: &str,
    ttl: Option<Duration>,
    if_absent: bool,
    json: bool,
) -> Outcome {
    let mut bytes = value.as_bytes().to_vec();
    if value == "-" {
        bytes.clear();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    }
    let milliseconds = ttl.map(|ttl| ttl.as_millis().max(1).to_string());
    let mut request: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &bytes];
    if let Some(milliseconds) = &milliseconds {
        request.extend([b"PX", milliseconds.as_bytes()]);
    }
    if if_absent {
        request.push(b"NX");
    }
    let stored = match call(connection, &request)? {
        Reply::Simple(_) => true,
        Reply::Nil => false,
        other => return Err(Failure::Failed(anyhow!("unexpected reply: {other}"))),
    };
    if json {
        print_line(json!({ "key": key, "stored": stored }));
    }
    if stored || json {
        return Ok(());
    }
    Err(Failure::Refused(anyhow!("{key:?} exists already")))
}

fn del(connection: &mut Connection, keys: &[String], json: bool) -> Outcome {
    let mut request: Vec<&[u8]> = vec![b"DEL"];
    request.extend(keys.iter().map(String::as_bytes));
    match call(connection, &request)? {
        Reply::Integer(deleted) if json => print_line(json!({ "deleted": deleted })),
        Reply::Integer(deleted) => print_line(deleted),
        other => return Err(Failure::Failed(anyhow!("unexpected reply: {other}"))),
    }
    Ok(())
}

fn scan(connection: &mut Connection, pattern: &str, limit: u64, json: bool) -> Outcome {
    let mut cursor = b"0".to_vec();
    let mut left = limit;
    loop {
        let request: [&[u8]; 6] =
            [b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"];
        let Reply::Array(parts) = call(connection, &request)? else {
            return Err(Failure::Failed(anyhow!("unexpected reply to SCAN")));
        };
        let [Reply::Bulk(next), Reply::Array(keys)] = parts.as_slice() else {
            return Err(Failure::Failed(anyhow!("unexpected reply to SCAN")));
        };
        for key in keys {
            let Reply::Bulk(bytes) = key else { continue };
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            if json {
                print_line(json!({ "key": text_or_bytes(bytes) }));
            } else {
                print(format_args!("{}\n", String::from_utf8_lossy(bytes)));
            }
        }
        if next == b"0" {
            return Ok(());
        }
        cursor.clone_from(next);
    }
}
