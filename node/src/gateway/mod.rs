//! Between a core's connections and everything else.

pub mod outcomes;
pub mod runs;
