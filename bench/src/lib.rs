//! The load generator, its reports and the side-by-side harness.
