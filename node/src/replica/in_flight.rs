//! What was given a place in the log and is in no memtable yet, as far as is known: bounded.
//!
//! A refusal for want of space takes effect late: the grids' free space was looked at when a group
//! of ops ended, and writes that were admitted since then have to be flushed all the same. So a
//! grid keeps room for as much as may be admitted in between ([`lsm::forest::Options`]), and here
//! is what keeps it to that: a write waits while what is in flight would become more.
//!
//! 1. A request is weighed ([`Scale::weigh_request`]) and counted when it is admitted.
//! 2. A prepare that is dispatched counts as part of its group. When all cores have reported the
//!    group, its weight is in their memtables, the grids' space was looked at with it there, and it
//!    is in flight no more.
//! 3. What effects add is capped per prepare, so it counts at most that often.
//!
//! What a replay applies, or what another member of the cluster has admitted, does not count here:
//! it is applied on all cores before the first request is admitted.
//!
//! Nobody waits for ever: only groups that are closed are ever waited for. The group that is open
//! holds less than a group's bytes, or it would have closed; and room is kept for a group and the
//! heaviest prepare beside it ([`Bound::new`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{AddAssign, Sub};

use lsm::bar::Limits;
use vsr::format::Configuration;
use wire::{Header, Op, RequestView, View};

use super::weight::Scale;
use crate::shard::open::bar_limits;

/// What requests add to memtables at most, in accounted bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// To the objects, without effects.
    pub objects: u64,
    /// To the deadlines.
    pub expiry: u64,
    /// What effects add to the objects, uncapped.
    pub effects: u64,
}

impl AddAssign for Added {
    fn add_assign(&mut self, other: Added) {
        self.objects += other.objects;
        self.expiry += other.expiry;
        self.effects = self.effects.saturating_add(other.effects);
    }
}

impl Sub for Added {
    type Output = Added;

    fn sub(self, other: Added) -> Added {
        Added {
            objects: self.objects - other.objects,
            expiry: self.expiry - other.expiry,
            effects: self.effects - other.effects,
        }
    }
}

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// For the memtable of objects.
    pub objects: u64,
    /// For that of deadlines.
    pub expiry: u64,
    effects_max: u64,
}

