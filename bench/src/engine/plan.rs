//! What a worker does next: the same for every engine that is measured.
//!
//! A plan draws keys from a seed, a kind of work, a round and a worker's number. Two engines given
//! the same four do the same operations in the same order, however they do them; another round
//! draws other keys, so that nothing is found in a cache because it was asked for in the round
//! before.
//!
//! Work that goes through all keys (fills, deletes) has one worker and an index that it has got to:
//! a second round of deletes goes on where the first one stopped, and leaves some to the third.

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::data::{KEY_SIZE, scatter};
use super::{Options, Work};
use crate::workload::random_stream;

/// One operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// Writes these keys together.
    Write(&'a [u64]),
    /// Deletes these keys together.
    Delete(&'a [u64]),
    /// Reads a key, or the one behind it that does not exist.
    Read { number: u64, missing: bool },
    /// Reads entries in order from this key on.
    Scan(u64),
}

/// See the module's text.
pub(crate) struct Plan {
    work: Work,
    keys: u64,
    hot: u64,
    batch: u64,
    /// Where in the order of all keys it is.
    index: u64,
    /// And where it ends.
    end: u64,
    numbers: Vec<u64>,
    random: Xoshiro256PlusPlus,
}

/// Workers that do a kind of work at the same time.
pub(crate) fn workers(work: Work, options: &Options) -> usize {
    match work {
        Work::ReadCold | Work::MissCold | Work::Mixed95 | Work::Mixed50 => options.depth,
        _ => 1,
    }
}

/// Keys that fit in an eighth of the cache: their pages hold older versions and other keys too.
pub(crate) fn hot_keys(options: &Options) -> u64 {
    let entry_bytes = KEY_SIZE as u64 + u64::from(options.value_size);
    (options.cache_bytes / 8 / (entry_bytes + 32)).clamp(1, options.keys)
}

impl Plan {
    /// Of one worker in one round, beginning at `index` of the order of all keys.
    pub(crate) fn new(work: Work, options: &Options, round: u64, worker: u64, index: u64) -> Plan {
        let end = match work {
            Work::Delete => index + options.keys.div_ceil(options.delete_rounds),
            _ => options.keys,
        };
        Plan {
            work,
            keys: options.keys,
            hot: hot_keys(options),
            batch: options.batch as u64,
            index,
            end: end.min(options.keys),
            numbers: Vec::with_capacity(options.batch),
            random: random_stream(options.seed ^ (work as u64) << 32, round << 16 | worker),
        }
    }

    /// Whether the work ends by itself, however long it takes.
    pub(crate) fn has_end(&self) -> bool {
        matches!(self.work, Work::FillSequential | Work::FillRandom)
    }

    /// The place in the order of all keys that was reached.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// The next operation; none when all keys are done.
    pub(crate) fn next(&mut self) -> Option<Action<'_>> {
        let reads_percent = match self.work {
            Work::FillSequential | Work::FillRandom | Work::Delete => return self.in_order(),
            Work::Overwrite => {
                self.numbers.clear();
                for _ in 0..self.batch {
                    self.numbers.push(self.random.random_range(0..self.keys));
                }
                // An op changes a key once: the last of its changes is what it comes to.
                self.numbers.sort_unstable();
                self.numbers.dedup();
                return Some(Action::Write(&self.numbers));
            }
            Work::Mixed95 => 95,
            Work::Mixed50 => 50,
            _ => 100,
        };
        let any = self.random.random_range(0..self.keys);
        let hot = self.random.random_range(0..self.hot);
        if self.random.random_range(0..100) >= reads_percent {
            self.numbers.clear();
            self.numbers.push(any);
            return Some(Action::Write(&self.numbers));
        }
        Some(match self.work {
            Work::ReadCached => Action::Read { number: hot, missing: false },
            Work::MissCached => Action::Read { number: hot, missing: true },
            Work::MissCold => Action::Read { number: any, missing: true },
            Work::Scan => Action::Scan(any),
            _ => Action::Read { number: any, missing: false },
        })
    }

    fn in_order(&mut self) -> Option<Action<'_>> {
        let end = (self.index + self.batch).min(self.end);
        let indices = self.index..end;
        self.numbers.clear();
        match self.work {
            Work::FillSequential => self.numbers.extend(indices),
            _ => self.numbers.extend(indices.map(|index| scatter(index, self.keys))),
        }
        self.index = end;
        match self.work {
            _ if self.numbers.is_empty() => None,
            Work::Delete => Some(Action::Delete(&self.numbers)),
            _ => Some(Action::Write(&self.numbers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn options() -> Options {
        Options {
            directory: PathBuf::new(),
            keys: 1000,
            value_size: 100,
            duration: Duration::ZERO,
            batch: 7,
            depth: 4,
            scan_length: 10,
            cache_bytes: 1 << 20,
            cpu: 0,
            delete_rounds: 2,
            seed: 1,
        }
    }

    #[test]
    fn fills_write_every_key_once_and_deletes_go_on_where_they_stopped() {
        for work in [Work::FillSequential, Work::FillRandom] {
            let mut plan = Plan::new(work, &options(), 0, 0, 0);
            let mut seen = Vec::new();
            while let Some(Action::Write(numbers)) = plan.next() {
                seen.extend_from_slice(numbers);
            }
            assert_eq!(plan.index(), 1000);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..1000), "{work:?}");
        }
        let mut first = Plan::new(Work::Delete, &options(), 0, 0, 0);
        assert!(matches!(first.next(), Some(Action::Delete(_))));
        let mut second = Plan::new(Work::Delete, &options(), 1, 0, first.index());
        let expected: Vec<u64> = (7..14).map(|index| scatter(index, 1000)).collect();
        assert_eq!(second.next(), Some(Action::Delete(&expected)));
        while second.next().is_some() {}
        assert_eq!(second.index(), 507, "half of them in each of two rounds");
    }

    #[test]
    fn the_same_four_give_the_same_operations_and_another_round_gives_others() {
        let reads = |round, worker| {
            let mut plan = Plan::new(Work::ReadCold, &options(), round, worker, 0);
            let number = |_| match plan.next() {
                Some(Action::Read { number, missing: false }) => number,
                other => panic!("{other:?}"),
            };
            (0..20).map(number).collect::<Vec<u64>>()
        };
        assert_eq!(reads(3, 2), reads(3, 2));
        assert_ne!(reads(3, 2), reads(4, 2));
        assert_ne!(reads(3, 2), reads(3, 1));
    }

    #[test]
    fn a_mix_has_about_the_share_of_writes_that_it_says() {
        let mut plan = Plan::new(Work::Mixed95, &options(), 0, 0, 0);
        let writes = (0..10_000).filter(|_| matches!(plan.next(), Some(Action::Write(_)))).count();
        assert!((400..600).contains(&writes), "{writes}");
    }
}
