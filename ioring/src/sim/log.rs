//! What happened last, kept to be printed when a simulation fails.

use std::collections::VecDeque;
use std::fmt;

use super::dice::TraceHash;

/// Lines kept.
const KEPT: usize = 40;

/// One decision or its effect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happened {
    Started { boot: u32 },
    Crashed { power: bool },
    Called { core: usize, name: &'static str },
    Completed { core: usize, name: &'static str, result: i32 },
    Received { core: usize, bytes: usize },
    Polled { core: usize, position: usize },
}

impl Happened {
    /// For the trace hash: the kind, and what distinguishes two of a kind.
    pub(crate) fn words(&self) -> (u64, u64, u64) {
        match *self {
            Happened::Started { boot } => (1, u64::from(boot), 0),
            Happened::Crashed { power } => (2, u64::from(power), 0),
            Happened::Called { core, name } => {
                let mut hash = TraceHash::new();
                hash.add_bytes(name.as_bytes());
                (3, core as u64, hash.value())
            }
            Happened::Completed { core, result, .. } => (4, core as u64, result as u64),
            Happened::Received { core, bytes } => (5, core as u64, bytes as u64),
            Happened::Polled { core, position } => (6, core as u64, position as u64),
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happened::Started { boot } => write!(f, "process started, boot {boot}"),
            Happened::Crashed { power: true } => f.write_str("power lost"),
            Happened::Crashed { power: false } => f.write_str("process killed"),
            Happened::Called { core, name } => write!(f, "core {core}: {name}"),
            Happened::Completed { core, name, result } => {
                write!(f, "core {core}: {name} completed: {result}")
            }
            Happened::Received { core, bytes } => write!(f, "core {core}: received {bytes}"),
            Happened::Polled { core, position } => {
                write!(f, "core {core}: runnable task {position} polled")
            }
        }
    }
}

#[derive(Default)]
pub(crate) struct Log {
    last: VecDeque<(u64, usize, Happened)>,
}

impl Log {
    pub(crate) fn push(&mut self, time: u64, node: usize, what: Happened) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((time, node, what));
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (time, node, what) in &self.last {
            writeln!(f, "{time:>12} ns  node {node}  {what}")?;
        }
        Ok(())
    }
}
