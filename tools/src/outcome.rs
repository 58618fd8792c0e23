//! How a command ends: exit codes and the words on standard error.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed |
//! | 2 | wrong usage (from the argument parser too) |
//! | 3 | refused: the state does not permit it |
//! | 4 | corrupt data found |

use std::process::ExitCode;

/// Any end but a good one.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was tried and did not work.
    Failed(anyhow::Error),
    /// The arguments make no sense together.
    Usage(anyhow::Error),
    /// The state of a directory or node does not permit it; nothing was changed.
    Refused(anyhow::Error),
    /// Data that must be there is damaged.
    Corrupt(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Refused(_) => 3,
            Failure::Corrupt(_) => 4,
        }
    }

    /// What went wrong, for a command that has another one do something.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Failure::Failed(error)
            | Failure::Usage(error)
            | Failure::Refused(error)
            | Failure::Corrupt(error) => error,
        }
    }

    fn error(&self) -> &anyhow::Error {
        match self {
            Failure::Failed(error)
            | Failure::Usage(error)
            | Failure::Refused(error)
            | Failure::Corrupt(error) => error,
        }
    }
}

/// What a command returns.
pub(crate) type Outcome = Result<(), Failure>;

/// Says what went wrong and turns the outcome into the exit code.
#[expect(clippy::print_stderr, reason = "this is where errors are shown")]
pub(crate) fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {:#}", failure.error());
            ExitCode::from(failure.code())
        }
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) ends the process quietly.
pub(crate) fn print(text: impl std::fmt::Display) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// As [`print`], with an end of line.
pub(crate) fn print_line(text: impl std::fmt::Display) {
    print(format_args!("{text}\n"));
}
