//! `quorate demo`: the product proves its promise to whoever has just built it: what was
//! acknowledged is there, whoever is killed. With three replicas, which go on without the one that
//! is killed ([`cluster`]), or with one that is started again ([`solo`]).
//!
//! Everything is in a temporary folder that is removed at the end; children are killed if this
//! process ends by an error.

mod cluster;
mod load;
mod node;
mod solo;

use crate::outcome::Outcome;

/// Start three replicas, load them, kill the primary, and prove that nothing was lost
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate demo\n  quorate demo --seconds 30 --json\n  \
                  quorate demo --solo")]
pub(crate) struct Arguments {
    /// Seconds of load before the kill
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// One node only, which is killed and started again
    #[arg(long)]
    solo: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match arguments.solo {
        true => solo::run(arguments),
        false => cluster::run(arguments),
    }
}
