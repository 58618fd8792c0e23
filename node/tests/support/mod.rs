//! A node as tests in the simulator start it.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::net::SocketAddr;
use std::path::Path;

use ioring::{Direct, Outbox, lane};
use node::config::{Config, Layers};
use node::connection;
use node::control::Question;
use node::server::{self, First, Options, Part, Shared};
use vsr::format::{Configuration, FormatOptions};
use wire::{ClusterId, ReplicaId};

/// The data directory.
pub(crate) const DIR: &str = "/data";
/// Where the node listens.
pub(crate) const PORT: u16 = 6400;

/// Sizes so small that a few hundred writes end bars and take checkpoints.
pub(crate) fn configuration() -> Configuration {
    Configuration {
        journal_segment_size: 256 << 10,
        journal_segment_count: 10,
        grid_size_max: 1 << 30,
        memtable_size: 8 << 10,
        ..Configuration::test_min()
    }
}

/// Makes the data directory.
pub(crate) async fn format() {
    format_as(configuration()).await;
}

/// The same for another configuration.
pub(crate) async fn format_as(configuration: Configuration) {
    format_member(0, configuration).await;
}

/// The same for a member of a cluster.
pub(crate) async fn format_member(replica: u8, configuration: Configuration) {
    let options = FormatOptions {
        shift_sectors_max: 4,
        ..FormatOptions::new(ClusterId(7), ReplicaId(replica), configuration)
    };
    server::format_here(Path::new(DIR), &options, |_, _| ())
        .await
        .expect("an empty directory is formatted");
}

/// A request as clients send it.
pub(crate) fn request(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        let word = word.as_ref();
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

fn options(address: SocketAddr, dedicated: bool, settings: &[(&'static str, &str)]) -> Options {
    let mut layers = Layers::default();
    layers.set_flag("resp", address.to_string());
    layers.set_flag("insecure", "yes");
    layers.set_flag("cache", "256KiB");
    layers.set_flag("dedicated_replica_core", if dedicated { "yes" } else { "no" });
    for (name, value) in settings {
        layers.set_flag(name, *value);
    }
    Options {
        dir: DIR.into(),
        config: Config::new(&layers).expect("the settings are valid"),
        direct: Direct::Required,
        connections: connection::Limits::default(),
    }
}

/// The parts of a node with so many cores, and the way to ask the first of them. Of three, the
/// first is without shards.
pub(crate) fn parts(address: SocketAddr, cores: u16) -> (Vec<Part>, Outbox<Question>) {
    parts_with(address, cores, &[])
}

/// The same with settings of the test's own.
pub(crate) fn parts_with(
    address: SocketAddr,
    cores: u16,
    settings: &[(&'static str, &str)],
) -> (Vec<Part>, Outbox<Question>) {
    let (parts, mut asks) = parts_and_asks(address, cores, settings);
    (parts, asks.swap_remove(0))
}

/// The same with the way to ask each core.
pub(crate) fn parts_and_asks(
    address: SocketAddr,
    cores: u16,
    settings: &[(&'static str, &str)],
) -> (Vec<Part>, Vec<Outbox<Question>>) {
    let (asks, questions): (Vec<_>, Vec<_>) = (0..cores).map(|_| lane(1)).unzip();
    let http = "127.0.0.1:1".parse().expect("this is an address");
    let first = First { http, serving: Box::new(|_| ()) };
    let parts =
        server::parts(&Shared::new(options(address, cores > 2, settings)), questions, first);
    (parts, asks)
}
