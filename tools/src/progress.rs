//! Progress of long work, on standard error: a line that redraws itself on a terminal, plain lines
//! otherwise.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use bench::load::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// The live line of a load run.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    bar: Option<ProgressBar>,
}

impl Line {
    pub(crate) fn new() -> Line {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").expect("a valid template"),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Line { bar }
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let Progress { elapsed, throughput, latency, errors, .. } = progress;
        let text = format!(
            "{:>4.0} s  {throughput:>9.0} operations/s  p50 {:.0} us  p99 {:.0} us  max {:.0} us  \
             {errors} errors",
            elapsed.as_secs_f64(),
            latency.p50_us,
            latency.p99_us,
            latency.max_us
        );
        self.say(text);
    }

    /// Shows a line in place of the one before.
    pub(crate) fn say(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.set_message(text),
            // A reader of standard error that has gone away must not end the run.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar of bytes, for work whose length is known.
#[derive(Debug, Clone)]
pub(crate) struct Bytes {
    bar: ProgressBar,
}

impl Bytes {
    pub(crate) fn new(what: &'static str, total: u64) -> Bytes {
        if !std::io::stderr().is_terminal() {
            return Bytes { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(total);
        let template = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} to go";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        bar.set_message(what);
        Bytes { bar }
    }

    pub(crate) fn show(&self, done: u64) {
        self.bar.set_position(done);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
