//! Disturbances that come and go by themselves, drawn from the seed.
//!
//! A network without weather does what a test tells it to. With weather, disturbances strike at
//! drawn moments and last for drawn times; several can be under way at once, so that what no test
//! thinks of happens: partitions that are not transitive, links that flap, a connection reset
//! within a partition that is one-sided already. What a test sets by hand stays as it set it.
//!
//! Weather has dice of its own: a world without it runs as if it did not exist, and one with it is
//! repeated by its seed like any other.

use std::collections::BTreeSet;

use crate::sim::dice::Dice;

/// How often what strikes. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Nodes between which it strikes; at least two.
    pub nodes: Vec<usize>,
    /// What strikes, each as likely as the others; named twice, it is twice as likely.
    pub kinds: Vec<Disturbance>,
    /// Least time from one disturbance to the next.
    pub pause_min: u64,
    /// Greatest time from one disturbance to the next.
    pub pause_max: u64,
    /// Least time that one lasts.
    pub lasts_min: u64,
    /// Greatest time that one lasts.
    pub lasts_max: u64,
}

/// A kind of disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// The nodes fall into two groups, with nothing between them.
    Split,
    /// Two nodes hear nothing of each other; others hear both.
    Cut,
    /// One node hears nothing of another, which hears it.
    OneWay,
    /// The way from one node to another takes 2 to 200 times as long.
    Slow,
    /// One segment of a thousand on the way from one node to another has a bit flipped.
    Corrupt,
    /// All connections between two nodes are reset. Lasts no time.
    Reset,
}

impl Disturbance {
    /// Every kind.
    pub const ALL: [Disturbance; 6] = [
        Disturbance::Split,
        Disturbance::Cut,
        Disturbance::OneWay,
        Disturbance::Slow,
        Disturbance::Corrupt,
        Disturbance::Reset,
    ];
}

/// Segments per million.
const CORRUPTION: u32 = 1_000;

/// A disturbance under way.
enum Strike {
    Split(BTreeSet<usize>),
    Cut(usize, usize),
    OneWay(usize, usize),
    Slow(usize, usize, u64),
    Corrupt(usize, usize),
}

/// The weather and what it does now.
pub(super) struct Sky {
    weather: Weather,
    dice: Dice,
    next: u64,
    strikes: Vec<(u64, Strike)>,
    /// How many of each kind have struck, in the order of [`Disturbance::ALL`].
    pub(super) counts: [u64; Disturbance::ALL.len()],
}

impl Sky {
    pub(super) fn new(weather: Weather, seed: u64, now: u64) -> Sky {
        assert!(weather.nodes.len() > 1, "weather strikes between nodes");
        assert!(!weather.kinds.is_empty(), "weather of no kind");
        let mut dice = Dice::new(seed, "weather");
        let next = now + dice.between(weather.pause_min, weather.pause_max);
        Sky { weather, dice, next, strikes: Vec::new(), counts: Default::default() }
    }

    /// When it changes.
    pub(super) fn next_change(&self) -> u64 {
        self.strikes.iter().map(|(until, _)| *until).fold(self.next, u64::min)
    }

    /// Ends what is over and begins what is due; gives two nodes whose connections are reset.
    pub(super) fn change(&mut self, now: u64) -> Option<(usize, usize)> {
        self.strikes.retain(|(until, _)| *until > now);
        if now < self.next {
            return None;
        }
        let Weather { nodes, kinds, pause_min, pause_max, lasts_min, lasts_max } = &self.weather;
        let dice = &mut self.dice;
        self.next = now + dice.between(*pause_min, *pause_max).max(1);
        let until = now + dice.between(*lasts_min, *lasts_max).max(1);
        let kind = kinds[dice.below(kinds.len() as u64) as usize];
        let first = dice.below(nodes.len() as u64) as usize;
        let second = (first + dice.between(1, nodes.len() as u64 - 1) as usize) % nodes.len();
        let (a, b) = (nodes[first], nodes[second]);
        self.counts[kind as usize] += 1;
        let strike = match kind {
            Disturbance::Reset => return Some((a, b)),
            Disturbance::Split => {
                // One on this side and one on that; the others by lot.
                let lot = nodes.iter().filter(|node| **node != b && dice.coin());
                Strike::Split(lot.copied().chain([a]).collect())
            }
            Disturbance::Cut => Strike::Cut(a, b),
            Disturbance::OneWay => Strike::OneWay(a, b),
            Disturbance::Slow => Strike::Slow(a, b, dice.between(2, 200)),
            Disturbance::Corrupt => Strike::Corrupt(a, b),
        };
        self.strikes.push((until, strike));
        None
    }

    /// Ends all that is under way.
    pub(super) fn clear(&mut self) {
        self.strikes.clear();
    }

    pub(super) fn blocks(&self, from: usize, to: usize) -> bool {
        let concerned = |node| self.weather.nodes.contains(&node);
        self.strikes.iter().any(|(_, strike)| match strike {
            Strike::Split(side) => {
                concerned(from) && concerned(to) && side.contains(&from) != side.contains(&to)
            }
            Strike::Cut(a, b) => (from, to) == (*a, *b) || (from, to) == (*b, *a),
            Strike::OneWay(a, b) => (from, to) == (*a, *b),
            Strike::Slow(..) | Strike::Corrupt(..) => false,
        })
    }

    pub(super) fn slower(&self, from: usize, to: usize) -> u64 {
        let factors = self.strikes.iter().map(|(_, strike)| match strike {
            Strike::Slow(a, b, factor) if (from, to) == (*a, *b) => *factor,
            _ => 1,
        });
        factors.max().unwrap_or(1)
    }

    pub(super) fn corruption(&self, from: usize, to: usize) -> u32 {
        let corrupts =
            |strike: &Strike| matches!(strike, Strike::Corrupt(a, b) if (from, to) == (*a, *b));
        if self.strikes.iter().any(|(_, strike)| corrupts(strike)) { CORRUPTION } else { 0 }
    }
}
