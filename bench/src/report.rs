//! What a run found, for people and for programs.
//!
//! Latencies are recorded in nanoseconds with three significant digits (HdrHistogram, Gil Tene).
//! In an open loop they are measured from the moment at which a request was *due*, not from when
//! the generator got around to sending it: a stall of the node is then felt by every request that
//! it delayed ("coordinated omission").

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::host::{Host, ProcessUse};

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(120);

/// Latencies of one kind of operation.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        // Memory is set aside once; what takes longer than the bound is recorded as the bound.
        let bound = LATENCY_MAX.as_nanos() as u64;
        Latencies(Histogram::new_with_bounds(1, bound, 3).expect("bounds and digits are valid"))
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Adds the latency that so many operations had together.
    pub fn record_many(&mut self, latency: Duration, operations: u64) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(nanoseconds.max(1), operations);
    }

    /// Adds all latencies of `other`.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// The usual points of the distribution.
    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        LatencySummary {
            count: self.0.len(),
            mean_us: self.0.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: self.0.max() as f64 / 1000.0,
        }
    }
}

/// Points of a latency distribution, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LatencySummary {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

/// What came of reading a sample back after the run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Verification {
    /// Keys read back.
    pub keys_read: u64,
    /// Keys whose newest acknowledged write was gone.
    pub lost: u64,
    /// Keys that held a value never written to them.
    pub wrong: u64,
}

impl Verification {
    /// Whether a sample was read and all of it was right.
    pub fn is_good(&self) -> bool {
        self.keys_read > 0 && self.lost == 0 && self.wrong == 0
    }
}

/// The report of `bench run`.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// Where the load went.
    pub address: String,
    /// The settings, as given.
    pub settings: Vec<(String, String)>,
    /// What it ran on.
    pub host: Host,
    /// Wall time of the measured part, in seconds.
    pub seconds: f64,
    /// Operations answered without an error.
    pub operations: u64,
    /// Operations a second.
    pub throughput: f64,
    /// Per kind of operation.
    pub latencies: Vec<(String, LatencySummary)>,
    /// Error replies by their text, and lost connections.
    pub errors: Vec<(String, u64)>,
    /// Values read during the run that were older than acknowledged or never written.
    pub wrong_reads: u64,
    /// The server's use of processor and disk, when its process can be seen.
    pub server: Option<ProcessUse>,
    /// The read-back; without it the result is unverified.
    pub verification: Option<Verification>,
}

impl RunReport {
    /// Server processor time for an operation, in microseconds: user and kernel.
    pub fn server_us_per_operation(&self) -> Option<(f64, f64)> {
        let server = self.server.as_ref().filter(|_| self.operations > 0)?;
        let per = |time: Duration| time.as_secs_f64() * 1e6 / self.operations as f64;
        Some((per(server.user), per(server.system)))
    }

    /// Whether the run and its read-back found nothing wrong.
    pub fn is_good(&self) -> bool {
        self.wrong_reads == 0
            && self.errors.is_empty()
            && self.verification.is_none_or(|verification| verification.is_good())
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { kernel, cpu, cores, memory_bytes } = &self.host;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        writeln!(f, "target      {}", self.address)?;
        writeln!(f, "host        {cpu}, {cores} cores, {gib:.0} GiB, Linux {kernel}")?;
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(f, "settings    {}", settings.join(" "))?;
        writeln!(
            f,
            "throughput  {:.0} operations/s ({} in {:.2} s)",
            self.throughput, self.operations, self.seconds
        )?;
        writeln!(
            f,
            "\n{:<12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "latency, us", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, l) in &self.latencies {
            writeln!(
                f,
                "{name:<12}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
                l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.p9999_us, l.max_us
            )?;
        }
        writeln!(f)?;
        if let (Some((user, system)), Some(server)) =
            (self.server_us_per_operation(), self.server.as_ref())
        {
            writeln!(
                f,
                "server      {:.2} us of processor per operation ({user:.2} user, {system:.2} \
                 kernel), {} MiB written, {} MiB resident",
                user + system,
                server.written_bytes >> 20,
                server.resident_bytes >> 20
            )?;
        }
        for (text, count) in &self.errors {
            writeln!(f, "error       {count} x {text}")?;
        }
        if self.wrong_reads > 0 {
            writeln!(f, "WRONG       {} reads returned what they must not", self.wrong_reads)?;
        }
        match &self.verification {
            None => writeln!(f, "read-back   none: this result is unverified"),
            Some(v) if v.is_good() => {
                writeln!(f, "read-back   {} keys, all as acknowledged", v.keys_read)
            }
            Some(v) => {
                writeln!(f, "read-back   {} keys: {} LOST, {} WRONG", v.keys_read, v.lost, v.wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_points_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|us| latencies.record(Duration::from_micros(us)));
        let mut more = Latencies::default();
        more.record(Duration::from_millis(50));
        latencies.add(&more);
        let summary = latencies.summary();
        assert_eq!(summary.count, 1001);
        assert!((summary.p50_us - 500.0).abs() < 5.0, "{summary:?}");
        assert!((summary.p99_us - 991.0).abs() < 10.0, "{summary:?}");
        assert!((summary.max_us - 50_000.0).abs() < 50.0, "{summary:?}");
    }
}
