//! Real Redis clients, as they are: `redis-cli` and `redis-benchmark`.
//!
//! A machine without them skips, loudly.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

mod support;

use std::process::{Command, Stdio};

use support::{Folder, Node};

/// Whether `program` is there; says so when it is not.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIPPED: {program} is not installed (Debian package redis-tools)");
    }
    found
}

fn port(node: &Node) -> &str {
    node.resp.rsplit(':').next().unwrap()
}

fn cli(node: &Node, arguments: &[&str]) -> String {
    let output =
        Command::new("redis-cli").args(["-p", port(node)]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn redis_cli_works_as_it_is() {
    if !is_there("redis-cli") {
        return;
    }
    for cores in support::cores() {
        redis_cli_works(cores);
    }
}

fn redis_cli_works(cores: &str) {
    let folder = Folder::new();
    let node = Node::start(&folder.data(), &["--cores", cores]);
    let rows: [(&[&str], &str); 12] = [
        (&["PING"], "PONG"),
        (&["SET", "hello", "world"], "OK"),
        (&["GET", "hello"], "world"),
        (&["APPEND", "hello", "!"], "6"),
        (&["INCRBY", "counter", "41"], "41"),
        (&["INCR", "counter"], "42"),
        (&["SET", "hello", "again", "NX"], ""),
        (&["EXPIRE", "hello", "100"], "1"),
        (&["TTL", "hello"], "100"),
        (&["MSET", "a", "1", "b", "2"], "OK"),
        (&["MGET", "a", "b", "none"], "1\n2"),
        (&["DEL", "a", "b", "none"], "2"),
    ];
    for (arguments, expected) in rows {
        assert_eq!(cli(&node, arguments), expected, "{arguments:?}");
    }
    let mut keys: Vec<String> = cli(&node, &["--scan"]).lines().map(str::to_owned).collect();
    keys.sort();
    assert_eq!(keys, ["counter", "hello"]);
    assert_eq!(cli(&node, &["-3", "HELLO", "3"]).lines().next(), Some("server redis"));
}

#[test]
fn redis_benchmark_runs_to_its_end() {
    if !is_there("redis-benchmark") {
        return;
    }
    for cores in support::cores() {
        redis_benchmark_runs(cores);
    }
}

fn redis_benchmark_runs(cores: &str) {
    let folder = Folder::new();
    let node = Node::start(&folder.data(), &["--cores", cores]);
    for depth in ["1", "16"] {
        let output = Command::new("redis-benchmark")
            .args(["-p", port(&node), "-t", "set,get,incr,mset", "-c", "50", "-P", depth])
            .args(["-n", "20000", "-r", "1000", "-q"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
        assert!(output.status.success(), "{text}");
        for command in ["SET", "GET", "INCR", "MSET"] {
            let line = text.lines().rfind(|line| line.starts_with(command));
            assert!(line.is_some_and(|line| line.contains("requests per second")), "{text}");
        }
        assert!(!text.to_lowercase().contains("error"), "{text}");
    }
    assert!(cli(&node, &["DBSIZE"]).parse::<u64>().unwrap() > 900);
}
