//! What a checkpoint does to the latency of writes: before it, while it is written, after it.
//!
//! 1. Every key is written once.
//! 2. *The most.* Keys are overwritten as fast as it goes, for a tenth of the time.
//! 3. The same at a share of that rate, in an open loop: an op is due at its moment, and its
//!    latency counts from there. Each is kept with the time at which it ended.
//! 4. Afterwards each is put to the checkpoint it has to do with: *during* is what overlaps the
//!    time from a checkpoint's trigger to its being durable; *before* and *after* are what ended
//!    within [`WINDOW`] of that time; all others are *apart*. So the four are of the same run, data
//!    and disk, and differ in nothing but the checkpoint.
//!
//! A checkpoint is made of few blocks: the manifest log's new ones, the free set's, the owner's,
//! the root. They are written in the background, four at a time, and then the file is synced, which
//! takes as long as the disk needs for all that merges have written and it has not taken yet.
//! Nothing waits for it but the end of the bar after. That is its whole pace, and this command
//! shows whether it is enough.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::cases::Shared;
use super::steady::{Done, Writer};
use super::store::Span;
use super::{EngineError, Options};
use crate::report::{Latencies, LatencySummary};

/// How long before and after a checkpoint counts as its neighbourhood.
pub const WINDOW: Duration = Duration::from_millis(50);
/// The part of the whole time in which the most is looked for.
const MOST_SHARE: u32 = 10;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Operations a second, as fast as it went.
    pub most: f64,
    /// Operations a second that were asked for.
    pub rate: f64,
    /// Checkpoints in the time that counts.
    pub checkpoints: u64,
    /// Blocks of a checkpoint, on average.
    pub blocks: f64,
    /// From their trigger to their being durable, in microseconds; `count` is of checkpoints.
    pub lasted: LatencySummary,
    /// Latencies of writes, by what they have to do with a checkpoint.
    pub writes: [(&'static str, LatencySummary); 4],
}

/// Measures.
///
/// # Errors
/// [`EngineError`]; a wrong answer is one.
pub fn run(
    options: &Options,
    percent: u32,
    progress: impl Fn(&str) + Send + 'static,
) -> Result<Report, EngineError> {
    super::check(options)?;
    if !(1..=100).contains(&percent) {
        let what = "the rate is 1 to 100 percent of the most";
        return Err(EngineError::Options(what.to_owned()));
    }
    super::in_folder(options, "quorate-bench-checkpoint", move |folder, options| async move {
        measure(&folder, &options, percent, &progress).await
    })
}

async fn measure(
    folder: &Path,
    options: &Options,
    percent: u32,
    progress: &impl Fn(&str),
) -> Result<Report, EngineError> {
    progress("filling");
    let shared = Shared::create(folder, options, Rc::new(|_| ())).await?;
    let mut writer = Writer::new(&shared, options, 0, 1 << 41);
    writer.fill().await?;
    progress("looking for the most");
    let most = writer.most(options.duration / MOST_SHARE, 1).await?.mean;
    let rate = most * f64::from(percent) / 100.0;
    progress(&format!("{rate:.0} operations a second"));
    let before = shared.store().spans().len();
    // Nothing is allocated while it is measured.
    let ops_max = options.duration.as_secs_f64() * rate / options.batch as f64;
    let mut ops = Vec::with_capacity(ops_max as usize + 2);
    let note = |op| {
        ops.push(op);
        true
    };
    writer.paced(options.duration, rate, note).await?;
    let spans = shared.store().spans().split_off(before);
    shared.read_back(super::Work::Overwrite).await?;
    Ok(report(most, rate, &ops, &spans))
}

fn report(most: f64, rate: f64, ops: &[Done], spans: &[Span]) -> Report {
    let mut phases = [(); 4].map(|()| Latencies::default());
    for op in ops {
        let phase = phase(op, spans);
        phases[phase].record_many(op.latency(), op.operations);
    }
    let mut lasted = Latencies::default();
    spans.iter().for_each(|span| lasted.record(span.durable.since(span.began)));
    let [before, during, after, apart] = phases.map(|latencies| latencies.summary());
    let blocks: u64 = spans.iter().map(|span| span.blocks).sum();
    Report {
        most,
        rate,
        checkpoints: spans.len() as u64,
        blocks: blocks as f64 / (spans.len() as f64).max(1.0),
        lasted: lasted.summary(),
        writes: [("before", before), ("during", during), ("after", after), ("apart", apart)],
    }
}

/// Number of the phase that an op belongs to: an op that could be counted to two of them belongs to
/// the one that is nearer to a checkpoint's write.
fn phase(op: &Done, spans: &[Span]) -> usize {
    let next = spans.partition_point(|span| span.durable < op.due);
    if spans.get(next).is_some_and(|span| span.began <= op.ended) {
        return 1;
    }
    if next > 0 && op.ended.since(spans[next - 1].durable) <= WINDOW {
        return 2;
    }
    let soon = |span: &Span| span.began.since(op.ended) <= WINDOW;
    if spans.get(next).is_some_and(soon) { 0 } else { 3 }
}

#[cfg(test)]
mod tests {
    use ioring::Instant;

    use super::*;

    #[test]
    fn an_op_belongs_to_what_it_overlaps_or_is_near_to() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let span = |began, durable| Span { began: at(began), durable: at(durable), blocks: 3 };
        let spans = [span(1000, 1010), span(2000, 2020)];
        let phase =
            |due, ended| phase(&Done { due: at(due), ended: at(ended), operations: 1 }, &spans);
        let [before, during, after, apart] = [0, 1, 2, 3];
        assert_eq!(phase(0, 1), apart);
        assert_eq!(phase(930, 940), apart);
        assert_eq!(phase(940, 960), before);
        assert_eq!(phase(990, 1001), during);
        assert_eq!(phase(1005, 1006), during);
        assert_eq!(phase(900, 1100), during);
        assert_eq!(phase(1009, 1300), during);
        assert_eq!(phase(1011, 1012), after);
        assert_eq!(phase(1062, 1063), apart);
        assert_eq!(phase(1960, 1970), before);
        assert_eq!(phase(2030, 2040), after);
        assert_eq!(phase(2500, 2600), apart);
    }

    #[test]
    fn a_short_run_meets_checkpoints() {
        let program = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let options = Options {
            directory: folder.path().to_owned(),
            keys: 20_000,
            value_size: 4000,
            duration: Duration::from_millis(3000),
            batch: 16,
            depth: 1,
            scan_length: 1,
            cache_bytes: 8 << 20,
            cpu: 0,
            delete_rounds: 1,
            seed: 1,
        };
        let report = run(&options, 100, |_| ()).unwrap();
        assert!(report.checkpoints > 0 && report.blocks >= 3.0, "{report:?}");
        assert_eq!(report.lasted.count, report.checkpoints);
        let [before, during, after, apart] = report.writes.map(|(_, writes)| writes.count);
        assert!(during > 0 && before + after + apart > 0, "{report:?}");
    }
}
