//! `quorate format`: makes the data directory of one replica.

use std::path::PathBuf;

use anyhow::anyhow;
use ioring::Direct;
use node::config::compression::{Levels, parse_compression};
use node::config::units::parse_size;
use vsr::format::{Configuration, FormatError, FormatOptions};
use wire::{ClusterId, ReplicaId};

use crate::outcome::{Failure, Outcome, print_line};
use crate::progress::Bytes;

/// Make the data directory of one replica
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quorate format --dir /var/lib/quorate --cluster 1 --replica 0 \
                  --replicas 1"
)]
pub(crate) struct Arguments {
    /// Directory to make; must be empty or not exist
    #[arg(long)]
    dir: PathBuf,
    /// Number of the cluster, the same on all of its replicas
    #[arg(long, value_name = "ID")]
    cluster: u128,
    /// Which replica this is, counted from 0
    #[arg(long, value_name = "I")]
    replica: u8,
    /// How many replicas the cluster has: 1, 3 or 5
    #[arg(long, value_name = "N")]
    replicas: u8,
    /// Parts that the keys are divided into, at least the cores of the largest host
    #[arg(long, value_name = "S", default_value_t = 8)]
    shards: u16,
    /// Size of the journal
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    journal_size: u64,
    /// Most that each shard's grid file may grow to
    #[arg(long, value_name = "SIZE", default_value = "1TiB", value_parser = parse_size)]
    grid_size_max: u64,
    /// How pages are stored: none, lz4 or zstd, for all levels or one by one from level 0 on, as in
    /// none,lz4,zstd; the last one named counts for all deeper levels
    #[arg(long, value_name = "CODECS", default_value = "none", value_parser = parse_compression)]
    compression: Levels,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let configuration = Configuration {
        replica_count: arguments.replicas,
        shard_count: arguments.shards,
        grid_size_max: arguments.grid_size_max,
        compression: arguments.compression,
        ..Configuration::default()
    }
    .with_journal_size(arguments.journal_size);
    let configuration = node::server::fit(configuration);
    let (cluster, replica) = (ClusterId(arguments.cluster), ReplicaId(arguments.replica));
    let options = FormatOptions {
        direct: Direct::Preferred,
        ..FormatOptions::new(cluster, replica, configuration)
    };
    format(&arguments.dir, &options)?;
    print_line(format_args!("formatted {}", arguments.dir.display()));
    Ok(())
}

/// Formats with a progress bar.
pub(crate) fn format(dir: &std::path::Path, options: &FormatOptions) -> Outcome {
    let progress = Bytes::new("formatting", options.configuration.journal_file_size());
    let show = progress.clone();
    let result = node::server::format(dir, options, move |done, _| show.show(done));
    progress.finish();
    result.map_err(|error| match error {
        node::server::FormatError::Format(
            error @ (FormatError::Configuration(_) | FormatError::Replica { .. }),
        ) => Failure::Usage(anyhow!(error)),
        error @ (node::server::FormatError::Storage(_)
        | node::server::FormatError::GridTooSmall { .. }
        | node::server::FormatError::Bars(_)) => Failure::Usage(anyhow!(error)),
        node::server::FormatError::Format(
            error @ (FormatError::NotEmpty(_) | FormatError::Busy(_)),
        ) => Failure::Refused(anyhow!(error)),
        error => Failure::Failed(anyhow!(error)),
    })
}
