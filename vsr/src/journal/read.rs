//! Reading one prepare back: from memory if it is recent, otherwise from its place.
//!
//! Readers never hold up the writer. A segment may therefore be begun anew while a frame in it is
//! read; what was read then fails its identity check, and the place is looked up once more: by then
//! the op has moved or is not in the journal any more.

use wire::{Checksum, Incarnation, Op};

use ioring::{Buffer, Frozen};

use super::layout::{FrameHeader, FrameKind};
use super::recovery::Location;
use super::{Journal, Shared};

/// Why a prepare cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// This version of it is not in the journal: not yet, or not any more.
    #[error("op {0} is not in the journal")]
    Absent(Op),
    /// Its frame is damaged.
    #[error("op {op} at offset {offset} of the journal is damaged: {why}")]
    Damaged {
        /// The op.
        op: Op,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

/// Checks that `frame` is the one that belongs at `location`, its body included.
pub(super) fn verify_frame(
    frame: &[u8],
    incarnation: Incarnation,
    location: Location,
    checksum: Checksum,
) -> Result<(), String> {
    let header = FrameHeader::verify(frame, incarnation, location.offset);
    let header = header.map_err(|fault| fault.to_string())?;
    if header.epoch() != location.epoch || header.kind() != FrameKind::Prepare {
        return Err("the segment was written anew".into());
    }
    if header.length() != location.length as usize || frame.len() != header.length() {
        return Err("the frame has another length".into());
    }
    let (prepare, body) = header.verify_prepare(frame);
    body.map_err(|fault| fault.to_string())?;
    let found = prepare.map(|prepare| prepare.checksum());
    if found != Some(checksum) {
        return Err(format!("it holds prepare {found:?} and not {checksum}"));
    }
    Ok(())
}

pub(super) fn verify(
    frame: &[u8],
    shared: &Shared,
    location: Location,
    checksum: Checksum,
) -> Result<(), String> {
    let incarnation = shared.state.borrow().ring.incarnation();
    verify_frame(frame, incarnation, location, checksum)
}

impl Journal {
    /// The frame of this version of an op: its own header, the prepare's header at byte 256, the
    /// body at 512; from memory if it is one of the newest.
    ///
    /// # Errors
    /// [`ReadError`], after one more try. Nothing else is the worse for it.
    pub async fn read(&self, op: Op, checksum: Checksum) -> Result<Frozen, ReadError> {
        if let Some(bytes) = self.recent(op, checksum) {
            return Ok(bytes);
        }
        let mut error = ReadError::Absent(op);
        for _ in 0..2 {
            let known = self.shared.state.borrow().ring.find(op, checksum);
            let Some(location) = known else { return Err(ReadError::Absent(op)) };
            let offset = location.offset;
            let buffer = Buffer::zeroed(location.length as usize);
            let (result, buffer) = self.shared.file.read(buffer, offset).await;
            let result = result.map_err(|error| error.to_string());
            match result.and_then(|()| verify(&buffer, &self.shared, location, checksum)) {
                Ok(()) => return Ok(buffer.freeze()),
                Err(why) => error = ReadError::Damaged { op, offset, why },
            }
        }
        Err(error)
    }

    fn recent(&self, op: Op, checksum: Checksum) -> Option<Frozen> {
        let state = self.shared.state.borrow();
        let slot = state.recent[op.0 as usize % state.recent.len()].as_ref()?;
        let (_, _, bytes) =
            Some(slot).filter(|(known, sum, _)| (*known, *sum) == (op, checksum))?;
        Some(bytes.clone())
    }
}
