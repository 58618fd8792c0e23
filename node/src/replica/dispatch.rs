//! Dispatch: committed prepares to the shards, with what the schedule says comes with each.
//!
//! The schedule ([`lsm::bar::Schedule`]) is a pure function of the log; this is where the log meets
//! it, in a replay and in live running alike:
//!
//! 1. a committed prepare is weighed ([`super::weight`]) and stands in line;
//! 2. the front of the line goes to the applier as soon as the schedule is ready for it: an op that
//!    closes a group waits for the report of the group before, and the first of a bar for the
//!    results of the sessions' requests before it; what of it is executed the sessions decide
//!    ([`crate::session`]);
//! 3. reports move the line on: a group is reported when every core has reported it, with the
//!    fullest memtable of all.
//!
//! Prepares in line hold their buffers; when these run out, nothing more is given an op. So shards
//! that are behind slow down writes, and the line cannot grow beyond the pool.
//!
//! The header of each bar's last prepare is kept until a checkpoint of it is durable.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use ioring::Frozen;
use lsm::bar::{Schedule, Step, Weight};
use vsr::format::Configuration;
use wire::message::Prepare;
use wire::{Header, Op};

use super::in_flight::{Added, InFlight};
use super::weight::Scale;
use crate::core::Core;
use crate::session::Sessions;
use crate::shard::apply::Committed;
use crate::shard::open::bar_limits;

/// Last prepares of bars that are kept: the bar under way may take a checkpoint of the one before.
const BAR_HEADERS: usize = 4;

struct Waiting {
    op: Op,
    header: Header,
    frame: Frozen,
    weight: Weight,
    added: Added,
    live: bool,
}

/// The line between the log and the shards.
pub struct Dispatch {
    scale: Scale,
    /// What was admitted and is not reported applied.
    pub in_flight: InFlight,
    schedule: RefCell<Schedule>,
    line: RefCell<VecDeque<Waiting>>,
    pumping: Cell<bool>,
    bar_headers: RefCell<VecDeque<(Op, Header)>>,
    /// Cores that report, and groups that some of them have reported.
    cores: u16,
    gathered: RefCell<VecDeque<Gathered>>,
}

/// A group that some cores have reported.
struct Gathered {
    group: u64,
    missing: u16,
    memtable_bytes: u64,
}

impl Dispatch {
    /// The line right after a checkpoint, to so many cores.
    #[must_use]
    pub fn new(configuration: &Configuration, checkpoint: Op, cores: u16) -> Dispatch {
        let schedule = Schedule::new(bar_limits(configuration), checkpoint.0);
        Dispatch {
            scale: Scale::new(configuration),
            in_flight: InFlight::new(configuration, checkpoint),
            schedule: RefCell::new(schedule),
            line: RefCell::new(VecDeque::with_capacity(32)),
            pumping: Cell::new(false),
            bar_headers: RefCell::new(VecDeque::with_capacity(BAR_HEADERS)),
            cores,
            gathered: RefCell::new(VecDeque::with_capacity(4)),
        }
    }

    /// Takes a committed prepare, and dispatches what can be. It is live when somebody on this node
    /// may wait for its outcomes.
    pub fn push(&self, core: &Core, header: &Header, frame: &Frozen, live: bool) {
        let prepare = header.tail::<Prepare>().expect("only prepares are committed");
        let body = vsr::journal::BODY_OFFSET..vsr::journal::BODY_OFFSET + header.body_size();
        let (weight, added) = self.scale.weigh(header, &prepare, &frame[body]);
        let counts = self.in_flight.has_admitted(header);
        let added = if counts { added } else { Added::default() };
        let (op, header, frame) = (prepare.op, *header, frame.clone());
        let waiting = Waiting { op, header, frame, weight, added, live };
        self.line.borrow_mut().push_back(waiting);
        self.pump(core);
    }

    /// Takes a core's report of a group; with the last one dispatches what waited for it.
    pub fn report(&self, core: &Core, group: u64, memtable_bytes: u64) {
        if let Some(memtable_bytes) = self.gather(group, memtable_bytes) {
            self.schedule.borrow_mut().report(group, memtable_bytes);
            self.in_flight.report(group);
            if let Some(replica) = core.replica.get() {
                replica.on_reported();
            }
            self.pump(core);
        }
    }

    /// The fullest memtable of all cores, once all have reported.
    fn gather(&self, group: u64, memtable_bytes: u64) -> Option<u64> {
        let gathered = &mut *self.gathered.borrow_mut();
        let place = gathered.iter().position(|other| other.group == group);
        let place = place.unwrap_or_else(|| {
            gathered.push_back(Gathered { group, missing: self.cores, memtable_bytes: 0 });
            gathered.len() - 1
        });
        let entry = &mut gathered[place];
        entry.missing -= 1;
        entry.memtable_bytes = entry.memtable_bytes.max(memtable_bytes);
        let complete = entry.missing == 0;
        // Each core reports groups in order, so the oldest is complete first.
        assert!(!complete || place == 0, "a group is reported before the one before it");
        if complete { gathered.pop_front().map(|entry| entry.memtable_bytes) } else { None }
    }

    /// Dispatches from the front of the line. Applying may report: whoever reports within a pump
    /// leaves the rest to it.
    fn pump(&self, core: &Core) {
        if self.pumping.replace(true) {
            return;
        }
        while let Some((waiting, step)) = self.next(&core.log().sessions) {
            core.commit(decide(core, &waiting, step));
        }
        self.pumping.set(false);
    }

    /// Dispatches what waited for results of sessions.
    pub fn go_on(&self, core: &Core) {
        self.pump(core);
    }

    fn next(&self, sessions: &Sessions) -> Option<(Waiting, Step)> {
        let line = &mut *self.line.borrow_mut();
        if !sessions.is_ready() {
            return None;
        }
        let schedule = &mut *self.schedule.borrow_mut();
        if !schedule.ready(&line.front()?.weight) {
            return None;
        }
        let waiting = line.pop_front()?;
        let step = schedule.dispatch(waiting.op.0, &waiting.weight);
        self.in_flight.dispatch(waiting.op, waiting.added, step.group_end);
        if let Some(end) = step.bar_end {
            let headers = &mut *self.bar_headers.borrow_mut();
            if headers.len() == BAR_HEADERS {
                headers.pop_front();
            }
            headers.push_back((Op(end.op), waiting.header));
        }
        Some((waiting, step))
    }

    /// The last prepare of a bar.
    ///
    /// # Panics
    /// If it was not kept: checkpoints are of the bar before the one that just ended.
    #[must_use]
    pub fn bar_header(&self, op: Op) -> Header {
        let headers = self.bar_headers.borrow();
        let found = headers.iter().find(|(last, _)| *last == op);
        found.expect("a checkpoint is of a bar that ended lately").1
    }

    /// Whether a prepare is committed and not dispatched.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.line.borrow().is_empty()
    }
}

/// What of a prepare is executed, now that it is next.
fn decide(core: &Core, waiting: &Waiting, step: Step) -> Committed {
    let sessions = &core.log().sessions;
    let mut committed = Committed::new(&waiting.header, &waiting.frame, step, waiting.live);
    let prepare = waiting.header.tail::<Prepare>().expect("only prepares are committed");
    committed.skipped = sessions.decide(core, &prepare, &committed.body, waiting.live);
    if let Some(end) = step.bar_end {
        committed.sessions = end.checkpoint.map(|op| sessions.of_bar(Op(op)));
        sessions.end_bar(waiting.op);
    }
    committed
}
