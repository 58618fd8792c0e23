//! `quorate start`: runs the replica of a formatted directory.

use std::path::PathBuf;

use anyhow::anyhow;
use ioring::Direct;
use lsm::grid::OpenError as GridError;
use node::config::Config;
use node::server::{self, Options, RecoverError, StartError};
use node::shard::open::OpenError as ShardError;
use vsr::format::OpenError;
use vsr::superblock::QuorumError;

use super::settings::{Settings, config, start_logging};
use crate::outcome::{Failure, Outcome, print, print_line};

/// Run the replica of a formatted directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate start --dir /var/lib/quorate --cores 0-7 --cache 8GiB")]
pub(crate) struct Arguments {
    /// Directory that `quorate format` made
    #[arg(long, env = "QUORATE_DIR")]
    dir: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let layers = arguments.settings.layers(&arguments.dir, &[]);
    let layers = layers.map_err(|error| Failure::Usage(anyhow!(error)))?;
    if arguments.settings.print_config {
        print(layers.print());
        return Ok(());
    }
    let config = config(&layers)?;
    start_logging(&config);
    serve(arguments.dir.clone(), config, Direct::Required, "")
}

/// Serves until told to stop. `hint` is printed once the node serves.
pub(super) fn serve(dir: PathBuf, config: Config, direct: Direct, hint: &'static str) -> Outcome {
    let options = Options { dir, config, direct, connections: Default::default() };
    let serving = move |addresses: &server::Addresses| {
        let (resp, http) = (addresses.resp, addresses.http);
        let native = addresses.native.map_or("none".to_owned(), |native| native.to_string());
        print_line(format_args!("listening native={native} resp={resp} http={http}"));
        if !hint.is_empty() {
            print_line(hint.replace("PORT", &resp.port().to_string()));
        }
    };
    server::run(options, serving).map_err(failure)
}

/// How the reasons for not starting are told apart by scripts.
fn failure(error: StartError) -> Failure {
    let refused = matches!(
        error,
        StartError::Cluster(_)
            | StartError::Recover(
                RecoverError::Open(
                    OpenError::NotFormatted(_)
                        | OpenError::InUse(_)
                        | OpenError::Differs { .. }
                        | OpenError::SuperBlock { source: QuorumError::OtherFormat { .. }, .. }
                ) | RecoverError::Shard(ShardError::Grid(GridError::Format { .. }))
            )
    );
    let corrupt = matches!(
        error,
        StartError::Recover(
            RecoverError::Journal(_)
                | RecoverError::Log(_)
                | RecoverError::Read(_)
                | RecoverError::Open(OpenError::SuperBlock { .. } | OpenError::Length { .. })
        )
    );
    match error {
        error if refused => Failure::Refused(anyhow!(error)),
        error if corrupt => Failure::Corrupt(anyhow!(error)),
        error => Failure::Failed(anyhow!(error)),
    }
}
