//! What waits to be sent on one connection: bounded, and without an allocation per message.
//!
//! Small messages are copied into a *staging* buffer, one behind the other; large ones are held as
//! references to the frame that the journal and the other peers have too. [`Outbox::take`] hands
//! everything that waits to the sender, as parts of one vectored send in the order of pushing, and
//! the next messages go into a second staging buffer meanwhile. So however fast messages come,
//! there is one send in flight and the next carries all that came during it.
//!
//! Bounds: the staging buffer's bytes, and `frames_max` references, since each keeps a buffer of
//! the pool that the log needs. What finds no room is dropped, and counted: the protocol repeats
//! it, and by then it may be out of date. While there is no connection everything is dropped, for
//! the same reason: what was true when it broke is no news when there is another.

use std::collections::VecDeque;

use ioring::{Buffer, Frozen};

/// Bytes of each staging buffer; the largest control message fits.
pub(super) const STAGING_SIZE: usize = 192 << 10;
/// A message up to this size is copied: cheaper than a part of its own, and its frame is free at
/// once.
const COPY_MAX: usize = 4 << 10;

const _: () = assert!(STAGING_SIZE > super::assemble::CONTROL_BODY_MAX + wire::HEADER_SIZE);

enum Entry {
    /// The staging buffer up to here, from where the entry before ended.
    StagedUpTo(usize),
    Frame(Frozen),
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dropped {
    /// There is no connection.
    Unconnected,
    /// What waits already is all there is room for.
    Full,
}

/// What one send carries.
#[derive(Debug)]
pub(super) struct Batch {
    staged: Frozen,
    /// Messages in it.
    pub(super) messages: u64,
    /// Bytes in it.
    pub(super) bytes: u64,
}

struct Staging {
    buffer: Buffer,
    filled: usize,
    /// For the batch after the one in flight.
    spare: Option<Buffer>,
}

/// The queue of one connection.
pub(super) struct Outbox {
    frames_max: usize,
    staging: Option<Staging>,
    entries: VecDeque<Entry>,
    frames: usize,
    messages: u64,
    bytes: u64,
}

impl Outbox {
    /// A queue without a connection.
    #[must_use]
    pub(super) fn new(frames_max: usize) -> Outbox {
        // Between two frames lies at most one stretch of staged messages.
        let entries = VecDeque::with_capacity(2 * frames_max + 1);
        Outbox { frames_max, staging: None, entries, frames: 0, messages: 0, bytes: 0 }
    }

    /// There is a connection: messages are taken.
    pub(super) fn open(&mut self) {
        let (buffer, spare) = (Buffer::zeroed(STAGING_SIZE), Some(Buffer::zeroed(STAGING_SIZE)));
        self.staging = Some(Staging { buffer, filled: 0, spare });
    }

    /// The connection is gone, and what waited for it; returns how many messages that were.
    pub(super) fn close(&mut self) -> u64 {
        self.staging = None;
        self.entries.clear();
        (self.frames, self.bytes) = (0, 0);
        std::mem::take(&mut self.messages)
    }

    /// Whether messages are taken.
    #[must_use]
    pub(super) fn is_open(&self) -> bool {
        self.staging.is_some()
    }

