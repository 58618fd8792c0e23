//! One ring: set-up flag by flag, submitting, and waiting.
//!
//! # Set-up
//!
//! The flags that are asked for, from the most valuable down: `DEFER_TASKRUN` (completions are only
//! processed when this thread asks, so never in the middle of its work; needs `SINGLE_ISSUER`),
//! `SINGLE_ISSUER` (the kernel may leave locks out), `COOP_TASKRUN` (no interrupts to process
//! completions), `TASKRUN_FLAG` (shows in shared memory that there is work to ask for). A kernel
//! that knows one not gets a ring without it; which are on is reported. The ring is made disabled,
//! so that it can be made, and refused with a remedy, before any thread runs; the thread that
//! enables it is its single issuer.
//!
//! # Turns
//!
//! Requests are pushed to shared memory and cost nothing until [`Ring::flush`] or [`Ring::wait`]
//! hand all of them to the kernel in one call: at the end of a turn, or within it where a device
//! should begin at once (durable writes, and reads when there are several).

#![expect(unsafe_code, reason = "requests point to memory; each kind says why that is valid")]

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

/// Which of the optional flags a ring was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFlags {
    /// Only one thread submits.
    pub single_issuer: bool,
    /// Completions are processed when the thread asks.
    pub defer_taskrun: bool,
    /// Completions interrupt nobody.
    pub coop_taskrun: bool,
    /// Pending work shows in shared memory.
    pub taskrun_flag: bool,
}

impl RingFlags {
    /// What to try, in order.
    const LADDER: [RingFlags; 4] = [
        RingFlags {
            single_issuer: true,
            defer_taskrun: true,
            coop_taskrun: true,
            taskrun_flag: true,
        },
        RingFlags {
            single_issuer: true,
            defer_taskrun: false,
            coop_taskrun: true,
            taskrun_flag: true,
        },
        RingFlags {
            single_issuer: false,
            defer_taskrun: false,
            coop_taskrun: true,
            taskrun_flag: true,
        },
        RingFlags {
            single_issuer: false,
            defer_taskrun: false,
            coop_taskrun: false,
            taskrun_flag: false,
        },
    ];
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel has io_uring switched off for this process.
    #[error(
        "io_uring is disabled here ({source}): set `sysctl kernel.io_uring_disabled=0`; in a \
         container allow it in the seccomp profile (`--security-opt seccomp=unconfined`)"
    )]
    Disabled {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no io_uring.
    #[error("this kernel has no io_uring ({source}): Linux 5.19 or newer is needed")]
    Missing {
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory that may be locked does not suffice.
    #[error(
        "not enough memory may be locked for a ring of {entries} entries ({source}): raise the \
         limit (`ulimit -l unlimited`, `LimitMEMLOCK=infinity` in a systemd unit, \
         `--ulimit memlock=-1` for a container)"
    )]
    Memlock {
        /// Entries asked for.
        entries: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot set up {what}: {source}")]
    Other {
        /// What was being set up.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RingError {
    pub(super) fn new(what: &'static str, entries: u32, source: io::Error) -> RingError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RingError::Disabled { source },
            Some(libc::ENOSYS) => RingError::Missing { source },
            Some(libc::ENOMEM) => RingError::Memlock { entries, source },
            _ => RingError::Other { what, source },
        }
    }
}

/// A ring and its flags.
pub(super) struct Ring {
    ring: IoUring,
    flags: RingFlags,
    pub(super) enters: u64,
    pub(super) sleeps: u64,
    pub(super) submissions: u64,
}

/// What waiting ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Completions,
    Timeout,
}

impl Ring {
    /// Makes a ring, disabled, with as many of the flags as the kernel knows.
    pub(super) fn new(entries: u32) -> Result<Ring, RingError> {
        let mut refused = None;
        for flags in RingFlags::LADDER {
            match build(entries, flags) {
                Ok(ring) => return Ok(Ring { ring, flags, enters: 0, sleeps: 0, submissions: 0 }),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
                Err(error) => return Err(RingError::new("a ring", entries, error)),
            }
        }
        let error = refused.unwrap_or_else(|| io::ErrorKind::InvalidInput.into());
        Err(RingError::new("a ring", entries, error))
    }

    pub(super) fn flags(&self) -> RingFlags {
        self.flags
    }

