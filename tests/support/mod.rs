//! A node as a child process, for tests of the built binary.
//!
//! Every test has a folder and a node of its own, on ports of the kernel's choosing, and waits for
//! conditions, never for time to pass. A node that is dropped is killed and its folder removed.
//! When a node does not come to serve, the panic shows the end of its log.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test whose support fails has failed")]

pub(crate) mod cluster;
pub(crate) mod link;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, Reply};

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) fn quorate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
}

/// What `quorate status` makes of what these nodes say.
pub(crate) fn status(addresses: &[&String]) -> serde_json::Value {
    let output = quorate().args(["status", "--json"]).args(addresses).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Rounds of a test that has a long form: `QUORATE_TEST_ROUNDS`, or `short`.
pub(crate) fn rounds(short: u32) -> u32 {
    std::env::var("QUORATE_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// Numbers of cores to run a node on, in turn: one, and two where there are as many processors.
pub(crate) fn cores() -> &'static [&'static str] {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    &["1", "2"][..processors.min(2)]
}

/// A running `quorate dev`.
pub(crate) struct Node {
    child: Child,
    /// `host:port` of the RESP listener.
    pub(crate) resp: String,
    /// `host:port` of the HTTP listener.
    pub(crate) http: String,
    /// `host:port` of the listener for replicas, or `none`.
    pub(crate) native: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Starts a node on `directory` with further flags and waits until it serves.
    pub(crate) fn start(directory: &Path, flags: &[&str]) -> Node {
        Node::try_start(directory, flags).unwrap_or_else(|log| panic!("no node:\n{log}"))
    }

    /// As [`Node::start`]; when the node ends before it serves, the end of its log.
    pub(crate) fn try_start(directory: &Path, flags: &[&str]) -> Result<Node, String> {
        let mut child = quorate()
            .args(["dev", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dir"])
            .arg(directory)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let errors = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let (sender, receiver) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("listening ") {
                    let _ = sender.send(rest.to_owned());
                }
            }
        });
        let (resp, http, native) = Default::default();
        let mut node = Node { child, resp, http, native, log };
        match receiver.recv_timeout(PATIENCE) {
            Ok(addresses) => {
                for word in addresses.split_whitespace() {
                    match word.split_once('=') {
                        Some(("resp", address)) => node.resp = address.to_owned(),
                        Some(("http", address)) => node.http = address.to_owned(),
                        Some(("native", address)) => node.native = address.to_owned(),
                        _ => {}
                    }
                }
                Ok(node)
            }
            Err(_) => {
                node.kill();
                reader.join().unwrap();
                Err(node.log())
            }
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let status = Command::new("kill").arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
        self.ended()
    }

    /// Waits for it to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the node does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client connection.
    pub(crate) fn connect(&self) -> Connection {
        Connection::connect(&self.resp, PATIENCE).unwrap()
    }

    /// Bytes of memory that it holds, now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        bench::host::ProcessUse::read(self.pid()).unwrap().resident_bytes
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends one request and returns its reply.
pub(crate) fn call(connection: &mut Connection, request: &[&str]) -> Reply {
    connection.call(request).unwrap()
}

/// A folder that is removed with the value.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// A new one, beside the build: on a real file system, not in memory.
    pub(crate) fn new() -> Folder {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Folder(tempfile::tempdir_in(place).unwrap())
    }

    /// Where a node may keep its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }
}
