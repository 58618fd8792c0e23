//! Where encoders write: a growing vector, or a fixed slice of a pooled buffer.
//!
//! Encoders write forward and then patch a length they could not know at the start; a sink that is
//! full says so and the encoder rolls back to where it began, so that a caller never sees half of
//! a request.

/// The sink has no room for what was to be written; nothing of it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the buffer has no room for the request")]
pub struct Full;

/// A byte sink that can be patched and rolled back.
pub trait Sink {
    /// How many bytes have been written, whatever was in the sink before included.
    fn position(&self) -> usize;
    /// Appends `bytes`, all of them or none.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Full>;
    /// Overwrites written bytes from `position` on.
    fn patch(&mut self, position: usize, bytes: &[u8]);
    /// Forgets everything after `position`.
    fn truncate(&mut self, position: usize);
}

impl Sink for Vec<u8> {
    fn position(&self) -> usize {
        self.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn patch(&mut self, position: usize, bytes: &[u8]) {
        self[position..position + bytes.len()].copy_from_slice(bytes);
    }

    fn truncate(&mut self, position: usize) {
        Vec::truncate(self, position);
    }
}

/// A sink over a fixed slice, filled from its start.
#[derive(Debug)]
pub struct SliceSink<'a> {
    bytes: &'a mut [u8],
    position: usize,
}

impl<'a> SliceSink<'a> {
    /// A sink that fills `bytes` from their start.
    pub fn new(bytes: &'a mut [u8]) -> SliceSink<'a> {
        SliceSink { bytes, position: 0 }
    }
}

impl Sink for SliceSink<'_> {
    fn position(&self) -> usize {
        self.position
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.position.checked_add(bytes.len()).ok_or(Full)?;
        self.bytes.get_mut(self.position..end).ok_or(Full)?.copy_from_slice(bytes);
        self.position = end;
        Ok(())
    }

    fn patch(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        assert!(end <= self.position, "only written bytes can be patched");
        self.bytes[position..end].copy_from_slice(bytes);
    }

    fn truncate(&mut self, position: usize) {
        assert!(position <= self.position, "a sink cannot be truncated forwards");
        self.position = position;
    }
}