    pub(super) fn ring(&self) -> &IoUring {
        &self.ring
    }

    /// Whether one receive can serve many arrivals. There is no way to ask but to try; it came with
    /// the release that brought zero-copy sends (Linux 6.0), and that can be asked for.
    pub(super) fn has_multishot_receive(&self) -> bool {
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe).is_ok()
            && probe.is_supported(opcode::SendZc::CODE)
    }

    /// Makes the calling thread the ring's issuer.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// Adds a request. Hands the earlier ones to the kernel if there is no room.
    ///
    /// # Safety
    /// What the request points to stays valid, and is not otherwise written (for a request that
    /// reads it) or accessed (for one that writes it), until it completes.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.flush(u32::MAX)?;
        }
    }

    /// Whether entering the kernel now would do anything.
    pub(super) fn needs_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Whether completions are there or can be asked for without waiting.
    pub(super) fn has_completions(&mut self) -> bool {
        if !self.ring.completion().is_empty() {
            return true;
        }
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Requests that the kernel does not have yet.
    pub(super) fn queued(&mut self) -> u32 {
        self.ring.submission().len() as u32
    }

    /// Hands requests to the kernel, the oldest `most`, and processes what has completed, without
    /// waiting.
    pub(super) fn flush(&mut self, most: u32) -> io::Result<()> {
        self.enters += 1;
        let count = self.queued().min(most);
        // SAFETY: there is no argument that would have to be valid.
        let entered = unsafe { self.ring.submitter().enter::<()>(count, 0, GET_EVENTS, None) };
        match entered {
            Ok(submitted) => self.submissions += submitted as u64,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Hands all requests to the kernel and waits for a completion, no longer than `limit`.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<Woken> {
        self.enters += 1;
        self.sleeps += 1;
        let pending = self.ring.submission().len() as u64;
        let submitter = self.ring.submitter();
        let result = match limit {
            None => submitter.submit_and_wait(1),
            Some(limit) => {
                let time = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(submitted) => {
                self.submissions += submitted as u64;
                Ok(Woken::Completions)
            }
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                self.submissions += pending;
                Ok(Woken::Timeout)
            }
            Err(error) if is_passing(&error) => Ok(Woken::Completions),
            Err(error) => Err(error),
        }
    }

    /// Takes completions, at most as many as fit.
    pub(super) fn reap(&mut self, into: &mut Vec<cqueue::Entry>) {
        let room = into.capacity() - into.len();
        into.extend(self.ring.completion().take(room));
    }
}

/// Asks a call for completions that are ready (`IORING_ENTER_GETEVENTS`).
const GET_EVENTS: u32 = 1;

/// Interrupted by a signal, or the kernel wants completions taken first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

fn build(entries: u32, flags: RingFlags) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_submit_all().setup_r_disabled();
    builder.setup_cqsize(entries.saturating_mul(4));
    if flags.single_issuer {
        builder.setup_single_issuer();
    }
    if flags.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if flags.taskrun_flag {
        builder.setup_taskrun_flag();
    }
    builder.build(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_remedy() {
        let error = |code| RingError::new("a ring", 8, io::Error::from_raw_os_error(code));
        assert!(error(libc::EPERM).to_string().contains("kernel.io_uring_disabled"));
        assert!(error(libc::ENOMEM).to_string().contains("ulimit -l"));
        assert!(error(libc::ENOSYS).to_string().contains("5.19"));
    }

    #[test]
    fn waiting_ends_at_its_limit() {
        let mut ring = Ring::new(8).unwrap();
        ring.enable().unwrap();
        assert_eq!(ring.wait(Some(Duration::from_millis(1))).unwrap(), Woken::Timeout);
        assert!(!ring.needs_enter() && !ring.has_completions());
    }

    #[test]
    fn pushing_more_than_fits_loses_nothing() {
        let mut ring = Ring::new(4).unwrap();
        ring.enable().unwrap();
        for number in 0..10 {
            let entry = io_uring::opcode::Nop::new().build().user_data(number);
            // SAFETY: it points to nothing.
            unsafe { ring.push(&entry) }.unwrap();
        }
        ring.flush(u32::MAX).unwrap();
        let mut entries = Vec::with_capacity(16);
        ring.reap(&mut entries);
        let numbers: Vec<_> = entries.iter().map(cqueue::Entry::user_data).collect();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    }
}
