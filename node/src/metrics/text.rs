//! Metrics as Prometheus text, version 0.0.4.
//!
//! Counters are sums over cores: how requests spread over cores shows in the per-core gauges of
//! `/status`, and a label per core would multiply every series for nothing. Stage latencies are
//! one histogram, `quorate_stage_seconds`, with a `stage` label and fixed bounds in 1-2-5 steps
//! from 10 µs to 10 s, so that histograms of several nodes can be added up.

use super::{COUNTERS, Kind, STAGES, Snapshot};
use std::fmt::Write as _;

/// Upper bounds of the histogram's buckets in nanoseconds.
const BOUNDS_NS: [u64; 19] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// What is computed when asked for: name without prefix, help, and values by label. A gauge, or a
/// counter if its name says `_total`.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Name without `quorate_`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Label pairs as `shard="0"`, or empty, and the value.
    pub values: Vec<(String, u64)>,
}

/// Writes the sum of all cores and the given gauges.
pub fn write(sum: &Snapshot, gauges: &[Gauge]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for counter in COUNTERS {
        let kind = match counter.kind() {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        header(&mut out, counter.name(), counter.help(), kind);
        line(&mut out, format_args!("{} {}", counter.name(), sum.get(*counter)));
    }
    for gauge in gauges {
        let name = format!("quorate_{}", gauge.name);
        let kind = if gauge.name.ends_with("_total") { "counter" } else { "gauge" };
        header(&mut out, &name, gauge.help, kind);
        for (labels, value) in &gauge.values {
            match labels.as_str() {
                "" => line(&mut out, format_args!("{name} {value}")),
                labels => line(&mut out, format_args!("{name}{{{labels}}} {value}")),
            }
        }
    }
    stages(&mut out, sum);
    out
}

fn stages(out: &mut String, sum: &Snapshot) {
    const NAME: &str = "quorate_stage_seconds";
    header(out, NAME, "How long requests and prepares spend in each stage.", "histogram");
    for stage in STAGES {
        let histogram = sum.stage(*stage);
        let name = stage.name();
        let (mut below, mut from) = (0, 0);
        for bound in BOUNDS_NS {
            below += histogram.count_between(from, bound);
            // The histogram counts whole buckets of equivalent values: go on behind this one's.
            from = histogram.highest_equivalent(bound) + 1;
            let seconds = bound as f64 / 1e9;
            line(out, format_args!("{NAME}_bucket{{stage=\"{name}\",le=\"{seconds}\"}} {below}"));
        }
        let count = histogram.len();
        assert!(below <= count, "buckets are disjoint");
        line(out, format_args!("{NAME}_bucket{{stage=\"{name}\",le=\"+Inf\"}} {count}"));
        let total = histogram.mean() * count as f64 / 1e9;
        line(out, format_args!("{NAME}_sum{{stage=\"{name}\"}} {total}"));
        line(out, format_args!("{NAME}_count{{stage=\"{name}\"}} {count}"));
    }
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes every write");
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::{Counter, Metrics, Stage};
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_metric_has_help_type_and_value() {
        let metrics = Metrics::default();
        metrics.add(Counter::Commands, 7);
        let gauge = Gauge {
            name: "memtable_bytes",
            help: "Bytes in memtables.",
            values: vec![("shard=\"0\"".to_owned(), 5), ("shard=\"1\"".to_owned(), 6)],
        };
        let text = write(&metrics.snapshot(), &[gauge]);
        for counter in COUNTERS {
            assert!(text.contains(&format!("# HELP {} ", counter.name())));
            assert!(text.contains(&format!("# TYPE {} ", counter.name())));
        }
        assert!(text.contains("\nquorate_commands_total 7\n"));
        assert!(text.contains("\nquorate_memtable_bytes{shard=\"1\"} 6\n"));
    }

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for us in [5, 15, 15, 80, 3_000, 20_000_000] {
            metrics.record(Stage::Write, Duration::from_micros(us));
        }
        let text = write(&metrics.snapshot(), &[]);
        let bucket = |le: &str| {
            let prefix = format!("quorate_stage_seconds_bucket{{stage=\"write\",le=\"{le}\"}} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&prefix));
            found.expect(le).parse::<u64>().unwrap()
        };
        assert_eq!(bucket("0.00001"), 1);
        assert_eq!(bucket("0.00002"), 3);
        assert_eq!(bucket("0.0001"), 4);
        assert_eq!(bucket("0.005"), 5);
        assert_eq!(bucket("10"), 5);
        assert_eq!(bucket("+Inf"), 6);
        assert!(text.contains("quorate_stage_seconds_count{stage=\"write\"} 6\n"));
    }
}
