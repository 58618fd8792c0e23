//! What this kernel offers of what the driver uses, found by trying it.

use super::provided::Provided;
use super::registered::Registered;
use super::ring::{Ring, RingError, RingFlags};
use crate::buffer::{ALIGNMENT, BufferPool};

/// Something that the driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// Whether it works here, for this process.
    pub works: bool,
    /// Whether nothing runs without it.
    pub required: bool,
    /// What is different without it, or what to do.
    pub without: &'static str,
}

/// The answer of [`probe`].
#[derive(Clone, Debug)]
pub struct Probe {
    /// The set-up flags that a ring gets.
    pub flags: RingFlags,
    /// Everything that was tried.
    pub features: Vec<Feature>,
}

/// Makes a small ring, tries what the driver uses, and drops it.
///
/// # Errors
/// Why there is no ring at all, with the remedy.
pub fn probe() -> Result<Probe, RingError> {
    let mut ring = Ring::new(8)?;
    ring.enable().map_err(|error| RingError::new("a ring", 8, error))?;
    let flags = ring.flags();
    let optional = |name, works, without| Feature { name, works, required: false, without };
    let mut features = vec![
        optional("single issuer", flags.single_issuer, "more locking in the kernel (Linux 6.0)"),
        optional("deferred task work", flags.defer_taskrun, "more interruptions (Linux 6.1)"),
        optional("cooperative task work", flags.coop_taskrun, "more interruptions (Linux 5.19)"),
        optional("task work flag", flags.taskrun_flag, "more system calls (Linux 5.19)"),
        optional(
            "multishot receive",
            ring.has_multishot_receive(),
            "each arrival is asked for again (Linux 6.0)",
        ),
    ];
    features.push(Feature {
        name: "provided buffer rings",
        works: Provided::register(ring.ring(), 1, ALIGNMENT).is_ok(),
        required: true,
        without: "no networking: Linux 5.19 or newer, and memory that may be locked (`ulimit -l`)",
    });
    let pool = BufferPool::new("probe", ALIGNMENT, 1);
    let buffer = pool.try_take();
    let region = buffer.as_ref().and_then(|buffer| buffer.region());
    let mut registered = Registered::new(ring.ring(), ALIGNMENT);
    let place = region.and_then(|region| registered.place(ring.ring(), region));
    let lock = "a few per cent more processor time per transfer: raise `ulimit -l`";
    features.push(optional("registered memory", place.is_some(), lock));
    features.push(optional(
        "registered files",
        registered.is_registered(0),
        "a look-up more per transfer",
    ));
    Ok(Probe { flags, features })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tests_of_this_crate_need_works_here() {
        let probe = probe().unwrap();
        assert!(probe.features.iter().all(|feature| feature.works || !feature.required));
        assert!(probe.features.iter().any(|feature| feature.name == "multishot receive"));
    }
}
