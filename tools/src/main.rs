//! The `quorate` command: argument parsing and presentation, nothing else.
//!
//! Every subcommand is a module of [`commands`] with its arguments and a `run` function that
//! returns how it ended. What a command finds goes to standard output, as lines for people or,
//! with `--json`, as one object; progress, logs and errors go to standard error. How it ended is
//! also the exit code: see [`outcome::Failure`].

mod commands;
mod outcome;
mod progress;
mod runtime;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A replicated, durable key-value storage node for Linux hosts with NVMe disks.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Format(commands::format::Arguments),
    Start(commands::start::Arguments),
    Dev(commands::dev::Arguments),
    Demo(commands::demo::Arguments),
    Bench(commands::bench::Arguments),
    CheckHost(commands::check_host::Arguments),
    Inspect(commands::inspect::Arguments),
    Verify(commands::verify::Arguments),
    Ctl(commands::ctl::Arguments),
    Status(commands::status::Arguments),
    Scrub(commands::scrub::Arguments),
    Completions(commands::completions::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Format(arguments) => commands::format::run(&arguments),
        Command::Start(arguments) => commands::start::run(&arguments),
        Command::Dev(arguments) => commands::dev::run(&arguments),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::CheckHost(arguments) => commands::check_host::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Verify(arguments) => commands::verify::run(&arguments),
        Command::Ctl(arguments) => commands::ctl::run(&arguments),
        Command::Status(arguments) => commands::status::run(&arguments),
        Command::Scrub(arguments) => commands::scrub::run(&arguments),
        Command::Completions(arguments) => {
            commands::completions::run(&arguments, Arguments::command())
        }
    };
    outcome::exit(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {id} unexplained", command.get_name());
            }
            let leaf = command.get_subcommands().next().is_none();
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !leaf || command.get_name() == "help" || example.contains("quorate "),
                "{} shows no example",
                command.get_name()
            );
            command.get_subcommands().for_each(check);
        }
        Arguments::command().get_subcommands().for_each(check);
    }
}
