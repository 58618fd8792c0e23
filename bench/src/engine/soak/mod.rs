//! A long run at a steady rate: whether compaction shows in the latency of writes.
//!
//! 1. Every key is written once: ten times as much as memtables and cache hold, by default.
//! 2. *The most.* Keys are overwritten and deleted as fast as it goes, as many twice as there are,
//!    for a tenth of the time at least. The second half counts: at first there is nothing to merge
//!    yet, and the last level is written anew about once in every quarter. What counts of it are
//!    the slowest two seconds: on a host that others use the most is another every few seconds,
//!    and a load that is to be served in every second must be one that every second can serve.
//! 3. *The soak.* The same at a share of that rate, in an open loop: an op is due at its moment
//!    whether or not the one before is done, and its latency counts from there.
//! 4. *The control*, in between: the same load on the same data with nothing to merge. All jobs of
//!    the bar are done first, unmeasured; then one bar is written and measured up to the op that
//!    ends it; and again, until a tenth of the time of the soak is filled.
//! 5. In the end it is left alone until it has nothing more to do. A sample is read back, and space
//!    is looked at.
//!
//! A [`gauge`](super::gauge) tells how fast the core was in every second: a load that is steady by
//! the clock is not so by a core that slows down.
//!
//! Soak and control take turns, so that a noisy moment of the machine hits both. What is promised
//! of the two is in [`Report::promises`].

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::cases::{SAMPLE, Shared};
use super::gauge::Gauge;
use super::steady::{Done, Writer};
use super::{EngineError, Options, data};
use crate::host::ProcessUse;
use crate::report::{Latencies, LatencySummary};

mod turn;

pub use turn::{Bar, Second};

use turn::Soaked;

/// How long the soak goes on before the control has its turn.
const TURN: Duration = Duration::from_secs(10);
/// Of the time of the soak, what the control has.
const CONTROL_SHARE: u32 = 10;
/// Bars that a turn of the control may take: each brings work that is not measured.
const CONTROL_BARS_MAX: usize = 64;
/// The part of the whole time in which the most is looked for, at least.
const MOST_SHARE: u32 = 10;

/// What is asked for beside what the other measurements ask for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Load {
    /// How long the soak takes, without the control.
    pub duration: Duration,
    /// Of the most, how many hundredths are asked for.
    pub percent: u32,
    /// Operations a second to ask for instead.
    pub rate: Option<u32>,
    /// Of a hundred ops, how many delete.
    pub deletes: u32,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked for.
    pub load: Load,
    /// Operations a second, as fast as it went.
    pub most: f64,
    /// The same in the slowest two seconds: what was held all the time.
    pub held: f64,
    /// Operations a second that were asked for.
    pub rate: f64,
    /// Latencies of the soak.
    pub soak: LatencySummary,
    /// Latencies of the control.
    pub control: LatencySummary,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Bar by bar.
    pub bars: Vec<Bar>,
    /// The least that was done in a second, over the mean.
    pub least_second: f64,
    /// What fixed work took in the core's slowest second, over what it took in the middle one.
    pub slowest_second: f64,
    /// Bytes written to the grid over bytes given, while it soaked.
    pub write_amplification: f64,
    /// Bytes of blocks in use over bytes that exist, once nothing was left to do.
    pub space_amplification: f64,
    /// Resident memory after the first and after the last turn, in bytes.
    pub resident_bytes: [u64; 2],
}

/// A figure with its bound.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Promise {
    /// What it is of.
    pub name: &'static str,
    /// What was measured.
    pub found: f64,
    /// What it may be at most; at least, where `least` says so.
    pub bound: f64,
    /// Whether the bound is a lower one.
    pub least: bool,
}

impl Promise {
    /// Whether it was kept.
    #[must_use]
    pub fn held(&self) -> bool {
        if self.least { self.found >= self.bound } else { self.found <= self.bound }
    }
}

impl Report {
    /// What a steady load may expect.
    #[must_use]
    pub fn promises(&self) -> [Promise; 5] {
        let most = |name, found, bound| Promise { name, found, bound, least: false };
        let [first, last] = self.resident_bytes;
        [
            most("p99.9, over the control's", self.soak.p999_us / self.control.p999_us, 3.0),
            most("p99.99, over the control's", self.soak.p9999_us / self.control.p9999_us, 10.0),
            Promise {
                name: "the least second, over the mean",
                found: self.least_second,
                bound: 0.8,
                least: true,
            },
            most("space, over what exists", self.space_amplification, 1.3),
            most("memory at the end, over the first turn's", last as f64 / first as f64, 1.05),
        ]
    }
}

/// Soaks.
///
/// # Errors
/// [`EngineError`]; a wrong answer is one.
pub fn run(
    options: &Options,
    load: Load,
    progress: impl Fn(&str) + Send + 'static,
) -> Result<Report, EngineError> {
    super::check(options)?;
    if !(1..=100).contains(&load.percent) || load.deletes > 90 {
        let what = "the rate is 1 to 100 percent of the most, deletes are at most 90 percent";
        return Err(EngineError::Options(what.to_owned()));
    }
    super::in_folder(options, "quorate-bench-soak", move |folder, options| async move {
        soak(&folder, &options, load, &progress).await
    })
}

