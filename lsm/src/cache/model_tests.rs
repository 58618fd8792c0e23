//! A class of the cache against S3-FIFO as its paper has it: plain queues, and a list of names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ioring::BufferPool;
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
        let mut class = Class::new(Frames::Equal(pool), CAPACITY);
        let mut model = Model::default();
        for name in steps {
            let found = class.get(&keys[name]);
            prop_assert_eq!(found.is_some(), model.get(name), "{}", name);
            if let Some(bytes) = found {
                prop_assert_eq!(bytes[0] as usize, name);
            } else {
                let mut buffer = class.frames.try_take(4096).expect("two more than items");
                buffer[0] = name as u8;
                class.insert(keys[name], buffer.freeze());
                model.insert(name);
            }
            for (name, key) in keys.iter().enumerate() {
                let cached = class.find(key) != NONE;
                prop_assert_eq!(cached, model.frequency.contains_key(&name), "{}", name);
            }
        }
    }
}
