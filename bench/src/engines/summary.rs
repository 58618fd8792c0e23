//! From the turns of the rounds to lines of a table.

use serde::Serialize;

use super::{Disk, Engine};
use crate::device::median;
use crate::engine::{self, Work};
use crate::report::LatencySummary;

/// What one engine did in one round, and what the disk could do just before.
pub(super) struct Turn {
    pub(super) row: engine::Row,
    pub(super) disk: Disk,
}

/// A median and what it is the median of.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least of the rounds.
    pub least: f64,
    /// The most of the rounds.
    pub most: f64,
}

impl Spread {
    /// Of the rounds in which there is a value; none if there is none.
    fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Spread> {
        let values: Vec<f64> = values.flatten().filter(|value| value.is_finite()).collect();
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Spread { median: median(values), least, most })
    }
}

/// One measured line: medians over the rounds, of latencies too; `max_us` is the most.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// By which engine.
    pub engine: Engine,
    /// Operations a second.
    pub per_second: Spread,
    /// What it is made of.
    #[serde(flatten)]
    pub middle: engine::Row,
    /// Random reads of 4 KiB a second that the disk did before at the same depth.
    pub disk_reads_per_second: Option<f64>,
    /// Bytes a second that the disk wrote before.
    pub disk_write_bytes_per_second: Option<f64>,
}

/// Ours over a peer's, within each round. Where theirs is zero there is no ratio.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What was done.
    pub work: Work,
    /// The peer.
    pub engine: Engine,
    /// Of operations a second; more is better.
    pub throughput: Option<Spread>,
    /// Of operations a second with the time that what was due took; where something was written.
    pub throughput_settled: Option<Spread>,
    /// Of the 99th percentiles; less is better, as in all that follow.
    pub p99: Option<Spread>,
    /// Of the 99.99th percentiles.
    pub p9999: Option<Spread>,
    /// Of write amplifications.
    pub write_amplification: Option<Spread>,
    /// Of reads for an operation.
    pub reads: Option<Spread>,
    /// Of processor times for an operation.
    pub cpu: Option<Spread>,
    /// Of resident memory.
    pub resident: Option<Spread>,
    /// Our reads a second over those that the disk did just before at the same depth.
    pub own_share_of_disk: Option<Spread>,
    /// The peer's, likewise.
    pub share_of_disk: Option<Spread>,
}

fn per_second(row: &engine::Row) -> f64 {
    row.operations as f64 / row.seconds
}

/// The rows of all engines and our ratios to each peer. The first engine is ours.
pub(super) fn summarise(
    work: Work,
    engines: &[Engine],
    turns: &[Vec<Turn>],
) -> (Vec<Row>, Vec<Ratio>) {
    let sides = || engines.iter().zip(turns);
    let rows = sides().map(|(engine, turns)| row(work, *engine, turns)).collect();
    let ratios = sides().skip(1).map(|(engine, theirs)| ratio(work, *engine, &turns[0], theirs));
    (rows, ratios.collect())
}

fn row(work: Work, engine: Engine, turns: &[Turn]) -> Row {
    let middle = |value: fn(&engine::Row) -> f64| {
        median(turns.iter().map(|turn| value(&turn.row)).collect())
    };
    let option = |value: fn(&Turn) -> Option<f64>| {
        Spread::of(turns.iter().map(value)).map(|spread| spread.median)
    };
    let max_us = turns.iter().map(|turn| turn.row.latency.max_us).fold(0.0, f64::max);
    Row {
        engine,
        per_second: Spread::of(turns.iter().map(|turn| Some(per_second(&turn.row))))
            .unwrap_or(Spread { median: 0.0, least: 0.0, most: 0.0 }),
        middle: engine::Row {
            work,
            operations: middle(|row| row.operations as f64) as u64,
            seconds: middle(|row| row.seconds),
            bytes_per_second: middle(|row| row.bytes_per_second),
            latency: LatencySummary {
                count: middle(|row| row.latency.count as f64) as u64,
                mean_us: middle(|row| row.latency.mean_us),
                p50_us: middle(|row| row.latency.p50_us),
                p90_us: middle(|row| row.latency.p90_us),
                p99_us: middle(|row| row.latency.p99_us),
                p999_us: middle(|row| row.latency.p999_us),
                p9999_us: middle(|row| row.latency.p9999_us),
                max_us,
            },
            write_amplification: option(|turn| turn.row.write_amplification),
            read_amplification: option(|turn| turn.row.read_amplification),
            device_reads: middle(|row| row.device_reads),
            space_amplification: option(|turn| turn.row.space_amplification),
            cpu_us: middle(|row| row.cpu_us),
            resident_bytes: middle(|row| row.resident_bytes as f64) as u64,
            stalls: middle(|row| row.stalls as f64) as u64,
            stall_seconds: middle(|row| row.stall_seconds),
            settle_seconds: middle(|row| row.settle_seconds),
        },
        disk_reads_per_second: option(|turn| turn.disk.reads),
        disk_write_bytes_per_second: option(|turn| turn.disk.write_bytes),
    }
}

fn ratio(work: Work, engine: Engine, ours: &[Turn], theirs: &[Turn]) -> Ratio {
    let over = |value: fn(&engine::Row) -> Option<f64>| {
        let rounds = ours.iter().zip(theirs);
        Spread::of(rounds.map(|(ours, theirs)| {
            let theirs = value(&theirs.row).filter(|value| *value > 0.0)?;
            Some(value(&ours.row)? / theirs)
        }))
    };
    let share = |turns: &[Turn]| {
        Spread::of(turns.iter().map(|turn| {
            let reads = per_second(&turn.row) * turn.row.device_reads;
            turn.disk.reads.filter(|_| reads > 0.0).map(|disk| reads / disk)
        }))
    };
    let cold = matches!(work, Work::ReadCold);
    Ratio {
        work,
        engine,
        throughput: over(|row| Some(per_second(row))),
        throughput_settled: over(|row| {
            let settled = row.operations as f64 / (row.seconds + row.settle_seconds);
            row.write_amplification.map(|_| settled)
        }),
        p99: over(|row| Some(row.latency.p99_us)),
        p9999: over(|row| Some(row.latency.p9999_us)),
        write_amplification: over(|row| row.write_amplification),
        reads: over(|row| Some(row.device_reads).filter(|_| row.write_amplification.is_none())),
        cpu: over(|row| Some(row.cpu_us)),
        resident: over(|row| Some(row.resident_bytes as f64)),
        own_share_of_disk: share(ours).filter(|_| cold),
        share_of_disk: share(theirs).filter(|_| cold),
    }
}
