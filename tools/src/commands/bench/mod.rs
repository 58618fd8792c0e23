//! `quorate bench`: what a node, a disk, a network stack and the engine can do here.

mod checkpoint;
mod cluster;
mod common;
mod compare;
mod compare_engines;
mod device;
mod engine;
mod engine_side;
mod net;
mod run;
mod soak;

pub(crate) use run::run_number;

use crate::outcome::Outcome;

/// Measure a node, this machine's disk and network, or the storage engine
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    Run(Box<run::Arguments>),
    Device(device::Arguments),
    Engine(engine::Arguments),
    Net(net::Arguments),
    Soak(soak::Arguments),
    Checkpoint(checkpoint::Arguments),
    Cluster(cluster::Arguments),
    Compare(Box<compare::Arguments>),
    EngineSide(engine_side::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.bench {
        Bench::Run(arguments) => run::run(arguments),
        Bench::Device(arguments) => device::run(arguments),
        Bench::Engine(arguments) => engine::run(arguments),
        Bench::Net(arguments) => net::run(arguments),
        Bench::Soak(arguments) => soak::run(arguments),
        Bench::Checkpoint(arguments) => checkpoint::run(arguments),
        Bench::Cluster(arguments) => cluster::run(arguments),
        Bench::Compare(arguments) => compare::run(arguments),
        Bench::EngineSide(_) => engine_side::run(),
    }
}
