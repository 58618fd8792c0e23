//! SCAN's cursors: small numbers for positions in the key space.
//!
//! Redis's cursor is the position itself. Here a position is a key, up to a kilobyte, and clients
//! expect a number, some of them one that a double can hold. So a node keeps a table of positions
//! and gives out numbers for them:
//!
//! ```text
//!   bits 0..8  the table (a core's, so that any core knows whom to ask)
//!   bits 8..18 the slot in the table
//!   bits 18..53 the slot's generation, never zero
//! ```
//!
//! 1. A scan that starts takes a free slot, else the one used least recently: the table never
//!    grows, and an iteration nobody continues goes when its slot is needed.
//! 2. Each step replaces the slot's position and raises its generation. The position before stays
//!    valid, so that a client whose connection broke may repeat the last step it asked for.
//! 3. A finished iteration frees its slot.
//!
//! A number that fits no slot's two generations is unknown: dropped, from before a restart
//! (generations start at a random number), or invented. That is an error by name and never a scan
//! that silently starts elsewhere. What a full iteration guarantees is what Redis's does: every
//! key that exists from its start to its end is returned; here none is returned twice.

/// Slots of a table, a power of two up to 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(pub usize);

impl Default for Capacity {
    fn default() -> Capacity {
        Capacity(SLOTS_MAX)
    }
}

const SLOTS_MAX: usize = 1 << SLOT_BITS;
const TABLE_BITS: u32 = 8;
const SLOT_BITS: u32 = 10;
const GENERATION_BITS: u32 = 35;
const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;

const _: () = assert!(TABLE_BITS + SLOT_BITS + GENERATION_BITS == 53, "exact in a double");

/// The table of one core.
#[derive(Debug)]
pub struct CursorTable {
    table: u8,
    slots: Vec<Slot>,
    /// Steps so far: what "recently" is measured in.
    clock: u64,
}

/// The cursor was dropped or never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor {0} was dropped or never given out")]
pub struct UnknownCursor(pub u64);

#[derive(Debug)]
struct Slot {
    generation: u64,
    used: u64,
    /// The positions of this generation and of the one before; none in a free slot.
    current: Option<Vec<u8>>,
    previous: Option<Vec<u8>>,
}

/// An iteration at some position: resumed, and to be parked or finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    slot: usize,
}

/// The table that gave out a cursor.
#[must_use]
pub fn table_of(cursor: u64) -> u8 {
    cursor as u8
}

impl CursorTable {
    /// A table; `table` is its number among the node's, `random` where generations start.
    #[must_use]
    pub fn new(table: u8, capacity: Capacity, random: u64) -> CursorTable {
        assert!(capacity.0 > 0 && capacity.0 <= SLOTS_MAX);
        // Half of the range, so that it takes years of steps to wrap.
        let generation = (random & (GENERATION_MAX >> 1)).max(1);
        let slot = || Slot { generation, used: 0, current: None, previous: None };
        CursorTable { table, slots: (0..capacity.0).map(|_| slot()).collect(), clock: 0 }
    }

    /// The position of a cursor, and a handle to park its next one. 0 has no position: a scan
    /// starts with [`CursorTable::park`] and no handle.
    ///
    /// # Errors
    /// [`UnknownCursor`].
    pub fn resume(&mut self, cursor: u64) -> Result<(Resumed, &[u8]), UnknownCursor> {
        let unknown = UnknownCursor(cursor);
        let index = (cursor >> TABLE_BITS) as usize & (SLOTS_MAX - 1);
        let generation = cursor >> (TABLE_BITS + SLOT_BITS);
        self.clock += 1;
        let slot = self.slots.get_mut(index).ok_or(unknown)?;
        if table_of(cursor) != self.table || generation == 0 {
            return Err(unknown);
        }
        if generation + 1 == slot.generation && slot.previous.is_some() {
            // The step is repeated: what it answered the first time is forgotten.
            slot.current = slot.previous.take();
            slot.generation = generation;
        }
        let position = slot.current.as_deref().filter(|_| generation == slot.generation);
        let position = position.ok_or(unknown)?;
        slot.used = self.clock;
        Ok((Resumed { slot: index }, position))
    }

