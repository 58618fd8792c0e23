//! What lies between two nodes: delay with a heavy tail, loss, bandwidth, partitions.
//!
//! A link has a direction, so a partition can be one-sided. Inside one TCP stream bytes are never
//! lost, doubled or reordered; what a lossy or reordering network does to it is delay, and that is
//! how it appears here: a lost segment comes a retransmission later, and what was sent behind it
//! waits for it.

use std::collections::BTreeMap;

use super::weather::Sky;
use crate::sim::dice::Dice;

/// How the network behaves. Times in nanoseconds, rates per million segments.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Least delay of a segment.
    pub delay_min: u64,
    /// Greatest delay without bad luck.
    pub delay_max: u64,
    /// Segments that take 2 to 256 times as long.
    pub tail: u32,
    /// Segments lost and sent again.
    pub loss: u32,
    /// Segments that arrive with one bit flipped (a checksum that TCP's did not catch).
    pub corruption: u32,
    /// Time after which a lost segment is sent again; doubles up to 64 times.
    pub retransmit: u64,
    /// Time after which a connection attempt, or a connection with unanswered bytes, gives up.
    pub give_up: u64,
    /// Bytes on their way and unread that a connection holds per direction.
    pub window: usize,
    /// Largest segment; smaller ones are drawn too.
    pub segment_max: usize,
    /// Bytes a second of every link; 0 for no limit.
    pub bandwidth: u64,
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            delay_min: 20_000,
            delay_max: 120_000,
            tail: 2_000,
            loss: 0,
            corruption: 0,
            retransmit: 200_000_000,
            give_up: 20_000_000_000,
            window: 256 * 1024,
            segment_max: 16 * 1024,
            bandwidth: 0,
        }
    }
}

/// One direction between two nodes, where it differs from the default.
#[derive(Clone, Debug)]
struct Link {
    blocked: bool,
    slower: u64,
    free_at: u64,
}

impl Default for Link {
    fn default() -> Link {
        Link { blocked: false, slower: 1, free_at: 0 }
    }
}

pub(super) struct Links {
    pub(super) config: NetConfig,
    links: BTreeMap<(usize, usize), Link>,
    pub(super) sky: Option<Sky>,
}

impl Links {
    pub(super) fn new(config: NetConfig) -> Links {
        Links { config, links: BTreeMap::new(), sky: None }
    }

    pub(super) fn set_blocked(&mut self, from: usize, to: usize, blocked: bool) {
        self.links.entry((from, to)).or_default().blocked = blocked;
    }

    pub(super) fn set_slower(&mut self, from: usize, to: usize, factor: u64) {
        self.links.entry((from, to)).or_default().slower = factor.max(1);
    }

    pub(super) fn heal(&mut self) {
        self.links.clear();
        if let Some(sky) = &mut self.sky {
            sky.clear();
        }
    }

    pub(super) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.blocked)
            || self.sky.as_ref().is_some_and(|sky| sky.blocks(from, to))
    }

    /// Segments per million that arrive with a bit flipped.
    pub(super) fn corruption(&self, from: usize, to: usize) -> u32 {
        let weather = self.sky.as_ref().map_or(0, |sky| sky.corruption(from, to));
        self.config.corruption.max(weather)
    }

    /// When `bytes` sent now arrive at the other end, if nothing is in the way.
    pub(super) fn arrival(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        bytes: usize,
        dice: &mut Dice,
    ) -> u64 {
        let config = &self.config;
        let mut delay = dice.between(config.delay_min, config.delay_max);
        if from == to {
            delay /= 8;
        }
        if dice.chance(config.tail) {
            delay <<= dice.between(1, 8);
        }
        let lost = if dice.chance(config.loss) { config.retransmit } else { 0 };
        // Weather slows the way down, and not the sender's patience.
        let weather = self.sky.as_ref().map_or(1, |sky| sky.slower(from, to));
        delay = delay * weather + lost;
        if config.bandwidth == 0 && !self.links.contains_key(&(from, to)) {
            return now + delay;
        }
        let bandwidth = config.bandwidth;
        let link = self.links.entry((from, to)).or_default();
        if let Some(busy) = (bytes as u64 * 1_000_000_000).checked_div(bandwidth) {
            link.free_at = link.free_at.max(now) + busy * link.slower * weather;
        }
        link.free_at.max(now) + delay * link.slower
    }
}
