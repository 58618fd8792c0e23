//! What an op weighs: how much it can add to one memtable, bounded from the log alone.
//!
//! Groups close, and so bars end, before a memtable can overflow ([`lsm::bar`]). That holds only if
//! no op ever adds more than it was weighed for. What it really adds is known when it is applied;
//! where a group closes must be known before, and the same on every replica and in every replay. So
//! an op is weighed by what stands in its prepare:
//!
//! 1. *Requests.* Every operation writes at most one entry of objects and one of expiry, with the
//!    key escaped as it is stored, and the value it carries, or a counter's digits.
//! 2. *Effects.* APPEND, SETRANGE, INCRBYFLOAT, EXPIRE and PERSIST store up to a longest value
//!    that the request did not carry. On one shard all of a prepare's together are held to
//!    `effects_size_max` ([`crate::machine::Budget`]), so that caps their sum.
//! 3. *Pulses* carry nothing and delete what is due: an object and its expiry entry for each of a
//!    fixed number of the longest keys.
//!
//! All of it is counted as if it went to one shard, and to the larger of the two trees. Bounding
//! too high costs little: a group closes early and its shards report what they really hold.

use lsm::bar::Weight;
use lsm::key;
use lsm::memtable::Memtable;
use vsr::format::Configuration;
use vsr::journal::frame_size;
use wire::message::{Prepare, Purpose};
use wire::operation::Opcode;
use wire::{Header, OperationView, RequestView, Requests};

use super::in_flight::Added;
use crate::machine::float;
use crate::shard::keeper::DUE_PER_PULSE;

/// What an expiry entry's key has beyond the object's.
const DEADLINE_SIZE: usize = 8;
/// A counter as it is stored has at most this many bytes, whatever its request carried.
const COUNTER_SIZE: usize = 20;
/// Encoded operations have at least this many bytes: a header and a padded key.
const OPERATION_SIZE_MIN: u64 = 40;

/// What ops are weighed by: numbers of the format.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    value_max: u64,
    effects_max: u64,
    pulse: u64,
}

impl Scale {
    /// The scale of a node with this configuration.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Scale {
        let key_max = key::encoded_len_max(usize::from(configuration.key_size_max), 0);
        let due = Memtable::entry_bytes(key_max + DEADLINE_SIZE, 0);
        Scale {
            value_max: u64::from(configuration.value_size_max),
            effects_max: u64::from(configuration.effects_size_max),
            pulse: (DUE_PER_PULSE * due) as u64,
        }
    }

    /// The weight of a prepare with this body, and what its requests add.
    #[must_use]
    pub fn weigh(&self, header: &Header, prepare: &Prepare, body: &[u8]) -> (Weight, Added) {
        let pulse = prepare.purpose == Purpose::Pulse;
        let added = self.weigh_body(body);
        let weight = Weight {
            log_bytes: frame_size(header.size()) as u64,
            memtable_bytes: added.objects,
            effects_bytes: if pulse { self.pulse } else { added.effects.min(self.effects_max) },
            pulse,
        };
        (weight, added)
    }

    fn weigh_body(&self, body: &[u8]) -> Added {
        let mut sum = Added::default();
        for request in Requests::of_body(body) {
            sum += self.weigh_request(&request);
        }
        sum
    }

    /// What a request adds to memtables at most, effects uncapped.
    #[must_use]
    pub fn weigh_request(&self, request: &RequestView<'_>) -> Added {
        let mut sum = Added::default();
        for operation in request.operations() {
            let (objects, expiry) = entry_bytes(&operation);
            sum += Added { objects, expiry, effects: self.effect(&operation) };
        }
        sum
    }

    /// What a pulse weighs at most, on either tree.
    #[must_use]
    pub fn pulse(&self) -> u64 {
        self.pulse
    }

    /// What an operation stores at most beyond the value it carries.
    fn effect(&self, operation: &OperationView<'_>) -> u64 {
        match operation.opcode {
            Opcode::Append | Opcode::SetRange | Opcode::Expire | Opcode::Persist => self.value_max,
            Opcode::IncrementFloat => float::TEXT_MAX as u64,
            Opcode::Put | Opcode::Delete | Opcode::Increment => 0,
            Opcode::Flush | Opcode::Register | Opcode::Hold | Opcode::Refuse => 0,
        }
    }

    /// What one prepare weighs at most, for a memtable: the most operations that fit, every byte of
    /// their keys escaped, with all the effects they may have; or a pulse.
    #[must_use]
    pub fn prepare_max(&self, configuration: &Configuration) -> u64 {
        let prepare = u64::from(configuration.prepare_size_max);
        let entry = Memtable::entry_bytes(key::encoded_len_max(0, 0), COUNTER_SIZE) as u64;
        let requests = 2 * prepare + prepare / OPERATION_SIZE_MIN * entry;
        (requests + self.effects_max).max(self.pulse)
    }
}

/// What an operation's entries add to the memtables of objects and of deadlines at most, effects
/// aside.
fn entry_bytes(operation: &OperationView<'_>) -> (u64, u64) {
    let zeros = operation.key.iter().filter(|&&byte| byte == 0).count();
    let key = key::encoded_len_max(0, 0) + operation.key.len() + zeros;
    let object = Memtable::entry_bytes(key, operation.value.len().max(COUNTER_SIZE));
    (object as u64, Memtable::entry_bytes(key + DEADLINE_SIZE, 0) as u64)
}

const _: () = assert!(COUNTER_SIZE >= DEADLINE_SIZE, "an object outweighs its expiry entry");

