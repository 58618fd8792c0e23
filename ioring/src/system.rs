//! Small calls of the operating system that have no safe wrapper in the standard library.

#![expect(unsafe_code, reason = "calls libc")]

use std::io;

/// Fills `bytes` with entropy.
pub(crate) fn fill_entropy(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: a live, writable range.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if count < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "getrandom: {error}");
            continue;
        }
        filled += count as usize;
    }
}

/// Ends the process without running anything else.
pub(crate) fn exit_now(status: u8) -> ! {
    // SAFETY: does not return, touches no memory.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Binds the calling thread to one processor.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    // SAFETY: a zeroed set is an empty set; the macro-like functions only write into it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets timers of the calling thread fire when they are due, and not up to 50 µs later.
pub(crate) fn sharpen_timers() {
    // SAFETY: changes a number of the calling thread; if it fails timers are merely late.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Keeps all memory of the process out of swap, what is mapped later included; pages are locked as
/// they are touched.
pub fn lock_memory() -> io::Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: changes how the process's pages are treated, not what is in them.
    let result = unsafe { libc::mlockall(flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Processors that this thread may run on.
pub fn available_cpus() -> Vec<usize> {
    // SAFETY: the kernel fills the set, which is as large as it is told.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        set
    };
    // SAFETY: the index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}
