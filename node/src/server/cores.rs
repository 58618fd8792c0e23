//! Which processors a node runs on.
//!
//! A core is a thread bound to a processor, and every core but a dedicated replica's has shards of
//! its own; so more cores than shards (and one) would have nothing to do. Unless told otherwise a
//! node takes the processors that its process may use, up to that number. How many shards there are
//! stands in the superblock, which is looked at before there are rings, by one of its own; what is
//! wrong with the directory is said by the start itself, so here it only means one core.

use ioring::uring::{self, Runtime};

use super::{Options, StartError};
use crate::config::{Config, Cores, Idle};
use crate::topology::DEDICATED_FROM;

/// The rings of a node.
pub(super) fn runtime_config(options: &Options) -> Result<uring::Config, StartError> {
    let config = &options.config;
    let idle = match config.idle {
        Idle::Adaptive => uring::Idle::Adaptive,
        Idle::Sleep => uring::Idle::Sleep,
        Idle::Spin(duration) => uring::Idle::Spin(duration),
    };
    let available = ioring::available_cpus();
    let cpus = match &config.cores {
        Cores::List(cpus) => cpus.clone(),
        Cores::Auto => available,
        Cores::Count(count) if available.len() < usize::from(*count) => {
            let (asked, available) = (*count, available.len());
            return Err(StartError::Processors { asked, available });
        }
        Cores::Count(count) => available[..usize::from(*count)].to_vec(),
    };
    let useful = if cpus.len() == 1 { 1 } else { useful(shards(options)?, config, cpus.len()) };
    if useful < cpus.len() && config.cores != Cores::Auto {
        tracing::warn!(useful, given = cpus.len(), "a core for each shard is all that is used");
    }
    let cpus = cpus[..useful].to_vec();
    // A single core goes where the system puts it, unless it was told where to be.
    let pin = cpus.len() > 1 || matches!(config.cores, Cores::List(_));
    Ok(uring::Config { cpus, pin, idle, ..uring::Config::default() })
}

/// How many of so many cores have something to do.
fn useful(shards: u16, config: &Config, cores: usize) -> usize {
    let dedicated = config.dedicated_replica_core.unwrap_or(cores >= usize::from(DEDICATED_FROM));
    cores.min(usize::from(shards) + usize::from(dedicated))
}

/// The number of shards in a directory; one if that cannot be found out.
fn shards(options: &Options) -> Result<u16, StartError> {
    let cpus = vec![0];
    let runtime = Runtime::new(uring::Config { cpus, pin: false, ..uring::Config::default() })?;
    let counts = runtime.run(vec![options.dir.clone()], |dir| async move {
        let report = vsr::format::inspect::inspect(&dir, false).await.ok()?;
        Some(report.state?.configuration.shard_count)
    });
    Ok(counts.into_iter().flatten().next().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn a_core_for_each_shard_and_one_for_the_replica() {
        let useful = |dedicated: &str, shards, cores| {
            let mut layers = Layers::default();
            layers.set_flag("dedicated_replica_core", dedicated);
            useful(shards, &Config::new(&layers).unwrap(), cores)
        };
        assert_eq!(useful("auto", 8, 2), 2);
        assert_eq!(useful("auto", 2, 3), 2);
        assert_eq!(useful("auto", 8, 64), 9);
        assert_eq!(useful("no", 8, 64), 8);
        assert_eq!(useful("yes", 2, 3), 3);
    }
}
