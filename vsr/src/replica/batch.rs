//! The open prepare: requests are copied into the buffer that will be journaled.
//!
//! ```text
//! 0            256             512                               capacity
//! | frame      | the prepare's | request | request | …            |
//! | header     | header        |<------- body -------->           |
//! ```
//!
//! Each request is copied once, from wherever it arrived to its place in the log, and from then on
//! the buffer is only shared: by the journal (which fills the frame's header), the network and the
//! shards. When the prepare closes, its body is summed once; that sum goes into the header, and the
//! header's sum is the prepare's name and the next one's parent.

use ioring::Buffer;
use wire::{HEADER_SIZE, RequestView, Requests, checksum};

use crate::journal::BODY_OFFSET;

#[derive(Debug)]
pub(super) struct Batch {
    buffer: Buffer,
    end: usize,
    request_count: u32,
    operation_count: u32,
}

impl Batch {
    /// An empty batch that fills `buffer` up to `end_max`.
    pub(super) fn new(mut buffer: Buffer, end_max: usize) -> Batch {
        buffer.set_len(end_max);
        Batch { buffer, end: BODY_OFFSET, request_count: 0, operation_count: 0 }
    }

    pub(super) fn body_size(&self) -> usize {
        self.end - BODY_OFFSET
    }

    /// The requests in it.
    pub(super) fn requests(&self) -> Requests<'_> {
        Requests::of_body(&self.buffer[BODY_OFFSET..self.end])
    }

    pub(super) fn request_count(&self) -> u32 {
        self.request_count
    }

    pub(super) fn operation_count(&self) -> u32 {
        self.operation_count
    }

    /// Whether a request of `size` bytes fits.
    pub(super) fn fits(&self, size: usize) -> bool {
        size <= self.buffer.len() - self.end
    }

    /// Copies a request that fits to the end.
    pub(super) fn push(&mut self, request: &RequestView<'_>) {
        let bytes = request.bytes();
        assert!(self.fits(bytes.len()), "a request is only given to a batch that it fits");
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        self.request_count += 1;
        self.operation_count += request.operation_count();
    }

    /// Closes the prepare under the header that `seal` makes of the body's size and sum.
    pub(super) fn close(
        mut self,
        seal: impl FnOnce(usize, wire::Checksum) -> wire::Header,
    ) -> (wire::Header, Buffer) {
        let body = &self.buffer[BODY_OFFSET..self.end];
        let header = seal(body.len(), checksum(body));
        self.buffer[BODY_OFFSET - HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
        self.buffer.set_len(self.end);
        (header, self.buffer)
    }
}