#[cfg(test)]
mod tests {
    use lsm::bar::Schedule;
    use wire::operation::Flags;
    use wire::{ClientTag, RequestBuilder, TableId, Timestamp, Version};

    use super::*;
    use crate::machine::{self, Budget, Context, Effect, Entry, Scratch, Verdict};
    use crate::shard::open::bar_limits;

    const TABLE: TableId = TableId(0);

    fn body(operations: &[OperationView<'_>]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut builder = RequestBuilder::new(&mut body, ClientTag(1)).unwrap();
        for operation in operations {
            builder.push(operation).unwrap();
        }
        builder.finish();
        body
    }

    /// What applying these operations really adds to the fuller memtable, each to a key of its own
    /// that has this entry.
    fn added(operations: &[OperationView<'_>], current: Entry<'_>, effects_max: u64) -> u64 {
        let context = Context {
            timestamp: Timestamp(1),
            version: Version(2),
            value_max: u32::MAX,
            verdict: Verdict::Own,
        };
        let mut budget = Budget(effects_max);
        let mut scratch = Scratch::default();
        let prefix = key::Prefix { table: 0, generation: 0, kind: 1 };
        let (mut objects, mut expiry) = (0, 0);
        for operation in operations {
            let key = key::encode(prefix, operation.key, &[]).len();
            let evaluated =
                machine::evaluate(operation, Some(current), &context, &mut budget, &mut scratch);
            let (payload, deadline) = match evaluated.0 {
                Effect::None | Effect::Flush => continue,
                Effect::Put { value, deadline } => (value.len(), deadline),
                Effect::SetDeadline(deadline) => (current.value.len(), deadline),
                Effect::Delete => (0, 0),
            };
            objects += Memtable::entry_bytes(key, payload);
            if deadline != 0 {
                expiry += Memtable::entry_bytes(key + DEADLINE_SIZE, 0);
            }
        }
        objects.max(expiry) as u64
    }

    fn kinds<'a>(key: &'a [u8]) -> Vec<OperationView<'a>> {
        let on_key = |opcode| OperationView::on_key(opcode, TABLE, key);
        vec![
            on_key(Opcode::Put).with_value(b"v").with_deadline(u64::MAX),
            on_key(Opcode::Put).with_flags(Flags::KEEP_DEADLINE),
            on_key(Opcode::Delete),
            on_key(Opcode::Increment).with_argument(1),
            on_key(Opcode::IncrementFloat).with_value(b"1e4900"),
            on_key(Opcode::Append).with_value(b"more"),
            on_key(Opcode::SetRange).with_argument(5000).with_value(b"x"),
            on_key(Opcode::Expire).with_deadline(u64::MAX),
            on_key(Opcode::Persist),
        ]
    }

    #[test]
    fn no_operation_adds_more_than_it_weighs() {
        let configuration = Configuration::test_min();
        let scale = Scale::new(&configuration);
        let values = [vec![b'v'; 8000], i64::MAX.to_string().into_bytes(), b"1".to_vec(), vec![]];
        for key in [&b"k"[..], b"key", &[0; 64], b"\0a\0"] {
            for value in &values {
                for operation in kinds(key) {
                    let current = Entry::new(value, u64::MAX, Version(1));
                    for count in [1, 3, 40] {
                        let operations = vec![operation; count];
                        let real = added(&operations, current, scale.effects_max);
                        let weighed = scale.weigh_body(&body(&operations));
                        let weight = weighed.objects + weighed.effects.min(scale.effects_max);
                        assert!(real <= weight, "{count} {operation:?}: {real} over {weight}");
                    }
                }
            }
        }
    }

    /// Sixteen EXPIREs of a large value carry a few bytes each and store megabytes.
    #[test]
    fn effects_do_not_overflow_a_memtable() {
        let configuration = Configuration::default();
        let limits = bar_limits(&configuration);
        let scale = Scale::new(&configuration);
        let value = vec![b'v'; configuration.value_size_max as usize];
        let expire = OperationView::on_key(Opcode::Expire, TABLE, b"k").with_deadline(u64::MAX);
        let operations = [expire; 8];
        let weighed = scale.weigh_body(&body(&operations));
        let (requests, effects) = (weighed.objects, weighed.effects.min(scale.effects_max));
        let weight = Weight {
            log_bytes: 4096,
            memtable_bytes: requests,
            effects_bytes: effects,
            pulse: false,
        };
        assert!(requests + effects <= scale.prepare_max(&configuration));
        let real = added(&operations, Entry::new(&value, 0, Version(1)), scale.effects_max);
        let mut schedule = Schedule::new(limits, 0);
        let (mut memtable, mut bars) = (0, 0);
        let mut report = None;
        for op in 1..=200 {
            // As late as it can be.
            if !schedule.ready(&weight)
                && let Some((group, bytes)) = report.take()
            {
                schedule.report(group, bytes);
            }
            let step = schedule.dispatch(op, &weight);
            memtable += real;
            let most = limits.memtable_bytes_max;
            assert!(memtable <= most, "op {op}: {memtable} bytes in a memtable of {most}");
            report = step.group_end.map(|group| (group, memtable)).or(report);
            if step.bar_end.is_some() {
                (memtable, bars) = (0, bars + 1);
            }
        }
        assert!(bars > 10, "{bars} bars");
    }

    #[test]
    fn a_pulse_fits_a_memtable() {
        for configuration in [Configuration::test_min(), Configuration::default()] {
            let limits = bar_limits(&configuration);
            assert!(Scale::new(&configuration).pulse <= limits.effects_bytes_max);
        }
    }
}
