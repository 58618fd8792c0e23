//! What the measurements have in common: rounds, cores, and how their rows are printed.

use anyhow::anyhow;
use bench::engine::EngineError;
use bench::host::Host;
use serde::Serialize;

use crate::outcome::{Failure, print, print_line};

/// What an error of the engine's measurements means for whoever asked.
pub(super) fn engine_failure(error: EngineError) -> Failure {
    match error {
        error @ EngineError::Options(_) => Failure::Usage(anyhow!(error)),
        error @ (EngineError::Wrong { .. } | EngineError::Corrupt(_)) => {
            Failure::Corrupt(anyhow!(error))
        }
        error => Failure::Failed(anyhow!(error)),
    }
}

/// How rows are printed.
#[derive(Debug, clap::Args)]
pub(super) struct Printing {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How often things are measured, where the sides take turns.
#[derive(Debug, clap::Args)]
pub(super) struct Rounds {
    /// Rounds; the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
}

/// Where the two ends of a connection run.
#[derive(Debug, clap::Args)]
pub(super) struct Cores {
    /// Core of what is measured
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(super) server_cpu: usize,
    /// Core of the generator
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub(super) client_cpu: usize,
}

impl Rounds {
    /// At least one.
    pub(super) fn count(&self) -> usize {
        self.rounds.max(1)
    }
}

impl Printing {
    /// Prints what was measured: the machine and what was asked for, then the table; or everything
    /// as JSON.
    pub(super) fn print<R: Serialize>(
        &self,
        rows: &[R],
        settings: impl std::fmt::Display,
        table: impl FnOnce(&[R]) -> String,
    ) {
        self.print_as("rows", rows, settings, table);
    }

    /// As [`Printing::print`], for what is more than rows; `name` is what JSON calls it.
    pub(super) fn print_as<R: Serialize + ?Sized>(
        &self,
        name: &str,
        found: &R,
        settings: impl std::fmt::Display,
        table: impl FnOnce(&R) -> String,
    ) {
        let host = Host::read();
        if self.json {
            print_line(serde_json::json!({ "host": host, name: found }));
            return;
        }
        let Host { cpu, cores, kernel, .. } = host;
        print_line(format_args!("{cpu}, {cores} cores, Linux {kernel}\n{settings}\n"));
        print(table(found));
    }
}