    /// Keeps the position where an iteration goes on, and gives it a cursor.
    pub fn park(&mut self, from: Option<Resumed>, position: &[u8]) -> u64 {
        self.clock += 1;
        let index = from.map_or_else(|| self.take_slot(), |resumed| resumed.slot);
        let slot = &mut self.slots[index];
        let mut storage = slot.previous.take().unwrap_or_default();
        slot.previous = slot.current.take();
        storage.clear();
        storage.extend_from_slice(position);
        slot.current = Some(storage);
        slot.generation = if slot.generation == GENERATION_MAX { 1 } else { slot.generation + 1 };
        slot.used = self.clock;
        slot.generation << (TABLE_BITS + SLOT_BITS)
            | (index as u64) << TABLE_BITS
            | u64::from(self.table)
    }

    /// Ends an iteration; its last step can still be repeated until the slot is needed.
    pub fn finish(&mut self, resumed: Resumed) {
        self.slots[resumed.slot].used = 0;
    }

    /// The slot used least recently: a free or finished one if there is any.
    fn take_slot(&mut self) -> usize {
        let slots = self.slots.iter().enumerate();
        let (index, _) = slots.min_by_key(|(_, slot)| slot.used).expect("a table has slots");
        let slot = &mut self.slots[index];
        // The iteration that had it is forgotten, its last step included.
        slot.generation += 1;
        slot.current = None;
        slot.previous = None;
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_on_where_it_was_and_its_last_step_can_be_repeated() {
        let mut table = CursorTable::new(3, Capacity(4), 77);
        let first = table.park(None, b"a");
        assert_eq!(table_of(first), 3);
        let (scan, position) = table.resume(first).unwrap();
        assert_eq!(position, b"a");
        let second = table.park(Some(scan), b"b");
        assert_ne!(first, second);
        // The reply with `second` got lost: the client asks again with `first`.
        let (scan, position) = table.resume(first).unwrap();
        assert_eq!(position, b"a");
        let second = table.park(Some(scan), b"b");
        let (scan, position) = table.resume(second).unwrap();
        assert_eq!(position, b"b");
        let third = table.park(Some(scan), b"c");
        assert_eq!(table.resume(first), Err(UnknownCursor(first)), "two steps back");
        table.resume(third).unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_iteration_goes() {
        let mut table = CursorTable::new(0, Capacity(2), 1);
        let (a, b) = (table.park(None, b"a"), table.park(None, b"b"));
        let (scan, _) = table.resume(a).unwrap();
        let a = table.park(Some(scan), b"aa");
        let c = table.park(None, b"c");
        assert_eq!(table.resume(b), Err(UnknownCursor(b)));
        assert_eq!(table.resume(a).unwrap().1, b"aa");
        let (scan, _) = table.resume(c).unwrap();
        table.finish(scan);
        let d = table.park(None, b"d");
        assert_eq!(table.resume(c), Err(UnknownCursor(c)), "finished, and its slot was needed");
        assert_eq!(table.resume(a).unwrap().1, b"aa");
        assert_eq!(table.resume(d).unwrap().1, b"d");
    }

    #[test]
    fn cursors_nobody_gave_out_are_unknown() {
        let mut table = CursorTable::new(1, Capacity::default(), u64::MAX);
        let known = table.park(None, b"a");
        assert!(known < 1 << 53);
        for cursor in [1, 2, 256, known + 1, known + 256, known ^ 1 << 20, u64::MAX] {
            assert_eq!(table.resume(cursor), Err(UnknownCursor(cursor)));
        }
        assert!(CursorTable::new(2, Capacity(4), 0).resume(known).is_err(), "another table's");
    }
}