impl Bound {
    /// Two groups and two prepares of the heaviest kind: while one is applied the next is written.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Bound {
        let limits: Limits = bar_limits(configuration);
        let effects_max = u64::from(configuration.effects_size_max);
        let groups = 2 * limits.group_bytes();
        let prepare = limits.effects_bytes_max;
        let objects = groups + 2 * prepare;
        let expiry = groups + 2 * prepare.saturating_sub(effects_max).max(limits.group_bytes());
        Bound { objects, expiry, effects_max }
    }

    fn holds(&self, added: Added, prepares: u64) -> bool {
        let effects = added.effects.min(self.effects_max.saturating_mul(prepares));
        added.objects + effects <= self.objects && added.expiry <= self.expiry
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct InFlight {
    scale: Scale,
    bound: Bound,
    /// The view in which requests are admitted here.
    view: Cell<Option<View>>,
    /// Sums since the start: of what was admitted, dispatched, and reported.
    admitted: Cell<Added>,
    dispatched: Cell<Added>,
    reported: Cell<(Op, Added)>,
    /// Groups that are dispatched and not reported: number, last op, the sum up to it.
    groups: RefCell<VecDeque<(u64, Op, Added)>>,
}

impl InFlight {
    /// Nothing, right after an op.
    #[must_use]
    pub fn new(configuration: &Configuration, op: Op) -> InFlight {
        InFlight {
            scale: Scale::new(configuration),
            bound: Bound::new(configuration),
            view: Cell::default(),
            admitted: Cell::default(),
            dispatched: Cell::default(),
            reported: Cell::new((op, Added::default())),
            groups: RefCell::new(VecDeque::with_capacity(4)),
        }
    }

    /// Requests are admitted here from now on, as prepares of this view. Whatever else was admitted
    /// is applied or will never be.
    pub fn begin_view(&self, view: View) {
        if self.view.replace(Some(view)) != Some(view) {
            self.admitted.set(self.dispatched.get());
        }
    }

    /// Whether a prepare's requests were admitted here.
    #[must_use]
    pub fn has_admitted(&self, header: &Header) -> bool {
        self.view.get() == Some(header.view())
    }

    /// What a request weighs, if it may be admitted now; `op` is the newest in the log.
    pub fn weigh(&self, request: &RequestView<'_>, op: Op) -> Option<Added> {
        let added = self.scale.weigh_request(request);
        let (reported_op, reported) = self.reported.get();
        let mut with = self.admitted.get() - reported;
        let is_first = with == Added::default();
        with += added;
        // The prepare that is open is one of them.
        let prepares = op.0.saturating_sub(reported_op.0) + 1;
        (is_first || self.bound.holds(with, prepares)).then_some(added)
    }

    /// A request was admitted.
    pub fn admit(&self, added: Added) {
        let mut sum = self.admitted.get();
        sum += added;
        self.admitted.set(sum);
    }

    /// A prepare is dispatched; with the number of the group that ends with it. One that was not
    /// admitted here adds nothing.
    pub fn dispatch(&self, op: Op, added: Added, group_end: Option<u64>) {
        let mut sum = self.dispatched.get();
        sum += added;
        self.dispatched.set(sum);
        if let Some(group) = group_end {
            self.groups.borrow_mut().push_back((group, op, sum));
        }
    }

    /// All cores have reported a group.
    pub fn report(&self, group: u64) {
        let first = self.groups.borrow_mut().pop_front();
        let (number, op, sum) = first.expect("a group is reported after it was dispatched");
        assert_eq!(number, group, "groups are reported in order");
        self.reported.set((op, sum));
    }
}

#[cfg(test)]
mod tests {
    use wire::operation::Opcode;
    use wire::{ClientTag, OperationView, RequestBuilder, Requests, TableId};

    use super::*;

    fn request(operations: &[OperationView<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(1)).unwrap();
        operations.iter().for_each(|operation| builder.push(operation).unwrap());
        builder.finish();
        bytes
    }

    fn put(value: &[u8]) -> Vec<u8> {
        request(&[OperationView::on_key(Opcode::Put, TableId(0), b"key").with_value(value)])
    }

    fn try_admit(in_flight: &InFlight, bytes: &[u8], op: u64) -> Option<Added> {
        let request = Requests::of_body(bytes).next().unwrap();
        let added = in_flight.weigh(&request, Op(op))?;
        in_flight.admit(added);
        Some(added)
    }

    #[test]
    fn what_is_in_flight_is_bounded_and_goes_on_when_a_group_is_reported() {
        let configuration = Configuration::default();
        let (in_flight, bound) = (InFlight::new(&configuration, Op(7)), Bound::new(&configuration));
        let bytes = put(&vec![0; 500_000]);
        let (mut admitted, mut sum) = (Vec::new(), 0);
        while let Some(added) = try_admit(&in_flight, &bytes, 7) {
            sum += added.objects;
            admitted.push(added);
        }
        assert!(sum <= bound.objects && sum + 600_000 > bound.objects, "{sum} of {bound:?}");
        in_flight.dispatch(Op(8), admitted[0], None);
        in_flight.dispatch(Op(9), admitted[1], Some(0));
        assert_eq!(try_admit(&in_flight, &bytes, 9), None, "dispatched, and not reported");
        in_flight.report(0);
        assert!(try_admit(&in_flight, &bytes, 9).is_some());
        assert!(try_admit(&in_flight, &bytes, 9).is_some());
        assert_eq!(try_admit(&in_flight, &bytes, 9), None);
    }

    /// A hundred thousand EXPIREs of one prepare store no more than one prepare may.
    #[test]
    fn effects_count_once_per_prepare() {
        let configuration = Configuration::default();
        let in_flight = InFlight::new(&configuration, Op(0));
        let expire = OperationView::on_key(Opcode::Expire, TableId(0), b"k").with_deadline(9);
        let bytes = request(&[expire; 100]);
        for _ in 0..100 {
            assert!(try_admit(&in_flight, &bytes, 0).is_some());
        }
        assert_eq!(try_admit(&in_flight, &bytes, 8), None, "eight prepares of them are too much");
    }

    #[test]
    fn what_is_alone_is_admitted_whatever_it_weighs() {
        let configuration = Configuration { effects_size_max: 1, ..Configuration::test_min() };
        let in_flight = InFlight::new(&configuration, Op(0));
        let bytes = put(&vec![0; 10 << 20]);
        assert!(try_admit(&in_flight, &bytes, 0).is_some());
        assert_eq!(try_admit(&in_flight, &bytes, 0), None);
    }
}
