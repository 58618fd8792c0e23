//! Between a core's connections and everything else.

pub mod runs;
