//! Damage anywhere: whatever happened to the bytes of a grid, an open and every read give what was
//! written, or an error. Never a panic, never a wrong answer.
//!
//! Two kinds. *Damage of the disk*: a bit flipped, a sector zeroed, a block where another one
//! belongs; checksums and identities see all of it. *Nonsense by a faulty release*: a block of the
//! checkpoint with intact checksums and something else inside; there only panics are ruled out.

use std::path::Path;
use std::rc::Rc;

use ioring::sim::{Config as SimConfig, Dice, SimDisk, World};

use super::log::{Scale, Shape, TABLE};
use super::{Plan, Proof, play_in, world};
use crate::block::{BlockReference, Checksum, HEADER_SIZE, METADATA_SIZE};
use crate::checkpoint::Root;
use crate::forest::Forest;
use crate::forest::harness::{GRID_PATH, open_forest, owned};
use crate::key::{Prefix, Range};
use crate::lookup::{Lookup, LookupError, Want};
use crate::scan::{Direction, Scan, ScanStep};
use crate::tree::Tree;

/// What readers of a damaged grid met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) refused: u64,
    pub(super) right: u64,
    pub(super) unreadable: u64,
    /// Grids of which verification said something.
    pub(super) faulty: u64,
}

impl Met {
    fn add(&mut self, other: Met) {
        self.refused += other.refused;
        self.right += other.right;
        self.unreadable += other.unreadable;
        self.faulty += other.faulty;
    }
}

/// Plays a log, then damages the grid in `cases` ways, one at a time.
pub(super) fn damage(seed: u64, ops: u64, cases: u64) -> Met {
    let plan = Plan { seed, scale: Scale::Tiny, ops, world: seed, reads: false, rots: false };
    let (mut world, proof) = (world(&plan), Rc::new(Proof::new(plan)));
    let node = world.add_node("store");
    play_in(&mut world, node, &proof);
    let disk = world.disk(node).clone();
    let dice = &mut Dice::new(seed, "damage");
    let mut met = Met::default();
    for case in 0..cases {
        let mut disk = disk.clone();
        let newest = proof.roots.borrow().last_key_value().map(|(_, root)| *root);
        let nonsense = newest.filter(|_| case % 2 == 1);
        let root = nonsense.map(|root| write_nonsense(&mut disk, &proof.shape, root, dice));
        if root.is_none() {
            harm(&mut disk, &proof.shape, dice);
        }
        let mut world = World::new(seed ^ case, SimConfig::default());
        let node = world.add_node("damaged");
        world.set_disk(node, disk);
        let proof = Rc::clone(&proof);
        met.add(world.run(node, move || read_all(proof, root)).expect("it ends"));
    }
    met
}

fn blocks(disk: &SimDisk, shape: &Shape) -> Vec<Vec<u8>> {
    let contents = disk.contents(Path::new(GRID_PATH)).expect("it was formatted");
    contents.chunks(shape.config.block_size as usize).map(<[u8]>::to_vec).collect()
}

fn overwrite(disk: &mut SimDisk, shape: &Shape, number: usize, at: usize, bytes: &[u8]) {
    let offset = number as u64 * u64::from(shape.config.block_size) + at as u64;
    disk.overwrite(Path::new(GRID_PATH), offset, bytes).expect("it was formatted");
}

/// What disks do.
fn harm(disk: &mut SimDisk, shape: &Shape, dice: &mut Dice) {
    let blocks = blocks(disk, shape);
    let mut pick = |len: usize| dice.below(len as u64) as usize;
    let number = pick(blocks.len());
    let at = pick(blocks[number].len());
    match pick(3) {
        0 => {
            let flipped = blocks[number][at] ^ 1 << pick(8);
            overwrite(disk, shape, number, at, &[flipped]);
        }
        1 => overwrite(disk, shape, number, at / 512 * 512, &[0; 512]),
        _ => {
            let other = pick(blocks.len());
            overwrite(disk, shape, number, 0, &blocks[other]);
        }
    }
}

