//! Which faults a disk shows, and when.
//!
//! Two sources, usable together: a [`FaultPlan`] with rates, drawn from the disk's own dice, and
//! explicit injections, each answered by the next matching operation. A plan is bounded
//! (`faults_max`, `only`) so that a test can keep its promise that some copy of everything
//! survives.
//!
//! | fault | what the operation sees | what is left on the disk |
//! | --- | --- | --- |
//! | write error | EIO | each sector written or not, by chance |
//! | lost write | success | nothing |
//! | torn write | success | each sector written or not, by chance |
//! | misdirected write | success | the data at another aligned offset of the same file |
//! | read error | EIO, and again until the sector is rewritten | – |
//! | misdirected read | data of another aligned offset | – |
//! | bit rot | one flipped bit | the same flipped bit |
//! | sync error | EIO | what it covered may be lost; no later sync covers it |

use std::collections::BTreeMap;

use super::Inode;
use crate::sim::dice::Dice;

/// Rates, per million operations, and their bounds. The default has no faults.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// EIO on a write.
    pub write_error: u32,
    /// A write that reports success and leaves nothing.
    pub lost_write: u32,
    /// A write that reports success and leaves some of its sectors.
    pub torn_write: u32,
    /// A write that lands elsewhere in the same file.
    pub misdirected_write: u32,
    /// EIO on a read, sticky until the sector is written again.
    pub read_error: u32,
    /// A read that returns another place of the same file.
    pub misdirected_read: u32,
    /// One bit of what is read has flipped, for good.
    pub bit_rot: u32,
    /// EIO on a sync.
    pub sync_error: u32,
    /// An operation that takes a hundred times as long.
    pub slow: u32,
    /// No more faults than this by rate (slow operations do not count); 0 means no bound.
    pub faults_max: u32,
    /// Only files whose name contains this.
    pub only: Option<String>,
}

/// What goes wrong with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// EIO; some sectors may be written.
    Error,
    /// Success; nothing is written.
    Lost,
    /// Success; only some sectors are written.
    Torn,
    /// Success; written elsewhere in the same file.
    Misdirected,
}

/// What goes wrong with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// EIO until the sector is written again.
    Error,
    /// Another place of the file is returned.
    Misdirected,
    /// A bit has flipped.
    Rot,
}

/// How often each kind happened, by rate or by injection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Failed writes.
    pub write_errors: u32,
    /// Lost writes.
    pub lost_writes: u32,
    /// Torn writes.
    pub torn_writes: u32,
    /// Misdirected writes.
    pub misdirected_writes: u32,
    /// Failed reads.
    pub read_errors: u32,
    /// Misdirected reads.
    pub misdirected_reads: u32,
    /// Flipped bits.
    pub rotten_bits: u32,
    /// Failed syncs.
    pub sync_errors: u32,
}

#[derive(Clone)]
pub(super) struct Faults {
    plan: FaultPlan,
    drawn: u32,
    counts: FaultCounts,
    next_writes: BTreeMap<Inode, Vec<WriteFault>>,
    next_reads: BTreeMap<Inode, Vec<ReadFault>>,
    next_syncs: BTreeMap<Inode, u32>,
}

impl Faults {
    pub(super) fn new(plan: FaultPlan) -> Faults {
        Faults {
            plan,
            drawn: 0,
            counts: FaultCounts::default(),
            next_writes: BTreeMap::new(),
            next_reads: BTreeMap::new(),
            next_syncs: BTreeMap::new(),
        }
    }

    pub(super) fn set_plan(&mut self, plan: FaultPlan) {
        self.plan = plan;
        self.drawn = 0;
    }

    pub(super) fn counts(&self) -> FaultCounts {
        self.counts
    }

    pub(super) fn inject_write(&mut self, file: Inode, fault: WriteFault) {
        self.next_writes.entry(file).or_default().push(fault);
    }

    pub(super) fn inject_read(&mut self, file: Inode, fault: ReadFault) {
        self.next_reads.entry(file).or_default().push(fault);
    }

    pub(super) fn inject_sync_error(&mut self, file: Inode) {
        *self.next_syncs.entry(file).or_default() += 1;
    }

    pub(super) fn on_write(
        &mut self,
        file: Inode,
        name: &str,
        dice: &mut Dice,
    ) -> Option<WriteFault> {
        let injected = take_first(&mut self.next_writes, file);
        let plan = &self.plan;
        let rates = [
            (WriteFault::Error, plan.write_error),
            (WriteFault::Lost, plan.lost_write),
            (WriteFault::Torn, plan.torn_write),
            (WriteFault::Misdirected, plan.misdirected_write),
        ];
        let fault = injected.or_else(|| self.draw(&rates, name, dice))?;
        *match fault {
            WriteFault::Error => &mut self.counts.write_errors,
            WriteFault::Lost => &mut self.counts.lost_writes,
            WriteFault::Torn => &mut self.counts.torn_writes,
            WriteFault::Misdirected => &mut self.counts.misdirected_writes,
        } += 1;
        Some(fault)
    }

    pub(super) fn on_read(
        &mut self,
        file: Inode,
        name: &str,
        dice: &mut Dice,
    ) -> Option<ReadFault> {
        let injected = take_first(&mut self.next_reads, file);
        let plan = &self.plan;
        let rates = [
            (ReadFault::Error, plan.read_error),
            (ReadFault::Misdirected, plan.misdirected_read),
            (ReadFault::Rot, plan.bit_rot),
        ];
        let fault = injected.or_else(|| self.draw(&rates, name, dice))?;
        *match fault {
            ReadFault::Error => &mut self.counts.read_errors,
            ReadFault::Misdirected => &mut self.counts.misdirected_reads,
            ReadFault::Rot => &mut self.counts.rotten_bits,
        } += 1;
        Some(fault)
    }

    pub(super) fn on_sync(&mut self, file: Inode, name: &str, dice: &mut Dice) -> bool {
        let left = self.next_syncs.get_mut(&file).filter(|left| **left > 0);
        let injected = left.map(|left| *left -= 1).is_some();
        let rates = [((), self.plan.sync_error)];
        let failed = injected || self.draw(&rates, name, dice).is_some();
        self.counts.sync_errors += u32::from(failed);
        failed
    }

    pub(super) fn is_slow(&self, dice: &mut Dice) -> bool {
        dice.chance(self.plan.slow)
    }

    fn draw<T: Copy>(&mut self, rates: &[(T, u32)], name: &str, dice: &mut Dice) -> Option<T> {
        if self.plan.faults_max > 0 && self.drawn >= self.plan.faults_max {
            return None;
        }
        if self.plan.only.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            return None;
        }
        let hit = rates.iter().find(|(_, rate)| dice.chance(*rate))?;
        self.drawn += 1;
        Some(hit.0)
    }
}

fn take_first<T>(queues: &mut BTreeMap<Inode, Vec<T>>, file: Inode) -> Option<T> {
    let queue = queues.get_mut(&file)?;
    (!queue.is_empty()).then(|| queue.remove(0))
}