    /// Messages and bytes that wait.
    #[must_use]
    pub(super) fn level(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Appends a message, by copy.
    ///
    /// # Errors
    /// Why it was dropped.
    pub(super) fn push(&mut self, header: &[u8], body: &[u8]) -> Result<(), Dropped> {
        let staging = self.staging.as_mut().ok_or(Dropped::Unconnected)?;
        let size = header.len() + body.len();
        let end = staging.filled + size;
        if end > staging.buffer.len() {
            return Err(Dropped::Full);
        }
        let place = &mut staging.buffer[staging.filled..end];
        place[..header.len()].copy_from_slice(header);
        place[header.len()..].copy_from_slice(body);
        staging.filled = end;
        match self.entries.back_mut() {
            Some(Entry::StagedUpTo(last)) => *last = end,
            _ => self.entries.push_back(Entry::StagedUpTo(end)),
        }
        self.count(size);
        Ok(())
    }

    /// Appends a message that lies whole in a frame, by reference unless it is small.
    ///
    /// # Errors
    /// Why it was dropped.
    pub(super) fn push_frame(&mut self, message: &Frozen) -> Result<(), Dropped> {
        if message.len() <= COPY_MAX {
            match self.push(message, &[]) {
                Err(Dropped::Full) => {}
                taken_or_unconnected => return taken_or_unconnected,
            }
        }
        if !self.is_open() {
            return Err(Dropped::Unconnected);
        }
        if self.frames == self.frames_max {
            return Err(Dropped::Full);
        }
        self.frames += 1;
        self.count(message.len());
        self.entries.push_back(Entry::Frame(message.clone()));
        Ok(())
    }

    fn count(&mut self, size: usize) {
        self.messages += 1;
        self.bytes += size as u64;
    }

    /// Moves everything that waits into `parts`; none if nothing does. Give the batch back before
    /// the next.
    pub(super) fn take(&mut self, parts: &mut Vec<Frozen>) -> Option<Batch> {
        assert!(parts.is_empty(), "one batch at a time");
        let staging = self.staging.as_mut().filter(|_| !self.entries.is_empty())?;
        let spare = staging.spare.take().expect("the batch before was given back");
        let staged = std::mem::replace(&mut staging.buffer, spare).freeze();
        staging.filled = 0;
        let mut start = 0;
        for entry in self.entries.drain(..) {
            match entry {
                Entry::StagedUpTo(end) => {
                    parts.push(staged.slice(start..end));
                    start = end;
                }
                Entry::Frame(frame) => parts.push(frame),
            }
        }
        self.frames = 0;
        let (messages, bytes) =
            (std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes));
        Some(Batch { staged, messages, bytes })
    }

    /// The batch is sent, and its parts are gone.
    pub(super) fn give_back(&mut self, batch: Batch) {
        let Some(staging) = &mut self.staging else { return };
        let buffer = batch.staged.try_thaw().expect("nobody else has parts of a batch");
        assert!(staging.spare.replace(buffer).is_none(), "one batch at a time");
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outbox({} messages of {} bytes)", self.messages, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize, fill: u8) -> Frozen {
        let mut buffer = Buffer::zeroed(size);
        buffer.fill(fill);
        buffer.freeze()
    }

    /// What a sender would send, as numbers of repeated bytes.
    fn sent(outbox: &mut Outbox) -> Vec<(u8, usize)> {
        let mut parts = Vec::new();
        let Some(batch) = outbox.take(&mut parts) else { return Vec::new() };
        let bytes: Vec<u8> = parts.drain(..).flat_map(|part| part.to_vec()).collect();
        assert_eq!(bytes.len() as u64, batch.bytes);
        outbox.give_back(batch);
        bytes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
    }

    #[test]
    fn one_send_carries_all_that_waits_in_order() {
        let mut outbox = Outbox::new(4);
        assert_eq!(outbox.push(&[1; 256], &[]), Err(Dropped::Unconnected));
        outbox.open();
        for round in 0..3 {
            outbox.push(&[1; 256], &[]).unwrap();
            outbox.push(&[2; 256], &[3; 700]).unwrap();
            outbox.push_frame(&frame(100_000, 4)).unwrap();
            outbox.push_frame(&frame(4096, 5)).unwrap();
            outbox.push(&[6; 256], &[]).unwrap();
            assert_eq!(outbox.level().0, 5, "round {round}");
            let expected = [(1, 256), (2, 256), (3, 700), (4, 100_000), (5, 4096), (6, 256)];
            assert_eq!(sent(&mut outbox), expected);
            assert_eq!((outbox.level(), sent(&mut outbox)), ((0, 0), vec![]));
        }
    }

    #[test]
    fn a_full_queue_takes_nothing_more_and_a_closed_one_keeps_nothing() {
        let mut outbox = Outbox::new(2);
        outbox.open();
        let large = frame(COPY_MAX + 1, 9);
        let taken = (0..10).filter(|_| outbox.push_frame(&large).is_ok()).count();
        assert_eq!(taken, 2, "frames");
        let taken = (0..10_000).filter(|_| outbox.push(&[1; 256], &[]).is_ok()).count();
        assert_eq!(taken, STAGING_SIZE / 256, "bytes");
        assert_eq!(outbox.push(&[1; 256], &[]), Err(Dropped::Full));
        assert_eq!(outbox.close(), 2 + taken as u64);
        assert!(large.try_thaw().is_ok(), "a frame is held by nobody");
        outbox.open();
        assert_eq!(sent(&mut outbox), []);
    }
}
