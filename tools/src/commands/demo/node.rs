//! A node as a child process of the demonstration.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

/// How long a node may take to serve.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A child process running `quorate dev`.
pub(super) struct Node {
    child: Child,
    /// `host:port` of the RESP listener, once it serves.
    pub(super) resp: String,
}

impl Node {
    /// Starts a node on `directory` and waits until it serves.
    pub(super) fn start(directory: &Path, flags: &[&str]) -> anyhow::Result<Node> {
        let mut node = Node::spawn(directory, flags)?;
        node.wait_until_serving()?;
        Ok(node)
    }

    /// Starts a node on `directory`.
    pub(super) fn spawn(directory: &Path, flags: &[&str]) -> anyhow::Result<Node> {
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let child = Command::new(binary)
            .args(["dev", "--dir"])
            .arg(directory)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the node")?;
        Ok(Node { child, resp: String::new() })
    }

    /// Waits until it says that it serves, and where.
    pub(super) fn wait_until_serving(&mut self) -> anyhow::Result<()> {
        let stdout = self.child.stdout.take().context("standard output is piped")?;
        let stderr = self.child.stderr.take().context("standard error is piped")?;
        // Both are read to their end, so that the node never waits for a reader.
        let log = thread::spawn(move || {
            let lines = BufReader::new(stderr).lines().map_while(Result::ok);
            let mut last: Vec<String> = Vec::new();
            for line in lines {
                last.push(line);
                let excess = last.len().saturating_sub(20);
                last.drain(..excess);
            }
            last.join("\n")
        });
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("listening ") {
                    let found = rest.split_whitespace().find_map(|word| word.strip_prefix("resp="));
                    // Nobody listens any more once the address is known.
                    let _ = sender.send(found.unwrap_or_default().to_owned());
                }
            }
        });
        match receiver.recv_timeout(SERVE_TIMEOUT) {
            Ok(address) => {
                self.resp = address;
                Ok(())
            }
            Err(_) => {
                self.kill()?;
                let log = log.join().unwrap_or_default();
                bail!("the node did not come to serve; the end of its log:\n{log}")
            }
        }
    }

    /// `kill -9`, and waits for the end.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the node")?;
        self.child.wait().context("cannot wait for the node")?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is gone already in the good case.
        let _ = self.kill();
    }
}
