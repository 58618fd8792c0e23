//! Damage of any single sector: what was durable is there or known to be damaged, at the next start
//! and at all that follow, however often the ring has gone round since.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::Random;
use ioring::sim::{Config, NodeId, SimDisk, World};

use super::node::{History, Member, configuration, make};
use super::{Model, seeds};
use crate::journal::SECTOR;
use crate::superblock::ZONE_SIZE;

const JOURNAL: &str = "/replica/journal";

/// A disk with a life on it that ended quietly, and what was told of it.
fn quiet(seed: u64, steps: u64) -> (SimDisk, Model) {
    let mut world = World::new(seed, Config::default());
    let node = world.add_node("quiet");
    world.run(node, make).unwrap();
    let history = History::new(Model::new());
    let told = history.clone();
    let lived = world.run(node, move || async move {
        for part in 0..2 {
            let mut member = Member::open(told.clone(), seed + part).await?;
            member.check(false).await?;
            member.run(steps / 2).await;
            ioring::sleep(Duration::from_millis(20)).await;
            member.stop(false).await;
        }
        Ok::<(), String>(())
    });
    lived.unwrap().unwrap();
    world.disk(node).settle();
    let model = history.now.borrow().clone();
    (world.disk(node).clone(), model)
}

/// Lives in which nothing new is committed and the ring goes round: nothing but what is vouched for
/// again keeps the damage known.
fn outlive_churning(world: &mut World, node: NodeId, model: Model) {
    let told = History::new(model);
    let lived = world.run(node, move || async move {
        for part in 0..4 {
            let mut member = Member::open(told.clone(), part).await?;
            member.check(true).await?;
            for _ in 0..20 {
                member.write_again().await;
            }
            member.stop(false).await;
        }
        Ok::<(), String>(())
    });
    lived.unwrap().unwrap();
}

/// Some lives after the damage.
fn outlive(world: &mut World, node: NodeId, model: Model, steps: &'static [u64]) {
    let told = History::new(model);
    let lived = world.run(node, move || async move {
        for (part, steps) in (0..).zip(steps) {
            let mut member = Member::open(told.clone(), part).await?;
            member.check(true).await?;
            member.run(*steps).await;
            member.check_held().await?;
            member.stop(part % 2 == 0).await;
        }
        Ok::<(), String>(())
    });
    lived.unwrap().unwrap();
}

fn sectors() -> u64 {
    (configuration().journal_file_size() - ZONE_SIZE as u64) / SECTOR as u64
}

#[test]
fn no_damaged_sector_is_taken_for_a_torn_write() {
    ioring::sim::marks::reset();
    for seed in 0..seeds(10) {
        let (disk, model) = quiet(seed, 30 + 20 * (seed % 10));
        for sector in 0..sectors() {
            let mut world = World::new(sector, Config::default());
            let node = world.add_node("rotten");
            world.set_disk(node, disk.clone());
            let offset = ZONE_SIZE as u64 + sector * SECTOR as u64;
            let within = [20, 300, 700, 3000][(seed + sector) as usize % 4];
            world.disk(node).rot(Path::new(JOURNAL), offset + within, 0x20).unwrap();
            match sector % 5 {
                0 => outlive(&mut world, node, model.clone(), &[60, 60, 0]),
                1 | 2 => outlive_churning(&mut world, node, model.clone()),
                _ => outlive(&mut world, node, model.clone(), &[0, 10, 0]),
            }
        }
    }
    let reached = ioring::sim::marks::hits();
    assert!(reached.contains_key("journal_member_damaged"), "{reached:?}");
}

#[test]
fn damage_under_a_running_member_is_not_forgotten() {
    ioring::sim::marks::reset();
    for seed in 0..seeds(60) {
        let (disk, model) = quiet(seed, 100);
        let mut world = World::new(seed, Config::default());
        let node = world.add_node("rotting");
        world.set_disk(node, disk);
        let probe = Rc::new(world.probe(node));
        let told = History::new(model);
        let lives = told.clone();
        let lived = world.run(node, move || async move {
            let mut member = Member::open(lives, seed).await?;
            member.check(false).await?;
            member.run(10).await;
            ioring::sleep(Duration::from_millis(20)).await;
            let mut random = Random::from_seed([seed as u8; 32]);
            let locations = member.locations();
            if !locations.is_empty() {
                let index = random.below(locations.len() as u64) as usize;
                let place = locations[index].offset;
                let rot = |disk: &mut SimDisk| disk.rot(Path::new(JOURNAL), place + 300, 1);
                probe.with_disk(rot).unwrap();
            }
            member.run(80).await;
            member.stop(seed % 2 == 0).await;
            Ok::<(), String>(())
        });
        lived.unwrap().unwrap();
        let model = told.now.borrow().clone();
        outlive(&mut world, node, model, &[60, 0]);
    }
    let reached = ioring::sim::marks::hits();
    assert!(reached.contains_key("journal_damaged_frame_left_behind"), "{reached:?}");
}
