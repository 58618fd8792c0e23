//! A class of the cache against S3-FIFO as its paper has it: plain queues, and a list of names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ioring::{BufferPool, Frozen};
use proptest::prelude::*;

use super::*;

const CAPACITY: usize = 20;

/// Keys whose ghosts have slots of their own, so that the table of ghosts forgets none early.
fn keys() -> Vec<Key> {
    let mut slots = BTreeSet::new();
    let mut ghost = Ghost::new(CAPACITY);
    let candidates = (1..10_000).map(|n| Key { address: n, offset: 0, checksum: n * 7_919 });
    let own = candidates.filter(|key| {
        let slot = std::ptr::from_mut(ghost.slot(key.hash())).addr();
        slots.insert(slot)
    });
    own.take(50).collect()
}

#[derive(Default)]
struct Model {
    small: VecDeque<usize>,
    main: VecDeque<usize>,
    /// How often what is there was asked for, up to three.
    frequency: BTreeMap<usize, u8>,
    /// Names that left the small queue, the oldest first; those known again are gone from it.
    ghosts: VecDeque<Option<usize>>,
}

impl Model {
    fn get(&mut self, name: usize) -> bool {
        let frequency = self.frequency.get_mut(&name);
        frequency.is_some_and(|frequency| {
            *frequency = (*frequency + 1).min(3);
            true
        })
    }

    fn insert(&mut self, name: usize) {
        if self.frequency.len() == CAPACITY {
            self.evict();
        }
        self.frequency.insert(name, 0);
        let known = self.ghosts.iter_mut().find(|ghost| **ghost == Some(name));
        match known {
            Some(ghost) => {
                *ghost = None;
                self.main.push_back(name);
            }
            None => self.small.push_back(name),
        }
    }

    fn evict(&mut self) {
        loop {
            let from_small = self.small.len() >= CAPACITY / 10 || self.main.is_empty();
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let name = queue.pop_front().unwrap();
            let frequency = self.frequency.get_mut(&name).unwrap();
            if *frequency > 0 {
                *frequency = if from_small { 0 } else { *frequency - 1 };
                self.main.push_back(name);
                continue;
            }
            self.frequency.remove(&name);
            if from_small {
                self.ghosts.iter_mut().filter(|ghost| **ghost == Some(name)).for_each(|ghost| {
                    *ghost = None;
                });
                self.ghosts.push_back(Some(name));
                if self.ghosts.len() > CAPACITY {
                    self.ghosts.pop_front();
                }
            }
            return;
        }
    }
}

proptest! {
    /// After every step the same items are cached: some are asked for again and again, some once.
    #[test]
    fn evicts_what_the_paper_says(
        steps in proptest::collection::vec(prop_oneof![0usize..8, 0usize..25, 0usize..50], 1..600),
    ) {
        let keys = keys();
        let pool = BufferPool::new("test", 4096, CAPACITY + 2);
        let mut class = Class::new(CAPACITY);
        let mut model = Model::default();
        for name in steps {
            let found = class.get(&keys[name]);
            prop_assert_eq!(found.is_some(), model.get(name), "{}", name);
            if let Some(bytes) = found {
                prop_assert_eq!(bytes[0] as usize, name);
            } else {
                let mut buffer = pool.try_take().expect("two more than items");
                buffer[0] = name as u8;
                class.insert(keys[name], buffer.freeze(), 1);
                model.insert(name);
            }
            for (name, key) in keys.iter().enumerate() {
                let cached = class.contains(key);
                prop_assert_eq!(cached, model.frequency.contains_key(&name), "{}", name);
            }
        }
    }
}

fn key(number: u64) -> Key {
    Key { address: number / 8 + 1, offset: (number % 8) as u32, checksum: number * 77 }
}

fn bytes(number: u64) -> Frozen {
    let mut buffer = ioring::Buffer::zeroed(8);
    buffer.copy_from_slice(&number.to_le_bytes());
    buffer.freeze()
}

proptest! {
    /// Whatever is found is what was put there under that name, and what was removed is not found,
    /// whatever the capacity is at the time. Units of what is there are counted right.
    #[test]
    fn never_answers_for_another(
        steps in proptest::collection::vec((0u64..60, 0u8..10, 1usize..=16), 1..600),
    ) {
        let mut class = Class::new(16);
        let (mut there, mut capacity) = (BTreeMap::new(), 16);
        for (number, what, units) in steps {
            match what {
                0 => {
                    class.remove(&key(number));
                    prop_assert!(!class.contains(&key(number)));
                }
                1 => {
                    capacity = units;
                    class.set_capacity(capacity);
                }
                _ => {
                    let found = class.get(&key(number)).cloned();
                    if let Some(bytes) = found {
                        prop_assert_eq!(&bytes[..], &number.to_le_bytes());
                    } else if (units - 1) % 4 < capacity {
                        let units = (units - 1) % 4 + 1;
                        let at = class.insert(key(number), bytes(number), units).unwrap();
                        prop_assert_eq!(&class.bytes(at).unwrap()[..], &number.to_le_bytes());
                        there.insert(number, units);
                        prop_assert!(class.contains(&key(number)));
                    }
                }
            }
            there.retain(|number, _| class.contains(&key(*number)));
            prop_assert_eq!(class.units(), there.values().sum::<usize>());
            prop_assert!(class.units() <= capacity);
        }
    }
}

/// Items asked for again survive a scan ten times the size of the class.
#[test]
fn a_scan_does_not_wash_out_what_is_used() {
    let mut class = Class::new(100);
    for round in 0..4 {
        for number in 0..50 {
            if class.get(&key(number)).is_none() {
                class.insert(key(number), bytes(number), 1);
            }
            let other = 10_000 + round * 50 + number;
            class.insert(key(other), bytes(other), 1);
        }
    }
    for number in 1000..2000 {
        class.insert(key(number), bytes(number), 1);
    }
    let kept = (0..50).filter(|&number| class.get(&key(number)).is_some()).count();
    assert!(kept >= 45, "{kept} of 50 kept");
}

#[test]
fn another_checksum_at_the_same_place_is_another_item() {
    let mut class = Class::new(4);
    class.insert(key(1), bytes(1), 1);
    let written_again = Key { checksum: 5, ..key(1) };
    assert!(class.get(&written_again).is_none());
}
