//! What a measurement ran on: a figure without this is no figure.
//!
//! Read from `/proc` and `/sys`; what cannot be read is said to be unknown, never guessed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// The machine, as far as it decides results.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// `uname -r`
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores this process may run on.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Host {
    /// Reads the machine's description.
    pub fn read() -> Host {
        let line = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find(|line| line.starts_with(key));
            found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory_kib = line("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Host {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            cpu: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib.unwrap_or(0) * 1024,
        }
    }
}

/// What a process has used so far, from `/proc/PID/stat` and `/proc/PID/io`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ProcessUse {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel on its behalf.
    pub system: Duration,
    /// Resident memory in bytes, now.
    pub resident_bytes: u64,
    /// Bytes that it caused to be written to storage.
    pub written_bytes: u64,
}

impl ProcessUse {
    /// Reads the counters of process `pid`; `None` when it is gone or not ours to read.
    pub fn read(pid: u32) -> Option<ProcessUse> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name is in parentheses and may contain anything: fields count from behind it.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
        let ticks = |index: usize| -> Option<Duration> {
            // USER_HZ is 100 on every architecture that Linux reports to user space.
            Some(Duration::from_millis(fields.get(index)?.parse::<u64>().ok()? * 10))
        };
        let pages: u64 = fields.get(21)?.parse().ok()?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Some(ProcessUse {
            user: ticks(11)?,
            system: ticks(12)?,
            resident_bytes: pages * 4096,
            written_bytes: written.and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }

    /// What was used between `earlier` and this reading.
    pub fn since(&self, earlier: &ProcessUse) -> ProcessUse {
        ProcessUse {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            resident_bytes: self.resident_bytes,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// What a block device has done so far, from `/sys/dev/block`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceUse {
    reads: u64,
    read_ms: u64,
    writes: u64,
    write_ms: u64,
}

impl DeviceUse {
    /// Reads the counters of the device that has this folder; `None` when the folder is on none.
    pub fn read(folder: &Path) -> Option<DeviceUse> {
        let device = fs::metadata(folder).ok()?.dev();
        // As glibc's `major` and `minor` have it.
        let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
        let minor = device & 0xff | (device >> 12) & !0xff;
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let at = |index: usize| fields.get(index).copied();
        Some(DeviceUse { reads: at(0)?, read_ms: at(3)?, writes: at(4)?, write_ms: at(7)? })
    }

    /// How long a read and a write took on average since `earlier`, in microseconds; 0 of none.
    pub fn latencies_us(&self, earlier: &DeviceUse) -> [f64; 2] {
        let mean =
            |ms: u64, count: u64| if count == 0 { 0.0 } else { ms as f64 * 1e3 / count as f64 };
        [
            mean(self.read_ms - earlier.read_ms, self.reads - earlier.reads),
            mean(self.write_ms - earlier.write_ms, self.writes - earlier.writes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_seen_to_work() {
        let before = ProcessUse::read(std::process::id()).unwrap();
        let mut sum = 0u64;
        while ProcessUse::read(std::process::id()).unwrap().since(&before).user
            < Duration::from_millis(20)
        {
            (0..100_000u64).for_each(|n| sum = std::hint::black_box(sum.wrapping_add(n)));
        }
        assert!(before.resident_bytes > 0);
        assert!(ProcessUse::read(u32::MAX).is_none());
    }

    #[test]
    fn the_host_has_a_kernel_and_cores() {
        let host = Host::read();
        assert!(host.cores > 0 && host.memory_bytes > 0);
        assert_ne!(host.kernel, "unknown");
    }
}
