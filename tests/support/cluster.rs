//! A cluster of three nodes as child processes.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, Reply};

use super::link::{Link, Mood};
use super::{Folder, PATIENCE, quorate};

/// A member: where it is, and its process while it runs.
pub(crate) struct Member {
    native: String,
    /// `host:port` of the RESP listener.
    pub(crate) resp: String,
    /// `host:port` of the HTTP listener.
    pub(crate) http: String,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The cluster.
pub(crate) struct Cluster {
    folder: Folder,
    pub(crate) members: Vec<Member>,
    /// By which member, to which; empty where they reach each other without.
    links: Vec<Vec<Link>>,
}

/// An address that nobody listens on now. Another process may take it before it is used; the test
/// then fails by name and not silently.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Cluster {
    /// Formats the directories of a cluster of three.
    pub(crate) fn format(flags: &[&str]) -> Cluster {
        let folder = Folder::new();
        for index in 0..3 {
            let output = quorate()
                .args(["format", "--cluster", "7", "--replicas", "3", "--replica"])
                .args([&index.to_string(), "--dir"])
                .arg(folder.data().join(index.to_string()))
                .args(flags)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let member = |_| Member {
            native: free_address(),
            resp: free_address(),
            http: free_address(),
            child: None,
            log: Arc::default(),
        };
        Cluster { folder, members: (0..3).map(member).collect(), links: Vec::new() }
    }

    /// The same, with links between them.
    pub(crate) fn format_linked(flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::format(flags);
        let links = |_| cluster.members.iter().map(|member| Link::to(&member.native)).collect();
        cluster.links = (0..3).map(links).collect();
        cluster
    }

    /// The link by which one member sends to another.
    pub(crate) fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from][to]
    }

    /// Sets all links between a member and the others.
    pub(crate) fn set_links_of(&self, member: usize, mood: Mood) {
        for other in (0..3).filter(|other| *other != member) {
            self.link(member, other).set(mood);
            self.link(other, member).set(mood);
        }
    }

    /// Leaves all links as they should be.
    pub(crate) fn heal(&self) {
        self.links.iter().flatten().for_each(|link| link.set(Mood::default()));
    }

    /// Whether a member's process was started and not killed.
    pub(crate) fn is_started(&self, index: usize) -> bool {
        self.members[index].child.is_some()
    }

    fn peers_of(&self, index: usize) -> String {
        let address = |(to, member): (usize, &Member)| match self.links.get(index) {
            Some(links) if to != index => links[to].address.clone(),
            _ => member.native.clone(),
        };
        let peers: Vec<String> = self.members.iter().enumerate().map(address).collect();
        peers.join(",")
    }

    /// Starts a member; it serves when it is in touch with another one.
    pub(crate) fn start(&mut self, index: usize) {
        let peers = self.peers_of(index);
        let directory = self.folder.data().join(index.to_string());
        let member = &mut self.members[index];
        let mut child = quorate()
            .args(["start", "--cores", "1", "--cache", "16MiB", "--peers", &peers])
            .args(["--listen", &member.native, "--resp", &member.resp, "--http", &member.http])
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&member.log);
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        member.child = Some(child);
    }

    /// Starts all members and waits until each of them serves.
    pub(crate) fn start_all(&mut self) {
        (0..3).for_each(|index| self.start(index));
        (0..3).for_each(|index| self.wait_serving(index));
    }

    /// Waits until a member answers.
    pub(crate) fn wait_serving(&self, index: usize) {
        let answers = || self.try_call(index, &["GET", "probe"]).is_some();
        self.wait_for(&format!("member {index} serves"), answers);
    }

    /// Waits until something is true.
    pub(crate) fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "not so after {PATIENCE:?}: {what}\n{}",
                self.logs()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What all members wrote to standard error.
    pub(crate) fn logs(&self) -> String {
        let log = |(index, member): (usize, &Member)| {
            let lines = member.log.lock().unwrap();
            let last = lines.len().saturating_sub(30);
            format!("-- member {index}:\n{}\n", lines[last..].join("\n"))
        };
        self.members.iter().enumerate().map(log).collect()
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.members[index].child.take().expect("it was started");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, index: usize, signal: &str) {
        let child = self.members[index].child.as_ref().expect("it was started");
        let pid = child.id().to_string();
        let status = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for a member to end by itself; whether it did so in good order.
    pub(crate) fn ended(&mut self, index: usize) -> bool {
        let mut child = self.members[index].child.take().expect("it was started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "member {index} does not end\n{}", self.logs());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection, if the member takes one.
    pub(crate) fn connect(&self, index: usize) -> Option<Connection> {
        Connection::connect(&self.members[index].resp, Duration::from_secs(10)).ok()
    }

    /// One request over a connection of its own; nothing if it was refused or not answered.
    pub(crate) fn try_call(&self, index: usize, request: &[&str]) -> Option<Reply> {
        match self.connect(index)?.call(request) {
            Ok(Reply::Error(_)) | Err(_) => None,
            Ok(reply) => Some(reply),
        }
    }

    /// The same, again and again until it is answered.
    pub(crate) fn call(&self, index: usize, request: &[&str]) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = self.try_call(index, request) {
                return reply;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "member {index} does not answer {request:?}\n{}", self.logs());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a member says of itself.
    pub(crate) fn info(&self, index: usize, field: &str) -> Option<String> {
        let Reply::Bulk(text) = self.try_call(index, &["INFO", "replication"])? else {
            return None;
        };
        let text = String::from_utf8(text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(str::to_owned)
    }

    /// The member that is primary; waits for one.
    pub(crate) fn primary(&self) -> usize {
        let is_primary = |index: &usize| {
            self.members[*index].child.is_some()
                && self.info(*index, "quorate_role").as_deref() == Some("primary")
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = (0..3).find(is_primary) {
                return index;
            }
            assert!(Instant::now() < deadline, "no primary\n{}", self.logs());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
