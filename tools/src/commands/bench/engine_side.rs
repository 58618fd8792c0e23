//! `quorate bench engine-side`: one engine of a comparison, in this process.
//!
//! Not for people: `quorate bench compare --engine` starts one for each engine and talks to it over
//! standard input and output ([`bench::engines::serve`]).

use std::io::BufReader;

use crate::outcome::Outcome;

/// Measure one engine as standard input says: for `bench compare --engine`
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = "Example:\n  quorate bench compare --engine rocksdb")]
pub(crate) struct Arguments {}

pub(crate) fn run() -> Outcome {
    // The error was answered, and whoever asked says it.
    bench::engines::serve(BufReader::new(std::io::stdin()), std::io::stdout())?;
    Ok(())
}
