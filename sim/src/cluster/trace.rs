//! A readable trace of a seed, for whoever asks for it with `SIM_TRACE=1`: faults, what clients ask
//! and are told, and what the members say of themselves while they are waited for.

use std::sync::OnceLock;
use std::time::Duration;

fn is_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var_os("SIM_TRACE").is_some())
}

/// Tells what happens at a virtual time.
#[expect(clippy::print_stderr, reason = "a trace that was asked for")]
pub fn tell(now: Duration, text: impl FnOnce() -> String) {
    if is_wanted() {
        eprintln!("{:>12.3} ms  {}", now.as_secs_f64() * 1000.0, text());
    }
}
