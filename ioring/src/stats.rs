//! Counters of one core, and their copy for whoever asks.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a core has counted since it started; see [`crate::stats`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Tasks that exist now.
            pub tasks: u64,
        }

        /// The counters of the core that runs.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Cell<u64>,)*
        }

        impl Counters {
            pub(crate) fn stats(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* tasks: 0 }
            }
        }
    };
}

counters! {
    /// Calls into the kernel to submit, reap or wait.
    enters,
    /// Of these, the ones that slept.
    sleeps,
    /// Requests given to the kernel.
    submissions,
    /// Completions taken from the kernel.
    completions,
    /// Operations of files and sockets started.
    operations,
    /// Polls of tasks.
    polls,
    /// Polls that held the core longer than the threshold.
    stalls,
    /// The longest of these, in nanoseconds.
    stall_longest_ns,
    /// Wake-ups that came from other cores and threads.
    wakes_received,
    /// Times that the receive buffers ran out.
    receive_starved,
    /// Times that receiving was stopped because nobody took what had arrived.
    receive_paused,
}