/// Changes bytes of a block that the root names, or of the root, and makes all checksums fit that
/// lead to it. Gives the root that comes of it.
fn write_nonsense(disk: &mut SimDisk, shape: &Shape, root: Root, dice: &mut Dice) -> Root {
    let blocks = blocks(disk, shape);
    let number = root.0.address.get() as usize;
    let mut body = blocks[number][..root.0.size as usize].to_vec();
    let is_named = |block: &[u8]| {
        block[..16] != [0; 16] && body.windows(16).any(|bytes| bytes == &block[..16])
    };
    let named: Vec<usize> =
        (1..blocks.len()).filter(|&n| n == number || is_named(&blocks[n])).collect();
    let victim = named[dice.below(named.len() as u64) as usize];
    if victim == number {
        scribble(&mut body, dice);
    } else {
        let size = u32::from_le_bytes(*blocks[victim][64..].first_chunk().expect("a header"));
        let mut bytes = blocks[victim][..size as usize].to_vec();
        scribble(&mut bytes, dice);
        let checksum = reseal(&mut bytes);
        overwrite(disk, shape, victim, 0, &bytes);
        let at = body.windows(16).position(|bytes| bytes == &blocks[victim][..16]);
        let at = at.expect("the root names it");
        body[at..at + 16].copy_from_slice(&checksum.0.to_le_bytes());
    }
    let checksum = reseal(&mut body);
    overwrite(disk, shape, number, 0, &body);
    Root(BlockReference { checksum, ..root.0 })
}

/// Changes a few bytes of a block's metadata and body.
fn scribble(block: &mut [u8], dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        let at = dice.between((HEADER_SIZE - METADATA_SIZE) as u64, block.len() as u64 - 1);
        block[at as usize] = dice.below(256) as u8;
    }
}

/// Computes a block's checksums anew; gives the one it is known by.
fn reseal(block: &mut [u8]) -> Checksum {
    let body = Checksum::of(&block[HEADER_SIZE..]);
    block[16..32].copy_from_slice(&body.0.to_le_bytes());
    let header = Checksum::of(&block[16..HEADER_SIZE]);
    block[..16].copy_from_slice(&header.0.to_le_bytes());
    header
}

/// Opens what is there and reads everything in it.
async fn read_all(proof: Rc<Proof>, nonsense: Option<Root>) -> Met {
    let (mut met, is_right) = (Met::default(), nonsense.is_none());
    let Ok((forest, ..)) = open_forest(&proof.shape.config, nonsense).await else {
        met.refused = 1;
        return met;
    };
    // Of a forest whose root is nonsense the version may be anything.
    let snapshot = if is_right { forest.version() } else { u64::MAX };
    let generation = proof.model.borrow().generation_at(snapshot);
    for number in 0..proof.shape.keys {
        let key = proof.shape.key(number, generation);
        let looked = forest.get_cached(Tree::Objects, &key, snapshot, Want::Value, owned);
        let answer = match looked {
            Lookup::Found(entry) => Ok(Some(entry)),
            Lookup::Absent => Ok(None),
            Lookup::NeedsRead(read) => read.run().await,
        };
        match answer {
            Ok(found) => {
                let expected = proof.model.borrow().get(&key, snapshot);
                assert!(!is_right || found == expected, "{found:?}, not {expected:?}");
                met.right += 1;
            }
            Err(LookupError::Corrupt(_)) => met.unreadable += 1,
            Err(LookupError::Moved) => panic!("nothing moves while nothing runs"),
        }
    }
    for direction in [Direction::Ascending, Direction::Descending] {
        met.add(scan(&proof, &forest, (snapshot, generation), direction, is_right).await);
    }
    let faults = forest.verify().await;
    met.faulty += u64::from(!faults.is_empty());
    assert!(met.unreadable == 0 || !faults.is_empty(), "what cannot be read is not reported");
    met
}

async fn scan(
    proof: &Proof,
    forest: &Forest,
    (snapshot, generation): (u64, u32),
    direction: Direction,
    is_right: bool,
) -> Met {
    let prefix = Prefix { table: TABLE, generation, kind: 0 }.to_bytes();
    let range = Range { lower: prefix[..8].to_vec(), upper: None };
    let mut expected = proof.model.borrow().rows(&range, snapshot);
    if direction == Direction::Descending {
        expected.reverse();
    }
    let mut scan = Scan::new(Tree::Objects, range, direction, snapshot);
    let (mut met, mut given) = (Met::default(), Vec::new());
    loop {
        let step = forest.scan_step(&mut scan, 100, |entry| {
            given.push((entry.key.to_vec(), entry.version, entry.payload.value_len()));
            std::ops::ControlFlow::Continue(())
        });
        let is_prefix = expected.starts_with(&given);
        assert!(!is_right || is_prefix, "{given:?}\nis not how this begins: {expected:?}");
        match step {
            ScanStep::Done => {
                assert!(!is_right || given.len() == expected.len(), "rows are missing");
                met.right += 1;
                return met;
            }
            ScanStep::More => {}
            ScanStep::TooOld => return met,
            ScanStep::NeedsRead(read) => match read.run().await {
                Ok(loaded) => scan.supply(loaded),
                Err(LookupError::Corrupt(_)) => {
                    met.unreadable += 1;
                    return met;
                }
                Err(LookupError::Moved) => panic!("nothing moves while nothing runs"),
            },
        }
    }
}
