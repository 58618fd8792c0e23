//! Counts and latencies of a run, kept by the generator's one core.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::report::{Latencies, LatencySummary};

/// Kinds of operation that are timed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Set,
    SetExpiring,
}

impl Kind {
    const ALL: [(Kind, &'static str); 3] =
        [(Kind::Get, "GET"), (Kind::Set, "SET"), (Kind::SetExpiring, "SET PX")];
}

/// Different error texts that are kept apart; more are counted together.
const ERROR_TEXTS_MAX: usize = 32;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    operations: u64,
    latencies: [Latencies; 3],
    recent: Latencies,
    errors: BTreeMap<String, u64>,
    error_count: u64,
    wrong_reads: u64,
    connections_left: usize,
}

/// A line of progress.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// Since the measured part began.
    pub elapsed: Duration,
    /// Operations so far.
    pub operations: u64,
    /// Operations a second since the last line.
    pub throughput: f64,
    /// Of all operations so far.
    pub latency: LatencySummary,
    /// Errors so far.
    pub errors: u64,
}

impl Tally {
    pub(super) fn new(connections: usize) -> Tally {
        Tally { connections_left: connections, ..Tally::default() }
    }

    /// Forgets what was counted, as after loading; lost connections and errors stay.
    pub(super) fn restart(&mut self) {
        self.operations = 0;
        self.latencies = Default::default();
        self.recent = Latencies::default();
    }

    pub(super) fn record(&mut self, kind: Kind, latency: Duration) {
        self.operations += 1;
        self.latencies[kind as usize].record(latency);
        self.recent.record(latency);
    }

    pub(super) fn error(&mut self, text: &str) {
        self.error_count += 1;
        if let Some(count) = self.errors.get_mut(text) {
            *count += 1;
        } else if self.errors.len() < ERROR_TEXTS_MAX {
            self.errors.insert(text.to_owned(), 1);
        } else {
            *self.errors.entry("other errors".to_owned()).or_insert(0) += 1;
        }
    }

    pub(super) fn connection_lost(&mut self, why: &str) {
        self.connections_left -= 1;
        self.error(&format!("connection lost: {why}"));
    }

    pub(super) fn wrong_read(&mut self) {
        self.wrong_reads += 1;
    }

    pub(super) fn connections_left(&self) -> usize {
        self.connections_left
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn wrong_reads(&self) -> u64 {
        self.wrong_reads
    }

    pub(super) fn latencies(&self) -> Vec<(String, LatencySummary)> {
        let all = Kind::ALL
            .iter()
            .map(|(kind, name)| ((*name).to_owned(), self.latencies[*kind as usize].summary()));
        all.filter(|(_, summary)| summary.count > 0).collect()
    }

    pub(super) fn into_errors(self) -> Vec<(String, u64)> {
        self.errors.into_iter().collect()
    }

    pub(super) fn progress(&self, elapsed: Duration, last: Option<&Progress>) -> Progress {
        let (before, seconds) = last.map_or((0, 0.0), |last| {
            (last.operations, (elapsed.saturating_sub(last.elapsed)).as_secs_f64())
        });
        let done = self.operations.saturating_sub(before) as f64;
        Progress {
            elapsed,
            operations: self.operations,
            throughput: if seconds > 0.0 { done / seconds } else { 0.0 },
            latency: self.recent.summary(),
            errors: self.error_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_text_and_their_texts_are_bounded() {
        let mut tally = Tally::new(2);
        tally.error("OOM");
        tally.error("OOM");
        (0..100).for_each(|n| tally.error(&format!("E{n}")));
        tally.connection_lost("reset");
        assert_eq!(tally.connections_left(), 1);
        let errors = tally.into_errors();
        assert!(errors.len() <= ERROR_TEXTS_MAX + 1);
        assert!(errors.contains(&("OOM".to_owned(), 2)));
        assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 103);
    }
}
