//! `quorate completions`: shell completions and man pages, made from the definition of the
//! command line.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;

use crate::outcome::Outcome;

/// Print shell completions, or write man pages
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate completions bash > /etc/bash_completion.d/quorate\n  \
                        quorate completions --man /usr/local/share/man/man1")]
pub(crate) struct Arguments {
    /// The shell to print completions for
    #[arg(required_unless_present = "man")]
    shell: Option<Shell>,
    /// Write a man page for every command into this folder instead
    #[arg(long, value_name = "FOLDER")]
    man: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Outcome {
    if let Some(folder) = &arguments.man {
        clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write man pages to {}", folder.display()))?;
    } else if let Some(shell) = arguments.shell {
        clap_complete::generate(shell, &mut command, "quorate", &mut std::io::stdout());
    }
    Ok(())
}
