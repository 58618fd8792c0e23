//! Which core has what: the map from slots to shards to cores.
//!
//! A slot belongs to a shard for good: shard = slot × shards / 16,384, with the number of shards
//! fixed at format. A shard belongs to a core while the process runs: shards are dealt out to the
//! shard cores in contiguous ranges, so that neighbours share a core and a core's shards can be
//! found by arithmetic. The replica and the journal are on core 0 always; with a *dedicated*
//! replica core no shard is there.
//!
//! ```text
//! slots  0 ........ 2047 | 2048 ...... 4095 | …            8 shards
//! shard  0               | 1                | … 7
//! core   1                                  | 1 | 2 | 2 …  4 cores, core 0 dedicated
//! ```

use wire::{SLOT_COUNT, ShardId, Slot};

/// From how many cores on the replica has one to itself, unless told otherwise.
pub const DEDICATED_FROM: u16 = 4;

/// A core of this node, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreIndex(pub u16);

impl CoreIndex {
    /// The core with the replica and the journal.
    pub const REPLICA: CoreIndex = CoreIndex(0);

    /// Its place in tables that have an entry per core.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Cores, shards and who has which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    cores: u16,
    shards: u16,
    shard_core_first: u16,
    shard_cores: u16,
}

impl Topology {
    /// Deals `shards` out to `cores`. `dedicated`: keep core 0 free of shards, `None` for the
    /// default. With one core there is nothing to keep free.
    ///
    /// # Panics
    /// If there are no cores or no shards.
    #[must_use]
    pub fn new(cores: u16, shards: u16, dedicated: Option<bool>) -> Topology {
        assert!(cores > 0 && shards > 0, "{cores} cores, {shards} shards");
        assert!(shards <= SLOT_COUNT, "a shard without slots");
        let dedicated = dedicated.unwrap_or(cores >= DEDICATED_FROM) && cores > 1;
        let shard_core_first = u16::from(dedicated);
        let mut topology = Topology { cores, shards, shard_core_first, shard_cores: 0 };
        let with_shards = topology.all_cores().filter(|core| topology.has_shards(*core));
        topology.shard_cores = with_shards.count() as u16;
        topology
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// All cores.
    pub fn all_cores(&self) -> impl Iterator<Item = CoreIndex> + use<> {
        (0..self.cores).map(CoreIndex)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard of a slot.
    #[inline]
    #[must_use]
    pub fn shard_of(&self, slot: Slot) -> ShardId {
        let shard = u32::from(slot.0) * u32::from(self.shards) / u32::from(SLOT_COUNT);
        ShardId(shard as u16)
    }

    /// The core of a shard.
    #[inline]
    #[must_use]
    pub fn core_of(&self, shard: ShardId) -> CoreIndex {
        let cores = u32::from(self.cores - self.shard_core_first);
        let index = u32::from(shard.0) * cores / u32::from(self.shards);
        CoreIndex(self.shard_core_first + index as u16)
    }

    /// The shards of a core, in order. Contiguous; empty for a dedicated replica core.
    pub fn shards_of(&self, core: CoreIndex) -> impl Iterator<Item = ShardId> + use<> {
        let topology = *self;
        (0..self.shards).map(ShardId).filter(move |shard| topology.core_of(*shard) == core)
    }

    /// How many cores have shards.
    #[must_use]
    pub fn shard_cores(&self) -> u32 {
        u32::from(self.shard_cores)
    }

    /// Whether a core has any shard.
    #[must_use]
    pub fn has_shards(&self, core: CoreIndex) -> bool {
        self.shards_of(core).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_dedicates_from_four_cores_on() {
        for (cores, dedicated) in [(1, false), (2, false), (3, false), (4, true), (16, true)] {
            let topology = Topology::new(cores, 32, None);
            assert_eq!(!topology.has_shards(CoreIndex::REPLICA), dedicated, "{cores} cores");
        }
        assert!(Topology::new(1, 8, Some(true)).has_shards(CoreIndex::REPLICA));
        assert!(!Topology::new(2, 8, Some(true)).has_shards(CoreIndex::REPLICA));
    }

    #[test]
    fn slots_spread_evenly_in_order() {
        let topology = Topology::new(1, 8, None);
        assert_eq!(topology.shard_of(Slot(0)), ShardId(0));
        assert_eq!(topology.shard_of(Slot(2047)), ShardId(0));
        assert_eq!(topology.shard_of(Slot(2048)), ShardId(1));
        assert_eq!(topology.shard_of(Slot(16_383)), ShardId(7));
    }

    proptest! {
        #[test]
        fn every_shard_has_one_core_and_cores_differ_by_one(
            cores in 1u16..32, shards in 1u16..128, dedicated: Option<bool>,
        ) {
            let topology = Topology::new(cores, shards, dedicated);
            let of_cores: Vec<usize> =
                topology.all_cores().map(|core| topology.shards_of(core).count()).collect();
            prop_assert_eq!(of_cores.iter().sum::<usize>(), usize::from(shards));
            let from = usize::from(!topology.has_shards(CoreIndex::REPLICA) && cores > 1
                && shards >= cores);
            let most = of_cores[from..].iter().max().unwrap();
            let least = of_cores[from..].iter().min().unwrap();
            prop_assert!(most - least <= 1, "{:?}", of_cores);
        }
    }
}
