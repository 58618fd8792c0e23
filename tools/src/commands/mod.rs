//! One module for each subcommand.

pub(crate) mod completions;
pub(crate) mod ctl;
pub(crate) mod status;