async fn soak(
    folder: &Path,
    options: &Options,
    load: Load,
    progress: &impl Fn(&str),
) -> Result<Report, EngineError> {
    progress("filling");
    let shared = Shared::create(folder, options, Rc::new(|_| ())).await?;
    let mut writer = Writer::new(&shared, options, load.deletes, 1 << 40);
    writer.fill().await?;
    progress("looking for the most");
    let half = load.duration / MOST_SHARE / 2;
    writer.most(half, options.keys).await?;
    let most = writer.most(half, options.keys).await?;
    let rate = load.rate.map_or(most.held * f64::from(load.percent) / 100.0, f64::from);
    let (mut soaked, mut control) = (Soaked::default(), Latencies::default());
    let mut gauge = Gauge::new();
    let (mut given, mut written, mut resident) = (0, 0, Vec::new());
    let bytes = || (shared.bytes_given(), shared.store().stats().write_bytes);
    let turns = load.duration.as_secs().div_ceil(TURN.as_secs()).max(1) as u32;
    for turn in 0..turns {
        progress(&format!("turn {} of {turns}, {rate:.0} operations a second", turn + 1));
        let before = bytes();
        soaked.turn(&mut writer, load.duration / turns, rate, &mut gauge).await?;
        let after = bytes();
        (given, written) = (given + after.0 - before.0, written + after.1 - before.1);
        resident.push(resident_bytes());
        let time = load.duration / turns / CONTROL_SHARE;
        control_turn(&mut writer, time, rate, &mut control).await?;
    }
    progress("settling");
    shared.store().idle().await?;
    shared.read_back(super::Work::Overwrite).await?;
    Ok(Report {
        load,
        most: most.mean,
        held: most.held,
        rate,
        soak: soaked.latencies.summary(),
        control: control.summary(),
        least_second: soaked.least_second(),
        slowest_second: soaked.slowest_second(),
        seconds: soaked.seconds,
        bars: soaked.bars,
        write_amplification: written as f64 / given as f64,
        space_amplification: shared.space_amplification(),
        resident_bytes: [resident[0], resident[resident.len() - 1]],
    })
}

fn resident_bytes() -> u64 {
    ProcessUse::read(std::process::id()).unwrap_or_default().resident_bytes
}

async fn control_turn(
    writer: &mut Writer<'_>,
    time: Duration,
    rate: f64,
    to: &mut Latencies,
) -> Result<(), EngineError> {
    let bars = |shared: &Shared| shared.store().with(|forest| forest.stats().bars);
    let mut left = time;
    for _ in 0..CONTROL_BARS_MAX {
        writer.shared.store().finish_jobs().await;
        let (shared, bar, start) = (writer.shared, bars(writer.shared), ioring::now());
        let last = Cell::new(start);
        let note = |op: Done| {
            let same = bars(shared) == bar;
            if same {
                to.record_many(op.latency(), op.operations);
                last.set(op.ended);
            }
            same
        };
        writer.paced(left, rate, note).await?;
        left = left.saturating_sub(last.get().since(start));
        if left.is_zero() {
            break;
        }
    }
    Ok(())
}

/// Keys whose entries take ten times what memtables and cache hold.
#[must_use]
pub fn keys_for(cache_bytes: u64, value_size: u32) -> u64 {
    let memtables = 2 * lsm::config::Config::standard().memtable_bytes;
    let entry = data::KEY_SIZE as u64 + u64::from(value_size);
    (10 * (memtables + cache_bytes) / entry).max(SAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_soak_measures_both_sides() {
        let program = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let options = Options {
            directory: folder.path().to_owned(),
            keys: 20_000,
            value_size: 400,
            duration: Duration::ZERO,
            batch: 16,
            depth: 1,
            scan_length: 1,
            cache_bytes: 8 << 20,
            cpu: 0,
            delete_rounds: 1,
            seed: 1,
        };
        let load =
            Load { duration: Duration::from_millis(1200), percent: 30, rate: None, deletes: 20 };
        let report = run(&options, load, |_| ()).unwrap();
        assert_eq!(report.seconds.len(), 1);
        let asked = report.rate * 1.2;
        assert!(report.soak.count as f64 > asked / 2.0, "{} of {asked}", report.soak.count);
        assert!(report.control.count > 0 && report.control.count < report.soak.count);
        assert!(report.rate < report.most && report.write_amplification > 0.5, "{report:?}");
        assert!(report.space_amplification > 1.0);
    }

    #[test]
    fn promises_are_kept_or_not() {
        let promise = |found, least| Promise { name: "", found, bound: 2.0, least };
        assert!(promise(1.0, false).held() && !promise(3.0, false).held());
        assert!(!promise(1.0, true).held() && promise(3.0, true).held());
    }
}
