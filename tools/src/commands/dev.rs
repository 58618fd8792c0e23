//! `quorate dev`: one replica on loopback with nothing to configure.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use ioring::Direct;
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

use super::settings::{Settings, config, start_logging};
use super::{format, start};
use crate::outcome::{Failure, Outcome, print};

/// Bytes of the journal: large enough to try everything, small enough for a laptop.
const JOURNAL_SIZE: u64 = 128 << 20;
/// What each shard's grid may grow to.
const GRID_SIZE_MAX: u64 = 64 << 30;

const HINT: &str = "try: redis-cli -p PORT set hello world";

/// Format and run one replica on loopback; nothing to configure
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate dev\n  redis-cli -p 6400 set hello world")]
pub(crate) struct Arguments {
    /// Where the data is kept; made if it does not exist, reopened if it does
    #[arg(long, default_value = "quorate-dev")]
    dir: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    // A laptop's memory is not this node's alone.
    let defaults = [("lock_memory", "no"), ("cache", "128MiB")];
    let layers = arguments.settings.layers(&arguments.dir, &defaults);
    let layers = layers.map_err(|error| Failure::Usage(anyhow!(error)))?;
    if arguments.settings.print_config {
        print(layers.print());
        return Ok(());
    }
    let config = config(&layers)?;
    start_logging(&config);
    if !is_formatted(&arguments.dir) {
        let configuration = Configuration { grid_size_max: GRID_SIZE_MAX, ..Default::default() }
            .with_journal_size(JOURNAL_SIZE);
        let cluster = ClusterId(0);
        let options = FormatOptions {
            direct: Direct::Preferred,
            ..FormatOptions::new(cluster, ReplicaId(0), configuration)
        };
        format::format(&arguments.dir, &options)?;
    }
    start::serve(arguments.dir.clone(), config, Direct::Preferred, HINT)
}

fn is_formatted(dir: &Path) -> bool {
    dir.join(vsr::format::JOURNAL).exists()
}
