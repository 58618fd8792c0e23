//! Processor time of one thread, in nanoseconds, as the scheduler counts it.
//!
//! Read from `/proc/thread-self/schedstat`: user and kernel time together, without the ten
//! milliseconds' grain of `/proc/PID/stat`. Work that the kernel does on threads of its own is not
//! in it.

use std::fs;
use std::time::Duration;

/// A point in the calling thread's processor time.
#[derive(Debug, Clone, Copy)]
pub struct ThreadTime(Duration);

impl ThreadTime {
    /// Now, on this thread.
    pub fn start() -> ThreadTime {
        ThreadTime(ThreadTime::now())
    }

    /// Used by this thread since.
    pub fn elapsed(&self) -> Duration {
        ThreadTime::now().saturating_sub(self.0)
    }

    fn now() -> Duration {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
        Duration::from_nanos(nanoseconds.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_costs_nothing_and_working_does() {
        let start = ThreadTime::start();
        std::thread::sleep(Duration::from_millis(30));
        assert!(start.elapsed() < Duration::from_millis(20));
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(20) {
            (0..10_000u64).for_each(|n| sum = std::hint::black_box(sum.wrapping_add(n)));
        }
    }
}
