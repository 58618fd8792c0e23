//! What a world is like: times, sizes, rates. Defaults are a healthy small cluster.

use std::time::Duration;

use super::disk::DiskConfig;
use super::net::NetConfig;

/// Everything about a world that is not its seed.
#[derive(Clone, Debug)]
pub struct Config {
    /// How every disk is made.
    pub disk: DiskConfig,
    /// How long disk operations take.
    pub disk_timing: DiskTiming,
    /// How the network behaves.
    pub net: NetConfig,
    /// Transfers of files, per million, that move fewer bytes than asked for.
    pub short_io: u32,
    /// Whether files can be opened for direct I/O.
    pub direct_io: bool,
    /// Least time that a poll of a task holds its core.
    pub poll_min: Duration,
    /// Greatest time that a poll of a task holds its core.
    pub poll_max: Duration,
    /// Steps after which a run is taken for a livelock and panics.
    pub steps_max: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            disk: DiskConfig::default(),
            disk_timing: DiskTiming::default(),
            net: NetConfig::default(),
            short_io: 10_000,
            direct_io: true,
            poll_min: Duration::from_nanos(100),
            poll_max: Duration::from_micros(2),
            steps_max: 20_000_000,
        }
    }
}

/// Typical times; each operation takes half to one and a half of them.
#[derive(Clone, Debug)]
pub struct DiskTiming {
    /// A read.
    pub read: Duration,
    /// A write into the disk's cache.
    pub write: Duration,
    /// A write that is durable when it completes.
    pub write_durable: Duration,
    /// A sync.
    pub sync: Duration,
    /// For each byte moved.
    pub per_byte_ns: u64,
    /// Operations, per million, that take 2 to 256 times as long.
    pub tail: u32,
}

impl Default for DiskTiming {
    fn default() -> DiskTiming {
        DiskTiming {
            read: Duration::from_micros(60),
            write: Duration::from_micros(40),
            write_durable: Duration::from_micros(80),
            sync: Duration::from_micros(60),
            per_byte_ns: 1,
            tail: 5_000,
        }
    }
}

/// A node's time of day. The monotonic clock is the same everywhere and always right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Difference from the true time, in nanoseconds; change it to make the clock jump.
    pub offset_ns: i64,
    /// How much faster than true time it runs, in parts per million.
    pub drift_ppm: i64,
    /// The virtual time at which it stopped.
    pub frozen_at: Option<Duration>,
}

/// Where all worlds begin: 2024-01-01 00:00 UTC, in nanoseconds since 1970.
pub const WORLD_BEGINS: u64 = 1_704_067_200_000_000_000;

impl Clock {
    /// What it shows at a virtual time, in nanoseconds since 1970.
    pub(crate) fn read(&self, now: u64) -> u64 {
        let now = self.frozen_at.map_or(now, |at| now.min(at.as_nanos() as u64));
        let drift = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        let time = i128::from(WORLD_BEGINS) + i128::from(now) + drift + i128::from(self.offset_ns);
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_skewed_drift_jump_and_freeze() {
        let second = 1_000_000_000;
        let show = |clock: Clock| clock.read(100 * second) as i64 - WORLD_BEGINS as i64;
        let right = Clock::default();
        assert_eq!(show(right), 100 * second as i64);
        assert_eq!(show(Clock { offset_ns: -5, ..right }), 100 * second as i64 - 5);
        assert_eq!(show(Clock { drift_ppm: 10_000, ..right }), 101 * second as i64);
        let frozen = Clock { frozen_at: Some(Duration::from_secs(3)), ..right };
        assert_eq!(show(frozen), 3 * second as i64);
    }
}
