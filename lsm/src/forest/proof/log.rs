//! Logs made from a seed: op n is a function of the seed and n alone, so a log of any length takes
//! no memory, and a replay from anywhere is the same.
//!
//! Every seed has a *shape* of its own: settings of the storage, how keys look and are chosen, and
//! how often each kind of change comes. A kind that a shape leaves out altogether gives the others
//! room (swarm testing: Groce et al., "Swarm Testing", ISSTA 2012).

use ioring::sim::Dice;

use crate::config::{Compression, Config, FilterKind};
use crate::entry::DEADLINE_NONE;
use crate::forest::harness::{OP_SPAN, version};
use crate::key::{self, Prefix};

pub(super) const TABLE: u32 = 3;
/// Due entries that a pulse deals with at most.
pub(super) const DUE_PER_PULSE: usize = 60;

/// What a log's op changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put {
        number: u32,
        len: usize,
        deadline: u64,
    },
    Delete {
        number: u32,
    },
    /// Deletes what is due.
    Pulse,
    /// FLUSHALL: a new generation of the table.
    Flush,
}

#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) changes: Vec<Change>,
    pub(super) log_bytes: u64,
}

/// Of which sizes everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Blocks of 4 KiB and tables of a few of them.
    Tiny,
    /// The default blocks, pages and levels, with a smaller memtable.
    Standard,
}

/// What is drawn for a seed; rates are of a thousand changes, or of a hundred thousand ops.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) keys: u32,
    layout: u64,
    choice: u64,
    changes_max: u64,
    deletes: u64,
    empty: u64,
    medium: u64,
    large: u64,
    deadlines: u64,
    deadline_ops: u64,
    pulses: u64,
    flushes: u64,
    heavy: u64,
    /// Whether blocks rot. Then nothing expires: a pulse could not be done without what it reads.
    pub(super) rots: bool,
    /// Whether objects stand in indexes.
    pub(super) indexed: bool,
}

/// Nothing in one of three shapes, else anything up to the most.
fn rate(dice: &mut Dice, most: u64) -> u64 {
    if dice.below(3) == 0 { 0 } else { dice.below(most + 1) }
}

impl Shape {
    pub(super) fn draw(seed: u64, scale: Scale) -> Shape {
        let dice = &mut Dice::new(seed, "shape");
        let config = match scale {
            Scale::Tiny => tiny(dice),
            Scale::Standard => standard(dice),
        };
        let keys_most = if scale == Scale::Tiny { 1 << dice.between(3, 11) } else { 400 };
        let rots = dice.below(5) == 0;
        Shape {
            seed,
            config,
            keys: dice.between(4, keys_most) as u32,
            layout: dice.below(4),
            choice: dice.below(3),
            changes_max: dice.between(1, 6),
            deletes: rate(dice, 500),
            empty: rate(dice, 200),
            medium: rate(dice, 300),
            large: rate(dice, 60),
            deadlines: if rots { 0 } else { rate(dice, 500) },
            deadline_ops: dice.between(1, 600),
            pulses: rate(dice, 10_000),
            flushes: rate(dice, 400),
            heavy: rate(dice, 100_000),
            rots,
            indexed: dice.coin(),
        }
    }

    /// Op n of the log.
    pub(super) fn op(&self, number: u64) -> Op {
        let dice = &mut Dice::new(self.seed.rotate_left(32) ^ number, "op");
        let heavy = dice.below(100_000) < self.heavy;
        let log_bytes = if heavy { u64::from(self.config.value_size_max) * 2 } else { 4096 };
        let draw = dice.below(100_000);
        if draw < self.pulses {
            return Op { changes: vec![Change::Pulse], log_bytes };
        }
        if draw < self.pulses + self.flushes {
            return Op { changes: vec![Change::Flush], log_bytes };
        }
        let mut room = self.config.value_size_max as usize;
        let count = dice.between(1, self.changes_max);
        let changes = (0..count).map(|index| self.change(dice, (number, index), &mut room));
        Op { changes: changes.collect(), log_bytes }
    }

