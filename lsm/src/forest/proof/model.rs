//! The model: what a forest has to answer, in maps. It is advanced op by op and never recomputed.
//!
//! It keeps versions as far back as any forest may be asked for: opened from the newest checkpoint
//! that is durable, a forest reads snapshots from that checkpoint's oldest on
//! ([`Model::forget_below`]). So it is as large as the live data and some history, whatever the
//! length of the log. A forest that replays is behind the model, and is asked at versions that it
//! has come to.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Change, DUE_PER_PULSE, Shape, TABLE};
use crate::entry::DEADLINE_NONE;
use crate::forest::harness::{value_of, version};
use crate::key::{Prefix, Range};
use crate::lookup::OwnedEntry;

/// A version of a key; no length for a tombstone.
#[derive(Clone, Copy, Debug)]
struct Written {
    version: u64,
    deadline: u64,
    len: Option<usize>,
}

/// What a scan gives: key, version, length of the value.
pub(super) type Row = (Vec<u8>, u64, u64);

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) op: u64,
    /// By stored key, the oldest version first.
    objects: BTreeMap<Vec<u8>, Vec<Written>>,
    /// Deadlines given and not dealt with, of the live generation.
    deadlines: BTreeSet<(u64, Vec<u8>)>,
    /// The version of each flush.
    flushes: Vec<u64>,
    forgotten: u64,
}

impl Model {
    /// Takes the next op of a log.
    pub(super) fn apply(&mut self, shape: &Shape, changes: &[Change]) {
        self.op += 1;
        for (index, change) in changes.iter().enumerate() {
            let at = version(self.op, index as u64);
            match *change {
                Change::Put { number, len, deadline } => {
                    let key = shape.key(number, self.generation_at(u64::MAX));
                    if deadline != DEADLINE_NONE {
                        self.deadlines.insert((deadline, key.clone()));
                    }
                    self.write(key, Written { version: at, deadline, len: Some(len) });
                }
                Change::Delete { number } => {
                    let key = shape.key(number, self.generation_at(u64::MAX));
                    self.delete(key, at);
                }
                Change::Pulse => self.expire(at),
                Change::Flush => {
                    self.flushes.push(at);
                    self.deadlines.clear();
                }
            }
        }
    }

    fn expire(&mut self, now: u64) {
        for number in 1..=DUE_PER_PULSE as u64 {
            if self.deadlines.first().is_none_or(|(deadline, _)| *deadline > now) {
                return;
            }
            let (deadline, key) = self.deadlines.pop_first().expect("there is a first");
            let current = self.objects.get(&key).and_then(|versions| versions.last());
            if current.is_some_and(|written| written.deadline == deadline) {
                self.delete(key, now + number);
            }
        }
    }

    fn delete(&mut self, key: Vec<u8>, version: u64) {
        self.write(key, Written { version, deadline: DEADLINE_NONE, len: None });
    }

    fn write(&mut self, key: Vec<u8>, written: Written) {
        let versions = self.objects.entry(key).or_default();
        assert!(versions.last().is_none_or(|last| last.version < written.version));
        versions.push(written);
        let covered = versions.partition_point(|written| written.version <= self.forgotten);
        versions.drain(..covered.saturating_sub(1));
    }

    /// No forest is asked for snapshots before this version any more.
    pub(super) fn forget_below(&mut self, version: u64) {
        assert!(self.forgotten <= version, "{} and then {version}", self.forgotten);
        self.forgotten = version;
        let live = Prefix { table: TABLE, generation: self.generation_at(version), kind: 0 };
        if self.objects.first_key_value().is_some_and(|(key, _)| key[..8] < live.to_bytes()[..8]) {
            self.objects = self.objects.split_off(&live.to_bytes()[..8]);
        }
    }

    /// The oldest snapshot that it can be asked for.
    pub(super) fn snapshot_min(&self) -> u64 {
        self.forgotten
    }

    /// Versions that it holds.
    pub(super) fn size(&self) -> usize {
        self.objects.values().map(Vec::len).sum()
    }

    /// The generation that is alive at a snapshot.
    pub(super) fn generation_at(&self, snapshot: u64) -> u32 {
        self.flushes.partition_point(|version| *version <= snapshot) as u32
    }

    fn seen<'m>(&'m self, key: &[u8], snapshot: u64) -> Option<&'m Written> {
        let versions = self.objects.get(key)?;
        let older = versions.partition_point(|written| written.version <= snapshot);
        versions[..older].last()
    }

    /// What a point read gives.
    pub(super) fn get(&self, key: &[u8], snapshot: u64) -> Option<OwnedEntry> {
        assert!(snapshot >= self.forgotten, "the model has forgotten");
        let Written { version, deadline, len } = *self.seen(key, snapshot)?;
        let value = value_of(len? as u32, version, len?);
        Some(OwnedEntry { version, deadline, value_len: value.len() as u64, value })
    }

    /// The version that a point read gives, without its value.
    pub(super) fn version_of(&self, key: &[u8], snapshot: u64) -> Option<u64> {
        assert!(snapshot >= self.forgotten, "the model has forgotten");
        self.seen(key, snapshot).filter(|seen| seen.len.is_some()).map(|seen| seen.version)
    }

    /// What an ascending scan gives.
    pub(super) fn rows(&self, range: &Range, snapshot: u64) -> Vec<Row> {
        assert!(snapshot >= self.forgotten, "the model has forgotten");
        let keys = self.objects.range(range.lower.clone()..).map(|(key, _)| key);
        let inside = keys.take_while(|key| range.upper.as_ref().is_none_or(|upper| *key < upper));
        inside
            .filter_map(|key| {
                let Written { version, len, .. } = *self.seen(key, snapshot)?;
                Some((key.clone(), version, len? as u64))
            })
            .collect()
    }
}
