//! Asking the processor for memory before it is needed.
//!
//! A look-up in a large table waits for memory several times, each time for an address that the
//! load before gave. One after the other, look-ups wait in turn; but where many are to be done, the
//! processor can fetch for the later ones while it works on the first: the caller walks ahead and
//! says what will be read. Chen, Ailamaki, Gibbons and Mowry, "Improving Hash Join Performance
//! through Prefetching" (ICDE 2004).
//!
//! A hint changes nothing but time: it never faults, and a wrong one costs a cache line.

#![expect(unsafe_code, reason = "the instruction has no safe form in the standard library")]

/// What the processor's caches fetch at a time.
const LINE: usize = 64;

/// Asks for these bytes, which will be read soon.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        fetch(line.as_ptr());
    }
    // A run that does not begin with a line ends in one more.
    if let Some(last) = bytes.last() {
        fetch(last);
    }
}

#[inline]
fn fetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "prfm pldl1keep, [{address}]",
                address = in(reg) address,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}
