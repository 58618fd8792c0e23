//! What has arrived of a request that is not complete.
//!
//! Most input is parsed where it was received and never copied: requests that are whole in one
//! receive buffer. What is left at a buffer's end is kept here until the rest has arrived, in a
//! vector that is sized once by what the parser says it wants, and given back when it is empty.
//! How much that can be is the parser's limit on one request.

use ioring::RecvBuffer;

use crate::core::Vectors;

/// The unparsed bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Input {
    kept: Vec<u8>,
    /// Less input than this cannot complete the request.
    wanted: usize,
}

impl Input {
    /// Takes what was received. The bytes to parse are in `received` if nothing was kept, else in
    /// the vector returned. `None`: more has to arrive first.
    pub(super) fn join(&mut self, received: &RecvBuffer) -> Option<Vec<u8>> {
        let needed = self.wanted.max(self.kept.len() + received.len());
        self.kept.reserve(needed - self.kept.len());
        self.kept.extend_from_slice(received);
        (self.kept.len() >= self.wanted).then(|| std::mem::take(&mut self.kept))
    }

    /// Takes what is kept, to parse it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Keeps what was not parsed, until `wanted` bytes from its start are there.
    pub(super) fn keep(&mut self, rest: &[u8], wanted: usize, vectors: &Vectors) {
        assert!(self.kept.is_empty(), "what was kept was parsed first");
        self.wanted = wanted;
        if !rest.is_empty() {
            self.kept = vectors.take();
            self.kept.extend_from_slice(rest);
        }
    }

    /// Keeps what was not parsed of a vector that [`Input::join`] returned.
    pub(super) fn put_back(
        &mut self,
        mut joined: Vec<u8>,
        consumed: usize,
        wanted: usize,
        vectors: &Vectors,
    ) {
        assert!(self.kept.is_empty(), "what was kept was parsed first");
        self.wanted = wanted;
        if consumed == joined.len() {
            vectors.give_back(joined);
        } else {
            joined.drain(..consumed);
            self.kept = joined;
        }
    }

    /// Whether something is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