    fn change(&self, dice: &mut Dice, (op, index): (u64, u64), room: &mut usize) -> Change {
        let keys = u64::from(self.keys);
        let number = match self.choice {
            0 => dice.below(keys),
            // Some much more often than others.
            1 => dice.below(keys).min(dice.below(keys)).min(dice.below(keys)),
            _ => (op * self.changes_max + index) % keys,
        } as u32;
        if dice.below(1000) < self.deletes {
            return Change::Delete { number };
        }
        let len = self.len(dice).min(*room);
        *room -= len;
        let expires = dice.below(1000) < self.deadlines;
        let deadline = version(op, 0) + dice.below(self.deadline_ops) * OP_SPAN + 1;
        Change::Put { number, len, deadline: if expires { deadline } else { DEADLINE_NONE } }
    }

    fn len(&self, dice: &mut Dice) -> usize {
        let inline_max = self.config.inline_value_size_max() as u64;
        let draw = dice.below(1000);
        let len = if draw < self.empty {
            0
        } else if draw < self.empty + self.medium {
            dice.below(inline_max + 1)
        } else if draw < self.empty + self.medium + self.large {
            // Around the border of what stands inline, around whole blocks, and up to the largest.
            let body = self.config.block_body_size() as u64;
            let largest = u64::from(self.config.value_size_max);
            let from = [inline_max, body, 2 * body, dice.below(largest)];
            let len = from[dice.below(4) as usize] + dice.below(3);
            len.saturating_sub(1).min(largest)
        } else {
            dice.below(120)
        };
        len as usize
    }

    /// The stored key of a number.
    pub(super) fn key(&self, number: u32, generation: u32) -> Vec<u8> {
        let prefix = Prefix { table: TABLE, generation, kind: 1 };
        match self.layout {
            0 => key::encode(prefix, format!("key{number:06}").as_bytes(), b""),
            // Zero bytes, which are escaped, and lengths that differ.
            1 => {
                let mut user = number.to_le_bytes().to_vec();
                user.resize(4 + number as usize % 9, 0);
                let kind = (number % 2) as u8;
                key::encode(Prefix { kind, ..prefix }, &user, b"")
            }
            // A long part in common.
            2 => key::encode(prefix, format!("{:050}{number}", 7).as_bytes(), b""),
            // Fields of hashes.
            _ => {
                let field = (number % 16).to_string();
                key::encode(prefix, (number / 16).to_string().as_bytes(), field.as_bytes())
            }
        }
    }
}

fn tiny(dice: &mut Dice) -> Config {
    let base = Config::test_min();
    let compression = base.compression.map(|_| Compression::ALL[dice.below(3) as usize]);
    let window = rate(dice, 300);
    Config {
        block_size: 4096 << dice.below(2),
        page_size: 512 << dice.below(2),
        levels: dice.between(2, 5) as u8,
        growth_factor: dice.between(2, 4) as u32,
        level0_runs_max: dice.between(1, 4) as u32,
        history_window: version(window, 0),
        table_value_blocks_max: dice.between(1, 6) as u32,
        restart_interval: dice.between(1, 8) as u16,
        compression,
        filter: if dice.below(4) == 0 { FilterKind::None } else { FilterKind::Fuse8 },
        memtable_bytes: dice.between(2 << 10, 16 << 10),
        grid_blocks_max: 16 << 10,
        free_set_chunk_blocks: 64 << dice.below(7),
        ..local(dice, base)
    }
}

fn standard(dice: &mut Dice) -> Config {
    let base = Config::standard();
    Config {
        memtable_bytes: dice.between(1 << 20, 4 << 20),
        grid_blocks_max: 16 << 10,
        history_window: version(rate(dice, 100), 0),
        cache_bytes: 8 << 20,
        ..base
    }
}

/// Settings that may differ from host to host.
pub(super) fn local(dice: &mut Dice, config: Config) -> Config {
    Config {
        grid_extent_blocks: dice.between(1, 64),
        cache_bytes: config.cache_bytes << dice.below(3),
        reads_foreground_max: dice.between(1, 4) as u32,
        reads_background_max: dice.between(1, 8) as u32,
        writes_max: dice.between(1, 8) as u32,
        ..config
    }
}
