//! What a shard keeps through a restart.

use std::path::Path;

use ioring::Direct;
use ioring::sim::{Config as SimConfig, World};
use lsm::bar::{BarEnd, Progress};
use vsr::format::Configuration;
use vsr::superblock::{Identity, State};
use wire::{ClusterId, Incarnation, Op, ReplicaId, RootReference};

use super::*;

const GRID: &str = "/shard.grid";
const TABLE: TableId = TableId(0);

#[test]
fn generations_survive_a_checkpoint() {
    let mut generations = Generations::default();
    assert_eq!(generations.get(TableId(0)), 0);
    generations.raise(TableId(0), Version(5));
    generations.raise(TableId(0), Version(6));
    generations.raise(TableId(9), Version(7));
    assert_eq!((generations.get(TableId(0)), generations.get(TableId(9))), (2, 1));
    let bytes = extra::encode(&generations, &[], &[]);
    let expected = [[0_u32, 2, 6, 0], [9, 1, 7, 0]].map(|words| words.map(u32::to_le_bytes));
    assert_eq!(bytes, expected.as_flattened().as_flattened());
    let extra = extra::Extra { generations, ..extra::Extra::default() };
    assert_eq!(extra::decode(&bytes).unwrap(), extra);
}

/// One op per bar, each of them a hundred keys; the op at `FLUSH` empties the table first.
const FLUSH: u64 = 2;
const BARS: u64 = 12;
/// The bar at whose end a checkpoint is taken, of the bar before; another at the very end, for
/// everything to be on the disk.
const CHECKPOINT_AT: u64 = 3;

fn write(shard: &mut Shard, op: u64) {
    let mut version = op * 1000;
    if op == FLUSH {
        shard.flush(TABLE, Version(version));
    }
    let mut key = Vec::new();
    for number in 0..100 {
        version += 1;
        shard.encode_key(TABLE, format!("{number}-{op}").as_bytes(), &mut key);
        let put = Effect::Put { value: &[7; 100], deadline: 0 };
        shard.apply(&key, Version(version), put, &[]);
    }
}

async fn end_bar(shard: &mut Shard, end: BarEnd) -> Option<Checkpoint> {
    shard.forest.beat(Progress::WHOLE);
    shard.forest.bar_done().await;
    shard.end_bar(&end, &[]).unwrap()
}

/// The grid after all bars, with or without a restart from the checkpoint.
fn grid_after(restart: bool) -> Vec<u8> {
    let mut world = World::new(1, SimConfig::default());
    let node = world.add_node("store");
    let main = move || async move {
        let identity =
            Identity { cluster: ClusterId(1), replica: ReplicaId(0), incarnation: Incarnation(2) };
        let mut state = State::formatted(identity, Configuration::test_min());
        let (path, id, direct) = (Path::new(GRID), ShardId(0), Direct::Preferred);
        open::format(path, &state, id, direct).await.unwrap();
        let (mut shard, _) = open::open(path, &state, id, 1 << 20, direct).await.unwrap();
        let mut op = 0;
        let mut restarted = !restart;
        while op < BARS {
            op += 1;
            write(&mut shard, op);
            let takes = op == CHECKPOINT_AT && state.checkpoint.op == Op(0) || op == BARS;
            let checkpoint = takes.then_some(op - 1);
            let free = (op == CHECKPOINT_AT + 1).then_some(CHECKPOINT_AT - 1);
            let Some(taken) = end_bar(&mut shard, BarEnd { op, checkpoint, free }).await else {
                continue;
            };
            let root = taken.write().await.0;
            let checksum = wire::Checksum(root.checksum.0);
            state.checkpoint.op = Op(op - 1);
            state.checkpoint.shards[0] =
                RootReference::new(root.address.get(), u64::from(root.size), checksum);
            if !std::mem::replace(&mut restarted, true) {
                // The jobs of the bar that began are given up with the process.
                drop(shard);
                (shard, _) = open::open(path, &state, id, 1 << 20, direct).await.unwrap();
                op -= 1;
            }
        }
    };
    world.run(node, main).unwrap();
    world.disk(node).contents(Path::new(GRID)).unwrap()
}

/// Keys from before a FLUSHALL are dropped after a restart as they are without one.
#[test]
fn a_flush_is_known_to_compaction_after_a_restart() {
    let (without, with) = (grid_after(false), grid_after(true));
    let block = Configuration::test_min().block_size as usize;
    assert_eq!(without.len(), with.len());
    for (number, (a, b)) in without.chunks(block).zip(with.chunks(block)).enumerate() {
        assert!(a == b, "block {number} differs");
    }
}
