//! The checkers prove themselves: each way of breaking the protocol is noticed within a few seeds.

use vsr::replica::Canary;

use crate::lives::try_seed;
use crate::world::Sabotage;

/// Seeds that a break must be noticed in.
const SEEDS: u64 = 2000;

fn caught(canary: Canary, sabotage: Sabotage) {
    let mut seeds = 0..SEEDS;
    let found = seeds.find_map(|seed| {
        let broken = try_seed(seed, |config| config.canary = canary, sabotage);
        Some((seed, broken.err()?))
    });
    let (seed, why) = found.unwrap_or_else(|| panic!("{canary:?} {sabotage:?} is not noticed"));
    let why = why.lines().next().unwrap_or_default().to_owned();
    println!("{canary:?} {sabotage:?}: noticed after {} seeds: {why}", seed + 1);
}

#[test]
fn acknowledging_before_a_write_is_durable_is_noticed() {
    caught(Canary::AcknowledgeBeforeDurable, Sabotage::None);
}

#[test]
fn committing_without_a_quorum_is_noticed() {
    caught(Canary::CommitWithoutQuorum, Sabotage::None);
}

#[test]
fn denying_what_is_damaged_is_noticed() {
    caught(Canary::NackDamage, Sabotage::None);
}

#[test]
fn dropping_an_op_without_a_nack_quorum_is_noticed() {
    caught(Canary::DropWithoutNacks, Sabotage::None);
}

#[test]
fn taking_the_log_of_an_older_view_is_noticed() {
    caught(Canary::OlderLog, Sabotage::None);
}

#[test]
fn leading_again_after_a_restart_is_noticed() {
    caught(Canary::LeadAfterRestart, Sabotage::None);
}

#[test]
fn trusting_what_older_views_left_is_noticed() {
    caught(Canary::TrustStale, Sabotage::None);
}

#[test]
fn acknowledging_in_a_view_that_is_not_durable_is_noticed() {
    caught(Canary::AcknowledgeUnvouched, Sabotage::None);
}

#[test]
fn reading_without_a_round_is_noticed() {
    caught(Canary::ReadWithoutRound, Sabotage::None);
}

#[test]
fn forgetting_the_view_at_a_restart_is_noticed() {
    caught(Canary::ForgetView, Sabotage::None);
}
