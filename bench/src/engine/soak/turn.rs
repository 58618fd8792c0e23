//! A turn of the soak: what is noted of every op, second and bar.

use std::time::Duration;

use ioring::Instant;
use lsm::forest::Stats;
use serde::Serialize;

use crate::engine::EngineError;
use crate::engine::cases::Shared;
use crate::engine::gauge::{Gauge, Look, medians_us};
use crate::engine::steady::{Done, Spare, Writer};
use crate::host::DeviceUse;
use crate::report::Latencies;

/// A second of the soak.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Second {
    /// Writes and deletes done in it.
    pub operations: u64,
    /// The longest that one of them took, in microseconds.
    pub max_us: f64,
    /// Blocks that the bar's jobs were behind at its end.
    pub debt: u64,
    /// What fixed pieces of work took on the core, in microseconds: arithmetic, a walk through
    /// memory, a copy.
    pub gauge_us: [f64; 3],
    /// What a read and a write took the device on average, in microseconds.
    pub device_us: [f64; 2],
    /// How often who waits for an op's moment got the core. Merges that need it leave little; if
    /// there is debt and much of this, they wait for the device.
    pub spare_turns: u64,
}

/// A bar of the soak.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bar {
    /// When it ended, in seconds of the soak.
    pub ended: f64,
    /// How long it took.
    pub milliseconds: f64,
    /// What its jobs had to read, in blocks.
    pub blocks: u64,
}

/// What the turns came to.
#[derive(Default)]
pub(super) struct Soaked {
    pub(super) latencies: Latencies,
    pub(super) seconds: Vec<Second>,
    pub(super) bars: Vec<Bar>,
}

impl Soaked {
    /// The least that was done in a second, over the mean.
    pub(super) fn least_second(&self) -> f64 {
        let operations = self.seconds.iter().map(|second| second.operations);
        let mean = operations.clone().sum::<u64>() as f64 / self.seconds.len().max(1) as f64;
        operations.min().unwrap_or(0) as f64 / mean
    }

    /// What fixed work took in the slowest second, over the middle one.
    pub(super) fn slowest_second(&self) -> f64 {
        let sum = |second: &Second| second.gauge_us.iter().sum();
        let mut times: Vec<f64> = self.seconds.iter().map(sum).collect();
        times.sort_unstable_by(f64::total_cmp);
        times.last().map_or(1.0, |slowest| slowest / times[times.len() / 2])
    }

    pub(super) async fn turn(
        &mut self,
        writer: &mut Writer<'_>,
        time: Duration,
        rate: f64,
        gauge: &mut Gauge,
    ) -> Result<(), EngineError> {
        let mut turn = Turn::begin(self, writer.shared, writer.spare(), time, gauge);
        let noted = writer.paced(time, rate, |op| turn.note(op)).await;
        turn.end();
        noted
    }
}

/// What a second begins with, to be subtracted at its end.
struct Before {
    device: Option<DeviceUse>,
    spare: u64,
}

/// A turn while it lasts.
struct Turn<'a> {
    to: &'a mut Soaked,
    shared: &'a Shared,
    gauge: &'a mut Gauge,
    spare: Spare,
    start: Instant,
    /// Seconds of the turns before.
    earlier: f64,
    stats: Stats,
    bar_began: Option<Instant>,
    seconds: Vec<Second>,
    /// The second that is under way.
    current: usize,
    before: Before,
    /// What the gauge showed in it.
    looks: Vec<Look>,
}

impl<'a> Turn<'a> {
    fn begin(
        to: &'a mut Soaked,
        shared: &'a Shared,
        spare: Spare,
        time: Duration,
        gauge: &'a mut Gauge,
    ) -> Turn<'a> {
        Turn {
            earlier: to.seconds.len() as f64,
            to,
            shared,
            gauge,
            start: ioring::now(),
            stats: shared.store().with(|forest| forest.stats()),
            bar_began: None,
            seconds: vec![Second::default(); time.as_secs() as usize],
            current: 0,
            before: Before { device: DeviceUse::read(shared.folder()), spare: spare.turns() },
            spare,
            looks: Vec::new(),
        }
    }

    fn note(&mut self, op: Done) -> bool {
        let latency = op.latency();
        self.to.latencies.record_many(latency, op.operations);
        let stats = self.shared.store().with(|forest| forest.stats());
        if stats.bars != self.stats.bars {
            self.end_bar(op.ended);
        }
        self.stats = stats;
        let index = op.ended.since(self.start).as_secs() as usize;
        if index != self.current {
            self.end_second();
            self.current = index;
        }
        // What ends in the last, partial second is in the latencies only.
        if let Some(second) = self.seconds.get_mut(index) {
            second.operations += op.operations;
            second.max_us = second.max_us.max(latency.as_secs_f64() * 1e6);
            second.debt = stats.debt;
            self.looks.extend(self.gauge.look());
        }
        true
    }

    fn end_bar(&mut self, ended: Instant) {
        // The bar that a turn begins in is known from its middle only.
        let Some(began) = self.bar_began.replace(ended) else { return };
        self.to.bars.push(Bar {
            ended: self.earlier + ended.since(self.start).as_secs_f64(),
            milliseconds: ended.since(began).as_secs_f64() * 1e3,
            blocks: self.stats.work,
        });
    }

    fn end_second(&mut self) {
        let device = DeviceUse::read(self.shared.folder());
        let before =
            std::mem::replace(&mut self.before, Before { device, spare: self.spare.turns() });
        let Some(second) = self.seconds.get_mut(self.current) else { return };
        second.gauge_us = medians_us(&self.looks);
        self.looks.clear();
        second.spare_turns = self.before.spare - before.spare;
        if let (Some(now), Some(earlier)) = (device, before.device) {
            second.device_us = now.latencies_us(&earlier);
        }
    }

    fn end(mut self) {
        self.end_second();
        self.to.seconds.append(&mut self.seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_second_is_told_by_its_share() {
        let second = |operations| Second { operations, ..Second::default() };
        let seconds = vec![second(90), second(120), second(90)];
        let soaked = Soaked { seconds, ..Soaked::default() };
        assert!((soaked.least_second() - 0.9).abs() < 1e-9);
    }
}
