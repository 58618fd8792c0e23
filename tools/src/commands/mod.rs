//! One module for each subcommand.

pub(crate) mod bench;
pub(crate) mod check_host;
pub(crate) mod completions;
pub(crate) mod ctl;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod format;
pub(crate) mod inspect;
pub(crate) mod scrub;
pub(crate) mod settings;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod verify;
