//! Corrupt blocks where others have copies: all is repaired, nothing else is ever written, and what
//! the grid becomes is what it would have been.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ioring::sim::Probe;

use super::*;
use crate::block::BlockAddress;
use crate::forest::harness::GRID_PATH;
use crate::grid::{Copies, Fetch};

const ROT: u8 = 0xA5;

/// Another replica: a grid as it was once.
struct Other {
    image: RefCell<Vec<u8>>,
    /// Questions that are answered with nothing before one is answered.
    refuses: Cell<u32>,
    /// Gives another block than is asked for.
    lies: bool,
    asked: Cell<u32>,
}

impl Other {
    fn new(probe: &Probe) -> Rc<Other> {
        let image = RefCell::new(contents(probe));
        Rc::new(Other { image, refuses: Cell::new(0), lies: false, asked: Cell::new(0) })
    }
}

impl Copies for Other {
    fn fetch(&self, shard: u16, block: BlockReference, patience: Option<Duration>) -> Fetch {
        assert_eq!(shard, 3);
        self.asked.set(self.asked.get() + 1);
        if let Some(left) = self.refuses.get().checked_sub(1) {
            self.refuses.set(left);
            return Box::pin(async { None });
        }
        let start = offset_of(&block) as usize;
        let mut copy = self.image.borrow()[start..start + block.size as usize].to_vec();
        if self.lies {
            copy[block.size as usize / 2] ^= 1;
        }
        Box::pin(async move {
            ioring::sleep(patience.unwrap_or_default().min(Duration::from_millis(1))).await;
            Some(copy)
        })
    }
}

/// A whole cycle, repairs included; what it found.
async fn walk(driver: &mut Driver, random: u64) -> Vec<ScrubFault> {
    let (mut faults, mut scrub) = (Vec::new(), driver.forest.scrub(random));
    while step(driver, &mut scrub, &mut faults).await {}
    faults
}

fn contents(probe: &Probe) -> Vec<u8> {
    probe.with_disk(|disk| disk.contents(Path::new(GRID_PATH)).expect("there is a grid"))
}

/// Damages all of a block.
fn spoil(probe: &Probe, block: &BlockReference) {
    let rot = vec![ROT; block.size as usize];
    let spoilt =
        probe.with_disk(|disk| disk.overwrite(Path::new(GRID_PATH), offset_of(block), &rot));
    spoilt.expect("the file is that long");
}

#[test]
fn a_scrub_repairs_blocks_of_every_kind() {
    let log = Rc::new(harness::log(61, &shape()));
    let (mut world, node, all) = filled(&log, 900);
    let probe = world.probe(node);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let other = Other::new(&probe);
        driver.forest.set_copies(other.clone());
        all.iter().for_each(|(_, block)| spoil(&probe, block));
        let faults = walk(&mut driver, 9).await;
        assert_eq!(faults.len(), all.len());
        assert_eq!(driver.forest.blocks_repaired(), all.len() as u64);
        assert!(*other.image.borrow() == contents(&probe), "the grid is not what it was");
        assert_eq!(cycle(&mut driver, 5).await.0.len(), 0);
        assert!(driver.forest.faults().is_empty(), "a table is quarantined");
        assert_eq!(driver.forest.verify().await, []);
    };
    world.run(node, main).expect("it runs to its end");
}

#[test]
fn reads_wait_for_the_repair_and_are_answered() {
    let log = Rc::new(harness::log(61, &shape()));
    let (mut world, node, all) = filled(&log, 900);
    let probe = world.probe(node);
    let main = move || async move {
        let driver = Driver::open(&harness::config(), Rc::default()).await;
        let other = Other::new(&probe);
        driver.forest.set_copies(other.clone());
        let of_tables = [BlockType::Value, BlockType::Index, BlockType::Overflow];
        let of_tables = all.iter().filter(|(kind, _)| of_tables.contains(kind));
        of_tables.for_each(|(_, block)| spoil(&probe, block));
        let model = harness::model(&log, driver.op);
        // Side by side: several need the same block.
        let keys: Vec<_> = (0..shape().keys).map(harness::key_of).collect();
        for keys in keys.chunks(20) {
            let found = ioring::join_all(keys.iter().map(|key| driver.get(key, u64::MAX))).await;
            for (key, found) in keys.iter().zip(found) {
                assert_eq!(found.expect("it is repaired"), model.get(key, u64::MAX));
            }
        }
        assert!(driver.forest.blocks_repaired() > 10);
        let (asked, repaired) = (other.asked.get(), driver.forest.blocks_repaired());
        assert_eq!(u64::from(asked), repaired, "each block is asked for once");
    };
    world.run(node, main).expect("it runs to its end");
}

#[test]
fn a_copy_that_is_another_block_is_not_written() {
    let log = Rc::new(harness::log(61, &shape()));
    let (mut world, node, all) = filled(&log, 900);
    let probe = world.probe(node);
    let main = move || async move {
        let mut driver = Driver::open(&harness::config(), Rc::default()).await;
        let mut other = Other::new(&probe);
        Rc::get_mut(&mut other).expect("nobody else has it").lies = true;
        driver.forest.set_copies(other);
        all.iter().for_each(|(_, block)| spoil(&probe, block));
        let before = contents(&probe);
        let faults = walk(&mut driver, 9).await;
        assert!(!faults.is_empty());
        assert!(before == contents(&probe), "something was written");
        let mut failed = 0;
        for number in 0..40 {
            let found = driver.get(&harness::key_of(number), u64::MAX).await;
            failed += u32::from(matches!(found, Err(LookupError::Corrupt(_))));
        }
        assert!(failed > 0, "nothing was in the damaged blocks");
    };
    world.run(node, main).expect("it runs to its end");
}

#[test]
fn a_merge_waits_for_a_copy_and_comes_to_the_same() {
    let log = Rc::new(harness::log(62, &shape()));
    let finals = [false, true].map(|damaged| {
        let (mut world, node, all) = filled(&log, 500);
        let (probe, log) = (world.probe(node), Rc::clone(&log));
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            let other = Other::new(&probe);
            driver.forest.set_copies(other.clone());
            if damaged {
                let of_tables = [BlockType::Value, BlockType::Index];
                let of_tables = all.iter().filter(|(kind, _)| of_tables.contains(kind));
                of_tables.for_each(|(_, block)| spoil(&probe, block));
                other.refuses.set(7);
            }
            driver.run(&log, 900).await;
            driver.settle().await;
            assert_eq!(driver.forest.blocks_repaired() > 0, damaged);
            assert!(driver.forest.faults().is_empty(), "a table is quarantined");
            cycle(&mut driver, 1).await;
            contents(&probe)
        };
        world.run(node, main).expect("it runs to its end")
    });
    // Blocks that nobody needed any more stay as they are.
    let block_size = harness::config().block_size as usize;
    let [intact, damaged] = &finals;
    let spoilt = |block: &[u8]| block[..256].iter().all(|byte| *byte == ROT);
    let pairs = intact.chunks(block_size).zip(damaged.chunks(block_size));
    let differ = pairs.filter(|(intact, other)| intact != other && !spoilt(other)).count();
    assert_eq!(differ, 0, "blocks differ");
}

/// What a read expects may have been freed and written anew since; others still have the old block.
#[test]
fn what_was_written_anew_is_not_overwritten_with_a_copy_of_the_past() {
    const LATER: u64 = 400;
    let mut overtaken = 0;
    for seed in 0..4 {
        let log = harness::log(70 + seed, &Shape { ops: 2500, ..Shape::default() });
        let mut world = World::new(seed, SimConfig::default());
        let node = world.add_node("store");
        let probe = world.probe(node);
        let main = move || async move {
            let mut driver = Driver::open(&harness::config(), Rc::default()).await;
            driver.run(&log, 50).await;
            let (mut overtaken, other) = (0, Other::new(&probe));
            driver.forest.set_copies(other.clone());
            while driver.op + LATER <= 2500 {
                driver.settle().await;
                *other.image.borrow_mut() = contents(&probe);
                let mut reads = Vec::new();
                for number in 0..40 {
                    let (tree, key) = (crate::tree::Tree::Objects, harness::key_of(number));
                    let want = crate::lookup::Want::Value;
                    let found = driver.forest.get_cached(tree, &key, u64::MAX, want, |_| ());
                    if let crate::lookup::Lookup::NeedsRead(read) = found {
                        reads.push(read);
                    }
                }
                driver.run(&log, driver.op + LATER).await;
                for read in reads {
                    overtaken += u32::from(matches!(read.run().await, Err(LookupError::Moved)));
                }
            }
            driver.settle().await;
            assert_eq!(cycle(&mut driver, 3).await.0.len(), 0, "seed {seed}");
            assert_eq!(driver.forest.blocks_repaired(), 0, "seed {seed}");
            overtaken
        };
        overtaken += world.run(node, main).expect("it runs to its end");
    }
    assert!(overtaken > 0, "no block was reused while it was read");
}

#[test]
fn a_copy_is_given_only_of_the_block_that_is_asked_for() {
    let log = Rc::new(harness::log(61, &shape()));
    let (mut world, node, all) = filled(&log, 900);
    let probe = world.probe(node);
    let main = move || async move {
        let driver = Driver::open(&harness::config(), Rc::default()).await;
        for (_, block) in &all {
            let copy = driver.forest.copy_of(block.address, block.checksum).await;
            let copy = copy.expect("it is there");
            let start = offset_of(block) as usize;
            assert_eq!(copy.bytes(), &contents(&probe)[start..start + block.size as usize]);
        }
        let (block, other) = (all[0].1, all[1].1);
        assert!(driver.forest.copy_of(block.address, other.checksum).await.is_none());
        spoil(&probe, &block);
        assert!(driver.forest.copy_of(block.address, block.checksum).await.is_none());
        for far in [1 << 40, u64::MAX] {
            let address = BlockAddress::new(far).expect("it is not 0");
            assert!(driver.forest.copy_of(address, block.checksum).await.is_none());
        }
        assert!(!driver.forest.is_damaged(), "what others ask for says nothing of this grid");
    };
    world.run(node, main).expect("it runs to its end");
}
